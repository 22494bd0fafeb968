//! The replay window of a tunnel: which packet numbers have been received (RFC 6479, spec/wire.md §3).
//!
//! A bitmap over the numbers below the greatest received. It begins with 2,048 of them and doubles when packets jump ahead by more
//! than half of it, to at most 65,536: when a tunnel moves to a faster path, thousands of packets on the old one are overtaken, and
//! they must not be taken for replays when they arrive.

use crate::id::PacketNumber;

/// Numbers that a new window covers.
pub const WINDOW_MIN: u64 = 2_048;
/// Numbers that a window covers at most: 8 KiB of bitmap, 65 ms of 1,200-byte packets at 10 Gbit/s.
pub const WINDOW_MAX: u64 = 65_536;

const WORD_BITS: u64 = u64::BITS as u64;

/// Which packet numbers have been received.
///
/// [`Self::check`] may be asked at any time; [`Self::mark`] is for packets that opened.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// Ring of bits by packet number; a set bit has been received.
    bitmap: Vec<u64>,
    /// One more than the greatest number received.
    next: u64,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplayWindow {
    /// A window that has received nothing.
    pub fn new() -> Self {
        Self { bitmap: vec![0; words(WINDOW_MIN)], next: 0 }
    }

    /// Whether a packet of this number may be new. If not, it was received before or is too old to tell.
    pub fn check(&self, packet_number: PacketNumber) -> bool {
        let number = packet_number.0;
        if number >= self.next {
            return number < u64::MAX;
        }
        self.next - number <= self.len() && !self.is_set(number)
    }

    /// Remembers that a packet of this number was received.
    pub fn mark(&mut self, packet_number: PacketNumber) {
        let number = packet_number.0;
        debug_assert!(self.check(packet_number), "{number} is marked twice or was never checked");
        if number >= self.next {
            self.grow_for(number - self.next);
            self.slide_to(number.saturating_add(1));
        }
        self.set(number);
    }

    /// Numbers that the window covers now.
    fn len(&self) -> u64 {
        self.bitmap.len() as u64 * WORD_BITS
    }

    fn grow_for(&mut self, jump: u64) {
        let wanted = jump.saturating_mul(2).min(WINDOW_MAX).next_power_of_two();
        if wanted > self.len() {
            self.grow_to(wanted);
        }
    }

    /// What lies below the old window is unknown, so it counts as received.
    fn grow_to(&mut self, len: u64) {
        let old = std::mem::replace(self, Self { bitmap: vec![u64::MAX; words(len)], next: self.next });
        for number in old.next.saturating_sub(old.len())..old.next {
            if !old.is_set(number) {
                self.clear(number);
            }
        }
    }

    fn slide_to(&mut self, next: u64) {
        if next - self.next >= self.len() {
            self.bitmap.fill(0);
        } else {
            (self.next..next).for_each(|number| self.clear(number));
        }
        self.next = next;
    }

    fn is_set(&self, number: u64) -> bool {
        let (word, bit) = self.position(number);
        self.bitmap[word] & bit != 0
    }

    fn set(&mut self, number: u64) {
        let (word, bit) = self.position(number);
        self.bitmap[word] |= bit;
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = self.position(number);
        self.bitmap[word] &= !bit;
    }

    fn position(&self, number: u64) -> (usize, u64) {
        ((number / WORD_BITS % self.bitmap.len() as u64) as usize, 1 << (number % WORD_BITS))
    }
}

const fn words(len: u64) -> usize {
    (len / WORD_BITS) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn receive(window: &mut ReplayWindow, number: u64) -> bool {
        let number = PacketNumber(number);
        let is_new = window.check(number);
        if is_new {
            window.mark(number);
        }
        is_new
    }

    #[test]
    fn each_number_is_taken_once_in_any_order() {
        let mut window = ReplayWindow::new();
        for number in [0, 5, 3, 4, 1, 2, 2_047] {
            assert!(receive(&mut window, number), "{number}");
        }
        for number in [0, 1, 2, 3, 4, 5, 2_047] {
            assert!(!receive(&mut window, number), "{number} again");
        }
        assert!(receive(&mut window, 6));
    }

    #[test]
    fn a_number_below_the_window_is_refused() {
        let mut window = ReplayWindow::new();
        for number in 0..=WINDOW_MIN {
            if number != 0 && number != 1 {
                assert!(receive(&mut window, number));
            }
        }
        assert!(!receive(&mut window, 0));
        assert!(receive(&mut window, 1));
    }

    #[test]
    fn asking_changes_nothing() {
        let window = ReplayWindow::new();
        assert!(window.check(PacketNumber(1 << 40)));
        assert!(window.check(PacketNumber(0)));
    }

    #[test]
    fn thousands_of_overtaken_packets_are_still_taken() {
        let mut window = ReplayWindow::new();
        (0..1_000).for_each(|number| assert!(receive(&mut window, number)));
        assert!(receive(&mut window, 31_000), "the first on the faster path");
        for number in 1_000..31_000 {
            assert!(receive(&mut window, number), "{number} on the slower path");
        }
        assert!(!receive(&mut window, 999), "a replay from before the growth");
    }

    #[test]
    fn the_window_has_an_upper_bound_and_survives_the_greatest_number() {
        let mut window = ReplayWindow::new();
        assert!(receive(&mut window, u64::MAX - 1));
        assert_eq!(window.len(), WINDOW_MAX);
        assert!(!receive(&mut window, u64::MAX - 1));
        assert!(!receive(&mut window, u64::MAX), "reserved");
        assert!(receive(&mut window, u64::MAX - 2));
    }

    /// Steps around the greatest number so far: near, in the window, beyond it, far ahead.
    fn step() -> impl Strategy<Value = i64> {
        prop_oneof![-8_i64..8, -2_100_i64..2_100, -70_000_i64..70_000, 0_i64..1_000_000]
    }

    proptest! {
        #[test]
        fn no_number_is_taken_twice_and_none_in_the_least_window_is_lost(steps in proptest::collection::vec(step(), 1..400)) {
            let mut window = ReplayWindow::new();
            let mut received = BTreeSet::new();
            for step in steps {
                let greatest = received.last().copied().unwrap_or(0_u64);
                let number = greatest.saturating_add_signed(step);
                let taken = receive(&mut window, number);
                if taken {
                    prop_assert!(received.insert(number), "{number} was taken twice");
                } else if !received.contains(&number) {
                    prop_assert!(number + WINDOW_MIN <= greatest, "{number} was lost, {greatest} is the greatest");
                }
            }
        }
    }
}
