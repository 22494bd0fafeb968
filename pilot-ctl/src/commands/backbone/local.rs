//! The backbone of zero configuration (spec/cli.md §6): the first agent to start starts it, and it ends by itself.
//!
//! Three locks in `PILOT_HOME/backbone` keep starts and ends apart. `lock` is held by the backbone as long as it lives.
//! `spawning` is held by whoever checks whether it lives and starts it if not, so that of many starters one does. `starting` is shared by
//! agents, from before that look until they are registered, and the backbone ends only if it can take it exclusively: so it never ends
//! under an agent that has just read its ticket.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use pilot_core::ticket::BackboneTicket;
use pilot_daemon::home::AgentHome;

use crate::context::Context;
use crate::hint::{Failure, Result};
use crate::lock::Lock;
use crate::process;

use super::run::Ready;

/// How long it goes on after its last agent.
const IDLE_EXIT: &str = "60s";
/// How long another start may hold the locks: a backbone computes its key's address first.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// The local backbone's ticket, and the promise that it does not end before the agent that needs it is there.
pub(crate) struct LocalBackbone {
    pub(crate) ticket: String,
    _starting: Lock,
}

/// Finds the local backbone, or starts it.
pub(crate) async fn ensure(context: &Context) -> Result<LocalBackbone> {
    let starting = Lock::take_shared(&directory(context).join("starting"), LOCK_TIMEOUT).await?;
    let spawning = Lock::take(&directory(context).join("spawning"), LOCK_TIMEOUT).await?;
    let ticket = if running_pid(context).is_some() { read_ticket(context)? } else { spawn(context).await? };
    drop(spawning);
    Ok(LocalBackbone { ticket, _starting: starting })
}

/// The permission to end: given if no agent is starting. Held until the process has gone.
pub(super) fn may_end(context: &Context) -> Result<Option<Lock>> {
    Lock::try_take(&directory(context).join("starting"))
}

/// The process that holds the backbone's lock; 0 if it has not yet said which.
pub(super) fn running_pid(context: &Context) -> Option<u32> {
    AgentHome::at(directory(context)).running_pid()
}

pub(super) fn directory(context: &Context) -> PathBuf {
    context.home.join("backbone")
}

pub(super) fn log(context: &Context) -> PathBuf {
    directory(context).join("log")
}

/// Whether the ticket is the local backbone's, of whatever port: then it can be started if it does not run.
pub(crate) fn is_key_of(ticket: &BackboneTicket, context: &Context) -> bool {
    let local = read_ticket(context).ok().and_then(|text| text.parse::<BackboneTicket>().ok());
    local.is_some_and(|local| local.identity == ticket.identity)
}

/// The running backbone's ticket, which it writes before it takes calls.
pub(super) fn read_ticket(context: &Context) -> Result<String> {
    let path = directory(context).join("ticket");
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(|error| Failure::failed(format!("cannot read the ticket {}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

async fn spawn(context: &Context) -> Result<String> {
    let mut argv: Vec<OsString> = vec!["--home".into(), context.home.clone().into()];
    argv.extend(["backbone", "run", "--detached", "--idle-exit", IDLE_EXIT].map(OsString::from));
    let ready: Result<Ready> = process::spawn_detached(&argv, &log(context)).await;
    match ready {
        Ok(ready) => Ok(ready.ticket),
        Err(failure) => {
            Err(Failure { message: format!("the local backbone does not start: {}", failure.message), ..failure })
        }
    }
}
