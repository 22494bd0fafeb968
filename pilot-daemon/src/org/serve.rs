//! What an agent answers other members (spec/org.md §3).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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
use crate::services::{Incoming, Refused};
use crate::stream::Stream;

/// Calls that have come in between two turns: as many as four callers may have open.
pub(crate) const CALLS_MAX: usize = 4_096;
/// Requests that are answered at once: each may wait for the disk. One that is still to come, or a reply that is to arrive, holds up nobody.
const ANSWERED_AT_ONCE: usize = 16;
/// Calls of one caller that are read, answered and replied to at once; its others wait, unread.
const CALLER_AT_ONCE: usize = 8;
/// Calls of members: of a whole fleet at once, and of one that has much to tell.
const OF_MEMBERS: Room = Room { all: 512, one: 64 };
/// Calls of anybody else, who wants to join, or to show that it is a member: whoever has many keys takes no room from members.
const OF_STRANGERS: Room = Room { all: 256, one: 16 };
/// A request must be here after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A reply must have arrived after this; its caller waits for half of it.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const TOO_MANY_CALLS: &str = "too many calls of members wait";
/// Members told of with a new membership; the others come with the first sync.
const FIRST_MEMBERS_MAX: usize = SYNC_MEMBERS_MAX;

/// How many calls there may be.
struct Room {
    all: usize,
    /// Of one caller.
    one: usize,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Caller {
    /// Whether it was a member when it called.
    is_member: bool,
    key: IdentityKey,
}

/// The calls that are here: nobody's keep those of others from being answered.
#[derive(Debug)]
struct Desk<T>(BTreeMap<Caller, Calls<T>>);

/// Those of one caller.
#[derive(Debug)]
struct Calls<T> {
    at_work: usize,
    waiting: VecDeque<T>,
}

/// What becomes of a call.
#[derive(Debug, PartialEq, Eq)]
enum Taken<T> {
    /// It is to be answered now.
    Now(T),
    /// When another one of its caller is done.
    Later,
    /// There is no room for it.
    Refused(T),
}

impl<T> Desk<T> {
    fn take(&mut self, caller: Caller, call: T) -> Taken<T> {
        let Self(callers) = self;
        let room = if caller.is_member { OF_MEMBERS } else { OF_STRANGERS };
        let of_its_kind = callers.iter().filter(|(other, _)| other.is_member == caller.is_member);
        let all: usize = of_its_kind.map(|(_, calls)| calls.len()).sum();
        if all >= room.all || callers.get(&caller).is_some_and(|calls| calls.len() >= room.one) {
            return Taken::Refused(call);
        }
        let calls = callers.entry(caller).or_insert_with(|| Calls { at_work: 0, waiting: VecDeque::new() });
        if calls.at_work < CALLER_AT_ONCE {
            calls.at_work += 1;
            return Taken::Now(call);
        }
        calls.waiting.push_back(call);
        Taken::Later
    }

    /// Tells which call of that caller comes in place of one that is done.
    fn next(&mut self, caller: &Caller) -> Option<T> {
        let calls = self.0.get_mut(caller)?;
        let next = calls.waiting.pop_front();
        if next.is_none() {
            calls.at_work -= 1;
            if calls.at_work == 0 {
                self.0.remove(caller);
            }
        }
        next
    }
}

impl<T> Calls<T> {
    fn len(&self) -> usize {
        self.at_work + self.waiting.len()
    }
}

/// Answers calls until the agent is gone.
pub(crate) async fn run(agent: Weak<Inner>, mut calls: mpsc::Receiver<Incoming>) {
    let slots = Arc::new(Semaphore::new(ANSWERED_AT_ONCE));
    // A leaf, never held across an await.
    let desk = Arc::new(Mutex::new(Desk(BTreeMap::new())));
    while let Some(incoming) = calls.recv().await {
        let Some(inner) = agent.upgrade() else { return };
        let key = incoming.peer;
        let caller = Caller { is_member: inner.orgs.is_member_of_any(&key, clock::now().unix), key };
        let taken = lock(&desk).take(caller, incoming);
        match taken {
            Taken::Now(incoming) => {
                tokio::spawn(answer_all(inner, caller, incoming, Arc::clone(&desk), Arc::clone(&slots)));
            }
            Taken::Later => {}
            Taken::Refused(incoming) => Refused::new(incoming, Code::BUSY, TOO_MANY_CALLS.into()).send(),
        }
    }
}

fn lock<T>(desk: &Mutex<Desk<T>>) -> MutexGuard<'_, Desk<T>> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers a call, and then those of the same caller that wait.
async fn answer_all(
    inner: Arc<Inner>,
    caller: Caller,
    first: Incoming,
    desk: Arc<Mutex<Desk<Incoming>>>,
    slots: Arc<Semaphore>,
) {
    let mut next = Some(first);
    while let Some(incoming) = next {
        answer(&inner, incoming, &slots).await;
        next = lock(&desk).next(&caller);
    }
}

async fn answer(inner: &Arc<Inner>, mut incoming: Incoming, slots: &Semaphore) {
    let Ok(Some(request)) = timeout(REQUEST_TIMEOUT, read(&mut incoming)).await else {
        return incoming.stream.reset(Code::BAD_REQUEST, "no call between members");
    };
    let slot = slots.acquire().await;
    let reply = handle(inner, incoming.peer, request).await;
    drop(slot);
    let reply = reply.unwrap_or_else(|error| Reply::Refused { reason: error.message });
    say(&mut incoming.stream, Bytes::from(reply.encode()), REPLY_TIMEOUT).await;
}

/// Says all that there is to say, and returns when it has arrived. What is not taken in that time is given up: nobody has its replies kept
/// here.
pub(crate) async fn say(stream: &mut Stream, reply: Bytes, time: Duration) {
    let watch = stream.watch();
    let said = async {
        if stream.write_chunk(reply).await.is_ok() {
            stream.finish();
            watch.closed().await;
        }
    };
    if timeout(time, said).await.is_err() {
        stream.reset(Code::DEADLINE_EXCEEDED, "the reply was not taken");
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
            if learned.rules > 0 {
                // The tunnels with those whom it has told of have ended when it hears our answer.
                calls::end_former(inner, &name).await;
            }
            let inner = Arc::clone(inner);
            // It need not wait for those whom we tell.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u16, is_member: bool) -> Caller {
        let mut key = IdentityKey([0; 32]);
        key.0[..2].copy_from_slice(&number.to_be_bytes());
        Caller { is_member, key }
    }

    #[test]
    fn of_one_caller_few_calls_are_answered_at_once_some_wait_in_turn_and_no_more() {
        let mut desk = Desk(BTreeMap::new());
        for is_member in [true, false] {
            let (one, room) = (caller(1, is_member), if is_member { 64 } else { 16 });
            for call in 0..8 {
                assert_eq!(desk.take(one, call), Taken::Now(call));
            }
            for call in 8..room {
                assert_eq!(desk.take(one, call), Taken::Later);
            }
            assert_eq!(desk.take(one, room), Taken::Refused(room));
            assert_eq!(desk.take(caller(2, is_member), 0), Taken::Now(0), "that is nobody else's concern");
            let in_turn: Vec<_> = std::iter::from_fn(|| desk.next(&one)).collect();
            assert_eq!(in_turn, (8..room).collect::<Vec<_>>());
            assert_eq!(desk.take(one, room), Taken::Now(room), "one is done");
        }
    }

    #[test]
    fn strangers_take_no_room_from_members_and_who_is_done_leaves_nothing() {
        let mut desk = Desk(BTreeMap::new());
        let fill = |desk: &mut Desk<()>, is_member| {
            let is_taken = |number: &u16| !matches!(desk.take(caller(*number, is_member), ()), Taken::Refused(()));
            (0..1_000).filter(is_taken).count()
        };
        assert_eq!(fill(&mut desk, false), 256);
        assert_eq!(fill(&mut desk, true), 512);
        for (number, is_member) in (0..1_000).flat_map(|number| [(number, true), (number, false)]) {
            assert_eq!(desk.next(&caller(number, is_member)), None);
        }
        assert!(desk.0.is_empty());
    }
}
