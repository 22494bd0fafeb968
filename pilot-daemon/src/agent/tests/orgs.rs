//! What members ask of each other while nobody looks (spec/org.md §3): the date is moved, the network is real.

use pilot_core::id::IdentityKey;
use pilot_core::org::call::Reply;
use pilot_core::org::issuer::{INVITES_MAX, Terms};
use pilot_core::org::membership::Membership;
use pilot_core::org::revocation::{Revocation, RevocationList};
use pilot_core::org::roster::Roster;

use super::*;
use crate::org::keeper;

const FLEET: &str = "fleet";

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
        founder.create_org(&types::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap();
        let days = |count: u64| count * DAY.as_secs();
        join(&lead, invite(&founder, 1, days(1)).await).await.unwrap();
        join(&worker, invite(&lead, 0, days(90)).await).await.unwrap();
        Self { _homes: homes, all: [founder, lead, worker] }
    }
}

async fn invite(issuer: &Agent, generations: u8, lifetime_s: u64) -> String {
    let request = types::InviteRequest {
        org: FLEET.into(),
        uses: 1,
        expires_s: 3_600,
        role: "member".into(),
        groups: vec![],
        services: vec![],
        generations,
        lifetime_s,
        code: false,
    };
    patiently(issuer.invite(&request)).await.unwrap().invite
}

async fn join(agent: &Agent, token: String) -> Result<types::Joined, ApiError> {
    patiently(agent.join_org(&types::JoinRequest { token, org: None, name: None, unless_member: false })).await
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
    let created = founder.create_org(&types::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap();
    let [heir, worker] = [agent(&homes[1], "heir", None).await, agent(&homes[2], "worker", None).await];
    for member in [&heir, &worker] {
        join(member, invite(&founder, 0, DAY.as_secs()).await).await.unwrap();
    }
    let successor = std::fs::read_to_string(&created.successor_file).unwrap();
    let request = types::RotateRequest { org: FLEET.into(), stolen: false, successor: Some(successor) };
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
    patiently(other.leave_org(&types::LeaveRequest { org: FLEET.into(), force: false })).await.unwrap();
    assert!(!is_member(founder), "who has seen it off knows");
    patiently(org::calls::sync(&founder.inner, FLEET)).await;
    assert!(is_member(founder), "until others tell of it");
    let request = types::RevokeRequest { org: FLEET.into(), member: "other".into() };
    patiently(founder.revoke(&request)).await.unwrap();
    assert!(!is_member(founder));
}

#[tokio::test]
async fn who_has_a_clock_that_is_behind_renews_before_its_issuer_says_that_its_time_is_over() {
    let homes: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let [founder, late] = [agent(&homes[0], "founder", None).await, agent(&homes[1], "late", None).await];
    founder.create_org(&types::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap();
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
    let revoke = |member: &str| types::RevokeRequest { org: FLEET.into(), member: member.into() };
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
        founder.create_org(&types::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap();
    }
    join(&worker, invite(&old, 0, 3_600).await).await.unwrap();
    let start = async |token: String| {
        let request = types::JoinRequest { token, org: Some(FLEET.into()), name: None, unless_member: true };
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
    let request = types::InviteRequest {
        org: FLEET.into(),
        uses: 1,
        expires_s: 3_600,
        role: "member".into(),
        groups: vec![],
        services: vec![],
        generations: 0,
        lifetime_s: 3_600,
        code: false,
    };
    let error = patiently(founder.invite(&request)).await.unwrap_err();
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("org uninvite")), "{error:?}");
    fill_list(founder, 1_024, false).await;
    let error = patiently(founder.revoke(&types::RevokeRequest { org: FLEET.into(), member: "lead".into() })).await;
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
