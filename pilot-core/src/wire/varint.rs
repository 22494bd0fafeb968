//! Variable-length integers, as in RFC 9000 §16: the two top bits of the first byte give the length, 1, 2, 4 or 8 bytes.
//!
//! Encoders use the shortest form. Decoders take any, since nothing here is compared or signed in its encoded form.

use bytes::BufMut;

use crate::wire::codec::DecodeError;

/// The largest value: 62 bits.
pub const MAX: u64 = (1 << 62) - 1;

/// Encoded length of `value` in bytes.
pub fn len(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// Appends `value` in its shortest form. Values above [`MAX`] are a bug of the caller; they are written as [`MAX`].
#[expect(clippy::cast_possible_truncation, reason = "each arm has checked that the value fits")]
pub fn put(buf: &mut impl BufMut, value: u64) {
    debug_assert!(value <= MAX, "{value} does not fit a variable-length integer");
    match len(value) {
        1 => buf.put_u8(value as u8),
        2 => buf.put_u16(value as u16 | 0x4000),
        4 => buf.put_u32(value as u32 | 0x8000_0000),
        _ => buf.put_u64(value.min(MAX) | 0xC000_0000_0000_0000),
    }
}

/// The value at the front of `bytes`, and the number of bytes it takes there.
pub fn decode(bytes: &[u8]) -> Result<(u64, usize), DecodeError> {
    let first = *bytes.first().ok_or(DecodeError::Truncated)?;
    let len = 1 << (first >> 6);
    let rest = bytes.get(1..len).ok_or(DecodeError::Truncated)?;
    let value = rest.iter().fold(u64::from(first & 0x3F), |value, byte| value << 8 | u64::from(*byte));
    Ok((value, len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_rfc_9000_decode() {
        let examples: [(&[u8], u64); 5] = [
            (&[0xC2, 0x19, 0x7C, 0x5E, 0xFF, 0x14, 0xE8, 0x8C], 151_288_809_941_952_652),
            (&[0x9D, 0x7F, 0x3E, 0x7D], 494_878_333),
            (&[0x7B, 0xBD], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in examples {
            assert_eq!(decode(bytes), Ok((value, bytes.len())));
        }
    }

    #[test]
    fn each_length_holds_its_largest_value() {
        for (value, expected) in
            [(0, 1), (63, 1), (64, 2), (16_383, 2), (16_384, 4), (0x3FFF_FFFF, 4), (0x4000_0000, 8), (MAX, 8)]
        {
            let mut buf = Vec::new();
            put(&mut buf, value);
            assert_eq!((buf.len(), len(value)), (expected, expected));
            assert_eq!(decode(&buf), Ok((value, expected)));
        }
    }

    proptest! {
        #[test]
        fn values_round_trip_and_truncations_are_refused(value in 0..=MAX) {
            let mut buf = Vec::new();
            put(&mut buf, value);
            prop_assert_eq!(decode(&buf), Ok((value, buf.len())));
            for end in 0..buf.len() {
                prop_assert_eq!(decode(&buf[..end]), Err(DecodeError::Truncated));
            }
        }
    }
}
