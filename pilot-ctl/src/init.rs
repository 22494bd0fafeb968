//! What the first process of a container owes the others: processes whose parents have gone become its children, and stay in the
//! process table as zombies until it has waited for them.

use rustix::process::{Pid, WaitOptions, getpid, wait};
use tokio::signal::unix::{SignalKind, signal};

use crate::hint::{Failure, Result};

/// Waits for whatever ends, if this is the first process; elsewhere that is somebody else's duty. Nothing else in a daemon waits for
/// children: what it starts reports by a pipe, and goes on without it.
pub(crate) fn reap_orphans() -> Result<()> {
    if getpid() != Pid::INIT {
        return Ok(());
    }
    let listening = signal(SignalKind::child());
    let mut ended = listening.map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    tokio::spawn(async move {
        while ended.recv().await.is_some() {
            // One signal stands for any number of them.
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        }
    });
    Ok(())
}
