//! Keeping up with organisations while nobody asks: news, renewals, fresh lists (spec/org.md §3).

use std::sync::{Arc, Weak};
use std::time::Duration;

use pilot_core::id::IdentityKey;
use pilot_core::node::PeerInfo;
use pilot_core::org::OrgError;
use pilot_core::org::call::{Reply, Request};
use pilot_core::org::issuer::Issuer;
use pilot_core::org::membership::{Membership, Proof, consent};
use pilot_core::org::revocation::Revocation;
use pilot_core::time::UnixTime;
use tokio::time::timeout;

use super::{Org, calls, directory, serve};
use crate::agent::{self, Inner};
use crate::api::types::{ApiError, ErrorCode};
use crate::clock;

/// News are asked for this often by an agent that has no other reason to ask.
pub(super) const SYNC_INTERVAL: Duration = Duration::from_secs(300);
/// How old lists are is looked at no more often than this: dates are whole seconds.
const LIST_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Members that are asked each time whether they have the organisation's key now, where who had it last does not answer or has it no more: a
/// fleet of 4,096 is asked through in two days, and there is half of a membership's time for that.
const KEEPERS_ASKED_MAX: usize = 8;
/// What need not be on disk at once is there after this: so many members may show themselves in between for one write.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps up until the agent is gone.
pub(crate) async fn run(agent: Weak<Inner>) {
    let mut is_start = true;
    loop {
        let Some(inner) = agent.upgrade() else { return };
        for name in inner.orgs.names() {
            if is_start {
                tokio::join!(calls::sync(&inner, &name), calls::meet(&inner, &name));
            } else {
                calls::sync(&inner, &name).await;
            }
            if let Err(error) = renew(&inner, &name, clock::now().unix).await {
                tracing::warn!(%error, org = name, "organisation");
            }
        }
        is_start = false;
        drop(inner);
        tokio::time::sleep(SYNC_INTERVAL).await;
    }
}

/// Sees that there are lists young enough, also where these are to be younger than news usually are, until the agent is gone.
pub(crate) async fn keep_lists(agent: Weak<Inner>) {
    loop {
        let Some(inner) = agent.upgrade() else { return };
        let mut interval = SYNC_INTERVAL;
        for name in inner.orgs.names() {
            if let Err(error) = refresh_list(&inner, &name).await {
                tracing::warn!(%error, org = name, "revocation list");
            }
            let age_max = inner.orgs.with(&name, |org| org.roster.charter().list_age_max).unwrap_or_default();
            interval = interval.min(list_interval(age_max));
        }
        let orgs = Arc::clone(&inner.orgs);
        drop(inner);
        timeout(interval, orgs.added()).await.ok();
    }
}

/// How often the age of a list is looked at that may be so old, in seconds: there is time to tell the next one before it is.
fn list_interval(age_max: u64) -> Duration {
    match age_max {
        0 => SYNC_INTERVAL,
        age_max => (Duration::from_secs(age_max) / 4).clamp(LIST_INTERVAL_MIN, SYNC_INTERVAL),
    }
}

/// Puts on disk what was heard, not more often than every now and then, until the agent is gone.
pub(crate) async fn save(agent: Weak<Inner>) {
    loop {
        let Some(orgs) = agent.upgrade().map(|inner| Arc::clone(&inner.orgs)) else { return };
        let is_unsaved = timeout(SYNC_INTERVAL, orgs.unsaved()).await.is_ok();
        drop(orgs);
        if is_unsaved {
            tokio::time::sleep(SAVE_INTERVAL).await;
            // Without the agent its home may be another's.
            let Some(inner) = agent.upgrade() else { return };
            inner.orgs.save_unsaved().await;
        }
    }
}

/// Renews this agent's own membership when half of its time is over, or half of the time for which the word of the key counts that it rests
/// on; by itself, where it has the organisation's key, and also where the time is over altogether.
pub(crate) async fn renew(inner: &Arc<Inner>, name: &str, now: UnixTime) -> Result<(), ApiError> {
    agent::join_by_own_key(inner, name, now).await?;
    let own = inner.orgs.own_key();
    let due = inner.orgs.with(name, |org| {
        let proof = org.roster.proof(&own, now)?;
        let membership = proof.membership();
        let half = (membership.expires.as_secs() - membership.issued.as_secs()) / 2;
        // By our own clock, as it was when we asked: that of the issuer may be another.
        let is_due = is_key_due(org, proof, now) || now.as_secs() >= membership.consented.as_secs() + half;
        is_due.then(|| due_renewal(inner, org, membership, now))
    })?;
    let Some(DueRenewal { consented, asked, is_own_issuer }) = due else { return Ok(()) };
    if is_own_issuer {
        return serve::renew(inner, name, own, (consented, None), now).await.map(drop);
    }
    let mut result = Ok(());
    for (issuer, request) in asked {
        let key = issuer.key;
        match calls::call(inner, issuer, &request).await {
            Ok(Reply::Enrolled { proof, records }) => {
                let mut records = calls::in_bounds(records);
                records.proofs.push(proof.into());
                let learned = inner.orgs.learn(name, &records, now).await?;
                calls::announce(inner, name, learned, Some(key)).await;
                if inner.orgs.with(name, |org| is_renewed(org, &own, consented, now))? {
                    let note = |org: &mut Org| {
                        org.enrolled_by = Some(key);
                        Ok(())
                    };
                    return inner.orgs.change(name, note).await;
                }
                result = Err(calls::unexpected());
            }
            Ok(_) => result = Err(calls::unexpected()),
            Err(error) => result = Err(error),
        }
    }
    result
}

/// Whether this agent has the membership that it has asked for, and not only the word for it. Dates of records are whole seconds.
fn is_renewed(org: &Org, own: &IdentityKey, consented: UnixTime, now: UnixTime) -> bool {
    org.roster.proof(own, now).is_some_and(|proof| proof.membership().consented.as_secs() >= consented.as_secs())
}

/// Whether a proof is to be made anew since the key that it begins with was replaced. One by a delegate is when that one's own was.
fn is_key_due(org: &Org, proof: &Proof, now: UnixTime) -> bool {
    let key = proof.root_issuer();
    let above = || org.roster.proof(&proof.membership().issuer, now);
    let is_due = org.roster.charters().renew_from(key).is_some_and(|from| from <= now);
    is_due && (proof.links().len() == 1 || above().is_some_and(|above| above.root_issuer() != key))
}

/// What a renewal that is due takes.
struct DueRenewal {
    consented: UnixTime,
    /// Whom to ask, and what, one after the other until one of them does it.
    asked: Vec<(PeerInfo, Request)>,
    is_own_issuer: bool,
}

fn due_renewal(inner: &Inner, org: &Org, membership: &Membership, now: UnixTime) -> DueRenewal {
    // A clock that was set back makes of the next membership no earlier one than this.
    let consented = now.max(membership.consented);
    let id = org.roster.org();
    let is_by_org = org.roster.charters().keys().any(|key| *key == membership.issuer);
    let request = |issuer: PeerInfo| {
        // Who has the organisation's key needs no consent, and others who are asked for it are to have none.
        let consent =
            (!is_by_org).then(|| consent(&inner.identity, &id, &issuer.key, &membership.name, consented).into());
        (issuer, Request::Renew { org: id, consented, consent })
    };
    let issuers = if is_by_org { keepers(inner, org, now) } else { vec![membership.issuer] };
    DueRenewal {
        consented,
        asked: issuers.iter().filter_map(|issuer| org.route(issuer, now)).map(request).collect(),
        is_own_issuer: matches!(inner.orgs.issuer(org, now), Some(Issuer::Org(_))),
    }
}

/// Members that may have the organisation's key: who had it last, and, since it may be elsewhere by now, a few others, each time the next
/// ones.
fn keepers(inner: &Inner, org: &Org, now: UnixTime) -> Vec<IdentityKey> {
    let own = inner.orgs.own_key();
    let is_other = |key: &IdentityKey| *key != own && Some(*key) != org.enrolled_by;
    let others: Vec<_> = org.roster.members(now).map(Proof::key).filter(is_other).collect();
    let round = usize::try_from(now.as_secs() / SYNC_INTERVAL.as_secs()).unwrap_or_default();
    let start = (round * KEEPERS_ASKED_MAX).checked_rem(others.len()).unwrap_or_default();
    let next = others.iter().cycle().skip(start).take(KEEPERS_ASKED_MAX.min(others.len()));
    org.enrolled_by.into_iter().chain(next.copied()).collect()
}

/// Signs the organisation's list anew before it is too old for the members, where its key is kept, and asks for it elsewhere when it should
/// be there; signs this issuer's when a membership has ended that nobody has seen off, so that it counts no longer by clocks that are
/// behind.
async fn refresh_list(inner: &Arc<Inner>, name: &str) -> Result<(), ApiError> {
    let now = clock::now().unix;
    let (age_max, age, has_key) = inner.orgs.with(name, |org| {
        let newest = org.roster.revocations().newest(org.roster.charters());
        let age = newest.map_or(u64::MAX, |newest| now.as_secs().saturating_sub(newest.as_secs()));
        (org.roster.charter().list_age_max, age, matches!(inner.orgs.issuer(org, now), Some(Issuer::Org(_))))
    })?;
    if age_max > 0 && has_key && age >= age_max / 2 {
        return publish_list(inner, name, None, now).await;
    }
    if age_max > 0 && !has_key && age >= age_max - age_max / 4 {
        calls::refresh(inner, name).await;
        directory::compare(inner, name).await;
    }
    let is_end_unsaid = inner.orgs.with(name, |org| {
        inner.orgs.issuer(org, now).is_some_and(|issuer| org.roster.is_end_unsaid(&issuer.key(), now))
    })?;
    if is_end_unsaid {
        sign_list(inner, name, None, now).await?;
    }
    Ok(())
}

/// Signs this issuer's next list, and tells everybody.
///
/// # Errors
/// If this agent is no issuer, or the list cannot be kept.
pub(crate) async fn publish_list(
    inner: &Arc<Inner>,
    name: &str,
    more: Option<Revocation>,
    now: UnixTime,
) -> Result<(), ApiError> {
    sign_list(inner, name, more, now).await?;
    calls::proclaim(inner, name).await;
    // So that it is heard of although this agent goes away now.
    directory::compare(inner, name).await;
    Ok(())
}

/// Signs this issuer's next list; others hear of it when they ask.
///
/// # Errors
/// If this agent is no issuer, or the list cannot be kept.
pub(super) async fn sign_list(
    inner: &Arc<Inner>,
    name: &str,
    more: Option<Revocation>,
    now: UnixTime,
) -> Result<(), ApiError> {
    let issuer = inner.orgs.with(name, |org| inner.orgs.issuer(org, now))?;
    let issuer = issuer.ok_or_else(super::no_issuer)?;
    let signed = inner.orgs.change(name, |org| {
        let failed = |error: OrgError| super::failed(&error);
        let list = org.roster.revocations().next_list(org.roster.charters(), issuer.key(), more, now);
        let list = list.map_err(|error| list_full(&error, &issuer))?;
        let bytes = list.sign(issuer.identity()).map_err(|error| super::failed(&error))?;
        org.roster.add_list(&bytes, now).map_err(failed)?;
        if let (Issuer::Org(_), Some(revocation)) = (&issuer, more) {
            Arc::make_mut(&mut org.ledger).revoked(revocation, now);
        }
        Ok(())
    });
    signed.await
}

/// Why there is no next list, and who can revoke all the same.
fn list_full(error: &OrgError, issuer: &Issuer) -> ApiError {
    let OrgError::Full(count) = error else { return super::failed(error) };
    let message = format!("the revocation list is full: it names {count} members whose memberships have not run out");
    ApiError::new(ErrorCode::Failed, message).hint(match issuer {
        Issuer::Org(_) => {
            "a member that has enrolled it can revoke it; what makes room is time, and sooner where memberships are short: pilotctl org invite --membership 30d"
        }
        Issuer::Member(_) => "revoke it at the agent that has the organisation's key",
    })
}
