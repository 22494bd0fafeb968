//! `pilotctl allow`, `deny`, `rules` and `why` (spec/cli.md §5.13): who may call this agent.

use clap::Args;
use pilot_daemon::api::rules::{ChangeRules, Rule, WhyRequest};

use crate::client::Daemon;
use crate::context::Context;
use crate::hint::Result;
use crate::output::Table;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl allow mcp public
  pilotctl allow query agent-alpha
  pilotctl allow mcp role:lead@my-company-fleet
  pilotctl allow query agent-alpha --remove

WHO is public, home, org:ORG, role:ROLE@ORG, group:GROUP@ORG, or an agent: its name, address or key. Once a service has a rule, members of
organisations may call it only if a rule names them.")]
pub(crate) struct AllowArgs {
    #[command(flatten)]
    rule: RuleArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl deny '*' agent-mallory
  pilotctl deny mcp group:interns@my-company-fleet
  pilotctl deny mcp group:interns@my-company-fleet --remove

What is denied is refused whatever else is allowed.")]
pub(crate) struct DenyArgs {
    #[command(flatten)]
    rule: RuleArgs,
}

#[derive(Debug, Args)]
struct RuleArgs {
    /// query, mcp, message, a port number, or * for every service.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Who it is about.
    #[arg(value_name = "WHO")]
    who: String,
    /// Take the rule back.
    #[arg(long)]
    remove: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  pilotctl rules

They stand in PILOT_HOME/agents/NAME/rules.toml, which is read again when it changes:
  [[allow]]
  service = \"mcp\"                       query, mcp, message, a port number, or * for all
  from = \"role:lead@my-company-fleet\"   or public, home, org:ORG, group:GROUP@ORG, agent:KEY
  [[deny]]
  service = \"*\"
  from = \"agent:KEY\"                    agent:KEY@ORG: as long as it is a member
  note = \"agent-mallory\"                for people

What is denied is refused whatever else is allowed. Where no rules are meant, there is no file, or nothing but a comment in it.")]
pub(crate) struct RulesArgs {}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pilotctl why agent-alpha mcp")]
pub(crate) struct WhyArgs {
    /// Who would call: an agent's name, address, key or ticket.
    #[arg(value_name = "AGENT")]
    caller: String,
    /// The service of this agent.
    #[arg(value_name = "SERVICE")]
    service: String,
}

pub(crate) async fn allow(args: &AllowArgs, context: &Context) -> Result<()> {
    change("allow", &args.rule, context).await
}

pub(crate) async fn deny(args: &DenyArgs, context: &Context) -> Result<()> {
    change("deny", &args.rule, context).await
}

async fn change(effect: &str, args: &RuleArgs, context: &Context) -> Result<()> {
    let request = ChangeRules {
        effect: effect.to_owned(),
        service: args.service.clone(),
        from: args.who.clone(),
        remove: args.remove,
    };
    let daemon = context.daemon().await?;
    let rule = daemon.change_rules(&request).await?;
    if !args.remove {
        warn_of_no_effect(&rule, args, &daemon, context).await?;
    }
    context.output.result(&rule, || {
        let what = if args.remove { "Removed: " } else { "" };
        format!("{what}{} {} {}", rule.effect, rule.service, rule.from)
    })?;
    warn_of_members(&rule, args.remove, &daemon, context).await
}

/// Says so where the first rule of a service keeps out members who could call it before, and where they can again, because the last one has gone.
async fn warn_of_members(rule: &Rule, is_removed: bool, daemon: &Daemon, context: &Context) -> Result<()> {
    let service = &rule.service;
    if rule.effect != "allow" || rule.from == "public" || service == "*" {
        return Ok(());
    }
    let rules = daemon.rules().await?.rules;
    let others = rules.iter().filter(|other| other.effect == "allow" && other.service == *service);
    let is_only = others.count() == usize::from(!is_removed);
    let is_public = daemon.status().await?.services.iter().any(|served| served.service == *service && served.public);
    let orgs = daemon.orgs().await?.orgs;
    let concerned = orgs.iter().find(|org| rule.from != format!("org:{}", org.name));
    let Some(org) = concerned.filter(|_| is_only && !is_public) else { return Ok(()) };
    let (text, hint) = if is_removed {
        (
            format!("members of {} may call {service} now: it has no rules any more", org.name),
            format!("to let in some of them only: pilotctl allow {service} WHO"),
        )
    } else {
        (
            format!("other members of {} may not call {service} any more: it has rules now", org.name),
            format!("to let them in, too: pilotctl allow {service} org:{}", org.name),
        )
    };
    context.output.warning(&text, &hint);
    Ok(())
}

/// Says so where a new rule changes nothing.
async fn warn_of_no_effect(rule: &Rule, args: &RuleArgs, daemon: &Daemon, context: &Context) -> Result<()> {
    if let Some(org) = org_of(&rule.from)
        && !daemon.orgs().await?.orgs.iter().any(|known| known.name == org)
    {
        let text = format!("this agent is in no organisation '{org}': until it is, the rule is about nobody");
        context.output.warning(&text, "see which it is in: pilotctl org list");
    }
    if rule.effect == "allow" && rule.from.starts_with("agent:") && rule.service != "*" {
        let why = daemon.why(&WhyRequest { agent: args.who.clone(), service: args.service.clone() }).await?;
        if !why.allowed {
            let text = format!("it may not call all the same: {}", why.reason);
            let hint = if rule.from.contains('@') {
                format!("to let it in whatever its membership says: pilotctl allow {} {}", rule.service, why.key)
            } else {
                "take that rule back with --remove; see all: pilotctl rules".to_owned()
            };
            context.output.warning(&text, &hint);
        }
    }
    Ok(())
}

/// The organisation that a rule is about.
fn org_of(from: &str) -> Option<&str> {
    from.strip_prefix("org:").or_else(|| Some(from.rsplit_once('@')?.1))
}

pub(crate) async fn rules(_args: &RulesArgs, context: &Context) -> Result<()> {
    let list = context.daemon().await?.rules().await?;
    if let Some(error) = &list.error {
        context.output.warning(error, "the rules before that are in force, and shown here; correct the file");
    }
    if list.rules.is_empty() && !context.output.is_json() {
        context.output.talk("no rules: agents of this home and of shared organisations may call");
        return Ok(());
    }
    context.output.result(&list, || {
        let mut table = Table::new(["RULE", "SERVICE", "FROM", "NOTE"]);
        for rule in &list.rules {
            let note = rule.note.clone().unwrap_or_default();
            table.row([rule.effect.clone(), rule.service.clone(), rule.from.clone(), note]);
        }
        table.render()
    })
}

pub(crate) async fn why(args: &WhyArgs, context: &Context) -> Result<()> {
    let request = WhyRequest { agent: args.caller.clone(), service: args.service.clone() };
    let why = context.daemon().await?.why(&request).await?;
    context.output.result(&why, || {
        let answer = if why.allowed { "allowed" } else { "refused" };
        format!("{answer}: {}", why.reason)
    })
}
