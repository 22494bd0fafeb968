//! `pilotctl group` (spec/cli.md §5.2).

use clap::{Args, Subcommand};
use pilot_daemon::api::types::GroupsRequest;

use crate::client::PUBLISH_PATIENCE;
use crate::context::Context;
use crate::hint::Result;

#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    verb: GroupVerb,
}

#[derive(Debug, Subcommand)]
enum GroupVerb {
    /// Become a member.
    #[command(after_help = "Example:\n  pilotctl group join research")]
    Join(GroupNames),
    /// Be a member no longer.
    #[command(after_help = "Example:\n  pilotctl group leave research")]
    Leave(GroupNames),
    /// The groups this agent is in, one a line.
    #[command(after_help = "Example:\n  pilotctl group list")]
    List,
}

#[derive(Debug, Args)]
struct GroupNames {
    /// Names of groups.
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
}

pub(crate) async fn run(args: &GroupArgs, context: &Context) -> Result<()> {
    let request = match &args.verb {
        GroupVerb::Join(names) => GroupsRequest { join: names.groups.clone(), leave: Vec::new() },
        GroupVerb::Leave(names) => GroupsRequest { join: Vec::new(), leave: names.groups.clone() },
        GroupVerb::List => GroupsRequest::default(),
    };
    let daemon = context.daemon().await?;
    let reply = daemon.groups(&request).await?;
    if request != GroupsRequest::default() {
        daemon.wait_until_published(context.output, PUBLISH_PATIENCE).await;
    }
    if reply.groups.is_empty() && !context.output.is_json() {
        context.output.talk("in no group");
        return Ok(());
    }
    context.output.result(&reply, || reply.groups.join("\n"))
}
