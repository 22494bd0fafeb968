//! Every layout that Pilot puts on the wire (spec/wire.md): the first byte, and the packets that are handled without a handshake
//! state. Handshake messages are in [`handshake`].
//!
//! ```text
//! first byte      1 1 t t t f f f     t = packet type, f = flags of that type; 0 0 at the top is STUN (RFC 7983)
//!
//! DATA      0     |type|receiver index 4|packet number 8|sealed frames ..|tag 16|     flag 001: key phase
//! UNKNOWN   5     |type|reserved 3|receiver index 4|packet number 8|last 8 bytes of the tag|
//! RELAY     7     |type|flags 1|reserved 2|circuit id 4|end-to-end packet, untouched ..|
//! ```
//!
//! All integers are big-endian. Reserved bytes are sent as zero and, outside sealed or signed packets, ignored. DATA, UNKNOWN and
//! RELAY are encoded and decoded without allocation.

pub mod cbor;
pub mod circuit;
pub mod codec;
pub mod directory;
pub mod frame;
pub mod handshake;
pub mod stream_header;
pub mod varint;

use bytes::BufMut;

use crate::crypto::TAG_LEN;
use crate::id::{CircuitId, PacketNumber, SessionIndex};
use crate::wire::codec::{DecodeError, Reader};

/// Largest UDP payload on a path that has not proved more (spec/wire.md §4): every IPv6 link carries it.
pub const BASE: usize = 1_200;
/// Largest packet of ours within [`BASE`], so that relay and TCP framing always fit around it.
pub const INNER: usize = 1_152;
/// Version of the protocol that this crate speaks.
pub const VERSION: u8 = 1;
/// Suite 1: X25519, AES-256-GCM, SHA-256, Ed25519.
pub const SUITE: u8 = 1;

/// Packets of ours begin with these bits (RFC 7983 leaves 192 to 255 to us).
const OURS: u8 = 0b1100_0000;
const TYPE_SHIFT: u32 = 3;
const TYPE_MASK: u8 = 0b111;
const FLAGS_MASK: u8 = 0b111;

/// What a datagram claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// A STUN message (RFC 8489).
    Stun,
    /// Sealed frames of a session.
    Data,
    /// Message 1 of a handshake.
    Init,
    /// Message 2 of a handshake.
    Resp,
    /// Asks for the certificate of an identity.
    CertRequest,
    /// A certificate.
    Cert,
    /// Answers a packet for a session that its receiver does not have.
    Unknown,
    /// Reserved for the defence under load; dropped.
    Cookie,
    /// A packet on its way through a backbone node.
    Relay,
}

/// Tells what a datagram claims to be, by its first byte alone.
///
/// # Errors
/// If it is empty or neither ours nor STUN.
pub fn peek(datagram: &[u8]) -> Result<PacketKind, DecodeError> {
    let first = *datagram.first().ok_or(DecodeError::Truncated)?;
    if first & OURS == 0 {
        return Ok(PacketKind::Stun);
    }
    if first & OURS != OURS {
        return Err(DecodeError::UnknownType(u64::from(first)));
    }
    Ok(match first >> TYPE_SHIFT & TYPE_MASK {
        0 => PacketKind::Data,
        1 => PacketKind::Init,
        2 => PacketKind::Resp,
        3 => PacketKind::CertRequest,
        4 => PacketKind::Cert,
        5 => PacketKind::Unknown,
        6 => PacketKind::Cookie,
        _ => PacketKind::Relay,
    })
}

impl PacketKind {
    /// The first byte of a packet of this kind with no flag set.
    pub const fn first_byte(self) -> u8 {
        match self {
            Self::Stun => 0,
            Self::Data => OURS,
            Self::Init => OURS | 1 << TYPE_SHIFT,
            Self::Resp => OURS | 2 << TYPE_SHIFT,
            Self::CertRequest => OURS | 3 << TYPE_SHIFT,
            Self::Cert => OURS | 4 << TYPE_SHIFT,
            Self::Unknown => OURS | 5 << TYPE_SHIFT,
            Self::Cookie => OURS | 6 << TYPE_SHIFT,
            Self::Relay => OURS | 7 << TYPE_SHIFT,
        }
    }

    /// Takes the first byte of a packet that must be of this kind, and returns its flags.
    fn flags(self, reader: &mut Reader<'_>) -> Result<u8, DecodeError> {
        let first = reader.u8()?;
        if first & !FLAGS_MASK != self.first_byte() {
            return Err(DecodeError::UnknownType(u64::from(first)));
        }
        Ok(first & FLAGS_MASK)
    }

    /// As [`Self::flags`], for kinds that have none.
    fn without_flags(self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        if self.flags(reader)? == 0 { Ok(()) } else { Err(DecodeError::Invalid("packet flags")) }
    }
}

/// The clear part of a DATA packet: what is authenticated beside the sealed frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// Which of the two current keys of the direction seals the packet.
    pub key_phase: bool,
    /// The session, as its receiver named it.
    pub receiver: SessionIndex,
    /// Number of the packet in its tunnel.
    pub packet_number: PacketNumber,
}

impl DataHeader {
    /// Encoded length.
    pub const LEN: usize = 13;
    /// What a DATA packet adds to its frames.
    pub const OVERHEAD: usize = Self::LEN + TAG_LEN;
    const KEY_PHASE: u8 = 0b001;

    /// Reads the header of a DATA packet. The packet must be long enough to hold a tag.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet);
        let flags = PacketKind::Data.flags(&mut reader)?;
        if flags & !Self::KEY_PHASE != 0 {
            return Err(DecodeError::Invalid("packet flags"));
        }
        let receiver = SessionIndex(reader.u32()?);
        let packet_number = PacketNumber(reader.u64()?);
        reader.bytes(TAG_LEN)?;
        Ok(Self { key_phase: flags & Self::KEY_PHASE != 0, receiver, packet_number })
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut buf = &mut bytes[..];
        buf.put_u8(PacketKind::Data.first_byte() | u8::from(self.key_phase));
        buf.put_u32(self.receiver.0);
        buf.put_u64(self.packet_number.0);
        bytes
    }
}

/// Last eight bytes of the tag of a DATA packet: who repeats them has seen the packet.
pub fn tag8(packet: &[u8]) -> Result<u64, DecodeError> {
    packet.last_chunk().copied().map(u64::from_be_bytes).ok_or(DecodeError::Truncated)
}

/// The answer to a packet for a session that its receiver does not have (spec/handshake.md §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The session index in the packet.
    pub receiver: SessionIndex,
    /// The number of the packet.
    pub packet_number: PacketNumber,
    /// Last eight bytes of the packet's tag.
    pub tag8: u64,
}

impl Unknown {
    /// Encoded length: less than that of the shortest DATA packet, so that an answer never amplifies.
    pub const LEN: usize = 24;

    /// The answer to `packet`.
    ///
    /// # Errors
    /// If it is not a DATA packet.
    pub fn answer(packet: &[u8]) -> Result<Self, DecodeError> {
        let header = DataHeader::decode(packet)?;
        Ok(Self { receiver: header.receiver, packet_number: header.packet_number, tag8: tag8(packet)? })
    }

    /// Reads an UNKNOWN packet.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet);
        PacketKind::Unknown.without_flags(&mut reader)?;
        reader.bytes(3)?;
        let receiver = SessionIndex(reader.u32()?);
        let packet_number = PacketNumber(reader.u64()?);
        let tag8 = reader.u64()?;
        reader.finish()?;
        Ok(Self { receiver, packet_number, tag8 })
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut buf = &mut bytes[..];
        buf.put_u8(PacketKind::Unknown.first_byte());
        buf.put_bytes(0, 3);
        buf.put_u32(self.receiver.0);
        buf.put_u64(self.packet_number.0);
        buf.put_u64(self.tag8);
        bytes
    }
}

/// What stands before an end-to-end packet on its way through a backbone node (spec/relay.md §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayHeader {
    /// The circuit, as the node named its end.
    pub circuit: CircuitId,
}

impl RelayHeader {
    /// Encoded length.
    pub const LEN: usize = 8;

    /// Splits a RELAY packet into its header and the packet it carries, which may be empty.
    pub fn decode(packet: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut reader = Reader::new(packet);
        PacketKind::Relay.without_flags(&mut reader)?;
        reader.bytes(3)?;
        let circuit = CircuitId(reader.u32()?);
        Ok((Self { circuit }, reader.take_rest()))
    }

    /// As [`Self::decode`], for a carried packet that is opened in place.
    pub fn decode_mut(packet: &mut [u8]) -> Result<(Self, &mut [u8]), DecodeError> {
        let (header, _) = Self::decode(packet)?;
        Ok((header, &mut packet[Self::LEN..]))
    }

    /// The bytes on the wire before the carried packet.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut buf = &mut bytes[..];
        buf.put_u8(PacketKind::Relay.first_byte());
        buf.put_bytes(0, 3);
        buf.put_u32(self.circuit.0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS_KINDS: [PacketKind; 8] = [
        PacketKind::Data,
        PacketKind::Init,
        PacketKind::Resp,
        PacketKind::CertRequest,
        PacketKind::Cert,
        PacketKind::Unknown,
        PacketKind::Cookie,
        PacketKind::Relay,
    ];

    #[test]
    fn the_first_byte_tells_the_kind_whatever_the_flags() {
        for kind in OURS_KINDS {
            for flags in 0..8 {
                assert_eq!(peek(&[kind.first_byte() | flags]), Ok(kind));
            }
        }
        assert_eq!(peek(&[0x00, 0x01]), Ok(PacketKind::Stun));
    }

    #[test]
    fn datagrams_that_are_neither_ours_nor_stun_are_refused() {
        assert_eq!(peek(&[]), Err(DecodeError::Truncated));
        for first in 0x40..0xC0 {
            assert_eq!(peek(&[first]), Err(DecodeError::UnknownType(u64::from(first))));
        }
    }

    #[test]
    fn reserved_flags_are_refused() {
        let mut data = [0; 29];
        data[0] = PacketKind::Data.first_byte() | 0b010;
        assert_eq!(DataHeader::decode(&data), Err(DecodeError::Invalid("packet flags")));
        let mut relay = RelayHeader { circuit: CircuitId(1) }.encode();
        relay[0] |= 1;
        assert_eq!(RelayHeader::decode(&relay), Err(DecodeError::Invalid("packet flags")));
    }

    #[test]
    fn a_packet_of_another_kind_is_refused() {
        let relay = RelayHeader { circuit: CircuitId(1) }.encode();
        assert_eq!(DataHeader::decode(&relay), Err(DecodeError::UnknownType(u64::from(relay[0]))));
        assert_eq!(Unknown::decode(&relay), Err(DecodeError::UnknownType(u64::from(relay[0]))));
    }

    #[test]
    fn the_answer_to_a_stray_packet_is_smaller_and_repeats_its_tag() {
        let header = DataHeader { key_phase: true, receiver: SessionIndex(7), packet_number: PacketNumber(9) };
        let mut packet = header.encode().to_vec();
        packet.extend(0..16);
        let unknown = Unknown::answer(&packet).expect("a data packet");
        assert_eq!(
            unknown,
            Unknown { receiver: SessionIndex(7), packet_number: PacketNumber(9), tag8: 0x0809_0A0B_0C0D_0E0F }
        );
        assert!(unknown.encode().len() < packet.len());
    }

    proptest! {
        #[test]
        fn headers_round_trip_and_truncations_are_refused(key_phase: bool, index: u32, number: u64, tag8: u64) {
            let data = DataHeader { key_phase, receiver: SessionIndex(index), packet_number: PacketNumber(number) };
            let mut packet = data.encode().to_vec();
            packet.extend([0; TAG_LEN]);
            prop_assert_eq!(DataHeader::decode(&packet), Ok(data));
            for end in 0..packet.len() {
                prop_assert_eq!(DataHeader::decode(&packet[..end]), Err(DecodeError::Truncated));
            }

            let unknown = Unknown { receiver: SessionIndex(index), packet_number: PacketNumber(number), tag8 };
            let packet = unknown.encode();
            prop_assert_eq!(Unknown::decode(&packet), Ok(unknown));
            for end in 0..packet.len() {
                prop_assert_eq!(Unknown::decode(&packet[..end]), Err(DecodeError::Truncated));
            }

            let relay = RelayHeader { circuit: CircuitId(index) };
            let mut packet = relay.encode().to_vec();
            for end in 0..packet.len() {
                prop_assert_eq!(RelayHeader::decode(&packet[..end]), Err(DecodeError::Truncated));
            }
            packet.extend(b"inner");
            prop_assert_eq!(RelayHeader::decode(&packet), Ok((relay, &b"inner"[..])));
        }
    }
}
