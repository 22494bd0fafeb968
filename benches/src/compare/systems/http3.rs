//! HTTP/3 by h3 over quinn, a stream for each exchange.

use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use h3::server::RequestResolver;
use h3_quinn::OpenStreams;
use http::Response;

use super::http_body::{request, wanted};
use super::quinn::{Quinn, serve_all};
use crate::compare::pipe::{left_after, piece};
use crate::compare::system::{Announce, Channel, Connection, Contact, Exchange, Progress, Setup, System};
use crate::error::BenchError;

/// Of the handshake.
const PROTOCOL: &[u8] = b"h3";

/// A client of a server that speaks HTTP/3.
pub(crate) struct Http3(Quinn);

/// A connection, to which each channel holds a handle; closed when the last is dropped.
pub(crate) struct Session(SendRequest<OpenStreams, Bytes>);

impl System for Http3 {
    type Connection = Session;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        serve_all(setup, announce, PROTOCOL, |connection| async move {
            let connection = h3::server::Connection::new(h3_quinn::Connection::new(connection)).await;
            let mut connection = connection.map_err(BenchError::wrong)?;
            while let Some(resolver) = connection.accept().await.map_err(BenchError::wrong)? {
                tokio::spawn(answer(resolver));
            }
            Ok(())
        })
        .await
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        Quinn::new(&setup, &contact, PROTOCOL).map(Self)
    }

    async fn connect(&self) -> Result<Session, BenchError> {
        let connection = h3_quinn::Connection::new(self.0.dial().await?);
        let (mut driver, sender) = h3::client::new(connection).await.map_err(BenchError::wrong)?;
        tokio::spawn(async move { driver.wait_idle().await });
        Ok(Session(sender))
    }
}

impl Connection for Session {
    type Channel = Self;

    const IS_MULTIPLEXED: bool = true;

    async fn open(&self) -> Result<Self, BenchError> {
        Ok(Self(self.0.clone()))
    }
}

impl Channel for Session {
    async fn exchange(&mut self, exchange: Exchange, progress: &Progress) -> Result<(), BenchError> {
        let mut stream = self.0.send_request(request(exchange, |_| ())?).await.map_err(BenchError::wrong)?;
        let mut left = exchange.upload;
        while left > 0 {
            let piece = piece(left);
            left -= piece.len() as u64;
            stream.send_data(piece).await.map_err(BenchError::wrong)?;
        }
        stream.finish().await.map_err(BenchError::wrong)?;
        stream.recv_response().await.map_err(BenchError::wrong)?;
        let mut left = exchange.reply;
        while let Some(data) = stream.recv_data().await.map_err(BenchError::wrong)? {
            progress.add(data.remaining());
            left = left_after(left, data.remaining())?;
        }
        if left == 0 { Ok(()) } else { Err(BenchError::wrong(format!("{left} bytes of the reply did not come"))) }
    }
}

/// The server's side: takes the upload and replies.
async fn answer(resolver: RequestResolver<h3_quinn::Connection, Bytes>) -> Result<(), BenchError> {
    let (request, mut stream) = resolver.resolve_request().await.map_err(BenchError::wrong)?;
    while stream.recv_data().await.map_err(BenchError::wrong)?.is_some() {}
    stream.send_response(Response::new(())).await.map_err(BenchError::wrong)?;
    let mut left = wanted(request.uri().path())?;
    while left > 0 {
        let piece = piece(left);
        left -= piece.len() as u64;
        stream.send_data(piece).await.map_err(BenchError::wrong)?;
    }
    stream.finish().await.map_err(BenchError::wrong)
}
