//! Whereabouts: how members reach each other without a backbone (spec/org.md §2.4).

use std::net::SocketAddr;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::id::IdentityKey;
use crate::identity::Identity;
use crate::record::{self, CERTIFICATE_LEN_MAX, HOME_ADDRESSES_MAX, HOMES_MAX, Home, Payload, RecordError};
use crate::time::UnixTime;

/// A member that was away for so long is looked for elsewhere.
pub const WHEREABOUTS_VALIDITY_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Addresses of the member's own.
pub const WHEREABOUTS_ADDRESSES_MAX: usize = 8;
/// The greatest: a certificate, four homes and all addresses take about 1,700 bytes.
pub const WHEREABOUTS_LEN_MAX: usize = 2_048;

/// Where a member was when it signed this.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Whereabouts {
    /// The member, which signs.
    #[n(0)]
    pub member: IdentityKey,
    /// The certificate of its transport key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub certificate: Vec<u8>,
    /// Its own addresses.
    #[n(2)]
    pub addresses: Vec<SocketAddr>,
    /// Its backbone nodes.
    #[n(3)]
    pub homes: Vec<Home>,
    /// When it was signed. The latest counts.
    #[n(4)]
    pub issued: UnixTime,
    /// When it ends.
    #[n(5)]
    pub expires: UnixTime,
}

impl Whereabouts {
    /// Encodes and signs.
    ///
    /// # Errors
    /// [`RecordError`] if `identity` is not the member, or a field is out of bounds.
    pub fn sign(&self, identity: &Identity) -> Result<Vec<u8>, RecordError> {
        record::sign(self, identity)
    }

    /// Decodes and checks everything but the certificate, which the handshake checks.
    ///
    /// # Errors
    /// [`RecordError`] tells what is wrong.
    pub fn verify(bytes: &[u8], now: UnixTime) -> Result<Self, RecordError> {
        record::verify(bytes, now)
    }
}

impl Payload for Whereabouts {
    const CONTEXT: &'static str = "whereabouts";
    const LEN_MAX: usize = WHEREABOUTS_LEN_MAX;

    fn signer(&self) -> IdentityKey {
        self.member
    }

    fn check_bounds(&self) -> Result<(), RecordError> {
        record::within("certificate", self.certificate.len() <= CERTIFICATE_LEN_MAX)?;
        record::within("addresses", self.addresses.len() <= WHEREABOUTS_ADDRESSES_MAX)?;
        let homes_are_bounded = self.homes.iter().all(|home| home.addresses.len() <= HOME_ADDRESSES_MAX);
        record::within("homes", self.homes.len() <= HOMES_MAX && homes_are_bounded)
    }

    fn check_claims(&self, now: UnixTime) -> Result<(), RecordError> {
        record::check_dates(self.issued, self.expires, WHEREABOUTS_VALIDITY_MAX, now)
    }
}
