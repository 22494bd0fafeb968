//! A set of integers as sorted ranges: packet numbers received, bytes acknowledged, bytes to send again.

use std::ops::Range;

/// Disjoint, non-adjacent, half-open ranges in ascending order. Made for few ranges that change at their upper end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    ranges: Vec<Range<u64>>,
}

impl RangeSet {
    /// Adds every value of `range`.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if range.start == last.end => last.end = range.end,
            Some(last) if range.start <= last.end => self.insert_within(range),
            Some(_) | None => self.ranges.push(range),
        }
    }

    /// Takes out every value of `range`.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        let first = self.ranges.partition_point(|have| have.end <= range.start);
        let last = self.ranges.partition_point(|have| have.start < range.end);
        if range.is_empty() || first >= last {
            return;
        }
        let below = self.ranges[first].start..range.start;
        let above = range.end..self.ranges[last - 1].end;
        let rest = [below, above].into_iter().filter(|rest| !rest.is_empty());
        self.ranges.splice(first..last, rest);
    }

    /// Drops the range of the smallest values.
    pub(super) fn remove_first(&mut self) {
        self.ranges.drain(..self.ranges.len().min(1));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
    }

    pub(super) fn contains(&self, value: u64) -> bool {
        let index = self.ranges.partition_point(|have| have.end <= value);
        self.ranges.get(index).is_some_and(|have| have.start <= value)
    }

    /// The range of the smallest values.
    pub(super) fn first(&self) -> Option<Range<u64>> {
        self.ranges.first().cloned()
    }

    /// The largest value.
    pub(super) fn largest(&self) -> Option<u64> {
        self.ranges.last().map(|range| range.end - 1)
    }

    /// All ranges, in ascending order.
    pub(super) fn as_slice(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Number of ranges.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    fn insert_within(&mut self, range: Range<u64>) {
        let first = self.ranges.partition_point(|have| have.end < range.start);
        let last = self.ranges.partition_point(|have| have.start <= range.end);
        let merged = self.ranges[first..last]
            .iter()
            .fold(range, |merged, have| merged.start.min(have.start)..merged.end.max(have.end));
        self.ranges.splice(first..last, [merged]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_merge_and_holes_split() {
        let mut set = RangeSet::default();
        set.insert(0..2);
        set.insert(4..6);
        set.insert(2..4);
        assert_eq!((set.first(), set.len()), (Some(0..6), 1));
        set.remove(1..3);
        assert_eq!(set.as_slice(), [0..1, 3..6]);
        assert_eq!((set.first(), set.largest(), set.len()), (Some(0..1), Some(5), 2));
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_integers(steps in proptest::collection::vec((any::<bool>(), 0..60u64, 0..12u64), 1..60)) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (insert, start, len) in steps {
                let range = start..start + len;
                if insert {
                    set.insert(range.clone());
                    model.extend(range);
                } else {
                    set.remove(range.clone());
                    model.retain(|value| !range.contains(value));
                }
                prop_assert!((0..80).all(|value| set.contains(value) == model.contains(&value)));
                prop_assert!(set.as_slice().windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert!(set.as_slice().iter().all(|range| !range.is_empty()));
            }
        }
    }
}
