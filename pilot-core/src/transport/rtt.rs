//! Round trip time of a path (RFC 9002 §5) and the periods that follow from it.

use std::time::Duration;

/// Assumed before the first sample (RFC 9002 §6.2.2).
const INITIAL_RTT: Duration = Duration::from_millis(333);

/// What the first window is spread over when the round trip time is not known. Longer would make everybody near wait.
const PACING_RTT_MAX: Duration = Duration::from_millis(50);

/// Timers are no finer than this (RFC 9002 §6.1.2).
const GRANULARITY: Duration = Duration::from_millis(1);

/// How long a receiver may hold back an acknowledgement (spec/streams.md §6). A constant of the protocol, not negotiated.
pub(super) const MAX_ACK_DELAY: Duration = Duration::from_millis(5);

/// Longest probe timeout: after an outage of the network a tunnel is alive again within it.
const PTO_MAX: Duration = Duration::from_secs(4);

/// Smoothed round trip time and its variation.
#[derive(Clone, Debug)]
pub(super) struct RttEstimator {
    latest: Duration,
    smoothed: Duration,
    rttvar: Duration,
    min: Duration,
    has_sample: bool,
}

impl RttEstimator {
    /// An estimate from elsewhere is a guess until the first sample replaces it.
    pub(super) fn new(initial: Option<Duration>) -> Self {
        let initial = initial.unwrap_or(INITIAL_RTT);
        Self { latest: initial, smoothed: initial, rttvar: initial / 2, min: initial, has_sample: false }
    }

    /// Takes a sample, and what the peer says that it held back the acknowledgement for.
    pub(super) fn update(&mut self, sample: Duration, ack_delay: Duration) {
        self.latest = sample;
        if !self.has_sample {
            (self.smoothed, self.rttvar, self.min, self.has_sample) = (sample, sample / 2, sample, true);
            return;
        }
        self.min = self.min.min(sample);
        let ack_delay = ack_delay.min(MAX_ACK_DELAY);
        let adjusted = if sample >= self.min + ack_delay { sample - ack_delay } else { sample };
        self.rttvar = (self.rttvar * 3 + self.smoothed.abs_diff(adjusted)) / 4;
        self.smoothed = (self.smoothed * 7 + adjusted) / 8;
    }

    /// Smoothed round trip time, a guess before the first sample.
    pub(super) fn smoothed(&self) -> Duration {
        self.smoothed
    }

    /// Round trip time to spread a window over.
    pub(super) fn for_pacing(&self) -> Duration {
        if self.has_sample { self.smoothed } else { self.smoothed.min(PACING_RTT_MAX) }
    }

    /// Smallest round trip time; zero before the first sample.
    pub(super) fn min(&self) -> Duration {
        self.measured().map_or(Duration::ZERO, |(min, _)| min)
    }

    /// Smallest and smoothed round trip time, once there was a sample.
    pub(super) fn measured(&self) -> Option<(Duration, Duration)> {
        self.has_sample.then_some((self.min, self.smoothed))
    }

    /// Time after which an overtaken packet is lost (RFC 9002 §6.1.2).
    pub(super) fn loss_delay(&self) -> Duration {
        (self.smoothed.max(self.latest) * 9 / 8).max(GRANULARITY)
    }

    /// Probe timeout after `count` others in a row (RFC 9002 §6.2.1).
    pub(super) fn pto(&self, count: u32) -> Duration {
        let pto = self.variation_bound() + MAX_ACK_DELAY;
        pto.saturating_mul(1 << count.min(16)).min(PTO_MAX.max(pto))
    }

    /// Silence that means more than single losses (RFC 9002 §7.6.1).
    pub(super) fn persistent_congestion(&self) -> Duration {
        (self.variation_bound() + MAX_ACK_DELAY) * 3
    }

    fn variation_bound(&self) -> Duration {
        self.smoothed + (self.rttvar * 4).max(GRANULARITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_sample_replaces_the_guess() {
        let mut rtt = RttEstimator::new(None);
        assert_eq!(rtt.measured(), None);
        rtt.update(40 * MS, 5 * MS);
        assert_eq!(rtt.measured(), Some((40 * MS, 40 * MS)));
        assert_eq!(rtt.pto(0), 40 * MS + 80 * MS + MAX_ACK_DELAY);
    }

    #[test]
    fn a_peer_cannot_talk_a_sample_below_the_smallest_or_claim_more_than_the_bound() {
        let mut rtt = RttEstimator::new(None);
        rtt.update(40 * MS, Duration::ZERO);
        rtt.update(42 * MS, 5 * MS);
        assert_eq!(rtt.smoothed(), (40 * MS * 7 + 42 * MS) / 8);
        rtt.update(140 * MS, 90 * MS);
        assert!(rtt.smoothed() > 52 * MS);
    }

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let mut rtt = RttEstimator::new(None);
        rtt.update(40 * MS, Duration::ZERO);
        assert_eq!(rtt.pto(2), 4 * rtt.pto(0));
        assert_eq!(rtt.pto(60), PTO_MAX);
    }
}
