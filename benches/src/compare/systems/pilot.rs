//! Pilot as a Rust program gets it: an agent embedded at each end, a stream for each channel, no backbone.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use pilot_daemon::agent::{Agent, AgentConfig, Incoming, Resolved, ServiceOptions, header, service_port};
use pilot_daemon::home::Home;
use tempfile::TempDir;

use crate::compare::pipe::{self, Pipe, Piped};
use crate::compare::system::{Announce, Connection, Contact, Kind, Setup, System};
use crate::error::BenchError;

/// The service that answers exchanges.
pub(super) const SERVICE: &str = "4242";
/// Handlers that wait for streams: more than any workload opens at once.
const HANDLERS: usize = 1_200;
/// What an Ethernet carries.
const ETHERNET_PACKET: usize = 1_452;

/// An agent that calls another one.
pub(crate) struct Pilot {
    agent: Agent,
    peer: Arc<Resolved>,
    _home: TempDir,
}

/// The tunnel with that one; it comes about with the first stream.
pub(crate) struct Tunnel {
    agent: Agent,
    peer: Arc<Resolved>,
}

/// A stream each way.
pub(crate) struct Stream {
    stream: pilot_daemon::stream::Stream,
    chunk: Bytes,
}

async fn start(setup: &Setup, name: &str) -> Result<(Agent, TempDir), BenchError> {
    let home = tempfile::tempdir()?;
    let listen = SocketAddr::new(setup.listen, 0);
    let packet_len_max = (setup.kind == Kind::PilotEthernet).then_some(ETHERNET_PACKET);
    let config = AgentConfig { listen, packet_len_max, ..AgentConfig::new(Home::at(home.path()), name) };
    Ok((Agent::start(config).await.map_err(BenchError::wrong)?, home))
}

impl System for Pilot {
    type Connection = Tunnel;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        let (agent, _home) = start(&setup, "compare-server").await?;
        let port = service_port(SERVICE).ok_or_else(|| BenchError::wrong("no such service"))?;
        for _ in 0..HANDLERS {
            let agent = agent.clone();
            tokio::spawn(async move {
                let options = ServiceOptions { public: true, ..ServiceOptions::default() };
                while let Ok(Incoming { stream, .. }) = agent.accept(port, options.clone()).await {
                    tokio::spawn(async move {
                        // A stream that ends early is the client's to report.
                        let _ended = pipe::serve(&mut Stream { stream, chunk: Bytes::new() }).await;
                    });
                }
            });
        }
        // The service is known to the agent before anybody can call it.
        tokio::task::yield_now().await;
        let ticket = agent.ticket().await?;
        let address = ticket.addresses.first().copied();
        let address = address.ok_or_else(|| BenchError::wrong("the ticket names no address"))?;
        announce(Contact { address, credential: ticket.to_string(), helpers: Vec::new() })?;
        agent.ended().await;
        Ok(())
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        let (agent, _home) = start(&setup, "compare-client").await?;
        let peer = Arc::new(agent.resolve(&contact.credential).await?);
        Ok(Self { agent, peer, _home })
    }

    async fn connect(&self) -> Result<Tunnel, BenchError> {
        self.agent.disconnect(&self.peer).await?;
        Ok(Tunnel { agent: self.agent.clone(), peer: Arc::clone(&self.peer) })
    }
}

impl Connection for Tunnel {
    type Channel = Piped<Stream>;

    const IS_MULTIPLEXED: bool = true;

    async fn open(&self) -> Result<Self::Channel, BenchError> {
        let stream = self.agent.open(&self.peer, header(SERVICE)?).await?;
        Ok(Piped(Stream { stream, chunk: Bytes::new() }))
    }
}

impl Pipe for Stream {
    async fn write(&mut self, data: Bytes) -> Result<(), BenchError> {
        self.stream.write_chunk(data).await.map_err(BenchError::wrong)
    }

    async fn flush(&mut self) -> Result<(), BenchError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), BenchError> {
        self.stream.finish();
        Ok(())
    }

    async fn read(&mut self) -> Result<&[u8], BenchError> {
        self.chunk = self.stream.read_chunk().await.map_err(BenchError::wrong)?.unwrap_or_default();
        Ok(&self.chunk)
    }
}
