//! HTTP/1.1 by hyper over TLS, a connection for each channel.

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::http_body::{Fill, answer, fill, request, take};
use super::tls::{Tls, serve_all};
use crate::compare::system::{Announce, Channel, Connection, Contact, Exchange, Progress, Setup, System};
use crate::error::BenchError;

/// Of the handshake.
const PROTOCOL: &[u8] = b"http/1.1";

/// A client of a server that speaks HTTP/1.1.
#[derive(Clone)]
pub(crate) struct Http1(Tls);

/// A connection that is kept alive.
pub(crate) struct KeptAlive(SendRequest<Fill>);

impl System for Http1 {
    type Connection = Self;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        serve_all(setup, announce, Some(PROTOCOL), |stream| async move {
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            served.await.map_err(BenchError::wrong)
        })
        .await
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        Tls::new(&setup, contact, Some(PROTOCOL)).map(Self)
    }

    async fn connect(&self) -> Result<Self, BenchError> {
        Ok(self.clone())
    }
}

impl Connection for Http1 {
    type Channel = KeptAlive;

    const IS_MULTIPLEXED: bool = false;

    async fn open(&self) -> Result<KeptAlive, BenchError> {
        let (sender, connection) = handshake(TokioIo::new(self.0.dial().await?)).await.map_err(BenchError::wrong)?;
        tokio::spawn(connection);
        Ok(KeptAlive(sender))
    }
}

impl Channel for KeptAlive {
    async fn exchange(&mut self, exchange: Exchange, progress: &Progress) -> Result<(), BenchError> {
        self.0.ready().await.map_err(BenchError::wrong)?;
        let response = self.0.send_request(request(exchange, fill)?).await.map_err(BenchError::wrong)?;
        take(response, exchange, progress).await
    }
}
