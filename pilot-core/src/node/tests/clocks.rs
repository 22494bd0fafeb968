//! Clocks that are set, and processes that are stored and come back: tunnels go on, and no key seals two packets of one number.

use std::collections::BTreeMap;

use super::*;
use crate::event::ConnectError;
use crate::identity::CLOCK_SKEW;
use crate::wire::{self, DataHeader, PacketKind};

const DAY: i64 = 86_400;
/// Fresh entropy after a copy was made.
const ENTROPY: [u8; 32] = [0xE7; 32];

impl Pair {
    fn set_clock(&mut self, which: usize, step: i64) {
        self.hosts[which].clock_step = step;
    }

    /// The host issues a new certificate by its own clock.
    fn renew_certificate(&mut self, which: usize) {
        let renewed = keys(which, self.at(which));
        self.hosts[which].node.set_keys(renewed);
    }

    fn say_on(&mut self, stream: StreamHandle, words: &'static [u8]) {
        let (mut words, now) = (Bytes::from_static(words), self.at(0));
        self.hosts[0].node.write(now, stream, &mut words).expect("room");
    }

    /// A stream from 0 to 1 that goes on, and its other end.
    fn talk(&mut self) -> (StreamHandle, StreamHandle) {
        let (peer, now, header) = (self.key(1), self.at(0), StreamHeader::new(ServicePort::ECHO));
        let ours = self.hosts[0].node.open_stream(now, &peer, &header).expect("a stream");
        self.say_on(ours, b"one");
        self.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
        let theirs = self.incoming(1).expect("opened");
        assert_eq!(self.read_all(1, theirs), b"one");
        (ours, theirs)
    }

    fn is_heard(&mut self, stream: StreamHandle, words: &[u8]) {
        let mut heard = Vec::new();
        self.run_until(Duration::from_secs(5), |pair| {
            heard.extend(pair.read_all(1, stream));
            heard.len() >= words.len()
        });
        assert_eq!(heard, words);
    }

    fn is_whole(&self) -> bool {
        let is_end = |event: &Event| matches!(event, Event::Reset { .. } | Event::PeerClosed { .. });
        (0..2).all(|which| !self.has(which, is_end))
    }

    /// What a host has sealed, by session and packet number.
    fn sealed_by(&self, which: usize) -> BTreeMap<(u32, u64), Vec<u8>> {
        let is_data = |packet: &&[u8]| wire::peek(packet) == Ok(PacketKind::Data);
        let mut sealed = BTreeMap::new();
        let sent = self.log.iter().filter(|(from, _)| *from == which).map(|(_, packet)| packet.as_slice());
        for packet in sent.filter(is_data) {
            let header = DataHeader::decode(packet).expect("our own");
            let name = (header.receiver.0, header.packet_number.0);
            assert!(sealed.insert(name, packet.to_vec()).is_none_or(|other| other == packet), "twice under one key");
        }
        sealed
    }
}

/// No packet of one copy has session and number of a packet of the other, but with other content.
#[track_caller]
fn assert_no_nonce_twice(one: &Pair, other: &Pair) {
    let (one, other) = (one.sealed_by(0), other.sealed_by(0));
    let differing = one.iter().filter(|(name, packet)| other.get(name).is_some_and(|twin| twin != *packet));
    assert_eq!(differing.count(), 0);
}

/// Two worlds that are the same to the byte: the state of a process, and a snapshot of it.
fn snapshots() -> [(Pair, StreamHandle, StreamHandle); 2] {
    [(); 2].map(|()| {
        let mut pair = connected();
        let (ours, theirs) = pair.talk();
        pair.run_for(Duration::from_millis(500));
        (pair, ours, theirs)
    })
}

#[test]
fn a_snapshot_that_does_not_know_that_it_is_one_would_seal_under_the_same_keys() {
    let [(mut one, ours, _), (mut other, twin, _)] = snapshots();
    assert_eq!(one.log, other.log);
    one.say_on(ours, b"this");
    other.say_on(twin, b"that");
    one.run_for(Duration::from_secs(1));
    other.run_for(Duration::from_secs(1));
    let (one, other) = (one.sealed_by(0), other.sealed_by(0));
    assert!(
        one.iter().any(|(name, packet)| other.get(name).is_some_and(|twin| twin != packet)),
        "what is to be prevented"
    );
}

#[test]
fn a_snapshot_whose_clocks_have_parted_uses_no_nonce_of_the_original() {
    for behind in [-3_600, 3, 3_600, 5 * DAY] {
        let [(mut one, ours, _), (mut other, twin, theirs)] = snapshots();
        one.say_on(ours, b"this");
        one.run_for(Duration::from_secs(1));
        other.set_clock(0, behind);
        other.say_on(twin, b"that");
        other.is_heard(theirs, b"that");
        other.run_for(Duration::from_secs(1));
        assert_no_nonce_twice(&one, &other);
        assert!(other.is_whole());
        assert_eq!(other.hosts[0].node.stats().handshakes, one.hosts[0].node.stats().handshakes + 1);
    }
}

#[test]
fn a_snapshot_that_the_driver_tells_of_uses_no_nonce_of_the_original() {
    let [(mut one, ours, _), (mut other, twin, theirs)] = snapshots();
    one.say_on(ours, b"this");
    one.run_for(Duration::from_secs(1));
    let now = other.at(0);
    other.hosts[0].node.resume(now, &ENTROPY);
    other.say_on(twin, b"that");
    other.is_heard(theirs, b"that");
    other.run_for(Duration::from_secs(1));
    assert_no_nonce_twice(&one, &other);
}

/// Stored in the middle of a handshake: message 2 for the one would make the same session for the other.
#[test]
fn a_snapshot_of_a_handshake_under_way_makes_a_session_of_its_own() {
    for steps in 0..4 {
        let [mut one, mut other] = [(); 2].map(|()| {
            let mut pair = Pair::new();
            pair.request(0, 1, b"hello");
            pair.run_for(ONE_WAY * steps);
            pair
        });
        one.run_for(Duration::from_secs(1));
        let now = other.at(0);
        other.hosts[0].node.resume(now, &ENTROPY);
        let now = other.at(1);
        other.hosts[1].node.resume(now, &ENTROPY);
        other.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
        other.run_for(Duration::from_secs(1));
        assert_no_nonce_twice(&one, &other);
        assert!(other.is_whole());
    }
}

/// The responder has answered, and waits with that session for what is not older.
#[test]
fn a_clock_that_is_set_back_during_a_handshake_does_not_keep_it_from_succeeding() {
    for back in [3, 3_600, DAY / 2] {
        let mut pair = Pair::new();
        pair.learn_certificates();
        pair.cut_ways.insert((1, 0));
        pair.request(0, 1, b"hello");
        pair.run_for(Duration::from_millis(500));
        pair.set_clock(0, -back);
        pair.cut_ways.clear();
        pair.run_until(Duration::from_secs(5), |pair| pair.incoming(1).is_some());
        assert!(pair.incoming(1).is_some() && pair.is_whole(), "{back} s");
    }
}

/// The original went on for a while before the snapshot took its place: what the two have sent does not fit together.
#[test]
fn a_restored_snapshot_in_place_of_the_original_begins_a_new_tunnel() {
    for restored in [0, 1] {
        let [(mut world, ours, _), (mut snapshot, ..)] = snapshots();
        for _ in 0..20 {
            world.say_on(ours, b"since then");
            world.run_for(Duration::from_millis(100));
        }
        let before = world.sealed_by(restored);
        let stored = snapshot.hosts.remove(restored);
        world.hosts[restored] = stored;
        world.hosts[1 - restored].events.clear();
        world.log.clear();
        let now = world.at(restored);
        world.hosts[restored].node.resume(now, &ENTROPY);
        world.say_on(ours, b"do you hear");
        world.run_until(Duration::from_secs(3), |pair| {
            pair.has(1 - restored, |event| matches!(event, Event::PeerConnected { restarted: true, .. }))
        });
        let after = world.sealed_by(restored);
        assert!(after.iter().all(|(name, packet)| before.get(name).is_none_or(|twin| twin == packet)));
        world.hosts[1].events.clear();
        world.request(0, 1, b"again");
        world.run_until(Duration::from_secs(3), |pair| pair.incoming(1).is_some());
        let stream = world.incoming(1).expect("opened");
        assert_eq!(world.read_all(1, stream), b"again");
    }
}

#[test]
fn a_clock_that_is_set_by_a_day_on_either_side_leaves_tunnels_running() {
    for which in [0, 1] {
        for step in [DAY, -DAY, 3_600, -3_600] {
            let mut pair = connected();
            let (ours, theirs) = pair.talk();
            pair.set_clock(which, step);
            pair.renew_certificate(which);
            for _ in 0..5 {
                pair.say_on(ours, b"more");
                pair.is_heard(theirs, b"more");
                pair.run_for(Duration::from_secs(60));
            }
            pair.set_clock(which, 0);
            pair.say_on(ours, b"back");
            pair.is_heard(theirs, b"back");
            assert!(pair.is_whole(), "{which} {step}");
            let meetings = pair.hosts[0].events.iter().filter(|event| matches!(event, Event::PeerConnected { .. }));
            assert_eq!(meetings.count(), 1);
        }
    }
}

#[test]
fn new_handshakes_work_within_the_skew_and_name_the_clock_beyond_it() {
    let skew = CLOCK_SKEW.as_secs() as i64;
    // The certificate of a clock behind ends earlier by as much, and that has a week and a day's grace.
    for (step, works) in [(skew, true), (-skew, true), (skew + 60, false), (-9 * DAY, false), (30 * DAY, false)] {
        for which in [0, 1] {
            let mut pair = Pair::new();
            pair.set_clock(which, step);
            pair.renew_certificate(which);
            pair.request(0, 1, b"hello");
            pair.run_until(Duration::from_secs(15), |pair| {
                pair.incoming(1).is_some() || pair.has(0, |event| matches!(event, Event::ConnectFailed { .. }))
            });
            assert_eq!(pair.incoming(1).is_some(), works, "{which} {step}");
            let names_clock =
                |event: &Event| matches!(event, Event::ConnectFailed { error: ConnectError::Clock(_), .. });
            assert_eq!(pair.has(0, names_clock), !works, "{which} {step}");
        }
    }
}

/// A caller whose clock alone is wrong, with a certificate of better days: the answer that it is asked for shows it.
#[test]
fn a_certificate_of_an_earlier_time_names_the_clock_too() {
    let mut pair = Pair::new();
    pair.set_clock(0, -3 * DAY);
    pair.request(0, 1, b"hello");
    pair.run_until(Duration::from_secs(15), |pair| pair.has(0, |event| matches!(event, Event::ConnectFailed { .. })));
    let text = pair.hosts[0]
        .events
        .iter()
        .find_map(|event| if let Event::ConnectFailed { error, .. } = event { Some(error.to_string()) } else { None });
    assert!(text.expect("failed").contains("clock"));
}
