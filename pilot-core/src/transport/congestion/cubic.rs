//! CUBIC (RFC 9438): after a loss the window grows by the time since, slowly near where it was when packets were lost, and not slower
//! than New Reno would.

use std::time::Duration;

use super::{AckedPacket, Controller, INITIAL_WINDOW_PACKETS, MINIMUM_WINDOW_PACKETS, rate_of_window};
use crate::time::Mono;
use crate::transport::rtt::RttEstimator;

/// What a loss leaves of the window (RFC 9438 §4.6).
const BETA: f64 = 0.7;

/// How fast the window grows, in packets per second cubed (RFC 9438 §5.1).
const C: f64 = 0.4;

/// What New Reno would grow by in a round trip to be as fast as one that halves, if a loss left [`BETA`] (RFC 9438 §4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// A window in packets, since the constants are for packets.
#[derive(Clone, Debug)]
pub(crate) struct Cubic {
    window: f64,
    slow_start_threshold: f64,
    mtu: u64,
    /// Packets sent before this belong to the congestion event that was already answered.
    recovery_start: Option<Mono>,
    /// Window before the last loss.
    window_max: f64,
    /// The growth since the last loss; none before the first acknowledgement after it.
    epoch: Option<Epoch>,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    start: Mono,
    /// Seconds after which the window is [`Cubic::window_max`] again: K of RFC 9438.
    return_after: f64,
    /// The window that New Reno would have.
    reno_window: f64,
}

impl Cubic {
    pub(crate) fn new(mtu: u64) -> Self {
        Self {
            window: INITIAL_WINDOW_PACKETS as f64,
            slow_start_threshold: f64::INFINITY,
            mtu,
            recovery_start: None,
            window_max: 0.0,
            epoch: None,
        }
    }

    fn is_in_recovery(&self, sent_at: Mono) -> bool {
        self.recovery_start.is_some_and(|start| sent_at <= start)
    }

    fn on_congestion_event(&mut self, now: Mono, sent_at: Mono) {
        if self.is_in_recovery(sent_at) {
            return;
        }
        self.recovery_start = Some(now);
        // Fast convergence: who has less than before leaves room to those who come (RFC 9438 §4.7).
        let gives_way = self.window < self.window_max;
        self.window_max = if gives_way { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(MINIMUM_WINDOW_PACKETS as f64);
        self.slow_start_threshold = self.window;
        self.epoch = None;
    }

    /// Congestion avoidance (RFC 9438 §4.2 to §4.5).
    fn grow(&mut self, now: Mono, packets: f64, rtt: Duration) {
        let window = self.window;
        let epoch = self.epoch.get_or_insert_with(|| {
            self.window_max = self.window_max.max(window);
            Epoch { start: now, return_after: ((self.window_max - window) / C).cbrt(), reno_window: window }
        });
        let alpha = if epoch.reno_window < self.window_max { ALPHA } else { 1.0 };
        epoch.reno_window += alpha * packets / window;
        let elapsed = (now.since(epoch.start) + rtt).as_secs_f64() - epoch.return_after;
        let target = (C * elapsed.powi(3) + self.window_max).clamp(window, 1.5 * window);
        self.window = (window + (target - window) * packets / window).max(epoch.reno_window);
    }
}

impl Controller for Cubic {
    fn on_packet_acked(&mut self, now: Mono, packet: AckedPacket, rtt: &RttEstimator) {
        if packet.app_limited || self.is_in_recovery(packet.sent_at) {
            return;
        }
        let packets = packet.bytes as f64 / self.mtu as f64;
        if self.window < self.slow_start_threshold {
            self.window += packets;
        } else {
            self.grow(now, packets, rtt.smoothed());
        }
    }

    fn on_packet_lost(&mut self, now: Mono, sent_at: Mono) {
        self.on_congestion_event(now, sent_at);
    }

    fn on_congestion_experienced(&mut self, now: Mono, sent_at: Mono) {
        self.on_congestion_event(now, sent_at);
    }

    fn on_persistent_congestion(&mut self) {
        self.window = MINIMUM_WINDOW_PACKETS as f64;
        self.recovery_start = None;
        self.epoch = None;
    }

    fn on_mtu_update(&mut self, mtu: u64) {
        // A window in packets, as it was before, for a connection that has just begun; bytes otherwise.
        if self.slow_start_threshold.is_finite() {
            let ratio = self.mtu as f64 / mtu as f64;
            self.window = (self.window * ratio).max(MINIMUM_WINDOW_PACKETS as f64);
            self.window_max *= ratio;
            self.slow_start_threshold *= ratio;
            self.epoch = None;
        }
        self.mtu = mtu;
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of packets; casts saturate"
    )]
    fn window(&self) -> u64 {
        (self.window * self.mtu as f64) as u64
    }

    fn pacing_rate(&self, rtt: &RttEstimator) -> u64 {
        rate_of_window(self.window(), self.window < self.slow_start_threshold, rtt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u64 = 1_000;
    const RTT: Duration = Duration::from_millis(100);

    fn rtt() -> RttEstimator {
        let mut rtt = RttEstimator::new(None);
        rtt.update(RTT, Duration::ZERO);
        rtt
    }

    /// A whole window is acknowledged each round trip, for so many of them.
    fn run(cubic: &mut Cubic, start: Mono, round_trips: u32) -> Mono {
        let mut now = start;
        for _ in 0..round_trips {
            now = now + RTT;
            for _ in 0..cubic.window() / MTU {
                let packet =
                    AckedPacket { sent_at: now - RTT + Duration::from_nanos(1), bytes: MTU, app_limited: false };
                cubic.on_packet_acked(now, packet, &rtt());
            }
        }
        now
    }

    fn at_1000_packets() -> Cubic {
        Cubic { window: 1_000.0, slow_start_threshold: 1_000.0, ..Cubic::new(MTU) }
    }

    #[test]
    fn slow_start_doubles_and_loss_leaves_seven_tenths_once_a_round_trip() {
        let mut cubic = Cubic::new(MTU);
        let now = run(&mut cubic, Mono(0), 1);
        assert_eq!(cubic.window(), 64 * MTU);
        cubic.on_congestion_event(now, now - RTT);
        cubic.on_congestion_event(now + RTT, now);
        assert_eq!(cubic.window(), 44_800);
    }

    #[test]
    fn the_window_returns_after_the_time_of_the_rfc_and_lingers_there() {
        let mut cubic = at_1000_packets();
        cubic.on_congestion_event(Mono(1), Mono(0));
        // K = cbrt(1,000 * 0.3 / 0.4) = 9.1 s.
        let before = run(&mut cubic, Mono(1), 60);
        assert!((950_000..990_000).contains(&cubic.window()), "{} after 6 s", cubic.window());
        let returned = run(&mut cubic, before, 35);
        assert!((990_000..1_010_000).contains(&cubic.window()), "{} after 9.5 s", cubic.window());
        run(&mut cubic, returned, 60);
        assert!(cubic.window() > 1_060_000, "{} after 15 s", cubic.window());
    }

    #[test]
    fn a_small_window_grows_no_slower_than_new_reno() {
        let mut cubic = Cubic { window: 20.0, slow_start_threshold: 20.0, ..Cubic::new(MTU) };
        cubic.on_congestion_event(Mono(1), Mono(0));
        run(&mut cubic, Mono(1), 20);
        // 14 packets, and 20 times 9/17.
        assert!(cubic.window() > 23_000, "{}", cubic.window());
    }

    #[test]
    fn who_has_less_than_before_gives_way() {
        let mut cubic = at_1000_packets();
        cubic.on_congestion_event(Mono(1), Mono(0));
        cubic.on_congestion_event(Mono(3), Mono(2));
        assert!((594.0..596.0).contains(&cubic.window_max), "{}", cubic.window_max);
    }

    #[test]
    fn persistent_congestion_leaves_the_minimum() {
        let mut cubic = at_1000_packets();
        cubic.on_persistent_congestion();
        assert_eq!(cubic.window(), MINIMUM_WINDOW_PACKETS * MTU);
        assert!(cubic.pacing_rate(&RttEstimator::new(Some(Duration::ZERO))) > 0);
    }
}
