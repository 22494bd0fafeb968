//! The keys that handshakes use (spec/address.md §4). Who they belong to says a [`Certificate`](crate::identity::Certificate).

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::crypto::{self, Secret, SmallOrder, X25519Key};
use crate::id::KeyId;

/// The X25519 key that handshakes use.
#[derive(Clone)]
pub struct TransportKey {
    secret: Secret,
    /// As the backend has it, made once.
    key: Arc<X25519Key>,
    id: KeyId,
}

impl TransportKey {
    /// The transport key of 32 secret bytes.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = Zeroizing::new(secret);
        let key = X25519Key::new(&secret);
        let id = key_id(key.public());
        Self { secret, key: Arc::new(key), id }
    }

    /// What is stored, in a file that only its owner can read.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        *self.key.public()
    }

    /// How handshakes name the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn diffie_hellman(&self, public: &[u8; 32]) -> Result<Secret, SmallOrder> {
        self.key.agree(public)
    }
}

impl fmt::Debug for TransportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The name of a transport key: the first four bytes of its hash.
pub(crate) fn key_id(transport_public: &[u8; 32]) -> KeyId {
    let [a, b, c, d, ..] = crypto::sha256(&[transport_public]);
    KeyId([a, b, c, d])
}
