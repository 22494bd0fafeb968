//! What a node that runs for weeks renews: transport keys, certificates, entropy. Time is moved, not waited for.

use super::*;
use crate::identity::{CERTIFICATE_LIFETIME, CLOCK_SKEW};

const DAY: Duration = Duration::from_secs(86_400);

/// The key that `which` has on this day.
fn transport_key(which: usize, day: u8) -> TransportKey {
    TransportKey::from_secret([100 + 10 * which as u8 + day; 32])
}

/// The keys of `which` on a day: that day's in front, and those of the days before as far as they are honoured.
fn keys_of_day(which: usize, day: u8, oldest: u8, now: Now) -> Keys {
    let transport: Vec<_> = (oldest..=day).rev().map(|day| transport_key(which, day)).collect();
    let identity = Identity::restore(IDENTITIES[which].0, IDENTITIES[which].1).expect("a committed identity");
    let instance = InstanceId([which as u8; 8]);
    let certificate = Certificate::issue(&identity, &transport[0], instance, now.unix.as_secs(), now.unix);
    Keys { identity, transport, certificate }
}

fn certificate_at(pair: &Pair, which: usize, of: usize) -> Certificate {
    pair.hosts[which].node.peer_certificate(&pair.key(of)).expect("known").clone()
}

fn learn_certificate(pair: &mut Pair, which: usize, certificate: Certificate) {
    let info = PeerInfo {
        key: certificate.identity,
        certificate: Some(certificate),
        addresses: Vec::new(),
        homes: Vec::new(),
    };
    pair.hosts[which].node.learn_peer(pair.now, info);
}

/// A stream from 0 to 1 that goes on: its two ends.
fn long_stream(pair: &mut Pair) -> (StreamHandle, StreamHandle) {
    let header = StreamHeader::new(ServicePort::ECHO);
    let peer = pair.key(1);
    let ours = pair.hosts[0].node.open_stream(pair.now, &peer, &header).expect("a stream");
    say(pair, ours, b"first");
    pair.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
    let theirs = pair.incoming(1).expect("opened");
    assert_eq!(pair.read_all(1, theirs), b"first");
    (ours, theirs)
}

fn say(pair: &mut Pair, stream: StreamHandle, words: &'static [u8]) {
    let mut words = Bytes::from_static(words);
    pair.hosts[0].node.write(pair.now, stream, &mut words).expect("room");
    assert!(words.is_empty());
}

fn hears(pair: &mut Pair, stream: StreamHandle, words: &[u8]) {
    let mut heard = Vec::new();
    pair.run_until(Duration::from_secs(5), |pair| {
        heard.extend(pair.read_all(1, stream));
        heard.len() >= words.len()
    });
    assert_eq!(heard, words);
}

fn meetings(pair: &Pair, which: usize) -> usize {
    pair.hosts[which].events.iter().filter(|event| matches!(event, Event::PeerConnected { .. })).count()
}

#[test]
fn sessions_and_streams_go_on_while_both_sides_take_new_keys_every_day() {
    let mut pair = Pair::new();
    for which in 0..2 {
        pair.hosts[which].node.set_keys(keys_of_day(which, 0, 0, START));
    }
    let (ours, theirs) = long_stream(&mut pair);
    // More days than any certificate lives, the last of them with the first key long retired.
    for day in 1..=9 {
        pair.run_for(DAY);
        for which in 0..2 {
            let keys = keys_of_day(which, day, day.saturating_sub(8), pair.now);
            pair.hosts[which].node.set_keys(keys);
        }
        say(&mut pair, ours, b"still here");
        hears(&mut pair, theirs, b"still here");
    }
    for which in 0..2 {
        assert_eq!(meetings(&pair, which), 1, "one tunnel for all of it");
        assert!(!pair.has(which, |event| matches!(event, Event::Reset { .. } | Event::PeerClosed { .. })));
        let certificate = certificate_at(&pair, which, 1 - which);
        assert!(certificate.check_dates(pair.now.unix).is_ok());
    }
    assert!(pair.hosts[0].node.stats().handshakes >= 9, "each day's first packet renews the session");
}

#[test]
fn a_handshake_under_way_while_keys_change_is_completed() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut pair = Pair::new();
        learn_certificate(&mut pair, 0, keys(1, START).certificate);
        pair.request(0, 1, b"hello");
        pair.drain();
        for which in [first, second] {
            let mut renewed = keys_of_day(which, 1, 1, START);
            renewed.transport.extend(keys(which, START).transport);
            pair.hosts[which].node.set_keys(renewed);
        }
        pair.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
        assert_eq!(pair.now.mono.since(START.mono), ONE_WAY * 3, "message 1, message 2, data");
        assert_eq!(certificate_at(&pair, 0, 1).key_id, transport_key(1, 1).id());
    }
}

#[test]
fn an_old_certificate_opens_a_tunnel_at_once_while_its_key_is_honoured_and_is_replaced_by_it() {
    let mut pair = Pair::new();
    let old = keys_of_day(1, 0, 0, START);
    learn_certificate(&mut pair, 0, old.certificate.clone());
    pair.run_for(CERTIFICATE_LIFETIME + CLOCK_SKEW);
    assert!(old.certificate.check_dates(pair.now.unix).is_ok(), "its last second");
    pair.hosts[0].node.set_keys(keys_of_day(0, 8, 8, pair.now));
    pair.hosts[1].node.set_keys(keys_of_day(1, 8, 0, pair.now));
    let before = pair.now.mono;
    pair.request(0, 1, b"hello");
    pair.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
    assert_eq!(pair.now.mono.since(before), ONE_WAY * 3, "message 1, message 2, data");
    assert_eq!(certificate_at(&pair, 0, 1).key_id, transport_key(1, 8).id(), "message 2 brought it");
}

#[test]
fn a_certificate_of_a_retired_key_is_answered_with_the_current_one_and_then_the_tunnel_opens() {
    let mut pair = Pair::new();
    let old = keys_of_day(1, 0, 0, START);
    learn_certificate(&mut pair, 0, old.certificate);
    pair.hosts[1].node.set_keys(keys_of_day(1, 1, 1, START));
    let before = pair.now.mono;
    pair.request(0, 1, b"hello");
    pair.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
    assert_eq!(pair.now.mono.since(before), ONE_WAY * 5, "message 1, CERT, message 1, message 2, data");
    assert_eq!(pair.hosts[1].node.stats().drops(DropReason::UnknownKey), 1);
    assert_eq!(certificate_at(&pair, 0, 1).key_id, transport_key(1, 1).id());
}

#[test]
fn a_certificate_that_has_ended_is_asked_for_anew() {
    let mut pair = Pair::new();
    let old = keys_of_day(1, 0, 0, START);
    learn_certificate(&mut pair, 0, old.certificate);
    pair.run_for(CERTIFICATE_LIFETIME + CLOCK_SKEW + Duration::from_secs(1));
    pair.hosts[0].node.set_keys(keys_of_day(0, 8, 8, pair.now));
    pair.hosts[1].node.set_keys(keys_of_day(1, 8, 0, pair.now));
    let before = pair.now.mono;
    pair.request(0, 1, b"hello");
    pair.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
    assert_eq!(pair.now.mono.since(before), ONE_WAY * 5, "CERT-REQUEST, CERT, message 1, message 2, data");
    assert_eq!(pair.hosts[1].node.stats().drops(DropReason::UnknownKey), 0);
}

#[test]
fn a_node_that_does_not_renew_is_not_let_in_any_more() {
    let mut pair = Pair::new();
    pair.run_for(CERTIFICATE_LIFETIME + CLOCK_SKEW + Duration::from_secs(1));
    pair.hosts[1].node.set_keys(keys_of_day(1, 8, 0, pair.now));
    pair.request(0, 1, b"hello");
    pair.run_for(Duration::from_secs(1));
    assert!(pair.incoming(1).is_none());
    assert!(pair.hosts[1].node.stats().drops(DropReason::CertificateExpired) > 0);
}

#[test]
fn fresh_entropy_changes_the_bytes_that_follow_and_breaks_nothing() {
    let first_datagram = |entropy: Option<&[u8]>| {
        let mut pair = Pair::new();
        learn_certificate(&mut pair, 0, keys(1, START).certificate);
        if let Some(entropy) = entropy {
            pair.hosts[0].node.reseed(entropy);
        }
        pair.request(0, 1, b"hello");
        pair.drain();
        let datagram = pair.wire[0].3.clone();
        pair.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
        datagram
    };
    assert_eq!(first_datagram(None), first_datagram(None), "the simulator repeats a run by its seed");
    assert_ne!(first_datagram(None), first_datagram(Some(&[7; 32])));
}
