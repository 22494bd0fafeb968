//! The model of the path: its rate, its round trip time without a queue, and how bunched its acknowledgements come.

use std::time::Duration;

use super::super::DeliverySample;
use crate::time::Mono;

/// Age at which the smallest round trip time is not believed any more (MinRTTFilterLen). Half of the draft's: where the queue empties by
/// itself a sample renews it, and where it does not, flows that have come agree on it sooner.
const MIN_RTT_MEMORY: Duration = Duration::from_secs(5);

/// Age at which it is worth a pause to measure it anew (ProbeRTTInterval).
const MIN_RTT_FRESH: Duration = Duration::from_secs(3);

/// A sample this part above the minimum is as good as it: the queue was empty.
const MIN_RTT_TOLERANCE: u32 = 32;

/// Timers of drivers are no finer than this, so no queue shorter than it is worth avoiding, and no window may hold less at the rate.
const GRANULARITY: Duration = Duration::from_millis(1);

/// Rounds in which the excess of acknowledgements is remembered at least.
const EXCESS_MEMORY_ROUNDS: u64 = 5;

/// What is believed of the path.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// Highest delivery rate of this cycle of probing, and of the one before.
    rates: [u64; 2],
    min_rtt: Option<MinRtt>,
    excess: AckExcess,
}

#[derive(Clone, Copy, Debug)]
struct MinRtt {
    value: Duration,
    value_at: Mono,
    /// The same over a shorter time.
    recent: Duration,
    recent_at: Mono,
}

/// Bytes acknowledged beyond what the rate explains, as links do that collect packets before they send them.
#[derive(Clone, Copy, Debug)]
struct AckExcess {
    since: Mono,
    acked: u64,
    /// Most of it in these rounds, and in those before.
    most: [u64; 2],
    rounds: u64,
}

impl Model {
    pub(super) fn new() -> Self {
        let excess = AckExcess { since: Mono(0), acked: 0, most: [0; 2], rounds: 0 };
        Self { rates: [0; 2], min_rtt: None, excess }
    }

    /// Takes the delivery rate of a sample. One that the application held down tells something only if it is the highest.
    pub(super) fn update_rate(&mut self, sample: &DeliverySample) {
        if let Some(rate) = sample.rate.filter(|rate| !sample.is_app_limited || *rate >= self.rate()) {
            self.rates[0] = self.rates[0].max(rate);
        }
    }

    /// A cycle of probing is over: the rate of the one before the last is forgotten.
    pub(super) fn advance_rates(&mut self) {
        if self.rates[0] > 0 {
            self.rates = [0, self.rates[0]];
        }
    }

    /// Bytes a second that the path delivers; zero if nothing is known.
    pub(super) fn rate(&self) -> u64 {
        self.rates[0].max(self.rates[1])
    }

    /// Takes a round trip time. Says whether the smallest one is so old that it should be measured anew.
    pub(super) fn update_min_rtt(&mut self, now: Mono, rtt: Duration) -> bool {
        let fresh = MinRtt { value: rtt, value_at: now, recent: rtt, recent_at: now };
        let min = self.min_rtt.get_or_insert(fresh);
        let is_stale = now.since(min.recent_at) > MIN_RTT_FRESH;
        if is_stale || rtt <= min.recent {
            (min.recent, min.recent_at) = (rtt, now);
        } else if rtt <= min.recent + tolerance(min.recent) {
            min.recent_at = now;
        }
        if min.recent <= min.value || now.since(min.value_at) > MIN_RTT_MEMORY {
            (min.value, min.value_at) = (min.recent, min.recent_at);
        }
        is_stale
    }

    /// Smallest round trip time; none before the first.
    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt.map(|min| min.value)
    }

    /// Whether a round trip time shows a queue of more than this part of the round trip.
    pub(super) fn has_queue(&self, rtt: Duration, part: u32) -> bool {
        self.min_rtt().is_some_and(|min| rtt > min + (min / part).max(2 * GRANULARITY))
    }

    /// Bytes that are in flight at this rate without a queue; none if the round trip time is not known.
    pub(super) fn in_flight_at(&self, rate: u64) -> Option<u64> {
        let time = self.min_rtt()?.max(GRANULARITY);
        u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).ok()
    }

    /// Counts what was acknowledged beyond the rate.
    pub(super) fn update_excess(&mut self, now: Mono, newly_acked: u64, rate: u64, window: u64) {
        let expected = |since| u128::from(rate) * now.since(since).as_nanos() / 1_000_000_000;
        let excess = &mut self.excess;
        if u128::from(excess.acked) <= expected(excess.since) {
            (excess.acked, excess.since) = (0, now);
        }
        excess.acked += newly_acked;
        let explained = u64::try_from(expected(excess.since)).unwrap_or(u64::MAX);
        excess.most[0] = excess.most[0].max(excess.acked.saturating_sub(explained).min(window));
    }

    /// A round trip is over.
    pub(super) fn on_round(&mut self) {
        self.excess.rounds += 1;
        if self.excess.rounds.is_multiple_of(EXCESS_MEMORY_ROUNDS) {
            self.excess.most = [0, self.excess.most[0]];
        }
    }

    /// Bytes that the window needs so that bunched acknowledgements leave no pause.
    pub(super) fn excess(&self) -> u64 {
        self.excess.most[0].max(self.excess.most[1])
    }
}

fn tolerance(rtt: Duration) -> Duration {
    (rtt / MIN_RTT_TOLERANCE).max(GRANULARITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sample(rate: u64, is_app_limited: bool) -> DeliverySample {
        DeliverySample {
            delivered: 0,
            prior_delivered: 0,
            newly_acked: 0,
            rate: Some(rate),
            is_app_limited,
            rtt: 40 * MS,
            sent_in_flight: 0,
            lost_since: 0,
            lost: 0,
            in_flight: 0,
        }
    }

    #[test]
    fn the_rate_is_the_highest_of_two_cycles() {
        let mut model = Model::new();
        model.update_rate(&sample(100, false));
        model.advance_rates();
        model.update_rate(&sample(60, false));
        assert_eq!(model.rate(), 100);
        model.advance_rates();
        assert_eq!(model.rate(), 60);
        model.advance_rates();
        assert_eq!(model.rate(), 60, "a cycle without samples tells nothing");
    }

    #[test]
    fn an_application_that_sends_little_lowers_no_rate_and_may_raise_it() {
        let mut model = Model::new();
        model.update_rate(&sample(100, false));
        model.advance_rates();
        model.update_rate(&sample(50, true));
        model.advance_rates();
        assert_eq!(model.rate(), 100);
        model.update_rate(&sample(120, true));
        assert_eq!(model.rate(), 120);
    }

    #[test]
    fn the_smallest_round_trip_is_fresh_while_the_queue_empties_by_itself() {
        let mut model = Model::new();
        let at = |millis: u64| Mono(millis * 1_000_000);
        assert!(!model.update_min_rtt(at(0), 40 * MS));
        assert!(!model.update_min_rtt(at(2_000), 41 * MS), "a queue of a millisecond is none");
        assert!(!model.update_min_rtt(at(4_000), 50 * MS));
        assert!(model.update_min_rtt(at(5_500), 50 * MS), "no empty queue for three seconds");
        assert_eq!(model.min_rtt(), Some(40 * MS));
        model.update_min_rtt(at(7_100), 50 * MS);
        assert_eq!(model.min_rtt(), Some(50 * MS), "after five the path is another");
    }

    #[test]
    fn bunched_acknowledgements_are_remembered_for_some_rounds() {
        let mut model = Model::new();
        model.update_excess(Mono(0), 10_000, 1_000_000, 100_000);
        assert_eq!(model.excess(), 10_000);
        model.update_excess(Mono(100_000_000), 20_000, 1_000_000, 100_000);
        (0..EXCESS_MEMORY_ROUNDS).for_each(|_| model.on_round());
        assert_eq!(model.excess(), 20_000);
        (0..EXCESS_MEMORY_ROUNDS).for_each(|_| model.on_round());
        assert_eq!(model.excess(), 0);
    }
}
