//! What handshakes leave for the next ones (spec/handshake.md §4).
//!
//! Two agents that meet again, be it for a new session, agree on one secret more often than it changes: that of their transport keys. An
//! [`Acquaintance`] keeps it, and the certificate that goes with it, from one handshake to the next.

use std::collections::VecDeque;

use crate::crypto::{Secret, SmallOrder};
use crate::identity::{Certificate, TransportKey};

/// Acquaintances that are kept, a third of a kilobyte each: those who come back soon are few.
const ACQUAINTANCES_MAX: usize = 64;

/// Whom a node has met lately, the last one last.
#[derive(Default)]
pub struct Acquaintances(VecDeque<Acquaintance>);

/// Somebody whose handshake was authentic.
pub(super) struct Acquaintance {
    /// The public half of our key.
    own: [u8; 32],
    /// The secret between that key and theirs.
    pub(super) secret: Secret,
    /// Their certificate, verified.
    pub(super) certificate: Certificate,
}

impl Acquaintances {
    /// Whoever has that transport key, if it was met lately by this one of ours.
    pub(super) fn with(&self, own: &TransportKey, public: &[u8; 32]) -> Option<&Acquaintance> {
        let is_it = |known: &&Acquaintance| known.own == own.public() && known.certificate.transport_public == *public;
        self.0.iter().rev().find(is_it)
    }

    /// The secret that is shared with the owner of a certificate. It is kept: whoever starts a handshake knows that the certificate is good.
    ///
    /// # Errors
    /// If their key has small order.
    pub(super) fn secret_with(&mut self, own: &TransportKey, certificate: &Certificate) -> Result<Secret, SmallOrder> {
        if let Some(known) = self.with(own, &certificate.transport_public) {
            return Ok(known.secret.clone());
        }
        let secret = own.diffie_hellman(&certificate.transport_public)?;
        self.remember(own, secret.clone(), certificate.clone());
        Ok(secret)
    }

    /// Keeps what a handshake has shown to be authentic. Nothing else may come here: strangers would displace those who come back.
    pub(super) fn remember(&mut self, own: &TransportKey, secret: Secret, certificate: Certificate) {
        let public = certificate.transport_public;
        let own = own.public();
        self.0.retain(|known| known.own != own || known.certificate.transport_public != public);
        if self.0.len() >= ACQUAINTANCES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Acquaintance { own, secret, certificate });
    }

    /// Forgets what was computed with keys that are honoured no more.
    pub(crate) fn retain(&mut self, keys: &[TransportKey]) {
        self.0.retain(|known| keys.iter().any(|key| key.public() == known.own));
    }
}
