//! The directory of a backbone node (spec/backbone.md §3): carries out the requests of authenticated callers on a [`Store`].
//!
//! It verifies what it is given as any client would (`claims`), and lets each caller register only its own key. Dates of leases are counted by its own clock from the moment of registration: clocks of agents are wrong now and then.
//!
//! A [durable](Directory::durable) directory answers what changes more than presence only when its driver has written it down.

mod claims;
mod entries;
mod ranking;
mod rules;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use pilot_core::id::IdentityKey;
use pilot_core::time::{Now, UnixTime};
use pilot_core::wire::directory::{
    ErrorCode, FIND_LIMIT_MAX, FIND_WORDS_MAX, Find, Reply, Request, SUGGESTIONS_MAX, Target,
};

pub use self::entries::Presence;
use self::entries::{entries_in_bounds, entry, is_reachable};
use self::ranking::{edits, score};
use self::rules::rules_in_bounds;
use crate::journal::{Batch, CallId, Journal, Outcome};
use crate::limits::{Rate, TokenBucket};
use crate::store::{Done, Operation, RegisterError, Store, words};

/// Requests of one client: an agent that meets a hundred others at once is served, one that searches in a loop is slowed.
pub const CLIENT_RATE: Rate = Rate { per_second: 50, burst: 500 };
/// Requests that one to hold a list counts for: up to 21 signatures are verified, three times over.
const KEEP_RULES_COST: u64 = 25;
/// Clients whose rates are remembered; beyond this, those back at their full allowance are dropped.
const BUCKETS_MAX: usize = 65_536;
/// Agents that a search ranks. A search that matches more is too broad for their order to mean much.
const CANDIDATES_MAX: usize = 2_048;
/// Names that are compared with one that was not found.
const NEIGHBOURS_MAX: usize = 512;
/// A name more edits away than this is a different name, not a misspelling.
const SUGGESTION_EDITS_MAX: usize = 2;

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
        let cost = if matches!(request, Request::KeepRules { .. }) { KEEP_RULES_COST } else { 1 };
        if !self.buckets.entry(*caller).or_default().take(now.mono, CLIENT_RATE, cost) {
            return Answer::Ready(error(ErrorCode::Busy, "too many requests, try again in a second"));
        }
        let operation = match request {
            Request::Register { identity, presence } => claims::registration(now.unix, caller, identity, presence),
            Request::Withdraw { signed } => claims::withdrawal(now.unix, caller, &signed),
            Request::HandOver { signed } => claims::hand_over(now.unix, caller, signed),
            Request::KeepRules { org, charters, list, proof } => claims::rules(caller, org, charters, list, proof),
            Request::Rules { org, known } => Err(Reply::Rules(rules_in_bounds(self.store.rules(&org), &known))),
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
                let outcome =
                    planned.map_or_else(Outcome::Refused, |_| Outcome::Done(self.store.apply(now, operation)));
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

/// What the caller is told of an operation.
fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Done(Done::Registered { lease_until, in_force }) => Reply::Registered { lease_until, in_force },
        Outcome::Done(Done::Withdrawn) => Reply::Withdrawn,
        Outcome::Done(Done::HandedOver) => Reply::HandedOver,
        Outcome::Done(Done::RulesKept) => Reply::RulesKept,
        Outcome::Refused(RegisterError::NameTaken { free_at }) => Reply::NameTaken { free_at },
        Outcome::Refused(RegisterError::AddressTaken) => Reply::AddressTaken,
        Outcome::Refused(reason @ RegisterError::OldSequence(_)) => error(ErrorCode::OldSequence, &reason.to_string()),
        Outcome::Refused(reason @ RegisterError::NotHeld) => error(ErrorCode::NotYours, &reason.to_string()),
        Outcome::Refused(reason @ RegisterError::NotBelieved) => error(ErrorCode::BadRequest, &reason.to_string()),
        Outcome::Refused(reason @ RegisterError::Full) => error(ErrorCode::Busy, &reason.to_string()),
        Outcome::NotStored(reason) => {
            error(ErrorCode::Busy, &format!("the directory stores nothing new for now: {reason}"))
        }
    }
}

fn error(code: ErrorCode, message: &str) -> Reply {
    Reply::Error { code, message: message.to_owned() }
}
