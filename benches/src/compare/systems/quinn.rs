//! QUIC by quinn, a stream for each channel.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig, VarInt};

use super::certificate::{Certificate, client_config};
use super::{CONNECTION_WINDOW, PROTOCOL, SERVER_NAME, STREAM_WINDOW};
use crate::compare::pipe::{self, Pipe, Piped};
use crate::compare::system::{Announce, Congestion, Connection, Contact, Setup, System};
use crate::error::BenchError;

/// A client of a server that speaks QUIC.
pub(crate) struct Quinn {
    endpoint: Endpoint,
    address: SocketAddr,
}

/// A connection, closed when it is dropped.
pub(crate) struct Closing(quinn::Connection);

/// A stream each way.
pub(crate) struct Stream {
    sender: SendStream,
    receiver: RecvStream,
    chunk: Bytes,
}

impl Quinn {
    /// A client that offers that protocol.
    pub(crate) fn new(setup: &Setup, contact: &Contact, protocol: &[u8]) -> Result<Self, BenchError> {
        let crypto = client_config(&contact.credential, Some(protocol))?;
        let crypto = QuicClientConfig::try_from(crypto).map_err(BenchError::wrong)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport_config(setup));
        let mut endpoint = Endpoint::client(SocketAddr::new(setup.listen, 0))?;
        endpoint.set_default_client_config(config);
        Ok(Self { endpoint, address: contact.address })
    }

    /// A connection, its handshake done.
    pub(super) async fn dial(&self) -> Result<quinn::Connection, BenchError> {
        self.dial_to(self.address, SERVER_NAME).await
    }

    /// The same with a server of that address and name.
    pub(crate) async fn dial_to(&self, address: SocketAddr, name: &str) -> Result<quinn::Connection, BenchError> {
        let connecting = self.endpoint.connect(address, name).map_err(BenchError::wrong)?;
        connecting.await.map_err(BenchError::wrong)
    }
}

/// Accepts connections for ever; `serve` gets each with its handshake done.
pub(super) async fn serve_all<F>(
    setup: Setup,
    announce: Announce,
    protocol: &[u8],
    serve: impl Fn(quinn::Connection) -> F + Clone + Send + 'static,
) -> Result<(), BenchError>
where
    F: Future<Output = Result<(), BenchError>> + Send + 'static,
{
    let certificate = Certificate::new()?;
    let credential = certificate.credential();
    let endpoint = listen(&setup, certificate, SocketAddr::new(setup.listen, 0), protocol)?;
    announce(Contact { address: endpoint.local_addr()?, credential, helpers: Vec::new() })?;
    accept(endpoint, serve).await
}

/// A server's endpoint.
pub(crate) fn listen(
    setup: &Setup,
    certificate: Certificate,
    address: SocketAddr,
    protocol: &[u8],
) -> Result<Endpoint, BenchError> {
    let crypto = QuicServerConfig::try_from(certificate.server_config(Some(protocol))?).map_err(BenchError::wrong)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport_config(setup));
    Ok(Endpoint::server(config, address)?)
}

/// Accepts connections for ever; `serve` gets each with its handshake done.
pub(crate) async fn accept<F>(
    endpoint: Endpoint,
    serve: impl Fn(quinn::Connection) -> F + Clone + Send + 'static,
) -> Result<(), BenchError>
where
    F: Future<Output = Result<(), BenchError>> + Send + 'static,
{
    while let Some(incoming) = endpoint.accept().await {
        let serve = serve.clone();
        tokio::spawn(async move {
            let connection = incoming.await.map_err(BenchError::wrong)?;
            serve(connection).await
        });
    }
    Ok(())
}

fn transport_config(setup: &Setup) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(setup.streams))
        // Idle connections are what one of the workloads is about.
        .max_idle_timeout(None);
    match setup.kind.congestion() {
        Congestion::Cubic => config.congestion_controller_factory(Arc::new(CubicConfig::default())),
        Congestion::Bbr => config.congestion_controller_factory(Arc::new(BbrConfig::default())),
    };
    Arc::new(config)
}

impl System for Quinn {
    type Connection = Closing;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        serve_all(setup, announce, PROTOCOL, |connection| async move {
            loop {
                let (sender, receiver) = connection.accept_bi().await.map_err(BenchError::wrong)?;
                let mut stream = Stream { sender, receiver, chunk: Bytes::new() };
                tokio::spawn(async move { pipe::serve(&mut stream).await });
            }
        })
        .await
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        Self::new(&setup, &contact, PROTOCOL)
    }

    async fn connect(&self) -> Result<Closing, BenchError> {
        self.dial().await.map(Closing)
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
        let chunk = self.receiver.read_chunk(usize::MAX, true).await.map_err(BenchError::wrong)?;
        self.chunk = chunk.map(|chunk| chunk.bytes).unwrap_or_default();
        Ok(&self.chunk)
    }
}
