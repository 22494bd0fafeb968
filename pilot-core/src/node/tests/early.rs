//! Early data: answered in one round trip where a replay does no harm, held where it might, never lost and never delivered twice.

use super::*;
use crate::limits::{
    EARLY_DATA_AHEAD_MAX, HANDSHAKE_CROSSING, HANDSHAKE_RETRY_MIN, PATHS_MAX, UNCONFIRMED_SESSION_LIFETIME,
};
use crate::wire::{self, PacketKind};

/// Nobody's address: whoever answers there has been lied to.
const VICTIM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)), 9);
const REQUEST: &[u8] = b"what is it worth";

fn serving(services: &[ServicePort]) -> Config {
    Config::new(Role::Agent).replay_safe(services)
}

impl Pair {
    /// Two hosts that hold each other's certificates; the second one serves echo to replays, too, if it is told so.
    fn for_early_data(services: &[ServicePort]) -> Self {
        let mut pair = Self::new();
        pair.hosts[1] = host(1, 2, START, serving(services));
        pair.introduce(1, 0);
        pair.learn_certificates();
        // Later than the start of the responder.
        pair.run_for(Duration::from_secs(1));
        pair
    }

    pub(super) fn learn_certificates(&mut self) {
        for (which, other) in [(0, 1), (1, 0)] {
            let certificate = Some(self.hosts[other].node.keys.certificate.clone());
            let info = PeerInfo { key: self.key(other), certificate, addresses: Vec::new(), homes: Vec::new() };
            self.hosts[which].node.learn_peer(self.now, info);
        }
    }

    /// A request that may be a replay, with its end.
    fn ask(&mut self, from: usize, to: usize) -> StreamHandle {
        let header = StreamHeader { replay_safe: true, ..StreamHeader::new(ServicePort::ECHO) };
        let peer = self.key(to);
        let stream = self.hosts[from].node.open_stream(self.now, &peer, &header).expect("a stream");
        self.write(from, stream, REQUEST);
        self.hosts[from].node.finish(self.now, stream).expect("open");
        stream
    }

    fn write(&mut self, which: usize, stream: StreamHandle, data: &[u8]) {
        let mut data = Bytes::copy_from_slice(data);
        self.hosts[which].node.write(self.now, stream, &mut data).expect("room");
        assert!(data.is_empty());
    }

    /// How many requests were handed out at `which`.
    fn asked(&self, which: usize) -> usize {
        self.hosts[which].events.iter().filter(|event| matches!(event, Event::StreamOpened { .. })).count()
    }

    /// Returns the request to who asked.
    fn answer(&mut self, which: usize) -> StreamHandle {
        self.step_to(|pair| pair.asked(which) > 0);
        let stream = self.incoming(which).expect("opened");
        let request = self.read_all(which, stream);
        assert_eq!(request, REQUEST);
        self.write(which, stream, &request);
        self.hosts[which].node.finish(self.now, stream).expect("open");
        stream
    }

    fn is_answered(&mut self, which: usize, stream: StreamHandle) -> bool {
        self.read_all(which, stream) == REQUEST
    }

    fn step_to(&mut self, is_done: impl FnMut(&mut Self) -> bool) {
        self.run_until(Duration::from_secs(5), is_done);
    }

    fn kinds_on_the_wire(&self) -> Vec<PacketKind> {
        self.wire.iter().map(|packet| wire::peek(&packet.3).expect("ours")).collect()
    }

    /// The message 1 that a request makes its sender send.
    fn recorded(&mut self) -> Vec<u8> {
        self.ask(0, 1);
        self.drain();
        assert_eq!(self.kinds_on_the_wire(), [PacketKind::Init]);
        self.wire[0].3.clone()
    }

    /// As before, by a clock that is as far ahead as it may be.
    fn recorded_ahead(&mut self) -> Vec<u8> {
        self.hosts[0].clock_step = EARLY_DATA_AHEAD_MAX.as_secs() as i64;
        // It has noticed before it asks.
        self.run_for(ONE_WAY);
        self.recorded()
    }
}

#[test]
fn a_request_that_may_be_a_replay_is_answered_in_one_round_trip() {
    let mut pair = Pair::for_early_data(&[ServicePort::ECHO]);
    let before = pair.sent;
    let stream = pair.ask(0, 1);
    pair.drain();
    assert_eq!(pair.kinds_on_the_wire(), [PacketKind::Init]);
    pair.answer(1);
    pair.drain();
    assert_eq!(pair.kinds_on_the_wire(), [PacketKind::Resp, PacketKind::Data]);
    pair.step_to(|pair| pair.is_answered(0, stream));
    assert_eq!(pair.sent - before, 3 + 1, "message 1, message 2, the answer, and what the asker says to it");
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.asked(1), 1, "the packet that carried it was received once");
    for which in 0..2 {
        assert!(pair.has(which, |event| matches!(event, Event::PeerConnected { .. })));
        assert!(pair.has(which, |event| matches!(event, Event::StreamClosed(_))));
        assert!(!pair.has(which, |event| matches!(event, Event::Reset { .. } | Event::PeerClosed { .. })));
    }
}

#[test]
fn a_request_for_any_other_service_waits_for_proof_that_it_is_no_replay() {
    let mut pair = Pair::for_early_data(&[ServicePort::DIRECTORY]);
    let stream = pair.ask(0, 1);
    pair.step_to(|pair| pair.kinds_on_the_wire() == [PacketKind::Resp]);
    pair.step_to(|pair| pair.has(0, |event| matches!(event, Event::PeerConnected { .. })));
    assert_eq!(pair.asked(1), 0);
    pair.drain();
    assert!(pair.wire.iter().all(|packet| packet.3.len() < 100), "it was taken, so that it is not sent again");
    pair.answer(1);
    pair.step_to(|pair| pair.is_answered(0, stream));
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.asked(1), 1);
}

/// As `pilotctl query` asks, and `pilotctl answer --replay-safe` answers.
#[test]
fn a_service_that_allows_it_while_it_runs_is_asked_in_one_round_trip_and_any_other_in_two() {
    for (said, round_trips) in [(&[][..], 2), (&[true], 1), (&[true, false], 2)] {
        let mut pair = Pair::for_early_data(&[]);
        said.iter().for_each(|is_safe| pair.hosts[1].node.set_replay_safe(ServicePort::ECHO, *is_safe));
        let (before, stream) = (pair.now.mono, pair.ask(0, 1));
        pair.answer(1);
        pair.step_to(|pair| pair.is_answered(0, stream));
        assert_eq!(pair.now.mono.since(before), ONE_WAY * 2 * round_trips, "{said:?}");
        pair.run_for(Duration::from_secs(2));
        assert_eq!(pair.asked(1), 1);
    }
}

/// The worst case: the responder has lost its memory, and the clock of who asked was ahead.
#[test]
fn a_replay_reaches_no_service_that_has_not_allowed_it_or_that_has_gone() {
    for (said, asked) in [(&[][..], 0), (&[true, false], 0), (&[true], 1)] {
        let mut pair = Pair::for_early_data(&[]);
        let recorded = pair.recorded_ahead();
        (pair.wire, pair.cut) = (Vec::new(), true);
        pair.restart(1);
        said.iter().for_each(|is_safe| pair.hosts[1].node.set_replay_safe(ServicePort::ECHO, *is_safe));
        pair.deliver(1, VICTIM, &recorded);
        pair.run_for(UNCONFIRMED_SESSION_LIFETIME);
        assert_eq!(pair.asked(1), asked, "{said:?}");
    }
}

#[test]
fn a_stream_whose_opener_does_not_allow_it_is_not_in_the_first_message() {
    let mut pair = Pair::for_early_data(&[ServicePort::ECHO]);
    let peer = pair.key(1);
    let stream =
        pair.hosts[0].node.open_stream(pair.now, &peer, &StreamHeader::new(ServicePort::ECHO)).expect("a stream");
    pair.write(0, stream, REQUEST);
    pair.step_to(|pair| pair.has(0, |event| matches!(event, Event::PeerConnected { .. })));
    pair.drain();
    assert!(pair.wire.iter().any(|packet| packet.3.len() > REQUEST.len() + 29), "it goes with the first packet");
}

/// The recorded message comes again and again, from anywhere: to the same process, and to the one after it.
#[test]
fn a_replay_runs_nothing_twice_before_or_after_a_restart() {
    for services in [&[ServicePort::ECHO][..], &[]] {
        let mut pair = Pair::for_early_data(services);
        let recorded = pair.recorded();
        pair.answer(1);
        pair.run_for(Duration::from_secs(1));
        assert_eq!(pair.asked(1), 1);
        for _ in 0..10 {
            pair.deliver(1, VICTIM, &recorded);
            pair.run_for(Duration::from_secs(4));
        }
        assert_eq!(pair.asked(1), 1);
        pair.restart(1);
        for _ in 0..10 {
            pair.deliver(1, VICTIM, &recorded);
            pair.run_for(Duration::from_secs(4));
        }
        assert_eq!(pair.asked(1), 0);
    }
}

/// Whose clock is ahead can be replayed to a responder that has lost its memory, for as long as it is ahead.
#[test]
fn a_replay_from_a_clock_ahead_repeats_only_what_may_be_repeated_and_amplifies_nothing() {
    for services in [&[ServicePort::ECHO][..], &[]] {
        let mut pair = Pair::for_early_data(services);
        let recorded = pair.recorded_ahead();
        (pair.wire, pair.cut) = (Vec::new(), true);
        pair.restart(1);
        pair.deliver(1, VICTIM, &recorded);
        pair.drain();
        assert_eq!(pair.asked(1), services.len());
        if let Some(stream) = pair.incoming(1) {
            pair.write(1, stream, &[7; 100_000]);
        }
        pair.run_for(UNCONFIRMED_SESSION_LIFETIME);
        let sent: usize = pair.astray.iter().map(|(_, datagram)| datagram.len()).sum();
        assert!(sent <= 3 * recorded.len(), "{sent}");
        assert_eq!(pair.asked(1), services.len());
        let closed = pair.hosts[1].events.iter().filter(|event| matches!(event, Event::StreamClosed(_))).count();
        assert_eq!(closed, services.len(), "what nobody goes on with ends");
        assert!(!pair.has(1, |event| matches!(event, Event::PeerConnected { .. })));
    }
}

#[test]
fn a_bad_timestamp_costs_the_early_data_and_nothing_else() {
    let hour = Duration::from_secs(3_600);
    for (started, services) in [(START.unix + hour, &[ServicePort::ECHO][..]), (START.unix + hour, &[])] {
        let mut pair = Pair::for_early_data(services);
        pair.hosts[1] = host(1, 2, Now { mono: pair.now.mono, unix: started }, serving(services));
        pair.introduce(1, 0);
        let stream = pair.ask(0, 1);
        pair.step_to(|pair| pair.has(0, |event| matches!(event, Event::PeerConnected { .. })));
        assert_eq!(pair.asked(1), 0);
        pair.answer(1);
        pair.step_to(|pair| pair.is_answered(0, stream));
        pair.run_for(Duration::from_secs(2));
        assert_eq!(pair.asked(1), 1);
    }
}

#[test]
fn lost_and_repeated_messages_lose_nothing_and_repeat_nothing() {
    for services in [&[ServicePort::ECHO][..], &[]] {
        for lost in [PacketKind::Init, PacketKind::Resp, PacketKind::Data] {
            let mut pair = Pair::for_early_data(services);
            let stream = pair.ask(0, 1);
            let is_lost = |packet: &(Mono, usize, SocketAddr, Vec<u8>)| wire::peek(&packet.3) == Ok(lost);
            let until = pair.now.mono + Duration::from_secs(1);
            while !pair.wire.iter().any(is_lost) && pair.now.mono < until {
                pair.step(until);
                if pair.asked(1) > 0 {
                    break;
                }
            }
            pair.wire.retain(|packet| !is_lost(packet));
            pair.answer(1);
            pair.wire.retain(|packet| !is_lost(packet));
            pair.step_to(|pair| pair.is_answered(0, stream));
            pair.run_for(Duration::from_secs(2));
            assert_eq!(pair.asked(1), 1, "{lost:?} {services:?}");
            for which in 0..2 {
                assert!(!pair.has(which, |event| matches!(event, Event::Reset { .. } | Event::PeerClosed { .. })));
            }
        }
    }
}

#[test]
fn a_duplicate_of_the_first_message_begins_nothing_anew() {
    for services in [&[ServicePort::ECHO][..], &[]] {
        let mut pair = Pair::for_early_data(services);
        let recorded = pair.recorded();
        pair.cut_ways.insert((1, 0));
        for _ in 0..3 {
            pair.run_for(HANDSHAKE_RETRY_MIN);
            pair.deliver(1, pair.hosts[0].address, &recorded);
        }
        assert_eq!(pair.asked(1), services.len());
        pair.cut_ways.clear();
        pair.answer(1);
        pair.run_for(Duration::from_secs(2));
        assert_eq!(pair.asked(1), 1);
    }
}

#[test]
fn after_a_round_for_the_certificate_early_data_goes_with_the_next_first_message() {
    let mut pair = Pair::for_early_data(&[ServicePort::ECHO]);
    let retired = pair.hosts[1].node.keys.transport[0].clone();
    let transport = TransportKey::from_secret([77; 32]);
    let identity = Identity::restore(IDENTITIES[1].0, IDENTITIES[1].1).expect("a committed identity");
    let certificate = Certificate::issue(&identity, &transport, InstanceId([1; 8]), 2, pair.now.unix);
    assert_ne!(certificate.key_id, retired.id());
    pair.hosts[1].node.set_keys(Keys { identity, transport: vec![transport], certificate });
    let before = pair.now.mono;
    let stream = pair.ask(0, 1);
    pair.answer(1);
    pair.step_to(|pair| pair.is_answered(0, stream));
    assert_eq!(pair.now.mono.since(before), ONE_WAY * 4, "message 1, CERT, message 1, message 2 with the answer");
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.asked(1), 1);
}

#[test]
fn both_ask_at_once_and_both_are_answered_once() {
    for services in [&[ServicePort::ECHO][..], &[]] {
        let mut pair = Pair::for_early_data(services);
        pair.hosts[0] = host(0, 1, START, serving(services));
        pair.introduce(0, 1);
        pair.learn_certificates();
        let streams = [pair.ask(0, 1), pair.ask(1, 0)];
        for (which, stream) in streams.into_iter().enumerate() {
            pair.answer(1 - which);
            pair.step_to(|pair| pair.is_answered(which, stream));
        }
        pair.run_for(Duration::from_secs(3));
        for which in 0..2 {
            assert_eq!(pair.asked(which), 1);
            assert!(!pair.has(which, |event| matches!(event, Event::Reset { .. } | Event::PeerClosed { .. })));
        }
    }
}

/// The responder has something to ask, too, while it answers what may still be a replay: both go on in one tunnel.
#[test]
fn streams_opened_before_the_session_is_used_go_on_in_its_tunnel() {
    let mut pair = Pair::for_early_data(&[ServicePort::ECHO]);
    let question = pair.ask(0, 1);
    let serving = pair.answer(1);
    let counter = pair.ask(1, 0);
    assert_ne!(serving, counter);
    pair.step_to(|pair| pair.is_answered(0, question));
    pair.answer(0);
    pair.step_to(|pair| pair.is_answered(1, counter));
    pair.run_for(Duration::from_secs(3));
    for which in 0..2 {
        assert_eq!(pair.asked(which), 1);
        let closed = pair.hosts[which].events.iter().filter(|event| matches!(event, Event::StreamClosed(_))).count();
        assert_eq!(closed, 2);
        let connected = |event: &&Event| matches!(event, Event::PeerConnected { .. });
        assert_eq!(pair.hosts[which].events.iter().filter(connected).count(), 1);
        assert!(!pair.has(which, |event| matches!(event, Event::Reset { .. } | Event::PeerClosed { .. })));
        assert!(pair.hosts[which].node.audit(pair.now.mono).all(|(_, audit)| audit.check(pair.now.mono).is_ok()));
    }
}

/// A replay, by a clock ahead of that of a responder without memory: it waits for who does not come, but not for long.
#[test]
fn a_replay_holds_up_no_attempt_for_long() {
    let mut pair = Pair::for_early_data(&[ServicePort::ECHO]);
    let recorded = pair.recorded_ahead();
    pair.wire.clear();
    let config = pair.hosts[0].node.config.clone();
    pair.hosts[0] = host(0, 98, pair.now, config);
    pair.restart(1);
    pair.introduce(1, 0);
    pair.deliver(1, VICTIM, &recorded);
    pair.drain();
    assert_eq!(pair.asked(1), 1);
    let peer = pair.key(0);
    pair.hosts[1].node.connect(pair.now, &peer).expect("known");
    let before = pair.now.mono;
    let stream = pair.ask(1, 0);
    pair.answer(0);
    pair.step_to(|pair| pair.is_answered(1, stream));
    assert!(pair.now.mono.since(before) < HANDSHAKE_CROSSING + HANDSHAKE_RETRY_MIN);
}

/// An asker that has lost its memory is answered as fast as a new one; its old tunnel ends once it is known to be itself.
#[test]
fn early_data_of_an_asker_that_has_restarted_ends_its_old_tunnel_only_with_proof() {
    let mut pair = Pair::for_early_data(&[ServicePort::ECHO]);
    let first = pair.ask(0, 1);
    pair.answer(1);
    pair.step_to(|pair| pair.is_answered(0, first));
    pair.run_for(Duration::from_secs(5));
    pair.restart(0);
    pair.introduce(0, 1);
    pair.learn_certificates();
    pair.hosts[1].events.clear();
    let second = pair.ask(0, 1);
    pair.answer(1);
    assert!(!pair.has(1, |event| matches!(event, Event::PeerConnected { .. })));
    pair.step_to(|pair| pair.is_answered(0, second));
    pair.run_for(Duration::from_secs(1));
    assert!(pair.has(1, |event| matches!(event, Event::PeerConnected { restarted: true, .. })));
    assert_eq!(pair.asked(1), 1);
}

#[test]
fn a_request_longer_than_the_first_message_goes_on_in_the_tunnel() {
    for services in [&[ServicePort::ECHO][..], &[]] {
        let mut pair = Pair::for_early_data(services);
        let header = StreamHeader { replay_safe: true, ..StreamHeader::new(ServicePort::ECHO) };
        let peer = pair.key(1);
        let long: Vec<u8> = (0..20_000u32).map(|place| (place % 251) as u8).collect();
        let stream = pair.hosts[0].node.open_stream(pair.now, &peer, &header).expect("a stream");
        pair.write(0, stream, &long);
        pair.hosts[0].node.finish(pair.now, stream).expect("open");
        let mut heard = Vec::new();
        pair.step_to(|pair| {
            if let Some(stream) = pair.incoming(1) {
                heard.extend(pair.read_all(1, stream));
            }
            heard.len() >= long.len()
        });
        assert_eq!(heard, long);
        assert_eq!(pair.asked(1), 1);
    }
}

#[test]
fn a_request_that_is_taken_back_before_the_session_is_used_ends_on_both_sides() {
    for services in [&[ServicePort::ECHO][..], &[]] {
        let mut pair = Pair::for_early_data(services);
        let header = StreamHeader { replay_safe: true, ..StreamHeader::new(ServicePort::ECHO) };
        let peer = pair.key(1);
        let stream = pair.hosts[0].node.open_stream(pair.now, &peer, &header).expect("a stream");
        pair.write(0, stream, REQUEST);
        pair.drain();
        pair.hosts[0].node.reset(pair.now, stream, Code::CANCELLED, "never mind");
        pair.run_for(Duration::from_secs(2));
        assert!(!pair.has(0, |event| matches!(event, Event::PeerClosed { .. })));
        assert!(pair.has(1, |event| matches!(event, Event::PeerConnected { .. })));
        let opened = pair.asked(1);
        let reset = pair.hosts[1].events.iter().filter(|event| matches!(event, Event::Reset { .. })).count();
        assert_eq!(reset, opened);
    }
}

/// The first packet travels with the question for a circuit, the answer by the circuit itself.
#[test]
fn early_data_goes_by_a_relay_too() {
    for services in [&[ServicePort::ECHO][..], &[]] {
        let mut pair = Pair::at_homes([2, 2]);
        for service in services {
            pair.hosts[1].node.set_replay_safe(*service, true);
        }
        pair.run_for(Duration::from_secs(1));
        for which in [0, 1] {
            pair.introduce_by(which, 1 - which, &[2]);
        }
        pair.learn_certificates();
        let (before, stream) = (pair.now.mono, pair.ask(0, 1));
        pair.answer(1);
        pair.step_to(|pair| pair.is_answered(0, stream));
        let round_trips = if services.is_empty() { 2 } else { 1 };
        assert_eq!(pair.now.mono.since(before), ONE_WAY * 4 * round_trips, "four hops there and back");
        pair.run_for(Duration::from_secs(2));
        assert_eq!(pair.asked(1), 1);
    }
}

/// Everything on the wire between two who know each other, from the first message on.
#[test]
fn who_listens_reads_neither_words_nor_names() {
    let mut pair = Pair::for_early_data(&[ServicePort::ECHO]);
    let stream = pair.ask(0, 1);
    pair.answer(1);
    pair.step_to(|pair| pair.is_answered(0, stream));
    pair.run_for(Duration::from_secs(1));
    let mut secrets = vec![REQUEST.to_vec()];
    for which in [0, 1] {
        let Keys { identity, transport, .. } = keys(which, START);
        secrets.extend([identity.key().0.to_vec(), transport[0].public().to_vec()]);
    }
    assert!(pair.log.len() > 3);
    for (_, datagram) in &pair.log {
        assert!(secrets.iter().all(|secret| !datagram.windows(secret.len()).any(|part| part == secret)));
    }
}

/// Each time with new keys of its process, and from another port: all of it is genuine.
#[test]
fn an_asker_that_comes_from_ever_new_addresses_leaves_a_bounded_number_of_paths() {
    let mut pair = Pair::for_early_data(&[ServicePort::ECHO]);
    for life in 0..2 * PATHS_MAX as u8 {
        pair.hosts[0] = host(0, 100 + life, pair.now, Config::new(Role::Agent));
        pair.hosts[0].address.set_port(5_000 + u16::from(life));
        pair.hosts[1].events.clear();
        pair.introduce(0, 1);
        pair.learn_certificates();
        let stream = pair.ask(0, 1);
        pair.answer(1);
        pair.step_to(|pair| pair.is_answered(0, stream));
        pair.run_for(Duration::from_secs(1));
        let peer = &pair.hosts[1].node.peers[pair.slot(1, 0) as usize];
        assert!(peer.is_connected());
        assert!(peer.paths.iter().count() <= PATHS_MAX, "life {life}");
    }
}
