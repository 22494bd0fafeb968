//! `daemon run`: the agent in this process, in the foreground or as what `daemon start` started.

use clap::Args;

use super::StartArgs;
use super::start::{Started, hostname};
use crate::commands::backbone::local;
use crate::context::Context;
use crate::hint::{Failure, Result};
use crate::process::child;

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    start: StartArgs,
    /// What `daemon start` starts.
    #[arg(long, hide = true)]
    detached: bool,
}

pub(super) async fn run(args: &RunArgs, context: &Context) -> Result<()> {
    if !args.detached {
        return serve(args, context).await;
    }
    child::leave_session()?;
    child::leave_directory()?;
    let served = serve(args, context).await;
    if let Err(failure) = &served {
        child::report_failure(failure)?;
    }
    served
}

async fn serve(args: &RunArgs, context: &Context) -> Result<()> {
    let name = hostname(&args.start, context)?;
    let _settings = context.settings_of(&name)?;
    let _ = local::ensure(context).await?;
    Err(Failure::failed("WIP"))
}
