//! Two daemons and their backbone in a lab, as users would start them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pilot_daemon::api::client::Client;
use pilot_daemon::api::types::{Reached, TargetRequest};
use pilot_daemon::home::Home;
use pilot_sim::link::LinkConfig;
use pilot_sim::meeting::Pair;

use super::lab::{Host, Lab, Plan};
use super::nats;
use super::router::{CORE, NodeId};
use crate::error::BenchError;

/// How long daemons have been ready before they are asked for anything.
const READY: Duration = Duration::from_secs(10);
const BACKBONE: &str = "203.0.113.10";
const BACKBONE_V6: &str = "2001:db8:ffff::10";
/// By which agents of either family find it.
const BACKBONE_NAME: &str = "backbone.example";
/// The hosts, and the agents on them.
const RELAY: &str = "relay";
const CALLER: &str = "a";
const CALLED: &str = "b";

/// A lab in which two agents run. Dropping it ends them.
pub(crate) struct Agents {
    pub(crate) caller: Agent,
    /// The gateways that they are directly behind, if they are behind any.
    pub(crate) gateways: [Option<NodeId>; 2],
    pub(crate) lab: Lab,
}

/// A daemon on a host of its own.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) host: Host,
}

impl Agents {
    /// Builds the lab, and starts backbone and daemons. Nothing, if a daemon cannot start there: it reaches no backbone.
    pub(crate) fn start(pilotctl: &Path, pair: Pair, seed: u64, link: &LinkConfig) -> Result<Option<Self>, BenchError> {
        let mut plan = Plan::new(seed);
        plan.host(RELAY, CORE, &[BACKBONE, BACKBONE_V6], &nats::access());
        plan.name(BACKBONE_NAME, &[BACKBONE, BACKBONE_V6]);
        let gateways = nats::plan(pair, &mut plan, [CALLER, CALLED], link);
        let lab = plan.build()?;
        let ticket = start_backbone(pilotctl, lab.host(RELAY))?;
        let [caller, called] = [CALLER, CALLED].map(|name| Agent { host: lab.host(name).clone() });
        let is_up = caller.start(pilotctl, &ticket)? && called.start(pilotctl, &ticket)?;
        Ok(is_up.then_some(Self { caller, gateways, lab }))
    }

    /// Lets them find out what their networks are like.
    pub(crate) async fn rest(&self) {
        tokio::time::sleep(READY).await;
    }
}

impl Lab {
    /// RELAY packets that the backbone's host has sent so far.
    pub(crate) fn relayed(&self) -> u64 {
        let relay = self.host(RELAY).node;
        self.engine.with(move |router| router.relayed_by(relay))
    }
}

impl Agent {
    /// A connection to its local API.
    pub(crate) async fn client(&self) -> Result<Client, BenchError> {
        let agent = Home::at(self.host.pilot_home()).agent(self.host.name).map_err(wrong)?;
        Ok(Client::connect(agent.socket_path().map_err(wrong)?).await?)
    }

    /// Whether the called agent answers.
    pub(crate) async fn ping(&self, client: &Client, patience: Duration) -> bool {
        let timeout_ms = u64::try_from(patience.as_millis()).ok();
        let request = TargetRequest { target: CALLED.to_owned(), timeout_ms };
        client.post::<Reached>("/v1/ping", &request).await.is_ok()
    }

    /// Tells whether it came up.
    fn start(&self, pilotctl: &Path, ticket: &str) -> Result<bool, BenchError> {
        let mut command = self.host.command(pilotctl);
        command.args(["daemon", "start", "--hostname", self.host.name, "--backbone", ticket]);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
    }
}

/// Starts a backbone and returns its ticket; it ends with its host.
fn start_backbone(pilotctl: &Path, host: &Host) -> Result<String, BenchError> {
    let mut command = host.command(pilotctl);
    command.args(["backbone", "start", "--listen", "[::]:3478", "--advertise", BACKBONE_NAME]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| wrong("the backbone has no stdout"))?;
    let mut ticket = String::new();
    BufReader::new(stdout).read_line(&mut ticket)?;
    Ok(ticket.trim().to_owned())
}

fn wrong(error: impl std::fmt::Display) -> BenchError {
    BenchError::Wrong(error.to_string())
}
