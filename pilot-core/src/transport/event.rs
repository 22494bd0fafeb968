//! What a transport reports, and how its verbs fail.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::id::{PathId, ServicePort, StreamId};
use crate::wire::codec::DecodeError;
use crate::wire::frame::{Candidate, Code, Ports};
use crate::wire::stream_header::StreamHeader;

/// Something that happened in a [`Transport`](super::Transport).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportEvent {
    /// The peer has opened a stream and its header is complete.
    StreamOpened {
        /// The stream.
        stream: StreamId,
        /// What it is for.
        header: StreamHeader,
    },
    /// [`read`](super::Transport::read) has something to say again after it was blocked. Read until it is blocked again.
    Readable(StreamId),
    /// [`write`](super::Transport::write) takes data again after it took none.
    Writable(StreamId),
    /// The peer has all data and the end of the stream.
    SendFinished(StreamId),
    /// The peer ended its direction of the stream early.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// The peer no longer wants data on this stream; the sending direction has been reset with the same code.
    StopSending {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Both directions are over and the stream is forgotten. Who resets one direction also has to end the other.
    StreamClosed(StreamId),
    /// Nothing has been answered for a while.
    Stalled(StreamId),
    /// A stalled tunnel is answered again.
    Resumed(StreamId),
    /// An unreliable message has arrived.
    Datagram {
        /// The service that it is for.
        port: ServicePort,
        /// The message.
        data: Bytes,
    },
    /// A frame about paths has arrived. A challenge is the caller's to answer, on the path by which it came.
    Path {
        /// The path by which it came.
        path: PathId,
        /// The frame.
        frame: PathFrame,
    },
    /// The peer has the newest list of candidates that was queued.
    CandidatesTaken,
    /// The peer has what was told last of our ports.
    PortsTaken,
    /// The tunnel is over: the peer closed it, or the idle timeout has passed ([`Code::TIMEOUT`]).
    Closed {
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// A probe timeout has passed with no answer on this path.
    PtoExpired {
        /// The path.
        path: PathId,
        /// How many in a row.
        count: u32,
    },
    /// A larger packet is proved to get through, or, after a black hole, only the base size is still believed in.
    MtuProved {
        /// The path.
        path: PathId,
        /// Largest packet from now on, with header and tag.
        mtu: usize,
    },
}

/// A frame about paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathFrame {
    /// PATH_CHALLENGE: sent once, on the path it was queued for.
    Challenge {
        /// To be echoed.
        data: [u8; 8],
        /// Whether the packet is filled up to the path's packet size. On arrival: whether it was at least the smallest such size.
        pad: bool,
    },
    /// PATH_RESPONSE: sent once, on the path it was queued for.
    Response {
        /// The challenge's data.
        data: [u8; 8],
        /// As for a challenge.
        pad: bool,
    },
    /// CANDIDATES: reliable, on any path; a newer list replaces an older one. At most
    /// [`CANDIDATES_MAX`](crate::wire::frame::CANDIDATES_MAX), the rest is cut off.
    Candidates(Vec<Candidate>),
    /// PORTS: reliable, on any path; a newer one replaces an older one. Only for a peer that has said that it knows the frame.
    Ports(Ports),
    /// OBSERVED_ADDRESS: reliable, on any path. The address from which the peer's packets come.
    ObservedAddress(SocketAddr),
}

/// What `add_path` needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathParams {
    /// Largest packet with header and tag that may be sent before a larger one is proved.
    pub max_packet: usize,
    /// Upper bound of the search for a larger packet; none for no search.
    pub probe_mtu_to: Option<usize>,
    /// Round trip time known from elsewhere, such as the handshake or a challenge.
    pub initial_rtt: Option<Duration>,
    /// Whether the peer is known to be there. If not, the path carries challenges and responses only (spec/paths.md §2).
    pub is_proved: bool,
}

/// What is known about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStats {
    /// Smoothed round trip time; none before the first sample.
    pub rtt: Option<Duration>,
    /// Smallest round trip time seen; none before the first sample.
    pub min_rtt: Option<Duration>,
    /// Congestion window in bytes.
    pub cwnd: u64,
    /// Bytes sent and neither acknowledged nor lost.
    pub bytes_in_flight: u64,
    /// Largest packet in use, with header and tag.
    pub mtu: usize,
    /// Since the path was proved nothing was acknowledged that is half as long as what was sent.
    pub carries_probes_only: bool,
    /// Probe timeouts in a row.
    pub pto_count: u32,
    /// Packets declared lost, MTU probes apart.
    pub lost_packets: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent, with header and tag.
    pub sent_bytes: u64,
}

/// What [`read`](super::Transport::read) found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next bytes of the stream, at least one.
    Data(Bytes),
    /// Nothing yet: `Readable` follows.
    Blocked,
    /// The stream has ended and everything was read.
    Finished,
}

/// The peer broke the protocol; the tunnel is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A frame does not decode.
    #[error("undecodable frame")]
    Frame(#[from] DecodeError),
    /// A frame is not allowed in this state.
    #[error("protocol violation: {0}")]
    Violation(&'static str),
    /// More data than was granted.
    #[error("data beyond the flow-control credit")]
    FlowControl,
    /// A stream that the peer may not open.
    #[error("stream beyond the limit")]
    StreamLimit,
    /// The end of a stream contradicts what was received.
    #[error("contradictory final size")]
    FinalSize,
}

impl TransportError {
    /// The code to close the tunnel with.
    pub fn code(self) -> Code {
        match self {
            Self::Frame(_) => Code::FRAME_ENCODING,
            Self::Violation(_) => Code::PROTOCOL_VIOLATION,
            Self::FlowControl => Code::FLOW_CONTROL,
            Self::StreamLimit => Code::STREAM_LIMIT,
            Self::FinalSize => Code::FINAL_SIZE,
        }
    }
}

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStreamError {
    /// The peer allows no more streams for now.
    #[error("the peer's stream limit is reached")]
    Limit,
    /// The header is too long to be sent.
    #[error("stream header is longer than its bound")]
    Header,
    /// The tunnel is closed.
    #[error("the tunnel is closed")]
    Closed,
}

/// Why data was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// No such stream, or it is closed.
    #[error("unknown stream")]
    UnknownStream,
    /// The stream was finished or reset on this side.
    #[error("stream is already finished")]
    Finished,
    /// The peer no longer wants data on it.
    #[error("the peer stopped the stream: {code}")]
    Stopped {
        /// The peer's code.
        code: Code,
        /// The peer's reason.
        reason: String,
    },
}

/// Why nothing can be read any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No such stream, or it is closed.
    #[error("unknown stream")]
    UnknownStream,
    /// The peer ended its direction early.
    #[error("the peer reset the stream: {code}")]
    Reset {
        /// The peer's code.
        code: Code,
        /// The peer's reason.
        reason: String,
    },
    /// This side has asked the peer to stop.
    #[error("stream was stopped on this side")]
    Stopped,
}

/// Why a datagram was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// It does not fit the packets of every path.
    #[error("datagram of {len} bytes is longer than {max}")]
    TooLong {
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// Too many are waiting.
    #[error("too many datagrams are waiting")]
    QueueFull,
}
