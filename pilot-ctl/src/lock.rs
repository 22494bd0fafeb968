//! File locks: a lock that is held proves that its holder lives, whatever a pid file says.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::home;

/// A lock on a file, held until dropped or until the process ends in whatever way.
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, or tells that another process holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        Self::attempt(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock together with others that share it, or tells that a process holds it alone.
    pub(crate) fn try_take_shared(path: &Path) -> Result<Option<Self>> {
        Self::attempt(path, FlockOperation::NonBlockingLockShared)
    }

    fn attempt(path: &Path, operation: FlockOperation) -> Result<Option<Self>> {
        let file = open(path)?;
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(unusable(path, &error)),
        }
    }

    /// Takes the lock, waiting for its holder for at most `patience`.
    pub(crate) async fn take(path: &Path, patience: Duration) -> Result<Self> {
        Self::wait(path, patience, Self::try_take).await
    }

    /// The same for a lock that is shared.
    pub(crate) async fn take_shared(path: &Path, patience: Duration) -> Result<Self> {
        Self::wait(path, patience, Self::try_take_shared).await
    }

    /// Waits for at most `patience` until nobody holds the lock of a file that is open here: who held it may have taken its directory along.
    pub(crate) async fn freed(file: &File, path: &Path, patience: Duration) -> Result<()> {
        let attempt = |_: &Path| Ok(flock(file, FlockOperation::NonBlockingLockShared).ok());
        Self::wait(path, patience, attempt).await
    }

    async fn wait<T>(path: &Path, patience: Duration, attempt: impl Fn(&Path) -> Result<Option<T>>) -> Result<T> {
        let waiting = async {
            let mut pause = POLL_FIRST;
            loop {
                if let Some(lock) = attempt(path)? {
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

    /// Whether nobody holds the lock; true if there is no such file.
    pub(crate) fn is_free(path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(true);
        }
        Ok(Self::try_take(path)?.is_some())
    }

    /// Replaces the content of the locked file.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        let written =
            self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| Failure::failed(format!("cannot write beside the lock: {error}")))
    }
}

/// flock has no event to wait on without a thread; a holder that starts or ends something is done within milliseconds.
const POLL_FIRST: Duration = Duration::from_millis(2);
/// Nobody notices a twentieth of a second after waiting for long.
const POLL_LAST: Duration = Duration::from_millis(50);

fn open(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        home::make_directory(directory)?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| unusable(path, &error))
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
    fn who_shares_a_lock_keeps_out_who_wants_it_alone() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("lock");
        let one = Lock::try_take_shared(&path).expect("usable").expect("free");
        let other = Lock::try_take_shared(&path).expect("usable").expect("free");
        assert!(Lock::try_take(&path).expect("usable").is_none());
        drop((one, other));
        assert!(Lock::try_take(&path).expect("usable").is_some());
    }
}
