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
//!     log, log.1                   bounded
//!     pins, names                  what the directory said about others
//!     port, sequence               the UDP port to ask for again; the last sequence of a record
//!     inbox                        messages that no handler took
//!     api.sock                     the local API, unless its path is too long
//! ```
//!
//! Every file is replaced whole (temporary file, fsync, rename): a crash leaves the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use pilot_core::config::Keys;
use pilot_core::id::{IdentityKey, InstanceId};
use pilot_core::identity::{CERTIFICATE_LIFETIME, CLOCK_SKEW, Certificate, Identity, TransportKey};
use pilot_core::record::is_name;
use pilot_core::time::UnixTime;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Longest path of a Unix socket on the narrowest platform we run on (macOS: 104 with the final zero).
const SOCKET_PATH_LEN_MAX: usize = 103;
/// After this a new transport key is made (spec/handshake.md).
const TRANSPORT_KEY_ROTATION_SECS: u64 = 24 * 3600;

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

/// Holds an agent's directory: no other daemon can run for it until this is dropped.
#[derive(Debug)]
pub struct HomeLock {
    /// Removed when the lock is given up; the lock file itself stays, since removing it would let two hold it.
    pid_file: PathBuf,
    _file: File,
}

/// Settings that a restart keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Why something in the home directory could not be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Neither variable is set.
    #[error("neither PILOT_HOME nor HOME is set")]
    NoHome,
    /// A name that cannot be a directory, or a host name.
    #[error("{0:?} is not a host name")]
    Name(String),
    /// Another daemon holds the lock.
    #[error("agent '{name}' is already running (pid {})", pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()))]
    AlreadyRunning {
        /// The agent.
        name: String,
        /// Its daemon, if it has said so.
        pid: Option<u32>,
    },
    /// Something could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has contents that we did not write.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The socket has no path that the system takes.
    #[error("the path of the local API's socket is longer than {SOCKET_PATH_LEN_MAX} bytes: {}", path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Entropy(#[source] getrandom::Error),
}

impl HomeError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NoHome => "say where Pilot may keep its files: export PILOT_HOME=/some/directory".into(),
            Self::Name(_) => "use 1 to 63 letters, digits and hyphens, all lower case".into(),
            Self::AlreadyRunning { name, .. } => format!("stop it first: pilotctl daemon stop --as {name}"),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "make the file yours: it was perhaps written by another user (sudo?)".into()
            }
            Self::Read { .. } => "check the disk and the file".into(),
            Self::Write { .. } => {
                "check the permissions and the free space, or set PILOT_HOME to a directory of yours".into()
            }
            Self::Damaged { path, .. } => {
                format!("restore it from a backup; without one, move it away: mv {0} {0}.damaged", path.display())
            }
            Self::SocketPath { .. } => "set XDG_RUNTIME_DIR, or PILOT_HOME to a shorter path".into(),
            Self::Entropy(_) => "the system is not usable for keys; check /dev/urandom".into(),
        }
    }
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

    /// Every agent that has lived here, by name.
    pub fn agents(&self) -> Vec<AgentHome> {
        let Ok(entries) = fs::read_dir(self.root.join("agents")) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut agents: Vec<_> = names.filter_map(|name| self.agent(&name).ok()).collect();
        agents.sort_by(|one, other| one.name.cmp(&other.name));
        agents
    }

    /// The agent of that key.
    pub fn agent_of(&self, key: &IdentityKey) -> Option<AgentHome> {
        self.agents().into_iter().find(|agent| matches!(agent.public_identity(), Ok(Some((found, _))) if found == *key))
    }

    /// The keys of those agents: they are one user's, and trust each other.
    pub fn identity_keys(&self) -> Vec<IdentityKey> {
        self.agents().iter().filter_map(|agent| Some(agent.public_identity().ok()??.0)).collect()
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

    /// The log of its daemon.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Messages that no handler took.
    pub fn inbox_path(&self) -> PathBuf {
        self.dir.join("inbox")
    }

    /// The daemon that holds the agent, if one does.
    pub fn running_pid(&self) -> Option<u32> {
        let lock = File::open(self.dir.join("lock")).ok()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => None,
            Err(_) => Some(self.pid_in_file().unwrap_or(0)),
        }
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

    /// Creates the directory if need be and takes it for this process.
    ///
    /// # Errors
    /// [`HomeError::AlreadyRunning`] if another daemon has it, or why it cannot be written.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.dir).map_err(|source| self.write_error("", source))?;
        let path = self.dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|source| HomeError::Write { path, source })?;
        if !take_lock(&file) {
            return Err(HomeError::AlreadyRunning { name: self.name.clone(), pid: self.pid_in_file() });
        }
        // Whatever pid file is there now is stale: its daemon no longer holds the lock.
        self.write("pid", format!("{}\n", std::process::id()).as_bytes(), 0o644)?;
        Ok(HomeLock { pid_file: self.dir.join("pid"), _file: file })
    }

    /// The keys to run with; what is missing is made. Takes about a tenth of a second for a new identity.
    ///
    /// # Errors
    /// If a file is unreadable, damaged or unwritable. An identity is never replaced.
    pub fn keys(&self, now: UnixTime) -> Result<Keys, HomeError> {
        let identity = self.identity()?;
        let transport = self.transport_keys(now)?;
        // Seconds since the epoch grow from start to start, and nobody else issues for this instance.
        let certificate = Certificate::issue(&identity, &transport[0], self.instance()?, now.as_secs(), now);
        Ok(Keys { identity, transport, certificate })
    }

    /// Goes on to the key's next address, for the next start: the directory knows this one under another key.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn take_next_address(&self, identity: &Identity) -> Result<(), HomeError> {
        self.write_public_identity(&identity.next_address())
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

    /// Stores settings for the next run.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save_settings(&self, settings: &Settings) -> Result<(), HomeError> {
        let text = toml::to_string(settings).map_err(|error| self.damaged("config.toml", &error))?;
        self.write("config.toml", text.as_bytes(), 0o600)
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

    fn identity(&self) -> Result<Identity, HomeError> {
        let Some(pem) = self.read("identity.pem")? else {
            return self.new_identity();
        };
        let pem = secret_text(pem).map_err(|what| self.damaged("identity.pem", &what))?;
        if let Ok(Some((key, modifier))) = self.public_identity()
            && let Ok(identity) = Identity::from_pem_at(&pem, modifier)
            && identity.key() == key
        {
            return Ok(identity);
        }
        let identity = Identity::from_pem(&pem).map_err(|error| self.damaged("identity.pem", &error))?;
        self.write_public_identity(&identity)?;
        Ok(identity)
    }

    fn new_identity(&self) -> Result<Identity, HomeError> {
        let identity = Identity::generate(entropy()?);
        self.write("identity.pem", identity.to_pem().as_bytes(), 0o600)?;
        self.write_public_identity(&identity)?;
        Ok(identity)
    }

    fn write_public_identity(&self, identity: &Identity) -> Result<(), HomeError> {
        self.write("identity.pub", format!("{} {}\n", identity.key(), identity.modifier()).as_bytes(), 0o644)
    }

    /// Key and modifier.
    fn public_identity(&self) -> Result<Option<(IdentityKey, u64)>, HomeError> {
        let Some(bytes) = self.read("identity.pub")? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes);
        let parsed =
            text.trim().split_once(' ').and_then(|(key, modifier)| Some((key.parse().ok()?, modifier.parse().ok()?)));
        parsed.map(Some).ok_or_else(|| self.damaged("identity.pub", &"not a key and a modifier"))
    }

    fn instance(&self) -> Result<InstanceId, HomeError> {
        if let Some(bytes) = self.read("instance")? {
            let decoded = HEXLOWER.decode(bytes.trim_ascii()).ok().and_then(|bytes| bytes.try_into().ok());
            return decoded.map(InstanceId).ok_or_else(|| self.damaged("instance", &"not eight bytes in hexadecimal"));
        }
        let id = entropy()?;
        self.write("instance", HEXLOWER.encode(&id).as_bytes(), 0o644)?;
        Ok(InstanceId(id))
    }

    /// The keys still honoured, with a fresh one in front once a day.
    fn transport_keys(&self, now: UnixTime) -> Result<Vec<TransportKey>, HomeError> {
        let stored = self.read("transport.keys")?.unwrap_or_default();
        let text = secret_text(stored).map_err(|what| self.damaged("transport.keys", &what))?;
        let mut keys = Vec::new();
        for line in text.lines() {
            keys.push(
                parse_transport_key(line).ok_or_else(|| self.damaged("transport.keys", &"not a key and its date"))?,
            );
        }
        let honoured_secs = (CERTIFICATE_LIFETIME + CLOCK_SKEW).as_secs();
        keys.retain(|(_, made)| now.as_secs() < made.saturating_add(honoured_secs));
        let is_current = |made: u64| now.as_secs() < made.saturating_add(TRANSPORT_KEY_ROTATION_SECS);
        if !keys.first().is_some_and(|&(_, made)| is_current(made)) {
            keys.insert(0, (TransportKey::from_secret(entropy()?), now.as_secs()));
            let lines = keys.iter().map(|(key, made)| format!("{} {made}\n", HEXLOWER.encode(&key.secret()[..])));
            let text = Zeroizing::new(lines.collect::<String>());
            self.write("transport.keys", text.as_bytes(), 0o600)?;
        }
        Ok(keys.into_iter().map(|(key, _)| key).collect())
    }

    fn pid_in_file(&self) -> Option<u32> {
        self.number("pid").and_then(|pid| u32::try_from(pid).ok())
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

impl Drop for HomeLock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.pid_file) {
            tracing::debug!(%error, "pid file stays");
        }
    }
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

/// Tries a few times: [`AgentHome::running_pid`] of somebody else holds the lock for microseconds.
fn take_lock(file: &File) -> bool {
    const TRIES: u32 = 5;
    (0..TRIES).any(|tried| {
        std::thread::sleep(std::time::Duration::from_millis(5) * tried);
        rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

/// Replaces a file so that a crash leaves the old one or the new one, whole.
///
/// # Errors
/// Those of the system; the old file is still there then.
pub fn replace_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let result = write_file(&temporary, contents, mode).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // It may not even have been created; the error that counts is the first one.
        fs::remove_file(&temporary).ok();
        return result;
    }
    File::open(directory)?.sync_all()
}

fn write_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(path)?;
    // A file left over from a crash keeps its old mode when it is opened.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(contents)?;
    file.sync_all()
}

fn secret_text(bytes: Vec<u8>) -> Result<Zeroizing<String>, &'static str> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            Zeroizing::new(error.into_bytes());
            Err("not text")
        }
    }
}

fn parse_transport_key(line: &str) -> Option<(TransportKey, u64)> {
    let (secret, made) = line.split_once(' ')?;
    let secret = Zeroizing::new(HEXLOWER.decode(secret.as_bytes()).ok()?);
    let secret: [u8; 32] = secret.as_slice().try_into().ok()?;
    Some((TransportKey::from_secret(secret), made.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);

    fn agent(root: &tempfile::TempDir) -> AgentHome {
        Home::at(root.path()).agent("agent-alpha").unwrap()
    }

    fn mode(agent: &AgentHome, name: &str) -> u32 {
        fs::metadata(agent.path().join(name)).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_survive_a_restart_and_are_readable_by_their_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let agent = agent(&root);
        let _lock = agent.lock().unwrap();
        let first = agent.keys(NOW).unwrap();
        let second = agent.keys(NOW).unwrap();
        assert_eq!(first.identity.key(), second.identity.key());
        assert_eq!(first.transport[0].id(), second.transport[0].id());
        assert_eq!(first.certificate.instance, second.certificate.instance);
        assert_eq!((mode(&agent, "identity.pem"), mode(&agent, "transport.keys")), (0o600, 0o600));
        assert_eq!(Home::at(root.path()).identity_keys(), [first.identity.key()]);
    }

    #[test]
    fn transport_key_rotates_after_a_day_and_the_old_one_is_honoured_while_its_certificates_are() {
        let root = tempfile::tempdir().unwrap();
        let agent = agent(&root);
        let _lock = agent.lock().unwrap();
        let old = agent.keys(NOW).unwrap().transport[0].id();
        let day = std::time::Duration::from_secs(TRANSPORT_KEY_ROTATION_SECS);
        let rotated = agent.keys(NOW + day).unwrap().transport;
        assert_ne!(rotated[0].id(), old);
        assert_eq!(rotated[1].id(), old);
        assert!(agent.keys(NOW + day * 9).unwrap().transport.iter().all(|key| key.id() != old));
    }

    #[test]
    fn second_daemon_for_one_agent_is_told_the_pid_of_the_first() {
        let root = tempfile::tempdir().unwrap();
        let agent = agent(&root);
        let lock = agent.lock().unwrap();
        let error = agent.lock().unwrap_err();
        assert!(matches!(error, HomeError::AlreadyRunning { pid: Some(pid), .. } if pid == std::process::id()));
        assert_eq!(agent.running_pid(), Some(std::process::id()));
        drop(lock);
        assert_eq!(agent.running_pid(), None);
    }

    #[test]
    fn stale_pid_file_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let agent = agent(&root);
        drop(agent.lock().unwrap());
        agent.save_number("pid", 1).unwrap();
        assert_eq!(agent.running_pid(), None);
        assert!(agent.lock().is_ok());
    }

    #[test]
    fn damaged_key_file_is_an_error_and_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let agent = agent(&root);
        let _lock = agent.lock().unwrap();
        agent.write("identity.pem", b"not a key", 0o600).unwrap();
        assert!(matches!(agent.keys(NOW), Err(HomeError::Damaged { .. })));
        assert_eq!(agent.read("identity.pem").unwrap().unwrap(), b"not a key");
    }

    #[test]
    fn unreadable_key_file_is_an_error_and_no_new_identity() {
        let root = tempfile::tempdir().unwrap();
        let agent = agent(&root);
        let _lock = agent.lock().unwrap();
        // A directory in its place cannot be read as a file by any user, root included.
        fs::create_dir(agent.path().join("identity.pem")).unwrap();
        assert!(matches!(agent.keys(NOW), Err(HomeError::Read { .. })));
    }

    #[test]
    fn home_that_cannot_be_written_is_an_error_with_advice() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("agents"), b"a file where the directory should be").unwrap();
        let error = agent(&root).lock().unwrap_err();
        assert!(matches!(error, HomeError::Write { .. }));
        assert!(error.hint().contains("PILOT_HOME"));
    }

    #[test]
    fn socket_with_a_long_path_moves_to_the_runtime_directory() {
        let long = Home::at(format!("/{}", "x".repeat(100))).agent("agent-alpha").unwrap();
        let short = long.socket_path_with(Some("/run/user/1".into())).unwrap();
        assert!(short.starts_with("/run/user/1") && short.as_os_str().len() <= SOCKET_PATH_LEN_MAX);
        assert!(matches!(long.socket_path_with(None), Err(HomeError::SocketPath { .. })));
    }

    #[test]
    fn settings_survive_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let agent = agent(&root);
        let _lock = agent.lock().unwrap();
        assert_eq!(agent.settings().unwrap(), Settings::default());
        let settings = Settings { tags: vec!["mcp".into()], direct: false, ..Settings::default() };
        agent.save_settings(&settings).unwrap();
        assert_eq!(agent.settings().unwrap(), settings);
    }

    #[test]
    fn names_that_are_no_host_names_are_refused() {
        for name in ["", "Agent", "a b", "../x", "-a"] {
            assert!(matches!(Home::at("/tmp").agent(name), Err(HomeError::Name(_))), "{name}");
        }
    }
}
