//! What an agent asks of other members (spec/org.md §3).

use std::sync::Arc;
use std::time::Duration;

use pilot_core::event::ConnectError;
use pilot_core::id::{IdentityKey, ServicePort};
use pilot_core::node::PeerInfo;
use pilot_core::org::OrgError;
use pilot_core::org::call::{ListDigest, REPLY_LEN_MAX, Reply, Request, SYNC_MEMBERS_MAX};
use pilot_core::org::charter::{CHARTERS_MAX, Charters};
use pilot_core::org::invite::Invite;
use pilot_core::org::membership::{Proof, consent};
use pilot_core::org::revocation::{LIST_LEN_MAX, LISTS_MAX};
use pilot_core::org::roster::{Learned, MEMBERS_MAX, Records, Roster};
use pilot_core::time::{Now, UnixTime};
use pilot_core::transport::Code;
use pilot_core::wire::stream_header::StreamHeader;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Heard, Org};
use crate::agent::{COMPARE_CLOCKS, Inner};
use crate::api::types::{ApiError, ErrorCode};
use crate::clock;
use crate::stream::{EndedBy, StreamError};

/// A member that does not answer within this is not waited for.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Who has too many calls is called again after each of these. Together they leave a part of [`CALL_TIMEOUT`] for the answer.
const PAUSES_WHILE_BUSY: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// A call of our own waits so long at most for an introduction; the callee may know us already.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(2);
/// A look-up waits so long at most for news of members.
const NEWS_TIMEOUT: Duration = Duration::from_millis(500);
/// Look-ups ask for news at most this often.
const NEWS_INTERVAL: Duration = Duration::from_secs(2);
/// Members told of a new list at once.
const TOLD_AT_ONCE: usize = 64;
/// Members that an agent shows itself to when it starts.
const MET_MAX: usize = 8;
/// An ephemeral agent is a member for so long without a renewal: should nobody hear that it has ended, its name is free again after
/// this, where its issuer runs, and after the day by which clocks may be wrong otherwise.
const EPHEMERAL_LIFETIME: Duration = Duration::from_secs(3_600);
/// Members that are heard each time.
const ANSWERS_WANTED: usize = 2;
/// Members asked one after another for news, when the first do not answer.
const ASKED_MAX: usize = 3;
/// Replies with news that are heard of one member in a row: twice what tells of all members.
const NEWS_MAX: usize = 2 * MEMBERS_MAX / SYNC_MEMBERS_MAX;
/// One member is heard for so long; what it has not told then it tells the next time.
const NEWS_TIME_MAX: Duration = Duration::from_secs(30);

/// One call to another agent, by a way that is known or this one, from its whereabouts.
///
/// # Errors
/// If it does not answer, or says no.
pub(crate) async fn call(inner: &Inner, peer: PeerInfo, request: &Request) -> Result<Reply, ApiError> {
    let key = peer.key;
    inner.apply(move |core, now| core.node.learn_recorded_peer(now, peer)).await?;
    let exchanges = async {
        match exchange_unless_busy(inner, key, request).await? {
            // It restarted before we noticed, or has just ended its tunnels with a former member, and we are to join again: the next tunnel
            // stands. A call that is repeated does no more than once.
            Err(error)
                if error.code == Code::PEER_RESTARTED && error.by == EndedBy::Network
                    || error.code == Code::REFUSED =>
            {
                Ok(exchange_unless_busy(inner, key, request).await??)
            }
            reply => Ok::<_, ApiError>(reply?),
        }
    };
    let reply = match timeout(CALL_TIMEOUT, exchanges).await {
        Ok(reply) => reply?,
        Err(_) => return Err(unanswered(inner, key).await),
    };
    if let Reply::Refused { reason } = reply {
        return Err(ApiError::new(ErrorCode::Refused, reason));
    }
    Ok(reply)
}

/// Why a call was not answered, as far as is known while it is still tried to reach the callee.
async fn unanswered(inner: &Inner, callee: IdentityKey) -> ApiError {
    let name = inner.name_of(&callee).unwrap_or_else(|| callee.to_string());
    match inner.ask(move |core, _| core.node.connect_error(&callee).cloned()).await {
        Ok(Some(error @ ConnectError::Clock(_))) => {
            ApiError::new(ErrorCode::Unreachable, format!("'{name}': {error}")).hint(COMPARE_CLOCKS)
        }
        _ => ApiError::new(ErrorCode::Timeout, format!("'{name}' does not answer")),
    }
}

/// One call, made again while the callee has too many; one that it has refused so has done nothing.
async fn exchange_unless_busy(
    inner: &Inner,
    peer: IdentityKey,
    request: &Request,
) -> Result<Result<Reply, StreamError>, ApiError> {
    for pause in PAUSES_WHILE_BUSY {
        match exchange(inner, peer, request).await? {
            Err(error) if error.code == Code::BUSY => sleep(pause).await,
            reply => return Ok(reply),
        }
    }
    exchange(inner, peer, request).await
}

/// One call on one stream; the inner error tells how that broke.
async fn exchange(inner: &Inner, peer: IdentityKey, request: &Request) -> Result<Result<Reply, StreamError>, ApiError> {
    let mut stream = inner.open(peer, StreamHeader::new(ServicePort::ORG)).await?;
    match stream.exchange(request.encode(), REPLY_LEN_MAX).await {
        Ok(Some(reply)) => Reply::decode(&reply).map(Ok).map_err(|_| unexpected()),
        Ok(None) => Err(ApiError::new(ErrorCode::Failed, "the member's reply is longer than any can be")),
        Err(error) => Ok(Err(error)),
    }
}

/// Becomes a member with an invite: the organisation as it is told by who made the invite, verified. The way to it, the user has named.
///
/// # Errors
/// Why not.
pub(crate) async fn enrol(inner: &Inner, invite: &Invite, issuer: PeerInfo, name: &str) -> Result<Org, ApiError> {
    let (identity, enrolled_by) = (&inner.identity, issuer.key);
    let consented = inner.orgs.date_to_ask(clock::now().unix);
    let request = Request::Enrol {
        org: invite.org,
        invite: invite.id,
        secret: *invite.secret,
        modifier: identity.modifier(),
        name: name.to_owned(),
        consented,
        consent: consent(identity, &invite.org, &enrolled_by, name, consented),
        lifetime_max: inner.is_ephemeral.then_some(EPHEMERAL_LIFETIME.as_secs()),
    };
    inner.apply(move |core, now| core.node.learn_peer(now, issuer)).await?;
    let reply = call(inner, way_unknown(enrolled_by), &request).await?;
    let Reply::Enrolled { proof, records } = reply else { return Err(unexpected()) };
    let now = clock::now().unix;
    let believed = believe(invite, &in_bounds(records), &proof, identity.key(), now);
    let roster = believed.map_err(|error| {
        if error == OrgError::Superseded {
            return ApiError::new(ErrorCode::Refused, format!("not a member by this invite: {error}"));
        }
        let message = format!("who made the invite does not speak for '{}': {error}", invite.name);
        ApiError::new(ErrorCode::Failed, message).hint("ask for another invite")
    })?;
    Ok(Org::new(roster, None, Some(enrolled_by)))
}

/// The organisation of an invite as its issuer tells it, if that is this organisation and says that we are a member by just this proof.
pub(super) fn believe(
    invite: &Invite,
    records: &Records,
    proof: &[u8],
    own: IdentityKey,
    now: UnixTime,
) -> Result<Roster, OrgError> {
    let charters = Charters::from_chain(invite.org, &records.charters, now)?;
    if charters.current().name != invite.name || Proof::verify(proof, &charters, now)?.key() != own {
        return Err(OrgError::ForeignOrg);
    }
    let mut roster = Roster::new(charters);
    roster.learn(records, now);
    roster.add_proof(proof, now)?;
    let is_in_force = roster.proof(&own, now).is_some_and(|counts| counts.bytes() == proof);
    if is_in_force { Ok(roster) } else { Err(OrgError::Superseded) }
}

/// No more than an honest member tells at once: each record costs a signature.
pub(super) fn in_bounds(records: Records) -> Records {
    let Records { mut charters, mut lists, mut proofs, mut whereabouts } = records;
    charters.truncate(CHARTERS_MAX);
    lists.truncate(LISTS_MAX);
    proofs.truncate(LISTS_MAX + SYNC_MEMBERS_MAX);
    whereabouts.truncate(SYNC_MEMBERS_MAX);
    Records { charters, lists, proofs, whereabouts }
}

/// Makes sure that a member whom we call knows us for one (spec/org.md §2.2). Whatever goes wrong: the call itself will tell.
pub(crate) async fn introduce(inner: &Inner, peer: IdentityKey) {
    let now = clock::now().unix;
    for name in inner.orgs.names() {
        let is_member = inner.orgs.with(&name, |org| org.roster.member(&peer, now).is_some());
        if is_member.unwrap_or(false)
            && let Ok(Err(error)) = timeout(INTRODUCTION_TIMEOUT, introduce_in(inner, &name, way_unknown(peer))).await
        {
            tracing::debug!(%error, org = name, "not introduced");
        }
    }
}

/// Somebody to whom a way is known already.
pub(crate) fn way_unknown(key: IdentityKey) -> PeerInfo {
    PeerInfo { key, certificate: None, addresses: Vec::new(), homes: Vec::new() }
}

async fn introduce_in(inner: &Inner, name: &str, peer: PeerInfo) -> Result<(), ApiError> {
    let (key, now) = (peer.key, clock::now().unix);
    let connected_since =
        || async move { inner.ask(move |core, _| core.node.peer_status(&key)).await.ok().flatten()?.connected_since };
    let tunnel = connected_since().await;
    let is_introduced = inner.orgs.with(name, |org| tunnel.is_some() && org.introduced.get(&key).copied() == tunnel)?;
    if is_introduced {
        return Ok(());
    }
    let whereabouts = inner.whereabouts().await?;
    let request = inner.orgs.with(name, |org| {
        let proof = org.roster.proof(&inner.identity.key(), now)?.bytes().to_vec();
        Some(Request::Introduce { org: org.roster.org(), proof, whereabouts })
    })?;
    let Some(request) = request else { return Ok(()) };
    let Reply::Introduced { proof, whereabouts } = call(inner, peer, &request).await? else {
        return Err(unexpected());
    };
    if let Some(tunnel) = connected_since().await {
        inner.orgs.with(name, |org| org.introduced.insert(key, tunnel))?;
    }
    let records = Records { proofs: vec![proof.into()], whereabouts: vec![whereabouts.into()], ..Records::default() };
    inner.orgs.learn(name, &records, now).await?;
    Ok(())
}

/// Asks for news of members before a look-up, unless that was done a moment ago, or is still being done.
pub(crate) async fn refresh(inner: &Arc<Inner>, name: &str) {
    let now = clock::now().mono;
    let turn = inner.orgs.with(name, |org| {
        let is_due = org.asked_at.is_none_or(|asked_at| now.since(asked_at) >= NEWS_INTERVAL);
        let turn = Arc::clone(&org.asking).try_lock_owned().ok().filter(|_| is_due)?;
        org.asked_at = Some(now);
        Some(turn)
    });
    if let Ok(Some(turn)) = turn {
        // The look-up goes on with what is known; the news still arrive for the next one.
        let (inner, name) = (Arc::clone(inner), name.to_owned());
        let asking = tokio::spawn(async move {
            sync(&inner, &name).await;
            drop(turn);
        });
        timeout(NEWS_TIMEOUT, asking).await.ok();
    }
}

/// Asks members for news until two have answered: one alone could keep something back.
pub(crate) async fn sync(inner: &Arc<Inner>, name: &str) {
    let mut answered = 0;
    for peer in candidates(inner, name).await {
        match sync_with(inner, name, peer).await {
            Ok(()) => answered += 1,
            Err(error) => tracing::debug!(%error, org = name, "no news"),
        }
        if answered == ANSWERS_WANTED {
            return;
        }
    }
}

async fn sync_with(inner: &Arc<Inner>, name: &str, peer: PeerInfo) -> Result<(), ApiError> {
    // A stranger is told nothing.
    introduce_in(inner, name, peer.clone()).await?;
    let began = clock::now().mono;
    for _ in 0..NEWS_MAX {
        let request = inner.orgs.with(name, |org| {
            let Heard { epoch, after } = org.heard.get(&peer.key).copied().unwrap_or_default();
            let known = org.roster.rule_digests().map(ListDigest).collect();
            Request::Sync { org: org.roster.org(), after, epoch, known }
        })?;
        let Reply::News { epoch, after, more, records } = call(inner, peer.clone(), &request).await? else {
            return Err(unexpected());
        };
        let news = inner.orgs.learn(name, &in_bounds(records), clock::now().unix).await?;
        // Whatever becomes of the rest.
        announce(inner, name, news, None).await;
        let is_progress = inner.orgs.with(name, |org| {
            let heard = org.heard.insert(peer.key, Heard { epoch, after }).unwrap_or_default();
            heard.epoch != epoch || heard.after < after
        })?;
        if !more || !is_progress || clock::now().mono.since(began) >= NEWS_TIME_MAX {
            break;
        }
    }
    Ok(())
}

/// Shows itself to a few members, whoever they are: so that others hear of this agent from them while its issuer is away.
pub(crate) async fn meet(inner: &Arc<Inner>, name: &str) {
    let now = clock::now().unix;
    let own = inner.identity.key();
    let others = inner.orgs.with(name, |org| {
        let mut others: Vec<_> = org.roster.members(now).map(Proof::key).filter(|key| *key != own).collect();
        // Each agent meets others of them: keys are random, and so is their distance from ours.
        others.sort_by_key(|key| key.0.iter().zip(own.0).map(|(one, other)| one ^ other).collect::<Vec<_>>());
        others.truncate(MET_MAX);
        others.iter().filter_map(|key| org.route(key, now)).collect::<Vec<_>>()
    });
    let mut meetings = JoinSet::new();
    for other in others.unwrap_or_default() {
        let (inner, name) = (Arc::clone(inner), name.to_owned());
        meetings.spawn(async move { drop(introduce_in(&inner, &name, other).await) });
    }
    meetings.join_all().await;
}

/// Members to ask, the likeliest to answer first: those with a tunnel, who has enrolled us, then those seen last.
async fn candidates(inner: &Inner, name: &str) -> Vec<PeerInfo> {
    let connected = connected(inner).await;
    let now = clock::now().unix;
    let own = inner.identity.key();
    let candidates = inner.orgs.with(name, |org| {
        let others = org.roster.members(now).map(Proof::key).filter(|key| *key != own);
        let mut keys: Vec<_> = others.collect();
        let rank = |key: &IdentityKey| {
            // Nobody was seen in the future.
            let seen = org.roster.whereabouts(key).map(|whereabouts| whereabouts.issued.min(now));
            (connected.contains(key), org.enrolled_by == Some(*key), seen)
        };
        keys.sort_by_key(|key| std::cmp::Reverse(rank(key)));
        keys.into_iter().take(ASKED_MAX).filter_map(|key| org.route(&key, now)).collect()
    });
    candidates.unwrap_or_default()
}

async fn connected(inner: &Inner) -> Vec<IdentityKey> {
    let connected =
        inner.ask(|core, _| core.node.peers().filter(|peer| peer.connected).map(|peer| peer.key).collect::<Vec<_>>());
    connected.await.unwrap_or_default()
}

/// What follows from news: tunnels with former members end, and connected members are told of new lists and charters (spec/org.md §3.6).
pub(crate) async fn announce(inner: &Arc<Inner>, name: &str, learned: Learned, told_by: Option<IdentityKey>) {
    if learned.rules == 0 {
        return;
    }
    end_former(inner, name).await;
    let connected = connected(inner).await;
    tell(inner, name, |key| Some(*key) != told_by && connected.contains(key)).await;
}

/// Tells every member that can be reached what has just been decided here. Those whom we have a tunnel with hear it first.
pub(crate) async fn proclaim(inner: &Arc<Inner>, name: &str) {
    end_former(inner, name).await;
    let connected = connected(inner).await;
    tell(inner, name, |key| connected.contains(key)).await;
    let (inner, name) = (Arc::clone(inner), name.to_owned());
    tokio::spawn(async move { tell(&inner, &name, |key| !connected.contains(key)).await });
}

/// Tells members all charters and lists. Who does not hear it now hears it when it asks.
async fn tell(inner: &Arc<Inner>, name: &str, is_told: impl Fn(&IdentityKey) -> bool) {
    let now = clock::now().unix;
    let own = inner.identity.key();
    let members = inner.orgs.with(name, |org| {
        let members = org.roster.members(now).map(Proof::key).filter(|key| *key != own && is_told(key));
        members.filter_map(|key| org.route(&key, now)).collect::<Vec<_>>()
    });
    let (Ok(members), Ok(requests)) = (members, tellings(inner, name)) else { return };
    tell_all(inner, name, members, requests).await;
}

async fn tell_all(inner: &Arc<Inner>, name: &str, members: Vec<PeerInfo>, requests: Vec<Request>) {
    let requests = Arc::new(requests);
    let mut calls = JoinSet::new();
    for member in members {
        if calls.len() >= TOLD_AT_ONCE {
            calls.join_next().await;
        }
        let (inner, name, requests) = (Arc::clone(inner), name.to_owned(), Arc::clone(&requests));
        calls.spawn(async move {
            let key = member.key;
            tell_one(&inner, &name, member, &requests).await;
            // Who is none has a tunnel only since it was to be told.
            end_tunnels(&inner, &name, vec![key]).await;
        });
    }
    calls.join_all().await;
}

async fn tell_one(inner: &Inner, name: &str, member: PeerInfo, requests: &[Request]) {
    for request in requests {
        let mut told = call(inner, member.clone(), request).await;
        // Perhaps it has not heard yet that we are a member.
        if told.as_ref().is_err_and(|error| error.code == ErrorCode::Refused)
            && introduce_in(inner, name, member.clone()).await.is_ok()
        {
            told = call(inner, member.clone(), request).await;
        }
        if let Err(error) = told {
            tracing::debug!(%error, key = ?member.key, "not told");
            return;
        }
    }
}

/// What tells all charters and lists, the newest first, and shows each time whose word it is: a member that a thief of the organisation's key
/// has revoked is to be heard with the charter that ends that.
fn tellings(inner: &Inner, name: &str) -> Result<Vec<Request>, ApiError> {
    let now = clock::now().unix;
    inner.orgs.with(name, |org| {
        let own = org.roster.proof(&inner.identity.key(), now).map(|proof| proof.bytes().to_vec());
        let telling = |mut records: Records| {
            records.proofs.extend(own.clone().map(Into::into));
            Request::Tell { org: org.roster.org(), records }
        };
        org.roster.rules_in_parts(&[], LIST_LEN_MAX).into_iter().map(telling).collect()
    })
}

/// Tells former members that they are, if they can be reached. The tunnels that this takes end with it.
pub(crate) fn tell_former(inner: &Arc<Inner>, name: &str, former: Vec<PeerInfo>) {
    let Ok(requests) = tellings(inner, name) else { return };
    let (inner, name) = (Arc::clone(inner), name.to_owned());
    tokio::spawn(async move { tell_all(&inner, &name, former, requests).await });
}

/// Ends the tunnels with those who are members no more, unless they are of our own home. They have ended when this returns.
pub(super) async fn end_former(inner: &Arc<Inner>, name: &str) {
    let former = inner.orgs.take_former(name, clock::now().unix).await;
    end_tunnels(inner, name, former).await;
}

/// Ends the tunnels with those of them who are no members, unless they are of our own home.
async fn end_tunnels(inner: &Inner, name: &str, mut strangers: Vec<IdentityKey>) {
    let now = clock::now().unix;
    let is_kept = inner.orgs.with(name, |org| strangers.retain(|key| org.roster.member(key, now).is_none()));
    if is_kept.is_err() || strangers.is_empty() {
        return;
    }
    let neighbours = inner.home.identities();
    strangers.retain(|key| *key != inner.identity.key() && !neighbours.contains_key(key));
    let reason = format!("no longer a member of '{name}'");
    let close = move |core: &mut crate::driver::Core, now: Now| {
        for key in strangers {
            tracing::info!(?key, "tunnel ends: {reason}");
            let with_remedy = format!("{reason}\nask for a new invite: pilotctl org invite makes one");
            core.node.close_peer(now, &key, Code::REFUSED, &with_remedy);
        }
    };
    inner.ask(close).await.ok();
}

pub(super) fn unexpected() -> ApiError {
    ApiError::new(ErrorCode::Failed, "the member answered something else than was asked")
        .hint("perhaps the two agents are of different versions")
}
