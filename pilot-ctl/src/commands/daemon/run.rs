//! `daemon run`: the agent in this process, in the foreground or as what `daemon start` started.

use std::net::{Ipv6Addr, SocketAddr};

use clap::Args;
use pilot_core::ticket::BackboneTicket;
use pilot_daemon::agent::{Agent, AgentConfig, StartError, check_kept, check_profile, ephemeral};
use pilot_daemon::api::orgs::Joined;
use pilot_daemon::api::server::{CONNECTIONS_MAX, Server};
use pilot_daemon::api::types::ErrorCode;
use pilot_daemon::descriptors;
use pilot_daemon::home::{AgentHome, Home, HomeError};
use pilot_daemon::stun_servers::{STUN_SERVERS_MAX, StunServer};

use super::before::Before;
use super::start::{Started, hostname};
use super::{StartArgs, Switch};
use crate::commands::backbone::local::{self, LocalBackbone};
use crate::commands::join::AtStart;
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::process::{self, child};
use crate::service_manager::ServiceManager;
use crate::settings::Settings;
use crate::signals::Interrupt;
use crate::{home, init};

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(super) start: StartArgs,
    /// What `daemon start` starts.
    #[arg(long, hide = true)]
    detached: bool,
}

pub(super) async fn run(args: &RunArgs, context: &Context) -> Result<()> {
    if !args.detached {
        init::reap_orphans()?;
        return serve(args, context).await;
    }
    child::run(async {
        child::leave_directory()?;
        serve(args, context).await
    })
    .await
}

/// Runs the agent until it is told to end, by a signal or by its local API.
async fn serve(args: &RunArgs, context: &Context) -> Result<()> {
    let manager = ServiceManager::of(args.detached)?;
    let name = hostname(&args.start, context)?;
    let home = Home::at(&context.home);
    ephemeral::make_room(&home, &name).await;
    let args = &RunArgs { start: args.start.with_backbone_of_invite(&name, context).await?, ..*args };
    let settings = checked_settings(&args.start, &name, context).await?;
    let agent_home = home.agent(&name)?;
    let before = Before::of(agent_home.clone())?;
    home::make_directory(agent_home.path())?;
    process::start_log(&agent_home.log_path())?;
    descriptors::raise_limit(CONNECTIONS_MAX);
    let backbone = Backbone::choose(args.start.no_backbone, &settings, context).await?;
    let config = AgentConfig {
        tags: settings.tags.unwrap_or_default(),
        groups: settings.groups.unwrap_or_default(),
        description: settings.description.unwrap_or_default(),
        backbone: backbone.ticket,
        listen: settings.listen.unwrap_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        direct: settings.direct.unwrap_or(true),
        port_mapping: settings.port_mapping.unwrap_or(true),
        stun_servers: stun_servers(settings.stun.as_deref())?,
        supervised: manager.is_there(),
        ephemeral: args.start.ephemeral,
        ..AgentConfig::new(home.clone(), name)
    };
    let agent = Agent::start(config).await.map_err(start_failure);
    if agent.is_err() && agent_home.is_leftover() {
        agent_home.discard()?;
    }
    let agent = agent?;
    drop(backbone.local);
    let clearing = tokio::spawn(async move { ephemeral::clear_up(&home).await });
    let worked = work(&agent, args, &before, context, &manager).await;
    agent.shutdown().await;
    // What it has not come to, the next start does.
    clearing.abort();
    agent.home().discard()?;
    worked
}

/// What the agent is to be started with. Whatever can be known to stand in the way is an error here, before a file is made or a backbone
/// started for nothing; the agent takes its lock itself.
pub(super) async fn checked_settings(args: &StartArgs, name: &str, context: &Context) -> Result<Settings> {
    let settings = usable_settings(args, name, context)?;
    let agent_home = home::agent(&context.home, name)?;
    agent_home.socket_path()?;
    args.token.check(!agent_home.has_identity(), context).await?;
    match agent_home.running_pid() {
        None => check_kept(&agent_home).map(|()| settings).map_err(Failure::from),
        Some(pid) => Err(runs_already(args, &agent_home, (pid > 0).then_some(pid))),
    }
}

/// A start that was killed while its agent was to join has left it outside of the organisation.
fn runs_already(args: &StartArgs, home: &AgentHome, pid: Option<u32>) -> Failure {
    let name = home.name();
    let failure = Failure::from(HomeError::AlreadyRunning { name: name.to_owned(), pid });
    match &args.token.org {
        Some(org) if !home.path().join("orgs").join(org).exists() => failure.hint(format!(
            "have it join: `pilotctl join --as {name} --org {org}` with the invite; or stop it first: `pilotctl daemon stop --as {name}`"
        )),
        _ => failure,
    }
}

/// The settings by flags and files, if an agent can have them all.
pub(super) fn usable_settings(args: &StartArgs, name: &str, context: &Context) -> Result<Settings> {
    let settings = args.settings().or(context.settings_of(name)?);
    let list = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let description = settings.description.as_deref().unwrap_or_default();
    check_profile(&list(&settings.tags), &list(&settings.groups), description)?;
    if let (Some(ticket), false) = (&settings.backbone, args.no_backbone) {
        parse_ticket(ticket)?;
    }
    stun_servers(settings.stun.as_deref())?;
    Ok(settings)
}

/// Serves the local API until the end.
async fn work(
    agent: &Agent,
    args: &RunArgs,
    before: &Before,
    context: &Context,
    manager: &ServiceManager,
) -> Result<()> {
    let mut interrupt = Interrupt::new()?;
    let path = agent.home().socket_path()?;
    let server = Server::bind(&path)
        .map_err(|error| Failure::failed(format!("cannot open the local API at {}: {error}", path.display())))?;
    // Whoever has started a detached agent joins for it, and tells why not.
    let joined = if args.detached { Ok(None) } else { interrupt.or(join(agent, args, context)).await };
    if joined.is_err() {
        before.take_back(context);
    }
    let joined = match joined {
        // To be told to end is no failure.
        Err(failure) if failure.code == ExitCode::Interrupted => return Ok(()),
        joined => joined?,
    };
    announce(agent, joined, args, context).await?;
    manager.ready().await;
    let serving = server.run(agent.clone());
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => manager.stopping().await,
        () = interrupt.received() => {
            manager.stopping().await;
            agent.shutdown().await;
            serving.await;
        }
        never = manager.watch(|| async { agent.beat().await.is_ok() }) => match never {},
    }
    Ok(())
}

/// Joins the organisation that was named, unless the agent is in it.
async fn join(agent: &Agent, args: &RunArgs, context: &Context) -> Result<Option<Joined>> {
    match args.start.token.at_start(agent.orgs(), context).await? {
        AtStart::Nothing => Ok(None),
        AtStart::IsMember(joined) => Ok(Some(joined)),
        AtStart::Join(request) => Ok(Some(agent.join_org(&request).await?)),
    }
}

async fn announce(agent: &Agent, joined: Option<Joined>, args: &RunArgs, context: &Context) -> Result<()> {
    let status = agent.status().await?;
    let (org, role) = joined.map(|joined| (joined.org, joined.role)).unzip();
    let started =
        Started { pid: status.pid, address: status.address, hostname: status.name, tags: status.tags, org, role };
    if args.detached {
        return child::report_ready(&started);
    }
    context.output.result(&started, || started.lines())
}

impl StartArgs {
    /// The flags as settings, which come before those of the config files.
    fn settings(&self) -> Settings {
        Settings {
            tags: self.tags.clone(),
            groups: self.groups.clone(),
            description: self.description.clone(),
            backbone: self.backbone.clone(),
            listen: self.listen,
            direct: self.direct.map(Switch::is_on),
            ..Settings::default()
        }
    }
}

/// The backbone that the agent meets others by.
struct Backbone {
    ticket: Option<BackboneTicket>,
    /// Kept until the agent is registered there.
    local: Option<LocalBackbone>,
}

impl Backbone {
    async fn choose(no_backbone: bool, settings: &Settings, context: &Context) -> Result<Self> {
        if no_backbone {
            return Ok(Self { ticket: None, local: None });
        }
        if let Some(named) = &settings.backbone {
            let ticket = parse_ticket(named)?;
            if !local::is_key_of(&ticket, context) {
                return Ok(Self { ticket: Some(ticket), local: None });
            }
        }
        let local = local::ensure(context).await?;
        Ok(Self { ticket: Some(parse_ticket(&local.ticket)?), local: Some(local) })
    }
}

fn stun_servers(named: Option<&[String]>) -> Result<Vec<StunServer>> {
    let named = named.unwrap_or_default();
    if named.len() > STUN_SERVERS_MAX {
        return Err(Failure::usage(format!(
            "{} STUN servers are too many: `stun` may have {STUN_SERVERS_MAX}",
            named.len()
        ))
        .hint("leave some out of the config file: one that answers is enough"));
    }
    let parse = |text: &String| {
        text.parse::<StunServer>().map_err(|error| {
            Failure::usage(error.to_string()).hint("write `stun` of the config file as [\"stun.example.net:3478\"]")
        })
    };
    named.iter().map(parse).collect()
}

fn parse_ticket(text: &str) -> Result<BackboneTicket> {
    text.parse().map_err(|error| {
        Failure::usage(format!("'{text}' is no backbone ticket: {error}"))
            .hint("a ticket is the line that `pilotctl backbone start` prints: pilot-backbone:KEY@HOST:PORT")
    })
}

fn start_failure(error: StartError) -> Failure {
    let hint = error.hint();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let failure = Failure::failed(format!("{error}{cause}"));
    let failure = if hint.is_empty() { failure } else { failure.hint(hint) };
    match error {
        StartError::Home(error) => error.into(),
        // What was typed wrong is a mistake of usage; whatever else the directory said, the agent has not started.
        StartError::Registration(error) if error.code == ErrorCode::Usage => error.into(),
        StartError::Registration(error) => Failure { code: ExitCode::Failed, ..error.into() },
        StartError::Listen { .. } | StartError::Timer(_) | _ => failure,
    }
}
