//! `pilotctl org` (spec/cli.md §5.12): organisations, from founding one to taking it away again.

mod invite;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use pilot_daemon::api::orgs::{
    CreateOrg, LeaveRequest, OrgCreated, OrgRequest, OrgStatus, RevokeRequest, RotateRequest, Rotated, UninviteRequest,
};
use serde_json::json;

use crate::client::Daemon;
use crate::commands::identity;
use crate::context::Context;
use crate::duration;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::output::Table;

/// How an organisation is named where verbs take it as their argument.
const BY_ARGUMENT: &str = ": pilotctl org … ORG";
/// How it is where another word is the argument.
const BY_FLAG: &str = " with --org ORG";

#[derive(Debug, Args)]
pub(crate) struct OrgArgs {
    #[command(subcommand)]
    verb: OrgVerb,
}

#[derive(Debug, Subcommand)]
enum OrgVerb {
    /// Found an organisation, with this agent as its first member.
    #[command(after_help = "Example:
  pilotctl org create my-company-fleet

The organisation's key stays with this agent. Put the successor key in a safe place: it can replace a lost one.")]
    Create(CreateArgs),
    /// Make an invite: whoever has it can join.
    #[command(after_help = "Examples:
  pilotctl org invite                                   for one agent, for a day
  pilotctl org invite --uses 100 --expires 7d --file fleet.invite
  pilotctl org invite --role lead --groups research --services query,mcp
  pilotctl org invite --may-enrol 1                     for one that makes invites itself
  pilotctl org invite --code                            to read aloud: alice-laptop/K7QM-2XPA")]
    Invite(invite::InviteArgs),
    /// Take an invite back. Who has used it stays a member.
    #[command(after_help = "Example:
  pilotctl org uninvite 8c1f3a5b7d9e0f21                its number is in 'pilotctl org list'")]
    Uninvite(UninviteArgs),
    /// The organisations that this agent is in, and its open invites.
    #[command(after_help = "Example:\n  pilotctl org list")]
    List,
    /// Who is a member.
    #[command(after_help = "Example:\n  pilotctl org members")]
    Members(Which),
    /// End a membership, everywhere.
    #[command(after_help = "Example:\n  pilotctl org revoke worker-7")]
    Revoke(RevokeArgs),
    /// Give the organisation a new key, on the word of the present one or of its successor.
    #[command(after_help = "Examples:
  pilotctl org rotate
  pilotctl org rotate --successor safe.pem              the key is lost
  pilotctl org rotate --successor safe.pem --stolen     somebody else has it

An organisation has twelve keys in all, and four more after thefts.

With --stolen the key counts no more at once. Do it at the agent that kept the key, if that is left:
those whom it has enrolled stay members, and so do those whom they have enrolled. At another agent
everybody has to join again.")]
    Rotate(RotateArgs),
    /// Leave an organisation.
    #[command(after_help = "Example:
  pilotctl org leave my-company-fleet

Whom this agent has enrolled is a member no more when it leaves. Where it knows of any, it leaves with --force only.")]
    Leave(LeaveArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Its name: lower-case letters, digits and hyphens.
    #[arg(value_name = "NAME")]
    name: String,
    /// Members trust nobody by revocation lists older than this [default: lists never get too old].
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_long)]
    list_age: Option<Duration>,
}

/// One of the organisations that the agent is in.
#[derive(Debug, Args)]
struct Which {
    /// The organisation, where the agent is in several.
    #[arg(value_name = "ORG")]
    org: Option<String>,
}

#[derive(Debug, Args)]
struct LeaveArgs {
    /// Leave also where others are out with this agent, since it has enrolled them.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// Somebody else has the key: what it has signed counts no more, but for those whom this agent has enrolled.
    #[arg(long)]
    stolen: bool,
    /// The file with the successor key [default: where it was put when it was made].
    #[arg(long, value_name = "FILE")]
    successor: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct UninviteArgs {
    /// The invite's number.
    #[arg(value_name = "ID")]
    id: String,
    /// The organisation, where the agent is in several.
    #[arg(long, value_name = "ORG")]
    org: Option<String>,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// Name, address or key of the member.
    #[arg(value_name = "MEMBER")]
    member: String,
    /// The organisation, where the agent is in several.
    #[arg(long, value_name = "ORG")]
    org: Option<String>,
}

pub(crate) async fn run(args: &OrgArgs, context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
    match &args.verb {
        OrgVerb::Create(args) => create(args, &daemon, context).await,
        OrgVerb::Invite(args) => invite::run(args, &daemon, context).await,
        OrgVerb::Uninvite(args) => uninvite(args, &daemon, context).await,
        OrgVerb::List => list(&daemon, context).await,
        OrgVerb::Members(which) => members(which, &daemon, context).await,
        OrgVerb::Revoke(args) => revoke(args, &daemon, context).await,
        OrgVerb::Rotate(args) => rotate(args, &daemon, context).await,
        OrgVerb::Leave(args) => leave(args, &daemon, context).await,
    }
}

async fn create(args: &CreateArgs, daemon: &Daemon, context: &Context) -> Result<()> {
    let request = CreateOrg { name: args.name.clone(), list_age_max_s: args.list_age.map(|age| age.as_secs()) };
    let created = daemon.create_org(&request).await?;
    said_successor(&created, context);
    context.output.result(&created, || format!("Org: {}\nKey: {}", created.name, created.key))
}

/// The one thing that a person has to do by hand.
fn said_successor(created: &OrgCreated, context: &Context) {
    let file = created.successor_file.display();
    context.output.talk(format_args!(
        "The successor key, for the day on which the key is lost, is in {file}\nMove it to a safe place."
    ));
}

async fn list(daemon: &Daemon, context: &Context) -> Result<()> {
    let list = daemon.orgs().await?;
    if list.orgs.is_empty() && !context.output.is_json() {
        context.output.talk("in no organisation");
        return Ok(());
    }
    context.output.result(&list, || {
        let mut table = Table::new(["ORG", "ROLE", "GROUPS", "MEMBERS", "ENDS", "INVITES"]);
        for org in &list.orgs {
            let ends = org.expires_s.map(|secs| duration::display(Duration::from_secs(secs))).unwrap_or_default();
            table.row([
                org.name.clone(),
                org.role.clone(),
                org.groups.join(","),
                org.members.to_string(),
                ends,
                org.invites.len().to_string(),
            ]);
        }
        let invites = invites(&list.orgs);
        if invites.is_empty() { table.render() } else { format!("{}\n\n{invites}", table.render().trim_end()) }
    })?;
    warn_of_faults(&list.orgs, context);
    Ok(())
}

fn warn_of_faults(orgs: &[OrgStatus], context: &Context) {
    for fault in orgs.iter().flat_map(OrgStatus::faults) {
        context.output.warning(&fault.what, &fault.remedy);
    }
}

/// The open invites of all organisations; nothing if there are none.
fn invites(orgs: &[OrgStatus]) -> String {
    let mut table = Table::new(["INVITE", "ORG", "ROLE", "USES", "ENDS"]);
    let open: Vec<_> = orgs.iter().flat_map(|org| org.invites.iter().map(move |invite| (org, invite))).collect();
    for (org, invite) in &open {
        let ends = duration::display(Duration::from_secs(invite.expires_s));
        table.row([invite.id.clone(), org.name.clone(), invite.role.clone(), invite.uses.to_string(), ends]);
    }
    if open.is_empty() { String::new() } else { table.render() }
}

async fn uninvite(args: &UninviteArgs, daemon: &Daemon, context: &Context) -> Result<()> {
    let org = choose(args.org.as_ref(), BY_FLAG, daemon).await?;
    let taken_back = daemon.uninvite(&UninviteRequest { org, invite: args.id.clone() }).await?;
    context.output.result(&taken_back, || format!("Invite {} to {} is taken back", taken_back.invite, taken_back.org))
}

async fn members(which: &Which, daemon: &Daemon, context: &Context) -> Result<()> {
    let org = which.choose(daemon).await?;
    let reply = daemon.org_members(&OrgRequest { org }).await?;
    context.output.result(&reply, || {
        let mut table = Table::new(["NAME", "ADDRESS", "ROLE", "GROUPS", "ENDS"]);
        for member in &reply.members {
            table.row([
                member.name.clone(),
                member.address.clone(),
                member.role.clone(),
                member.groups.join(","),
                duration::display(Duration::from_secs(member.expires_s)),
            ]);
        }
        table.render()
    })
}

async fn revoke(args: &RevokeArgs, daemon: &Daemon, context: &Context) -> Result<()> {
    let org = choose(args.org.as_ref(), BY_FLAG, daemon).await?;
    let revoked = daemon.revoke(&RevokeRequest { org, member: args.member.clone() }).await?;
    context.output.result(&revoked, || format!("{} is no longer a member of {}", revoked.member, revoked.org))?;
    let of = args.org.as_ref().map(|org| format!(" --org {org}")).unwrap_or_default();
    if !revoked.below.is_empty() {
        let out = format!("so are those whom it has enrolled, and whom they have: {}", revoked.below.join(", "));
        context.output.warning(&out, &format!("who is to stay joins again: pilotctl org invite {}", revoked.org));
    }
    for invite in &revoked.invites {
        let open = format!("the invite {invite}, which it has used, is still open: it is good for another key");
        context.output.warning(&open, &format!("take it back, too: pilotctl org uninvite {invite}{of}"));
    }
    Ok(())
}

async fn rotate(args: &RotateArgs, daemon: &Daemon, context: &Context) -> Result<()> {
    let org = args.which.choose(daemon).await?;
    let successor = match &args.successor {
        Some(file) => Some(identity::key_in(file).await?.to_pem().to_string()),
        None => None,
    };
    let rotated = daemon.rotate_org_key(&RotateRequest { org, stolen: args.stolen, successor }).await?;
    let Rotated { org, members } = &rotated;
    said_successor(org, context);
    context.output.result(&rotated, || {
        format!("Org: {}\nKey: {} (what it is called by stays)\nMembers: {members}", org.name, org.key)
    })?;
    if args.stolen && *members == 1 {
        let invite = "everybody else has to join again: pilotctl org invite";
        context.output.talk(format_args!("Nothing is kept here of whom the stolen key has enrolled; {invite}"));
    }
    warn_of_faults(&daemon.orgs().await?.orgs, context);
    Ok(())
}

async fn leave(args: &LeaveArgs, daemon: &Daemon, context: &Context) -> Result<()> {
    let request = LeaveRequest { org: args.which.choose(daemon).await?, force: args.force };
    daemon.leave_org(&request).await?;
    let LeaveRequest { org, .. } = request;
    context.output.result(&json!({ "org": org }), || format!("Left {org}"))
}

impl Which {
    async fn choose(&self, daemon: &Daemon) -> Result<String> {
        choose(self.org.as_ref(), BY_ARGUMENT, daemon).await
    }
}

/// The organisation that was named, or the only one. `how` to name one is advised where there are several.
async fn choose(named: Option<&String>, how: &str, daemon: &Daemon) -> Result<String> {
    if let Some(name) = named {
        return Ok(name.clone());
    }
    let names = |orgs: &[OrgStatus]| orgs.iter().map(|org| org.name.clone()).collect::<Vec<_>>();
    match names(&daemon.orgs().await?.orgs).as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::new(ExitCode::NotFound, "this agent is in no organisation")
            .hint("found one with `pilotctl org create NAME`, or join one with an invite: pilotctl join --org NAME")),
        several => Err(Failure::usage(format!("this agent is in several organisations: {}", several.join(", ")))
            .hint(format!("say which one{how}"))),
    }
}
