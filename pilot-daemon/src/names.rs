//! What an agent remembers of others: pins, and the directory's last answers, so that names resolved before still work
//! while no backbone node answers.

use std::collections::BTreeMap;

use pilot_core::address::Address;
use pilot_core::directory::{Asked, DirectoryError, Pins, VerifiedAgent};
use pilot_core::id::IdentityKey;
use pilot_core::record::IdentityRecord;
use pilot_core::time::{Mono, UnixTime};
use pilot_core::wire::directory::{Entry, Reply, Target};

use crate::home::{AgentHome, HomeError};

/// Agents kept that searches have found and nobody has called yet: those of four full answers, 4 MiB at most.
const FOUND_MAX: usize = 256;
/// Answers kept; the one asked for longest ago makes room. About 600 bytes each.
const ANSWERS_MAX: usize = 1_024;
const PINS_FILE: &str = "pins";
const ANSWERS_FILE: &str = "names";

/// Pins and answers of one agent.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pins: Pins,
    answers: BTreeMap<IdentityKey, Answer>,
    /// Whom searches have found, until they are called. They are not stored: nobody chose them.
    found: BTreeMap<IdentityKey, Answer>,
}

/// What the directory served last about an agent, still signed.
#[derive(Debug)]
struct Answer {
    name: String,
    address: Option<Address>,
    entry: Entry,
    served: Option<Mono>,
}

impl Names {
    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// If the pins are unreadable or damaged: going on without them would believe anybody.
    pub(crate) fn load(home: &AgentHome, now: UnixTime) -> Result<Self, HomeError> {
        let pins = match home.read_checked(PINS_FILE)? {
            Some(bytes) => Pins::from_bytes(&bytes)
                .map_err(|error| HomeError::Damaged { path: home.path().join(PINS_FILE), what: error.to_string() })?,
            None => Pins::new(),
        };
        let mut names = Self { pins, ..Self::default() };
        match stored_answers(home) {
            Ok(entries) => entries.into_iter().for_each(|entry| names.remember(entry, None, now)),
            // They are signed, and can be asked for again: nothing is lost that a damaged file could hold up a start for.
            Err(error) => tracing::warn!(%error, "names resolved before are forgotten"),
        }
        Ok(names)
    }

    /// Stores everything for the next start.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(crate) fn save(home: &AgentHome, (pins, answers): &(Vec<u8>, Vec<u8>)) -> Result<(), HomeError> {
        home.write_checked(PINS_FILE, pins)?;
        home.write_checked(ANSWERS_FILE, answers)
    }

    /// The two files' contents; answers have the form in which the directory served them.
    pub(crate) fn to_bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let entries = self.answers.values().map(|answer| answer.entry.clone()).collect();
        (self.pins.to_bytes(), Reply::Found(entries).encode())
    }

    /// Checks an answer of the directory, and remembers it: one to a look-up as the last word about the agent, one to a search until
    /// [`Self::take_found`].
    ///
    /// # Errors
    /// In which way the directory is wrong.
    pub(crate) fn check(
        &mut self,
        entry: Entry,
        asked: Asked<'_>,
        served: Mono,
        now: UnixTime,
    ) -> Result<VerifiedAgent, DirectoryError> {
        let verified = self.pins.check(&entry, asked, now)?;
        match asked {
            Asked::Resolve(_) => self.remember(entry, Some(served), now),
            Asked::Find(_) => self.keep_found(entry, &verified, served),
        }
        Ok(verified)
    }

    /// What a search has found of `target` since `not_before`, as the answer to a look-up that it is from now on. It is taken once: if nobody
    /// is reached by it, the next call asks the directory.
    pub(crate) fn take_found(&mut self, target: &Target, not_before: Mono, now: UnixTime) -> Option<VerifiedAgent> {
        let (&key, _) = self.found.iter().find(|(key, answer)| answer.is_about(key, target))?;
        let Answer { entry, served, .. } = self.found.remove(&key)?;
        let served = served.filter(|served| *served >= not_before)?;
        self.check(entry, Asked::Resolve(target), served, now).ok()
    }

    /// The last answer about `target`, served since `not_before` if that is given.
    pub(crate) fn recall(&mut self, target: &Target, not_before: Option<Mono>, now: UnixTime) -> Option<VerifiedAgent> {
        let answer =
            self.answers.iter().find(|(key, answer)| answer.is_about(key, target)).map(|(_, answer)| answer)?;
        if not_before.is_some_and(|not_before| answer.served.is_none_or(|served| served < not_before)) {
            return None;
        }
        self.pins.check(&answer.entry, Asked::Resolve(target), now).ok()
    }

    /// The name of a key that was looked up before.
    pub(crate) fn name_of(&self, key: &IdentityKey) -> Option<&str> {
        self.answers.get(key).map(|answer| answer.name.as_str())
    }

    fn remember(&mut self, entry: Entry, served: Option<Mono>, now: UnixTime) {
        let Ok(identity) = IdentityRecord::verify(&entry.identity, now) else { return };
        let address = identity.address();
        // Who had the name before is not looked up by it any more.
        self.answers.retain(|key, answer| answer.name != identity.name || *key == identity.key);
        self.answers.insert(identity.key, Answer { name: identity.name, address, entry, served });
        evict(&mut self.answers, ANSWERS_MAX);
    }

    fn keep_found(&mut self, entry: Entry, agent: &VerifiedAgent, served: Mono) {
        self.found.retain(|key, answer| answer.name != agent.name || *key == agent.key);
        let (name, address) = (agent.name.clone(), Some(agent.address));
        self.found.insert(agent.key, Answer { name, address, entry, served: Some(served) });
        evict(&mut self.found, FOUND_MAX);
    }
}

impl Answer {
    /// Whether it is about who is wanted; `key` is the agent's.
    fn is_about(&self, key: &IdentityKey, wanted: &Target) -> bool {
        match wanted {
            Target::Name(name) => self.name == *name,
            Target::Key(wanted) => key == wanted,
            Target::Address(address) => self.address == Some(*address),
        }
    }
}

/// Makes room in a table by forgetting what was served longest ago.
fn evict(answers: &mut BTreeMap<IdentityKey, Answer>, len_max: usize) {
    while answers.len() > len_max {
        let oldest = answers.iter().min_by_key(|(_, answer)| answer.served).map(|(key, _)| *key);
        oldest.and_then(|key| answers.remove(&key));
    }
}

fn stored_answers(home: &AgentHome) -> Result<Vec<Entry>, HomeError> {
    let Some(bytes) = home.read_checked(ANSWERS_FILE)? else { return Ok(Vec::new()) };
    let damaged = |what: String| HomeError::Damaged { path: home.path().join(ANSWERS_FILE), what };
    match Reply::decode(&bytes) {
        Ok(Reply::Found(entries)) => Ok(entries),
        Ok(_) => Err(damaged("not a list of agents".into())),
        Err(error) => Err(damaged(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;

    const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);

    #[test]
    fn a_flipped_byte_of_the_pins_is_an_error_and_of_the_answers_costs_only_these() {
        let root = tempfile::tempdir().unwrap();
        let agent = Home::at(root.path()).agent("agent-alpha").unwrap();
        let _lock = agent.lock().unwrap();
        Names::save(&agent, &Names::default().to_bytes()).unwrap();
        let with_flip_of = |name: &str, at: usize| {
            let mut bytes = agent.read(name).unwrap().unwrap();
            bytes[at] ^= 1;
            agent.write(name, &bytes, 0o600).unwrap();
            let loaded = Names::load(&agent, NOW);
            bytes[at] ^= 1;
            agent.write(name, &bytes, 0o600).unwrap();
            loaded
        };
        let len = |name| agent.read(name).unwrap().unwrap().len();
        for at in 0..len(PINS_FILE) {
            assert!(matches!(with_flip_of(PINS_FILE, at), Err(HomeError::Damaged { .. })), "byte {at}");
        }
        for at in 0..len(ANSWERS_FILE) {
            assert!(with_flip_of(ANSWERS_FILE, at).is_ok(), "byte {at}");
        }
    }
}
