//! Agents and a backbone node on virtual time: real nodes, sealed packets, and a wire that is a list of datagrams.
//!
//! Agents cannot reach each other directly here; what they say to each other goes by relay.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::config::{Config, Keys, Role};
use pilot_core::directory::{Asked, DirectoryError, Pins, VerifiedAgent};
use pilot_core::event::{Event, PathKind, StreamHandle};
use pilot_core::id::{IdentityKey, InstanceId, ServicePort};
use pilot_core::identity::{Certificate, Identity, TransportKey};
use pilot_core::node::{Node, PeerInfo};
use pilot_core::record::{Home, IdentityRecord, PresenceRecord};
use pilot_core::rng::Rng;
use pilot_core::route::{Ecn, Route, Transmit};
use pilot_core::time::{Mono, Now, UnixTime};
use pilot_core::transport::{Code, Read};
use pilot_core::wire::directory::{Entry, Reply, Request, Target};
use pilot_core::wire::stream_header::StreamHeader;
use pilot_relay::backbone::Backbone;
use pilot_relay::control::CLIENT_SILENCE_MAX;

const START: Now = Now { mono: Mono(1_000_000_000), unix: UnixTime(1_800_000_000_000_000_000) };
const ONE_WAY: Duration = Duration::from_millis(10);
/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

const BACKBONE: usize = 0;
const ALICE: usize = 1;
const BOB: usize = 2;
/// Another home of Bob.
const BOB_TOO: usize = 3;
/// Comes later.
const STRANGER: usize = 4;

/// What answers at the address of the backbone node.
enum Machine {
    Backbone(Box<Backbone>),
    Node(Box<Node>),
}

impl Machine {
    fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Transmit> {
        match self {
            Self::Backbone(backbone) => backbone.poll_transmit(now, buf),
            Self::Node(node) => node.poll_transmit(now, buf),
        }
    }

    fn poll_timeout(&self) -> Option<Mono> {
        match self {
            Self::Backbone(backbone) => backbone.poll_timeout(),
            Self::Node(node) => node.poll_timeout(),
        }
    }

    fn handle_datagram(&mut self, now: Now, from: Route, datagram: &mut [u8]) {
        match self {
            Self::Backbone(backbone) => backbone.handle_datagram(now, from, Ecn::NotEct, datagram),
            Self::Node(node) => node.handle_datagram(now, from, Ecn::NotEct, datagram),
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        match self {
            Self::Backbone(backbone) => backbone.handle_timeout(now),
            Self::Node(node) => node.handle_timeout(now),
        }
    }
}

/// Deriving an address takes a million hashes, so each identity is made once.
static IDENTITIES: LazyLock<[Identity; 4]> = LazyLock::new(|| [1, 2, 3, 4].map(|seed| Identity::generate([seed; 32])));

fn identity(which: usize) -> Identity {
    let place = match which {
        BOB_TOO => BOB,
        STRANGER => 3,
        which => which,
    };
    IDENTITIES[place].clone()
}

fn instance(which: usize) -> InstanceId {
    InstanceId([which as u8; 8])
}

fn keys(which: usize) -> Keys {
    let (identity, transport) = (identity(which), TransportKey::from_secret([which as u8 + 10; 32]));
    let certificate = Certificate::issue(&identity, &transport, instance(which), 1, START.unix);
    Keys { identity, transport: vec![transport], certificate }
}

fn address(which: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, which as u8 + 1], 4_000))
}

fn registration(which: usize, name: &str) -> Request {
    let keys = keys(which);
    let identity = IdentityRecord {
        key: keys.identity.key(),
        modifier: keys.identity.modifier(),
        sequence: 5,
        name: name.into(),
        tags: vec![],
        groups: vec![],
        description: String::new(),
        offers: vec![],
        issued: START.unix,
        expires: START.unix + Duration::from_secs(86_400),
    };
    let presence = PresenceRecord {
        key: keys.identity.key(),
        instance: instance(which),
        sequence: 5,
        certificate: keys.certificate.encode().to_vec(),
        homes: vec![home()],
        issued: START.unix,
        expires: START.unix + Duration::from_secs(3_600),
    };
    Request::Register {
        identity: identity.sign(&keys.identity).unwrap(),
        presence: presence.sign(&keys.identity).unwrap(),
    }
}

fn home() -> Home {
    Home { key: identity(BACKBONE).key(), addresses: vec![address(BACKBONE)] }
}

struct Network {
    now: Now,
    machines: Vec<Machine>,
    events: Vec<Vec<Event>>,
    wire: Vec<(Mono, usize, usize, Vec<u8>)>,
    /// Drops everything to and from this host: its process was killed.
    dead: Option<usize>,
}

impl Network {
    fn new() -> Self {
        Self::with(Machine::Backbone(Box::new(Backbone::new(keys(BACKBONE), [9; 32], START))))
    }

    fn with(backbone: Machine) -> Self {
        let mut network = Self { now: START, machines: vec![backbone], events: vec![vec![]], wire: vec![], dead: None };
        for which in [ALICE, BOB] {
            network.add_agent(which);
        }
        network
    }

    /// An agent with its tunnel to the backbone node.
    fn add_agent(&mut self, which: usize) {
        self.add_machine(which);
        let (now, home) = (self.now, home());
        let info = PeerInfo { key: home.key, certificate: None, addresses: home.addresses, homes: vec![] };
        self.node(which).set_home(now, Some(info));
        self.run_until(|network| network.has(which, |event| matches!(event, Event::HomeConnected)));
    }

    fn add_machine(&mut self, which: usize) {
        assert_eq!(which, self.machines.len());
        let node = Node::new(Config::new(Role::Agent), keys(which), [which as u8; 32], self.now);
        self.machines.push(Machine::Node(Box::new(node)));
        self.events.push(vec![]);
    }

    fn node(&mut self, which: usize) -> &mut Node {
        match &mut self.machines[which] {
            Machine::Node(node) => node,
            Machine::Backbone(_) => panic!("the backbone keeps its node to itself"),
        }
    }

    fn backbone(&self) -> &Backbone {
        match &self.machines[BACKBONE] {
            Machine::Backbone(backbone) => backbone,
            Machine::Node(_) => panic!("the backbone is a liar"),
        }
    }

    fn has(&self, which: usize, is_it: impl Fn(&Event) -> bool) -> bool {
        self.events[which].iter().any(is_it)
    }

    fn drain(&mut self) {
        for from in 0..self.machines.len() {
            let mut buf = Vec::new();
            while let Some(transmit) = self.machines[from].poll_transmit(self.now, &mut buf) {
                for datagram in buf.chunks(transmit.segment_size.unwrap_or(transmit.len)) {
                    self.carry(from, transmit.route.remote, datagram);
                }
                buf.clear();
            }
            if let Machine::Node(node) = &mut self.machines[from] {
                self.events[from].extend(std::iter::from_fn(|| node.poll_event()));
            }
        }
    }

    /// Every path leads to or from the backbone node.
    fn carry(&mut self, from: usize, remote: SocketAddr, datagram: &[u8]) {
        let to = (0..self.machines.len()).find(|to| address(*to) == remote);
        if let Some(to) = to.filter(|to| from == BACKBONE || *to == BACKBONE) {
            self.wire.push((self.now.mono + ONE_WAY, from, to, datagram.to_vec()));
        }
    }

    fn step(&mut self, until: Mono) {
        self.drain();
        let timers = self.machines.iter().filter_map(Machine::poll_timeout);
        let next = self.wire.iter().map(|packet| packet.0).chain(timers).min().unwrap_or(until).min(until);
        let passed = next.since(self.now.mono);
        self.now = Now { mono: self.now.mono + passed, unix: self.now.unix + passed };
        let (due, later) = std::mem::take(&mut self.wire).into_iter().partition(|packet| packet.0 <= self.now.mono);
        self.wire = later;
        let due: Vec<(Mono, usize, usize, Vec<u8>)> = due;
        for (_, from, to, mut datagram) in due {
            if self.dead.is_none_or(|dead| from != dead && to != dead) {
                self.machines[to].handle_datagram(self.now, Route::to(address(from)), &mut datagram);
            }
        }
        for machine in &mut self.machines {
            machine.handle_timeout(self.now);
        }
        self.drain();
    }

    fn run_until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        let until = self.now.mono + LIMIT;
        while !is_done(self) {
            assert!(self.now.mono < until, "not within {LIMIT:?}: {:?}", self.events);
            self.step(until);
        }
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now.mono + time;
        while self.now.mono < until {
            self.step(until);
        }
    }

    /// Opens a stream, writes one message and the end.
    fn send(&mut self, from: usize, to: &IdentityKey, port: ServicePort, message: &[u8]) -> StreamHandle {
        let now = self.now;
        let node = self.node(from);
        let stream = node.open_stream(now, to, &StreamHeader::new(port)).unwrap();
        self.write_all(from, stream, message);
        stream
    }

    fn write_all(&mut self, from: usize, stream: StreamHandle, message: &[u8]) {
        let (now, mut data) = (self.now, Bytes::copy_from_slice(message));
        let node = self.node(from);
        node.write(now, stream, &mut data).unwrap();
        assert!(data.is_empty());
        node.finish(now, stream).unwrap();
    }

    fn receive(&mut self, which: usize, stream: StreamHandle) -> Vec<u8> {
        let mut all = Vec::new();
        self.run_until(|network| {
            loop {
                let now = network.now;
                match network.node(which).read(now, stream, 1 << 20).unwrap() {
                    Read::Data(data) => all.extend_from_slice(&data),
                    Read::Blocked => return false,
                    Read::Finished => return true,
                }
            }
        });
        all
    }

    /// One call to the directory.
    fn call(&mut self, which: usize, request: &Request) -> Reply {
        let stream = self.send(which, &home().key, ServicePort::DIRECTORY, &request.encode());
        Reply::decode(&self.receive(which, stream)).unwrap()
    }

    fn register(&mut self, which: usize, name: &str) {
        let reply = self.call(which, &registration(which, name));
        assert!(matches!(reply, Reply::Registered { .. }), "{reply:?}");
    }

    fn resolve(&mut self, which: usize, name: &str) -> VerifiedAgent {
        let by = Target::Name(name.into());
        let Reply::Resolved(entry) = self.call(which, &Request::Resolve { by: by.clone() }) else {
            panic!("'{name}' was not found")
        };
        Pins::new().check(&entry, Asked::Resolve(&by), self.now.unix).unwrap()
    }

    fn learn(&mut self, which: usize, agent: &VerifiedAgent) {
        let now = self.now;
        for instance in agent.instances.iter().rev() {
            let (certificate, homes) = (Some(instance.certificate.clone()), instance.homes.clone());
            let info = PeerInfo { key: agent.key, certificate, addresses: vec![], homes };
            self.node(which).learn_peer(now, info);
        }
    }

    fn incoming(&mut self, which: usize) -> StreamHandle {
        let opened = |event: &Event| if let Event::StreamOpened { stream, .. } = event { Some(*stream) } else { None };
        self.run_until(|network| network.events[which].iter().any(|event| opened(event).is_some()));
        let stream = self.events[which].iter().find_map(opened).unwrap();
        self.events[which].clear();
        stream
    }

    /// A request of Alice to Bob and his reply, by the home at which he is to be.
    fn exchange(&mut self, bob: &IdentityKey, at: usize) {
        let request = self.send(ALICE, bob, ServicePort::QUERY, b"what is new?");
        let served = self.incoming(at);
        assert_eq!(self.receive(at, served), b"what is new?");
        self.write_all(at, served, b"nothing");
        assert_eq!(self.receive(ALICE, request), b"nothing");
    }

    /// Bob at two homes, both at the backbone node and registered; Alice knows where the directory says that he is.
    fn with_two_homes() -> (Self, IdentityKey) {
        let mut network = Self::new();
        network.add_agent(BOB_TOO);
        network.register(BOB, "bob");
        network.register(BOB_TOO, "bob");
        let bob = network.resolve(ALICE, "bob");
        assert_eq!((bob.instances.len(), bob.reachable), (2, true));
        network.learn(ALICE, &bob);
        (network, bob.key)
    }
}

#[test]
fn two_agents_register_resolve_and_talk_by_relay() {
    let mut network = Network::new();
    network.register(ALICE, "alice");
    network.register(BOB, "bob");
    let bob = network.resolve(ALICE, "bob");
    assert!(bob.reachable);
    assert_eq!(bob.instances[0].homes, [home()]);
    network.learn(ALICE, &bob);
    network.exchange(&bob.key, BOB);
    let path = network.node(ALICE).peer_status(&bob.key).unwrap().path;
    assert_eq!(path, Some(PathKind::Relay(home().key)));
    let status = network.backbone().status();
    assert_eq!((status.summary.agents, status.summary.clients), (2, 2));
    assert!(status.summary.circuits >= 1 && status.relay.packets > 0, "{status:?}");
    assert!(status.relay.drops.is_empty(), "{status:?}");
}

#[test]
fn of_two_homes_at_one_node_each_is_reached_and_calls_by_the_relay() {
    let (mut network, bob) = Network::with_two_homes();
    network.exchange(&bob, BOB_TOO);
    // The other one calls: so that Alice has a tunnel with each, by circuits of the same node.
    let (now, alice) = (network.now, identity(ALICE).key());
    let info = PeerInfo { key: alice, certificate: None, addresses: vec![], homes: vec![home()] };
    network.node(BOB).learn_peer(now, info);
    let calls = network.send(BOB, &alice, ServicePort::QUERY, b"it is me");
    let served = network.incoming(ALICE);
    assert_eq!(network.receive(ALICE, served), b"it is me");
    network.exchange(&bob, BOB_TOO);
    network.write_all(ALICE, served, b"welcome");
    assert_eq!(network.receive(BOB, calls), b"welcome");
    let status = network.backbone().status();
    assert_eq!((status.summary.agents, status.summary.clients), (1, 3));
    assert!(status.relay.drops.is_empty(), "{status:?}");
}

#[test]
fn when_one_of_two_homes_says_goodbye_the_next_call_goes_to_the_other() {
    let (mut network, bob) = Network::with_two_homes();
    network.exchange(&bob, BOB_TOO);
    let now = network.now;
    network.node(BOB_TOO).shutdown(now);
    network.run_for(2 * ONE_WAY);
    let said_goodbye =
        |event: &Event| matches!(event, Event::PeerClosed { peer, code: Code::SHUTDOWN, .. } if *peer == bob);
    assert!(network.has(ALICE, said_goodbye), "by the relay");
    let found = network.resolve(ALICE, "bob");
    assert!(found.reachable);
    assert_eq!(found.instances[0].certificate.instance, instance(BOB));
    network.exchange(&bob, BOB);
}

#[test]
fn when_one_of_two_homes_is_killed_calls_go_to_the_other_as_soon_as_it_is_noticed() {
    let (mut network, bob) = Network::with_two_homes();
    network.exchange(&bob, BOB_TOO);
    network.dead = Some(BOB_TOO);
    let into_the_void = network.send(ALICE, &bob, ServicePort::QUERY, b"anybody?");
    let stalled = |event: &Event| matches!(event, Event::Stalled(stream) if *stream == into_the_void);
    network.run_until(|network| network.has(ALICE, stalled));
    network.exchange(&bob, BOB);
    network.run_for(CLIENT_SILENCE_MAX + Duration::from_secs(60));
    assert_eq!(network.backbone().client_count(), 2);
    assert!(network.resolve(ALICE, "bob").reachable);
}

#[test]
fn a_caller_that_knows_neither_home_reaches_one_of_them_by_the_node() {
    let (mut network, bob) = Network::with_two_homes();
    network.add_agent(STRANGER);
    let now = network.now;
    let info = PeerInfo { key: bob, certificate: None, addresses: vec![], homes: vec![home()] };
    network.node(STRANGER).learn_peer(now, info);
    network.send(STRANGER, &bob, ServicePort::QUERY, b"hello");
    let is_there = |network: &Network, which: usize| {
        network.has(
            which,
            |event| matches!(event, Event::StreamOpened { header, .. } if header.port == ServicePort::QUERY),
        )
    };
    network.run_until(|network| is_there(network, BOB) || is_there(network, BOB_TOO));
}

/// A stranger's first message to a node may carry calls. It may be a replay, so that nothing comes of them before the stranger has used
/// the session; then they are answered, once.
#[test]
fn calls_in_a_first_message_are_held_until_the_session_is_used_and_then_answered() {
    let mut network = Network::new();
    network.add_agent(BOB_TOO);
    network.run_for(2 * ONE_WAY);
    network.add_machine(STRANGER);
    let (now, Home { key, addresses }) = (network.now, home());
    let info = PeerInfo { key, certificate: Some(keys(BACKBONE).certificate), addresses, homes: vec![] };
    network.node(STRANGER).learn_peer(now, info);
    let header = StreamHeader { replay_safe: true, ..StreamHeader::new(ServicePort::DIRECTORY) };
    let calls = [(); 3].map(|()| {
        let stream = network.node(STRANGER).open_stream(now, &key, &header).unwrap();
        network.write_all(STRANGER, stream, &Request::Status.encode());
        stream
    });
    network.drain();
    let first: Vec<_> = network.wire.iter().filter(|packet| packet.1 == STRANGER).cloned().collect();
    assert_eq!(first.len(), 1, "one first message");

    // The first message alone, and once more.
    network.wire.clear();
    for (_, from, to, datagram) in &first {
        for _ in 0..2 {
            network.wire.push((network.now.mono + ONE_WAY, *from, *to, datagram.clone()));
        }
    }
    network.run_for(ONE_WAY);
    assert_eq!(network.backbone().client_count(), 3, "a first message makes nobody a client");
    assert!(network.wire.iter().filter(|packet| packet.2 == STRANGER).count() <= 2, "message 2, and nothing else");

    for call in calls {
        let reply = Reply::decode(&network.receive(STRANGER, call)).unwrap();
        let Reply::Status(status) = reply else { panic!("{reply:?}") };
        assert_eq!(status.clients, 4);
    }
    assert_eq!(network.node(STRANGER).stats().handshakes, 1);
}

#[test]
fn an_agent_that_says_goodbye_is_unreachable_at_once() {
    let mut network = Network::new();
    network.register(BOB, "bob");
    let now = network.now;
    network.node(BOB).shutdown(now);
    network.run_for(2 * ONE_WAY);
    assert!(!network.resolve(ALICE, "bob").reachable);
}

#[test]
fn an_agent_that_was_killed_is_unreachable_after_the_silence_and_one_that_idles_is_not() {
    let mut network = Network::new();
    network.register(BOB, "bob");
    network.dead = Some(BOB);
    network.run_for(CLIENT_SILENCE_MAX + Duration::from_secs(60));
    assert_eq!(network.backbone().client_count(), 1);
    assert!(!network.resolve(ALICE, "bob").reachable);
}

#[test]
fn nobody_is_found_under_a_name_that_nobody_registered() {
    let mut network = Network::new();
    network.register(BOB, "bob");
    let reply = network.call(ALICE, &Request::Resolve { by: Target::Name("bobb".into()) });
    assert_eq!(reply, Reply::NotFound { suggestions: vec!["bob".into()] });
}

#[test]
fn a_name_goes_to_who_registers_first() {
    let mut network = Network::new();
    network.register(ALICE, "alice");
    let reply = network.call(BOB, &registration(BOB, "alice"));
    assert!(matches!(reply, Reply::NameTaken { .. }), "{reply:?}");
}

#[test]
fn junk_changes_nothing_and_is_never_answered_with_more() {
    let mut backbone = Backbone::new(keys(BACKBONE), [9; 32], START);
    let mut rng = Rng::new([4; 32]);
    for round in 0..20_000_u32 {
        let [len_high, len_low] = rng.array();
        let mut datagram = vec![0; usize::from(u16::from_be_bytes([len_high, len_low]) % 1_500)];
        rng.public(&mut datagram);
        if let Some(first) = datagram.first_mut() {
            // Each of our packet types in turn, and now and then STUN.
            *first = if round % 9 == 8 { 0 } else { 0xc0 | ((round % 9) as u8 * 8) };
        }
        let len = datagram.len();
        backbone.handle_datagram(START, Route::to(address(ALICE)), Ecn::NotEct, &mut datagram);
        let mut answer = Vec::new();
        while backbone.poll_transmit(START, &mut answer).is_some() {}
        assert!(answer.len() <= len, "round {round}: {} bytes for {len}", answer.len());
    }
    let status = backbone.status();
    assert_eq!((status.summary.clients, status.summary.agents, status.summary.circuits), (0, 0, 0));
    assert_eq!((status.relay.packets, status.stun_answered), (0, 0));
}

/// A backbone node with genuine tunnels that answers each look-up with what the test says.
struct Liar {
    network: Network,
}

impl Liar {
    fn new() -> Self {
        let node = Node::new(Config::new(Role::Backbone), keys(BACKBONE), [9; 32], START);
        Self { network: Network::with(Machine::Node(Box::new(node))) }
    }

    /// What a client with these pins thinks of this answer when it asks for Bob.
    fn answer(&mut self, pins: &mut Pins, lie: Entry) -> Result<VerifiedAgent, DirectoryError> {
        let by = Target::Name("bob".into());
        let request = Request::Resolve { by: by.clone() }.encode();
        let asked = self.network.send(ALICE, &home().key, ServicePort::DIRECTORY, &request);
        let served = self.network.incoming(BACKBONE);
        self.network.write_all(BACKBONE, served, &Reply::Resolved(lie).encode());
        let Ok(Reply::Resolved(entry)) = Reply::decode(&self.network.receive(ALICE, asked)) else {
            panic!("the liar was misunderstood")
        };
        pins.check(&entry, Asked::Resolve(&by), self.network.now.unix)
    }
}

fn entry(which: usize, name: &str) -> Entry {
    let Request::Register { identity, presence } = registration(which, name) else { panic!("not a registration") };
    Entry { identity, presences: vec![presence.into()], reachable: true, hand_overs: vec![] }
}

/// Bob's record as it was before the one in [`registration`].
fn older_entry() -> Entry {
    let keys = keys(BOB);
    let current = IdentityRecord::verify(&entry(BOB, "bob").identity, START.unix).unwrap();
    let older = IdentityRecord { sequence: current.sequence - 1, ..current };
    Entry { identity: older.sign(&keys.identity).unwrap(), ..entry(BOB, "bob") }
}

#[test]
fn a_lying_relay_is_found_out() {
    let (mut liar, mut pins) = (Liar::new(), Pins::new());
    liar.answer(&mut pins, entry(BOB, "bob")).expect("the truth is believed");

    let mut changed = entry(BOB, "bob");
    changed.identity[40] ^= 1;
    assert!(matches!(liar.answer(&mut pins, changed), Err(DirectoryError::Record(_))));
    assert!(matches!(
        liar.answer(&mut pins, older_entry()),
        Err(DirectoryError::OlderSequence { served: 4, seen: 5, .. })
    ));
    assert!(matches!(liar.answer(&mut pins, entry(ALICE, "bob")), Err(DirectoryError::ChangedKey { .. })));
    assert!(matches!(liar.answer(&mut pins, entry(ALICE, "alice")), Err(DirectoryError::NotAskedFor { .. })));

    liar.answer(&mut pins, entry(BOB, "bob")).expect("the truth is still believed");
}
