//! `pilotctl doctor` (spec/cli.md §5.15).

use std::time::Duration;

use clap::Args;
use pilot_daemon::api::network::Check;

use crate::context::Context;
use crate::hint::Result;
use crate::{duration, env_vars};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl doctor
  pilotctl doctor agent-alpha
  pilotctl doctor agent-alpha --json | jq '.checks[] | select(.ok | not)'

One line for each thing that was looked at; behind what is not as it should be stands what to do
about it. With an agent's name it also says what keeps packets for that agent on the relay.")]
pub(crate) struct DoctorArgs {
    /// An agent: hostname, address, public key or ticket.
    target: Option<String>,
    /// How long to wait for a direct path to it [default: 8s].
    #[arg(long, value_name = "TIME", env = env_vars::PILOT_TIMEOUT, hide_env_values = true, value_parser = duration::parse)]
    timeout: Option<Duration>,
}

pub(crate) async fn run(args: &DoctorArgs, context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
    let patience = context.timeout(args.timeout, pilot_daemon::agent::DIRECT_PATIENCE);
    let found = daemon.examine(args.target.as_deref(), patience).await?;
    let subject = |check: &Check| match &args.target {
        Some(target) if check.check == "peer" => target.clone(),
        Some(_) | None => check.check.clone(),
    };
    context.output.result(&found, || {
        let lines: Vec<_> = found.checks.iter().map(|check| line(&subject(check), check)).collect();
        lines.join("\n")
    })
}

fn line(subject: &str, check: &Check) -> String {
    let mark = if check.ok { '✓' } else { '✗' };
    let remedy = check.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("{mark} {subject}: {}{remedy}", check.message)
}
