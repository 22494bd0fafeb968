//! Transport parameters: what each side grants and speaks, in both payloads (spec/handshake.md §4).
//!
//! ```text
//! |type varint|length varint|value ..| ..        type 0 ends the list; only zeros may follow
//! ```
//!
//! An unknown type is skipped, a known one may come once.

use crate::identity::Certificate;
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::handshake::INIT_PAYLOAD_LEN;
use crate::wire::varint;

/// Ends the list, so that zeros pad it.
const END: u64 = 0;
const MAX_DATA: u64 = 1;
const MAX_STREAM_DATA: u64 = 2;
const MAX_STREAMS: u64 = 3;
const MAX_IDLE_MS: u64 = 4;
const FEATURES: u64 = 5;
const MAX_DATAGRAM: u64 = 6;
const EARLY_DATA: u64 = 7;
const EARLY_TAKEN: u64 = 8;
const NEXT_PACKET: u64 = 9;

/// Longest encoded list without early data: eight values of eight bytes.
const LIST_LEN_MAX: usize = 8 * (1 + 1 + 8);
/// Type and length of early data.
const EARLY_HEADER_LEN: usize = 1 + 2;
/// Longest early data: what certificate, tunnel id, timestamp and parameters leave of the one datagram.
pub const EARLY_DATA_LEN_MAX: usize = INIT_PAYLOAD_LEN - Certificate::LEN - 16 - 8 - LIST_LEN_MAX - EARLY_HEADER_LEN;

/// The feature bit of a side that takes the PORTS frame (spec/streams.md §1).
pub const FEATURE_PORTS: u64 = 1;

/// What one side of a tunnel grants to the other. The defaults are what the absence of a parameter means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Credit of the tunnel in bytes. Default 0: nothing until MAX_DATA.
    pub max_data: u64,
    /// Credit of each stream in bytes. Default 0: nothing until MAX_STREAM_DATA.
    pub max_stream_data: u64,
    /// Streams that the peer may open. Default 0: none until MAX_STREAMS.
    pub max_streams: u64,
    /// Silence in milliseconds after which streams end. Default 180,000: three minutes.
    pub max_idle_ms: u64,
    /// Frames and behaviours beyond version 1, one bit each. Default 0.
    pub features: u64,
    /// Longest DATAGRAM frame payload in bytes that is taken. Default 0: none.
    pub max_datagram: u64,
    /// 1 if the early data of message 1 was taken; in message 2 only. Default 0.
    pub early_taken: u64,
    /// The number of the sender's next packet in the tunnel, if it has reason to doubt that nobody else sends in its name. Default 0: not
    /// told.
    pub next_packet: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            max_data: 0,
            max_stream_data: 0,
            max_streams: 0,
            max_idle_ms: 180_000,
            features: 0,
            max_datagram: 0,
            early_taken: 0,
            next_packet: 0,
        }
    }
}

impl Parameters {
    /// Appends the list, without its end. Values above 62 bits are cut to the largest that the wire can say.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        for (parameter, value) in [
            (MAX_DATA, self.max_data),
            (MAX_STREAM_DATA, self.max_stream_data),
            (MAX_STREAMS, self.max_streams),
            (MAX_IDLE_MS, self.max_idle_ms),
            (FEATURES, self.features),
            (MAX_DATAGRAM, self.max_datagram),
            (EARLY_TAKEN, self.early_taken),
            (NEXT_PACKET, self.next_packet),
        ] {
            if parameter >= EARLY_TAKEN && value == 0 {
                continue;
            }
            let value = value.min(varint::MAX);
            varint::put(buf, parameter);
            varint::put(buf, varint::len(value) as u64);
            varint::put(buf, value);
        }
    }

    /// Reads a list to its end.
    pub fn decode(reader: Reader<'_>) -> Result<Self, DecodeError> {
        Self::decode_with_early(reader).map(|(parameters, _)| parameters)
    }

    /// Reads a list to its end, and the early data in it.
    pub(super) fn decode_with_early(mut reader: Reader<'_>) -> Result<(Self, &[u8]), DecodeError> {
        let (mut parameters, mut early) = (Self::default(), &[][..]);
        let mut seen = 0_u64;
        while !reader.is_empty() {
            let parameter = reader.varint()?;
            if parameter == END {
                return if reader.rest().iter().all(|byte| *byte == 0) {
                    Ok((parameters, early))
                } else {
                    Err(DecodeError::Invalid("padding"))
                };
            }
            let value = reader.length_prefixed(usize::MAX)?;
            if parameter > NEXT_PACKET {
                continue;
            }
            if seen & 1 << parameter != 0 {
                return Err(DecodeError::Invalid("repeated parameter"));
            }
            seen |= 1 << parameter;
            match parameters.field(parameter) {
                Some(field) => *field = decode_value(value)?,
                None => early = value,
            }
        }
        Ok((parameters, early))
    }

    /// The number that a type stands for; early data is none.
    fn field(&mut self, parameter: u64) -> Option<&mut u64> {
        match parameter {
            MAX_DATA => Some(&mut self.max_data),
            MAX_STREAM_DATA => Some(&mut self.max_stream_data),
            MAX_STREAMS => Some(&mut self.max_streams),
            MAX_IDLE_MS => Some(&mut self.max_idle_ms),
            FEATURES => Some(&mut self.features),
            MAX_DATAGRAM => Some(&mut self.max_datagram),
            EARLY_TAKEN => Some(&mut self.early_taken),
            NEXT_PACKET => Some(&mut self.next_packet),
            _ => None,
        }
    }
}

/// Appends early data to a list.
pub(super) fn encode_early(early: &[u8], buf: &mut Vec<u8>) {
    if !early.is_empty() {
        varint::put(buf, EARLY_DATA);
        varint::put(buf, early.len() as u64);
        buf.extend_from_slice(early);
    }
}

fn decode_value(value: &[u8]) -> Result<u64, DecodeError> {
    let mut reader = Reader::new(value);
    let value = reader.varint()?;
    reader.finish()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Parameters, DecodeError> {
        Parameters::decode(Reader::new(bytes))
    }

    #[test]
    fn absence_means_the_default() {
        assert_eq!(decode(&[]), Ok(Parameters::default()));
    }

    #[test]
    fn unknown_parameters_are_skipped_and_zeros_end_the_list() {
        let expected = Parameters { max_streams: 9, ..Parameters::default() };
        assert_eq!(decode(&[0x40, 0x7F, 3, 1, 2, 3, 3, 1, 9, 0, 0, 0]), Ok(expected));
    }

    #[test]
    fn repeated_overlong_and_dirty_lists_are_refused() {
        assert_eq!(decode(&[3, 1, 9, 3, 1, 9]), Err(DecodeError::Invalid("repeated parameter")));
        assert_eq!(decode(&[3, 2, 9, 9]), Err(DecodeError::TrailingBytes(1)));
        assert_eq!(decode(&[3, 0]), Err(DecodeError::Truncated));
        assert_eq!(decode(&[3, 5, 9]), Err(DecodeError::Truncated));
        assert_eq!(decode(&[0, 0, 1]), Err(DecodeError::Invalid("padding")));
    }

    #[test]
    fn early_data_stands_beside_the_parameters_once() {
        fn with_early(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
            Parameters::decode_with_early(Reader::new(bytes)).map(|(_, early)| early.to_vec())
        }
        let mut buf = Vec::new();
        Parameters::default().encode(&mut buf);
        encode_early(&[8, 9], &mut buf);
        assert_eq!(with_early(&buf), Ok(vec![8, 9]));
        assert_eq!(decode(&buf), Ok(Parameters::default()));
        encode_early(&[8, 9], &mut buf);
        assert_eq!(with_early(&buf), Err(DecodeError::Invalid("repeated parameter")));
        assert_eq!(with_early(&[7, 3, 8, 9]), Err(DecodeError::Truncated));
    }

    #[test]
    fn the_greatest_parameters_and_early_data_fill_message_1_to_the_last_byte() {
        let most = u64::MAX;
        let greatest = Parameters {
            max_data: most,
            max_stream_data: most,
            max_streams: most,
            max_idle_ms: most,
            features: most,
            max_datagram: most,
            early_taken: most,
            next_packet: most,
        };
        let mut payload = vec![0; Certificate::LEN + 16 + 8];
        greatest.encode(&mut payload);
        encode_early(&[7; EARLY_DATA_LEN_MAX], &mut payload);
        assert_eq!(payload.len(), INIT_PAYLOAD_LEN);
    }

    proptest! {
        #[test]
        fn parameters_round_trip(
            max_data in 0..=varint::MAX, max_stream_data in 0..=varint::MAX, max_streams in 0..=varint::MAX,
            max_idle_ms in 0..=varint::MAX, features in 0..=varint::MAX, max_datagram in 0..=varint::MAX, early_taken in 0_u64..2, next_packet in 0..=varint::MAX, padding in 0_usize..20,
        ) {
            let parameters = Parameters { max_data, max_stream_data, max_streams, max_idle_ms, features, max_datagram, early_taken, next_packet };
            let mut buf = Vec::new();
            parameters.encode(&mut buf);
            buf.resize(buf.len() + padding, 0);
            prop_assert_eq!(decode(&buf), Ok(parameters));
        }

        #[test]
        fn any_bytes_are_refused_or_mean_something(bytes: Vec<u8>) {
            if let Ok(parameters) = decode(&bytes) {
                let mut buf = Vec::new();
                parameters.encode(&mut buf);
                prop_assert_eq!(decode(&buf), Ok(parameters));
            }
        }
    }
}
