//! Each NAT model behaves as it is named: seen from outside, it is what a classifier after RFC 5780 §4 says it is.

use std::net::{IpAddr, SocketAddr};

use pilot_core::time::Mono;
use pilot_sim::nat::{Allocation, Dependence, Hairpin, Nat, NatConfig, NatDrop, Unsolicited};

/// What a client finds out about its NAT with two servers that have two ports each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    mapping: Dependence,
    filtering: Dependence,
    ports: Ports,
    hairpins: bool,
}

/// How the ports of one socket's mappings relate to its own, and to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    Preserved,
    /// Each new mapping this far behind the one before.
    Sequential(u16),
    Random,
}

use Dependence::{Address, AddressAndPort, EndpointIndependent};

const NOW: Mono = Mono(1_000_000_000_000);

/// A client, and the NATs around it, the innermost first.
struct Lab {
    nats: Vec<Nat>,
    next_socket: u16,
}

impl Lab {
    fn new(configs: impl IntoIterator<Item = NatConfig>) -> Self {
        let public = |position: usize| IpAddr::from([198, 51, 100, position as u8 + 1]);
        let nats = configs.into_iter().enumerate();
        let nats = nats.map(|(position, config)| Nat::new(config, vec![public(position)], [position as u8; 32]));
        Self { nats: nats.collect(), next_socket: 40_000 }
    }

    fn socket(&mut self) -> SocketAddr {
        self.next_socket += 7;
        SocketAddr::from(([192, 168, 1, 2], self.next_socket))
    }

    /// A Binding request: the address that the server sees.
    fn ask(&mut self, socket: SocketAddr, server: SocketAddr) -> SocketAddr {
        let seen = self.nats.iter_mut().try_fold(socket, |source, nat| nat.outbound(NOW, source, server));
        seen.expect("the request gets out")
    }

    /// Whether a datagram of a server's gets to the socket.
    fn gets_in(&mut self, server: SocketAddr, mapped: SocketAddr, socket: SocketAddr) -> bool {
        let got = self.nats.iter_mut().rev().try_fold(mapped, |target, nat| nat.inbound(NOW, server, target));
        got == Ok(socket)
    }

    fn classify(&mut self) -> Class {
        let [one, other] = [[203, 0, 113, 10], [203, 0, 113, 11]];
        let at = |ip: [u8; 4], port: u16| SocketAddr::from((ip, port));
        Class {
            mapping: self.mapping(at(one, 3_478), at(one, 3_479), at(other, 3_478)),
            filtering: self.filtering(at(one, 3_478), at(one, 3_479), at(other, 3_479)),
            ports: self.ports(),
            hairpins: self.hairpins(at(one, 3_478)),
        }
    }

    /// RFC 5780 §4.3.
    fn mapping(&mut self, server: SocketAddr, other_port: SocketAddr, other_ip: SocketAddr) -> Dependence {
        let socket = self.socket();
        let [first, by_port, by_ip] = [server, other_port, other_ip].map(|server| self.ask(socket, server));
        match (first == by_port, first == by_ip) {
            (true, true) => EndpointIndependent,
            (true, false) => Address,
            (false, _) => AddressAndPort,
        }
    }

    /// RFC 5780 §4.4.
    fn filtering(&mut self, server: SocketAddr, other_port: SocketAddr, other_ip: SocketAddr) -> Dependence {
        let socket = self.socket();
        let mapped = self.ask(socket, server);
        assert!(self.gets_in(server, mapped, socket), "an answer gets in");
        match (self.gets_in(other_ip, mapped, socket), self.gets_in(other_port, mapped, socket)) {
            (true, _) => EndpointIndependent,
            (false, true) => Address,
            (false, false) => AddressAndPort,
        }
    }

    fn ports(&mut self) -> Ports {
        let seen: Vec<_> = (0..8)
            .map(|server| {
                let socket = self.socket();
                (socket.port(), self.ask(socket, SocketAddr::from(([203, 0, 113, 20 + server], 3_478))).port())
            })
            .collect();
        let delta = seen[1].1.wrapping_sub(seen[0].1);
        if seen.iter().all(|(own, mapped)| own == mapped) {
            Ports::Preserved
        } else if seen.windows(2).all(|pair| pair[1].1.wrapping_sub(pair[0].1) == delta) {
            Ports::Sequential(delta)
        } else {
            Ports::Random
        }
    }

    fn hairpins(&mut self, server: SocketAddr) -> bool {
        let (sender, receiver) = (self.socket(), self.socket());
        let mapped = self.ask(receiver, server);
        self.nats[0].hairpin(NOW, sender, mapped).is_ok_and(|(_, target)| target == receiver)
    }
}

fn class(config: NatConfig) -> Class {
    Lab::new([config]).classify()
}

fn expected(mapping: Dependence, filtering: Dependence, ports: Ports) -> Class {
    Class { mapping, filtering, ports, hairpins: false }
}

#[test]
fn a_full_cone_is_one() {
    assert_eq!(class(NatConfig::full_cone()), expected(EndpointIndependent, EndpointIndependent, Ports::Preserved));
}

#[test]
fn an_address_restricted_cone_is_one() {
    assert_eq!(class(NatConfig::address_restricted()), expected(EndpointIndependent, Address, Ports::Preserved));
}

#[test]
fn a_port_restricted_cone_is_one() {
    assert_eq!(class(NatConfig::port_restricted()), expected(EndpointIndependent, AddressAndPort, Ports::Preserved));
}

#[test]
fn a_cone_with_other_ports_is_still_a_cone() {
    let config = NatConfig::port_restricted().allocation(Allocation::Random);
    assert_eq!(class(config), expected(EndpointIndependent, AddressAndPort, Ports::Random));
}

#[test]
fn a_plain_linux_router_looks_like_a_port_restricted_cone() {
    assert_eq!(class(NatConfig::answering_linux()), class(NatConfig::port_restricted()));
}

#[test]
fn an_address_dependent_mapping_is_one() {
    assert_eq!(class(NatConfig::address_dependent()), expected(Address, AddressAndPort, Ports::Random));
}

#[test]
fn a_symmetric_sequential_nat_is_one_whatever_its_step() {
    for delta in [1, 2, 5] {
        let config = NatConfig::symmetric_sequential().allocation(Allocation::Sequential(delta));
        assert_eq!(class(config), expected(AddressAndPort, AddressAndPort, Ports::Sequential(delta)));
    }
}

#[test]
fn a_symmetric_random_nat_is_one() {
    assert_eq!(class(NatConfig::symmetric_random()), expected(AddressAndPort, AddressAndPort, Ports::Random));
}

#[test]
fn the_hardest_of_two_nats_decides() {
    let seen = |inner, outer| Lab::new([inner, outer]).classify();
    let symmetric = expected(AddressAndPort, AddressAndPort, Ports::Random);
    assert_eq!(seen(NatConfig::port_restricted(), NatConfig::symmetric_random()), symmetric);
    assert_eq!(seen(NatConfig::symmetric_random(), NatConfig::full_cone()).mapping, AddressAndPort);
    assert_eq!(seen(NatConfig::full_cone(), NatConfig::port_restricted()), class(NatConfig::port_restricted()));
}

#[test]
fn hairpinning_is_seen_where_it_is() {
    for (hairpin, expected) in [(Hairpin::Off, false), (Hairpin::ExternalSource, true), (Hairpin::InternalSource, true)]
    {
        assert_eq!(class(NatConfig::full_cone().hairpin(hairpin)).hairpins, expected, "{hairpin:?}");
    }
}

#[test]
fn a_port_set_is_kept_to() {
    let mut lab = Lab::new([NatConfig::symmetric_random().port_set(6, 8, 0x34)]);
    for _ in 0..252 {
        let socket = lab.socket();
        let port = lab.ask(socket, SocketAddr::from(([203, 0, 113, 10], 3_478))).port();
        assert!(port >= 1_024 && (port >> 2) & 0xff == 0x34, "{port}");
    }
    let socket = lab.socket();
    let refused = lab.nats[0].outbound(NOW, socket, SocketAddr::from(([203, 0, 113, 10], 3_478)));
    assert_eq!(refused, Err(NatDrop::NoPort), "252 ports are all that there are");
}

/// What makes two easy NATs fail: whoever is heard before it has opened loses its port towards that peer.
#[test]
fn a_router_that_answers_is_poisoned_by_an_early_probe_and_one_that_drops_is_not() {
    for (unsolicited, keeps_port) in [(Unsolicited::Answer, false), (Unsolicited::Drop, true)] {
        let mut lab = Lab::new([NatConfig::answering_linux().unsolicited(unsolicited)]);
        let (socket, peer) = (lab.socket(), SocketAddr::from(([198, 51, 100, 77], 4_000)));
        let mapped = lab.ask(socket, SocketAddr::from(([203, 0, 113, 10], 3_478)));
        assert!(!lab.gets_in(peer, mapped, socket));
        assert_eq!(lab.ask(socket, peer) == mapped, keeps_port);
    }
}
