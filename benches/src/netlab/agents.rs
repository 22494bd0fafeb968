//! Two daemons and their backbone in a lab, as users would start them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pilot_core::rng::Rng;
use pilot_core::time::Mono;
use pilot_daemon::api::client::Client;
use pilot_daemon::api::types::{AcceptRequest, OpenRequest, Reached, Status, TargetRequest, Transport};
use pilot_daemon::clock;
use pilot_daemon::home::Home;
use pilot_sim::meeting::DIRECT_FOR;
use rustix::process::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::lab::{Host, Lab, Plan};
use super::nats::{self, Site};
use super::router::{CORE, NodeId};
use crate::error::BenchError;

/// How long daemons have been ready before they are asked for anything.
const READY: Duration = Duration::from_secs(10);
const BACKBONE: &str = "203.0.113.10";
const BACKBONE_V6: &str = "2001:db8:ffff::10";
/// By which agents of either family find it.
const BACKBONE_NAME: &str = "backbone.example";
/// Pause between two pings of the traffic that shows which way it takes.
const PING_INTERVAL: Duration = Duration::from_millis(50);
/// A ping that takes longer has failed.
const PING_PATIENCE: Duration = Duration::from_secs(30);
/// The service that takes bytes.
const SERVICE: &str = "4242";
/// The hosts, and the agents on them.
const RELAY: &str = "relay";
const CALLER: &str = "a";
const CALLED: &str = "b";

/// A lab in which two agents run. Dropping it ends them.
pub(crate) struct Agents {
    pub(crate) caller: Agent,
    pub(crate) called: Agent,
    /// The emulated gateways that they are directly behind, if they are behind any.
    pub(crate) gateways: [Option<NodeId>; 2],
    pub(crate) lab: Lab,
}

/// What came of a meeting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Met {
    /// From the first ping to its answer, if one came.
    pub(crate) answered: Option<Duration>,
    /// From the first ping to the last relayed packet, if none came for [`DIRECT_FOR`] after that.
    pub(crate) direct: Option<Duration>,
    /// Packets that the relay has forwarded meanwhile.
    pub(crate) relayed: u64,
}

/// A daemon on a host of its own.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) host: Host,
}

impl Agents {
    /// Builds the lab, and starts backbone and daemons. Nothing, if a daemon cannot start there: it reaches no backbone.
    pub(crate) fn start(pilotctl: &Path, site: &Site, seed: u64) -> Result<Option<Self>, BenchError> {
        let mut plan = Plan::new(seed);
        plan.host(RELAY, CORE, &[BACKBONE, BACKBONE_V6], &nats::access());
        plan.name(BACKBONE_NAME, &[BACKBONE, BACKBONE_V6]);
        let gateways = site.plan(&mut plan, [CALLER, CALLED]);
        let lab = plan.build()?;
        let ticket = start_backbone(pilotctl, lab.host(RELAY), &["--advertise", BACKBONE_NAME])?;
        let [caller, called] = [CALLER, CALLED].map(|name| Agent { host: lab.host(name).clone() });
        let is_up = caller.start(pilotctl, &ticket)? && called.start(pilotctl, &ticket)?;
        Ok(is_up.then_some(Self { caller, called, gateways, lab }))
    }

    /// Lets them find out what their networks are like.
    pub(crate) async fn rest(&self) {
        tokio::time::sleep(READY).await;
    }

    /// Lets the caller ping until nothing, or no more than strays, was relayed for [`DIRECT_FOR`], or it is clear that this will not be `within`
    /// a time.
    pub(crate) async fn meet(&self, within: Duration, strays_max: u64) -> Result<Met, BenchError> {
        let client = self.caller.client().await?;
        let relayed = || self.lab.relayed();
        let started = clock::now().mono;
        let before = relayed();
        if !self.caller.ping(&client, PING_PATIENCE).await {
            return Ok(Met { answered: None, direct: None, relayed: relayed() - before });
        }
        let answered = clock::now().mono.since(started);
        let mut last = (relayed(), clock::now().mono);
        if last.0 == before {
            last.1 = started;
        }
        let since = |at: Mono| at.since(started);
        while clock::now().mono.since(last.1) < DIRECT_FOR && since(last.1) <= within {
            tokio::time::sleep(PING_INTERVAL).await;
            self.caller.ping(&client, PING_PATIENCE).await;
            let now = relayed();
            if now - last.0 > strays_max {
                last = (now, clock::now().mono);
            }
        }
        let direct = Some(since(last.1)).filter(|direct| *direct <= within);
        Ok(Met { answered: Some(answered), direct, relayed: relayed() - before })
    }

    /// Sends bytes from the caller to the called agent, who compares each. Returns the time until the caller knows that they are there.
    pub(crate) async fn transfer(&self, len: usize, patience: Duration) -> Result<Duration, BenchError> {
        let mut rng = Rng::new([5; 32]);
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.array::<32>()).take(len.div_ceil(32)).flatten().collect();
        let both = async { tokio::try_join!(self.send(&bytes), self.take(&bytes)).map(|(time, ())| time) };
        tokio::time::timeout(patience, both)
            .await
            .unwrap_or_else(|_| Err(wrong(format!("{len} bytes did not arrive within {patience:?}"))))
    }

    async fn send(&self, bytes: &[u8]) -> Result<Duration, BenchError> {
        let request = OpenRequest { target: CALLED.to_owned(), service: SERVICE.to_owned(), ..OpenRequest::default() };
        self.wait_for_taker().await?;
        let started = clock::now().mono;
        let (_, mut stream) = self.caller.client().await?.open_stream(&request).await?;
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        stream.read_u8().await?;
        Ok(clock::now().mono.since(started))
    }

    async fn take(&self, expected: &[u8]) -> Result<(), BenchError> {
        let request = AcceptRequest { service: SERVICE.to_owned(), public: true, ..AcceptRequest::default() };
        let (_, mut stream) = self.called.client().await?.accept(&request).await?;
        let mut bytes = Vec::with_capacity(expected.len());
        stream.read_to_end(&mut bytes).await?;
        if bytes != expected {
            return Err(wrong(format!("{} bytes came, and not those that were sent", bytes.len())));
        }
        stream.write_u8(1).await?;
        Ok(stream.shutdown().await?)
    }

    async fn wait_for_taker(&self) -> Result<(), BenchError> {
        let client = self.called.client().await?;
        loop {
            let status: Status = client.get("/v1/status").await?;
            if status.services.iter().any(|service| service.service == SERVICE && service.waiting > 0) {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Lab {
    /// Packets that the backbone's host has sent so far and that may have been relayed ones.
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

    /// Its process.
    pub(crate) async fn pid(&self) -> Result<Pid, BenchError> {
        let status: Status = self.client().await?.get("/v1/status").await?;
        let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| wrong("a process without a number"))
    }

    /// How its home node is reached, if it is.
    pub(crate) async fn transport(&self) -> Result<Option<Transport>, BenchError> {
        let status: Status = self.client().await?.get("/v1/status").await?;
        Ok(status.backbone.and_then(|backbone| backbone.transport))
    }

    /// Tells whether it came up. It has no settings: all that it knows is a backbone node with one address of each family.
    fn start(&self, pilotctl: &Path, ticket: &str) -> Result<bool, BenchError> {
        std::fs::create_dir_all(self.host.pilot_home())?;
        let mut command = self.host.command(pilotctl);
        command.args(["daemon", "start", "--hostname", self.host.name, "--backbone", ticket]);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
    }
}

/// Starts a backbone node and returns its ticket; it ends with its host.
fn start_backbone(pilotctl: &Path, host: &Host, args: &[&str]) -> Result<String, BenchError> {
    let mut command = host.command(pilotctl);
    command.args(["backbone", "start", "--listen", "[::]:3478"]).args(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| wrong("the backbone has no stdout"))?;
    let mut ticket = String::new();
    BufReader::new(stdout).read_line(&mut ticket)?;
    Ok(ticket.trim().to_owned())
}

fn wrong(error: impl std::fmt::Display) -> BenchError {
    BenchError::Wrong(error.to_string())
}
