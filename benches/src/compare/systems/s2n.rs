//! QUIC by s2n-quic with its rustls provider, a stream for each channel.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use s2n_quic::client::Connect;
use s2n_quic::connection::{Handle, StreamAcceptor};
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::rustls;
use s2n_quic::stream::BidirectionalStream;
use s2n_quic::{Client, Server};
use tokio::sync::Mutex;

use super::certificate::Certificate;
use super::{CONNECTION_WINDOW, SERVER_NAME, STREAM_WINDOW};
use crate::compare::pipe::{self, Pipe, Piped};
use crate::compare::system::{Announce, Connection, Contact, Setup, System};
use crate::error::BenchError;

/// Idle connections are what one of the workloads is about.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A client of a server that speaks QUIC.
pub(crate) struct S2n {
    client: Client,
    address: SocketAddr,
}

/// A connection, closed when it is dropped.
pub(crate) struct Kept {
    handle: Handle,
    _acceptor: Mutex<StreamAcceptor>,
}

/// A stream each way.
pub(crate) struct Stream {
    stream: BidirectionalStream,
    chunk: Bytes,
}

impl System for S2n {
    type Connection = Kept;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        let certificate = Certificate::new()?;
        let credential = certificate.credential();
        let tls = rustls::Server::builder().with_certificate(certificate.der, certificate.key);
        let tls = tls.and_then(rustls::server::Builder::build).map_err(BenchError::wrong)?;
        let builder = Server::builder().with_tls(tls).map_err(BenchError::wrong)?;
        let builder = builder.with_limits(limits(&setup)?).map_err(BenchError::wrong)?;
        let builder = builder.with_io(SocketAddr::new(setup.listen, 0)).map_err(BenchError::wrong)?;
        let mut server = builder.start().map_err(BenchError::wrong)?;
        let address = server.local_addr()?;
        announce(Contact { address, credential, helpers: Vec::new() })?;
        while let Some(mut connection) = server.accept().await {
            tokio::spawn(async move {
                while let Some(stream) = connection.accept_bidirectional_stream().await.map_err(BenchError::wrong)? {
                    let mut stream = Stream { stream, chunk: Bytes::new() };
                    tokio::spawn(async move { pipe::serve(&mut stream).await });
                }
                Ok::<_, BenchError>(())
            });
        }
        Ok(())
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        let certificate = BASE64.decode(contact.credential.as_bytes()).map_err(BenchError::wrong)?;
        let tls = rustls::Client::builder().with_certificate(certificate);
        let tls = tls.and_then(rustls::client::Builder::build).map_err(BenchError::wrong)?;
        let builder = Client::builder().with_tls(tls).map_err(BenchError::wrong)?;
        let builder = builder.with_limits(limits(&setup)?).map_err(BenchError::wrong)?;
        let builder = builder.with_io(SocketAddr::new(setup.listen, 0)).map_err(BenchError::wrong)?;
        Ok(Self { client: builder.start().map_err(BenchError::wrong)?, address: contact.address })
    }

    async fn connect(&self) -> Result<Kept, BenchError> {
        let connect = Connect::new(self.address).with_server_name(SERVER_NAME);
        let (handle, acceptor) = self.client.connect(connect).await.map_err(BenchError::wrong)?.split();
        Ok(Kept { handle, _acceptor: Mutex::new(acceptor) })
    }
}

fn limits(setup: &Setup) -> Result<Limits, BenchError> {
    let (stream, connection) = (u64::from(STREAM_WINDOW), u64::from(CONNECTION_WINDOW));
    let limits = Limits::new()
        .with_data_window(connection)
        .and_then(|limits| limits.with_bidirectional_local_data_window(stream))
        .and_then(|limits| limits.with_bidirectional_remote_data_window(stream))
        .and_then(|limits| limits.with_max_send_buffer_size(STREAM_WINDOW))
        .and_then(|limits| limits.with_max_open_local_bidirectional_streams(u64::from(setup.streams)))
        .and_then(|limits| limits.with_max_open_remote_bidirectional_streams(u64::from(setup.streams)))
        .and_then(|limits| limits.with_max_idle_timeout(IDLE_TIMEOUT));
    limits.map_err(BenchError::wrong)
}

impl Connection for Kept {
    type Channel = Piped<Stream>;

    const IS_MULTIPLEXED: bool = true;

    async fn open(&self) -> Result<Self::Channel, BenchError> {
        let stream = self.handle.clone().open_bidirectional_stream().await.map_err(BenchError::wrong)?;
        Ok(Piped(Stream { stream, chunk: Bytes::new() }))
    }
}

impl Pipe for Stream {
    async fn write(&mut self, data: Bytes) -> Result<(), BenchError> {
        self.stream.send(data).await.map_err(BenchError::wrong)
    }

    async fn flush(&mut self) -> Result<(), BenchError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), BenchError> {
        self.stream.finish().map_err(BenchError::wrong)
    }

    async fn read(&mut self) -> Result<&[u8], BenchError> {
        self.chunk = self.stream.receive().await.map_err(BenchError::wrong)?.unwrap_or_default();
        Ok(&self.chunk)
    }
}
