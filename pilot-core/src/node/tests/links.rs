//! TLS links to a backbone node where UDP is blocked (spec/tcp.md §3).

use super::*;
use crate::limits::REPROBE_MAX;
use crate::mapping::{MappingGap, NatMapping};
use crate::node::Obstacle;
use crate::route::SocketId;
use crate::wire::INNER;

/// A link between an agent and a backbone node: it loses nothing, and has addresses of its own.
pub(super) struct Link {
    agent: usize,
    backbone: usize,
    /// At the agent, as the node sees it; and at the node.
    ends: [SocketAddr; 2],
}

impl Pair {
    /// Where a datagram comes from that a host sends by this route.
    pub(super) fn source(&self, which: usize, route: &Route) -> SocketAddr {
        let link = self.links.iter().find(|link| route.socket.is_link() && link.ends.contains(&route.remote));
        match link {
            Some(link) => link.ends[usize::from(link.agent != which)],
            None => self.hosts[which].address,
        }
    }

    /// The host at an address.
    pub(super) fn place(&self, address: SocketAddr) -> Option<usize> {
        let of_link = |link: &Link| {
            let end = link.ends.iter().position(|&end| end == address)?;
            Some([link.agent, link.backbone][end])
        };
        self.hosts.iter().position(|host| host.address == address).or_else(|| self.links.iter().find_map(of_link))
    }

    pub(super) fn route_from(&self, from: SocketAddr) -> Route {
        let is_link = self.links.iter().any(|link| link.ends.contains(&from));
        Route { socket: if is_link { SocketId::FIRST_LINK } else { SocketId::default() }, ..Route::to(from) }
    }

    pub(super) fn is_udp_blocked(&self, from: SocketAddr, to: SocketAddr) -> bool {
        !self.route_from(from).socket.is_link()
            && [from, to].iter().any(|&end| self.place(end).is_some_and(|which| self.udp_blocked.contains(&which)))
    }

    fn link(&mut self, agent: usize, backbone: usize, port: u16) {
        let ends = [([198, 51, 100, 1], port).into(), ([192, 0, 2, 1 + backbone as u8], 443).into()];
        self.links.push(Link { agent, backbone, ends });
        let (key, route) = (self.key(backbone), self.route_from(ends[1]));
        self.hosts[agent].node.link_up(self.now, &key, route);
    }

    fn unlink(&mut self) {
        for link in std::mem::take(&mut self.links) {
            for which in [link.agent, link.backbone] {
                self.hosts[which].node.link_down(self.now, SocketId::FIRST_LINK);
            }
        }
    }

    fn is_by_link(&self, which: usize) -> bool {
        matches!(self.hosts[which].node.home_path(), Some(PathKind::Tls(_)))
    }

    fn is_by_udp(&self, which: usize) -> bool {
        matches!(self.hosts[which].node.home_path(), Some(PathKind::Direct(_)))
    }

    fn arrives(&mut self, from: usize, to: usize, limit: Duration) {
        self.hosts[to].events.clear();
        self.request(from, to, b"are you there?");
        self.run_until(limit, |pair| pair.incoming(to).is_some());
        let stream = self.incoming(to).expect("opened");
        assert_eq!(self.read_all(to, stream), b"are you there?");
    }
}

/// Agent 0 has no UDP, and a link to the home node of both.
fn behind_a_firewall() -> Pair {
    let mut pair = Pair::strangers();
    pair.add_backbone();
    pair.udp_blocked.insert(0);
    pair.at_home(0, 2);
    pair.at_home(1, 2);
    pair.introduce_by(0, 1, &[2]);
    pair.introduce_by(1, 0, &[2]);
    pair.run_for(Duration::from_millis(400));
    assert!(!pair.hosts[0].node.is_home_connected());
    pair.link(0, 2, 50_000);
    pair.run_until(ONE_WAY * 5, |pair| pair.is_by_link(0));
    pair
}

#[test]
fn where_udp_is_blocked_a_link_carries_the_tunnel_and_its_circuits() {
    let mut pair = behind_a_firewall();
    assert_eq!(pair.hosts[0].node.observed_address(), None, "an address of TCP is no candidate");
    pair.arrives(0, 1, ONE_WAY * 12);
    pair.arrives(1, 0, ONE_WAY * 12);
    pair.run_for(Duration::from_secs(300));
    assert!(pair.is_by_link(0), "and the keepalive keeps it");
}

#[test]
fn trap_22_where_udp_is_blocked_a_dial_wastes_no_time_on_it() {
    let mut pair = behind_a_firewall();
    // A ticket names addresses of the peer, too: they lead nowhere, and nobody waits for them.
    let address = pair.hosts[1].address;
    let info = PeerInfo { key: pair.key(1), certificate: None, addresses: vec![address], homes: Vec::new() };
    pair.hosts[0].node.learn_peer(pair.now, info);
    pair.arrives(0, 1, ONE_WAY * 12);
}

#[test]
fn packets_on_a_link_are_never_longer_than_inner() {
    let mut pair = behind_a_firewall();
    pair.log.clear();
    pair.arrives(0, 1, ONE_WAY * 12);
    pair.run_for(Duration::from_secs(60));
    let longest = pair.log.iter().filter(|(which, _)| *which == 0).map(|(_, datagram)| datagram.len()).max();
    assert!(longest.is_some_and(|len| len <= INNER + 8), "{longest:?}");
}

#[test]
fn udp_is_taken_when_it_works_and_the_link_may_go() {
    let mut pair = behind_a_firewall();
    pair.run_for(Duration::from_secs(90));
    pair.udp_blocked.clear();
    pair.run_until(REPROBE_MAX + Duration::from_secs(2), |pair| pair.is_by_udp(0));
    pair.run_for(Duration::from_secs(1));
    pair.hosts[0].events.clear();
    pair.unlink();
    assert!(pair.is_by_udp(0));
    assert!(!pair.has(0, |event| matches!(event, Event::HomeLost)));
    assert_eq!(pair.hosts[0].node.observed_address(), Some(pair.hosts[0].address));
    pair.arrives(1, 0, ONE_WAY * 12);
}

#[test]
fn when_udp_dies_beside_a_link_three_probe_timeouts_bring_the_link_back() {
    let mut pair = behind_a_firewall();
    pair.udp_blocked.clear();
    pair.run_until(REPROBE_MAX, |pair| pair.is_by_udp(0));
    pair.run_for(Duration::from_secs(1));
    pair.udp_blocked.insert(0);
    pair.hosts[0].events.clear();
    pair.request(0, 1, b"is anybody there?");
    assert!(pair.hosts[0].node.observed_address().is_some());
    pair.run_until(Duration::from_secs(2), |pair| pair.is_by_link(0));
    assert_eq!(pair.hosts[0].node.observed_address(), None, "nobody sees it by UDP any more");
    pair.run_for(Duration::from_secs(1));
    assert!(!pair.has(0, |event| matches!(event, Event::HomeLost)));
    pair.arrives(1, 0, Duration::from_secs(1));
}

/// It may be another network by now.
#[test]
fn what_the_home_node_saw_by_udp_holds_while_udp_reaches_it() {
    let mut pair = behind_a_firewall();
    let own = pair.hosts[0].address;
    pair.hosts[0].node.set_local_addresses(pair.now, &[own]);
    let known = |pair: &Pair| {
        let node = &pair.hosts[0].node;
        (node.current_observed_address(), node.nat_mapping(), node.nat_mapping_gap())
    };
    let (by_udp, nothing) = (
        (Some(own), NatMapping::Independent { set: None }, None),
        (None, NatMapping::Unknown, Some(MappingGap::NotAsked)),
    );
    pair.udp_blocked.clear();
    pair.run_until(REPROBE_MAX, |pair| pair.is_by_udp(0));
    pair.run_for(Duration::from_secs(1));
    assert_eq!(known(&pair), by_udp);

    pair.udp_blocked.insert(0);
    pair.request(0, 1, b"is anybody there?");
    pair.run_until(Duration::from_secs(2), |pair| pair.is_by_link(0));
    assert_eq!(known(&pair), nothing, "by the link");
    pair.unlink();
    pair.run_for(Duration::from_secs(30));
    assert_eq!(known(&pair), nothing, "without a way to the home node");
    pair.udp_blocked.clear();
    pair.run_until(REPROBE_MAX, |pair| pair.is_by_udp(0));
    pair.run_for(Duration::from_secs(1));
    assert_eq!(known(&pair), by_udp, "the same as before, as it turns out");
}

#[test]
fn a_link_that_breaks_is_replaced_by_the_next_and_the_tunnel_goes_on() {
    let mut pair = behind_a_firewall();
    pair.arrives(0, 1, ONE_WAY * 12);
    pair.hosts[0].events.clear();
    pair.unlink();
    pair.run_for(Duration::from_secs(30));
    assert!(pair.has(0, |event| matches!(event, Event::HomeLost)));
    assert_eq!(pair.hosts[0].node.home_path(), None);
    pair.link(0, 2, 50_001);
    pair.run_until(ONE_WAY * 5, |pair| pair.is_by_link(0));
    assert!(pair.has(0, |event| matches!(event, Event::HomeConnected)));
    assert!(!pair.has(0, |event| matches!(event, Event::PeerConnected { .. })), "the tunnel is the one that was");
    pair.arrives(0, 1, ONE_WAY * 12);
}

#[test]
fn attack_5_a_link_inherits_nothing_from_the_one_that_had_its_name() {
    let mut pair = behind_a_firewall();
    pair.run_for(ONE_WAY * 4);
    let client = pair.instance(0);
    let route = pair.route_from(pair.links[0].ends[0]);
    assert!(pair.hosts[2].node.has_validated(pair.now.mono, &client, &route));
    assert!(pair.hosts[2].node.is_link_in_use(SocketId::FIRST_LINK));
    let stranger = Route { remote: ([203, 0, 113, 9], 1).into(), ..route };
    assert!(!pair.hosts[2].node.has_validated(pair.now.mono, &client, &stranger));
    assert!(!pair.hosts[2].node.has_validated(pair.now.mono, &client, &Route::to(route.remote)), "nor has UDP");
    pair.unlink();
    assert!(!pair.hosts[2].node.has_validated(pair.now.mono, &client, &route));
    assert!(!pair.hosts[2].node.is_link_in_use(SocketId::FIRST_LINK));
}

#[test]
fn without_an_address_the_home_node_is_reached_as_soon_as_there_is_a_link() {
    let mut pair = Pair::strangers();
    pair.add_backbone();
    pair.udp_blocked.insert(0);
    let info = PeerInfo { key: pair.key(2), certificate: None, addresses: Vec::new(), homes: Vec::new() };
    pair.hosts[0].node.set_home(pair.now, Some(info));
    pair.run_for(Duration::from_secs(60));
    pair.link(0, 2, 50_000);
    pair.run_until(ONE_WAY * 5, |pair| pair.is_by_link(0));
}

#[test]
fn that_udp_is_blocked_on_one_side_is_known_at_both() {
    let mut pair = behind_a_firewall();
    let (blocked, other) = (pair.key(0), pair.key(1));
    let address = pair.hosts[0].address;
    pair.hosts[0].node.set_local_addresses(pair.now, &[address]);
    pair.arrives(0, 1, ONE_WAY * 12);
    pair.run_for(Duration::from_secs(10));
    assert_eq!(pair.hosts[0].node.obstacle(&other), Some(Obstacle::NoUdpHere));
    assert_eq!(pair.hosts[1].node.obstacle(&blocked), Some(Obstacle::NoUdpThere));
}
