//! The symmetric state of Noise (revision 34, §5.2) as this one pattern needs it.
//!
//! In IKpsk2 every sealed field directly follows a key derivation, so each key seals exactly one field and the nonce is always
//! zero: there is no counter to get wrong.

use zeroize::Zeroizing;

use crate::crypto::{AeadKey, Secret, hkdf, nonce, sha256};
use crate::handshake::{HandshakeError, SessionKeys};

/// Exactly 32 bytes, so that it is the first hash as it stands (§5.2).
const PROTOCOL_NAME: &[u8; 32] = b"Noise_IKpsk2_25519_AESGCM_SHA256";
/// Label of the key that the next handshake of a tunnel takes as its psk (spec/handshake.md §6).
const NEXT_PSK_INFO: &[u8] = b"pilot/1 next psk";

#[derive(Clone)]
pub(super) struct Symmetric {
    chaining_key: Secret,
    hash: [u8; 32],
    key: Secret,
}

impl Symmetric {
    /// The state after the pre-message `<- s`.
    pub(super) fn new(prologue: &[u8], responder_static: &[u8; 32]) -> Self {
        let mut state =
            Self { chaining_key: Zeroizing::new(*PROTOCOL_NAME), hash: *PROTOCOL_NAME, key: Zeroizing::new([0; 32]) };
        state.mix_hash(prologue);
        state.mix_hash(responder_static);
        state
    }

    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = sha256(&[&self.hash, data]);
    }

    /// The token `e`: in a pattern with a psk an ephemeral key is mixed into the key too (§9.2).
    pub(super) fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_hash(public);
        self.mix_key(public);
    }

    pub(super) fn mix_key(&mut self, input: &[u8; 32]) {
        [self.chaining_key, self.key] = hkdf(&*self.chaining_key, input, &[]);
    }

    /// The token `psk`.
    pub(super) fn mix_psk(&mut self, psk: &[u8; 32]) {
        let [chaining_key, hashed, key] = hkdf(&*self.chaining_key, psk, &[]);
        self.mix_hash(&*hashed);
        self.chaining_key = chaining_key;
        self.key = key;
    }

    /// Seals the next field.
    pub(super) fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = plaintext.to_vec();
        let tag = AeadKey::new(&self.key).seal_in_place(nonce(0), &self.hash, &mut sealed);
        sealed.extend(tag);
        self.mix_hash(&sealed);
        sealed
    }

    /// Opens the next field.
    pub(super) fn open<'a>(&mut self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], HandshakeError> {
        let hash = self.hash;
        self.mix_hash(sealed);
        AeadKey::new(&self.key).open_in_place(nonce(0), &hash, sealed).map_err(|_| HandshakeError::Forged)
    }

    /// The keys of the session, seen from the initiator.
    pub(super) fn split_initiator(&self) -> SessionKeys {
        let [send, receive] = hkdf(&*self.chaining_key, &[], &[]);
        let [next_psk] = hkdf(&*self.chaining_key, &[], NEXT_PSK_INFO);
        SessionKeys { send, receive, next_psk }
    }

    /// The keys of the session, seen from the responder.
    pub(super) fn split_responder(&self) -> SessionKeys {
        let SessionKeys { send: receive, receive: send, next_psk } = self.split_initiator();
        SessionKeys { send, receive, next_psk }
    }

    pub(super) fn hash(&self) -> [u8; 32] {
        self.hash
    }
}
