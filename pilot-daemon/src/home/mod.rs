//! What an agent keeps on disk, and who may have it open.
//!
//! ```text
//! PILOT_HOME/                      default ~/.pilot
//!   agents/NAME/                   0700
//!     identity.pem                 0600, the Ed25519 key, PKCS#8
//!     identity.pub                 key and modifier, so that a start searches no address and neighbours know the key
//!     transport.keys               0600, transport keys still honoured, the current one first
//!     instance                     names this installation
//!     config.toml                  settings that a restart keeps
//!     lock, pid                    one daemon at a time, and which
//!     ephemeral                    marks the home of an agent that takes it along when it ends
//!     log, log.1                   bounded
//!     pins, names                  what the directory said about others
//!     port, sequence, asked        the UDP port to ask for again; the last sequence of a record; when a membership was asked for last
//!     inbox                        messages that no handler took
//!     api.sock                     the local API, unless its path is too long
//! ```
//!
//! Every file is replaced whole (temporary file, fsync, rename): a crash leaves the old one or the new one. Files of which a changed byte
//! could pass for another truth (`transport.keys`, `pins`, `names`) end with a checksum; spec/failures.md §3 says what holds for each.

mod checked;
mod ephemeral;
mod error;
mod keys;
mod lock;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use pilot_core::id::IdentityKey;
use pilot_core::record::is_name;
use serde::Deserialize;
use toml_edit::DocumentMut;

pub use self::error::HomeError;
pub use self::lock::HomeLock;

/// Longest path of a Unix socket on the narrowest platform we run on (macOS: 104 with the final zero).
const SOCKET_PATH_LEN_MAX: usize = 103;

/// The directory of everything: `PILOT_HOME`.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

/// One agent's directory.
#[derive(Clone, Debug)]
pub struct AgentHome {
    name: String,
    dir: PathBuf,
}

/// Settings that a restart keeps.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Labels to be found by.
    pub tags: Vec<String>,
    /// Groups that the agent answers for.
    pub groups: Vec<String>,
    /// What it says about itself.
    pub description: String,
    /// Ticket of the backbone node, where one was named.
    pub backbone: Option<String>,
    /// Allow direct paths.
    pub direct: bool,
}

impl Home {
    /// The home that the environment names.
    ///
    /// # Errors
    /// [`HomeError::NoHome`] where it names none.
    pub fn from_env() -> Result<Self, HomeError> {
        let named = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
        let root = named("PILOT_HOME").map(PathBuf::from);
        let root = root.or_else(|| named("HOME").map(|home| PathBuf::from(home).join(".pilot")));
        root.map(Self::at).ok_or(HomeError::NoHome)
    }

    /// The home at a path; nothing is created yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Where the local backbone node of the zero configuration lives.
    pub fn backbone_dir(&self) -> PathBuf {
        self.root.join("backbone")
    }

    /// One agent's directory; nothing is created yet.
    ///
    /// # Errors
    /// [`HomeError::Name`] for what is no host name.
    pub fn agent(&self, name: &str) -> Result<AgentHome, HomeError> {
        if !is_name(name) {
            return Err(HomeError::Name(name.to_owned()));
        }
        Ok(AgentHome { name: name.to_owned(), dir: self.root.join("agents").join(name) })
    }

    /// Every agent that has lived here, by name. A start that failed before there was a key has made none.
    pub fn agents(&self) -> Vec<AgentHome> {
        let Ok(entries) = fs::read_dir(self.root.join("agents")) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let agents = names.filter_map(|name| self.agent(&name).ok());
        let mut agents: Vec<_> = agents.filter(AgentHome::has_identity).collect();
        agents.sort_by(|one, other| one.name.cmp(&other.name));
        agents
    }

    /// The agent of that key.
    pub fn agent_of(&self, key: &IdentityKey) -> Option<AgentHome> {
        self.agents().into_iter().find(|agent| matches!(agent.public_identity(), Ok(Some((found, _))) if found == *key))
    }

    /// The proxy that `config.toml` names for all agents here.
    pub fn proxy(&self) -> Option<String> {
        named_in(&self.root).proxy
    }

    /// Those agents' keys, with their names: they are one user's, and trust each other.
    pub fn identities(&self) -> BTreeMap<IdentityKey, String> {
        let identity = |agent: AgentHome| Some((agent.public_identity().ok()??.0, agent.name));
        self.agents().into_iter().filter_map(identity).collect()
    }
}

impl AgentHome {
    /// The home of what lives in `dir`, which is not one of the agents: a backbone node.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, dir }
    }

    /// The agent's host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Calls the agent something else from now on: its directory moves, its key and address stay.
    ///
    /// # Errors
    /// [`HomeError::AlreadyRunning`] if it runs, [`HomeError::HasIdentity`] if there is another of that name, or why it cannot be moved.
    pub fn rename(&self, to: &Self) -> Result<(), HomeError> {
        let lock = self.lock()?;
        if to.has_identity() {
            return Err(HomeError::HasIdentity { name: to.name.clone() });
        }
        fs::rename(&self.dir, &to.dir).map_err(|source| to.write_error("", source))?;
        // The pid file has moved along; with the lock it is of no use.
        to.remove("pid")?;
        drop(lock);
        Ok(())
    }

    /// Removes a file in the directory, if it is there.
    fn remove(&self, name: &str) -> Result<(), HomeError> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.write_error(name, error)),
            _ => Ok(()),
        }
    }

    /// What of its secrets other users of the machine may read or change, because somebody has widened its mode.
    pub fn exposed(&self) -> Vec<PathBuf> {
        let is_exposed =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
        let secrets = ["identity.pem", "transport.keys", "config.toml"].map(|name| self.dir.join(name));
        [self.dir.clone()].into_iter().chain(secrets).filter(is_exposed).collect()
    }

    /// The log of its daemon.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Messages that no handler took.
    pub fn inbox_path(&self) -> PathBuf {
        self.dir.join("inbox")
    }

    /// Where the local API listens: in the directory, or, where that path is too long, in `XDG_RUNTIME_DIR`.
    ///
    /// # Errors
    /// [`HomeError::SocketPath`] if neither path is short enough.
    pub fn socket_path(&self) -> Result<PathBuf, HomeError> {
        self.socket_path_with(std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from))
    }

    fn socket_path_with(&self, runtime_dir: Option<PathBuf>) -> Result<PathBuf, HomeError> {
        let fits = |path: &PathBuf| path.as_os_str().len() <= SOCKET_PATH_LEN_MAX;
        let path = self.dir.join("api.sock");
        if fits(&path) {
            return Ok(path);
        }
        // The name alone would clash between two homes.
        let digest = pilot_core::crypto::sha256(&[path.as_os_str().as_encoded_bytes()]);
        let short = format!("pilot-{}.sock", HEXLOWER.encode(&digest[..8]));
        runtime_dir.map(|dir| dir.join(short)).filter(fits).ok_or(HomeError::SocketPath { path })
    }

    /// Settings of the last run, or the defaults.
    ///
    /// # Errors
    /// If the file is unreadable or damaged.
    pub fn settings(&self) -> Result<Settings, HomeError> {
        let Some(bytes) = self.read("config.toml")? else {
            return Ok(Settings::default());
        };
        let text = String::from_utf8(bytes).map_err(|error| self.damaged("config.toml", &error))?;
        toml::from_str(&text).map_err(|error| self.damaged("config.toml", &error))
    }

    /// Stores settings for the next run. What else a person wrote into the file stays as it is.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save_settings(&self, settings: &Settings) -> Result<(), HomeError> {
        let text = self.read("config.toml")?.unwrap_or_default();
        let text = String::from_utf8(text).map_err(|error| self.damaged("config.toml", &error))?;
        let mut document: DocumentMut = text.parse().map_err(|error| self.damaged("config.toml", &error))?;
        settings.write_to(&mut document);
        self.write("config.toml", document.to_string().as_bytes(), 0o600)
    }

    /// `config.toml` as it is now: what a start that fails puts back.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn settings_text(&self) -> Result<Option<Vec<u8>>, HomeError> {
        self.read("config.toml")
    }

    /// Puts back what [`Self::settings_text`] has read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put_back_settings(&self, text: Option<&[u8]>) -> Result<(), HomeError> {
        if self.settings_text()?.as_deref() == text {
            return Ok(());
        }
        match text {
            Some(text) => self.write("config.toml", text, 0o600),
            None => {
                fs::remove_file(self.dir.join("config.toml")).map_err(|source| self.write_error("config.toml", source))
            }
        }
    }

    /// The proxy that `config.toml` names at this moment: it may have another password than at the start.
    pub fn proxy(&self) -> Option<String> {
        named_in(&self.dir).proxy
    }

    /// A small number kept under this name; `None` if there is none or it makes no sense.
    pub fn number(&self, name: &str) -> Option<u64> {
        let bytes = self.read(name).ok()??;
        std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
    }

    /// Keeps a small number.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_number(&self, name: &str, number: u64) -> Result<(), HomeError> {
        self.write(name, format!("{number}\n").as_bytes(), 0o600)
    }

    /// The contents of a file in the directory; `None` if it is not there.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, HomeError> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::Read { path, source }),
        }
    }

    /// Replaces a file in the directory.
    ///
    /// # Errors
    /// If that is not possible; the old file is still there then.
    pub fn write(&self, name: &str, contents: &[u8], mode: u32) -> Result<(), HomeError> {
        let path = self.dir.join(name);
        replace_file(&path, contents, mode).map_err(|source| HomeError::Write { path, source })
    }

    fn write_error(&self, name: &str, source: io::Error) -> HomeError {
        HomeError::Write { path: self.dir.join(name), source }
    }

    fn damaged(&self, name: &str, what: &dyn std::fmt::Display) -> HomeError {
        HomeError::Damaged { path: self.dir.join(name), what: what.to_string() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { tags: Vec::new(), groups: Vec::new(), description: String::new(), backbone: None, direct: true }
    }
}

impl Settings {
    fn write_to(&self, document: &mut DocumentMut) {
        let list = |words: &[String]| toml_edit::value(words.iter().collect::<toml_edit::Array>());
        document["tags"] = list(&self.tags);
        document["groups"] = list(&self.groups);
        document["description"] = toml_edit::value(&self.description);
        match &self.backbone {
            Some(backbone) => document["backbone"] = toml_edit::value(backbone),
            None => drop(document.remove("backbone")),
        }
        document["direct"] = toml_edit::value(self.direct);
    }
}

/// What a config file names for the daemon to look at whenever it needs it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    proxy: Option<String>,
}

/// What the config file of a directory names. A file that cannot be read names nothing: an attempt later it may.
fn named_in(directory: &Path) -> Named {
    let text = fs::read_to_string(directory.join("config.toml")).unwrap_or_default();
    toml::from_str(&text).unwrap_or_default()
}

/// Random bytes of the operating system.
///
/// # Errors
/// If it has none.
pub fn entropy<const N: usize>() -> Result<[u8; N], HomeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(HomeError::Entropy)?;
    Ok(bytes)
}

/// Replaces a file so that a crash leaves the old one or the new one, whole.
///
/// # Errors
/// Those of the system; the old file is still there then.
pub fn replace_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    // Two threads may replace the same file at once: each writes a file of its own, and the last rename stands.
    static REPLACED: AtomicU64 = AtomicU64::new(0);
    let directory = directory_of(path);
    // First, so that who has no descriptor left is told so while the old file is still there.
    let opened = File::open(directory)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = REPLACED.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!(".{name}.{}.{number}", std::process::id()));
    let result = write_file(&temporary, contents, mode).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // It may not even have been created; the error that counts is the first one.
        fs::remove_file(&temporary).ok();
        return result;
    }
    opened.sync_all()
}

/// Writes a file that is not there yet.
///
/// # Errors
/// Those of the system, [`io::ErrorKind::AlreadyExists`] among them; nothing was changed then.
pub fn create_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(path)?;
    let written = file.write_all(contents).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half of it is of no use; the error that counts is the first one.
        fs::remove_file(path).ok();
    }
    written
}

/// Where a file lies. The parent of a bare name is an empty path, which nothing can open.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        Some(_) | None => Path::new("."),
    }
}

fn write_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(path)?;
    // A file left over from a crash keeps its old mode when it is opened.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(contents)?;
    file.sync_all()
}
