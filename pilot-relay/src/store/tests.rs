//! What every backend does, and what tests register.

use std::time::Duration;

use pilot_core::id::InstanceId;
use pilot_core::limits::INSTANCES_MAX;
use pilot_core::record::Offer;

use super::memory::MemoryStore;
use super::*;

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);
pub(crate) const LEASE: Duration = Duration::from_secs(3_600);

pub(crate) fn registration(key: u8, name: &str) -> Registration {
    let identity = IdentityRecord {
        key: IdentityKey([key; 32]),
        modifier: 0,
        sequence: 1,
        name: name.into(),
        tags: vec!["finance".into()],
        groups: vec!["research".into()],
        description: "Resolves academic citations".into(),
        offers: vec![Offer { service: "query".into(), description: "CVE alerts".into() }],
        issued: NOW,
        expires: NOW + LEASE,
    };
    let presence = PresenceRecord {
        key: identity.key,
        instance: InstanceId([key; 8]),
        sequence: 1,
        certificate: vec![],
        homes: vec![],
        issued: NOW,
        expires: NOW + LEASE,
    };
    Registration {
        identity_bytes: vec![key],
        identity,
        address: Address([key; 6]),
        presences: vec![Present { record: presence, bytes: vec![key], until: NOW + LEASE }],
        lease_until: NOW + LEASE,
        hand_overs: vec![],
    }
}

/// Carries out at once what a directory would carry out after a commit.
pub(crate) fn register(
    store: &mut impl Store,
    now: UnixTime,
    registration: Registration,
) -> Result<Vec<Change>, RegisterError> {
    carry_out(store, now, Operation::Register(Box::new(registration)))
}

/// Tells whether anything was withdrawn.
pub(crate) fn withdraw(store: &mut impl Store, key: &IdentityKey, sequence: u64) -> bool {
    !carry_out(store, NOW, Operation::Withdraw { key: *key, sequence }).unwrap().is_empty()
}

fn carry_out(store: &mut impl Store, now: UnixTime, operation: Operation) -> Result<Vec<Change>, RegisterError> {
    let changes = store.plan(now, &operation)?;
    store.apply(now, operation);
    Ok(changes)
}

fn with_sequence(sequence: u64, bytes: u8) -> Registration {
    let mut registration = registration(1, "alice");
    registration.identity.sequence = sequence;
    registration.identity_bytes = vec![bytes];
    registration
}

fn find(tag: Option<&str>, group: Option<&str>, need: &[&str]) -> Find {
    Find {
        tag: tag.map(Into::into),
        group: group.map(Into::into),
        need: need.iter().map(|word| (*word).into()).collect(),
        limit: 10,
    }
}

fn names(found: &[Arc<Registration>]) -> Vec<&str> {
    let mut names: Vec<_> = found.iter().map(|found| found.identity.name.as_str()).collect();
    names.sort_unstable();
    names
}

/// What every backend does.
pub(crate) fn conformance<S: Store>(new: impl Fn() -> S) {
    is_found_by_name_key_and_address(new());
    first_registration_binds_name_and_address(new());
    a_name_is_free_when_lease_and_grace_have_ended(new());
    who_returns_within_the_grace_finds_its_name(new());
    a_rename_frees_the_old_name_after_grace(new());
    a_heartbeat_changes_nothing_that_outlives_the_node(new());
    a_name_that_was_handed_over_is_the_new_keys_alone(new());
    only_who_has_a_name_hands_it_over(new());
    hand_overs_stay_with_the_name_and_the_last_of_them_are_kept(new());
    an_older_record_does_not_replace_a_newer_and_who_says_it_is_told(new());
    an_older_presence_does_not_replace_a_newer(new());
    each_instance_has_a_presence_of_its_own(new());
    an_instance_that_leaves_takes_nothing_of_the_others(new());
    inventing_instances_makes_the_entry_no_longer(new());
    withdrawal_ends_what_it_knew_of(new());
    tags_groups_and_words_narrow_a_search(new());
    an_update_leaves_no_trace_in_the_indexes(new());
    neighbours_in_the_alphabet_are_named(new());
}

fn is_found_by_name_key_and_address(mut store: impl Store) {
    let alice = registration(1, "alice");
    register(&mut store, NOW, alice.clone()).unwrap();
    let expected = Some(Arc::new(alice.clone()));
    assert_eq!(store.by_name(NOW, "alice"), expected);
    assert_eq!(store.by_key(NOW, &alice.identity.key), expected);
    assert_eq!(store.by_address(NOW, alice.address), expected);
    assert_eq!(store.by_name(NOW, "bob"), None);
    assert_eq!(store.len(), 1);
}

fn first_registration_binds_name_and_address(mut store: impl Store) {
    let alice = registration(1, "alice");
    register(&mut store, NOW, alice.clone()).unwrap();
    assert_eq!(
        register(&mut store, NOW, registration(2, "alice")),
        Err(RegisterError::NameTaken { free_at: NOW + LEASE + NAME_GRACE })
    );
    let same_address = Registration { address: alice.address, ..registration(2, "bob") };
    assert_eq!(register(&mut store, NOW, same_address), Err(RegisterError::AddressTaken));
    assert_eq!(store.by_name(NOW, "alice").unwrap().identity.key, alice.identity.key);
    assert_eq!(store.len(), 1);
}

fn a_name_is_free_when_lease_and_grace_have_ended(mut store: impl Store) {
    register(&mut store, NOW, registration(1, "alice")).unwrap();
    let (lapsed, free_at) = (NOW + LEASE, NOW + LEASE + NAME_GRACE);
    let successor = |now| Registration { lease_until: now + LEASE, ..registration(2, "alice") };
    assert_eq!(store.by_name(lapsed, "alice"), None);
    assert_eq!(register(&mut store, lapsed, successor(lapsed)), Err(RegisterError::NameTaken { free_at }));
    assert_eq!(store.next_expiry(), Some(free_at));
    let changes = register(&mut store, free_at, successor(free_at)).unwrap();
    assert_eq!(changes[0], Change::RemoveAgent(IdentityKey([1; 32])));
    assert_eq!(store.by_name(free_at, "alice").unwrap().identity.key, IdentityKey([2; 32]));
    assert_eq!(store.expire(free_at + LEASE), []);
    assert_eq!(store.expire(free_at + LEASE + NAME_GRACE), [Change::RemoveAgent(IdentityKey([2; 32]))]);
    assert!(store.is_empty() && store.next_expiry().is_none());
}

fn who_returns_within_the_grace_finds_its_name(mut store: impl Store) {
    register(&mut store, NOW, registration(1, "alice")).unwrap();
    let lapsed = NOW + LEASE + NAME_GRACE - Duration::from_secs(1);
    register(&mut store, lapsed, Registration { lease_until: lapsed + LEASE, ..registration(1, "alice") }).unwrap();
    assert!(store.by_name(lapsed, "alice").is_some());
    assert_eq!(store.next_expiry(), Some(lapsed + LEASE + NAME_GRACE));
}

fn a_rename_frees_the_old_name_after_grace(mut store: impl Store) {
    let renamed = |sequence, name| {
        let mut renamed = registration(1, name);
        (renamed.identity.sequence, renamed.identity_bytes) = (sequence, vec![sequence as u8]);
        renamed
    };
    register(&mut store, NOW, renamed(1, "alice")).unwrap();
    register(&mut store, NOW, renamed(2, "alicia")).unwrap();
    assert_eq!(store.by_name(NOW, "alice"), None);
    let free_at = NOW + NAME_GRACE;
    assert_eq!(
        register(&mut store, NOW, registration(2, "alice")),
        Err(RegisterError::NameTaken { free_at }),
        "it may be a mistake that is taken back"
    );
    register(&mut store, NOW, renamed(3, "alice")).expect("its own name");
    register(&mut store, NOW, renamed(4, "alicia")).unwrap();
    assert_eq!(store.expire(free_at), [Change::RemoveName("alice".into())]);
    register(&mut store, free_at, registration(2, "alice")).unwrap();
    assert_eq!(store.len(), 2);
}

fn a_heartbeat_changes_nothing_that_outlives_the_node(mut store: impl Store) {
    let at = |now: UnixTime| Registration { lease_until: now + LEASE, ..registration(1, "alice") };
    assert_eq!(register(&mut store, NOW, at(NOW)).unwrap().len(), 1);
    for minutes in 1..=10 {
        let now = NOW + Duration::from_secs(60 * minutes);
        let mut heartbeat = at(now);
        let present = &mut heartbeat.presences[0];
        (present.record.sequence, present.bytes) = (1 + minutes, vec![minutes as u8]);
        assert_eq!(register(&mut store, now, heartbeat), Ok(vec![]));
        assert_eq!(store.by_name(now, "alice").unwrap().lease_until, now + LEASE);
    }
    let mut returned = at(NOW + LEASE_WRITE_INTERVAL);
    returned.presences.clear();
    let written = register(&mut store, NOW + LEASE_WRITE_INTERVAL, returned).unwrap();
    assert_eq!(written.len(), 1, "the lease on file is a day behind");
}

fn hand_over(name: &str, from: u8, to: u8) -> Operation {
    let (from, to) = (IdentityKey([from; 32]), IdentityKey([to; 32]));
    let bytes = vec![from.0[0], to.0[0]].into();
    Operation::HandOver { record: HandOver { from, name: name.into(), to, issued: NOW }, bytes }
}

fn chain(store: &impl Store, name: &str) -> Vec<Vec<u8>> {
    store.by_name(NOW, name).unwrap().hand_overs.iter().map(|bytes| bytes.to_vec()).collect()
}

fn a_name_that_was_handed_over_is_the_new_keys_alone(mut store: impl Store) {
    register(&mut store, NOW, registration(1, "alice")).unwrap();
    register(&mut store, NOW, registration(2, "bob")).unwrap();
    let changes = carry_out(&mut store, NOW, hand_over("alice", 1, 2)).unwrap();
    assert!(matches!(&changes[..], [Change::RemoveAgent(_), Change::PutName(..)]), "{changes:?}");
    assert_eq!(carry_out(&mut store, NOW, hand_over("alice", 1, 2)), Ok(vec![]), "once more is no harm");
    let free_at = NOW + HAND_OVER_TIME;
    for key in [1, 3] {
        let taken = register(&mut store, NOW, registration(key, "alice"));
        assert_eq!(taken, Err(RegisterError::NameTaken { free_at }));
    }
    let mut renamed = registration(2, "alice");
    (renamed.identity.sequence, renamed.identity_bytes) = (2, vec![22]);
    register(&mut store, NOW, renamed).unwrap();
    assert_eq!(chain(&store, "alice"), [[1, 2]]);
    assert_eq!(carry_out(&mut store, NOW, hand_over("alice", 1, 2)), Ok(vec![]), "nor after that");
    assert_eq!(store.len(), 1);
}

fn only_who_has_a_name_hands_it_over(mut store: impl Store) {
    register(&mut store, NOW, registration(1, "alice")).unwrap();
    for foreign in [hand_over("alice", 3, 2), hand_over("bob", 1, 2)] {
        assert_eq!(carry_out(&mut store, NOW, foreign), Err(RegisterError::NotHeld));
    }
    let lapsed = NOW + LEASE + NAME_GRACE;
    assert_eq!(carry_out(&mut store, lapsed, hand_over("alice", 1, 2)), Err(RegisterError::NotHeld));
    assert!(carry_out(&mut store, lapsed - Duration::from_secs(1), hand_over("alice", 1, 2)).is_ok(), "in grace");
}

fn hand_overs_stay_with_the_name_and_the_last_of_them_are_kept(mut store: impl Store) {
    register(&mut store, NOW, registration(1, "alice")).unwrap();
    for from in 1..=5 {
        carry_out(&mut store, NOW, hand_over("alice", from, from + 1)).unwrap();
    }
    register(&mut store, NOW, registration(6, "alice")).unwrap();
    assert_eq!(chain(&store, "alice"), [[2, 3], [3, 4], [4, 5], [5, 6]]);
    let mut next = registration(6, "alice");
    (next.identity.sequence, next.identity_bytes) = (2, vec![2]);
    register(&mut store, NOW, next.clone()).unwrap();
    assert_eq!(chain(&store, "alice").len(), 4, "an update");
    (next.identity.sequence, next.identity_bytes, next.identity.name) = (3, vec![3], "alicia".into());
    register(&mut store, NOW, next.clone()).unwrap();
    assert!(chain(&store, "alicia").is_empty());
    (next.identity.sequence, next.identity_bytes, next.identity.name) = (4, vec![4], "alice".into());
    register(&mut store, NOW, next).unwrap();
    assert_eq!(chain(&store, "alice").len(), 4, "a rename and back");
}

/// Registers, and tells which record is in force in place of the one given, if it is not that.
fn in_force(store: &mut impl Store, registration: Registration) -> Option<Vec<u8>> {
    let operation = Operation::Register(Box::new(registration));
    store.plan(NOW, &operation).unwrap();
    let Done::Registered { in_force, .. } = store.apply(NOW, operation) else { panic!("not a registration") };
    in_force
}

#[test]
fn a_hand_over_that_was_taken_back_is_no_hand_over_any_more() {
    let mut store = MemoryStore::new();
    let signed_at = |sequence: u64, issued| {
        let mut again = registration(1, "alice");
        (again.identity.sequence, again.identity_bytes, again.identity.issued) =
            (sequence, vec![sequence as u8], issued);
        again
    };
    let later = NOW + Duration::from_secs(1);
    register(&mut store, NOW, signed_at(1, NOW)).unwrap();
    carry_out(&mut store, NOW, hand_over("alice", 1, 2)).unwrap();
    carry_out(&mut store, NOW, hand_over("alice", 2, 1)).unwrap();
    assert_eq!(carry_out(&mut store, NOW, hand_over("alice", 1, 2)), Err(RegisterError::NotHeld), "in between");
    register(&mut store, NOW, signed_at(2, NOW)).unwrap();
    assert_eq!(carry_out(&mut store, NOW, hand_over("alice", 1, 2)), Err(RegisterError::NotHeld), "in its chain");
    assert!(withdraw(&mut store, &IdentityKey([1; 32]), 2));
    register(&mut store, NOW, signed_at(3, later)).unwrap();
    assert_eq!(carry_out(&mut store, NOW, hand_over("alice", 1, 2)), Err(RegisterError::NotHeld), "before its record");
    assert_eq!(store.by_name(NOW, "alice").unwrap().identity.key, IdentityKey([1; 32]));
}

#[test]
fn who_takes_names_and_leaves_them_keeps_few() {
    let mut store = MemoryStore::new();
    let named = |sequence: u64| {
        let mut named = registration(1, &format!("name-{sequence}"));
        (named.identity.sequence, named.identity_bytes) = (sequence, sequence.to_be_bytes().into());
        named
    };
    let count = 3 * NAMES_KEPT_PER_KEY_MAX as u64;
    for sequence in 1..=count {
        let now = NOW + Duration::from_secs(sequence);
        register(&mut store, now, named(sequence)).unwrap();
        if sequence % 2 == 0 {
            carry_out(&mut store, now, hand_over(&format!("name-{sequence}"), 1, 9)).unwrap();
        }
    }
    let now = NOW + Duration::from_secs(count);
    let is_free = |sequence: &u64| {
        let other = registration(2, &format!("name-{sequence}"));
        store.plan(now, &Operation::Register(Box::new(other))).is_ok()
    };
    assert_eq!((1..=count).filter(|sequence| !is_free(sequence)).count(), NAMES_KEPT_PER_KEY_MAX);
}
fn an_older_record_does_not_replace_a_newer_and_who_says_it_is_told(mut store: impl Store) {
    assert_eq!(in_force(&mut store, with_sequence(5, 1)), None);
    for sequence in [4, 5] {
        let older = with_sequence(sequence, 2);
        assert_eq!(register(&mut store, NOW, older.clone()), Ok(vec![]));
        assert_eq!(in_force(&mut store, older), Some(vec![1]));
        assert_eq!(store.by_name(NOW, "alice").unwrap().identity.sequence, 5);
    }
    assert_eq!(in_force(&mut store, with_sequence(5, 1)), None, "a refresh of the same bytes");
    assert_eq!(in_force(&mut store, with_sequence(6, 2)), None);
}

/// A home of alice: its presence has this sequence and ends so many seconds later than the others do.
fn at_home(instance: u8, sequence: u64, later: u64) -> Registration {
    let mut registration = registration(1, "alice");
    let present = &mut registration.presences[0];
    (present.record.instance, present.record.sequence) = (InstanceId([instance; 8]), sequence);
    (present.bytes, present.until) = (vec![instance, sequence as u8], NOW + LEASE + Duration::from_secs(later));
    registration
}

/// Instances with their sequences, the one that was heard of last first.
fn present(store: &impl Store, now: UnixTime) -> Vec<(u8, u64)> {
    let registration = store.by_key(now, &IdentityKey([1; 32])).unwrap();
    let of = |present: &Present| (present.record.instance.0[0], present.record.sequence);
    registration.presences_at(now).map(of).collect()
}

fn an_older_presence_does_not_replace_a_newer(mut store: impl Store) {
    register(&mut store, NOW, at_home(1, 5, 0)).unwrap();
    assert_eq!(register(&mut store, NOW, at_home(1, 4, 0)), Err(RegisterError::OldSequence(5)));
    register(&mut store, NOW, at_home(1, 5, 0)).expect("a refresh of the same bytes");
    register(&mut store, NOW, at_home(9, 1, 0)).expect("another instance has its own sequence");
    assert_eq!(register(&mut store, NOW, at_home(1, 4, 0)), Err(RegisterError::OldSequence(5)), "and hides none");
}

fn each_instance_has_a_presence_of_its_own(mut store: impl Store) {
    register(&mut store, NOW, at_home(1, 5, 100)).unwrap();
    register(&mut store, NOW, at_home(2, 1, 0)).unwrap();
    assert_eq!(present(&store, NOW), [(2, 1), (1, 5)]);
    register(&mut store, NOW, at_home(1, 6, 100)).unwrap();
    assert_eq!(present(&store, NOW), [(1, 6), (2, 1)], "a heartbeat of one");
    let mut edited = at_home(2, 2, 0);
    (edited.identity.sequence, edited.identity_bytes) = (2, vec![22]);
    register(&mut store, NOW, edited).unwrap();
    let mut unaware = at_home(1, 7, 100);
    unaware.lease_until = NOW + LEASE * 2;
    assert_eq!(in_force(&mut store, unaware), Some(vec![22]));
    assert_eq!(present(&store, NOW), [(1, 7), (2, 2)], "an edit of the other");
    let mut extended = at_home(1, 7, 100);
    (extended.identity.sequence, extended.identity_bytes) = (2, vec![22]);
    extended.lease_until = NOW + LEASE * 2;
    register(&mut store, NOW, extended).unwrap();
    assert_eq!(present(&store, NOW + LEASE), [(1, 7)], "each runs out on its own");
}

fn an_instance_that_leaves_takes_nothing_of_the_others(mut store: impl Store) {
    register(&mut store, NOW, at_home(1, 5, 0)).unwrap();
    register(&mut store, NOW, at_home(2, 5, 0)).unwrap();
    let leave = |store: &mut _, key, instance, sequence| {
        let instance = Instance { key: IdentityKey([key; 32]), id: InstanceId([instance; 8]) };
        assert_eq!(carry_out(store, NOW, Operation::Leave { instance, sequence }), Ok(vec![]));
    };
    leave(&mut store, 1, 2, 4);
    leave(&mut store, 9, 2, 9);
    leave(&mut store, 1, 9, 9);
    assert_eq!(present(&store, NOW), [(2, 5), (1, 5)], "an old one, another's, and an unknown one");
    leave(&mut store, 1, 2, 5);
    assert_eq!(present(&store, NOW), [(1, 5)]);
    leave(&mut store, 1, 1, 5);
    assert_eq!(present(&store, NOW), []);
    assert!(store.by_name(NOW, "alice").is_some(), "its name is its own");
}

fn inventing_instances_makes_the_entry_no_longer(mut store: impl Store) {
    for instance in 1..=100 {
        register(&mut store, NOW, at_home(instance, 1, 0)).unwrap();
        assert!(store.by_name(NOW, "alice").unwrap().presences.len() <= INSTANCES_MAX);
    }
    assert_eq!(present(&store, NOW), [(100, 1), (99, 1), (98, 1), (97, 1)]);
    assert_eq!(store.len(), 1);
}

fn withdrawal_ends_what_it_knew_of(mut store: impl Store) {
    let key = IdentityKey([1; 32]);
    register(&mut store, NOW, with_sequence(5, 1)).unwrap();
    assert!(!withdraw(&mut store, &key, 4), "an old withdrawal, replayed");
    assert!(withdraw(&mut store, &key, 5));
    assert!(!withdraw(&mut store, &key, 5));
    assert!(store.is_empty());
    register(&mut store, NOW, registration(2, "alice")).unwrap();
}

fn tags_groups_and_words_narrow_a_search(mut store: impl Store) {
    let mut bob = registration(2, "bob");
    bob.identity.tags = vec!["mcp".into()];
    bob.identity.description = "Draws charts".into();
    register(&mut store, NOW, registration(1, "alice")).unwrap();
    register(&mut store, NOW, bob).unwrap();
    let found = |tag, group, need: &[&str]| store.candidates(NOW, &find(tag, group, need), 10);
    assert_eq!(names(&found(Some("finance"), None, &[])), ["alice"]);
    assert_eq!(names(&found(None, Some("research"), &[])), ["alice", "bob"]);
    assert_eq!(names(&found(Some("mcp"), Some("research"), &["cve"])), ["bob"]);
    assert_eq!(names(&found(None, None, &["Citations"])), ["alice"]);
    assert_eq!(names(&found(None, None, &["charts", "citations"])), ["alice", "bob"]);
    assert_eq!(names(&found(None, Some("research"), &["charts"])), ["bob"]);
    assert_eq!(names(&found(None, None, &["weather"])), Vec::<&str>::new());
    assert_eq!(names(&found(None, None, &[])), ["alice", "bob"]);
    assert_eq!(store.candidates(NOW, &find(None, None, &[]), 1).len(), 1);
    assert!(store.candidates(NOW + LEASE, &find(None, None, &[]), 10).is_empty());
}

fn an_update_leaves_no_trace_in_the_indexes(mut store: impl Store) {
    register(&mut store, NOW, registration(1, "alice")).unwrap();
    let mut changed = registration(1, "alice");
    changed.identity.sequence = 2;
    changed.identity.tags = vec!["mcp".into()];
    changed.identity.groups = vec![];
    changed.identity.description = String::new();
    register(&mut store, NOW, changed).unwrap();
    assert!(store.candidates(NOW, &find(Some("finance"), None, &[]), 10).is_empty());
    assert!(store.candidates(NOW, &find(None, Some("research"), &[]), 10).is_empty());
    assert!(store.candidates(NOW, &find(None, None, &["citations"]), 10).is_empty());
    assert_eq!(store.candidates(NOW, &find(Some("mcp"), None, &[]), 10).len(), 1);
}

fn neighbours_in_the_alphabet_are_named(mut store: impl Store) {
    for (key, name) in [(1, "agent-alpha"), (2, "agent-beta"), (3, "zulu")] {
        register(&mut store, NOW, registration(key, name)).unwrap();
    }
    let mut near = store.names_near("agent-amber", 2);
    near.sort_unstable();
    assert_eq!(near, ["agent-alpha", "agent-beta"]);
}
