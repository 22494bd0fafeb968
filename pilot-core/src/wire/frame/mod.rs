//! Frames: what the sealed payload of a data packet is made of (spec/streams.md §1).
//!
//! ```text
//! payload   frame frame frame ..          until the payload ends; an unknown type closes the tunnel
//! frame     type (1) fields ..            type and fields as in the table of spec/streams.md §1
//! ```
//!
//! [`Frame::decode`] lends slices of the payload; a frame that it returns is valid in itself, what it means for the state of the
//! tunnel is for `transport` to say. The `put_*` functions append one frame each.

mod ack;
mod address;
mod code;
mod ports;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use bytes::BufMut;

pub use self::ack::{Ack, put_ack};
pub use self::address::{CANDIDATES_MAX, Candidate, CandidateKind, put_candidates, put_observed_address};
use self::address::{decode_address, decode_candidates};
pub use self::code::Code;
use self::ports::decode_ports;
pub use self::ports::{PortSet, Ports, put_ports};
use crate::id::ServicePort;
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::varint;

/// Longest reason of a RESET, STOP_SENDING or CLOSE: room for a sentence and its remedy.
pub const REASON_LEN_MAX: usize = 256;

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
    pub(super) const PORTS: u8 = 0x23;
    pub(super) const DATAGRAM: u8 = 0x30;

    /// STREAM carries the end of the stream.
    pub(super) const FIN: u8 = 0x01;
    /// STREAM says its length; without it, the data goes on to the end of the payload.
    pub(super) const LEN: u8 = 0x02;
    /// STREAM says its offset; without it, the offset is zero.
    pub(super) const OFFSET: u8 = 0x04;
}

/// One frame, as read from a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Nothing; a run of padding is one frame here.
    Padding,
    /// Asks for nothing but to be acknowledged.
    Ping,
    /// Which packets have arrived.
    Ack(Ack<'a>),
    /// The sender of this frame ends its direction of the stream early.
    Reset {
        /// Stream id.
        stream: u64,
        /// Why.
        code: Code,
        /// Where its data ends: how much credit it has used.
        final_size: u64,
        /// Why, for people.
        reason: &'a str,
    },
    /// The sender of this frame no longer reads the stream.
    StopSending {
        /// Stream id.
        stream: u64,
        /// Why.
        code: Code,
        /// Why, for people.
        reason: &'a str,
    },
    /// Data of a stream.
    Stream(StreamData<'a>),
    /// Credit for all streams together.
    MaxData(u64),
    /// Credit for one stream.
    MaxStreamData {
        /// Stream id.
        stream: u64,
        /// Highest offset allowed.
        max: u64,
    },
    /// How many streams may be opened in all.
    MaxStreams(u64),
    /// More would be sent if the tunnel's credit allowed.
    DataBlocked(u64),
    /// More would be sent if the stream's credit allowed.
    StreamDataBlocked {
        /// Stream id.
        stream: u64,
        /// The credit at which it is blocked.
        max: u64,
    },
    /// More streams would be opened if the limit allowed.
    StreamsBlocked(u64),
    /// Asks for a response on the same path.
    PathChallenge([u8; 8]),
    /// Echoes a challenge.
    PathResponse([u8; 8]),
    /// The tunnel is over.
    Close {
        /// Why.
        code: Code,
        /// Why, for people.
        reason: &'a str,
    },
    /// Addresses to try.
    Candidates {
        /// A list of a higher generation replaces one of a lower.
        generation: u64,
        /// The list.
        candidates: Vec<Candidate>,
    },
    /// The address from which the receiver's packets come.
    ObservedAddress(SocketAddr),
    /// Which ports the sender's NAT will give.
    Ports {
        /// One of a higher generation replaces one of a lower.
        generation: u64,
        /// What is known of them.
        ports: Ports,
    },
    /// How often the sender of this frame would like to be acknowledged.
    AckFrequency {
        /// Packets without an acknowledgement.
        threshold: u64,
        /// Time without an acknowledgement.
        max_ack_delay_us: u64,
    },
    /// An unreliable message.
    Datagram {
        /// The service that it is for.
        port: ServicePort,
        /// The message.
        data: &'a [u8],
    },
}

/// The STREAM frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamData<'a> {
    /// Stream id.
    pub stream: u64,
    /// Where in the stream the data lies; offset and length together stay below 2^62.
    pub offset: u64,
    /// The data.
    pub data: &'a [u8],
    /// Whether the stream ends behind the data.
    pub fin: bool,
}

impl<'a> Frame<'a> {
    /// Reads the next frame of a payload.
    ///
    /// # Errors
    /// If the type is unknown, the payload ends within the frame, or a field holds what it must not.
    pub fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            kind::PADDING => Ok(decode_padding(reader)),
            kind::PING => Ok(Self::Ping),
            code @ (kind::ACK | kind::ACK_ECN) => Ack::decode(reader, code == kind::ACK_ECN).map(Self::Ack),
            kind::RESET => Ok(Self::Reset {
                stream: reader.varint()?,
                code: decode_code(reader)?,
                final_size: reader.varint()?,
                reason: decode_reason(reader)?,
            }),
            kind::STOP_SENDING => Ok(Self::StopSending {
                stream: reader.varint()?,
                code: decode_code(reader)?,
                reason: decode_reason(reader)?,
            }),
            code @ kind::STREAM..=kind::STREAM_LAST => StreamData::decode(reader, code).map(Self::Stream),
            kind::MAX_DATA => Ok(Self::MaxData(reader.varint()?)),
            kind::MAX_STREAM_DATA => Ok(Self::MaxStreamData { stream: reader.varint()?, max: reader.varint()? }),
            kind::MAX_STREAMS => Ok(Self::MaxStreams(reader.varint()?)),
            kind::DATA_BLOCKED => Ok(Self::DataBlocked(reader.varint()?)),
            kind::STREAM_DATA_BLOCKED => {
                Ok(Self::StreamDataBlocked { stream: reader.varint()?, max: reader.varint()? })
            }
            kind::STREAMS_BLOCKED => Ok(Self::StreamsBlocked(reader.varint()?)),
            kind::PATH_CHALLENGE => Ok(Self::PathChallenge(reader.array()?)),
            kind::PATH_RESPONSE => Ok(Self::PathResponse(reader.array()?)),
            kind::CLOSE => Ok(Self::Close { code: decode_code(reader)?, reason: decode_reason(reader)? }),
            kind::CANDIDATES => decode_candidates(reader),
            kind::OBSERVED_ADDRESS => Ok(Self::ObservedAddress(decode_address(reader)?)),
            kind::ACK_FREQUENCY => {
                Ok(Self::AckFrequency { threshold: reader.varint()?, max_ack_delay_us: reader.varint()? })
            }
            kind::PORTS => decode_ports(reader),
            kind::DATAGRAM => Ok(Self::Datagram {
                port: ServicePort(reader.u16()?),
                data: reader.length_prefixed(usize::from(u16::MAX))?,
            }),
            unknown => Err(DecodeError::UnknownType(u64::from(unknown))),
        }
    }
}

impl<'a> StreamData<'a> {
    fn decode(reader: &mut Reader<'a>, code: u8) -> Result<Self, DecodeError> {
        let stream = reader.varint()?;
        let offset = if code & kind::OFFSET != 0 { reader.varint()? } else { 0 };
        let data = if code & kind::LEN != 0 { reader.length_prefixed(usize::MAX)? } else { reader.take_rest() };
        if offset + data.len() as u64 > varint::MAX {
            return Err(DecodeError::Invalid("stream offset"));
        }
        Ok(Self { stream, offset, data, fin: code & kind::FIN != 0 })
    }
}

fn decode_padding<'a>(reader: &mut Reader<'a>) -> Frame<'a> {
    let rest = reader.rest();
    let run = rest.iter().position(|byte| *byte != kind::PADDING).unwrap_or(rest.len());
    *reader = Reader::new(&rest[run..]);
    Frame::Padding
}

fn decode_code(reader: &mut Reader<'_>) -> Result<Code, DecodeError> {
    u32::try_from(reader.varint()?).map(Code).map_err(|_| DecodeError::Invalid("code"))
}

fn decode_reason<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let bytes = reader.length_prefixed(REASON_LEN_MAX)?;
    std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid("reason"))
}

/// Fills with padding until `buf` has `len` bytes.
pub fn put_padding(buf: &mut Vec<u8>, len: usize) {
    if buf.len() < len {
        buf.resize(len, kind::PADDING);
    }
}

/// Appends PING.
pub fn put_ping(buf: &mut Vec<u8>) {
    buf.push(kind::PING);
}

/// Appends RESET. A longer reason is cut to [`REASON_LEN_MAX`].
pub fn put_reset(buf: &mut Vec<u8>, stream: u64, code: Code, final_size: u64, reason: &str) {
    buf.push(kind::RESET);
    varint::put(buf, stream);
    varint::put(buf, u64::from(code.0));
    varint::put(buf, final_size);
    put_reason(buf, reason);
}

/// Appends STOP_SENDING. A longer reason is cut to [`REASON_LEN_MAX`].
pub fn put_stop_sending(buf: &mut Vec<u8>, stream: u64, code: Code, reason: &str) {
    buf.push(kind::STOP_SENDING);
    varint::put(buf, stream);
    varint::put(buf, u64::from(code.0));
    put_reason(buf, reason);
}

/// Appends CLOSE. A longer reason is cut to [`REASON_LEN_MAX`].
pub fn put_close(buf: &mut Vec<u8>, code: Code, reason: &str) {
    buf.push(kind::CLOSE);
    varint::put(buf, u64::from(code.0));
    put_reason(buf, reason);
}

/// Appends a STREAM frame's header; its `len` bytes of data are to be appended next. `last`: they reach the end of the payload,
/// so that the length need not be said.
pub fn put_stream_header(buf: &mut Vec<u8>, stream: u64, offset: u64, len: usize, fin: bool, last: bool) {
    let flag = |condition, bit| if condition { bit } else { 0 };
    buf.push(kind::STREAM | flag(offset > 0, kind::OFFSET) | flag(!last, kind::LEN) | flag(fin, kind::FIN));
    varint::put(buf, stream);
    if offset > 0 {
        varint::put(buf, offset);
    }
    if !last {
        varint::put(buf, len as u64);
    }
}

/// Length of a STREAM frame's header without its length field.
pub fn stream_header_len(stream: u64, offset: u64) -> usize {
    1 + varint::len(stream) + if offset > 0 { varint::len(offset) } else { 0 }
}

/// Appends MAX_DATA.
pub fn put_max_data(buf: &mut Vec<u8>, max: u64) {
    buf.push(kind::MAX_DATA);
    varint::put(buf, max);
}

/// Appends MAX_STREAM_DATA.
pub fn put_max_stream_data(buf: &mut Vec<u8>, stream: u64, max: u64) {
    buf.push(kind::MAX_STREAM_DATA);
    varint::put(buf, stream);
    varint::put(buf, max);
}

/// Appends MAX_STREAMS.
pub fn put_max_streams(buf: &mut Vec<u8>, max: u64) {
    buf.push(kind::MAX_STREAMS);
    varint::put(buf, max);
}

/// Appends DATA_BLOCKED.
pub fn put_data_blocked(buf: &mut Vec<u8>, max: u64) {
    buf.push(kind::DATA_BLOCKED);
    varint::put(buf, max);
}

/// Appends STREAM_DATA_BLOCKED.
pub fn put_stream_data_blocked(buf: &mut Vec<u8>, stream: u64, max: u64) {
    buf.push(kind::STREAM_DATA_BLOCKED);
    varint::put(buf, stream);
    varint::put(buf, max);
}

/// Appends STREAMS_BLOCKED.
pub fn put_streams_blocked(buf: &mut Vec<u8>, max: u64) {
    buf.push(kind::STREAMS_BLOCKED);
    varint::put(buf, max);
}

/// Appends PATH_CHALLENGE.
pub fn put_path_challenge(buf: &mut Vec<u8>, data: [u8; 8]) {
    buf.push(kind::PATH_CHALLENGE);
    buf.extend_from_slice(&data);
}

/// Appends PATH_RESPONSE.
pub fn put_path_response(buf: &mut Vec<u8>, data: [u8; 8]) {
    buf.push(kind::PATH_RESPONSE);
    buf.extend_from_slice(&data);
}

/// Appends ACK_FREQUENCY.
pub fn put_ack_frequency(buf: &mut Vec<u8>, threshold: u64, max_ack_delay_us: u64) {
    buf.push(kind::ACK_FREQUENCY);
    varint::put(buf, threshold);
    varint::put(buf, max_ack_delay_us);
}

/// Appends DATAGRAM.
pub fn put_datagram(buf: &mut Vec<u8>, port: ServicePort, data: &[u8]) {
    buf.push(kind::DATAGRAM);
    buf.put_u16(port.0);
    varint::put(buf, data.len() as u64);
    buf.extend_from_slice(data);
}

/// Bytes of a DATAGRAM frame beside its message.
pub fn datagram_header_len(data_len: usize) -> usize {
    1 + 2 + varint::len(data_len as u64)
}

/// Cuts a reason to [`REASON_LEN_MAX`], at the end of a character.
pub fn cut_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_LEN_MAX)]
}

fn put_reason(buf: &mut Vec<u8>, reason: &str) {
    let reason = cut_reason(reason);
    varint::put(buf, reason.len() as u64);
    buf.extend_from_slice(reason.as_bytes());
}
