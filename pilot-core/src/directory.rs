//! What a client believes of the directory's answers (spec/trust.md §3).
//!
//! The directory is trusted for the first binding of a name to a key, for freshness and for presence, and for nothing else. Everything it
//! serves is signed by the agent it is about; [`Pins`] remembers which key a name had and how far each agent's records had come, so that a
//! directory which changes a byte, serves an older record or another's key is found out, and is not obeyed.
//!
//! Only look-ups of one agent create pins. Answers to a search are checked against the pins there are, but leave none: nobody chose them.

use std::collections::BTreeMap;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::address::Address;
use crate::id::{IdentityKey, InstanceId};
use crate::identity::Certificate;
use crate::limits::INSTANCES_MAX;
use crate::record::{HandOver, Home, IdentityRecord, Offer, PresenceRecord, RecordError};
use crate::time::UnixTime;
use crate::wire::cbor::{self, CborError};
use crate::wire::directory::{Entry, Find, HAND_OVERS_MAX, Target};

/// Names, and agents, that a client remembers. About 1 MB; one that talks with more forgets those it asked for longest ago.
pub const PINS_MAX: usize = 4_096;

/// The client's question that an entry came in answer to.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// A look-up of one agent.
    Resolve(&'a Target),
    /// A search.
    Find(&'a Find),
}

/// An agent whose records verified, agree with the pins, and answer the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedAgent {
    /// Identity key: what policies and pins hold.
    pub key: IdentityKey,
    /// Address, derived from the key.
    pub address: Address,
    /// Modifier that derives it.
    pub modifier: u64,
    /// Host name.
    pub name: String,
    /// Labels.
    pub tags: Vec<String>,
    /// Groups it answers for.
    pub groups: Vec<String>,
    /// What it is.
    pub description: String,
    /// Services it offers.
    pub offers: Vec<Offer>,
    /// Where it is, in the order in which the directory wants it tried; nowhere, if it is not present.
    pub instances: Vec<VerifiedInstance>,
    /// Whether its node says that it has a live tunnel to one of them.
    pub reachable: bool,
}

/// One installation of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedInstance {
    /// Certificate of its transport key.
    pub certificate: Certificate,
    /// Backbone nodes it can be reached through.
    pub homes: Vec<Home>,
}

/// Why an answer of the directory is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// A record does not verify: a byte was changed, or it is out of date or out of bounds.
    #[error("the directory served a record that does not verify")]
    Record(#[from] RecordError),
    /// Identity and presence belong to two agents.
    #[error("the directory served the presence of another agent")]
    ForeignPresence,
    /// Genuine, but not what was asked for.
    #[error("the directory answered with '{name}', which is not what was asked for")]
    NotAskedFor {
        /// Name in the record served.
        name: String,
    },
    /// A newer record of this agent was seen before.
    #[error("the directory served record {served} of '{name}', but {seen} was seen before")]
    OlderSequence {
        /// Name in the record served.
        name: String,
        /// Sequence of the record served.
        served: u64,
        /// Highest sequence seen.
        seen: u64,
    },
    /// The name had another key before, which has not handed it over. Only the user can accept the new one ([`Pins::forget`]).
    #[error("'{name}' had key {pinned} before, and has {served} now")]
    ChangedKey {
        /// The name.
        name: String,
        /// The key it had.
        pinned: IdentityKey,
        /// The key served.
        served: IdentityKey,
    },
}

/// What a client remembers of the agents it looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pins {
    #[n(0)]
    names: BTreeMap<String, NamePin>,
    #[n(1)]
    keys: BTreeMap<IdentityKey, KeyPin>,
}

/// The key that a name had when it was looked up first, or that it was handed over to since.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct NamePin {
    #[n(0)]
    key: IdentityKey,
    #[n(1)]
    used: UnixTime,
    /// When the last hand-over that was believed was signed: an earlier one would take the name back.
    #[n(2)]
    handed_over: Option<UnixTime>,
}

/// How far the records of a key had come.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct KeyPin {
    #[n(0)]
    identity_sequence: u64,
    /// Of the instances seen last, at most [`INSTANCES_MAX`].
    #[n(1)]
    presences: Vec<PresencePin>,
    #[n(2)]
    used: UnixTime,
    /// When the latest presence was issued of which nothing is remembered any more.
    #[n(3)]
    forgotten: Option<UnixTime>,
}

/// The newest presence record seen of an instance: each has its own sequence.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct PresencePin {
    #[n(0)]
    instance: InstanceId,
    #[n(1)]
    sequence: u64,
    #[n(2)]
    issued: UnixTime,
}

impl Pins {
    /// No pins: the first answer about each agent is believed if it verifies.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what [`Pins::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`CborError`] when the bytes were not written by it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CborError> {
        cbor::from_slice(bytes)
    }

    /// Checks an entry that the directory served in answer to `asked`, and remembers it if it was a look-up.
    ///
    /// # Errors
    /// [`DirectoryError`] tells in which way the directory is wrong. The pins are unchanged then.
    pub fn check(&mut self, entry: &Entry, asked: Asked<'_>, now: UnixTime) -> Result<VerifiedAgent, DirectoryError> {
        let identity = IdentityRecord::verify(&entry.identity, now)?;
        let address = identity.address().ok_or(RecordError::Address)?;
        let presences = verify_presences(entry, identity.key, now)?;
        check_asked(&identity, address, asked)?;
        let handed_over = self.check_name(&identity, &entry.hand_overs, now)?;
        let (key_pin, presences) = self.check_sequences(&identity, presences, now)?;
        if let Asked::Resolve(_) = asked {
            self.pin(&identity, key_pin, handed_over, now);
        }
        verified_agent(identity, address, presences, entry.reachable, now)
    }

    /// Forgets the key of `name`, so that the next look-up pins it anew: the user's word that a changed key is right.
    pub fn forget(&mut self, name: &str) -> Option<IdentityKey> {
        self.names.remove(name).map(|pin| pin.key)
    }

    /// The key pinned for `name`.
    pub fn key_of(&self, name: &str) -> Option<IdentityKey> {
        self.names.get(name).map(|pin| pin.key)
    }

    /// The form in which a driver stores the pins.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// Whether the name may have this key; with the date of the last hand-over by which it has, if any.
    fn check_name(
        &self,
        identity: &IdentityRecord,
        hand_overs: &[ByteVec],
        now: UnixTime,
    ) -> Result<Option<UnixTime>, DirectoryError> {
        let Some(pin) = self.names.get(&identity.name) else { return Ok(None) };
        if pin.key == identity.key {
            return Ok(pin.handed_over);
        }
        let (key, handed_over) = pin.follow(&identity.name, hand_overs, now);
        if key != identity.key {
            let (name, pinned, served) = (identity.name.clone(), pin.key, identity.key);
            return Err(DirectoryError::ChangedKey { name, pinned, served });
        }
        Ok(handed_over)
    }

    /// Whether none of the records is older than what was seen; gives what has been seen with them, and the presences that are believed.
    fn check_sequences(
        &self,
        identity: &IdentityRecord,
        presences: Vec<PresenceRecord>,
        now: UnixTime,
    ) -> Result<(KeyPin, Vec<PresenceRecord>), DirectoryError> {
        let older = |served, seen| DirectoryError::OlderSequence { name: identity.name.clone(), served, seen };
        let used = UnixTime::from_secs(now.as_secs());
        let seen = self.keys.get(&identity.key);
        let unseen = KeyPin { identity_sequence: 0, presences: Vec::new(), used, forgotten: None };
        let mut pin = seen.cloned().unwrap_or(unseen);
        if identity.sequence < pin.identity_sequence {
            return Err(older(identity.sequence, pin.identity_sequence));
        }
        (pin.identity_sequence, pin.used) = (identity.sequence, used);
        let served: Vec<InstanceId> = presences.iter().map(|presence| presence.instance).collect();
        let mut believed = Vec::with_capacity(presences.len());
        for presence in presences {
            if pin.see(&presence, &served).map_err(|seen| older(presence.sequence, seen))? {
                believed.push(presence);
            }
        }
        Ok((pin, believed))
    }

    fn pin(&mut self, identity: &IdentityRecord, pin: KeyPin, handed_over: Option<UnixTime>, now: UnixTime) {
        let used = UnixTime::from_secs(now.as_secs());
        self.names.insert(identity.name.clone(), NamePin { key: identity.key, used, handed_over });
        evict(&mut self.names, |pin| pin.used);
        self.keys.insert(identity.key, pin);
        evict(&mut self.keys, |pin| pin.used);
    }
}

impl NamePin {
    /// The key that the name has after the hand-overs which continue from this pin, and the date of the last of them.
    fn follow(&self, name: &str, hand_overs: &[ByteVec], now: UnixTime) -> (IdentityKey, Option<UnixTime>) {
        let believed = hand_overs.iter().take(HAND_OVERS_MAX).filter_map(|bytes| HandOver::verify(bytes, now).ok());
        believed.fold((self.key, self.handed_over), |(key, since), next| {
            let continues = next.from == key && next.name == name && since.is_none_or(|since| next.issued > since);
            if continues { (next.to, Some(next.issued)) } else { (key, since) }
        })
    }
}

impl KeyPin {
    /// Notes a presence from an answer about the instances in `served`, and tells whether it is believed. One of an instance that is not
    /// remembered may be from the past if it was issued before one that was forgotten; else it takes the place of the oldest that is not
    /// in the answer, when all are taken.
    ///
    /// # Errors
    /// The sequence of a later one that was seen of the same instance.
    fn see(&mut self, record: &PresenceRecord, served: &[InstanceId]) -> Result<bool, u64> {
        if let Some(seen) = self.presences.iter_mut().find(|seen| seen.instance == record.instance) {
            if seen.sequence > record.sequence {
                return Err(seen.sequence);
            }
            *seen = PresencePin::of(record);
            return Ok(true);
        }
        if self.forgotten.is_some_and(|forgotten| record.issued < forgotten) {
            return Ok(false);
        }
        if self.presences.len() < INSTANCES_MAX {
            self.presences.push(PresencePin::of(record));
            return Ok(true);
        }
        let gone = self.presences.iter_mut().filter(|seen| !served.contains(&seen.instance));
        let Some(oldest) = gone.min_by_key(|seen| seen.issued) else { return Ok(false) };
        self.forgotten = self.forgotten.max(Some(oldest.issued));
        *oldest = PresencePin::of(record);
        Ok(true)
    }
}

impl PresencePin {
    fn of(record: &PresenceRecord) -> Self {
        Self { instance: record.instance, sequence: record.sequence, issued: record.issued }
    }
}

/// Keeps the table within [`PINS_MAX`] by dropping what was used longest ago.
fn evict<K: Ord + Clone, V>(pins: &mut BTreeMap<K, V>, used: impl Fn(&V) -> UnixTime) {
    while pins.len() > PINS_MAX {
        let oldest = pins.iter().min_by_key(|(_, pin)| used(pin)).map(|(key, _)| key.clone());
        oldest.and_then(|key| pins.remove(&key));
    }
}

/// The presences in the entry. One that has run out says only that the agent is not there.
fn verify_presences(entry: &Entry, key: IdentityKey, now: UnixTime) -> Result<Vec<PresenceRecord>, DirectoryError> {
    let verified = entry.presences.iter().take(INSTANCES_MAX).map(|bytes| PresenceRecord::verify(bytes, now));
    let in_date = verified.filter(|verified| *verified != Err(RecordError::Expired));
    in_date
        .map(|verified| match verified? {
            presence if presence.key == key => Ok(presence),
            _ => Err(DirectoryError::ForeignPresence),
        })
        .collect()
}

fn check_asked(identity: &IdentityRecord, address: Address, asked: Asked<'_>) -> Result<(), DirectoryError> {
    let answers = match asked {
        Asked::Resolve(Target::Name(name)) => identity.name == *name,
        Asked::Resolve(Target::Key(key)) => identity.key == *key,
        Asked::Resolve(Target::Address(wanted)) => address == *wanted,
        Asked::Find(find) => {
            find.tag.as_ref().is_none_or(|tag| identity.tags.contains(tag))
                && find.group.as_ref().is_none_or(|group| identity.groups.contains(group))
        }
    };
    if answers { Ok(()) } else { Err(DirectoryError::NotAskedFor { name: identity.name.clone() }) }
}

fn verified_agent(
    identity: IdentityRecord,
    address: Address,
    presences: Vec<PresenceRecord>,
    reachable: bool,
    now: UnixTime,
) -> Result<VerifiedAgent, DirectoryError> {
    let instance = |presence: PresenceRecord| {
        let certificate = Certificate::verify(&presence.certificate, now).map_err(RecordError::Certificate)?;
        Ok::<_, RecordError>(VerifiedInstance { certificate, homes: presence.homes })
    };
    let instances = presences.into_iter().map(instance).collect::<Result<Vec<_>, _>>()?;
    Ok(VerifiedAgent {
        key: identity.key,
        address,
        modifier: identity.modifier,
        name: identity.name,
        tags: identity.tags,
        groups: identity.groups,
        description: identity.description,
        offers: identity.offers,
        reachable: reachable && !instances.is_empty(),
        instances,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::tests::{alice, bob, mallory};
    use crate::identity::{Identity, TransportKey};

    const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);

    /// An agent that signs what the tests want signed.
    struct Agent {
        identity: Identity,
        name: &'static str,
    }

    impl Agent {
        fn new(which: u8, name: &'static str) -> Self {
            let identity = match which {
                1 => alice(),
                2 => bob(),
                _ => mallory(),
            };
            Self { identity, name }
        }

        fn identity(&self, sequence: u64) -> Vec<u8> {
            let record = IdentityRecord {
                key: self.identity.key(),
                modifier: self.identity.modifier(),
                sequence,
                name: self.name.into(),
                tags: vec!["finance".into()],
                groups: vec!["research".into()],
                description: String::new(),
                offers: vec![],
                issued: NOW,
                expires: NOW + Duration::from_secs(86_400),
            };
            record.sign(&self.identity).unwrap()
        }

        fn presence(&self, instance: u8, sequence: u64, issued: UnixTime) -> Vec<u8> {
            let (instance, transport) = (InstanceId([instance; 8]), TransportKey::from_secret([5; 32]));
            let record = PresenceRecord {
                key: self.identity.key(),
                instance,
                sequence,
                certificate: Certificate::issue(&self.identity, &transport, instance, 1, NOW).encode().to_vec(),
                homes: vec![Home { key: IdentityKey([7; 32]), addresses: vec![] }],
                issued,
                expires: issued + Duration::from_secs(3_600),
            };
            record.sign(&self.identity).unwrap()
        }

        fn entry(&self, sequence: u64) -> Entry {
            Entry {
                identity: self.identity(sequence),
                presences: vec![self.presence(1, sequence, NOW).into()],
                reachable: true,
                hand_overs: vec![],
            }
        }
    }

    fn by_name(name: &str) -> Target {
        Target::Name(name.into())
    }

    #[test]
    fn a_genuine_answer_is_believed_and_pinned() {
        let alice = Agent::new(1, "alice");
        let mut pins = Pins::new();
        let verified = pins.check(&alice.entry(1), Asked::Resolve(&by_name("alice")), NOW).unwrap();
        assert_eq!((verified.key, verified.address), (alice.identity.key(), alice.identity.address()));
        assert!(verified.reachable && verified.instances.len() == 1);
        assert_eq!(pins.key_of("alice"), Some(alice.identity.key()));
        assert!(pins.check(&alice.entry(1), Asked::Resolve(&Target::Key(verified.key)), NOW).is_ok());
        assert!(pins.check(&alice.entry(2), Asked::Resolve(&Target::Address(verified.address)), NOW).is_ok());
    }

    #[test]
    fn a_changed_byte_is_found_out() {
        let alice = Agent::new(1, "alice");
        let genuine = alice.entry(1);
        for byte in 0..genuine.identity.len() {
            let mut changed = genuine.clone();
            changed.identity[byte] ^= 1;
            let error = Pins::new().check(&changed, Asked::Resolve(&by_name("alice")), NOW).unwrap_err();
            assert!(matches!(error, DirectoryError::Record(_)), "byte {byte}: {error}");
        }
    }

    #[test]
    fn an_older_sequence_is_found_out_also_after_a_restart() {
        let alice = Agent::new(1, "alice");
        let name = by_name("alice");
        let mut pins = Pins::new();
        pins.check(&alice.entry(5), Asked::Resolve(&name), NOW).unwrap();
        let mut restarted = Pins::from_bytes(&pins.to_bytes()).unwrap();
        assert_eq!(
            restarted.check(&alice.entry(4), Asked::Resolve(&name), NOW),
            Err(DirectoryError::OlderSequence { name: "alice".into(), served: 4, seen: 5 })
        );
        let old_presence = Entry { presences: vec![alice.presence(1, 4, NOW).into()], ..alice.entry(6) };
        assert!(matches!(
            restarted.check(&old_presence, Asked::Resolve(&name), NOW),
            Err(DirectoryError::OlderSequence { served: 4, seen: 5, .. })
        ));
        assert!(restarted.check(&alice.entry(5), Asked::Resolve(&name), NOW).is_ok());
    }

    /// The directory's answer about agent with these presences, each (instance, sequence, seconds from now).
    fn at_homes(pins: &mut Pins, agent: &Agent, homes: &[(u8, u64, u64)]) -> Result<VerifiedAgent, DirectoryError> {
        let presence = |&(instance, sequence, secs): &(u8, u64, u64)| {
            agent.presence(instance, sequence, NOW + Duration::from_secs(secs)).into()
        };
        let entry = Entry { presences: homes.iter().map(presence).collect(), ..agent.entry(1) };
        pins.check(&entry, Asked::Resolve(&by_name(agent.name)), NOW)
    }

    #[test]
    fn each_instance_counts_on_its_own_and_is_given_in_the_order_of_the_directory() {
        let alice = Agent::new(1, "alice");
        let mut pins = Pins::new();
        let instances = |agent: VerifiedAgent| -> Vec<u8> {
            agent.instances.iter().map(|instance| instance.certificate.instance.0[0]).collect()
        };
        assert_eq!(instances(at_homes(&mut pins, &alice, &[(2, 1, 9), (1, 5, 0)]).unwrap()), [2, 1]);
        assert_eq!(instances(at_homes(&mut pins, &alice, &[(1, 6, 20), (2, 1, 9)]).unwrap()), [1, 2]);
        let mut pins = Pins::from_bytes(&pins.to_bytes()).unwrap();
        assert!(at_homes(&mut pins, &alice, &[(2, 2, 30)]).is_ok(), "one of them has gone");
        for replayed in [&[(1, 5, 0)][..], &[(2, 1, 9)], &[(2, 2, 30), (1, 5, 0)]] {
            let error = at_homes(&mut pins, &alice, replayed).unwrap_err();
            assert!(matches!(error, DirectoryError::OlderSequence { .. }), "{error}");
        }
        assert!(at_homes(&mut pins, &alice, &[(1, 6, 20)]).is_ok(), "a refused answer changes nothing");
    }

    #[test]
    fn a_refused_answer_pins_nothing_of_it() {
        let alice = Agent::new(1, "alice");
        let mut pins = Pins::new();
        at_homes(&mut pins, &alice, &[(1, 5, 0)]).unwrap();
        let before = pins.clone();
        assert!(at_homes(&mut pins, &alice, &[(2, 7, 1), (1, 4, 0)]).is_err());
        assert_eq!(pins, before);
    }

    #[test]
    fn inventing_instances_pushes_out_the_oldest_and_brings_none_back_from_the_past() {
        let alice = Agent::new(1, "alice");
        let mut pins = Pins::new();
        for instance in 1..=50 {
            at_homes(&mut pins, &alice, &[(instance, 1, u64::from(instance))]).unwrap();
            assert!(pins.keys[&alice.identity.key()].presences.len() <= INSTANCES_MAX);
        }
        assert_eq!(at_homes(&mut pins, &alice, &[(1, 1, 1)]).unwrap().instances, []);
        let more: Vec<_> = (51..=60).map(|instance| (instance, 1, 60)).collect();
        assert_eq!(at_homes(&mut pins, &alice, &more).unwrap().instances.len(), INSTANCES_MAX);
    }

    #[test]
    fn an_instance_that_stays_is_found_however_many_come_and_go_beside_it() {
        let alice = Agent::new(1, "alice");
        let mut pins = Pins::new();
        for instance in 2..=20 {
            for _ in 0..2 {
                let found = at_homes(&mut pins, &alice, &[(instance, 1, u64::from(instance)), (1, 1, 0)]).unwrap();
                assert_eq!(found.instances.len(), 2, "{instance}");
            }
        }
    }

    #[test]
    fn with_more_instances_than_are_remembered_those_that_are_remembered_are_found() {
        let alice = Agent::new(1, "alice");
        let mut pins = Pins::new();
        for first in 0..20 {
            let served: Vec<_> = (first..first + 4).map(|n| (n % 5, 1, u64::from(n % 5))).collect();
            assert!(at_homes(&mut pins, &alice, &served).unwrap().instances.len() >= 2, "{first}");
        }
    }

    #[test]
    fn another_key_under_a_pinned_name_is_an_error_until_the_user_forgets() {
        let (alice, impostor) = (Agent::new(1, "alice"), Agent::new(2, "alice"));
        let name = by_name("alice");
        let mut pins = Pins::new();
        pins.check(&alice.entry(1), Asked::Resolve(&name), NOW).unwrap();
        let expected = DirectoryError::ChangedKey {
            name: "alice".into(),
            pinned: alice.identity.key(),
            served: impostor.identity.key(),
        };
        assert_eq!(pins.check(&impostor.entry(9), Asked::Resolve(&name), NOW), Err(expected.clone()));
        let find = Find { tag: Some("finance".into()), ..Find::default() };
        assert_eq!(pins.check(&impostor.entry(9), Asked::Find(&find), NOW), Err(expected));
        pins.forget("alice");
        assert!(pins.check(&impostor.entry(9), Asked::Resolve(&name), NOW).is_ok());
    }

    fn hand_over(from: &Agent, to: &Agent, issued: UnixTime) -> ByteVec {
        let record = HandOver { from: from.identity.key(), name: from.name.into(), to: to.identity.key(), issued };
        record.sign(&from.identity).unwrap().into()
    }

    fn look_up(pins: &mut Pins, agent: &Agent, hand_overs: &[&ByteVec]) -> Result<VerifiedAgent, DirectoryError> {
        let hand_overs = hand_overs.iter().map(|bytes| (*bytes).clone()).collect();
        pins.check(&Entry { hand_overs, ..agent.entry(1) }, Asked::Resolve(&by_name(agent.name)), NOW)
    }

    #[test]
    fn a_hand_over_by_the_old_key_clears_the_pin_also_after_a_restart() {
        let [first, second, third] = [1, 2, 3].map(|which| Agent::new(which, "alice"));
        let [to_second, to_third] =
            [hand_over(&first, &second, NOW - Duration::from_secs(2)), hand_over(&second, &third, NOW)];
        let mut pins = Pins::new();
        look_up(&mut pins, &first, &[]).unwrap();
        look_up(&mut pins, &second, &[&to_second]).unwrap();
        assert_eq!(pins.key_of("alice"), Some(second.identity.key()));
        let mut pins = Pins::from_bytes(&pins.to_bytes()).unwrap();
        assert!(look_up(&mut pins, &first, &[]).is_err(), "the old key has the name no more");
        look_up(&mut pins, &second, &[]).unwrap();
        look_up(&mut pins, &third, &[&to_second, &to_third]).unwrap();
        let mut late = Pins::new();
        look_up(&mut late, &first, &[]).unwrap();
        look_up(&mut late, &third, &[&to_second, &to_third]).expect("two at once");
    }

    #[test]
    fn a_hand_over_of_anybody_else_or_anything_else_clears_no_pin() {
        let (alice, impostor, bob) = (Agent::new(1, "alice"), Agent::new(2, "alice"), Agent::new(3, "bob"));
        let of_another_name = Agent { name: "alicia", ..Agent::new(1, "alice") };
        let mut flipped = hand_over(&alice, &impostor, NOW);
        flipped[20] ^= 1;
        let mut pins = Pins::new();
        look_up(&mut pins, &alice, &[]).unwrap();
        for (what, forged) in [
            ("signed by the new key", hand_over(&impostor, &bob, NOW)),
            ("for another key", hand_over(&alice, &bob, NOW)),
            ("of another name", hand_over(&of_another_name, &impostor, NOW)),
            ("with a changed byte", flipped),
            ("rubbish", vec![1, 2, 3].into()),
        ] {
            let error = look_up(&mut pins, &impostor, &[&forged]).unwrap_err();
            assert!(matches!(error, DirectoryError::ChangedKey { .. }), "{what}: {error}");
            assert_eq!(pins.key_of("alice"), Some(alice.identity.key()), "{what}");
        }
    }

    #[test]
    fn a_hand_over_that_was_taken_back_cannot_be_replayed() {
        let (alice, second) = (Agent::new(1, "alice"), Agent::new(2, "alice"));
        let (there, back) = (hand_over(&alice, &second, NOW - Duration::from_secs(9)), hand_over(&second, &alice, NOW));
        let mut pins = Pins::new();
        look_up(&mut pins, &alice, &[]).unwrap();
        look_up(&mut pins, &second, &[&there]).unwrap();
        look_up(&mut pins, &alice, &[&there, &back]).unwrap();
        look_up(&mut pins, &alice, &[]).unwrap();
        let at_once = hand_over(&alice, &second, NOW);
        for replayed in [there, at_once] {
            let error = look_up(&mut pins, &second, &[&replayed]).unwrap_err();
            assert!(matches!(error, DirectoryError::ChangedKey { .. }), "{error}");
        }
    }

    #[test]
    fn a_genuine_record_that_was_not_asked_for_is_refused() {
        let bob = Agent::new(2, "bob");
        let key = Target::Key(IdentityKey([1; 32]));
        let address = Target::Address(Address([1; 6]));
        let find =
            |tag: &str, group: &str| Find { tag: Some(tag.into()), group: Some(group.into()), ..Find::default() };
        let (other_group, other_tag) = (find("finance", "support"), find("legal", "research"));
        for asked in [
            Asked::Resolve(&by_name("alice")),
            Asked::Resolve(&key),
            Asked::Resolve(&address),
            Asked::Find(&other_group),
            Asked::Find(&other_tag),
        ] {
            let mut pins = Pins::new();
            assert_eq!(pins.check(&bob.entry(1), asked, NOW), Err(DirectoryError::NotAskedFor { name: "bob".into() }));
            assert_eq!(pins, Pins::new());
        }
    }

    #[test]
    fn the_presence_of_another_agent_is_refused() {
        let (alice, bob) = (Agent::new(1, "alice"), Agent::new(2, "bob"));
        let mixed = Entry { presences: vec![bob.presence(1, 1, NOW).into()], ..alice.entry(1) };
        assert_eq!(
            Pins::new().check(&mixed, Asked::Resolve(&by_name("alice")), NOW),
            Err(DirectoryError::ForeignPresence)
        );
    }

    #[test]
    fn presence_that_ran_out_means_unreachable() {
        let alice = Agent::new(1, "alice");
        let last_week = NOW - Duration::from_secs(3 * 86_400);
        let stale = Entry { presences: vec![alice.presence(1, 1, last_week).into()], ..alice.entry(1) };
        let verified = Pins::new().check(&stale, Asked::Resolve(&by_name("alice")), NOW).unwrap();
        assert!(!verified.reachable && verified.instances.is_empty());
    }

    #[test]
    fn a_search_leaves_no_pins() {
        let alice = Agent::new(1, "alice");
        let find = Find { tag: Some("finance".into()), ..Find::default() };
        let mut pins = Pins::new();
        assert!(pins.check(&alice.entry(1), Asked::Find(&find), NOW).is_ok());
        assert_eq!(pins, Pins::new());
    }

    #[test]
    fn a_full_table_forgets_what_was_used_longest_ago() {
        let mut table: BTreeMap<usize, UnixTime> = (0..PINS_MAX).map(|i| (i, UnixTime::from_secs(10))).collect();
        table.insert(3, UnixTime::from_secs(5));
        table.insert(PINS_MAX, UnixTime::from_secs(20));
        evict(&mut table, |used| *used);
        assert_eq!(table.len(), PINS_MAX);
        assert!(!table.contains_key(&3) && table.contains_key(&PINS_MAX));
    }
}
