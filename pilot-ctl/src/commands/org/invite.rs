//! `pilotctl org invite`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pilot_daemon::api::types::InviteRequest;

use super::choose;
use crate::client::Daemon;
use crate::context::Context;
use crate::duration;
use crate::hint::{Failure, Result};

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// The organisation, where the agent is in several.
    #[arg(value_name = "ORG")]
    org: Option<String>,
    /// How many agents may use it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    uses: u32,
    /// How long it may be used.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = duration::parse_long)]
    expires: Duration,
    /// What they are; rules can name it.
    #[arg(long, value_name = "ROLE", default_value = "member")]
    role: String,
    /// Groups that they are in, comma separated; rules can name them.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    groups: Vec<String>,
    /// Services that they may call at other members, comma separated [default: all].
    #[arg(long, value_name = "SERVICES", value_delimiter = ',')]
    services: Vec<String>,
    /// How many generations they may enrol themselves.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    may_enrol: u8,
    /// How long a membership lasts unless it is renewed, which happens by itself.
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = duration::parse_long)]
    membership: Duration,
    /// Write it to a file that only its owner can read, for an image or a secret store.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) async fn run(args: &InviteArgs, daemon: &Daemon, context: &Context) -> Result<()> {
    let request = InviteRequest {
        org: choose(args.org.as_ref(), daemon).await?,
        uses: args.uses,
        expires_s: args.expires.as_secs(),
        role: args.role.clone(),
        groups: args.groups.clone(),
        services: args.services.clone(),
        generations: args.may_enrol,
        lifetime_s: args.membership.as_secs(),
    };
    let invited = daemon.invite(&request).await?;
    let Some(file) = &args.file else {
        return context.output.result(&invited, || invited.invite.clone());
    };
    let contents = format!("{}\n", invited.invite);
    pilot_daemon::home::replace_file(file, contents.as_bytes(), 0o600)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
    context.output.result(&invited, || file.display().to_string())
}
