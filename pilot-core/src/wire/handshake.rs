//! Layouts of the handshake and of the certificate exchange (spec/wire.md §5). Meaning and keys are in [`crate::handshake`].
//!
//! ```text
//! INIT          0 |type|version|suite|flags|
//!               4 |initiator index 4|key id of the responder 4|
//!              12 |ephemeral 32|
//!              44 |sealed static 48|
//!              92 |sealed payload 1028|
//!            1120 |mac1 16|mac2 16|                                   1152 in all: INNER
//!
//! RESP          0 |type|version|suite|flags|
//!               4 |responder index 4|initiator index 4|
//!              12 |ephemeral 32|
//!              44 |sealed payload 16 ..|
//!             end |mac1 16|mac2 16|                                   at most INNER in all
//!
//! CERT_REQUEST  0 |type|version|reserved 2|nonce 8|mac1 16|padding|   1152 in all: INNER
//! CERT          0 |type|version|reserved 2|nonce 8|certificate 176|
//! COOKIE        0 |type|version|reserved 2|initiator index 4|nonce 12|sealed cookie 32|
//! ```
//!
//! mac1 covers all bytes before it, under a key that follows from the identity key of the receiver: a stranger who does not know
//! whom it is talking to gets no answer. mac2 of INIT is zero, or proves a cookie.

use bytes::BufMut;

use crate::crypto::{AeadKey, NONCE_LEN, OpenFailed, TAG_LEN, equal, hmac_sha256, sha256};
use crate::id::{IdentityKey, KeyId, SessionIndex};
use crate::identity::Certificate;
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::{INNER, PacketKind, SUITE, VERSION};

/// Length of mac1 and of mac2.
pub const MAC_LEN: usize = 16;
/// A mac, or a cookie.
type Mac = [u8; MAC_LEN];
/// Length of both.
const MACS_LEN: usize = 2 * MAC_LEN;
/// Length of a sealed static key.
pub const SEALED_STATIC_LEN: usize = 32 + TAG_LEN;
const INIT_PAYLOAD_AT: usize = 4 + 4 + 4 + 32 + SEALED_STATIC_LEN;
/// Length of the payload of INIT before it is sealed: what its one datagram leaves.
pub const INIT_PAYLOAD_LEN: usize = INNER - INIT_PAYLOAD_AT - TAG_LEN - MACS_LEN;
const RESP_PAYLOAD_AT: usize = 4 + 4 + 4 + 32;
/// Longest payload of RESP before it is sealed.
pub const RESP_PAYLOAD_LEN_MAX: usize = INNER - RESP_PAYLOAD_AT - TAG_LEN - MACS_LEN;

/// The key under which packets to the owner of an identity carry their mac1. Who knows the identity key knows it.
#[derive(Clone)]
pub struct Mac1Key([u8; 32]);

impl Mac1Key {
    /// The key for packets to `identity`.
    pub fn new(identity: &IdentityKey) -> Self {
        Self(sha256(&[b"pilot/1 mac1", &identity.0]))
    }

    fn mac(&self, covered: &[u8]) -> [u8; MAC_LEN] {
        *hmac_sha256(&self.0, &[covered]).first_chunk().expect("a hash is longer than a mac")
    }

    fn accepts(&self, covered: &[u8], mac: &[u8; MAC_LEN]) -> bool {
        equal(&self.mac(covered), mac)
    }
}

/// A checked view of message 1.
#[derive(Clone, Copy, Debug)]
pub struct Init<'a> {
    /// The session index that the initiator chose for itself.
    pub initiator: SessionIndex,
    /// Which transport key of the responder the message is for.
    pub key_id: KeyId,
    /// The initiator's ephemeral public key.
    pub ephemeral: [u8; 32],
    /// The initiator's transport key, sealed.
    pub sealed_static: &'a [u8],
    /// The payload, sealed.
    pub sealed_payload: &'a [u8],
    covered: &'a [u8],
    /// Proves that the sender knows whom it is talking to.
    pub mac1: [u8; MAC_LEN],
    /// Zero, or proves a cookie.
    mac2: [u8; MAC_LEN],
    packet: &'a [u8],
}

impl<'a> Init<'a> {
    /// Checks the layout of message 1.
    pub fn decode(packet: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet);
        decode_preamble(PacketKind::Init, &mut reader)?;
        let initiator = SessionIndex(reader.u32()?);
        let key_id = KeyId(reader.array()?);
        let ephemeral = reader.array()?;
        let sealed_static = reader.bytes(SEALED_STATIC_LEN)?;
        let sealed_payload = reader.bytes(INIT_PAYLOAD_LEN + TAG_LEN)?;
        let (covered, mac1, mac2) = decode_macs(packet, reader)?;
        Ok(Self { initiator, key_id, ephemeral, sealed_static, sealed_payload, covered, mac1, mac2, packet })
    }

    /// Whether the message was made for the owner of `key`.
    pub fn is_for(&self, key: &Mac1Key) -> bool {
        key.accepts(self.covered, &self.mac1)
    }

    /// Whether the sender claims to hold a cookie.
    pub fn has_mac2(&self) -> bool {
        self.mac2 != [0; MAC_LEN]
    }

    /// Whether the sender holds this cookie.
    pub fn proves(&self, cookie: &[u8; MAC_LEN]) -> bool {
        equal(&mac2(cookie, self.without_mac2()), &self.mac2)
    }

    /// All that is the same when the message is sent again with a cookie.
    pub fn without_mac2(&self) -> &'a [u8] {
        &self.packet[..self.packet.len() - MAC_LEN]
    }
}

/// Puts the proof of a cookie into an encoded message 1.
pub(crate) fn put_mac2(init: &mut [u8], cookie: &[u8; MAC_LEN]) {
    if let Some((before, last)) = init.split_last_chunk_mut() {
        *last = mac2(cookie, before);
    }
}

fn mac2(cookie: &[u8; MAC_LEN], before: &[u8]) -> [u8; MAC_LEN] {
    *hmac_sha256(cookie, &[before]).first_chunk().expect("a hash is longer than a mac")
}

/// Answers message 1 under load: a cookie for the source, sealed for who has made the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The session index of the initiator, from message 1.
    pub initiator: SessionIndex,
    nonce: [u8; NONCE_LEN],
    sealed: [u8; MAC_LEN + TAG_LEN],
}

impl Cookie {
    /// Encoded length.
    pub const LEN: usize = 4 + 4 + NONCE_LEN + MAC_LEN + TAG_LEN;

    /// Seals a cookie for the sender of `init` under a nonce that is random.
    pub fn seal(init: &Init<'_>, responder: &IdentityKey, nonce: [u8; NONCE_LEN], cookie: [u8; MAC_LEN]) -> Self {
        let mut sealed = [0; MAC_LEN + TAG_LEN];
        sealed[..MAC_LEN].copy_from_slice(&cookie);
        let tag = cookie_key(responder, &init.mac1).seal_in_place(nonce, &[], &mut sealed[..MAC_LEN]);
        sealed[MAC_LEN..].copy_from_slice(&tag);
        Self { initiator: init.initiator, nonce, sealed }
    }

    /// Opens the cookie that answers `init`.
    ///
    /// # Errors
    /// If whoever made it has not seen the message.
    pub fn open(mut self, init: &Init<'_>, responder: &IdentityKey) -> Result<[u8; MAC_LEN], OpenFailed> {
        let opened = cookie_key(responder, &init.mac1).open_in_place(self.nonce, &[], &mut self.sealed)?;
        opened.first_chunk().copied().ok_or(OpenFailed)
    }

    /// Checks the layout.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet);
        PacketKind::Cookie.without_flags(&mut reader)?;
        decode_version(&mut reader)?;
        reader.bytes(2)?;
        let cookie = Self { initiator: SessionIndex(reader.u32()?), nonce: reader.array()?, sealed: reader.array()? };
        reader.finish()?;
        Ok(cookie)
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(Self::LEN);
        packet.put_slice(&[PacketKind::Cookie.first_byte(), VERSION, 0, 0]);
        packet.put_u32(self.initiator.0);
        packet.put_slice(&self.nonce);
        packet.put_slice(&self.sealed);
        packet
    }
}

fn cookie_key(responder: &IdentityKey, mac1: &[u8; MAC_LEN]) -> AeadKey {
    AeadKey::new(&hmac_sha256(&sha256(&[b"pilot/1 cookie", &responder.0]), &[mac1]))
}

/// Builds message 1 around what the handshake sealed.
pub(crate) fn encode_init(
    initiator: SessionIndex,
    key_id: KeyId,
    ephemeral: &[u8; 32],
    sealed_static: &[u8],
    sealed_payload: &[u8],
    responder: &Mac1Key,
) -> Vec<u8> {
    let mut packet = Vec::with_capacity(INNER);
    encode_preamble(PacketKind::Init, &mut packet);
    packet.put_u32(initiator.0);
    packet.put_slice(&key_id.0);
    packet.put_slice(ephemeral);
    packet.put_slice(sealed_static);
    packet.put_slice(sealed_payload);
    encode_macs(&mut packet, responder);
    debug_assert_eq!(packet.len(), INNER);
    packet
}

/// A checked view of message 2.
#[derive(Clone, Copy, Debug)]
pub struct Resp<'a> {
    /// The session index that the responder chose for itself.
    pub responder: SessionIndex,
    /// The session index of the initiator, from message 1.
    pub initiator: SessionIndex,
    /// The responder's ephemeral public key.
    pub ephemeral: [u8; 32],
    /// The payload, sealed.
    pub sealed_payload: &'a [u8],
    covered: &'a [u8],
    mac1: [u8; MAC_LEN],
}

impl<'a> Resp<'a> {
    /// Checks the layout of message 2.
    pub fn decode(packet: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet);
        decode_preamble(PacketKind::Resp, &mut reader)?;
        let responder = SessionIndex(reader.u32()?);
        let initiator = SessionIndex(reader.u32()?);
        let ephemeral = reader.array()?;
        let payload_len = reader.remaining().checked_sub(MACS_LEN).ok_or(DecodeError::Truncated)?;
        if payload_len < TAG_LEN {
            return Err(DecodeError::Truncated);
        }
        if payload_len > RESP_PAYLOAD_LEN_MAX + TAG_LEN {
            return Err(DecodeError::TrailingBytes(payload_len - RESP_PAYLOAD_LEN_MAX - TAG_LEN));
        }
        let sealed_payload = reader.bytes(payload_len)?;
        let (covered, mac1, mac2) = decode_macs(packet, reader)?;
        if mac2 != [0; MAC_LEN] {
            return Err(DecodeError::Invalid("mac2"));
        }
        Ok(Self { responder, initiator, ephemeral, sealed_payload, covered, mac1 })
    }

    /// Whether the message was made for the owner of `key`.
    pub fn is_for(&self, key: &Mac1Key) -> bool {
        key.accepts(self.covered, &self.mac1)
    }
}

/// Builds message 2 around what the handshake sealed.
pub(crate) fn encode_resp(
    responder: SessionIndex,
    initiator: SessionIndex,
    ephemeral: &[u8; 32],
    sealed_payload: &[u8],
    receiver: &Mac1Key,
) -> Vec<u8> {
    let mut packet = Vec::with_capacity(RESP_PAYLOAD_AT + sealed_payload.len() + MACS_LEN);
    encode_preamble(PacketKind::Resp, &mut packet);
    packet.put_u32(responder.0);
    packet.put_u32(initiator.0);
    packet.put_slice(ephemeral);
    packet.put_slice(sealed_payload);
    encode_macs(&mut packet, receiver);
    debug_assert!(packet.len() <= INNER);
    packet
}

/// Asks the owner of an identity for its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertRequest {
    /// Random; the answer repeats it.
    pub nonce: [u8; 8],
}

impl CertRequest {
    const COVERED_LEN: usize = 12;

    /// Reads a request and checks that it is for the owner of `key`. `None` if it is for somebody else.
    pub fn decode(packet: &[u8], key: &Mac1Key) -> Result<Option<Self>, DecodeError> {
        let mut reader = Reader::new(packet);
        let nonce = decode_exchange(PacketKind::CertRequest, &mut reader)?;
        let mac1 = reader.array()?;
        reader.bytes(INNER - Self::COVERED_LEN - MAC_LEN)?;
        reader.finish()?;
        Ok(key.accepts(&packet[..Self::COVERED_LEN], &mac1).then_some(Self { nonce }))
    }

    /// The bytes on the wire to the owner of `key`, padded so that the answer is never larger.
    pub fn encode(&self, key: &Mac1Key) -> Vec<u8> {
        let mut packet = Vec::with_capacity(INNER);
        encode_exchange(PacketKind::CertRequest, &self.nonce, &mut packet);
        let mac1 = key.mac(&packet);
        packet.put_slice(&mac1);
        packet.resize(INNER, 0);
        packet
    }
}

/// Carries a certificate, asked for by [`CertRequest`] or by an INIT to a key that is not in use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cert<'a> {
    /// The nonce of the request; for an INIT, the initiator index and four zero bytes.
    pub nonce: [u8; 8],
    /// The encoded certificate, not verified yet.
    pub certificate: &'a [u8; Certificate::LEN],
}

impl<'a> Cert<'a> {
    /// Encoded length.
    pub const LEN: usize = 12 + Certificate::LEN;

    /// Checks the layout.
    pub fn decode(packet: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet);
        let nonce = decode_exchange(PacketKind::Cert, &mut reader)?;
        let certificate = reader.bytes(Certificate::LEN)?.first_chunk().ok_or(DecodeError::Truncated)?;
        reader.finish()?;
        Ok(Self { nonce, certificate })
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(Self::LEN);
        encode_exchange(PacketKind::Cert, &self.nonce, &mut packet);
        packet.put_slice(self.certificate);
        packet
    }

    /// The nonce of an answer to an INIT.
    pub fn nonce_for(initiator: SessionIndex) -> [u8; 8] {
        (u64::from(initiator.0) << 32).to_be_bytes()
    }
}

fn encode_preamble(kind: PacketKind, packet: &mut Vec<u8>) {
    packet.put_slice(&[kind.first_byte(), VERSION, SUITE, 0]);
}

fn decode_preamble(kind: PacketKind, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    kind.without_flags(reader)?;
    decode_version(reader)?;
    let suite = reader.u8()?;
    if suite != SUITE {
        return Err(DecodeError::UnsupportedSuite(suite));
    }
    if reader.u8()? != 0 {
        return Err(DecodeError::Invalid("handshake flags"));
    }
    Ok(())
}

fn encode_exchange(kind: PacketKind, nonce: &[u8; 8], packet: &mut Vec<u8>) {
    packet.put_slice(&[kind.first_byte(), VERSION, 0, 0]);
    packet.put_slice(nonce);
}

fn decode_exchange(kind: PacketKind, reader: &mut Reader<'_>) -> Result<[u8; 8], DecodeError> {
    kind.without_flags(reader)?;
    decode_version(reader)?;
    reader.bytes(2)?;
    reader.array()
}

fn decode_version(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match reader.u8()? {
        VERSION => Ok(()),
        version => Err(DecodeError::UnsupportedVersion(version)),
    }
}

fn encode_macs(packet: &mut Vec<u8>, receiver: &Mac1Key) {
    let mac1 = receiver.mac(packet);
    packet.put_slice(&mac1);
    packet.put_bytes(0, MAC_LEN);
}

/// Reads the two macs that must be all that is left, and returns what mac1 covers, and both.
fn decode_macs<'a>(packet: &'a [u8], mut reader: Reader<'_>) -> Result<(&'a [u8], Mac, Mac), DecodeError> {
    let covered = &packet[..packet.len() - reader.remaining()];
    let macs = (reader.array()?, reader.array()?);
    reader.finish()?;
    Ok((covered, macs.0, macs.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVER: IdentityKey = IdentityKey([4; 32]);

    fn init() -> Vec<u8> {
        let key = Mac1Key::new(&RECEIVER);
        encode_init(SessionIndex(5), KeyId([1, 2, 3, 4]), &[6; 32], &[7; 48], &[8; INIT_PAYLOAD_LEN + TAG_LEN], &key)
    }

    fn resp() -> Vec<u8> {
        encode_resp(SessionIndex(9), SessionIndex(5), &[6; 32], &[8; 60], &Mac1Key::new(&RECEIVER))
    }

    #[test]
    fn init_round_trips_and_fills_one_base_datagram() {
        let packet = init();
        assert_eq!(packet.len(), INNER);
        let view = Init::decode(&packet).expect("a valid message");
        assert_eq!((view.initiator, view.key_id, view.ephemeral), (SessionIndex(5), KeyId([1, 2, 3, 4]), [6; 32]));
        assert_eq!((view.sealed_static, view.sealed_payload), (&[7; 48][..], &[8; INIT_PAYLOAD_LEN + TAG_LEN][..]));
        assert!(view.is_for(&Mac1Key::new(&RECEIVER)));
        assert!(!view.is_for(&Mac1Key::new(&IdentityKey([5; 32]))));
    }

    #[test]
    fn resp_round_trips() {
        let packet = resp();
        let view = Resp::decode(&packet).expect("a valid message");
        assert_eq!((view.responder, view.initiator, view.ephemeral), (SessionIndex(9), SessionIndex(5), [6; 32]));
        assert_eq!(view.sealed_payload, [8; 60]);
        assert!(view.is_for(&Mac1Key::new(&RECEIVER)));
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let (init, resp) = (init(), resp());
        for end in 0..init.len() {
            assert!(Init::decode(&init[..end]).is_err(), "INIT of {end}");
        }
        assert!(Init::decode(&[&init[..], &[0]].concat()).is_err());
        for end in 0..resp.len() {
            let packet = &resp[..end];
            assert!(!Resp::decode(packet).is_ok_and(|view| view.is_for(&Mac1Key::new(&RECEIVER))), "RESP of {end}");
        }
        assert!(Resp::decode(&vec![resp[0]; INNER + 1]).is_err());

        let key = Mac1Key::new(&RECEIVER);
        let request = CertRequest { nonce: [3; 8] }.encode(&key);
        for end in 0..request.len() {
            assert_eq!(CertRequest::decode(&request[..end], &key), Err(DecodeError::Truncated));
        }
        let cert = Cert { nonce: [3; 8], certificate: &[2; Certificate::LEN] }.encode();
        for end in 0..cert.len() {
            assert_eq!(Cert::decode(&cert[..end]), Err(DecodeError::Truncated));
        }
    }

    #[test]
    fn every_bit_that_mac1_does_not_cover_is_fixed_and_every_other_changes_it() {
        let key = Mac1Key::new(&RECEIVER);
        let (init, resp) = (init(), resp());
        // mac2 of INIT is for a responder under load.
        let cases = [(init.len() - MAC_LEN, init), (resp.len(), resp)];
        for (len, packet) in cases {
            for bit in 0..len * 8 {
                let mut flipped = packet.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let accepted = Init::decode(&flipped).is_ok_and(|view| view.is_for(&key))
                    || Resp::decode(&flipped).is_ok_and(|view| view.is_for(&key));
                assert!(!accepted, "bit {bit}");
            }
        }
    }

    #[test]
    fn another_version_or_suite_is_named_in_the_error() {
        let mut packet = init();
        packet[2] = 2;
        assert_eq!(Init::decode(&packet).err(), Some(DecodeError::UnsupportedSuite(2)));
        packet[1] = 9;
        assert_eq!(Init::decode(&packet).err(), Some(DecodeError::UnsupportedVersion(9)));
    }

    #[test]
    fn a_cookie_opens_for_the_message_that_it_answers_and_no_other() {
        let packet = init();
        let view = Init::decode(&packet).expect("a valid message");
        let answer = Cookie::seal(&view, &RECEIVER, [3; 12], [9; MAC_LEN]).encode();
        assert_eq!(answer.len(), Cookie::LEN);
        let cookie = Cookie::decode(&answer).expect("a valid message");
        assert_eq!((cookie.initiator, cookie.open(&view, &RECEIVER)), (view.initiator, Ok([9; MAC_LEN])));
        assert_eq!(cookie.open(&view, &IdentityKey([5; 32])), Err(OpenFailed));
        let other = Init { mac1: [1; MAC_LEN], ..view };
        assert_eq!(cookie.open(&other, &RECEIVER), Err(OpenFailed));
        for end in 0..answer.len() {
            assert_eq!(Cookie::decode(&answer[..end]), Err(DecodeError::Truncated));
        }
        assert!(Cookie::decode(&[&answer[..], &[0]].concat()).is_err());

        assert!(!view.proves(&[9; MAC_LEN]));
        let mut again = packet.clone();
        put_mac2(&mut again, &[9; MAC_LEN]);
        let again = Init::decode(&again).expect("a valid message");
        assert!(again.proves(&[9; MAC_LEN]) && !again.proves(&[8; MAC_LEN]));
        assert_eq!(again.without_mac2(), view.without_mac2());
    }

    #[test]
    fn the_certificate_exchange_round_trips_and_never_amplifies() {
        let key = Mac1Key::new(&RECEIVER);
        let request = CertRequest { nonce: [3; 8] };
        let asked = request.encode(&key);
        assert_eq!(CertRequest::decode(&asked, &key), Ok(Some(request)));
        assert_eq!(CertRequest::decode(&asked, &Mac1Key::new(&IdentityKey([5; 32]))), Ok(None));

        let cert = Cert { nonce: request.nonce, certificate: &[2; Certificate::LEN] };
        let answer = cert.encode();
        assert_eq!(Cert::decode(&answer), Ok(cert));
        assert!(answer.len() <= asked.len());
        assert_eq!(Cert::nonce_for(SessionIndex(0x0102_0304)), [1, 2, 3, 4, 0, 0, 0, 0]);
    }
}
