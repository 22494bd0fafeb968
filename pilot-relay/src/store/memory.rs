//! The store of one node that keeps its registrations in memory: agents register again within a minute of its restart.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use pilot_core::address::Address;
use pilot_core::id::IdentityKey;
use pilot_core::record::IdentityRecord;
use pilot_core::time::UnixTime;
use pilot_core::wire::directory::Find;

use super::{RegisterError, Registration, Store, words, words_of};

/// Registrations kept: a few hundred megabytes at the size they usually have, 2 GB if each is at its bounds.
pub const REGISTRATIONS_MAX: usize = 200_000;

/// From a label to the agents that have it.
type Index = BTreeMap<String, BTreeSet<IdentityKey>>;

/// Registrations by key, and indexes over them that hold exactly what they say.
#[derive(Debug, Default)]
pub struct MemoryStore {
    by_key: BTreeMap<IdentityKey, Arc<Registration>>,
    by_name: BTreeMap<String, IdentityKey>,
    by_address: BTreeMap<Address, IdentityKey>,
    by_lease: BTreeSet<(UnixTime, IdentityKey)>,
    tags: Index,
    groups: Index,
    words: Index,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn live(&self, now: UnixTime, key: &IdentityKey) -> Option<&Arc<Registration>> {
        self.by_key.get(key).filter(|registration| registration.lease_until > now)
    }

    /// The live registration of another key than `key` behind an index entry.
    fn held_by_another(&self, now: UnixTime, holder: Option<&IdentityKey>, key: &IdentityKey) -> Option<&Registration> {
        holder.filter(|holder| *holder != key).and_then(|holder| self.live(now, holder)).map(Arc::as_ref)
    }

    fn check(&self, now: UnixTime, new: &Registration) -> Result<(), RegisterError> {
        let key = &new.identity.key;
        if let Some(holder) = self.held_by_another(now, self.by_name.get(&new.identity.name), key) {
            return Err(RegisterError::NameTaken { lease_until: holder.lease_until });
        }
        if self.held_by_another(now, self.by_address.get(&new.address), key).is_some() {
            return Err(RegisterError::AddressTaken);
        }
        match self.live(now, key) {
            Some(stored) => check_sequences(stored, new),
            None if self.by_key.len() >= REGISTRATIONS_MAX => Err(RegisterError::Full),
            None => Ok(()),
        }
    }

    fn insert(&mut self, registration: Registration) {
        let identity = &registration.identity;
        let key = identity.key;
        self.by_name.insert(identity.name.clone(), key);
        self.by_address.insert(registration.address, key);
        self.by_lease.insert((registration.lease_until, key));
        add(&mut self.tags, identity.tags.iter().cloned(), key);
        add(&mut self.groups, identity.groups.iter().cloned(), key);
        add(&mut self.words, words_of(identity), key);
        self.by_key.insert(key, Arc::new(registration));
    }

    fn remove(&mut self, key: &IdentityKey) {
        let Some(registration) = self.by_key.remove(key) else { return };
        let identity = &registration.identity;
        self.by_name.remove(&identity.name);
        self.by_address.remove(&registration.address);
        self.by_lease.remove(&(registration.lease_until, *key));
        subtract(&mut self.tags, identity.tags.iter().cloned(), key);
        subtract(&mut self.groups, identity.groups.iter().cloned(), key);
        subtract(&mut self.words, words_of(identity), key);
    }

    /// The keys that the narrowest index of the search leads to, each once.
    fn narrowed(&self, find: &Find) -> Box<dyn Iterator<Item = &IdentityKey> + '_> {
        static NOBODY: BTreeSet<IdentityKey> = BTreeSet::new();
        let tagged = find.tag.as_ref().map(|tag| self.tags.get(tag).unwrap_or(&NOBODY));
        let grouped = find.group.as_ref().map(|group| self.groups.get(group).unwrap_or(&NOBODY));
        if let Some(narrowest) = tagged.into_iter().chain(grouped).min_by_key(|keys| keys.len()) {
            return Box::new(narrowest.iter());
        }
        if find.need.is_empty() {
            return Box::new(self.by_key.keys());
        }
        let needed = find.need.iter().flat_map(|need| words(need)).filter_map(|word| self.words.get(&word));
        Box::new(needed.flatten().collect::<BTreeSet<_>>().into_iter())
    }
}

impl Store for MemoryStore {
    fn register(&mut self, now: UnixTime, registration: Registration) -> Result<(), RegisterError> {
        self.check(now, &registration)?;
        let lapsed = [
            self.by_name.get(&registration.identity.name).copied(),
            self.by_address.get(&registration.address).copied(),
            Some(registration.identity.key),
        ];
        for key in lapsed.into_iter().flatten() {
            self.remove(&key);
        }
        self.insert(registration);
        Ok(())
    }

    fn withdraw(&mut self, key: &IdentityKey, sequence: u64) -> bool {
        let covered = self.by_key.get(key).is_some_and(|stored| stored.identity.sequence <= sequence);
        if covered {
            self.remove(key);
        }
        covered
    }

    fn expire(&mut self, now: UnixTime) {
        while let Some((lease_until, key)) = self.by_lease.first().copied() {
            if lease_until > now {
                break;
            }
            self.remove(&key);
        }
    }

    fn next_expiry(&self) -> Option<UnixTime> {
        self.by_lease.first().map(|(lease_until, _)| *lease_until)
    }

    fn by_key(&self, now: UnixTime, key: &IdentityKey) -> Option<Arc<Registration>> {
        self.live(now, key).cloned()
    }

    fn by_name(&self, now: UnixTime, name: &str) -> Option<Arc<Registration>> {
        self.by_name.get(name).and_then(|key| self.by_key(now, key))
    }

    fn by_address(&self, now: UnixTime, address: Address) -> Option<Arc<Registration>> {
        self.by_address.get(&address).and_then(|key| self.by_key(now, key))
    }

    fn candidates(&self, now: UnixTime, find: &Find, max: usize) -> Vec<Arc<Registration>> {
        let wanted: BTreeSet<_> = find.need.iter().flat_map(|need| words(need)).collect();
        let live = self.narrowed(find).filter_map(|key| self.live(now, key));
        live.filter(|registration| matches(&registration.identity, find, &wanted)).take(max).cloned().collect()
    }

    fn names_near(&self, name: &str, max: usize) -> Vec<String> {
        let before = self.by_name.range::<str, _>((Unbounded, Excluded(name))).rev().map(|(name, _)| name);
        let from = self.by_name.range::<str, _>((Included(name), Unbounded)).map(|(name, _)| name);
        before.take(max.div_ceil(2)).chain(from.take(max.div_ceil(2))).take(max).cloned().collect()
    }

    fn len(&self) -> usize {
        self.by_key.len()
    }
}

/// Whether an agent has the tag, the group and one of the wanted words.
fn matches(identity: &IdentityRecord, find: &Find, wanted: &BTreeSet<String>) -> bool {
    find.tag.as_ref().is_none_or(|tag| identity.tags.contains(tag))
        && find.group.as_ref().is_none_or(|group| identity.groups.contains(group))
        && (wanted.is_empty() || words_of(identity).any(|word| wanted.contains(&word)))
}

/// A refresh repeats the bytes; anything else needs a higher sequence.
fn check_sequences(stored: &Registration, new: &Registration) -> Result<(), RegisterError> {
    let sequence = stored.identity.sequence;
    let same_identity = new.identity.sequence == sequence && new.identity_bytes == stored.identity_bytes;
    if new.identity.sequence <= sequence && !same_identity {
        return Err(RegisterError::OldSequence(sequence));
    }
    let sequence = stored.presence.sequence;
    let same_presence = new.presence.sequence == sequence && new.presence_bytes == stored.presence_bytes;
    let same_instance = new.presence.instance == stored.presence.instance;
    if same_instance && new.presence.sequence <= sequence && !same_presence {
        return Err(RegisterError::OldSequence(sequence));
    }
    Ok(())
}

fn add(index: &mut Index, labels: impl Iterator<Item = String>, key: IdentityKey) {
    for label in labels {
        index.entry(label).or_default().insert(key);
    }
}

fn subtract(index: &mut Index, labels: impl Iterator<Item = String>, key: &IdentityKey) {
    for label in labels {
        if let Some(keys) = index.get_mut(&label) {
            keys.remove(key);
            if keys.is_empty() {
                index.remove(&label);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{NOW, conformance, registration};

    #[test]
    fn conforms() {
        conformance(MemoryStore::new);
    }

    #[test]
    fn an_empty_store_has_empty_indexes() {
        let mut store = MemoryStore::new();
        store.register(NOW, registration(1, "alice")).unwrap();
        store.withdraw(&IdentityKey([1; 32]), 1);
        assert!(store.by_name.is_empty() && store.by_address.is_empty() && store.by_lease.is_empty());
        assert!(store.tags.is_empty() && store.groups.is_empty() && store.words.is_empty());
    }
}
