//! Where the directory keeps its registrations (spec/backbone.md §4).
//!
//! A [`Store`] decides alone who gets a name or an address, so that several nodes can share one. What it is given has been verified. Every
//! backend passes the same conformance tests.

pub mod memory;

use std::sync::Arc;

use pilot_core::address::Address;
use pilot_core::id::IdentityKey;
use pilot_core::record::{IdentityRecord, PresenceRecord};
use pilot_core::time::UnixTime;
use pilot_core::wire::directory::Find;

/// The verified records of one agent, and the bytes that prove them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Who it is.
    pub identity: IdentityRecord,
    /// The signed form of `identity`.
    pub identity_bytes: Vec<u8>,
    /// Its address.
    pub address: Address,
    /// How to reach it.
    pub presence: PresenceRecord,
    /// The signed form of `presence`.
    pub presence_bytes: Vec<u8>,
    /// When the name and the address are free again, by the node's own clock.
    pub lease_until: UnixTime,
    /// When the presence ends, by the node's own clock.
    pub present_until: UnixTime,
}

/// Why a registration is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Another key holds the name.
    #[error("name is taken")]
    NameTaken {
        /// When its lease ends.
        lease_until: UnixTime,
    },
    /// Another key holds the address.
    #[error("address is taken")]
    AddressTaken,
    /// A newer record, or another with the same sequence, is stored.
    #[error("a record with sequence {0} is stored")]
    OldSequence(u64),
    /// The store is at its bound.
    #[error("directory is full")]
    Full,
}

/// A place for registrations.
pub trait Store {
    /// Stores a registration in place of the same key's earlier one. First come, first served, until the lease ends.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing is changed then.
    fn register(&mut self, now: UnixTime, registration: Registration) -> Result<(), RegisterError>;

    /// Removes the registration of `key` if its sequence is not above `sequence`, and tells whether it did.
    fn withdraw(&mut self, key: &IdentityKey, sequence: u64) -> bool;

    /// Forgets registrations whose lease has ended.
    fn expire(&mut self, now: UnixTime);

    /// When the next lease ends.
    fn next_expiry(&self) -> Option<UnixTime>;

    /// The registration of a key.
    fn by_key(&self, now: UnixTime, key: &IdentityKey) -> Option<Arc<Registration>>;

    /// The registration that holds a name.
    fn by_name(&self, now: UnixTime, name: &str) -> Option<Arc<Registration>>;

    /// The registration that holds an address.
    fn by_address(&self, now: UnixTime, address: Address) -> Option<Arc<Registration>>;

    /// At most `max` registrations that have the tag and the group and at least one of the words; in no order.
    fn candidates(&self, now: UnixTime, find: &Find, max: usize) -> Vec<Arc<Registration>>;

    /// At most `max` registered names next to `name` in the alphabet, half of them on either side.
    fn names_near(&self, name: &str, max: usize) -> Vec<String>;

    /// Registrations stored.
    fn len(&self) -> usize;

    /// Whether none is stored.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The words that a text is found by: letters and digits in lower case.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Every word that a registration is found by.
pub(crate) fn words_of(identity: &IdentityRecord) -> impl Iterator<Item = String> {
    let labels = identity.tags.iter().chain(&identity.groups).chain([&identity.name, &identity.description]);
    let offers = identity.offers.iter().flat_map(|offer| [&offer.service, &offer.description]);
    labels.chain(offers).flat_map(|text| words(text))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use pilot_core::id::InstanceId;
    use pilot_core::record::Offer;

    use super::*;

    pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);
    const LEASE: Duration = Duration::from_secs(3_600);

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
            presence,
            presence_bytes: vec![key],
            lease_until: NOW + LEASE,
            present_until: NOW + LEASE,
        }
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
        a_name_is_free_when_its_lease_ends(new());
        a_rename_frees_the_old_name(new());
        an_older_record_does_not_replace_a_newer(new());
        an_older_presence_does_not_replace_a_newer(new());
        withdrawal_ends_what_it_knew_of(new());
        tags_groups_and_words_narrow_a_search(new());
        an_update_leaves_no_trace_in_the_indexes(new());
        neighbours_in_the_alphabet_are_named(new());
    }

    fn is_found_by_name_key_and_address(mut store: impl Store) {
        let alice = registration(1, "alice");
        store.register(NOW, alice.clone()).unwrap();
        let expected = Some(Arc::new(alice.clone()));
        assert_eq!(store.by_name(NOW, "alice"), expected);
        assert_eq!(store.by_key(NOW, &alice.identity.key), expected);
        assert_eq!(store.by_address(NOW, alice.address), expected);
        assert_eq!(store.by_name(NOW, "bob"), None);
        assert_eq!(store.len(), 1);
    }

    fn first_registration_binds_name_and_address(mut store: impl Store) {
        let alice = registration(1, "alice");
        store.register(NOW, alice.clone()).unwrap();
        assert_eq!(
            store.register(NOW, registration(2, "alice")),
            Err(RegisterError::NameTaken { lease_until: NOW + LEASE })
        );
        let same_address = Registration { address: alice.address, ..registration(2, "bob") };
        assert_eq!(store.register(NOW, same_address), Err(RegisterError::AddressTaken));
        assert_eq!(store.by_name(NOW, "alice").unwrap().identity.key, alice.identity.key);
        assert_eq!(store.len(), 1);
    }

    fn a_name_is_free_when_its_lease_ends(mut store: impl Store) {
        store.register(NOW, registration(1, "alice")).unwrap();
        let later = NOW + LEASE;
        assert_eq!(store.next_expiry(), Some(later));
        assert_eq!(store.by_name(later, "alice"), None);
        let successor = Registration { lease_until: later + LEASE, ..registration(2, "alice") };
        store.register(later, successor).unwrap();
        assert_eq!(store.by_name(later, "alice").unwrap().identity.key, IdentityKey([2; 32]));
        store.expire(later + LEASE);
        assert!(store.is_empty() && store.next_expiry().is_none());
    }

    fn a_rename_frees_the_old_name(mut store: impl Store) {
        store.register(NOW, registration(1, "alice")).unwrap();
        let mut renamed = registration(1, "alicia");
        renamed.identity.sequence = 2;
        store.register(NOW, renamed).unwrap();
        assert_eq!(store.by_name(NOW, "alice"), None);
        store.register(NOW, registration(2, "alice")).unwrap();
        assert_eq!(store.len(), 2);
    }

    fn an_older_record_does_not_replace_a_newer(mut store: impl Store) {
        store.register(NOW, with_sequence(5, 1)).unwrap();
        assert_eq!(store.register(NOW, with_sequence(4, 1)), Err(RegisterError::OldSequence(5)));
        assert_eq!(store.register(NOW, with_sequence(5, 2)), Err(RegisterError::OldSequence(5)));
        store.register(NOW, with_sequence(5, 1)).expect("a refresh of the same bytes");
        store.register(NOW, with_sequence(6, 2)).unwrap();
    }

    fn an_older_presence_does_not_replace_a_newer(mut store: impl Store) {
        let mut present = registration(1, "alice");
        present.presence.sequence = 5;
        store.register(NOW, present.clone()).unwrap();
        let mut older = present.clone();
        older.presence.sequence = 4;
        assert_eq!(store.register(NOW, older), Err(RegisterError::OldSequence(5)));
        let mut moved = present;
        moved.presence.instance = InstanceId([9; 8]);
        moved.presence.sequence = 1;
        store.register(NOW, moved).expect("another installation has its own sequence");
    }

    fn withdrawal_ends_what_it_knew_of(mut store: impl Store) {
        let key = IdentityKey([1; 32]);
        store.register(NOW, with_sequence(5, 1)).unwrap();
        assert!(!store.withdraw(&key, 4), "an old withdrawal, replayed");
        assert!(store.withdraw(&key, 5));
        assert!(!store.withdraw(&key, 5));
        assert!(store.is_empty());
        store.register(NOW, registration(2, "alice")).unwrap();
    }

    fn tags_groups_and_words_narrow_a_search(mut store: impl Store) {
        let mut bob = registration(2, "bob");
        bob.identity.tags = vec!["mcp".into()];
        bob.identity.description = "Draws charts".into();
        store.register(NOW, registration(1, "alice")).unwrap();
        store.register(NOW, bob).unwrap();
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
        store.register(NOW, registration(1, "alice")).unwrap();
        let mut changed = registration(1, "alice");
        changed.identity.sequence = 2;
        changed.identity.tags = vec!["mcp".into()];
        changed.identity.groups = vec![];
        changed.identity.description = String::new();
        store.register(NOW, changed).unwrap();
        assert!(store.candidates(NOW, &find(Some("finance"), None, &[]), 10).is_empty());
        assert!(store.candidates(NOW, &find(None, Some("research"), &[]), 10).is_empty());
        assert!(store.candidates(NOW, &find(None, None, &["citations"]), 10).is_empty());
        assert_eq!(store.candidates(NOW, &find(Some("mcp"), None, &[]), 10).len(), 1);
    }

    fn neighbours_in_the_alphabet_are_named(mut store: impl Store) {
        for (key, name) in [(1, "agent-alpha"), (2, "agent-beta"), (3, "zulu")] {
            store.register(NOW, registration(key, name)).unwrap();
        }
        let mut near = store.names_near("agent-amber", 2);
        near.sort_unstable();
        assert_eq!(near, ["agent-alpha", "agent-beta"]);
    }
}
