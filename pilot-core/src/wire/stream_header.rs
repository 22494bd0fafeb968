//! The header of a stream: the first bytes that its opener sends on it (spec/streams.md §3).
//!
//! ```text
//! length (varint, at most 512)   of what follows
//! port (2)  flags (1)            service; bit 0 replay safe, 1 network, 2 deadline, 3 trace, 4 zero, 5..7 urgency
//! [network (32)]  [deadline (varint, ms)]  [trace (25)]
//! TLV ..                         type (varint), length (varint), value; unknown types are skipped
//! ```

use bytes::BufMut;

use crate::id::ServicePort;
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::varint;

/// Longest header without its length field.
pub const STREAM_HEADER_LEN_MAX: usize = 512;

/// Longest content type: the header's other fields and a margin always fit beside it.
pub const CONTENT_TYPE_LEN_MAX: usize = 255;

/// Length of a trace context: version, trace id, parent id and flags of W3C Trace Context, in binary.
pub const TRACE_CONTEXT_LEN: usize = 25;

/// What a stream is for; its opener says so before any data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// The service that the stream is for.
    pub port: ServicePort,
    /// Whether the opener allows that the stream's data be acted on although it might be a replay. Default: no.
    pub replay_safe: bool,
    /// 0 is sent first, 7 last. Default: [`StreamHeader::URGENCY_DEFAULT`].
    pub urgency: u8,
    /// The key of the network on whose behalf the stream is opened; none for the backbone.
    pub network: Option<[u8; 32]>,
    /// Milliseconds after which the opener no longer wants an answer.
    pub deadline_ms: Option<u64>,
    /// Trace context to be passed on, untouched.
    pub trace: Option<[u8; TRACE_CONTEXT_LEN]>,
    /// Media type of the data, at most [`CONTENT_TYPE_LEN_MAX`] bytes.
    pub content_type: Option<String>,
}

impl StreamHeader {
    /// Where requests and ordinary data stand.
    pub const URGENCY_DEFAULT: u8 = 3;
    /// The last in line.
    pub const URGENCY_MAX: u8 = 7;

    /// A header for this service, everything else at its default.
    pub fn new(port: ServicePort) -> Self {
        Self {
            port,
            replay_safe: false,
            urgency: Self::URGENCY_DEFAULT,
            network: None,
            deadline_ms: None,
            trace: None,
            content_type: None,
        }
    }
}
