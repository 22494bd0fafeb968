//! Revocations: who is a member no more (spec/org.md §1.4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use minicbor::{Decode, Encode};

use super::OrgError;
use super::charter::Charters;
use super::membership::{MEMBERSHIP_VALIDITY_MAX, Membership, MembershipDigest, Proof};
use crate::crypto;
use crate::id::IdentityKey;
use crate::identity::{CLOCK_SKEW, Identity};
use crate::record::{self, Payload, RecordError};
use crate::time::UnixTime;

/// Revocations in one list.
pub const REVOCATIONS_MAX: usize = 1_024;
/// Of these, what departures may take: however many agents come and go, there is room to revoke one.
const DEPARTURES_MAX: usize = REVOCATIONS_MAX / 2;
/// Memberships of keys that were cut off which one list endorses: as many as an organisation has members.
pub const ENDORSED_MAX: usize = 4_096;
/// The greatest list: 52 bytes for each revocation, 18 for each membership that it endorses, and the rest.
pub const LIST_LEN_MAX: usize = (54 + 72) * 1_024;
/// How long a list may be valid. Its issuer signs a new one long before.
pub const LIST_VALIDITY_MAX: Duration = MEMBERSHIP_VALIDITY_MAX;
/// Lists of the organisation's keys that are kept: one of each, while nobody has stolen one.
const ORG_LISTS_MAX: usize = 16;
/// Lists of members that are kept: hundreds of those who enrol may revoke, and everything that counts fits in one reply.
const MEMBER_LISTS_MAX: usize = 256;
/// Bytes of these together: some 20,000 revocations.
const MEMBER_LISTS_LEN_MAX: usize = 1_024 * 1_024;
/// Lists of one member: each takes over what those before it say, so there are several only where two sign at once with one key.
const LISTS_PER_MEMBER_MAX: usize = 4;
/// Lists that are kept, of all issuers.
pub const LISTS_MAX: usize = ORG_LISTS_MAX + MEMBER_LISTS_MAX;
/// Bytes that name a charter or list among those of one organisation.
pub const LIST_DIGEST_LEN: usize = 8;

/// Ends memberships of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Revocation {
    /// Who.
    #[n(0)]
    pub member: IdentityKey,
    /// Its memberships issued until then are void; if it has left, those that it had asked for until then.
    #[n(1)]
    pub until: UnixTime,
    /// When the last would have ended that this is about.
    #[n(2)]
    pub kept_until: UnixTime,
    /// It has given them up by itself: anybody who may enrol may enrol it again.
    #[n(3)]
    pub has_left: bool,
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
    /// Memberships that count although the key of the organisation that has signed them was cut off (§5).
    #[cbor(n(6), skip_if = "Vec::is_empty")]
    pub endorsed: Vec<MembershipDigest>,
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

    /// Who has issued a list, if it is one and that is true.
    pub(super) fn claimed_issuer(bytes: &[u8]) -> Option<IdentityKey> {
        record::peek::<Self>(bytes).ok().map(|list| list.issuer)
    }

    /// Whether nothing is lost by forgetting `other`.
    fn covers(&self, other: &Self, now: UnixTime) -> bool {
        let is_covered = |revocation: &Revocation| {
            revocation.has_run_out(now)
                || revocation.is_said_by_date(self.issued)
                || self.revocations.iter().any(|own| own.covers(revocation))
        };
        let endorsed = |list: &Self| list.endorsed.iter().copied().collect::<BTreeSet<_>>();
        self.issuer == other.issuer
            && self.issued >= other.issued
            && other.revocations.iter().all(is_covered)
            && endorsed(other).is_subset(&endorsed(self))
    }

    /// Whether it revokes nobody any more, and ends nothing by its date that has not ended by its own.
    fn is_spent(&self, now: UnixTime) -> bool {
        self.issued + CLOCK_SKEW <= now && self.revocations.iter().all(|revocation| revocation.has_run_out(now))
    }
}

impl Revocation {
    /// Ends a membership that its member gives up.
    pub fn departure(membership: &Membership) -> Self {
        let Membership { member, consented, expires, .. } = *membership;
        Self { member, until: consented, kept_until: expires, has_left: true }
    }

    pub(super) fn has_run_out(&self, now: UnixTime) -> bool {
        self.kept_until + CLOCK_SKEW <= now
    }

    /// Whether a list of that date need not say it: what somebody has given up ends with the date that it has, by its issuer's clock.
    fn is_said_by_date(&self, issued: UnixTime) -> bool {
        self.has_left && self.kept_until.as_secs() <= issued.as_secs()
    }

    /// The same in a list that is signed now, whatever clock it was made by.
    pub(super) fn within(self, now: UnixTime) -> Self {
        let until = self.until.min(now + CLOCK_SKEW);
        Self { until, kept_until: self.kept_until.min(now + MEMBERSHIP_VALIDITY_MAX + CLOCK_SKEW), ..self }
    }

    fn covers(&self, other: &Self) -> bool {
        self.member == other.member
            && self.until >= other.until
            && self.kept_until >= other.kept_until
            && self.has_left == other.has_left
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
        let is_bounded = |one: &Revocation| one.until <= self.issued + CLOCK_SKEW && one.kept_until <= ends;
        record::within(
            "revocations",
            self.revocations.len() <= REVOCATIONS_MAX && self.revocations.iter().all(is_bounded),
        )?;
        record::within("endorsed", self.endorsed.len() <= ENDORSED_MAX)
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
    lists: Vec<Arc<(RevocationList, Vec<u8>)>>,
    said: Arc<Said>,
}

/// What all lists say together.
#[derive(Debug, Default)]
struct Said {
    /// By issuer and member, what is void.
    void: BTreeMap<(IdentityKey, IdentityKey), Void>,
    /// By issuer, the date of its newest list.
    issued: BTreeMap<IdentityKey, UnixTime>,
    /// By issuer, the memberships that it endorses.
    endorsed: BTreeSet<(IdentityKey, MembershipDigest)>,
}

/// Which memberships of a key an issuer has ended.
#[derive(Clone, Copy, Debug, Default)]
struct Void {
    /// It was revoked: those issued until then, and all that issuers below have made.
    revoked_until: Option<UnixTime>,
    /// It has left: those that it had asked for until then.
    left_until: Option<UnixTime>,
}

impl Void {
    /// Whether it means a membership of which the issuer stands as many steps below who says so.
    fn means(&self, membership: &Membership, distance: usize) -> bool {
        self.revoked_until.is_some_and(|until| membership.issued <= until || distance > 0)
            || self.left_until.is_some_and(|until| membership.consented <= until)
    }
}

impl Revocations {
    /// Takes a verified list of this organisation, of an issuer whose word counts for somebody; tells whether it was news.
    ///
    /// # Errors
    /// [`OrgError::Full`] or [`OrgError::NoRoomForList`] if more lists are in force than can be kept. Members take no room from the
    /// organisation's keys, nor these from members.
    pub fn add(
        &mut self,
        list: RevocationList,
        bytes: &[u8],
        charters: &Charters,
        in_force: impl Fn(&IdentityKey) -> bool,
        now: UnixTime,
    ) -> Result<bool, OrgError> {
        if self.all().any(|known| known.covers(&list, now)) {
            return Ok(false);
        }
        self.lists.retain(|known| !list.covers(&known.0, now));
        if charters.has_key(&list.issuer) {
            self.make_room_for_org(&list.issuer, charters, now)?;
        } else {
            self.make_room_for_member(&list.issuer, bytes.len(), charters, in_force, now)?;
        }
        self.lists.push(Arc::new((list, bytes.to_vec())));
        self.said = Arc::new(Said::by(self.all()));
        Ok(true)
    }

    /// Of the lists of keys whose word counts least that key which has most gives one up. So who floods, be it with a key that was
    /// replaced, displaces nothing but its own.
    fn make_room_for_org(&mut self, issuer: &IdentityKey, charters: &Charters, now: UnixTime) -> Result<(), OrgError> {
        let of_org = || self.issuers().enumerate().filter(|(_, known)| charters.has_key(known));
        if of_org().count() < ORG_LISTS_MAX {
            return Ok(());
        }
        let count = |issuer: &IdentityKey| self.issuers().filter(|known| known == issuer).count();
        let weight = |issuer: &IdentityKey, count: usize| {
            (charters.current().key == *issuer, charters.may_issue(issuer, now), std::cmp::Reverse(count))
        };
        let lightest = of_org().map(|(position, known)| (weight(&known, count(&known)), position)).min();
        let displaced = lightest.filter(|(lightest, _)| *lightest < weight(issuer, count(issuer) + 1));
        let (_, position) = displaced.ok_or(OrgError::Full(ORG_LISTS_MAX))?;
        self.lists.remove(position);
        Ok(())
    }

    /// Whom a member has revoked stays revoked: no list of one that is in force goes, unless it is spent. Who fills the room is to be
    /// revoked, and the lists of those who were make room for others.
    fn make_room_for_member(
        &mut self,
        issuer: &IdentityKey,
        len: usize,
        charters: &Charters,
        in_force: impl Fn(&IdentityKey) -> bool,
        now: UnixTime,
    ) -> Result<(), OrgError> {
        if self.issuers().filter(|known| known == issuer).count() >= LISTS_PER_MEMBER_MAX {
            return Err(OrgError::NoRoomForList);
        }
        while !self.has_room_for_member(len, charters) {
            let of_members = self.all().enumerate().filter(|(_, list)| !charters.has_key(&list.issuer));
            let weighed = of_members.map(|(position, list)| (!list.is_spent(now), in_force(&list.issuer), position));
            let spare = weighed.min().filter(|(matters, is_by_member, _)| !(*matters && *is_by_member));
            let (.., position) = spare.filter(|_| in_force(issuer)).ok_or(OrgError::NoRoomForList)?;
            self.lists.remove(position);
        }
        Ok(())
    }

    fn has_room_for_member(&self, len: usize, charters: &Charters) -> bool {
        let lens = || self.signed().filter(|(issuer, _)| !charters.has_key(issuer)).map(|(_, bytes)| bytes.len());
        lens().count() < MEMBER_LISTS_MAX && lens().sum::<usize>() + len <= MEMBER_LISTS_LEN_MAX
    }

    /// Whether these bytes are a list that is known.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.lists().any(|known| known == bytes)
    }

    /// Whose lists these are.
    pub fn issuers(&self) -> impl Iterator<Item = IdentityKey> {
        self.all().map(|list| list.issuer)
    }

    /// Whether a key of the organisation that counts has endorsed a membership of one that was cut off.
    pub fn endorses(&self, membership: &MembershipDigest, charters: &Charters, now: UnixTime) -> bool {
        let is_by = |key: &IdentityKey| self.said.endorsed.contains(&(*key, *membership));
        charters.keys().any(|key| is_by(key) && charters.may_issue(key, now))
    }

    /// Whether anybody who may has revoked a membership of this proof.
    pub fn void(&self, proof: &Proof, charters: &Charters, now: UnixTime) -> bool {
        let links = proof.links();
        // Who has issued the membership at `position`, and stands above the issuers of those after it.
        let is_void_by = |issuer: &IdentityKey, position: usize| {
            let is_void = |(distance, link): (usize, &Membership)| {
                let void = self.said.void.get(&(*issuer, link.member));
                void.is_some_and(|void| void.means(link, distance))
            };
            links[position..].iter().enumerate().any(is_void)
        };
        let mut org_keys = charters.keys().filter(|key| charters.may_issue(key, now));
        let mut members = links.iter().zip(1..);
        org_keys.any(|key| is_void_by(key, 0))
            || members.any(|(above, below)| is_void_by(&above.member, below))
            || links.iter().any(|link| self.has_ended(link, charters, now))
    }

    /// Whether who has issued a membership has signed a list since that was to end: then it has ended whatever other clocks say. All keys of
    /// the organisation are one.
    fn has_ended(&self, membership: &Membership, charters: &Charters, now: UnixTime) -> bool {
        self.newest_of(&membership.issuer, charters, now).is_some_and(|newest| membership.expires <= newest)
    }

    /// The date of the newest list of an issuer.
    pub(super) fn newest_of(&self, issuer: &IdentityKey, charters: &Charters, now: UnixTime) -> Option<UnixTime> {
        let newest = |issuer: &IdentityKey| self.said.issued.get(issuer).copied();
        if charters.has_key(issuer) {
            return charters.keys().filter(|key| charters.may_issue(key, now)).filter_map(newest).max();
        }
        newest(issuer)
    }

    /// Who has revoked whom, and until when, of those that are dated `since` or later.
    pub(super) fn revoked_since(
        &self,
        since: UnixTime,
    ) -> impl Iterator<Item = (&IdentityKey, &IdentityKey, UnixTime)> {
        let revoked = self.said.void.iter().filter_map(|((by, member), void)| Some((by, member, void.revoked_until?)));
        revoked.filter(move |(.., until)| until.as_secs() >= since.as_secs())
    }

    /// When `issuer` has revoked `member` last, if it has.
    pub fn revoked_until(&self, issuer: &IdentityKey, member: &IdentityKey) -> Option<UnixTime> {
        self.said.void.get(&(*issuer, *member))?.revoked_until
    }

    /// When the newest list of the organisation's key was signed.
    pub fn newest(&self, charters: &Charters) -> Option<UnixTime> {
        self.all().filter(|list| list.issuer == charters.current().key).map(|list| list.issued).max()
    }

    /// When the last of the lists ends.
    pub fn expires(&self) -> Option<UnixTime> {
        self.all().map(|list| list.expires).max()
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
        let own = || self.all().filter(|list| list.issuer == issuer);
        let former = || self.all().filter(|list| list.issuer != issuer && charters.may_issue(&list.issuer, now));
        let gather = |revocations: &mut Vec<Revocation>| {
            revocations.retain(|revocation| !revocation.has_run_out(now) && !revocation.is_said_by_date(now));
            *revocations = merged(revocations);
        };
        let revoked = |list: &RevocationList| list.revocations.iter().map(|one| one.within(now)).collect::<Vec<_>>();
        let mut revocations: Vec<_> = own().flat_map(revoked).chain(more).collect();
        gather(&mut revocations);
        if revocations.len() > REVOCATIONS_MAX {
            return Err(OrgError::Full(REVOCATIONS_MAX));
        }
        let mut endorsed = BTreeSet::new();
        if charters.current().key == issuer {
            // A former key may have been stolen: it fills what is free, and no more.
            let room = REVOCATIONS_MAX - revocations.len();
            revocations.extend(former().flat_map(revoked).filter(|one| !one.has_run_out(now)).take(room));
            gather(&mut revocations);
            // When all memberships of the key that was cut off have ended, there is nothing left to endorse.
            let has_ended = |cut: UnixTime| cut + MEMBERSHIP_VALIDITY_MAX + CLOCK_SKEW <= now;
            if charters.cut_off_at().is_some_and(|cut| !has_ended(cut)) {
                endorsed.extend(own().chain(former()).flat_map(|list| &list.endorsed).take(ENDORSED_MAX));
            }
        }
        let sequence = own().map(|list| list.sequence + 1).max().unwrap_or(0);
        Ok(RevocationList {
            org: charters.org(),
            issuer,
            sequence,
            issued: now,
            expires: now + LIST_VALIDITY_MAX,
            revocations,
            endorsed: endorsed.into_iter().collect(),
        })
    }

    /// Whether `issuer` may put somebody who has left into its list.
    pub fn has_room_for_departure(&self, issuer: &IdentityKey, now: UnixTime) -> bool {
        let own = self.all().filter(|list| list.issuer == *issuer).flat_map(|list| &list.revocations);
        let alive = own.filter(|one| one.has_left && !one.is_said_by_date(now));
        alive.map(|one| one.member).collect::<BTreeSet<_>>().len() < DEPARTURES_MAX
    }

    /// The signed lists.
    pub fn lists(&self) -> impl Iterator<Item = &[u8]> {
        self.lists.iter().map(|list| list.1.as_slice())
    }

    /// The signed lists, and whose they are.
    pub fn signed(&self) -> impl DoubleEndedIterator<Item = (IdentityKey, &[u8])> {
        self.lists.iter().map(|list| (list.0.issuer, list.1.as_slice()))
    }

    fn all(&self) -> impl Iterator<Item = &RevocationList> {
        self.lists.iter().map(|list| &list.0)
    }
}

/// One entry for each member that was revoked, and one for each that has left, however often that was.
fn merged(revocations: &[Revocation]) -> Vec<Revocation> {
    let mut merged: BTreeMap<(IdentityKey, bool), Revocation> = BTreeMap::new();
    for one in revocations {
        let all = merged.entry((one.member, one.has_left)).or_insert(*one);
        (all.until, all.kept_until) = (all.until.max(one.until), all.kept_until.max(one.kept_until));
    }
    let mut merged: Vec<_> = merged.into_values().collect();
    merged.sort();
    merged
}

impl Said {
    fn by<'a>(lists: impl Iterator<Item = &'a RevocationList>) -> Self {
        let mut said = Self::default();
        for list in lists {
            let newest = said.issued.entry(list.issuer).or_insert(list.issued);
            *newest = list.issued.max(*newest);
            for revocation in &list.revocations {
                let void = said.void.entry((list.issuer, revocation.member)).or_default();
                let until = if revocation.has_left { &mut void.left_until } else { &mut void.revoked_until };
                *until = (*until).max(Some(revocation.until));
            }
            said.endorsed.extend(list.endorsed.iter().map(|endorsed| (list.issuer, *endorsed)));
        }
        said
    }
}
