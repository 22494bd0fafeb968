//! `pilotctl ping` (spec/cli.md §5.3).

use std::time::Duration;

use clap::Args;
use pilot_daemon::api::types::{Path, Reached};

use crate::client::{Daemon, OpenOptions};
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::output::{Output, milliseconds};
use crate::{duration, env_vars};

/// Longer than all handshake retries on a slow path take, shorter than a person's patience.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// A round of challenges takes 6.4 s, and what is done beyond it less.
const DIRECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Between two pings that wait for a direct path: who waits wants to see it soon.
const UNTIL_DIRECT_INTERVAL: Duration = Duration::from_millis(500);
/// Between two pings of a series, as `ping` has it.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl ping agent-alpha
  pilotctl ping agent-alpha --count 5
  pilotctl ping agent-alpha --until-direct
  pilotctl ping 0:4B2E.90D1.1A3D --json

The first ping of a pair includes the handshake only in what you wait for, not in what is printed: the time is one round
trip of an encrypted packet through the tunnel.

--until-direct keeps the tunnel in use, and ends with the first reply that came straight from the
agent. If none comes, it says why not (exit code 6); `pilotctl doctor NAME` tells the same.")]
pub(crate) struct PingArgs {
    /// Hostname, address, public key or ticket.
    target: String,
    /// How many pings, a second apart.
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Go on until packets go straight to the agent, and no relay is in between.
    #[arg(long, conflicts_with = "count")]
    until_direct: bool,
    /// How long to wait for each reply [default: 5s], or for a direct path [default: 10s].
    #[arg(long, value_name = "TIME", env = env_vars::PILOT_TIMEOUT, hide_env_values = true, value_parser = duration::parse)]
    timeout: Option<Duration>,
}

/// Succeeds if at least one reply came; else with the last failure.
pub(crate) async fn run(args: &PingArgs, context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
    if args.until_direct {
        return until_direct(&args.target, &daemon, args.timeout, context).await;
    }
    let timeout = context.timeout(args.timeout, TIMEOUT_DEFAULT);
    let mut last_failure = None;
    let mut replies = 0;
    for round in 0..args.count {
        if round > 0 {
            tokio::time::sleep(INTERVAL).await;
        }
        match daemon.ping(&args.target, timeout).await {
            Ok(reply) => {
                replies += 1;
                context.output.result(&reply, || line(&reply))?;
            }
            Err(failure) => report_loss(context, args.count, &failure, &mut last_failure),
        }
    }
    match last_failure {
        Some(failure) if replies == 0 => Err(failure),
        _ => Ok(()),
    }
}

/// Succeeds once a reply came by a direct path.
async fn until_direct(target: &str, daemon: &Daemon, timeout: Option<Duration>, context: &Context) -> Result<()> {
    if !daemon.status().await?.direct {
        let message = format!("no direct path to '{target}' can come: this agent's policy forbids them");
        return Err(Failure::failed(message).hint("allow them: pilotctl daemon set --direct on"));
    }
    let patience = context.timeout(timeout, DIRECT_TIMEOUT_DEFAULT);
    match tokio::time::timeout(patience, ping_until_direct(target, daemon, patience, context.output)).await {
        Ok(ended) => ended,
        Err(_elapsed) => why_relayed(target, daemon, patience).await,
    }
}

async fn ping_until_direct(target: &str, daemon: &Daemon, patience: Duration, output: Output) -> Result<()> {
    // A direct path is looked for while the tunnel is in use, and it is while a stream is open.
    let _in_use = daemon.open(&OpenOptions::new(target, "echo", patience)).await?;
    loop {
        let reply = daemon.ping(target, patience).await?;
        output.result(&reply, || line_with_path(&reply))?;
        if reply.path == Some(Path::Direct) {
            return Ok(());
        }
        tokio::time::sleep(UNTIL_DIRECT_INTERVAL).await;
    }
}

/// What the daemon knows of the reason, as a failure.
async fn why_relayed(target: &str, daemon: &Daemon, patience: Duration) -> Result<()> {
    let diagnosis = daemon.examine(Some(target), Duration::ZERO).await?;
    let Some(check) = diagnosis.checks.into_iter().find(|check| check.check == "peer" && !check.ok) else {
        return Ok(());
    };
    let reason = check.message.strip_prefix("by relay: ").unwrap_or(&check.message);
    let message = format!("no direct path to '{target}' within {}: {reason}", duration::display_short(patience));
    let failure = Failure::new(ExitCode::Timeout, message);
    let is_trying = check.code.as_deref() == Some("trying");
    Err(match check.remedy.filter(|_| !is_trying) {
        Some(remedy) => failure.hint(remedy),
        None => failure,
    })
}

fn line_with_path(reply: &Reached) -> String {
    let path = reply.path.map(|path| format!(" · {path}")).unwrap_or_default();
    let remote = reply.remote.map(|remote| format!(" {remote}")).unwrap_or_default();
    format!("{}{path}{remote}", line(reply))
}

fn line(reply: &Reached) -> String {
    format!("✓ reply from {} · {}", reply.address, milliseconds(reply.rtt_ms))
}

/// A single ping reports its failure when the command ends; in a series each loss is reported when it happens.
fn report_loss(context: &Context, count: u32, failure: &Failure, last: &mut Option<Failure>) {
    if count > 1 {
        context.output.talk(format_args!("✗ no reply: {}", failure.message));
    }
    *last = Some(failure.clone());
}
