//! QUIC between keys by iroh, without relay and look-up: the client knows key and address.

use std::net::SocketAddr;

use bytes::Bytes;
use iroh::endpoint::{QuicTransportConfig, RecvStream, SendStream, VarInt, presets};
use iroh::{Endpoint, EndpointAddr, PublicKey, RelayMode};

use super::PROTOCOL;
use crate::compare::pipe::{self, Pipe, Piped};
use crate::compare::system::{Announce, Connection, Contact, Setup, System};
use crate::error::BenchError;

/// A client of a server that is found by its key and its address.
pub(crate) struct Iroh {
    endpoint: Endpoint,
    server: EndpointAddr,
}

/// A connection, closed when it is dropped.
pub(crate) struct Closing(iroh::endpoint::Connection);

/// A stream each way.
pub(crate) struct Stream {
    sender: SendStream,
    receiver: RecvStream,
    chunk: Bytes,
}

async fn bind(setup: &Setup) -> Result<Endpoint, BenchError> {
    // Windows stay as they come: with 16 MiB a stream iroh 1.4.1 ends its connections ("too many gaps in stream buffer").
    let config = QuicTransportConfig::builder().max_concurrent_bidi_streams(VarInt::from_u32(setup.streams)).build();
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled).clear_ip_transports();
    let builder = builder.bind_addr(SocketAddr::new(setup.listen, 0)).map_err(BenchError::wrong)?;
    let builder = builder.alpns(vec![PROTOCOL.to_vec()]).transport_config(config);
    builder.bind().await.map_err(BenchError::wrong)
}

impl System for Iroh {
    type Connection = Closing;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        let endpoint = bind(&setup).await?;
        let address = endpoint.bound_sockets().first().copied();
        let address = address.ok_or_else(|| BenchError::wrong("iroh has no socket"))?;
        announce(Contact { address, credential: endpoint.id().to_string(), helpers: Vec::new() })?;
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await.map_err(BenchError::wrong)?;
                loop {
                    let (sender, receiver) = connection.accept_bi().await.map_err(BenchError::wrong)?;
                    let mut stream = Stream { sender, receiver, chunk: Bytes::new() };
                    tokio::spawn(async move { pipe::serve(&mut stream).await });
                }
                #[expect(unreachable_code, reason = "names the type of the errors")]
                Ok::<(), BenchError>(())
            });
        }
        Ok(())
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        let key: PublicKey = contact.credential.parse().map_err(BenchError::wrong)?;
        let server = EndpointAddr::new(key).with_ip_addr(contact.address);
        Ok(Self { endpoint: bind(&setup).await?, server })
    }

    async fn connect(&self) -> Result<Closing, BenchError> {
        self.endpoint.connect(self.server.clone(), PROTOCOL).await.map(Closing).map_err(BenchError::wrong)
    }
}

impl Connection for Closing {
    type Channel = Piped<Stream>;

    const IS_MULTIPLEXED: bool = true;

    async fn open(&self) -> Result<Self::Channel, BenchError> {
        let (sender, receiver) = self.0.open_bi().await.map_err(BenchError::wrong)?;
        Ok(Piped(Stream { sender, receiver, chunk: Bytes::new() }))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close(VarInt::from_u32(0), b"");
    }
}

impl Pipe for Stream {
    async fn write(&mut self, data: Bytes) -> Result<(), BenchError> {
        self.sender.write_chunk(data).await.map_err(BenchError::wrong)
    }

    async fn flush(&mut self) -> Result<(), BenchError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), BenchError> {
        self.sender.finish().map_err(BenchError::wrong)
    }

    async fn read(&mut self) -> Result<&[u8], BenchError> {
        self.chunk = self.receiver.read_chunk(usize::MAX).await.map_err(BenchError::wrong)?.unwrap_or_default();
        Ok(&self.chunk)
    }
}
