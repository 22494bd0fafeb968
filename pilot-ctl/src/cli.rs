//! The command line as clap sees it. Each verb's arguments live in the verb's file.

use std::env;
use std::ffi::OsString;

use clap::{Arg, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    answer, backbone, completions, connect, daemon, demo, doctor, find, group, hand_over, identity, info, join, man,
    mcp, netcheck, org, peers, ping, query, rules, ticket,
};
use crate::env_vars;

/// `pilotctl`, everything after it parsed.
#[derive(Debug, Parser)]
#[command(
    name = "pilotctl",
    version,
    about = "The network layer under AI agents.",
    long_about = "The network layer under AI agents: each agent gets a permanent address bound to its key, and any two \
                  agents get an encrypted tunnel. MCP, A2A and HTTP run on top unchanged.",
    after_help = "Examples:
  pilotctl daemon start --hostname my-agent   start an agent; the backbone comes by itself
  pilotctl ping agent-alpha                   how far is it?
  pilotctl query agent-alpha \"what is new?\"   ask, and print the answer
  pilotctl demo                               see all of it on this machine, in under a minute

Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not running, 4 not found, 5 refused, 6 timeout, 7 unreachable.",
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Speak for this agent, where several live here.
    #[arg(long = "as", value_name = "NAME", env = env_vars::PILOT_AGENT, global = true, hide_env_values = true)]
    pub(crate) agent: Option<String>,
    /// Where everything an agent keeps lives [default: ~/.pilot].
    #[arg(long, value_name = "DIR", env = env_vars::PILOT_HOME, global = true, hide_env_values = true)]
    pub(crate) home: Option<OsString>,
    /// Print JSON: one object, or one a line for what goes on; errors too.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start, stop and look after the agents of this machine.
    Daemon(daemon::DaemonArgs),
    /// Who this agent is, as others see it.
    Info(info::InfoArgs),
    /// The agents this one has a tunnel with.
    Peers(peers::PeersArgs),
    /// What the network around this agent lets through.
    #[command(name = "netcheck")]
    NetCheck(netcheck::NetCheckArgs),
    /// What is wrong with this agent, or with the way to another, and what to do about it.
    Doctor(doctor::DoctorArgs),
    /// Measure the round trip to an agent.
    Ping(ping::PingArgs),
    /// Open a tunnel to an agent and talk to it.
    Connect(connect::ConnectArgs),
    /// Ask an agent, or the best of a group, and print the answer.
    Query(query::QueryArgs),
    /// Answer queries with a command.
    Answer(answer::AnswerArgs),
    /// Find agents by tag, group or need.
    Find(find::FindArgs),
    /// Join, leave and list groups.
    Group(group::GroupArgs),
    /// Join an organisation with an invite.
    Join(join::JoinArgs),
    /// Found and look after an organisation: agents that trust each other.
    Org(org::OrgArgs),
    /// Let somebody call a service of this agent.
    Allow(rules::AllowArgs),
    /// Keep somebody from calling a service of this agent.
    Deny(rules::DenyArgs),
    /// Who may call this agent.
    Rules(rules::RulesArgs),
    /// Whether an agent may call a service of this one, and why.
    Why(rules::WhyArgs),
    /// Give this agent's name to another key.
    #[command(name = "handover")]
    HandOver(hand_over::HandOverArgs),
    /// Offer an MCP server to other agents, or use one.
    Mcp(mcp::McpArgs),
    /// Print this agent's ticket: enough to reach it with no backbone.
    Ticket(ticket::TicketArgs),
    /// Take an agent's identity to another home, or back it up.
    Identity(identity::IdentityArgs),
    /// Run a backbone: the directory and relay that agents meet by.
    Backbone(backbone::BackboneArgs),
    /// Show the whole network on this machine, explained as it goes.
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Print the manual page, of pilotctl or of one verb.
    Man(man::ManArgs),
}

impl Cli {
    /// What a command line says, and the environment where that is silent.
    ///
    /// # Errors
    /// If it makes no sense, or asks for help.
    pub(crate) fn of(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut matches = without_empty_variables(Self::command()).try_get_matches_from(words)?;
        Self::from_arg_matches_mut(&mut matches)
    }
}

/// A variable that is set to nothing is how many a shell and many a container say that it is not set.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(None::<&'static str>) } else { arg })
        .mut_subcommands(without_empty_variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_examples() {
        fn check(command: &Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let leaf = command.get_subcommands().next().is_none();
            if leaf && !command.is_hide_set() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{path} --help has no example");
            }
            command.get_subcommands().filter(|verb| !verb.is_hide_set()).for_each(|verb| check(verb, &path));
        }
        check(&Cli::command(), "");
    }
}
