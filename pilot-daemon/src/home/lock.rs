//! One daemon at a time: who holds an agent's directory.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::{AgentHome, HomeError};

const LOCK_FILE: &str = "lock";

/// Holds an agent's directory: no other daemon can run for it until this is dropped.
#[derive(Debug)]
pub struct HomeLock {
    /// Removed when the lock is given up; the lock file itself stays, since removing it would let two hold it.
    pid_file: PathBuf,
    file: File,
}

impl AgentHome {
    /// The daemon that holds the agent, if one does.
    pub fn running_pid(&self) -> Option<u32> {
        let lock = File::open(self.dir.join(LOCK_FILE)).ok()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => None,
            Err(_) => Some(self.pid_in_file().unwrap_or(0)),
        }
    }

    /// Whether somebody listens at the agent's socket.
    pub fn answers(&self) -> bool {
        self.socket_path().is_ok_and(|path| UnixStream::connect(path).is_ok())
    }

    /// Creates the directory if need be and takes it for this process.
    ///
    /// # Errors
    /// [`HomeError::AlreadyRunning`] if another daemon has it, or why it cannot be written.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.dir).map_err(|source| self.write_error("", source))?;
        let path = self.dir.join(LOCK_FILE);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|source| HomeError::Write { path, source })?;
        if !take_lock(&file) {
            return Err(HomeError::AlreadyRunning { name: self.name.clone(), pid: self.pid_in_file() });
        }
        // Whatever pid file is there now is stale: its daemon no longer holds the lock.
        self.write("pid", format!("{}\n", std::process::id()).as_bytes(), 0o644)?;
        Ok(HomeLock { pid_file: self.dir.join("pid"), file })
    }

    fn pid_in_file(&self) -> Option<u32> {
        self.number("pid").and_then(|pid| u32::try_from(pid).ok())
    }
}

impl Drop for HomeLock {
    fn drop(&mut self) {
        // An ephemeral agent's directory is gone by now, and another one may have taken its place.
        let inode = |metadata: std::io::Result<fs::Metadata>| metadata.map(|metadata| metadata.ino()).ok();
        let is_ours = inode(fs::metadata(self.pid_file.with_file_name(LOCK_FILE))) == inode(self.file.metadata());
        if is_ours && let Err(error) = fs::remove_file(&self.pid_file) {
            tracing::debug!(%error, "pid file stays");
        }
    }
}

/// Tries a few times: [`AgentHome::running_pid`] of somebody else holds the lock for microseconds.
fn take_lock(file: &File) -> bool {
    const TRIES: u32 = 5;
    (0..TRIES).any(|tried| {
        std::thread::sleep(std::time::Duration::from_millis(5) * tried);
        rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}
