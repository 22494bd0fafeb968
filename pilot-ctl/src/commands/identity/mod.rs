//! `pilotctl identity` (spec/cli.md §5.11): an agent's key and name leave this home, or come to it.

mod export;
mod file;
mod import;
mod rename;

use std::path::Path;

use clap::{Args, Subcommand};
use pilot_core::identity::Identity;
use serde::Serialize;

use crate::context::Context;
use crate::hint::Result;
use crate::signals::interruptible;

#[derive(Debug, Args)]
pub(crate) struct IdentityArgs {
    #[command(subcommand)]
    verb: IdentityVerb,
}

#[derive(Debug, Subcommand)]
enum IdentityVerb {
    /// Write an agent's identity to a file, or to a pipe.
    #[command(after_help = "Examples:
  pilotctl identity export my-agent.pem --as my-agent
  pilotctl identity export --as my-agent | age -r age1… > my-agent.pem.age
  pilotctl identity export | ssh other-host pilotctl identity import

Whoever has the file is the agent: keep it as you keep an SSH key. The agent may run meanwhile.
Memberships, and the key of an organisation that the agent has founded, are not in it: they are in PILOT_HOME/agents/NAME/orgs.")]
    Export(export::ExportArgs),
    /// Make an agent of an identity: same key, same address, same name.
    #[command(after_help = "Examples:
  pilotctl identity import my-agent.pem
  pilotctl identity import my-agent.pem --hostname another-name
  age -d -i key.txt my-agent.pem.age | pilotctl identity import

`pilotctl daemon start --hostname NAME` starts it; stop it where it ran before. Tags, groups and messages stay there.")]
    Import(import::ImportArgs),
    /// Call an agent something else; its key and address stay.
    #[command(after_help = "Example:
  pilotctl daemon stop --as my-agent
  pilotctl identity rename my-agent my-other-agent
  pilotctl daemon start --hostname my-other-agent

The old name is kept for the agent for a day, in case it was a mistake; then anybody may take it.")]
    Rename(rename::RenameArgs),
}

/// Who an identity makes an agent: the public part of it.
#[derive(Debug, Serialize)]
struct Who<'a> {
    name: &'a str,
    address: String,
    key: String,
}

impl<'a> Who<'a> {
    fn new(name: &'a str, identity: &Identity) -> Self {
        Self { name, address: identity.address().to_string(), key: identity.key().to_string() }
    }
}

/// The key in a file.
pub(crate) async fn key_in(file: &Path) -> Result<Identity> {
    Ok(import::open(Some(file)).await?.identity)
}

pub(crate) async fn run(args: &IdentityArgs, context: &Context) -> Result<()> {
    match &args.verb {
        IdentityVerb::Export(args) => export::run(args, context),
        IdentityVerb::Import(args) => interruptible(import::run(args, context)).await,
        IdentityVerb::Rename(args) => rename::run(args, context),
    }
}
