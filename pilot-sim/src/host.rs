//! A host: an address, a clock, and the machine that runs there, with what its disk would keep over a restart.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::mem::discriminant;
use std::net::SocketAddr;
use std::time::Duration;

use pilot_core::config::{Config, Keys};
use pilot_core::event::Event;
use pilot_core::id::{IdentityKey, InstanceId};
use pilot_core::identity::{Certificate, Identity, TransportKey};
use pilot_core::node::{Node, PeerInfo};
use pilot_core::rng::Rng;
use pilot_core::route::{Ecn, Route, SocketId, Transmit};
use pilot_core::time::{Mono, Now, UnixTime};
use pilot_relay::backbone::{Backbone, BackboneEvent, BackboneStatus};

use crate::application::Application;
use crate::invariants::{self, Violation};
use crate::realm::Site;
use crate::world::START;

/// Wall clock at the beginning of every world: a Friday in 2027.
const EPOCH: UnixTime = UnixTime(1_800_000_000_000_000_000);
/// Trains and events that one turn of a host may produce. A correct one stays below a hundred: whole windows leave in trains of 64 KiB.
const TURN_OUTPUT_MAX: usize = 10_000;
/// The socket on which a backbone node answers STUN on the port above.
const SECOND_STUN: SocketId = SocketId(1);
/// Local ports of further sockets: those of the ephemeral range on Linux.
const FIRST_EXTRA_PORT: u16 = 32_768;
/// How many there are before they come again.
const EXTRA_PORTS: u32 = 28_232;
/// From one to the next, so that they look as random as those that Linux gives: it has no divisor in common with their number.
const EXTRA_PORTS_STEP: u32 = 17_389;
/// Modifiers of the identities whose secret is the byte of their position, plus one, 32 times: found once, since each search takes a
/// million hashes (spec/address.md §2).
const MODIFIERS: [u64; 51] = [
    1_459_568, 115_065, 951_517, 498_379, 627_237, 3_791_378, 1_919_376, 1_776_724, 1_878_926, 225_831, 401_894,
    4_006_237, 873_010, 1_556_110, 116_478, 1_102_522, 1_802_690, 1_574_552, 238_733, 2_366_724, 727_857, 1_104_743,
    481_702, 662_859, 330_317, 31_587, 1_822_317, 2_017_370, 1_987_298, 2_004_016, 478_231, 180_685, 1_268_779,
    3_135_179, 1_078_613, 764_735, 218_479, 1_313_556, 297_001, 462_375, 740_083, 286_237, 156_069, 1_755_351, 616_548,
    1_486_071, 332_642, 632_800, 85_523, 404_740, 482_548,
];

/// The verbs that move datagrams and time. The fifth, `poll_event`, differs in what it tells.
pub(crate) trait Machine {
    /// Takes one datagram.
    fn handle_datagram(&mut self, now: Now, from: Route, ecn: Ecn, datagram: &mut [u8]);
    /// Does what has become due.
    fn handle_timeout(&mut self, now: Now);
    /// Appends the next datagram or train to `buf`.
    fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Transmit>;
    /// When `handle_timeout` wants to be called.
    fn poll_timeout(&self) -> Option<Mono>;
    /// The node inside, for its audit.
    fn node(&self) -> &Node;
}

impl Machine for Node {
    fn handle_datagram(&mut self, now: Now, from: Route, ecn: Ecn, datagram: &mut [u8]) {
        self.handle_datagram(now, from, ecn, datagram);
    }

    fn handle_timeout(&mut self, now: Now) {
        self.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.poll_transmit(now, buf)
    }

    fn poll_timeout(&self) -> Option<Mono> {
        self.poll_timeout()
    }

    fn node(&self) -> &Node {
        self
    }
}

impl Machine for Backbone {
    fn handle_datagram(&mut self, now: Now, from: Route, ecn: Ecn, datagram: &mut [u8]) {
        self.handle_datagram(now, from, ecn, datagram);
    }

    fn handle_timeout(&mut self, now: Now) {
        self.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.poll_transmit(now, buf)
    }

    fn poll_timeout(&self) -> Option<Mono> {
        self.poll_timeout()
    }

    fn node(&self) -> &Node {
        self.node()
    }
}

/// What runs on a host.
pub(crate) enum Program {
    /// An agent and what it does with its streams.
    Agent(Box<(Node, Application)>),
    /// A backbone node; its clients are the agents.
    Backbone(Box<Backbone>),
}

/// What a host is for.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    /// It runs an agent with these settings.
    Agent(Config),
    /// It runs a backbone node.
    Backbone,
}

/// What a host is made from, and made from again after a restart.
pub(crate) struct Disk {
    role: Role,
    identity: Identity,
    transport: TransportKey,
    certificate: Certificate,
    pub(crate) known: Vec<PeerInfo>,
    pub(crate) home: Option<PeerInfo>,
}

/// One host.
pub(crate) struct Host {
    pub(crate) site: Site,
    pub(crate) sockets: Sockets,
    /// How far its wall clock is ahead of the world's.
    pub(crate) clock_skew: Duration,
    pub(crate) disk: Disk,
    pub(crate) is_asleep: bool,
    /// What came in the moment in which it fell asleep, and waits in the socket.
    pub(crate) waiting: Vec<Input>,
    /// None while it is switched off.
    pub(crate) program: Option<Program>,
    boots: u32,
    rng: Rng,
}

/// The sockets beside the main one.
#[derive(Default)]
pub(crate) struct Sockets {
    ports: BTreeMap<SocketId, u16>,
    opened: u32,
}

/// Why a host gets its turn.
pub(crate) enum Input {
    /// A datagram arrived.
    Datagram { from: SocketAddr, at: SocketAddr, ecn: Ecn, datagram: Vec<u8> },
    /// Its timer is due.
    Timeout,
    /// Its program has done something.
    Nothing,
}

/// What a turn produced.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) datagrams: Vec<(Transmit, Vec<u8>)>,
    pub(crate) events: Vec<Happening>,
}

/// An event of either machine.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Agent(Event),
    Backbone(BackboneEvent),
}

impl Happening {
    /// Which event it is, without its content.
    pub(crate) fn discriminant(&self) -> impl Hash {
        match self {
            Self::Agent(event) => (Some(discriminant(event)), None),
            Self::Backbone(event) => (None, Some(discriminant(event))),
        }
    }
}

impl Host {
    pub(crate) fn new(position: usize, site: Site, role: Role, clock_skew: Duration, rng: Rng) -> Self {
        let disk = Disk::new(position, role, &rng, EPOCH + clock_skew);
        Self {
            site,
            sockets: Sockets::default(),
            clock_skew,
            disk,
            is_asleep: false,
            waiting: Vec::new(),
            program: None,
            boots: 0,
            rng,
        }
    }

    /// Starts what runs on this host, with what the disk holds and nothing else.
    pub(crate) fn boot(&mut self, now: Mono) {
        self.boots += 1;
        self.sockets.ports.clear();
        let seed = *self.rng.child(&format!("boot {}", self.boots)).secret_key();
        let now = self.clock(now);
        self.program = Some(match &self.disk.role {
            Role::Backbone => {
                self.sockets.ports.insert(SECOND_STUN, self.site.addresses[0].port() + 1);
                Program::Backbone(Box::new(Backbone::new(self.disk.keys(), seed, now)))
            }
            Role::Agent(config) => {
                let node = self.boot_node(config.clone(), seed, now);
                Program::Agent(Box::new((node, Application::default())))
            }
        });
    }

    fn boot_node(&self, config: Config, seed: [u8; 32], now: Now) -> Node {
        let mut node = Node::new(config, self.disk.keys(), seed, now);
        node.set_local_addresses(now, &self.site.addresses);
        for peer in &self.disk.known {
            node.learn_peer(now, peer.clone());
        }
        node.set_home(now, self.disk.home.clone());
        node
    }

    /// The address from which a route leads out, if the host has it and the socket.
    pub(crate) fn source(&self, route: &Route) -> Option<SocketAddr> {
        let mut source = self.site.source_for(route.remote, route.local_ip)?;
        if route.socket != SocketId::default() {
            source.set_port(*self.sockets.ports.get(&route.socket)?);
        }
        Some(source)
    }

    /// Whether a datagram for this address finds a socket.
    pub(crate) fn listens_at(&self, address: SocketAddr) -> bool {
        let is_main = self.site.all().any(|own| own == address);
        is_main || (self.site.has(address.ip()) && self.sockets.at(address.port()) != SocketId::default())
    }

    /// Both clocks of this host.
    pub(crate) fn clock(&self, mono: Mono) -> Now {
        Now { mono, unix: EPOCH + mono.since(START) + self.clock_skew }
    }

    pub(crate) fn key(&self) -> IdentityKey {
        self.disk.identity.key()
    }

    /// The certificate, as a directory would give it out.
    pub(crate) fn certificate(&self) -> Certificate {
        self.disk.certificate.clone()
    }

    pub(crate) fn machine(&self) -> Option<&dyn Machine> {
        self.program.as_ref().map(Program::machine)
    }

    pub(crate) fn agent(&self) -> Option<&(Node, Application)> {
        match self.program.as_ref()? {
            Program::Agent(agent) => Some(agent),
            Program::Backbone(_) => None,
        }
    }

    pub(crate) fn agent_mut(&mut self) -> Option<&mut (Node, Application)> {
        match self.program.as_mut()? {
            Program::Agent(agent) => Some(agent),
            Program::Backbone(_) => None,
        }
    }

    pub(crate) fn backbone_status(&self) -> Option<BackboneStatus> {
        match self.program.as_ref()? {
            Program::Agent(_) => None,
            Program::Backbone(backbone) => Some(backbone.status()),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Mono> {
        self.machine()?.poll_timeout().filter(|_| !self.is_asleep)
    }

    /// One turn of the host's loop: one input, then everything that follows from it, then the invariants.
    pub(crate) fn turn(&mut self, mono: Mono, input: Input) -> Result<Turn, Violation> {
        let now = self.clock(mono);
        let mut turn = Turn::default();
        let Some(program) = &mut self.program else { return Ok(turn) };
        match input {
            Input::Datagram { from, at, ecn, mut datagram } => {
                let socket = self.sockets.at(at.port());
                let route = Route { socket, local_ip: Some(at.ip()), remote: from };
                program.machine_mut().handle_datagram(now, route, ecn, &mut datagram);
            }
            Input::Timeout => program.machine_mut().handle_timeout(now),
            Input::Nothing => {}
        }
        program.drain(now, &mut turn, &mut self.sockets)?;
        program.handle_due(now, &mut turn, &mut self.sockets)?;
        invariants::check_node(program.machine().node(), mono)?;
        Ok(turn)
    }
}

impl Sockets {
    /// Opens a socket on a port of its own.
    fn open(&mut self, socket: SocketId) {
        self.opened += 1;
        let position = self.opened.wrapping_mul(EXTRA_PORTS_STEP) % EXTRA_PORTS;
        self.ports.insert(socket, FIRST_EXTRA_PORT + position as u16);
    }

    fn close(&mut self, socket: SocketId) {
        self.ports.remove(&socket);
    }

    /// The socket at a local port: the main one, if no other is.
    fn at(&self, port: u16) -> SocketId {
        self.ports.iter().find(|(_, at)| **at == port).map(|(&id, _)| id).unwrap_or_default()
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.ports.len()
    }
}

impl Program {
    fn machine(&self) -> &dyn Machine {
        match self {
            Self::Agent(agent) => &agent.0,
            Self::Backbone(backbone) => &**backbone,
        }
    }

    fn machine_mut(&mut self) -> &mut dyn Machine {
        match self {
            Self::Agent(agent) => &mut agent.0,
            Self::Backbone(backbone) => &mut **backbone,
        }
    }

    /// Handles a timer that is due at this very moment; afterwards none may be.
    fn handle_due(&mut self, now: Now, turn: &mut Turn, sockets: &mut Sockets) -> Result<(), Violation> {
        let is_due = |machine: &dyn Machine| machine.poll_timeout().filter(|&due| due <= now.mono);
        if is_due(self.machine_mut()).is_none() {
            return Ok(());
        }
        self.machine_mut().handle_timeout(now);
        self.drain(now, turn, sockets)?;
        is_due(self.machine_mut()).map_or(Ok(()), |due| Err(Violation::Timer(now.mono.since(due))))
    }

    /// Takes events and datagrams until there are no more. Events go to the program first: what it writes leaves in the same turn.
    fn drain(&mut self, now: Now, turn: &mut Turn, sockets: &mut Sockets) -> Result<(), Violation> {
        for _ in 0..TURN_OUTPUT_MAX {
            if let Some(happening) = self.poll_event(now, sockets)? {
                turn.events.push(happening);
            } else if !self.transmit(now, turn) {
                return Ok(());
            }
        }
        Err(Violation::Livelock(TURN_OUTPUT_MAX))
    }

    fn poll_event(&mut self, now: Now, sockets: &mut Sockets) -> Result<Option<Happening>, Violation> {
        match self {
            Self::Agent(agent) => {
                let (node, application) = &mut **agent;
                let Some(event) = node.poll_event() else { return Ok(None) };
                if let Event::OpenSockets(wanted) = &event {
                    wanted.iter().for_each(|&socket| sockets.open(socket));
                    node.sockets_opened(now, wanted);
                } else if let Event::CloseSockets(useless) = &event {
                    useless.iter().for_each(|&socket| sockets.close(socket));
                } else {
                    application.handle(node, now, &event)?;
                }
                Ok(Some(Happening::Agent(event)))
            }
            Self::Backbone(backbone) => Ok(backbone.poll_event().map(Happening::Backbone)),
        }
    }

    /// Takes one transmit and cuts its train into datagrams, as the kernel does. Returns whether there was one.
    fn transmit(&mut self, now: Now, turn: &mut Turn) -> bool {
        let mut buf = Vec::new();
        let Some(transmit) = self.machine_mut().poll_transmit(now, &mut buf) else { return false };
        assert_eq!(buf.len(), transmit.len, "a transmit appends what it says");
        for datagram in buf.chunks(transmit.segment_size.unwrap_or(transmit.len).max(1)) {
            turn.datagrams.push((transmit, datagram.to_vec()));
        }
        true
    }
}

impl Disk {
    fn new(position: usize, role: Role, rng: &Rng, now: UnixTime) -> Self {
        let identity = committed_identity(position);
        let transport = TransportKey::from_secret(*rng.child("transport key").secret_key());
        let instance = InstanceId(rng.child("instance").array());
        let certificate = Certificate::issue(&identity, &transport, instance, 1, now);
        Self { role, identity, transport, certificate, known: Vec::new(), home: None }
    }

    fn keys(&self) -> Keys {
        Keys {
            identity: self.identity.clone(),
            transport: vec![self.transport.clone()],
            certificate: self.certificate.clone(),
        }
    }
}

/// The identity of the host at this position.
///
/// # Panics
/// If there are more hosts than committed identities.
fn committed_identity(position: usize) -> Identity {
    let secret = [u8::try_from(position + 1).expect("few hosts"); 32];
    Identity::restore(secret, MODIFIERS[position]).expect("the committed modifier gives an address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_modifiers_are_the_first_hits() {
        let first_hit = |position: usize| Identity::generate([position as u8 + 1; 32]).modifier();
        assert_eq!(std::array::from_fn(first_hit), MODIFIERS);
    }
}
