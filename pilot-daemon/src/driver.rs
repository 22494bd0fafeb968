//! The loop: one task owns the node, the socket and the timer.
//!
//! Wait for one thing, apply it, settle (streams to the node, events from it, packets out), stay awake for a moment, then
//! sleep until the node's next timer. Everything else in the process talks to it through two doors: [`Command`]s over a bounded channel, and the
//! queues of streams ([`DirtyList`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::event::{ConnectError, Event, PathKind, StreamHandle};
use pilot_core::id::{IdentityKey, ServicePort};
use pilot_core::node::{Node, OpenStreamError, PeerInfo, PeerStatus};
use pilot_core::route::{Ecn, SocketId, Transmit};
use pilot_core::time::{Mono, Now};
use pilot_core::transport::{self, Code, Read, ReadError, WriteError};
use pilot_core::wire::stream_header::StreamHeader;
use tokio::sync::{mpsc, oneshot, watch};

use crate::api::types::Transport;
use crate::clock;
use crate::datagrams::{Datagram, Datagrams};
use crate::home::Home;
use crate::net::{NetCounters, RecvBatch, Sent, UdpSocket};
use crate::org::Orgs;
use crate::patience::Patience;
use crate::renewal::{EntropyFeed, Fresh};
use crate::rules::{Caller, Decision, Rules};
use crate::services::inbox::Inbox;
use crate::services::{Incoming, Refused, ServiceOptions, Services, builtin, service_name};
use crate::sockets::{SocketRequest, Sockets};
use crate::stream::{DirtyList, EndedBy, QUEUE_MAX, Shared, Stream, StreamError};
use crate::timer::Timer;
use crate::tls::{LinkInput, Links, frame};

/// Commands that wait; callers wait in turn when it is full.
pub(crate) const COMMANDS_MAX: usize = 256;
/// Receive calls per turn: a flood of datagrams must not keep timers and programs waiting (8 x 64 KiB each).
const RECEIVES_PER_TURN: usize = 4;
/// Trains sent per round, so that a fast sender still reads its acknowledgements: 1 MiB.
const TRANSMITS_PER_ROUND: usize = 16;
/// Rounds per turn, for the same reason.
const ROUNDS_PER_TURN: usize = 8;
/// Room for one train.
const TRANSMIT_BUFFER_LEN: usize = 64 * 1024;
/// The directories of neighbours are read again at most this often when a stranger calls.
const NEIGHBOURS_INTERVAL: Duration = Duration::from_millis(100);
/// Chunks of datagrams from TLS links that wait, of 16 KiB at most; TCP waits in turn.
pub(crate) const LINK_INPUTS_MAX: usize = 16;
/// Streams that wait until their peers allow more, be it that there is no tunnel yet: a large burst of calls.
const OPENS_WAITING_MAX: usize = 4_096;
/// Callers that wait for tunnels at once.
const CONNECTING_MAX: usize = 4_096;

/// Something to do with the node, carried out between two turns.
pub(crate) type Command = Box<dyn FnOnce(&mut Core, Now) + Send>;

/// Whether the home node is there, as the registration needs to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HomeLink {
    pub(crate) connected: bool,
    /// Counts connections: each needs a registration.
    pub(crate) connections: u64,
    /// How it is reached, while it is.
    pub(crate) transport: Option<Transport>,
}

/// The node and what hangs on it; everything here is synchronous.
pub(crate) struct Core {
    pub(crate) node: Node,
    pub(crate) services: Services,
    pub(crate) datagrams: Datagrams,
    pub(crate) net: NetCounters,
    pub(crate) links: Links,
    streams: BTreeMap<StreamHandle, Arc<Shared>>,
    dirty: Arc<DirtyList>,
    connecting: Vec<(IdentityKey, oneshot::Sender<Result<PeerStatus, ConnectError>>)>,
    opens_waiting: Vec<Open>,
    home_link: watch::Sender<HomeLink>,
    /// The main socket as the home node sees it, while it does.
    pub(crate) observed: watch::Sender<Option<SocketAddr>>,
    neighbours: Neighbours,
    pub(crate) rules: Rules,
    orgs: Arc<Orgs>,
    pub(crate) org_calls: mpsc::Sender<Incoming>,
    inbox: Inbox,
    /// What the node wants of the driver's sockets.
    socket_requests: Vec<SocketRequest>,
    is_stopping: bool,
}

/// A stream that somebody wants.
pub(crate) struct Open {
    pub(crate) peer: IdentityKey,
    pub(crate) header: StreamHeader,
    /// All that there is to say, if it is known: it leaves with what opens the stream.
    pub(crate) request: Option<Bytes>,
    pub(crate) opened: oneshot::Sender<Result<Stream, OpenStreamError>>,
}

/// Identities of the same `PILOT_HOME`.
struct Neighbours {
    home: Home,
    names: BTreeMap<IdentityKey, String>,
    read_at: Option<Mono>,
}

/// What [`Driver`] is made of.
pub(crate) struct Driver {
    core: Core,
    socket: UdpSocket,
    sockets: Sockets,
    timer: Timer,
    entropy: EntropyFeed,
    commands: mpsc::Receiver<Command>,
    link_inputs: mpsc::Receiver<LinkInput>,
    dirty: Arc<DirtyList>,
    batch: RecvBatch,
    buffer: Vec<u8>,
    /// A train that did not leave whole, and how much of it did.
    blocked: Option<(Transmit, usize)>,
    patience: Patience,
}

/// One thing that happened.
enum Input {
    Readable,
    /// One of the sockets beside the main one.
    ReadableBeside(SocketId),
    Writable,
    Timer,
    Streams,
    Command(Command),
    Link(LinkInput),
    /// Nobody is left to give commands.
    Abandoned,
}

impl Driver {
    pub(crate) fn new(
        core: Core,
        socket: UdpSocket,
        commands: mpsc::Receiver<Command>,
        link_inputs: mpsc::Receiver<LinkInput>,
    ) -> std::io::Result<Self> {
        let dirty = Arc::clone(&core.dirty);
        let buffer = Vec::with_capacity(TRANSMIT_BUFFER_LEN);
        let timer = Timer::new()?;
        let entropy = EntropyFeed::new(clock::now().mono);
        let (batch, blocked) = (RecvBatch::new(), None);
        Ok(Self {
            core,
            socket,
            sockets: Sockets::default(),
            timer,
            entropy,
            commands,
            link_inputs,
            dirty,
            batch,
            buffer,
            blocked,
            patience: Patience::default(),
        })
    }

    /// Runs until a command stops the node or nobody is left to give one.
    pub(crate) async fn run(mut self) {
        self.settle(clock::now());
        while !self.core.is_stopping {
            let input = self.wait().await;
            let now = clock::now();
            match self.entropy.take(now) {
                Some(Fresh::Entropy(entropy)) => self.core.node.reseed(&entropy),
                Some(Fresh::Resumed(entropy)) => self.core.node.resume(now, &entropy),
                None => {}
            }
            if !matches!(input, Input::Timer) {
                self.patience.on_input(now.mono);
            }
            self.apply(now, input);
            self.settle(now);
        }
        self.core.close_all();
    }

    async fn wait(&mut self) -> Input {
        // While the socket is blocked the node always has something due: only room in the socket helps.
        let blocked = self.blocked.map(|(transmit, _)| transmit.route.socket);
        let is_blocked = blocked.is_some();
        let blocked_beside = blocked.filter(|socket| *socket != SocketId::default());
        let deadline = self.core.deadline().filter(|_| !is_blocked);
        let last_handshake = self.core.node.last_handshake();
        loop {
            let now = clock::now();
            let left = deadline.map(|deadline| deadline.since(now.mono));
            let is_due = left.is_some_and(|left| left.is_zero());
            let is_awake = is_due || self.patience.stays_awake(now.mono, last_handshake, left);
            if !is_awake {
                // Only who goes to sleep sets the timer: in a virtual machine that takes longer than a packet does.
                self.timer.arm(now, deadline);
            } else if !is_due {
                std::thread::yield_now();
                self.patience.gave_way(now.mono, clock::now().mono);
            }
            tokio::select! {
                _ = self.socket.readable() => return Input::Readable,
                () = self.dirty.notified() => return Input::Streams,
                socket = self.sockets.readable() => return Input::ReadableBeside(socket),
                _ = self.socket.writable(), if is_blocked && blocked_beside.is_none() => return Input::Writable,
                () = self.sockets.writable(blocked_beside.unwrap_or_default()), if blocked_beside.is_some() => return Input::Writable,
                () = self.timer.expired(), if !is_blocked => return Input::Timer,
                Some(input) = self.link_inputs.recv() => return Input::Link(input),
                command = self.commands.recv() => return command.map_or(Input::Abandoned, Input::Command),
                // Comes back once the runtime has asked the system for events, without waiting for one.
                () = tokio::task::yield_now(), if is_awake => if is_due { return Input::Timer },
            }
        }
    }

    fn apply(&mut self, now: Now, input: Input) {
        match input {
            Input::Readable => self.receive(now, SocketId::default()),
            Input::ReadableBeside(socket) => self.receive(now, socket),
            Input::Timer => self.core.handle_timeout(now),
            Input::Command(command) => self.obey(now, command),
            Input::Link(input) => self.core.take_from_link(now, input),
            Input::Abandoned => self.core.stop(now),
            // What they announce is done by settling.
            Input::Writable | Input::Streams => {}
        }
    }

    /// Does what it was told, with all that waits already: calls made at once leave in one train.
    fn obey(&mut self, now: Now, first: Command) {
        first(&mut self.core, now);
        for _ in 1..COMMANDS_MAX {
            let Ok(command) = self.commands.try_recv() else { return };
            command(&mut self.core, now);
        }
    }

    fn receive(&mut self, now: Now, socket: SocketId) {
        let main = (socket == SocketId::default()).then_some(&mut self.socket);
        let Some(socket) = main.or_else(|| self.sockets.get_mut(socket)) else { return };
        for _ in 0..RECEIVES_PER_TURN {
            if socket.recv(&mut self.batch).is_err() {
                return;
            }
            for datagram in self.batch.datagrams() {
                self.core.node.handle_datagram(now, datagram.route, datagram.ecn, datagram.bytes);
            }
        }
    }

    /// Lets everything that follows from the input happen, within bounds; what is left is due at once.
    fn settle(&mut self, now: Now) {
        for _ in 0..ROUNDS_PER_TURN {
            let has_moved = self.core.pump(now);
            self.handle_socket_requests(now);
            let has_sent = self.transmit(now);
            if !has_moved && !has_sent {
                break;
            }
        }
        self.core.net = self.socket.counters();
        self.core.node.make_ahead();
    }

    /// Opens and closes the sockets that the node has asked for.
    fn handle_socket_requests(&mut self, now: Now) {
        for request in std::mem::take(&mut self.core.socket_requests) {
            let opened = self.sockets.handle(request, self.socket.local_addr().ip());
            self.core.node.sockets_opened(now, &opened);
        }
    }

    /// Sends what the node has to send; tells whether it sent anything.
    fn transmit(&mut self, now: Now) -> bool {
        for sent in 0..TRANSMITS_PER_ROUND {
            if self.blocked.is_none() {
                self.buffer.clear();
                self.blocked = self.core.node.poll_transmit(now, &mut self.buffer).map(|transmit| (transmit, 0));
            }
            let Some((transmit, start)) = self.blocked else { return sent > 0 };
            if transmit.route.socket.is_link() {
                self.core.links.send(&transmit, &self.buffer[..transmit.len]);
                self.blocked = None;
                continue;
            }
            let socket = transmit.route.socket;
            let main = (socket == SocketId::default()).then_some(&mut self.socket);
            let Some(socket) = main.or_else(|| self.sockets.get_mut(socket)) else {
                // Closed meanwhile: what was to leave by it is lost.
                self.blocked = None;
                continue;
            };
            match socket.send(&transmit, &self.buffer[start..transmit.len]) {
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

impl Core {
    pub(crate) fn new(
        node: Node,
        services: Services,
        home: Home,
        inbox: Inbox,
        home_link: watch::Sender<HomeLink>,
        rules: Rules,
        (orgs, org_calls): (Arc<Orgs>, mpsc::Sender<Incoming>),
    ) -> Self {
        Self {
            node,
            services,
            datagrams: Datagrams::default(),
            net: NetCounters::default(),
            links: Links::default(),
            streams: BTreeMap::new(),
            dirty: Arc::new(DirtyList::default()),
            connecting: Vec::new(),
            opens_waiting: Vec::new(),
            home_link,
            observed: watch::Sender::new(None),
            neighbours: Neighbours { home, names: BTreeMap::new(), read_at: None },
            rules,
            orgs,
            org_calls,
            inbox,
            socket_requests: Vec::new(),
            is_stopping: false,
        }
    }

    /// Opens a stream as soon as its peer allows one more; data may be written before there is a tunnel.
    pub(crate) fn open(&mut self, now: Now, open: Open) {
        match self.node.open_stream(now, &open.peer, &open.header) {
            Err(OpenStreamError::Transport(transport::OpenStreamError::Limit))
                if self.opens_waiting.len() < OPENS_WAITING_MAX =>
            {
                self.opens_waiting.push(open);
            }
            result => {
                let stream = result.map(|handle| self.adopt(handle)).inspect(|stream| {
                    if let Some(request) = open.request {
                        stream.say(request);
                    }
                });
                // Who no longer waits has dropped the stream, which ends it.
                drop(open.opened.send(stream));
            }
        }
    }

    /// Tries those again that wait.
    fn open_waiting(&mut self, now: Now) {
        for open in std::mem::take(&mut self.opens_waiting) {
            // Where one found no room, the next one to the same peer finds none either.
            if self.opens_waiting.last().is_some_and(|full| full.peer == open.peer) {
                self.opens_waiting.push(open);
            } else if !open.opened.is_closed() {
                self.open(now, open);
            }
        }
    }

    /// Takes what is known of an agent's instances, the best first: the node tries that first which it has learned of last.
    pub(crate) fn learn_routes(&mut self, now: Now, routes: Vec<PeerInfo>) {
        for route in routes.into_iter().rev() {
            self.node.learn_peer(now, route);
        }
    }

    /// Ends the tunnel with a peer.
    pub(crate) fn disconnect(&mut self, now: Now, peer: &IdentityKey) {
        self.node.close_peer(now, peer, Code::NO_ERROR, "");
    }

    /// Answers once there is a tunnel, or once there will be none.
    pub(crate) fn connect(
        &mut self,
        now: Now,
        peer: &IdentityKey,
        reply: oneshot::Sender<Result<PeerStatus, ConnectError>>,
    ) {
        if let Some(status) = self.connected_peer(peer) {
            // Who no longer waits needs no answer, here and below.
            drop(reply.send(Ok(status)));
            return;
        }
        self.connecting.retain(|(_, reply)| !reply.is_closed());
        if self.connecting.len() >= CONNECTING_MAX || self.node.connect(now, peer).is_err() {
            drop(reply.send(Err(ConnectError::NoRoute)));
            return;
        }
        self.connecting.push((*peer, reply));
    }

    fn take_from_link(&mut self, now: Now, input: LinkInput) {
        match input {
            LinkInput::Up { route, outbox, backbone } => {
                self.links.open(now, route.socket, outbox);
                if let Some(backbone) = backbone {
                    self.node.link_up(now, &backbone, route);
                }
            }
            LinkInput::Frames { route, mut frames } => {
                for datagram in frame::datagrams(&mut frames) {
                    self.node.handle_datagram(now, route, Ecn::NotEct, datagram);
                }
            }
            LinkInput::Down(link) => {
                self.links.close(link);
                self.node.link_down(now, link);
            }
        }
    }

    /// Ends every tunnel and, after what follows from that has been sent, the loop.
    pub(crate) fn stop(&mut self, now: Now) {
        self.node.shutdown(now);
        self.is_stopping = true;
    }

    fn handle_timeout(&mut self, now: Now) {
        self.node.handle_timeout(now);
        for (port, refused) in self.services.expire(now.mono) {
            self.allow_replays(port);
            refused.into_iter().for_each(Refused::send);
        }
    }

    fn deadline(&self) -> Option<Mono> {
        [self.node.poll_timeout(), self.services.deadline()].into_iter().flatten().min()
    }

    /// Moves bytes between streams and the node and takes the node's events; tells whether anything happened.
    fn pump(&mut self, now: Now) -> bool {
        if !self.opens_waiting.is_empty() {
            self.open_waiting(now);
        }
        let dirty = self.dirty.take();
        let mut has_moved = !dirty.is_empty();
        for stream in dirty {
            self.pump_stream(now, &stream);
        }
        while let Some(event) = self.node.poll_event() {
            self.handle_event(now, event);
            has_moved = true;
        }
        has_moved
    }

    fn handle_event(&mut self, now: Now, event: Event) {
        match event {
            Event::StreamOpened { stream, peer, header, .. } => self.stream_opened(now, stream, peer, header),
            Event::Readable(handle) => self.with_stream(handle, |core, stream| core.pump_incoming(now, stream)),
            Event::Writable(handle) => self.with_stream(handle, |core, stream| core.pump_outgoing(now, stream)),
            Event::Reset { stream, code, reason } => {
                self.with_stream(stream, |_, shared| shared.lock().end(ended(code, reason)));
            }
            Event::StopSending { stream, code, reason } => {
                self.with_stream(stream, |_, shared| shared.lock().stop_writing(ended(code, reason)));
            }
            Event::StreamClosed(handle) => self.stream_closed(now, handle),
            Event::Stalled(handle) => self.with_stream(handle, |_, stream| stream.lock().stalled = true),
            Event::Resumed(handle) => self.with_stream(handle, |_, stream| stream.lock().stalled = false),
            Event::PeerConnected { peer, .. } => self.answer_connecting(&peer, None),
            Event::ConnectFailed { peer, error } => self.answer_connecting(&peer, Some(&error)),
            Event::PeerClosed { peer, reason, .. } => {
                self.answer_connecting(&peer, Some(&ConnectError::Refused(reason)));
            }
            Event::HomeConnected => {
                let transport = self.home_transport();
                self.home_link.send_modify(|link| {
                    let connections = link.connections + 1;
                    *link = HomeLink { connected: true, connections, transport };
                });
                self.tell_observed();
            }
            Event::HomeLost => {
                self.home_link.send_modify(|link| (link.connected, link.transport) = (false, None));
                self.tell_observed();
            }
            Event::PathChanged { peer, path } => {
                let transport = self.home_transport();
                self.home_link.send_if_modified(|link| {
                    link.connected && std::mem::replace(&mut link.transport, transport) != transport
                });
                self.tell_observed();
                let is_direct = matches!(path, PathKind::Direct(_));
                tracing::info!(?peer, is_direct, "path changed");
                tracing::debug!(?peer, ?path, "path changed");
            }
            Event::ObservedAddress(address) => {
                tracing::debug!(%address, "observed address");
                self.tell_observed();
            }
            Event::OpenSockets(sockets) => self.socket_requests.push(SocketRequest::Open(sockets)),
            Event::CloseSockets(sockets) => self.socket_requests.push(SocketRequest::Close(sockets)),
            Event::Datagram { peer, port, data } => self.datagram_arrived(now, peer, port, data),
            // Acknowledgement is part of StreamClosed.
            Event::SendFinished(_) => {}
        }
    }

    fn tell_observed(&self) {
        let observed = self.node.current_observed_address();
        self.observed.send_if_modified(|known| std::mem::replace(known, observed) != observed);
    }

    fn home_transport(&self) -> Option<Transport> {
        self.node.home_path().map(|path| if matches!(path, PathKind::Tls(_)) { Transport::Tls } else { Transport::Udp })
    }

    fn stream_opened(&mut self, now: Now, handle: StreamHandle, peer: IdentityKey, header: StreamHeader) {
        let address = self.node.peer_certificate(&peer).map(|certificate| certificate.address());
        let name = self.neighbours.name(now.mono, &peer).map(str::to_owned);
        let port = header.port;
        let stream = self.adopt(handle);
        let incoming = Incoming { stream, peer, address, name, header, arrived: now.unix };
        if port == ServicePort::ECHO {
            tokio::spawn(builtin::echo(incoming));
            return;
        }
        if port == ServicePort::ORG {
            if let Err(mpsc::error::TrySendError::Full(incoming)) = self.org_calls.try_send(incoming) {
                Refused::new(incoming, Code::BUSY, "too many calls of members wait".into()).send();
            }
            return;
        }
        self.deliver(now, incoming);
    }

    fn datagram_arrived(&mut self, now: Now, peer: IdentityKey, port: ServicePort, data: Bytes) {
        let address = self.node.peer_certificate(&peer).map(|certificate| certificate.address());
        let is_public = self.datagrams.is_public(port);
        let allowed = self.decide(now, &peer, port, is_public).allowed;
        self.datagrams.deliver(port, Datagram { peer, address, data }, allowed);
    }

    /// Gives a stream to a handler of its service, or refuses it.
    fn deliver(&mut self, now: Now, incoming: Incoming) {
        let (peer, port) = (incoming.peer, incoming.header.port);
        let is_public = self.services.is_public(port);
        let decision = self.decide(now, &peer, port, is_public);
        let goes_to_inbox = port == ServicePort::MESSAGE && !self.services.is_served(port);
        if goes_to_inbox && decision.allowed {
            tokio::spawn(self.inbox.clone().keep(incoming));
            return;
        }
        let delivered = if goes_to_inbox {
            Err(Refused::not_open(incoming, &decision))
        } else {
            self.services.deliver(incoming, &decision)
        };
        if let Err(refused) = delivered {
            tracing::info!(?peer, reason = refused.reason, decision = decision.reason, "stream refused");
            Refused::send(*refused);
        }
    }

    /// Whether `peer` may call the service, and why.
    pub(crate) fn decide(&mut self, now: Now, peer: &IdentityKey, port: ServicePort, is_public: bool) -> Decision {
        let is_neighbour = self.neighbours.name(now.mono, peer).is_some();
        let standings = self.orgs.standings(peer, now.unix);
        let caller = Caller { key: peer, is_neighbour, standings: &standings };
        self.rules.current(now.mono).decide(caller, &service_name(port), is_public)
    }

    /// A handler waits for a stream to a service.
    pub(crate) fn accept(
        &mut self,
        now: Now,
        port: ServicePort,
        options: ServiceOptions,
        handler: oneshot::Sender<Incoming>,
    ) {
        self.services.accept(now.mono, port, options, handler);
        self.allow_replays(port);
    }

    /// Lets the node know what a service has said of replays. An echo may be one whoever asks: nothing comes of it but its own answer, which
    /// only the asker can read.
    fn allow_replays(&mut self, port: ServicePort) {
        if port != ServicePort::ECHO {
            self.node.set_replay_safe(port, self.services.is_replay_safe(port));
        }
    }

    /// Takes a stream back from a handler that has left without it: the next one is to have it.
    pub(crate) fn give_back(&mut self, now: Now, incoming: Incoming) {
        self.services.stream_closed(now.mono, incoming.stream.handle());
        self.deliver(now, incoming);
    }

    fn stream_closed(&mut self, now: Now, handle: StreamHandle) {
        if let Some(stream) = self.streams.remove(&handle) {
            stream.lock().close();
        }
        self.services.stream_closed(now.mono, handle);
    }

    /// What the program wants, then bytes in both directions.
    fn pump_stream(&mut self, now: Now, stream: &Shared) {
        let (abort, stop) = {
            let mut state = stream.lock();
            if state.closed {
                return;
            }
            (state.abort.take(), state.stop.take())
        };
        if let Some((code, reason)) = abort {
            self.node.reset(now, stream.handle, code, &reason);
            self.node.stop_sending(now, stream.handle, code, &reason);
            let mut state = stream.lock();
            state.outgoing.clear();
            state.incoming.clear();
            return;
        }
        if let Some((code, reason)) = stop {
            self.node.stop_sending(now, stream.handle, code, &reason);
            stream.lock().incoming.clear();
        }
        self.pump_outgoing(now, stream);
        self.pump_incoming(now, stream);
    }

    fn pump_outgoing(&mut self, now: Now, stream: &Shared) {
        let mut state = stream.lock();
        while let Some(mut chunk) = state.outgoing.pop(usize::MAX) {
            match self.node.write(now, stream.handle, &mut chunk) {
                Ok(0) => {
                    state.outgoing.unpop(chunk);
                    break;
                }
                Ok(_) => state.outgoing.unpop(chunk),
                Err(WriteError::Stopped { code, reason }) => state.stop_writing(ended(code, reason)),
                // It is over already, and the event that says why is on its way: that reason is to stand.
                Err(WriteError::UnknownStream) => state.outgoing.clear(),
                Err(error) => {
                    state.outgoing.clear();
                    state.end(StreamError { code: Code::INTERNAL, reason: error.to_string(), by: EndedBy::Local });
                }
            }
        }
        if state.outgoing.len() <= QUEUE_MAX / 2 {
            state.wake_writer();
        }
        if state.finish && !state.write_closed && state.outgoing.len() == 0 {
            state.write_closed = true;
            if let Err(error) = self.node.finish(now, stream.handle) {
                tracing::debug!(%error, "stream not finished");
            }
        }
    }

    fn pump_incoming(&mut self, now: Now, stream: &Shared) {
        let mut state = stream.lock();
        while state.incoming.len() < QUEUE_MAX && !state.peer_finished {
            match self.node.read(now, stream.handle, QUEUE_MAX - state.incoming.len()) {
                Ok(Read::Data(chunk)) => state.incoming.push(chunk),
                Ok(Read::Blocked) => break,
                Ok(Read::Finished) => state.peer_finished = true,
                Err(ReadError::Reset { code, reason }) => {
                    state.end(ended(code, reason));
                    break;
                }
                // It is over already, or the program wanted no more: nothing to add.
                Err(_) => break,
            }
        }
        if state.incoming.len() > 0 || state.peer_finished {
            state.wake_reader();
        }
    }

    fn adopt(&mut self, handle: StreamHandle) -> Stream {
        let (stream, shared) = Stream::new(handle, &self.dirty);
        self.streams.insert(handle, shared);
        stream
    }

    fn with_stream(&mut self, handle: StreamHandle, act: impl FnOnce(&mut Self, &Shared)) {
        if let Some(stream) = self.streams.get(&handle).map(Arc::clone) {
            act(self, &stream);
        }
    }

    fn connected_peer(&self, peer: &IdentityKey) -> Option<PeerStatus> {
        self.node.peer_status(peer).filter(|status| status.connected)
    }

    fn answer_connecting(&mut self, peer: &IdentityKey, error: Option<&ConnectError>) {
        let status = self.connected_peer(peer);
        let waiting = std::mem::take(&mut self.connecting);
        for (wanted, reply) in waiting {
            if wanted != *peer {
                self.connecting.push((wanted, reply));
                continue;
            }
            let answer = match (&status, error) {
                (Some(status), _) => Ok(status.clone()),
                (None, Some(error)) => Err(error.clone()),
                (None, None) => Err(ConnectError::NoAnswer),
            };
            drop(reply.send(answer));
        }
    }

    /// Nobody drives the streams any more.
    fn close_all(&mut self) {
        let error = StreamError { code: Code::SHUTDOWN, reason: "the agent has shut down".into(), by: EndedBy::Local };
        for stream in std::mem::take(&mut self.streams).into_values() {
            let mut state = stream.lock();
            state.end(error.clone());
            state.close();
        }
    }
}

impl Neighbours {
    /// The name of that identity, if it lives in the same home. A new one is found when it first calls.
    fn name(&mut self, now: Mono, key: &IdentityKey) -> Option<&str> {
        let is_fresh = self.read_at.is_some_and(|read_at| now.since(read_at) < NEIGHBOURS_INTERVAL);
        if !self.names.contains_key(key) && !is_fresh {
            // Who was found once stays found: a file that cannot be opened just now makes nobody a stranger.
            self.names.extend(self.home.identities());
            self.read_at = Some(now);
        }
        self.names.get(key).map(String::as_str)
    }
}

/// The node ends streams of a broken tunnel with codes of its own, which no peer may pass off as the network's doing.
fn ended(code: Code, reason: String) -> StreamError {
    let is_local = [Code::PEER_RESTARTED, Code::TIMEOUT, Code::UNREACHABLE].contains(&code);
    StreamError { code, reason, by: if is_local { EndedBy::Network } else { EndedBy::Peer } }
}
