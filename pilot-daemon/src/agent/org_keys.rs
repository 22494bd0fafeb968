//! The keys of an organisation: replaced when they are due, lost or stolen (spec/org.md §1.2, §5).

use std::sync::Arc;
use std::time::Duration;

use pilot_core::identity::{CLOCK_SKEW, Identity};
use pilot_core::org::charter::{CHARTERS_MAX, Charter};
use pilot_core::org::issuer::{Applicant, Issuer};
use pilot_core::org::membership::Proof;
use pilot_core::time::UnixTime;

use super::orgs::{found, listed};
use super::{Agent, Inner};
use crate::api::orgs;
use crate::api::types::{ApiError, ErrorCode};
use crate::clock;
use crate::home::entropy;
use crate::org::{self, Org, calls, keeper, store};

/// Keys of an organisation that follow each other. There is room for a few more, which take the place of stolen ones.
const KEYS_MAX: u64 = CHARTERS_MAX as u64 - 4;
/// What helps where neither key of an organisation is kept.
const GIVE_SUCCESSOR: &str = "give its successor key, which was put in a safe place: --successor FILE";
/// After a new key, memberships that the old one has signed count for so long: everybody has renewed by then who is there at all.
const KEY_OVERLAP: Duration = Duration::from_secs(90 * 86_400);

impl Agent {
    /// Replaces the organisation's key by a new one, on the word of the present key or, if that is lost, of its successor. If it was stolen,
    /// what it has signed counts no more but for the members that were enrolled here, and this agent (spec/org.md §5).
    ///
    /// # Errors
    /// If neither key is kept or given here, or not the successor of a stolen one, or the new ones cannot be kept.
    pub async fn rotate_org_key(&self, request: &orgs::RotateRequest) -> Result<orgs::Rotated, ApiError> {
        let (inner, name) = (&self.inner, request.org.as_str());
        let now = clock::now().unix;
        let _rotating = inner.orgs.rotating.lock().await;
        let given = request.successor.as_deref().map(Identity::from_pem).transpose();
        let given = given.map_err(|error| ApiError::new(ErrorCode::Usage, format!("the successor: {error}")))?;
        let kept = || store::successor(&inner.agent_home, name);
        let (signer, before) = match (given, request.stolen) {
            (given, true) => self.rescuer(name, given.map_or_else(kept, |given| Ok(Some(given)))?)?,
            (Some(given), false) => self.decider(name, given, now)?,
            (None, false) => self.rotator(name, kept()?)?,
        };
        // Clocks that are behind by a day cut the stolen key off at once, too.
        let previous_until = if request.stolen { now - CLOCK_SKEW } else { now + KEY_OVERLAP };
        let (key, successor) = (Identity::generate(entropy()?), Identity::generate(entropy()?));
        let charter = Charter {
            sequence: before.sequence + 1,
            key: key.key(),
            successor: successor.key(),
            signer: signer.key(),
            previous_until,
            issued: now,
            ..before
        };
        let bytes = charter.sign(&signer).map_err(|error| org::failed(&error))?;
        let own = self.applicant(inner.name());
        let members_before = |org: &mut Org| {
            let others = org.roster.members(now).map(Proof::key).filter(|key| *key != own.key);
            others.filter_map(|key| org.route(&key, now)).collect::<Vec<_>>()
        };
        let mut former = inner.orgs.with(name, members_before)?;
        // The new keys are kept before anybody hears of them, and the old ones until the charter is.
        store::keep_next_keys(&inner.agent_home, name, &key, &successor)?;
        let org = inner.orgs.change(name, |org| {
            org.roster.add_charter(&bytes, now).map_err(|error| org::failed(&error))?;
            if org.roster.charter().key != key.key() {
                return Err(org::failed(&format!("somebody else has just replaced the key of '{name}'")));
            }
            if request.stolen {
                endorse(org, &key, now)?;
            }
            if org.roster.member(&own.key, now).is_none() {
                join_by_key(org, &key, &own, now)?;
            }
            org.key = Some(key);
            Ok((org.roster.org(), org.roster.charter().clone(), org.roster.members(now).count()))
        });
        let (org, charter, members) = org.await?;
        store::promote_keys(&inner.agent_home, name, &charter)?;
        let successor_file = store::successor_file(&inner.agent_home, name);
        // A list of the new key, and with it the charter, goes to everybody, also to those who are members by the old key only.
        keeper::publish_list(inner, name, None, now).await?;
        inner.orgs.with(name, |org| former.retain(|known| org.roster.member(&known.key, now).is_none()))?;
        calls::tell_former(inner, name, former);
        let org = orgs::OrgCreated { name: name.to_owned(), key: org.to_string(), successor_file };
        Ok(orgs::Rotated { org, members })
    }

    /// Makes this agent a member of each organisation of which it has the key.
    pub(super) async fn join_by_own_keys(&self) {
        for name in self.inner.orgs.names() {
            if let Err(error) = join_by_own_key(&self.inner, &name, clock::now().unix).await {
                tracing::warn!(%error, org = name, "this agent has the key, and is no member");
            }
        }
    }

    /// The successor that was given signs, and outranks what the key has signed since: where two have replaced the key at once, it decides. It
    /// takes the membership of nobody whom keys have enrolled that count no more then.
    fn decider(&self, name: &str, given: Identity, now: UnixTime) -> Result<(Identity, Charter), ApiError> {
        let current = self.inner.orgs.with(name, |org| org.roster.charter().clone())?;
        // The key itself is good, too.
        if given.key() == current.key {
            return self.rotator(name, Some(given));
        }
        let (successor, before) = self.rescuer(name, Some(given))?;
        check_room_for_key(name, &before, false)?;
        let own = self.inner.identity.key();
        let mut out = self.inner.orgs.with(name, |org| {
            let is_out = |proof: &&Proof| {
                proof.key() != own && org.roster.charters().keys_after(&before).any(|key| key == proof.root_issuer())
            };
            let out = org.roster.members(now).filter(is_out);
            out.map(|proof| proof.membership().name.clone()).collect::<Vec<_>>()
        })?;
        if out.is_empty() {
            return Ok((successor, before));
        }
        out.sort();
        let message = format!(
            "that successor takes the place of a later key too, and who is a member by that one would be out: {}",
            listed(&out)
        );
        Err(ApiError::new(ErrorCode::Refused, message).hint(
            "give the successor that was made with the present key; where the key was replaced twice at once, revoke these first (pilotctl org revoke MEMBER) and invite them again afterwards",
        ))
    }

    /// Who signs the next charter, the key or the successor that are kept here, and the charter that it follows.
    fn rotator(&self, name: &str, successor: Option<Identity>) -> Result<(Identity, Charter), ApiError> {
        let (before, key) = self.inner.orgs.with(name, |org| (org.roster.charter().clone(), org.key.clone()))?;
        let candidates = key.into_iter().chain(successor);
        let mut signers = candidates.filter(|key| key.key() == before.key || key.key() == before.successor);
        check_room_for_key(name, &before, false)?;
        let neither = || {
            let message = format!("neither the key of '{name}' nor its successor is here");
            ApiError::new(ErrorCode::Refused, message).hint(GIVE_SUCCESSOR)
        };
        Ok((signers.next().ok_or_else(neither)?, before))
    }

    /// The same where somebody else has the key: only the successor outranks that one, and charters of the thief do not count.
    fn rescuer(&self, name: &str, successor: Option<Identity>) -> Result<(Identity, Charter), ApiError> {
        let missing = |message: String| ApiError::new(ErrorCode::Refused, message).hint(GIVE_SUCCESSOR);
        let successor = successor
            .ok_or_else(|| missing("a stolen key is replaced by its successor, which is not here".to_owned()))?;
        let (before, is_used) = self.inner.orgs.with(name, |org| {
            let charters = org.roster.charters();
            (charters.succeeded_by(&successor.key()).cloned(), charters.has_signed(&successor.key()))
        })?;
        if is_used {
            let message = format!("that successor has replaced the key of '{name}' already");
            return Err(ApiError::new(ErrorCode::Refused, message)
                .hint("give the successor that was made with the present key: --successor FILE"));
        }
        let before = before.ok_or_else(|| missing(format!("that key succeeds no key of '{name}'")))?;
        check_room_for_key(name, &before, true)?;
        Ok((successor, before))
    }
}

/// Looked at before new keys are written: those that no charter can name would stay behind.
fn check_room_for_key(name: &str, before: &Charter, is_stolen: bool) -> Result<(), ApiError> {
    let sequence = before.sequence + 1;
    if sequence >= CHARTERS_MAX as u64 {
        let message = format!("'{name}' has had {CHARTERS_MAX} keys, which is the most");
        return Err(ApiError::new(ErrorCode::Refused, message).hint("found another organisation"));
    }
    if is_stolen || sequence < KEYS_MAX {
        return Ok(());
    }
    let message = format!("'{name}' has had {KEYS_MAX} keys, and needs what is left for the case of theft");
    Err(ApiError::new(ErrorCode::Refused, message)
        .hint("if somebody else has the key: pilotctl org rotate --stolen; else found another organisation"))
}

/// Makes this agent a member where it has the key of an organisation and is none: the key was brought here, or nobody was there to renew in
/// time, and whom members do not know for one of theirs they do not hear.
///
/// # Errors
/// If it is in no organisation of that name, or that cannot be kept.
pub(crate) async fn join_by_own_key(inner: &Arc<Inner>, name: &str, now: UnixTime) -> Result<(), ApiError> {
    let orgs = &inner.orgs;
    let key = orgs.with(name, |org| match orgs.issuer(org, now) {
        Some(Issuer::Org(key)) if org.roster.member(&orgs.own_key(), now).is_none() => Some(key),
        _ => None,
    })?;
    let Some(key) = key else { return Ok(()) };
    let own = Agent { inner: Arc::clone(inner) }.applicant(inner.name());
    let own = Applicant { consented: now, ..own };
    orgs.change(name, |org| join_by_key(org, &key, &own, now)).await
}

/// Makes who holds the organisation's key a member.
fn join_by_key(org: &mut Org, key: &Identity, own: &Applicant, now: UnixTime) -> Result<(), ApiError> {
    let proof = found(&org.roster, key, own, now)?;
    org.roster.add_proof(&proof, now).map_err(|error| org::failed(&error))?;
    let Org { roster, ledger, .. } = org;
    if let Some(member) = roster.proof(&own.key, now) {
        Arc::make_mut(ledger).enrolled(member, now);
    }
    Ok(())
}

/// Lets the members that were enrolled here stay members under the key that takes the place of a stolen one.
fn endorse(org: &mut Org, key: &Identity, now: UnixTime) -> Result<(), ApiError> {
    let list = org.ledger.first_list(org.roster.charters(), now);
    let list = list.sign(key).map_err(|error| org::failed(&error))?;
    org.roster.add_list(&list, now).map_err(|error| org::failed(&error))?;
    for proof in org.ledger.proofs() {
        // A thief may have put something else in its place.
        if let Err(error) = org.roster.add_proof(proof, now) {
            tracing::warn!(%error, "a member is one no more");
        }
    }
    Ok(())
}
