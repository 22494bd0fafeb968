//! What an agent answers other members (spec/org.md §3).

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use minicbor::bytes::ByteArray;
use pilot_core::crypto::SIGNATURE_LEN;
use pilot_core::id::IdentityKey;
use pilot_core::org::call::{REQUEST_LEN_MAX, Reply, Request, SYNC_MEMBERS_MAX};
use pilot_core::org::charter::CHARTERS_MAX;
use pilot_core::org::issuer::{Applicant, EnrolError, Issuer, Terms};
use pilot_core::org::membership::Proof;
use pilot_core::org::revocation::Revocation;
use pilot_core::org::roster::{Learned, Records};
use pilot_core::time::UnixTime;
use pilot_core::transport::Code;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::{Org, calls, codes, directory, keeper};
use crate::agent::Inner;
use crate::api::types::{ApiError, ErrorCode};
use crate::clock;
use crate::services::Incoming;

/// Calls that wait to be answered.
pub(crate) const CALLS_MAX: usize = 256;
/// Calls that are answered at once: each may wait for the disk.
const ANSWERED_AT_ONCE: usize = 16;
/// A request must be here after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Members told of with a new membership; the others come with the first sync.
const FIRST_MEMBERS_MAX: usize = SYNC_MEMBERS_MAX;

/// Answers calls until the agent is gone.
pub(crate) async fn run(agent: Weak<Inner>, mut calls: mpsc::Receiver<Incoming>) {
    let slots = Arc::new(Semaphore::new(ANSWERED_AT_ONCE));
    while let Some(incoming) = calls.recv().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Some(inner) = agent.upgrade() else { return };
        tokio::spawn(async move {
            answer(&inner, incoming).await;
            drop(slot);
        });
    }
}

async fn answer(inner: &Arc<Inner>, mut incoming: Incoming) {
    let Ok(Some(request)) = timeout(REQUEST_TIMEOUT, read(&mut incoming)).await else {
        return incoming.stream.reset(Code::BAD_REQUEST, "no call between members");
    };
    let reply = handle(inner, incoming.peer, request).await;
    let reply = reply.unwrap_or_else(|error| Reply::Refused { reason: error.message });
    if incoming.stream.write_chunk(Bytes::from(reply.encode())).await.is_ok() {
        incoming.stream.finish();
    }
}

async fn read(incoming: &mut Incoming) -> Option<Request> {
    let mut request = Vec::new();
    while let Some(chunk) = incoming.stream.read_chunk().await.ok()? {
        request.extend_from_slice(&chunk);
        if request.len() > REQUEST_LEN_MAX {
            return None;
        }
    }
    Request::decode(&request).ok()
}

async fn handle(inner: &Arc<Inner>, caller: IdentityKey, request: Request) -> Result<Reply, ApiError> {
    let now = clock::now().unix;
    match request {
        Request::Enrol { org, invite, secret, modifier, name, consented, consent, lifetime_max } => {
            let lifetime_max = lifetime_max.map_or(Duration::MAX, Duration::from_secs);
            let consent = Some(consent.into());
            let applicant = Applicant { key: caller, modifier, name, lifetime_max, consented, consent };
            enrol(inner, &org, (invite, secret), applicant, now).await
        }
        Request::Renew { org, consented, consent } => {
            let name = member_of(inner, &org, &caller, now)?;
            renew(inner, &name, caller, (consented, consent), now).await
        }
        Request::Introduce { org, proof, whereabouts } => {
            let name = org_of(inner, &org)?;
            introduce(inner, &name, caller, proof, whereabouts, now).await
        }
        Request::Sync { org, after, epoch, known } => {
            let name = member_of(inner, &org, &caller, now)?;
            let known: Vec<_> = known.into_iter().map(|digest| digest.0).collect();
            let own_epoch = inner.orgs.epoch();
            let after = if epoch == own_epoch { after } else { 0 };
            inner.orgs.with(&name, |org| {
                let (members, after) = org.roster.members_since(after, SYNC_MEMBERS_MAX);
                let more = after < org.roster.arrivals() && !members.proofs.is_empty();
                let rules = org.roster.rules_except(&known);
                let records = with_rules(members, rules);
                Reply::News { epoch: own_epoch, after, more, records }
            })
        }
        Request::Tell { org, records } => {
            let name = org_of(inner, &org)?;
            let learned = hear(inner, &name, &caller, records, now).await?;
            let inner = Arc::clone(inner);
            // The caller need not wait for those whom we tell.
            tokio::spawn(async move { calls::announce(&inner, &name, learned, Some(caller)).await });
            Ok(Reply::Done)
        }
        Request::Code { number, share } => codes::answer(inner, caller, (number, share), now).await,
        Request::CodeProof { number, share, tag } => codes::finish(inner, caller, (number, share, tag), now).await,
        Request::Leave { org, consented } => {
            let name = member_of(inner, &org, &caller, now)?;
            see_off(inner, name, &caller, consented, now).await?;
            Ok(Reply::Done)
        }
    }
}

/// Ends the membership that a member gives up, unless it has asked for another since.
async fn see_off(
    inner: &Arc<Inner>,
    name: String,
    caller: &IdentityKey,
    consented: UnixTime,
    now: UnixTime,
) -> Result<(), ApiError> {
    let given_up = inner.orgs.with(&name, |org| {
        let own = org.roster.member(caller, now).filter(|own| own.consented.as_secs() <= consented.as_secs())?;
        let issuer = inner.orgs.issuer(org, now).map(|issuer| issuer.key());
        let has_room = issuer.is_some_and(|key| org.roster.revocations().has_room_for_departure(&key, now));
        Some(has_room.then(|| Revocation::departure(own)))
    })?;
    let Some(revocation) = given_up else { return Ok(()) };
    // So that nobody takes it up again; where that cannot be signed, its time will end it.
    if revocation.is_some()
        && let Err(error) = keeper::sign_list(inner, &name, revocation, now).await
    {
        tracing::info!(%error, org = name, "a member has left, and its membership ends with its time");
    }
    inner.orgs.change(&name, |org| Ok(org.roster.remove(caller))).await?;
    let inner = Arc::clone(inner);
    tokio::spawn(async move { directory::compare(&inner, &name).await });
    Ok(())
}

/// Takes what a member tells. Somebody who is none counts if it brings a charter that is news: a thief of the organisation's key may have
/// revoked just those who could tell.
async fn hear(
    inner: &Inner,
    name: &str,
    caller: &IdentityKey,
    records: Records,
    now: UnixTime,
) -> Result<Learned, ApiError> {
    let Records { mut charters, lists, proofs, .. } = records;
    charters.truncate(CHARTERS_MAX);
    let mut rules = 0;
    if inner.orgs.with(name, |org| org.roster.member(caller, now).is_none())? {
        let charters = Records { charters: charters.clone(), ..Records::default() };
        rules = inner.orgs.learn(name, &charters, now).await?.rules;
        if rules == 0 {
            return Err(not_a_member());
        }
    }
    let records = Records { charters, lists, proofs, whereabouts: Vec::new() };
    let learned = inner.orgs.learn(name, &records, now).await?;
    Ok(Learned { rules: rules + learned.rules, ..learned })
}

/// Makes a member of who has an invite. Who has none learns nothing: neither whether this agent is in the organisation, nor whether it makes
/// members of it.
async fn enrol(
    inner: &Arc<Inner>,
    org: &IdentityKey,
    (invite, secret): ([u8; 8], [u8; 16]),
    applicant: Applicant,
    now: UnixTime,
) -> Result<Reply, ApiError> {
    let no_invite = || refused(EnrolError::NoSuchInvite.to_string());
    let name = &inner.orgs.name_of(org).ok_or_else(no_invite)?;
    let issuer = issuer(inner, name, now).map_err(|_| no_invite())?;
    let enrolled = inner.orgs.change(name, |org| {
        let proof = org.invites.redeem((&invite, &secret), &issuer, &org.roster, &applicant, now);
        let proof = proof.map_err(|error| refused(error.to_string()))?;
        admit(org, &issuer, proof, now)
    });
    let reply = enrolled.await?;
    tracing::info!(org = name, member = applicant.name, "enrolled");
    Ok(reply)
}

/// Gives a member a fresh membership with what it had, on its fresh word.
pub(super) async fn renew(
    inner: &Arc<Inner>,
    name: &str,
    caller: IdentityKey,
    (consented, consent): (UnixTime, Option<ByteArray<SIGNATURE_LEN>>),
    now: UnixTime,
) -> Result<Reply, ApiError> {
    let issuer = issuer(inner, name, now)?;
    let renewed = inner.orgs.change(name, |org| {
        let membership = org.roster.member(&caller, now).ok_or_else(not_a_member)?.clone();
        // Who has the key needs nobody else, whoever has enrolled it before the key was there.
        let is_own = caller == inner.orgs.own_key();
        let is_ours = is_own || membership.issuer == issuer.key() || org.roster.charters().has_key(&membership.issuer);
        if !is_ours || (membership.issuer != issuer.key() && matches!(issuer, Issuer::Member(_))) {
            return Err(refused("another member has enrolled you: ask that one".to_owned()));
        }
        let terms = Terms::of(&membership);
        let applicant = Applicant {
            key: caller,
            modifier: membership.modifier,
            name: membership.name.clone(),
            lifetime_max: Duration::MAX,
            consented,
            consent,
        };
        let proof = issuer.enrol(&org.roster, &applicant, &terms, now).map_err(|error| refused(error.to_string()))?;
        admit(org, &issuer, proof, now)
    });
    renewed.await
}

/// Takes a member up that was just made, and tells it what it needs.
fn admit(org: &mut Org, issuer: &Issuer, proof: Vec<u8>, now: UnixTime) -> Result<Reply, ApiError> {
    let Org { roster, ledger, .. } = org;
    roster.add_proof(&proof, now).map_err(|error| refused(error.to_string()))?;
    if let (Issuer::Org(_), Some(admitted)) =
        (issuer, Proof::claimed_key(&proof).and_then(|key| roster.proof(&key, now)))
    {
        Arc::make_mut(ledger).enrolled(admitted, now);
    }
    let (members, _) = roster.members_since(0, FIRST_MEMBERS_MAX);
    Ok(Reply::Enrolled { proof, records: with_rules(members, roster.rules_except(&[])) })
}

/// Members, and what they are judged by.
fn with_rules(members: Records, rules: Records) -> Records {
    let proofs = rules.proofs.into_iter().chain(members.proofs).collect();
    Records { charters: rules.charters, lists: rules.lists, proofs, whereabouts: members.whereabouts }
}

async fn introduce(
    inner: &Arc<Inner>,
    name: &str,
    caller: IdentityKey,
    proof: Vec<u8>,
    whereabouts: Vec<u8>,
    now: UnixTime,
) -> Result<Reply, ApiError> {
    if Proof::claimed_key(&proof) != Some(caller) {
        return Err(not_a_member());
    }
    let records = Records { proofs: vec![proof.into()], whereabouts: vec![whereabouts.into()], ..Records::default() };
    inner.orgs.learn(name, &records, now).await?;
    let own_whereabouts = inner.whereabouts().await?;
    let own = inner.orgs.with(name, |org| {
        org.roster.member(&caller, now)?;
        org.roster.proof(&inner.identity.key(), now).map(|proof| proof.bytes().to_vec())
    })?;
    let proof = own.ok_or_else(not_a_member)?;
    Ok(Reply::Introduced { proof, whereabouts: own_whereabouts })
}

fn issuer(inner: &Inner, name: &str, now: UnixTime) -> Result<Issuer, ApiError> {
    let issuer = inner.orgs.with(name, |org| inner.orgs.issuer(org, now))?;
    issuer.ok_or_else(|| refused("this agent makes no members".to_owned()))
}

/// The organisation of that key, if we are in it. Who asks learns no more than that.
fn org_of(inner: &Inner, org: &IdentityKey) -> Result<String, ApiError> {
    inner.orgs.name_of(org).ok_or_else(not_a_member)
}

/// The same, for members of it only.
fn member_of(inner: &Inner, org: &IdentityKey, caller: &IdentityKey, now: UnixTime) -> Result<String, ApiError> {
    let name = org_of(inner, org)?;
    let is_member = inner.orgs.with(&name, |org| org.roster.member(caller, now).is_some())?;
    if is_member { Ok(name) } else { Err(not_a_member()) }
}

fn not_a_member() -> ApiError {
    refused("not a member".to_owned())
}

fn refused(reason: String) -> ApiError {
    ApiError::new(ErrorCode::Refused, reason)
}
