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
    /// No tunnel could be made. Given by the local node, never on the wire.
    UNREACHABLE = 10 "unreachable";
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

/// The ACK frame. Its ranges were checked when it was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Largest packet number acknowledged.
    pub largest: u64,
    /// How long its acknowledgement was held back.
    pub delay_us: u64,
    /// Packets that arrived with the mark "congestion experienced", in all; none if the receiver saw none.
    pub ce_count: Option<u64>,
    first_len: u64,
    ranges: &'a [u8],
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

impl<'a> Ack<'a> {
    /// The acknowledged ranges, both ends included, from the largest down.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let mut reader = Reader::new(self.ranges);
        let mut smallest = self.largest - self.first_len;
        let first = (smallest, self.largest);
        std::iter::once(first).chain(std::iter::from_fn(move || {
            let range = next_range(&mut reader, smallest).ok()?;
            smallest = range.0;
            Some(range)
        }))
    }

    fn decode(reader: &mut Reader<'a>, ecn: bool) -> Result<Self, DecodeError> {
        let largest = reader.varint()?;
        let delay_us = reader.varint()?;
        let range_count = reader.varint()?;
        let first_len = reader.varint()?;
        let ranges = reader.rest();
        let mut smallest = largest.checked_sub(first_len).ok_or(DecodeError::Invalid("ACK range"))?;
        for _ in 0..range_count {
            (smallest, _) = next_range(reader, smallest)?;
        }
        let ranges = &ranges[..ranges.len() - reader.remaining()];
        let ce_count = if ecn { Some(reader.varint()?) } else { None };
        Ok(Self { largest, delay_us, ce_count, first_len, ranges })
    }
}

/// The range below the one that begins at `smallest`: gap and length, each one less than it counts (RFC 9000 §19.3.1).
fn next_range(reader: &mut Reader<'_>, smallest: u64) -> Result<(u64, u64), DecodeError> {
    let (gap, len) = (reader.varint()?, reader.varint()?);
    let largest = smallest.checked_sub(gap + 2).ok_or(DecodeError::Invalid("ACK range"))?;
    let smallest = largest.checked_sub(len).ok_or(DecodeError::Invalid("ACK range"))?;
    Ok((smallest, largest))
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

fn decode_candidates<'a>(reader: &mut Reader<'a>) -> Result<Frame<'a>, DecodeError> {
    let generation = reader.varint()?;
    let count = usize::from(reader.u8()?);
    if count > CANDIDATES_MAX {
        return Err(DecodeError::Invalid("candidate count"));
    }
    let candidates = (0..count).map(|_| decode_candidate(reader)).collect::<Result<_, _>>()?;
    Ok(Frame::Candidates { generation, candidates })
}

fn decode_candidate(reader: &mut Reader<'_>) -> Result<Candidate, DecodeError> {
    Ok(Candidate { kind: CandidateKind::from_code(reader.u8()?)?, address: decode_address(reader)? })
}

fn decode_address(reader: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    let ip = match reader.u8()? {
        4 => IpAddr::from(reader.array::<4>()?),
        6 => IpAddr::from(reader.array::<16>()?),
        _ => return Err(DecodeError::Invalid("address family")),
    };
    Ok(SocketAddr::new(ip, reader.u16()?))
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

/// Appends ACK with as many of the half-open `ranges`, sorted upward, as fit into `room` bytes, the largest first. Returns the
/// smallest packet number that it acknowledges; none if not even one range fits.
pub fn put_ack(
    buf: &mut Vec<u8>,
    room: usize,
    ranges: &[std::ops::Range<u64>],
    delay_us: u64,
    ce_count: u64,
) -> Option<u64> {
    let first = ranges.last()?;
    let (largest, first_len) = (first.end - 1, first.end - 1 - first.start);
    let ecn_len = if ce_count > 0 { varint::len(ce_count) } else { 0 };
    // The range count is below 2^14: more would not fit a packet's worth of ranges kept.
    let fixed = 1 + varint::len(largest) + varint::len(delay_us) + 2 + varint::len(first_len) + ecn_len;
    let mut left = room.checked_sub(fixed)?;
    let pairs = || {
        ranges
            .windows(2)
            .rev()
            .map(|pair| (pair[1].start - pair[0].end - 1, pair[0].end - pair[0].start - 1, pair[0].start))
    };
    let more = pairs()
        .take_while(|(gap, len, _)| {
            let need = varint::len(*gap) + varint::len(*len);
            left.checked_sub(need).map(|rest| left = rest).is_some()
        })
        .take(ACK_RANGES_MAX)
        .count();
    buf.push(if ce_count > 0 { kind::ACK_ECN } else { kind::ACK });
    varint::put(buf, largest);
    varint::put(buf, delay_us);
    varint::put(buf, more as u64);
    varint::put(buf, first_len);
    let mut smallest = first.start;
    for (gap, len, start) in pairs().take(more) {
        varint::put(buf, gap);
        varint::put(buf, len);
        smallest = start;
    }
    if ce_count > 0 {
        varint::put(buf, ce_count);
    }
    Some(smallest)
}

/// Most ranges of one ACK beside the first: the count then takes two bytes at most.
const ACK_RANGES_MAX: usize = (1 << 14) - 1;

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

/// Appends CANDIDATES with the first [`CANDIDATES_MAX`] of the list.
pub fn put_candidates(buf: &mut Vec<u8>, generation: u64, candidates: &[Candidate]) {
    let candidates = &candidates[..candidates.len().min(CANDIDATES_MAX)];
    buf.push(kind::CANDIDATES);
    varint::put(buf, generation);
    buf.put_u8(candidates.len().try_into().unwrap_or(u8::MAX));
    for candidate in candidates {
        buf.put_u8(candidate.kind.code());
        put_address(buf, candidate.address);
    }
}

/// Appends OBSERVED_ADDRESS.
pub fn put_observed_address(buf: &mut Vec<u8>, address: SocketAddr) {
    buf.push(kind::OBSERVED_ADDRESS);
    put_address(buf, address);
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

fn put_address(buf: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            buf.push(4);
            buf.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            buf.push(6);
            buf.extend_from_slice(&ip.octets());
        }
    }
    buf.put_u16(address.port());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One of each frame that says where it ends, encoded.
    fn one_of_each() -> Vec<(Vec<u8>, &'static str)> {
        let v4 = "192.0.2.1:4433".parse().unwrap();
        let v6 = "[2001:db8::7]:9".parse().unwrap();
        let candidates = [
            Candidate { kind: CandidateKind::Host, address: v4 },
            Candidate { kind: CandidateKind::ServerReflexive, address: v6 },
            Candidate { kind: CandidateKind::PeerReflexive, address: v4 },
            Candidate { kind: CandidateKind::Mapped, address: v6 },
        ];
        let encode = |name, put: &dyn Fn(&mut Vec<u8>)| {
            let mut buf = Vec::new();
            put(&mut buf);
            (buf, name)
        };
        vec![
            encode("PING", &put_ping),
            encode("ACK", &|buf| assert_eq!(put_ack(buf, 100, &[2..4, 7..8, 9..300], 1_000, 0), Some(2))),
            encode("ACK_ECN", &|buf| assert_eq!(put_ack(buf, 100, &[0..1, 9..300], 0, 70), Some(0))),
            encode("RESET", &|buf| put_reset(buf, 6, Code::REFUSED, 70_000, "not on the list")),
            encode("STOP_SENDING", &|buf| put_stop_sending(buf, 6, Code(77), "")),
            encode("STREAM", &|buf| {
                put_stream_header(buf, 9, 5_000_000_000, 3, true, false);
                buf.extend_from_slice(b"abc");
            }),
            encode("STREAM at 0", &|buf| {
                put_stream_header(buf, 9, 0, 3, false, false);
                buf.extend_from_slice(b"abc");
            }),
            encode("MAX_DATA", &|buf| put_max_data(buf, 1 << 40)),
            encode("MAX_STREAM_DATA", &|buf| put_max_stream_data(buf, 4, 1 << 20)),
            encode("MAX_STREAMS", &|buf| put_max_streams(buf, 1_024)),
            encode("DATA_BLOCKED", &|buf| put_data_blocked(buf, 63)),
            encode("STREAM_DATA_BLOCKED", &|buf| put_stream_data_blocked(buf, 64, 16_384)),
            encode("STREAMS_BLOCKED", &|buf| put_streams_blocked(buf, 16)),
            encode("PATH_CHALLENGE", &|buf| put_path_challenge(buf, *b"8 bytes.")),
            encode("PATH_RESPONSE", &|buf| put_path_response(buf, *b"8 bytes.")),
            encode("CLOSE", &|buf| put_close(buf, Code::SHUTDOWN, "good night")),
            encode("CANDIDATES", &|buf| put_candidates(buf, 3, &candidates)),
            encode("OBSERVED_ADDRESS", &|buf| put_observed_address(buf, v6)),
            encode("ACK_FREQUENCY", &|buf| put_ack_frequency(buf, 10, 25_000)),
            encode("DATAGRAM", &|buf| put_datagram(buf, ServicePort::ECHO, b"hello")),
        ]
    }

    fn encode(frame: &Frame<'_>) -> Vec<u8> {
        let mut buf = Vec::new();
        match frame {
            Frame::Padding => put_padding(&mut buf, 1),
            Frame::Ping => put_ping(&mut buf),
            Frame::Ack(ack) => {
                let mut ranges: Vec<_> = ack.ranges().map(|(smallest, largest)| smallest..largest + 1).collect();
                ranges.reverse();
                assert!(put_ack(&mut buf, usize::MAX, &ranges, ack.delay_us, ack.ce_count.unwrap_or(0)).is_some());
            }
            Frame::Reset { stream, code, final_size, reason } => {
                put_reset(&mut buf, *stream, *code, *final_size, reason)
            }
            Frame::StopSending { stream, code, reason } => put_stop_sending(&mut buf, *stream, *code, reason),
            Frame::Stream(StreamData { stream, offset, data, fin }) => {
                put_stream_header(&mut buf, *stream, *offset, data.len(), *fin, false);
                buf.extend_from_slice(data);
            }
            Frame::MaxData(max) => put_max_data(&mut buf, *max),
            Frame::MaxStreamData { stream, max } => put_max_stream_data(&mut buf, *stream, *max),
            Frame::MaxStreams(max) => put_max_streams(&mut buf, *max),
            Frame::DataBlocked(max) => put_data_blocked(&mut buf, *max),
            Frame::StreamDataBlocked { stream, max } => put_stream_data_blocked(&mut buf, *stream, *max),
            Frame::StreamsBlocked(max) => put_streams_blocked(&mut buf, *max),
            Frame::PathChallenge(data) => put_path_challenge(&mut buf, *data),
            Frame::PathResponse(data) => put_path_response(&mut buf, *data),
            Frame::Close { code, reason } => put_close(&mut buf, *code, reason),
            Frame::Candidates { generation, candidates } => put_candidates(&mut buf, *generation, candidates),
            Frame::ObservedAddress(address) => put_observed_address(&mut buf, *address),
            Frame::AckFrequency { threshold, max_ack_delay_us } => {
                put_ack_frequency(&mut buf, *threshold, *max_ack_delay_us);
            }
            Frame::Datagram { port, data } => put_datagram(&mut buf, *port, data),
        }
        buf
    }

    #[test]
    fn every_frame_round_trips_and_every_truncation_is_refused() {
        for (bytes, name) in one_of_each() {
            let mut reader = Reader::new(&bytes);
            let frame = Frame::decode(&mut reader).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(reader.is_empty(), "{name}");
            assert_eq!(encode(&frame), bytes, "{name}");
            for end in 0..bytes.len() {
                assert_eq!(
                    Frame::decode(&mut Reader::new(&bytes[..end])),
                    Err(DecodeError::Truncated),
                    "{name} cut at {end}"
                );
            }
        }
    }

    #[test]
    fn the_vectors_decode_as_they_say() {
        let text = include_str!("../../../spec/vectors/frames.txt");
        let mut seen = 0;
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (hex, meaning) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
            let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.replace(' ', "").as_bytes()).unwrap();
            let decoded = match Frame::decode(&mut Reader::new(&bytes)) {
                Ok(Frame::Ack(ack)) => {
                    format!("Ack {:?} delay {} ce {:?}", ack.ranges().collect::<Vec<_>>(), ack.delay_us, ack.ce_count)
                }
                Ok(frame) => format!("{frame:?}"),
                Err(error) => format!("error: {error}"),
            };
            assert_eq!(decoded, meaning, "{hex}");
            seen += 1;
        }
        assert!(seen >= 20, "only {seen} vectors");
    }

    #[test]
    fn stream_data_without_length_takes_the_rest_of_the_payload() {
        let mut buf = Vec::new();
        put_stream_header(&mut buf, 1, 64, 4, false, true);
        assert_eq!(buf.len(), stream_header_len(1, 64));
        buf.extend_from_slice(b"rest");
        let frame = Frame::decode(&mut Reader::new(&buf)).unwrap();
        assert_eq!(frame, Frame::Stream(StreamData { stream: 1, offset: 64, data: b"rest", fin: false }));
    }

    #[test]
    fn a_run_of_padding_is_one_frame() {
        let mut reader = Reader::new(&[0, 0, 0, 1]);
        assert_eq!(Frame::decode(&mut reader), Ok(Frame::Padding));
        assert_eq!(Frame::decode(&mut reader), Ok(Frame::Ping));
        assert!(reader.is_empty());
    }

    #[test]
    fn an_ack_that_does_not_fit_reports_the_largest_packets() {
        let ranges: Vec<_> = (0..100u64).map(|i| i * 10..i * 10 + 5).collect();
        let mut buf = Vec::new();
        let smallest = put_ack(&mut buf, 40, &ranges, 0, 0).unwrap();
        assert!(buf.len() <= 40);
        let Ok(Frame::Ack(ack)) = Frame::decode(&mut Reader::new(&buf)) else { panic!() };
        assert_eq!(ack.ranges().next(), Some((990, 994)));
        assert_eq!(ack.ranges().last().map(|(smallest, _)| smallest), Some(smallest));
        assert!(smallest > 0);
        assert_eq!(put_ack(&mut Vec::new(), 4, &ranges, 0, 0), None);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "ä".repeat(200);
        let mut buf = Vec::new();
        put_close(&mut buf, Code::BUSY, &format!("x{reason}"));
        let Ok(Frame::Close { reason, .. }) = Frame::decode(&mut Reader::new(&buf)) else { panic!() };
        assert_eq!(reason.len(), 255);
    }

    #[test]
    fn codes_have_names_both_ways() {
        assert_eq!(Code::PEER_RESTARTED.name(), Some("peer_restarted"));
        assert_eq!(Code::from_name("refused"), Some(Code::REFUSED));
        assert_eq!(Code(4_000).to_string(), "code_4000");
    }

    proptest! {
        #[test]
        fn no_payload_panics_and_what_decodes_can_be_encoded(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while !reader.is_empty() {
                let Ok(frame) = Frame::decode(&mut reader) else { break };
                let again = encode(&frame);
                prop_assert_eq!(Frame::decode(&mut Reader::new(&again)).map(|frame| encode(&frame)), Ok(again.clone()));
            }
        }
    }
}
