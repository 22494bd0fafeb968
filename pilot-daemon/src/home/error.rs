//! Why a home directory could not be used, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::SOCKET_PATH_LEN_MAX;

/// Why something in the home directory could not be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Neither variable is set.
    #[error("neither PILOT_HOME nor HOME is set")]
    NoHome,
    /// A name that cannot be a directory, or a host name.
    #[error("'{0}' is no hostname")]
    Name(String),
    /// Another daemon holds the lock.
    #[error("agent '{name}' is already running{}", pid.map_or_else(String::new, |pid| format!(" (pid {pid})")))]
    AlreadyRunning {
        /// The agent.
        name: String,
        /// Its daemon, if it has said so.
        pid: Option<u32>,
    },
    /// The agent is somebody already.
    #[error("there is an agent '{name}' already")]
    HasIdentity {
        /// The agent.
        name: String,
    },
    /// An agent that is to stay cannot leave nothing behind.
    #[error("agent '{name}' is kept here, with its key: it cannot be ephemeral")]
    Kept {
        /// The agent.
        name: String,
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
    /// A file has contents of a day that is to come.
    #[error("this machine's clock is behind: {} is of a day that it says is to come", path.display())]
    Clock {
        /// The file.
        path: PathBuf,
    },
    /// The rules make no sense.
    #[error("{0}")]
    Rules(String),
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
            Self::Name(_) => "lower-case letters, digits and hyphens between them, at most 63".into(),
            Self::AlreadyRunning { name, .. } => {
                format!("`pilotctl daemon stop --as {name}` stops it; `daemon restart` does both")
            }
            Self::HasIdentity { name } => {
                format!("import it under another name with --hostname, or move PILOT_HOME/agents/{name} away")
            }
            Self::Kept { .. } => "choose another name with --hostname, or start it without --ephemeral".into(),
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
            Self::Clock { .. } => "set the clock, and start again; the file is as it should be".into(),
            Self::Rules(_) => "correct the file; `pilotctl man rules` tells what it may say".into(),
            Self::SocketPath { .. } => "set XDG_RUNTIME_DIR, or PILOT_HOME to a shorter path".into(),
            Self::Entropy(_) => "the system is not usable for keys; check /dev/urandom".into(),
        }
    }
}
