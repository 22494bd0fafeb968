//! `pilotctl ping` (spec/cli.md §5.3).

use std::time::Duration;

use clap::Args;
use pilot_daemon::api::types::Reached;

use crate::context::Context;
use crate::hint::{Failure, Result};
use crate::output::milliseconds;
use crate::{duration, env_vars};

/// Longer than all handshake retries on a slow path take, shorter than a person's patience.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Between two pings of a series, as `ping` has it.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl ping agent-alpha
  pilotctl ping agent-alpha --count 5
  pilotctl ping 0:4B2E.90D1.1A3D --json

The first ping of a pair includes the handshake only in what you wait for, not in what is printed: the time is one round
trip of an encrypted packet through the tunnel.")]
pub(crate) struct PingArgs {
    /// Hostname, address, public key or ticket.
    target: String,
    /// How many pings, a second apart.
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How long to wait for each reply [default: 5s].
    #[arg(long, value_name = "TIME", env = env_vars::PILOT_TIMEOUT, hide_env_values = true, value_parser = duration::parse)]
    timeout: Option<Duration>,
}

/// Succeeds if at least one reply came; else with the last failure.
pub(crate) async fn run(args: &PingArgs, context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
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
