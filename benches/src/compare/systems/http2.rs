//! HTTP/2 by hyper over TLS, a stream for each exchange.

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http_body::{Fill, answer, fill, request, take};
use super::tls::{Tls, serve_all};
use super::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::compare::system::{Announce, Channel, Connection, Contact, Exchange, Progress, Setup, System};
use crate::error::BenchError;

/// Of the handshake.
const PROTOCOL: &[u8] = b"h2";
/// Largest DATA frame taken: a TLS record.
const FRAME_LEN_MAX: u32 = 16 << 10;
/// What a stream keeps of what could not be sent yet.
const SEND_BUFFER_LEN: usize = 1 << 20;

/// A client of a server that speaks HTTP/2.
#[derive(Clone)]
pub(crate) struct Http2(Tls);

/// A connection, to which each channel holds a handle.
pub(crate) struct Session(SendRequest<Fill>);

impl System for Http2 {
    type Connection = Session;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        let streams = setup.streams;
        serve_all(setup, announce, Some(PROTOCOL), move |stream| async move {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(streams)
                .max_frame_size(FRAME_LEN_MAX)
                .max_send_buf_size(SEND_BUFFER_LEN);
            builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await.map_err(BenchError::wrong)
        })
        .await
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        Tls::new(&setup, contact, Some(PROTOCOL)).map(Self)
    }

    async fn connect(&self) -> Result<Session, BenchError> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_LEN_MAX)
            .max_send_buf_size(SEND_BUFFER_LEN);
        let (sender, connection) =
            builder.handshake(TokioIo::new(self.0.dial().await?)).await.map_err(BenchError::wrong)?;
        tokio::spawn(connection);
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
        self.0.ready().await.map_err(BenchError::wrong)?;
        let response = self.0.send_request(request(exchange, fill)?).await.map_err(BenchError::wrong)?;
        take(response, exchange, progress).await
    }
}
