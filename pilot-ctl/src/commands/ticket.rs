//! `pilotctl ticket` (spec/cli.md §5.2).

use clap::Args;

use crate::context::Context;
use crate::hint::Result;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl ticket
  pilotctl ping \"$(ssh other-host pilotctl ticket)\"

A ticket is no secret: it says who and where, and the key in it proves who answers.")]
pub(crate) struct TicketArgs {}

pub(crate) async fn run(_args: &TicketArgs, context: &Context) -> Result<()> {
    let reply = context.daemon().await?.ticket().await?;
    context.output.result(&reply, || reply.ticket.clone())
}
