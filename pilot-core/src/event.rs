//! What a node tells its driver.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::id::{IdentityKey, InstanceId, ServicePort, StreamId};
use crate::route::SocketId;
use crate::transport::Code;
use crate::wire::stream_header::StreamHeader;

/// Names a stream at this node. It stays unique after the tunnel that carried it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamHandle {
    pub(crate) peer: u32,
    pub(crate) generation: u32,
    pub(crate) stream: StreamId,
}

impl StreamHandle {
    /// The stream's number within its tunnel, for logs.
    pub fn stream_id(self) -> StreamId {
        self.stream
    }
}

/// By which kind of path a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// Straight to this address.
    Direct(SocketAddr),
    /// By a circuit at this backbone node.
    Relay(IdentityKey),
    /// By a TLS link to this address: the backbone node's, or a proxy's.
    Tls(SocketAddr),
}

/// Why no tunnel could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody answered within [`CONNECT_TIMEOUT`](crate::limits::CONNECT_TIMEOUT).
    #[error("no answer from the agent")]
    NoAnswer,
    /// There is no address and no backbone node to try.
    #[error("no address and no backbone node is known for the agent")]
    NoRoute,
    /// A certificate, the agent's or ours, is not of the other one's time: one of the two clocks is wrong by more than a day, or the certificate
    /// was not renewed.
    #[error("{0}: the clock of one of the two machines is wrong")]
    Clock(String),
    /// The backbone node has no live tunnel to the agent.
    #[error("the agent is not connected to its backbone node: {0}")]
    Offline(String),
    /// The backbone node opened no circuit as long as we tried: it, or the agent, had all the calls that it takes.
    #[error("the backbone node is busy: {0}")]
    Busy(String),
    /// The backbone node or the agent does not want the circuit.
    #[error("the connection was refused: {0}")]
    Refused(String),
}

/// What happened; drained with [`Node::poll_event`](crate::node::Node::poll_event).
#[derive(Clone, Debug)]
pub enum Event {
    /// A tunnel is up. `restarted` tells that the peer lost the one before, whose streams have ended with `peer_restarted`.
    PeerConnected {
        /// Who.
        peer: IdentityKey,
        /// Which installation of it.
        instance: InstanceId,
        /// Whether a tunnel of ours with it ended by this.
        restarted: bool,
    },
    /// The peer closed the tunnel, or broke the protocol.
    PeerClosed {
        /// Who.
        peer: IdentityKey,
        /// Which installation of it.
        instance: InstanceId,
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// No tunnel could be made; streams that waited for it end with `unreachable`.
    ConnectFailed {
        /// Who.
        peer: IdentityKey,
        /// Why.
        error: ConnectError,
    },
    /// Data takes another path from now on.
    PathChanged {
        /// Who.
        peer: IdentityKey,
        /// The path in use.
        path: PathKind,
    },
    /// The tunnel to the home node is up.
    HomeConnected,
    /// The home node does not answer; the node goes on trying.
    HomeLost,
    /// The home node sees us at this address.
    ObservedAddress(SocketAddr),
    /// Sockets are wanted beside the main one, each on a port of its own. [`Node::sockets_opened`](crate::node::Node::sockets_opened) tells
    /// when they are open; a driver that has no more sockets lets it be.
    OpenSockets(Vec<SocketId>),
    /// Sockets are of no use any more.
    CloseSockets(Vec<SocketId>),
    /// The peer opened a stream.
    StreamOpened {
        /// The stream.
        stream: StreamHandle,
        /// Who opened it, as the session proves.
        peer: IdentityKey,
        /// Which installation of it.
        instance: InstanceId,
        /// For what.
        header: StreamHeader,
    },
    /// The stream has data, an end or an error to read.
    Readable(StreamHandle),
    /// A blocked stream takes data again.
    Writable(StreamHandle),
    /// The peer has acknowledged everything written, the end included.
    SendFinished(StreamHandle),
    /// The peer, or the end of the tunnel, cut the stream short.
    Reset {
        /// The stream.
        stream: StreamHandle,
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// The peer wants no more data on the stream.
    StopSending {
        /// The stream.
        stream: StreamHandle,
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Both directions are over; the handle names nothing any more.
    StreamClosed(StreamHandle),
    /// The peer has not answered for five seconds.
    Stalled(StreamHandle),
    /// The peer answers again.
    Resumed(StreamHandle),
    /// An unreliable message.
    Datagram {
        /// Who sent it.
        peer: IdentityKey,
        /// For which service.
        port: ServicePort,
        /// What.
        data: Bytes,
    },
}
