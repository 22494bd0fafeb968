//! `backbone stop` and `backbone status`.

use std::time::Duration;

use pilot_daemon::api::client::Client;
use pilot_daemon::home::AgentHome;
use pilot_relay::status_api::BackboneStatusReply;
use rustix::process::{Pid, Signal, kill_process};

use super::local;
use crate::context::Context;
use crate::duration;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::lock::Lock;
use crate::output::byte_count;

/// How long a backbone may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns when the process has gone.
pub(super) async fn stop(context: &Context) -> Result<()> {
    let pid = local::running_pid(context).ok_or_else(not_running)?;
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process =
        process.ok_or_else(|| Failure::failed("a backbone is running, but it has not written its pid yet"))?;
    // An error means that it has ended meanwhile.
    let _ended = kill_process(process, Signal::TERM);
    drop(Lock::take(&local::directory(context).join("lock"), STOP_TIMEOUT).await?);
    context.output.result(&serde_json::json!({ "stopped": pid }), || format!("Stopped the backbone (pid {pid})"))
}

pub(super) async fn status(context: &Context) -> Result<()> {
    if local::running_pid(context).is_none() {
        return Err(not_running());
    }
    let socket = AgentHome::at(local::directory(context)).socket_path()?;
    let status: BackboneStatusReply = Client::connect(socket).await?.get("/v1/status").await?;
    context.output.result(&status, || lines(&status))
}

fn lines(status: &BackboneStatusReply) -> String {
    let store_error = status.store_error.iter().map(|error| format!("Directory: stores nothing new: {error}"));
    let lines = [
        format!("Backbone running (pid {})", status.pid),
        format!("Ticket: {}", status.ticket),
        format!("Roles: {}", status.roles.join(", ")),
        format!("Listens on: {}", status.listen),
        format!("Uptime: {}", duration::display(Duration::from_secs(status.uptime_s))),
        format!("Agents: {} registered, {} connected", status.agents, status.connected),
        format!("Circuits: {}", status.circuits),
        format!("Relayed: {} packets, {}", status.packets_relayed, byte_count(status.bytes_relayed)),
    ];
    lines.into_iter().chain(store_error).collect::<Vec<_>>().join("\n")
}

fn not_running() -> Failure {
    let failure = Failure::new(ExitCode::NotRunning, "no backbone is running in this home");
    failure.hint("`pilotctl backbone start` starts one")
}
