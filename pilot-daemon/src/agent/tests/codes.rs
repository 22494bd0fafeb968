//! Codes between agents with tunnels of their own, and somebody in the middle (spec/org.md §6).

use std::os::unix::fs::MetadataExt;

use pilot_core::org::call::{REPLY_LEN_MAX, Reply, Request};
use pilot_core::org::code::Word;

use super::*;

const FLEET: &str = "fleet";

struct Agents {
    _homes: Vec<TempDir>,
    all: Vec<Agent>,
}

/// Agents of different homes at one backbone, the first of which has founded an organisation.
async fn agents<const N: usize>(names: [&str; N]) -> Agents {
    let homes: Vec<_> = (0..=N).map(|_| tempfile::tempdir().unwrap()).collect();
    let ticket = backbone(homes[N].path()).await;
    let mut all = Vec::new();
    for (home, name) in homes.iter().zip(names) {
        all.push(agent(home, name, Some(&ticket)).await);
    }
    all[0].create_org(&api::orgs::CreateOrg { name: FLEET.into(), list_age_max_s: None }).await.unwrap();
    Agents { _homes: homes, all }
}

async fn code(issuer: &Agent) -> api::orgs::Invited {
    let request = api::orgs::InviteRequest { code: true, ..invite_to(FLEET, 0, 86_400) };
    issuer.invite(&request).await.unwrap()
}

async fn join(agent: &Agent, token: String) -> Result<api::orgs::Joined, ApiError> {
    patiently(agent.join_org(&api::orgs::JoinRequest { token, org: None, name: None, unless_member: false })).await
}

fn tries_left(issuer: &Agent) -> Vec<Option<usize>> {
    issuer.orgs()[0].invites.iter().map(|invite| invite.tries_left).collect()
}

/// The word of a code.
fn word(code: &str) -> &str {
    code.rsplit_once('/').unwrap().1
}

#[tokio::test]
async fn a_code_makes_one_member_by_name_or_by_what_a_camera_has_read() {
    let agents = agents(["alice-laptop", "bob", "carol", "dave"]).await;
    let [alice, bob, carol, dave] = &agents.all[..] else { unreachable!() };
    let read = code(alice).await;
    assert!(read.invite.starts_with("alice-laptop/"), "{}", read.invite);
    assert_eq!(join(bob, read.invite.to_lowercase()).await.unwrap().org, FLEET);
    let used_up = join(carol, read.invite).await.unwrap_err();
    assert_eq!((used_up.code, used_up.message.as_str()), (ErrorCode::Refused, "the code is wrong or used up"));
    let scanned = code(alice).await.scan.unwrap();
    assert_eq!(join(dave, scanned).await.unwrap().org, FLEET);
    assert_eq!(alice.org_members(FLEET).await.unwrap().len(), 3);
    assert!(alice.orgs()[0].invites.is_empty());
}

#[tokio::test]
async fn three_wrong_guesses_at_a_code_end_it_also_over_a_restart_of_its_issuer() {
    let agents = agents(["alice", "bob", "eve"]).await;
    let [alice, bob, eve] = &agents.all[..] else { unreachable!() };
    let read = code(alice).await.invite;
    let number = word(&read).parse::<Word>().unwrap().number();
    for guess in 0..3 {
        let guessed = format!("alice/{}", Word::new(number, &[guess; 6]));
        assert_eq!(join(eve, guessed).await.unwrap_err().code, ErrorCode::Refused);
    }
    assert!(tries_left(alice).is_empty(), "it is open no more");
    let stored = Orgs::load(alice.home(), &alice.inner.identity, clock::now().unix).unwrap();
    let kept = stored.with(FLEET, |org| org.invites.codes(clock::now().unix).map(|code| code.tries_left()).sum());
    assert_eq!(kept, Ok(0_usize), "the count is on disk");
    let file = alice.home().path().join("orgs").join(FLEET).join("state");
    let written = || std::fs::metadata(&file).unwrap().ino();
    let before = written();
    let right = join(bob, read).await.unwrap_err();
    assert_eq!(written(), before, "asking in vain writes nothing");
    assert_eq!((right.code, right.message.as_str()), (ErrorCode::Refused, "the code is wrong or used up"));
    assert!(bob.orgs().is_empty() && eve.orgs().is_empty());
}

#[tokio::test]
async fn a_relay_in_the_middle_of_a_code_gains_nothing() {
    let agents = agents(["alice", "bob", "mallory"]).await;
    let [alice, bob, mallory] = &agents.all[..] else { unreachable!() };
    let read = code(alice).await.invite;
    let (sender, calls) = mpsc::channel(16);
    mallory.inner.apply(move |core, _| core.org_calls = sender).await.unwrap();
    let heard = tokio::spawn(pass_on(mallory.clone(), alice.key(), calls));

    // A directory that lies would lead to it just so.
    let misled = format!("{}/{}", mallory.ticket().await.unwrap(), word(&read));
    let error = join(bob, misled).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::Refused, "the code is wrong or used up"));
    assert_eq!(tries_left(alice), [Some(2)], "it has cost one try");
    // The real one still works, and ends what the one in the middle could try.
    assert_eq!(join(bob, read).await.unwrap().org, FLEET);
    mallory.inner.apply(|core, _| core.org_calls = mpsc::channel(1).0).await.unwrap();
    let heard = patiently(heard).await.unwrap();
    assert!(
        matches!(heard.as_slice(), [(Request::Code { .. }, Reply::CodeShare { .. })]),
        "neither side has shown it anything but a share: {heard:?}"
    );
    assert!(mallory.orgs().is_empty());
}

/// Passes calls on to the agent of that key, and its replies back, and tells them in the end.
async fn pass_on(middle: Agent, to: IdentityKey, mut calls: mpsc::Receiver<Incoming>) -> Vec<(Request, Reply)> {
    let found = middle.resolve(&to.to_string()).await;
    let way = found.map(|found| found.routes).unwrap_or_default();
    middle.inner.apply(move |core, now| core.learn_routes(now, way)).await.unwrap();
    let mut heard = Vec::new();
    while let Some(mut incoming) = calls.recv().await {
        let mut request = Vec::new();
        while let Some(chunk) = incoming.stream.read_chunk().await.unwrap() {
            request.extend_from_slice(&chunk);
        }
        let mut onward = middle.inner.open(to, StreamHeader::new(ServicePort::ORG)).await.unwrap();
        let reply = onward.exchange(request.clone(), REPLY_LEN_MAX).await.unwrap().unwrap();
        heard.push((Request::decode(&request).unwrap(), Reply::decode(&reply).unwrap()));
        incoming.stream.write_chunk(reply.into()).await.unwrap();
        incoming.stream.finish();
    }
    heard
}
