//! `backbone stop` and `backbone status`.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::local;
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::lock::Lock;

/// How long a backbone may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn stop(context: &Context) -> Result<()> {
    let pid = running_pid(context)?;
    // An error means that it has ended meanwhile.
    let _ended = kill_process(pid, Signal::TERM);
    drop(Lock::take(&local::directory(context).join("lock"), STOP_TIMEOUT).await?);
    let stopped = serde_json::json!({ "stopped": pid.as_raw_nonzero().get() });
    context.output.result(&stopped, || "Stopped the backbone".to_owned())
}

#[derive(Serialize)]
struct Status {
    pid: i32,
    ticket: String,
}

pub(super) async fn status(context: &Context) -> Result<()> {
    let pid = running_pid(context)?.as_raw_nonzero().get();
    let status = Status { pid, ticket: local::read_ticket(context)? };
    context.output.result(&status, || format!("Backbone running (pid {pid})\nTicket: {}", status.ticket))
}

/// The backbone that holds the lock; its pid file alone would prove nothing.
fn running_pid(context: &Context) -> Result<Pid> {
    if !local::is_running(context)? {
        let failure = Failure::new(ExitCode::NotRunning, "no backbone is running in this home");
        return Err(failure.hint("`pilotctl backbone start` starts one"));
    }
    let path = local::pid_path(context);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| Failure::failed(format!("a backbone is running, but {} does not tell its pid", path.display())))
}
