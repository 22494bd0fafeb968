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

impl StreamHeader {
    /// Appends length and header.
    ///
    /// # Errors
    /// If a field is beyond its bound; nothing is appended then.
    pub fn encode(&self, buf: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.urgency > Self::URGENCY_MAX {
            return Err(DecodeError::Invalid("urgency"));
        }
        let mut body = Vec::with_capacity(64);
        body.put_u16(self.port.0);
        body.put_u8(self.flags());
        if let Some(network) = &self.network {
            body.extend_from_slice(network);
        }
        if let Some(deadline_ms) = self.deadline_ms {
            varint::put(&mut body, deadline_ms.min(varint::MAX));
        }
        if let Some(trace) = &self.trace {
            body.extend_from_slice(trace);
        }
        if let Some(content_type) = &self.content_type {
            if content_type.len() > CONTENT_TYPE_LEN_MAX {
                return Err(DecodeError::Invalid("content type"));
            }
            varint::put(&mut body, TLV_CONTENT_TYPE);
            varint::put(&mut body, content_type.len() as u64);
            body.extend_from_slice(content_type.as_bytes());
        }
        varint::put(buf, body.len() as u64);
        buf.extend_from_slice(&body);
        Ok(())
    }

    /// Reads a header from the first bytes of a stream: it, and the length that it takes there; none if more bytes are needed.
    ///
    /// # Errors
    /// If the bytes can become no header, whatever follows.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.length_prefixed(STREAM_HEADER_LEN_MAX) {
            Ok(body) => Ok(Some((Self::decode_body(body)?, bytes.len() - reader.remaining()))),
            Err(DecodeError::Truncated) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn decode_body(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut header = Self::new(ServicePort(reader.u16()?));
        let flags = reader.u8()?;
        if flags & FLAGS_ZERO != 0 {
            return Err(DecodeError::Invalid("stream header flags"));
        }
        header.replay_safe = flags & FLAG_REPLAY_SAFE != 0;
        header.urgency = flags >> URGENCY_SHIFT;
        header.network = if flags & FLAG_NETWORK != 0 { Some(reader.array()?) } else { None };
        header.deadline_ms = if flags & FLAG_DEADLINE != 0 { Some(reader.varint()?) } else { None };
        header.trace = if flags & FLAG_TRACE != 0 { Some(reader.array()?) } else { None };
        while !reader.is_empty() {
            let kind = reader.varint()?;
            let value = reader.length_prefixed(STREAM_HEADER_LEN_MAX)?;
            if kind == TLV_CONTENT_TYPE {
                header.content_type = Some(decode_content_type(value)?);
            }
        }
        Ok(header)
    }

    fn flags(&self) -> u8 {
        let flag = |condition, bit| if condition { bit } else { 0 };
        flag(self.replay_safe, FLAG_REPLAY_SAFE)
            | flag(self.network.is_some(), FLAG_NETWORK)
            | flag(self.deadline_ms.is_some(), FLAG_DEADLINE)
            | flag(self.trace.is_some(), FLAG_TRACE)
            | self.urgency << URGENCY_SHIFT
    }
}

const FLAG_REPLAY_SAFE: u8 = 0x01;
const FLAG_NETWORK: u8 = 0x02;
const FLAG_DEADLINE: u8 = 0x04;
const FLAG_TRACE: u8 = 0x08;
const FLAGS_ZERO: u8 = 0x10;
const URGENCY_SHIFT: u8 = 5;

const TLV_CONTENT_TYPE: u64 = 1;

fn decode_content_type(value: &[u8]) -> Result<String, DecodeError> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= CONTENT_TYPE_LEN_MAX);
    text.map(str::to_owned).ok_or(DecodeError::Invalid("content type"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(header: &StreamHeader) -> Vec<u8> {
        let mut buf = Vec::new();
        header.encode(&mut buf).unwrap();
        buf
    }

    fn full() -> StreamHeader {
        StreamHeader {
            replay_safe: true,
            urgency: 7,
            network: Some([9; 32]),
            deadline_ms: Some(30_000),
            trace: Some([5; TRACE_CONTEXT_LEN]),
            content_type: Some("application/json".to_owned()),
            ..StreamHeader::new(ServicePort::QUERY)
        }
    }

    #[test]
    fn headers_round_trip_and_ask_for_more_when_cut() {
        for header in [StreamHeader::new(ServicePort::ECHO), full()] {
            let mut bytes = encoded(&header);
            let len = bytes.len();
            for end in 0..len {
                assert_eq!(StreamHeader::decode(&bytes[..end]), Ok(None), "cut at {end}");
            }
            bytes.extend_from_slice(b"data of the stream");
            assert_eq!(StreamHeader::decode(&bytes), Ok(Some((header, len))));
        }
    }

    #[test]
    fn a_body_cut_short_within_its_own_length_is_refused() {
        let bytes = encoded(&full());
        let body = &bytes[2..];
        for end in 0..body.len() {
            let mut cut = Vec::new();
            varint::put(&mut cut, end as u64);
            cut.extend_from_slice(&body[..end]);
            // The cut between the trace context and the first TLV is the one that leaves a whole header.
            let whole = end == 3 + 32 + 4 + TRACE_CONTEXT_LEN;
            assert_eq!(StreamHeader::decode(&cut).is_ok(), whole, "cut at {end}");
        }
    }

    #[test]
    fn the_vectors_decode_as_they_say() {
        let text = include_str!("../../../spec/vectors/stream_headers.txt");
        let mut seen = 0;
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (hex, meaning) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
            let bytes = data_encoding::HEXLOWER.decode(hex.replace(' ', "").as_bytes()).unwrap();
            let decoded = match StreamHeader::decode(&bytes) {
                Ok(Some((header, _))) => describe(&header),
                Ok(None) => "more".to_owned(),
                Err(error) => format!("error: {error}"),
            };
            assert_eq!(decoded, meaning, "{hex}");
            seen += 1;
        }
        assert!(seen >= 10, "only {seen} vectors");
    }

    fn describe(header: &StreamHeader) -> String {
        let mut text = format!("port {} urgency {}", header.port.0, header.urgency);
        text += if header.replay_safe { " replay_safe" } else { "" };
        text += if header.network.is_some() { " network" } else { "" };
        text += &header.deadline_ms.map_or(String::new(), |deadline_ms| format!(" deadline {deadline_ms}"));
        text += if header.trace.is_some() { " trace" } else { "" };
        text += &header.content_type.as_ref().map_or(String::new(), |content_type| format!(" content {content_type}"));
        text
    }

    #[test]
    fn unknown_tlvs_are_skipped() {
        let mut bytes = encoded(&StreamHeader::new(ServicePort::MCP));
        bytes.extend_from_slice(&[40, 2, 0xAA, 0xBB]);
        bytes[0] += 4;
        assert_eq!(StreamHeader::decode(&bytes), Ok(Some((StreamHeader::new(ServicePort::MCP), bytes.len()))));
    }

    #[test]
    fn what_is_beyond_its_bound_is_refused_both_ways() {
        let long = StreamHeader { content_type: Some("x".repeat(CONTENT_TYPE_LEN_MAX + 1)), ..full() };
        let urgent = StreamHeader { urgency: 8, ..full() };
        let mut buf = Vec::new();
        assert!(long.encode(&mut buf).is_err() && urgent.encode(&mut buf).is_err() && buf.is_empty());
        assert_eq!(StreamHeader::decode(&[0x42, 0x01, 0, 7, 0]), Err(DecodeError::Invalid("length")));
        assert_eq!(StreamHeader::decode(&[3, 0, 7, 0x10]), Err(DecodeError::Invalid("stream header flags")));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(Some((header, len))) = StreamHeader::decode(&bytes) {
                prop_assert!(len <= bytes.len());
                prop_assert!(StreamHeader::decode(&encoded(&header)).unwrap().unwrap().0 == header);
            }
        }
    }
}
