//! New Reno: additive increase, multiplicative decrease (RFC 9002 §7). The reference of spec/streams.md §7.

use super::{AckedPacket, Controller, INITIAL_WINDOW_PACKETS, MINIMUM_WINDOW_PACKETS, rate_of_window};
use crate::time::Mono;
use crate::transport::rtt::RttEstimator;

/// A window that slow start doubles each round trip, and congestion avoidance grows by a packet each.
#[derive(Clone, Debug)]
pub(crate) struct NewReno {
    window: u64,
    slow_start_threshold: u64,
    mtu: u64,
    /// Packets sent before this belong to the congestion event that was already answered.
    recovery_start: Option<Mono>,
    /// Bytes acknowledged since the window last grew in congestion avoidance.
    bytes_acked: u64,
}

impl NewReno {
    pub(crate) fn new(mtu: u64) -> Self {
        Self {
            window: INITIAL_WINDOW_PACKETS * mtu,
            slow_start_threshold: u64::MAX,
            mtu,
            recovery_start: None,
            bytes_acked: 0,
        }
    }

    fn on_congestion_event(&mut self, now: Mono, sent_at: Mono) {
        if self.is_in_recovery(sent_at) {
            return;
        }
        self.recovery_start = Some(now);
        self.window = (self.window / 2).max(self.minimum());
        self.slow_start_threshold = self.window;
        self.bytes_acked = 0;
    }

    fn is_in_recovery(&self, sent_at: Mono) -> bool {
        self.recovery_start.is_some_and(|start| sent_at <= start)
    }

    fn minimum(&self) -> u64 {
        MINIMUM_WINDOW_PACKETS * self.mtu
    }
}

impl Controller for NewReno {
    fn on_packet_acked(&mut self, _now: Mono, packet: AckedPacket, _rtt: &RttEstimator) {
        if packet.app_limited || self.is_in_recovery(packet.sent_at) {
            return;
        }
        if self.window < self.slow_start_threshold {
            self.window += packet.bytes;
            return;
        }
        self.bytes_acked += packet.bytes;
        if self.bytes_acked >= self.window {
            self.bytes_acked -= self.window;
            self.window += self.mtu;
        }
    }

    fn on_packet_lost(&mut self, now: Mono, sent_at: Mono) {
        self.on_congestion_event(now, sent_at);
    }

    fn on_congestion_experienced(&mut self, now: Mono, sent_at: Mono) {
        self.on_congestion_event(now, sent_at);
    }

    fn on_persistent_congestion(&mut self) {
        self.window = self.minimum();
        self.recovery_start = None;
        self.bytes_acked = 0;
    }

    fn on_mtu_update(&mut self, mtu: u64) {
        // A window in packets, as it was before, for a connection that has just begun; bytes otherwise.
        if self.slow_start_threshold == u64::MAX {
            self.window = self.window.max(INITIAL_WINDOW_PACKETS * mtu);
        }
        self.mtu = mtu;
        self.window = self.window.max(self.minimum());
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn pacing_rate(&self, rtt: &RttEstimator) -> u64 {
        rate_of_window(self.window, self.window < self.slow_start_threshold, rtt)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MTU: u64 = 1_000;

    fn ack(reno: &mut NewReno, sent_at: u64, app_limited: bool) {
        let packet = AckedPacket { sent_at: Mono(sent_at), bytes: MTU, app_limited };
        reno.on_packet_acked(Mono(sent_at + 1), packet, &RttEstimator::new(None));
    }

    #[test]
    fn slow_start_doubles_and_loss_halves_once_a_round_trip() {
        let mut reno = NewReno::new(MTU);
        (0..INITIAL_WINDOW_PACKETS).for_each(|_| ack(&mut reno, 5, false));
        assert_eq!(reno.window(), 64 * MTU);
        reno.on_congestion_event(Mono(100), Mono(50));
        reno.on_congestion_event(Mono(110), Mono(60));
        assert_eq!(reno.window(), 32 * MTU);
        reno.on_congestion_event(Mono(200), Mono(150));
        assert_eq!(reno.window(), 16 * MTU);
    }

    #[test]
    fn congestion_avoidance_grows_by_a_packet_a_window() {
        let mut reno = NewReno::new(MTU);
        reno.on_congestion_event(Mono(100), Mono(50));
        (0..16).for_each(|_| ack(&mut reno, 60, false));
        assert_eq!(reno.window(), 16 * MTU, "packets of the recovery period do not count");
        (0..16).for_each(|_| ack(&mut reno, 200, false));
        assert_eq!(reno.window(), 17 * MTU);
    }

    #[test]
    fn an_application_that_sends_little_proves_no_window() {
        let mut reno = NewReno::new(MTU);
        (0..100).for_each(|_| ack(&mut reno, 5, true));
        assert_eq!(reno.window(), INITIAL_WINDOW_PACKETS * MTU);
    }

    #[test]
    fn persistent_congestion_leaves_the_minimum() {
        let mut reno = NewReno::new(MTU);
        reno.on_persistent_congestion();
        assert_eq!(reno.window(), MINIMUM_WINDOW_PACKETS * MTU);
        assert!(reno.pacing_rate(&RttEstimator::new(Some(Duration::ZERO))) > 0);
    }
}
