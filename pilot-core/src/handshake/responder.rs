//! The side that answers message 1.

use bytes::BufMut;

use crate::crypto::sha256;
use crate::handshake::symmetric::Symmetric;
use crate::handshake::{Acquaintances, Established, HandshakeError, Local, Parameters, copy_of, prologue};
use crate::id::{IdentityKey, KeyId, SessionIndex, TunnelId};
use crate::identity::{Certificate, TransportKey};
use crate::rng::Rng;
use crate::time::UnixTime;
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::handshake::{Init, Mac1Key, encode_resp};

/// Why the Diffie-Hellman functions of message 2 do not fail.
const CHECKED_BY_OPEN: &str = "keys of small order were refused when message 1 was opened";

/// An authentic message 1, not answered yet: who asks, for which tunnel.
///
/// It may still be a replay of an old message: whoever repeats it learns nothing and completes nothing, since only the initiator can
/// read the answer. Judge [`Self::timestamp`] before anything that the message carries has an effect.
pub struct Incoming {
    /// The initiator's certificate, verified.
    pub certificate: Certificate,
    /// The tunnel that the initiator wants.
    pub tunnel: TunnelId,
    /// The initiator's clock when it made the message.
    pub timestamp: UnixTime,
    /// What the initiator grants and speaks.
    pub parameters: Parameters,
    /// Early data (spec/handshake.md §10).
    pub early: Vec<u8>,
    /// How the initiator names the session.
    pub initiator: SessionIndex,
    /// SHA-256 of the datagram without mac2: a duplicate gets the same answer from a cache.
    pub transcript: [u8; 32],
    state: Symmetric,
    ephemeral: [u8; 32],
    key_id: KeyId,
}

impl Incoming {
    /// Opens message 1 to `identity` under one of its transport keys that are still honoured, cheapest check first.
    ///
    /// # Errors
    /// [`HandshakeError::UnknownKey`] is answered with our certificate; every other error with silence.
    pub fn open(
        identity: IdentityKey,
        keys: &[TransportKey],
        acquaintances: &mut Acquaintances,
        datagram: &[u8],
        now: UnixTime,
    ) -> Result<Self, HandshakeError> {
        let message = Init::decode(datagram)?;
        if !message.is_for(&Mac1Key::new(&identity)) {
            return Err(HandshakeError::Mac1);
        }
        let key = keys
            .iter()
            .find(|key| key.id() == message.key_id)
            .ok_or(HandshakeError::UnknownKey { key_id: message.key_id, initiator: message.initiator })?;

        let mut state = Symmetric::new(&prologue(key.id(), message.initiator, &identity), &key.public());
        state.mix_ephemeral(&message.ephemeral);
        state.mix_key(&*key.diffie_hellman(&message.ephemeral)?);
        let mut remote_static = copy_of(message.sealed_static);
        let remote_static = state.open(&mut remote_static)?;
        let remote_static: [u8; 32] = (&*remote_static).try_into().map_err(|_| DecodeError::Truncated)?;
        let known = acquaintances.with(key, &remote_static);
        let secret = match known {
            Some(known) => known.secret.clone(),
            None => key.diffie_hellman(&remote_static)?,
        };
        state.mix_key(&secret);
        let mut payload = copy_of(message.sealed_payload);
        let payload = Payload1::decode(state.open(&mut payload)?).map_err(HandshakeError::Payload)?;

        let known = known.map(|known| &known.certificate);
        let certificate = Certificate::recognise(payload.certificate, known, now)?;
        if certificate.transport_public != remote_static {
            return Err(HandshakeError::ForeignTransportKey);
        }
        if certificate.identity == identity {
            return Err(HandshakeError::OwnIdentity);
        }
        if known != Some(&certificate) {
            acquaintances.remember(key, secret, certificate.clone());
        }
        Ok(Self {
            certificate,
            tunnel: payload.tunnel,
            timestamp: payload.timestamp,
            parameters: payload.parameters,
            early: payload.early.to_vec(),
            initiator: message.initiator,
            transcript: sha256(&[message.without_mac2()]),
            state,
            ephemeral: message.ephemeral,
            key_id: message.key_id,
        })
    }

    /// Answers. `index` is how the peer shall name the session; `psk` is [`super::NO_PSK`] for a new tunnel.
    ///
    /// Returns the session and the datagram that carries message 2, never longer than message 1.
    pub fn respond(
        self,
        local: &Local<'_>,
        index: SessionIndex,
        psk: &[u8; 32],
        parameters: &Parameters,
        rng: &mut Rng,
    ) -> (Established, Vec<u8>) {
        let mut state = self.state;
        let ephemeral = rng.ephemeral();
        state.mix_ephemeral(ephemeral.public());
        state.mix_key(&ephemeral.agree(&self.ephemeral).expect(CHECKED_BY_OPEN));
        state.mix_key(&ephemeral.agree(&self.certificate.transport_public).expect(CHECKED_BY_OPEN));
        state.mix_psk(psk);
        let newer = (local.certificate.key_id != self.key_id).then_some(local.certificate);
        let sealed_payload = state.seal(&encode_payload(index, newer, parameters));

        let receiver = Mac1Key::new(&self.certificate.identity);
        let packet = encode_resp(index, self.initiator, ephemeral.public(), &sealed_payload, &receiver);
        let established = Established {
            keys: state.split_responder(),
            remote: self.certificate,
            remote_index: self.initiator,
            parameters: self.parameters,
            tunnel: self.tunnel,
            psk_index: 0,
            handshake_hash: state.hash(),
        };
        (established, packet)
    }
}

/// Payload 1 as the initiator encodes it.
struct Payload1<'a> {
    certificate: &'a [u8],
    tunnel: TunnelId,
    timestamp: UnixTime,
    parameters: Parameters,
    early: &'a [u8],
}

impl<'a> Payload1<'a> {
    fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let certificate = reader.bytes(Certificate::LEN)?;
        let tunnel = TunnelId(reader.array()?);
        let timestamp = UnixTime(reader.u64()?);
        let (parameters, early) = Parameters::decode_with_early(reader)?;
        Ok(Self { certificate, tunnel, timestamp, parameters, early })
    }
}

/// Payload 2 (spec/handshake.md §4).
fn encode_payload(index: SessionIndex, certificate: Option<&Certificate>, parameters: &Parameters) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.put_u32(index.0);
    payload.put_u8(u8::from(certificate.is_some()));
    if let Some(certificate) = certificate {
        payload.put_slice(&certificate.encode());
    }
    parameters.encode(&mut payload);
    payload
}
