//! Agents that find each other through a real backbone node on loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use pilot_core::event::PathKind;
use pilot_core::id::ServicePort;
use pilot_core::ticket::BackboneTicket;
use pilot_daemon::agent::{Agent, AgentConfig, ServiceOptions, StartError, header};
use pilot_daemon::api::types::{ErrorCode, FindRequest};
use pilot_daemon::home::Home;
use pilot_relay::driver::{ServeOptions, serve};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Nothing here takes a tenth of it; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    home: TempDir,
    ticket: BackboneTicket,
    backbone: JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = ServeOptions {
            advertise: Some("127.0.0.1".into()),
            ..ServeOptions::new(listen, home.path().join("backbone"))
        };
        let (sender, ready) = oneshot::channel();
        let backbone = tokio::spawn(async move {
            serve(options, |ready| sender.send(ready.ticket.clone()).unwrap()).await.unwrap();
        });
        Self { ticket: patiently(ready).await.unwrap(), home, backbone }
    }

    fn config(&self, name: &str) -> AgentConfig {
        AgentConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            backbone: Some(self.ticket.clone()),
            ..AgentConfig::new(Home::at(self.home.path()), name)
        }
    }

    async fn agent(&self, name: &str) -> Agent {
        Agent::start(self.config(name)).await.unwrap()
    }
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("finished in time")
}

#[tokio::test]
async fn agent_is_found_by_name_address_and_key_and_answers() {
    let world = World::new().await;
    let (alpha, beta) = (world.agent("agent-alpha").await, world.agent("agent-beta").await);
    for target in ["agent-beta".to_owned(), beta.address().to_string(), beta.key().to_string()] {
        let found = patiently(alpha.resolve(&target)).await.unwrap();
        assert_eq!((found.key, found.name.as_deref(), found.reachable), (beta.key(), Some("agent-beta"), Some(true)));
        patiently(alpha.ping(&found, PATIENCE)).await.unwrap();
    }
}

#[tokio::test]
async fn misspelt_name_is_answered_with_a_suggestion() {
    let world = World::new().await;
    let alpha = world.agent("agent-alpha").await;
    let error = patiently(alpha.resolve("agent-alhpa")).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::NotFound, "no agent named 'agent-alhpa'"));
    assert_eq!(error.hint.as_deref(), Some("did you mean 'agent-alpha'?"));
}

#[tokio::test]
async fn name_that_belongs_to_another_stops_the_start() {
    let world = World::new().await;
    let _first = world.agent("agent-alpha").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let config = AgentConfig { home: Home::at(elsewhere.path()), ..world.config("agent-alpha") };
    let Err(StartError::Registration(error)) = patiently(Agent::start(config)).await else {
        panic!("the name is taken");
    };
    assert_eq!(error.message, "the name 'agent-alpha' belongs to another agent");
    assert!(error.hint.is_some());
}

#[tokio::test]
async fn without_direct_paths_everything_goes_by_relay() {
    let world = World::new().await;
    let alpha = Agent::start(AgentConfig { direct: false, ..world.config("agent-alpha") }).await.unwrap();
    let _beta = world.agent("agent-beta").await;
    let found = patiently(alpha.resolve("agent-beta")).await.unwrap();
    let pong = patiently(alpha.ping(&found, PATIENCE)).await.unwrap();
    assert!(matches!(pong.path, Some(PathKind::Relay(key)) if key == world.ticket.identity));
}

#[tokio::test]
async fn group_and_service_are_found_once_they_are_there() {
    let world = World::new().await;
    let (alpha, beta) = (world.agent("agent-alpha").await, world.agent("agent-beta").await);
    beta.change_groups(&["research".into()], &[]).unwrap();
    let handler = {
        let beta = beta.clone();
        tokio::spawn(async move {
            let options =
                ServiceOptions { offer: Some("resolves academic citations".into()), ..ServiceOptions::default() };
            beta.accept(ServicePort::QUERY, options).await
        })
    };
    let request =
        FindRequest { group: Some("research".into()), need: Some("citations".into()), ..FindRequest::default() };
    let found = patiently(async {
        loop {
            let mut found = alpha.find(&request).await.unwrap();
            if let Some(found) = found.pop() {
                return found;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((found.key, found.offers[0].service.as_str()), (beta.key(), "query"));

    let mut stream = alpha.open(&found, header("query").unwrap()).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"10.1038")).await.unwrap();
    assert_eq!(patiently(handler).await.unwrap().unwrap().name.as_deref(), Some("agent-alpha"));
}

/// The directory is gone by the time of the call, so that nobody can have been asked. What a search has found is good for one.
#[tokio::test]
async fn whom_a_search_has_found_is_looked_up_by_nobody() {
    let world = World::new().await;
    let (alpha, beta) = (world.agent("agent-alpha").await, world.agent("agent-beta").await);
    beta.change_groups(&["research".into()], &[]).unwrap();
    assert_eq!(beta.published(PATIENCE).await, Some(Ok(())));
    let request = FindRequest { group: Some("research".into()), ..FindRequest::default() };

    assert_eq!(patiently(alpha.find(&request)).await.unwrap().len(), 1);
    world.backbone.abort();
    drop(world.backbone.await);

    let found = patiently(alpha.resolve("agent-beta")).await.unwrap();
    assert_eq!((found.key, found.reachable), (beta.key(), Some(true)), "as the search has said");
    let again = patiently(alpha.resolve("agent-beta")).await.unwrap();
    assert_eq!((again.key, again.reachable), (beta.key(), None), "asked in vain, and recalled");
}

#[tokio::test]
async fn name_resolved_before_still_works_when_the_backbone_is_down() {
    let world = World::new().await;
    let (alpha, beta) = (world.agent("agent-alpha").await, world.agent("agent-beta").await);
    let found = patiently(alpha.resolve("agent-beta")).await.unwrap();
    patiently(alpha.ping(&found, PATIENCE)).await.unwrap();

    world.backbone.abort();
    drop(world.backbone.await);

    let again = patiently(alpha.resolve("agent-beta")).await.unwrap();
    assert_eq!(again.key, beta.key());
    patiently(alpha.ping(&again, PATIENCE)).await.unwrap();
    let error = patiently(alpha.resolve("agent-gamma")).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unreachable);
    assert!(error.message.contains("does not answer"), "{}", error.message);
}
