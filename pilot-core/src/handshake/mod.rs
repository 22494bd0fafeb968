//! The handshake: `Noise_IKpsk2_25519_AESGCM_SHA256` (spec/handshake.md).
//!
//! ```text
//! initiator                                                  responder
//!   Initiator::start   -- INIT: e, es, s, ss, payload 1 -->   Incoming::open       authenticates the initiator
//!   Initiator::finish  <-- RESP: e, ee, se, psk, payload 2 -- Incoming::respond    first session keys
//!     |                                                          |
//!   Established                                               Established
//! ```
//!
//! Payload 1 is the initiator's certificate, the tunnel id, a timestamp, its [`Parameters`] and perhaps early data; payload 2 is the responder's session
//! index, its certificate if the initiator does not have the current one, and its parameters. The prologue binds version, suite,
//! indexes and the responder's identity key, so that a certificate on somebody else's transport key gives no session.
//!
//! The psk is zeros in a new tunnel, and [`SessionKeys::next_psk`] of the running session when a tunnel is re-keyed: only the two who
//! hold that session can continue it. Nothing here keeps state about a peer before its message is authentic; a forged answer
//! leaves the [`Initiator`] as it was.

mod acquaintances;
mod certificate_exchange;
mod initiator;
mod parameters;
mod responder;
mod symmetric;
#[cfg(test)]
mod tests;

use zeroize::Zeroizing;

pub use acquaintances::Acquaintances;
pub use certificate_exchange::{
    accept_certificate, answer_certificate_request, answer_stale_init, certificate_request,
};
pub use initiator::Initiator;
pub use parameters::{EARLY_DATA_LEN_MAX, FEATURE_PORTS, Parameters};
pub use responder::Incoming;

use crate::crypto::{Secret, SmallOrder};
use crate::id::{IdentityKey, KeyId, SessionIndex, TunnelId};
use crate::identity::{Certificate, CertificateError, Identity, TransportKey};
use crate::wire::codec::DecodeError;
use crate::wire::{SUITE, VERSION};

/// The psk of a new tunnel.
pub const NO_PSK: [u8; 32] = [0; 32];

/// Who we are in a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// Our identity.
    pub identity: &'a Identity,
    /// Our current certificate.
    pub certificate: &'a Certificate,
    /// The transport key that the certificate names.
    pub transport: &'a TransportKey,
}

/// What a finished handshake gives, on either side.
#[derive(Debug)]
pub struct Established {
    /// The keys of the session.
    pub keys: SessionKeys,
    /// The peer's certificate, verified. On the initiator's side it is newer than the one it started with if the responder sent one.
    pub remote: Certificate,
    /// How the peer names the session.
    pub remote_index: SessionIndex,
    /// What the peer grants and speaks.
    pub parameters: Parameters,
    /// The tunnel that the session belongs to.
    pub tunnel: TunnelId,
    /// Which of the initiator's psks the responder used; 0 at the responder.
    pub psk_index: usize,
    /// The hash of the whole handshake, equal on both sides.
    pub handshake_hash: [u8; 32],
}

/// The keys of one session.
pub struct SessionKeys {
    /// Seals what we send.
    pub(crate) send: Secret,
    /// Opens what the peer sends.
    pub(crate) receive: Secret,
    /// The psk of the handshake that re-keys this tunnel.
    pub next_psk: Secret,
}

impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKeys(..)")
    }
}

/// Why a handshake message was dropped. Sorted by blame: damaged or strange bytes, a peer that breaks the protocol, a state of our
/// own that the message does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The bytes are not laid out as the message is.
    #[error("malformed handshake message")]
    Decode(#[from] DecodeError),
    /// mac1 was not made for our identity.
    #[error("not made for this identity")]
    Mac1,
    /// The AEAD refused a field: a forgery, damage, or another psk.
    #[error("handshake message does not authenticate")]
    Forged,
    /// A public key of small order.
    #[error("handshake key contributes nothing")]
    SmallOrder(#[from] SmallOrder),
    /// An authentic payload that is not laid out as it must be.
    #[error("malformed handshake payload")]
    Payload(#[source] DecodeError),
    /// The peer's certificate does not hold.
    #[error("peer's certificate refused")]
    Certificate(#[from] CertificateError),
    /// A valid certificate, but of a transport key other than the one that the peer uses.
    #[error("certificate is for another transport key")]
    ForeignTransportKey,
    /// A certificate of an identity other than the one asked for.
    #[error("certificate is of another identity")]
    ForeignIdentity,
    /// Our own identity speaks to us.
    #[error("peer has our own identity")]
    OwnIdentity,
    /// The message is for a transport key that we do not have, or not any more: answered with our current certificate
    /// ([`answer_stale_init`]).
    #[error("transport key {key_id:?} is not in use")]
    UnknownKey {
        /// The key that the message names.
        key_id: KeyId,
        /// The session index of the initiator.
        initiator: SessionIndex,
    },
    /// The message answers no question of ours.
    #[error("answers no handshake of ours")]
    Unasked,
}

/// What both sides must agree on before the first byte: `pilot/1`, version, suite, flags, key id, initiator index, identity key of
/// the responder (spec/handshake.md §3).
fn prologue(key_id: KeyId, initiator: SessionIndex, responder: &IdentityKey) -> Vec<u8> {
    [b"pilot/1", &[VERSION, SUITE, 0][..], &key_id.0, &initiator.0.to_be_bytes(), &responder.0].concat()
}

/// A copy of sealed bytes to open in place, so that the datagram stays as it was for another try.
fn copy_of(sealed: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(sealed.to_vec())
}
