//! `daemon stop`: returns when the process has gone, so that a start may follow at once.

use std::fs::File;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Daemon;
use crate::context::Context;
use crate::hint::Result;
use crate::lock::Lock;

/// How long an agent may take to say goodbye to its peers.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the kernel may take to end a process that is killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Every agent of this home.
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(args: &StopArgs, context: &Context) -> Result<()> {
    let daemons = if args.all { context.running().await? } else { vec![context.daemon().await?] };
    let mut stopped = Vec::new();
    for daemon in &daemons {
        stop(daemon, context).await?;
        stopped.push(daemon.name.clone());
    }
    if stopped.is_empty() && !context.output.is_json() {
        context.output.talk("no agent is running");
        return Ok(());
    }
    let lines = stopped.iter().map(|name| format!("Stopped {name}")).collect::<Vec<_>>();
    context.output.result(&serde_json::json!({ "stopped": stopped }), || lines.join("\n"))
}

/// Asks the daemon to end, and kills one that does not. Its lock tells when it has gone.
pub(super) async fn stop(daemon: &Daemon, context: &Context) -> Result<()> {
    let lock = context.agent_dir(&daemon.name).join("lock");
    // Opened now, for an ephemeral agent takes the file along.
    let held = File::open(&lock);
    let pid = daemon.status().await.ok().and_then(|status| Pid::from_raw(i32::try_from(status.pid).ok()?));
    let asked = daemon.shut_down().await;
    let Ok(held) = held else { return asked };
    let ended = Lock::freed(&held, &lock, GOODBYE_TIMEOUT).await;
    match (ended, pid) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(pid)) => {
            // An error means that it has ended meanwhile.
            let _ended = kill_process(pid, Signal::KILL);
            Lock::freed(&held, &lock, KILL_TIMEOUT).await
        }
        (Err(failure), None) => asked.and(Err(failure)),
    }
}
