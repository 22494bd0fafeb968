//! Floods of first messages, and the cookies against them.

use super::*;
use crate::limits::{
    COOKIE_LIFETIME, UNDER_LOAD_COOKIES_PER_GROUP, UNDER_LOAD_INITS_PER_PREFIX, UNDER_LOAD_INITS_PER_SECOND,
};
use crate::wire::handshake::Cookie;
use crate::wire::{self, PacketKind};

/// Where the flood seems to come from, and another place at which nobody is.
const ELSEWHERE: [&str; 2] = ["198.51.100.9:9", "198.51.100.10:9"];

fn elsewhere(which: usize) -> SocketAddr {
    ELSEWHERE[which].parse().expect("an address")
}

/// Two hosts of which the first knows the second, certificate and all, and its message 1.
fn dialling() -> (Pair, Vec<u8>) {
    let mut pair = Pair::strangers();
    pair.introduce(0, 1);
    let certificate = Some(keys(1, START).certificate);
    let info = PeerInfo { key: pair.key(1), certificate, addresses: Vec::new(), homes: Vec::new() };
    pair.hosts[0].node.learn_peer(START, info);
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.drain();
    let init = pair.wire[0].3.clone();
    (pair, init)
}

/// Sends a first message of somebody else's until the node is under load.
fn flood(pair: &mut Pair) {
    let mut stranger = host(2, 3, pair.now, Config::new(Role::Agent));
    let certificate = Certificate::issue(
        &Identity::restore(IDENTITIES[1].0, IDENTITIES[1].1).expect("a committed identity"),
        &TransportKey::from_secret([11; 32]),
        InstanceId([1; 8]),
        1,
        START.unix,
    );
    let info = PeerInfo {
        key: pair.key(1),
        certificate: Some(certificate),
        addresses: vec![pair.hosts[1].address],
        homes: Vec::new(),
    };
    let key = info.key;
    stranger.node.learn_peer(pair.now, info);
    stranger.node.connect(pair.now, &key).expect("known");
    let mut init = Vec::new();
    stranger.node.poll_transmit(pair.now, &mut init).expect("message 1");
    for _ in 0..UNDER_LOAD_INITS_PER_SECOND {
        pair.deliver(1, elsewhere(0), &init);
    }
    pair.drain();
    pair.astray.clear();
}

fn drops(pair: &Pair, reason: DropReason) -> u64 {
    pair.hosts[1].node.stats().drops(reason)
}

fn is_connected(event: &Event) -> bool {
    matches!(event, Event::PeerConnected { .. })
}

/// Lets the cookie come and takes the message that is sent with it.
fn message_with_cookie(pair: &mut Pair) -> Vec<u8> {
    pair.run_until(ONE_WAY * 3, |pair| {
        pair.wire.iter().any(|packet| packet.1 == 1 && packet.2 == pair.hosts[0].address && packet.0 > pair.now.mono)
            && drops(pair, DropReason::UnderLoad) > 0
    });
    let place = pair.wire.iter().position(|packet| packet.1 == 1 && wire::peek(&packet.3) == Ok(PacketKind::Init));
    pair.wire.remove(place.expect("message 1 again")).3
}

#[test]
fn under_load_a_first_message_without_a_cookie_costs_a_cookie_only() {
    let (mut pair, init) = dialling();
    flood(&mut pair);
    pair.wire.clear();
    let caller = pair.hosts[0].address;
    let indices = pair.hosts[1].node.by_index.len();
    pair.deliver(1, caller, &init);
    pair.drain();
    assert_eq!(drops(&pair, DropReason::UnderLoad), 1);
    let [(_, to, _, answer)] = &pair.wire[..] else { panic!("{} answers", pair.wire.len()) };
    assert_eq!((*to, wire::peek(answer), answer.len()), (0, Ok(PacketKind::Cookie), Cookie::LEN));
    assert!(answer.len() <= init.len());
    let key = pair.key(0);
    assert!(pair.hosts[1].node.index_of(&key).is_err(), "nobody was looked at");
    assert_eq!(pair.hosts[1].node.by_index.len(), indices);
}

#[test]
fn under_load_an_initiator_comes_again_with_its_cookie() {
    let (mut pair, _) = dialling();
    flood(&mut pair);
    let before = pair.now.mono;
    pair.run_until(Duration::from_secs(1), |pair| pair.has(0, is_connected));
    assert_eq!(drops(&pair, DropReason::UnderLoad), 1);
    assert_eq!(pair.now.mono.since(before), ONE_WAY * 4, "two round trips");
}

#[test]
fn a_cookie_serves_one_source_and_for_a_while() {
    let (mut pair, _) = dialling();
    flood(&mut pair);
    let init = message_with_cookie(&mut pair);
    let (caller, before) = (pair.hosts[0].address, drops(&pair, DropReason::UnderLoad));
    pair.deliver(1, caller, &init);
    assert_eq!(drops(&pair, DropReason::UnderLoad), before);
    pair.deliver(1, elsewhere(1), &init);
    assert_eq!(drops(&pair, DropReason::UnderLoad), before + 1);
    pair.cut = true;
    pair.run_for(COOKIE_LIFETIME);
    flood(&mut pair);
    pair.deliver(1, caller, &init);
    assert_eq!(drops(&pair, DropReason::UnderLoad), before + 2);
}

#[test]
fn one_prefix_is_served_so_often_under_load() {
    let (mut pair, _) = dialling();
    flood(&mut pair);
    let init = message_with_cookie(&mut pair);
    let (caller, before) = (pair.hosts[0].address, drops(&pair, DropReason::RateLimited));
    (0..UNDER_LOAD_INITS_PER_PREFIX).for_each(|_| pair.deliver(1, caller, &init));
    assert_eq!(drops(&pair, DropReason::RateLimited), before);
    pair.deliver(1, caller, &init);
    assert_eq!(drops(&pair, DropReason::RateLimited), before + 1);
}

#[test]
fn a_flood_from_one_place_gets_few_cookies_and_takes_none_from_another() {
    let (mut pair, init) = dialling();
    flood(&mut pair);
    pair.wire.clear();
    let asked = 10 * u64::from(UNDER_LOAD_COOKIES_PER_GROUP);
    (0..asked).for_each(|_| pair.deliver(1, elsewhere(1), &init));
    pair.drain();
    assert_eq!(pair.astray.len(), usize::from(UNDER_LOAD_COOKIES_PER_GROUP));
    assert_eq!(drops(&pair, DropReason::RateLimited), asked - u64::from(UNDER_LOAD_COOKIES_PER_GROUP));
    pair.deliver(1, pair.hosts[0].address, &init);
    pair.run_until(Duration::from_secs(1), |pair| pair.has(0, is_connected));
}

/// It was not made for this attempt, or by somebody who has not seen it.
#[test]
fn a_forged_cookie_moves_nobody() {
    let (mut pair, init) = dialling();
    pair.wire.clear();
    let responder = pair.hosts[1].address;
    let view = wire::handshake::Init::decode(&init).expect("message 1");
    let forged = Cookie::seal(&view, &pair.key(0), [1; 12], [2; 16]).encode();
    pair.deliver(0, responder, &forged);
    let seen = Cookie::seal(&view, &pair.key(1), [1; 12], [2; 16]).encode();
    pair.deliver(0, elsewhere(0), &seen);
    pair.drain();
    assert!(pair.wire.is_empty() && pair.astray.is_empty());
    for _ in 0..3 {
        pair.deliver(0, responder, &seen);
    }
    pair.drain();
    assert_eq!(pair.wire.len(), 1, "cookies make nobody a source of packets");
}
