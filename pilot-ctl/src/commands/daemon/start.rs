//! `daemon start` and `daemon restart`: the agent is `pilotctl daemon run --detached`, which reports when it is ready.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use pilot_daemon::agent::{check_kept, ephemeral};
use pilot_daemon::api::orgs::Joined;
use pilot_daemon::home::Home;
use serde::{Deserialize, Serialize};

use super::before::Before;
use super::{DaemonArgs, DaemonVerb, StartArgs, Switch, run, stop};
use crate::cli::{Cli, Verb};
use crate::client::Daemon;
use crate::commands::{join, mcp};
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::signals::Interrupt;
use crate::{home, process};

/// What is left of the time for the directory (spec/cli.md §2) when an agent has waited for it at its start.
const PUBLISH_REST: Duration = Duration::from_secs(1);
/// The longest hostname, as in DNS (RFC 1035 §2.3.1).
const HOSTNAME_LEN_MAX: usize = 63;

/// What an agent that is ready says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) pid: u32,
    pub(super) address: String,
    pub(super) hostname: String,
    pub(super) tags: Vec<String>,
    /// The organisation that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) org: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<String>,
}

impl Started {
    /// The promised lines (spec/cli.md §5.1).
    pub(super) fn lines(&self) -> String {
        let Self { pid, address, hostname, tags, org, role } = self;
        let mut lines = format!("Daemon running (pid {pid})\nAddress: {address}\nHostname: {hostname}");
        if !tags.is_empty() {
            lines += &format!("\nTags: {}", tags.join(", "));
        }
        if let (Some(org), Some(role)) = (org, role) {
            lines += &format!("\nOrg: {org} ({role})");
        }
        lines
    }
}

pub(super) async fn start(args: &StartArgs, context: &Context) -> Result<()> {
    let name = hostname(args, context)?;
    let mut interrupt = Interrupt::with_hangup()?;
    let home = Home::at(&context.home);
    let making_room = async {
        ephemeral::make_room(&home, &name).await;
        Ok(())
    };
    interrupt.or(making_room).await?;
    let args = &interrupt.or(args.with_backbone_of_invite(&name, context)).await?;
    interrupt.or(run::checked_settings(args, &name, context)).await?;
    let before = Before::of(home::agent(&context.home, &name)?)?;
    let argv = args.to_argv(&name);
    let spawning = spawn(&argv, &name, context);
    // Who has to join is not left alone: a signal is seen to when it runs.
    let spawned = if args.token.org.is_some() { spawning.await } else { interrupt.or(spawning).await };
    let mut started = match spawned {
        Ok(started) => started,
        Err(failure) => {
            before.put_back_settings(context);
            return Err(interrupt.reason_for(failure).await);
        }
    };
    if let Some(joined) = join_or_stop(args, &name, &before, &mut interrupt, context).await? {
        (started.org, started.role) = (Some(joined.org), Some(joined.role));
    }
    if !args.ephemeral {
        save(args, &name, context)?;
    }
    interrupt.or(wait_until_published(&name, context)).await?;
    context.output.result(&started, || started.lines())
}

/// An agent that was to be in an organisation does not run outside of it, also where somebody does not want to wait for it any more.
async fn join_or_stop(
    args: &StartArgs,
    name: &str,
    before: &Before,
    interrupt: &mut Interrupt,
    context: &Context,
) -> Result<Option<Joined>> {
    let Some(daemon) = Daemon::connect_to(context, name).await? else { return Ok(None) };
    let joined = interrupt.or(join::join_at_start(&args.token, &daemon, context)).await;
    if joined.is_err() {
        before.take_back(context);
        stop::stop(&daemon, context).await?;
    }
    joined
}

pub(super) async fn restart(context: &Context) -> Result<()> {
    let name = agent_to_restart(context).await?;
    if home::agent(&context.home, &name)?.is_ephemeral() {
        return Err(Failure::failed(format!("agent '{name}' is ephemeral: nothing of it is left to start again"))
            .hint(format!("stop it, and start another: pilotctl daemon start --hostname {name} --ephemeral")));
    }
    let argv = saved_argv(&name, context);
    run::usable_settings(&start_args(&argv)?, &name, context)?;
    check_kept(&home::agent(&context.home, &name)?)?;
    let server = mcp::running_detached(context, &name)?;
    if let Some(daemon) = Daemon::connect_to(context, &name).await? {
        refuse_supervised(&daemon).await?;
        refuse_with_broken_rules(&daemon).await?;
        stop::stop(&daemon, context).await?;
    }
    let started = spawn(&argv, &name, context).await?;
    if let Some(server) = server {
        mcp::restart_detached(&server, context, &name).await?;
    }
    wait_until_published(&name, context).await?;
    context.output.result(&started, || started.lines())
}

/// Its service manager would start it again as well.
async fn refuse_supervised(daemon: &Daemon) -> Result<()> {
    if !daemon.status().await?.supervised {
        return Ok(());
    }
    let name = &daemon.name;
    Err(Failure::failed(format!("agent '{name}' belongs to a service manager"))
        .hint(format!("let that restart it: `systemctl restart pilot@{name}`, with --user if it is a user's unit")))
}

/// It would not start again.
async fn refuse_with_broken_rules(daemon: &Daemon) -> Result<()> {
    match daemon.status().await?.rules_error {
        Some(error) => {
            Err(Failure::failed(error).hint("correct the file first: the agent runs on with the rules before"))
        }
        None => Ok(()),
    }
}

/// The agent has waited for its registration before it said that it is ready; this is for the last moment, and for the warning.
async fn wait_until_published(name: &str, context: &Context) -> Result<()> {
    if let Some(daemon) = Daemon::connect_to(context, name).await? {
        daemon.wait_until_published(context.output, PUBLISH_REST).await;
    }
    Ok(())
}

/// The running one, or one that was named and is known.
async fn agent_to_restart(context: &Context) -> Result<String> {
    match &context.agent {
        Some(name) if saved_path(name, context).exists() => Ok(name.clone()),
        _ => Ok(context.daemon().await?.name),
    }
}

async fn spawn(argv: &[String], name: &str, context: &Context) -> Result<Started> {
    home::make_directory(&context.agent_dir(name))?;
    let mut full: Vec<OsString> = vec!["--home".into(), context.home.clone().into()];
    full.extend(argv.iter().map(OsString::from));
    process::spawn_detached(&full, &home::agent(&context.home, name)?.log_path()).await
}

impl StartArgs {
    /// The same, as the child's command line: environment variables have become flags.
    fn to_argv(&self, hostname: &str) -> Vec<String> {
        let mut argv: Vec<String> = ["daemon", "run", "--detached", "--hostname", hostname].map(str::to_owned).into();
        let mut flag = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                argv.push(format!("--{name}={value}"));
            }
        };
        flag("tags", self.tags.as_ref().map(|tags| tags.join(",")));
        flag("groups", self.groups.as_ref().map(|groups| groups.join(",")));
        flag("description", self.description.clone());
        flag("backbone", self.backbone.clone().filter(|_| !self.no_backbone));
        flag("listen", self.listen.map(|listen| listen.to_string()));
        flag("direct", self.direct.map(|direct| if direct == Switch::On { "on" } else { "off" }.to_owned()));
        if self.no_backbone {
            argv.push("--no-backbone".to_owned());
        }
        if self.ephemeral {
            argv.push("--ephemeral".to_owned());
        }
        argv
    }
}

/// The agent to start (spec/cli.md §5.1).
pub(super) fn hostname(args: &StartArgs, context: &Context) -> Result<String> {
    hostname_of(args.hostname.as_deref(), context)
}

/// The same for a name that may have been given.
pub(super) fn hostname_of(given: Option<&str>, context: &Context) -> Result<String> {
    if let Some(name) = given.or(context.agent.as_deref()) {
        return checked(name);
    }
    match home::agent_names(&context.home).as_slice() {
        [] => Ok(machine_name()),
        [only] => Ok(only.clone()),
        several => Err(Failure::usage(format!("several agents live here: {}", several.join(", ")))
            .hint("say which one with --hostname NAME")),
    }
}

/// LDH labels are what every program that takes a hostname takes.
fn checked(name: &str) -> Result<String> {
    let is_ldh = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let is_label = is_ldh && !name.starts_with('-') && !name.ends_with('-');
    if is_label && (1..=HOSTNAME_LEN_MAX).contains(&name.len()) {
        return Ok(name.to_owned());
    }
    let failure = Failure::new(ExitCode::Usage, format!("'{name}' is no hostname"));
    let likely = as_label(name);
    Err(if likely.is_empty() {
        failure.hint("lower-case letters, digits and hyphens between them, at most 63")
    } else {
        failure.hint(format!("lower-case letters, digits and hyphens, at most 63; for example '{likely}'"))
    })
}

fn machine_name() -> String {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let label = as_label(node.split('.').next().unwrap_or_default());
    if label.is_empty() { "agent".to_owned() } else { label }
}

/// The label that is closest to what was meant.
fn as_label(name: &str) -> String {
    let lower = name.to_lowercase();
    let mapped: String = lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    mapped.trim_matches('-').chars().take(HOSTNAME_LEN_MAX).collect::<String>().trim_end_matches('-').to_owned()
}

/// Where `start` leaves for `restart` what the agent's own config file does not hold.
fn saved_path(name: &str, context: &Context) -> PathBuf {
    context.agent_dir(name).join("start.json")
}

fn save(args: &StartArgs, name: &str, context: &Context) -> Result<()> {
    // The agent keeps these itself, and they may change while it runs.
    let kept = StartArgs { tags: None, groups: None, description: None, direct: None, ..args.clone() };
    let path = saved_path(name, context);
    let aside = path.with_extension("json.new");
    let text = serde_json::json!({ "argv": kept.to_argv(name) }).to_string();
    let saved = std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, &path));
    saved.map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

/// What was left for `restart` names an agent that is called something else now.
pub(crate) fn forget(name: &str, context: &Context) -> Result<()> {
    let path = saved_path(name, context);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::failed(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// An agent that was run in the foreground left no word: its name is all there is.
fn saved_argv(name: &str, context: &Context) -> Vec<String> {
    #[derive(Deserialize)]
    struct Saved {
        argv: Vec<String>,
    }
    let text = std::fs::read_to_string(saved_path(name, context)).ok();
    let saved = text.and_then(|text| serde_json::from_str::<Saved>(&text).ok());
    saved.map_or_else(|| StartArgs::default().to_argv(name), |saved| saved.argv)
}

/// What such a command line says, to look at it before an agent is stopped for it.
fn start_args(argv: &[String]) -> Result<StartArgs> {
    let words = ["pilotctl"].into_iter().chain(argv.iter().map(String::as_str));
    let parsed = Cli::of(words.map(OsString::from)).map_err(|error| Failure::failed(error.to_string()))?;
    let Verb::Daemon(DaemonArgs { verb: DaemonVerb::Run(run) }) = parsed.verb else {
        return Err(Failure::failed("what is kept for a restart starts no agent"));
    };
    Ok(run.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_prints_the_promised_lines() {
        let mut started = Started {
            pid: 24817,
            address: "0:A91F.3C07.7C2E".into(),
            hostname: "my-agent".into(),
            tags: Vec::new(),
            org: None,
            role: None,
        };
        assert_eq!(started.lines(), "Daemon running (pid 24817)\nAddress: 0:A91F.3C07.7C2E\nHostname: my-agent");
        started.tags = vec!["mcp".into(), "finance".into()];
        assert!(started.lines().ends_with("\nTags: mcp, finance"));
    }

    #[test]
    fn only_labels_are_hostnames() {
        for name in ["a", "agent-7", "0"] {
            assert_eq!(checked(name), Ok(name.to_owned()));
        }
        for name in ["", "-a", "a-", "A", "a.b", "a b", "../a", &"a".repeat(64)] {
            assert_eq!(checked(name).map_err(|failure| failure.code), Err(ExitCode::Usage), "{name}");
        }
    }

    #[test]
    fn the_hint_offers_a_name_that_works() {
        for (typed, offered) in [("My_Agent.local", "my-agent-local"), ("Ünal's box", "nal-s-box")] {
            assert_eq!(as_label(typed), offered);
            assert_eq!(checked(offered), Ok(offered.to_owned()));
        }
    }

    #[test]
    fn the_child_gets_what_was_given_and_nothing_else() {
        let args = StartArgs { tags: Some(vec!["a".into(), "b".into()]), no_backbone: true, ..StartArgs::default() };
        let expected = ["daemon", "run", "--detached", "--hostname", "x", "--tags=a,b", "--no-backbone"];
        assert_eq!(args.to_argv("x"), expected);
    }
}
