//! Revocations: who is a member no more (spec/org.md §1.4).

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::{Decode, Encode};

use super::OrgError;
use super::charter::Charters;
use super::membership::{MEMBERSHIP_VALIDITY_MAX, Proof};
use crate::crypto;
use crate::id::IdentityKey;
use crate::identity::{CLOCK_SKEW, Identity};
use crate::record::{self, Payload, RecordError};
use crate::time::UnixTime;

/// Revocations in one list. Each is forgotten when what it revokes would have ended.
pub const REVOCATIONS_MAX: usize = 1_024;
/// The greatest list: 50 bytes for each revocation, and the rest.
pub const LIST_LEN_MAX: usize = 52 * 1_024;
/// How long a list may be valid. Its issuer signs a new one long before.
pub const LIST_VALIDITY_MAX: Duration = MEMBERSHIP_VALIDITY_MAX;
/// Lists that are kept, of all issuers.
const LISTS_MAX: usize = 16;
/// Bytes that name a charter or list among those of one organisation.
pub const LIST_DIGEST_LEN: usize = 8;

/// Ends memberships of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Revocation {
    /// Who.
    #[n(0)]
    pub member: IdentityKey,
    /// Its memberships issued until then are void.
    #[n(1)]
    pub issued_until: UnixTime,
    /// When the last of them would have ended.
    #[n(2)]
    pub kept_until: UnixTime,
}

/// All revocations of one issuer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RevocationList {
    /// The organisation.
    #[n(0)]
    pub org: IdentityKey,
    /// Who signs: the organisation's key, or a member, for those whom it has enrolled.
    #[n(1)]
    pub issuer: IdentityKey,
    /// Counts the lists of this issuer.
    #[n(2)]
    pub sequence: u64,
    /// When it was signed.
    #[n(3)]
    pub issued: UnixTime,
    /// When its issuer must have signed another.
    #[n(4)]
    pub expires: UnixTime,
    /// The revocations.
    #[n(5)]
    pub revocations: Vec<Revocation>,
}

impl RevocationList {
    /// Encodes and signs the list.
    ///
    /// # Errors
    /// [`RecordError`] if `identity` is not its issuer, or a field is out of bounds.
    pub fn sign(&self, identity: &Identity) -> Result<Vec<u8>, RecordError> {
        record::sign(self, identity)
    }

    /// Decodes a list and checks everything but whose word its issuer's is.
    ///
    /// # Errors
    /// [`RecordError`] tells what is wrong with it.
    pub fn verify(bytes: &[u8], now: UnixTime) -> Result<Self, RecordError> {
        record::verify(bytes, now)
    }

    /// Whether nothing is lost by forgetting `other`.
    fn covers(&self, other: &Self, now: UnixTime) -> bool {
        let is_covered = |revocation: &Revocation| {
            revocation.has_run_out(now) || self.revocations.iter().any(|own| own.covers(revocation))
        };
        self.issuer == other.issuer && self.issued >= other.issued && other.revocations.iter().all(is_covered)
    }
}

impl Revocation {
    fn has_run_out(&self, now: UnixTime) -> bool {
        self.kept_until + CLOCK_SKEW <= now
    }

    /// The same in a list that is signed now, whatever clock it was made by.
    fn within(self, now: UnixTime) -> Self {
        let issued_until = self.issued_until.min(now + CLOCK_SKEW);
        Self { issued_until, kept_until: self.kept_until.min(now + MEMBERSHIP_VALIDITY_MAX + CLOCK_SKEW), ..self }
    }

    fn covers(&self, other: &Self) -> bool {
        self.member == other.member && self.issued_until >= other.issued_until && self.kept_until >= other.kept_until
    }
}

impl Payload for RevocationList {
    const CONTEXT: &'static str = "revocation list";
    const LEN_MAX: usize = LIST_LEN_MAX;

    fn signer(&self) -> IdentityKey {
        self.issuer
    }

    fn check_bounds(&self) -> Result<(), RecordError> {
        // Nobody is kept out for longer than a membership can last, whoever has had the key for a day.
        let ends = self.issued + MEMBERSHIP_VALIDITY_MAX + CLOCK_SKEW;
        let is_bounded = |one: &Revocation| one.issued_until <= self.issued + CLOCK_SKEW && one.kept_until <= ends;
        record::within(
            "revocations",
            self.revocations.len() <= REVOCATIONS_MAX && self.revocations.iter().all(is_bounded),
        )
    }

    fn check_claims(&self, now: UnixTime) -> Result<(), RecordError> {
        record::check_dates(self.issued, self.expires, LIST_VALIDITY_MAX, now)
    }
}

/// What the bytes of a charter or list are named by in a call.
pub fn list_digest(bytes: &[u8]) -> [u8; LIST_DIGEST_LEN] {
    let digest = crypto::sha256(&[bytes]);
    digest[..LIST_DIGEST_LEN].try_into().expect("a digest is longer")
}

/// All lists of one organisation that a member knows.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    lists: Vec<(RevocationList, Vec<u8>)>,
    /// What they say together: by issuer and member, until when memberships are void.
    void: BTreeMap<(IdentityKey, IdentityKey), UnixTime>,
}

impl Revocations {
    /// Takes a verified list of this organisation, of an issuer whose word counts for somebody; tells whether it was news.
    ///
    /// # Errors
    /// [`OrgError::Full`] if more lists are in force than can be kept. Those of the organisation's own key displace others.
    pub fn add(
        &mut self,
        list: RevocationList,
        bytes: &[u8],
        charters: &Charters,
        now: UnixTime,
    ) -> Result<bool, OrgError> {
        if self.lists.iter().any(|(known, _)| known.covers(&list, now)) {
            return Ok(false);
        }
        self.lists.retain(|(known, _)| !list.covers(known, now));
        if self.lists.len() >= LISTS_MAX {
            let displaced = self.displaced_by(&list.issuer, charters).ok_or(OrgError::Full(LISTS_MAX))?;
            self.lists.remove(displaced);
        }
        self.lists.push((list, bytes.to_vec()));
        self.void.clear();
        for (list, _) in &self.lists {
            for revocation in &list.revocations {
                let void = self.void.entry((list.issuer, revocation.member)).or_insert(revocation.issued_until);
                *void = (*void).max(revocation.issued_until);
            }
        }
        Ok(true)
    }

    /// The list that makes room for one more of `issuer`: of those whose word counts least the one who has most lists gives one up. So
    /// who floods, be it with a key that was replaced, displaces nothing but its own.
    fn displaced_by(&self, issuer: &IdentityKey, charters: &Charters) -> Option<usize> {
        let rank = |issuer: &IdentityKey| {
            let is_former = charters.keys().any(|key| key == issuer);
            (charters.current().key == *issuer, is_former)
        };
        let count = |issuer: &IdentityKey| self.lists.iter().filter(|(known, _)| known.issuer == *issuer).count();
        let weight = |issuer: &IdentityKey, count: usize| (rank(issuer), std::cmp::Reverse(count));
        let issuers = self.lists.iter().map(|(known, _)| known.issuer).enumerate();
        let weighed = issuers.map(|(position, known)| (weight(&known, count(&known)), position));
        let (lightest, position) = weighed.min()?;
        (lightest < weight(issuer, count(issuer) + 1)).then_some(position)
    }

    /// Whether these bytes are a list that is known.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.lists.iter().any(|(_, known)| known == bytes)
    }

    /// Whether anybody who may has revoked a membership of this proof.
    pub fn void(&self, proof: &Proof, charters: &Charters, now: UnixTime) -> bool {
        let links = proof.links();
        let org_keys = charters.keys().filter(|key| charters.may_issue(key, now));
        let is_void = |issuer: &IdentityKey, position: usize| {
            let link = &links[position];
            self.void_until(issuer, &link.member).is_some_and(|until| link.issued <= until)
        };
        let by_org = |key: &IdentityKey| (0..links.len()).any(|position| is_void(key, position));
        let by_members =
            || (1..links.len()).any(|position| links[..position].iter().any(|above| is_void(&above.member, position)));
        org_keys.into_iter().any(by_org) || by_members()
    }

    /// Until when memberships of `member` are void by what `issuer` says.
    pub fn void_until(&self, issuer: &IdentityKey, member: &IdentityKey) -> Option<UnixTime> {
        self.void.get(&(*issuer, *member)).copied()
    }

    /// When the newest list of the organisation's key was signed.
    pub fn newest(&self, charters: &Charters) -> Option<UnixTime> {
        let own = self.lists.iter().filter(|(list, _)| list.issuer == charters.current().key);
        own.map(|(list, _)| list.issued).max()
    }

    /// The next list of `issuer`: what all its lists say that still matters, and `more`. The organisation's key takes over what those
    /// before it have said, since their word ends sooner than what they have revoked.
    ///
    /// # Errors
    /// [`OrgError::Full`] if that is more than a list can hold.
    pub fn next_list(
        &self,
        charters: &Charters,
        issuer: IdentityKey,
        more: Option<Revocation>,
        now: UnixTime,
    ) -> Result<RevocationList, OrgError> {
        let lists = || self.lists.iter().map(|(list, _)| list);
        let own = || lists().filter(|list| list.issuer == issuer);
        let gather = |revocations: &mut Vec<Revocation>| {
            revocations.retain(|revocation| !revocation.has_run_out(now));
            revocations.sort();
            revocations.dedup();
        };
        let revoked = |list: &RevocationList| list.revocations.iter().map(|one| one.within(now)).collect::<Vec<_>>();
        let mut revocations: Vec<_> = own().flat_map(revoked).chain(more).collect();
        gather(&mut revocations);
        if revocations.len() > REVOCATIONS_MAX {
            return Err(OrgError::Full(REVOCATIONS_MAX));
        }
        if charters.current().key == issuer {
            let former = lists().filter(|list| list.issuer != issuer && charters.may_issue(&list.issuer, now));
            // A former key may have been stolen: it fills what is free, and no more.
            let room = REVOCATIONS_MAX - revocations.len();
            revocations.extend(former.flat_map(revoked).filter(|one| !one.has_run_out(now)).take(room));
            gather(&mut revocations);
        }
        let sequence = own().map(|list| list.sequence + 1).max().unwrap_or(0);
        Ok(RevocationList {
            org: charters.org(),
            issuer,
            sequence,
            issued: now,
            expires: now + LIST_VALIDITY_MAX,
            revocations,
        })
    }

    /// The signed lists.
    pub fn lists(&self) -> impl Iterator<Item = &[u8]> {
        self.lists.iter().map(|(_, bytes)| bytes.as_slice())
    }
}
