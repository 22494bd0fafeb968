//! The node: one running identity with its peers, tunnels, streams and paths, as one pure state machine (ARCHITECTURE.md §3).
//!
//! A driver calls one verb that changes something, then drains [`Node::poll_transmit`] and [`Node::poll_event`] until both are empty, then
//! sleeps until [`Node::poll_timeout`] or the next datagram. Verbs may be called early, late and twice.
//!
//! The parts: `receive` (datagrams and handshakes in), `connect` (attempts to reach a peer, sessions), `circuits` (relayed paths, asked for
//! and offered), `early` (data in message 1, with `freshness`), `candidates` (direct paths, told and probed), `effort` (direct paths that take more than that, with `survey` and `sockets`), `lifetime` (how long our NAT keeps a mapping), `events` (what tunnels
//! report), `links` (backbone nodes by TCP), `credit` (what they may still be sent), `instances` (several homes of one peer),
//! `resume` (copies of this process), `obstacle` (why a peer is not reached directly), `load` (floods of first messages), `send` (packets and trains out). Nothing changes state before an AEAD or a signature has accepted it.

mod candidates;
mod circuits;
mod connect;
mod credit;
mod early;
mod effort;
mod events;
mod freshness;
mod instances;
mod lifetime;
mod links;
mod load;
mod obstacle;
mod receive;
mod resume;
mod send;
mod sockets;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;

use self::circuits::ControlStream;
use self::credit::CreditAccount;
use self::freshness::Freshness;
pub use self::lifetime::MappingLifetime;
use self::links::LinkUsers;
use self::load::Load;
pub use self::obstacle::Obstacle;
use self::receive::RateLimit;
use self::send::{Held, Outgoing};
use self::sockets::Sockets;
use self::survey::Survey;
use crate::config::{Config, Keys, Role};
use crate::event::{Event, PathKind, StreamHandle};
use crate::handshake::Acquaintances;
use crate::id::{IdentityKey, Instance, ServicePort, SessionIndex};
use crate::identity::Certificate;
use crate::keepalive::Keepalive;
use crate::path::Hop;
pub use crate::peer::{Home, PeerInfo, PeerStatus};
use crate::peer::{Peer, RECORD_ADDRESS_LEN_MIN};
use crate::rng::Rng;
use crate::route::Route;
use crate::stats::Stats;
use crate::time::{ClockWatch, Mono, Now, UnixTime};
use crate::transport::{
    Audit, Code, DatagramError, OpenStreamError as TransportOpenError, Read, ReadError, WriteError,
};
use crate::tunnel::Tunnel;
use crate::wire::stream_header::StreamHeader;

/// One running identity.
pub struct Node {
    config: Config,
    keys: Keys,
    rng: Rng,
    /// Slots are never freed while the node runs: an index stays good. When all are taken, a stranger's may be given to another.
    peers: Vec<Peer>,
    /// Where the search for such a slot goes on.
    next_victim: u32,
    /// Slots of each peer, one for each of its instances.
    by_key: BTreeMap<IdentityKey, Vec<u32>>,
    /// Our session indices, by which packets reach a peer's tunnel.
    by_index: BTreeMap<SessionIndex, u32>,
    /// The peers' session indices, which UNKNOWN names.
    by_remote_index: BTreeMap<SessionIndex, u32>,
    home: Option<u32>,
    /// The home node was reported lost, and has not been heard of since.
    is_home_lost: bool,
    /// Since when this is our network, as far as the driver has told.
    network_since: Mono,
    /// Slots of the backbone nodes, the home node among them.
    backbones: Vec<u32>,
    link_users: LinkUsers,
    local_addresses: Vec<SocketAddr>,
    observed: Option<SocketAddr>,
    /// Where the router says that it takes packets for us.
    mapped: Option<SocketAddr>,
    /// Streams that the node itself uses: circuits.
    control_streams: BTreeMap<StreamHandle, ControlStream>,
    /// Peers that wait for a tunnel to this backbone slot.
    circuits_waiting: BTreeMap<u32, BTreeSet<u32>>,
    /// Peers for which a circuit is asked with the next packets out.
    circuits_queued: BTreeSet<u32>,
    events: VecDeque<Event>,
    /// Datagrams outside of sessions.
    outbox: VecDeque<(Hop, Outgoing)>,
    held: Option<Held>,
    ready: VecDeque<u32>,
    timers: BTreeSet<(Mono, u32)>,
    /// Answers with a certificate to those who know the identity.
    certificates: RateLimit,
    /// Answers to packets of unknown sessions, which anybody can make: they must not use up the other ones.
    unknowns: RateLimit,
    /// What tunnels have earned of the one cap.
    credit: CreditAccount,
    /// Whether there are too many first messages, and the cookies against them.
    load: Load,
    /// Whether both clocks go on alike.
    clocks: ClockWatch,
    /// What handshakes have computed and the next ones need again.
    acquaintances: Acquaintances,
    /// When the last first message was made, and its timestamp.
    last_init: (Mono, UnixTime),
    /// When a message of a handshake was made last, to which there is to be an answer.
    last_handshake: Option<Mono>,
    /// Which early data was taken before.
    freshness: Freshness,
    /// Sockets beside the main one.
    sockets: Sockets,
    /// What our NAT is like.
    survey: Survey,
    /// How long it keeps a mapping.
    keepalive: Keepalive,
    stats: Stats,
}

/// Why a stream could not be opened, or a peer not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStreamError {
    /// Neither a record nor a tunnel tells who that is.
    #[error("nothing is known about this agent")]
    UnknownPeer,
    /// The tunnel does not allow it now.
    #[error(transparent)]
    Transport(#[from] TransportOpenError),
}

impl Node {
    /// A node at rest: it sends nothing before it is given a home, a peer or a datagram. `seed` must come from OS entropy.
    pub fn new(config: Config, keys: Keys, seed: [u8; 32], now: Now) -> Self {
        Self {
            credit: CreditAccount::new(config.credit),
            config,
            keys,
            rng: Rng::new(seed),
            peers: Vec::new(),
            next_victim: 0,
            by_key: BTreeMap::new(),
            by_index: BTreeMap::new(),
            by_remote_index: BTreeMap::new(),
            home: None,
            is_home_lost: false,
            network_since: now.mono,
            backbones: Vec::new(),
            link_users: LinkUsers::new(),
            local_addresses: Vec::new(),
            observed: None,
            mapped: None,
            control_streams: BTreeMap::new(),
            circuits_waiting: BTreeMap::new(),
            circuits_queued: BTreeSet::new(),
            events: VecDeque::new(),
            outbox: VecDeque::new(),
            held: None,
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            certificates: RateLimit::new(now.mono),
            unknowns: RateLimit::new(now.mono),
            load: Load::new(now.mono),
            clocks: ClockWatch::new(now),
            acquaintances: Acquaintances::default(),
            last_init: (now.mono, UnixTime(0)),
            last_handshake: None,
            freshness: Freshness::new(now.unix),
            sockets: Sockets::default(),
            survey: Survey::default(),
            keepalive: Keepalive::default(),
            stats: Stats::default(),
        }
    }

    /// Takes new transport keys and their certificate; the identity stays. Sessions go on, later handshakes use the new ones. Keep the
    /// old transport keys in the list for as long as their certificates are valid.
    pub fn set_keys(&mut self, keys: Keys) {
        debug_assert_eq!(keys.certificate.identity, self.key(), "another identity is another node");
        self.acquaintances.retain(&keys.transport);
        self.keys = keys;
    }

    /// Mixes fresh entropy of the operating system into all random bytes to come. For every minute of activity, and on resume.
    pub fn reseed(&mut self, entropy: &[u8]) {
        self.rng.reseed(entropy);
    }

    /// Computes what the next handshake will need, for when everything has been sent and nobody waits.
    pub fn make_ahead(&mut self) {
        self.rng.make_ahead();
    }

    /// Does what has become due. Harmless when nothing has.
    pub fn handle_timeout(&mut self, now: Now) {
        self.look_at_clocks(now);
        self.survey_timeout(now);
        self.keepalive_timeout(now);
        while let Some(&(due, index)) = self.timers.first() {
            if due > now.mono {
                break;
            }
            self.timers.pop_first();
            self.peers[index as usize].armed = None;
            self.peer_timeout(now, index);
            self.touch(index);
        }
    }

    /// When [`Node::handle_timeout`] wants to be called; at once while output is queued.
    pub fn poll_timeout(&self) -> Option<Mono> {
        if !self.ready.is_empty() || !self.circuits_queued.is_empty() || !self.outbox.is_empty() || self.held.is_some()
        {
            return Some(Mono(0));
        }
        self.next_timer()
    }

    /// When time alone makes something due.
    fn next_timer(&self) -> Option<Mono> {
        let peers = self.timers.first().map(|&(due, _)| due);
        peers.into_iter().chain(self.survey.timeout()).chain(self.keepalive.timeout()).min()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Replaces the host candidates; they are sent to peers that are reached by relay. Peers reached otherwise hear from the new address.
    pub fn set_local_addresses(&mut self, now: Now, addresses: &[SocketAddr]) {
        if self.local_addresses != addresses {
            self.local_addresses = addresses.to_vec();
            for peer in &mut self.peers {
                peer.network_changed(now.mono, |ip| addresses.iter().any(|address| address.ip() == ip));
            }
            self.network_changed(now);
            self.announce_candidates(now);
        }
    }

    /// The system sends by another way than before, although the addresses may be the same: from which of them, it decides anew.
    pub fn route_changed(&mut self, now: Now) {
        for peer in &mut self.peers {
            peer.network_changed(now.mono, |_| false);
        }
        self.network_changed(now);
    }

    /// Takes the address at which the router at home says that it takes packets for us, by a port mapping that the driver has asked for. It is a
    /// candidate like others: nobody uses it before it is proved.
    pub fn set_mapped_address(&mut self, now: Now, mapped: Option<SocketAddr>) {
        if std::mem::replace(&mut self.mapped, mapped) != mapped {
            self.announce_candidates(now);
        }
    }

    /// Names the backbone node with which a tunnel is kept for ever, or none.
    pub fn set_home(&mut self, now: Now, home: Option<PeerInfo>) {
        let home = home.and_then(|info| {
            let index = self.learn(now.mono, info)?;
            self.peers[index as usize].hearsay.forget();
            self.mark_backbone(index);
            Some(index)
        });
        self.is_home_lost &= home == self.home;
        if std::mem::replace(&mut self.home, home) != home {
            self.network_changed(now);
        }
        if let Some(index) = self.home {
            self.ensure_route(now, index);
            self.touch(index);
        }
    }

    /// Allows or forbids direct paths. Forbidding drops those in use; data goes on by relay. The home tunnel is not concerned.
    pub fn set_direct(&mut self, now: Now, allowed: bool) {
        self.config.direct = allowed;
        if allowed {
            self.announce_candidates(now);
            return;
        }
        for index in 0..self.peers.len() as u32 {
            if !self.peers[index as usize].is_backbone {
                self.leave_direct_paths(now, index);
                self.withdraw_candidates(index);
            }
        }
    }

    /// Says whether requests to a service do no harm when they are repeated ([`Config::replay_safe`]), from the next first message on. What a
    /// service has said ends with the service: the driver takes it back.
    pub fn set_replay_safe(&mut self, service: ServicePort, is_safe: bool) {
        if is_safe {
            self.config.replay_safe.insert(service);
        } else {
            self.config.replay_safe.remove(&service);
        }
    }

    /// Adds what is known about a peer. The certificate was verified when it was made. Who has a home node is an agent, whatever
    /// another agent's record may have called it.
    pub fn learn_peer(&mut self, now: Now, info: PeerInfo) {
        let share = info.record_share();
        self.learn_agent(now.mono, info, share);
    }

    /// The same from a record of the peer's own. Where it says that it is, others may be: the addresses are used with care.
    pub fn learn_recorded_peer(&mut self, now: Now, mut info: PeerInfo) {
        let share = info.record_share();
        let addresses = self.dialable(std::mem::take(&mut info.addresses));
        if let Some(index) = self.learn_agent(now.mono, info, share).filter(|&index| self.home != Some(index)) {
            let record_len = share + addresses.len() * RECORD_ADDRESS_LEN_MIN;
            self.peers[index as usize].learn_hearsay(&addresses, record_len);
        }
    }

    fn learn_agent(&mut self, now: Mono, info: PeerInfo, record_share: usize) -> Option<u32> {
        let has_home = !info.homes.is_empty();
        let index = self.learn(now, info)?;
        if has_home {
            self.peers[index as usize].pay_for_homes(record_share);
        }
        if has_home && self.home != Some(index) {
            self.peers[index as usize].is_backbone = false;
            self.backbones.retain(|&backbone| backbone != index);
        }
        Some(index)
    }

    /// When this node has last sent a message of a handshake that is to be answered: in a moment, once the peer has computed its keys.
    pub fn last_handshake(&self) -> Option<Mono> {
        self.last_handshake
    }

    /// Makes sure there is a tunnel, or an attempt at one.
    pub fn connect(&mut self, now: Now, peer: &IdentityKey) -> Result<(), OpenStreamError> {
        let index = self.choose_instance(now.mono, peer)?;
        self.ensure_route(now, index);
        self.touch(index);
        Ok(())
    }

    /// Ends the tunnels with a peer, with all its instances, and tells it why.
    pub fn close_peer(&mut self, now: Now, peer: &IdentityKey, code: Code, reason: &str) {
        self.look_at_clocks(now);
        for index in self.slots_of(peer).to_vec() {
            self.close(now, index, code, reason);
        }
    }

    /// Ends the tunnel with one instance of a peer, and tells it why.
    pub fn close_instance(&mut self, now: Now, instance: &Instance, code: Code, reason: &str) {
        self.look_at_clocks(now);
        if let Some(index) = self.index_of_instance(instance) {
            self.close(now, index, code, reason);
        }
    }

    /// Ends every tunnel. Drain [`Node::poll_transmit`] once more, then drop the node.
    pub fn shutdown(&mut self, now: Now) {
        self.look_at_clocks(now);
        self.home = None;
        // Backbone nodes last: they carry the goodbyes to others.
        let mut indices: Vec<u32> = (0..self.peers.len() as u32).collect();
        indices.sort_by_key(|&index| self.peers[index as usize].is_backbone);
        for index in indices {
            self.close(now, index, Code::SHUTDOWN, "the agent is shutting down");
        }
    }

    /// Opens a stream, dialling if there is no tunnel yet; data may be written at once.
    pub fn open_stream(
        &mut self,
        now: Now,
        peer: &IdentityKey,
        header: &StreamHeader,
    ) -> Result<StreamHandle, OpenStreamError> {
        let index = self.choose_instance(now.mono, peer)?;
        self.open_stream_at(now, index, header)
    }

    /// As [`Node::open_stream`], to this instance of the peer and no other.
    pub fn open_stream_to(
        &mut self,
        now: Now,
        instance: &Instance,
        header: &StreamHeader,
    ) -> Result<StreamHandle, OpenStreamError> {
        let index = self.index_of_instance(instance).ok_or(OpenStreamError::UnknownPeer)?;
        self.open_stream_at(now, index, header)
    }

    fn open_stream_at(&mut self, now: Now, index: u32, header: &StreamHeader) -> Result<StreamHandle, OpenStreamError> {
        let tunnel = self.tunnel_or_new(now.mono, index);
        let stream = tunnel.transport.open_stream(header)?;
        let handle = tunnel.generation().handle(stream);
        self.peers[index as usize].begin_waiting(now.mono);
        self.ensure_route(now, index);
        self.touch(index);
        Ok(handle)
    }

    /// Takes a prefix of `data` into the stream; 0 means blocked until [`Event::Writable`].
    pub fn write(&mut self, now: Now, stream: StreamHandle, data: &mut Bytes) -> Result<usize, WriteError> {
        let tunnel = self.tunnel_of(stream).ok_or(WriteError::UnknownStream)?;
        let taken = tunnel.transport.write(stream.stream, data)?;
        if !self.is_early(stream) {
            self.ensure_route(now, stream.peer);
        }
        self.touch(stream.peer);
        Ok(taken)
    }

    /// Ends our direction of the stream; what was written is still delivered.
    pub fn finish(&mut self, _now: Now, stream: StreamHandle) -> Result<(), WriteError> {
        let tunnel = self.tunnel_of(stream).ok_or(WriteError::UnknownStream)?;
        tunnel.transport.finish(stream.stream)?;
        self.touch(stream.peer);
        Ok(())
    }

    /// Cuts our direction of the stream short. `reason` is at most 256 bytes.
    pub fn reset(&mut self, now: Now, stream: StreamHandle, code: Code, reason: &str) {
        if let Some(tunnel) = self.tunnel_of(stream) {
            tunnel.transport.reset(stream.stream, code, reason);
            self.drain_peer(now, stream.peer);
        }
    }

    /// Asks the peer to send no more on the stream. `reason` is at most 256 bytes.
    pub fn stop_sending(&mut self, now: Now, stream: StreamHandle, code: Code, reason: &str) {
        if let Some(tunnel) = self.tunnel_of(stream) {
            tunnel.transport.stop_sending(stream.stream, code, reason);
            self.drain_peer(now, stream.peer);
        }
    }

    /// Reads at most `len_max` bytes; reading gives the peer new credit.
    pub fn read(&mut self, now: Now, stream: StreamHandle, len_max: usize) -> Result<Read, ReadError> {
        let tunnel = self.tunnel_of(stream).ok_or(ReadError::UnknownStream)?;
        let read = tunnel.transport.read(stream.stream, len_max);
        self.drain_peer(now, stream.peer);
        read
    }

    /// Sends an unreliable message to a connected peer.
    pub fn send_datagram(
        &mut self,
        peer: &IdentityKey,
        port: ServicePort,
        data: Bytes,
    ) -> Result<(), SendDatagramError> {
        let index = self.index_of(peer).map_err(|_| SendDatagramError::NotConnected)?;
        let tunnel = self.peers[index as usize].tunnel.as_mut().filter(|tunnel| tunnel.is_established());
        tunnel.ok_or(SendDatagramError::NotConnected)?.transport.queue_datagram(port, data)?;
        self.touch(index);
        Ok(())
    }

    /// This node's identity key.
    pub fn key(&self) -> IdentityKey {
        self.keys.certificate.identity
    }

    /// One peer, if it is known.
    pub fn peer_status(&self, peer: &IdentityKey) -> Option<PeerStatus> {
        self.index_of(peer).ok().map(|index| self.status_at(index))
    }

    /// One instance of a peer, if it is known.
    pub fn instance_status(&self, instance: &Instance) -> Option<PeerStatus> {
        self.index_of_instance(instance).map(|index| self.status_at(index))
    }

    /// What a record or a handshake has shown of a peer: its address, among others.
    pub fn peer_certificate(&self, peer: &IdentityKey) -> Option<&Certificate> {
        self.peers[self.index_of(peer).ok()? as usize].certificate.as_ref()
    }

    /// Every peer known.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        (0..self.peers.len() as u32).map(|index| self.status_at(index))
    }

    /// The proved direct route to a connected instance: where a backbone node forwards, and from where it accepts, that client's relayed
    /// packets.
    pub fn validated_remote(&self, instance: &Instance) -> Option<Route> {
        self.validated_remote_of(self.index_of_instance(instance)?)
    }

    fn validated_remote_of(&self, index: u32) -> Option<Route> {
        let peer = &self.peers[index as usize];
        let path = peer.paths.active().filter(|path| peer.is_connected() && path.is_proved())?;
        match path.hop {
            Hop::Direct(route) => Some(route),
            Hop::Relay { .. } => None,
        }
    }

    /// Our address as the home node sees it; none while that is reached by a TLS link, which says nothing of UDP.
    pub fn observed_address(&self) -> Option<SocketAddr> {
        self.observed.filter(|_| !self.is_home_by_link())
    }

    /// The same while the home node is there to see us: what it said before may be true of another network only.
    pub fn current_observed_address(&self) -> Option<SocketAddr> {
        self.observed_address().filter(|_| self.home_path().is_some())
    }

    /// Whether the tunnel to the home node is up.
    pub fn is_home_connected(&self) -> bool {
        self.home.is_some_and(|index| self.peers[index as usize].is_connected())
    }

    /// What was counted so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the simulator checks after every step, for each tunnel. One whose keys are too old rests: its timers count for nothing.
    pub fn audit(&self, now: Mono) -> impl Iterator<Item = (IdentityKey, Audit)> + '_ {
        let audit = move |peer: &Peer, tunnel: &Tunnel| {
            let mut audit = tunnel.transport.audit();
            audit.timers.retain(|_| tunnel.can_seal(now));
            (peer.key, audit)
        };
        self.peers.iter().flat_map(move |peer| {
            let early = peer.early_tunnel();
            peer.tunnel.iter().chain(early).map(move |tunnel| audit(peer, tunnel))
        })
    }

    fn tunnel_or_new(&mut self, now: Mono, index: u32) -> &mut Tunnel {
        let own = self.keys.certificate.identity;
        let peer = &mut self.peers[index as usize];
        if peer.tunnel.is_none() {
            peer.generations += 1;
            let names = (index, peer.generations);
            peer.tunnel = Some(Tunnel::new(&self.config.transport, names, own < peer.key, now));
            peer.introduce_paths();
        }
        peer.tunnel.as_mut().expect("made above")
    }

    fn tunnel_of(&mut self, stream: StreamHandle) -> Option<&mut Tunnel> {
        self.peers.get_mut(stream.peer as usize)?.tunnels_mut().find(|tunnel| tunnel.names(stream))
    }

    /// Whether the stream came with early data of a session that is not in use yet.
    fn is_early(&self, stream: StreamHandle) -> bool {
        self.peers[stream.peer as usize].early_tunnel().is_some_and(|tunnel| tunnel.names(stream))
    }

    fn is_agent(&self) -> bool {
        self.config.role == Role::Agent
    }

    fn status_at(&self, index: u32) -> PeerStatus {
        self.peers[index as usize].status(|backbone| self.peers[backbone as usize].key)
    }

    fn path_kind(&self, hop: &Hop) -> PathKind {
        match *hop {
            Hop::Direct(route) if route.socket.is_link() => PathKind::Tls(route.remote),
            Hop::Direct(route) => PathKind::Direct(route.remote),
            Hop::Relay { backbone, .. } => PathKind::Relay(self.peers[backbone as usize].key),
        }
    }

    /// Puts a peer in the queue of those that may have something to send.
    fn touch(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        if !std::mem::replace(&mut peer.is_queued, true) {
            self.ready.push_back(index);
        }
    }

    /// Arms the timer of a peer that has nothing more to send for now.
    fn arm(&mut self, now: Mono, index: u32) {
        let keepalive = self.keepalive_of(index);
        let peer = &mut self.peers[index as usize];
        let wanted = peer.timeout(now, keepalive);
        if peer.armed == wanted {
            return;
        }
        if let Some(old) = std::mem::replace(&mut peer.armed, wanted) {
            self.timers.remove(&(old, index));
        }
        if let Some(new) = wanted {
            self.timers.insert((new, index));
        }
    }
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendDatagramError {
    /// There is no tunnel with the peer.
    #[error("no tunnel with the agent")]
    NotConnected,
    /// It does not fit.
    #[error(transparent)]
    Datagram(#[from] DatagramError),
}
