//! `pilotctl find` (spec/cli.md §5.2).

use clap::Args;
use pilot_daemon::api::types::{AgentInfo, FindRequest};

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::output::{Table, milliseconds};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl find --tag finance
  pilotctl find --group research
  pilotctl find --need \"resolve academic citations\"")]
pub(crate) struct FindArgs {
    /// Agents with this tag.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Members of this group.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Agents that say they do this, best match first.
    #[arg(long, value_name = "TEXT")]
    need: Option<String>,
}

pub(crate) async fn run(args: &FindArgs, context: &Context) -> Result<()> {
    let request =
        FindRequest { tag: args.tag.clone(), group: args.group.clone(), need: args.need.clone(), limit: None };
    let reply = context.daemon().await?.find(&request).await?;
    if reply.agents.is_empty() {
        return Err(nobody(args));
    }
    context.output.result(&reply, || table(&reply.agents))
}

fn table(agents: &[AgentInfo]) -> String {
    let mut table = Table::new(["HOSTNAME", "ADDRESS", "TAGS", "OFFERS", "REACHABLE", "RTT"]);
    for agent in agents {
        let offers: Vec<&str> = agent.offers.iter().map(|offer| offer.service.as_str()).collect();
        table.row([
            agent.name.clone().unwrap_or_default(),
            agent.address.clone(),
            agent.tags.join(", "),
            offers.join(", "),
            agent.reachable.map(|reachable| if reachable { "yes" } else { "no" }.to_owned()).unwrap_or_default(),
            agent.rtt_ms.map(milliseconds).unwrap_or_default(),
        ]);
    }
    table.render()
}

fn nobody(args: &FindArgs) -> Failure {
    let FindArgs { tag, group, need } = args;
    let asked = [("tag", tag), ("group", group), ("need", need)];
    let asked: Vec<String> =
        asked.into_iter().filter_map(|(what, value)| Some(format!("{what} '{}'", value.as_ref()?))).collect();
    let what = if asked.is_empty() {
        "no agent is registered".to_owned()
    } else {
        format!("no agent with {}", asked.join(" and "))
    };
    Failure::new(ExitCode::NotFound, what).hint("agents name theirs with `pilotctl daemon start --tags … --groups …`")
}
