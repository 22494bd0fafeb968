//! Frames: what the sealed payload of a data packet is made of (spec/streams.md §1).
//!
//! ```text
//! payload   frame frame frame ..          until the payload ends; an unknown type closes the tunnel
//! frame     type (1) fields ..            type and fields as in the table of spec/streams.md §1
//! ```
//!
//! [`Frame::decode`] lends slices of the payload; a frame that it returns is valid in itself, what it means for the state of the
//! tunnel is for `transport` to say. The `put_*` functions append one frame each.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::BufMut;

use crate::id::ServicePort;
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::varint;

/// Longest reason of a RESET, STOP_SENDING or CLOSE: room for a sentence and its remedy.
pub const REASON_LEN_MAX: usize = 256;

/// Most candidates in one CANDIDATES frame: two address families on a few interfaces, the reflexive ones and the relays.
/// The largest list still fits the smallest packet.
pub const CANDIDATES_MAX: usize = 24;

/// Bytes of STREAM's largest header: type, and three variable-length integers of which the length needs four bytes.
pub const STREAM_HEADER_LEN_MAX: usize = 1 + 8 + 8 + 4;

/// Type codes (spec/streams.md §1).
mod kind {
    pub(super) const PADDING: u8 = 0x00;
    pub(super) const PING: u8 = 0x01;
    pub(super) const ACK: u8 = 0x02;
    pub(super) const ACK_ECN: u8 = 0x03;
    pub(super) const RESET: u8 = 0x04;
    pub(super) const STOP_SENDING: u8 = 0x05;
    pub(super) const STREAM: u8 = 0x08;
    pub(super) const STREAM_LAST: u8 = 0x0F;
    pub(super) const MAX_DATA: u8 = 0x10;
    pub(super) const MAX_STREAM_DATA: u8 = 0x11;
    pub(super) const MAX_STREAMS: u8 = 0x12;
    pub(super) const DATA_BLOCKED: u8 = 0x14;
    pub(super) const STREAM_DATA_BLOCKED: u8 = 0x15;
    pub(super) const STREAMS_BLOCKED: u8 = 0x16;
    pub(super) const PATH_CHALLENGE: u8 = 0x1A;
    pub(super) const PATH_RESPONSE: u8 = 0x1B;
    pub(super) const CLOSE: u8 = 0x1C;
    pub(super) const CANDIDATES: u8 = 0x20;
    pub(super) const OBSERVED_ADDRESS: u8 = 0x21;
    pub(super) const ACK_FREQUENCY: u8 = 0x22;
    pub(super) const DATAGRAM: u8 = 0x30;

    /// STREAM carries the end of the stream.
    pub(super) const FIN: u8 = 0x01;
    /// STREAM says its length; without it, the data goes on to the end of the payload.
    pub(super) const LEN: u8 = 0x02;
    /// STREAM says its offset; without it, the offset is zero.
    pub(super) const OFFSET: u8 = 0x04;
}

/// Why a stream or a tunnel ended: the one registry of RESET, STOP_SENDING and CLOSE (spec/streams.md §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal $text:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The name of a registered code, as it stands in the local API: `peer_restarted`.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    Self(_) => None,
                }
            }

            /// The registered code of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// The end was wanted.
    NO_ERROR = 0 "no_error";
    /// A fault of the implementation that sends it.
    INTERNAL = 1 "internal";
    /// A frame does not decode.
    FRAME_ENCODING = 2 "frame_encoding";
    /// A frame is valid in itself but not in this state.
    PROTOCOL_VIOLATION = 3 "protocol_violation";
    /// More data than the credit allows.
    FLOW_CONTROL = 4 "flow_control";
    /// A stream beyond the limit.
    STREAM_LIMIT = 5 "stream_limit";
    /// A stream whose end moved, or lies before data that was received.
    FINAL_SIZE = 6 "final_size";
    /// The node goes down.
    SHUTDOWN = 7 "shutdown";
    /// Nothing was heard for the idle timeout.
    TIMEOUT = 8 "timeout";
    /// The peer lost its state: streams of the old tunnel end with this.
    PEER_RESTARTED = 9 "peer_restarted";
    /// Who asked no longer wants the answer.
    CANCELLED = 16 "cancelled";
    /// Policy says no; the reason says how to be let in.
    REFUSED = 17 "refused";
    /// No such service, or no such thing within it.
    NOT_FOUND = 18 "not_found";
    /// A limit of load, not of policy: later may do.
    BUSY = 19 "busy";
    /// The deadline of the request has passed.
    DEADLINE_EXCEEDED = 20 "deadline_exceeded";
    /// The stream header, or the request, is not what the service expects.
    BAD_REQUEST = 21 "bad_request";
    /// The program behind the service failed.
    SERVICE_FAILED = 22 "service_failed";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "code_{}", self.0),
        }
    }
}

/// Where a candidate address comes from, in the words of RFC 8445 §5.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// An address of one of the node's own interfaces.
    Host,
    /// As a STUN server or backbone node sees the node.
    ServerReflexive,
    /// As a peer sees the node.
    PeerReflexive,
    /// A port mapping that the node's router has granted.
    Mapped,
}

/// One address at which a node may be reached directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// Where the address comes from.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

impl CandidateKind {
    fn code(self) -> u8 {
        match self {
            Self::Host => 0,
            Self::ServerReflexive => 1,
            Self::PeerReflexive => 2,
            Self::Mapped => 3,
        }
    }

    fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::Host),
            1 => Ok(Self::ServerReflexive),
            2 => Ok(Self::PeerReflexive),
            3 => Ok(Self::Mapped),
            _ => Err(DecodeError::Invalid("candidate kind")),
        }
    }
}
