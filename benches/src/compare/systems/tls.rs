//! TLS 1.3 by rustls over TCP, a connection for each channel.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::SERVER_NAME;
use super::certificate::{Certificate, client_config};
use super::tcp::{self, StreamPipe};
use crate::compare::pipe::{self, Piped};
use crate::compare::system::{Announce, Congestion, Connection, Contact, Setup, System};
use crate::error::BenchError;

/// A client of a server that speaks TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    contact: Arc<Contact>,
    congestion: Congestion,
}

impl Tls {
    /// A client that offers that protocol.
    pub(crate) fn new(setup: &Setup, contact: Contact, protocol: Option<&[u8]>) -> Result<Self, BenchError> {
        let connector = TlsConnector::from(Arc::new(client_config(&contact.credential, protocol)?));
        Ok(Self { connector, contact: Arc::new(contact), congestion: setup.kind.congestion() })
    }

    /// A connection, its handshake done.
    pub(super) async fn dial(&self) -> Result<client::TlsStream<TcpStream>, BenchError> {
        self.dial_to(self.contact.address, SERVER_NAME).await
    }

    /// The same with a server of that address and name.
    pub(crate) async fn dial_to(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> Result<client::TlsStream<TcpStream>, BenchError> {
        let stream = tcp::connect(address, self.congestion).await?;
        let name = ServerName::try_from(name.to_owned()).map_err(BenchError::wrong)?;
        Ok(self.connector.connect(name, stream).await?)
    }
}

/// Accepts connections for ever; `serve` gets each with its handshake done.
pub(super) async fn serve_all<F>(
    setup: Setup,
    announce: Announce,
    protocol: Option<&[u8]>,
    serve: impl Fn(server::TlsStream<TcpStream>) -> F + Copy + Send + 'static,
) -> Result<(), BenchError>
where
    F: Future<Output = Result<(), BenchError>> + Send + 'static,
{
    let certificate = Certificate::new()?;
    let credential = certificate.credential();
    let acceptor = TlsAcceptor::from(Arc::new(certificate.server_config(protocol)?));
    let listener = tcp::listen(setup.listen, setup.kind.congestion())?;
    announce(Contact { address: listener.local_addr()?, credential, helpers: Vec::new() })?;
    loop {
        let stream = tcp::accept(&listener).await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            serve(stream).await
        });
    }
}

impl System for Tls {
    type Connection = Self;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        serve_all(setup, announce, None, |stream| async move { pipe::serve(&mut StreamPipe::new(stream)).await }).await
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        Self::new(&setup, contact, None)
    }

    async fn connect(&self) -> Result<Self, BenchError> {
        Ok(self.clone())
    }
}

impl Connection for Tls {
    type Channel = Piped<StreamPipe<client::TlsStream<TcpStream>>>;

    const IS_MULTIPLEXED: bool = false;

    async fn open(&self) -> Result<Self::Channel, BenchError> {
        Ok(Piped(StreamPipe::new(self.dial().await?)))
    }
}
