//! Search for the largest packet of a path (RFC 8899), by probes that are not counted as congestion when lost: first sizes that are common,
//! upward, and from the first that does not fit by halving what is between it and the last that does.

use std::time::Duration;

use crate::id::PacketNumber;
use crate::time::Mono;

/// Sizes worth trying, as UDP payloads: Ethernet, jumbo frames, and what loopback and tunnels of data centres carry. Upward, one at
/// a time: each step of the search costs a probe, each byte saved a part of every packet.
const SIZES: [usize; 5] = [ETHERNET, 8_952, 16_336, 32_000, 65_000];

/// What nearly every path carries: tried before there is a packet to fill.
const ETHERNET: usize = 1_452;

/// Probes of one size that may be lost before it counts as too large (RFC 8899 §5.1.2, MAX_PROBES).
const PROBES_MAX: u32 = 3;

/// The search ends when no more than this is left to find: a part of what fits, or so many bytes where that is less. A further step would
/// save fewer packets than it costs on most streams.
const GAP_PART: usize = 32;
const GAP_MIN: usize = 32;

/// Probe timeouts in a row after which a raised size is suspected of a black hole (RFC 8899 §4.3).
pub(super) const BLACK_HOLE_PTO_COUNT: u32 = 3;

/// Pause before the search that follows a black hole: a line that was cut carries what it did before, but where probes pass and full packets do
/// not, each search ends in another black hole. It doubles while one follows the other.
const BLACK_HOLE_REST_MIN: Duration = Duration::from_secs(5);
/// Longest pause (RFC 8899 §5.1.1, PMTU_RAISE_TIMER). A size that has held for so long was right.
const BLACK_HOLE_REST_MAX: Duration = Duration::from_secs(600);

/// The packet size of one path and the search for a larger one.
#[derive(Clone, Debug)]
pub(super) struct MtuDiscovery {
    base: usize,
    current: usize,
    max: usize,
    /// The smallest size that was found not to fit.
    too_large: Option<usize>,
    /// What fitted before the path was left, or fell silent: tried first.
    fitted: Option<usize>,
    /// No search before this, and an answer after it.
    rests_until: Option<Mono>,
    /// When the rest after the last black hole ended, or ends, and how long it is.
    last_rest: Option<(Mono, Duration)>,
    in_flight: Option<PacketNumber>,
    lost_probes: u32,
    /// There was more to send than a packet holds.
    is_filled: bool,
}

impl MtuDiscovery {
    pub(super) fn new(base: usize, max: Option<usize>) -> Self {
        Self {
            base,
            current: base,
            max: max.unwrap_or(base),
            too_large: None,
            fitted: None,
            rests_until: None,
            last_rest: None,
            in_flight: None,
            lost_probes: 0,
            is_filled: false,
        }
    }

    /// Data has filled a packet: longer ones are worth what the search for them costs.
    pub(super) fn on_filled(&mut self) {
        self.is_filled = true;
    }

    /// Largest packet that is believed to get through.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// The size to probe next; none while a probe is in flight, and when the search is over.
    pub(super) fn next_probe(&self) -> Option<usize> {
        if self.in_flight.is_some() { None } else { self.next_size() }
    }

    /// Bytes of the probe that is in flight.
    pub(super) fn len_in_flight(&self) -> u64 {
        self.in_flight.and_then(|_| self.next_size()).map_or(0, |size| size as u64)
    }

    fn next_size(&self) -> Option<usize> {
        if self.rests_until.is_some() {
            return None;
        }
        let max = if self.is_filled { self.max } else { self.max.min(ETHERNET) };
        let is_open =
            |size: &usize| *size > self.current && *size <= max && self.too_large.is_none_or(|bad| *size < bad);
        let halved = || {
            let gap = self.too_large?.checked_sub(self.current)?;
            (gap > GAP_MIN.max(self.current / GAP_PART)).then_some(self.current + gap / 2)
        };
        self.fitted.filter(is_open).or_else(|| SIZES.into_iter().find(is_open)).or_else(halved)
    }

    pub(super) fn on_probe_sent(&mut self, pn: PacketNumber) {
        self.in_flight = Some(pn);
    }

    /// A probe of `size` arrived.
    pub(super) fn on_probe_acked(&mut self, pn: PacketNumber, size: usize) {
        if self.in_flight == Some(pn) {
            (self.in_flight, self.lost_probes) = (None, 0);
            self.current = self.current.max(size);
        }
    }

    pub(super) fn on_probe_lost(&mut self, pn: PacketNumber) {
        if self.in_flight != Some(pn) {
            return;
        }
        self.in_flight = None;
        self.lost_probes += 1;
        if self.lost_probes == PROBES_MAX {
            (self.too_large, self.lost_probes) = (self.next_size(), 0);
        }
    }

    /// Gives up a raised size and searches anew, first for what was known to fit. Says whether the size was raised.
    pub(super) fn on_path_left(&mut self) -> bool {
        let was_raised = self.current > self.base;
        if was_raised {
            self.fitted = Some(self.current);
        }
        (self.current, self.in_flight, self.lost_probes) = (self.base, None, 0);
        was_raised
    }

    /// Gives up a raised size, and searches anew after a pause, once the path has answered. Says whether the size was raised.
    pub(super) fn on_black_hole(&mut self, now: Mono) -> bool {
        let was_raised = self.on_path_left();
        if was_raised {
            let before = self.last_rest.filter(|(end, _)| now.since(*end) < BLACK_HOLE_REST_MAX);
            let rest = before.map_or(BLACK_HOLE_REST_MIN, |(_, rest)| (rest * 2).min(BLACK_HOLE_REST_MAX));
            (self.rests_until, self.last_rest) = (Some(now + rest), Some((now + rest, rest)));
            self.too_large = None;
        }
        was_raised
    }

    /// The path has answered: a search that has rested long enough goes on.
    pub(super) fn on_answer(&mut self, now: Mono) {
        self.rests_until.take_if(|until| *until <= now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A search that may go as far as the path.
    fn filled(base: usize, max: Option<usize>) -> MtuDiscovery {
        let mut mtu = MtuDiscovery::new(base, max);
        mtu.on_filled();
        mtu
    }

    #[test]
    fn who_says_little_tries_what_an_ethernet_carries() {
        let mut mtu = MtuDiscovery::new(1_152, Some(9_000));
        assert_eq!((search(&mut mtu, 9_000), mtu.current()), (1, 1_452));
        mtu.on_filled();
        assert_eq!(mtu.next_probe(), Some(8_952));
    }

    #[test]
    fn the_search_climbs_to_its_bound() {
        let mut mtu = filled(1_152, Some(9_000));
        for (pn, size) in [(1, 1_452), (2, 8_952)] {
            assert_eq!(mtu.next_probe(), Some(size));
            mtu.on_probe_sent(PacketNumber(pn));
            assert_eq!(mtu.next_probe(), None, "one at a time");
            mtu.on_probe_acked(PacketNumber(pn), size);
            assert_eq!(mtu.current(), size);
        }
        assert_eq!(mtu.next_probe(), None);
    }

    #[test]
    fn a_path_that_was_left_is_searched_anew_up_to_what_fitted() {
        let mut mtu = filled(1_152, Some(9_000));
        mtu.on_probe_sent(PacketNumber(1));
        mtu.on_probe_acked(PacketNumber(1), 1_452);
        assert!(mtu.on_path_left());
        assert_eq!((mtu.current(), mtu.next_probe()), (1_152, Some(1_452)));
        assert!(!mtu.on_path_left(), "it is at its base already");
    }

    /// Searches a path that carries packets up to `fits`; returns how many probes it took.
    fn search(mtu: &mut MtuDiscovery, fits: usize) -> u64 {
        let mut sent = 0;
        while let Some(size) = mtu.next_probe() {
            mtu.on_probe_sent(PacketNumber(sent));
            if size <= fits {
                mtu.on_probe_acked(PacketNumber(sent), size);
            } else {
                mtu.on_probe_lost(PacketNumber(sent));
            }
            sent += 1;
        }
        sent
    }

    #[test]
    fn what_is_between_two_sizes_is_found_by_halving() {
        for fits in [1_200, 1_252, 1_372, 1_400, 1_451, 1_500, 3_972, 4_472, 8_951, 9_000, 12_000, 40_000, 65_000] {
            let mut mtu = filled(1_200, Some(65_000));
            let probes = search(&mut mtu, fits);
            assert!((fits - fits / 25..=fits).contains(&mtu.current()), "{} of {fits}", mtu.current());
            assert!(probes <= 30, "{probes} probes for {fits}");
        }
    }

    #[test]
    fn a_size_is_too_large_when_three_probes_are_lost() {
        let mut mtu = filled(1_200, Some(65_000));
        for pn in 0..3 {
            assert_eq!(mtu.next_probe(), Some(1_452));
            mtu.on_probe_sent(PacketNumber(pn));
            mtu.on_probe_lost(PacketNumber(pn));
        }
        assert_eq!((mtu.next_probe(), mtu.current()), (Some(1_326), 1_200));
    }

    #[test]
    fn what_fitted_on_a_path_that_was_left_is_tried_first() {
        let mut mtu = filled(1_200, Some(65_000));
        search(&mut mtu, 3_972);
        let found = mtu.current();
        assert!(mtu.on_path_left());
        assert_eq!(mtu.next_probe(), Some(found));
        search(&mut mtu, 1_372);
        assert!((1_330..=1_372).contains(&mtu.current()), "{}", mtu.current());
    }

    #[test]
    fn a_black_hole_falls_back_to_the_base() {
        let mut mtu = filled(1_152, Some(2_000));
        assert!(!mtu.clone().on_black_hole(Mono(0)));
        search(&mut mtu, 1_452);
        assert!(mtu.on_black_hole(Mono(0)));
        assert_eq!((mtu.current(), mtu.next_probe()), (1_152, None));
    }

    #[test]
    fn a_path_that_answers_after_a_black_hole_is_searched_anew() {
        let mut mtu = filled(1_200, Some(65_000));
        search(&mut mtu, 9_000);
        let found = mtu.current();
        mtu.on_black_hole(Mono(0));
        mtu.on_answer(Mono(0));
        assert_eq!(mtu.next_probe(), None, "it rests");
        mtu.on_answer(Mono(0) + BLACK_HOLE_REST_MIN);
        assert_eq!(mtu.next_probe(), Some(found));
        search(&mut mtu, 1_452);
        assert_eq!(mtu.current(), 1_452);
    }

    #[test]
    fn black_holes_that_follow_each_other_are_searched_ever_more_rarely() {
        let mut mtu = filled(1_200, Some(9_000));
        let mut now = Mono(0);
        let mut rest_after = |held: Duration| {
            search(&mut mtu, 9_000);
            now = now + held;
            mtu.on_black_hole(now);
            let began = now;
            while mtu.next_probe().is_none() {
                now = now + Duration::from_secs(1);
                mtu.on_answer(now);
            }
            now.since(began)
        };
        let rests: Vec<_> = (0..9).map(|_| rest_after(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(rests, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(rest_after(BLACK_HOLE_REST_MAX), BLACK_HOLE_REST_MIN, "it had held for long");
    }
}
