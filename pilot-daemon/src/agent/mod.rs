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

mod datagrams;
pub mod ephemeral;
mod error;
mod examine;
mod hand_over;
mod inner;
mod joining;
mod network;
mod org_keys;
mod orgs;
mod resolve;
mod rules;
mod settings;
mod status;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use pilot_core::address::Address;
use pilot_core::config::{Config, Role};
use pilot_core::event::PathKind;
use pilot_core::id::{IdentityKey, ServicePort};
use pilot_core::node::{Node, PeerStatus};
use pilot_core::record::OFFER_DESCRIPTION_LEN_MAX;
use pilot_core::ticket::{BackboneTicket, Ticket};
use pilot_core::time::Now;
use pilot_core::transport::{Code, TransportConfig};
use pilot_core::wire::stream_header::StreamHeader;
use tokio::sync::{OnceCell, mpsc, oneshot, watch};
use tokio::time::timeout;

pub(crate) use self::error::COMPARE_CLOCKS;
pub use self::error::StartError;
use self::error::{connect_failed, has_ended, is_itself, timed_out};
pub use self::examine::DIRECT_PATIENCE;
pub(crate) use self::inner::Inner;
pub use self::joining::{Token, check_org};
pub(crate) use self::org_keys::join_by_own_key;
pub use self::orgs::check_kept;
pub use self::resolve::Resolved;
pub(crate) use self::settings::Profile;
pub use self::settings::check_profile;
pub(crate) use self::status::{millis, path_of};
use crate::api::types::{ApiError, ErrorCode};
use crate::backbone_link::{self, Registration};
use crate::clock;
pub use crate::datagrams::{Datagram, DatagramReceiver};
use crate::driver::{COMMANDS_MAX, Core, Driver, HomeLink, LINK_INPUTS_MAX};
use crate::home::{AgentHome, Home, entropy};
use crate::interfaces::{self, AddressChanges};
use crate::names::Names;
use crate::net::{UdpSocket, host_addresses};
use crate::org::{self, Orgs};
use crate::port_mapping::PortMapper;
use crate::renewal::KeyRenewal;
use crate::rules::Rules;
use crate::services::Services;
use crate::services::inbox::Inbox;
pub use crate::services::{Incoming, ServiceOptions, service_name, service_port};
pub use crate::stream::{EndedBy, ReadHalf, Stream, StreamError, StreamOutcome, StreamWatch, WriteHalf};
use crate::stun_servers::{self, StunServer};
use crate::tls::keeper::{Keeper, LinkReport};

/// A start waits so long for the directory's word on the name; without it the agent runs and goes on asking.
const REGISTER_WAIT: Duration = Duration::from_secs(2);
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
    /// STUN servers beside the home node, by which address-dependent mapping is noticed; at most
    /// [`STUN_SERVERS_MAX`](crate::stun_servers::STUN_SERVERS_MAX) count. Default: none.
    pub stun_servers: Vec<StunServer>,
    /// Ask the router at home for a port mapping where there is a NAT. Without one, fewer peers are reached directly.
    pub port_mapping: bool,
    /// Longest packet that is sent; without one, what each path is found to carry.
    pub packet_len_max: Option<usize>,
    /// Whether a service manager has started this process; the agent only tells it.
    pub supervised: bool,
    /// Leave nothing behind: the key is new, memberships and the lease of the name are short, and the agent gives both back when it shuts
    /// down. Its home is then removed by who has started it, with [`AgentHome::discard`].
    pub ephemeral: bool,
}

/// A running agent. Clones are the same agent; it ends with [`Agent::shutdown`], or when the last clone is dropped.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

/// An answered ping.
#[derive(Clone, Copy, Debug)]
pub struct Pong {
    /// From the first byte out to the last byte back, the tunnel being up.
    pub rtt: Duration,
    /// The path at the end.
    pub path: Option<PathKind>,
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
            stun_servers: Vec::new(),
            port_mapping: true,
            packet_len_max: None,
            supervised: false,
            ephemeral: false,
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
        check_profile(&config.tags, &config.groups, &config.description).map_err(StartError::Registration)?;
        let agent_home = config.home.agent(&config.name)?;
        let lock = agent_home.lock()?;
        if config.ephemeral {
            agent_home.make_ephemeral()?;
        }
        let now = clock::now();
        let keys = agent_home.keys(now.unix)?;
        let (identity, certificate) = (keys.identity.clone(), keys.certificate.clone());
        let renewal = KeyRenewal::new(agent_home.clone(), &keys, now.unix);
        let socket = bind(&config, &agent_home)?;
        let listen = socket.local_addr();

        let (offers_sender, offers) = watch::channel(Vec::new());
        let (link_sender, home_link) = watch::channel(HomeLink::default());
        let mut node = Node::new(node_config(&config), keys, entropy()?, now);
        let (addresses, network) = watch::channel(socket.local_addresses());
        node.set_local_addresses(now, &addresses.borrow());
        let services = Services::new(offers_sender);
        let rules = Rules::load(agent_home.path().join("rules.toml"))?;
        let orgs = Arc::new(Orgs::load(&agent_home, &identity, now.unix)?);
        let (org_calls, org_receiver) = mpsc::channel(org::serve::CALLS_MAX);
        let core = Core::new(
            node,
            services,
            config.home.clone(),
            Inbox::new(agent_home.inbox_path()),
            link_sender,
            rules,
            (Arc::clone(&orgs), org_calls),
        );
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let port_mapper = if config.port_mapping && config.direct {
            PortMapper::start(commands.downgrade(), listen, core.observed.subscribe(), network.clone())
        } else {
            PortMapper::off()
        };
        let (link_inputs, link_receiver) = mpsc::channel(LINK_INPUTS_MAX);
        let driver = Driver::new(core, socket, receiver, link_receiver).map_err(StartError::Timer)?;
        let (ended_sender, ended) = watch::channel(());
        let (report, link_report) = watch::channel(LinkReport::default());
        let (stun_sender, stun_found) = watch::channel(Vec::new());
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
            names_files: Mutex::new(()),
            sequence: Mutex::new(agent_home.number("sequence").unwrap_or(0)),
            agent_home,
            home: config.home,
            identity,
            certificate: watch::Sender::new(certificate),
            backbone: config.backbone,
            listen,
            supervised: config.supervised,
            is_ephemeral: config.ephemeral,
            farewell: OnceCell::new(),
            orgs,
            whereabouts: Mutex::new(None),
            profile: watch::Sender::new(profile),
            offers,
            home_link,
            registration,
            link_report,
            stun_servers: stun_found,
            port_mapper,
            ended,
            started: now.mono,
            _lock: lock,
        });
        inner.save_settings(&inner.profile.borrow())?;
        tokio::spawn(async move {
            driver.run().await;
            drop(ended_sender);
        });
        tokio::spawn(watch_addresses(Arc::downgrade(&inner), addresses));
        tokio::spawn(renew_keys(Arc::downgrade(&inner), renewal));
        tokio::spawn(org::serve::run(Arc::downgrade(&inner), org_receiver));
        if !config.stun_servers.is_empty() {
            tokio::spawn(stun_servers::run(Arc::downgrade(&inner), config.stun_servers, stun_sender));
        }
        let agent = Self { inner };
        tracing::info!(name = agent.name(), version = env!("CARGO_PKG_VERSION"), ?listen, "started");
        if let Some(ticket) = agent.inner.backbone.clone() {
            let (agent_home, home) = (agent.inner.agent_home.clone(), agent.inner.home.clone());
            let home_link = agent.inner.home_link.clone();
            let keeper = Keeper { ticket, home_link, inputs: link_inputs, agent_home, home, report, network };
            tokio::spawn(keeper.run());
        }
        agent.join_by_own_keys().await;
        agent.join_backbone(registration_sender).await?;
        tokio::spawn(org::keeper::run(Arc::downgrade(&agent.inner)));
        tokio::spawn(org::keeper::keep_lists(Arc::downgrade(&agent.inner)));
        tokio::spawn(org::keeper::save(Arc::downgrade(&agent.inner)));
        if agent.inner.backbone.is_some() {
            tokio::spawn(org::directory::run(Arc::downgrade(&agent.inner)));
        }
        Ok(agent)
    }

    /// Makes sure that there is a tunnel.
    ///
    /// # Errors
    /// [`ErrorCode::Unreachable`], [`ErrorCode::Refused`] or [`ErrorCode::Timeout`]; [`ErrorCode::Usage`] if the peer is this agent.
    pub async fn connect(&self, peer: &Resolved, time_allowed: Duration) -> Result<PeerStatus, ApiError> {
        self.check_other(peer)?;
        let (reply, answer) = oneshot::channel();
        let (key, routes) = (peer.key, peer.routes.clone());
        self.inner
            .apply(move |core, now| {
                core.learn_routes(now, routes);
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

    /// Ends the tunnel with a peer, if there is one, and every stream in it. What is known of the peer stays known; the next call makes a new
    /// tunnel.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn disconnect(&self, peer: &Resolved) -> Result<(), ApiError> {
        let key = peer.key;
        self.inner.apply(move |core, now| core.disconnect(now, &key)).await
    }

    /// Opens a stream. Data may be written at once; if no tunnel comes about, the stream ends with [`Code::UNREACHABLE`].
    ///
    /// # Errors
    /// If the peer allows no more streams, or is this agent.
    pub async fn open(&self, peer: &Resolved, header: StreamHeader) -> Result<Stream, ApiError> {
        self.open_with(peer, header, None).await
    }

    /// Opens a stream that has this to say and nothing else: it leaves with what opens the stream. If the header is `replay_safe`, and there
    /// is no tunnel yet, that is the first message to the agent, as far as the request fits in (spec/handshake.md §10).
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn request(&self, peer: &Resolved, header: StreamHeader, request: Bytes) -> Result<Stream, ApiError> {
        self.open_with(peer, header, Some(request)).await
    }

    async fn open_with(
        &self,
        peer: &Resolved,
        header: StreamHeader,
        request: Option<Bytes>,
    ) -> Result<Stream, ApiError> {
        self.check_other(peer)?;
        if header.port != ServicePort::ECHO && self.inner.orgs.is_in_any() {
            let routes = peer.routes.clone();
            self.inner.apply(move |core, now| core.learn_routes(now, routes)).await?;
            // Its state is large, and mostly not needed.
            Box::pin(org::calls::introduce(&self.inner, peer.key)).await;
        }
        self.inner.open_by(peer.key, peer.routes.clone(), header, request).await
    }

    /// Takes the next stream to a service. While some calls of this wait, the service is there; `options` of the latest hold.
    ///
    /// # Errors
    /// If the offer is too long for a record, or the agent has shut down.
    pub async fn accept(&self, port: ServicePort, options: ServiceOptions) -> Result<Incoming, ApiError> {
        if options.offer.as_ref().is_some_and(|offer| offer.len() > OFFER_DESCRIPTION_LEN_MAX) {
            return Err(ApiError::new(
                ErrorCode::Usage,
                format!("an offer may have {OFFER_DESCRIPTION_LEN_MAX} bytes"),
            ));
        }
        let (handler, stream) = oneshot::channel();
        self.inner.apply(move |core, now| core.accept(now, port, options, handler)).await?;
        let mut waiting = Waiting { inner: &self.inner, port, stream };
        let mut incoming = (&mut waiting.stream).await.map_err(|_| has_ended())?;
        if let Some(pinned) = self.inner.names().name_of(&incoming.peer) {
            incoming.name = Some(pinned.to_owned());
        }
        Ok(incoming)
    }

    /// Gives back a stream of which nothing was read and to which nothing was written: the next handler gets it, as if it came now.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn give_back(&self, incoming: Incoming) -> Result<(), ApiError> {
        self.inner.apply(move |core, now| core.give_back(now, incoming)).await
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

    /// No agent has a tunnel with itself.
    fn check_other(&self, peer: &Resolved) -> Result<(), ApiError> {
        if peer.key == self.key() { Err(is_itself(peer)) } else { Ok(()) }
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

    /// All that another agent needs to reach this one.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn ticket(&self) -> Result<Ticket, ApiError> {
        self.inner.ticket().await
    }

    /// Ends every tunnel, tells the peers, and stops. Clones of this agent answer that it has ended. An ephemeral one says goodbye first.
    pub async fn shutdown(&self) {
        self.inner.farewell.get_or_init(|| self.say_farewell()).await;
        self.inner.orgs.save_unsaved().await;
        self.inner.port_mapper.end().await;
        if self.inner.apply(|core, now| core.stop(now)).await.is_ok() {
            self.ended().await;
            tracing::info!(name = self.name(), "ended");
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
            Err(error) => {
                tracing::warn!(%error, "backbone node not found");
                // Its name may be known to a proxy, and a TLS link needs no address of it.
                let home = backbone_link::unresolved(backbone);
                drop(self.inner.apply(move |core, now| core.node.set_home(now, Some(home))).await);
            }
        }
        tokio::spawn(backbone_link::keep_registered(Arc::downgrade(&self.inner), registration));
        let mut state = self.inner.registration.clone();
        let decided = timeout(REGISTER_WAIT, state.wait_for(|state| *state != Registration::Pending)).await;
        let error = match decided.map(|result| result.map(|state| state.clone())) {
            Ok(Ok(Registration::Failed(error, _))) if error.code != ErrorCode::Unreachable => error,
            _ => return Ok(()),
        };
        self.shutdown().await;
        Err(StartError::Registration(error))
    }
}

/// Gives its place up when the future of [`Agent::accept`] is dropped before it has a stream.
struct Waiting<'a> {
    inner: &'a Inner,
    port: ServicePort,
    stream: oneshot::Receiver<Incoming>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.stream.is_terminated() {
            return;
        }
        self.stream.close();
        let (port, unseen) = (self.port, self.stream.try_recv().ok());
        let leave = move |core: &mut Core, now: Now| {
            core.services.handler_left(now.mono, port);
            if let Some(incoming) = unseen {
                core.give_back(now, incoming);
            }
        };
        if self.inner.commands.try_send(Box::new(leave)).is_err() {
            tracing::debug!("the loop is busy; it notices at the next stream that a handler has left");
        }
    }
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

/// Settings of an agent's node. An echo may be a replay: nothing comes of it but its own answer, which only the asker can read.
fn node_config(config: &AgentConfig) -> Config {
    let transport = TransportConfig::default().packet_len_max(config.packet_len_max.unwrap_or(usize::MAX));
    Config::new(Role::Agent).direct(config.direct).replay_safe(&[ServicePort::ECHO]).transport(transport)
}

/// Renews the keys whenever that is due, until the agent is gone.
async fn renew_keys(agent: Weak<Inner>, mut renewal: KeyRenewal) {
    loop {
        renewal.due().await;
        let Some(inner) = agent.upgrade() else { return };
        if inner.renew_keys(&mut renewal, clock::now().unix).await.is_err() {
            return;
        }
    }
}

/// Tells the node, and whoever else wants to know, when the machine's addresses change, or by which of them it sends.
async fn watch_addresses(agent: Weak<Inner>, known: watch::Sender<Vec<SocketAddr>>) {
    let mut changes = AddressChanges::watch();
    let mut outgoing = interfaces::outgoing();
    loop {
        changes.next().await;
        let Some(inner) = agent.upgrade() else { return };
        let addresses = host_addresses(inner.listen);
        let was_outgoing = std::mem::replace(&mut outgoing, interfaces::outgoing());
        let is_rerouted = was_outgoing != outgoing;
        if !known.send_if_modified(|known| std::mem::replace(known, addresses.clone()) != addresses) && !is_rerouted {
            continue;
        }
        let tell = move |core: &mut Core, now| {
            core.node.set_local_addresses(now, &addresses);
            if is_rerouted {
                core.node.route_changed(now);
            }
        };
        if inner.apply(tell).await.is_err() {
            return;
        }
    }
}
