//! The directory as its callers see it.

use std::time::Duration;

use minicbor::bytes::ByteVec;
use pilot_core::crypto::SIGNATURE_LEN;
use pilot_core::directory::{Asked, Pins};
use pilot_core::id::{Instance, InstanceId};
use pilot_core::identity::{Certificate, Identity, TransportKey};
use pilot_core::limits::INSTANCES_MAX;
use pilot_core::org::issuer::{Applicant, Issuer, Terms};
use pilot_core::org::revocation::{Revocation, list_digest};
use pilot_core::org::roster::{Records, Roster};
use pilot_core::record::{HandOver, IdentityRecord, Offer, PresenceRecord, Withdrawal};
use pilot_core::time::Mono;
use pilot_core::wire::directory::{RuleDigest, Rules};

use super::*;
use crate::store::memory::{MemoryStore, RETURN_TIME};
use crate::store::orgs::ORGS_PER_KEY_MAX;
use crate::store::stored::{Stored, StoredAgent};
use crate::store::{Change, Registration};

const DAY: Duration = Duration::from_secs(86_400);

fn at(secs: u64) -> Now {
    Now { mono: Mono(secs * 1_000_000_000), unix: UnixTime::from_secs(1_800_000_000 + secs) }
}

struct Agent {
    identity: Identity,
    record: IdentityRecord,
    presence: PresenceRecord,
}

impl Agent {
    fn new(seed: u8, name: &str) -> Self {
        let identity = Identity::generate([seed; 32]);
        let (instance, transport) = (InstanceId([seed; 8]), TransportKey::from_secret([seed; 32]));
        let now = at(0).unix;
        let record = IdentityRecord {
            key: identity.key(),
            modifier: identity.modifier(),
            sequence: 1,
            name: name.into(),
            tags: vec![],
            groups: vec!["research".into()],
            description: String::new(),
            offers: vec![],
            issued: now,
            expires: now + 7 * DAY,
        };
        let presence = PresenceRecord {
            key: identity.key(),
            instance,
            sequence: 1,
            certificate: Certificate::issue(&identity, &transport, instance, 1, now).encode().to_vec(),
            homes: vec![],
            issued: now,
            expires: now + DAY / 24,
        };
        Self { identity, record, presence }
    }

    fn key(&self) -> IdentityKey {
        self.identity.key()
    }

    fn instance(&self) -> Instance {
        Instance { key: self.key(), id: self.presence.instance }
    }

    /// The same identity at another home.
    fn at_home(&self, home: u8) -> Self {
        let (instance, transport) = (InstanceId([home; 8]), TransportKey::from_secret([home; 32]));
        let certificate = Certificate::issue(&self.identity, &transport, instance, 1, at(0).unix).encode().to_vec();
        let presence = PresenceRecord { instance, certificate, ..self.presence.clone() };
        Self { identity: self.identity.clone(), record: self.record.clone(), presence }
    }

    fn request(&self) -> Request {
        Request::Register {
            identity: self.record.sign(&self.identity).unwrap(),
            presence: self.presence.sign(&self.identity).unwrap(),
        }
    }
}

/// A directory, and who is connected to its node.
struct Node {
    directory: Directory<MemoryStore>,
    connected: BTreeMap<Instance, ()>,
}

impl Node {
    fn with(agents: &[&Agent]) -> Self {
        let mut node = Self { directory: Directory::new(MemoryStore::new()), connected: BTreeMap::new() };
        for agent in agents {
            node.connected.insert(agent.instance(), ());
            let reply = node.ask(at(0), agent, agent.request());
            assert!(matches!(reply, Reply::Registered { .. }), "{reply:?}");
        }
        node
    }

    fn ask(&mut self, now: Now, caller: &Agent, request: Request) -> Reply {
        match self.directory.handle_request(now, &caller.key(), request, &self.connected) {
            Answer::Ready(reply) => reply,
            Answer::AfterCommit(call) => self.commit(now, call, Ok(())),
        }
    }

    /// Writes what there is to write, and gives the reply that waits for it.
    fn commit(&mut self, now: Now, call: CallId, result: Result<(), String>) -> Reply {
        assert!(self.directory.poll_batch(now).is_some(), "a call waits for nothing");
        assert_eq!(self.directory.poll_reply(), None);
        self.directory.batch_written(result);
        let (answered, reply) = self.directory.poll_reply().expect("a reply");
        assert_eq!(answered, call);
        reply
    }

    fn resolve(&mut self, now: Now, caller: &Agent, name: &str) -> Reply {
        self.ask(now, caller, Request::Resolve { by: Target::Name(name.into()) })
    }

    fn find(&mut self, caller: &Agent, need: &str, limit: u16) -> Vec<String> {
        let find = Find { need: vec![need.into()], limit, ..Find::default() };
        let Reply::Found(entries) = self.ask(at(0), caller, Request::Find(find.clone())) else {
            panic!("a search was not answered")
        };
        let mut pins = Pins::new();
        let verified = entries.iter().map(|entry| pins.check(entry, Asked::Find(&find), at(0).unix).unwrap());
        verified.map(|agent| agent.name).collect()
    }
}

fn code(reply: &Reply) -> Option<ErrorCode> {
    if let Reply::Error { code, .. } = reply { Some(*code) } else { None }
}

#[test]
fn what_is_registered_is_served_as_it_was_signed() {
    let (alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
    let mut node = Node::with(&[&alice, &bob]);
    let Reply::Resolved(entry) = node.resolve(at(1), &bob, "alice") else { panic!("not found") };
    let asked = Target::Name("alice".into());
    let verified = Pins::new().check(&entry, Asked::Resolve(&asked), at(1).unix).unwrap();
    assert!(verified.reachable);
    assert_eq!(verified.key, alice.key());
    let by_address = Request::Resolve { by: Target::Address(alice.identity.address()) };
    assert_eq!(node.ask(at(1), &bob, by_address), Reply::Resolved(entry));
}

#[test]
fn nobody_registers_for_another() {
    let (alice, mallory) = (Agent::new(1, "alice"), Agent::new(3, "mallory"));
    let mut node = Node::with(&[]);
    assert_eq!(code(&node.ask(at(0), &mallory, alice.request())), Some(ErrorCode::NotYours));
    let mixed = Request::Register {
        identity: mallory.record.sign(&mallory.identity).unwrap(),
        presence: alice.presence.sign(&alice.identity).unwrap(),
    };
    assert_eq!(code(&node.ask(at(0), &mallory, mixed)), Some(ErrorCode::BadRequest));
    assert!(node.directory.store().is_empty());
}

/// Mallory has a tunnel to the node, and every record that Alice has ever signed. What would change something about Alice is tried
/// unsigned, signed by Mallory, and signed by Alice but changed or brought by another.
#[test]
fn attack_4_unsigned_directory_change_changes_nothing() {
    let (alice, bob, mallory) = (Agent::new(1, "alice"), Agent::new(2, "bob"), Agent::new(3, "mallory"));
    let mut node = Node::with(&[&alice, &bob, &mallory]);
    let before = node.resolve(at(0), &bob, "alice");
    let records = [
        alice.record.sign(&alice.identity).unwrap(),
        alice.presence.sign(&alice.identity).unwrap(),
        Withdrawal { key: alice.key(), instance: None, sequence: 1, issued: at(0).unix }.sign(&alice.identity).unwrap(),
        HandOver { from: alice.key(), name: "alice".into(), to: bob.key(), issued: at(0).unix }
            .sign(&alice.identity)
            .unwrap(),
    ];
    let unsigned = |record: &Vec<u8>| {
        let payload = &record[..record.len() - SIGNATURE_LEN];
        [payload.to_vec(), [payload, &[0; SIGNATURE_LEN]].concat()]
    };
    let requests = |[identity, presence, withdrawal, hand_over]: [Vec<u8>; 4]| {
        [
            Request::Register { identity, presence },
            Request::Withdraw { signed: withdrawal },
            Request::HandOver { signed: hand_over },
        ]
    };
    let mut attempts = requests(records.clone()).to_vec();
    for kind in 0..2 {
        attempts.extend(requests(records.each_ref().map(|record| unsigned(record)[kind].clone())));
    }
    for place in [0, 40, 60] {
        attempts.extend(requests(records.clone().map(|mut record| {
            record[place] ^= 1;
            record
        })));
    }
    for attempt in attempts {
        let reply = node.ask(at(1), &mallory, attempt.clone());
        assert!(matches!(code(&reply), Some(ErrorCode::NotYours | ErrorCode::BadRequest)), "{attempt:?}: {reply:?}");
    }
    let renamed = IdentityRecord { name: "alice".into(), sequence: 2, ..mallory.record.clone() };
    let own = Request::Register {
        identity: renamed.sign(&mallory.identity).unwrap(),
        presence: mallory.presence.sign(&mallory.identity).unwrap(),
    };
    assert!(matches!(node.ask(at(1), &mallory, own), Reply::NameTaken { .. }));
    assert_eq!(node.resolve(at(1), &bob, "alice"), before);
}

#[test]
fn a_record_that_clients_would_refuse_is_not_taken() {
    let alice = Agent::new(1, "alice");
    let mut node = Node::with(&[]);
    let Request::Register { mut identity, presence } = alice.request() else { panic!("not a registration") };
    identity[10] ^= 1;
    let reply = node.ask(at(0), &alice, Request::Register { identity, presence });
    assert_eq!(code(&reply), Some(ErrorCode::BadRequest));
}

#[test]
fn a_taken_name_says_until_when_and_is_free_after_that() {
    let (alice, mut second) = (Agent::new(1, "alice"), Agent::new(2, "alice"));
    let mut node = Node::with(&[&alice]);
    let free_at = at(0).unix + 8 * DAY;
    assert_eq!(node.ask(at(5), &second, second.request()), Reply::NameTaken { free_at });
    let later = at(8 * 86_400);
    node.directory.handle_timeout(later);
    assert_eq!(node.directory.next_expiry(), None);
    let transport = TransportKey::from_secret([2; 32]);
    let renewed = Certificate::issue(&second.identity, &transport, second.presence.instance, 2, later.unix);
    second.presence.certificate = renewed.encode().to_vec();
    (second.presence.issued, second.presence.expires) = (later.unix, later.unix + DAY / 24);
    (second.record.issued, second.record.expires) = (later.unix, later.unix + DAY);
    assert!(matches!(node.ask(later, &second, second.request()), Reply::Registered { .. }));
}

#[test]
fn an_agent_whose_tunnel_is_gone_is_unreachable_at_once() {
    let (alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
    let mut node = Node::with(&[&alice, &bob]);
    node.connected.remove(&alice.instance());
    let Reply::Resolved(entry) = node.resolve(at(1), &bob, "alice") else { panic!("not found") };
    assert!(!entry.reachable);
}

#[test]
fn presence_ends_although_the_tunnel_lives() {
    let (alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
    let mut node = Node::with(&[&alice, &bob]);
    let Reply::Resolved(entry) = node.resolve(at(3_600), &bob, "alice") else { panic!("not found") };
    assert_eq!((entry.presences, entry.reachable), (vec![], false));
}

#[test]
fn a_withdrawn_agent_is_gone_and_only_it_can_withdraw() {
    let (alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
    let mut node = Node::with(&[&alice, &bob]);
    let withdrawal = Withdrawal { key: alice.key(), sequence: 1, issued: at(0).unix, instance: None };
    let signed = withdrawal.sign(&alice.identity).unwrap();
    let stolen = node.ask(at(1), &bob, Request::Withdraw { signed: signed.clone() });
    assert_eq!(code(&stolen), Some(ErrorCode::NotYours));
    assert_eq!(node.ask(at(1), &alice, Request::Withdraw { signed }), Reply::Withdrawn);
    assert!(matches!(node.resolve(at(1), &bob, "alice"), Reply::NotFound { .. }));
}

#[test]
fn a_misspelt_name_has_suggestions() {
    let agents = [Agent::new(1, "agent-alpha"), Agent::new(2, "agent-beta"), Agent::new(3, "zulu")];
    let mut node = Node::with(&agents.each_ref());
    let suggestions = |reply| if let Reply::NotFound { suggestions } = reply { suggestions } else { vec![] };
    assert_eq!(suggestions(node.resolve(at(0), &agents[2], "agent-alhpa")), ["agent-alpha"]);
    assert_eq!(suggestions(node.resolve(at(0), &agents[2], "agent-betta")), ["agent-beta"]);
    assert_eq!(suggestions(node.resolve(at(0), &agents[2], "weather")), Vec::<String>::new());
}

#[test]
fn a_search_ranks_by_words_then_reachability_then_name() {
    let mut agents: Vec<_> = (1..).zip(["delta", "charlie", "bravo", "alpha"]).map(|(i, n)| Agent::new(i, n)).collect();
    agents[0].record.tags = vec!["citations".into()];
    agents[1].record.description = "Resolves academic citations".into();
    agents[2].record.description = "Resolves academic citations".into();
    agents[3].record.offers = vec![Offer { service: "query".into(), description: "Academic citations!".into() }];
    let mut node = Node::with(&agents.iter().collect::<Vec<_>>());
    assert_eq!(node.find(&agents[0], "resolve citations", 10), ["delta", "alpha", "bravo", "charlie"]);
    assert_eq!(node.find(&agents[0], "academic", 10), ["alpha", "bravo", "charlie"]);
    node.connected.remove(&agents[2].instance());
    assert_eq!(node.find(&agents[0], "resolves", 10), ["charlie", "bravo"]);
    assert_eq!(node.find(&agents[0], "citations", 1), ["delta"]);
    assert_eq!(node.find(&agents[0], "weather", 10), Vec::<String>::new());
}

#[test]
fn a_client_that_asks_too_often_is_busy_and_no_other_is() {
    let (alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
    let mut node = Node::with(&[&alice, &bob]);
    let replies: Vec<_> = (0..CLIENT_RATE.burst).map(|_| node.resolve(at(0), &alice, "bob")).collect();
    assert_eq!(replies.iter().filter(|reply| code(reply) == Some(ErrorCode::Busy)).count(), 1);
    assert!(matches!(node.resolve(at(0), &bob, "alice"), Reply::Resolved(_)));
    node.directory.client_gone(at(0), &alice.key());
    assert_eq!(code(&node.resolve(at(0), &alice, "bob")), Some(ErrorCode::Busy), "leaving does not clear the debt");
}

#[test]
fn a_durable_directory_acknowledges_what_is_written() {
    let (mut alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
    let mut node = Node::with(&[]);
    node.directory = Directory::new(MemoryStore::new()).durable();
    let Answer::AfterCommit(call) =
        node.directory.handle_request(at(0), &alice.key(), alice.request(), &node.connected)
    else {
        panic!("acknowledged before it was written")
    };
    assert!(matches!(node.resolve(at(0), &bob, "alice"), Reply::NotFound { .. }));
    assert!(matches!(node.commit(at(0), call, Ok(())), Reply::Registered { .. }));
    assert!(matches!(node.resolve(at(0), &bob, "alice"), Reply::Resolved(_)));
    alice.presence.sequence += 1;
    let heartbeat = node.directory.handle_request(at(60), &alice.key(), alice.request(), &node.connected);
    assert!(matches!(heartbeat, Answer::Ready(Reply::Registered { .. })), "{heartbeat:?}");
    assert_eq!(node.directory.poll_batch(at(60)), None);
}

#[test]
fn a_full_disk_refuses_what_is_new_and_serves_what_is_known() {
    let (mut alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
    let mut node = Node::with(&[]);
    node.directory = Directory::new(MemoryStore::new()).durable();
    assert!(matches!(node.ask(at(0), &alice, alice.request()), Reply::Registered { .. }));
    let Answer::AfterCommit(call) = node.directory.handle_request(at(1), &bob.key(), bob.request(), &node.connected)
    else {
        panic!("acknowledged before it was written")
    };
    let refused = node.commit(at(1), call, Err("No space left on device".into()));
    let Reply::Error { code: ErrorCode::Busy, message } = refused else { panic!("{refused:?}") };
    assert!(message.ends_with(": No space left on device"), "{message}");
    assert!(matches!(node.resolve(at(1), &bob, "alice"), Reply::Resolved(_)));
    alice.presence.sequence += 1;
    assert!(matches!(node.ask(at(2), &alice, alice.request()), Reply::Registered { .. }), "presence needs no disk");
}

/// What a durable directory leaves that alice has registered with.
fn left_by(alice: &Agent) -> Stored {
    let mut directory = Directory::new(MemoryStore::new()).durable();
    directory.handle_request(at(0), &alice.key(), alice.request(), &BTreeMap::<Instance, ()>::new());
    let changes = directory.poll_batch(at(0)).unwrap().changes;
    let [Change::PutAgent(_, agent)] = &changes[..] else { panic!("{changes:?}") };
    Stored { agents: vec![agent.clone()], names: vec![], orgs: vec![] }
}

#[test]
fn a_restarted_node_knows_the_names_and_whose_they_are_but_nobodys_presence() {
    let (alice, second) = (Agent::new(1, "alice"), Agent::new(2, "alice"));
    let mut node = Node::with(&[]);
    node.directory = Directory::new(MemoryStore::restore(at(60).unix, left_by(&alice)).unwrap());
    let Reply::Resolved(entry) = node.resolve(at(60), &second, "alice") else { panic!("not found") };
    assert_eq!((entry.presences, entry.reachable), (vec![], false));
    let free_at = at(0).unix + 8 * DAY;
    assert_eq!(node.ask(at(60), &second, second.request()), Reply::NameTaken { free_at });
    assert!(matches!(node.ask(at(61), &alice, alice.request()), Reply::Registered { .. }));
}

#[test]
fn nobody_loses_a_name_because_the_node_was_down() {
    let (alice, second) = (Agent::new(1, "alice"), Agent::new(2, "alice"));
    let restart = Now { mono: Mono(0), unix: at(0).unix + DAY };
    let long_ago = Stored {
        agents: left_by(&alice)
            .agents
            .into_iter()
            .map(|agent| StoredAgent { lease_until: restart.unix - 60 * DAY, ..agent })
            .collect(),
        names: vec![],
        orgs: vec![],
    };
    let mut store = MemoryStore::restore(restart.unix, long_ago).unwrap();
    let returns_until = restart.unix + RETURN_TIME;
    assert_eq!(store.next_expiry(), Some(returns_until));
    assert_eq!(store.by_name(restart.unix, "alice"), None, "its lease has ended");
    let registration = |agent: &Agent, now: UnixTime| {
        let mut record = agent.record.clone();
        (record.sequence, record.issued, record.expires) = (2, now, now + 7 * DAY);
        let (identity, address) = (record.sign(&agent.identity).unwrap(), agent.identity.address());
        let (presences, hand_overs) = (vec![], vec![]);
        Operation::Register(Box::new(Registration {
            identity: record,
            identity_bytes: identity,
            address,
            presences,
            lease_until: now + DAY,
            hand_overs,
        }))
    };
    let taken = store.plan(restart.unix, &registration(&second, restart.unix));
    assert_eq!(taken, Err(RegisterError::NameTaken { free_at: returns_until }));
    assert!(store.plan(restart.unix, &registration(&alice, restart.unix)).is_ok());
    assert_eq!(store.expire(returns_until), [Change::RemoveAgent(alice.key())]);
    assert!(store.plan(returns_until, &registration(&second, returns_until)).is_ok());
}

fn hand_over(from: &Agent, to: &Agent, name: &str) -> Request {
    let record = HandOver { from: from.key(), name: name.into(), to: to.key(), issued: at(0).unix };
    Request::HandOver { signed: record.sign(&from.identity).unwrap() }
}

#[test]
fn a_name_that_was_handed_over_is_served_with_the_proof_that_clears_a_pin() {
    let (alice, successor, client) = (Agent::new(1, "alice"), Agent::new(2, "alice"), Agent::new(3, "client"));
    let mut node = Node::with(&[&alice, &client]);
    let mut pins = Pins::new();
    let asked = Target::Name("alice".into());
    let Reply::Resolved(before) = node.resolve(at(0), &client, "alice") else { panic!("not found") };
    pins.check(&before, Asked::Resolve(&asked), at(0).unix).unwrap();
    assert!(matches!(node.ask(at(0), &successor, successor.request()), Reply::NameTaken { .. }));
    assert_eq!(node.ask(at(0), &alice, hand_over(&alice, &successor, "alice")), Reply::HandedOver);
    assert!(matches!(node.ask(at(0), &alice, alice.request()), Reply::NameTaken { .. }), "it is alice's no more");
    assert!(matches!(node.ask(at(0), &successor, successor.request()), Reply::Registered { .. }));
    let Reply::Resolved(after) = node.resolve(at(0), &client, "alice") else { panic!("not found") };
    assert_eq!(pins.check(&after, Asked::Resolve(&asked), at(0).unix).unwrap().key, successor.key());
}

#[test]
fn nobody_hands_over_what_another_has() {
    let (alice, mallory, bob) = (Agent::new(1, "alice"), Agent::new(3, "mallory"), Agent::new(2, "bob"));
    let mut node = Node::with(&[&alice, &mallory, &bob]);
    let not_yours = Some(ErrorCode::NotYours);
    assert_eq!(code(&node.ask(at(0), &mallory, hand_over(&mallory, &bob, "alice"))), not_yours);
    let stolen = hand_over(&alice, &bob, "alice");
    assert_eq!(code(&node.ask(at(0), &mallory, stolen.clone())), not_yours, "between two others");
    let Request::HandOver { mut signed } = stolen else { panic!("another request") };
    signed[50] ^= 1;
    assert_eq!(code(&node.ask(at(0), &bob, Request::HandOver { signed })), Some(ErrorCode::BadRequest));
    assert!(matches!(node.ask(at(0), &alice, alice.request()), Reply::Registered { .. }));
}

/// Home directories of the instances by which an agent is found, in the order in which the directory wants them tried.
fn homes(node: &mut Node, now: Now, name: &str) -> (Vec<u8>, bool) {
    let client = Agent::new(7, "client");
    let Reply::Resolved(entry) = node.resolve(now, &client, name) else { panic!("not found") };
    let asked = Target::Name(name.into());
    let verified = Pins::new().check(&entry, Asked::Resolve(&asked), now.unix).unwrap();
    let homes = verified.instances.iter().map(|instance| instance.certificate.instance.0[0]).collect();
    (homes, verified.reachable)
}

#[test]
fn two_homes_of_one_identity_are_found_together_and_who_is_there_comes_first() {
    let mut alice = Agent::new(1, "alice");
    let other = alice.at_home(2);
    let mut node = Node::with(&[&alice, &other]);
    assert_eq!(homes(&mut node, at(1), "alice"), (vec![2, 1], true));
    alice.presence.sequence += 1;
    assert!(matches!(node.ask(at(60), &alice, alice.request()), Reply::Registered { in_force: None, .. }));
    assert_eq!(homes(&mut node, at(60), "alice"), (vec![1, 2], true), "a heartbeat of one");
    node.connected.remove(&alice.instance());
    assert_eq!(homes(&mut node, at(60), "alice"), (vec![2, 1], true));
    node.connected.remove(&other.instance());
    assert!(!homes(&mut node, at(60), "alice").1);
    assert_eq!(homes(&mut node, at(3_600), "alice").0, [1], "each runs out on its own");
}

#[test]
fn a_home_that_withdraws_takes_neither_the_name_nor_the_other_home() {
    let alice = Agent::new(1, "alice");
    let (other, mallory) = (alice.at_home(2), Agent::new(3, "mallory"));
    let mut node = Node::with(&[&alice, &other, &mallory]);
    let withdrawal =
        Withdrawal { key: alice.key(), sequence: 1, issued: at(0).unix, instance: Some(other.presence.instance) };
    let signed = withdrawal.sign(&alice.identity).unwrap();
    let stolen = node.ask(at(1), &mallory, Request::Withdraw { signed: signed.clone() });
    assert_eq!(code(&stolen), Some(ErrorCode::NotYours));
    assert_eq!(node.ask(at(1), &other, Request::Withdraw { signed }), Reply::Withdrawn);
    assert_eq!(homes(&mut node, at(1), "alice"), (vec![1], true));
}

#[test]
fn of_two_homes_that_say_different_things_the_later_is_in_force_and_the_other_is_told() {
    let alice = Agent::new(1, "alice");
    let mut other = alice.at_home(2);
    let mut node = Node::with(&[&alice]);
    (other.record.sequence, other.record.name) = (2, "alicia".into());
    assert!(matches!(node.ask(at(1), &other, other.request()), Reply::Registered { in_force: None, .. }));
    let Reply::Registered { in_force: Some(told), .. } = node.ask(at(2), &alice, alice.request()) else {
        panic!("not told")
    };
    let told = IdentityRecord::verify(&told, at(2).unix).unwrap();
    assert_eq!(told, other.record);
    assert_eq!(homes(&mut node, at(2), "alicia"), (vec![1, 2], true), "both are where it is now");
    let followed = Agent { record: told, ..alice.at_home(1) };
    assert!(matches!(node.ask(at(3), &followed, followed.request()), Reply::Registered { in_force: None, .. }));
}

#[test]
fn nobody_adds_a_home_to_anothers_identity() {
    let (alice, mallory) = (Agent::new(1, "alice"), Agent::new(3, "mallory"));
    let mut node = Node::with(&[&alice]);
    let own = alice.record.sign(&alice.identity).unwrap();
    let mut changed = alice.at_home(9).presence.sign(&alice.identity).unwrap();
    changed[40] ^= 1;
    for presence in [mallory.presence.sign(&mallory.identity).unwrap(), changed] {
        let request = Request::Register { identity: own.clone(), presence };
        for caller in [&alice, &mallory] {
            assert_eq!(code(&node.ask(at(0), caller, request.clone())), Some(ErrorCode::BadRequest));
        }
    }
    let overheard = alice.at_home(9).request();
    assert_eq!(code(&node.ask(at(0), &mallory, overheard)), Some(ErrorCode::NotYours));
    node.connected.insert(Instance { key: mallory.key(), id: alice.presence.instance }, ());
    node.connected.remove(&alice.instance());
    assert_eq!(homes(&mut node, at(0), "alice"), (vec![1], false), "nor is there in its place");
}

#[test]
fn homes_that_one_identity_invents_are_bounded_and_write_nothing() {
    let alice = Agent::new(1, "alice");
    let mut node = Node::with(&[]);
    node.directory = Directory::new(MemoryStore::new()).durable();
    assert!(matches!(node.ask(at(0), &alice, alice.request()), Reply::Registered { .. }));
    for home in 2..60 {
        let invented = alice.at_home(home);
        let answer = node.directory.handle_request(at(0), &alice.key(), invented.request(), &node.connected);
        assert!(matches!(answer, Answer::Ready(Reply::Registered { .. })), "{answer:?}");
    }
    assert_eq!(node.directory.poll_batch(at(0)), None);
    assert_eq!(homes(&mut node, at(0), "alice").0, [59, 58, 57, 56]);
    let entry = node.directory.store().by_name(at(0).unix, "alice").unwrap();
    assert_eq!(entry.presences.len(), INSTANCES_MAX);
}

/// An organisation of which agent `seed` has the key, and the key of the member `seed + 1` that may enrol.
struct Fleet {
    key: Identity,
    roster: Roster,
    lead: Identity,
}

impl Fleet {
    fn new(seed: u8) -> Self {
        let (key, lead) = (Identity::generate([seed; 32]), Identity::generate([seed + 1; 32]));
        let charters = Issuer::found(&key, lead.key(), "fleet", Duration::ZERO, at(0).unix).unwrap();
        let mut roster = Roster::new(charters);
        let terms =
            Terms { role: "lead".into(), groups: vec![], services: vec![], generations: 1, lifetime: 90 * 86_400 };
        let (name, lifetime_max) = ("lead".into(), Duration::MAX);
        let (modifier, consented) = (lead.modifier(), at(0).unix);
        let applicant = Applicant { key: lead.key(), modifier, name, lifetime_max, consented, consent: None };
        let proof = Issuer::Org(key.clone()).enrol(&roster, &applicant, &terms, at(0).unix).unwrap();
        roster.add_proof(&proof, at(0).unix).unwrap();
        Self { key, roster, lead }
    }

    /// A list that revokes somebody, and which the fleet knows from then on.
    fn revoke(&mut self, by: &Identity, who: u8, now: Now) -> Vec<u8> {
        let revocation = Revocation {
            member: IdentityKey([who; 32]),
            until: now.unix,
            kept_until: now.unix + 90 * DAY,
            has_left: false,
        };
        let (revocations, charters) = (self.roster.revocations(), self.roster.charters());
        let list = revocations.next_list(charters, by.key(), Some(revocation), now.unix).unwrap().sign(by).unwrap();
        assert_eq!(self.roster.add_list(&list, now.unix), Ok(true));
        list
    }

    fn keep(&self, list: &[u8]) -> Request {
        let charters = self.roster.charters().chain().map(|charter| charter.to_vec().into()).collect();
        Request::KeepRules { org: self.key.key(), charters, list: list.to_vec(), proof: None }
    }
}

fn held(node: &mut Node, caller: &Agent, org: IdentityKey, known: Vec<RuleDigest>) -> Rules {
    let reply = node.ask(at(9), caller, Request::Rules { org, known });
    let Reply::Rules(rules) = reply else { panic!("{reply:?}") };
    rules
}

#[test]
fn a_list_is_held_for_whoever_asks_and_an_older_one_does_not_displace_it() {
    let (alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
    let mut node = Node::with(&[&alice, &bob]);
    let mut fleet = Fleet::new(40);
    let (org, key) = (fleet.key.key(), fleet.key.clone());
    let lists = [fleet.revoke(&key, 7, at(0)), fleet.revoke(&key, 8, at(1))];
    for list in lists.iter().rev() {
        assert_eq!(node.ask(at(2), &alice, fleet.keep(list)), Reply::RulesKept);
    }
    let rules = held(&mut node, &bob, org, vec![RuleDigest([9; 8])]);
    assert_eq!((rules.charters.len(), rules.missing.len()), (1, 1));
    assert_eq!(rules.lists, [ByteVec::from(lists[1].clone())]);
    let known = vec![RuleDigest(list_digest(&rules.charters[0])), RuleDigest(list_digest(&lists[1]))];
    assert_eq!(held(&mut node, &bob, org, known), Rules::default());
    assert_eq!(held(&mut node, &bob, IdentityKey([7; 32]), vec![]), Rules::default());
}

#[test]
fn nothing_is_held_in_the_name_of_an_organisation_that_has_not_said_it() {
    let mallory = Agent::new(1, "mallory");
    let mut node = Node::with(&[&mallory]);
    let (mut fleet, mut other) = (Fleet::new(40), Fleet::new(42));
    let (org, key, foreign) = (fleet.key.key(), fleet.key.clone(), other.key.clone());
    let genuine = fleet.revoke(&key, 7, at(0));
    let foreign = other.revoke(&foreign, 7, at(0));
    let with = |org, from: &Fleet, list: &[u8]| {
        let Request::KeepRules { charters, list, .. } = from.keep(list) else { panic!("another request") };
        Request::KeepRules { org, charters, list, proof: None }
    };
    let mut forged = genuine.clone();
    *forged.last_mut().unwrap() ^= 1;
    let lead = fleet.lead.clone();
    let without_proof = fleet.revoke(&lead, 9, at(1));
    for request in [
        with(org, &other, &foreign),
        with(org, &fleet, &foreign),
        with(org, &fleet, &forged),
        with(org, &fleet, &genuine[..genuine.len() - 1]),
        with(org, &fleet, &without_proof),
        Request::KeepRules { org, charters: vec![], list: genuine.clone(), proof: None },
    ] {
        assert_eq!(code(&node.ask(at(1), &mallory, request)), Some(ErrorCode::BadRequest));
    }
    assert_eq!(held(&mut node, &mallory, org, vec![]), Rules::default());
}

#[test]
fn a_list_of_a_member_is_held_with_the_proof_by_which_it_counts() {
    let alice = Agent::new(1, "alice");
    let mut node = Node::with(&[&alice]);
    let mut fleet = Fleet::new(40);
    let (org, lead) = (fleet.key.key(), fleet.lead.clone());
    let list = fleet.revoke(&lead, 7, at(0));
    let proof = fleet.roster.proof(&lead.key(), at(0).unix).unwrap().bytes().to_vec();
    let charters = fleet.roster.charters().chain().map(|charter| charter.to_vec().into()).collect();
    let keep = Request::KeepRules { org, charters, list, proof: Some(proof) };
    assert_eq!(node.ask(at(1), &alice, keep), Reply::RulesKept);
    let Rules { charters, lists, proofs, .. } = held(&mut node, &alice, org, vec![]);
    let records = Records { charters, lists, proofs, whereabouts: vec![] };
    let member = Roster::from_records(org, &records, at(1).unix).unwrap();
    assert_eq!(member.revocations().revoked_until(&lead.key(), &IdentityKey([7; 32])), Some(at(0).unix));
}

#[test]
fn who_brings_many_organisations_is_stopped_and_takes_no_place_of_those_that_are_held() {
    let (mallory, alice) = (Agent::new(1, "mallory"), Agent::new(2, "alice"));
    let mut node = Node::with(&[&mallory, &alice]);
    let mut replies = Vec::new();
    for number in 0..=ORGS_PER_KEY_MAX as u8 {
        let mut fleet = Fleet::new(40 + 2 * number);
        let key = fleet.key.clone();
        let list = fleet.revoke(&key, 7, at(0));
        replies.push((node.ask(at(100 * u64::from(number)), &mallory, fleet.keep(&list)), fleet, list));
    }
    let (last, fleet, list) = replies.pop().unwrap();
    assert!(replies.iter().all(|(reply, ..)| *reply == Reply::RulesKept));
    assert_eq!(code(&last), Some(ErrorCode::Busy));
    assert_eq!(node.ask(at(5_000), &alice, fleet.keep(&list)), Reply::RulesKept, "others may bring it");
    let (_, mut first, _) = replies.remove(0);
    let key = first.key.clone();
    let next = first.revoke(&key, 8, at(1));
    assert_eq!(
        node.ask(at(5_000), &mallory, first.keep(&next)),
        Reply::RulesKept,
        "what is held is brought up to date"
    );
    let mut calls = 0;
    while code(&node.ask(at(6_000), &mallory, first.keep(&next))) != Some(ErrorCode::Busy) {
        calls += 1;
    }
    assert_eq!(calls, CLIENT_RATE.burst / KEEP_RULES_COST, "to verify costs more than to look up");
}

#[test]
fn what_is_held_outlives_the_node_and_ends_with_its_lists() {
    let alice = Agent::new(1, "alice");
    let mut fleet = Fleet::new(40);
    let (org, key) = (fleet.key.key(), fleet.key.clone());
    let list = fleet.revoke(&key, 7, at(0));
    let mut node = Node::with(&[&alice]);
    node.directory = Directory::new(MemoryStore::new()).durable();
    let keep = fleet.keep(&list);
    let Answer::AfterCommit(call) = node.directory.handle_request(at(0), &alice.key(), keep, &node.connected) else {
        panic!("it is not written")
    };
    assert_eq!(held(&mut node, &alice, org, vec![]), Rules::default(), "nothing is served before it is on disk");
    let changes = node.directory.poll_batch(at(0)).unwrap().changes;
    node.directory.batch_written(Ok(()));
    assert_eq!(node.directory.poll_reply(), Some((call, Reply::RulesKept)));
    let [Change::PutOrg(_, stored)] = &changes[..] else { panic!("{changes:?}") };
    let restart = at(100);
    let orgs = vec![stored.clone()];
    let mut store = MemoryStore::restore(restart.unix, Stored { orgs: orgs.clone(), ..Stored::default() }).unwrap();
    assert_eq!(store.rules(&org).unwrap().revocations().lists().next(), Some(&*list));
    let end = store.next_expiry().unwrap();
    assert_eq!(store.expire(end), [Change::RemoveOrg(org)]);
    assert!(store.rules(&org).is_none());
    let wrong_clock = at(0).unix - 30 * DAY;
    let store = MemoryStore::restore(wrong_clock, Stored { orgs, ..Stored::default() });
    assert!(store.unwrap().rules(&org).is_none(), "a clock that is wrong keeps no node from starting");
}
