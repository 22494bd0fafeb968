//! Pilot as a Rust program gets it: an agent embedded at each end, a stream for each channel, no backbone.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use pilot_core::wire::stream_header::StreamHeader;
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
    replay_safe: bool,
    _home: TempDir,
}

/// The tunnel with that one; it comes about with the first stream.
#[derive(Clone)]
pub(crate) struct Tunnel {
    agent: Agent,
    peer: Arc<Resolved>,
    header: StreamHeader,
}

/// A stream each way.
pub(crate) struct Stream {
    stream: pilot_daemon::stream::Stream,
    chunk: Bytes,
}

/// A stream that is opened when it is known what it begins with: a request that is all there is to say leaves with what opens the stream.
pub(crate) struct Call {
    tunnel: Tunnel,
    /// What was written before there was a stream.
    first: Option<Bytes>,
    stream: Option<Stream>,
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
        let replay_safe = setup.kind == Kind::PilotReplaySafe;
        for _ in 0..HANDLERS {
            let agent = agent.clone();
            tokio::spawn(async move {
                let options = ServiceOptions { public: true, replay_safe, ..ServiceOptions::default() };
                while let Ok(Incoming { stream, .. }) = agent.accept(port, options.clone()).await {
                    tokio::spawn(async move {
                        // A stream that ends early is the client's to report.
                        let _ended = pipe::serve(&mut Stream::new(stream)).await;
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
        Ok(Self { agent, peer, replay_safe: setup.kind == Kind::PilotReplaySafe, _home })
    }

    async fn connect(&self) -> Result<Tunnel, BenchError> {
        self.agent.disconnect(&self.peer).await?;
        let header = StreamHeader { replay_safe: self.replay_safe, ..header(SERVICE)? };
        Ok(Tunnel { agent: self.agent.clone(), peer: Arc::clone(&self.peer), header })
    }
}

impl Connection for Tunnel {
    type Channel = Piped<Call>;

    const IS_MULTIPLEXED: bool = true;

    async fn open(&self) -> Result<Self::Channel, BenchError> {
        Ok(Piped(Call { tunnel: self.clone(), first: None, stream: None }))
    }
}

impl Call {
    /// The stream, opened with what was written so far.
    async fn stream(&mut self) -> Result<&mut Stream, BenchError> {
        if self.stream.is_none() {
            let Tunnel { agent, peer, header } = &self.tunnel;
            let mut stream = Stream::new(agent.open(peer, header.clone()).await?);
            if let Some(first) = self.first.take() {
                stream.write(first).await?;
            }
            self.stream = Some(stream);
        }
        self.stream.as_mut().ok_or_else(|| BenchError::wrong("a stream that was just opened is gone"))
    }
}

impl Pipe for Call {
    async fn write(&mut self, data: Bytes) -> Result<(), BenchError> {
        if self.stream.is_none() && self.first.is_none() {
            self.first = Some(data);
            return Ok(());
        }
        self.stream().await?.write(data).await
    }

    async fn flush(&mut self) -> Result<(), BenchError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), BenchError> {
        if let Some(request) = self.first.take() {
            let Tunnel { agent, peer, header } = &self.tunnel;
            self.stream = Some(Stream::new(agent.request(peer, header.clone(), request).await?));
            return Ok(());
        }
        self.stream().await?.finish().await
    }

    async fn read(&mut self) -> Result<&[u8], BenchError> {
        self.stream().await?.read().await
    }
}

impl Stream {
    fn new(stream: pilot_daemon::stream::Stream) -> Self {
        Self { stream, chunk: Bytes::new() }
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
