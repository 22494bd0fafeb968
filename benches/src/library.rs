//! One stream between two nodes in this process, a thread each: what the library does without the local API.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::event::{Event, StreamHandle};
use pilot_core::id::ServicePort;
use pilot_core::node::Node;
use pilot_core::time::Now;
use pilot_core::transport::{Read, ReadError};
use pilot_core::wire::stream_header::StreamHeader;
use pilot_daemon::clock;

use crate::endpoint::{Endpoint, Program};
use crate::error::BenchError;
use crate::exchange::{BLOCK_LEN, on_this_thread};

/// The two ends.
const SENDER: usize = 0;
const TAKER: usize = 1;

/// The time that `len` bytes take over one stream, the handshake included. `packet_len_max` bounds the packets of both.
pub(crate) fn bulk(len: usize, packet_len_max: usize) -> Result<Duration, BenchError> {
    let (sender_tx, sender_rx) = mpsc::channel();
    let (taker_tx, taker_rx) = mpsc::channel();
    let taker = thread::spawn(move || on_this_thread(take(packet_len_max, taker_tx, sender_rx)));
    let time = on_this_thread(send(len, packet_len_max, sender_tx, taker_rx))?;
    let taken = taker.join().map_err(|_| BenchError::Wrong("the taker panicked".to_owned()))??;
    if taken == len { Ok(time) } else { Err(BenchError::Wrong(format!("{taken} bytes arrived of {len}"))) }
}

async fn send(
    len: usize,
    packet_len_max: usize,
    own: mpsc::Sender<SocketAddr>,
    other: mpsc::Receiver<SocketAddr>,
) -> Result<Duration, BenchError> {
    let mut endpoint = Endpoint::bind(SENDER, packet_len_max)?;
    meet(&mut endpoint, TAKER, &own, &other)?;
    let start = clock::now();
    let header = StreamHeader::new(ServicePort::ECHO);
    let stream = endpoint.node.open_stream(start, &Endpoint::key_of(TAKER), &header).map_err(wrong)?;
    let mut source = Source { stream, block: Bytes::from(vec![7; BLOCK_LEN]), left: len, result: None };
    source.write(start, &mut endpoint.node);
    endpoint.run(&mut source).await?;
    source.result.unwrap_or(Ok(()))?;
    Ok(clock::now().mono.since(start.mono))
}

async fn take(
    packet_len_max: usize,
    own: mpsc::Sender<SocketAddr>,
    other: mpsc::Receiver<SocketAddr>,
) -> Result<usize, BenchError> {
    let mut endpoint = Endpoint::bind(TAKER, packet_len_max)?;
    meet(&mut endpoint, SENDER, &own, &other)?;
    let mut sink = Sink { taken: 0, result: None };
    endpoint.run(&mut sink).await?;
    sink.result.unwrap_or(Ok(()))?;
    Ok(sink.taken)
}

/// Tells the other thread where this end is, and this end where the other is.
fn meet(
    endpoint: &mut Endpoint,
    peer: usize,
    own: &mpsc::Sender<SocketAddr>,
    other: &mpsc::Receiver<SocketAddr>,
) -> Result<(), BenchError> {
    own.send(endpoint.address()).map_err(wrong)?;
    endpoint.learn(peer, other.recv().map_err(wrong)?);
    Ok(())
}

/// Writes so many bytes, and is done when the peer has finished in turn.
struct Source {
    stream: StreamHandle,
    block: Bytes,
    left: usize,
    result: Option<Result<(), BenchError>>,
}

impl Source {
    fn write(&mut self, now: Now, node: &mut Node) {
        while self.left > 0 {
            let mut chunk = self.block.slice(..self.left.min(BLOCK_LEN));
            match node.write(now, self.stream, &mut chunk) {
                Ok(0) => return,
                Ok(taken) => self.left -= taken,
                Err(error) => return self.result = Some(Err(wrong(error))),
            }
        }
        if let Err(error) = node.finish(now, self.stream) {
            self.result = Some(Err(wrong(error)));
        }
    }
}

impl Program for Source {
    fn on_event(&mut self, now: Now, node: &mut Node, event: Event) {
        if let Event::Writable(_) = event {
            self.write(now, node);
        } else if let Event::Readable(stream) = event
            && let Some(result) = drain(now, node, stream, &mut 0)
        {
            self.result = Some(result);
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}

/// Reads to the end, finishes in turn, and is done when the peer knows.
struct Sink {
    taken: usize,
    result: Option<Result<(), BenchError>>,
}

impl Program for Sink {
    fn on_event(&mut self, now: Now, node: &mut Node, event: Event) {
        if let Event::StreamOpened { stream, .. } | Event::Readable(stream) = event {
            self.result = match drain(now, node, stream, &mut self.taken) {
                Some(Ok(())) => node.finish(now, stream).err().map(|error| Err(wrong(error))),
                other => other,
            };
        } else if let Event::StreamClosed(_) = event {
            self.result = Some(Ok(()));
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}

/// Reads what is there and counts it; tells the end.
fn drain(now: Now, node: &mut Node, stream: StreamHandle, taken: &mut usize) -> Option<Result<(), BenchError>> {
    loop {
        match node.read(now, stream, usize::MAX) {
            Ok(Read::Data(data)) => *taken += data.len(),
            Ok(Read::Blocked) => return None,
            Ok(Read::Finished) | Err(ReadError::UnknownStream) => return Some(Ok(())),
            Err(error) => return Some(Err(wrong(error))),
        }
    }
}

fn wrong(error: impl std::fmt::Display) -> BenchError {
    BenchError::Wrong(error.to_string())
}
