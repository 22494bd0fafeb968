//! One stream between two agents embedded in this process, a thread each: what a Rust program gets from the library.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use pilot_daemon::agent::{Agent, AgentConfig, Incoming, ServiceOptions, header, service_port};
use pilot_daemon::clock;
use pilot_daemon::home::Home;
use tempfile::TempDir;

use crate::error::BenchError;
use crate::exchange::{BLOCK_LEN, on_this_thread};

/// The service that takes the bytes.
pub(crate) const SERVICE: &str = "4242";

/// The homes of both agents: identities are worked out once, the agents start anew each time.
pub(crate) struct Pair {
    home: TempDir,
}

impl Pair {
    /// Homes with nothing in them.
    pub(crate) fn new() -> Result<Self, BenchError> {
        Ok(Self { home: tempfile::tempdir()? })
    }

    /// The time that `len` bytes take over one stream, the handshake included.
    pub(crate) fn bulk(&self, len: usize) -> Result<Duration, BenchError> {
        let (ticket_tx, ticket_rx) = mpsc::channel();
        let home = Home::at(self.home.path());
        let taker = thread::spawn({
            let home = home.clone();
            move || on_this_thread(take(home, ticket_tx))
        });
        let ticket = ticket_rx.recv().map_err(|_| BenchError::Wrong("the taker did not start".to_owned()));
        let time = ticket.and_then(|ticket| on_this_thread(send(home, &ticket, len)));
        let taken = taker.join().map_err(|_| BenchError::Wrong("the taker panicked".to_owned()))??;
        let time = time?;
        if taken == len { Ok(time) } else { Err(BenchError::Wrong(format!("{taken} bytes arrived of {len}"))) }
    }
}

async fn send(home: Home, ticket: &str, len: usize) -> Result<Duration, BenchError> {
    let agent = start(home, "bench-sender").await?;
    let peer = agent.resolve(ticket).await?;
    let block = Bytes::from(vec![7; BLOCK_LEN]);
    let start = clock::now().mono;
    let mut stream = agent.open(&peer, header(SERVICE)?).await?;
    let mut left = len;
    while left > 0 {
        let chunk = block.slice(..left.min(BLOCK_LEN));
        left -= chunk.len();
        stream.write_chunk(chunk).await.map_err(wrong)?;
    }
    stream.finish();
    while stream.read_chunk().await.map_err(wrong)?.is_some() {}
    let time = clock::now().mono.since(start);
    agent.shutdown().await;
    Ok(time)
}

async fn take(home: Home, ticket: mpsc::Sender<String>) -> Result<usize, BenchError> {
    let agent = start(home, "bench-taker").await?;
    let port = service_port(SERVICE).ok_or_else(|| wrong("no such service"))?;
    let options = ServiceOptions { public: true, ..ServiceOptions::default() };
    let accept = tokio::spawn({
        let agent = agent.clone();
        async move { agent.accept(port, options).await }
    });
    // The service is known to the agent before anybody can call it.
    tokio::task::yield_now().await;
    ticket.send(agent.ticket().await?.to_string()).map_err(wrong)?;
    let Incoming { mut stream, .. } = accept.await.map_err(wrong)??;
    let mut taken = 0;
    while let Some(chunk) = stream.read_chunk().await.map_err(wrong)? {
        taken += chunk.len();
    }
    stream.finish();
    stream.watch().closed().await;
    agent.shutdown().await;
    Ok(taken)
}

/// Starts an agent on loopback that needs no backbone.
pub(crate) async fn start(home: Home, name: &str) -> Result<Agent, BenchError> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Agent::start(AgentConfig { listen, ..AgentConfig::new(home, name) }).await.map_err(wrong)
}

pub(crate) fn wrong(error: impl std::fmt::Display) -> BenchError {
    BenchError::Wrong(error.to_string())
}
