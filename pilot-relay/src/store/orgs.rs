//! What the directory holds for organisations: their charters and revocation lists, so that a member hears of them although no other is
//! there (spec/org.md §3.9).
//!
//! It is judged as a member would: everything follows from charter 0, whose key is the organisation's id, so nobody has the place of
//! another's organisation, and no list displaces a later one. Who brings many leaves places for who brings few.

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

/// Organisations held: a few megabytes as they usually are.
pub const ORGS_MAX: usize = 2_048;
/// Bytes of records that each of them has room for, whatever others take: some 600 revocations.
const OWN_LEN: usize = 32 * 1_024;
/// Bytes that all of them may have beyond that, together. In memory they take a few times as much.
const SHARED_LEN_MAX: usize = 128 * 1_024 * 1_024;
/// Organisations that one agent has brought: as many as it can be in.
pub const ORGS_PER_KEY_MAX: usize = 16;

/// All organisations of a store.
#[derive(Debug, Default)]
pub(super) struct Orgs {
    held: BTreeMap<IdentityKey, Held>,
    /// How many each agent has brought.
    brought: BTreeMap<IdentityKey, usize>,
    /// What is taken of [`SHARED_LEN_MAX`].
    shared: usize,
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

    /// What it takes beyond its own room.
    fn shared(&self) -> usize {
        self.roster.rules_len().saturating_sub(OWN_LEN)
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

/// What becomes of what was brought.
#[derive(Debug)]
pub(super) struct Plan {
    /// The organisation as it is then.
    pub(super) held: Held,
    /// Another one, which makes room for it.
    pub(super) displaced: Option<IdentityKey>,
}

impl Orgs {
    /// What an organisation is like with what was brought for it; none if that is no news.
    pub(super) fn plan(&self, now: UnixTime, keep: &KeepRules) -> Result<Option<Plan>, RegisterError> {
        let (held, displaced) = match self.held.get(&keep.org) {
            Some(held) => (held.clone(), None),
            None => {
                let displaced = self.make_room(&keep.by)?;
                (begin(now, keep)?, displaced)
            }
        };
        let is_new = !self.held.contains_key(&keep.org);
        let (held, is_news) = held.with(now, keep).map_err(|_| RegisterError::NotBelieved)?;
        let (before, after) = (self.held.get(&keep.org).map_or(0, Held::shared), held.shared());
        if after > before && self.shared - before + after > SHARED_LEN_MAX {
            return Err(RegisterError::Full);
        }
        Ok((is_new || is_news).then_some(Plan { held, displaced }))
    }

    /// Puts an organisation in the place of what was held of it.
    pub(super) fn insert(&mut self, org: IdentityKey, held: Held) {
        self.remove(&org);
        *self.brought.entry(held.by).or_default() += 1;
        self.shared += held.shared();
        self.held.insert(org, held);
    }

    /// Forgets an organisation.
    pub(super) fn remove(&mut self, org: &IdentityKey) -> Option<Held> {
        let held = self.held.remove(org)?;
        self.shared -= held.shared();
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

    /// The organisation that makes room for one more of this key, where all places are taken: of who has brought most the one whose lists end
    /// first, if that key still has brought no less afterwards. So many places take many keys, and nobody takes the only one of another.
    fn make_room(&self, by: &IdentityKey) -> Result<Option<IdentityKey>, RegisterError> {
        let has_brought = self.brought.get(by).copied().unwrap_or_default();
        if has_brought >= ORGS_PER_KEY_MAX {
            return Err(RegisterError::Full);
        }
        if self.held.len() < ORGS_MAX {
            return Ok(None);
        }
        let most = self.brought.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > has_brought + 1);
        let (greatest, _) = most.ok_or(RegisterError::Full)?;
        let of_greatest = self.held.iter().filter(|(_, held)| held.by == *greatest);
        Ok(of_greatest.min_by_key(|(_, held)| held.until()).map(|(org, _)| *org))
    }
}

fn begin(now: UnixTime, keep: &KeepRules) -> Result<Held, RegisterError> {
    let charters = Charters::from_chain(keep.org, &keep.charters, now).map_err(|_| RegisterError::NotBelieved)?;
    Ok(Held { roster: Roster::new(charters), by: keep.by })
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

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use pilot_core::identity::Identity;
    use pilot_core::org::issuer::Issuer;
    use pilot_core::org::revocation::{REVOCATIONS_MAX, Revocation, RevocationList};

    use super::super::tests::NOW;
    use super::*;

    const KEPT_UNTIL: Duration = Duration::from_secs(90 * 86_400);

    /// What an organisation brings that has revoked so many.
    pub(in super::super) fn rules(seed: u8, sequence: u64, count: usize) -> KeepRules {
        let (key, founder) = (Identity::generate([seed; 32]), Identity::generate([seed + 1; 32]));
        let charters = Issuer::found(&key, founder.key(), "fleet", Duration::ZERO, NOW).unwrap();
        let revocation = |number: usize| {
            let mut member = [7; 32];
            member[..8].copy_from_slice(&number.to_be_bytes());
            Revocation { member: IdentityKey(member), until: NOW, kept_until: NOW + KEPT_UNTIL, has_left: false }
        };
        let list = RevocationList {
            org: key.key(),
            issuer: key.key(),
            sequence,
            issued: NOW + Duration::from_secs(sequence),
            expires: NOW + KEPT_UNTIL,
            revocations: (0..count).map(revocation).collect(),
            endorsed: vec![],
        };
        let charters = charters.chain().map(|charter| charter.to_vec().into()).collect();
        KeepRules { org: key.key(), by: founder.key(), charters, list: list.sign(&key).unwrap().into(), proof: None }
    }

    #[test]
    fn where_the_common_room_is_taken_every_organisation_still_has_its_own() {
        let mut orgs = Orgs::default();
        let later = NOW + Duration::from_secs(60);
        let [small, great] = [rules(1, 1, 500), rules(1, 2, REVOCATIONS_MAX)];
        let bring = |orgs: &mut Orgs, keep: &KeepRules| {
            let plan = orgs.plan(later, keep)?;
            plan.map(|plan| orgs.insert(keep.org, plan.held)).ok_or(RegisterError::NotBelieved)
        };
        orgs.shared = SHARED_LEN_MAX;
        assert_eq!(bring(&mut orgs, &small), Ok(()));
        assert_eq!(bring(&mut orgs, &great), Err(RegisterError::Full));
        orgs.shared = 0;
        assert_eq!(bring(&mut orgs, &great), Ok(()));
        assert!(orgs.shared > 0);
        orgs.remove(&great.org);
        assert_eq!(orgs.shared, 0, "what goes gives its room back");
    }
}
