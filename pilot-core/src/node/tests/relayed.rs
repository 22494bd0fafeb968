//! Backbone nodes between the two: circuits, homes, and what becomes of them.

use std::collections::BTreeMap;

use super::*;
use crate::event::ConnectError;
use crate::id::{CircuitId, Instance};
use crate::identity::{CERTIFICATE_LIFETIME, CLOCK_SKEW};
use crate::limits::{CONNECT_TIMEOUT, PROBES_PER_PATH_MAX, REPROBE_MAX};
use crate::node::Obstacle;
use crate::wire::circuit::{self, CircuitOffer, CircuitOpen, CircuitOpened, CircuitStatus};
use crate::wire::{self, PacketKind, RelayHeader};

/// What a backbone node knows of circuits: the least that a relay can be.
#[derive(Default)]
pub(super) struct Circuits {
    /// Circuit id -> the host at its other end, and how that host names it.
    ends: BTreeMap<u32, (usize, u32)>,
    opened: u32,
    questions: BTreeMap<StreamHandle, Vec<u8>>,
    /// Questions are read and never answered.
    is_mute: bool,
    /// So many questions to come are answered with "busy".
    busy_for: usize,
}

impl Pair {
    /// Adds a backbone node and returns its place.
    pub(super) fn add_backbone(&mut self) -> usize {
        let which = self.hosts.len();
        self.hosts.push(host(which, which as u8 + 1, self.now, Config::new(Role::Backbone)));
        which
    }

    pub(super) fn instance(&self, which: usize) -> Instance {
        let certificate = &self.hosts[which].node.keys.certificate;
        Instance { key: certificate.identity, id: certificate.instance }
    }

    fn home(&self, backbone: usize) -> Home {
        Home { key: self.key(backbone), addresses: vec![self.hosts[backbone].address] }
    }

    pub(super) fn at_home(&mut self, which: usize, backbone: usize) {
        let Home { key, addresses } = self.home(backbone);
        let home = PeerInfo { key, certificate: None, addresses, homes: Vec::new() };
        self.hosts[which].node.set_home(self.now, Some(home));
    }

    /// Tells `which` that `other` is reached by these backbone nodes.
    pub(super) fn introduce_by(&mut self, which: usize, other: usize, backbones: &[usize]) {
        // The last one learned is tried first.
        for &backbone in backbones.iter().rev() {
            let homes = vec![self.home(backbone)];
            let info = PeerInfo { key: self.key(other), certificate: None, addresses: Vec::new(), homes };
            self.hosts[which].node.learn_peer(self.now, info);
        }
    }

    /// Two relay-only agents, each connected to its backbone node. They do not know each other.
    pub(super) fn at_homes(homes: [usize; 2]) -> Self {
        let mut pair = Self::strangers();
        while pair.hosts.len() <= homes[0].max(homes[1]) {
            pair.add_backbone();
        }
        for (which, home) in homes.into_iter().enumerate() {
            pair.hosts[which].node.set_direct(pair.now, false);
            pair.at_home(which, home);
        }
        pair.run_until(Duration::from_secs(1), |pair| (0..2).all(|which| pair.hosts[which].node.is_home_connected()));
        pair.run_for(ONE_WAY * 2);
        pair
    }

    /// Two agents at one backbone node that may find a direct path.
    pub(super) fn by_relay() -> Self {
        let mut pair = Self::at_homes([2, 2]);
        for which in [0, 1] {
            pair.hosts[which].node.set_direct(pair.now, true);
            pair.introduce_by(which, 1 - which, &[2]);
        }
        pair
    }

    /// Takes a RELAY packet to its circuit's other end. Returns whether it was one.
    pub(super) fn forward(&mut self, relay: usize, from: SocketAddr, datagram: &[u8]) -> bool {
        let is_relay = self.hosts[relay].node.config.role == Role::Backbone;
        if !is_relay || wire::peek(datagram) != Ok(PacketKind::Relay) {
            return false;
        }
        let (header, packet) = RelayHeader::decode(datagram).expect("a RELAY packet");
        let Some(&(to, id)) = self.hosts[relay].circuits.ends.get(&header.circuit.0) else { return true };
        let Some(route) = self.hosts[relay].node.validated_remote(&self.instance(to)) else { return true };
        assert!(self.place(from).is_some(), "a relayed packet from nowhere");
        let mut forwarded = RelayHeader { circuit: CircuitId(id) }.encode().to_vec();
        forwarded.extend_from_slice(packet);
        self.carry(self.source(relay, &route), route.remote, forwarded);
        true
    }

    /// Lets the backbone nodes answer what they are asked.
    pub(super) fn serve_circuits(&mut self) {
        let is_relay = |&which: &usize| self.hosts[which].node.config.role == Role::Backbone;
        for relay in (2..self.hosts.len()).filter(is_relay).collect::<Vec<_>>() {
            for event in std::mem::take(&mut self.hosts[relay].events) {
                if let Event::StreamOpened { stream, .. } = event {
                    self.hosts[relay].circuits.questions.insert(stream, Vec::new());
                } else if let Event::Readable(stream) = event {
                    self.read_question(relay, stream);
                }
            }
            self.drain();
        }
    }

    fn read_question(&mut self, relay: usize, stream: StreamHandle) {
        let now = self.now;
        let host = &mut self.hosts[relay];
        let Some(question) = host.circuits.questions.get_mut(&stream) else { return };
        loop {
            match host.node.read(now, stream, 4_096) {
                Ok(Read::Data(data)) => question.extend_from_slice(&data),
                Ok(Read::Finished) => break,
                Ok(Read::Blocked) | Err(_) => return,
            }
        }
        let question = host.circuits.questions.remove(&stream).expect("found above");
        if !host.circuits.is_mute {
            self.answer_question(relay, stream, &circuit::decode(&question).expect("a question for a circuit"));
        }
    }

    fn answer_question(&mut self, relay: usize, stream: StreamHandle, open: &CircuitOpen) {
        let caller = self.hosts[relay].node.instance_at(stream.peer);
        let place = |key: &IdentityKey| (0..self.hosts.len()).find(|&which| self.key(which) == *key);
        let (from, to) = (place(&caller.key).expect("one of ours"), place(&IdentityKey(*open.destination)));
        let attested = |which: usize| self.hosts[relay].node.validated_remote(&self.instance(which));
        // As a real one: it attests no address of a TLS link.
        let seen = |route: Route| if route.socket.is_link() { String::new() } else { route.remote.to_string() };
        let Some((to, destination_seen)) = to.and_then(|to| Some((to, seen(attested(to)?)))) else {
            let status = CircuitStatus::NotFound;
            let opened = CircuitOpened { status, circuit: 0, reason: "not here".to_owned(), attested: None };
            return self.say(relay, stream, &circuit::encode(&opened));
        };
        let (caller_seen, destination) = (seen(attested(from).expect("connected")), self.instance(to));
        if let Some(rest) = self.hosts[relay].circuits.busy_for.checked_sub(1) {
            self.hosts[relay].circuits.busy_for = rest;
            let status = CircuitStatus::Busy;
            let opened = CircuitOpened { status, circuit: 0, reason: "later".to_owned(), attested: None };
            return self.say(relay, stream, &circuit::encode(&opened));
        }
        let circuits = &mut self.hosts[relay].circuits;
        let (near, far) = (circuits.opened * 2 + 1, circuits.opened * 2 + 2);
        circuits.opened += 1;
        circuits.ends.insert(near, (to, far));
        circuits.ends.insert(far, (from, near));
        let opened = CircuitOpened {
            status: CircuitStatus::Ok,
            circuit: near,
            reason: String::new(),
            attested: Some(destination_seen),
        };
        self.say(relay, stream, &circuit::encode(&opened));
        let offer = CircuitOffer {
            caller: caller.key.0.into(),
            attested: caller_seen,
            circuit: far,
            packet: open.packet.clone(),
            instance: caller.id.0.into(),
        };
        let header = StreamHeader::new(ServicePort::CIRCUIT);
        let stream = self.hosts[relay].node.open_stream_to(self.now, &destination, &header).expect("a stream");
        self.say(relay, stream, &circuit::encode(&offer));
    }

    fn say(&mut self, which: usize, stream: StreamHandle, message: &[u8]) {
        let mut message = Bytes::copy_from_slice(message);
        self.hosts[which].node.write(self.now, stream, &mut message).expect("room");
        self.hosts[which].node.finish(self.now, stream).expect("open");
    }

    /// Sends one request, waits until it is there, and ends the stream.
    pub(super) fn exchange(&mut self, from: usize, to: usize, limit: Duration) {
        self.hosts[to].events.clear();
        let request = self.request(from, to, b"hello");
        self.run_until(limit, |pair| pair.incoming(to).is_some());
        let stream = self.incoming(to).expect("opened");
        assert_eq!(self.read_all(to, stream), b"hello");
        self.hosts[to].node.finish(self.now, stream).expect("open");
        self.run_for(Duration::from_millis(200));
        assert_eq!(self.read_all(from, request), b"");
    }

    pub(super) fn path(&self, which: usize, other: usize) -> Option<PathKind> {
        self.hosts[which].node.peer_status(&self.key(other))?.path
    }
}

#[test]
fn two_agents_meet_at_a_backbone_node_and_go_on_directly() {
    let mut pair = Pair::by_relay();
    pair.exchange(0, 1, Duration::from_millis(200));
    assert_eq!(pair.path(0, 1), Some(PathKind::Direct(pair.hosts[1].address)));
    assert_eq!(pair.path(1, 0), Some(PathKind::Direct(pair.hosts[0].address)));
}

/// All that is on the wire is lost once: what a direct path has carried goes on there, although the relay is at hand.
#[test]
fn trap_21_one_loss_moves_no_path() {
    let mut pair = Pair::by_relay();
    pair.exchange(0, 1, Duration::from_millis(200));
    pair.run_for(Duration::from_secs(1));
    pair.hosts.iter_mut().for_each(|host| host.events.clear());
    for _ in 0..10 {
        pair.request(0, 1, b"hello");
        pair.drain();
        assert!(!pair.wire.is_empty());
        pair.wire.clear();
        pair.run_for(Duration::from_secs(1));
    }
    let opened = pair.hosts[1].events.iter().filter(|event| matches!(event, Event::StreamOpened { .. })).count();
    assert_eq!(opened, 10, "sent again");
    assert!((0..2).all(|which| !pair.has(which, |event| matches!(event, Event::PathChanged { .. }))));
    assert_eq!(pair.path(0, 1), Some(PathKind::Direct(pair.hosts[1].address)));
}

/// A cache of a week: the certificate has ended, and the agent is at another backbone node now. The directory has told of the new one, but
/// there is a tunnel with the old one.
#[test]
fn a_cache_of_a_week_costs_one_round_for_the_certificate_and_one_question_to_the_old_home() {
    let mut pair = Pair::at_homes([2, 3]);
    let certificate = Some(keys(1, START).certificate);
    let info = PeerInfo { key: pair.key(1), certificate, addresses: Vec::new(), homes: vec![pair.home(2)] };
    pair.hosts[0].node.learn_peer(pair.now, info);
    pair.now.unix = pair.now.unix + CERTIFICATE_LIFETIME + CLOCK_SKEW * 2;
    for which in 0..4 {
        let renewed = keys(which, pair.now);
        pair.hosts[which].node.set_keys(renewed);
    }
    pair.run_for(Duration::from_secs(1));
    pair.introduce_by(0, 1, &[3]);
    pair.exchange(0, 1, Duration::from_secs(1));
    assert_eq!(pair.path(0, 1), Some(PathKind::Relay(pair.key(3))));
    assert!(!pair.has(0, |event| matches!(event, Event::ConnectFailed { .. })));
}

#[test]
fn an_agent_that_is_at_none_of_its_homes_is_reported_offline() {
    let mut pair = Pair::at_homes([2, 2]);
    let (second, absent) = (pair.add_backbone(), keys(4, START).identity.key());
    let homes = vec![pair.home(2), pair.home(second)];
    pair.hosts[0].node.learn_peer(pair.now, PeerInfo { key: absent, certificate: None, addresses: Vec::new(), homes });
    pair.hosts[0].node.connect(pair.now, &absent).expect("known");
    pair.run_until(Duration::from_secs(1), |pair| {
        let is_offline = |event: &Event| matches!(event, Event::ConnectFailed { error: ConnectError::Offline(_), .. });
        pair.has(0, is_offline)
    });
}

#[test]
fn a_busy_backbone_node_is_asked_again_while_the_attempt_lasts() {
    let mut pair = Pair::by_relay();
    pair.hosts[2].circuits.busy_for = 3;
    pair.exchange(0, 1, Duration::from_secs(5));
    assert!(!pair.has(0, |event| matches!(event, Event::ConnectFailed { .. })));
}

#[test]
fn an_attempt_that_ends_at_a_busy_node_says_so() {
    let mut pair = Pair::by_relay();
    pair.hosts[2].circuits.busy_for = usize::MAX;
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.run_until(CONNECT_TIMEOUT * 2, |pair| pair.has(0, |event| matches!(event, Event::ConnectFailed { .. })));
    let is_busy = |event: &Event| matches!(event, Event::ConnectFailed { error: ConnectError::Busy(_), .. });
    assert!(pair.has(0, is_busy));
}

/// It cannot read and it cannot forge; what it says of others, it says of itself.
#[test]
fn a_home_node_that_was_silent_for_a_while_is_reported_when_it_answers_again() {
    let mut pair = Pair::at_homes([2, 2]);
    let is_home_event = |event: &Event| matches!(event, Event::HomeLost | Event::HomeConnected);
    // The tunnel outlives the first silence; the second is longer than its keys last.
    for silence in [30, 600] {
        pair.run_for(ONE_WAY * 2);
        pair.hosts[0].events.clear();
        pair.cut = true;
        pair.run_until(Duration::from_secs(90), |pair| pair.has(0, |event| matches!(event, Event::HomeLost)));
        pair.run_for(Duration::from_secs(silence));
        pair.cut = false;
        pair.run_until(Duration::from_secs(30), |pair| pair.has(0, |event| matches!(event, Event::HomeConnected)));
        pair.run_for(Duration::from_secs(30));
        assert_eq!(pair.hosts[0].events.iter().filter(|event| is_home_event(event)).count(), 2, "each is told once");
    }
}

#[test]
fn a_relay_that_repeats_delays_and_misdelivers_changes_no_byte() {
    let mut pair = Pair::by_relay();
    for which in [0, 1] {
        pair.hosts[which].node.set_direct(pair.now, false);
    }
    pair.exchange(0, 1, Duration::from_millis(200));
    pair.hosts.iter_mut().for_each(|host| host.events.clear());
    let request = pair.request(0, 1, &[7; 30_000]);
    let (relay, until) = (pair.hosts[2].address, pair.now.mono + Duration::from_secs(5));
    let mut copied = BTreeSet::new();
    while pair.now.mono < until {
        let mut is_fresh = |packet: &&(Mono, usize, SocketAddr, Vec<u8>)| {
            packet.2 == relay && packet.1 < 2 && copied.insert(packet.3.clone())
        };
        let relayed: Vec<_> = pair.wire.iter().filter(|packet| is_fresh(packet)).cloned().collect();
        for (place, (at, to, from, datagram)) in relayed.into_iter().enumerate() {
            pair.wire.push((at + ONE_WAY * (place as u32 % 5 + 2), to, from, datagram.clone()));
            pair.wire.push((at, 1 - to, from, datagram));
        }
        pair.step(until);
    }
    let opened = pair.hosts[1].events.iter().filter(|event| matches!(event, Event::StreamOpened { .. })).count();
    assert_eq!(opened, 1);
    let stream = pair.incoming(1).expect("opened");
    assert!(pair.read_all(1, stream) == [7; 30_000]);
    assert!(!pair.has(0, |event| matches!(event, Event::Reset { stream, .. } if *stream == request)));
    assert!(!pair.has(1, |event| matches!(event, Event::Reset { .. } | Event::PeerConnected { .. })));
}

/// A node offers circuits in the name of an agent that has never been there.
#[test]
fn an_offer_in_another_name_moves_nobody() {
    let mut pair = Pair::at_homes([2, 3]);
    pair.introduce_by(1, 0, &[2]);
    let (liar, agent) = (pair.add_backbone(), pair.key(1));
    let (now, home) = (pair.now, pair.home(liar));
    let key = home.key;
    pair.hosts[1].node.learn_backbone(now.mono, home, 100);
    pair.hosts[1].node.connect(now, &key).expect("known");
    pair.run_until(Duration::from_secs(1), |pair| {
        pair.hosts[liar].node.peer_status(&agent).is_some_and(|status| status.connected)
    });
    let before = pair.hosts[1].node.peers[pair.slot(1, 0) as usize].homes.clone();
    let offer = CircuitOffer {
        caller: pair.key(0).0.into(),
        attested: "127.0.0.1:7".to_owned(),
        circuit: 77,
        packet: Vec::new().into(),
        instance: pair.instance(0).id.0.into(),
    };
    let header = StreamHeader::new(ServicePort::CIRCUIT);
    let stream = pair.hosts[liar].node.open_stream(pair.now, &agent, &header).expect("a stream");
    pair.say(liar, stream, &circuit::encode(&offer));
    pair.run_for(Duration::from_secs(1));
    let peer = &pair.hosts[1].node.peers[pair.slot(1, 0) as usize];
    assert_eq!((&peer.homes, peer.attested), (&before, None));
    assert!(!pair.hosts[1].node.has_usable_path(pair.now.mono, pair.slot(1, 0)));
}

#[test]
fn what_keeps_a_pair_on_the_relay_has_a_name() {
    let mut pair = Pair::by_relay();
    let other = pair.key(1);
    let named = |pair: &Pair| pair.hosts[0].node.obstacle(&other);
    assert_eq!(named(&pair), Some(Obstacle::NotConnected));
    for which in [0, 1] {
        pair.hosts[which].node.set_direct(pair.now, false);
    }
    pair.exchange(0, 1, Duration::from_millis(200));
    assert_eq!(named(&pair), Some(Obstacle::ForbiddenHere));
    pair.hosts[0].node.set_direct(pair.now, true);
    pair.run_for(ONE_WAY * 4);
    assert_eq!(named(&pair), Some(Obstacle::NoCandidates), "the other one forbids it still");

    pair.cut_ways.extend([(0, 1), (1, 0)]);
    pair.hosts[1].node.set_direct(pair.now, true);
    pair.request(0, 1, b"keeps the tunnel in use");
    pair.run_for(ONE_WAY * 8);
    assert_eq!(named(&pair), Some(Obstacle::Trying));
    pair.run_for(Duration::from_secs(8));
    assert!(matches!(named(&pair), Some(Obstacle::Unanswered { theirs: None, .. })));
    let address = |address: &str| address.parse().expect("an address");
    pair.hosts[0].node.set_local_addresses(pair.now, &[address("[2001:db8::1]:1")]);
    assert_eq!(named(&pair), Some(Obstacle::NoCommonFamily), "the other one is known by IPv4 alone");
    pair.hosts[0].node.set_local_addresses(pair.now, &[address("[2001:db8::1]:1"), address("198.51.100.7:1")]);
    assert_ne!(named(&pair), Some(Obstacle::NoCommonFamily));
    pair.cut_ways.clear();
    pair.run_until(REPROBE_MAX, |pair| named(pair).is_none());
    assert!(matches!(pair.path(0, 1), Some(PathKind::Direct(_))));
}

/// Where another node relays, ours says nothing of the peer, and that means nothing.
#[test]
fn a_peer_at_another_home_is_not_said_to_have_no_udp() {
    let mut pair = Pair::at_homes([2, 3]);
    let other = pair.key(1);
    for which in [0, 1] {
        pair.hosts[which].node.set_direct(pair.now, true);
    }
    pair.introduce_by(0, 1, &[3]);
    pair.cut_ways.extend([(0, 1), (1, 0)]);
    pair.exchange(0, 1, Duration::from_secs(1));
    pair.request(0, 1, b"keeps the tunnel in use");
    pair.run_for(Duration::from_secs(10));
    let obstacle = pair.hosts[0].node.obstacle(&other);
    assert!(matches!(obstacle, Some(Obstacle::Unanswered { theirs: None, .. })), "{obstacle:?}");
}

#[test]
fn a_mapped_address_is_a_candidate_that_counts_once_it_is_proved() {
    let mut pair = Pair::by_relay();
    let (true_one, lie) = (pair.hosts[0].address, "192.0.2.99:7".parse().expect("an address"));
    pair.hosts[0].node.set_mapped_address(pair.now, Some(lie));
    pair.exchange(0, 1, Duration::from_millis(200));
    assert!(pair.astray.iter().any(|(to, _)| *to == lie), "it is tried");
    assert_eq!(pair.path(1, 0), Some(PathKind::Direct(true_one)), "and what answers is used");
    let challenges = pair.astray.iter().filter(|(to, datagram)| *to == lie && datagram.len() > 1).count();
    assert!(challenges <= PROBES_PER_PATH_MAX as usize, "{challenges} challenges");
}
