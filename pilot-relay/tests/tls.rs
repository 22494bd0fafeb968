//! Strangers at the TCP port of a node: who gets a link, and who is cut off (spec/tcp.md §1, §7).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use pilot_core::id::IdentityKey;
use pilot_daemon::tls::upgrade::{self, UpgradeError};
use pilot_relay::driver::{Ready, ServeError, ServeOptions, serve};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Twice what a node gives those who greet slowly; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

async fn node() -> (Ready, TempDir, JoinHandle<Result<(), ServeError>>) {
    let home = tempfile::tempdir().unwrap();
    let options = ServeOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)), home.path());
    let (sender, ready) = oneshot::channel();
    let serving = tokio::spawn(serve(options, |ready| sender.send(ready.clone()).expect("the test waits for it")));
    (ready.await.expect("the node starts"), home, serving)
}

async fn ask(at: SocketAddr, node: &IdentityKey) -> Result<bool, UpgradeError> {
    let socket = TcpStream::connect(at).await.unwrap();
    let link = upgrade::ask(&upgrade::connector(), socket, "127.0.0.1", node).await?;
    Ok(link.is_bound)
}

/// Whether the other side ends the connection, in whatever way.
async fn is_cut_off(mut socket: impl tokio::io::AsyncRead + Unpin) -> bool {
    let ended = async {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.ok();
    };
    tokio::time::timeout(PATIENCE, ended).await.is_ok()
}

#[tokio::test]
async fn who_names_the_node_gets_a_link_that_the_node_has_signed() {
    let (ready, _home, _serving) = node().await;
    assert!(ask(ready.local_addr, &ready.ticket.identity).await.unwrap());
}

#[tokio::test]
async fn a_node_that_is_not_meant_says_so_and_gives_no_link() {
    let (ready, _home, _serving) = node().await;
    let refused = ask(ready.local_addr, &IdentityKey([7; 32])).await.unwrap_err();
    assert!(matches!(refused, UpgradeError::Status(status) if status.as_u16() == 421), "{refused}");
}

#[tokio::test]
async fn who_greets_slowly_is_cut_off_and_keeps_nobody_out() {
    let (ready, _home, _serving) = node().await;
    let silent = TcpStream::connect(ready.local_addr).await.unwrap();
    let mut plain = TcpStream::connect(ready.local_addr).await.unwrap();
    plain.write_all(b"GET /pilot/v1 HTTP/1.1\r\n\r\n").await.unwrap();
    let socket = TcpStream::connect(ready.local_addr).await.unwrap();
    let mut half = upgrade::connector().connect("node.invalid".try_into().unwrap(), socket).await.unwrap();
    half.write_all(b"GET /pilot/v1 HTTP/1.1\r\nHost: node.in").await.unwrap();
    half.flush().await.unwrap();

    assert!(ask(ready.local_addr, &ready.ticket.identity).await.unwrap(), "others get in meanwhile");
    let (silent, plain, half) = tokio::join!(is_cut_off(silent), is_cut_off(plain), is_cut_off(half));
    assert_eq!((silent, plain, half), (true, true, true));
}

#[tokio::test]
async fn a_head_that_is_too_long_is_cut_off() {
    let (ready, _home, _serving) = node().await;
    let socket = TcpStream::connect(ready.local_addr).await.unwrap();
    let tls = upgrade::connector().connect("node.invalid".try_into().unwrap(), socket).await.unwrap();
    let (reader, mut writer) = tokio::io::split(tls);
    let writing = async {
        writer.write_all(b"GET /pilot/v1 HTTP/1.1\r\n").await.ok();
        // Until the node takes no more.
        while writer.write_all(&[b'a'; 1_024]).await.is_ok() && writer.flush().await.is_ok() {}
    };
    let (is_cut_off, ()) = tokio::join!(is_cut_off(reader), writing);
    assert!(is_cut_off);
}
