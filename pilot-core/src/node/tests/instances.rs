//! One identity at several homes: each has its own tunnel, and who looks for it finds the freshest first.

use super::*;
use crate::identity::{CERTIFICATE_LIFETIME, CLOCK_SKEW};
use crate::limits::{CONNECT_TIMEOUT, INSTANCES_MAX, NEXT_INSTANCE_AFTER, REJECT_AFTER_TIME, REKEY_AFTER_TIME};

/// Keys of the second identity at one of its homes.
fn keys_at(home: u8, now: Now) -> Keys {
    let identity = Identity::restore(IDENTITIES[1].0, IDENTITIES[1].1).expect("a committed identity");
    let transport = TransportKey::from_secret([50 + home; 32]);
    let certificate = Certificate::issue(&identity, &transport, InstanceId([home; 8]), 1, now.unix);
    Keys { identity, transport: vec![transport], certificate }
}

impl Pair {
    /// One host, and two homes of one other identity, as hosts 1 and 2. Nobody knows anybody.
    fn with_two_homes() -> Self {
        let mut pair = Self::strangers();
        pair.hosts.pop();
        for home in [1, 2] {
            pair.add_home(home);
        }
        pair
    }

    fn add_home(&mut self, home: u8) {
        let node = Node::new(Config::new(Role::Agent), keys_at(home, self.now), [home + 1; 32], self.now);
        let address = format!("192.0.2.{}:4000", home + 1).parse().expect("an address");
        self.hosts.push(Host {
            node,
            address,
            events: Vec::new(),
            circuits: relayed::Circuits::default(),
            clock_step: 0,
        });
    }

    /// Host 0 hears that the other identity is at this home.
    fn learn_home(&mut self, which: usize) {
        let certificate = Some(self.hosts[which].node.keys.certificate.clone());
        let (key, addresses) = (self.key(which), vec![self.hosts[which].address]);
        self.hosts[0].node.learn_peer(self.now, PeerInfo { key, certificate, addresses, homes: Vec::new() });
    }

    /// Host 0 hears of all places at once, but not who is where.
    fn learn_ticket(&mut self, places: &[usize]) {
        let addresses = places.iter().map(|&which| self.hosts[which].address).collect();
        let info = PeerInfo { key: self.key(places[0]), certificate: None, addresses, homes: Vec::new() };
        self.hosts[0].node.learn_peer(self.now, info);
    }

    fn is_reached(&self, which: usize) -> bool {
        self.has(which, |event| matches!(event, Event::PeerConnected { .. }))
    }

    fn is_unbroken(&self) -> bool {
        (0..self.hosts.len()).all(|which| {
            !self.has(which, |event| {
                matches!(
                    event,
                    Event::Reset { .. } | Event::PeerClosed { .. } | Event::PeerConnected { restarted: true, .. }
                )
            })
        })
    }

    fn say_to(&mut self, which: usize, stream: StreamHandle, words: &'static [u8]) {
        let mut words = Bytes::from_static(words);
        self.hosts[which].node.write(self.now, stream, &mut words).expect("room");
    }

    fn hears_from(&mut self, which: usize, words: &[u8]) -> bool {
        self.incoming(which).is_some_and(|stream| self.read_all(which, stream) == words)
    }

    /// A stream of host 0 to the other identity that stays open.
    fn call(&mut self, words: &'static [u8]) -> StreamHandle {
        let (peer, header) = (self.key(1), StreamHeader::new(ServicePort::ECHO));
        let stream = self.hosts[0].node.open_stream(self.now, &peer, &header).expect("a stream");
        self.say_to(0, stream, words);
        stream
    }
}

#[test]
fn two_homes_of_one_identity_reach_the_same_peer_and_neither_ends_the_others_tunnel() {
    let mut pair = Pair::with_two_homes();
    for home in [1, 2] {
        pair.introduce(home, 0);
    }
    let streams = [pair.request(1, 0, b"from one"), pair.request(2, 0, b"from two")];
    pair.run_for(Duration::from_secs(1));
    let opened: Vec<_> = pair.hosts[0]
        .events
        .iter()
        .filter_map(|event| if let Event::StreamOpened { stream, .. } = event { Some(*stream) } else { None })
        .collect();
    assert_eq!(opened.len(), 2);
    for stream in opened {
        let said = pair.read_all(0, stream);
        assert!(said == b"from one" || said == b"from two");
        pair.say_to(0, stream, if said == b"from one" { b"to one" } else { b"to two" });
    }
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.read_all(1, streams[0]), b"to one");
    assert_eq!(pair.read_all(2, streams[1]), b"to two");
    pair.run_for(REKEY_AFTER_TIME);
    assert!(pair.is_unbroken());
}

#[test]
fn the_home_that_was_learned_of_last_is_tried_first() {
    for (first, last) in [(1, 2), (2, 1)] {
        let mut pair = Pair::with_two_homes();
        pair.learn_home(first);
        pair.learn_home(last);
        pair.call(b"hello");
        pair.run_until(Duration::from_secs(1), |pair| pair.hears_from(last, b"hello"));
        pair.run_for(Duration::from_secs(1));
        assert!(!pair.is_reached(first));
    }
}

#[test]
fn a_home_that_does_not_answer_is_left_for_the_next_and_the_request_goes_along() {
    let mut pair = Pair::with_two_homes();
    pair.learn_home(1);
    pair.learn_home(2);
    pair.cut_ways.insert((0, 2));
    let before = pair.now.mono;
    pair.call(b"anybody");
    pair.run_until(Duration::from_secs(5), |pair| pair.hears_from(1, b"anybody"));
    assert!(pair.now.mono.since(before) < NEXT_INSTANCE_AFTER * 2);
    assert!(pair.is_unbroken() && !pair.has(0, |event| matches!(event, Event::ConnectFailed { .. })));
}

#[test]
fn when_no_home_answers_the_attempt_ends_and_the_next_one_tries_both_again() {
    let mut pair = Pair::with_two_homes();
    pair.learn_home(1);
    pair.learn_home(2);
    pair.cut = true;
    for _ in 0..2 {
        pair.hosts[0].events.clear();
        pair.call(b"anybody");
        pair.run_until(NEXT_INSTANCE_AFTER + CONNECT_TIMEOUT + Duration::from_secs(5), |pair| {
            pair.has(0, |event| matches!(event, Event::ConnectFailed { .. }))
        });
        assert_eq!(pair.hosts[0].events.iter().filter(|event| matches!(event, Event::StreamClosed(_))).count(), 1);
    }
    pair.cut = false;
    pair.call(b"now then");
    pair.run_until(Duration::from_secs(1), |pair| pair.hears_from(1, b"now then") || pair.hears_from(2, b"now then"));
}

/// The addresses say nothing about who is there, and each renewal asks at all of them.
#[test]
fn a_tunnel_stays_with_its_home_over_renewals_at_addresses_of_both() {
    let mut pair = Pair::with_two_homes();
    pair.learn_ticket(&[1, 2]);
    let stream = pair.call(b"one");
    pair.run_for(Duration::from_secs(1));
    let met = if pair.incoming(1).is_some() { 1 } else { 2 };
    let theirs = pair.incoming(met).expect("one of them");
    assert_eq!(pair.read_all(met, theirs), b"one");
    for _ in 0..5 {
        pair.run_for(REKEY_AFTER_TIME);
        pair.say_to(0, stream, b"more");
        pair.run_for(Duration::from_secs(1));
        assert_eq!(pair.read_all(met, theirs), b"more");
    }
    assert!(pair.hosts[0].node.stats().handshakes >= 5);
    assert!(!pair.is_reached(3 - met) && pair.is_unbroken());
}

#[test]
fn what_is_new_goes_to_the_home_with_a_tunnel_while_its_keys_last() {
    let mut pair = Pair::with_two_homes();
    pair.learn_home(1);
    pair.call(b"first");
    pair.run_until(Duration::from_secs(1), |pair| pair.hears_from(1, b"first"));
    pair.learn_home(2);
    pair.hosts[1].events.clear();
    pair.call(b"second");
    pair.run_until(Duration::from_secs(1), |pair| pair.hears_from(1, b"second"));
    pair.cut_ways.insert((0, 1));
    pair.run_for(REJECT_AFTER_TIME);
    pair.call(b"third");
    pair.run_until(Duration::from_secs(5), |pair| pair.hears_from(2, b"third"));
}

/// The same key in a new directory, at the old place: an agent that was restored from its key file.
#[test]
fn a_home_that_has_moved_takes_one_round_for_its_certificate() {
    for age in [Duration::from_secs(3_600), CERTIFICATE_LIFETIME + CLOCK_SKEW + Duration::from_secs(1)] {
        let mut pair = Pair::with_two_homes();
        pair.learn_home(1);
        let stream = pair.call(b"before");
        pair.run_until(Duration::from_secs(1), |pair| pair.hears_from(1, b"before"));
        pair.hosts[0].node.finish(pair.now, stream).expect("open");
        let theirs = pair.incoming(1).expect("opened");
        pair.hosts[1].node.finish(pair.now, theirs).expect("open");
        pair.run_for(Duration::from_secs(1));
        assert_eq!((pair.read_all(0, stream), pair.read_all(1, theirs)), (Vec::new(), Vec::new()));
        pair.hosts.remove(2);
        pair.run_for(age);
        pair.hosts[0].node.set_keys(keys(0, pair.now));
        let address = pair.hosts[1].address;
        let node = Node::new(Config::new(Role::Agent), keys_at(9, pair.now), [9; 32], pair.now);
        pair.hosts[1] =
            Host { node, address, events: Vec::new(), circuits: relayed::Circuits::default(), clock_step: 0 };
        let before = pair.now.mono;
        pair.call(b"after");
        pair.run_until(Duration::from_secs(1), |pair| pair.hears_from(1, b"after"));
        assert_eq!(pair.now.mono.since(before), ONE_WAY * 5, "question or message 1, CERT, message 1, message 2, data");
    }
}

/// As before, but with a stream open and keys that are still good: who answers in the old one's place is believed when the old one is silent.
#[test]
fn a_home_that_is_replaced_under_a_running_tunnel_is_left_in_seconds() {
    let mut pair = Pair::with_two_homes();
    pair.learn_home(1);
    let stream = pair.call(b"before");
    pair.run_until(Duration::from_secs(1), |pair| pair.hears_from(1, b"before"));
    let address = pair.hosts[1].address;
    let node = Node::new(Config::new(Role::Agent), keys_at(9, pair.now), [9; 32], pair.now);
    pair.hosts[1] = Host { node, address, events: Vec::new(), circuits: relayed::Circuits::default(), clock_step: 0 };
    pair.say_to(0, stream, b"who is there");
    pair.run_until(NEXT_INSTANCE_AFTER * 2, |pair| {
        pair.has(0, |event| matches!(event, Event::Reset { stream: which, .. } if *which == stream))
    });
    pair.call(b"after");
    pair.run_until(NEXT_INSTANCE_AFTER * 2, |pair| pair.hears_from(1, b"after"));
}

#[test]
fn one_identity_has_so_many_homes_and_those_in_use_are_not_displaced() {
    let mut pair = Pair::with_two_homes();
    let more = INSTANCES_MAX as u8 + 2;
    for home in 3..=more {
        pair.add_home(home);
    }
    for which in 1..=usize::from(more) {
        pair.introduce(which, 0);
        pair.request(which, 0, b"hello");
        pair.run_for(Duration::from_secs(1));
    }
    assert_eq!(pair.hosts[0].node.peers().count(), INSTANCES_MAX);
    assert!(pair.hosts[0].node.stats().drops(DropReason::TableFull) > 0);
    assert!((1..=INSTANCES_MAX).all(|which| pair.is_reached(which)));
    assert!(pair.is_unbroken());
    assert_eq!(pair.hosts[0].node.by_key.len(), 1);
}

#[test]
fn a_home_that_calls_while_another_one_is_asked_who_it_is_keeps_its_tunnel() {
    let mut pair = Pair::with_two_homes();
    let certificate = Some(pair.hosts[0].node.keys.certificate.clone());
    let (key, addresses) = (pair.key(0), vec![pair.hosts[0].address]);
    pair.hosts[1].node.learn_peer(pair.now, PeerInfo { key, certificate, addresses, homes: Vec::new() });
    pair.learn_ticket(&[2]);
    let from_one = pair.request(1, 0, b"from one");
    let to_two = pair.call(b"to two");
    pair.run_until(Duration::from_secs(1), |pair| pair.hears_from(2, b"to two"));
    pair.run_until(Duration::from_secs(1), |pair| pair.incoming(0).is_some());
    let stream = pair.incoming(0).expect("opened");
    assert_eq!(pair.read_all(0, stream), b"from one");
    pair.say_to(0, stream, b"to one");
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.read_all(1, from_one), b"to one");
    pair.run_for(REKEY_AFTER_TIME * 2);
    pair.say_to(0, to_two, b", still");
    pair.run_for(Duration::from_secs(1));
    assert!(pair.hears_from(2, b", still"));
    assert!(pair.is_unbroken());
}
