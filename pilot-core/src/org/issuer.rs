//! Who makes members: the holder of the organisation's key, or a member that may enrol (spec/org.md §3.1, §4).

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::OrgError;
use super::charter::{Charter, Charters};
use super::code::{Answer, Block, CODE_SEED_LEN, Ends, OpenCode, Word, WrongCode};
use super::invite::{INVITE_ID_LEN, INVITE_SECRET_LEN};
use super::membership::{MEMBERSHIP_VALIDITY_MAX, Membership, MembershipDigest, Proof, is_of_the_day};
use super::revocation::{ENDORSED_MAX, LIST_VALIDITY_MAX, REVOCATIONS_MAX, Revocation, RevocationList};
use super::roster::{MEMBERS_MAX, Roster};
use crate::crypto::{self, SIGNATURE_LEN};
use crate::id::IdentityKey;
use crate::identity::{CLOCK_SKEW, Identity};
use crate::record::{Payload, RecordError, is_name};
use crate::time::UnixTime;
use crate::wire::cbor;

/// Invites of one issuer that can still be used.
pub const INVITES_MAX: usize = 256;
/// How long an invite may be used: for the life of an image, not of a secret that somebody forgot.
pub const INVITE_VALIDITY_MAX: Duration = Duration::from_secs(90 * 86_400);
/// Members that one invite can make.
pub const INVITE_USES_MAX: u32 = 4_096;
/// Wrong secrets for one invite before it ends: somebody is guessing at 128 bits, or has half of an invite.
const WRONG_SECRETS_MAX: u32 = 10;

/// Memberships of a delegate that are kept in mind beside its last: it renews when half of the time is over, so that two of them have not
/// ended. Who asks more often harms those whom it has enrolled, and nobody else.
const EARLIER_MAX: usize = 8;
/// The name in a membership that is made to see whether one could be.
const ANYBODY: &str = "anybody";

/// What those who use an invite get.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Terms {
    /// A label that rules can name.
    #[n(0)]
    pub role: String,
    /// Labels that rules can name.
    #[n(1)]
    pub groups: Vec<String>,
    /// Services that they may call; none named: all.
    #[n(2)]
    pub services: Vec<String>,
    /// How many generations they may enrol.
    #[n(3)]
    pub generations: u8,
    /// Seconds that each membership lasts.
    #[n(4)]
    pub lifetime: u64,
}

impl Terms {
    /// What a membership gives, for the next one.
    pub fn of(membership: &Membership) -> Self {
        let Membership { role, groups, services, generations, lifetime, .. } = membership.clone();
        Self { role, groups, services, generations, lifetime }
    }
}

/// An invite as its issuer keeps it: without the secret.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenInvite {
    #[cbor(n(0), with = "minicbor::bytes")]
    id: [u8; INVITE_ID_LEN],
    #[cbor(n(1), with = "minicbor::bytes")]
    secret_hash: [u8; 32],
    #[n(2)]
    terms: Terms,
    #[n(3)]
    uses_left: u32,
    #[n(4)]
    expires: UnixTime,
    #[n(5)]
    wrong_secrets: u32,
    /// Who has used it.
    #[n(6)]
    users: Vec<IdentityKey>,
    /// When it was made: whoever was revoked since then is not meant by it any more.
    #[n(7)]
    made: UnixTime,
    /// The revocations of that second, or of later ones by other clocks, that were known then: whoever is made it may be meant.
    #[cbor(n(8), skip_if = "Vec::is_empty")]
    forgiven: Vec<Revoked>,
}

/// Who has revoked whom until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Revoked {
    #[n(0)]
    by: IdentityKey,
    #[n(1)]
    member: IdentityKey,
    #[n(2)]
    until: UnixTime,
}

/// The invites of one issuer. It is on disk before any answer that follows from it leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Invites {
    #[n(0)]
    open: Vec<OpenInvite>,
    /// Codes for some of them.
    #[n(1)]
    codes: Vec<OpenCode>,
}

/// What the holder of the organisation's key has decided with it. It is there for the day on which somebody else has the key too, and
/// what is signed with it says nothing any more (§5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ledger {
    #[n(0)]
    enrolled: BTreeMap<IdentityKey, Enrolled>,
    #[n(1)]
    revoked: Vec<Revocation>,
}

/// A membership that the holder of the organisation's key has signed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Enrolled {
    #[n(0)]
    proof: ByteVec,
    #[n(1)]
    digest: MembershipDigest,
    #[n(2)]
    expires: UnixTime,
    /// Those before it of a member that may enrol: whom it has enrolled by one of these has that in its proof.
    #[cbor(n(3), skip_if = "Vec::is_empty")]
    earlier: Vec<Earlier>,
}

/// A membership of which there is a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Earlier {
    #[n(0)]
    digest: MembershipDigest,
    #[n(1)]
    expires: UnixTime,
}

/// Who signs for an organisation here.
#[derive(Clone, Debug)]
pub enum Issuer {
    /// The holder of its key.
    Org(Identity),
    /// A member that may enrol.
    Member(Identity),
}

/// Why somebody does not become a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// No invite of that number, or another secret: which of the two is not told.
    #[error("no such invite is open: it was taken back, used up by others, or belongs elsewhere")]
    NoSuchInvite,
    /// Its time is over.
    #[error("the invite has expired")]
    Expired,
    /// No code of that number, or another word: which of the two is not told.
    #[error(transparent)]
    Code(#[from] WrongCode),
    /// It was a member, and was revoked after the invite was made.
    #[error("this agent was revoked after the invite was made: ask for a new one")]
    Revoked,
    /// Somebody has that name.
    #[error("the name '{0}' is taken in this organisation")]
    NameTaken(String),
    /// It cannot be a name.
    #[error("'{0}' is no name: 1 to 63 lower-case letters, digits and inner hyphens")]
    Name(String),
    /// The issuer may not give this.
    #[error(transparent)]
    Org(#[from] OrgError),
}

impl From<RecordError> for EnrolError {
    fn from(error: RecordError) -> Self {
        Self::Org(error.into())
    }
}

/// Who asks to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// Its key, as the tunnel proved it.
    pub key: IdentityKey,
    /// Gives the key its address.
    pub modifier: u64,
    /// The name it wants.
    pub name: String,
    /// How long it wants to be a member at most.
    pub lifetime_max: Duration,
    /// When it asks, by its own clock.
    pub consented: UnixTime,
    /// That it wants to be one by this issuer ([`consent`](super::membership::consent)). The organisation's key needs none.
    pub consent: Option<ByteArray<SIGNATURE_LEN>>,
}

impl Issuer {
    /// The key that signs.
    pub fn key(&self) -> IdentityKey {
        self.identity().key()
    }

    /// Signs with that key.
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Org(identity) | Self::Member(identity) => identity,
        }
    }

    /// Whether a revocation by this issuer ends that membership: the organisation's key ends all, a member those of whom it has enrolled,
    /// and of whom they have.
    pub fn may_revoke(&self, proof: &Proof) -> bool {
        match self {
            Self::Org(_) => true,
            Self::Member(identity) => proof.links().iter().skip(1).any(|link| link.issuer == identity.key()),
        }
    }

    /// Makes a new organisation: its charter 0.
    ///
    /// # Errors
    /// [`RecordError`] if the name is none.
    pub fn found(
        key: &Identity,
        successor: IdentityKey,
        name: &str,
        list_age_max: Duration,
        now: UnixTime,
    ) -> Result<Charters, OrgError> {
        let org = key.key();
        let charter = Charter {
            org,
            sequence: 0,
            name: name.to_owned(),
            key: org,
            successor,
            signer: org,
            list_age_max: list_age_max.as_secs(),
            previous_until: now,
            issued: now,
        };
        Charters::new(org, &charter.sign(key)?, now)
    }

    /// Makes a member, within what this issuer may give.
    ///
    /// # Errors
    /// [`OrgError`] if it may not.
    pub fn enrol(
        &self,
        roster: &Roster,
        applicant: &Applicant,
        terms: &Terms,
        now: UnixTime,
    ) -> Result<Vec<u8>, OrgError> {
        let above = self.above(roster, now)?;
        if !is_of_the_day(applicant.consented, now) {
            return Err(OrgError::Clocks);
        }
        if roster.member(&applicant.key, now).is_some_and(|known| known.consented > applicant.consented) {
            return Err(OrgError::Superseded);
        }
        let membership = self.membership(roster, above, applicant, terms, now);
        let bytes = Proof::extend(above, membership.sign(self.identity())?);
        // What would not be believed elsewhere is not handed out.
        roster.check(&Proof::verify(&bytes, roster.charters(), now)?, now)?;
        Ok(bytes)
    }

    /// Whether this issuer may give that to anybody, whoever it will be.
    ///
    /// # Errors
    /// [`OrgError`] if it may not.
    pub fn check_terms(&self, roster: &Roster, terms: &Terms, now: UnixTime) -> Result<(), OrgError> {
        let above = self.above(roster, now)?;
        let anybody = Applicant {
            key: roster.org(),
            modifier: 0,
            name: ANYBODY.to_owned(),
            lifetime_max: Duration::MAX,
            consented: now,
            consent: None,
        };
        let membership = self.membership(roster, above, &anybody, terms, now);
        membership.check_bounds()?;
        above.map_or(Ok(()), |above| membership.check_within(above.membership()))
    }

    /// By what this issuer may enrol: its own proof, if it is a member.
    fn above<'a>(&self, roster: &'a Roster, now: UnixTime) -> Result<Option<&'a Proof>, OrgError> {
        match self {
            Self::Org(_) => Ok(None),
            Self::Member(identity) => roster.proof(&identity.key(), now).map(Some).ok_or(OrgError::Issuer),
        }
    }

    fn membership(
        &self,
        roster: &Roster,
        above: Option<&Proof>,
        applicant: &Applicant,
        terms: &Terms,
        now: UnixTime,
    ) -> Membership {
        let lifetime = Duration::from_secs(terms.lifetime).min(MEMBERSHIP_VALIDITY_MAX).min(applicant.lifetime_max);
        let issued = self.date_to_issue(roster, &applicant.key, now);
        let expires = issued + lifetime;
        Membership {
            org: roster.org(),
            issuer: self.key(),
            member: applicant.key,
            modifier: applicant.modifier,
            name: applicant.name.clone(),
            role: terms.role.clone(),
            groups: terms.groups.clone(),
            services: terms.services.clone(),
            generations: terms.generations,
            issued,
            expires: above.map_or(expires, |above| expires.min(above.membership().expires)),
            consented: applicant.consented,
            lifetime: lifetime.as_secs(),
            consent: applicant.consent.filter(|_| above.is_some()),
        }
    }

    /// Not before the last list, should the clock have been set back since. Whom this issuer has revoked a moment ago it takes back by a
    /// date after that, for dates are whole seconds.
    fn date_to_issue(&self, roster: &Roster, member: &IdentityKey, now: UnixTime) -> UnixTime {
        let revocations = roster.revocations();
        let revoked = revocations.revoked_until(&self.key(), member).map(|until| until + Duration::from_secs(1));
        let newest = revocations.newest_of(&self.key(), roster.charters(), now);
        [revoked, newest].into_iter().flatten().fold(now, UnixTime::max)
    }
}

impl Invites {
    /// Opens an invite. Where there is no room, it takes that of the oldest one that is used up, whose users may not ask for a lost answer any
    /// more.
    ///
    /// # Errors
    /// [`OrgError::Full`] if there are too many that can still be used.
    pub fn open(
        &mut self,
        (id, secret): ([u8; INVITE_ID_LEN], &[u8; INVITE_SECRET_LEN]),
        terms: Terms,
        uses: u32,
        expires: UnixTime,
        roster: &Roster,
        now: UnixTime,
    ) -> Result<(), OrgError> {
        self.open.retain(|invite| now < invite.expires);
        let expires = expires.min(now + INVITE_VALIDITY_MAX);
        if self.open.len() >= INVITES_MAX {
            let used_up = self.open.iter().position(|invite| invite.uses_left == 0);
            self.open.remove(used_up.ok_or(OrgError::Full(INVITES_MAX))?);
        }
        let (secret_hash, uses_left) = (crypto::sha256(&[secret]), uses.min(INVITE_USES_MAX));
        let revoked =
            |(by, member, until): (&IdentityKey, &IdentityKey, UnixTime)| Revoked { by: *by, member: *member, until };
        let forgiven = roster.revocations().revoked_since(now).map(revoked).collect();
        let (users, made, wrong_secrets) = (Vec::new(), now, 0);
        self.open.push(OpenInvite { id, secret_hash, terms, uses_left, expires, wrong_secrets, users, made, forgiven });
        Ok(())
    }

    /// Makes a member of who has an invite. Something may have changed here even if that fails.
    ///
    /// # Errors
    /// [`EnrolError`] tells the applicant why not.
    pub fn redeem(
        &mut self,
        (id, secret): (&[u8; INVITE_ID_LEN], &[u8; INVITE_SECRET_LEN]),
        issuer: &Issuer,
        roster: &Roster,
        applicant: &Applicant,
        now: UnixTime,
    ) -> Result<Vec<u8>, EnrolError> {
        if !is_name(&applicant.name) {
            return Err(EnrolError::Name(applicant.name.clone()));
        }
        let invite = self.open.iter_mut().find(|invite| invite.id == *id).ok_or(EnrolError::NoSuchInvite)?;
        if !bool::from(crypto::sha256(&[secret]).ct_eq(&invite.secret_hash)) {
            invite.wrong_secrets += 1;
            self.open.retain(|invite| invite.wrong_secrets < WRONG_SECRETS_MAX);
            return Err(EnrolError::NoSuchInvite);
        }
        if invite.expires <= now {
            return Err(EnrolError::Expired);
        }
        if roster
            .revocations_of(&applicant.key, &issuer.key(), now)
            .any(|(by, until)| !invite.knew(by, &applicant.key, until))
        {
            return Err(EnrolError::Revoked);
        }
        let has_used = invite.users.contains(&applicant.key);
        if !has_used && invite.uses_left == 0 {
            return Err(EnrolError::NoSuchInvite);
        }
        if roster.members(now).any(|proof| proof.key() != applicant.key && proof.membership().name == applicant.name) {
            return Err(EnrolError::NameTaken(applicant.name.clone()));
        }
        let proof = issuer.enrol(roster, applicant, &invite.terms, now)?;
        if !has_used {
            invite.uses_left -= 1;
            invite.users.push(applicant.key);
        }
        Ok(proof)
    }

    /// Opens an invite for one, and a code that leads to it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_code(
        &mut self,
        id: [u8; INVITE_ID_LEN],
        (word, seed): (Word, [u8; CODE_SEED_LEN]),
        terms: Terms,
        expires: UnixTime,
        roster: &Roster,
        now: UnixTime,
    ) -> Result<(), OrgError> {
        let code = OpenCode::new(word, seed, id);
        self.open((id, &code.invite_secret()), terms, 1, expires, roster, now)?;
        let Self { open, codes } = self;
        codes.retain(|code| open.iter().any(|invite| invite.id == *code.invite()));
        codes.push(code);
        Ok(())
    }

    /// The first half of a run of the key exchange (spec/org.md §6.3). It counts as a try whatever comes of it.
    ///
    /// # Errors
    /// [`EnrolError::Code`].
    pub fn answer_code(
        &mut self,
        (number, share): (u8, &Block),
        ends: &Ends,
        now: UnixTime,
    ) -> Result<Answer, EnrolError> {
        Ok(self.usable_code(number, ends, now)?.answer(ends, share)?)
    }

    /// The second half: the number and secret of the invite for who has shown that it has the code.
    ///
    /// # Errors
    /// [`EnrolError::Code`].
    pub fn finish_code(
        &mut self,
        (number, share, tag): (u8, &Block, &Block),
        ends: &Ends,
        now: UnixTime,
    ) -> Result<([u8; INVITE_ID_LEN], Zeroizing<[u8; INVITE_SECRET_LEN]>), EnrolError> {
        let code = self.usable_code(number, ends, now)?;
        code.finish(ends, share, tag)?;
        Ok((*code.invite(), code.invite_secret()))
    }

    /// The code of that number, if its invite can still be used by the joiner.
    fn usable_code(&mut self, number: u8, ends: &Ends, now: UnixTime) -> Result<&mut OpenCode, WrongCode> {
        let Self { open, codes } = self;
        let is_usable =
            |invite: &OpenInvite| now < invite.expires && (invite.uses_left > 0 || invite.users.contains(&ends.joiner));
        let leads_on = |code: &OpenCode| open.iter().any(|invite| invite.id == *code.invite() && is_usable(invite));
        codes.iter_mut().find(|code| code.number() == number && leads_on(code)).ok_or(WrongCode)
    }

    /// The codes that can still be used.
    pub fn codes(&self, now: UnixTime) -> impl Iterator<Item = &OpenCode> {
        let is_open = move |code: &&OpenCode| self.list(now).any(|(id, ..)| id == code.invite());
        self.codes.iter().filter(is_open)
    }

    /// Takes an invite back; tells whether it was open.
    pub fn close(&mut self, id: &[u8; INVITE_ID_LEN]) -> bool {
        let before = self.open.len();
        self.open.retain(|invite| invite.id != *id);
        self.open.len() < before
    }

    /// Invites that can still be used: number, terms, uses left, and when they end.
    pub fn list(&self, now: UnixTime) -> impl Iterator<Item = (&[u8; INVITE_ID_LEN], &Terms, u32, UnixTime)> {
        let open = self.open.iter().filter(move |invite| now < invite.expires && invite.uses_left > 0);
        open.map(|invite| (&invite.id, &invite.terms, invite.uses_left, invite.expires))
    }

    /// The numbers of those that `key` has used and somebody else, which may be it under another key, still can.
    pub fn used_by(&self, key: &IdentityKey, now: UnixTime) -> impl Iterator<Item = &[u8; INVITE_ID_LEN]> {
        let is_usable = move |invite: &&OpenInvite| now < invite.expires && invite.uses_left > 0;
        let used = self.open.iter().filter(is_usable).filter(|invite| invite.users.contains(key));
        used.map(|invite| &invite.id)
    }

    /// The bytes on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// If it did not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OrgError> {
        Ok(cbor::from_slice(bytes).map_err(RecordError::from)?)
    }
}

impl OpenInvite {
    /// Whether a revocation is older than the invite. Dates are whole seconds, and those of other clocks.
    fn knew(&self, by: &IdentityKey, member: &IdentityKey, until: UnixTime) -> bool {
        until.as_secs() < self.made.as_secs() || self.forgiven.contains(&Revoked { by: *by, member: *member, until })
    }
}

impl Enrolled {
    /// What is kept in mind of those before the one that `digest` names: none that has ended, and of more than there is room for the last.
    fn earlier_than(self, digest: MembershipDigest, now: UnixTime) -> Vec<Earlier> {
        let mut earlier = self.earlier;
        earlier.push(Earlier { digest: self.digest, expires: self.expires });
        earlier.retain(|known| now < known.expires && known.digest != digest);
        let excess = earlier.len().saturating_sub(EARLIER_MAX);
        earlier.drain(..excess);
        earlier
    }
}

impl Ledger {
    /// Notes a member that the organisation's key has enrolled. What a member has enrolled rests on that one's membership.
    pub fn enrolled(&mut self, proof: &Proof, now: UnixTime) {
        self.enrolled.retain(|_, enrolled| now < enrolled.expires + CLOCK_SKEW);
        if proof.links().len() == 1 && (self.enrolled.len() < MEMBERS_MAX || self.enrolled.contains_key(&proof.key())) {
            let (digest, expires) = (*proof.root(), proof.membership().expires);
            let earlier = match self.enrolled.remove(&proof.key()) {
                Some(before) if proof.membership().generations > 0 => before.earlier_than(digest, now),
                _ => Vec::new(),
            };
            let enrolled = Enrolled { proof: proof.bytes().to_vec().into(), digest, expires, earlier };
            self.enrolled.insert(proof.key(), enrolled);
        }
    }

    /// Notes a revocation by the organisation's key.
    pub fn revoked(&mut self, revocation: Revocation, now: UnixTime) {
        self.enrolled.remove(&revocation.member);
        self.revoked.retain(|known| !known.has_run_out(now) && known.member != revocation.member);
        // Where there are too many, that which would end first goes.
        self.revoked.sort_by_key(|known| std::cmp::Reverse(known.kept_until));
        self.revoked.truncate(REVOCATIONS_MAX - 1);
        self.revoked.push(revocation);
    }

    /// The proofs of all who were enrolled.
    pub fn proofs(&self) -> impl Iterator<Item = &[u8]> {
        self.enrolled.values().map(|enrolled| enrolled.proof.as_slice())
    }

    /// The first list of a key that takes the place of a stolen one: what was decided here with that one, and nothing that a thief has.
    pub fn first_list(&self, charters: &Charters, now: UnixTime) -> RevocationList {
        let mut revocations: Vec<_> = self.revoked.iter().map(|revoked| revoked.within(now)).collect();
        revocations.sort();
        // What has ended by the date of a list, that list ends.
        let alive = |earlier: &&Earlier| now < earlier.expires;
        let earlier = self.enrolled.values().flat_map(|enrolled| enrolled.earlier.iter().filter(alive));
        let last = self.enrolled.values().map(|enrolled| enrolled.digest);
        let mut endorsed: Vec<_> = last.chain(earlier.map(|earlier| earlier.digest)).take(ENDORSED_MAX).collect();
        endorsed.sort();
        RevocationList {
            org: charters.org(),
            issuer: charters.current().key,
            sequence: 0,
            issued: now,
            expires: now + LIST_VALIDITY_MAX,
            revocations,
            endorsed,
        }
    }
}
