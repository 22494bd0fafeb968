//! Calls between members (spec/org.md §3): one [`Request`] and one [`Reply`] per stream of [`ServicePort::ORG`].
//!
//! [`ServicePort::ORG`]: crate::id::ServicePort::ORG

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use super::code::Block;
use super::invite::{INVITE_ID_LEN, INVITE_SECRET_LEN};
use super::revocation::{LIST_DIGEST_LEN, LIST_LEN_MAX};
use super::roster::Records;
use crate::crypto::SIGNATURE_LEN;
use crate::id::IdentityKey;
use crate::time::UnixTime;
use crate::wire::cbor;

/// The greatest request: a revocation list, or several that take no more, with all charters, the proofs by which these count, and that of
/// the caller.
pub const REQUEST_LEN_MAX: usize = LIST_LEN_MAX + 32 * 1_024;
/// The greatest reply that is read: [`SYNC_MEMBERS_MAX`] members, all charters and lists, and the proofs by which these count.
pub const REPLY_LEN_MAX: usize = 10 * 1_024 * 1_024;
/// Members told of in one reply.
pub const SYNC_MEMBERS_MAX: usize = 256;

/// What one agent asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Make me a member.
    #[n(0)]
    Enrol {
        /// The organisation.
        #[n(0)]
        org: IdentityKey,
        /// Names the invite.
        #[cbor(n(1), with = "minicbor::bytes")]
        invite: [u8; INVITE_ID_LEN],
        /// Shows that the caller has it.
        #[cbor(n(2), with = "minicbor::bytes")]
        secret: [u8; INVITE_SECRET_LEN],
        /// The modifier of the caller's address.
        #[n(3)]
        modifier: u64,
        /// The name that the caller wants.
        #[n(4)]
        name: String,
        /// When the caller asks, by its own clock.
        #[n(5)]
        consented: UnixTime,
        /// That it wants to be made a member by the callee (§1.3).
        #[cbor(n(6), with = "minicbor::bytes")]
        consent: [u8; SIGNATURE_LEN],
        /// Seconds that it wants its membership to last at most; none: as long as it may.
        #[n(7)]
        lifetime_max: Option<u64>,
    },
    /// Make my membership last longer.
    #[n(1)]
    Renew {
        /// The organisation.
        #[n(0)]
        org: IdentityKey,
        /// When the caller asks, by its own clock.
        #[n(1)]
        consented: UnixTime,
        /// That it wants to be made a member by the callee (§1.3); none where the organisation's key is to do that, which needs none.
        #[n(2)]
        consent: Option<ByteArray<SIGNATURE_LEN>>,
    },
    /// This is who I am, and where.
    #[n(2)]
    Introduce {
        /// The organisation.
        #[n(0)]
        org: IdentityKey,
        /// The caller's proof.
        #[cbor(n(1), with = "minicbor::bytes")]
        proof: Vec<u8>,
        /// The caller's whereabouts.
        #[cbor(n(2), with = "minicbor::bytes")]
        whereabouts: Vec<u8>,
    },
    /// What is new?
    #[n(3)]
    Sync {
        /// The organisation.
        #[n(0)]
        org: IdentityKey,
        /// The count of arrivals that the caller was told of; it begins again with 0 for another `epoch`.
        #[n(1)]
        after: u64,
        /// The callee's process that counted them.
        #[n(2)]
        epoch: u64,
        /// The charters and lists that the caller has.
        #[n(3)]
        known: Vec<ListDigest>,
    },
    /// These lists and charters are news.
    #[n(4)]
    Tell {
        /// The organisation.
        #[n(0)]
        org: IdentityKey,
        /// Charters, lists, and the proofs by which those of members count.
        #[n(1)]
        records: Records,
    },
    /// I am a member no more.
    #[n(5)]
    Leave {
        /// The organisation.
        #[n(0)]
        org: IdentityKey,
        /// When the caller had asked for the membership that ends. One that it has asked for later stays.
        #[n(1)]
        consented: UnixTime,
    },
    /// I have a code of yours: the first half of a run.
    #[n(6)]
    Code {
        /// Names the code.
        #[n(0)]
        number: u8,
        /// The caller's share.
        #[cbor(n(1), with = "minicbor::bytes")]
        share: Block,
    },
    /// Here is what shows it: the second half.
    #[n(7)]
    CodeProof {
        /// Names the code.
        #[n(0)]
        number: u8,
        /// The caller's share, as before.
        #[cbor(n(1), with = "minicbor::bytes")]
        share: Block,
        /// Confirms it.
        #[cbor(n(2), with = "minicbor::bytes")]
        tag: Block,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// To [`Request::Enrol`] and [`Request::Renew`]: the proof of the caller and everything that goes with it.
    #[n(0)]
    Enrolled {
        /// The caller's proof.
        #[cbor(n(0), with = "minicbor::bytes")]
        proof: Vec<u8>,
        /// Charters, lists and the first members.
        #[n(1)]
        records: Records,
    },
    /// To [`Request::Introduce`]: the same of the callee.
    #[n(1)]
    Introduced {
        /// The callee's proof.
        #[cbor(n(0), with = "minicbor::bytes")]
        proof: Vec<u8>,
        /// The callee's whereabouts.
        #[cbor(n(1), with = "minicbor::bytes")]
        whereabouts: Vec<u8>,
    },
    /// To [`Request::Sync`].
    #[n(2)]
    News {
        /// Who counted.
        #[n(0)]
        epoch: u64,
        /// The arrival of the last one told.
        #[n(1)]
        after: u64,
        /// Whether there is more.
        #[n(2)]
        more: bool,
        /// The news.
        #[n(3)]
        records: Records,
    },
    /// To [`Request::Tell`] and [`Request::Leave`].
    #[n(3)]
    Done,
    /// No, and why.
    #[n(4)]
    Refused {
        /// For people: what to do.
        #[n(0)]
        reason: String,
    },
    /// To [`Request::Code`].
    #[n(5)]
    CodeShare {
        /// The callee's share.
        #[cbor(n(0), with = "minicbor::bytes")]
        share: Block,
        /// Confirms it: the callee has the code.
        #[cbor(n(1), with = "minicbor::bytes")]
        tag: Block,
    },
    /// To [`Request::CodeProof`].
    #[n(6)]
    Invited {
        /// The invite that the code stands for, as a line of text.
        #[n(0)]
        invite: String,
    },
}

/// Names a charter or list among those of one organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListDigest(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; LIST_DIGEST_LEN]);

cbor::message!(Request, Reply);
