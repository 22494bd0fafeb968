//! From which of its own addresses a node sends: from the one at which it is heard, as long as that leads anywhere.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::path::Hop;
use crate::route::{Ecn, Route};
use crate::wire::frame;

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));
/// A packet number beyond those that the peer has used itself.
const FORGED: u64 = 1_000;

/// Two hosts, of which the first was heard at [`OURS`].
fn heard() -> Pair {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    let mut packet = pair.forge(1, 0, FORGED, frame::put_ping);
    let route = Route { local_ip: Some(OURS), ..Route::to(pair.hosts[1].address) };
    pair.hosts[0].node.handle_datagram(pair.now, route, Ecn::NotEct, &mut packet);
    assert_eq!(local_ip(&pair), Some(OURS));
    pair
}

/// The address of ours by which packets to the second host leave; none: the system chooses.
fn local_ip(pair: &Pair) -> Option<IpAddr> {
    let target = pair.hosts[0].node.peers[pair.slot(0, 1) as usize].paths.active()?.hop;
    if let Hop::Direct(route) = target { route.local_ip } else { panic!("there is no relay") }
}

/// As when the cable is pulled out of the other end, or a VPN comes up: the address is still there.
#[test]
fn an_address_of_ours_that_leads_nowhere_is_not_held_on_to() {
    let mut pair = heard();
    pair.cut = true;
    pair.request(0, 1, b"does this reach you?");
    pair.run_for(Duration::from_secs(3));
    assert_eq!(local_ip(&pair), None);
}

#[test]
fn a_changed_route_lets_the_system_choose_anew_and_the_peer_hear_of_it() {
    let mut pair = heard();
    pair.request(0, 1, b"a stream that stays open");
    pair.hosts[0].node.route_changed(pair.now);
    assert_eq!(local_ip(&pair), None);
    let sent = pair.hosts[0].node.stats().datagrams_sent;
    pair.run_for(Duration::from_millis(1));
    assert!(pair.hosts[0].node.stats().datagrams_sent > sent, "a PING");
}
