//! Control messages of relayed circuits (spec/relay.md §2), carried by streams on [`ServicePort::CIRCUIT`](crate::id::ServicePort::CIRCUIT).
//!
//! Each stream carries one request, its FIN, one reply, its FIN; all are deterministic CBOR maps with integer keys:
//!
//! ```text
//! open   client -> node         { 0: destination key, 1: packet, 2: instance of the destination }
//! opened node -> client         { 0: status, 1: circuit id, 2: reason, 3: attested address of the destination }
//! offer  node -> destination    { 0: caller key, 1: attested address, 2: circuit id, 3: packet, 4: instance of the caller }
//! answer destination -> node    { 0: status }
//! ```
//!
//! `packet` is the first sealed packet of the caller for the destination, so that opening a circuit costs no round trip of its own.

use std::net::SocketAddr;

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

/// Longest encoded circuit message: an INNER-sized packet and its fields.
pub const CIRCUIT_MESSAGE_LEN_MAX: usize = 2_048;

/// Outcome of a circuit request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum CircuitStatus {
    /// The circuit exists.
    #[n(0)]
    Ok,
    /// The node has no live tunnel to the destination.
    #[n(1)]
    NotFound,
    /// The destination, or the node's policy, does not want it.
    #[n(2)]
    Refused,
    /// A limit is reached; try again later.
    #[n(3)]
    Busy,
}

/// `circuit.open`: asks a backbone node for a circuit to an agent that keeps a tunnel with it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CircuitOpen {
    /// Identity key of the destination.
    #[n(0)]
    pub destination: ByteArray<32>,
    /// First end-to-end packet, or empty.
    #[n(1)]
    pub packet: ByteVec,
    /// The instance of the destination that is meant; none if any will do.
    #[n(2)]
    pub instance: Option<ByteArray<8>>,
}

/// Reply to `circuit.open`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CircuitOpened {
    /// Whether the circuit exists.
    #[n(0)]
    pub status: CircuitStatus,
    /// The caller's end of the circuit; 0 unless the status is `Ok`.
    #[n(1)]
    pub circuit: u32,
    /// Why not, for people; at most 256 bytes.
    #[n(2)]
    pub reason: String,
    /// The destination's address as the node sees it, as `ip:port`.
    #[n(3)]
    pub attested: Option<String>,
}

/// `circuit.offer`: tells an agent that a caller has a circuit to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CircuitOffer {
    /// Identity key of the caller, authenticated by the node.
    #[n(0)]
    pub caller: ByteArray<32>,
    /// The caller's address as the node sees it, as `ip:port`.
    #[n(1)]
    pub attested: String,
    /// The destination's end of the circuit.
    #[n(2)]
    pub circuit: u32,
    /// First end-to-end packet, or empty.
    #[n(3)]
    pub packet: ByteVec,
    /// The instance of the caller, authenticated by the node.
    #[n(4)]
    pub instance: ByteArray<8>,
}

/// Reply to `circuit.offer`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CircuitAnswer {
    /// `Ok` to keep the circuit.
    #[n(0)]
    pub status: CircuitStatus,
}

/// A circuit message that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CircuitMessageError {
    /// Longer than [`CIRCUIT_MESSAGE_LEN_MAX`].
    #[error("circuit message of {0} bytes exceeds {CIRCUIT_MESSAGE_LEN_MAX}")]
    TooLong(usize),
    /// Not the CBOR map that the message is.
    #[error("circuit message is malformed")]
    Malformed,
}

/// Encodes any circuit message.
pub fn encode<M: Encode<()>>(message: &M) -> Vec<u8> {
    minicbor::to_vec(message).expect("writing to a Vec does not fail")
}

/// Decodes a whole circuit message; trailing bytes are an error.
pub fn decode<'b, M: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<M, CircuitMessageError> {
    if bytes.len() > CIRCUIT_MESSAGE_LEN_MAX {
        return Err(CircuitMessageError::TooLong(bytes.len()));
    }
    let mut decoder = minicbor::Decoder::new(bytes);
    let message = decoder.decode().map_err(|_| CircuitMessageError::Malformed)?;
    if decoder.position() != bytes.len() {
        return Err(CircuitMessageError::Malformed);
    }
    Ok(message)
}

/// Reads an attested address; a node that sends anything else has attested nothing. The IPv6 form of an IPv4 address becomes that.
pub fn attested_address(text: &str) -> Option<SocketAddr> {
    let mut address: SocketAddr = text.parse().ok()?;
    address.set_ip(address.ip().to_canonical());
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::CircuitId;
    use crate::vectors;
    use crate::wire::RelayHeader;

    fn offer() -> CircuitOffer {
        CircuitOffer {
            caller: [7; 32].into(),
            attested: "192.0.2.1:4242".into(),
            circuit: 0xdead_beef,
            packet: vec![1, 2, 3].into(),
            instance: [5; 8].into(),
        }
    }

    #[test]
    fn every_message_survives_a_round_trip() {
        let instance = Some([4; 8].into());
        let open = CircuitOpen { destination: [9; 32].into(), packet: vec![0xc8; 1152].into(), instance };
        assert_eq!(decode::<CircuitOpen>(&encode(&open)).unwrap(), open);
        assert_eq!(decode::<CircuitOffer>(&encode(&offer())).unwrap(), offer());
        let opened = CircuitOpened { status: CircuitStatus::Busy, circuit: 0, reason: "full".into(), attested: None };
        assert_eq!(decode::<CircuitOpened>(&encode(&opened)).unwrap(), opened);
        let answer = CircuitAnswer { status: CircuitStatus::Refused };
        assert_eq!(decode::<CircuitAnswer>(&encode(&answer)).unwrap(), answer);
    }

    #[test]
    fn messages_are_those_of_the_vectors() {
        let open = CircuitOpen { destination: [0x11; 32].into(), packet: vec![0xC8, 1, 1, 0].into(), instance: None };
        let open_instance = CircuitOpen { instance: Some([4; 8].into()), ..open.clone() };
        let opened = CircuitOpened {
            status: CircuitStatus::Ok,
            circuit: 0x0C0C_0C0C,
            reason: String::new(),
            attested: Some("192.0.2.2:4433".into()),
        };
        let denied = CircuitOpened {
            status: CircuitStatus::NotFound,
            circuit: 0,
            reason: "no tunnel with that agent".into(),
            attested: None,
        };
        let relayed = [&RelayHeader { circuit: CircuitId(0x0C0C_0C0C) }.encode()[..], &[0xC0, 1, 2, 3]].concat();
        let ours = [
            ("open", encode(&open)),
            ("open_instance", encode(&open_instance)),
            ("opened", encode(&opened)),
            ("denied", encode(&denied)),
            ("offer", encode(&offer())),
            ("answer", encode(&CircuitAnswer { status: CircuitStatus::Ok })),
            ("relay_packet", relayed),
        ];
        let cases = vectors::cases(include_str!("../../../spec/vectors/relay.txt"));
        for (name, bytes) in ours {
            assert_eq!(cases[0].bytes(name), bytes, "{name}: {}", data_encoding::HEXLOWER.encode(&bytes));
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = encode(&offer());
        for len in 0..bytes.len() {
            assert_eq!(decode::<CircuitOffer>(&bytes[..len]), Err(CircuitMessageError::Malformed), "length {len}");
        }
    }

    #[test]
    fn trailing_bytes_and_oversize_are_errors() {
        let mut bytes = encode(&offer());
        bytes.push(0);
        assert_eq!(decode::<CircuitOffer>(&bytes), Err(CircuitMessageError::Malformed));
        assert_eq!(decode::<CircuitOffer>(&[0; 3000]), Err(CircuitMessageError::TooLong(3000)));
    }
}
