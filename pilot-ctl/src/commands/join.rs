//! `pilotctl join` (spec/cli.md §5.12): an invite becomes a membership.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use pilot_core::ticket::{BackboneTicket, Ticket};
use pilot_daemon::agent::{Token, check_org};
use pilot_daemon::api::orgs::{JoinRequest, Joined, OrgStatus};
use tokio::sync::OnceCell;

use crate::client::Daemon;
use crate::context::Context;
use crate::env_vars;
use crate::hint::{Failure, Result};
use crate::signals::aside;

/// The longest file that can be an invite.
const TOKEN_LEN_MAX: u64 = 4_096;
const GIVE_INVITE: &str = "give it with --token, --token-file, --code or PILOT_TOKEN; `pilotctl org invite` makes one";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl join --org my-company-fleet --token pilot-invite:my-company-fleet.…
  PILOT_TOKEN=pilot-invite:… pilotctl join --org my-company-fleet
  pilotctl join --org my-company-fleet --token-file fleet.invite
  pilotctl join --org my-company-fleet --code alice-laptop/K7QM-2XPA

`pilotctl org invite` makes invites. Who made it must run while you join; afterwards it need not.")]
pub(crate) struct JoinArgs {
    #[command(flatten)]
    token: TokenArgs,
    /// Name in the organisation [default: the agent's hostname].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// An invite, wherever it stands. Its variables are looked at when one is wanted and no flag gives it: set for other agents, they hinder nobody.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TokenArgs {
    /// The organisation to join.
    #[arg(long, value_name = "ORG")]
    pub(crate) org: Option<String>,
    /// The invite [env: PILOT_TOKEN].
    #[arg(long, value_name = "INVITE")]
    token: Option<String>,
    /// A file with the invite [env: PILOT_TOKEN_FILE].
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The code that who invites has read out: upper or lower case, with or without the hyphen.
    #[arg(long, value_name = "CODE", conflicts_with_all = ["token", "token_file"])]
    code: Option<String>,
    /// What the file holds, once it has been read. A pipe says it once.
    #[arg(skip)]
    in_file: OnceCell<String>,
}

pub(crate) async fn run(args: &JoinArgs, context: &Context) -> Result<()> {
    let Some(token) = args.token.read(context).await? else {
        return Err(Failure::usage("there is no invite").hint(GIVE_INVITE));
    };
    let daemon = context.daemon().await?;
    let request = JoinRequest { token, org: args.token.org.clone(), name: args.name.clone(), unless_member: false };
    let joined = daemon.join_org(&request).await?;
    context.output.result(&joined, || lines(&joined))
}

/// What a member is told of its membership.
pub(crate) fn lines(joined: &Joined) -> String {
    let Joined { org, role, members } = joined;
    format!("Org: {org}\nRole: {role}\nMembers: {members}")
}

impl TokenArgs {
    /// Whether an agent that is to be started for an organisation can join it, as far as that shows before it runs; one that `is_new` must.
    pub(crate) async fn check(&self, is_new: bool, context: &Context) -> Result<()> {
        let Some(org) = &self.org else {
            let is_given = self.code.is_some() || self.token.is_some() || self.token_file.is_some();
            let message = "there is an invite, and no organisation to join with it";
            return if is_given { Err(Failure::usage(message).hint("say which: --org ORG")) } else { Ok(()) };
        };
        if is_new && let Token::Invite(invite) = self.required(org, context).await?.parse()? {
            check_org(&invite, org)?;
        }
        Ok(())
    }

    /// The backbone node that who has made the invite is found at, if there is one.
    pub(crate) async fn backbone_of_issuer(&self, org: &str, context: &Context) -> Result<Option<BackboneTicket>> {
        match self.required(org, context).await?.parse()? {
            Token::Invite(invite) => Ok(invite.issuer.home),
            Token::Code(code) => match code.issuer.parse::<Ticket>() {
                Ok(ticket) => Ok(ticket.home),
                Err(_) => {
                    Err(Failure::usage(format!("the code does not say by which backbone '{}' is found", code.issuer))
                        .hint("name it: --backbone TICKET"))
                }
            },
        }
    }

    async fn required(&self, org: &str, context: &Context) -> Result<String> {
        self.read(context).await?.ok_or_else(|| no_invite(org))
    }

    /// The invite or the code: of the command line, else of the environment, else of the config file's `token-file`.
    pub(crate) async fn read(&self, context: &Context) -> Result<Option<String>> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(code) = self.code.as_ref().filter(|code| !code.contains(['/', ':'])) {
            return Err(Failure::usage("the code does not say who has made it")
                .hint(format!("put the name in front: NAME/{}", code.trim())));
        }
        if let Some(token) = self.code.as_ref().or(self.token.as_ref()) {
            return Ok(Some(token.trim().to_owned()));
        }
        if let Some(file) = &self.token_file {
            return self.read_file(file).await.map(Some);
        }
        if let Some(token) = variable(env_vars::PILOT_TOKEN) {
            return Ok(Some(token.to_string_lossy().trim().to_owned()));
        }
        let file =
            variable(env_vars::PILOT_TOKEN_FILE).map(PathBuf::from).or_else(|| context.settings.token_file.clone());
        match file {
            Some(file) => self.read_file(&file).await.map(Some),
            None => Ok(None),
        }
    }

    async fn read_file(&self, path: &Path) -> Result<String> {
        let path = path.to_owned();
        let reading = || async { aside(move || read_file(&path)).await? };
        self.in_file.get_or_try_init(reading).await.cloned()
    }
}

fn no_invite(org: &str) -> Failure {
    Failure::usage(format!("there is no invite to '{org}'")).hint(GIVE_INVITE)
}

fn membership_over(org: &str) -> Failure {
    Failure::usage(format!("the membership of '{org}' was revoked or has expired, and there is no new invite"))
        .hint(GIVE_INVITE)
}

fn read_file(path: &Path) -> Result<String> {
    let unreadable = |reason: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read the invite in {}: {reason}", path.display()))
            .hint("it is one line that `pilotctl org invite --file` wrote")
    };
    let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
    let mut text = String::new();
    file.take(TOKEN_LEN_MAX + 1).read_to_string(&mut text).map_err(|error| unreadable(&error))?;
    if text.len() as u64 > TOKEN_LEN_MAX {
        return Err(unreadable(&"it is too long"));
    }
    Ok(text.trim().to_owned())
}

/// What an agent that was just started has to do about the organisation that it was started for.
pub(crate) enum AtStart {
    /// None was named.
    Nothing,
    /// It is in already, and has no invite: it has started again.
    IsMember(Joined),
    /// It joins, unless it is in.
    Join(JoinRequest),
}

impl TokenArgs {
    /// What to do, given the organisations that the agent knows.
    pub(crate) async fn at_start(&self, known: Vec<OrgStatus>, context: &Context) -> Result<AtStart> {
        let Some(org) = &self.org else { return Ok(AtStart::Nothing) };
        let known = known.into_iter().find(|known| known.name == *org);
        let token = match (self.read(context).await, known) {
            (Ok(Some(token)), _) => token,
            // It needs no invite to start again.
            (_, Some(OrgStatus { name, role, members, expires_s: Some(_), .. })) => {
                return Ok(AtStart::IsMember(Joined { org: name, role, members }));
            }
            (Ok(None), Some(_)) => return Err(membership_over(org)),
            (Ok(None), None) => return Err(no_invite(org)),
            (Err(failure), _) => return Err(failure),
        };
        Ok(AtStart::Join(JoinRequest { token, org: Some(org.clone()), name: None, unless_member: true }))
    }
}

/// Joins on behalf of an agent that was just started.
pub(crate) async fn join_at_start(args: &TokenArgs, daemon: &Daemon, context: &Context) -> Result<Option<Joined>> {
    match args.at_start(daemon.orgs().await?.orgs, context).await? {
        AtStart::Nothing => Ok(None),
        AtStart::IsMember(joined) => Ok(Some(joined)),
        AtStart::Join(request) => daemon.join_org(&request).await.map(Some),
    }
}
