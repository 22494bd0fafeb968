//! A node with its socket and the smallest loop that drives them: what the library costs without the daemon around it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pilot_core::config::{Config, Keys, Role};
use pilot_core::event::Event;
use pilot_core::id::{IdentityKey, InstanceId};
use pilot_core::identity::{Certificate, Identity, TransportKey};
use pilot_core::node::{Node, PeerInfo};
use pilot_core::route::Transmit;
use pilot_core::time::Now;
use pilot_core::transport::TransportConfig;
use pilot_daemon::clock;
use pilot_daemon::net::{RecvBatch, Sent, UdpSocket};

/// Identities as (seed, modifier), worked out beforehand: deriving an address takes a million hashes.
const IDENTITIES: [([u8; 32], u64); 2] = [([1; 32], 1_459_568), ([2; 32], 115_065)];

/// Deadlines nearer than the runtime's timers can tell are awaited by looking again.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

/// What a program does with a node.
pub(crate) trait Program {
    /// Takes an event; verbs of the node may be called.
    fn on_event(&mut self, now: Now, node: &mut Node, event: Event);

    /// Whether the program has done what it was made for.
    fn is_done(&self) -> bool;
}

/// One node on loopback.
pub(crate) struct Endpoint {
    pub(crate) node: Node,
    socket: UdpSocket,
    batch: RecvBatch,
    buffer: Vec<u8>,
    blocked: Option<(Transmit, usize)>,
}

impl Endpoint {
    /// One of the two nodes of a bench, at a port that the system chooses. Must be called inside a runtime.
    pub(crate) fn bind(which: usize, packet_len_max: usize) -> std::io::Result<Self> {
        let now = clock::now();
        let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let config = Config::new(Role::Agent).transport(TransportConfig::default().packet_len_max(packet_len_max));
        let node = Node::new(config, keys(which, now), [which as u8; 32], now);
        Ok(Self { node, socket, batch: RecvBatch::new(), buffer: Vec::with_capacity(1 << 16), blocked: None })
    }

    /// How another endpoint learns this one.
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// The key of either node.
    pub(crate) fn key_of(which: usize) -> IdentityKey {
        identity(which).key()
    }

    /// Tells this node where the other one is.
    pub(crate) fn learn(&mut self, which: usize, address: SocketAddr) {
        let info =
            PeerInfo { key: Self::key_of(which), certificate: None, addresses: vec![address], homes: Vec::new() };
        self.node.learn_peer(clock::now(), info);
    }

    /// Runs the loop until the program is done.
    pub(crate) async fn run(&mut self, program: &mut impl Program) -> std::io::Result<()> {
        loop {
            let now = clock::now();
            self.settle(now, program);
            if program.is_done() {
                return Ok(());
            }
            self.wait().await?;
            self.receive(clock::now());
            self.node.handle_timeout(clock::now());
        }
    }

    async fn wait(&mut self) -> std::io::Result<()> {
        if self.blocked.is_some() {
            return self.socket.writable().await;
        }
        let left = self.node.poll_timeout().map(|at| at.since(clock::now().mono));
        match left {
            None => self.socket.readable().await,
            Some(left) if left < TIMER_RESOLUTION => {
                tokio::task::yield_now().await;
                Ok(())
            }
            Some(left) => tokio::time::timeout(left, self.socket.readable()).await.unwrap_or(Ok(())),
        }
    }

    fn receive(&mut self, now: Now) {
        for _ in 0..4 {
            if self.socket.recv(&mut self.batch).is_err() {
                return;
            }
            for datagram in self.batch.datagrams() {
                self.node.handle_datagram(now, datagram.route, datagram.ecn, datagram.bytes);
            }
        }
    }

    fn settle(&mut self, now: Now, program: &mut impl Program) {
        for _ in 0..8 {
            let mut has_moved = false;
            while let Some(event) = self.node.poll_event() {
                program.on_event(now, &mut self.node, event);
                has_moved = true;
            }
            if !self.transmit(now) && !has_moved {
                return;
            }
        }
    }

    fn transmit(&mut self, now: Now) -> bool {
        for sent in 0..16 {
            if self.blocked.is_none() {
                self.buffer.clear();
                self.blocked = self.node.poll_transmit(now, &mut self.buffer).map(|transmit| (transmit, 0));
            }
            let Some((transmit, start)) = self.blocked else { return sent > 0 };
            match self.socket.send(&transmit, &self.buffer[start..transmit.len]) {
                Sent::All => self.blocked = None,
                Sent::Blocked(more) => {
                    self.blocked = Some((transmit, start + more));
                    return false;
                }
            }
        }
        true
    }
}

fn identity(which: usize) -> Identity {
    let (seed, modifier) = IDENTITIES[which];
    Identity::restore(seed, modifier).expect("a committed identity")
}

fn keys(which: usize, now: Now) -> Keys {
    let identity = identity(which);
    let transport = TransportKey::from_secret([which as u8 + 10; 32]);
    let certificate = Certificate::issue(&identity, &transport, InstanceId([which as u8; 8]), 1, now.unix);
    Keys { identity, transport: vec![transport], certificate }
}
