//! What the directory of the backbone node holds for organisations (spec/org.md §3.9): a member hears there of charters and lists although
//! no other member is there, and brings what it lacks.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pilot_core::org::charter::CHARTERS_MAX;
use pilot_core::org::revocation::{LISTS_MAX, list_digest};
use pilot_core::org::roster::Records;
use pilot_core::wire::directory::{Reply, Request, RuleDigest, Rules};
use tokio::time::timeout;

use super::calls;
use super::keeper::SYNC_INTERVAL;
use crate::agent::Inner;
use crate::api::types::ApiError;
use crate::backbone_link;
use crate::clock;

/// Answers to one question: one of them may not hold all lists, and each that brings nothing new is the last.
const ANSWERS_MAX: usize = 8;
/// Somebody who starts an agent waits so long at most for what the directory knows.
const HEAR_TIMEOUT: Duration = Duration::from_secs(2);

/// Compares with the directory whenever the tunnel with it is a new one, and every now and then, until the agent is gone.
pub(crate) async fn run(agent: Weak<Inner>) {
    loop {
        let Some(inner) = agent.upgrade() else { return };
        let mut link = inner.home_link.clone();
        link.mark_unchanged();
        for name in inner.orgs.names() {
            compare(&inner, &name).await;
        }
        drop(inner);
        if let Ok(Err(_)) = timeout(SYNC_INTERVAL, link.changed()).await {
            return;
        }
    }
}

/// Takes what the directory holds and we do not know, and brings it what it lacks. Without a tunnel, that waits for the next one.
pub(crate) async fn compare(inner: &Arc<Inner>, name: &str) {
    if inner.home_link.borrow().connected
        && let Err(error) = try_compare(inner, name).await
    {
        tracing::debug!(%error, org = name, "the directory was not asked for lists");
    }
}

/// The same, before something that depends on it. Where the directory takes long, that goes on with what is known.
pub(crate) async fn hear(inner: &Arc<Inner>, name: &str) {
    let (inner, name) = (Arc::clone(inner), name.to_owned());
    let comparing = tokio::spawn(async move { compare(&inner, &name).await });
    timeout(HEAR_TIMEOUT, comparing).await.ok();
}

async fn try_compare(inner: &Arc<Inner>, name: &str) -> Result<(), ApiError> {
    for _ in 0..ANSWERS_MAX {
        let (org, known) = inner.orgs.with(name, |org| {
            let known = org.roster.rule_digests().map(RuleDigest).collect();
            (org.roster.org(), known)
        })?;
        let reply = backbone_link::call(inner, &Request::Rules { org, known }).await?;
        let Reply::Rules(rules) = reply else { return Err(backbone_link::unexpected(&reply)) };
        let (news, missing) = in_bounds(rules);
        let learned = inner.orgs.learn(name, &news, clock::now().unix).await?;
        calls::announce(inner, name, learned, None).await;
        if learned.rules == 0 {
            return bring(inner, name, &missing).await;
        }
    }
    Ok(())
}

/// No more than an honest node holds: each record costs a signature.
fn in_bounds(rules: Rules) -> (Records, Vec<RuleDigest>) {
    let Rules { mut charters, mut lists, mut proofs, missing } = rules;
    charters.truncate(CHARTERS_MAX);
    lists.truncate(LISTS_MAX);
    proofs.truncate(LISTS_MAX);
    (Records { charters, lists, proofs, whereabouts: Vec::new() }, missing)
}

async fn bring(inner: &Arc<Inner>, name: &str, missing: &[RuleDigest]) -> Result<(), ApiError> {
    let (org, parts) = inner.orgs.with(name, |org| (org.roster.org(), org.roster.rules_in_parts(&[], 0)))?;
    let is_missing = |list: &[u8]| missing.contains(&RuleDigest(list_digest(list)));
    for Records { charters, lists, proofs, .. } in parts {
        let Some(list) = lists.into_iter().next().filter(|list| is_missing(list)) else { continue };
        let proof = proofs.into_iter().next().map(Into::into);
        let keep = Request::KeepRules { org, charters, list: list.into(), proof };
        let reply = backbone_link::call(inner, &keep).await?;
        if let Reply::Error { message, .. } = &reply {
            tracing::info!(message, org = name, "the directory does not hold a list");
        } else if reply != Reply::RulesKept {
            return Err(backbone_link::unexpected(&reply));
        }
    }
    Ok(())
}
