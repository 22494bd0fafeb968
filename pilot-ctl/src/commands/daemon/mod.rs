//! `pilotctl daemon` (spec/cli.md §5.1): the agents of this machine.

mod before;
mod ephemeral;
mod install;
mod logs;
mod run;
mod set;
pub(crate) mod start;
mod status;
mod stop;

use std::net::SocketAddr;

use clap::{Args, Subcommand, ValueEnum};

use crate::commands::join::TokenArgs;
use crate::context::Context;
use crate::env_vars;
use crate::hint::Result;
use crate::signals::interruptible;

#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    #[command(subcommand)]
    verb: DaemonVerb,
}

#[derive(Debug, Subcommand)]
enum DaemonVerb {
    /// Start an agent in the background.
    #[command(after_help = "Examples:
  pilotctl daemon start --hostname my-agent
  pilotctl daemon start --hostname my-mcp-server --tags mcp,finance
  pilotctl daemon start --hostname far-away --backbone \"pilot-backbone:…\"
  pilotctl daemon start --hostname worker-7 --org my-company-fleet --token-file fleet.invite
  pilotctl daemon start --hostname worker-8 --org my-company-fleet --token-file FILE --ephemeral

Without a backbone named, the local one is used, and started if it does not run. Several agents run side by side, each
in PILOT_HOME/agents/NAME.")]
    Start(StartArgs),
    /// Run an agent in the foreground, as a service manager wants it.
    #[command(after_help = "Example:\n  pilotctl daemon run --hostname my-agent")]
    Run(run::RunArgs),
    /// How the agents of this home fare.
    #[command(after_help = "Examples:
  pilotctl daemon status
  pilotctl daemon status --as my-agent --json | jq .drops")]
    Status,
    /// Stop an agent.
    #[command(after_help = "Examples:
  pilotctl daemon stop
  pilotctl daemon stop --as my-agent
  pilotctl daemon stop --all")]
    Stop(stop::StopArgs),
    /// Stop an agent, and start it with what it was started with.
    #[command(after_help = "Example:\n  pilotctl daemon restart --as my-agent")]
    Restart,
    /// Show the end of an agent's log.
    #[command(after_help = "Examples:
  pilotctl daemon logs
  pilotctl daemon logs -n 20 --follow")]
    Logs(logs::LogsArgs),
    /// Change a setting of a running agent.
    #[command(after_help = "Example:\n  pilotctl daemon set --direct off")]
    Set(set::SetArgs),
    /// Write the systemd units that run an agent.
    #[command(after_help = "Examples:
  pilotctl daemon install --hostname my-agent
  sudo pilotctl daemon install --hostname my-agent --system

It prints the `systemctl` command that starts the agent, now and from then on. One unit serves all agents of this home.")]
    Install(install::InstallArgs),
    /// Remove these units; agents and their keys stay.
    #[command(after_help = "Examples:
  pilotctl daemon uninstall
  sudo pilotctl daemon uninstall --system")]
    Uninstall(install::PlaceArgs),
}

/// What an agent is started with. The config files stand behind each of these.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StartArgs {
    /// The agent's name: lower-case letters, digits and hyphens.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Words that it can be found by, comma separated.
    #[arg(long, value_name = "TAGS", value_delimiter = ',', env = env_vars::PILOT_TAGS, hide_env_values = true)]
    tags: Option<Vec<String>>,
    /// Groups that it is in, comma separated.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', env = env_vars::PILOT_GROUPS, hide_env_values = true)]
    groups: Option<Vec<String>>,
    /// What it says about itself; `find --need` looks at it.
    #[arg(long, value_name = "TEXT", env = env_vars::PILOT_DESCRIPTION, hide_env_values = true)]
    description: Option<String>,
    /// The backbone's ticket [default: the backbone of this home].
    #[arg(long, value_name = "TICKET", env = env_vars::PILOT_BACKBONE, hide_env_values = true)]
    backbone: Option<String>,
    /// Use no backbone: reach others by their tickets only.
    // What both say is no conflict: the ticket may be one of the environment, which was not typed.
    #[arg(long)]
    no_backbone: bool,
    /// The UDP address to listen on [default: all, any free port].
    #[arg(long, value_name = "ADDR", env = env_vars::PILOT_LISTEN, hide_env_values = true)]
    listen: Option<SocketAddr>,
    /// Whether packets may go directly to other agents, or by relay only [default: on].
    #[arg(long, value_name = "ON|OFF")]
    direct: Option<Switch>,
    /// Leave nothing behind at the end: no key, no name, no membership, no file.
    #[arg(long)]
    ephemeral: bool,
    /// Join an organisation.
    #[command(flatten)]
    token: TokenArgs,
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Switch {
    fn is_on(self) -> bool {
        self == Self::On
    }
}

pub(crate) async fn run(args: &DaemonArgs, context: &Context) -> Result<()> {
    match &args.verb {
        DaemonVerb::Start(args) => start::start(args, context).await,
        DaemonVerb::Run(args) => run::run(args, context).await,
        DaemonVerb::Status => interruptible(status::run(context)).await,
        DaemonVerb::Stop(args) => interruptible(stop::run(args, context)).await,
        DaemonVerb::Restart => interruptible(start::restart(context)).await,
        DaemonVerb::Logs(args) => interruptible(logs::run(args, context)).await,
        DaemonVerb::Set(args) => interruptible(set::run(args, context)).await,
        DaemonVerb::Install(args) => install::install(args, context),
        DaemonVerb::Uninstall(args) => install::uninstall(args, context),
    }
}
