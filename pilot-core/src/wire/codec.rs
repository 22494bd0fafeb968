//! The bounded reader that every decoder uses, and the error of all decoding (spec/wire.md §2).
//!
//! A [`Reader`] only lends slices of the datagram it was given: a length from the network is checked against what is left before
//! it is used, so no decoder can panic or allocate more than its datagram justifies. Integers are big-endian. Encoders append to
//! a `Vec<u8>` with [`bytes::BufMut`], which has the same byte order.

use crate::wire::varint;

/// Why bytes from the network are not what they should be. The peer's bytes are to blame for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("ends before its last field")]
    Truncated,
    /// Bytes are left where the layout ends.
    #[error("{0} bytes after its last field")]
    TrailingBytes(usize),
    /// A type code that this version does not know.
    #[error("unknown type {0}")]
    UnknownType(u64),
    /// A version of the protocol that this crate does not speak.
    #[error("version {0} is not spoken here")]
    UnsupportedVersion(u8),
    /// A suite that this crate does not speak.
    #[error("suite {0} is not spoken here")]
    UnsupportedSuite(u8),
    /// A field holds a value that its layout forbids.
    #[error("{0} holds a forbidden value")]
    Invalid(&'static str),
}

/// Reads fields from the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes, copied.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A variable-length integer (spec/wire.md §2).
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let (value, len) = varint::decode(self.rest)?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    /// A variable-length integer that says a length, and that many bytes. The length may be at most `max`.
    pub fn length_prefixed(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
        if len > max {
            return Err(DecodeError::Invalid("length"));
        }
        self.bytes(len)
    }

    /// Everything that is left.
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Ends the layout here.
    ///
    /// # Errors
    /// If bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes(self.rest.len())) }
    }

    /// What is left, without taking it.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Number of bytes left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order_and_big_endian() {
        let bytes = [1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0x40, 0x05, 9, 8];
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(2));
        assert_eq!(reader.u32(), Ok(3));
        assert_eq!(reader.u64(), Ok(4));
        assert_eq!(reader.varint(), Ok(5));
        assert_eq!(reader.array(), Ok([9]));
        assert_eq!(reader.remaining(), 1);
        assert_eq!(reader.take_rest(), [8]);
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn reading_past_the_end_takes_nothing() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u32(), Err(DecodeError::Truncated));
        assert_eq!(reader.bytes(4), Err(DecodeError::Truncated));
        assert_eq!(reader.rest(), [1, 2, 3]);
        assert_eq!(reader.finish(), Err(DecodeError::TrailingBytes(3)));
    }

    #[test]
    fn a_length_beyond_the_datagram_or_the_bound_is_refused() {
        assert_eq!(Reader::new(&[3, 1, 2]).length_prefixed(16), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(&[2, 1, 2]).length_prefixed(1), Err(DecodeError::Invalid("length")));
        assert_eq!(Reader::new(&[2, 1, 2]).length_prefixed(2), Ok(&[1, 2][..]));
        let longest = [0xFF; 8];
        assert_eq!(Reader::new(&longest).length_prefixed(usize::MAX), Err(DecodeError::Truncated));
    }
}
