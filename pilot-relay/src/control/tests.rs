use std::collections::{BTreeSet, VecDeque};

use pilot_core::identity::{Certificate, Identity, TransportKey};
use pilot_core::record::{IdentityRecord, PresenceRecord};
use pilot_core::route::Route;
use pilot_core::wire::directory::{Find, Target};

use super::*;
use crate::store::memory::MemoryStore;
use crate::store::tests::{register, registration};

const ALICE: Instance = instance(1, 1);
const BOB: Instance = instance(2, 1);
const NODE: IdentityKey = IdentityKey([9; 32]);

fn now() -> Now {
    Now { mono: Mono(1_000_000_000), unix: UnixTime::from_secs(1_800_000_000) }
}

const fn instance(key: u8, id: u8) -> Instance {
    Instance { key: IdentityKey([key; 32]), id: InstanceId([id; 8]) }
}

fn route(client: &Instance) -> Route {
    Route::to(([192, 0, 2, client.key.0[0]], 4_000 + u16::from(client.id.0[0]) - 1).into())
}

/// One stream as its client sees it.
#[derive(Default)]
struct FakeStream {
    inbound: VecDeque<Bytes>,
    is_inbound_finished: bool,
    outbound: Vec<u8>,
    is_outbound_finished: bool,
    aborted: Option<Code>,
}

/// Stands in for the node: streams are numbered, and take `window` bytes each.
struct Fake {
    clients: BTreeSet<Instance>,
    streams: BTreeMap<u32, FakeStream>,
    opened_to: Vec<(u32, Instance)>,
    window: usize,
}

impl Routes for Fake {
    fn validated_remote(&self, client: &Instance) -> Option<Route> {
        self.clients.contains(client).then(|| route(client))
    }

    fn has_validated(&self, _: Mono, client: &Instance, from: &Route) -> bool {
        self.validated_remote(client).as_ref() == Some(from)
    }
}

impl Tunnels for Fake {
    type Stream = u32;

    fn open_stream(&mut self, _: Now, peer: &Instance, _: &StreamHeader) -> Result<u32, OpenStreamError> {
        let stream = 1_000 + self.opened_to.len() as u32;
        self.streams.insert(stream, FakeStream::default());
        self.opened_to.push((stream, *peer));
        Ok(stream)
    }

    fn write(&mut self, _: Now, stream: u32, data: &mut Bytes) -> Result<usize, WriteError> {
        let stream = self.streams.get_mut(&stream).unwrap();
        let taken = data.split_to(data.len().min(self.window.saturating_sub(stream.outbound.len())));
        stream.outbound.extend_from_slice(&taken);
        Ok(taken.len())
    }

    fn finish(&mut self, _: Now, stream: u32) -> Result<(), WriteError> {
        self.streams.get_mut(&stream).unwrap().is_outbound_finished = true;
        Ok(())
    }

    fn read(&mut self, _: Now, stream: u32, _: usize) -> Result<Read, ReadError> {
        let stream = self.streams.get_mut(&stream).unwrap();
        Ok(match stream.inbound.pop_front() {
            Some(data) => Read::Data(data),
            None if stream.is_inbound_finished => Read::Finished,
            None => Read::Blocked,
        })
    }

    fn abort(&mut self, _: Now, stream: u32, code: Code, _: &str) {
        self.streams.get_mut(&stream).unwrap().aborted = Some(code);
    }
}

struct Backbone {
    control: Control<MemoryStore, u32>,
    fake: Fake,
    next_stream: u32,
}

impl Backbone {
    fn with(clients: &[Instance]) -> Self {
        let mut control = Control::new(NODE, MemoryStore::new(), Rng::new([5; 32]), now());
        clients.iter().for_each(|client| control.client_connected(now(), *client));
        let clients = clients.iter().copied().collect();
        let fake = Fake { clients, streams: BTreeMap::new(), opened_to: vec![], window: usize::MAX };
        Self { control, fake, next_stream: 0 }
    }

    fn begin(&mut self, peer: Instance, port: ServicePort) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 1;
        self.fake.streams.insert(stream, FakeStream::default());
        self.control.stream_opened(now(), stream, peer, &StreamHeader::new(port), &mut self.fake);
        stream
    }

    fn feed(&mut self, stream: u32, data: &[u8], is_finished: bool) {
        let state = self.fake.streams.get_mut(&stream).unwrap();
        state.inbound.push_back(Bytes::copy_from_slice(data));
        state.is_inbound_finished = is_finished;
        self.control.stream_readable(now(), stream, &mut self.fake);
    }

    fn call(&mut self, peer: Instance, port: ServicePort, request: &[u8]) -> u32 {
        let stream = self.begin(peer, port);
        self.feed(stream, request, true);
        stream
    }

    fn open(&mut self, caller: Instance, callee: Instance) -> CircuitOpened {
        self.open_at(caller, callee.key, Some(callee.id))
    }

    fn open_at(&mut self, caller: Instance, callee: IdentityKey, instance: Option<InstanceId>) -> CircuitOpened {
        let (destination, instance) = (callee.0.into(), instance.map(|id| id.0.into()));
        let open = CircuitOpen { destination, packet: b"packet".to_vec().into(), instance };
        let stream = self.call(caller, ServicePort::CIRCUIT, &circuit::encode(&open));
        assert!(self.fake.streams[&stream].is_outbound_finished);
        let opened = circuit::decode(&self.fake.streams[&stream].outbound).unwrap();
        self.control.stream_over(stream);
        opened
    }

    fn circuits(&self) -> u64 {
        self.control.status().circuits
    }
}

#[test]
fn a_circuit_is_opened_and_offered_with_the_caller_attested() {
    let mut backbone = Backbone::with(&[ALICE, BOB]);
    let opened = backbone.open(ALICE, BOB);
    assert_eq!((opened.status, opened.attested), (CircuitStatus::Ok, Some("192.0.2.2:4000".into())));
    let (stream, to) = backbone.fake.opened_to[0];
    assert_eq!(to, BOB);
    let offer: CircuitOffer = circuit::decode(&backbone.fake.streams[&stream].outbound).unwrap();
    assert_eq!((*offer.caller, *offer.instance), (ALICE.key.0, ALICE.id.0));
    assert_eq!(offer.attested, "192.0.2.1:4000");
    assert_eq!(offer.packet.as_slice(), b"packet");
    let end = backbone.control.relay.circuits.end(CircuitId(opened.circuit)).unwrap();
    assert_eq!((end.owner, end.peer, end.peer_id), (ALICE, BOB, CircuitId(offer.circuit)));
}

#[test]
fn an_accepted_offer_keeps_the_circuit_and_a_refused_one_ends_it() {
    for (status, kept) in [(CircuitStatus::Ok, 1), (CircuitStatus::Refused, 0)] {
        let mut backbone = Backbone::with(&[ALICE, BOB]);
        backbone.open(ALICE, BOB);
        let (stream, _) = backbone.fake.opened_to[0];
        backbone.feed(stream, &circuit::encode(&CircuitAnswer { status }), true);
        backbone.control.stream_over(stream);
        assert_eq!(backbone.circuits(), kept);
    }
}

#[test]
fn an_offer_that_is_reset_or_answered_with_rubbish_is_refused() {
    let mut backbone = Backbone::with(&[ALICE, BOB]);
    backbone.open(ALICE, BOB);
    backbone.control.stream_over(backbone.fake.opened_to[0].0);
    assert_eq!(backbone.circuits(), 0);
    backbone.open(ALICE, BOB);
    backbone.feed(backbone.fake.opened_to[1].0, b"rubbish", true);
    assert_eq!(backbone.circuits(), 0);
}

#[test]
fn a_repeated_offer_that_is_refused_leaves_the_circuit_that_was_there() {
    let mut backbone = Backbone::with(&[ALICE, BOB]);
    let opened = backbone.open(ALICE, BOB);
    backbone.feed(backbone.fake.opened_to[0].0, &circuit::encode(&CircuitAnswer { status: CircuitStatus::Ok }), true);
    assert_eq!(backbone.open(ALICE, BOB).circuit, opened.circuit);
    backbone.feed(backbone.fake.opened_to[1].0, &circuit::encode(&CircuitAnswer { status: CircuitStatus::Busy }), true);
    backbone.open(ALICE, BOB);
    backbone.control.stream_over(backbone.fake.opened_to[2].0);
    assert!(backbone.control.relay.circuits.end(CircuitId(opened.circuit)).is_some());
}

#[test]
fn an_agent_without_tunnel_is_not_found_and_nobody_calls_oneself() {
    let mut backbone = Backbone::with(&[ALICE]);
    assert_eq!(backbone.open(ALICE, BOB).status, CircuitStatus::NotFound);
    assert_eq!(backbone.open(ALICE, ALICE).status, CircuitStatus::Refused);
    assert_eq!(backbone.circuits(), 0);
}

#[test]
fn of_two_homes_of_an_identity_a_circuit_leads_to_the_one_that_is_meant() {
    let other = instance(2, 2);
    let mut backbone = Backbone::with(&[ALICE, BOB, other]);
    for callee in [BOB, other, BOB] {
        let opened = backbone.open(ALICE, callee);
        assert_eq!(opened.attested, Some(route(&callee).remote.to_string()));
        assert_eq!(backbone.fake.opened_to.last().unwrap().1, callee);
    }
    assert_eq!(backbone.circuits(), 2, "one to each");
    for caller in [other, BOB] {
        let opened = backbone.open(caller, ALICE);
        let end = backbone.control.relay.circuits.end(CircuitId(opened.circuit)).unwrap();
        assert_eq!((end.owner, end.peer), (caller, ALICE));
    }
    assert_eq!(backbone.circuits(), 2, "and back from each by the same");
}

#[test]
fn a_circuit_to_any_home_leads_to_the_one_that_was_heard_last() {
    let other = instance(2, 2);
    let mut backbone = Backbone::with(&[ALICE, BOB, other]);
    let later = Now { mono: now().mono + Duration::from_secs(30), ..now() };
    for heard in [BOB, other] {
        let bytes = |client: &Instance| if *client == heard { u64::from(heard.id.0[0]) } else { 0 };
        assert_eq!(backbone.control.silent_clients(later, bytes), []);
        for instance in [None, Some(InstanceId([9; 8]))] {
            backbone.open_at(ALICE, BOB.key, instance);
            assert_eq!(backbone.fake.opened_to.last().unwrap().1, heard);
        }
        backbone = Backbone::with(&[ALICE, BOB, other]);
    }
}

#[test]
fn a_home_that_has_gone_leaves_the_other_its_calls_and_its_circuits() {
    let other = instance(2, 2);
    let mut backbone = Backbone::with(&[ALICE, BOB, other]);
    backbone.open(ALICE, BOB);
    let call = backbone.begin(BOB, ServicePort::DIRECTORY);
    backbone.fake.clients.remove(&other);
    assert!(backbone.control.client_gone(now(), &other));
    backbone.feed(call, &Request::Status.encode(), true);
    assert!(backbone.fake.streams[&call].is_outbound_finished);
    assert_eq!(backbone.open(ALICE, other).status, CircuitStatus::Ok);
    assert_eq!(backbone.fake.opened_to.last().unwrap().1, BOB, "its caller is led to the other");
}

#[test]
fn a_circuit_outlives_the_tunnel_of_its_client() {
    let mut backbone = Backbone::with(&[ALICE, BOB]);
    backbone.open(ALICE, BOB);
    backbone.control.client_gone(now(), &BOB);
    backbone.control.client_connected(now(), BOB);
    assert_eq!(backbone.circuits(), 1);
}

#[test]
fn who_asks_for_too_many_circuits_is_told_so() {
    let mut backbone = Backbone::with(&[ALICE, BOB]);
    for _ in 0..OPEN_RATE.burst {
        assert_eq!(backbone.open(ALICE, BOB).status, CircuitStatus::Ok);
        let (offer, _) = *backbone.fake.opened_to.last().unwrap();
        backbone.feed(offer, &circuit::encode(&CircuitAnswer { status: CircuitStatus::Ok }), true);
        backbone.control.stream_over(offer);
    }
    assert_eq!(backbone.open(ALICE, BOB).status, CircuitStatus::Busy);
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let mut backbone = Backbone::with(&[ALICE]);
    let stream = backbone.begin(ALICE, ServicePort::DIRECTORY);
    let request = Request::Resolve { by: Target::Name("nobody".into()) }.encode();
    let (last, first) = request.split_last().unwrap();
    for byte in first {
        backbone.feed(stream, &[*byte], false);
        assert!(backbone.fake.streams[&stream].outbound.is_empty());
    }
    backbone.feed(stream, &[*last], true);
    let reply = Reply::decode(&backbone.fake.streams[&stream].outbound);
    assert_eq!(reply, Ok(Reply::NotFound { suggestions: vec![] }));
}

#[test]
fn a_reply_waits_for_the_clients_credit() {
    let mut backbone = Backbone::with(&[ALICE]);
    backbone.fake.window = 4;
    let stream = backbone.call(ALICE, ServicePort::DIRECTORY, &Request::Status.encode());
    assert!(!backbone.fake.streams[&stream].is_outbound_finished);
    backbone.fake.window = usize::MAX;
    backbone.control.stream_writable(now(), stream, &mut backbone.fake);
    let state = &backbone.fake.streams[&stream];
    assert!(state.is_outbound_finished);
    let Ok(Reply::Status(status)) = Reply::decode(&state.outbound) else { panic!("not a status") };
    assert_eq!((status.clients, status.started), (1, now().unix));
}

#[test]
fn an_endless_request_is_cut_short() {
    let mut backbone = Backbone::with(&[ALICE]);
    let stream = backbone.begin(ALICE, ServicePort::DIRECTORY);
    backbone.feed(stream, &[0; REQUEST_LEN_MAX], false);
    assert_eq!(backbone.fake.streams[&stream].aborted, None);
    backbone.feed(stream, &[0], false);
    assert_eq!(backbone.fake.streams[&stream].aborted, Some(Code::BAD_REQUEST));
    assert!(backbone.control.calls.is_empty());
}

#[test]
fn a_request_that_does_not_decode_is_answered() {
    let mut backbone = Backbone::with(&[ALICE]);
    let stream = backbone.call(ALICE, ServicePort::DIRECTORY, b"rubbish");
    let reply = Reply::decode(&backbone.fake.streams[&stream].outbound).unwrap();
    assert!(matches!(reply, Reply::Error { code: ErrorCode::BadRequest, .. }));
}

#[test]
fn calls_under_way_are_bounded_per_client() {
    let mut backbone = Backbone::with(&[ALICE, BOB]);
    let streams: Vec<_> = (0..=CALLS_PER_CLIENT_MAX).map(|_| backbone.begin(ALICE, ServicePort::DIRECTORY)).collect();
    let aborted = |backbone: &Backbone, stream| backbone.fake.streams[&stream].aborted;
    assert_eq!(aborted(&backbone, streams[CALLS_PER_CLIENT_MAX - 1]), None);
    assert_eq!(aborted(&backbone, streams[CALLS_PER_CLIENT_MAX]), Some(Code::BUSY));
    let other = backbone.begin(BOB, ServicePort::DIRECTORY);
    assert_eq!(aborted(&backbone, other), None);
    backbone.control.stream_over(streams[0]);
    let next = backbone.begin(ALICE, ServicePort::DIRECTORY);
    assert_eq!(aborted(&backbone, next), None);
}

#[test]
fn strangers_who_call_a_client_take_none_of_its_own_calls() {
    let mut backbone = Backbone::with(&[ALICE, BOB]);
    let statuses: Vec<_> = (0..=CALLS_PER_CLIENT_MAX).map(|_| backbone.open(ALICE, BOB).status).collect();
    assert_eq!(statuses[CALLS_PER_CLIENT_MAX], CircuitStatus::Busy);
    let own = backbone.begin(BOB, ServicePort::DIRECTORY);
    assert_eq!(backbone.fake.streams[&own].aborted, None);
}

#[test]
fn a_client_that_comes_again_has_the_rate_that_it_had() {
    let mut backbone = Backbone::with(&[ALICE, BOB]);
    for _ in 0..OPEN_RATE.burst {
        backbone.open(ALICE, BOB);
    }
    backbone.control.client_connected(now(), ALICE);
    assert_eq!(backbone.open(ALICE, BOB).status, CircuitStatus::Busy);
}

#[test]
fn other_services_are_not_found() {
    let mut backbone = Backbone::with(&[ALICE]);
    let stream = backbone.begin(ALICE, ServicePort::MCP);
    assert_eq!(backbone.fake.streams[&stream].aborted, Some(Code::NOT_FOUND));
}

#[test]
fn a_client_counts_as_silent_only_when_nothing_comes() {
    let mut control = Backbone::with(&[ALICE, BOB]).control;
    let later = |secs| Now { mono: now().mono + Duration::from_secs(secs), ..now() };
    let silent = control.silent_clients(later(120), |client| if *client == ALICE { 500 } else { 0 });
    assert_eq!(silent, []);
    let silent = control.silent_clients(later(180), |client| if *client == ALICE { 500 } else { 0 });
    assert_eq!(silent, [BOB]);
    let silent = control.silent_clients(later(300), |_| 500);
    assert_eq!(silent, [ALICE]);
}

#[test]
fn a_client_that_goes_leaves_no_calls() {
    let mut backbone = Backbone::with(&[ALICE, BOB]);
    backbone.begin(ALICE, ServicePort::DIRECTORY);
    backbone.open(ALICE, BOB);
    backbone.control.client_gone(now(), &ALICE);
    backbone.control.client_gone(now(), &BOB);
    assert!(backbone.control.calls.is_empty() && backbone.control.clients.is_empty());
    assert_eq!(backbone.control.status().clients, 0);
}

fn with_roles(roles: Roles) -> Backbone {
    let mut backbone = Backbone::with(&[]);
    backbone.control = Control::new(NODE, MemoryStore::new(), Rng::new([5; 32]), now()).with_roles(roles);
    for client in [ALICE, BOB] {
        backbone.control.client_connected(now(), client);
        backbone.fake.clients.insert(client);
    }
    backbone
}

#[test]
fn a_node_without_a_directory_says_which_node_that_is_and_still_tells_its_status() {
    let mut backbone = with_roles(Roles { stun: true, relay: true, directory: false });
    let mut ask = |request: Request| {
        let stream = backbone.call(ALICE, ServicePort::DIRECTORY, &request.encode());
        Reply::decode(&backbone.fake.streams[&stream].outbound).unwrap()
    };
    let refused = ask(Request::Resolve { by: Target::Name("bob".into()) });
    let message = format!("backbone node {NODE} is no directory; its roles: stun, relay");
    assert_eq!(refused, Reply::Error { code: ErrorCode::NoSuchRole, message });
    assert!(matches!(ask(Request::Status), Reply::Status(_)));
    assert_eq!(backbone.open(ALICE, BOB).status, CircuitStatus::Ok);
}

#[test]
fn a_node_without_a_relay_says_which_node_that_is() {
    let mut backbone = with_roles(Roles { directory: true, ..Roles::NONE });
    let opened = backbone.open(ALICE, BOB);
    assert_eq!(opened.status, CircuitStatus::Refused);
    assert_eq!(opened.reason, format!("backbone node {NODE} is no relay; its roles: directory"));
    assert!(backbone.fake.opened_to.is_empty() && backbone.circuits() == 0);
}

#[test]
fn a_client_that_does_not_wait_for_the_disk_leaves_nothing_behind() {
    let mut backbone = Backbone::with(&[]);
    backbone.control = Control::new(NODE, MemoryStore::new(), Rng::new([5; 32]), now()).durable();
    let identity = Identity::generate([1; 32]);
    let client = Instance { key: identity.key(), id: InstanceId([1; 8]) };
    backbone.control.client_connected(now(), client);
    let stream = backbone.call(client, ServicePort::DIRECTORY, &registration_of(&identity).encode());
    assert!(backbone.control.poll_batch(now()).is_some());
    assert!(backbone.fake.streams[&stream].outbound.is_empty(), "acknowledged before it was written");
    backbone.control.client_gone(now(), &client);
    assert!(backbone.control.calls.is_empty() && backbone.control.committing.is_empty());
    backbone.control.batch_written(Ok(()));
    backbone.control.send_replies(now(), &mut backbone.fake);
    assert!(backbone.fake.streams[&stream].outbound.is_empty());
    assert_eq!(backbone.control.status().agents, 1, "it was written all the same");
}

#[test]
fn who_waits_for_the_disk_is_answered_when_it_has_answered() {
    let mut backbone = Backbone::with(&[]);
    backbone.control = Control::new(NODE, MemoryStore::new(), Rng::new([5; 32]), now()).durable();
    let identity = Identity::generate([1; 32]);
    let client = Instance { key: identity.key(), id: InstanceId([1; 8]) };
    backbone.control.client_connected(now(), client);
    for (result, is_registered) in [(Err("disk full".to_owned()), false), (Ok(()), true)] {
        let stream = backbone.call(client, ServicePort::DIRECTORY, &registration_of(&identity).encode());
        assert!(backbone.control.poll_batch(now()).is_some());
        backbone.control.batch_written(result);
        backbone.control.send_replies(now(), &mut backbone.fake);
        let state = &backbone.fake.streams[&stream];
        assert!(state.is_outbound_finished);
        let reply = Reply::decode(&state.outbound).unwrap();
        assert_eq!(matches!(reply, Reply::Registered { .. }), is_registered, "{reply:?}");
    }
}

/// Bytes that a node with so many agents sends for one registration and three look-ups, to whomever.
fn bytes_sent_among(agents: u16) -> usize {
    let mut store = MemoryStore::new();
    for number in 0..agents {
        let mut agent = registration(0, &format!("agent-{number:05}"));
        let [high, low] = number.to_be_bytes();
        agent.identity.key.0[..2].copy_from_slice(&[high, low]);
        agent.address.0[..2].copy_from_slice(&[high, low]);
        agent.identity_bytes = vec![7; 300];
        register(&mut store, now().unix, agent).unwrap();
    }
    let mut backbone = Backbone::with(&[]);
    backbone.control = Control::new(NODE, store, Rng::new([5; 32]), now());
    let identity = Identity::generate([1; 32]);
    let newcomer = Instance { key: identity.key(), id: InstanceId([1; 8]) };
    for client in [ALICE, BOB, newcomer] {
        backbone.control.client_connected(now(), client);
        backbone.fake.clients.insert(client);
    }
    backbone.call(newcomer, ServicePort::DIRECTORY, &registration_of(&identity).encode());
    let look_ups = [
        Request::Resolve { by: Target::Name("agent-00042".into()) },
        Request::Resolve { by: Target::Name("agent-xxxxx".into()) },
        Request::Find(Find { need: vec!["citations".into()], limit: 10, ..Find::default() }),
    ];
    for look_up in look_ups {
        backbone.call(ALICE, ServicePort::DIRECTORY, &look_up.encode());
    }
    backbone.control.handle_timeout(now());
    assert!(backbone.fake.opened_to.is_empty(), "nobody is told who has not asked");
    backbone.fake.streams.values().map(|stream| stream.outbound.len()).sum()
}

#[test]
fn trap_33_a_change_and_a_look_up_cost_the_same_bytes_among_a_hundred_agents_and_ten_thousand() {
    assert_eq!(bytes_sent_among(100), bytes_sent_among(10_000));
}

fn registration_of(identity: &Identity) -> Request {
    let (instance, issued) = (InstanceId([1; 8]), now().unix);
    let certificate = Certificate::issue(identity, &TransportKey::from_secret([1; 32]), instance, 1, issued);
    let expires = issued + Duration::from_secs(3_600);
    let (key, modifier) = (identity.key(), identity.modifier());
    let name = "alice".to_owned();
    let (tags, groups, description, offers) = (vec![], vec![], String::new(), vec![]);
    let record =
        IdentityRecord { key, modifier, sequence: 1, name, tags, groups, description, offers, issued, expires };
    let certificate = certificate.encode().to_vec();
    let presence = PresenceRecord { key, instance, sequence: 1, certificate, homes: vec![], issued, expires };
    Request::Register { identity: record.sign(identity).unwrap(), presence: presence.sign(identity).unwrap() }
}
