//! Delivery rate samples (draft-ietf-ccwg-bbr §4.1): how fast a path has delivered over about the last round trip.
//!
//! Each packet leaves with a [`Departure`], what the path had delivered by then. When it is acknowledged, the difference to now is what was
//! delivered between. The time that took is the longer of two: from departure to departure, and from acknowledgement to
//! acknowledgement. Neither a burst of packets nor one of acknowledgements can make the path look faster than it is.

use std::time::Duration;

use crate::time::Mono;

/// What was known when a packet was sent. Kept with each packet in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::transport) struct Departure {
    delivered: u64,
    delivered_at: Mono,
    /// Departure of the packet that the flight is counted from.
    first_sent_at: Mono,
    lost: u64,
    /// Bytes in flight, the packet included.
    in_flight: u64,
    is_app_limited: bool,
}

impl Departure {
    /// What nobody will ask for.
    pub(in crate::transport) const NONE: Self = Self {
        delivered: 0,
        delivered_at: Mono(0),
        first_sent_at: Mono(0),
        lost: 0,
        in_flight: 0,
        is_app_limited: false,
    };
}

/// What one ACK tells about the delivery of a path.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct DeliverySample {
    /// All bytes delivered so far.
    pub(in crate::transport) delivered: u64,
    /// Bytes that had been delivered when the youngest packet of the ACK left.
    pub(in crate::transport) prior_delivered: u64,
    /// Bytes that this ACK was the first to acknowledge.
    pub(in crate::transport) newly_acked: u64,
    /// Bytes a second; none if the time is too short to tell.
    pub(in crate::transport) rate: Option<u64>,
    /// Whether the rate says more about the application than about the path.
    pub(in crate::transport) is_app_limited: bool,
    /// Round trip time of the youngest packet.
    pub(in crate::transport) rtt: Duration,
    /// Bytes in flight when the youngest packet was sent, it included.
    pub(in crate::transport) sent_in_flight: u64,
    /// Bytes lost since the youngest packet was sent.
    pub(in crate::transport) lost_since: u64,
    /// All bytes lost so far.
    pub(in crate::transport) lost: u64,
    /// Bytes in flight now.
    pub(in crate::transport) in_flight: u64,
}

/// The youngest packet of an ACK that is being taken in, and what was acknowledged with it.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    seq: u64,
    sent_at: Mono,
    departure: Departure,
    bytes: u64,
}

/// Counts what one path delivers.
#[derive(Clone, Debug, Default)]
pub(in crate::transport) struct DeliveryRate {
    delivered: u64,
    delivered_at: Mono,
    first_sent_at: Mono,
    lost: u64,
    /// Once so much is delivered, samples are about the path again.
    app_limited_until: u64,
    acknowledged: Option<Acknowledged>,
}

impl DeliveryRate {
    /// A packet is about to be sent; `in_flight` does not include it.
    pub(in crate::transport) fn on_packet_sent(&mut self, now: Mono, in_flight: u64, bytes: u64) -> Departure {
        if in_flight == 0 {
            (self.first_sent_at, self.delivered_at) = (now, now);
        }
        Departure {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            lost: self.lost,
            in_flight: in_flight + bytes,
            is_app_limited: self.app_limited_until > self.delivered,
        }
    }

    /// There is nothing to send although the window has room.
    pub(in crate::transport) fn on_app_limited(&mut self, in_flight: u64) {
        self.app_limited_until = self.delivered + in_flight.max(1);
    }

    /// One packet of an ACK: its number within the path, when it left and with what.
    pub(in crate::transport) fn on_packet_acked(
        &mut self,
        now: Mono,
        seq: u64,
        sent_at: Mono,
        departure: Departure,
        bytes: u64,
    ) {
        self.delivered += bytes;
        self.delivered_at = now;
        let before = self.acknowledged.map_or(0, |acknowledged| acknowledged.bytes);
        let youngest = self.acknowledged.filter(|youngest| youngest.seq > seq);
        let youngest = youngest.unwrap_or(Acknowledged { seq, sent_at, departure, bytes: 0 });
        self.acknowledged = Some(Acknowledged { bytes: before + bytes, ..youngest });
    }

    /// A packet was lost.
    pub(in crate::transport) fn on_packet_lost(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    /// The ACK is taken in: what it tells, if it named any packet of this path.
    pub(in crate::transport) fn take_sample(
        &mut self,
        now: Mono,
        in_flight: u64,
        min_rtt: Duration,
    ) -> Option<DeliverySample> {
        let Acknowledged { sent_at, departure, bytes, .. } = self.acknowledged.take()?;
        self.first_sent_at = sent_at;
        let send_time = sent_at.since(departure.first_sent_at);
        let ack_time = self.delivered_at.since(departure.delivered_at);
        let time = send_time.max(ack_time);
        // Shorter than any round trip: packets whose numbers were acknowledged ahead of those before them.
        let rate = (time >= min_rtt && !time.is_zero()).then(|| rate(self.delivered - departure.delivered, time));
        Some(DeliverySample {
            delivered: self.delivered,
            prior_delivered: departure.delivered,
            newly_acked: bytes,
            rate,
            is_app_limited: departure.is_app_limited,
            rtt: now.since(sent_at),
            sent_in_flight: departure.in_flight,
            lost_since: self.lost - departure.lost,
            lost: self.lost,
            in_flight,
        })
    }
}

fn rate(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const RTT: Duration = Duration::from_millis(40);

    /// Sends ten packets `gap` apart and has each acknowledged by itself, `ack_gap` apart; returns the last sample.
    fn sample(gap: u64, ack_gap: u64) -> DeliverySample {
        let mut path = DeliveryRate::default();
        let left: Vec<_> = (0..10)
            .map(|seq| (seq, Mono(seq * gap), path.on_packet_sent(Mono(seq * gap), seq * 1_000, 1_000)))
            .collect();
        let mut last = None;
        for (seq, sent_at, departure) in left {
            let now = Mono(40 * MS + seq * ack_gap);
            path.on_packet_acked(now, seq, sent_at, departure, 1_000);
            last = path.take_sample(now, (9 - seq) * 1_000, Duration::ZERO);
        }
        last.unwrap()
    }

    #[test]
    fn the_slower_of_sending_and_delivering_is_the_rate() {
        let (even, bunched, spread) = (sample(MS, MS), sample(MS, 0), sample(0, MS));
        // Ten packets in the 40 ms to the first acknowledgement and the nine until the last.
        assert_eq!(even.rate, Some(10_000 * 1_000 / 49));
        assert_eq!(bunched.rate, Some(10_000 * 1_000 / 40));
        assert_eq!(spread.rate, even.rate);
    }

    #[test]
    fn a_time_shorter_than_a_round_trip_gives_no_rate() {
        let mut path = DeliveryRate::default();
        let departure = path.on_packet_sent(Mono(0), 0, 1_000);
        path.on_packet_acked(Mono(30 * MS), 0, Mono(0), departure, 1_000);
        assert_eq!(path.take_sample(Mono(30 * MS), 0, RTT).unwrap().rate, None);
        assert!(path.take_sample(Mono(30 * MS), 0, RTT).is_none(), "an ACK is told once");
    }

    #[test]
    fn packets_sent_while_there_was_little_to_send_are_marked_until_they_are_delivered() {
        let mut path = DeliveryRate::default();
        let first = path.on_packet_sent(Mono(0), 0, 1_000);
        path.on_app_limited(1_000);
        let second = path.on_packet_sent(Mono(MS), 1_000, 1_000);
        path.on_packet_acked(Mono(40 * MS), 0, Mono(0), first, 1_000);
        let third = path.on_packet_sent(Mono(40 * MS), 1_000, 1_000);
        assert_eq!([first, second, third].map(|departure| departure.is_app_limited), [false, true, false]);
    }

    #[test]
    fn an_ack_of_many_packets_is_one_sample_of_the_youngest() {
        let mut path = DeliveryRate::default();
        let left: Vec<_> = (0..4).map(|seq| path.on_packet_sent(Mono(seq * MS), seq * 1_000, 1_000)).collect();
        for seq in [3, 1, 0] {
            path.on_packet_acked(Mono(43 * MS), seq, Mono(seq * MS), left[seq as usize], 1_000);
        }
        path.on_packet_lost(1_000);
        let sample = path.take_sample(Mono(43 * MS), 0, RTT).unwrap();
        assert_eq!((sample.newly_acked, sample.rtt, sample.lost_since), (3_000, RTT, 1_000));
    }
}
