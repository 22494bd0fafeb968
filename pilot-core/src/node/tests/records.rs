//! What a record may make us do that names, as its agent or as the agent's homes, whomever it likes.

use std::net::IpAddr;

use super::hostile::{AMPLIFICATION_MAX, PROBE_LEN_MAX, VICTIM};
use super::*;
use crate::limits::{ADDRESSES_MAX, CONNECT_TIMEOUT, HEARSAY_MESSAGES_MAX, HOMES_MAX};
use crate::org::whereabouts::Whereabouts;
use crate::wire;

/// A record may name any key as its home, with any addresses.
#[test]
fn a_record_changes_nothing_about_other_nodes() {
    let mut pair = connected();
    let own_home = pair.key(1);
    let info = PeerInfo { key: own_home, certificate: None, addresses: Vec::new(), homes: Vec::new() };
    pair.hosts[0].node.set_home(pair.now, Some(info));
    let lies = |port: u16| SocketAddr::new(VICTIM.ip(), port);
    let agent = IdentityKey([0xAA; 32]);
    let known = Home { key: own_home, addresses: vec![lies(1)] };
    let info = PeerInfo { key: agent, certificate: None, addresses: Vec::new(), homes: vec![known] };
    pair.hosts[0].node.learn_peer(pair.now, info);
    let homes = [own_home, agent].map(|key| Home { key, addresses: (1..20).map(lies).collect() });
    for home in homes {
        pair.hosts[0].node.learn_backbone(pair.now.mono, home, 100);
    }
    let slot = |pair: &Pair, key| pair.hosts[0].node.index_of(key).expect("known") as usize;
    let peers = &pair.hosts[0].node.peers;
    let addresses = |key| peers[slot(&pair, key)].all_addresses().collect::<Vec<_>>();
    assert_eq!(addresses(&own_home), [pair.hosts[1].address], "the way home stays the only one");
    assert!(!peers[slot(&pair, &agent)].is_backbone);
    assert_eq!(addresses(&agent), []);
}

/// Whether a record named the node before it became our home, or after: what is dialled there, and asked what our NAT is like, we have chosen.
#[test]
fn a_record_adds_no_address_to_our_home_node() {
    let key = IdentityKey([0xBB; 32]);
    for ours in [vec![], vec!["192.0.2.7:4000".parse().expect("an address")]] {
        let mut node = host(0, 1, START, Config::new(Role::Agent)).node;
        let lie = || Home { key, addresses: vec![VICTIM] };
        let slot = node.learn_backbone(START.mono, lie(), 100).expect("room") as usize;
        node.set_home(START, Some(PeerInfo { key, certificate: None, addresses: ours.clone(), homes: Vec::new() }));
        let addresses = |node: &Node| node.peers[slot].all_addresses().collect::<Vec<_>>();
        assert_eq!(addresses(&node), ours);
        node.learn_backbone(START.mono, lie(), 100);
        assert_eq!(addresses(&node), ours);
    }
}

impl Pair {
    /// Handshake messages that went to ports of the victim.
    fn handshakes_astray(&self) -> usize {
        self.astray.iter().filter(|(to, datagram)| to.ip() == VICTIM.ip() && datagram.len() > PROBE_LEN_MAX).count()
    }

    /// Lets host 0 hear of host 1 by a record of its own, with these addresses.
    fn tell_by_record(&mut self, addresses: Vec<SocketAddr>, certificate: Option<Certificate>) {
        let info = PeerInfo { key: self.key(1), certificate, addresses, homes: Vec::new() };
        self.hosts[0].node.learn_recorded_peer(self.now, info);
    }
}

/// As many as a record holds.
fn ports_of_the_victim() -> Vec<SocketAddr> {
    (1..=ADDRESSES_MAX as u16).map(|port| SocketAddr::new(VICTIM.ip(), port)).collect()
}

/// What host 1 signs about itself, for others to find it by.
fn record_of(addresses: &[SocketAddr], homes: &[Home]) -> Vec<u8> {
    let Keys { identity, certificate, .. } = keys(1, START);
    let whereabouts = Whereabouts {
        member: identity.key(),
        certificate: certificate.encode().to_vec(),
        addresses: addresses.to_vec(),
        homes: homes.to_vec(),
        issued: START.unix,
        expires: START.unix + Duration::from_secs(3_600),
    };
    whereabouts.sign(&identity).expect("it is the member")
}

/// The record is told again and again, and each time the peer is called.
#[test]
fn what_only_a_record_names_is_sent_three_times_its_bytes_at_most() {
    for lies in 1..=ADDRESSES_MAX {
        for homes in 0..=HOMES_MAX {
            let addresses = ports_of_the_victim()[..lies].to_vec();
            let home =
                |number: usize| Home { key: IdentityKey([0xC0 + number as u8; 32]), addresses: addresses.clone() };
            let homes: Vec<_> = (0..homes).map(home).collect();
            let record_len = record_of(&addresses, &homes).len();
            let mut pair = Pair::strangers();
            for told in 1..=3 {
                let (key, certificate) = (pair.key(1), Some(keys(1, START).certificate));
                let info = PeerInfo { key, certificate, addresses: addresses.clone(), homes: homes.clone() };
                pair.hosts[0].node.learn_recorded_peer(pair.now, info);
                pair.hosts[0].node.connect(pair.now, &key).expect("it is known");
                pair.run_for(CONNECT_TIMEOUT + Duration::from_secs(1));
                assert!(pair.has(0, |event| matches!(event, Event::ConnectFailed { .. })));
                let (sent, received) = (pair.astray_bytes(), told * record_len);
                assert!(sent <= AMPLIFICATION_MAX * received, "{sent} bytes to the victim for {received}");
            }
            assert!(pair.astray.len() >= lies, "each was tried");
            assert_eq!(pair.handshakes_astray(), 0);
        }
    }
}

/// Whoever is at the address that a record lies about: it answers knocks, and is not who is called.
#[test]
fn a_node_that_a_record_names_falsely_gets_few_handshakes() {
    let mut pair = Pair::strangers();
    pair.hosts.push(host(2, 3, START, Config::new(Role::Agent)));
    pair.tell_by_record(vec![pair.hosts[2].address], Some(keys(1, START).certificate));
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("it is known");
    pair.run_for(CONNECT_TIMEOUT - Duration::from_secs(1));
    let messages = pair.log.iter().filter(|(which, datagram)| *which == 0 && datagram.len() == wire::INNER).count();
    assert_eq!(messages, HEARSAY_MESSAGES_MAX);
}

/// Who names a victim sees what is sent to an address of its own, and nothing of what the victim is sent.
#[test]
fn nobody_answers_in_a_victims_place() {
    let mut pair = Pair::strangers();
    let accomplice = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 10)), 10);
    pair.tell_by_record(vec![accomplice, VICTIM], Some(keys(1, START).certificate));
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("it is known");
    pair.drain();
    let seen = pair.astray.iter().find(|(to, _)| *to == accomplice).expect("a knock").1.clone();
    let answer = wire::Unknown::answer(&seen).expect("it is one").encode();
    pair.deliver(0, VICTIM, &answer);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.handshakes_astray(), 0);
    let is_at_accomplice =
        |pair: &Pair| pair.astray.iter().any(|(to, it)| *to == accomplice && it.len() == wire::INNER);
    assert!(!is_at_accomplice(&pair));
    pair.deliver(0, accomplice, &answer);
    pair.drain();
    assert!(is_at_accomplice(&pair), "it has answered for itself");
}

/// Whichever of the addresses it is, and whether the record came with a certificate: what answers is asked on.
#[test]
fn a_peer_at_any_address_of_its_record_is_met_at_once() {
    for place in 0..ADDRESSES_MAX {
        for certificate in [None, Some(keys(1, START).certificate)] {
            let mut pair = Pair::strangers();
            let mut addresses = ports_of_the_victim();
            addresses[place] = pair.hosts[1].address;
            pair.tell_by_record(addresses, certificate);
            pair.request(0, 1, b"are you there");
            pair.run_until(ONE_WAY * 10, |pair| pair.incoming(1).is_some());
            assert!(pair.handshakes_astray() <= HEARSAY_MESSAGES_MAX);
        }
    }
}

/// A line that loses what is sent at first.
#[test]
fn a_peer_that_only_a_record_names_is_asked_again() {
    let mut pair = Pair::strangers();
    pair.tell_by_record(vec![pair.hosts[1].address, VICTIM], None);
    pair.cut = true;
    pair.request(0, 1, b"are you there");
    pair.run_for(Duration::from_secs(1));
    pair.cut = false;
    pair.run_until(Duration::from_secs(2), |pair| pair.incoming(1).is_some());
}

#[test]
fn a_record_of_a_peer_names_no_address_that_is_no_host() {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let mut pair = Pair::strangers();
    let home = IdentityKey([0xBB; 32]);
    let info = PeerInfo { key: home, certificate: None, addresses: vec![VICTIM], homes: Vec::new() };
    pair.hosts[0].node.set_home(pair.now, Some(info));
    let nowhere = ["127.0.0.1:1", "[::ffff:127.0.0.1]:1", "224.0.0.1:1", "255.255.255.255:1", "0.0.0.0:1", "[::1]:1"];
    pair.tell_by_record(nowhere.into_iter().map(parse).collect(), None);
    let slot = pair.slot(0, 1);
    assert_eq!(pair.hosts[0].node.peers[slot as usize].all_addresses().count(), 0);
}

/// A node at `home`, and what it takes from a record that names these addresses of another backbone node.
fn taken_from_a_record(home: &str, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut node = host(0, 1, START, Config::new(Role::Agent)).node;
    let home = vec![home.parse().expect("an address")];
    let info = PeerInfo { key: IdentityKey([0xBB; 32]), certificate: None, addresses: home, homes: Vec::new() };
    node.set_home(START, Some(info));
    let slot = node.learn_backbone(START.mono, Home { key: IdentityKey([0xCC; 32]), addresses }, 100).expect("room");
    node.peers[slot as usize].hearsay.addresses().collect()
}

/// A handshake is 1,152 bytes: a record does not choose many places for it, and none that is no node's.
#[test]
fn few_addresses_of_a_record_are_dialled_and_none_that_is_no_host() {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let nowhere = [
        "127.0.0.5:1",
        "[::ffff:127.0.0.5]:1",
        "[::1]:1",
        "224.0.0.1:1",
        "[::ffff:224.0.0.1]:1",
        "255.255.255.255:1",
        "0.0.0.0:1",
        "203.0.113.1:0",
    ];
    assert_eq!(taken_from_a_record("192.0.2.7:4000", nowhere.map(parse).to_vec()), []);
    let many: Vec<_> = (1..=8).map(|host| SocketAddr::from(([203, 0, 113, host], 1))).collect();
    assert_eq!(taken_from_a_record("192.0.2.7:4000", many.clone()), many[..4]);
    let neighbour = parse("127.0.0.1:4001");
    assert_eq!(taken_from_a_record("127.0.0.1:4000", vec![neighbour]), [neighbour], "beside our own home");
}
