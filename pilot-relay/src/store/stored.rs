//! The rows of what outlives a node (spec/backbone.md §5): deterministic CBOR, so that any key-value file will do.
//!
//! A row is trusted: what it holds was verified before it was written, and the file's checksums keep it as it was.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use pilot_core::id::IdentityKey;
use pilot_core::time::UnixTime;

/// An agent's identity record and the lease of its name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StoredAgent {
    /// Signed `IdentityRecord`.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub identity: Vec<u8>,
    /// When the lease ends, by the node's own clock; what presence has added since the last write is missing.
    #[n(1)]
    pub lease_until: UnixTime,
    /// Signed `HandOver`s by which the name came to the agent, oldest first.
    #[cbor(n(2), skip_if = "Vec::is_empty")]
    pub hand_overs: Vec<ByteVec>,
}

/// A name that nobody has, kept for a key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StoredName {
    /// Who may have it.
    #[n(0)]
    pub key: IdentityKey,
    /// When everybody may, by the node's own clock.
    #[n(1)]
    pub until: UnixTime,
    /// Signed `HandOver`s by which the name came to that key, oldest first.
    #[cbor(n(2), skip_if = "Vec::is_empty")]
    pub hand_overs: Vec<ByteVec>,
    /// Who has handed it over; none: the key has had it itself.
    #[n(3)]
    pub handed_over_by: Option<IdentityKey>,
}

impl StoredName {
    /// Who has had the name until it was only kept.
    pub fn given_by(&self) -> IdentityKey {
        self.handed_over_by.unwrap_or(self.key)
    }
}

/// What is held of an organisation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StoredOrg {
    /// The organisation.
    #[n(0)]
    pub org: IdentityKey,
    /// Who has brought it.
    #[n(1)]
    pub by: IdentityKey,
    /// Signed charters, the first one first.
    #[n(2)]
    pub charters: Vec<ByteVec>,
    /// Signed revocation lists.
    #[n(3)]
    pub lists: Vec<ByteVec>,
    /// The proofs by which lists of members count.
    #[n(4)]
    pub proofs: Vec<ByteVec>,
}

/// Everything that outlives a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Agents.
    pub agents: Vec<StoredAgent>,
    /// Names that are kept.
    pub names: Vec<(String, StoredName)>,
    /// Organisations.
    pub orgs: Vec<StoredOrg>,
}
