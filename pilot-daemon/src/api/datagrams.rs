//! A program's socket for unreliable messages: a JSON object a line, both ways (spec/local-api.md §8).

use bytes::Bytes;
use data_encoding::BASE64;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;

use super::request::usage;
use super::types::{ApiError, DatagramReceived, DatagramToSend, ErrorBody};
use crate::agent::{Agent, DEFAULT_TIMEOUT, service_port};
use crate::datagrams::{Datagram, DatagramReceiver};

/// Longest line taken: a message of the largest size takes a sixth of it, a ticket with every address as much.
const LINE_MAX: u64 = 8 * 1024;

/// Lines to the program; held for one line at a time.
type Lines = Mutex<OwnedWriteHalf>;

/// Runs until the program ends its side, breaks off, or says what makes no line.
///
/// `early` are bytes that the program sent before it was told that the socket is ready.
pub(super) async fn run(agent: &Agent, socket: UnixStream, early: Bytes, receiver: Option<DatagramReceiver>) {
    let (from_program, to_program) = socket.into_split();
    let lines = Lines::new(to_program);
    let ended = tokio::select! {
        ended = send_all(agent, early, from_program, &lines) => ended,
        ended = receive_all(receiver, &lines) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "datagrams of a local program");
    }
}

async fn receive_all(receiver: Option<DatagramReceiver>, lines: &Lines) -> std::io::Result<()> {
    let Some(mut receiver) = receiver else { return std::future::pending().await };
    while let Some(datagram) = receiver.recv().await {
        put_line(lines, &DatagramReceived::from(datagram)).await?;
    }
    Ok(())
}

async fn send_all(agent: &Agent, early: Bytes, from: OwnedReadHalf, lines: &Lines) -> std::io::Result<()> {
    let mut from = BufReader::new((&early[..]).chain(from));
    loop {
        let mut line = Vec::new();
        (&mut from).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        if let Err(error) = send(agent, &line).await {
            put_line(lines, &ErrorBody { error }).await?;
        }
        if !line.ends_with(b"\n") {
            return Ok(());
        }
    }
}

async fn send(agent: &Agent, line: &[u8]) -> Result<(), ApiError> {
    if line.len() as u64 == LINE_MAX {
        return Err(usage(format!("a line may have {LINE_MAX} bytes")));
    }
    let message: DatagramToSend =
        serde_json::from_slice(line).map_err(|error| usage(format!("the line makes no sense: {error}")))?;
    let port =
        service_port(&message.service).ok_or_else(|| usage(format!("'{}' is not a service", message.service)))?;
    let data = BASE64.decode(message.data.as_bytes()).map_err(|_| usage("'data' is not base64"))?;
    let peer = agent.resolve(&message.to).await?;
    agent.send_datagram(&peer, port, data.into(), DEFAULT_TIMEOUT).await
}

async fn put_line(lines: &Lines, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    lines.lock().await.write_all(&line).await
}

impl From<Datagram> for DatagramReceived {
    fn from(datagram: Datagram) -> Self {
        Self {
            peer: datagram.address.map(|address| address.to_string()),
            key: datagram.peer.to_string(),
            data: BASE64.encode(&datagram.data),
        }
    }
}
