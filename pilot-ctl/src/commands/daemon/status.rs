//! `daemon status`: how the agents fare.

use std::time::Duration;

use pilot_daemon::api::types::{Backbone, Status, Transport};

use crate::context::Context;
use crate::duration;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};

/// The one that was named, or all that run: one JSON object a line.
pub(super) async fn run(context: &Context) -> Result<()> {
    let daemons = match &context.agent {
        Some(_) => vec![context.daemon().await?],
        None => context.running().await?,
    };
    if daemons.is_empty() {
        return Err(Failure::new(ExitCode::NotRunning, "no agent is running")
            .hint("`pilotctl daemon start --hostname NAME` starts one"));
    }
    for (index, daemon) in daemons.iter().enumerate() {
        let status = daemon.status().await?;
        if index > 0 && !context.output.is_json() {
            context.output.line("")?;
        }
        context.output.result(&status, || lines(&status))?;
    }
    Ok(())
}

fn lines(status: &Status) -> String {
    let mut lines = vec![
        format!("Daemon running (pid {})", status.pid),
        format!("Address: {}", status.address),
        format!("Hostname: {}", status.name),
    ];
    let mut list = |label: &str, words: &[String]| {
        if !words.is_empty() {
            lines.push(format!("{label}: {}", words.join(", ")));
        }
    };
    list("Tags", &status.tags);
    list("Groups", &status.groups);
    let services = status.services.iter().map(|service| {
        let public = if service.public { " (public)" } else { "" };
        format!("{}{public}", service.service)
    });
    list("Services", &services.collect::<Vec<_>>());
    lines.push(format!("Uptime: {}", duration::display(Duration::from_secs(status.uptime_s))));
    lines.push(format!("Backbone: {}", status.backbone.as_ref().map_or_else(|| "none".to_owned(), backbone)));
    if let Some(backbone) = &status.backbone {
        lines.extend(unusual(backbone));
    }
    lines.extend(status.rules_error.iter().map(|error| format!("Rules: not in force, those before are: {error}")));
    lines.push(format!("Direct paths: {}", if status.direct { "on" } else { "off" }));
    lines.push(format!("Listens on: {}", status.listen));
    lines.join("\n")
}

fn backbone(backbone: &Backbone) -> String {
    let state = match (backbone.connected, backbone.registered) {
        (false, _) => "not connected",
        (true, false) => "connected, not registered",
        (true, true) => "connected",
    };
    let observed = backbone.observed_address.map(|address| format!(", sees us at {address}")).unwrap_or_default();
    let error = backbone.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
    format!("{state}{observed}{error}")
}

/// What is said only where the network is not as it should be.
fn unusual(backbone: &Backbone) -> Vec<String> {
    let transport = backbone.transport.filter(|transport| *transport == Transport::Tls);
    let transport = transport.map(|_| "Transport: tls".to_owned());
    let findings = backbone.findings.iter().map(|finding| format!("Finding: {}", finding.message));
    transport.into_iter().chain(findings).collect()
}
