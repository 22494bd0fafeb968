//! `pilotctl info` (spec/cli.md §5.2).

use clap::Args;
use pilot_daemon::api::types::{Service, Status, Transport};

use crate::context::Context;
use crate::hint::Result;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl info
  pilotctl info --as agent-alpha --json | jq -r .address")]
pub(crate) struct InfoArgs {}

/// What others can know of an agent.
#[derive(serde::Serialize)]
struct Info {
    name: String,
    address: String,
    key: String,
    description: String,
    tags: Vec<String>,
    groups: Vec<String>,
    services: Vec<Service>,
    ticket: String,
    backbone: Option<String>,
    transport: Option<Transport>,
}

pub(crate) async fn run(_args: &InfoArgs, context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
    let status = daemon.status().await?;
    let info = Info::new(status, daemon.ticket().await?.ticket);
    context.output.result(&info, || info.lines())
}

impl Info {
    fn new(status: Status, ticket: String) -> Self {
        Self {
            name: status.name,
            address: status.address,
            key: status.key,
            description: status.description,
            tags: status.tags,
            groups: status.groups,
            services: status.services,
            ticket,
            transport: status.backbone.as_ref().and_then(|backbone| backbone.transport),
            backbone: status.backbone.map(|backbone| backbone.ticket),
        }
    }

    fn lines(&self) -> String {
        let list = |words: &[String]| if words.is_empty() { "-".to_owned() } else { words.join(", ") };
        let by_tls = if self.transport == Some(Transport::Tls) { " (transport: tls, UDP is not answered)" } else { "" };
        let services: Vec<String> = self.services.iter().map(|service| service.service.clone()).collect();
        [
            format!("Hostname: {}", self.name),
            format!("Address: {}", self.address),
            format!("Key: {}", self.key),
            format!("Description: {}", if self.description.is_empty() { "-" } else { &self.description }),
            format!("Tags: {}", list(&self.tags)),
            format!("Groups: {}", list(&self.groups)),
            format!("Services: {}", list(&services)),
            format!("Backbone: {}{by_tls}", self.backbone.as_deref().unwrap_or("-")),
            format!("Ticket: {}", self.ticket),
        ]
        .join("\n")
    }
}
