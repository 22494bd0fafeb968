//! When a link to the home node is made, and when it is given up (spec/tcp.md §4).
//!
//! ```text
//! UDP carries -> home node silent -> race of addresses -> link carries -> UDP carries again, or the link breaks, or is of no use -> ..
//!                                           ^------------------- the address that the link was made from is gone
//! ```
//!
//! The task ends with its agent and for no other reason: whatever fails is tried again, at most once a minute in the long run.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use pilot_core::route::{Route, SocketId};
use pilot_core::ticket::BackboneTicket;
use pilot_core::time::Mono;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::outbox::Outbox;
use super::proxy::{ConnectError, Proxy, ProxyError, ProxySettings};
use super::upgrade::{self, Link, UpgradeError};
use super::{LinkInput, carrier, proxy, race, tune};
use crate::api::types::{Finding, FindingCode, Transport};
use crate::clock;
use crate::driver::HomeLink;
use crate::home::{AgentHome, Home, entropy};

/// The home node is asked by UDP alone for so long: two first messages, of which the first had time for a round trip of 400 ms.
const UDP_PATIENCE: Duration = Duration::from_millis(400);
/// And for so long if it is on this very machine, where no network blocks UDP: who is silent there is busy.
const LOCAL_PATIENCE: Duration = Duration::from_secs(2);
/// One attempt, with TCP, proxy, TLS and HTTP, ends after this.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// A home node that is missed so soon after the addresses have changed is missed for that.
const MOVE_BLAMED_FOR: Duration = Duration::from_secs(2);
/// A link on which the home node does not answer for so long is of no use.
const LINK_PATIENCE: Duration = Duration::from_secs(5);
/// When UDP has carried the tunnel for so long, the link ends.
const UDP_GRACE: Duration = Duration::from_secs(5);
/// First pause after a failure; doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause, a quarter more or less: a few kilobytes a minute, for ever.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A link that has lived for so long was a good one, and so was UDP: what follows begins anew.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// The port that firewalls let through if they let anything through.
const HTTPS_PORT: u16 = 443;
/// Addresses tried for each port: those of a few interfaces in both families.
const ADDRESSES_MAX: usize = 6;
/// Findings kept of one round of attempts.
const FINDINGS_MAX: usize = 4;

/// What is known of links, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkReport {
    /// The proxy that the link which is up goes through.
    pub(crate) proxy: Option<String>,
    /// What stands in the way, or on it.
    pub(crate) findings: Vec<Finding>,
}

/// Keeps a link to the home node while there is need of one.
pub(crate) struct Keeper {
    pub(crate) ticket: BackboneTicket,
    pub(crate) home_link: watch::Receiver<HomeLink>,
    pub(crate) inputs: mpsc::Sender<LinkInput>,
    pub(crate) agent_home: AgentHome,
    pub(crate) home: Home,
    pub(crate) report: watch::Sender<LinkReport>,
    /// The addresses of this machine: when they change, what failed before may work.
    pub(crate) network: watch::Receiver<Vec<SocketAddr>>,
}

/// A link that is up.
struct Made<Io = TlsStream<TcpStream>> {
    link: Link<Io>,
    /// The address of this machine that it was made from; none if the system does not tell.
    local: Option<IpAddr>,
    remote: SocketAddr,
    proxy: Option<String>,
}

/// One way that may lead to the home node.
struct Way {
    connector: TlsConnector,
    ticket: BackboneTicket,
    address: SocketAddr,
    /// The proxy at that address, and the node's port behind it.
    proxy: Option<(Proxy, u16)>,
}

/// Why an attempt has failed.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Settings(#[from] ProxyError),
    #[error("the host '{0}' is not known: {1}")]
    Lookup(String, io::Error),
    #[error("no TCP connection to {0}: {1}")]
    Tcp(SocketAddr, io::Error),
    #[error(transparent)]
    Proxy(#[from] ConnectError),
    #[error("no TLS link by {0}: {1}")]
    Upgrade(SocketAddr, UpgradeError),
    #[error("no answer by {0} within ten seconds")]
    Timeout(SocketAddr),
}

/// Pauses between attempts, each twice the one before.
struct Backoff(Duration);

/// What a pause has ended by.
#[derive(Debug, PartialEq, Eq)]
enum Pause {
    /// Its time, or the home node.
    Over,
    /// Other addresses: it begins anew.
    NetworkChanged,
    /// The end of the agent.
    Ended,
}

/// How a link has ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The other side or the network has ended it, or it was of no use.
    Broken,
    /// UDP has carried the tunnel for a while.
    Superseded,
    /// The address that it was made from is gone.
    Uprooted,
}

/// Whether the agent goes on.
enum Goes {
    On,
    Away,
}

impl Keeper {
    pub(crate) async fn run(mut self) {
        let (mut backoff, mut link) = (Backoff(PAUSE_MIN), SocketId::FIRST_LINK);
        let mut is_needed = false;
        loop {
            let since = clock::now().mono;
            if !std::mem::take(&mut is_needed)
                && let Goes::Away = self.until_needed().await
            {
                return;
            }
            backoff.forgive(since);
            match self.connect().await {
                Ok(made) => {
                    let since = clock::now().mono;
                    let Some(end) = self.hold(made, link).await else { return };
                    // A name of its own for each: what is late of one is not taken for the next one's.
                    link = SocketId(link.0.wrapping_add(1)).max(SocketId::FIRST_LINK);
                    is_needed = end == End::Uprooted;
                    if end != End::Broken {
                        backoff = Backoff(PAUSE_MIN);
                        continue;
                    }
                    if backoff.forgive(since) {
                        continue;
                    }
                }
                Err(failures) => self.note(&failures),
            }
            match self.pause(backoff.next()).await {
                Pause::Over => {}
                Pause::NetworkChanged => backoff = Backoff(PAUSE_MIN),
                Pause::Ended => return,
            }
        }
    }

    /// Waits until the home node has been silent for long enough: since it is missed, or since the addresses have changed, if it is missed for
    /// that.
    async fn until_needed(&mut self) -> Goes {
        let patience = if proxy::is_local(&self.ticket.host) { LOCAL_PATIENCE } else { UDP_PATIENCE };
        let mut moved = None;
        loop {
            tokio::select! {
                lost = self.home_link.wait_for(|link| !link.connected) => if lost.is_err() { return Goes::Away },
                Ok(()) = self.network.changed() => {
                    moved = Some(clock::now().mono);
                    continue;
                }
            }
            let since_move = moved.map(|moved| clock::now().mono.since(moved)).filter(|since| *since < MOVE_BLAMED_FOR);
            let patience = patience.saturating_sub(since_move.unwrap_or_default());
            match timeout(patience, self.home_link.wait_for(|link| link.connected)).await {
                Err(_silent) => return Goes::On,
                Ok(Err(_ended)) => return Goes::Away,
                Ok(Ok(_)) => {
                    self.report.send_if_modified(|report| std::mem::take(report) != LinkReport::default());
                }
            }
        }
    }

    /// Waits out a pause, or until the home node is there by UDP, or this is another network. That it is there by a link may be news of the one
    /// that has just broken.
    async fn pause(&mut self, pause: Duration) -> Pause {
        tokio::select! {
            home = self.home_link.wait_for(is_by_udp) => if home.is_ok() { Pause::Over } else { Pause::Ended },
            network = self.network.changed() => if network.is_ok() { Pause::NetworkChanged } else { Pause::Ended },
            () = sleep(pause) => Pause::Over,
        }
    }

    /// Makes a link. When the addresses change it begins anew: what is under way may wait in the network before.
    async fn connect(&mut self) -> Result<Made, Vec<AttemptError>> {
        loop {
            self.network.mark_unchanged();
            let mut network = self.network.clone();
            tokio::select! {
                made = self.race() => return made,
                Ok(()) = network.changed() => {}
            }
        }
    }

    async fn race(&self) -> Result<Made, Vec<AttemptError>> {
        let ways = self.ways().await.map_err(|error| vec![error])?;
        race::first(ways.into_iter().map(Way::go)).await
    }

    /// All ways of this moment: settings are read and names looked up anew.
    async fn ways(&self) -> Result<Vec<Way>, AttemptError> {
        let host = &self.ticket.host;
        let configured = self.agent_home.proxy().or_else(|| self.home.proxy());
        let proxy = ProxySettings::now(configured).proxy_for(host)?;
        let mut ports = vec![HTTPS_PORT, self.ticket.port];
        ports.dedup();
        // A node that is there for this machine alone has one port.
        ports.retain(|&port| port == self.ticket.port || !proxy::is_local(host));
        let connector = upgrade::connector();
        let way = |address, proxy| Way { connector: connector.clone(), ticket: self.ticket.clone(), address, proxy };
        let Some(proxy) = proxy else {
            let addresses = look_up(host, HTTPS_PORT).await?;
            let at = |port| addresses.iter().map(move |address| SocketAddr::new(address.ip(), port));
            return Ok(ports.into_iter().flat_map(at).map(|address| way(address, None)).collect());
        };
        let (proxy_host, proxy_port) = proxy.place();
        let addresses = look_up(proxy_host, proxy_port).await?;
        let by = |port| addresses.iter().map(move |&address| (address, port));
        let targets = ports.into_iter().flat_map(by);
        Ok(targets.map(|(address, port)| way(address, Some((proxy.clone(), port)))).collect())
    }

    /// Gives the link to the driver until it is of no more use. Nothing if the agent has ended.
    async fn hold<Io: AsyncRead + AsyncWrite>(&self, made: Made<Io>, socket: SocketId) -> Option<End> {
        let Made { link, local, remote, proxy } = made;
        tracing::info!(%remote, is_bound = link.is_bound, "TLS link up");
        let findings = if link.is_bound { Vec::new() } else { vec![intercepted()] };
        self.report.send_replace(LinkReport { proxy, findings });
        let route = Route { socket, ..Route::to(remote) };
        let outbox = Arc::new(Outbox::default());
        let up = LinkInput::Up { route, outbox: Arc::clone(&outbox), backbone: Some(self.ticket.identity) };
        self.inputs.send(up).await.ok()?;
        let end = tokio::select! {
            end = carrier::carry(link.io, link.early, route, &outbox, &self.inputs) => {
                tracing::info!(%end, "TLS link down");
                End::Broken
            }
            () = superseded(self.home_link.clone()) => {
                tracing::info!("TLS link given up: UDP works");
                End::Superseded
            }
            () = uprooted(self.network.clone(), local) => {
                tracing::info!("TLS link given up: its address is gone");
                End::Uprooted
            }
            () = useless(self.home_link.clone()) => {
                tracing::info!("TLS link given up: the home node does not answer");
                self.report.send_modify(|report| report.findings.push(unanswered(remote)));
                End::Broken
            }
        };
        self.inputs.send(LinkInput::Down(socket)).await.ok()?;
        Some(end)
    }

    fn note(&self, failures: &[AttemptError]) {
        let mut findings: Vec<Finding> = Vec::new();
        for failure in failures {
            tracing::debug!(%failure, "no TLS link");
            let finding = failure.finding();
            if findings.len() < FINDINGS_MAX && !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        let report = LinkReport { proxy: None, findings };
        self.report.send_if_modified(|known| std::mem::replace(known, report.clone()) != report);
    }
}

impl Way {
    async fn go(self) -> Result<Made, AttemptError> {
        let address = self.address;
        timeout(ATTEMPT_TIMEOUT, self.walk()).await.unwrap_or(Err(AttemptError::Timeout(address)))
    }

    async fn walk(self) -> Result<Made, AttemptError> {
        let Self { connector, ticket, address, proxy } = self;
        let socket = TcpStream::connect(address).await.map_err(|error| AttemptError::Tcp(address, error))?;
        tune(&socket);
        let local = socket.local_addr().ok().map(|local| local.ip());
        let socket = match &proxy {
            Some((proxy, port)) => proxy.connect(socket, &ticket.host, *port).await?,
            None => socket,
        };
        let link = upgrade::ask(&connector, socket, &ticket.host, &ticket.identity).await;
        let link = link.map_err(|error| AttemptError::Upgrade(address, error))?;
        Ok(Made { link, local, remote: address, proxy: proxy.map(|(proxy, _)| proxy.to_string()) })
    }
}

impl AttemptError {
    fn finding(&self) -> Finding {
        let code = match self {
            Self::Settings(_) | Self::Proxy(ConnectError::Refused { .. } | ConnectError::Http { .. }) => {
                FindingCode::ProxyFailed
            }
            Self::Proxy(ConnectError::Credentials { .. }) => FindingCode::ProxyCredentials,
            Self::Upgrade(_, UpgradeError::Status(status)) if is_for_browsers(*status) => FindingCode::Captive,
            Self::Lookup(..) | Self::Tcp(..) | Self::Upgrade(..) | Self::Timeout(_) => FindingCode::TlsFailed,
        };
        let guess = if code == FindingCode::Captive { ": this network may want a sign-in first" } else { "" };
        Finding { code, message: format!("{self}{guess}") }
    }
}

impl Backoff {
    /// The next pause, a quarter more or less, so that those whom one failure has hit do not come back as one.
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE_MAX);
        // Without entropy there is no jitter, and there are other troubles.
        let [jitter] = entropy().unwrap_or([128]);
        pause * (192 + u32::from(jitter) / 2) / 256
    }

    /// Begins anew if the home node has been there for long enough since then. Returns whether it has.
    fn forgive(&mut self, since: Mono) -> bool {
        let was_good = clock::now().mono.since(since) >= GOOD_AFTER;
        if was_good {
            *self = Self(PAUSE_MIN);
        }
        was_good
    }
}

/// A page, or the way to one (RFC 6585 §6): no backbone node answers so.
fn is_for_browsers(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection() || status == StatusCode::NETWORK_AUTHENTICATION_REQUIRED
}

fn is_by_udp(link: &HomeLink) -> bool {
    link.transport == Some(Transport::Udp)
}

/// Completes once UDP has carried the home tunnel for a while.
async fn superseded(mut home_link: watch::Receiver<HomeLink>) {
    loop {
        if home_link.wait_for(is_by_udp).await.is_err() {
            return;
        }
        if timeout(UDP_GRACE, home_link.wait_for(|link| !is_by_udp(link))).await.is_err() {
            return;
        }
    }
}

/// Completes once the home node has not answered for a while, by the link neither.
async fn useless(mut home_link: watch::Receiver<HomeLink>) {
    loop {
        if home_link.wait_for(|link| !link.connected).await.is_err() {
            return;
        }
        if timeout(LINK_PATIENCE, home_link.wait_for(|link| link.connected)).await.is_err() {
            return;
        }
    }
}

/// Completes once this machine has not got that address any more. One that it was never said to have is none that can go.
async fn uprooted(mut network: watch::Receiver<Vec<SocketAddr>>, local: Option<IpAddr>) {
    let has = |addresses: &Vec<SocketAddr>| addresses.iter().any(|address| Some(address.ip()) == local);
    if network.wait_for(has).await.is_ok() {
        // It ends with the agent, too.
        network.wait_for(|addresses| !has(addresses)).await.ok();
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, AttemptError> {
    let found = match timeout(ATTEMPT_TIMEOUT, lookup_host((host, port))).await {
        Ok(found) => found,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name servers do not answer")),
    };
    let found = found.map_err(|error| AttemptError::Lookup(host.to_owned(), error))?;
    Ok(race::interleaved(found).into_iter().take(ADDRESSES_MAX).collect())
}

fn intercepted() -> Finding {
    let message = "somebody on the way takes TLS apart: a proxy that inspects it, or a server in front of the backbone node; it sees sealed packets only";
    Finding { code: FindingCode::TlsIntercepted, message: message.to_owned() }
}

fn unanswered(remote: SocketAddr) -> Finding {
    let message = format!("a TLS link by {remote} stands, but the backbone node does not answer over it");
    Finding { code: FindingCode::TlsFailed, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_23_attempts_go_on_for_ever_and_never_more_than_one_in_45_seconds_in_the_end() {
        let mut backoff = Backoff(PAUSE_MIN);
        let pauses: Vec<Duration> = (0..100).map(|_| backoff.next()).collect();
        assert!(pauses[0] >= Duration::from_millis(750) && pauses[0] <= Duration::from_millis(1_250));
        let bounds = Duration::from_secs(45)..=Duration::from_secs(75);
        assert!(pauses[10..].iter().all(|pause| bounds.contains(pause)), "{pauses:?}");
    }

    #[test]
    fn a_page_in_the_place_of_the_node_is_a_sign_of_a_portal_and_an_error_is_none() {
        let code = |status| {
            let status = StatusCode::from_u16(status).expect("a status");
            AttemptError::Upgrade(address(1), UpgradeError::Status(status)).finding().code
        };
        assert!([200, 302, 307, 511].into_iter().all(|status| code(status) == FindingCode::Captive));
        // The node's own words, those of a web server that knows no such page, and those of a server in front of a node that is down.
        assert!([421, 426, 404, 502, 503].into_iter().all(|status| code(status) == FindingCode::TlsFailed));
    }

    /// A keeper, and the ends by which a test tells it of the world.
    struct Bench {
        keeper: Keeper,
        home_link: watch::Sender<HomeLink>,
        network: watch::Sender<Vec<SocketAddr>>,
        inputs: mpsc::Receiver<LinkInput>,
        _root: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a directory");
            let home = Home::at(root.path());
            let (home_sender, home_link) = watch::channel(HomeLink::default());
            let (addresses, network) = watch::channel(Vec::new());
            let (inputs, receiver) = mpsc::channel(4);
            let keeper = Keeper {
                ticket: "pilot-backbone:gluwrtvtkgks4ffxj2xhb53hoski6g5bdzfdvfetnnblwdezzola@192.0.2.1:3478"
                    .parse()
                    .expect("a ticket"),
                home_link,
                inputs,
                agent_home: home.agent("agent-alpha").expect("a name"),
                home,
                report: watch::Sender::default(),
                network,
            };
            Self { keeper, home_link: home_sender, network: addresses, inputs: receiver, _root: root }
        }

        fn reached_by(&self, transport: Option<Transport>) {
            let connected = transport.is_some();
            self.home_link.send_modify(|link| (link.connected, link.transport) = (connected, transport));
        }
    }

    fn address(last_byte: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last_byte], 4))
    }

    #[tokio::test]
    async fn in_another_network_a_link_is_tried_at_once_and_not_after_a_minute() {
        let mut bench = Bench::new();
        bench.network.send_replace(vec![address(7)]);
        assert_eq!(bench.keeper.pause(PAUSE_MAX).await, Pause::NetworkChanged);
        bench.reached_by(Some(Transport::Udp));
        assert_eq!(bench.keeper.pause(PAUSE_MAX).await, Pause::Over, "each change counts once");
    }

    /// The driver has not been told yet that the link is gone.
    #[tokio::test]
    async fn after_a_link_that_broke_early_the_pause_is_waited_out_unless_udp_carries() {
        let mut bench = Bench::new();
        bench.reached_by(Some(Transport::Tls));
        let mut pause = std::pin::pin!(bench.keeper.pause(PAUSE_MAX));
        tokio::select! {
            biased;
            end = &mut pause => panic!("{end:?}, at once"),
            () = tokio::task::yield_now() => {}
        }
        let by_udp = HomeLink { connected: true, connections: 2, transport: Some(Transport::Udp) };
        bench.home_link.send_replace(by_udp);
        assert_eq!(pause.await, Pause::Over);
    }

    #[test]
    fn what_has_lasted_for_ten_seconds_was_good_and_pauses_begin_anew() {
        let mut backoff = Backoff(PAUSE_MAX);
        assert!(!backoff.forgive(clock::now().mono));
        assert_eq!(backoff.0, PAUSE_MAX);
        assert!(backoff.forgive(Mono(0)), "this machine has been up for longer");
        assert_eq!(backoff.0, PAUSE_MIN);
    }

    #[tokio::test]
    async fn a_link_ends_at_once_when_the_address_that_it_was_made_from_is_gone() {
        let Bench { keeper, home_link, network, mut inputs, _root } = Bench::new();
        network.send_replace(vec![address(7), address(8)]);
        let (near, _far) = tokio::io::duplex(64);
        let link = Link { io: near, early: bytes::Bytes::new(), is_bound: true };
        let made = Made { link, local: Some(address(7).ip()), remote: address(1), proxy: None };
        let held = tokio::spawn(async move { keeper.hold(made, SocketId::FIRST_LINK).await });
        assert!(matches!(inputs.recv().await, Some(LinkInput::Up { .. })));
        // Another one that comes or goes is none of its business.
        for addresses in [vec![address(7)], vec![address(7), address(9)]] {
            network.send_replace(addresses);
            tokio::task::yield_now().await;
            assert!(inputs.try_recv().is_err());
        }
        network.send_replace(vec![address(9)]);
        assert!(matches!(inputs.recv().await, Some(LinkInput::Down(SocketId::FIRST_LINK))));
        assert_eq!(held.await.expect("no panic"), Some(End::Uprooted));
        drop(home_link);
    }

    #[tokio::test]
    async fn a_link_from_an_address_that_nobody_has_listed_outlives_every_change() {
        let (addresses, network) = watch::channel(vec![address(7)]);
        let mut uprooted = std::pin::pin!(uprooted(network, Some(address(1).ip())));
        for listed in [vec![address(8)], Vec::new()] {
            addresses.send_replace(listed);
            tokio::select! {
                biased;
                () = &mut uprooted => panic!("it was never there"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
}
