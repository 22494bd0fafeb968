//! What a NAT does with the ports of the sockets behind it, as far as a few questions show, and volleys at ports that nobody can foretell
//! (spec/paths.md §7).

use std::time::Duration;

use crate::limits::{SAMPLES, SEQUENCE_STEP_MAX, VOLLEY_BURST, VOLLEY_INTERVAL, VOLLEY_PROBES};
use crate::rng::Rng;
use crate::time::Mono;
use crate::transport::PortSet;

/// So many neighbouring bits that all samples have in common are no chance: one in 2^28 for eight samples.
const COMMON_BITS_MIN: u32 = 4;
/// Ports below this are not given to sockets behind a NAT.
const PORT_MIN: u16 = 1_024;

/// How the NAT maps a socket of ours to outside ports (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatMapping {
    /// Nobody has answered, or was asked.
    #[default]
    Unknown,
    /// To one, whatever the destination; or there is no NAT.
    Independent {
        /// The ports of fresh sockets are in this set; none if there is no NAT, or the home node did not tell.
        set: Option<PortSet>,
    },
    /// To one for all ports of the home node's address. Nobody at another address has answered: whether that one sees another port cannot
    /// be told.
    PortIndependent {
        /// The ports of fresh sockets are in this set; so are others for another address, if the mapping depends on it.
        set: PortSet,
    },
    /// To another for each destination, each this far behind the one before.
    Sequence {
        /// How far.
        step: i16,
    },
    /// To another for each destination, anywhere in a set.
    Random {
        /// The set.
        set: PortSet,
    },
}

/// Why it is not known how our NAT maps sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MappingGap {
    /// Nobody sees us by UDP who could be asked.
    #[default]
    NotAsked,
    /// Servers are being asked.
    Asking,
    /// No server is known but the home node where it is reached, and that sees what it sees anyway.
    NoSecondServer,
    /// None of the second servers has answered.
    NoAnswer,
    /// The system gives no further sockets, whose ports would tell.
    NoSockets,
    /// The home node has not answered the further sockets.
    SocketsUnanswered,
}

/// A round of challenges to ports of one address, one each.
#[derive(Debug)]
pub(crate) struct Volley {
    set: PortSet,
    /// The order: an affine permutation of positions in the set.
    factor: u32,
    offset: u32,
    position: u32,
    sent: u32,
    next: Mono,
}

impl NatMapping {
    /// Whether our port is the same for all that have told of it.
    pub fn is_own_port_known(self) -> bool {
        matches!(self, Self::Unknown | Self::Independent { .. } | Self::PortIndependent { .. })
    }

    /// The ports of fresh sockets, where simple challenges have failed and nothing says why: the mapping depends on what nobody could tell, or
    /// a router took a challenge that came too early for a flow of its own, and gives our port to that (spec/paths.md §7.5).
    pub(crate) fn unexplained_set(self) -> Option<PortSet> {
        match self {
            Self::PortIndependent { set } => Some(set),
            Self::Independent { set } => set,
            Self::Unknown | Self::Sequence { .. } | Self::Random { .. } => None,
        }
    }

    /// One port for all who were asked; ports of fresh sockets. Without `at_another_address`, nobody was there to ask.
    pub(crate) fn of_one_port(at_another_address: bool, ports: &[u16; SAMPLES]) -> Self {
        let set = common_set(ports);
        if at_another_address { Self::Independent { set: Some(set) } } else { Self::PortIndependent { set } }
    }

    /// What the ports of fresh sockets, asked for one after the other, have in common.
    pub(crate) fn of_samples(ports: &[u16; SAMPLES]) -> Self {
        let step = ports[1].wrapping_sub(ports[0]).cast_signed();
        let is_sequence = ports.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]).cast_signed() == step);
        if is_sequence && step != 0 && step.unsigned_abs() <= SEQUENCE_STEP_MAX {
            return Self::Sequence { step };
        }
        Self::Random { set: common_set(ports) }
    }
}

/// The set of ports that agree with all samples in the bits that these have in common by more than chance.
fn common_set(ports: &[u16; SAMPLES]) -> PortSet {
    let common = !ports.iter().fold(0, |differing, port| differing | (port ^ ports[0]));
    let is_in_run = |bit: u32| {
        let is_common = |bit: u32| common & 1_u16.checked_shl(bit).unwrap_or(0) != 0;
        let below = (0..bit).rev().take_while(|&bit| is_common(bit)).count() as u32;
        let above = (bit + 1..u16::BITS).take_while(|&bit| is_common(bit)).count() as u32;
        is_common(bit) && below + above + 1 >= COMMON_BITS_MIN
    };
    let mask = (0..u16::BITS).filter(|&bit| is_in_run(bit)).fold(0, |mask, bit| mask | 1 << bit);
    PortSet::new(mask, ports[0])
}

impl Volley {
    /// A volley at a set of ports, from now on.
    pub(crate) fn new(now: Mono, set: PortSet, rng: &mut Rng) -> Self {
        let random = u64::from_be_bytes(rng.array());
        let (factor, offset) = ((random >> 32) as u32 | 1, random as u32);
        Self { set, factor, offset, position: 0, sent: 0, next: now }
    }

    /// How long one takes.
    pub(crate) fn duration() -> Duration {
        VOLLEY_INTERVAL * (VOLLEY_PROBES / VOLLEY_BURST)
    }

    /// When the next burst is due; none if all is sent.
    pub(crate) fn timeout(&self) -> Option<Mono> {
        (self.sent < VOLLEY_PROBES && self.position < self.set.ports_len()).then_some(self.next)
    }

    /// The ports of a burst that is due.
    pub(crate) fn burst(&mut self, now: Mono) -> Vec<u16> {
        let mut ports = Vec::new();
        if self.timeout().is_none_or(|due| now < due) {
            return ports;
        }
        self.next = now + VOLLEY_INTERVAL;
        while (ports.len() as u32) < VOLLEY_BURST && self.timeout().is_some() {
            let port = self.set.port(self.position.wrapping_mul(self.factor).wrapping_add(self.offset));
            self.position += 1;
            if port >= PORT_MIN {
                self.sent += 1;
                ports.push(port);
            }
        }
        ports
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn one_distance_is_a_sequence_and_anything_else_is_not() {
        let sequence = |step: i32| std::array::from_fn(|at| (40_000 + step * at as i32) as u16);
        assert_eq!(NatMapping::of_samples(&sequence(1)), NatMapping::Sequence { step: 1 });
        assert_eq!(NatMapping::of_samples(&sequence(-2)), NatMapping::Sequence { step: -2 });
        assert!(matches!(NatMapping::of_samples(&sequence(17)), NatMapping::Random { .. }));
        assert!(matches!(NatMapping::of_samples(&sequence(0)), NatMapping::Random { .. }));
        let mut shifted: [u16; SAMPLES] = sequence(1);
        shifted[5] += 1;
        assert!(matches!(NatMapping::of_samples(&shifted), NatMapping::Random { .. }));
    }

    #[test]
    fn a_block_and_a_port_set_are_seen_and_chance_is_not() {
        let block = [20_480, 20_735, 20_500, 20_611, 20_700, 20_522, 20_633, 20_601];
        assert_eq!(NatMapping::of_samples(&block), NatMapping::Random { set: PortSet::new(0xff00, 0x5000) });
        // Port-set id 0x34 of RFC 7597, appendix A.
        let set = [1_232, 64_723, 2_257, 34_002, 50_387, 12_497, 21_714, 27_856];
        assert!(set.iter().all(|port| (port >> 2) & 0xff == 0x34));
        assert_eq!(NatMapping::of_samples(&set), NatMapping::Random { set: PortSet::new(0x03fc, 0x00d0) });
        let anywhere = [33_001, 60_412, 47_895, 52_330, 39_114, 44_008, 58_777, 35_256];
        assert_eq!(NatMapping::of_samples(&anywhere), NatMapping::Random { set: PortSet::default() });
    }

    #[test]
    fn a_volley_tries_each_port_once_in_its_time_and_ends() {
        let start = Mono(1_000_000_000);
        let mut volley = Volley::new(start, PortSet::default(), &mut Rng::new([4; 32]));
        let (mut tried, mut now) = (Vec::new(), start);
        while let Some(due) = volley.timeout() {
            assert!(volley.burst(due - Duration::from_nanos(1)).is_empty());
            now = due;
            tried.extend(volley.burst(due));
        }
        assert_eq!(tried.len() as u32, VOLLEY_PROBES);
        assert_eq!(tried.iter().collect::<BTreeSet<_>>().len() as u32, VOLLEY_PROBES);
        assert!(tried.iter().all(|&port| port >= PORT_MIN));
        assert!(now.since(start) < Volley::duration());
    }

    #[test]
    fn a_volley_at_few_ports_tries_them_all_and_no_others() {
        let set = PortSet::new(0xff00, 0x5000);
        let mut volley = Volley::new(Mono(0), set, &mut Rng::new([5; 32]));
        let mut tried = BTreeSet::new();
        while let Some(due) = volley.timeout() {
            tried.extend(volley.burst(due));
        }
        assert_eq!(tried, (0x5000..=0x50ff).collect());
    }
}
