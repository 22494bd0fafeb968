//! Bodies of exchanges over HTTP/1.1 and HTTP/2: what is uploaded, and the reply that the path asks for.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response};

use super::SERVER_NAME;
use crate::compare::pipe::{left_after, piece};
use crate::compare::system::{Exchange, Progress};
use crate::error::BenchError;

/// So many bytes.
pub(crate) struct Fill {
    left: u64,
}

impl Body for Fill {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = piece(self.left);
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The request of an exchange.
pub(super) fn request<B>(exchange: Exchange, body: impl FnOnce(u64) -> B) -> Result<Request<B>, BenchError> {
    let uri = format!("https://{SERVER_NAME}/{}", exchange.reply);
    let request = Request::builder().method(Method::POST).uri(uri).header(hyper::header::HOST, SERVER_NAME);
    request.body(body(exchange.upload)).map_err(BenchError::wrong)
}

/// The body that uploads so much.
pub(super) fn fill(len: u64) -> Fill {
    Fill { left: len }
}

/// How much a request wants in reply.
pub(super) fn wanted(path: &str) -> Result<u64, BenchError> {
    path.trim_start_matches('/').parse().map_err(BenchError::wrong)
}

/// Takes the whole reply.
pub(super) async fn take(
    mut response: Response<Incoming>,
    exchange: Exchange,
    progress: &Progress,
) -> Result<(), BenchError> {
    let mut left = exchange.reply;
    while let Some(frame) = response.body_mut().frame().await {
        let len = frame.map_err(BenchError::wrong)?.data_ref().map_or(0, Bytes::len);
        progress.add(len);
        if len > 0 {
            left = left_after(left, len)?;
        }
    }
    if left == 0 { Ok(()) } else { Err(BenchError::wrong(format!("{left} bytes of the reply did not come"))) }
}

/// The server's side: takes the upload and replies.
pub(super) async fn answer(mut request: Request<Incoming>) -> Result<Response<Fill>, BenchError> {
    while let Some(frame) = request.body_mut().frame().await {
        frame.map_err(BenchError::wrong)?;
    }
    Ok(Response::new(fill(wanted(request.uri().path())?)))
}
