//! What lies where under `PILOT_HOME`, as far as commands need to know, and locks: a lock that is held says that its holder
//! lives, whatever a pid file says.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};

/// `PILOT_HOME` as an absolute path, for processes with another working directory get it too.
pub(crate) fn locate(flag: Option<PathBuf>) -> Result<PathBuf> {
    let home = match flag {
        Some(home) => home,
        None => std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).ok_or_else(no_home)?.join(".pilot"),
    };
    std::path::absolute(&home).map_err(|error| Failure::failed(format!("cannot use {} as PILOT_HOME: {error}", home.display())))
}

fn no_home() -> Failure {
    Failure::failed("neither PILOT_HOME nor HOME is set, so there is no place for an agent's files")
        .hint("set PILOT_HOME to a directory that is yours, or give --home DIR")
}

/// The names of the agents that have a directory in `home`, sorted.
pub(crate) fn agent_names(home: &Path) -> Result<Vec<String>> {
    let directory = home.join("agents");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::failed(format!("cannot read {}: {error}", directory.display()))),
    };
    let directories = entries.filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()));
    let mut names: Vec<String> = directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// An exclusive lock on a file, held until dropped or until the process ends in whatever way.
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, or tells that another process holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(unusable(path, &error)),
        }
    }

    /// Takes the lock, waiting for its holder for at most `patience`.
    pub(crate) async fn take(path: &Path, patience: Duration) -> Result<Self> {
        let waiting = async {
            let mut pause = POLL_FIRST;
            loop {
                if let Some(lock) = Self::try_take(path)? {
                    return Ok(lock);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(POLL_LAST);
            }
        };
        let gave_up = || {
            let message = format!("another process holds {} for more than {} s", path.display(), patience.as_secs());
            Err(Failure::new(ExitCode::Timeout, message))
        };
        tokio::time::timeout(patience, waiting).await.unwrap_or_else(|_| gave_up())
    }

    /// Whether nobody holds the lock; so if there is no such file.
    pub(crate) fn is_free(path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(true);
        }
        Ok(Self::try_take(path)?.is_some())
    }

    /// Replaces the content of the locked file.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        let written = self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| Failure::failed(format!("cannot write beside the lock: {error}")))
    }
}

/// flock has no event to wait on without a thread; a holder that starts or ends something is done within milliseconds.
const POLL_FIRST: Duration = Duration::from_millis(2);
/// Nobody notices a twentieth of a second after waiting for long.
const POLL_LAST: Duration = Duration::from_millis(50);

fn open(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| unusable(directory, &error))?;
    }
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("cannot use {}: {error}", path.display()))
        .hint("PILOT_HOME must be a directory that you may write to; --home DIR names another")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_is_held_until_it_is_dropped() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("deep/lock");
        assert!(Lock::is_free(&path).expect("no file yet"));
        let mut held = Lock::try_take(&path).expect("usable").expect("free");
        held.write("first").expect("write");
        held.write("2").expect("write");
        assert!(!Lock::is_free(&path).expect("usable"));
        let failure = Lock::take(&path, Duration::from_millis(5)).await.err().expect("held");
        assert_eq!(failure.code, ExitCode::Timeout);
        drop(held);
        assert!(Lock::is_free(&path).expect("usable"));
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "2");
    }

    #[test]
    fn a_fresh_home_has_no_agents() {
        let directory = tempfile::tempdir().expect("directory");
        assert_eq!(agent_names(directory.path()), Ok(Vec::new()));
    }
}
