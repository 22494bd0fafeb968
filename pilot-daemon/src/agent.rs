//! An agent, as Rust programs embed it; `pilotctl daemon` is one such program.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pilot_daemon::agent::{Agent, AgentConfig, header};
//! use pilot_daemon::home::Home;
//!
//! let agent = Agent::start(AgentConfig::new(Home::from_env()?, "agent-alpha")).await?;
//! let peer = agent.resolve("agent-beta").await?;
//! let mut stream = agent.open(&peer, header("query")?).await?;
//! stream.write_chunk("what is new?".into()).await?;
//! stream.finish();
//! while let Some(chunk) = stream.read_chunk().await? {
//!     println!("{}", String::from_utf8_lossy(&chunk));
//! }
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use pilot_core::address::Address;
use pilot_core::config::{Config, Role};
use pilot_core::directory::{Asked, VerifiedAgent};
use pilot_core::event::{ConnectError, PathKind};
use pilot_core::id::{IdentityKey, ServicePort};
use pilot_core::identity::{Certificate, Identity};
use pilot_core::node::{Home as HomeNode, Node, OpenStreamError, PeerInfo, PeerStatus};
use pilot_core::record::{self, Offer, is_label, is_name};
use pilot_core::ticket::{ADDRESSES_MAX, BackboneTicket, Ticket};
use pilot_core::time::{Mono, Now, UnixTime};
use pilot_core::transport::Code;
use pilot_core::wire::directory::{FIND_LIMIT_MAX, FIND_WORDS_MAX, Find, Reply, Request, Target};
use pilot_core::wire::stream_header::StreamHeader;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::api::types::{self, ApiError, ErrorCode};
use crate::backbone_link::{self, Registration};
use crate::clock;
use crate::driver::{COMMANDS_MAX, Core, Driver, HomeLink};
use crate::home::{AgentHome, Home, HomeError, HomeLock, Settings, entropy};
use crate::names::Names;
use crate::net::{UdpSocket, host_addresses};
use crate::services::Services;
pub use crate::services::{Incoming, ServiceOptions, service_name, service_port};
pub use crate::stream::{EndedBy, ReadHalf, Stream, StreamError, StreamOutcome, StreamWatch, WriteHalf};

/// A start waits so long for the directory's word on the name; without it the agent runs and goes on asking.
const REGISTER_WAIT: Duration = Duration::from_secs(2);
/// An answer of the directory this young is used again while there is a tunnel with the agent.
const ANSWER_FRESH: Duration = Duration::from_secs(10);
/// Interfaces are looked at this often for addresses that came or went.
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(10);
/// Time allowed for a ping or a connection unless the caller says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// What a ping carries: enough to be no special case, small enough to be one packet.
const PING_LEN: usize = 64;

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Host name: letters, digits and hyphens, lower case, 1 to 63.
    pub name: String,
    /// Where its keys are kept.
    pub home: Home,
    /// Labels it is found by.
    pub tags: Vec<String>,
    /// Groups it answers for.
    pub groups: Vec<String>,
    /// What it is, for people and for searches.
    pub description: String,
    /// Its backbone node; without one it is reached by its ticket alone.
    pub backbone: Option<BackboneTicket>,
    /// UDP address to listen on. Port 0: the one of the last run if it is free, else any.
    pub listen: SocketAddr,
    /// Allow direct paths; without them everything goes through the backbone node, which costs latency and hides the address.
    pub direct: bool,
}

/// A running agent. Clones are the same agent; it ends with [`Agent::shutdown`], or when the last clone is dropped.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

/// Another agent, found.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Identity key: this is who it is.
    pub key: IdentityKey,
    /// Its address.
    pub address: Address,
    /// Its host name; none when it was given by ticket.
    pub name: Option<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// Groups it answers for.
    pub groups: Vec<String>,
    /// What it says about itself.
    pub description: String,
    /// Services it offers.
    pub offers: Vec<Offer>,
    /// Whether its backbone node has a tunnel with it; none when no backbone node was asked.
    pub reachable: Option<bool>,
    /// How to reach it.
    route: PeerInfo,
}

/// An answered ping.
#[derive(Clone, Copy, Debug)]
pub struct Pong {
    /// From the first byte out to the last byte back, the tunnel being up.
    pub rtt: Duration,
    /// The path at the end.
    pub path: Option<PathKind>,
}

/// Why an agent could not start. Nothing on disk was lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Something about its directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The UDP socket could not be opened.
    #[error("cannot listen on UDP {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The loop could not be set up.
    #[error("the system gives no timer")]
    Timer(#[source] io::Error),
    /// The name or a record does not suit the directory, or the name belongs to another agent.
    #[error("{0}")]
    Registration(ApiError),
}

/// What the directory shows of this agent, beside its services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) tags: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) description: String,
    pub(crate) direct: bool,
}

/// What the clones of an agent share.
pub(crate) struct Inner {
    commands: mpsc::Sender<crate::driver::Command>,
    pub(crate) agent_home: AgentHome,
    home: Home,
    pub(crate) identity: Identity,
    pub(crate) certificate: Certificate,
    pub(crate) backbone: Option<BackboneTicket>,
    listen: SocketAddr,
    /// Guards pins and answers; a leaf, never held across an await.
    names: Mutex<Names>,
    /// The last sequence given to a record; a leaf like `names`.
    sequence: Mutex<u64>,
    pub(crate) profile: watch::Sender<Profile>,
    pub(crate) offers: watch::Receiver<Vec<Offer>>,
    pub(crate) home_link: watch::Receiver<HomeLink>,
    registration: watch::Receiver<Registration>,
    /// Dropped by the driver at its end.
    ended: watch::Receiver<()>,
    started: Mono,
    _lock: HomeLock,
}

/// Header of a stream to a service given by name or port number.
///
/// # Errors
/// If it is neither.
pub fn header(service: &str) -> Result<StreamHeader, ApiError> {
    let port = service_port(service).ok_or_else(|| {
        ApiError::new(ErrorCode::Usage, format!("'{service}' is not a service"))
            .hint("services are echo, query, mcp, message, or a port number")
    })?;
    Ok(StreamHeader::new(port))
}

impl AgentConfig {
    /// An agent of that name with every default: no backbone node, any UDP port, direct paths.
    pub fn new(home: Home, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            home,
            tags: Vec::new(),
            groups: Vec::new(),
            description: String::new(),
            backbone: None,
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            direct: true,
        }
    }
}

impl Agent {
    /// Starts the agent on the current tokio runtime: its directory is locked, its keys are made or read, its socket is
    /// open, and the directory has taken its name unless no backbone node answers.
    ///
    /// # Errors
    /// What stood in the way, with [`StartError::hint`].
    pub async fn start(config: AgentConfig) -> Result<Self, StartError> {
        check_labels(config.tags.iter().chain(&config.groups)).map_err(StartError::Registration)?;
        let agent_home = config.home.agent(&config.name)?;
        let lock = agent_home.lock()?;
        let now = clock::now();
        let keys = agent_home.keys(now.unix)?;
        let (identity, certificate) = (keys.identity.clone(), keys.certificate.clone());
        let socket = bind(&config, &agent_home)?;
        let listen = socket.local_addr();

        let (offers_sender, offers) = watch::channel(Vec::new());
        let (link_sender, home_link) = watch::channel(HomeLink::default());
        let mut node = Node::new(Config::new(Role::Agent).direct(config.direct), keys, entropy()?, now);
        node.set_local_addresses(now, &socket.local_addresses());
        let services = Services::new(offers_sender);
        let core = Core::new(node, services, config.home.clone(), agent_home.inbox_path(), link_sender);
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let driver = Driver::new(core, socket, receiver).map_err(StartError::Timer)?;
        let (ended_sender, ended) = watch::channel(());
        let (registration_sender, registration) = watch::channel(Registration::Pending);
        let profile = Profile {
            tags: config.tags,
            groups: config.groups,
            description: config.description,
            direct: config.direct,
        };
        let inner = Arc::new(Inner {
            commands,
            names: Mutex::new(Names::load(&agent_home, now.unix)?),
            sequence: Mutex::new(agent_home.number("sequence").unwrap_or(0)),
            agent_home,
            home: config.home,
            identity,
            certificate,
            backbone: config.backbone,
            listen,
            profile: watch::Sender::new(profile),
            offers,
            home_link,
            registration,
            ended,
            started: now.mono,
            _lock: lock,
        });
        inner.save_settings()?;
        tokio::spawn(async move {
            driver.run().await;
            drop(ended_sender);
        });
        tokio::spawn(watch_addresses(Arc::downgrade(&inner)));
        let agent = Self { inner };
        agent.join_backbone(registration_sender).await?;
        Ok(agent)
    }

    /// Finds another agent by host name, address, key or ticket.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] with suggestions, or that the directory does not answer, which takes 3 s at most.
    pub async fn resolve(&self, target: &str) -> Result<Resolved, ApiError> {
        if target.starts_with("pilot:") {
            return self.resolve_ticket(target).await;
        }
        let wanted = parse_target(target)?;
        let now = clock::now();
        let fresh = self.inner.names().recall(&wanted, Some(now.mono - ANSWER_FRESH), now.unix);
        if let Some(found) = fresh
            && self.peer_status(found.key).await.is_some_and(|status| status.connected)
        {
            return Ok(self.resolved(found, true));
        }
        match backbone_link::call(&self.inner, &Request::Resolve { by: wanted.clone() }).await {
            Ok(Reply::Resolved(entry)) => self.believe(entry, &wanted, target),
            Ok(Reply::NotFound { suggestions }) => Err(not_found(target, &suggestions)),
            Ok(reply) => Err(backbone_link::unexpected(&reply)),
            Err(error) => self.recall(&wanted).await.ok_or(error),
        }
    }

    /// Makes sure that there is a tunnel.
    ///
    /// # Errors
    /// [`ErrorCode::Unreachable`], [`ErrorCode::Refused`] or [`ErrorCode::Timeout`].
    pub async fn connect(&self, peer: &Resolved, time_allowed: Duration) -> Result<PeerStatus, ApiError> {
        let (reply, answer) = oneshot::channel();
        let route = peer.route.clone();
        self.inner
            .apply(move |core, now| {
                let key = route.key;
                core.node.learn_peer(now, route);
                core.connect(now, &key, reply);
            })
            .await?;
        match timeout(time_allowed, answer).await {
            Ok(Ok(Ok(status))) => Ok(status),
            Ok(Ok(Err(error))) => Err(connect_failed(peer, &error)),
            Ok(Err(_)) => Err(has_ended()),
            Err(_) => Err(timed_out(peer, time_allowed)),
        }
    }

    /// Opens a stream. Data may be written at once; if no tunnel comes about, the stream ends with [`Code::UNREACHABLE`].
    ///
    /// # Errors
    /// If the peer allows no more streams.
    pub async fn open(&self, peer: &Resolved, header: StreamHeader) -> Result<Stream, ApiError> {
        let route = peer.route.clone();
        self.inner.apply(move |core, now| core.node.learn_peer(now, route)).await?;
        self.inner.open(peer.key, header).await
    }

    /// Takes the next stream to a service. While some calls of this wait, the service is there; `options` of the latest hold.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn accept(&self, port: ServicePort, options: ServiceOptions) -> Result<Incoming, ApiError> {
        let (handler, stream) = oneshot::channel();
        self.inner.apply(move |core, now| core.services.accept(now.mono, port, options, handler)).await?;
        let mut waiting = Waiting { inner: &self.inner, port, stream };
        let mut incoming = (&mut waiting.stream).await.map_err(|_| has_ended())?;
        incoming.name = self.inner.name_of(&incoming.peer);
        Ok(incoming)
    }

    /// Measures a round trip through the echo service, after the tunnel is up.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn ping(&self, peer: &Resolved, time_allowed: Duration) -> Result<Pong, ApiError> {
        let rounds = async {
            self.connect(peer, time_allowed).await?;
            match self.echo(peer).await? {
                // It restarted before we noticed; the new tunnel stands. An echo does nothing there, so it may be sent again.
                Err(error) if error.code == Code::PEER_RESTARTED && error.by == EndedBy::Network => {
                    Ok(self.echo(peer).await??)
                }
                echoed => Ok::<_, ApiError>(echoed?),
            }
        };
        let rtt = timeout(time_allowed, rounds).await.map_err(|_| timed_out(peer, time_allowed))??;
        let path = self.peer_status(peer.key).await.and_then(|status| status.path);
        Ok(Pong { rtt, path })
    }

    /// One round trip through the echo service; the inner error tells how its stream broke.
    async fn echo(&self, peer: &Resolved) -> Result<Result<Duration, StreamError>, ApiError> {
        let header = StreamHeader { replay_safe: true, urgency: 0, ..StreamHeader::new(ServicePort::ECHO) };
        let mut stream = self.open(peer, header).await?;
        let sent = clock::now().mono;
        let echoing = async {
            stream.write_chunk(Bytes::from_static(&[0; PING_LEN])).await?;
            stream.finish();
            let mut echoed = 0;
            while let Some(chunk) = stream.read_chunk().await? {
                echoed += chunk.len();
            }
            Ok(echoed)
        };
        match echoing.await {
            Ok(PING_LEN) => Ok(Ok(clock::now().mono.since(sent))),
            Ok(_) => Err(ApiError::new(ErrorCode::Failed, "the agent did not return what it was sent")),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Searches the directory; best first.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn find(&self, request: &types::FindRequest) -> Result<Vec<Resolved>, ApiError> {
        let words = request.need.iter().flat_map(|need| need.split_whitespace());
        let find = Find {
            tag: request.tag.clone(),
            group: request.group.clone(),
            need: words.map(str::to_lowercase).take(FIND_WORDS_MAX).collect(),
            limit: request.limit.unwrap_or(FIND_LIMIT_MAX).min(FIND_LIMIT_MAX),
        };
        let reply = backbone_link::call(&self.inner, &Request::Find(find.clone())).await?;
        let Reply::Found(entries) = reply else { return Err(backbone_link::unexpected(&reply)) };
        let now = clock::now();
        let mut names = self.inner.names();
        let checked = entries.into_iter().map(|entry| names.check(entry, Asked::Find(&find), now.mono, now.unix));
        let believed: Vec<_> = checked
            .filter_map(|result| result.inspect_err(|error| tracing::warn!(%error, "answer of the directory")).ok())
            .collect();
        drop(names);
        Ok(believed.into_iter().map(|agent| self.resolved(agent, true)).collect())
    }

    /// Becomes a member of groups, and leaves others; the directory is told.
    ///
    /// # Errors
    /// If a group is no label, there are too many, or the settings cannot be stored.
    pub fn change_groups(&self, join: &[String], leave: &[String]) -> Result<Vec<String>, ApiError> {
        check_labels(join.iter())?;
        let mut groups: Vec<String> = self.inner.profile.borrow().groups.clone();
        groups.retain(|group| !leave.contains(group));
        for group in join {
            if !groups.contains(group) {
                groups.push(group.clone());
            }
        }
        if groups.len() > record::GROUPS_MAX {
            let message = format!("an agent can be in {} groups", record::GROUPS_MAX);
            return Err(ApiError::new(ErrorCode::Usage, message));
        }
        self.change_profile(|profile| profile.groups.clone_from(&groups))?;
        Ok(groups)
    }

    /// Changes settings; what is absent stays.
    ///
    /// # Errors
    /// If a value is out of bounds, or the settings cannot be stored.
    pub async fn change_settings(&self, settings: &types::Settings) -> Result<(), ApiError> {
        check_labels(settings.tags.iter().flatten())?;
        if settings.description.as_ref().is_some_and(|text| text.len() > record::DESCRIPTION_LEN_MAX) {
            let message = format!("a description may have {} bytes", record::DESCRIPTION_LEN_MAX);
            return Err(ApiError::new(ErrorCode::Usage, message));
        }
        if let Some(direct) = settings.direct {
            self.set_direct(direct).await?;
        }
        self.change_profile(|profile| {
            if let Some(tags) = &settings.tags {
                profile.tags.clone_from(tags);
            }
            if let Some(description) = &settings.description {
                profile.description.clone_from(description);
            }
        })
    }

    /// Allows or forbids direct paths.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn set_direct(&self, direct: bool) -> Result<(), ApiError> {
        self.inner.apply(move |core, now| core.node.set_direct(now, direct)).await?;
        self.change_profile(|profile| profile.direct = direct)
    }

    /// All that another agent needs to reach this one.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn ticket(&self) -> Result<Ticket, ApiError> {
        let observed = self.inner.ask(|core, _| core.node.observed_address()).await?;
        let mut addresses = host_addresses(self.inner.listen);
        addresses.extend(observed.filter(|observed| !addresses.contains(observed)));
        addresses.truncate(ADDRESSES_MAX);
        let identity = &self.inner.identity;
        Ticket::new(identity.key(), identity.modifier(), addresses, self.inner.backbone.clone())
            .map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()))
    }

    /// Every agent and backbone node known.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn peers(&self) -> Result<Vec<types::Peer>, ApiError> {
        let peers = self.inner.ask(|core, now| {
            let with_address = |status: PeerStatus| {
                let address = core.node.peer_certificate(&status.key).map(|certificate| certificate.address());
                (status, address)
            };
            (core.node.peers().map(with_address).collect::<Vec<_>>(), now)
        });
        let (peers, now) = peers.await?;
        Ok(peers.into_iter().map(|(status, address)| self.peer(&status, address, now)).collect())
    }

    /// The state of the agent.
    ///
    /// # Errors
    /// If it has shut down.
    pub async fn status(&self) -> Result<types::Status, ApiError> {
        let snapshot = self.inner.ask(|core, now| Snapshot::take(core, now)).await?;
        let inner = &self.inner;
        let profile = inner.profile.borrow().clone();
        Ok(types::Status {
            name: inner.name().to_owned(),
            address: inner.identity.address().to_string(),
            key: inner.identity.key().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tags: profile.tags,
            groups: profile.groups,
            description: profile.description,
            uptime_s: snapshot.now.mono.since(inner.started).as_secs(),
            backbone: inner.backbone.as_ref().map(|ticket| self.backbone(ticket, &snapshot)),
            direct: profile.direct,
            socket: inner.agent_home.socket_path().ok(),
            listen: inner.listen,
            services: snapshot.services,
            counters: snapshot.counters,
            drops: snapshot.drops,
        })
    }

    /// Ends every tunnel, tells the peers, and stops. Clones of this agent answer that it has ended.
    pub async fn shutdown(&self) {
        if self.inner.apply(|core, now| core.stop(now)).await.is_ok() {
            self.ended().await;
        }
    }

    /// Waits until the agent has ended.
    pub async fn ended(&self) {
        // The sender is dropped, nothing is ever sent.
        drop(self.inner.ended.clone().changed().await);
    }

    /// Its identity key.
    pub fn key(&self) -> IdentityKey {
        self.inner.identity.key()
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.inner.identity.address()
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// Its directory.
    pub fn home(&self) -> &AgentHome {
        &self.inner.agent_home
    }

    /// The name of an agent that was looked up before or lives in the same home.
    pub fn name_of(&self, key: &IdentityKey) -> Option<String> {
        self.inner.name_of(key)
    }

    /// What is known of the tunnel with an agent.
    pub async fn peer_status(&self, key: IdentityKey) -> Option<PeerStatus> {
        self.inner.ask(move |core, _| core.node.peer_status(&key)).await.ok().flatten()
    }
}

impl Agent {
    /// Names the home node and waits for the directory's word on our name.
    async fn join_backbone(&self, registration: watch::Sender<Registration>) -> Result<(), StartError> {
        let Some(backbone) = &self.inner.backbone else { return Ok(()) };
        match backbone_link::look_up(backbone).await {
            Ok(home) => drop(self.inner.apply(move |core, now| core.node.set_home(now, Some(home))).await),
            Err(error) => tracing::warn!(%error, "backbone node not found"),
        }
        tokio::spawn(backbone_link::keep_registered(Arc::downgrade(&self.inner), registration));
        let mut state = self.inner.registration.clone();
        let decided = timeout(REGISTER_WAIT, state.wait_for(|state| *state != Registration::Pending)).await;
        let error = match decided.map(|result| result.map(|state| state.clone())) {
            Ok(Ok(Registration::Failed(error))) if error.code != ErrorCode::Unreachable => error,
            _ => return Ok(()),
        };
        self.shutdown().await;
        Err(StartError::Registration(error))
    }

    async fn resolve_ticket(&self, text: &str) -> Result<Resolved, ApiError> {
        let ticket: Ticket = text.parse().map_err(|error: pilot_core::ticket::TicketError| {
            ApiError::new(ErrorCode::Usage, error.to_string())
                .hint("copy the whole line that 'pilotctl ticket' printed")
        })?;
        let mut homes = Vec::new();
        if let Some(home) = &ticket.home {
            // The addresses in the ticket may do without.
            let addresses = backbone_link::look_up(home).await.map(|info| info.addresses).unwrap_or_default();
            homes.push(HomeNode { key: home.identity, addresses });
        }
        Ok(Resolved {
            key: ticket.identity,
            address: ticket.address(),
            name: self.inner.name_of(&ticket.identity),
            tags: Vec::new(),
            groups: Vec::new(),
            description: String::new(),
            offers: Vec::new(),
            reachable: None,
            route: PeerInfo { key: ticket.identity, certificate: None, addresses: ticket.addresses, homes },
        })
    }

    fn believe(
        &self,
        entry: pilot_core::wire::directory::Entry,
        wanted: &Target,
        target: &str,
    ) -> Result<Resolved, ApiError> {
        let now = clock::now();
        let mut names = self.inner.names();
        let verified = names.check(entry, Asked::Resolve(wanted), now.mono, now.unix).map_err(|error| {
            ApiError::new(
                ErrorCode::Failed,
                format!("the directory's answer about '{target}' is not believed: {error}"),
            )
            .hint("ask the other agent's owner for its ticket: that needs no directory")
        })?;
        let files = names.to_bytes();
        drop(names);
        let home = self.inner.agent_home.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = Names::save(&home, &files) {
                tracing::warn!(%error, "pins not stored");
            }
        });
        Ok(self.resolved(verified, true))
    }

    /// What the directory said earlier, or what the same home knows.
    async fn recall(&self, wanted: &Target) -> Option<Resolved> {
        let found = self.inner.names().recall(wanted, None, clock::now().unix);
        found.map(|agent| self.resolved(agent, false))
    }

    fn resolved(&self, agent: VerifiedAgent, is_asked: bool) -> Resolved {
        let mut homes: Vec<_> =
            agent.homes.into_iter().map(|home| HomeNode { key: home.key, addresses: home.addresses }).collect();
        if let (true, Some(own)) = (homes.is_empty(), &self.inner.backbone) {
            // Who is in our directory is probably at our node; its addresses are known to the node already.
            homes.push(HomeNode { key: own.identity, addresses: Vec::new() });
        }
        Resolved {
            key: agent.key,
            address: agent.address,
            name: Some(agent.name),
            tags: agent.tags,
            groups: agent.groups,
            description: agent.description,
            offers: agent.offers,
            reachable: is_asked.then_some(agent.reachable),
            route: PeerInfo { key: agent.key, certificate: agent.certificate, addresses: Vec::new(), homes },
        }
    }

    fn change_profile(&self, change: impl FnOnce(&mut Profile)) -> Result<(), ApiError> {
        self.inner.profile.send_if_modified(|profile| {
            let before = profile.clone();
            change(profile);
            *profile != before
        });
        self.inner
            .save_settings()
            .map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()).hint(error.hint()))
    }

    fn peer(&self, status: &PeerStatus, address: Option<Address>, now: Now) -> types::Peer {
        let (path, remote) = path_of(status.path);
        types::Peer {
            name: self.inner.name_of(&status.key),
            address: address.map(|address| address.to_string()),
            key: status.key.to_string(),
            backbone: status.backbone,
            connected: status.connected,
            path,
            remote,
            rtt_ms: status.rtt.map(millis),
            connected_s: status.connected_since.map(|since| now.mono.since(since).as_secs_f64()),
            bytes_sent: status.bytes_sent,
            bytes_received: status.bytes_received,
            lost_packets: status.lost_packets,
            streams: status.streams,
        }
    }

    fn backbone(&self, ticket: &BackboneTicket, snapshot: &Snapshot) -> types::Backbone {
        let registration = self.inner.registration.borrow();
        let error = match &*registration {
            Registration::Failed(error) => Some(error.message.clone()),
            Registration::Pending | Registration::Registered => None,
        };
        types::Backbone {
            ticket: ticket.to_string(),
            connected: self.inner.home_link.borrow().connected,
            registered: *registration == Registration::Registered,
            observed_address: snapshot.observed,
            error,
        }
    }
}

impl Inner {
    /// Carries something out in the loop.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub(crate) async fn apply(&self, command: impl FnOnce(&mut Core, Now) + Send + 'static) -> Result<(), ApiError> {
        self.commands.send(Box::new(command)).await.map_err(|_| has_ended())
    }

    /// As [`Self::apply`], for an answer.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        // Who no longer waits needs no answer.
        self.apply(move |core, now| drop(reply.send(question(core, now)))).await?;
        answer.await.map_err(|_| has_ended())
    }

    /// Opens a stream to a peer that the node knows.
    pub(crate) async fn open(&self, peer: IdentityKey, header: StreamHeader) -> Result<Stream, ApiError> {
        let opened = self.ask(move |core, now| core.open(now, &peer, &header)).await?;
        opened.map_err(|error| {
            let is_unknown = error == OpenStreamError::UnknownPeer;
            let code = if is_unknown { ErrorCode::NotFound } else { ErrorCode::Failed };
            ApiError::new(code, format!("no stream could be opened: {error}"))
        })
    }

    pub(crate) fn name(&self) -> &str {
        self.agent_home.name()
    }

    /// The next sequence of a record: greater than any before, also of a run whose file was lost.
    pub(crate) fn next_sequence(&self, now: UnixTime) -> Result<u64, ApiError> {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence = (*sequence + 1).max(now.as_secs());
        self.agent_home
            .save_number("sequence", *sequence)
            .map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()).hint(error.hint()))?;
        Ok(*sequence)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name_of(&self, key: &IdentityKey) -> Option<String> {
        let known = self.names().name_of(key).map(str::to_owned);
        known.or_else(|| self.home.agent_of(key).map(|agent| agent.name().to_owned()))
    }

    fn save_settings(&self) -> Result<(), HomeError> {
        let profile = self.profile.borrow().clone();
        self.agent_home.save_settings(&Settings {
            tags: profile.tags,
            groups: profile.groups,
            description: profile.description,
            backbone: self.backbone.as_ref().map(ToString::to_string),
            direct: profile.direct,
        })
    }
}

/// Gives its place up when the future of [`Agent::accept`] is dropped.
struct Waiting<'a> {
    inner: &'a Inner,
    port: ServicePort,
    stream: oneshot::Receiver<Incoming>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.stream.close();
        let port = self.port;
        let leave = move |core: &mut Core, now: Now| core.services.handler_left(now.mono, port);
        if self.inner.commands.try_send(Box::new(leave)).is_err() {
            tracing::debug!("the loop is busy; it notices at the next stream that a handler has left");
        }
    }
}

/// State of the loop, taken in one turn.
struct Snapshot {
    now: Now,
    observed: Option<SocketAddr>,
    services: Vec<types::Service>,
    counters: BTreeMap<String, u64>,
    drops: BTreeMap<String, u64>,
}

impl Snapshot {
    fn take(core: &Core, now: Now) -> Self {
        let stats = core.node.stats();
        let net = core.net;
        let of_socket = [
            ("socket_datagrams_received", net.datagrams_received),
            ("socket_send_calls", net.send_calls),
            ("socket_unreachable", net.unreachable),
            ("socket_refused", net.refused),
            ("socket_blocked", net.blocked),
        ];
        let named = |(name, count): (&'static str, u64)| (name.to_owned(), count);
        let service = |status: crate::services::ServiceStatus| types::Service {
            service: service_name(status.port),
            public: status.public,
            offer: status.offer,
            waiting: status.waiting,
        };
        Self {
            now,
            observed: core.node.observed_address(),
            services: core.services.status().into_iter().map(service).collect(),
            counters: stats.counters().into_iter().chain(of_socket).map(named).collect(),
            drops: stats.drop_counters().map(named).collect(),
        }
    }
}

impl StartError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Home(error) => error.hint(),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                "another program has that port: choose one with --listen, or leave it out for any".into()
            }
            Self::Listen { .. } => "give an address of this machine with --listen, or leave it out".into(),
            Self::Timer(_) => "raise the limit of open files (ulimit -n)".into(),
            Self::Registration(error) => error.hint.clone().unwrap_or_default(),
        }
    }
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        let code = match error.code {
            Code::REFUSED => ErrorCode::Refused,
            Code::NOT_FOUND => ErrorCode::NotFound,
            Code::TIMEOUT | Code::DEADLINE_EXCEEDED => ErrorCode::Timeout,
            Code::UNREACHABLE => ErrorCode::Unreachable,
            _ => ErrorCode::Failed,
        };
        let message = if error.reason.is_empty() { error.code.to_string() } else { error.reason };
        let converted = Self::new(code, message);
        match error.code {
            Code::REFUSED => converted.hint("ask its owner to start the service with --allow public"),
            Code::BUSY => converted.hint("try again in a moment"),
            Code::PEER_RESTARTED => converted.hint("try again: the agent is back"),
            Code::NOT_FOUND => converted.hint("its owner starts one: pilotctl answer, or pilotctl mcp serve"),
            _ if error.by == EndedBy::Peer => converted.hint("the fault is at the other end: its owner can see more"),
            _ => converted,
        }
    }
}

/// How a path is shown.
pub(crate) fn path_of(path: Option<PathKind>) -> (Option<types::Path>, Option<SocketAddr>) {
    match path {
        Some(PathKind::Direct(remote)) => (Some(types::Path::Direct), Some(remote)),
        Some(PathKind::Relay(_)) => (Some(types::Path::Relay), None),
        None => (None, None),
    }
}

/// Milliseconds, to the microsecond.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

/// Opens the socket, at the last run's port if none is named and it is free: tickets given away stay good.
fn bind(config: &AgentConfig, home: &AgentHome) -> Result<UdpSocket, StartError> {
    let last = home.number("port").and_then(|port| u16::try_from(port).ok()).filter(|_| config.listen.port() == 0);
    let again = last.and_then(|port| UdpSocket::bind(SocketAddr::new(config.listen.ip(), port)).ok());
    let socket = match again {
        Some(socket) => socket,
        None => {
            UdpSocket::bind(config.listen).map_err(|source| StartError::Listen { address: config.listen, source })?
        }
    };
    home.save_number("port", u64::from(socket.local_addr().port()))?;
    Ok(socket)
}

/// Tells the node when the machine's addresses change.
async fn watch_addresses(agent: Weak<Inner>) {
    let mut known = Vec::new();
    loop {
        tokio::time::sleep(ADDRESSES_INTERVAL).await;
        let Some(inner) = agent.upgrade() else { return };
        let addresses = host_addresses(inner.listen);
        if addresses == known {
            continue;
        }
        known.clone_from(&addresses);
        if inner.apply(move |core, now| core.node.set_local_addresses(now, &addresses)).await.is_err() {
            return;
        }
    }
}

fn parse_target(target: &str) -> Result<Target, ApiError> {
    if let Ok(address) = target.parse() {
        return Ok(Target::Address(address));
    }
    if let Ok(key) = target.parse() {
        return Ok(Target::Key(key));
    }
    if is_name(target) {
        return Ok(Target::Name(target.to_owned()));
    }
    Err(ApiError::new(ErrorCode::Usage, format!("'{target}' is neither a host name, an address, a key nor a ticket"))
        .hint("for example: agent-alpha, 0:A91F.3C07.7C2E, or what 'pilotctl ticket' prints"))
}

fn check_labels<'a>(labels: impl Iterator<Item = &'a String>) -> Result<(), ApiError> {
    for label in labels {
        if !is_label(label) {
            return Err(ApiError::new(ErrorCode::Usage, format!("'{label}' cannot be a tag or a group"))
                .hint("use 1 to 63 lower-case letters, digits and -._:/"));
        }
    }
    Ok(())
}

fn not_found(target: &str, suggestions: &[String]) -> ApiError {
    let error = ApiError::new(ErrorCode::NotFound, format!("no agent named '{target}'"));
    match suggestions.first() {
        Some(name) => error.hint(format!("did you mean '{name}'?")),
        None => error.hint("see who is there: pilotctl find"),
    }
}

fn connect_failed(peer: &Resolved, error: &ConnectError) -> ApiError {
    let who = peer.label();
    if let ConnectError::Refused(_) = error {
        return ApiError::new(ErrorCode::Refused, format!("'{who}': {error}"));
    }
    if let ConnectError::Offline(_) = error {
        return ApiError::new(ErrorCode::Unreachable, format!("'{who}' is not running: {error}"))
            .hint("it is reachable again as soon as its daemon runs");
    }
    ApiError::new(ErrorCode::Unreachable, format!("'{who}' cannot be reached: {error}"))
        .hint("see whether it runs there, and that UDP gets through; pilotctl peers shows which tunnels stand")
}

fn timed_out(peer: &Resolved, time_allowed: Duration) -> ApiError {
    let message = format!("no answer from '{}' within {} ms", peer.label(), time_allowed.as_millis());
    ApiError::new(ErrorCode::Timeout, message).hint("allow more with --timeout, or see whether it runs: pilotctl peers")
}

fn has_ended() -> ApiError {
    ApiError::new(ErrorCode::NotRunning, "the agent has shut down")
        .hint("start it again: pilotctl daemon start --hostname NAME")
}

impl Resolved {
    /// Its name, or its address where it has none.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }
}
