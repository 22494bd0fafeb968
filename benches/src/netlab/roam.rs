//! `netlab roam`: what two agents that talk notice when the network changes under them.
//!
//! A stream from one to the other's echo service carries a number every ten milliseconds. After each change it is watched for a while: the
//! longest silence is what the change cost, and every number has to come back, in order. Beyond the time in which nobody can be expected to
//! hear anything it has to be less than a second, and the tunnel stays. Some seconds later the relay has nothing to do with it any more, where
//! theory knows a direct path.

use std::net::IpAddr;
use std::time::Duration;

use pilot_core::time::Mono;
use pilot_daemon::api::types::{OpenRequest, Peers, Transport};
use pilot_daemon::clock;
use pilot_sim::link::LinkConfig;
use pilot_sim::meeting::{Expected, Network, Pair};
use pilot_sim::world::Families;
use rustix::process::{Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::agents::Agents;
use super::nats::{self, Site, access, lan};
use super::router::{NodeId, Router, Way};
use super::{Findings, Rig};
use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// Addresses of the caller's host.
const V4: &str = "192.168.1.2";
const V6: &str = "2001:db8:1::2";
/// That in another network, and in one without UDP.
const ELSEWHERE: &str = "10.0.0.5";
const WITHOUT_UDP: &str = "10.0.1.5";
/// Between two numbers.
const TICK: Duration = Duration::from_millis(10);
/// How long the stream is watched after a change.
const WATCH: Duration = Duration::from_secs(6);
/// How long a line is cut.
const CUT: Duration = Duration::from_secs(5);
/// How long a short sleep is: no path is older than it may be.
const DOZE: Duration = Duration::from_secs(7);
/// Between two rebindings where they come often, and how often they come.
const REBIND_INTERVAL: Duration = Duration::from_secs(20);
const REBINDINGS: usize = 4;
/// How soon after there is a network again the stream goes on.
const RESUMED_WITHIN: Duration = Duration::from_secs(1);
/// Relayed packets in a second that are no traffic: a number takes two and an acknowledgement, and there are a hundred in that time.
const STRAYS_MAX: u64 = 20;

/// What happens to the network.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Nothing: what the lab itself costs.
    Nothing,
    /// The caller's router forgets its mappings, and gives other ports.
    Rebinding,
    /// It does so again and again.
    OftenRebinding,
    /// It gets another public address too.
    PublicAddress,
    /// Both routers do so at once.
    BothRebind,
    /// The caller's host gets another address in its LAN.
    HostAddress,
    /// The caller's host goes to another network.
    Network,
    /// It goes to one in which UDP is blocked.
    UdpBlocked,
    /// It comes back to its own.
    Home,
    /// The caller's line is cut for a while.
    Cut,
    /// It is cut in one way only: what the caller sends arrives.
    DeafFor,
    /// The caller's machine sleeps for some seconds: the path in use was heard a moment ago, as it seems.
    Doze,
    /// The caller's machine sleeps for long.
    Sleep,
    /// The caller's host changes to another interface, which leads to another network.
    Interface,
    /// It changes back, and the interface that it leaves stays up with its address.
    Route,
    /// The caller's host has no IPv4 address any more.
    OnlyIpv6,
    /// It has no IPv6 address any more.
    OnlyIpv4,
    /// It has addresses of both families again.
    BothFamilies,
}

impl Change {
    /// What happens to agents behind NATs.
    const BEHIND_NATS: [Self; 15] = [
        Self::Nothing,
        Self::Rebinding,
        Self::OftenRebinding,
        Self::PublicAddress,
        Self::BothRebind,
        Self::HostAddress,
        Self::Network,
        Self::UdpBlocked,
        Self::Home,
        Self::Cut,
        Self::DeafFor,
        Self::Doze,
        Self::Sleep,
        Self::Interface,
        Self::Route,
    ];
    /// What happens to agents that have both families.
    const OF_FAMILY: [Self; 6] =
        [Self::Nothing, Self::OnlyIpv6, Self::OnlyIpv4, Self::BothFamilies, Self::OnlyIpv4, Self::OnlyIpv6];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Rebinding => "the caller's NAT gives it another port",
            Self::OftenRebinding => "it does so every 20 s",
            Self::PublicAddress => "its public address changes",
            Self::BothRebind => "both NATs do so at once",
            Self::HostAddress => "the caller's host gets another address",
            Self::Network => "the caller's host goes to another network",
            Self::UdpBlocked => "it goes to one in which UDP is blocked",
            Self::Home => "it comes back to its own",
            Self::Cut => "the caller's line is cut for 5 s",
            Self::DeafFor => "the same, inwards only",
            Self::Doze => "the caller's machine sleeps for 7 s, and its NAT gives it another port",
            Self::Sleep => "it sleeps for long, and its NAT forgets",
            Self::Interface => "the caller's host changes to another interface",
            Self::Route => "its route goes back to the first, and the other stays up",
            Self::OnlyIpv6 => "the caller's host has IPv6 only",
            Self::OnlyIpv4 => "it has IPv4 only",
            Self::BothFamilies => "it has both again",
        }
    }

    /// By what the home node is reached afterwards.
    fn transport(self) -> Transport {
        if self.leaves_udp() { Transport::Tls } else { Transport::Udp }
    }

    fn leaves_udp(self) -> bool {
        matches!(self, Self::UdpBlocked)
    }
}

/// Puts two agents into networks of these kinds, and lets everything happen to them.
///
/// # Errors
/// If the lab could not be built, or a byte was lost.
pub(crate) fn run(rig: &Rig, networks: [Network; 2], sleep: Duration) -> Result<Findings, BenchError> {
    let is_dual = networks.iter().all(|network| network.families() == Families::Dual);
    let changes = if is_dual { Change::OF_FAMILY.as_slice() } else { &Change::BEHIND_NATS };
    if networks[0].nats().is_empty() {
        return Err(BenchError::Wrong(format!(
            "{}: the caller roams from behind a gateway, and there it has none",
            networks[0]
        )));
    }
    let is_to_be_direct = Pair::Apart(networks[0], networks[1]).expected() != Expected::Relay;
    on_this_thread(async {
        let site = Site { has_spare: true, ..Site::new(Pair::Apart(networks[0], networks[1])) };
        let agents = Agents::start(&rig.pilotctl, &site, rig.seed)?;
        let agents = agents.ok_or_else(|| BenchError::Wrong("the daemons did not start".to_owned()))?;
        agents.rest().await;
        let mut ticker = Ticker::open(&agents).await?;
        ticker.watch(WATCH).await?;
        let tunnel_begun = tunnel_begun(&agents).await?;
        let mut page = String::from(
            "| what changes | longest silence beyond it, ms | relayed packets in a second, 5 s later |\n| --- | --- | --- |\n",
        );
        let mut wrong = Vec::new();
        for change in changes {
            let beyond = apply(&agents, &mut ticker, *change, sleep).await?;
            let mut relayed = ticker.relayed_in_a_second(&agents).await?;
            page += &format!("| {} | {} | {relayed} |\n", change.name(), beyond.as_millis());
            eprintln!("{change:?}: {beyond:?}, {relayed} relayed");
            if beyond > rig.slack * RESUMED_WITHIN {
                wrong.push(format!("{}: silence of {beyond:?} beyond it", change.name()));
            }
            let patience = clock::now().mono + (rig.slack - 1) * WATCH;
            let is_to_be_direct = is_to_be_direct && !change.leaves_udp();
            while is_to_be_direct && relayed > STRAYS_MAX && clock::now().mono < patience {
                relayed = ticker.relayed_in_a_second(&agents).await?;
            }
            let transport = agents.caller.transport().await?;
            if transport != Some(change.transport()) {
                wrong.push(format!("{}: the home node is reached by {transport:?}", change.name()));
            }
            if is_to_be_direct && relayed > STRAYS_MAX {
                let later = rig.slack * WATCH;
                wrong
                    .push(format!("{}: still by relay {later:?} later ({relayed} packets in a second)", change.name()));
            }
        }
        if !tunnel_begun_is(&agents, tunnel_begun).await? {
            wrong.push("the tunnel was not kept".to_owned());
        }
        let slept = if is_dual { String::new() } else { format!("; the machine slept for {sleep:?}") };
        page += &format!("\n{} numbers came back in order{slept}.\n", ticker.came);
        let drops = agents.lab.engine.with(|router| router.drops());
        page += &format!("{drops}; {}.\n", agents.lab.engine.punctuality().sentence());
        Ok(Findings { page, wrong })
    })
}

/// Makes a change. Returns the longest silence of the stream from then on, without the time in which nothing could be heard.
async fn apply(agents: &Agents, ticker: &mut Ticker, change: Change, sleep: Duration) -> Result<Duration, BenchError> {
    let engine = &agents.lab.engine;
    let [caller, called] = agents.gateways;
    let caller = caller.ok_or_else(|| BenchError::Wrong("the caller has no gateway".to_owned()))?;
    match change {
        Change::Nothing => {}
        Change::Rebinding => engine.with(move |router| router.remap(caller)),
        Change::OftenRebinding => {
            let mut longest = Duration::ZERO;
            for _ in 0..REBINDINGS {
                engine.with(move |router| router.remap(caller));
                longest = longest.max(ticker.watch(REBIND_INTERVAL).await?);
            }
            return Ok(longest);
        }
        Change::PublicAddress => engine.with(move |router| router.rebind(caller, &[address("198.51.100.101")])),
        Change::BothRebind => engine.with(move |router| {
            router.remap(caller);
            called.into_iter().for_each(|called| router.remap(called));
        }),
        Change::HostAddress => agents.move_caller(caller, &["192.168.1.77"])?,
        Change::Network => {
            let another =
                |router: &mut Router| nats::another_home(router, Network::PortRestricted, "198.51.100.3", &access());
            agents.move_caller(engine.with(another), &[ELSEWHERE])?;
        }
        Change::UdpBlocked => {
            let another = |router: &mut Router| nats::another_home(router, Network::Blocked, "198.51.100.5", &access());
            agents.move_caller(engine.with(another), &[WITHOUT_UDP])?;
        }
        Change::Home => agents.move_caller(caller, &[V4])?,
        Change::Cut => return agents.cut_off(ticker, &[Way::Up, Way::Down]).await,
        Change::DeafFor => return agents.cut_off(ticker, &[Way::Down]).await,
        Change::Doze => return agents.sleep(ticker, caller, DOZE).await,
        Change::Sleep => return agents.sleep(ticker, caller, sleep).await,
        Change::Interface => agents.caller.host.change_interface(&[address(nats::SPARE)])?,
        Change::Route => agents.caller.host.route_back(&[address(V4)])?,
        Change::OnlyIpv6 => agents.move_caller(caller, &[V6])?,
        Change::OnlyIpv4 => agents.move_caller(caller, &[V4])?,
        Change::BothFamilies => agents.move_caller(caller, &[V4, V6])?,
    }
    ticker.watch(WATCH).await
}

impl Agents {
    /// Gives the caller's host other addresses, below a gateway.
    fn move_caller(&self, gateway: NodeId, addresses: &[&str]) -> Result<(), BenchError> {
        let addresses: Vec<_> = addresses.iter().map(|text| address(text)).collect();
        let host = &self.caller.host;
        host.set_addresses(&addresses)?;
        let node = host.node;
        self.lab.engine.with(move |router| router.move_host(node, gateway, addresses));
        Ok(())
    }

    /// Cuts the caller's line in these ways, for a while.
    async fn cut_off(&self, ticker: &mut Ticker, ways: &'static [Way]) -> Result<Duration, BenchError> {
        self.cut(ways, true);
        ticker.watch(CUT).await?;
        self.cut(ways, false);
        ticker.forgive();
        ticker.watch(WATCH).await
    }

    /// Stops the caller's daemon and cuts its line, for so long that its NAT forgets; then lets both go on. The other agent is awake and keeps its
    /// mapping: at its own home node, and by the challenges that it sends after who sleeps.
    async fn sleep(&self, ticker: &mut Ticker, gateway: NodeId, time: Duration) -> Result<Duration, BenchError> {
        const BOTH: &[Way] = &[Way::Up, Way::Down];
        let daemon = self.caller.pid().await?;
        self.cut(BOTH, true);
        kill_process(daemon, Signal::STOP).map_err(std::io::Error::from)?;
        tokio::time::sleep(time).await;
        self.lab.engine.with(move |router| router.remap(gateway));
        self.cut(BOTH, false);
        kill_process(daemon, Signal::CONT).map_err(std::io::Error::from)?;
        ticker.forgive();
        ticker.watch(WATCH).await
    }

    fn cut(&self, ways: &'static [Way], is_cut: bool) {
        let host = self.caller.host.node;
        let change = move |link: LinkConfig| if is_cut { link.cut(true) } else { lan() };
        self.lab.engine.with(move |router| ways.iter().for_each(|&way| router.change_link(host, way, change)));
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("addresses of labs are written in this program")
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

    /// Lets a silence count from now on: until now nobody could hear anything.
    fn forgive(&mut self) {
        self.heard = clock::now().mono;
    }

    /// Goes on for a second; returns how many packets were relayed in that time.
    async fn relayed_in_a_second(&mut self, agents: &Agents) -> Result<u64, BenchError> {
        let before = agents.lab.relayed();
        self.watch(Duration::from_secs(1)).await?;
        Ok(agents.lab.relayed() - before)
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
                    filled += still_open(len?)?;
                    let now = clock::now().mono;
                    longest = longest.max(now.since(self.heard));
                    self.heard = now;
                    if filled == number.len() {
                        if u64::from_be_bytes(number) != self.came {
                            return Err(BenchError::Wrong(format!("number {} came as {number:?}", self.came)));
                        }
                        self.came += 1;
                        filled = 0;
                    }
                }
            }
        }
        // A number in two parts is finished before the next watch.
        while filled > 0 && filled < number.len() {
            filled += still_open(reader.read(&mut number[filled..]).await?)?;
            if filled == number.len() {
                self.came += 1;
            }
        }
        Ok(longest.max(clock::now().mono.since(self.heard)))
    }
}

fn still_open(len: usize) -> Result<usize, BenchError> {
    if len > 0 { Ok(len) } else { Err(BenchError::Wrong("the stream has ended".to_owned())) }
}
