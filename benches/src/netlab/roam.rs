//! `netlab roam`: what two agents that talk notice when the network changes under them.
//!
//! A stream from one to the other's echo service carries a number every ten milliseconds. After each change it is watched for a while: the
//! longest silence is what the change cost, and every number has to come back, in order.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use pilot_core::time::Mono;
use pilot_daemon::api::types::{OpenRequest, Peers};
use pilot_daemon::clock;
use pilot_sim::meeting::{Network, Pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::agents::Agents;
use super::nats::{access, lan};
use super::router::Way;
use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// Between two numbers.
const TICK: Duration = Duration::from_millis(10);
/// How long the stream is watched after a change.
const WATCH: Duration = Duration::from_secs(6);
/// How long a line is cut.
const CUT: Duration = Duration::from_secs(5);

/// What happens to the network.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Nothing: what the lab itself costs.
    Nothing,
    /// The caller's router forgets its mappings.
    Rebinding,
    /// It gets another public address too.
    PublicAddress,
    /// Both routers forget their mappings at once.
    BothRebind,
    /// The caller's host gets another address in its LAN.
    HostAddress,
    /// The caller's host goes to another network.
    Network,
    /// The caller's line is cut for a while.
    Cut,
    /// It is cut in one way only: what the caller sends arrives.
    DeafFor,
}

impl Change {
    const ALL: [Self; 8] = [
        Self::Nothing,
        Self::Rebinding,
        Self::PublicAddress,
        Self::BothRebind,
        Self::HostAddress,
        Self::Network,
        Self::Cut,
        Self::DeafFor,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Rebinding => "the caller's NAT forgets its mappings",
            Self::PublicAddress => "its public address changes",
            Self::BothRebind => "both NATs forget at once",
            Self::HostAddress => "the caller's host gets another address",
            Self::Network => "the caller's host goes to another network",
            Self::Cut => "the caller's line is cut for 5 s",
            Self::DeafFor => "the same, inwards only",
        }
    }

    /// For how long nobody can be expected to hear anything.
    fn outage(self) -> Duration {
        match self {
            Self::Cut | Self::DeafFor => CUT,
            Self::Nothing
            | Self::Rebinding
            | Self::PublicAddress
            | Self::BothRebind
            | Self::HostAddress
            | Self::Network => Duration::ZERO,
        }
    }
}

/// Puts two agents behind NATs of these kinds, and lets everything happen to them. Returns what came out as a page.
///
/// # Errors
/// If the lab could not be built, or a byte was lost.
pub(crate) fn run(pilotctl: &Path, networks: [Network; 2], seed: u64) -> Result<String, BenchError> {
    on_this_thread(async {
        let pair = Pair::Apart(networks[0], networks[1]);
        let agents = Agents::start(pilotctl, pair, seed, &access())?;
        let agents = agents.ok_or_else(|| BenchError::Wrong("the daemons did not start".to_owned()))?;
        agents.rest().await;
        let mut ticker = Ticker::open(&agents).await?;
        ticker.watch(WATCH).await?;
        let tunnel_begun = tunnel_begun(&agents).await?;
        let mut page = String::from(
            "| what changes | longest silence beyond it, ms | relayed packets after 5 s |\n| --- | --- | --- |\n",
        );
        for change in Change::ALL {
            let silence = apply(&agents, &mut ticker, change).await?;
            let before = agents.lab.relayed();
            ticker.watch(Duration::from_secs(1)).await?;
            let relayed = agents.lab.relayed() - before;
            let beyond = silence.saturating_sub(change.outage());
            page += &format!("| {} | {} | {relayed} |\n", change.name(), beyond.as_millis());
            eprintln!("{change:?}: {beyond:?}");
        }
        let kept = tunnel_begun_is(&agents, tunnel_begun).await?;
        page += &format!(
            "\n{} numbers came back in order; the tunnel was {}.\n",
            ticker.came,
            if kept { "kept" } else { "NOT kept" }
        );
        let drops = agents.lab.engine.with(|router| router.drops());
        page += &format!("{drops}; {}.\n", agents.lab.engine.punctuality().sentence());
        Ok(page)
    })
}

/// Makes a change and returns the longest silence of the stream from then on.
async fn apply(agents: &Agents, ticker: &mut Ticker, change: Change) -> Result<Duration, BenchError> {
    let engine = &agents.lab.engine;
    let [caller, called] = agents.gateways.map(|gateway| gateway.expect("agents that roam are behind gateways"));
    let host = agents.caller.host.node;
    let address = |text: &str| -> IpAddr { text.parse().expect("addresses of labs are written in this program") };
    match change {
        Change::Nothing => {}
        Change::Rebinding => engine.with(move |router| router.flush(caller)),
        Change::PublicAddress => engine.with(move |router| router.rebind(caller, &[address("198.51.100.101")])),
        Change::BothRebind => engine.with(move |router| {
            router.flush(caller);
            router.flush(called);
        }),
        Change::HostAddress => {
            let addresses = vec![address("192.168.1.77")];
            agents.caller.host.set_addresses(&addresses)?;
            engine.with(move |router| router.move_host(host, caller, addresses));
        }
        Change::Network => {
            let elsewhere = engine.with(move |router| super::nats::another_home(router, "198.51.100.3", &access()));
            let addresses = vec![address("10.0.0.5")];
            agents.caller.host.set_addresses(&addresses)?;
            engine.with(move |router| router.move_host(host, elsewhere, addresses));
        }
        Change::Cut | Change::DeafFor => {
            let ways: &'static [Way] = if matches!(change, Change::Cut) { &[Way::Up, Way::Down] } else { &[Way::Down] };
            engine
                .with(move |router| ways.iter().for_each(|&way| router.change_link(host, way, |link| link.cut(true))));
            let during = ticker.watch(CUT).await?;
            engine.with(move |router| ways.iter().for_each(|&way| router.change_link(host, way, |_| lan())));
            return Ok(during.max(ticker.watch(WATCH).await?));
        }
    }
    ticker.watch(WATCH).await
}

/// When the tunnel between the two came up, as the caller counts it.
async fn tunnel_begun(agents: &Agents) -> Result<Duration, BenchError> {
    let now = clock::now().mono.since(Mono::default());
    let peers: Peers = agents.caller.client().await?.get("/v1/peers").await?;
    let since = peers.peers.iter().filter(|peer| !peer.backbone).find_map(|peer| peer.connected_s);
    let since = since.ok_or_else(|| BenchError::Wrong("there is no tunnel".to_owned()))?;
    Ok(now.saturating_sub(Duration::from_secs_f64(since)))
}

async fn tunnel_begun_is(agents: &Agents, begun: Duration) -> Result<bool, BenchError> {
    Ok(tunnel_begun(agents).await?.abs_diff(begun) < Duration::from_millis(500))
}

/// A stream of numbers to the other agent and back.
struct Ticker {
    stream: UnixStream,
    went: u64,
    came: u64,
    heard: Mono,
}

impl Ticker {
    async fn open(agents: &Agents) -> Result<Self, BenchError> {
        let request = OpenRequest { target: "b".to_owned(), service: "echo".to_owned(), ..OpenRequest::default() };
        let (_, stream) = agents.caller.client().await?.open_stream(&request).await?;
        Ok(Self { stream, went: 0, came: 0, heard: clock::now().mono })
    }

    /// Sends and receives for so long; returns the longest silence, which may have begun before.
    async fn watch(&mut self, time: Duration) -> Result<Duration, BenchError> {
        let end = clock::now().mono + time;
        let mut longest = Duration::ZERO;
        let mut ticks = tokio::time::interval(TICK);
        let (mut reader, mut writer) = self.stream.split();
        let mut number = [0; 8];
        let mut filled = 0;
        while clock::now().mono < end {
            tokio::select! {
                _ = ticks.tick() => {
                    writer.write_all(&self.went.to_be_bytes()).await?;
                    self.went += 1;
                }
                len = reader.read(&mut number[filled..]) => {
                    filled += len?;
                    let now = clock::now().mono;
                    longest = longest.max(now.since(self.heard));
                    self.heard = now;
                    if filled == number.len() {
                        if u64::from_be_bytes(number) != self.came {
                            return Err(BenchError::Wrong(format!("number {} came as {number:?}", self.came)));
                        }
                        self.came += 1;
                        filled = 0;
                    } else if filled == 0 {
                        return Err(BenchError::Wrong("the stream has ended".to_owned()));
                    }
                }
            }
        }
        // A number in two parts is finished before the next watch.
        while filled > 0 && filled < number.len() {
            filled += reader.read(&mut number[filled..]).await?;
            if filled == number.len() {
                self.came += 1;
            }
        }
        Ok(longest.max(clock::now().mono.since(self.heard)))
    }
}
