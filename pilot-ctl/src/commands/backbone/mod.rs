//! `pilotctl backbone` (spec/cli.md §5.9): the directory and relay that agents meet by.

pub(crate) mod local;
mod run;
mod stop;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::context::Context;
use crate::duration;
use crate::hint::Result;
use crate::signals::interruptible;

#[derive(Debug, Args)]
pub(crate) struct BackboneArgs {
    #[command(subcommand)]
    verb: BackboneVerb,
}

#[derive(Debug, Subcommand)]
enum BackboneVerb {
    /// Start a backbone and print its ticket.
    #[command(after_help = "Examples:
  pilotctl backbone start
  pilotctl backbone start --listen 0.0.0.0:3478
  pilotctl backbone start --roles stun,relay --listen 0.0.0.0:3478
  pilotctl backbone start --listen [::]:3478 --advertise backbone.example.net --detach

Two machines: start it on one, and give the printed ticket to both with --backbone or PILOT_BACKBONE.")]
    Start(StartArgs),
    /// What `start` runs.
    #[command(hide = true)]
    Run(RunArgs),
    /// Stop the backbone of this home.
    #[command(after_help = "Example:\n  pilotctl backbone stop")]
    Stop,
    /// How the backbone of this home fares.
    #[command(after_help = "Examples:\n  pilotctl backbone status\n  pilotctl backbone status --json")]
    Status,
}

#[derive(Clone, Debug, Args)]
struct StartArgs {
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    roles: RoleArgs,
    /// Run in the background.
    #[arg(long)]
    detach: bool,
}

/// Where a backbone is found.
#[derive(Clone, Debug, Default, Args)]
struct ListenArgs {
    /// The UDP address to listen on [default: 127.0.0.1, the port of last time or any free one].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The host name or address that the ticket gives [default: the address listened on, or this machine's first].
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
}

/// What a backbone does, and what becomes of its directory's file.
#[derive(Clone, Debug, Args)]
struct RoleArgs {
    /// What it does: any of stun, relay and directory, with commas between.
    #[arg(
        long,
        value_name = "ROLES",
        value_delimiter = ',',
        hide_possible_values = true,
        default_value = "stun,relay,directory"
    )]
    roles: Vec<Role>,
    /// If the directory's file is damaged, keep it under another name and begin an empty one.
    #[arg(long)]
    set_aside_damaged: bool,
}

/// One of the things that a backbone does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Stun,
    Relay,
    Directory,
}

#[derive(Clone, Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    roles: RoleArgs,
    /// What `--detach` starts.
    #[arg(long)]
    detached: bool,
    /// End when no agent has been here for so long.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    idle_exit: Option<Duration>,
}

pub(crate) async fn run(args: &BackboneArgs, context: &Context) -> Result<()> {
    match &args.verb {
        BackboneVerb::Start(args) if args.detach => interruptible(run::start_detached(args, context)).await,
        BackboneVerb::Start(args) => {
            let StartArgs { listen, roles, .. } = args.clone();
            run::run(&RunArgs { listen, roles, detached: false, idle_exit: None }, context).await
        }
        BackboneVerb::Run(args) => run::run(args, context).await,
        BackboneVerb::Stop => interruptible(stop::stop(context)).await,
        BackboneVerb::Status => interruptible(stop::status(context)).await,
    }
}
