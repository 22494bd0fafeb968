//! The driver on real loopback sockets and a real home directory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use pilot_daemon::api::client::Client;
use pilot_daemon::home::{AgentHome, HomeError};
use pilot_relay::driver::{Ready, ServeError, ServeOptions, serve};
use pilot_relay::status_api::BackboneStatusReply;
use stunclient::StunClient;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

fn options(home_dir: &Path) -> ServeOptions {
    ServeOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)), home_dir)
}

async fn start(options: ServeOptions) -> (Ready, JoinHandle<Result<(), ServeError>>) {
    let (sender, ready) = oneshot::channel();
    let serving = tokio::spawn(serve(options, |ready| sender.send(ready.clone()).expect("the test waits for it")));
    (ready.await.expect("the node starts"), serving)
}

async fn api(home_dir: &Path) -> Client {
    let path = AgentHome::at(home_dir).socket_path().expect("a short path");
    Client::connect(path).await.expect("the local API answers")
}

async fn stop(home_dir: &Path, serving: JoinHandle<Result<(), ServeError>>) {
    let _: serde_json::Value = api(home_dir).await.post("/v1/shutdown", &()).await.unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stun_client_is_answered_and_counted() {
    let home = tempfile::tempdir().unwrap();
    let (ready, serving) = start(options(home.path())).await;
    let learned = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let learned = StunClient::new(ready.local_addr).query_external_address(&socket).unwrap();
        (learned, socket.local_addr().unwrap())
    });
    let (learned, actual) = learned.await.unwrap();
    assert_eq!(learned, actual);
    let status: BackboneStatusReply = api(home.path()).await.get("/v1/status").await.unwrap();
    assert_eq!((status.stun_answered, status.agents, status.connected), (1, 0, 0));
    assert_eq!(status.ticket, ready.ticket.to_string());
    stop(home.path(), serving).await;
}

#[tokio::test]
async fn key_port_and_ticket_outlive_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let (first, serving) = start(options(home.path())).await;
    stop(home.path(), serving).await;
    let (second, serving) = start(options(home.path())).await;
    assert_eq!(first.ticket, second.ticket);
    let written = std::fs::read_to_string(home.path().join("ticket")).unwrap();
    assert_eq!(written.trim(), second.ticket.to_string());
    stop(home.path(), serving).await;
    assert!(!AgentHome::at(home.path()).socket_path().unwrap().exists());
}

#[tokio::test]
async fn a_taken_port_of_the_last_run_is_given_up_but_one_asked_for_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let (first, serving) = start(options(home.path())).await;
    stop(home.path(), serving).await;
    let _squatter = UdpSocket::bind(first.local_addr).unwrap();
    let (second, serving) = start(options(home.path())).await;
    assert_ne!(first.local_addr, second.local_addr);
    stop(home.path(), serving).await;
    let taken = ServeOptions { listen: first.local_addr, ..options(home.path()) };
    let error = serve(taken, |_| panic!("the port is taken")).await.unwrap_err();
    assert!(matches!(error, ServeError::Bind { address, .. } if address == first.local_addr), "{error}");
}

#[tokio::test]
async fn a_second_node_for_one_home_is_told_of_the_first() {
    let home = tempfile::tempdir().unwrap();
    let (_, serving) = start(options(home.path())).await;
    let error = serve(options(home.path()), |_| panic!("the home is taken")).await.unwrap_err();
    assert!(matches!(error, ServeError::Home(HomeError::AlreadyRunning { pid: Some(_), .. })), "{error}");
    stop(home.path(), serving).await;
}

#[tokio::test]
async fn a_node_that_nobody_joins_ends_by_itself() {
    let home = tempfile::tempdir().unwrap();
    let soon = ServeOptions { idle_exit: Some(Duration::from_millis(1)), ..options(home.path()) };
    let (_, serving) = start(soon).await;
    serving.await.unwrap().unwrap();
    assert_eq!(AgentHome::at(home.path()).running_pid(), None);
}

#[tokio::test]
async fn the_advertised_host_stands_in_the_ticket() {
    let home = tempfile::tempdir().unwrap();
    let named = ServeOptions { advertise: Some("backbone.example".into()), ..options(home.path()) };
    let (ready, serving) = start(named).await;
    assert_eq!((ready.ticket.host.as_str(), ready.ticket.port), ("backbone.example", ready.local_addr.port()));
    stop(home.path(), serving).await;
    let wrong = ServeOptions { advertise: Some("not a host".into()), ..options(home.path()) };
    assert!(matches!(serve(wrong, |_| panic!("not a host")).await, Err(ServeError::Ticket(_))));
}
