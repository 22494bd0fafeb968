//! The store of one node: registrations in memory, and what must outlive the node handed on as changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use minicbor::bytes::ByteVec;
use pilot_core::address::Address;
use pilot_core::id::{IdentityKey, Instance};
use pilot_core::limits::INSTANCES_MAX;
use pilot_core::org::roster::Roster;
use pilot_core::record::{HandOver, IdentityRecord, RecordError};
use pilot_core::time::UnixTime;
use pilot_core::wire::directory::{Find, HAND_OVERS_MAX};

use super::orgs::{Held as HeldOrg, Orgs, Plan};
use super::stored::{Stored, StoredAgent, StoredName};
use super::{
    Change, Done, HAND_OVER_TIME, LEASE_WRITE_INTERVAL, NAME_GRACE, NAMES_KEPT_PER_KEY_MAX, Operation, Present,
    RegisterError, Registration, Store, words, words_of,
};

/// Registrations kept: a few hundred megabytes at the size they usually have, 2 GB if each is at its bounds.
pub const REGISTRATIONS_MAX: usize = 200_000;
/// Names kept that no registration has: as many as there can be registrations.
pub const NAMES_KEPT_MAX: usize = REGISTRATIONS_MAX;
/// After a start nobody loses a name for so long: agents of a node that was down come back within a minute or two.
pub const RETURN_TIME: Duration = Duration::from_secs(300);

/// From a label to the agents that have it.
type Index = BTreeMap<String, BTreeSet<IdentityKey>>;

/// Registrations by key, and indexes over them that hold exactly what they say.
#[derive(Debug, Default)]
pub struct MemoryStore {
    by_key: BTreeMap<IdentityKey, Known>,
    by_name: BTreeMap<String, IdentityKey>,
    by_address: BTreeMap<Address, IdentityKey>,
    /// Names that no registration has, each kept for a key.
    kept: BTreeMap<String, StoredName>,
    /// The same by who has had them, that which is free first at the front.
    kept_from: BTreeMap<IdentityKey, BTreeSet<(UnixTime, String)>>,
    orgs: Orgs,
    ends: BTreeSet<(UnixTime, Held)>,
    tags: Index,
    groups: Index,
    words: Index,
}

/// A registration, and how much of its lease is written down.
#[derive(Debug)]
struct Known {
    registration: Arc<Registration>,
    lease_on_file: UnixTime,
}

/// What is free at some time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    Agent(IdentityKey),
    Name(String),
    Org(IdentityKey),
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store of what an earlier node has left. Nobody is present, and nothing is free before [`RETURN_TIME`].
    ///
    /// # Errors
    /// [`RecordError`] if a row holds no identity record.
    pub fn restore(now: UnixTime, stored: Stored) -> Result<Self, RecordError> {
        let mut store = Self::new();
        let restored = |stored: StoredAgent| {
            let identity = IdentityRecord::decode_verified(&stored.identity)?;
            let address = identity.address().ok_or(RecordError::Address)?;
            let lease_until = stored.lease_until.max(now + RETURN_TIME - NAME_GRACE);
            let StoredAgent { identity: identity_bytes, hand_overs, .. } = stored;
            let presences = Vec::new();
            let registration = Registration { identity, identity_bytes, address, presences, lease_until, hand_overs };
            Ok::<_, RecordError>((registration, stored.lease_until))
        };
        let mut registrations = stored.agents.into_iter().map(restored).collect::<Result<Vec<_>, _>>()?;
        // Two of one name are there only if the disk failed between them: the younger one was acknowledged.
        registrations.sort_by_key(|(_, lease_on_file)| *lease_on_file);
        for (registration, lease_on_file) in registrations {
            store.replace(registration, lease_on_file);
        }
        for (name, kept) in stored.names {
            store.keep(name, StoredName { until: kept.until.max(now + RETURN_TIME), ..kept });
        }
        // What has run out, or cannot be judged by a clock this wrong, is brought again by those whom it concerns.
        for (org, held) in stored.orgs.into_iter().filter_map(|stored| HeldOrg::restore(stored, now)) {
            store.hold(org, held);
        }
        Ok(store)
    }

    fn live(&self, now: UnixTime, key: &IdentityKey) -> Option<&Arc<Registration>> {
        self.by_key.get(key).map(|known| &known.registration).filter(|registration| registration.lease_until > now)
    }

    /// Until when another key than `key` holds what the index entry leads to.
    fn held_by_another(&self, now: UnixTime, holder: Option<&IdentityKey>, key: &IdentityKey) -> Option<UnixTime> {
        let holder = holder.filter(|holder| *holder != key)?;
        self.by_key.get(holder).map(|known| known.registration.held_until()).filter(|until| *until > now)
    }

    fn kept_for_another(&self, now: UnixTime, name: &str, key: &IdentityKey) -> Option<UnixTime> {
        self.kept.get(name).filter(|kept| kept.key != *key && kept.until > now).map(|kept| kept.until)
    }

    /// What the key has registered, if its identity record stays in force in place of a new one.
    fn in_force(&self, new: &Registration) -> Option<&Arc<Registration>> {
        let known = self.by_key.get(&new.identity.key).map(|known| &known.registration);
        known.filter(|known| {
            known.identity.sequence >= new.identity.sequence && known.identity_bytes != new.identity_bytes
        })
    }

    fn check(&self, now: UnixTime, new: &Registration) -> Result<(), RegisterError> {
        let (key, name) = (&new.identity.key, &new.identity.name);
        let held = self.held_by_another(now, self.by_name.get(name), key);
        if let Some(free_at) = held.or_else(|| self.kept_for_another(now, name, key)) {
            return Err(RegisterError::NameTaken { free_at });
        }
        if self.held_by_another(now, self.by_address.get(&new.address), key).is_some() {
            return Err(RegisterError::AddressTaken);
        }
        if self.by_key.len() >= REGISTRATIONS_MAX && !self.by_key.contains_key(key) {
            return Err(RegisterError::Full);
        }
        Ok(())
    }

    /// A refresh repeats the bytes; anything else of one instance needs a higher sequence.
    fn check_presence(&self, new: &Registration) -> Result<(), RegisterError> {
        let Some(known) = self.by_key.get(&new.identity.key) else { return Ok(()) };
        let is_older = |stored: &&Present| {
            let is_older = |new: &Present| new.record.sequence <= stored.record.sequence && new.bytes != stored.bytes;
            new.presences.iter().any(|new| new.instance() == stored.instance() && is_older(new))
        };
        let older = known.registration.presences.iter().find(is_older);
        older.map_or(Ok(()), |stored| Err(RegisterError::OldSequence(stored.record.sequence)))
    }

    fn plan_registration(&self, now: UnixTime, new: &Registration) -> Result<Vec<Change>, RegisterError> {
        self.check_presence(new)?;
        if self.in_force(new).is_some() {
            return Ok(Vec::new());
        }
        self.check(now, new)?;
        let key = new.identity.key;
        if self.by_key.get(&key).is_some_and(|known| is_on_file(known, new)) {
            return Ok(Vec::new());
        }
        let mut changes: Vec<_> = self.displaced(new).into_iter().map(Change::RemoveAgent).collect();
        if self.kept.contains_key(&new.identity.name) {
            changes.push(Change::RemoveName(new.identity.name.clone()));
        }
        changes.extend(self.plan_given_up(now, new));
        self.check_room(&changes)?;
        let stored = StoredAgent {
            identity: new.identity_bytes.clone(),
            lease_until: new.lease_until,
            hand_overs: self.inherited(&new.identity),
        };
        changes.push(Change::PutAgent(key, stored));
        Ok(changes)
    }

    /// What handing the name over changes, and how the name is kept then; nothing if that was done before.
    fn plan_hand_over(&self, now: UnixTime, record: &HandOver, bytes: &ByteVec) -> Result<Vec<Change>, RegisterError> {
        let holder = self.holder(now, &record.name);
        if holder.is_some_and(|(holder, hand_overs)| holder == record.to && hand_overs.contains(bytes)) {
            return Ok(Vec::new());
        }
        let (_, before) = holder.filter(|(holder, _)| *holder == record.from).ok_or(RegisterError::NotHeld)?;
        if before.contains(bytes) || self.has_claimed_since(record) {
            return Err(RegisterError::NotHeld);
        }
        let dropped = (before.len() + 1).saturating_sub(HAND_OVERS_MAX);
        let hand_overs = before.iter().skip(dropped).chain([bytes]).cloned().collect();
        let kept =
            StoredName { key: record.to, until: now + HAND_OVER_TIME, hand_overs, handed_over_by: Some(record.from) };
        let registered = self.by_name.get(&record.name).map(|key| Change::RemoveAgent(*key));
        let changes = registered.into_iter().chain(self.plan_keep(record.name.clone(), kept)).collect::<Vec<_>>();
        self.check_room(&changes)?;
        Ok(changes)
    }

    /// Whether the old key has said after it signed a hand-over that the name is its own.
    fn has_claimed_since(&self, record: &HandOver) -> bool {
        let claim = self.by_key.get(&record.from).map(|known| &known.registration.identity);
        claim.is_some_and(|identity| identity.name == record.name && identity.issued > record.issued)
    }

    /// What keeping the name that a registration gives up changes.
    fn plan_given_up(&self, now: UnixTime, new: &Registration) -> Vec<Change> {
        self.given_up(now, new).map_or_else(Vec::new, |(name, kept)| self.plan_keep(name, kept))
    }

    /// What keeping a name changes: another one that the same key has had may be free for it.
    fn plan_keep(&self, name: String, kept: StoredName) -> Vec<Change> {
        let mut others: Vec<_> = self.kept_from.get(&kept.given_by()).into_iter().flatten().collect();
        others.retain(|(_, other)| *other != name);
        let is_crowded = others.len() >= NAMES_KEPT_PER_KEY_MAX;
        let crowded_out = others.first().filter(|_| is_crowded).map(|(_, other)| Change::RemoveName(other.clone()));
        crowded_out.into_iter().chain([Change::PutName(name, kept)]).collect()
    }

    /// Whether the names that there are leave room for those of a change.
    fn check_room(&self, changes: &[Change]) -> Result<(), RegisterError> {
        let keeps = changes.iter().any(|change| matches!(change, Change::PutName(..)));
        if keeps && self.kept.len() >= NAMES_KEPT_MAX { Err(RegisterError::Full) } else { Ok(()) }
    }

    /// Who has the name, or may have it, and by which hand-overs.
    fn holder(&self, now: UnixTime, name: &str) -> Option<(IdentityKey, &Vec<ByteVec>)> {
        let kept = self.kept.get(name).filter(|kept| kept.until > now).map(|kept| (kept.key, &kept.hand_overs));
        let registration = self.by_name.get(name).and_then(|key| self.by_key.get(key)).map(|known| &known.registration);
        let held = registration.filter(|registration| registration.held_until() > now);
        kept.or_else(|| held.map(|registration| (registration.identity.key, &registration.hand_overs)))
    }

    /// The hand-overs by which the name has come to the key that registers it.
    fn inherited(&self, new: &IdentityRecord) -> Vec<ByteVec> {
        let kept = self.kept.get(&new.name).filter(|kept| kept.key == new.key).map(|kept| &kept.hand_overs);
        let own = self.by_key.get(&new.key).map(|known| &known.registration);
        let own = own.filter(|own| own.identity.name == new.name).map(|own| &own.hand_overs);
        kept.or(own).cloned().unwrap_or_default()
    }

    /// Other keys whose name or address, which nobody holds any more, the registration takes.
    fn displaced(&self, new: &Registration) -> BTreeSet<IdentityKey> {
        let holders = [self.by_name.get(&new.identity.name), self.by_address.get(&new.address)];
        holders.into_iter().flatten().filter(|holder| **holder != new.identity.key).copied().collect()
    }

    /// The name that the agent had until now, if it takes another: kept for it, should it come back.
    fn given_up(&self, now: UnixTime, new: &Registration) -> Option<(String, StoredName)> {
        let before = &self.by_key.get(&new.identity.key)?.registration;
        let Registration { identity, hand_overs, .. } = before.as_ref();
        let (until, hand_overs) = (now + NAME_GRACE, hand_overs.clone());
        let kept = StoredName { key: identity.key, until, hand_overs, handed_over_by: None };
        (identity.name != new.identity.name).then(|| (identity.name.clone(), kept))
    }

    fn register(&mut self, now: UnixTime, mut registration: Registration) -> Done {
        let known = self.by_key.get(&registration.identity.key).map(|known| &known.registration);
        let before = known.map_or(&[][..], |known| &known.presences);
        registration.presences = with_others(std::mem::take(&mut registration.presences), before, now);
        if let Some(known) = self.in_force(&registration) {
            let (lease_until, in_force) = (known.lease_until, Some(known.identity_bytes.clone()));
            self.set_presences(&registration.identity.key, registration.presences);
            return Done::Registered { lease_until, in_force };
        }
        let lease_until = registration.lease_until;
        self.register_in_force(now, registration);
        Done::Registered { lease_until, in_force: None }
    }

    fn set_presences(&mut self, key: &IdentityKey, presences: Vec<Present>) {
        if let Some(known) = self.by_key.get_mut(key) {
            Arc::make_mut(&mut known.registration).presences = presences;
        }
    }

    fn leave(&mut self, instance: &Instance, sequence: u64) {
        let Some(known) = self.by_key.get(&instance.key) else { return };
        let has_left = |present: &Present| present.instance() == *instance && present.record.sequence <= sequence;
        let staying = known.registration.presences.iter().filter(|present| !has_left(present)).cloned().collect();
        self.set_presences(&instance.key, staying);
    }

    fn register_in_force(&mut self, now: UnixTime, mut registration: Registration) {
        registration.hand_overs = self.inherited(&registration.identity);
        let given_up = self.plan_given_up(now, &registration);
        let known = self.by_key.get(&registration.identity.key).filter(|known| is_on_file(known, &registration));
        let lease_on_file = known.map_or(registration.lease_until, |known| known.lease_on_file);
        self.free(&registration.identity.name);
        self.replace(registration, lease_on_file);
        self.carry_out(given_up);
    }

    /// Carries out changes that register nobody.
    fn carry_out(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::RemoveAgent(key) => self.remove(&key),
                Change::PutName(name, kept) => self.keep(name, kept),
                Change::RemoveName(name) => self.free(&name),
                Change::PutAgent(..) | Change::PutOrg(..) | Change::RemoveOrg(_) => {}
            }
        }
    }

    /// Puts a registration in the place of the same key's, and of those that had its name or address before.
    fn replace(&mut self, registration: Registration, lease_on_file: UnixTime) {
        for key in self.displaced(&registration) {
            self.remove(&key);
        }
        self.remove(&registration.identity.key);
        self.insert(registration, lease_on_file);
    }

    fn insert(&mut self, registration: Registration, lease_on_file: UnixTime) {
        let identity = &registration.identity;
        let key = identity.key;
        self.by_name.insert(identity.name.clone(), key);
        self.by_address.insert(registration.address, key);
        self.ends.insert((registration.held_until(), Held::Agent(key)));
        add(&mut self.tags, identity.tags.iter().cloned(), key);
        add(&mut self.groups, identity.groups.iter().cloned(), key);
        add(&mut self.words, words_of(identity), key);
        self.by_key.insert(key, Known { registration: Arc::new(registration), lease_on_file });
    }

    fn remove(&mut self, key: &IdentityKey) {
        let Some(Known { registration, .. }) = self.by_key.remove(key) else { return };
        let identity = &registration.identity;
        self.by_name.remove(&identity.name);
        self.by_address.remove(&registration.address);
        self.ends.remove(&(registration.held_until(), Held::Agent(*key)));
        subtract(&mut self.tags, identity.tags.iter().cloned(), key);
        subtract(&mut self.groups, identity.groups.iter().cloned(), key);
        subtract(&mut self.words, words_of(identity), key);
    }

    fn keep(&mut self, name: String, kept: StoredName) {
        self.free(&name);
        self.ends.insert((kept.until, Held::Name(name.clone())));
        self.kept_from.entry(kept.given_by()).or_default().insert((kept.until, name.clone()));
        self.kept.insert(name, kept);
    }

    fn free(&mut self, name: &str) {
        let Some((name, kept)) = self.kept.remove_entry(name) else { return };
        if let Some(names) = self.kept_from.get_mut(&kept.given_by()) {
            names.remove(&(kept.until, name.clone()));
            if names.is_empty() {
                self.kept_from.remove(&kept.given_by());
            }
        }
        self.ends.remove(&(kept.until, Held::Name(name)));
    }

    fn hold(&mut self, org: IdentityKey, held: HeldOrg) {
        self.forget(&org);
        self.ends.insert((held.until(), Held::Org(org)));
        self.orgs.insert(org, held);
    }

    fn forget(&mut self, org: &IdentityKey) {
        if let Some(held) = self.orgs.remove(org) {
            self.ends.remove(&(held.until(), Held::Org(*org)));
        }
    }

    fn covers(&self, key: &IdentityKey, sequence: u64) -> bool {
        self.by_key.get(key).is_some_and(|known| known.registration.identity.sequence <= sequence)
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
    fn plan(&self, now: UnixTime, operation: &Operation) -> Result<Vec<Change>, RegisterError> {
        match operation {
            Operation::Register(registration) => self.plan_registration(now, registration),
            Operation::Withdraw { key, sequence } if self.covers(key, *sequence) => Ok(vec![Change::RemoveAgent(*key)]),
            Operation::Withdraw { .. } | Operation::Leave { .. } => Ok(Vec::new()),
            Operation::HandOver { record, bytes } => self.plan_hand_over(now, record, bytes),
            Operation::KeepRules(keep) => {
                let Some(Plan { held, displaced }) = self.orgs.plan(now, keep)? else { return Ok(Vec::new()) };
                let kept = Change::PutOrg(keep.org, held.to_stored());
                Ok(displaced.map(Change::RemoveOrg).into_iter().chain([kept]).collect())
            }
        }
    }

    fn apply(&mut self, now: UnixTime, operation: Operation) -> Done {
        match operation {
            Operation::Register(registration) => return self.register(now, *registration),
            Operation::Withdraw { key, sequence } if self.covers(&key, sequence) => self.remove(&key),
            Operation::Withdraw { .. } => {}
            Operation::Leave { instance, sequence } => self.leave(&instance, sequence),
            Operation::HandOver { record, bytes } => {
                let changes = self.plan_hand_over(now, &record, &bytes).unwrap_or_default();
                self.carry_out(changes);
                return Done::HandedOver;
            }
            Operation::KeepRules(keep) => {
                if let Ok(Some(Plan { held, displaced })) = self.orgs.plan(now, &keep) {
                    displaced.iter().for_each(|org| self.forget(org));
                    self.hold(keep.org, held);
                }
                return Done::RulesKept;
            }
        }
        Done::Withdrawn
    }

    fn expire(&mut self, now: UnixTime) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((until, held)) = self.ends.first().cloned() {
            if until > now {
                break;
            }
            match held {
                Held::Agent(key) => {
                    self.remove(&key);
                    changes.push(Change::RemoveAgent(key));
                }
                Held::Name(name) => {
                    self.free(&name);
                    changes.push(Change::RemoveName(name));
                }
                Held::Org(org) => {
                    self.forget(&org);
                    changes.push(Change::RemoveOrg(org));
                }
            }
        }
        changes
    }

    fn next_expiry(&self) -> Option<UnixTime> {
        self.ends.first().map(|(until, _)| *until)
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

    fn rules(&self, org: &IdentityKey) -> Option<Roster> {
        self.orgs.rules(org)
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

/// Whether nothing of the registration would be written down: the record is the one on file, and so is nearly all of the lease.
fn is_on_file(known: &Known, new: &Registration) -> bool {
    known.registration.identity_bytes == new.identity_bytes
        && new.lease_until < known.lease_on_file + LEASE_WRITE_INTERVAL
}

/// New presences, and those of other instances that are in date. Where there are too many, those that were said longest ago go.
fn with_others(new: Vec<Present>, before: &[Present], now: UnixTime) -> Vec<Present> {
    let is_replaced = |present: &&Present| new.iter().any(|new| new.instance() == present.instance());
    let others: Vec<_> =
        before.iter().filter(|present| present.until > now && !is_replaced(present)).cloned().collect();
    new.into_iter().chain(others).take(INSTANCES_MAX).collect()
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
    use crate::store::KeepRules;
    use crate::store::orgs::tests::rules;
    use crate::store::orgs::{ORGS_MAX, ORGS_PER_KEY_MAX};
    use crate::store::stored::StoredOrg;
    use crate::store::tests::{NOW, conformance, register, registration, withdraw};

    #[test]
    fn conforms() {
        conformance(MemoryStore::new);
    }

    #[test]
    fn an_empty_store_has_empty_indexes() {
        let mut store = MemoryStore::new();
        register(&mut store, NOW, registration(1, "alice")).unwrap();
        withdraw(&mut store, &IdentityKey([1; 32]), 1);
        assert!(store.by_name.is_empty() && store.by_address.is_empty() && store.ends.is_empty());
        assert!(store.tags.is_empty() && store.groups.is_empty() && store.words.is_empty());
    }

    const LATER: UnixTime = UnixTime(NOW.0 + 60_000_000_000);

    fn key(kind: u8, number: usize) -> IdentityKey {
        let mut key = [kind; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        IdentityKey(key)
    }

    /// An organisation of which nothing is held yet, and what brings it there.
    fn new_org(seed: u8, by: IdentityKey) -> (IdentityKey, Operation) {
        let keep = KeepRules { by, ..rules(seed, 1, 1) };
        (keep.org, Operation::KeepRules(Box::new(keep)))
    }

    /// A store whose places for organisations are all taken, by keys that have brought so many each.
    fn full_of_orgs(per_key: usize) -> MemoryStore {
        let mut store = MemoryStore::new();
        let (_, brings) = new_org(1, key(1, 0));
        let changes = store.plan(LATER, &brings).unwrap();
        let [Change::PutOrg(_, stored)] = &changes[..] else { panic!("{changes:?}") };
        for number in 0..ORGS_MAX {
            let stored = StoredOrg { by: key(1, number / per_key), ..stored.clone() };
            let (_, held) = HeldOrg::restore(stored, LATER).unwrap();
            store.hold(key(2, number), held);
        }
        store
    }

    #[test]
    fn where_all_places_are_taken_who_has_brought_most_makes_room_for_who_has_brought_fewer() {
        let mut store = full_of_orgs(ORGS_PER_KEY_MAX);
        let (org, brings) = new_org(3, key(3, 0));
        let changes = store.plan(LATER, &brings).unwrap();
        let [Change::RemoveOrg(displaced), Change::PutOrg(kept, _)] = &changes[..] else { panic!("{changes:?}") };
        store.apply(LATER, brings);
        assert!(store.rules(&org).is_some() && store.rules(displaced).is_none());
        assert_eq!((*kept, store.ends.len()), (org, ORGS_MAX));

        let made_room = (0..ORGS_MAX).position(|number| key(2, number) == *displaced).unwrap() / ORGS_PER_KEY_MAX;
        let (_, again) = new_org(5, key(1, made_room));
        assert_eq!(store.plan(LATER, &again), Err(RegisterError::Full), "it would have as many as the others then");
    }

    #[test]
    fn where_all_places_are_taken_nobody_takes_the_only_one_of_another() {
        let store = full_of_orgs(1);
        let (_, brings) = new_org(3, key(3, 0));
        assert_eq!(store.plan(LATER, &brings), Err(RegisterError::Full));
    }
}
