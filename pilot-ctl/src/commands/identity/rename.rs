//! `identity rename`: an agent under another name.

use clap::Args;

use super::Who;
use crate::commands::daemon::start;
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::home;

#[derive(Debug, Args)]
pub(super) struct RenameArgs {
    /// What the agent is called.
    #[arg(value_name = "OLD")]
    old: String,
    /// What it is to be called.
    #[arg(value_name = "NEW")]
    new: String,
}

pub(super) fn run(args: &RenameArgs, context: &Context) -> Result<()> {
    let (old, new) = (home::agent(&context.home, &args.old)?, home::agent(&context.home, &args.new)?);
    if !home::agent_names(&context.home).contains(&args.old) {
        return Err(Failure::new(ExitCode::NotFound, format!("no agent '{}' lives here", args.old))
            .hint("see who does: pilotctl daemon status"));
    }
    old.rename(&new)?;
    start::forget(&args.new, context)?;
    let identity = new.stored_identity()?;
    let identity = identity.ok_or_else(|| Failure::failed("the agent has lost its identity while it was renamed"))?;
    let who = Who::new(&args.new, &identity);
    let lines = format!("Address: {}\nHostname: {}", who.address, args.new);
    context.output.result(&who, || lines)?;
    context.output.talk(format_args!("`pilotctl daemon start --hostname {}` starts it", args.new));
    Ok(())
}
