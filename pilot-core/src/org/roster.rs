//! What one member knows of its organisation, and whom it trusts for that (spec/org.md §2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::OrgError;
use super::charter::{Charter, Charters};
use super::membership::{MEMBERSHIP_VALIDITY_MAX, Membership, Proof};
use super::revocation::{LIST_DIGEST_LEN, Revocation, RevocationList, Revocations, list_digest};
use super::whereabouts::Whereabouts;
use crate::id::IdentityKey;
use crate::record::RecordError;
use crate::time::UnixTime;
use crate::wire::cbor;

/// Members that are kept, about a kilobyte each. Beyond, those whose time is over make room, and nobody else does.
pub const MEMBERS_MAX: usize = 4_096;

/// One organisation as one of its members knows it. A copy shares what was verified, so that it costs little.
#[derive(Clone, Debug)]
pub struct Roster {
    charters: Charters,
    revocations: Revocations,
    members: BTreeMap<IdentityKey, Known>,
    /// The newest proof of each member of which there is a list: by that the list counts, also when the member itself does no more.
    listers: BTreeMap<IdentityKey, Arc<Proof>>,
    /// Counts what came to be known, for those who ask what is new.
    arrivals: u64,
}

/// A member that is known.
#[derive(Clone, Debug)]
struct Known {
    proof: Arc<Proof>,
    whereabouts: Option<Arc<(Whereabouts, Vec<u8>)>>,
    arrival: u64,
}

/// A roster on disk, and the part of it that one member tells another: every record as it was signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Records {
    /// Charters, the first one first.
    #[n(0)]
    pub charters: Vec<ByteVec>,
    /// Revocation lists.
    #[n(1)]
    pub lists: Vec<ByteVec>,
    /// Proofs of members.
    #[n(2)]
    pub proofs: Vec<ByteVec>,
    /// Whereabouts of members.
    #[n(3)]
    pub whereabouts: Vec<ByteVec>,
}

impl Roster {
    /// What a new member begins with: the charters.
    pub fn new(charters: Charters) -> Self {
        let (members, listers) = (BTreeMap::new(), BTreeMap::new());
        Self { charters, revocations: Revocations::default(), members, listers, arrivals: 0 }
    }

    /// The roster that [`Self::records`] described. Records that have run out meanwhile are left out.
    ///
    /// # Errors
    /// [`OrgError`] if the charters are none of `org`.
    pub fn from_records(org: IdentityKey, records: &Records, now: UnixTime) -> Result<Self, OrgError> {
        let mut roster = Self::new(Charters::from_chain(org, &records.charters, now)?);
        roster.learn(records, now);
        Ok(roster)
    }

    /// Everything, for the disk.
    pub fn records(&self) -> Records {
        let mut records = self.rules_except(&[]);
        let (members, _) = self.members_since(0, usize::MAX);
        records.proofs.extend(members.proofs);
        Records { whereabouts: members.whereabouts, ..records }
    }

    /// Proofs and whereabouts that came after arrival `after`, of `count_max` members at most, and the arrival of the last one.
    pub fn members_since(&self, after: u64, count_max: usize) -> (Records, u64) {
        let mut newer: Vec<_> = self.members.values().filter(|known| known.arrival > after).collect();
        newer.sort_by_key(|known| known.arrival);
        newer.truncate(count_max);
        let mut records = Records::default();
        for known in &newer {
            records.proofs.push(known.proof.bytes().to_vec().into());
            records.whereabouts.extend(known.whereabouts.iter().map(|whereabouts| whereabouts.1.clone().into()));
        }
        (records, newer.last().map_or(after, |known| known.arrival))
    }

    /// What names the charters and lists that are known.
    pub fn rule_digests(&self) -> impl Iterator<Item = [u8; LIST_DIGEST_LEN]> {
        self.charters.chain().chain(self.revocations.lists()).map(list_digest)
    }

    /// Bytes of the charters, the lists, and the proofs by which lists of members count.
    pub fn rules_len(&self) -> usize {
        let proofs = self.listers.values().map(|proof| proof.bytes());
        self.charters.chain().chain(self.revocations.lists()).chain(proofs).map(<[u8]>::len).sum()
    }

    /// Charters and lists that are not among those named, and the proofs by which lists of members count. Charters are not counted: of two
    /// of one sequence the other may be known.
    pub fn rules_except(&self, known: &[[u8; LIST_DIGEST_LEN]]) -> Records {
        let unknown = |bytes: &&[u8]| !known.contains(&list_digest(bytes));
        let lists: Vec<_> = self.revocations.signed().filter(|(_, bytes)| unknown(bytes)).collect();
        let is_needed = |lister: &&IdentityKey| lists.iter().any(|(issuer, _)| issuer == *lister);
        let listers = self.listers.iter().filter(|(key, _)| is_needed(key));
        Records {
            charters: self.charters.chain().filter(unknown).map(to_record).collect(),
            lists: lists.iter().map(|(_, bytes)| to_record(bytes)).collect(),
            proofs: listers.map(|(_, proof)| to_record(proof.bytes())).collect(),
            whereabouts: Vec::new(),
        }
    }

    /// Charters and lists that are not among those named, the newest list first, in parts: each has all these charters, and of lists and
    /// the proofs by which these count `len_max` bytes, or a single list.
    pub fn rules_in_parts(&self, known: &[[u8; LIST_DIGEST_LEN]], len_max: usize) -> Vec<Records> {
        let unknown = |bytes: &[u8]| !known.contains(&list_digest(bytes));
        let charters = self.charters.chain().filter(|charter| unknown(charter)).map(to_record).collect();
        let mut part = Records { charters, ..Records::default() };
        let without_lists = part.clone();
        let (mut parts, mut room) = (Vec::new(), len_max);
        for (issuer, list) in self.revocations.signed().rev().filter(|(_, list)| unknown(list)) {
            let proof = self.listers.get(&issuer).map(|proof| proof.bytes());
            let len = list.len() + proof.map_or(0, <[u8]>::len);
            if room < len && !part.lists.is_empty() {
                parts.push(std::mem::replace(&mut part, without_lists.clone()));
                room = len_max;
            }
            room = room.saturating_sub(len);
            part.lists.push(to_record(list));
            part.proofs.extend(proof.map(to_record));
        }
        parts.push(part);
        parts
    }

    /// Takes what another member has told. What is wrong or old among it is left out: a member that lies changes nothing, and one that
    /// is behind holds nobody up. Tells whether anything was new, and whether lists or charters were.
    pub fn learn(&mut self, records: &Records, now: UnixTime) -> Learned {
        let mut learned = Learned::default();
        let count = |result: Result<bool, OrgError>, counter: &mut usize| match result {
            Ok(true) => *counter += 1,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "a record of an organisation is left out"),
        };
        for bytes in &records.charters {
            count(self.add_charter(bytes, now), &mut learned.rules);
        }
        // The organisation's lists say which proofs count, and by their proofs the lists of members do.
        let is_of_org =
            |bytes: &&ByteVec| RevocationList::claimed_issuer(bytes).is_some_and(|key| self.charters.has_key(&key));
        let (of_org, of_members): (Vec<_>, Vec<_>) = records.lists.iter().partition(is_of_org);
        for bytes in of_org {
            count(self.add_list(bytes, now), &mut learned.rules);
        }
        for bytes in &records.proofs {
            count(self.add_proof(bytes, now), &mut learned.members);
        }
        for bytes in of_members {
            count(self.add_list_with(bytes, &records.proofs, now), &mut learned.rules);
        }
        for bytes in &records.whereabouts {
            count(self.add_whereabouts(bytes, now), &mut learned.whereabouts);
        }
        learned
    }

    /// Takes a charter; tells whether it was news.
    ///
    /// # Errors
    /// [`OrgError`] if it does not follow from those known.
    pub fn add_charter(&mut self, bytes: &[u8], now: UnixTime) -> Result<bool, OrgError> {
        self.charters.add(bytes, now)
    }

    /// Takes the proof of a member; tells whether it was news. One that is known already costs no verification.
    ///
    /// # Errors
    /// [`OrgError`] if it proves nothing.
    pub fn add_proof(&mut self, bytes: &[u8], now: UnixTime) -> Result<bool, OrgError> {
        let known = Proof::claimed_key(bytes).and_then(|key| self.members.get(&key));
        if known.is_some_and(|known| known.proof.bytes() == bytes) {
            return Ok(false);
        }
        let proof = Arc::new(Proof::verify(bytes, &self.charters, now)?);
        self.check(&proof, now)?;
        let key = proof.key();
        let stays = |known: &Known| known.proof.rank() >= proof.rank() && self.is_in_force(&known.proof, now);
        if self.members.get(&key).is_some_and(stays) {
            return Ok(false);
        }
        if !self.members.contains_key(&key) {
            self.make_room(now)?;
        }
        self.arrivals += 1;
        if let Some(lister) = self.listers.get_mut(&key) {
            *lister = Arc::clone(&proof);
        }
        let whereabouts = self.members.remove(&key).and_then(|known| known.whereabouts);
        self.members.insert(key, Known { proof, whereabouts, arrival: self.arrivals });
        Ok(true)
    }

    /// Whether a verified proof counts by what is known of keys and revocations.
    ///
    /// # Errors
    /// [`OrgError`] tells why not.
    pub fn check(&self, proof: &Proof, now: UnixTime) -> Result<(), OrgError> {
        if !self.is_rooted(proof, now) {
            return Err(OrgError::Issuer);
        }
        if self.revocations.void(proof, &self.charters, now) { Err(OrgError::Revoked) } else { Ok(()) }
    }

    /// Takes a revocation list; tells whether it was news.
    ///
    /// # Errors
    /// [`OrgError`] if nobody in this organisation has to listen to it.
    pub fn add_list(&mut self, bytes: &[u8], now: UnixTime) -> Result<bool, OrgError> {
        self.add_list_with(bytes, &[], now)
    }

    /// The same with proofs that came along: that of the list's issuer may be among them.
    ///
    /// # Errors
    /// [`OrgError`] if nobody in this organisation has to listen to it.
    pub fn add_list_with(&mut self, bytes: &[u8], along: &[ByteVec], now: UnixTime) -> Result<bool, OrgError> {
        if self.revocations.contains(bytes) {
            return Ok(false);
        }
        let list = RevocationList::verify(bytes, now)?;
        if list.org != self.org() {
            return Err(OrgError::ForeignOrg);
        }
        let issuer = list.issuer;
        let lister = if self.charters.may_issue(&issuer, now) {
            None
        } else {
            let lister = self.lister(&issuer, along, now).filter(|_| list.endorsed.is_empty());
            Some(lister.ok_or(OrgError::Issuer)?)
        };
        let in_force = |key: &IdentityKey| {
            let proof = if *key == issuer { lister.as_ref() } else { self.listers.get(key) };
            proof.is_some_and(|proof| self.is_in_force(proof, now))
        };
        let mut revocations = self.revocations.clone();
        let is_news = revocations.add(list, bytes, &self.charters, in_force, now)?;
        self.revocations = revocations;
        self.listers.extend(lister.map(|proof| (issuer, proof)));
        let issuers: BTreeSet<_> = self.revocations.issuers().collect();
        self.listers.retain(|key, _| issuers.contains(key));
        Ok(is_news)
    }

    /// The proof by which a list of a member counts. That the member was revoked does not matter: it still means those whom it has enrolled.
    fn lister(&self, issuer: &IdentityKey, along: &[ByteVec], now: UnixTime) -> Option<Arc<Proof>> {
        let enrols = |proof: &Arc<Proof>| proof.membership().generations > 0 && self.is_rooted(proof, now);
        let known = self.members.get(issuer).map(|known| &known.proof).or_else(|| self.listers.get(issuer));
        let is_news = |bytes: &&ByteVec| {
            known.is_none_or(|known| known.bytes() != bytes.as_slice()) && Proof::claimed_key(bytes) == Some(*issuer)
        };
        let told = along.iter().find(is_news).and_then(|bytes| Proof::verify(bytes, &self.charters, now).ok());
        let proofs = known.cloned().into_iter().chain(told.map(Arc::new)).filter(enrols);
        proofs.max_by_key(|proof| proof.rank())
    }

    /// Takes the whereabouts of a member; tells whether they were news.
    ///
    /// # Errors
    /// [`OrgError`] if they are nobody's, or not signed by whom they name.
    pub fn add_whereabouts(&mut self, bytes: &[u8], now: UnixTime) -> Result<bool, OrgError> {
        let whereabouts = Whereabouts::verify(bytes, now)?;
        let Some(known) = self.members.get_mut(&whereabouts.member) else { return Err(OrgError::Issuer) };
        if known.whereabouts.as_ref().is_some_and(|known| known.0.issued >= whereabouts.issued) {
            return Ok(false);
        }
        self.arrivals += 1;
        known.arrival = self.arrivals;
        known.whereabouts = Some(Arc::new((whereabouts, bytes.to_vec())));
        Ok(true)
    }

    /// Forgets a member that has left.
    pub fn remove(&mut self, key: &IdentityKey) -> bool {
        self.members.remove(key).is_some()
    }

    /// The membership of `key`, if it is in force now.
    pub fn member(&self, key: &IdentityKey, now: UnixTime) -> Option<&Membership> {
        self.proof(key, now).map(Proof::membership)
    }

    /// The proof of `key`, if it is in force now.
    pub fn proof(&self, key: &IdentityKey, now: UnixTime) -> Option<&Proof> {
        self.members.get(key).filter(|known| self.is_in_force(&known.proof, now)).map(|known| &*known.proof)
    }

    /// The member of that name. None, if there is none or two have equal right to it (§1.6).
    pub fn named(&self, name: &str, now: UnixTime) -> Option<&Proof> {
        let nearest = self.nearest_named(name, now);
        let issuer = |proof: &Proof| {
            // All keys of the organisation are one issuer.
            (proof.links().len() > 1).then_some(proof.membership().issuer)
        };
        let is_by_one = nearest.iter().all(|proof| issuer(proof) == issuer(nearest[0]));
        let first = nearest.into_iter().min_by_key(|proof| (proof.membership().issued, proof.key()));
        first.filter(|_| is_by_one)
    }

    /// Those of that name with the shortest proofs: more than one only if their issuers did not know of each other, or did not care.
    pub fn nearest_named(&self, name: &str, now: UnixTime) -> Vec<&Proof> {
        let mut named: Vec<_> = self.members(now).filter(|proof| proof.membership().name == name).collect();
        let shortest = named.iter().map(|proof| proof.links().len()).min();
        named.retain(|proof| Some(proof.links().len()) == shortest);
        named
    }

    /// Where a member said last that it is.
    pub fn whereabouts(&self, key: &IdentityKey) -> Option<&Whereabouts> {
        self.members.get(key)?.whereabouts.as_ref().map(|whereabouts| &whereabouts.0)
    }

    /// All members of the moment.
    pub fn members(&self, now: UnixTime) -> impl Iterator<Item = &Proof> {
        self.members.values().filter(move |known| self.is_in_force(&known.proof, now)).map(|known| &*known.proof)
    }

    /// The members that were known and are in force no more; they are forgotten.
    pub fn take_former(&mut self, now: UnixTime) -> Vec<IdentityKey> {
        let former = self.members.iter().filter(|(_, known)| !self.is_in_force(&known.proof, now)).map(|(key, _)| *key);
        let former: Vec<_> = former.collect();
        former.iter().for_each(|key| drop(self.members.remove(key)));
        former
    }

    /// Ends a membership, and those that issuers below who signs this have made, or still make because they have not heard of it: where there
    /// are any, for as long as one can be an issuer without hearing of it.
    pub fn revocation(&self, membership: &Membership, now: UnixTime) -> Revocation {
        let may_enrol = |proof: &Proof| proof.membership().generations > 0 && proof.key() != membership.member;
        let is_any_issuer = self.members(now).any(may_enrol);
        let kept_until = if is_any_issuer { now + MEMBERSHIP_VALIDITY_MAX } else { membership.expires };
        // Its issuer's clock may have been ahead of ours.
        let until = now.max(membership.issued);
        Revocation { member: membership.member, until, kept_until, has_left: false }
    }

    /// Whether a membership that `issuer` has issued is over by its date, and nobody has said so: the next list does.
    pub fn is_end_unsaid(&self, issuer: &IdentityKey, now: UnixTime) -> bool {
        let is_of_org = |key: &IdentityKey| self.charters.has_key(key) && self.charters.has_key(issuer);
        let is_own = |membership: &Membership| membership.issuer == *issuer || is_of_org(&membership.issuer);
        self.members(now).map(Proof::membership).any(|own| is_own(own) && own.expires.as_secs() <= now.as_secs())
    }

    /// Whether the revocation lists are younger than the organisation wants them to be.
    pub fn lists_are_fresh(&self, now: UnixTime) -> bool {
        let age_max = self.charter().list_age_max;
        let is_fresh = |newest: UnixTime| newest.as_secs().saturating_add(age_max) >= now.as_secs();
        age_max == 0 || self.revocations.newest(&self.charters).is_some_and(is_fresh)
    }

    /// When the organisation, `issuer`, or somebody by whom that one is a member, has revoked `key` last.
    pub(super) fn revocations_of(
        &self,
        key: &IdentityKey,
        issuer: &IdentityKey,
        now: UnixTime,
    ) -> impl Iterator<Item = (&IdentityKey, UnixTime)> {
        let of_org = self.charters.keys().filter(move |key| self.charters.may_issue(key, now));
        let above = self.proof(issuer, now).into_iter().flat_map(Proof::links).map(|link| &link.member);
        of_org.chain(above).filter_map(|by| Some((by, self.revocations.revoked_until(by, key)?)))
    }

    /// The members that are none any more when `key` is not: those whom it has enrolled, and whom they have.
    pub fn members_by(&self, key: &IdentityKey, now: UnixTime) -> impl Iterator<Item = &Proof> {
        self.members(now).filter(move |proof| proof.links().iter().skip(1).any(|link| link.issuer == *key))
    }

    /// The organisation.
    pub fn org(&self) -> IdentityKey {
        self.charters.org()
    }

    /// The charter in force.
    pub fn charter(&self) -> &Charter {
        self.charters.current()
    }

    /// All charters.
    pub fn charters(&self) -> &Charters {
        &self.charters
    }

    /// All revocations.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// The arrival of what came last.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    fn is_in_force(&self, proof: &Proof, now: UnixTime) -> bool {
        !proof.has_run_out(now) && self.check(proof, now).is_ok()
    }

    /// Whether the key that has signed the first membership counts, or another key of the organisation says that this one does (§5).
    fn is_rooted(&self, proof: &Proof, now: UnixTime) -> bool {
        self.charters.may_issue(proof.root_issuer(), now)
            || self.charters.has_key(proof.root_issuer())
                && self.revocations.endorses(proof.root(), &self.charters, now)
    }

    fn make_room(&mut self, now: UnixTime) -> Result<(), OrgError> {
        if self.members.len() >= MEMBERS_MAX {
            self.take_former(now);
        }
        if self.members.len() >= MEMBERS_MAX { Err(OrgError::Full(MEMBERS_MAX)) } else { Ok(()) }
    }
}

/// How much of what was told was new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Charters and revocation lists.
    pub rules: usize,
    /// Proofs.
    pub members: usize,
    /// Whereabouts.
    pub whereabouts: usize,
}

impl Learned {
    /// Whether there was anything.
    pub fn is_any(&self) -> bool {
        self.rules + self.members + self.whereabouts > 0
    }

    /// Whether there was anything that must not be forgotten. Whereabouts are heard again.
    pub fn is_to_be_kept(&self) -> bool {
        self.rules + self.members > 0
    }
}

fn to_record(bytes: &[u8]) -> ByteVec {
    bytes.to_vec().into()
}

impl Records {
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
