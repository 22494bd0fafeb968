//! `pilotctl handover` (spec/cli.md §5.2).

use clap::Args;
use pilot_daemon::api::types::HandOverRequest;

use crate::context::Context;
use crate::hint::Result;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  pilotctl handover --as agent-alpha nhhxxidd4oc2gyvr7mwm7nhyyxjyhuawmtk2xyr2a67d4qrzuvea

The name is kept for that key for 30 days; who has talked to this agent by its name follows. It cannot be taken back but by the other
agent. `pilotctl info` shows an agent's key; `pilotctl daemon start --hostname NAME --no-backbone` makes one before it has the name.")]
pub(crate) struct HandOverArgs {
    /// The key of the agent that is to have the name.
    #[arg(value_name = "KEY")]
    to: String,
}

pub(crate) async fn run(args: &HandOverArgs, context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
    let handed_over = daemon.hand_over(&HandOverRequest { to: args.to.clone() }).await?;
    context.output.result(&handed_over, || format!("The name '{}' is kept for {}", handed_over.name, handed_over.to))
}
