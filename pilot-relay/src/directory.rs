//! The directory of a backbone node (spec/backbone.md §3): carries out the requests of authenticated callers on a [`Store`].
//!
//! It verifies what it is given as any client would, so that no client has to refuse what it serves, and lets each caller register only
//! its own key. Dates of leases are counted by its own clock from the moment of registration: clocks of agents are wrong now and then.
//!
//! A [durable](Directory::durable) directory answers what changes more than presence only when its driver has written it down.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pilot_core::id::IdentityKey;
use pilot_core::record::{HandOver, IdentityRecord, PresenceRecord, RecordError, Withdrawal};
use pilot_core::time::{Now, UnixTime};
use pilot_core::wire::directory::{
    Entry, ErrorCode, FIND_LIMIT_MAX, FIND_WORDS_MAX, Find, REPLY_LEN_MAX, Reply, Request, SUGGESTIONS_MAX, Target,
};

use crate::journal::{Batch, CallId, Done, Journal, Outcome};
use crate::limits::{Rate, TokenBucket};
use crate::store::{Operation, Present, RegisterError, Registration, Store, words};

/// Requests of one client: an agent that meets a hundred others at once is served, one that searches in a loop is slowed.
pub const CLIENT_RATE: Rate = Rate { per_second: 50, burst: 500 };
/// Clients whose rates are remembered; beyond this, those back at their full allowance are dropped.
const BUCKETS_MAX: usize = 65_536;
/// Agents that a search ranks. A search that matches more is too broad for their order to mean much.
const CANDIDATES_MAX: usize = 2_048;
/// Names that are compared with one that was not found.
const NEIGHBOURS_MAX: usize = 512;
/// A name more edits away than this is a different name, not a misspelling.
const SUGGESTION_EDITS_MAX: usize = 2;
/// Bytes of a [`Reply::Found`] beside its entries.
const FOUND_FRAMING_LEN: usize = 64;

/// Tells which agents have a live tunnel to this node.
pub trait Presence {
    /// Whether `key` has one.
    fn is_connected(&self, key: &IdentityKey) -> bool;
}

/// What a node keeps for each client with a live tunnel.
impl<V> Presence for BTreeMap<IdentityKey, V> {
    fn is_connected(&self, key: &IdentityKey) -> bool {
        self.contains_key(key)
    }
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This.
    Ready(Reply),
    /// [`Directory::poll_reply`] gives the reply when the disk has answered.
    AfterCommit(CallId),
}

/// The directory over some store.
#[derive(Debug)]
pub struct Directory<S> {
    store: S,
    /// What is not on disk yet; none if nothing outlives the node.
    journal: Option<Journal>,
    buckets: BTreeMap<IdentityKey, TokenBucket>,
}

impl<S: Store> Directory<S> {
    /// A directory that keeps its registrations in `store` and no longer than that lives.
    pub fn new(store: S) -> Self {
        Self { store, journal: None, buckets: BTreeMap::new() }
    }

    /// The same, but it acknowledges nothing that its driver has not written down: see [`Directory::poll_batch`].
    #[must_use]
    pub fn durable(self) -> Self {
        Self { journal: Some(Journal::default()), ..self }
    }

    /// Carries out a request of `caller`, whom the tunnel has authenticated. [`Request::Status`] is answered by the node.
    pub fn handle_request(
        &mut self,
        now: Now,
        caller: &IdentityKey,
        request: Request,
        presence: &impl Presence,
    ) -> Answer {
        if !self.buckets.entry(*caller).or_default().take(now.mono, CLIENT_RATE, 1) {
            return Answer::Ready(error(ErrorCode::Busy, "too many requests, try again in a second"));
        }
        let operation = match request {
            Request::Register { identity, presence } => registration(now.unix, caller, identity, presence),
            Request::Withdraw { signed } => withdrawal(now.unix, caller, &signed),
            Request::HandOver { signed } => hand_over(now.unix, caller, signed),
            Request::Resolve { by } => Err(self.resolve(now.unix, &by, presence)),
            Request::Find(find) => Err(self.find(now.unix, find, presence)),
            Request::Status => Err(error(ErrorCode::BadRequest, "not a request to the directory")),
        };
        match operation {
            Ok(operation) => self.carry_out(now.unix, operation),
            Err(reply) => Answer::Ready(reply),
        }
    }

    /// What is to be written in one commit, if anything is. [`Directory::batch_written`] must follow.
    pub fn poll_batch(&mut self, now: Now) -> Option<Batch> {
        self.journal.as_mut()?.poll_batch(now.unix, &mut self.store)
    }

    /// The last batch is on disk, or it is not and `result` tells why.
    pub fn batch_written(&mut self, result: Result<(), String>) {
        if let Some(journal) = &mut self.journal {
            journal.batch_written(result, &mut self.store);
        }
    }

    /// The reply to a call that was to be answered after a commit.
    pub fn poll_reply(&mut self) -> Option<(CallId, Reply)> {
        self.journal.as_mut()?.poll_outcome().map(|(call, outcome)| (call, reply(outcome)))
    }

    /// Forgets what is free again.
    pub fn handle_timeout(&mut self, now: Now) {
        match &mut self.journal {
            Some(journal) => journal.expire(now.unix, &mut self.store),
            None => drop(self.store.expire(now.unix)),
        }
    }

    /// When the next name is free again. While a batch is on its way, that is not asked.
    pub fn next_expiry(&self) -> Option<UnixTime> {
        let is_writing = self.journal.as_ref().is_some_and(Journal::is_writing);
        self.store.next_expiry().filter(|_| !is_writing)
    }

    /// Forgets the request rate of a client that has gone, unless it left in debt.
    pub fn client_gone(&mut self, now: Now, client: &IdentityKey) {
        if self.buckets.get(client).is_some_and(|bucket| bucket.is_full(now.mono)) {
            self.buckets.remove(client);
        } else if self.buckets.len() > BUCKETS_MAX {
            self.buckets.retain(|_, bucket| !bucket.is_full(now.mono));
        }
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Does at once what leaves no trace on disk, and what does if there is no disk.
    fn carry_out(&mut self, now: UnixTime, operation: Operation) -> Answer {
        let planned = self.store.plan(now, &operation);
        match &mut self.journal {
            Some(journal) if journal.is_touched(&operation) || planned.as_ref().is_ok_and(|plan| !plan.is_empty()) => {
                let busy = || Answer::Ready(error(ErrorCode::Busy, "the directory's disk does not keep up"));
                journal.submit(operation).map_or_else(busy, Answer::AfterCommit)
            }
            Some(_) | None => {
                let outcome = planned.map_or_else(Outcome::Refused, |_| {
                    let done = Done::by(&operation);
                    self.store.apply(now, operation);
                    Outcome::Done(done)
                });
                Answer::Ready(reply(outcome))
            }
        }
    }

    fn resolve(&self, now: UnixTime, by: &Target, presence: &impl Presence) -> Reply {
        let found = match by {
            Target::Name(name) => self.store.by_name(now, name),
            Target::Key(key) => self.store.by_key(now, key),
            Target::Address(address) => self.store.by_address(now, *address),
        };
        match (found, by) {
            (Some(registration), _) => Reply::Resolved(entry(now, &registration, presence)),
            (None, Target::Name(name)) => Reply::NotFound { suggestions: self.suggestions(name) },
            (None, Target::Key(_) | Target::Address(_)) => Reply::NotFound { suggestions: Vec::new() },
        }
    }

    /// The best matches: by how well the words match, then reachable ones first, then by name.
    fn find(&self, now: UnixTime, mut find: Find, presence: &impl Presence) -> Reply {
        find.need = find.need.iter().flat_map(|need| words(need)).take(FIND_WORDS_MAX).collect();
        let mut ranked: Vec<_> = self.store.candidates(now, &find, CANDIDATES_MAX);
        ranked.sort_by_cached_key(|candidate| {
            let unreachable = !is_reachable(now, candidate, presence);
            (Reverse(score(&candidate.identity, &find.need)), unreachable, candidate.identity.name.clone())
        });
        ranked.truncate(usize::from(find.limit.clamp(1, FIND_LIMIT_MAX)));
        Reply::Found(entries_in_bounds(now, &ranked, presence))
    }

    fn suggestions(&self, name: &str) -> Vec<String> {
        let near = self.store.names_near(name, NEIGHBOURS_MAX).into_iter();
        let mut near: Vec<_> = near.map(|known| (edits(name, &known), known)).collect();
        near.retain(|(edits, _)| *edits <= SUGGESTION_EDITS_MAX);
        near.sort_unstable();
        near.into_iter().take(SUGGESTIONS_MAX).map(|(_, known)| known).collect()
    }
}

/// What the records ask for, or why they are not taken.
fn registration(now: UnixTime, caller: &IdentityKey, identity: Vec<u8>, presence: Vec<u8>) -> Result<Operation, Reply> {
    let registration = verify(now, identity, presence).map_err(|reason| bad_record(&reason))?;
    if registration.identity.key != *caller {
        return Err(error(ErrorCode::NotYours, "the records belong to another key"));
    }
    Ok(Operation::Register(Box::new(registration)))
}

fn withdrawal(now: UnixTime, caller: &IdentityKey, signed: &[u8]) -> Result<Operation, Reply> {
    let Withdrawal { key, sequence, .. } = Withdrawal::verify(signed, now).map_err(|reason| bad_record(&reason))?;
    if key != *caller {
        return Err(error(ErrorCode::NotYours, "the withdrawal belongs to another key"));
    }
    Ok(Operation::Withdraw { key, sequence })
}

fn hand_over(now: UnixTime, caller: &IdentityKey, signed: Vec<u8>) -> Result<Operation, Reply> {
    let record = HandOver::verify(&signed, now).map_err(|reason| bad_record(&reason))?;
    if record.from != *caller && record.to != *caller {
        return Err(error(ErrorCode::NotYours, "the hand-over is between two other keys"));
    }
    Ok(Operation::HandOver { record, bytes: signed.into() })
}

/// Verifies both records as a client would, and converts their dates to our clock.
fn verify(now: UnixTime, identity_bytes: Vec<u8>, presence_bytes: Vec<u8>) -> Result<Registration, RecordError> {
    let identity = IdentityRecord::verify(&identity_bytes, now)?;
    let presence = PresenceRecord::verify(&presence_bytes, now)?;
    if presence.key != identity.key {
        return Err(RecordError::ForeignKey);
    }
    let address = identity.address().ok_or(RecordError::Address)?;
    let lease_until = until(now, identity.issued, identity.expires);
    let until = until(now, presence.issued, presence.expires);
    let present = Some(Present { record: presence, bytes: presence_bytes, until });
    Ok(Registration { identity, identity_bytes, address, present, lease_until, hand_overs: Vec::new() })
}

/// What the caller is told of an operation.
fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Done(Done::Registered(lease_until)) => Reply::Registered { lease_until },
        Outcome::Done(Done::Withdrawn) => Reply::Withdrawn,
        Outcome::Done(Done::HandedOver) => Reply::HandedOver,
        Outcome::Refused(RegisterError::NameTaken { free_at }) => Reply::NameTaken { free_at },
        Outcome::Refused(RegisterError::AddressTaken) => Reply::AddressTaken,
        Outcome::Refused(reason @ RegisterError::OldSequence(_)) => error(ErrorCode::OldSequence, &reason.to_string()),
        Outcome::Refused(reason @ RegisterError::NotHeld) => error(ErrorCode::NotYours, &reason.to_string()),
        Outcome::Refused(reason @ RegisterError::Full) => error(ErrorCode::Busy, &reason.to_string()),
        Outcome::NotStored(reason) => {
            error(ErrorCode::Busy, &format!("the directory stores nothing new for now: {reason}"))
        }
    }
}

/// When a validity of the same length ends if it begins now, by our clock.
fn until(now: UnixTime, issued: UnixTime, expires: UnixTime) -> UnixTime {
    now + Duration::from_nanos(expires.0.saturating_sub(issued.0))
}

fn is_reachable(now: UnixTime, registration: &Registration, presence: &impl Presence) -> bool {
    registration.presence_at(now).is_some() && presence.is_connected(&registration.identity.key)
}

fn entry(now: UnixTime, registration: &Registration, presence: &impl Presence) -> Entry {
    Entry {
        identity: registration.identity_bytes.clone(),
        presence: registration.presence_at(now).map(|present| present.bytes.clone()),
        reachable: is_reachable(now, registration, presence),
        hand_overs: registration.hand_overs.clone(),
    }
}

/// As many entries as a client accepts in one reply.
fn entries_in_bounds(now: UnixTime, ranked: &[Arc<Registration>], presence: &impl Presence) -> Vec<Entry> {
    let mut room = REPLY_LEN_MAX - FOUND_FRAMING_LEN;
    let mut fits = |entry: &Entry| {
        let hand_overs: usize = entry.hand_overs.iter().map(|bytes| bytes.len()).sum();
        let len = entry.identity.len() + entry.presence.as_ref().map_or(0, Vec::len) + hand_overs + FOUND_FRAMING_LEN;
        room.checked_sub(len).map(|rest| room = rest).is_some()
    };
    let entries = ranked.iter().map(|registration| entry(now, registration, presence));
    entries.take_while(|entry| fits(entry)).collect()
}

/// How well an agent matches the words: a label weighs more than a sentence, since it is chosen with more care.
fn score(identity: &IdentityRecord, need: &[String]) -> u32 {
    const LABEL: u32 = 4;
    const OFFER: u32 = 2;
    const DESCRIPTION: u32 = 1;
    let labels = identity.tags.iter().chain(&identity.groups).chain([&identity.name]).map(|text| (LABEL, text));
    let offers = identity.offers.iter().flat_map(|offer| [(LABEL, &offer.service), (OFFER, &offer.description)]);
    let texts = labels.chain(offers).chain([(DESCRIPTION, &identity.description)]);
    let mut best: BTreeMap<&String, u32> = need.iter().map(|word| (word, 0)).collect();
    for (weight, word) in texts.flat_map(|(weight, text)| words(text).map(move |word| (weight, word))) {
        if let Some(score) = best.get_mut(&word) {
            *score = weight.max(*score);
        }
    }
    best.into_values().sum()
}

/// Optimal string alignment distance: typing errors, a swap of neighbours counted as one.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substitution = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                let swap = if swapped { rows[i - 2][j - 2] + 1 } else { usize::MAX };
                substitution.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(swap)
            };
        }
    }
    rows[a.len()][b.len()]
}

fn bad_record(reason: &RecordError) -> Reply {
    error(ErrorCode::BadRequest, &reason.to_string())
}

fn error(code: ErrorCode, message: &str) -> Reply {
    Reply::Error { code, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use pilot_core::directory::{Asked, Pins};
    use pilot_core::id::InstanceId;
    use pilot_core::identity::{Certificate, Identity, TransportKey};
    use pilot_core::record::Offer;
    use pilot_core::time::Mono;

    use super::*;
    use crate::store::Change;
    use crate::store::memory::{MemoryStore, RETURN_TIME};
    use crate::store::stored::{Stored, StoredAgent};

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
        connected: BTreeMap<IdentityKey, ()>,
    }

    impl Node {
        fn with(agents: &[&Agent]) -> Self {
            let mut node = Self { directory: Directory::new(MemoryStore::new()), connected: BTreeMap::new() };
            for agent in agents {
                node.connected.insert(agent.key(), ());
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
        node.connected.remove(&alice.key());
        let Reply::Resolved(entry) = node.resolve(at(1), &bob, "alice") else { panic!("not found") };
        assert!(!entry.reachable);
    }

    #[test]
    fn presence_ends_although_the_tunnel_lives() {
        let (alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
        let mut node = Node::with(&[&alice, &bob]);
        let Reply::Resolved(entry) = node.resolve(at(3_600), &bob, "alice") else { panic!("not found") };
        assert_eq!((entry.presence, entry.reachable), (None, false));
    }

    #[test]
    fn a_withdrawn_agent_is_gone_and_only_it_can_withdraw() {
        let (alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
        let mut node = Node::with(&[&alice, &bob]);
        let withdrawal = Withdrawal { key: alice.key(), sequence: 1, issued: at(0).unix };
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
        let mut agents: Vec<_> =
            (1..).zip(["delta", "charlie", "bravo", "alpha"]).map(|(i, n)| Agent::new(i, n)).collect();
        agents[0].record.tags = vec!["citations".into()];
        agents[1].record.description = "Resolves academic citations".into();
        agents[2].record.description = "Resolves academic citations".into();
        agents[3].record.offers = vec![Offer { service: "query".into(), description: "Academic citations!".into() }];
        let mut node = Node::with(&agents.iter().collect::<Vec<_>>());
        assert_eq!(node.find(&agents[0], "resolve citations", 10), ["delta", "alpha", "bravo", "charlie"]);
        assert_eq!(node.find(&agents[0], "academic", 10), ["alpha", "bravo", "charlie"]);
        node.connected.remove(&agents[2].key());
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
        let Answer::AfterCommit(call) =
            node.directory.handle_request(at(1), &bob.key(), bob.request(), &node.connected)
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
        directory.handle_request(at(0), &alice.key(), alice.request(), &BTreeMap::<IdentityKey, ()>::new());
        let changes = directory.poll_batch(at(0)).unwrap().changes;
        let [Change::PutAgent(_, agent)] = &changes[..] else { panic!("{changes:?}") };
        Stored { agents: vec![agent.clone()], names: vec![] }
    }

    #[test]
    fn a_restarted_node_knows_the_names_and_whose_they_are_but_nobodys_presence() {
        let (alice, second) = (Agent::new(1, "alice"), Agent::new(2, "alice"));
        let mut node = Node::with(&[]);
        node.directory = Directory::new(MemoryStore::restore(at(60).unix, left_by(&alice)).unwrap());
        let Reply::Resolved(entry) = node.resolve(at(60), &second, "alice") else { panic!("not found") };
        assert_eq!((entry.presence, entry.reachable), (None, false));
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
        };
        let mut store = MemoryStore::restore(restart.unix, long_ago).unwrap();
        let returns_until = restart.unix + RETURN_TIME;
        assert_eq!(store.next_expiry(), Some(returns_until));
        assert_eq!(store.by_name(restart.unix, "alice"), None, "its lease has ended");
        let registration = |agent: &Agent, now: UnixTime| {
            let mut record = agent.record.clone();
            (record.sequence, record.issued, record.expires) = (2, now, now + 7 * DAY);
            let (identity, address) = (record.sign(&agent.identity).unwrap(), agent.identity.address());
            let (present, hand_overs) = (None, vec![]);
            Operation::Register(Box::new(Registration {
                identity: record,
                identity_bytes: identity,
                address,
                present,
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

    #[test]
    fn edits_count_a_swap_as_one() {
        assert_eq!(
            [edits("alpha", "alpha"), edits("alhpa", "alpha"), edits("", "abc"), edits("beta", "bet")],
            [0, 1, 3, 1]
        );
    }
}
