//! How fresh early data is: the greatest timestamp of each initiator, and a floor for those that are not kept (spec/handshake.md §10).

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::{EARLY_DATA_AHEAD_MAX, FRESHNESS_KEPT_MAX};
use crate::time::UnixTime;

/// A transport key, which names an initiator.
type TransportPublic = [u8; 32];

/// The timestamps of early data that was taken.
pub(super) struct Freshness {
    /// Whatever is not newer than this may have been taken before.
    floor: UnixTime,
    greatest: BTreeMap<TransportPublic, UnixTime>,
    /// The same by time.
    by_time: BTreeSet<(UnixTime, TransportPublic)>,
}

impl Freshness {
    /// Nothing was taken after `start`, and what was taken before is forgotten.
    pub(super) fn new(start: UnixTime) -> Self {
        Self { floor: start, greatest: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Other copies may have taken what came before `now`.
    pub(super) fn forget(&mut self, now: UnixTime) {
        self.floor = self.floor.max(now);
    }

    /// Takes early data of this time, unless it may have been taken before.
    pub(super) fn take(&mut self, initiator: TransportPublic, timestamp: UnixTime, now: UnixTime) -> bool {
        let known = self.greatest.get(&initiator).copied();
        let least = known.unwrap_or(self.floor).max(self.floor);
        if timestamp <= least || timestamp > now + EARLY_DATA_AHEAD_MAX {
            return false;
        }
        if let Some(known) = known {
            self.by_time.remove(&(known, initiator));
        }
        self.greatest.insert(initiator, timestamp);
        self.by_time.insert((timestamp, initiator));
        if self.by_time.len() > FRESHNESS_KEPT_MAX
            && let Some((oldest, initiator)) = self.by_time.pop_first()
        {
            self.greatest.remove(&initiator);
            self.floor = self.floor.max(oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: UnixTime = UnixTime(1_790_000_000_000_000_000);

    fn initiator(which: usize) -> TransportPublic {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&which.to_be_bytes());
        key
    }

    fn after(micros: usize) -> UnixTime {
        START + Duration::from_micros(micros as u64)
    }

    #[test]
    fn nothing_is_taken_twice_and_nothing_from_before_the_start() {
        let mut freshness = Freshness::new(START);
        assert!(!freshness.take(initiator(1), START, START));
        assert!(freshness.take(initiator(1), after(2), START));
        assert!(!freshness.take(initiator(1), after(2), START) && !freshness.take(initiator(1), after(1), START));
        assert!(freshness.take(initiator(1), after(3), START));
        assert!(freshness.take(initiator(2), after(1), START), "each has its own");
    }

    #[test]
    fn who_is_forgotten_is_below_the_floor() {
        let mut freshness = Freshness::new(START);
        let count = 2 * FRESHNESS_KEPT_MAX;
        for which in 1..=count {
            assert!(freshness.take(initiator(which), after(which), START));
            assert!(
                freshness.greatest.len() <= FRESHNESS_KEPT_MAX && freshness.by_time.len() == freshness.greatest.len()
            );
        }
        assert_eq!(freshness.greatest.len(), FRESHNESS_KEPT_MAX, "and no more is forgotten than must be");
        for which in 1..=count {
            assert!(!freshness.take(initiator(which), after(which), START), "{which} again");
        }
    }

    #[test]
    fn what_others_may_have_taken_is_below_the_floor() {
        let mut freshness = Freshness::new(START);
        freshness.forget(after(9));
        assert!(!freshness.take(initiator(1), after(9), START));
        assert!(freshness.take(initiator(1), after(10), START));
        freshness.forget(START);
        assert!(!freshness.take(initiator(2), after(9), START), "a clock that is set back lowers no floor");
    }

    #[test]
    fn a_clock_far_ahead_raises_no_floor() {
        let mut freshness = Freshness::new(START);
        let ahead = START + EARLY_DATA_AHEAD_MAX;
        for which in 0..2 * FRESHNESS_KEPT_MAX {
            assert!(!freshness.take(initiator(which), ahead + Duration::from_nanos(1), START));
        }
        assert!(freshness.take(initiator(0), after(1), START));
        assert!(freshness.take(initiator(1), ahead, START), "the bound itself is good");
    }
}
