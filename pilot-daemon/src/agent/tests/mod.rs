//! What only the agent itself can show of its renewal: the date is moved, the network is real.

mod codes;
mod orgs;

use std::path::Path;

use pilot_core::id::KeyId;
use pilot_core::identity::{Certificate, Identity};
use pilot_core::org::call::Request;
use pilot_relay::driver::{ServeOptions, serve};
use tempfile::TempDir;

use super::*;
use crate::api;

/// Nothing here takes a tenth of it; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(86_400);

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("finished in time")
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

async fn backbone(home: &Path) -> BackboneTicket {
    let home_dir = home.join("backbone");
    let options = ServeOptions { advertise: Some("127.0.0.1".into()), ..ServeOptions::new(loopback(), home_dir) };
    let (sender, ready) = oneshot::channel();
    tokio::spawn(serve(options, |ready| drop(sender.send(ready.ticket.clone()))));
    patiently(ready).await.unwrap()
}

async fn agent(home: &TempDir, name: &str, backbone: Option<&BackboneTicket>) -> Agent {
    let config = AgentConfig {
        listen: loopback(),
        backbone: backbone.cloned(),
        ..AgentConfig::new(Home::at(home.path()), name)
    };
    Agent::start(config).await.unwrap()
}

/// What is asked for an invite of one use.
fn invite_to(org: &str, generations: u8, lifetime_s: u64) -> api::orgs::InviteRequest {
    api::orgs::InviteRequest {
        org: org.into(),
        uses: 1,
        expires_s: 600,
        role: "member".into(),
        groups: vec![],
        services: vec![],
        generations,
        lifetime_s,
        code: false,
    }
}

/// What the agent does hourly, some days from now; returns the certificates before and after.
async fn renew(agent: &Agent, later: Duration) -> (Certificate, Certificate) {
    let inner = &agent.inner;
    let now = clock::now().unix;
    let before = inner.certificate.borrow().clone();
    let keys = inner.agent_home.renewed_keys(inner.identity.clone(), before.instance, now);
    let mut renewal = KeyRenewal::new(inner.agent_home.clone(), &keys.unwrap(), now);
    inner.renew_keys(&mut renewal, now + later).await.unwrap();
    (before, inner.certificate.borrow().clone())
}

/// The keys under which the directory says that an agent is reached.
fn key_ids(found: &Resolved) -> Vec<KeyId> {
    found.routes.iter().filter_map(|route| route.certificate.as_ref()).map(|certificate| certificate.key_id).collect()
}

async fn echo(stream: &mut Stream, words: &'static str) {
    stream.write_chunk(words.into()).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < words.len() {
        heard.extend(patiently(stream.read_chunk()).await.unwrap().expect("the stream goes on"));
    }
    assert_eq!(heard, words.as_bytes());
}

#[tokio::test]
async fn renewed_certificate_is_in_the_directory_and_streams_go_on() {
    let home = tempfile::tempdir().unwrap();
    let ticket = backbone(home.path()).await;
    let alpha = agent(&home, "agent-alpha", Some(&ticket)).await;
    let beta = agent(&home, "agent-beta", Some(&ticket)).await;
    let gamma = agent(&home, "agent-gamma", Some(&ticket)).await;
    let found = patiently(alpha.resolve("agent-beta")).await.unwrap();
    let mut stream = alpha.open(&found, header("echo").unwrap()).await.unwrap();
    echo(&mut stream, "before").await;

    let (old, new) = renew(&beta, DAY).await;
    assert_eq!(key_ids(&found), [old.key_id]);
    assert_ne!(new.key_id, old.key_id);
    echo(&mut stream, "after").await;

    let served = patiently(async {
        loop {
            let found = gamma.resolve("agent-beta").await.unwrap();
            if key_ids(&found) == [new.key_id] {
                return found;
            }
            tokio::task::yield_now().await;
        }
    });
    patiently(gamma.ping(&served.await, PATIENCE)).await.unwrap();
    echo(&mut stream, "and on").await;
}

#[tokio::test]
async fn a_heartbeat_writes_nothing_to_the_file_of_the_directory() {
    let home = tempfile::tempdir().unwrap();
    let ticket = backbone(home.path()).await;
    let beta = agent(&home, "agent-beta", Some(&ticket)).await;
    let file = home.path().join("backbone").join("directory.redb");
    let written = std::fs::read(&file).unwrap();
    for _ in 0..3 {
        // A new certificate is news for the presence record alone.
        let (_, new) = renew(&beta, DAY).await;
        patiently(async {
            loop {
                let found = beta.resolve("agent-beta").await.unwrap();
                if key_ids(&found) == [new.key_id] {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(std::fs::read(&file).unwrap() == written, "a heartbeat was written down");
    }
    beta.change_groups(&["research".into()], &[]).unwrap();
    assert_eq!(beta.published(PATIENCE).await, Some(Ok(())));
    assert!(std::fs::read(&file).unwrap() != written, "a change was not written down");
}

#[tokio::test]
async fn ticket_holder_gets_in_whatever_keys_were_renewed_since() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (alpha, beta) = (agent(&one, "agent-alpha", None).await, agent(&other, "agent-beta", None).await);
    let ticket = beta.ticket().await.unwrap().to_string();
    renew(&beta, DAY).await;
    let found = patiently(alpha.resolve(&ticket)).await.unwrap();
    patiently(alpha.ping(&found, PATIENCE)).await.unwrap();
}

/// Sends so much to an echo service, and takes it back; returns how long the datagrams are on average that have come here for it.
async fn mean_datagram(agent: &Agent, stream: &mut Stream, bytes: usize) -> u64 {
    let received = || agent.inner.ask(|core, _| (core.net.bytes_received, core.net.datagrams_received));
    let before = received().await.unwrap();
    stream.write_chunk(vec![7; bytes].into()).await.unwrap();
    let mut left = bytes;
    while left > 0 {
        left -= patiently(stream.read_chunk()).await.unwrap().expect("the stream goes on").len();
    }
    let after = received().await.unwrap();
    (after.0 - before.0) / (after.1 - before.1)
}

/// And nobody looks for them who has nothing to fill them with.
#[tokio::test]
async fn packets_longer_than_any_ethernets_are_found_within_a_machine_once_there_is_something_to_fill_them() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (alpha, beta) = (agent(&one, "agent-alpha", None).await, agent(&other, "agent-beta", None).await);
    let ticket = beta.ticket().await.unwrap().to_string();
    let found = patiently(alpha.resolve(&ticket)).await.unwrap();
    let mut stream = alpha.open(&found, header("echo").unwrap()).await.unwrap();
    for _ in 0..50 {
        echo(&mut stream, "a word").await;
    }
    let sent = alpha.inner.ask(|core, _| core.net.bytes_sent).await.unwrap();
    assert!(sent < 20_000, "{sent}");
    for _ in 0..20 {
        mean_datagram(&alpha, &mut stream, 200_000).await;
    }
    let mean = mean_datagram(&alpha, &mut stream, 2_000_000).await;
    assert!(mean > 9_000, "{mean}");
}

#[tokio::test]
async fn without_a_backbone_node_nothing_is_published_and_nothing_waits() {
    let home = tempfile::tempdir().unwrap();
    let alpha = agent(&home, "agent-alpha", None).await;
    alpha.change_groups(&["research".into()], &[]).unwrap();
    assert_eq!(alpha.published(Duration::MAX).await, None);
}

#[tokio::test]
async fn change_is_found_as_soon_as_it_is_published() {
    let home = tempfile::tempdir().unwrap();
    let ticket = backbone(home.path()).await;
    let (alpha, beta) =
        (agent(&home, "agent-alpha", Some(&ticket)).await, agent(&home, "agent-beta", Some(&ticket)).await);
    for group in ["one", "two", "three"] {
        beta.change_groups(&[group.into()], &[]).unwrap();
        assert_eq!(beta.published(PATIENCE).await, Some(Ok(())));
        let request = api::types::FindRequest { group: Some(group.into()), ..api::types::FindRequest::default() };
        assert_eq!(patiently(alpha.find(&request)).await.unwrap().len(), 1, "{group}");
    }
}

#[tokio::test]
async fn change_is_not_published_while_the_directory_cannot_be_asked() {
    let home = tempfile::tempdir().unwrap();
    let nobody = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    let key = Identity::generate([9; 32]).key();
    let ticket = BackboneTicket::new(key, "127.0.0.1", nobody.local_addr().unwrap().port()).unwrap();
    let alpha = agent(&home, "agent-alpha", Some(&ticket)).await;
    let error = alpha.published(Duration::ZERO).await.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Unreachable);
}

#[tokio::test]
async fn offer_that_no_record_can_hold_is_refused_at_once() {
    let home = tempfile::tempdir().unwrap();
    let alpha = agent(&home, "agent-alpha", None).await;
    let options =
        ServiceOptions { offer: Some("x".repeat(OFFER_DESCRIPTION_LEN_MAX + 1)), ..ServiceOptions::default() };
    let error = patiently(alpha.accept(ServicePort::QUERY, options)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Usage);
}

#[tokio::test]
async fn who_has_no_invite_is_answered_the_same_by_members_issuers_and_strangers_to_the_organisation() {
    let home = tempfile::tempdir().unwrap();
    let [founder, member, stranger, outsider] = [
        agent(&home, "founder", None).await,
        agent(&home, "member", None).await,
        agent(&home, "stranger", None).await,
        agent(&home, "outsider", None).await,
    ];
    let create = api::orgs::CreateOrg { name: "fleet".into(), list_age_max_s: None };
    patiently(founder.create_org(&create)).await.unwrap();
    let token = patiently(founder.invite(&invite_to("fleet", 0, 86_400))).await.unwrap().invite;
    patiently(member.join_org(&api::orgs::JoinRequest { token, org: None, name: None, unless_member: false }))
        .await
        .unwrap();
    let org = founder.inner.orgs.with("fleet", |org| org.roster.org()).unwrap();
    let modifier = outsider.inner.identity.modifier();
    let (name, lifetime_max) = ("outsider".into(), None);
    let (consented, consent) = (clock::now().unix, [7; 64]);
    let (invite, secret) = ([7; 8], [7; 16]);
    let enrol = Request::Enrol { org, invite, secret, modifier, name, consented, consent, lifetime_max };
    for request in
        [enrol, Request::Renew { org, consented, consent: Some(consent.into()) }, Request::Leave { org, consented }]
    {
        let mut answers = Vec::new();
        for callee in [&founder, &member, &stranger] {
            let ticket = callee.ticket().await.unwrap().to_string();
            let found = patiently(outsider.resolve(&ticket)).await.unwrap();
            let way = found.routes.into_iter().next().unwrap();
            answers.push(patiently(org::calls::call(&outsider.inner, way, &request)).await.unwrap_err());
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{request:?}: {answers:?}");
        assert_eq!(answers[0].code, ErrorCode::Refused);
    }
}

#[tokio::test]
async fn who_shows_the_proof_of_another_is_none_of_us() {
    let home = tempfile::tempdir().unwrap();
    let (founder, outsider) = (agent(&home, "founder", None).await, agent(&home, "outsider", None).await);
    let create = api::orgs::CreateOrg { name: "fleet".into(), list_age_max_s: None };
    patiently(founder.create_org(&create)).await.unwrap();
    let now = clock::now().unix;
    let replayed = founder.inner.orgs.with("fleet", |org| {
        let proof = org.roster.proof(&founder.key(), now).unwrap().bytes().to_vec();
        (org.roster.org(), proof)
    });
    let (org, proof) = replayed.unwrap();
    let whereabouts = outsider.inner.whereabouts().await.unwrap();
    let ticket = founder.ticket().await.unwrap().to_string();
    let way = patiently(outsider.resolve(&ticket)).await.unwrap().routes.into_iter().next().unwrap();
    let request = Request::Introduce { org, proof, whereabouts };
    let error = patiently(org::calls::call(&outsider.inner, way, &request)).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::Refused, "not a member"));
    let known = founder.inner.orgs.with("fleet", |org| org.roster.members(now).count());
    assert_eq!(known.unwrap(), 1);
}

#[tokio::test]
async fn who_has_the_key_of_the_organisation_renews_its_own_membership() {
    let home = tempfile::tempdir().unwrap();
    let founder = agent(&home, "founder", None).await;
    let create = api::orgs::CreateOrg { name: "fleet".into(), list_age_max_s: None };
    patiently(founder.create_org(&create)).await.unwrap();
    let now = clock::now().unix;
    let inner = &founder.inner;
    let expires = |at| {
        let membership = inner.orgs.with("fleet", |org| org.roster.member(&inner.orgs.own_key(), at).cloned());
        membership.unwrap().expect("it is a member").expires
    };
    let first = expires(now);
    patiently(org::keeper::renew(inner, "fleet", now + 199 * DAY)).await.unwrap();
    assert_eq!(expires(now), first, "it is not time yet");
    let later = now + 300 * DAY;
    patiently(org::keeper::renew(inner, "fleet", later)).await.unwrap();
    assert_eq!(expires(later).as_secs(), (later + 400 * DAY).as_secs());
}
