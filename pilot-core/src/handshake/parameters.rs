//! Transport parameters: what each side grants and speaks, in both payloads (spec/handshake.md §4).
//!
//! ```text
//! |type varint|length varint|value ..| ..        type 0 ends the list; only zeros may follow
//! ```
//!
//! An unknown type is skipped, a known one may come once.

use crate::wire::codec::{DecodeError, Reader};
use crate::wire::varint;

/// Ends the list, so that zeros pad it.
const END: u64 = 0;
const MAX_DATA: u64 = 1;
const MAX_STREAM_DATA: u64 = 2;
const MAX_STREAMS: u64 = 3;
const MAX_IDLE_MS: u64 = 4;
const FEATURES: u64 = 5;
const MAX_DATAGRAM: u64 = 6;

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
}

impl Default for Parameters {
    fn default() -> Self {
        Self { max_data: 0, max_stream_data: 0, max_streams: 0, max_idle_ms: 180_000, features: 0, max_datagram: 0 }
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
        ] {
            let value = value.min(varint::MAX);
            varint::put(buf, parameter);
            varint::put(buf, varint::len(value) as u64);
            varint::put(buf, value);
        }
    }

    /// Reads a list to its end.
    pub fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let mut parameters = Self::default();
        let mut seen = 0_u64;
        while !reader.is_empty() {
            let parameter = reader.varint()?;
            if parameter == END {
                return if reader.rest().iter().all(|byte| *byte == 0) {
                    Ok(parameters)
                } else {
                    Err(DecodeError::Invalid("padding"))
                };
            }
            let value = reader.length_prefixed(usize::MAX)?;
            let Some(field) = parameters.field(parameter) else { continue };
            if seen & 1 << parameter != 0 {
                return Err(DecodeError::Invalid("repeated parameter"));
            }
            seen |= 1 << parameter;
            *field = decode_value(value)?;
        }
        Ok(parameters)
    }

    fn field(&mut self, parameter: u64) -> Option<&mut u64> {
        match parameter {
            MAX_DATA => Some(&mut self.max_data),
            MAX_STREAM_DATA => Some(&mut self.max_stream_data),
            MAX_STREAMS => Some(&mut self.max_streams),
            MAX_IDLE_MS => Some(&mut self.max_idle_ms),
            FEATURES => Some(&mut self.features),
            MAX_DATAGRAM => Some(&mut self.max_datagram),
            _ => None,
        }
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

    proptest! {
        #[test]
        fn parameters_round_trip(
            max_data in 0..=varint::MAX, max_stream_data in 0..=varint::MAX, max_streams in 0..=varint::MAX,
            max_idle_ms in 0..=varint::MAX, features in 0..=varint::MAX, max_datagram in 0..=varint::MAX, padding in 0_usize..20,
        ) {
            let parameters = Parameters { max_data, max_stream_data, max_streams, max_idle_ms, features, max_datagram };
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
