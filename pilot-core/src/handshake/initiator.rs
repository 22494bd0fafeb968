//! The side that sends message 1.

use bytes::BufMut;

use crate::crypto::X25519Key;
use crate::handshake::parameters::encode_early;
use crate::handshake::symmetric::Symmetric;
use crate::handshake::{Acquaintances, Established, HandshakeError, Local, Parameters, copy_of, prologue};
use crate::id::{SessionIndex, TunnelId};
use crate::identity::{Certificate, TransportKey};
use crate::rng::Rng;
use crate::time::UnixTime;
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::handshake::{Cert, INIT_PAYLOAD_LEN, Mac1Key, Resp, encode_init};

/// A handshake that waits for message 2.
///
/// It is not changed by an answer, good or bad: whoever finishes it drops it.
pub struct Initiator {
    state: Symmetric,
    ephemeral: X25519Key,
    transport: TransportKey,
    mac1_key: Mac1Key,
    remote: Certificate,
    index: SessionIndex,
    tunnel: TunnelId,
}

impl Initiator {
    /// Starts a handshake with the owner of a verified certificate. `index` is how the peer shall name the session, `early` the early
    /// data: at most [`super::EARLY_DATA_LEN_MAX`] bytes, none in a tunnel that runs.
    ///
    /// Returns the datagram that carries message 1. It may be sent again as it is: the answer is the same.
    ///
    /// # Errors
    /// If the peer's transport key has small order.
    #[expect(clippy::too_many_arguments, reason = "each is a part of message 1")]
    pub fn start(
        local: &Local<'_>,
        acquaintances: &mut Acquaintances,
        remote: &Certificate,
        index: SessionIndex,
        tunnel: TunnelId,
        parameters: &Parameters,
        early: &[u8],
        now: UnixTime,
        rng: &mut Rng,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let ephemeral = rng.ephemeral();
        let mut state = Symmetric::new(&prologue(remote.key_id, index, &remote.identity), &remote.transport_public);
        state.mix_ephemeral(ephemeral.public());
        state.mix_key(&*ephemeral.agree(&remote.transport_public)?);
        let sealed_static = state.seal(&local.transport.public());
        state.mix_key(&*acquaintances.secret_with(local.transport, remote)?);
        let sealed_payload = state.seal(&encode_payload(local.certificate, tunnel, now, parameters, early));

        let responder = Mac1Key::new(&remote.identity);
        let packet = encode_init(index, remote.key_id, ephemeral.public(), &sealed_static, &sealed_payload, &responder);
        let initiator = Self {
            state,
            ephemeral,
            transport: local.transport.clone(),
            mac1_key: Mac1Key::new(&local.identity.key()),
            remote: remote.clone(),
            index,
            tunnel,
        };
        Ok((initiator, packet))
    }

    /// Takes message 2. `psks` are tried in their order: that of the running session, then [`super::NO_PSK`] if the peer may have
    /// lost it.
    ///
    /// # Errors
    /// If the message is not the authentic answer to our message 1. The handshake goes on waiting then.
    pub fn finish(&self, datagram: &[u8], psks: &[[u8; 32]], now: UnixTime) -> Result<Established, HandshakeError> {
        let message = Resp::decode(datagram)?;
        if !message.is_for(&self.mac1_key) {
            return Err(HandshakeError::Mac1);
        }
        if message.initiator != self.index {
            return Err(HandshakeError::Unasked);
        }
        let mut state = self.state.clone();
        state.mix_ephemeral(&message.ephemeral);
        state.mix_key(&*self.ephemeral.agree(&message.ephemeral)?);
        state.mix_key(&*self.transport.diffie_hellman(&message.ephemeral)?);

        for (psk_index, psk) in psks.iter().enumerate() {
            let mut state = state.clone();
            state.mix_psk(psk);
            let mut payload = copy_of(message.sealed_payload);
            if let Ok(payload) = state.open(&mut payload) {
                return self.establish(&state, message.responder, payload, psk_index, now);
            }
        }
        Err(HandshakeError::Forged)
    }

    /// The nonce of a CERT that answers our message 1.
    pub fn certificate_nonce(&self) -> [u8; 8] {
        Cert::nonce_for(self.index)
    }

    /// The certificate that the handshake was started with.
    pub fn remote(&self) -> &Certificate {
        &self.remote
    }

    /// The session index that we chose.
    pub fn index(&self) -> SessionIndex {
        self.index
    }

    /// The tunnel that the session will belong to.
    pub fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    fn establish(
        &self,
        state: &Symmetric,
        responder: SessionIndex,
        payload: &[u8],
        psk_index: usize,
        now: UnixTime,
    ) -> Result<Established, HandshakeError> {
        let payload = Payload2::decode(payload).map_err(HandshakeError::Payload)?;
        if payload.responder != responder {
            return Err(HandshakeError::Forged);
        }
        Ok(Established {
            keys: state.split_initiator(),
            remote: self.current_certificate(payload.certificate, now)?,
            remote_index: responder,
            parameters: payload.parameters,
            tunnel: self.tunnel,
            psk_index,
            handshake_hash: state.hash(),
        })
    }

    /// The newer certificate that the responder sent, or else the one we know.
    fn current_certificate(&self, sent: Option<&[u8]>, now: UnixTime) -> Result<Certificate, HandshakeError> {
        let Some(sent) = sent else { return Ok(self.remote.clone()) };
        let certificate = Certificate::verify(sent, now)?;
        if certificate.identity != self.remote.identity {
            return Err(HandshakeError::ForeignIdentity);
        }
        Ok(certificate)
    }
}

/// Payload 1 (spec/handshake.md §4): certificate, tunnel id, timestamp, parameters, early data, zeros to the end of the datagram.
fn encode_payload(
    certificate: &Certificate,
    tunnel: TunnelId,
    now: UnixTime,
    parameters: &Parameters,
    early: &[u8],
) -> Vec<u8> {
    let mut payload = Vec::with_capacity(INIT_PAYLOAD_LEN);
    payload.put_slice(&certificate.encode());
    payload.put_slice(&tunnel.0);
    payload.put_u64(now.0);
    parameters.encode(&mut payload);
    encode_early(early, &mut payload);
    debug_assert!(payload.len() <= INIT_PAYLOAD_LEN);
    payload.resize(INIT_PAYLOAD_LEN, 0);
    payload
}

/// Payload 2: session index of the responder, number of certificates (0 or 1), certificate, parameters.
struct Payload2<'a> {
    /// Again, because the clear header is not otherwise authenticated.
    responder: SessionIndex,
    certificate: Option<&'a [u8]>,
    parameters: Parameters,
}

impl<'a> Payload2<'a> {
    fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let responder = SessionIndex(reader.u32()?);
        let certificate = match reader.u8()? {
            0 => None,
            1 => Some(reader.bytes(Certificate::LEN)?),
            _ => return Err(DecodeError::Invalid("number of certificates")),
        };
        Ok(Self { responder, certificate, parameters: Parameters::decode(reader)? })
    }
}
