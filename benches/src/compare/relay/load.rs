//! Whom relays work for: pairs of a sender and a receiver, all in one process.
//!
//! Beside a backbone node they are agents with a tunnel to it and a circuit between them, made by the core as ever; what is counted then goes
//! along their circuits under the ids that they have got. It need not be sealed, for the node cannot tell.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use pilot_core::config::{Config, Keys, Role};
use pilot_core::id::{IdentityKey, InstanceId, ServicePort};
use pilot_core::identity::{Certificate, Identity, TransportKey};
use pilot_core::node::{Node, PeerInfo};
use pilot_core::record::Home;
use pilot_core::route::{Ecn, Route, Transmit};
use pilot_core::ticket::BackboneTicket;
use pilot_core::time::Mono;
use pilot_core::wire::stream_header::StreamHeader;
use pilot_core::wire::{PacketKind, RelayHeader, peek};
use pilot_daemon::clock;
use pilot_daemon::home::entropy;
use pilot_daemon::net::{RecvBatch, Sent, UdpSocket};

use super::{By, DATAGRAM_LEN, Load, SESSION_LEN, TRAIN};
use crate::compare::systems::identities;
use crate::error::BenchError;

/// Trains that have not come after this are lost: far longer than a relay that works is off its core.
const LOST_AFTER: Duration = Duration::from_millis(100);
/// What making circuits may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sender and a receiver.
struct Pair {
    sender: End,
    receiver: End,
    train: Vec<u8>,
    transmit: Transmit,
    sent: u64,
    came: u64,
    /// When the last of them came.
    heard: Mono,
    lost: u64,
}

/// A socket, and the agent that it belongs to where there is one.
struct End {
    socket: UdpSocket,
    node: Option<Node>,
    /// By which circuit its packets leave.
    circuit: Option<[u8; RelayHeader::LEN]>,
    buffer: Vec<u8>,
}

/// All pairs, ready to send.
pub(crate) struct Pairs {
    pairs: Vec<Pair>,
    batch: RecvBatch,
}

impl Pairs {
    /// Makes them known to the relay. Must be called inside a tokio runtime.
    pub(crate) async fn meet(load: &Load) -> Result<Self, BenchError> {
        let mut batch = RecvBatch::new();
        let pairs = match &load.by {
            By::Forwarder(relay) => by_forwarder(*relay, load.pairs).await?,
            By::Backbone(ticket) => {
                by_backbone(&ticket.parse().map_err(BenchError::wrong)?, load.pairs, &mut batch).await?
            }
        };
        Ok(Self { pairs, batch })
    }

    /// Lets them send for so long. Returns how many datagrams came, and how many did not.
    pub(crate) async fn send(&mut self, time: Duration) -> Result<[u64; 2], BenchError> {
        let start = clock::now().mono;
        for pair in &mut self.pairs {
            pair.heard = start;
        }
        loop {
            let now = clock::now();
            for pair in &mut self.pairs {
                pair.turn(now.mono, &mut self.batch);
            }
            if now.mono.since(start) >= time {
                let sum = |count: fn(&Pair) -> u64| self.pairs.iter().map(count).sum();
                return Ok([sum(|pair| pair.came), sum(|pair| pair.lost)]);
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Pair {
    fn new(sender: End, receiver: End, header: &[u8], relay: SocketAddr) -> Self {
        let mut datagram = vec![7; DATAGRAM_LEN];
        datagram[..header.len()].copy_from_slice(header);
        let train = datagram.repeat(TRAIN);
        let transmit = Transmit {
            route: Route::to(relay),
            ecn: Ecn::NotEct,
            ttl: None,
            segment_size: Some(DATAGRAM_LEN),
            len: train.len(),
        };
        Self { sender, receiver, train, transmit, sent: 0, came: 0, heard: Mono::default(), lost: 0 }
    }

    /// Takes what has come, and sends as far as it may.
    fn turn(&mut self, now: Mono, batch: &mut RecvBatch) {
        while self.receiver.socket.recv(batch).is_ok() {
            self.came += batch.datagrams().filter(|datagram| datagram.bytes.len() == DATAGRAM_LEN).count() as u64;
            self.heard = now;
        }
        // Who was given up may come all the same.
        self.lost = self.lost.min(self.sent - self.came);
        let under_way = self.sent - self.came - self.lost;
        if under_way > 0 && now.since(self.heard) > LOST_AFTER {
            self.lost += under_way;
        }
        // One train of each pair is under way: the relay always has some, and no buffer of the kernel overflows.
        if self.sent == self.came + self.lost && self.sender.socket.send(&self.transmit, &self.train) == Sent::All {
            self.heard = now;
            self.sent += TRAIN as u64;
        }
    }
}

async fn by_forwarder(relay: SocketAddr, count: usize) -> Result<Vec<Pair>, BenchError> {
    let mut pairs = Vec::with_capacity(count);
    for number in 0..count {
        let (sender, mut receiver) = (End::new(None)?, End::new(None)?);
        let mut session = [0; SESSION_LEN];
        session[..8].copy_from_slice(&number.to_be_bytes());
        let len = session.len();
        let hello = Transmit { route: Route::to(relay), ecn: Ecn::NotEct, ttl: None, segment_size: None, len };
        receiver.socket.writable().await?;
        if receiver.socket.send(&hello, &session) != Sent::All {
            return Err(BenchError::wrong("no room for one datagram"));
        }
        pairs.push(Pair::new(sender, receiver, &session, relay));
    }
    Ok(pairs)
}

/// Agents that are at home at the node, every second of which calls the one before.
async fn by_backbone(ticket: &BackboneTicket, count: usize, batch: &mut RecvBatch) -> Result<Vec<Pair>, BenchError> {
    let ip: Ipv4Addr = ticket.host.to_string().parse().map_err(BenchError::wrong)?;
    let relay = SocketAddr::from((ip, ticket.port));
    let home = Home { key: ticket.identity, addresses: vec![relay] };
    let info = PeerInfo { key: home.key, certificate: None, addresses: vec![relay], homes: Vec::new() };
    let identities = identities(2 * count)?;
    let start = clock::now();
    let mut ends = Vec::new();
    for identity in &identities {
        let mut node = node(identity)?;
        node.set_home(start, Some(info.clone()));
        node.set_direct(start, false);
        ends.push(End::new(Some(node))?);
    }
    let mut has_called = false;
    while ends.iter().skip(1).step_by(2).any(|end| end.circuit.is_none()) {
        let now = clock::now();
        if now.mono.since(start.mono) > PATIENCE {
            return Err(BenchError::wrong("no circuits"));
        }
        ends.iter_mut().for_each(|end| end.turn(batch));
        let is_home = |end: &End| end.node.as_ref().is_some_and(Node::is_home_connected);
        if !has_called && ends.iter().all(is_home) {
            has_called = true;
            for (called, caller) in identities.iter().zip(&mut ends[1..]).step_by(2) {
                caller.call(called.key(), &home)?;
            }
        }
        tokio::task::yield_now().await;
    }
    // What they still have to say about the stream that made the circuit is said.
    let settled = clock::now().mono;
    while clock::now().mono.since(settled) < Duration::from_millis(200) {
        ends.iter_mut().for_each(|end| end.turn(batch));
        tokio::task::yield_now().await;
    }
    let mut pairs = Vec::with_capacity(count);
    let mut ends = ends.into_iter();
    while let (Some(receiver), Some(sender)) = (ends.next(), ends.next()) {
        let header = sender.circuit.ok_or_else(|| BenchError::wrong("no circuit"))?;
        pairs.push(Pair::new(sender, receiver, &header, relay));
    }
    Ok(pairs)
}

fn node(identity: &Identity) -> Result<Node, BenchError> {
    let now = clock::now();
    let transport = TransportKey::from_secret(entropy().map_err(BenchError::wrong)?);
    let certificate = Certificate::issue(identity, &transport, InstanceId([1; 8]), 1, now.unix);
    let keys = Keys { identity: identity.clone(), transport: vec![transport], certificate };
    Ok(Node::new(Config::new(Role::Agent), keys, entropy().map_err(BenchError::wrong)?, now))
}

impl End {
    fn new(node: Option<Node>) -> Result<Self, BenchError> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { socket, node, circuit: None, buffer: Vec::new() })
    }

    /// Opens a stream to an agent that only a relay reaches.
    fn call(&mut self, peer: IdentityKey, home: &Home) -> Result<(), BenchError> {
        let Some(node) = &mut self.node else { return Ok(()) };
        let now = clock::now();
        node.learn_peer(
            now,
            PeerInfo { key: peer, certificate: None, addresses: Vec::new(), homes: vec![home.clone()] },
        );
        let stream = node.open_stream(now, &peer, &StreamHeader::new(ServicePort::ECHO)).map_err(BenchError::wrong)?;
        node.write(now, stream, &mut Bytes::from_static(b"hello")).map_err(BenchError::wrong)?;
        Ok(())
    }

    /// Drives the agent once, and notes by which circuit it sends.
    fn turn(&mut self, batch: &mut RecvBatch) {
        let Some(node) = &mut self.node else { return };
        let now = clock::now();
        if self.socket.recv(batch).is_ok() {
            for datagram in batch.datagrams() {
                node.handle_datagram(now, datagram.route, datagram.ecn, datagram.bytes);
            }
        }
        node.handle_timeout(now);
        while node.poll_event().is_some() {}
        loop {
            self.buffer.clear();
            let Some(transmit) = node.poll_transmit(now, &mut self.buffer) else { return };
            if let (Ok(PacketKind::Relay), Some(header)) = (peek(&self.buffer), self.buffer.first_chunk()) {
                self.circuit = Some(*header);
            }
            // What finds no room is lost, and repeated.
            let _lost = self.socket.send(&transmit, &self.buffer);
        }
    }
}
