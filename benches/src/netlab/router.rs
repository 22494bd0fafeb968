//! The network between the hosts of a lab: one core, gateways and hosts below it, and a link on each step.
//!
//! [`Router`] is driven like every machine in this house: packets and the time go in, packets come out, and it never waits. NATs and links
//! are those of `pilot-sim`; what the simulator does in virtual time to datagrams of the core, this does in real time to packets of real
//! programs. UDP and TCP pass the same links; a NAT has a table for each. What a link damages, it gives a right checksum: that the kernel finds
//! damage otherwise is nothing that has to be tried.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::net::IpAddr;
#[cfg(feature = "peers")]
use std::time::Duration;

use pilot_core::rng::Rng;
use pilot_core::time::Mono;
#[cfg(feature = "peers")]
use pilot_sim::link::LinkStats;
use pilot_sim::link::{Fate, Link, LinkConfig};
use pilot_sim::nat::{Nat, NatConfig, NatDrop};

use super::packet::{Packet, Protocol};

/// Packets on the way at once: at 1 Gbit/s and a second of delay, what is more is a lab that does not keep up.
const IN_FLIGHT_MAX: usize = 200_000;

/// One point of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(usize);

/// The one point that every way between two gateways goes by.
pub(crate) const CORE: NodeId = NodeId(0);

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Towards the core.
    Up,
    /// Away from it.
    Down,
}

/// What a gateway does with packets of one family.
pub(crate) enum Policy {
    /// Drops them.
    Drop,
    /// Translates or filters them, UDP and TCP each by a table of its own.
    Translate { udp: Box<Nat>, tcp: Box<Nat> },
}

/// A gateway's policies.
pub(crate) struct Gateway {
    pub(crate) v4: Policy,
    pub(crate) v6: Policy,
}

/// Everything between the hosts.
pub(crate) struct Router {
    nodes: Vec<Node>,
    on_the_way: BinaryHeap<Reverse<OnTheWay>>,
    arrived: VecDeque<(NodeId, Packet)>,
    sequence: u64,
    rng: Rng,
    drops: Drops,
}

/// Packets that a link did not lose, and that came nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drops {
    /// By a gateway's policy or table.
    pub(crate) by_gateway: u64,
    /// Nobody has the address.
    pub(crate) no_host: u64,
    /// The hop limit was used up.
    pub(crate) hop_limit: u64,
    /// The lab had too many on the way.
    pub(crate) overflow: u64,
}

struct Node {
    /// Where it hangs; the core hangs nowhere.
    parent: Option<NodeId>,
    kind: Kind,
    up: Link,
    down: Link,
    relayed: u64,
    longest: usize,
}

enum Kind {
    Core,
    Gateway(Gateway),
    Host(Vec<IpAddr>),
}

/// A packet on a link, and when it is over.
#[derive(Debug)]
struct OnTheWay {
    due: Mono,
    sequence: u64,
    to: NodeId,
    way: Way,
    packet: Packet,
}

impl Policy {
    /// A NAT with these outside addresses, or a firewall with none.
    pub(crate) fn nat(udp: NatConfig, tcp: NatConfig, public: &[IpAddr], rng: &mut Rng) -> Self {
        let mut nat = |config| Box::new(Nat::new(config, public.to_vec(), rng.array()));
        Self::Translate { udp: nat(udp), tcp: nat(tcp) }
    }

    fn table(&mut self, protocol: Protocol) -> Option<&mut Nat> {
        match (self, protocol) {
            (Self::Translate { udp, .. }, Protocol::Udp) => Some(udp),
            (Self::Translate { tcp, .. }, Protocol::Tcp) => Some(tcp),
            (Self::Drop, _) => None,
        }
    }
}

impl Gateway {
    fn policy(&mut self, packet: &Packet) -> &mut Policy {
        if packet.destination().is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    fn is_public(&self, ip: IpAddr) -> bool {
        match if ip.is_ipv4() { &self.v4 } else { &self.v6 } {
            Policy::Translate { udp, .. } => udp.is_public(ip),
            Policy::Drop => false,
        }
    }

    /// Whether the outside reaches hosts behind it by their own addresses.
    fn shows_inside(&self, ip: IpAddr) -> bool {
        match if ip.is_ipv4() { &self.v4 } else { &self.v6 } {
            Policy::Translate { udp, .. } => !udp.translates(),
            Policy::Drop => false,
        }
    }
}

impl Router {
    /// A core with nothing around it.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut router = Self {
            nodes: Vec::new(),
            on_the_way: BinaryHeap::new(),
            arrived: VecDeque::new(),
            sequence: 0,
            rng: Rng::new(seed),
            drops: Drops::default(),
        };
        router.add(None, Kind::Core, &LinkConfig::default());
        router
    }

    /// Generator for the tables of gateways.
    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Hangs a gateway below `parent`.
    pub(crate) fn add_gateway(&mut self, parent: NodeId, gateway: Gateway, link: &LinkConfig) -> NodeId {
        self.add(Some(parent), Kind::Gateway(gateway), link)
    }

    /// Hangs a host below `parent`.
    pub(crate) fn add_host(&mut self, parent: NodeId, addresses: Vec<IpAddr>, link: &LinkConfig) -> NodeId {
        self.add(Some(parent), Kind::Host(addresses), link)
    }

    /// Moves a host elsewhere, with other addresses.
    pub(crate) fn move_host(&mut self, host: NodeId, parent: NodeId, addresses: Vec<IpAddr>) {
        self.nodes[host.0].parent = Some(parent);
        self.nodes[host.0].kind = Kind::Host(addresses);
    }

    /// Changes the link of a node in one way. What is on it already goes on.
    pub(crate) fn change_link(&mut self, node: NodeId, way: Way, change: impl FnOnce(LinkConfig) -> LinkConfig) {
        self.link(node, way).change(change);
    }

    /// How long a packet that comes now waits at the link of a node, and what the link was offered so far.
    #[cfg(feature = "peers")]
    pub(crate) fn load(&mut self, now: Mono, node: NodeId, way: Way) -> (Duration, LinkStats) {
        let link = self.link(node, way);
        (link.wait(now), link.stats())
    }

    /// Lets a gateway forget all mappings, and give other ports from now on.
    pub(crate) fn remap(&mut self, gateway: NodeId) {
        self.for_each_table(gateway, Nat::remap);
    }

    /// Lets a gateway forget all mappings, and have other outside addresses from now on.
    pub(crate) fn rebind(&mut self, gateway: NodeId, public: &[IpAddr]) {
        self.for_each_table(gateway, |nat| nat.rebind(public.to_vec()));
    }

    /// Packets that a host has sent and that may have been relayed ones.
    pub(crate) fn relayed_by(&self, host: NodeId) -> u64 {
        self.nodes[host.0].relayed
    }

    /// Bytes of the longest datagram that has come to a host since this was asked last.
    pub(crate) fn take_longest(&mut self, host: NodeId) -> usize {
        std::mem::take(&mut self.nodes[host.0].longest)
    }

    /// What came nowhere.
    pub(crate) fn drops(&self) -> Drops {
        self.drops
    }

    /// A host has sent a packet.
    pub(crate) fn handle_packet(&mut self, now: Mono, host: NodeId, packet: Packet) {
        self.nodes[host.0].relayed += u64::from(packet.may_be_relayed());
        self.send(now, host, Way::Up, packet);
    }

    /// Moves on what is due.
    pub(crate) fn handle_timeout(&mut self, now: Mono) {
        while self.on_the_way.peek().is_some_and(|Reverse(next)| next.due <= now) {
            let Some(Reverse(next)) = self.on_the_way.pop() else { return };
            // It goes on from when it was due: a late router adds to one hop only.
            self.arrive(next.due, next.to, next.way, next.packet);
        }
    }

    /// When something is due next.
    pub(crate) fn poll_timeout(&self) -> Option<Mono> {
        self.on_the_way.peek().map(|Reverse(next)| next.due)
    }

    /// A packet that has arrived, and the host that gets it.
    pub(crate) fn poll_arrived(&mut self) -> Option<(NodeId, Packet)> {
        self.arrived.pop_front()
    }

    fn add(&mut self, parent: Option<NodeId>, kind: Kind, link: &LinkConfig) -> NodeId {
        let mut new_link = || Link::new(link.clone(), Rng::new(self.rng.array()));
        let (up, down) = (new_link(), new_link());
        self.nodes.push(Node { parent, kind, up, down, relayed: 0, longest: 0 });
        NodeId(self.nodes.len() - 1)
    }

    fn for_each_table(&mut self, gateway: NodeId, change: impl Fn(&mut Nat)) {
        let Kind::Gateway(gateway) = &mut self.nodes[gateway.0].kind else { return };
        for policy in [&mut gateway.v4, &mut gateway.v6] {
            if let Policy::Translate { udp, tcp } = policy {
                change(udp);
                change(tcp);
            }
        }
    }

    fn link(&mut self, node: NodeId, way: Way) -> &mut Link {
        let node = &mut self.nodes[node.0];
        match way {
            Way::Up => &mut node.up,
            Way::Down => &mut node.down,
        }
    }

    /// Puts a packet on the link between a node and its parent.
    fn send(&mut self, now: Mono, node: NodeId, way: Way, mut packet: Packet) {
        let to = match way {
            Way::Up => self.nodes[node.0].parent.expect("only the core has no parent, and nothing goes up from there"),
            Way::Down => node,
        };
        let passage = self.link(node, way).send(now, packet.payload_mut());
        if passage.fate == Fate::Corrupted {
            packet.make_checksum_right();
        }
        let mut copies = passage.arrivals.into_iter().flatten();
        let (Some(first), second) = (copies.next(), copies.next()) else { return };
        if let Some(second) = second {
            self.put_on_the_way(second, to, way, packet.clone());
        }
        self.put_on_the_way(first, to, way, packet);
    }

    fn put_on_the_way(&mut self, due: Mono, to: NodeId, way: Way, packet: Packet) {
        if self.on_the_way.len() >= IN_FLIGHT_MAX {
            self.drops.overflow += 1;
            return;
        }
        self.sequence += 1;
        self.on_the_way.push(Reverse(OnTheWay { due, sequence: self.sequence, to, way, packet }));
    }

    /// A packet has come to a node, from below or from above.
    fn arrive(&mut self, now: Mono, at: NodeId, way: Way, mut packet: Packet) {
        if matches!(self.nodes[at.0].kind, Kind::Host(_)) {
            let longest = &mut self.nodes[at.0].longest;
            *longest = packet.datagram_len().unwrap_or_default().max(*longest);
            self.arrived.push_back((at, packet));
            return;
        }
        if !packet.hop() {
            self.drops.hop_limit += 1;
            return;
        }
        let passed = match (&mut self.nodes[at.0].kind, way) {
            (Kind::Gateway(gateway), Way::Down) => let_in(now, gateway, packet).map(|packet| (packet, Way::Down)),
            (Kind::Gateway(_), Way::Up) => self.pass_up(now, at, packet),
            (Kind::Core | Kind::Host(_), _) => Some((packet, Way::Down)),
        };
        match passed {
            None => self.drops.by_gateway += 1,
            Some((packet, Way::Up)) => self.send(now, at, Way::Up, packet),
            Some((packet, Way::Down)) => match self.child_for(at, packet.destination().ip()) {
                Some(child) => self.send(now, child, Way::Down, packet),
                None => self.drops.no_host += 1,
            },
        }
    }

    /// A packet from inside: to another host inside, back in by an outside address, or out.
    fn pass_up(&mut self, now: Mono, at: NodeId, mut packet: Packet) -> Option<(Packet, Way)> {
        let destination = packet.destination();
        if self.child_for(at, destination.ip()).is_some() {
            return Some((packet, Way::Down));
        }
        let Kind::Gateway(gateway) = &mut self.nodes[at.0].kind else { return None };
        let is_hairpin = gateway.is_public(destination.ip());
        let policy = gateway.policy(&packet);
        if matches!(policy, Policy::Drop) {
            return None;
        }
        let Some(table) = policy.table(packet.protocol()) else { return Some((packet, Way::Up)) };
        if is_hairpin {
            let (source, receiver) = table.hairpin(now, packet.source(), destination).ok()?;
            packet.set_source(source);
            packet.set_destination(receiver);
            return Some((packet, Way::Down));
        }
        let outside = table.outbound(now, packet.source(), destination).ok()?;
        packet.set_source(outside);
        Some((packet, Way::Up))
    }

    /// The node directly below `parent` by which an address is reached.
    fn child_for(&self, parent: NodeId, ip: IpAddr) -> Option<NodeId> {
        let children = self.nodes.iter().enumerate().filter(|(_, node)| node.parent == Some(parent));
        let mut leads = children.filter(|(index, node)| match &node.kind {
            Kind::Core => false,
            Kind::Host(addresses) => addresses.contains(&ip),
            Kind::Gateway(gateway) => {
                gateway.is_public(ip) || (gateway.shows_inside(ip) && self.child_for(NodeId(*index), ip).is_some())
            }
        });
        leads.next().map(|(index, _)| NodeId(index))
    }
}

/// A packet from outside, for one of a gateway's addresses or for a host behind it.
fn let_in(now: Mono, gateway: &mut Gateway, mut packet: Packet) -> Option<Packet> {
    let policy = gateway.policy(&packet);
    if matches!(policy, Policy::Drop) {
        return None;
    }
    let Some(table) = policy.table(packet.protocol()) else { return Some(packet) };
    let inside: Result<_, NatDrop> = table.inbound(now, packet.source(), packet.destination());
    packet.set_destination(inside.ok()?);
    Some(packet)
}

impl fmt::Display for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by_gateway, no_host, hop_limit, overflow } = self;
        write!(
            f,
            "{by_gateway} packets stopped by gateways, {no_host} for nobody, {hop_limit} out of hops, {overflow} too many"
        )
    }
}

impl PartialEq for OnTheWay {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for OnTheWay {}

impl PartialOrd for OnTheWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OnTheWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::packet::tests::udp;
    use super::*;

    const START: Mono = Mono(1_000_000_000_000);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(ms: u64) -> LinkConfig {
        LinkConfig::default().delay(Duration::from_millis(ms))
    }

    fn nat(router: &mut Router, config: NatConfig, public: &str) -> Gateway {
        let v4 = Policy::nat(config.clone(), config, &[ip(public)], router.rng());
        Gateway { v4, v6: Policy::Drop }
    }

    /// Lets everything on the way arrive; tells when the last did.
    fn settle(router: &mut Router) -> Mono {
        let mut last = START;
        while let Some(due) = router.poll_timeout() {
            last = due;
            router.handle_timeout(due);
        }
        last
    }

    #[test]
    fn a_packet_goes_through_the_nat_and_its_answer_comes_back() {
        let mut router = Router::new([1; 32]);
        let server = router.add_host(CORE, vec![ip("203.0.113.10")], &link(5));
        let home = nat(&mut router, NatConfig::port_restricted(), "198.51.100.1");
        let home = router.add_gateway(CORE, home, &link(20));
        let host = router.add_host(home, vec![ip("192.168.1.2")], &link(1));
        router.handle_packet(START, host, udp("192.168.1.2:5000", "203.0.113.10:7", b"question"));
        assert_eq!(settle(&mut router), START + Duration::from_millis(26));
        let (at, seen) = router.poll_arrived().unwrap();
        assert_eq!((at, seen.source()), (server, "198.51.100.1:5000".parse().unwrap()));
        router.handle_packet(START, server, udp("203.0.113.10:7", "198.51.100.1:5000", b"answer"));
        router.handle_packet(START, server, udp("203.0.113.10:8", "198.51.100.1:5000", b"stranger"));
        settle(&mut router);
        let (at, answer) = router.poll_arrived().unwrap();
        assert_eq!((at, answer.destination()), (host, "192.168.1.2:5000".parse().unwrap()));
        assert_eq!(answer.ttl(), 62);
        assert_eq!(router.poll_arrived(), None);
        assert_eq!(router.drops(), Drops { by_gateway: 1, ..Drops::default() });
    }

    #[test]
    fn hosts_of_one_lan_reach_each_other_and_nobody_elses() {
        let mut router = Router::new([1; 32]);
        let mut home = |public| {
            let gateway = nat(&mut router, NatConfig::port_restricted(), public);
            router.add_gateway(CORE, gateway, &link(1))
        };
        let (home, elsewhere) = (home("198.51.100.1"), home("198.51.100.2"));
        let one = router.add_host(home, vec![ip("192.168.1.2")], &link(1));
        let two = router.add_host(home, vec![ip("192.168.1.3")], &link(1));
        let _other = router.add_host(elsewhere, vec![ip("192.168.1.9")], &link(1));
        router.handle_packet(START, one, udp("192.168.1.2:1", "192.168.1.3:1", b""));
        router.handle_packet(START, one, udp("192.168.1.2:1", "192.168.1.9:1", b""));
        settle(&mut router);
        assert_eq!(router.poll_arrived().map(|(at, _)| at), Some(two));
        assert_eq!((router.poll_arrived(), router.drops().no_host), (None, 1));
    }

    #[test]
    fn a_packet_with_little_life_opens_the_own_nat_and_gets_no_further() {
        let mut router = Router::new([1; 32]);
        let server = router.add_host(CORE, vec![ip("203.0.113.10")], &link(1));
        let home = nat(&mut router, NatConfig::port_restricted(), "198.51.100.1");
        let home = router.add_gateway(CORE, home, &link(1));
        let host = router.add_host(home, vec![ip("192.168.1.2")], &link(1));
        let mut opener = udp("192.168.1.2:5000", "203.0.113.10:7", b"");
        while opener.ttl() > 2 {
            opener.hop();
        }
        router.handle_packet(START, host, opener);
        settle(&mut router);
        assert_eq!(router.drops().hop_limit, 1);
        router.handle_packet(START, server, udp("203.0.113.10:7", "198.51.100.1:5000", b""));
        settle(&mut router);
        assert_eq!(router.poll_arrived().map(|(at, _)| at), Some(host));
    }

    #[test]
    fn two_nats_one_behind_the_other_translate_twice() {
        let mut router = Router::new([1; 32]);
        let server = router.add_host(CORE, vec![ip("203.0.113.10")], &link(1));
        let carrier = nat(&mut router, NatConfig::symmetric_random(), "198.51.100.1");
        let carrier = router.add_gateway(CORE, carrier, &link(1));
        let home = nat(&mut router, NatConfig::port_restricted(), "100.64.0.2");
        let home = router.add_gateway(carrier, home, &link(1));
        let host = router.add_host(home, vec![ip("192.168.1.2")], &link(1));
        router.handle_packet(START, host, udp("192.168.1.2:5000", "203.0.113.10:7", b""));
        settle(&mut router);
        let (at, seen) = router.poll_arrived().unwrap();
        assert_eq!((at, seen.source().ip()), (server, ip("198.51.100.1")));
        router.handle_packet(START, server, udp("203.0.113.10:7", &seen.source().to_string(), b""));
        settle(&mut router);
        assert_eq!(router.poll_arrived().unwrap().1.destination(), "192.168.1.2:5000".parse().unwrap());
    }
}
