//! A stream as programs see it, and the queues between it and the driver.
//!
//! The driver owns the node; a [`Stream`] shares two bounded queues of `Bytes` with it. Each side takes the lock for as
//! long as it moves reference-counted chunks, and wakes the other directly. A program that does not read fills only its
//! own queue: the driver then leaves the data in the node, which gives the peer no more credit.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use pilot_core::event::StreamHandle;
use pilot_core::transport::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Bytes that wait between the node and a program, per stream and direction: a few milliseconds at the highest rates.
pub(crate) const QUEUE_MAX: usize = 1024 * 1024;
/// Largest piece copied by one write of the `AsyncWrite` kind.
const WRITE_MAX: usize = 256 * 1024;

/// A bidirectional byte stream to another agent.
///
/// Shutting it down finishes our direction. Dropping it before both directions have ended cancels what is left.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
}

/// What the peer sends.
#[derive(Debug)]
pub struct ReadHalf<'a> {
    stream: &'a Stream,
}

/// What the peer gets.
#[derive(Debug)]
pub struct WriteHalf<'a> {
    stream: &'a Stream,
}

/// Tells how a stream fares without holding it open.
#[derive(Clone, Debug)]
pub struct StreamWatch {
    shared: Arc<Shared>,
}

/// Why a stream ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({code})")]
pub struct StreamError {
    /// The code of the reset.
    pub code: Code,
    /// What was said with it.
    pub reason: String,
    /// Who ended it.
    pub by: EndedBy,
}

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The other agent.
    Peer,
    /// This side.
    Local,
    /// The tunnel broke or never came about.
    Network,
}

/// How a stream fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOutcome {
    /// Both directions are over.
    pub closed: bool,
    /// It ended early, or is about to.
    pub error: Option<StreamError>,
    /// The peer has not answered for five seconds.
    pub stalled: bool,
    /// Bytes taken from the program.
    pub bytes_sent: u64,
    /// Bytes given to it.
    pub bytes_received: u64,
    /// The peer has finished its direction: what it had to say has arrived.
    pub peer_finished: bool,
}

/// Streams that the driver must look at, each at most once.
#[derive(Debug, Default)]
pub(crate) struct DirtyList {
    streams: Mutex<Vec<Arc<Shared>>>,
    notify: Notify,
}

/// One stream's queues.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) handle: StreamHandle,
    is_dirty: AtomicBool,
    list: Arc<DirtyList>,
    /// Guards the queues; a leaf, never held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) incoming: Queue,
    pub(crate) outgoing: Queue,
    /// The peer's direction is over; the queue may still hold its last bytes.
    pub(crate) peer_finished: bool,
    /// The program has finished its direction.
    pub(crate) finish: bool,
    /// Nothing may be written any more: the peer wants no more, or the stream is over.
    pub(crate) write_closed: bool,
    /// Set by the program for the driver to carry out.
    pub(crate) abort: Option<(Code, String)>,
    /// As `abort`, for the peer's direction alone.
    pub(crate) stop: Option<(Code, String)>,
    pub(crate) error: Option<StreamError>,
    /// Why the peer wants no more, while it may still send.
    stopped: Option<StreamError>,
    pub(crate) stalled: bool,
    pub(crate) closed: bool,
    bytes_sent: u64,
    bytes_received: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
    closers: Vec<Waker>,
}

/// Chunks in order, and their length together.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    chunks: VecDeque<Bytes>,
    len: usize,
}

impl Stream {
    pub(crate) fn new(handle: StreamHandle, list: &Arc<DirtyList>) -> (Self, Arc<Shared>) {
        let shared = Arc::new(Shared {
            handle,
            is_dirty: AtomicBool::new(false),
            list: Arc::clone(list),
            state: Mutex::new(State::default()),
        });
        (Self { shared: Arc::clone(&shared) }, shared)
    }

    /// The next piece of what the peer sends, without a copy; `None` at its end.
    ///
    /// # Errors
    /// How the stream ended early.
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.split().0.read_chunk().await
    }

    /// Sends a piece without a copy, once there is room.
    ///
    /// # Errors
    /// How the stream ended early.
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        self.split().1.write_chunk(chunk).await
    }

    /// Both directions, to be used at the same time.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf { stream: self }, WriteHalf { stream: self })
    }

    /// Says everything that there is to say, and hears the other side out; `None` if that is more than `len_max` bytes.
    ///
    /// # Errors
    /// How the stream ended early.
    pub async fn exchange(&mut self, request: Vec<u8>, len_max: usize) -> Result<Option<Vec<u8>>, StreamError> {
        self.write_chunk(request.into()).await?;
        self.finish();
        let mut reply = Vec::new();
        while let Some(chunk) = self.read_chunk().await? {
            reply.extend_from_slice(&chunk);
            if reply.len() > len_max {
                return Ok(None);
            }
        }
        Ok(Some(reply))
    }

    /// Finishes our direction; what was written is still delivered.
    pub fn finish(&mut self) {
        self.split().1.finish();
    }

    /// Ends both directions early and tells the peer why. `reason` is cut at 256 bytes.
    pub fn reset(&mut self, code: Code, reason: &str) {
        self.shared.reset(code, reason);
    }

    /// Asks the peer to send no more.
    pub fn stop(&mut self, code: Code, reason: &str) {
        self.shared.lock().stop.get_or_insert((code, reason.to_owned()));
        self.shared.mark_dirty();
    }

    /// Tells how the stream fares, also after it has been dropped.
    pub fn watch(&self) -> StreamWatch {
        StreamWatch { shared: Arc::clone(&self.shared) }
    }

    /// Says everything that there is to say, at once: for a stream to which nothing was written yet, and which so has room.
    pub(crate) fn say(&self, request: Bytes) {
        self.push(request);
        self.shared.lock().finish = true;
    }

    pub(crate) fn handle(&self) -> StreamHandle {
        self.shared.handle
    }

    fn poll_chunk(&self, context: &mut Context<'_>, len_max: usize) -> Poll<Result<Option<Bytes>, StreamError>> {
        let mut state = self.shared.lock();
        if let Some(chunk) = state.incoming.pop(len_max) {
            state.bytes_received += chunk.len() as u64;
            // The driver stops at a full queue; half empty is early enough to have more by the time it is needed.
            let was = state.incoming.len + chunk.len();
            let has_crossed_half = was > QUEUE_MAX / 2 && state.incoming.len <= QUEUE_MAX / 2;
            drop(state);
            if has_crossed_half {
                self.shared.mark_dirty();
            }
            return Poll::Ready(Ok(Some(chunk)));
        }
        if state.peer_finished {
            return Poll::Ready(Ok(None));
        }
        if let Some(error) = state.ended_early() {
            return Poll::Ready(Err(error));
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        let mut state = self.shared.lock();
        if state.write_closed || state.finish {
            return Poll::Ready(Err(state.why().unwrap_or_else(finished)));
        }
        match QUEUE_MAX.saturating_sub(state.outgoing.len) {
            0 => {
                state.writer = Some(context.waker().clone());
                Poll::Pending
            }
            room => Poll::Ready(Ok(room)),
        }
    }

    fn push(&self, chunk: Bytes) {
        let mut state = self.shared.lock();
        state.bytes_sent += chunk.len() as u64;
        state.outgoing.push(chunk);
        drop(state);
        self.shared.mark_dirty();
    }
}

impl ReadHalf<'_> {
    /// As [`Stream::read_chunk`].
    ///
    /// # Errors
    /// How the stream ended early.
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        std::future::poll_fn(|context| self.stream.poll_chunk(context, usize::MAX)).await
    }
}

impl WriteHalf<'_> {
    /// As [`Stream::write_chunk`].
    ///
    /// # Errors
    /// How the stream ended early.
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        std::future::poll_fn(|context| self.stream.poll_room(context)).await?;
        self.stream.push(chunk);
        Ok(())
    }

    /// Waits until the peer wants no more, or the stream has ended early: for who has nothing to write meanwhile.
    pub async fn stopped(&mut self) {
        std::future::poll_fn(|context| {
            let mut state = self.stream.shared.lock();
            if state.write_closed {
                return Poll::Ready(());
            }
            state.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// As [`Stream::finish`].
    pub fn finish(&mut self) {
        self.stream.shared.lock().finish = true;
        self.stream.shared.mark_dirty();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.poll_chunk(context, buf.remaining()) {
            Poll::Ready(Ok(Some(chunk))) => {
                buf.put_slice(&chunk);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(None)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_room(context) {
            Poll::Ready(Ok(room)) => {
                let len = buf.len().min(room).min(WRITE_MAX);
                self.push(Bytes::copy_from_slice(&buf[..len]));
                Poll::Ready(Ok(len))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.closed {
            return;
        }
        let is_read_out = state.peer_finished && state.incoming.len == 0;
        if !state.finish {
            state.abort.get_or_insert((Code::CANCELLED, "the program at the other end went away".to_owned()));
        } else if !is_read_out {
            state.stop.get_or_insert((Code::CANCELLED, "the program at the other end reads no more".to_owned()));
        }
        drop(state);
        self.shared.mark_dirty();
    }
}

impl StreamWatch {
    /// As [`Stream::reset`], for who watches a stream that another task works with.
    pub fn reset(&self, code: Code, reason: &str) {
        self.shared.reset(code, reason);
    }

    /// How the stream fares now.
    pub fn outcome(&self) -> StreamOutcome {
        let state = self.shared.lock();
        StreamOutcome {
            closed: state.closed,
            error: state.why(),
            stalled: state.stalled,
            bytes_sent: state.bytes_sent,
            bytes_received: state.bytes_received,
            peer_finished: state.peer_finished,
        }
    }

    /// Waits until both directions are over.
    pub async fn closed(&self) -> StreamOutcome {
        std::future::poll_fn(|context| {
            let mut state = self.shared.lock();
            if state.closed {
                return Poll::Ready(());
            }
            if !state.closers.iter().any(|waker| waker.will_wake(context.waker())) {
                state.closers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
        self.outcome()
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        Self::new(io::ErrorKind::ConnectionReset, error)
    }
}

impl DirtyList {
    /// Waits until there is a stream to look at.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Takes the streams to look at.
    pub(crate) fn take(&self) -> Vec<Arc<Shared>> {
        let streams = std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in &streams {
            stream.is_dirty.store(false, Ordering::Release);
        }
        streams
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset(self: &Arc<Self>, code: Code, reason: &str) {
        let mut state = self.lock();
        state.end(StreamError { code, reason: reason.to_owned(), by: EndedBy::Local });
        state.abort.get_or_insert((code, reason.to_owned()));
        drop(state);
        self.mark_dirty();
    }

    /// Has the driver look at this stream.
    pub(crate) fn mark_dirty(self: &Arc<Self>) {
        if !self.is_dirty.swap(true, Ordering::AcqRel) {
            self.list.streams.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(self));
            self.list.notify.notify_one();
        }
    }
}

impl State {
    /// Ends the stream early; the first reason stands.
    pub(crate) fn end(&mut self, error: StreamError) {
        self.error.get_or_insert(error);
        self.write_closed = true;
        self.wake_reader();
        self.wake_writer();
    }

    /// The peer wants no more; what it sends still counts.
    pub(crate) fn stop_writing(&mut self, error: StreamError) {
        self.stopped.get_or_insert(error);
        self.write_closed = true;
        self.outgoing.clear();
        self.wake_writer();
    }

    fn why(&self) -> Option<StreamError> {
        self.error.clone().or_else(|| self.stopped.clone())
    }

    /// What a reader is told who finds neither data nor an end.
    fn ended_early(&self) -> Option<StreamError> {
        self.error.clone().or_else(|| self.closed.then(|| self.why().unwrap_or_else(finished)))
    }

    /// Both directions are over.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.write_closed = true;
        self.wake_reader();
        self.wake_writer();
        self.closers.drain(..).for_each(Waker::wake);
    }

    pub(crate) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(crate) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Gives back the rest of a chunk that was taken.
    pub(crate) fn unpop(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_front(chunk);
        }
    }

    /// Takes the first chunk, or its first `len_max` bytes.
    pub(crate) fn pop(&mut self, len_max: usize) -> Option<Bytes> {
        let first = self.chunks.front_mut()?;
        let chunk = if first.len() > len_max { first.split_to(len_max) } else { self.chunks.pop_front()? };
        self.len -= chunk.len();
        Some(chunk)
    }

    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.len = 0;
    }
}

/// The program itself has finished the direction it now writes to.
fn finished() -> StreamError {
    StreamError { code: Code::NO_ERROR, reason: "the stream was finished on this side".to_owned(), by: EndedBy::Local }
}
