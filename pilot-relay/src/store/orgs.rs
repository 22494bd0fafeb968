//! What the directory holds for organisations: their charters and revocation lists, so that a member hears of them although no other is
//! there (spec/org.md §3.9).
//!
//! It is judged as a member would: everything follows from charter 0, whose key is the organisation's id, so nobody has the place of
//! another's organisation, and no list displaces a later one.

use std::collections::BTreeMap;

use minicbor::bytes::ByteVec;
use pilot_core::id::IdentityKey;
use pilot_core::identity::CLOCK_SKEW;
use pilot_core::org::OrgError;
use pilot_core::org::charter::Charters;
use pilot_core::org::roster::{Records, Roster};
use pilot_core::time::UnixTime;

use super::stored::StoredOrg;
use super::{KeepRules, RegisterError};

/// Organisations held: a few megabytes as they usually are, 12 GB if each is at the bounds of [`Roster`].
pub const ORGS_MAX: usize = 2_048;
/// Organisations that one agent has brought: as many as it can be in.
pub const ORGS_PER_KEY_MAX: usize = 16;

/// All organisations of a store.
#[derive(Debug, Default)]
pub(super) struct Orgs {
    held: BTreeMap<IdentityKey, Held>,
    /// How many each agent has brought.
    brought: BTreeMap<IdentityKey, usize>,
}

/// One organisation, of which the roster has no members but those who have issued a list.
#[derive(Clone, Debug)]
pub(super) struct Held {
    roster: Roster,
    by: IdentityKey,
}

impl Held {
    /// When the last of its lists ends, and with it what there is to hold.
    pub(super) fn until(&self) -> UnixTime {
        self.roster.revocations().expires().map_or(UnixTime::default(), |expires| expires + CLOCK_SKEW)
    }

    /// As it is on disk.
    pub(super) fn to_stored(&self) -> StoredOrg {
        let Records { charters, lists, proofs, .. } = self.roster.rules_except(&[]);
        StoredOrg { org: self.roster.org(), by: self.by, charters, lists, proofs }
    }

    /// What [`Self::to_stored`] gave, unless no list of it is in date any more.
    pub(super) fn restore(stored: StoredOrg, now: UnixTime) -> Option<(IdentityKey, Self)> {
        let StoredOrg { org, by, charters, lists, proofs } = stored;
        let records = Records { charters, lists, proofs, whereabouts: Vec::new() };
        let held = Self { roster: Roster::from_records(org, &records, now).ok()?, by };
        (held.until() > now).then_some((org, held))
    }
}

impl Orgs {
    /// What an organisation is like with what was brought for it; none if that is no news.
    pub(super) fn plan(&self, now: UnixTime, keep: &KeepRules) -> Result<Option<Held>, RegisterError> {
        let held = match self.held.get(&keep.org) {
            Some(held) => held.clone(),
            None => self.begin(now, keep)?,
        };
        let is_new = !self.held.contains_key(&keep.org);
        let (held, is_news) = held.with(now, keep).map_err(|_| RegisterError::NotBelieved)?;
        Ok(Some(held).filter(|_| is_new || is_news))
    }

    /// Puts an organisation in the place of what was held of it.
    pub(super) fn insert(&mut self, org: IdentityKey, held: Held) {
        self.remove(&org);
        *self.brought.entry(held.by).or_default() += 1;
        self.held.insert(org, held);
    }

    /// Forgets an organisation.
    pub(super) fn remove(&mut self, org: &IdentityKey) -> Option<Held> {
        let held = self.held.remove(org)?;
        if let Some(count) = self.brought.get_mut(&held.by) {
            *count -= 1;
            if *count == 0 {
                self.brought.remove(&held.by);
            }
        }
        Some(held)
    }

    /// The charters and lists of an organisation.
    pub(super) fn rules(&self, org: &IdentityKey) -> Option<Roster> {
        self.held.get(org).map(|held| held.roster.clone())
    }

    fn begin(&self, now: UnixTime, keep: &KeepRules) -> Result<Held, RegisterError> {
        let has_brought = self.brought.get(&keep.by).copied().unwrap_or_default();
        if self.held.len() >= ORGS_MAX || has_brought >= ORGS_PER_KEY_MAX {
            return Err(RegisterError::Full);
        }
        let charters = Charters::from_chain(keep.org, &keep.charters, now).map_err(|_| RegisterError::NotBelieved)?;
        Ok(Held { roster: Roster::new(charters), by: keep.by })
    }
}

impl Held {
    /// The same with more, and whether that was news.
    fn with(mut self, now: UnixTime, keep: &KeepRules) -> Result<(Self, bool), OrgError> {
        let mut is_news = false;
        for charter in &keep.charters {
            // One that does not follow may be a thief's that is outranked here; the list is judged by what there is.
            is_news |= self.roster.add_charter(charter, now).unwrap_or(false);
        }
        let along: Vec<ByteVec> = keep.proof.iter().cloned().collect();
        is_news |= self.roster.add_list_with(&keep.list, &along, now)?;
        Ok((self, is_news))
    }
}
