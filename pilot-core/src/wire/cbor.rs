//! CBOR forms of the ids that control messages and records carry (RFC 8949 §4.2: deterministic encoding).
//!
//! Keys, addresses and instances are byte strings of their exact length; dates are whole seconds since the epoch. [`from_slice`] accepts
//! only what [`to_vec`] would write, so that one value has one encoding.

use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};

use crate::address::Address;
use crate::id::{IdentityKey, InstanceId};
use crate::time::UnixTime;

/// Why bytes are not the one encoding of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// Not CBOR, or not of this shape.
    #[error("malformed CBOR")]
    Malformed,
    /// The same value has another, deterministic encoding; or fields follow that this version does not know.
    #[error("encoding is not deterministic")]
    NotDeterministic,
}

/// Encodes `message`.
pub fn to_vec<T: Encode<()>>(message: &T) -> Vec<u8> {
    minicbor::to_vec(message).expect("writing to a vector does not fail")
}

/// Decodes a message that fills `bytes` and is encoded deterministically.
///
/// # Errors
/// [`CborError`] when the bytes are anything but the one encoding of a `T`.
pub fn from_slice<T: Encode<()> + for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<T, CborError> {
    let message = minicbor::decode(bytes).map_err(|_| CborError::Malformed)?;
    if to_vec(&message) != bytes {
        return Err(CborError::NotDeterministic);
    }
    Ok(message)
}

/// Reads a byte string of exactly `N` bytes.
fn array<const N: usize>(decoder: &mut Decoder<'_>) -> Result<[u8; N], decode::Error> {
    let at = decoder.position();
    <[u8; N]>::try_from(decoder.bytes()?).map_err(|_| decode::Error::message("wrong length of a byte string").at(at))
}

/// Gives messages that travel alone on a stream their `encode` and `decode`.
macro_rules! message {
    ($($message:ident),*) => {$(
        impl $message {
            /// Encodes the message as it stands on its stream.
            pub fn encode(&self) -> Vec<u8> {
                $crate::wire::cbor::to_vec(self)
            }

            /// Decodes a message that fills `bytes`.
            ///
            /// # Errors
            /// `CborError` when the bytes are anything but the one encoding of a message.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::wire::cbor::CborError> {
                $crate::wire::cbor::from_slice(bytes)
            }
        }
    )*};
}

pub(crate) use message;

macro_rules! byte_string {
    ($($id:ident),*) => {$(
        impl<C> Encode<C> for $id {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $id {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                array(d).map($id)
            }
        }
    )*};
}

byte_string!(IdentityKey, InstanceId, Address);

impl<C> Encode<C> for UnixTime {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.u64(self.as_secs())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for UnixTime {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.u64().map(Self::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert_eq!(from_slice::<IdentityKey>(&to_vec(&IdentityKey([7; 32]))), Ok(IdentityKey([7; 32])));
        let mut short = vec![0x58, 31];
        short.resize(33, 7);
        assert_eq!(from_slice::<IdentityKey>(&short), Err(CborError::Malformed));
    }

    #[test]
    fn a_longer_encoding_of_the_same_number_is_refused() {
        assert_eq!(from_slice::<UnixTime>(&[0x05]), Ok(UnixTime::from_secs(5)));
        assert_eq!(from_slice::<UnixTime>(&[0x18, 0x05]), Err(CborError::NotDeterministic));
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        assert_eq!(from_slice::<UnixTime>(&[0x05, 0x05]), Err(CborError::NotDeterministic));
    }
}
