//! Control streams of the clients: `circuit.open` and calls to the directory (spec/relay.md §2, spec/backbone.md §3).
//!
//! Each is one request ended by FIN and one reply ended by FIN. What they need of the node is the trait [`Tunnels`], so that a test can
//! stand in for it.
//!
//! ```text
//! Reading -> Replying     the request is complete and was carried out
//! Reading -> Committing   the request is complete, and its answer waits for the disk
//! Committing -> Replying  the disk has answered
//! Replying -> Replied     the whole reply is in the hands of the transport
//! any -> forgotten        the stream is over, or its client has gone
//! ```

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::id::{CircuitId, IdentityKey, Instance, InstanceId, ServicePort};
use pilot_core::limits::REJECT_AFTER_TIME;
use pilot_core::node::OpenStreamError;
use pilot_core::rng::Rng;
use pilot_core::route::Route;
use pilot_core::time::{Mono, Now, UnixTime};
use pilot_core::transport::{Code, Read, ReadError, WriteError};
use pilot_core::wire::circuit::{
    self, CIRCUIT_MESSAGE_LEN_MAX, CircuitAnswer, CircuitOffer, CircuitOpen, CircuitOpened, CircuitStatus,
};
use pilot_core::wire::directory::{ErrorCode, REGISTRATION_LEN_MAX, REQUEST_LEN_MAX, Reply, Request, Status};
use pilot_core::wire::stream_header::StreamHeader;

use crate::circuits::{OpenCircuitError, Opened};
use crate::directory::{Answer, Directory};
use crate::journal::{Batch, CallId};
use crate::limits::{Rate, TokenBucket};
use crate::relay::{Relay, Routes};
use crate::roles::Roles;
use crate::store::Store;

/// Calls of one client at once, and as many to it: strangers who call it take none of its own. An agent that dials a hundred others at once waits for the first replies.
pub const CALLS_PER_CLIENT_MAX: usize = 64;
/// Bytes of unfinished requests of one client: so many registrations, or a few revocation lists.
const INBOUND_PER_CLIENT_MAX: usize = CALLS_PER_CLIENT_MAX * REGISTRATION_LEN_MAX;
/// Circuits that one client may ask for: each one disturbs somebody.
pub const OPEN_RATE: Rate = Rate { per_second: 20, burst: 200 };
/// A client that was silent for so long is gone: it says something every two minutes at least, and after these three its keys are over.
pub const CLIENT_SILENCE_MAX: Duration = REJECT_AFTER_TIME;
/// Bytes read from a stream at once. Requests are shorter.
const READ_LEN_MAX: usize = 16 * 1_024;

/// What the control streams need of the node.
pub trait Tunnels: Routes {
    /// Names a stream.
    type Stream: Copy + Ord;

    /// Opens a stream to a client.
    ///
    /// # Errors
    /// When there is no tunnel, or the client takes no more streams.
    fn open_stream(
        &mut self,
        now: Now,
        client: &Instance,
        header: &StreamHeader,
    ) -> Result<Self::Stream, OpenStreamError>;

    /// Hands over a prefix of `data`; 0 means that the stream is blocked.
    ///
    /// # Errors
    /// When the stream takes nothing any more.
    fn write(&mut self, now: Now, stream: Self::Stream, data: &mut Bytes) -> Result<usize, WriteError>;

    /// Ends our direction.
    ///
    /// # Errors
    /// When it is over already.
    fn finish(&mut self, now: Now, stream: Self::Stream) -> Result<(), WriteError>;

    /// Takes what has arrived.
    ///
    /// # Errors
    /// When the peer cut its direction short.
    fn read(&mut self, now: Now, stream: Self::Stream, len_max: usize) -> Result<Read, ReadError>;

    /// Ends both directions at once.
    fn abort(&mut self, now: Now, stream: Self::Stream, code: Code, reason: &str);
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    CircuitOpen,
    /// Ours to the callee of a circuit. With an end of it if the circuit was made for this, and ends where the callee refuses it.
    CircuitOffer(Option<CircuitId>),
}

#[derive(Debug)]
enum State {
    Reading(Vec<u8>),
    Committing(CallId),
    Replying(Bytes),
    Replied,
}

/// One control stream.
#[derive(Debug)]
struct Call {
    peer: Instance,
    kind: Kind,
    state: State,
}

impl Client {
    fn under_way(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Directory | Kind::CircuitOpen => &mut self.calls,
            Kind::CircuitOffer(_) => &mut self.offers,
        }
    }
}

/// An instance of an agent with a live tunnel.
#[derive(Debug, Default)]
struct Client {
    /// Its own calls under way.
    calls: usize,
    /// Circuits offered to it and not answered yet.
    offers: usize,
    /// Bytes of requests that are not complete.
    inbound_bytes: usize,
    opens: TokenBucket,
    /// What it had sent when it was last heard.
    bytes_received: u64,
    heard: Mono,
}

/// The services of a backbone node, and the calls to them that are under way.
pub struct Control<D, S> {
    /// Forwards what the circuits carry.
    pub relay: Relay,
    directory: Directory<D>,
    /// Calls for the others are refused in the name of this node.
    roles: Roles,
    node: IdentityKey,
    calls: BTreeMap<S, Call>,
    /// Those of them that wait for the disk.
    committing: BTreeMap<CallId, S>,
    /// Those with a live tunnel.
    clients: BTreeMap<Instance, Client>,
    started: UnixTime,
    rng: Rng,
}

impl<D: Store, S: Copy + Ord> Control<D, S> {
    /// The services of a node, with every role, over a store.
    pub fn new(node: IdentityKey, store: D, rng: Rng, now: Now) -> Self {
        Self {
            relay: Relay::new(),
            directory: Directory::new(store),
            roles: Roles::ALL,
            node,
            calls: BTreeMap::new(),
            committing: BTreeMap::new(),
            clients: BTreeMap::new(),
            started: now.unix,
            rng,
        }
    }

    /// The same with these roles only.
    #[must_use]
    pub fn with_roles(self, roles: Roles) -> Self {
        Self { roles, ..self }
    }

    /// The same, but the directory acknowledges nothing that [`Control::poll_batch`] has not given and the driver not written.
    #[must_use]
    pub fn durable(self) -> Self {
        Self { directory: self.directory.durable(), ..self }
    }

    /// Mixes fresh entropy into the circuit ids to come.
    pub fn reseed(&mut self, entropy: &[u8]) {
        self.rng.reseed(entropy);
    }

    /// A tunnel with a client is up. Calls of the tunnel before it are over.
    pub fn client_connected(&mut self, now: Now, client: Instance) {
        self.forget_calls(&client);
        let opens = self.clients.get(&client).map(|before| before.opens).unwrap_or_default();
        self.clients.insert(client, Client { heard: now.mono, opens, ..Client::default() });
    }

    /// The tunnel with a client is over: it is unreachable at once. Its circuits and its name stay, for it may return.
    /// Tells whether it was there.
    pub fn client_gone(&mut self, now: Now, client: &Instance) -> bool {
        self.forget_calls(client);
        let was_there = self.clients.remove(client).is_some();
        if self.clients.range(Instance::all_of(client.key)).next().is_none() {
            self.relay.client_gone(&client.key);
            self.directory.client_gone(now, &client.key);
        }
        was_there
    }

    /// Clients that have sent nothing for [`CLIENT_SILENCE_MAX`], given how many bytes each has sent so far.
    pub fn silent_clients(&mut self, now: Now, bytes_received: impl Fn(&Instance) -> u64) -> Vec<Instance> {
        for (key, client) in &mut self.clients {
            let received = bytes_received(key);
            if received != client.bytes_received {
                (client.bytes_received, client.heard) = (received, now.mono);
            }
        }
        let silent = self.clients.iter().filter(|(_, client)| now.mono.since(client.heard) >= CLIENT_SILENCE_MAX);
        silent.map(|(key, _)| *key).collect()
    }

    /// A client opened a stream.
    pub fn stream_opened<T: Tunnels<Stream = S>>(
        &mut self,
        now: Now,
        stream: S,
        peer: Instance,
        header: &StreamHeader,
        tunnels: &mut T,
    ) {
        let kind = match header.port {
            ServicePort::DIRECTORY => Kind::Directory,
            ServicePort::CIRCUIT => Kind::CircuitOpen,
            _ => return tunnels.abort(now, stream, Code::NOT_FOUND, "a backbone node runs no such service"),
        };
        if self.add_call(stream, peer, kind) {
            self.stream_readable(now, stream, tunnels);
        } else {
            tunnels.abort(now, stream, Code::BUSY, "too many calls at once");
        }
    }

    /// A stream has something to read.
    pub fn stream_readable<T: Tunnels<Stream = S>>(&mut self, now: Now, stream: S, tunnels: &mut T) {
        let Some(Call { peer, kind, state: State::Reading(inbound) }) = self.calls.get_mut(&stream) else { return };
        let Some(client) = self.clients.get_mut(peer) else { return };
        let len_max = match kind {
            Kind::Directory => REQUEST_LEN_MAX,
            Kind::CircuitOpen | Kind::CircuitOffer(_) => CIRCUIT_MESSAGE_LEN_MAX,
        };
        loop {
            match tunnels.read(now, stream, READ_LEN_MAX) {
                Ok(Read::Data(data)) if client.inbound_bytes + data.len() > INBOUND_PER_CLIENT_MAX => {
                    tunnels.abort(now, stream, Code::BUSY, "too much of other requests is under way");
                    return self.stream_over(stream);
                }
                Ok(Read::Data(data)) if inbound.len() + data.len() <= len_max => {
                    client.inbound_bytes += data.len();
                    inbound.extend_from_slice(&data);
                }
                Ok(Read::Data(_)) => {
                    tunnels.abort(now, stream, Code::BAD_REQUEST, "request is too long");
                    return self.stream_over(stream);
                }
                Ok(Read::Blocked) => return,
                Ok(Read::Finished) => return self.request_complete(now, stream, tunnels),
                Err(_) => return self.stream_over(stream),
            }
        }
    }

    /// A stream that was blocked takes data again.
    pub fn stream_writable<T: Tunnels<Stream = S>>(&mut self, now: Now, stream: S, tunnels: &mut T) {
        let Some(call) = self.calls.get_mut(&stream) else { return };
        let State::Replying(outbound) = &mut call.state else { return };
        while !outbound.is_empty() {
            match tunnels.write(now, stream, outbound) {
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => return self.stream_over(stream),
            }
        }
        // An error means that the client wants no reply any more, and that the end of the stream follows.
        if tunnels.finish(now, stream).is_ok() {
            call.state = State::Replied;
        }
    }

    /// Both directions of a stream are over, or one was cut short. An offer that has no answer by then was refused.
    pub fn stream_over(&mut self, stream: S) {
        let Some(call) = self.calls.remove(&stream) else { return };
        if let State::Committing(commit) = call.state {
            self.committing.remove(&commit);
        }
        if let Some(client) = self.clients.get_mut(&call.peer) {
            *client.under_way(call.kind) -= 1;
            if let State::Reading(inbound) = &call.state {
                client.inbound_bytes -= inbound.len();
            }
        }
        if let (Kind::CircuitOffer(Some(made)), State::Reading(_)) = (call.kind, call.state) {
            self.relay.circuits.close(made);
        }
    }

    /// What the directory wants written in one commit, if anything. [`Control::batch_written`] must follow.
    pub fn poll_batch(&mut self, now: Now) -> Option<Batch> {
        self.directory.poll_batch(now)
    }

    /// The last batch is on disk, or it is not and `result` tells why.
    pub fn batch_written(&mut self, result: Result<(), String>) {
        self.directory.batch_written(result);
    }

    /// Sends the replies for which the disk was waited for.
    pub fn send_replies<T: Tunnels<Stream = S>>(&mut self, now: Now, tunnels: &mut T) {
        while let Some((commit, reply)) = self.directory.poll_reply() {
            // A client that has gone meanwhile wants none.
            if let Some(stream) = self.committing.remove(&commit) {
                self.reply(now, stream, reply.encode(), tunnels);
            }
        }
    }

    /// Closes idle circuits and ends leases.
    pub fn handle_timeout(&mut self, now: Now) {
        self.relay.handle_timeout(now);
        self.directory.handle_timeout(now);
    }

    /// When the next lease ends.
    pub fn next_expiry(&self) -> Option<UnixTime> {
        self.directory.next_expiry()
    }

    /// Clients with a live tunnel.
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

    /// How the node fares.
    pub fn status(&self) -> Status {
        let relayed = self.relay.stats();
        Status {
            started: self.started,
            agents: self.directory.store().len() as u64,
            clients: self.clients.len() as u64,
            circuits: self.relay.circuits.len() as u64,
            packets_relayed: relayed.packets,
            bytes_relayed: relayed.bytes,
            packets_dropped: relayed.drops.values().sum(),
        }
    }

    fn add_call(&mut self, stream: S, peer: Instance, kind: Kind) -> bool {
        let Some(client) = self.clients.get_mut(&peer) else { return false };
        let under_way = client.under_way(kind);
        if *under_way >= CALLS_PER_CLIENT_MAX {
            return false;
        }
        *under_way += 1;
        self.calls.insert(stream, Call { peer, kind, state: State::Reading(Vec::new()) });
        true
    }

    /// Offers that were under way are not refused by this: the circuit waits for its client like any other.
    fn forget_calls(&mut self, client: &Instance) {
        self.calls.retain(|_, call| call.peer != *client);
        let calls = &self.calls;
        self.committing.retain(|_, stream| calls.contains_key(stream));
    }

    fn request_complete<T: Tunnels<Stream = S>>(&mut self, now: Now, stream: S, tunnels: &mut T) {
        let Some(call) = self.calls.get_mut(&stream) else { return };
        let State::Reading(inbound) = std::mem::replace(&mut call.state, State::Replied) else { return };
        let (peer, kind) = (call.peer, call.kind);
        if let Some(client) = self.clients.get_mut(&peer) {
            client.inbound_bytes -= inbound.len();
        }
        let reply = match kind {
            Kind::Directory => match self.directory_call(now, &peer.key, &inbound) {
                Answer::Ready(reply) => reply.encode(),
                Answer::AfterCommit(commit) => return self.wait_for_commit(stream, commit),
            },
            Kind::CircuitOpen => circuit::encode(&self.circuit_open(now, peer, &inbound, tunnels)),
            Kind::CircuitOffer(made) => return self.offer_answered(made, &inbound),
        };
        self.reply(now, stream, reply, tunnels);
    }

    fn wait_for_commit(&mut self, stream: S, commit: CallId) {
        if let Some(call) = self.calls.get_mut(&stream) {
            call.state = State::Committing(commit);
            self.committing.insert(commit, stream);
        }
    }

    fn reply<T: Tunnels<Stream = S>>(&mut self, now: Now, stream: S, reply: Vec<u8>, tunnels: &mut T) {
        if let Some(call) = self.calls.get_mut(&stream) {
            call.state = State::Replying(reply.into());
        }
        self.stream_writable(now, stream, tunnels);
    }

    fn directory_call(&mut self, now: Now, caller: &IdentityKey, request: &[u8]) -> Answer {
        match Request::decode(request) {
            Ok(Request::Status) => Answer::Ready(Reply::Status(self.status())),
            Ok(_) if !self.roles.directory => {
                Answer::Ready(Reply::Error { code: ErrorCode::NoSuchRole, message: self.lacks("directory") })
            }
            Ok(request) => self.directory.handle_request(now, caller, request, &self.clients),
            Err(reason) => Answer::Ready(Reply::Error { code: ErrorCode::BadRequest, message: reason.to_string() }),
        }
    }

    /// Which node has not which role; an agent may know several.
    fn lacks(&self, role: &str) -> String {
        format!("backbone node {} is no {role}; its roles: {}", self.node, self.roles)
    }

    fn circuit_open<T: Tunnels<Stream = S>>(
        &mut self,
        now: Now,
        caller: Instance,
        request: &[u8],
        tunnels: &mut T,
    ) -> CircuitOpened {
        let Ok(open) = circuit::decode::<CircuitOpen>(request) else {
            return refusal(CircuitStatus::Refused, "malformed request");
        };
        if !self.roles.relay {
            return refusal(CircuitStatus::Refused, &self.lacks("relay"));
        }
        if !self.clients.get_mut(&caller).is_some_and(|client| client.opens.take(now.mono, OPEN_RATE, 1)) {
            return refusal(CircuitStatus::Busy, "too many circuits asked for, try again in a second");
        }
        let Some((callee, callee_route)) = self.destination(&open, tunnels) else {
            return refusal(CircuitStatus::NotFound, "the agent has no tunnel to this node");
        };
        let opened = match self.relay.circuits.open(now.mono, caller, callee, &mut self.rng) {
            Ok(opened) => opened,
            Err(reason @ OpenCircuitError::ToOneself) => return refusal(CircuitStatus::Refused, &reason.to_string()),
            Err(reason) => return refusal(CircuitStatus::Busy, &reason.to_string()),
        };
        if !self.offer(now, caller, callee, opened, &open.packet, tunnels) {
            // One that was there already goes on without this call.
            if opened.is_new {
                self.relay.circuits.close(opened.caller);
            }
            return refusal(CircuitStatus::Busy, "the agent takes no more calls for now");
        }
        CircuitOpened {
            status: CircuitStatus::Ok,
            circuit: opened.caller.0,
            reason: String::new(),
            attested: Some(attested(&callee_route)),
        }
    }

    /// Where a circuit leads: to the instance that is meant, if it is there, else to the one of the same identity that was heard last. It may
    /// be the same agent at another home, and if not, a caller finds out by its handshake.
    fn destination(&self, open: &CircuitOpen, routes: &impl Routes) -> Option<(Instance, Route)> {
        let meant = open.instance.map(|id| InstanceId(*id));
        let known = self.clients.range(Instance::all_of(IdentityKey(*open.destination)));
        let there = known.filter_map(|(callee, client)| Some((callee, client.heard, routes.validated_remote(callee)?)));
        let (callee, _, route) = there.max_by_key(|(callee, heard, _)| (Some(callee.id) == meant, *heard))?;
        Some((*callee, route))
    }

    /// Tells the callee of a circuit, and tells whether that was possible.
    fn offer<T: Tunnels<Stream = S>>(
        &mut self,
        now: Now,
        caller: Instance,
        callee: Instance,
        opened: Opened,
        packet: &[u8],
        tunnels: &mut T,
    ) -> bool {
        let attested = tunnels.validated_remote(&caller).map(|route| attested(&route)).unwrap_or_default();
        let offer = CircuitOffer {
            caller: caller.key.0.into(),
            attested,
            circuit: opened.callee.0,
            packet: packet.to_vec().into(),
            instance: caller.id.0.into(),
        };
        let Ok(stream) = tunnels.open_stream(now, &callee, &StreamHeader::new(ServicePort::CIRCUIT)) else {
            return false;
        };
        let mut message = Bytes::from(circuit::encode(&offer));
        let len = message.len();
        // A stream that has just been opened has room for far more than an offer.
        let is_sent = tunnels.write(now, stream, &mut message) == Ok(len) && tunnels.finish(now, stream).is_ok();
        let is_offered =
            is_sent && self.add_call(stream, callee, Kind::CircuitOffer(opened.is_new.then_some(opened.callee)));
        if !is_offered {
            tunnels.abort(now, stream, Code::BUSY, "too many calls at once");
        }
        is_offered
    }

    fn offer_answered(&mut self, made: Option<CircuitId>, answer: &[u8]) {
        let is_accepted =
            circuit::decode::<CircuitAnswer>(answer).is_ok_and(|answer| answer.status == CircuitStatus::Ok);
        if let Some(made) = made.filter(|_| !is_accepted) {
            self.relay.circuits.close(made);
        }
    }
}

/// What is said of where a client is. A TLS link has an address of TCP, which is no use to anybody who sends UDP.
fn attested(route: &Route) -> String {
    if route.socket.is_link() { String::new() } else { route.remote.to_string() }
}

fn refusal(status: CircuitStatus, reason: &str) -> CircuitOpened {
    CircuitOpened { status, circuit: 0, reason: reason.to_owned(), attested: None }
}
