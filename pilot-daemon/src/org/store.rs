//! Organisations on disk.
//!
//! ```text
//! agents/NAME/orgs/ORG/     0700
//!   state                   0600, roster, open invites, who has enrolled this agent
//!   key/                    the organisation's key, where this agent has founded it
//!   successor/              the key that may replace it, until somebody takes it to a safe place
//!   key.next/, successor.next/   those of a charter that is just being made
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use pilot_core::id::IdentityKey;
use pilot_core::identity::Identity;
use pilot_core::org::OrgError;
use pilot_core::org::charter::{Charter, Charters};
use pilot_core::org::issuer::{Invites, Ledger};
use pilot_core::org::roster::{Records, Roster};
use pilot_core::record::{RecordError, is_name};
use pilot_core::time::UnixTime;
use pilot_core::wire::cbor;

use super::{Kept, Org};
use crate::home::{AgentHome, HomeError};

const STATE_FILE: &str = "state";
/// Where the organisation's key is kept.
const KEY_DIR: &str = "key";
/// Where the key is kept that may replace the organisation's.
const SUCCESSOR_DIR: &str = "successor";
/// What the directory of a key ends in until the charter that names it is kept.
const NEXT_SUFFIX: &str = ".next";

#[derive(Encode, Decode)]
#[cbor(map)]
struct State {
    #[n(0)]
    org: IdentityKey,
    #[n(1)]
    records: Records,
    #[n(2)]
    invites: Invites,
    #[n(3)]
    enrolled_by: Option<IdentityKey>,
    #[n(4)]
    ledger: Ledger,
}

impl Kept {
    /// The contents of the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        cbor::to_vec(&State {
            org: self.roster.org(),
            records: self.roster.records(),
            invites: self.invites.clone(),
            enrolled_by: self.enrolled_by,
            ledger: Ledger::clone(&self.ledger),
        })
    }
}

/// All organisations of an agent.
pub(super) fn load(home: &AgentHome, now: UnixTime) -> Result<BTreeMap<String, Org>, HomeError> {
    let mut table = BTreeMap::new();
    for name in names(home)? {
        // A directory without a state is what a crash has left of one that was just made.
        if let Some(org) = load_one(home, &name, now)? {
            table.insert(name, org);
        }
    }
    Ok(table)
}

/// Whether [`load`] would find anything that it cannot read. Nothing is changed: an agent may be running here.
pub(crate) fn check(home: &AgentHome, now: UnixTime) -> Result<(), HomeError> {
    for name in names(home)? {
        if let Some(state) = read_state(home, &name)? {
            let charters = Charters::from_chain(state.org, &state.records.charters, now);
            charters.map_err(|error| unusable(home, &name, &error))?;
        }
    }
    Ok(())
}

fn names(home: &AgentHome) -> Result<Vec<String>, HomeError> {
    let dir = home.path().join("orgs");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(HomeError::Read { path: dir, source }),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| is_name(name)).collect())
}

fn read_state(home: &AgentHome, name: &str) -> Result<Option<State>, HomeError> {
    let Some(bytes) = home.read_checked(&format!("orgs/{name}/{STATE_FILE}"))? else { return Ok(None) };
    cbor::from_slice(&bytes).map(Some).map_err(|error| damaged(home, name, &error))
}

fn damaged(home: &AgentHome, name: &str, what: &dyn Display) -> HomeError {
    HomeError::Damaged { path: dir_of(home, name).join(STATE_FILE), what: what.to_string() }
}

/// Why charters are none: what was good when it was kept is bad by a clock that was set back.
fn unusable(home: &AgentHome, name: &str, error: &OrgError) -> HomeError {
    if *error == OrgError::Record(RecordError::NotYetValid) {
        return HomeError::Clock { path: dir_of(home, name).join(STATE_FILE) };
    }
    damaged(home, name, error)
}

fn load_one(home: &AgentHome, name: &str, now: UnixTime) -> Result<Option<Org>, HomeError> {
    let Some(state) = read_state(home, name)? else { return Ok(None) };
    let roster = Roster::from_records(state.org, &state.records, now).map_err(|error| unusable(home, name, &error))?;
    promote_keys(home, name, roster.charter())?;
    let key = key_home(home, name, KEY_DIR).stored_identity()?;
    let ledger = Arc::new(state.ledger);
    Ok(Some(Org { invites: state.invites, ledger, ..Org::new(roster, key, state.enrolled_by) }))
}

/// Keeps what has changed.
pub(super) fn save(home: &AgentHome, name: &str, state: &[u8]) -> Result<(), HomeError> {
    home.write_checked(&format!("orgs/{name}/{STATE_FILE}"), state)
}

/// Keeps a new organisation; its state comes last, and with it the organisation is there.
pub(super) fn create(
    home: &AgentHome,
    name: &str,
    keys: Option<(Identity, Identity)>,
    state: &[u8],
) -> Result<(), HomeError> {
    make_dir(dir_of(home, name))?;
    if let Some((key, successor)) = keys {
        keep_key(home, name, KEY_DIR, &key)?;
        keep_key(home, name, SUCCESSOR_DIR, &successor)?;
    }
    save(home, name, state)
}

/// Keeps the keys of a charter that is still to be made, beside those in force: without these nobody could make it any more.
pub(crate) fn keep_next_keys(
    home: &AgentHome,
    name: &str,
    key: &Identity,
    successor: &Identity,
) -> Result<(), HomeError> {
    keep_key(home, name, &format!("{KEY_DIR}{NEXT_SUFFIX}"), key)?;
    keep_key(home, name, &format!("{SUCCESSOR_DIR}{NEXT_SUFFIX}"), successor)
}

/// Puts the keys that `charter`, which is kept, names in place of those before it. What a crash interrupts is done at the next start.
pub(crate) fn promote_keys(home: &AgentHome, name: &str, charter: &Charter) -> Result<(), HomeError> {
    for (kind, key) in [(KEY_DIR, charter.key), (SUCCESSOR_DIR, charter.successor)] {
        let next = key_home(home, name, &format!("{kind}{NEXT_SUFFIX}"));
        // Half a key, or one of a charter that never was, is what a crash has left.
        let kept = next.stored_identity().ok().flatten();
        if kept.is_some_and(|kept| kept.key() == key) {
            let dir = dir_of(home, name).join(kind);
            let failed = |source| HomeError::Write { path: dir.clone(), source };
            if dir.exists() {
                fs::remove_dir_all(&dir).map_err(failed)?;
            }
            fs::rename(next.path(), &dir).map_err(failed)?;
        }
    }
    Ok(())
}

/// Where the key is that may replace the organisation's.
pub(crate) fn successor_file(home: &AgentHome, name: &str) -> PathBuf {
    dir_of(home, name).join(SUCCESSOR_DIR).join("identity.pem")
}

fn keep_key(home: &AgentHome, name: &str, kind: &str, key: &Identity) -> Result<(), HomeError> {
    let keys = key_home(home, name, kind);
    make_dir(keys.path().to_owned())?;
    keys.replace_identity(key)
}

/// The key that may replace the organisation's, if it is still here.
pub(crate) fn successor(home: &AgentHome, name: &str) -> Result<Option<Identity>, HomeError> {
    key_home(home, name, SUCCESSOR_DIR).stored_identity()
}

/// Removes an organisation, the state first: a crash leaves nothing that counts.
pub(super) fn remove(home: &AgentHome, name: &str) -> Result<(), HomeError> {
    let dir = dir_of(home, name);
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HomeError::Write { path: dir.clone(), source: error })
        }
        _ => Ok(()),
    };
    gone(fs::remove_file(dir.join(STATE_FILE)))?;
    gone(fs::remove_dir_all(&dir))
}

fn dir_of(home: &AgentHome, name: &str) -> PathBuf {
    home.path().join("orgs").join(name)
}

fn key_home(home: &AgentHome, name: &str, kind: &str) -> AgentHome {
    AgentHome::at(dir_of(home, name).join(kind))
}

fn make_dir(path: PathBuf) -> Result<(), HomeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|source| HomeError::Write { path, source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use pilot_core::org::issuer::Issuer;

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);

    #[test]
    fn a_crash_while_the_key_is_replaced_leaves_the_key_that_the_charter_names() {
        let directory = tempfile::tempdir().unwrap();
        let home = AgentHome::at(directory.path());
        let keys: Vec<_> = (1..5).map(|seed| Identity::generate([seed; 32])).collect();
        let charters = Issuer::found(&keys[0], keys[1].key(), "fleet", Duration::ZERO, NOW).unwrap();
        let mut org = Org::new(Roster::new(charters), Some(keys[0].clone()), None);
        create(&home, "fleet", Some((keys[0].clone(), keys[1].clone())), &org.kept().to_bytes()).unwrap();
        let kept = || {
            let key = load_one(&home, "fleet", NOW).unwrap().unwrap().key.unwrap();
            (key.key(), successor(&home, "fleet").unwrap().unwrap().key())
        };
        keep_next_keys(&home, "fleet", &keys[2], &keys[3]).unwrap();
        assert_eq!(kept(), (keys[0].key(), keys[1].key()), "killed before the charter");
        let before = org.roster.charter().clone();
        let (key, next) = (keys[2].key(), keys[3].key());
        let charter = Charter { sequence: 1, key, successor: next, previous_until: NOW, ..before };
        org.roster.add_charter(&charter.sign(&keys[0]).unwrap(), NOW).unwrap();
        save(&home, "fleet", &org.kept().to_bytes()).unwrap();
        assert_eq!(kept(), (key, next), "killed after it");
        assert_eq!(kept(), (key, next), "and for good");
    }
}
