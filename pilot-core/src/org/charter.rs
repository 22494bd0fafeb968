//! Charters: which key speaks for an organisation (spec/org.md §1).

use std::time::Duration;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::OrgError;
use crate::id::IdentityKey;
use crate::identity::Identity;
use crate::record::{self, Payload, RecordError, is_name};
use crate::time::UnixTime;

/// Charters of one organisation: its key, replaced once a year, lasts that long.
pub const CHARTERS_MAX: usize = 16;
/// The greatest charter; the fields take about 320 bytes.
const CHARTER_LEN_MAX: usize = 512;

/// What every member knows of its organisation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Charter {
    /// The organisation: the key of its first charter.
    #[n(0)]
    pub org: IdentityKey,
    /// Counts charters, from 0.
    #[n(1)]
    pub sequence: u64,
    /// What people call it.
    #[n(2)]
    pub name: String,
    /// Signs memberships, revocation lists and the next charter.
    #[n(3)]
    pub key: IdentityKey,
    /// May sign the next charter: for the day on which `key` is lost.
    #[n(4)]
    pub successor: IdentityKey,
    /// The key that signs this charter.
    #[n(5)]
    pub signer: IdentityKey,
    /// Seconds after which a revocation list is too old to trust anybody by; 0: never.
    #[n(6)]
    pub list_age_max: u64,
    /// Memberships that the key before has signed count until then.
    #[n(7)]
    pub previous_until: UnixTime,
    /// When it was signed.
    #[n(8)]
    pub issued: UnixTime,
}

impl Charter {
    /// Encodes and signs the charter.
    ///
    /// # Errors
    /// [`RecordError`] if `identity` is not its signer, or a field is out of bounds.
    pub fn sign(&self, identity: &Identity) -> Result<Vec<u8>, RecordError> {
        record::sign(self, identity)
    }

    fn follows(&self, before: &Self) -> bool {
        let may_sign = self.signer == before.key || self.signer == before.successor;
        may_sign && self.sequence == before.sequence + 1 && (self.org, &self.name) == (before.org, &before.name)
    }

    /// Whether the keys before it count no more from the very beginning: one of them was stolen (§5).
    fn cuts_off(&self) -> bool {
        self.sequence > 0 && self.previous_until <= self.issued
    }

    fn is_first(&self) -> bool {
        self.sequence == 0 && self.org == self.key && self.org == self.signer
    }
}

impl Payload for Charter {
    const CONTEXT: &'static str = "charter";
    const LEN_MAX: usize = CHARTER_LEN_MAX;

    fn signer(&self) -> IdentityKey {
        self.signer
    }

    fn check_bounds(&self) -> Result<(), RecordError> {
        record::within("name", is_name(&self.name))?;
        record::within("successor", self.successor != self.key)
    }

    fn check_claims(&self, now: UnixTime) -> Result<(), RecordError> {
        record::check_issued(self.issued, now)
    }
}

/// The charters of one organisation, each signed by a key that the one before names.
#[derive(Clone, Debug)]
pub struct Charters {
    chain: Vec<(Charter, Vec<u8>)>,
    /// Another one of the sequence of one of these, with as much right to its place, of which others may have heard first.
    rival: Option<(Charter, Vec<u8>)>,
}

impl Charters {
    /// Begins with charter 0 of the organisation `org`.
    ///
    /// # Errors
    /// [`OrgError`] if this is no such charter.
    pub fn new(org: IdentityKey, bytes: &[u8], now: UnixTime) -> Result<Self, OrgError> {
        let first: Charter = record::verify(bytes, now)?;
        if first.org != org {
            return Err(OrgError::ForeignOrg);
        }
        if !first.is_first() {
            return Err(OrgError::Succession);
        }
        Ok(Self { chain: vec![(first, bytes.to_vec())], rival: None })
    }

    /// Begins with all charters of the organisation `org`, the first one first.
    ///
    /// # Errors
    /// [`OrgError`] if they are not a chain.
    pub fn from_chain(org: IdentityKey, chain: &[ByteVec], now: UnixTime) -> Result<Self, OrgError> {
        let (first, rest) = chain.split_first().ok_or(OrgError::Succession)?;
        let mut charters = Self::new(org, first, now)?;
        for bytes in rest {
            charters.add(bytes, now)?;
        }
        Ok(charters)
    }

    /// Takes one more charter; tells whether it was news.
    ///
    /// # Errors
    /// [`OrgError`] if it does not follow from those known.
    pub fn add(&mut self, bytes: &[u8], now: UnixTime) -> Result<bool, OrgError> {
        if self.chain.iter().chain(&self.rival).any(|(_, known)| known == bytes) {
            return Ok(false);
        }
        let charter: Charter = record::verify(bytes, now)?;
        if charter.org != self.org() {
            return Err(OrgError::ForeignOrg);
        }
        let position = usize::try_from(charter.sequence).unwrap_or(usize::MAX);
        let before = position.checked_sub(1).and_then(|before| self.chain.get(before)).ok_or(OrgError::Succession)?;
        if !charter.follows(&before.0) {
            return Err(OrgError::Succession);
        }
        if position >= CHARTERS_MAX {
            return Err(OrgError::Full(CHARTERS_MAX));
        }
        // Whoever stole the key signs with it, but not with the successor: that one decides.
        let is_by_successor = |charter: &Charter| charter.signer == before.0.successor;
        let is_decision = is_by_successor(&charter);
        match self.chain.get(position).map(|(known, _)| is_by_successor(known)) {
            Some(known) if known == is_decision => {
                let is_first = self.rival.is_none();
                self.rival.get_or_insert((charter, bytes.to_vec()));
                Ok(is_first)
            }
            Some(true) => Ok(false),
            Some(false) | None => {
                self.rival.take_if(|(rival, _)| rival.sequence >= charter.sequence);
                self.chain.truncate(position);
                self.chain.push((charter, bytes.to_vec()));
                Ok(true)
            }
        }
    }

    /// The organisation.
    pub fn org(&self) -> IdentityKey {
        self.chain[0].0.org
    }

    /// The charter in force.
    pub fn current(&self) -> &Charter {
        &self.chain[self.chain.len() - 1].0
    }

    /// Its keys, each of which signed for it at a time.
    pub fn keys(&self) -> impl Iterator<Item = &IdentityKey> {
        self.chain.iter().map(|(charter, _)| &charter.key)
    }

    /// Whether `key` is one of them.
    pub fn has_key(&self, key: &IdentityKey) -> bool {
        self.keys().any(|known| known == key)
    }

    /// The first charter that names `successor`: what that key signs follows this one, and outranks what a thief has signed since, be it a
    /// charter that names the same successor.
    pub fn succeeded_by(&self, successor: &IdentityKey) -> Option<&Charter> {
        self.chain.iter().map(|(charter, _)| charter).find(|charter| charter.successor == *successor)
    }

    /// Whether one of the charters is by that key.
    pub fn has_signed(&self, key: &IdentityKey) -> bool {
        self.chain.iter().any(|(charter, _)| charter.signer == *key)
    }

    /// When the last key was cut off of which memberships may have been endorsed, if one was.
    pub fn cut_off_at(&self) -> Option<UnixTime> {
        self.chain.iter().rev().map(|(charter, _)| charter).find(|charter| charter.cuts_off()).map(|cut| cut.issued)
    }

    /// From when on members by `key`, which another has replaced, are to renew: half of the time is over then for which its word counts. One
    /// that was cut off counts no more, and whom it has enrolled is a member by another's word.
    pub fn renew_from(&self, key: &IdentityKey) -> Option<UnixTime> {
        let half_time = |later: &Charter| {
            let overlap = later.previous_until.as_secs().saturating_sub(later.issued.as_secs());
            later.issued + Duration::from_secs(overlap / 2)
        };
        let position = self.chain.iter().rposition(|(charter, _)| charter.key == *key)?;
        let later = self.chain[position + 1..].iter().map(|(later, _)| later);
        later.filter(|later| !later.cuts_off()).map(half_time).min()
    }

    /// The keys that count no more where another charter takes the place of the one after `before`.
    pub fn keys_after(&self, before: &Charter) -> impl Iterator<Item = &IdentityKey> {
        self.chain.iter().filter(|(charter, _)| charter.sequence > before.sequence).map(|(charter, _)| &charter.key)
    }

    /// Whether memberships and lists that `key` has signed count.
    pub fn may_issue(&self, key: &IdentityKey, now: UnixTime) -> bool {
        let Some(position) = self.chain.iter().rposition(|(charter, _)| charter.key == *key) else { return false };
        self.chain[position + 1..].iter().all(|(later, _)| now < later.previous_until)
    }

    /// The signed charters, the first one first, and at the end the [rival](Self::rival) of one of them, if there is room for it.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().chain(&self.rival).map(|(_, bytes)| bytes.as_slice()).take(CHARTERS_MAX)
    }

    /// A charter that was signed beside one of these: some members may follow that one, and nobody has decided yet.
    pub fn rival(&self) -> Option<&Charter> {
        self.rival.as_ref().map(|(charter, _)| charter)
    }
}
