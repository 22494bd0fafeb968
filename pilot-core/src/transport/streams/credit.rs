//! The window of a tunnel: what the peer may send ahead of the readers, and how it grows (spec/streams.md §4, RFC 9000 §4.2).

use std::time::Duration;

use crate::time::Mono;

/// Round trips within which half of the window is read by whoever could use more: with one, a reader that takes a whole flight at once
/// would just miss it.
const ROUND_TRIPS: u32 = 2;

/// On short paths the pace of applications counts, not the path's.
const TIME_MIN: Duration = Duration::from_millis(50);

/// What the window grows to, as a multiple: a sender doubles its rate each round trip at first, and must not meet the window because one
/// packet has to be sent again before the rest can be read.
const GROWTH: u64 = 4;

/// The window and what tells whether it is too small.
#[derive(Debug)]
pub(super) struct Window {
    size: u64,
    first: u64,
    max: u64,
    /// Since when, and from which count of bytes read, the pace is measured.
    measured_from: Option<(Mono, u64)>,
}

impl Window {
    pub(super) fn new(first: u64, max: u64) -> Self {
        Self { size: first, first, max, measured_from: None }
    }

    /// Bytes by which the window is to grow: it grows when half of it was read within two round trips. `read` counts all bytes read.
    pub(super) fn wanted(&mut self, now: Mono, round_trip: Duration, read: u64) -> u64 {
        let (since, read_before) = *self.measured_from.get_or_insert((now, 0));
        let is_recent = now.since(since) <= (round_trip * ROUND_TRIPS).max(TIME_MIN);
        let is_half_read = read - read_before >= self.size / 2;
        if is_recent && !is_half_read {
            return 0;
        }
        self.measured_from = Some((now, read));
        if is_recent { (self.size * GROWTH).min(self.max) - self.size } else { 0 }
    }

    pub(super) fn grow(&mut self, bytes: u64) {
        self.size = self.max.min(self.size + bytes);
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What it has grown by.
    pub(super) fn earned(&self) -> u64 {
        self.size - self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(100);

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    #[test]
    fn a_window_of_which_half_is_read_in_two_round_trips_quadruples_up_to_its_maximum() {
        let mut window = Window::new(100, 500);
        assert_eq!(window.wanted(at(0), ROUND_TRIP, 49), 0);
        assert_eq!(window.wanted(at(200), ROUND_TRIP, 50), 300);
        window.grow(300);
        assert_eq!(window.wanted(at(400), ROUND_TRIP, 250), 100);
        window.grow(100);
        assert_eq!((window.size(), window.earned()), (500, 400));
        assert_eq!(window.wanted(at(500), ROUND_TRIP, 1_000), 0);
    }

    #[test]
    fn a_trickle_earns_nothing() {
        let mut window = Window::new(100, 1_000);
        assert!((1..1_000).all(|turn| window.wanted(at(turn * 201), ROUND_TRIP, turn * 40) == 0));
    }
}
