//! A backbone node as one machine: a [`Node`] for the tunnels, and STUN, relay and directory beside it (spec/backbone.md §1).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::config::{Config, Keys, Role};
use pilot_core::event::{Event, StreamHandle};
use pilot_core::id::{IdentityKey, Instance};
use pilot_core::node::{Node, OpenStreamError};
use pilot_core::rng::Rng;
use pilot_core::route::{Ecn, Route, SocketId, Transmit};
use pilot_core::time::{Mono, Now};
use pilot_core::transport::{Code, Read, ReadError, TransportConfig, WriteError};
use pilot_core::wire::directory::{REGISTRATION_LEN_MAX, Status};
use pilot_core::wire::stream_header::StreamHeader;
use pilot_core::wire::{PacketKind, peek};

use crate::control::{Control, Tunnels};
use crate::journal::Batch;
use crate::relay::{RelayStats, Routes};
use crate::roles::Roles;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::stun::StunServer;

/// STUN responses that wait for the socket. Clients repeat requests, so a lost one costs little.
const STUN_QUEUE_MAX: usize = 256;

/// Credit that a client has for what it sends: a few registrations at once. Anybody may connect, so this times the
/// clients is what strangers can make the node keep.
const CLIENT_WINDOW: u64 = 4 * REGISTRATION_LEN_MAX as u64;

/// How often silent clients are looked for: a fraction of the silence that ends them.
const SILENCE_SWEEP_INTERVAL: Duration = Duration::from_secs(25);

/// What a backbone node tells its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackboneEvent {
    /// A client's tunnel is up.
    ClientConnected(Instance),
    /// A client's tunnel is over.
    ClientGone(Instance),
}

/// What `backbone status` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackboneStatus {
    /// Counts and start, as a client can ask for them too.
    pub summary: Status,
    /// What was relayed, and drops by reason.
    pub relay: RelayStats,
    /// STUN requests answered.
    pub stun_answered: u64,
    /// STUN datagrams dropped.
    pub stun_dropped: u64,
}

/// A backbone node.
///
/// Driven like a [`Node`]: one input, then [`Backbone::poll_transmit`] and [`Backbone::poll_event`] until they are empty, then sleep until
/// [`Backbone::poll_timeout`].
pub struct Backbone<D = MemoryStore> {
    node: Node,
    control: Control<D, StreamHandle>,
    roles: Roles,
    stun: StunServer,
    stun_queue: VecDeque<(Route, Vec<u8>)>,
    stun_answered: u64,
    stun_dropped: u64,
    /// When the next lease ends, by the boot-time clock as far as can be told now.
    lease_timeout: Option<Mono>,
    /// When silent clients are looked for, as long as there are clients.
    silence_timeout: Option<Mono>,
    events: VecDeque<BackboneEvent>,
}

impl Backbone {
    /// A node that keeps its directory in memory.
    pub fn new(keys: Keys, seed: [u8; 32], now: Now) -> Self {
        Self::with_store(MemoryStore::new(), keys, seed, now)
    }
}

impl<D: Store> Backbone<D> {
    /// A node over the given store.
    pub fn with_store(store: D, keys: Keys, seed: [u8; 32], now: Now) -> Self {
        let rng = Rng::new(seed);
        let key = keys.identity.key();
        let node_seed = rng.child("node").array();
        Self {
            node: Node::new(Config::new(Role::Backbone).transport(transport()), keys, node_seed, now),
            control: Control::new(key, store, rng.child("circuits"), now),
            roles: Roles::ALL,
            stun: StunServer::new(),
            stun_queue: VecDeque::new(),
            stun_answered: 0,
            stun_dropped: 0,
            lease_timeout: None,
            silence_timeout: None,
            events: VecDeque::new(),
        }
    }

    /// Takes these roles only, and refuses calls for the others.
    #[must_use]
    pub fn with_roles(self, roles: Roles) -> Self {
        Self { control: self.control.with_roles(roles), roles, ..self }
    }

    /// Makes the directory acknowledge only what its driver has written: after each input, [`Backbone::poll_batch`], and once its batch is
    /// on disk, [`Backbone::batch_written`].
    #[must_use]
    pub fn durable(self) -> Self {
        Self { control: self.control.durable(), ..self }
    }

    /// Takes new transport keys and their certificate, as [`Node::set_keys`] does: the tunnels of clients go on.
    pub fn set_keys(&mut self, keys: Keys) {
        self.node.set_keys(keys);
    }

    /// Tells that this process may have been copied or stored since the last call; `entropy` is fresh.
    pub fn resume(&mut self, now: Now, entropy: &[u8]) {
        self.node.resume(now, entropy);
        self.control.reseed(entropy);
    }

    /// Mixes fresh entropy into all random bytes to come, those of the circuits among them.
    pub fn reseed(&mut self, entropy: &[u8]) {
        self.node.reseed(entropy);
        self.control.reseed(entropy);
    }

    /// Takes a datagram, whoever it is for: the first bits tell (spec/wire.md §2).
    pub fn handle_datagram(&mut self, now: Now, from: Route, ecn: Ecn, datagram: &mut [u8]) {
        match peek(datagram) {
            Ok(PacketKind::Stun) if self.roles.stun && !from.socket.is_link() => self.handle_stun(now, from, datagram),
            Ok(PacketKind::Stun) => self.stun_dropped += 1,
            Ok(PacketKind::Relay) => self.control.relay.handle_datagram(now, from, ecn, datagram, &self.node),
            Ok(_) | Err(_) => {
                self.node.handle_datagram(now, from, ecn, datagram);
                self.drain_node(now);
            }
        }
    }

    /// Tells that a TLS link is gone (spec/tcp.md §3).
    pub fn link_down(&mut self, now: Now, link: SocketId) {
        self.node.link_down(now, link);
        self.drain_node(now);
    }

    /// Does what is due. Early, late and repeated calls do no harm.
    pub fn handle_timeout(&mut self, now: Now) {
        self.node.handle_timeout(now);
        self.control.handle_timeout(now);
        self.close_silent_clients(now);
        self.drain_node(now);
    }

    /// What the directory wants written in one commit, if anything; None while a batch is under way.
    pub fn poll_batch(&mut self, now: Now) -> Option<Batch> {
        let batch = self.control.poll_batch(now);
        self.control.send_replies(now, &mut self.node);
        batch
    }

    /// The last batch is on disk, or it is not and `result` tells why: those who wait for it are answered.
    pub fn batch_written(&mut self, now: Now, result: Result<(), String>) {
        self.control.batch_written(result);
        self.control.send_replies(now, &mut self.node);
        self.drain_node(now);
    }

    /// Appends the next datagram, or train of them, to `buf`.
    pub fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Transmit> {
        if let Some(transmit) = self.node.poll_transmit(now, buf) {
            return Some(transmit);
        }
        if let Some((route, response)) = self.stun_queue.pop_front() {
            buf.extend_from_slice(&response);
            return Some(Transmit { route, ecn: Ecn::NotEct, ttl: None, segment_size: None, len: response.len() });
        }
        self.control.relay.poll_transmit(buf)
    }

    /// When [`Backbone::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let circuits = self.control.relay.circuits.poll_timeout();
        [self.node.poll_timeout(), circuits, self.lease_timeout, self.silence_timeout].into_iter().flatten().min()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<BackboneEvent> {
        self.events.pop_front()
    }

    /// Bytes of relayed packets that wait for the socket.
    pub fn relay_backlog(&self) -> usize {
        self.control.relay.queued_bytes()
    }

    /// Says goodbye to every client; drain [`Backbone::poll_transmit`] once afterwards.
    pub fn shutdown(&mut self, now: Now) {
        self.node.shutdown(now);
    }

    /// Clients with a live tunnel.
    pub fn client_count(&self) -> usize {
        self.control.client_count()
    }

    /// The identity of the node.
    pub fn key(&self) -> IdentityKey {
        self.node.key()
    }

    /// How the node fares.
    pub fn status(&self) -> BackboneStatus {
        BackboneStatus {
            summary: self.control.status(),
            relay: self.control.relay.stats().clone(),
            stun_answered: self.stun_answered,
            stun_dropped: self.stun_dropped,
        }
    }

    /// The node that carries the tunnels, for its counters.
    pub fn node(&self) -> &Node {
        &self.node
    }

    fn handle_stun(&mut self, now: Now, from: Route, datagram: &[u8]) {
        match self.stun.handle_datagram(now.mono, from.remote, datagram) {
            Ok((port, response)) if self.stun_queue.len() < STUN_QUEUE_MAX => {
                self.stun_answered += 1;
                let remote = SocketAddr::new(from.remote.ip(), port);
                self.stun_queue.push_back((Route { remote, ..from }, response));
            }
            Ok(_) | Err(_) => self.stun_dropped += 1,
        }
    }

    /// Nobody says goodbye when killed, and no stream of ours to an agent that only waits would find out.
    fn close_silent_clients(&mut self, now: Now) {
        if self.silence_timeout.is_none_or(|at| now.mono < at) {
            return;
        }
        let node = &self.node;
        let bytes_received = |client: &Instance| node.instance_status(client).map_or(0, |status| status.bytes_received);
        for client in self.control.silent_clients(now, bytes_received) {
            self.node.close_instance(now, &client, Code::TIMEOUT, "nothing was heard");
            self.client_gone(now, client);
        }
        self.silence_timeout = (self.control.client_count() > 0).then(|| now.mono + SILENCE_SWEEP_INTERVAL);
    }

    fn client_gone(&mut self, now: Now, client: Instance) {
        if self.control.client_gone(now, &client) {
            self.events.push_back(BackboneEvent::ClientGone(client));
        }
    }

    fn drain_node(&mut self, now: Now) {
        self.control.relay.end_run();
        while let Some(event) = self.node.poll_event() {
            self.handle_event(now, event);
        }
        self.lease_timeout = self.control.next_expiry().map(|at| {
            let left = at.0.saturating_sub(now.unix.0);
            now.mono + Duration::from_nanos(left)
        });
    }

    fn handle_event(&mut self, now: Now, event: Event) {
        match event {
            Event::PeerConnected { peer: key, instance: id, .. } => {
                let client = Instance { key, id };
                self.control.client_connected(now, client);
                self.silence_timeout.get_or_insert(now.mono + SILENCE_SWEEP_INTERVAL);
                self.events.push_back(BackboneEvent::ClientConnected(client));
            }
            Event::PeerClosed { peer: key, instance: id, .. } => self.client_gone(now, Instance { key, id }),
            Event::StreamOpened { stream, peer: key, instance: id, header } => {
                self.control.stream_opened(now, stream, Instance { key, id }, &header, &mut self.node);
            }
            Event::Readable(stream) => self.control.stream_readable(now, stream, &mut self.node),
            Event::Writable(stream) => self.control.stream_writable(now, stream, &mut self.node),
            Event::Reset { stream, .. } | Event::StopSending { stream, .. } | Event::StreamClosed(stream) => {
                self.control.stream_over(stream);
            }
            Event::ConnectFailed { .. }
            | Event::PathChanged { .. }
            | Event::HomeConnected
            | Event::HomeLost
            | Event::ObservedAddress(_)
            | Event::OpenSockets(_)
            | Event::CloseSockets(_)
            | Event::SendFinished(_)
            | Event::Stalled(_)
            | Event::Resumed(_)
            | Event::Datagram { .. } => {}
        }
    }
}

fn transport() -> TransportConfig {
    TransportConfig::default().stream_window(CLIENT_WINDOW).tunnel_window(CLIENT_WINDOW)
}

impl Routes for Node {
    fn validated_remote(&self, client: &Instance) -> Option<Route> {
        Self::validated_remote(self, client)
    }

    fn has_validated(&self, now: Mono, client: &Instance, from: &Route) -> bool {
        Self::has_validated(self, now, client, from)
    }
}

impl Tunnels for Node {
    type Stream = StreamHandle;

    fn open_stream(
        &mut self,
        now: Now,
        client: &Instance,
        header: &StreamHeader,
    ) -> Result<StreamHandle, OpenStreamError> {
        self.open_stream_to(now, client, header)
    }

    fn write(&mut self, now: Now, stream: StreamHandle, data: &mut Bytes) -> Result<usize, WriteError> {
        Self::write(self, now, stream, data)
    }

    fn finish(&mut self, now: Now, stream: StreamHandle) -> Result<(), WriteError> {
        Self::finish(self, now, stream)
    }

    fn read(&mut self, now: Now, stream: StreamHandle, len_max: usize) -> Result<Read, ReadError> {
        Self::read(self, now, stream, len_max)
    }

    fn abort(&mut self, now: Now, stream: StreamHandle, code: Code, reason: &str) {
        self.stop_sending(now, stream, code, reason);
        self.reset(now, stream, code, reason);
    }
}
