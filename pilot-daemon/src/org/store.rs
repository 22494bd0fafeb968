//! Organisations on disk.
//!
//! ```text
//! agents/NAME/orgs/ORG/     0700
//!   state                   0600, roster, open invites, who has enrolled this agent
//!   key/                    the organisation's key, where this agent has founded it
//!   successor/              the key that may replace it, until somebody takes it to a safe place
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use minicbor::{Decode, Encode};
use pilot_core::id::IdentityKey;
use pilot_core::identity::Identity;
use pilot_core::org::issuer::Invites;
use pilot_core::org::roster::{Records, Roster};
use pilot_core::record::is_name;
use pilot_core::time::UnixTime;
use pilot_core::wire::cbor;

use super::Org;
use crate::home::{AgentHome, HomeError, replace_file};

const STATE_FILE: &str = "state";
/// Where the organisation's key is kept.
pub(crate) const KEY_DIR: &str = "key";
/// Where the key is kept that may replace the organisation's.
pub(crate) const SUCCESSOR_DIR: &str = "successor";

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
}

impl Org {
    /// The contents of its file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        cbor::to_vec(&State {
            org: self.roster.org(),
            records: self.roster.records(),
            invites: self.invites.clone(),
            enrolled_by: self.enrolled_by,
        })
    }
}

/// All organisations of an agent.
pub(super) fn load(home: &AgentHome, now: UnixTime) -> Result<BTreeMap<String, Org>, HomeError> {
    let dir = home.path().join("orgs");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(HomeError::Read { path: dir, source }),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| is_name(name));
    let mut table = BTreeMap::new();
    for name in names {
        // A directory without a state is what a crash has left of one that was just made.
        if let Some(org) = load_one(home, &name, now)? {
            table.insert(name, org);
        }
    }
    Ok(table)
}

fn load_one(home: &AgentHome, name: &str, now: UnixTime) -> Result<Option<Org>, HomeError> {
    let Some(bytes) = home.read(&format!("orgs/{name}/{STATE_FILE}"))? else { return Ok(None) };
    let path = dir_of(home, name).join(STATE_FILE);
    let damaged = |what: String| HomeError::Damaged { path: path.clone(), what };
    let state: State = cbor::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let roster = Roster::from_records(state.org, &state.records, now).map_err(|error| damaged(error.to_string()))?;
    let key = key_home(home, name, KEY_DIR).stored_identity()?;
    Ok(Some(Org { invites: state.invites, ..Org::new(roster, key, state.enrolled_by) }))
}

/// Keeps what has changed.
pub(super) fn save(home: &AgentHome, name: &str, state: &[u8]) -> Result<(), HomeError> {
    let path = dir_of(home, name).join(STATE_FILE);
    replace_file(&path, state, 0o600).map_err(|source| HomeError::Write { path, source })
}

/// Keeps a new organisation; its state comes last, and with it the organisation is there.
pub(super) fn create(home: &AgentHome, name: &str, key: Option<&Identity>, state: &[u8]) -> Result<(), HomeError> {
    make_dir(dir_of(home, name))?;
    if let Some(key) = key {
        keep_key(home, name, KEY_DIR, key)?;
    }
    save(home, name, state)
}

/// Keeps a key of an organisation in a directory of its own.
pub(crate) fn keep_key(home: &AgentHome, name: &str, kind: &str, key: &Identity) -> Result<PathBuf, HomeError> {
    let keys = key_home(home, name, kind);
    make_dir(keys.path().to_owned())?;
    keys.replace_identity(key)?;
    Ok(keys.path().join("identity.pem"))
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
