//! One session: the keys of both directions, and sealing and opening with them (spec/wire.md §3).
//!
//! A session is made by a handshake and lasts until the tunnel is re-keyed by another. Within it, the key of a direction is replaced
//! after 2^23 packets without a round trip: a bit in the header tells which of two keys seals a packet. The receiver moves on to the
//! next key only when a packet opens under it; the previous key opens late packets until [`Session::discard_previous_keys`].
//!
//! Packet numbers belong to the tunnel, which outlives its sessions, so the caller passes them in, never twice the same, and keeps
//! the [`replay::ReplayWindow`], which changes only when a packet has opened.

pub mod replay;
#[cfg(test)]
mod tests;

use crate::crypto::{AeadKey, KEY_LEN, Secret, nonce};
use crate::handshake::Established;
use crate::id::{PacketNumber, SessionIndex};
use crate::wire::DataHeader;
use crate::wire::codec::DecodeError;

/// Packets that one key seals: the confidentiality limit of AES-GCM (RFC 9001 §6.6). The integrity limit, 2^52 forgeries, is out of
/// reach in the three minutes that a session may last.
pub const KEY_PHASE_PACKETS: u64 = 1 << 23;

/// The nonce that derives the next key (Noise §4.2, REKEY). No packet ever has this number.
const REKEY_NONCE: u64 = u64::MAX;

/// Why a packet was not opened. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Not a DATA packet.
    #[error("malformed packet")]
    Decode(#[from] DecodeError),
    /// The packet names another session.
    #[error("packet is for session {0:?}")]
    OtherSession(SessionIndex),
    /// The AEAD refused it.
    #[error("packet does not authenticate")]
    Forged,
}

/// The keys in use between two ends of a tunnel.
pub struct Session {
    local_index: SessionIndex,
    remote_index: SessionIndex,
    send: SendKeys,
    receive: ReceiveKeys,
}

impl Session {
    /// The session that a handshake made; `local_index` is the name that we gave it there.
    pub fn new(established: Established, local_index: SessionIndex) -> Self {
        let Established { keys, remote_index, .. } = established;
        Self {
            local_index,
            remote_index,
            send: SendKeys { current: Key::new(keys.send), generation: 0, sealed: 0 },
            receive: ReceiveKeys::new(Key::new(keys.receive)),
        }
    }

    /// Seals a packet in place: `packet[start..]` holds [`DataHeader::LEN`] bytes to be overwritten, then the frames. The tag is
    /// appended.
    ///
    /// # Panics
    /// If `packet[start..]` is shorter than a header.
    pub fn seal(&mut self, packet: &mut Vec<u8>, start: usize, packet_number: PacketNumber) {
        debug_assert!(packet_number.0 < REKEY_NONCE, "the last number is reserved");
        self.advance_send_keys_when_worn();
        let header =
            DataHeader { key_phase: self.send.key_phase(), receiver: self.remote_index, packet_number }.encode();
        let (aad, frames) = packet[start..].split_at_mut(DataHeader::LEN);
        aad.copy_from_slice(&header);
        let tag = self.send.current.aead.seal_in_place(nonce(packet_number.0), aad, frames);
        packet.extend_from_slice(&tag);
        self.send.sealed += 1;
    }

    /// Opens a packet in place and returns its number and its frames.
    ///
    /// # Errors
    /// If it is not an authentic packet of this session; its bytes are of no use then.
    pub fn open<'a>(&mut self, packet: &'a mut [u8]) -> Result<(PacketNumber, &'a mut [u8]), OpenError> {
        let header = DataHeader::decode(packet)?;
        if header.receiver != self.local_index {
            return Err(OpenError::OtherSession(header.receiver));
        }
        let frames = self.receive.open(&header, packet)?;
        // The peer has moved on, so we follow (RFC 9001 §6.2): our next packet tells it that we did.
        if self.send.generation < self.receive.generation {
            self.send.advance();
        }
        Ok((header.packet_number, frames))
    }

    /// Forgets the key before the current one, three PTO after the change, when no late packet is to be expected any more.
    pub fn discard_previous_keys(&mut self) {
        self.receive.previous = None;
    }

    /// Whether the key before the current one is still kept: time to arm the timer that discards it.
    pub fn has_previous_keys(&self) -> bool {
        self.receive.previous.is_some()
    }

    /// How often the receive key has been replaced. A change restarts the timer that discards the previous one.
    pub fn receive_generation(&self) -> u64 {
        self.receive.generation
    }

    /// How we name the session: the index in packets to us.
    pub fn local_index(&self) -> SessionIndex {
        self.local_index
    }

    /// How the peer names the session: the index in packets to it.
    pub fn remote_index(&self) -> SessionIndex {
        self.remote_index
    }

    /// One change at a time: the peer must have followed the last one, or it could not tell the two apart.
    fn advance_send_keys_when_worn(&mut self) {
        if self.send.sealed >= KEY_PHASE_PACKETS && self.send.generation == self.receive.generation {
            self.send.advance();
        }
    }
}

/// A key and what is needed to derive the one after it.
struct Key {
    secret: Secret,
    aead: AeadKey,
}

impl Key {
    fn new(secret: Secret) -> Self {
        Self { aead: AeadKey::new(&secret), secret }
    }

    fn open<'a>(&self, number: PacketNumber, packet: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let (aad, sealed) = packet.split_at_mut(DataHeader::LEN);
        self.aead.open_in_place(nonce(number.0), aad, sealed).map_err(|_| OpenError::Forged)
    }

    /// The key after this one: REKEY of Noise §4.2.
    fn next(&self) -> Self {
        let mut secret = Secret::new([0; KEY_LEN]);
        // The tag is not part of the key.
        let _tag = AeadKey::new(&self.secret).seal_in_place(nonce(REKEY_NONCE), &[], &mut *secret);
        Self::new(secret)
    }
}

struct SendKeys {
    current: Key,
    generation: u64,
    /// Packets sealed under the current key.
    sealed: u64,
}

impl SendKeys {
    fn key_phase(&self) -> bool {
        phase_of(self.generation)
    }

    fn advance(&mut self) {
        self.current = self.current.next();
        self.generation += 1;
        self.sealed = 0;
    }
}

struct ReceiveKeys {
    previous: Option<Key>,
    current: Key,
    /// Made when it is first asked for: few sessions last so long, and the bit that asks is no secret.
    next: Option<Key>,
    generation: u64,
    /// Least number of a packet that opened under the current key: lower ones in the other phase are late, not new.
    first: PacketNumber,
}

impl ReceiveKeys {
    fn new(current: Key) -> Self {
        Self { previous: None, current, next: None, generation: 0, first: PacketNumber(u64::MAX) }
    }

    fn open<'a>(&mut self, header: &DataHeader, packet: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let number = header.packet_number;
        if header.key_phase == phase_of(self.generation) {
            let frames = self.current.open(number, packet)?;
            self.first = self.first.min(number);
            return Ok(frames);
        }
        if let Some(previous) = &self.previous
            && number < self.first
        {
            return previous.open(number, packet);
        }
        let next = self.next.take().unwrap_or_else(|| self.current.next());
        let opened = next.open(number, packet);
        match opened {
            Ok(_) => self.advance(next, number),
            Err(_) => self.next = Some(next),
        }
        opened
    }

    fn advance(&mut self, next: Key, first: PacketNumber) {
        self.previous = Some(std::mem::replace(&mut self.current, next));
        self.generation += 1;
        self.first = first;
    }
}

/// The key phase bit of a generation of keys.
fn phase_of(generation: u64) -> bool {
    generation & 1 == 1
}
