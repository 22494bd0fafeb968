//! Which loss is a sign of load (spec/congestion.md §4).
//!
//! Radio links and bad cables lose packets whatever is sent. BBR's fixed threshold takes them for a full queue; here it counts loss in
//! excess of what the path loses while its queue is empty.

/// Loss beyond the floor that a full queue is recognised by, in parts per million: BBR's threshold.
const EXCESS_PPM: u64 = 20_000;

/// Highest floor, in parts per million. Above it somebody is harmed, whoever drops the packets.
const FLOOR_PPM_MAX: u64 = 100_000;

/// Standard deviations that a count of losses lies above what is expected before it is no chance any more.
const DEVIATIONS: u128 = 3;

/// Packets that the floor is the mean of; older ones fade. Some seconds at a few Mbit/s.
const MEMORY_PACKETS: u64 = 4_096;

/// Packets whose worth the first belief has: a path is taken for one that loses as much as any, until so many packets and more have
/// shown better.
const PRIOR_PACKETS: u64 = 64;

/// The share of bytes that the path loses without load.
#[derive(Clone, Debug)]
pub(super) struct LossFloor {
    lost: u64,
    sent: u64,
}

impl LossFloor {
    pub(super) fn new(mtu: u64) -> Self {
        let sent = PRIOR_PACKETS * mtu;
        Self { lost: sent * FLOOR_PPM_MAX / 1_000_000, sent }
    }

    /// Takes a round trip during which the queue was empty.
    pub(super) fn on_quiet_round(&mut self, lost: u64, sent: u64, mtu: u64) {
        self.lost += lost;
        self.sent += sent;
        if self.sent > MEMORY_PACKETS * mtu {
            (self.lost, self.sent) = (self.lost / 2, self.sent / 2);
        }
    }

    /// Whether so much loss of so many bytes sent is more than the floor and chance explain. Where nothing else speaks for a full queue,
    /// it has to be clearly more.
    pub(super) fn is_excess(&self, lost: u64, sent: u64, mtu: u64, has_queue: bool) -> bool {
        let margin = if has_queue { 0 } else { EXCESS_PPM };
        let expected = u128::from(sent) * u128::from(self.ppm() + margin) / 1_000_000;
        let above = u128::from(lost).saturating_sub(expected);
        // Packets get lost one by one: the variance of their count is its mean.
        above * above > DEVIATIONS * DEVIATIONS * expected * u128::from(mtu)
    }

    fn ppm(&self) -> u64 {
        let ppm = u128::from(self.lost) * 1_000_000 / u128::from(self.sent.max(1));
        u64::try_from(ppm).unwrap_or(u64::MAX).min(FLOOR_PPM_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u64 = 1_000;

    fn floor(lost_percent: u64) -> LossFloor {
        let mut floor = LossFloor::new(MTU);
        (0..100).for_each(|_| floor.on_quiet_round(lost_percent * MTU, 100 * MTU, MTU));
        floor
    }

    #[test]
    fn loss_as_without_load_is_no_excess_and_two_percent_more_are() {
        for percent in [0, 1, 5] {
            let floor = floor(percent);
            assert!(!floor.is_excess(percent * 100 * MTU, 10_000 * MTU, MTU, false), "{percent}");
            assert!(floor.is_excess((percent * 100 + 310) * MTU, 10_000 * MTU, MTU, false), "{percent}");
        }
    }

    #[test]
    fn a_few_packets_lost_of_a_small_flight_are_chance() {
        assert!(!floor(0).is_excess(2 * MTU, 20 * MTU, MTU, false));
        assert!(floor(0).is_excess(4 * MTU, 20 * MTU, MTU, false));
    }

    #[test]
    fn an_unknown_path_may_be_a_bad_one() {
        assert!(!LossFloor::new(MTU).is_excess(10 * MTU, 100 * MTU, MTU, false));
        assert!(LossFloor::new(MTU).is_excess(30 * MTU, 100 * MTU, MTU, false));
    }

    #[test]
    fn no_path_is_believed_to_lose_more_than_a_tenth() {
        assert!(floor(30).is_excess(3_000 * MTU, 10_000 * MTU, MTU, false));
    }

    #[test]
    fn a_path_that_has_become_better_is_believed_after_some_thousand_packets() {
        let mut floor = floor(5);
        (0..200).for_each(|_| floor.on_quiet_round(0, 100 * MTU, MTU));
        assert!(floor.ppm() < 5_000, "{}", floor.ppm());
    }
}
