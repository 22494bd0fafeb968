//! What members ask of each other while nobody looks (spec/org.md §3): the date is moved, the network is real.

use std::sync::atomic::{AtomicUsize, Ordering};

use pilot_core::id::IdentityKey;
use pilot_core::org::call::Reply;
use pilot_core::org::charter::Charter;
use pilot_core::org::issuer::{INVITES_MAX, Terms};
use pilot_core::org::membership::Membership;
use pilot_core::org::revocation::{Revocation, RevocationList};
use pilot_core::org::roster::{Records, Roster};

use super::*;
use crate::org::keeper;
use crate::services::{Incoming, Refused};

const FLEET: &str = "fleet";
const HOUR: Duration = Duration::from_secs(3_600);

/// A founder, a lead that it lets enrol, and a worker of the lead, each in a home of its own.
struct Line {
    _homes: Vec<TempDir>,
    all: [Agent; 3],
}

impl Line {
    async fn new() -> Self {
        let homes: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let [founder, lead, worker] = [
            agent(&homes[0], "founder", None).await,
            agent(&homes[1], "lead", None).await,
            agent(&homes[2], "worker", None).await,
        ];
        founder.create_org(&api::orgs::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap();
        let days = |count: u64| count * DAY.as_secs();
        join(&lead, invite(&founder, 1, days(1)).await).await.unwrap();
        join(&worker, invite(&lead, 0, days(90)).await).await.unwrap();
        Self { _homes: homes, all: [founder, lead, worker] }
    }
}

async fn invite(issuer: &Agent, generations: u8, lifetime_s: u64) -> String {
    patiently(issuer.invite(&invite_to(FLEET, generations, lifetime_s))).await.unwrap().invite
}

async fn join(agent: &Agent, token: String) -> Result<api::orgs::Joined, ApiError> {
    patiently(agent.join_org(&api::orgs::JoinRequest { token, org: None, name: None, unless_member: false })).await
}

/// What `who` is by the roster of `at`.
fn membership(at: &Agent, who: &Agent) -> Membership {
    let now = clock::now().unix;
    at.inner.orgs.with(FLEET, |org| org.roster.member(&who.key(), now).cloned()).unwrap().expect("a member")
}

#[tokio::test]
async fn a_member_renews_on_a_fresh_consent_and_for_the_time_that_it_was_given() {
    let line = Line::new().await;
    let [_, lead, worker] = &line.all;
    let before = membership(worker, worker);
    assert_eq!(before.lifetime, 90 * DAY.as_secs());
    assert!(before.expires <= membership(worker, lead).expires, "the lead has a day itself");
    let later = clock::now().unix + DAY * 3 / 4;
    patiently(keeper::renew(&worker.inner, FLEET, later)).await.unwrap();
    for at in [worker, lead] {
        let renewed = membership(at, worker);
        assert_eq!(renewed.consented.as_secs(), later.as_secs(), "it has asked anew");
        assert_eq!(renewed.lifetime, before.lifetime, "and once the lead lasts longer, so does it");
        assert!(renewed.consent.is_some() && renewed.consent != before.consent);
    }
}

#[tokio::test]
async fn who_leaves_is_seen_off_for_what_it_means_and_not_for_what_it_has_asked_for_since() {
    let line = Line::new().await;
    let [_, lead, worker] = &line.all;
    let renewed = clock::now().unix + DAY * 3 / 4;
    let old = membership(worker, worker);
    patiently(keeper::renew(&worker.inner, FLEET, renewed)).await.unwrap();
    let org = old.org;
    let leave = |consented| Request::Leave { org, consented };
    let way = || org::calls::way_unknown(lead.key());
    patiently(org::calls::call(&worker.inner, way(), &leave(old.consented))).await.unwrap();
    assert_ne!(membership(lead, worker).consented, old.consented);
    let new = membership(worker, worker);
    patiently(org::calls::call(&worker.inner, way(), &leave(new.consented))).await.unwrap();
    let now = clock::now().unix;
    assert!(lead.inner.orgs.with(FLEET, |org| org.roster.member(&worker.key(), now).is_none()).unwrap());
}

#[tokio::test]
async fn who_asks_with_a_clock_that_is_off_by_more_than_a_day_is_told_so() {
    let line = Line::new().await;
    let [founder, _, worker] = &line.all;
    let far = clock::now().unix + DAY * 2;
    let consent = [7; 64];
    let invite = invite(founder, 0, 3_600).await.parse::<pilot_core::org::invite::Invite>().unwrap();
    let request = Request::Enrol {
        org: invite.org,
        invite: invite.id,
        secret: *invite.secret,
        modifier: worker.inner.identity.modifier(),
        name: "late".into(),
        consented: far,
        consent,
        lifetime_max: None,
    };
    let found = patiently(worker.resolve(&invite.issuer.to_string())).await.unwrap();
    let way = found.routes.into_iter().next().unwrap();
    let error = patiently(org::calls::call(&worker.inner, way, &request)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Refused);
    assert!(error.message.contains("clock"), "{error:?}");
    let open = &founder.orgs()[0].invites;
    assert_eq!(open[0].uses, 1, "it costs no use");
}

#[tokio::test]
async fn a_member_renews_at_whoever_has_the_key_of_the_organisation_by_now() {
    let homes: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let founder = agent(&homes[0], "founder", None).await;
    let created = founder.create_org(&api::orgs::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap();
    let [heir, worker] = [agent(&homes[1], "heir", None).await, agent(&homes[2], "worker", None).await];
    for member in [&heir, &worker] {
        join(member, invite(&founder, 0, DAY.as_secs()).await).await.unwrap();
    }
    let successor = std::fs::read_to_string(&created.successor_file).unwrap();
    let request = api::orgs::RotateRequest { org: FLEET.into(), stolen: false, successor: Some(successor) };
    patiently(heir.rotate_org_key(&request)).await.unwrap();
    patiently(org::calls::sync(&worker.inner, FLEET)).await;
    patiently(founder.shutdown()).await;

    let later = clock::now().unix + DAY * 3 / 4;
    patiently(keeper::renew(&worker.inner, FLEET, later)).await.unwrap();
    let renewed = membership(&worker, &worker);
    assert_eq!(renewed.consented.as_secs(), later.as_secs());
    assert_eq!(renewed.consent, None, "nobody who is asked gets a word that a delegate could use");
    let known = worker.inner.orgs.with(FLEET, |org| (org.roster.charter().key, org.enrolled_by)).unwrap();
    assert_eq!(known, (renewed.issuer, Some(heir.key())), "and it knows whom to ask next time");
}

/// Has as many leave an organisation as a list of its founder names.
async fn let_many_leave(founder: &Agent) {
    fill_list(founder, 512, true).await;
}

/// Has the list of a founder name so many who are nobody.
async fn fill_list(founder: &Agent, count: u16, has_left: bool) {
    let filled = founder.inner.orgs.change(FLEET, |org| {
        let (key, now) = (org.key.clone().unwrap(), clock::now().unix);
        let named = |number: u16| {
            let mut member = IdentityKey([9; 32]);
            member.0[..2].copy_from_slice(&number.to_be_bytes());
            Revocation { member, until: now, kept_until: now + DAY, has_left }
        };
        let list = org.roster.revocations().next_list(org.roster.charters(), key.key(), None, now).unwrap();
        let list = RevocationList { revocations: (0..count).map(named).collect(), ..list };
        org.roster.add_list(&list.sign(&key).unwrap(), now).unwrap();
        Ok(())
    });
    filled.await.unwrap();
}

#[tokio::test]
async fn who_leaves_when_the_list_is_full_counts_again_where_others_tell_of_it_and_is_revoked_as_ever() {
    let line = Line::new().await;
    let [founder, lead, _] = &line.all;
    let home = tempfile::tempdir().unwrap();
    let other = agent(&home, "other", None).await;
    join(&other, invite(founder, 0, DAY.as_secs()).await).await.unwrap();
    patiently(org::calls::sync(&lead.inner, FLEET)).await;
    let is_member = |at: &Agent| {
        let now = clock::now().unix;
        at.inner.orgs.with(FLEET, |org| org.roster.member(&other.key(), now).is_some()).unwrap()
    };
    assert!(is_member(founder) && is_member(lead));
    let_many_leave(founder).await;
    patiently(other.leave_org(&api::orgs::LeaveRequest { org: FLEET.into(), force: false })).await.unwrap();
    assert!(!is_member(founder), "who has seen it off knows");
    patiently(org::calls::sync(&founder.inner, FLEET)).await;
    assert!(is_member(founder), "until others tell of it");
    let request = api::orgs::RevokeRequest { org: FLEET.into(), member: "other".into() };
    patiently(founder.revoke(&request)).await.unwrap();
    assert!(!is_member(founder));
}

#[tokio::test]
async fn who_has_a_clock_that_is_behind_renews_before_its_issuer_says_that_its_time_is_over() {
    let homes: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let [founder, late] = [agent(&homes[0], "founder", None).await, agent(&homes[1], "late", None).await];
    founder.create_org(&api::orgs::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap();
    let invite = invite(&founder, 0, 3_600).await.parse::<pilot_core::org::invite::Invite>().unwrap();
    let asked = clock::now().unix - DAY * 5 / 6;
    let request = Request::Enrol {
        org: invite.org,
        invite: invite.id,
        secret: *invite.secret,
        modifier: late.inner.identity.modifier(),
        name: "late".into(),
        consented: asked,
        consent: [7; 64],
        lifetime_max: None,
    };
    let found = patiently(late.resolve(&invite.issuer.to_string())).await.unwrap();
    let way = found.routes.into_iter().next().unwrap();
    let reply = patiently(org::calls::call(&late.inner, way, &request)).await.unwrap();
    let Reply::Enrolled { proof, mut records } = reply else { panic!("{reply:?}") };
    records.proofs.push(proof.into());
    let roster = Roster::from_records(invite.org, &records, asked).unwrap();
    late.inner.orgs.add(org::Org::new(roster, None, Some(founder.key())), None).await.unwrap();
    let half_an_hour = Duration::from_secs(1_800);
    for (passed, is_due) in [(half_an_hour / 2, false), (half_an_hour, true)] {
        patiently(keeper::renew(&late.inner, FLEET, asked + passed)).await.unwrap();
        let renewed = membership(&founder, &late).consented.as_secs() == (asked + passed).as_secs();
        assert_eq!(renewed, is_due, "{passed:?}");
    }
}

#[tokio::test]
async fn a_revocation_that_is_refused_has_revoked_nobody() {
    let line = Line::new().await;
    let [_, lead, worker] = &line.all;
    let lists = || lead.inner.orgs.with(FLEET, |org| org.roster.revocations().lists().count()).unwrap();
    let revoke = |member: &str| api::orgs::RevokeRequest { org: FLEET.into(), member: member.into() };
    let error = patiently(lead.revoke(&revoke("founder"))).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::Refused, "this agent has not enrolled 'founder'"));
    assert_eq!(lists(), 0, "nothing was signed");
    let error = patiently(worker.revoke(&revoke("lead"))).await.unwrap_err();
    assert!(error.message.contains("nor may enrol others"), "{error:?}");
    patiently(lead.revoke(&revoke("worker"))).await.unwrap();
    assert_eq!(lists(), 1);
}

#[tokio::test]
async fn a_member_that_starts_with_an_invite_to_another_organisation_of_that_name_is_told_so() {
    let homes: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let [old, new, worker] = [
        agent(&homes[0], "old", None).await,
        agent(&homes[1], "new", None).await,
        agent(&homes[2], "worker", None).await,
    ];
    for founder in [&old, &new] {
        founder.create_org(&api::orgs::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap();
    }
    join(&worker, invite(&old, 0, 3_600).await).await.unwrap();
    let start = async |token: String| {
        let request = api::orgs::JoinRequest { token, org: Some(FLEET.into()), name: None, unless_member: true };
        patiently(worker.join_org(&request)).await
    };
    let error = start(invite(&new, 0, 3_600).await).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::Failed, "this agent is in another organisation 'fleet'"));
    for token in [invite(&old, 0, 3_600).await, "rubbish".into()] {
        assert_eq!(start(token).await.unwrap().org, FLEET, "it needs none");
    }
    assert_eq!((old.orgs()[0].invites.len(), new.orgs()[0].invites.len()), (1, 1), "and uses none");
}

#[tokio::test]
async fn where_there_is_no_room_for_an_invite_or_a_revocation_the_error_says_what_makes_some() {
    let line = Line::new().await;
    let [founder, ..] = &line.all;
    let filled = founder.inner.orgs.change(FLEET, |org| {
        let now = clock::now().unix;
        let terms = Terms { role: "member".into(), groups: vec![], services: vec![], generations: 0, lifetime: 3_600 };
        while org.invites.list(now).count() < INVITES_MAX {
            org.invites.open((entropy()?, &entropy()?), terms.clone(), 1, now + DAY, &org.roster, now).unwrap();
        }
        Ok(())
    });
    filled.await.unwrap();
    let error = patiently(founder.invite(&invite_to(FLEET, 0, 3_600))).await.unwrap_err();
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("org uninvite")), "{error:?}");
    fill_list(founder, 1_024, false).await;
    let error = patiently(founder.revoke(&api::orgs::RevokeRequest { org: FLEET.into(), member: "lead".into() })).await;
    let error = error.unwrap_err();
    assert!(error.message.contains("1024 members") && error.hint.is_some(), "{error:?}");
}

/// Streams to `callee` that ask for nothing, as many as it takes until one is refused; all that were before it have arrived.
async fn hold_calls(silent: &Agent, callee: &Agent) -> Vec<Stream> {
    let ticket = callee.ticket().await.unwrap().to_string();
    let found = patiently(silent.resolve(&ticket)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = patiently(silent.open(&found, StreamHeader::new(ServicePort::ORG))).await.unwrap();
        // One that was refused already takes nothing.
        drop(stream.write_chunk("x".into()).await);
        held.push(stream);
    }
    let refused = patiently(held.last_mut().unwrap().read_chunk()).await.unwrap_err();
    assert_eq!(refused.code, Code::BUSY);
    held
}

#[tokio::test]
async fn who_keeps_many_calls_open_keeps_nobody_else_from_being_heard() {
    let line = Line::new().await;
    let [founder, lead, _] = &line.all;
    let homes: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let [stranger, other] = [agent(&homes[0], "stranger", None).await, agent(&homes[1], "other", None).await];
    let _held = [hold_calls(&stranger, founder).await, hold_calls(lead, founder).await];
    join(&other, invite(founder, 0, 3_600).await).await.unwrap();
    let org = membership(founder, &other).org;
    let request = Request::Sync { org, after: 0, epoch: 0, known: Vec::new() };
    let reply = patiently(org::calls::call(&other.inner, org::calls::way_unknown(founder.key()), &request)).await;
    assert!(matches!(reply, Ok(Reply::News { .. })), "{reply:?}");
}

/// All that comes on a stream.
async fn hear_out(stream: &mut Stream) -> Result<usize, StreamError> {
    let mut len = 0;
    while let Some(chunk) = stream.read_chunk().await? {
        len += chunk.len();
    }
    Ok(len)
}

#[tokio::test]
async fn a_reply_that_its_caller_does_not_take_is_given_up() {
    let homes: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let [caller, callee] = [agent(&homes[0], "caller", None).await, agent(&homes[1], "callee", None).await];
    let (sender, mut calls) = mpsc::channel(1);
    callee.inner.apply(move |core, _| core.org_calls = sender).await.unwrap();
    let found = patiently(caller.resolve(&callee.ticket().await.unwrap().to_string())).await.unwrap();
    let mut call = async || {
        let mut stream = patiently(caller.open(&found, StreamHeader::new(ServicePort::ORG))).await.unwrap();
        stream.finish();
        (stream, patiently(calls.recv()).await.unwrap().stream)
    };
    // More than queues and windows take.
    let reply = Bytes::from(vec![7; 64 * 1_024 * 1_024]);

    let (mut asking, mut answering) = call().await;
    patiently(org::serve::say(&mut answering, reply.clone(), Duration::from_millis(500))).await;
    let given_up = patiently(hear_out(&mut asking)).await.unwrap_err();
    assert_eq!((given_up.code, given_up.by), (Code::DEADLINE_EXCEEDED, EndedBy::Peer));

    let (mut asking, mut answering) = call().await;
    let said = org::serve::say(&mut answering, reply.clone(), PATIENCE);
    let ((), heard) = patiently(async { tokio::join!(said, hear_out(&mut asking)) }).await;
    assert_eq!(heard, Ok(reply.len()));
    assert!(answering.watch().outcome().closed, "it is over when it has arrived");
}

/// Members of one organisation, each in a home of its own and each enrolled by the first, which has the key.
struct Circle {
    _homes: Vec<TempDir>,
    all: Vec<Agent>,
}

impl Circle {
    async fn new(names: &[&str], lifetime: Duration) -> Self {
        let (mut homes, mut all): (Vec<_>, Vec<Agent>) = (Vec::new(), Vec::new());
        for name in names {
            let home = tempfile::tempdir().unwrap();
            let agent = agent(&home, name, None).await;
            match all.first() {
                None => drop(
                    agent.create_org(&api::orgs::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap(),
                ),
                Some(founder) => drop(join(&agent, invite(founder, 0, lifetime.as_secs()).await).await.unwrap()),
            }
            homes.push(home);
            all.push(agent);
        }
        for member in &all {
            patiently(org::calls::sync(&member.inner, FLEET)).await;
            patiently(org::calls::meet(&member.inner, FLEET)).await;
        }
        Self { _homes: homes, all }
    }
}

/// Replaces the organisation's key, in whose place `seed` makes one, and tells nobody. What it has signed counts for ten hours more.
async fn replace_key(holder: &Agent, seed: u8) -> IdentityKey {
    let [key, successor] = [seed, seed + 1].map(|seed| Identity::generate([seed; 32]));
    let replaced = holder.inner.orgs.change(FLEET, |org| {
        let now = clock::now().unix;
        let signer = org.key.replace(key.clone()).unwrap();
        let charter = Charter {
            sequence: 1,
            key: key.key(),
            successor: successor.key(),
            previous_until: now + HOUR * 10,
            issued: now,
            ..org.roster.charter().clone()
        };
        org.roster.add_charter(&charter.sign(&signer).unwrap(), now).unwrap();
        Ok(key.key())
    });
    replaced.await.unwrap()
}

/// Brings the organisation's key from one agent to another.
async fn bring_key(from: &Agent, to: &Agent) {
    let key = from.inner.orgs.with(FLEET, |org| org.key.clone()).unwrap();
    to.inner.orgs.with(FLEET, |org| org.key = key).unwrap();
}

fn charter(at: &Agent) -> Charter {
    at.inner.orgs.with(FLEET, |org| org.roster.charter().clone()).unwrap()
}

#[tokio::test]
async fn who_is_a_member_by_a_key_that_was_replaced_renews_before_that_ones_word_ends() {
    let circle = Circle::new(&["founder", "worker"], DAY * 400).await;
    let key = replace_key(&circle.all[0], 21).await;
    patiently(org::calls::sync(&circle.all[1].inner, FLEET)).await;
    let now = clock::now().unix;
    for (hours, is_due) in [(4, false), (6, true)] {
        for member in &circle.all {
            patiently(keeper::renew(&member.inner, FLEET, now + HOUR * hours)).await.unwrap();
            assert_eq!(membership(member, member).issuer == key, is_due, "{} after {hours} hours", member.name());
        }
    }
}

#[tokio::test]
async fn who_has_the_key_and_is_a_member_no_more_makes_itself_one_while_it_runs() {
    let circle = Circle::new(&["founder"], DAY).await;
    let key = replace_key(&circle.all[0], 21).await;
    let later = clock::now().unix + HOUR * 11;
    patiently(keeper::renew(&circle.all[0].inner, FLEET, later)).await.unwrap();
    assert_eq!(membership(&circle.all[0], &circle.all[0]).issuer, key);
}

#[tokio::test]
async fn who_has_the_key_gives_itself_its_membership_anew_also_where_a_delegate_has_made_it_a_member() {
    let line = Line::new().await;
    let [founder, _, worker] = &line.all;
    bring_key(founder, worker).await;
    let later = clock::now().unix + DAY * 3 / 4;
    patiently(keeper::renew(&worker.inner, FLEET, later)).await.unwrap();
    let renewed = membership(worker, worker);
    assert_eq!((renewed.issuer, renewed.role.as_str()), (charter(worker).key, "member"));
}

#[tokio::test]
async fn where_two_have_replaced_the_key_at_once_the_successor_that_is_given_decides() {
    let circle = Circle::new(&["founder", "heir", "worker"], DAY).await;
    let [founder, heir, worker] = &circle.all[..] else { unreachable!() };
    let file = org::store::successor_file(founder.home(), FLEET);
    let safe = std::fs::read_to_string(file).unwrap();
    bring_key(founder, heir).await;
    replace_key(founder, 21).await;
    replace_key(heir, 31).await;
    patiently(org::calls::sync(&worker.inner, FLEET)).await;
    assert_ne!(charter(founder), charter(heir));

    let request = api::orgs::RotateRequest { org: FLEET.into(), stolen: false, successor: Some(safe) };
    patiently(founder.rotate_org_key(&request)).await.unwrap();
    for member in [heir, worker] {
        patiently(org::calls::sync(&member.inner, FLEET)).await;
        assert_eq!(charter(member), charter(founder), "{}", member.name());
        assert_eq!(member.org_members(FLEET).await.unwrap().len(), 3);
    }
    let again = patiently(founder.rotate_org_key(&request)).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::Refused, "it is used up: {again:?}");
}

#[tokio::test]
async fn a_successor_of_an_earlier_key_does_not_take_the_membership_of_those_whom_the_present_one_has_enrolled() {
    let circle = Circle::new(&["founder"], DAY).await;
    let founder = &circle.all[0];
    let safe = std::fs::read_to_string(org::store::successor_file(founder.home(), FLEET)).unwrap();
    replace_key(founder, 21).await;
    let home = tempfile::tempdir().unwrap();
    let late = agent(&home, "late", None).await;
    join(&late, invite(founder, 0, DAY.as_secs()).await).await.unwrap();
    let before = charter(founder);
    let request = api::orgs::RotateRequest { org: FLEET.into(), stolen: false, successor: Some(safe) };
    let refused = patiently(founder.rotate_org_key(&request)).await.unwrap_err();
    assert!(refused.code == ErrorCode::Refused && refused.message.contains("late"), "{refused:?}");
    assert_eq!(charter(founder), before);
    patiently(founder.revoke(&api::orgs::RevokeRequest { org: FLEET.into(), member: "late".into() })).await.unwrap();
    patiently(founder.rotate_org_key(&request)).await.unwrap();
    assert_eq!(charter(founder).sequence, 1);
}

/// Has an agent answer members with what `lie` says, or not at all.
async fn let_lie(liar: &Agent, mut lie: impl FnMut(&Request) -> Option<Reply> + Send + 'static) {
    let (sender, mut calls) = mpsc::channel::<Incoming>(16);
    liar.inner.apply(move |core, _| core.org_calls = sender).await.unwrap();
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some(mut incoming) = calls.recv().await {
            let mut request = Vec::new();
            while let Ok(Some(chunk)) = incoming.stream.read_chunk().await {
                request.extend_from_slice(&chunk);
            }
            if let Some(reply) = lie(&Request::decode(&request).unwrap()) {
                incoming.stream.write_chunk(reply.encode().into()).await.unwrap();
                incoming.stream.finish();
            } else {
                unanswered.push(incoming);
            }
        }
    });
}

#[tokio::test]
async fn a_member_that_always_has_more_to_tell_is_not_heard_for_ever() {
    let circle = Circle::new(&["founder", "liar"], DAY).await;
    let [founder, liar] = &circle.all[..] else { unreachable!() };
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let_lie(liar, move |_| {
        let epoch = count.fetch_add(1, Ordering::Relaxed) as u64;
        Some(Reply::News { epoch, after: 1, more: true, records: Records::default() })
    })
    .await;
    patiently(org::calls::sync(&founder.inner, FLEET)).await;
    assert!((2..100).contains(&asked.load(Ordering::Relaxed)), "{asked:?}");
}

#[tokio::test]
async fn of_look_ups_one_asks_for_news_at_a_time() {
    let circle = Circle::new(&["founder", "silent"], DAY).await;
    let [founder, silent] = &circle.all[..] else { unreachable!() };
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let_lie(silent, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        None
    })
    .await;
    for _ in 0..2 {
        org::calls::refresh(&founder.inner, FLEET).await;
        // Longer than look-ups wait for each other's news, and shorter than a call for its reply.
        tokio::time::sleep(Duration::from_millis(2_200)).await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_tunnel_with_a_revoked_member_ends_also_when_the_list_arrives_with_a_renewal() {
    let circle = Circle::new(&["founder", "gone", "worker"], DAY).await;
    let [founder, gone, worker] = &circle.all[..] else { unreachable!() };
    let is_connected = async || worker.peer_status(gone.key()).await.is_some_and(|status| status.connected);
    assert!(is_connected().await);
    // Signed, and told to nobody.
    let signed = founder.inner.orgs.change(FLEET, |org| {
        let (key, now) = (org.key.clone().unwrap(), clock::now().unix);
        let revocation = org.roster.revocation(org.roster.member(&gone.key(), now).unwrap(), now);
        let list = org.roster.revocations().next_list(org.roster.charters(), key.key(), Some(revocation), now).unwrap();
        org.roster.add_list(&list.sign(&key).unwrap(), now).unwrap();
        Ok(())
    });
    signed.await.unwrap();
    patiently(keeper::renew(&worker.inner, FLEET, clock::now().unix + DAY * 3 / 4)).await.unwrap();
    assert!(!is_connected().await, "it has ended when the list is here, without a moment between");
}

#[tokio::test]
async fn who_has_answered_that_it_was_told_of_a_revocation_has_no_tunnel_with_that_member_any_more() {
    let circle = Circle::new(&["founder", "gone", "worker"], DAY).await;
    let [founder, gone, worker] = &circle.all[..] else { unreachable!() };
    let is_connected = async || worker.peer_status(gone.key()).await.is_some_and(|status| status.connected);
    assert!(is_connected().await);
    patiently(founder.revoke(&api::orgs::RevokeRequest { org: FLEET.into(), member: "gone".into() })).await.unwrap();
    assert!(!is_connected().await);
}

#[tokio::test]
async fn who_is_too_busy_to_be_told_of_a_revocation_is_told_again() {
    let circle = Circle::new(&["founder", "gone", "worker"], DAY).await;
    let [founder, gone, worker] = &circle.all[..] else { unreachable!() };
    let (sender, mut calls) = mpsc::channel::<Incoming>(16);
    let answered = worker.inner.ask(move |core, _| std::mem::replace(&mut core.org_calls, sender)).await.unwrap();
    tokio::spawn(async move {
        for _ in 0..2 {
            let incoming = calls.recv().await.unwrap();
            Refused::new(incoming, Code::BUSY, "too many calls".into()).send();
        }
        while let Some(incoming) = calls.recv().await {
            answered.send(incoming).await.unwrap();
        }
    });
    patiently(founder.revoke(&api::orgs::RevokeRequest { org: FLEET.into(), member: "gone".into() })).await.unwrap();
    let now = clock::now().unix;
    assert!(worker.inner.orgs.with(FLEET, |org| org.roster.member(&gone.key(), now).is_none()).unwrap());
}

#[tokio::test]
async fn who_stays_too_busy_is_called_a_few_times_and_no_more() {
    let circle = Circle::new(&["founder", "busy"], DAY).await;
    let [founder, busy] = &circle.all[..] else { unreachable!() };
    let (sender, mut calls) = mpsc::channel::<Incoming>(16);
    busy.inner.apply(move |core, _| core.org_calls = sender).await.unwrap();
    let counting = tokio::spawn(async move {
        for count in 0.. {
            let Some(incoming) = calls.recv().await else { return count };
            Refused::new(incoming, Code::BUSY, "too many calls".into()).send();
        }
        unreachable!()
    });
    let org = membership(founder, busy).org;
    let request = Request::Sync { org, after: 0, epoch: 0, known: Vec::new() };
    let error = patiently(org::calls::call(&founder.inner, org::calls::way_unknown(busy.key()), &request)).await;
    assert!(error.unwrap_err().message.contains("too many calls"), "it is told what it was, and not that it took long");
    // Nobody is called any more.
    busy.inner.apply(move |core, _| core.org_calls = mpsc::channel(1).0).await.unwrap();
    assert_eq!(patiently(counting).await.unwrap(), 5);
}

#[tokio::test]
async fn a_member_that_only_says_that_it_has_renewed_somebody_keeps_nobody_from_renewing() {
    let circle = Circle::new(&["founder", "liar", "worker"], DAY).await;
    let [founder, liar, worker] = &circle.all[..] else { unreachable!() };
    let now = clock::now().unix;
    let proof = |org: &mut org::Org| org.roster.proof(&worker.key(), now).unwrap().bytes().to_vec();
    let known = worker.inner.orgs.with(FLEET, proof).unwrap();
    worker.inner.orgs.with(FLEET, |org| org.enrolled_by = Some(liar.key())).unwrap();
    let_lie(liar, move |_| Some(Reply::Enrolled { proof: known.clone(), records: Records::default() })).await;

    let later = now + DAY * 3 / 4;
    patiently(keeper::renew(&worker.inner, FLEET, later)).await.unwrap();
    assert_eq!(membership(worker, worker).consented.as_secs(), later.as_secs());
    let asked_first = worker.inner.orgs.with(FLEET, |org| org.enrolled_by).unwrap();
    assert_eq!(asked_first, Some(founder.key()));
}
