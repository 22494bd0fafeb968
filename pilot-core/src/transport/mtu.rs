//! Search for the largest packet of a path (RFC 8899), by probes that are not counted as congestion when lost.

use crate::id::PacketNumber;

/// Sizes worth trying, as UDP payloads: Ethernet, jumbo frames, and what loopback and tunnels of data centres carry. Upward, one at
/// a time: each step of the search costs a probe, each byte saved a part of every packet.
const SIZES: [usize; 5] = [1_452, 8_952, 16_336, 32_000, 65_000];

/// Probes of one size that may be lost before the search ends (RFC 8899 §5.1.2, MAX_PROBES).
const PROBES_MAX: u32 = 3;

/// Probe timeouts in a row after which a raised size is suspected of a black hole (RFC 8899 §4.3).
pub(super) const BLACK_HOLE_PTO_COUNT: u32 = 3;

/// The packet size of one path and the search for a larger one.
#[derive(Clone, Debug)]
pub(super) struct MtuDiscovery {
    base: usize,
    current: usize,
    max: usize,
    in_flight: Option<PacketNumber>,
    lost_probes: u32,
}

impl MtuDiscovery {
    pub(super) fn new(base: usize, max: Option<usize>) -> Self {
        Self { base, current: base, max: max.unwrap_or(base), in_flight: None, lost_probes: 0 }
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
        SIZES.into_iter().find(|size| *size > self.current && *size <= self.max)
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
            self.max = self.current;
        }
    }

    /// Gives up a raised size and searches anew, up to what was known to fit. Says whether the size was raised.
    pub(super) fn on_path_left(&mut self) -> bool {
        let was_raised = self.current > self.base;
        (self.current, self.in_flight, self.lost_probes) = (self.base, None, 0);
        was_raised
    }

    /// Gives up a raised size and ends the search. Says whether the size was raised.
    pub(super) fn on_black_hole(&mut self) -> bool {
        let was_raised = self.current > self.base;
        (self.current, self.max) = (self.base, self.base);
        was_raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_climbs_to_its_bound() {
        let mut mtu = MtuDiscovery::new(1_152, Some(9_000));
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
        let mut mtu = MtuDiscovery::new(1_152, Some(9_000));
        mtu.on_probe_sent(PacketNumber(1));
        mtu.on_probe_acked(PacketNumber(1), 1_452);
        assert!(mtu.on_path_left());
        assert_eq!((mtu.current(), mtu.next_probe()), (1_152, Some(1_452)));
        assert!(!mtu.on_path_left(), "it is at its base already");
    }

    #[test]
    fn three_lost_probes_end_the_search() {
        let mut mtu = MtuDiscovery::new(1_152, Some(65_000));
        for pn in 0..3 {
            assert_eq!(mtu.next_probe(), Some(1_452));
            mtu.on_probe_sent(PacketNumber(pn));
            mtu.on_probe_lost(PacketNumber(pn));
        }
        assert_eq!((mtu.next_probe(), mtu.current()), (None, 1_152));
    }

    #[test]
    fn a_black_hole_falls_back_to_the_base() {
        let mut mtu = MtuDiscovery::new(1_152, Some(2_000));
        assert!(!mtu.clone().on_black_hole());
        mtu.on_probe_sent(PacketNumber(1));
        mtu.on_probe_acked(PacketNumber(1), 1_452);
        assert!(mtu.on_black_hole());
        assert_eq!((mtu.current(), mtu.next_probe()), (1_152, None));
    }
}
