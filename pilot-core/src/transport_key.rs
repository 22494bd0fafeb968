//! Transport keys, and what they have computed with those of others (spec/address.md §4, spec/handshake.md §1).
//!
//! Two agents that meet again, be it for a new session, agree on one secret more often than it changes: that of their transport keys. An
//! [`Acquaintance`] keeps it, and the certificate that goes with it, from one handshake to the next.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::crypto::{self, Secret, SmallOrder, X25519Key};
use crate::id::KeyId;
use crate::identity::Certificate;

/// Acquaintances of one key that are kept, a third of a kilobyte each: those who come back soon are few.
const ACQUAINTANCES_MAX: usize = 64;

/// The X25519 key that handshakes use.
#[derive(Clone)]
pub struct TransportKey {
    secret: Secret,
    id: KeyId,
    shared: Arc<Shared>,
}

/// What the copies of a key share.
struct Shared {
    key: X25519Key,
    /// The last one met is last. A leaf.
    acquaintances: Mutex<VecDeque<Arc<Acquaintance>>>,
}

/// Somebody whose handshake was authentic.
pub(crate) struct Acquaintance {
    /// The secret between its transport key and ours.
    pub(crate) secret: Secret,
    /// Its certificate, verified.
    pub(crate) certificate: Certificate,
}

impl TransportKey {
    /// The transport key of 32 secret bytes.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = Zeroizing::new(secret);
        let key = X25519Key::new(&secret);
        let id = key_id(key.public());
        Self { secret, id, shared: Arc::new(Shared { key, acquaintances: Mutex::default() }) }
    }

    /// What is stored, in a file that only its owner can read.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        *self.shared.key.public()
    }

    /// How handshakes name the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn diffie_hellman(&self, public: &[u8; 32]) -> Result<Secret, SmallOrder> {
        self.shared.key.agree(public)
    }

    /// The secret that is shared with the owner of a certificate, and kept: whoever starts a handshake knows that the certificate is good.
    pub(crate) fn secret_with(&self, certificate: &Certificate) -> Result<Secret, SmallOrder> {
        if let Some(known) = self.acquaintance(&certificate.transport_public) {
            return Ok(known.secret.clone());
        }
        let secret = self.diffie_hellman(&certificate.transport_public)?;
        self.remember(Acquaintance { secret: secret.clone(), certificate: certificate.clone() });
        Ok(secret)
    }

    /// Whoever has that transport key, if it was met lately.
    pub(crate) fn acquaintance(&self, public: &[u8; 32]) -> Option<Arc<Acquaintance>> {
        let acquaintances = self.shared.acquaintances.lock().unwrap_or_else(PoisonError::into_inner);
        acquaintances.iter().rev().find(|known| known.certificate.transport_public == *public).map(Arc::clone)
    }

    /// Keeps what a handshake has shown to be authentic. Nothing else may come here: strangers would displace those who come back.
    pub(crate) fn remember(&self, acquaintance: Acquaintance) {
        let mut acquaintances = self.shared.acquaintances.lock().unwrap_or_else(PoisonError::into_inner);
        let public = acquaintance.certificate.transport_public;
        acquaintances.retain(|known| known.certificate.transport_public != public);
        if acquaintances.len() >= ACQUAINTANCES_MAX {
            acquaintances.pop_front();
        }
        acquaintances.push_back(Arc::new(acquaintance));
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
