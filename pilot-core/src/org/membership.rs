//! Memberships and the proofs they make (spec/org.md §1).

use std::cmp::Reverse;
use std::time::Duration;

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

use super::OrgError;
use super::charter::Charters;
use crate::address::{self, Address};
use crate::crypto::{self, SIGNATURE_LEN};
use crate::id::IdentityKey;
use crate::identity::{CLOCK_SKEW, Identity};
use crate::record::{self, GROUPS_MAX, Payload, RecordError, is_label, is_name};
use crate::time::UnixTime;
use crate::wire::cbor;

/// How long a membership may last: a year, and the weeks in which it is renewed.
pub const MEMBERSHIP_VALIDITY_MAX: Duration = Duration::from_secs(400 * 86_400);
/// Services that a membership can name.
pub const SERVICES_MAX: usize = 16;
/// Generations that the organisation's key can allow.
pub const GENERATIONS_MAX: u8 = 3;
/// The organisation's key enrols the first of at most [`GENERATIONS_MAX`] generations that enrol, and those who do not.
pub const PROOF_LINKS_MAX: usize = GENERATIONS_MAX as usize + 1;
/// The role that everybody who enrols can give.
pub const ROLE_MEMBER: &str = "member";
/// The greatest membership: labels in bounds take about 2,200 bytes.
const MEMBERSHIP_LEN_MAX: usize = 2_560;
/// The greatest proof.
pub const PROOF_LEN_MAX: usize = PROOF_LINKS_MAX * (MEMBERSHIP_LEN_MAX + 3) + 1;

/// What a member signs to be made one by another member: the organisation, that one's key, the date, and its own name.
const CONSENT_CONTEXT: &str = "consent";

/// Bytes that name a membership: who wants another of the same name tries 2^128 of them.
const MEMBERSHIP_DIGEST_LEN: usize = 16;

/// Names a signed membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct MembershipDigest(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; MEMBERSHIP_DIGEST_LEN]);

impl MembershipDigest {
    /// That of a signed membership.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = crypto::sha256(&[bytes]);
        Self(digest[..MEMBERSHIP_DIGEST_LEN].try_into().expect("a digest is longer"))
    }
}

/// Makes a key a member.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Membership {
    /// The organisation.
    #[n(0)]
    pub org: IdentityKey,
    /// Who signs: the organisation's key, or a member that may enrol.
    #[n(1)]
    pub issuer: IdentityKey,
    /// The member.
    #[n(2)]
    pub member: IdentityKey,
    /// The modifier that, with the member's key, gives its address.
    #[n(3)]
    pub modifier: u64,
    /// `name@org`.
    #[n(4)]
    pub name: String,
    /// A label that rules can name.
    #[n(5)]
    pub role: String,
    /// Labels that rules can name.
    #[n(6)]
    pub groups: Vec<String>,
    /// The services that the member may call at other members; none named: all.
    #[n(7)]
    pub services: Vec<String>,
    /// How many generations it may enrol.
    #[n(8)]
    pub generations: u8,
    /// When it was signed.
    #[n(9)]
    pub issued: UnixTime,
    /// When it ends.
    #[n(10)]
    pub expires: UnixTime,
    /// When the member has asked for it, by its own clock. Of all that it has asked for the last one counts.
    #[n(11)]
    pub consented: UnixTime,
    /// Seconds that it was to last: its issuer's own membership may end before. Renewals last as long.
    #[n(12)]
    pub lifetime: u64,
    /// The member's [`consent`] to being made one by this issuer, where that is a member: else it could take anybody over.
    #[n(13)]
    pub consent: Option<ByteArray<SIGNATURE_LEN>>,
}

/// The word of `member` that `issuer`, another member, may make it one of that name, today.
pub fn consent(
    member: &Identity,
    org: &IdentityKey,
    issuer: &IdentityKey,
    name: &str,
    date: UnixTime,
) -> [u8; SIGNATURE_LEN] {
    member.sign(CONSENT_CONTEXT, &consent_message(org, issuer, name, date))
}

fn consent_message(org: &IdentityKey, issuer: &IdentityKey, name: &str, date: UnixTime) -> Vec<u8> {
    [&org.0[..], &issuer.0, &date.as_secs().to_be_bytes(), name.as_bytes()].concat()
}

/// Whether a clock that reads `issued` takes `consented` for today: no more than a day before or after it.
pub(super) fn is_of_the_day(consented: UnixTime, issued: UnixTime) -> bool {
    consented.as_secs().abs_diff(issued.as_secs()) <= CLOCK_SKEW.as_secs()
}

impl Membership {
    /// Encodes and signs the membership.
    ///
    /// # Errors
    /// [`RecordError`] if `issuer` is not its issuer, or a field is out of bounds.
    pub fn sign(&self, issuer: &Identity) -> Result<Vec<u8>, RecordError> {
        record::sign(self, issuer)
    }

    /// Whether it names `service`, or none at all.
    pub fn allows_service(&self, service: &str) -> bool {
        self.services.is_empty() || self.services.iter().any(|named| named == service)
    }

    /// Whether it gives nothing that `issuer`'s own membership does not have (§1.3).
    ///
    /// # Errors
    /// [`OrgError::BeyondRights`] names what it has not.
    pub fn check_within(&self, issuer: &Self) -> Result<(), OrgError> {
        let within = |what, ok| if ok { Ok(()) } else { Err(OrgError::BeyondRights(what)) };
        let issuer_allows = |service: &String| issuer.allows_service(service);
        let is_unlimited = self.services.is_empty() && !issuer.services.is_empty();
        within("generations", self.generations < issuer.generations)?;
        within("role", self.role == issuer.role || self.role == ROLE_MEMBER)?;
        within("groups", self.groups.iter().all(|group| issuer.groups.contains(group)))?;
        within("services", !is_unlimited && self.services.iter().all(issuer_allows))?;
        within("time", self.expires <= issuer.expires)
    }

    fn has_run_out(&self, now: UnixTime) -> bool {
        self.expires + CLOCK_SKEW <= now
    }

    /// Whether the member wants to be one by this issuer.
    fn check_consent(&self) -> Result<(), OrgError> {
        let consent = self.consent.as_ref().ok_or(OrgError::Consent)?;
        let message = consent_message(&self.org, &self.issuer, &self.name, self.consented);
        self.member.verify(CONSENT_CONTEXT, &message, consent).map_err(|_| OrgError::Consent)
    }
}

impl Payload for Membership {
    const CONTEXT: &'static str = "membership";
    const LEN_MAX: usize = MEMBERSHIP_LEN_MAX;

    fn signer(&self) -> IdentityKey {
        self.issuer
    }

    fn check_bounds(&self) -> Result<(), RecordError> {
        record::within("name", is_name(&self.name))?;
        record::within("role", is_label(&self.role))?;
        record::within("groups", self.groups.len() <= GROUPS_MAX && self.groups.iter().all(|group| is_label(group)))?;
        let are_labels = self.services.iter().all(|service| is_label(service));
        record::within("services", self.services.len() <= SERVICES_MAX && are_labels)?;
        record::within("expires", self.issued <= self.expires)?;
        record::within("consented", is_of_the_day(self.consented, self.issued))?;
        record::within("lifetime", self.lifetime <= MEMBERSHIP_VALIDITY_MAX.as_secs())?;
        record::within("generations", self.generations <= GENERATIONS_MAX)
    }

    fn check_claims(&self, now: UnixTime) -> Result<(), RecordError> {
        record::check_dates(self.issued, self.expires, MEMBERSHIP_VALIDITY_MAX, now)?;
        address::verify(&self.member, self.modifier).ok_or(RecordError::Address)?;
        Ok(())
    }
}

/// A member with all that shows it: memberships from one that the organisation's key has signed to its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    links: Vec<Membership>,
    address: Address,
    bytes: Vec<u8>,
    hash: [u8; 32],
    root: MembershipDigest,
}

impl Proof {
    /// Decodes a proof and verifies everything that does not depend on revocation lists: not who was revoked, and not whether the key of
    /// the organisation that has signed the first membership still counts.
    ///
    /// # Errors
    /// [`OrgError`] tells what is wrong with it.
    pub fn verify(bytes: &[u8], charters: &Charters, now: UnixTime) -> Result<Self, OrgError> {
        if bytes.len() > PROOF_LEN_MAX {
            return Err(OrgError::ProofLength);
        }
        let signed: Vec<ByteVec> = cbor::from_slice(bytes).map_err(RecordError::from)?;
        if !(1..=PROOF_LINKS_MAX).contains(&signed.len()) {
            return Err(OrgError::ProofLength);
        }
        let mut links: Vec<Membership> = Vec::with_capacity(signed.len());
        for bytes in &signed {
            let link = verify_link(bytes, links.last(), charters, now)?;
            links.push(link);
        }
        let own = &links[links.len() - 1];
        let address = address::verify(&own.member, own.modifier).ok_or(RecordError::Address)?;
        let root = MembershipDigest::of(&signed[0]);
        Ok(Self { links, address, bytes: bytes.to_vec(), hash: crypto::sha256(&[bytes]), root })
    }

    /// The key that a proof is about, if it proves anything.
    pub fn claimed_key(bytes: &[u8]) -> Option<IdentityKey> {
        let signed: Vec<ByteVec> = cbor::from_slice(bytes).ok()?;
        record::peek::<Membership>(signed.last()?).ok().map(|membership| membership.member)
    }

    /// The bytes of a proof: those of `above`, the issuer's own, if a member issues, and one membership more.
    pub fn extend(above: Option<&Self>, membership: Vec<u8>) -> Vec<u8> {
        let above = above.map(|proof| cbor::from_slice(&proof.bytes).expect("it was decoded before"));
        let mut links: Vec<ByteVec> = above.unwrap_or_default();
        links.push(membership.into());
        cbor::to_vec(&links)
    }

    /// The member's own membership.
    pub fn membership(&self) -> &Membership {
        &self.links[self.links.len() - 1]
    }

    /// The member's key.
    pub fn key(&self) -> IdentityKey {
        self.membership().member
    }

    /// The member's address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// All memberships, the one that the organisation's key has signed first.
    pub fn links(&self) -> &[Membership] {
        &self.links
    }

    /// As it travels.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Names it.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The key of the organisation that has signed the first membership.
    pub fn root_issuer(&self) -> &IdentityKey {
        &self.links[0].issuer
    }

    /// Names the first membership.
    pub fn root(&self) -> &MembershipDigest {
        &self.root
    }

    /// Of several proofs of one member the greatest counts (§1.3). The date of the issuer is its own word, and comes last.
    pub fn rank(&self) -> (UnixTime, Reverse<usize>, UnixTime) {
        (self.membership().consented, Reverse(self.links.len()), self.membership().issued)
    }

    /// Whether the time of one of its memberships is over.
    pub fn has_run_out(&self, now: UnixTime) -> bool {
        self.links.iter().any(|link| link.has_run_out(now))
    }
}

fn verify_link(
    bytes: &[u8],
    above: Option<&Membership>,
    charters: &Charters,
    now: UnixTime,
) -> Result<Membership, OrgError> {
    let link: Membership = record::verify(bytes, now)?;
    if link.org != charters.org() {
        return Err(OrgError::ForeignOrg);
    }
    match above {
        None if !charters.keys().any(|key| *key == link.issuer) => return Err(OrgError::Issuer),
        None => {}
        Some(above) if above.member != link.issuer => return Err(OrgError::Issuer),
        Some(above) => {
            link.check_within(above)?;
            link.check_consent()?;
        }
    }
    Ok(link)
}
