//! Holds answers back until what they acknowledge is on disk (spec/backbone.md §5).
//!
//! Operations wait in the order of their calls. The driver takes a [`Batch`] of what they change, writes it in one commit, and tells; then
//! the operations are applied to the store and answered. One batch is on its way at a time, and what arrives meanwhile goes with the next.
//!
//! ```text
//! waiting -> in flight -> answered     the commit is durable, the operation applied
//!                      -> answered     the commit has failed, nothing is changed
//! waiting -> answered                  the store refuses the operation
//! ```

use std::collections::{BTreeSet, VecDeque};

use pilot_core::address::Address;
use pilot_core::id::{IdentityKey, Instance};
use pilot_core::record::{HandOver, IdentityRecord};
use pilot_core::time::UnixTime;

use crate::store::{Change, Done, Operation, RegisterError, Store};

/// Operations of one commit: a burst shares it, and it stays within a few megabytes.
const BATCH_MAX: usize = 256;
/// Operations that wait for a commit; a disk this slow serves nobody, and those who come now are told so.
const WAITING_MAX: usize = 4_096;

/// Names a call whose answer is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(u64);

/// What goes to disk in one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// In this order.
    pub changes: Vec<Change>,
}

/// How an operation came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk and applied.
    Done(Done),
    /// The store refuses it.
    Refused(RegisterError),
    /// The disk has failed, and why.
    NotStored(String),
}

/// An operation and the call that waits for it.
#[derive(Debug)]
struct Waiting {
    call: CallId,
    operation: Operation,
}

/// What two operations must not change in one batch: the plan of each is made from what the store has before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Touched {
    Key(IdentityKey),
    Name(String),
    Address(Address),
    Org(IdentityKey),
}

/// Operations on their way to the disk.
#[derive(Debug, Default)]
pub struct Journal {
    waiting: VecDeque<Waiting>,
    in_flight: Vec<Waiting>,
    /// When they were planned: they are carried out as of then, so that memory and disk agree.
    planned_at: UnixTime,
    /// What nobody waits for: it goes with the next batch.
    by_the_way: Vec<Change>,
    by_the_way_in_flight: Vec<Change>,
    outcomes: VecDeque<(CallId, Outcome)>,
    last_call: u64,
}

impl Journal {
    /// Takes an operation; its outcome follows. None if too many wait.
    pub fn submit(&mut self, operation: Operation) -> Option<CallId> {
        if self.waiting.len() >= WAITING_MAX {
            return None;
        }
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.waiting.push_back(Waiting { call, operation });
        Some(call)
    }

    /// Forgets what is free again; later, while a batch is on its way that was planned by what there is.
    pub fn expire(&mut self, now: UnixTime, store: &mut impl Store) {
        if !self.is_writing() {
            self.note(store.expire(now));
        }
    }

    /// Whether a batch is on its way.
    pub fn is_writing(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether an operation that was taken and not yet answered touches the same.
    pub fn is_touched(&self, operation: &Operation) -> bool {
        let own: BTreeSet<_> = touched(operation).collect();
        let mut taken = self.waiting.iter().chain(&self.in_flight);
        taken.any(|waiting| touched(&waiting.operation).any(|touched| own.contains(&touched)))
    }

    /// The next batch to write, if the one before is done with. [`Journal::batch_written`] must follow.
    pub fn poll_batch(&mut self, now: UnixTime, store: &mut impl Store) -> Option<Batch> {
        if self.is_writing() {
            return None;
        }
        loop {
            self.planned_at = now;
            let changes = self.take_compatible(now, store);
            if !changes.is_empty() {
                self.by_the_way_in_flight = std::mem::take(&mut self.by_the_way);
                let changes = self.by_the_way_in_flight.iter().cloned().chain(changes).collect();
                return Some(Batch { changes });
            }
            // Heartbeats that had come behind something else. What waits behind them has its turn now: nobody else wakes it.
            self.answer_in_flight(store);
            if self.waiting.is_empty() {
                return None;
            }
        }
    }

    /// The batch is on disk, or it is not and `result` tells why.
    pub fn batch_written(&mut self, result: Result<(), String>, store: &mut impl Store) {
        match result {
            Ok(()) => {
                self.by_the_way_in_flight.clear();
                self.answer_in_flight(store);
            }
            Err(reason) => {
                self.by_the_way.splice(..0, self.by_the_way_in_flight.drain(..));
                let failed = self.in_flight.drain(..);
                self.outcomes.extend(failed.map(|waiting| (waiting.call, Outcome::NotStored(reason.clone()))));
            }
        }
    }

    /// How an operation came out, each once.
    pub fn poll_outcome(&mut self) -> Option<(CallId, Outcome)> {
        self.outcomes.pop_front()
    }

    /// Moves the operations in flight that change different things, in the order of their calls, and gives their changes.
    fn take_compatible(&mut self, now: UnixTime, store: &impl Store) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut in_use = BTreeSet::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let planned = store.plan(now, &waiting.operation);
            let mut own: BTreeSet<_> = touched(&waiting.operation).collect();
            own.extend(planned.iter().flatten().map(changed));
            let must_wait = self.in_flight.len() >= BATCH_MAX || !in_use.is_disjoint(&own);
            in_use.append(&mut own);
            match planned {
                _ if must_wait => self.waiting.push_back(waiting),
                Ok(planned) => {
                    changes.extend(planned);
                    self.in_flight.push(waiting);
                }
                Err(reason) => self.outcomes.push_back((waiting.call, Outcome::Refused(reason))),
            }
        }
        changes
    }

    /// Takes changes that nobody waits for.
    fn note(&mut self, changes: Vec<Change>) {
        self.by_the_way.extend(changes);
    }

    fn answer_in_flight(&mut self, store: &mut impl Store) {
        for Waiting { call, operation } in self.in_flight.drain(..) {
            self.outcomes.push_back((call, Outcome::Done(store.apply(self.planned_at, operation))));
        }
    }
}

fn touched(operation: &Operation) -> impl Iterator<Item = Touched> {
    let touched = match operation {
        Operation::Register(registration) => {
            let IdentityRecord { key, name, .. } = &registration.identity;
            vec![Touched::Key(*key), Touched::Name(name.clone()), Touched::Address(registration.address)]
        }
        Operation::Withdraw { key, .. } | Operation::Leave { instance: Instance { key, .. }, .. } => {
            vec![Touched::Key(*key)]
        }
        Operation::HandOver { record: HandOver { from, name, to, .. }, .. } => {
            vec![Touched::Key(*from), Touched::Key(*to), Touched::Name(name.clone())]
        }
        // How many organisations the agent has brought is counted, too.
        Operation::KeepRules(keep) => vec![Touched::Org(keep.org), Touched::Key(keep.by)],
    };
    touched.into_iter()
}

fn changed(change: &Change) -> Touched {
    match change {
        Change::PutAgent(key, _) | Change::RemoveAgent(key) => Touched::Key(*key),
        Change::PutName(name, _) | Change::RemoveName(name) => Touched::Name(name.clone()),
        Change::PutOrg(org, _) | Change::RemoveOrg(org) => Touched::Org(*org),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::NAME_GRACE;
    use crate::store::memory::MemoryStore;
    use crate::store::tests::{LEASE, NOW, registration};

    fn register(key: u8, name: &str) -> Operation {
        Operation::Register(Box::new(registration(key, name)))
    }

    fn with_sequence(sequence: u64) -> Operation {
        let mut registration = registration(1, "alice");
        (registration.identity.sequence, registration.identity_bytes) = (sequence, vec![sequence as u8]);
        Operation::Register(Box::new(registration))
    }

    struct Desk {
        journal: Journal,
        store: MemoryStore,
    }

    impl Desk {
        fn new() -> Self {
            Self { journal: Journal::default(), store: MemoryStore::new() }
        }

        fn batch(&mut self) -> Option<usize> {
            self.journal.poll_batch(NOW, &mut self.store).map(|batch| batch.changes.len())
        }

        fn written(&mut self, result: Result<(), String>) -> Vec<Outcome> {
            self.journal.batch_written(result, &mut self.store);
            std::iter::from_fn(|| self.journal.poll_outcome()).map(|(_, outcome)| outcome).collect()
        }
    }

    fn is_done(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Done(_))
    }

    #[test]
    fn nothing_is_answered_or_served_before_it_is_on_disk() {
        let mut desk = Desk::new();
        desk.journal.submit(register(1, "alice")).unwrap();
        assert_eq!(desk.batch(), Some(1));
        assert_eq!(desk.journal.poll_outcome(), None);
        assert_eq!(desk.store.by_name(NOW, "alice"), None);
        assert!(desk.written(Ok(())).iter().all(is_done));
        assert!(desk.store.by_name(NOW, "alice").is_some());
    }

    #[test]
    fn what_arrives_during_a_commit_goes_with_the_next() {
        let mut desk = Desk::new();
        desk.journal.submit(register(1, "alice"));
        assert_eq!(desk.batch(), Some(1));
        desk.journal.submit(register(2, "bob"));
        desk.journal.submit(register(3, "carol"));
        assert_eq!(desk.batch(), None);
        assert_eq!(desk.written(Ok(())).len(), 1);
        assert_eq!(desk.batch(), Some(2));
        assert_eq!(desk.written(Ok(())).len(), 2);
    }

    #[test]
    fn of_two_who_want_one_name_at_once_the_first_has_it() {
        let mut desk = Desk::new();
        desk.journal.submit(register(1, "alice"));
        desk.journal.submit(register(2, "alice"));
        assert_eq!(desk.batch(), Some(1));
        assert!(desk.written(Ok(())).iter().all(is_done));
        assert_eq!(desk.batch(), None);
        let (_, outcome) = desk.journal.poll_outcome().unwrap();
        assert!(matches!(outcome, Outcome::Refused(RegisterError::NameTaken { .. })), "{outcome:?}");
    }

    #[test]
    fn operations_of_one_key_keep_their_order() {
        let mut desk = Desk::new();
        desk.journal.submit(with_sequence(1));
        desk.journal.submit(with_sequence(2));
        desk.journal.submit(Operation::Withdraw { key: IdentityKey([1; 32]), sequence: 2 });
        for _ in 0..3 {
            assert_eq!(desk.batch(), Some(1));
            assert!(desk.written(Ok(())).iter().all(is_done));
        }
        assert!(desk.store.is_empty());
    }

    #[test]
    fn what_waits_behind_a_heartbeat_or_a_refusal_needs_no_other_call_to_go_on() {
        let mut desk = Desk::new();
        desk.journal.submit(with_sequence(1));
        assert_eq!(desk.batch(), Some(1));
        let mut old_presence = registration(1, "alice");
        (old_presence.presences[0].record.sequence, old_presence.presences[0].bytes) = (0, vec![0]);
        for operation in [with_sequence(1), Operation::Register(Box::new(old_presence)), with_sequence(2)] {
            desk.journal.submit(operation);
        }
        assert_eq!(desk.written(Ok(())).len(), 1);
        assert_eq!(desk.batch(), Some(1), "the last of the three");
        let outcomes: Vec<_> = desk.written(Ok(())).iter().map(is_done).collect();
        assert_eq!(outcomes, [true, false, true]);
    }

    #[test]
    fn a_disk_that_fails_changes_nothing_and_says_why() {
        let mut desk = Desk::new();
        desk.journal.submit(register(1, "alice"));
        assert_eq!(desk.batch(), Some(1));
        assert_eq!(desk.written(Err("disk full".into())), [Outcome::NotStored("disk full".into())]);
        assert!(desk.store.is_empty());
        assert_eq!(desk.batch(), None, "nothing is tried again by itself");
        desk.journal.submit(register(1, "alice"));
        assert_eq!(desk.batch(), Some(1));
        assert!(desk.written(Ok(())).iter().all(is_done));
    }

    #[test]
    fn what_nobody_waits_for_is_not_lost_with_a_failed_commit() {
        let mut desk = Desk::new();
        desk.journal.note(vec![Change::RemoveName("old".into())]);
        assert_eq!(desk.batch(), None, "it causes no commit of its own");
        for result in [Err("disk full".to_owned()), Ok(())] {
            desk.journal.submit(register(1, "alice"));
            assert_eq!(desk.batch(), Some(2));
            desk.written(result);
        }
        desk.journal.submit(register(2, "bob"));
        assert_eq!(desk.batch(), Some(1));
    }

    #[test]
    fn what_runs_out_during_a_commit_is_not_taken_from_who_renews_it() {
        let lapse = NOW + LEASE + NAME_GRACE;
        let mut renewed = registration(1, "alice");
        (renewed.identity.sequence, renewed.identity_bytes) = (2, vec![2]);
        renewed.lease_until = lapse + LEASE;
        let mut desk = Desk::new();
        let mut file = BTreeSet::new();
        for (planned, operation) in [
            (NOW, register(1, "alice")),
            (lapse - Duration::from_secs(1), Operation::Register(Box::new(renewed))),
            (lapse, register(2, "bob")),
        ] {
            desk.journal.submit(operation);
            let batch = desk.journal.poll_batch(planned, &mut desk.store).expect("a batch");
            let written = planned + Duration::from_secs(1);
            desk.journal.expire(written, &mut desk.store);
            for change in batch.changes {
                match change {
                    Change::PutAgent(key, _) => file.insert(key),
                    Change::RemoveAgent(key) => file.remove(&key),
                    Change::PutName(..) | Change::RemoveName(_) => panic!("no name is kept"),
                    Change::PutOrg(..) | Change::RemoveOrg(_) => panic!("no organisation is held"),
                };
            }
            desk.journal.batch_written(Ok(()), &mut desk.store);
        }
        assert!(file.contains(&IdentityKey([1; 32])), "alice was told that she is registered");
        assert!(desk.store.by_name(lapse, "alice").is_some());
    }

    #[test]
    fn a_hand_over_holds_although_the_lease_ends_during_its_commit() {
        let lapse = NOW + LEASE + NAME_GRACE;
        let (from, to) = (IdentityKey([1; 32]), IdentityKey([2; 32]));
        let record = HandOver { from, name: "alice".into(), to, issued: NOW };
        let mut desk = Desk::new();
        for (planned, operation) in [
            (NOW, register(1, "alice")),
            (lapse - Duration::from_secs(1), Operation::HandOver { record, bytes: vec![1].into() }),
        ] {
            desk.journal.submit(operation);
            desk.journal.poll_batch(planned, &mut desk.store).expect("a batch");
            desk.journal.expire(planned + Duration::from_secs(1), &mut desk.store);
            assert!(desk.written(Ok(())).iter().all(is_done));
        }
        let taken = desk.store.plan(lapse, &register(3, "alice"));
        assert!(matches!(taken, Err(RegisterError::NameTaken { .. })), "{taken:?}");
    }

    #[test]
    fn a_disk_that_never_answers_is_waited_for_by_a_bounded_number() {
        let mut desk = Desk::new();
        let taken = (0..=WAITING_MAX as u64).filter(|sequence| desk.journal.submit(with_sequence(*sequence)).is_some());
        assert_eq!(taken.count(), WAITING_MAX);
    }
}
