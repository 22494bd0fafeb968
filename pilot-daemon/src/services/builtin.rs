//! Services that every agent has: echo, and the inbox for messages that no handler takes.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pilot_core::transport::Code;
use serde::Serialize;

use super::Incoming;

/// Largest single message that the inbox takes.
const MESSAGE_MAX: usize = 1024 * 1024;
/// Size at which the inbox refuses more. Nothing in it is ever thrown away for a newer message.
const INBOX_MAX: u64 = 16 * 1024 * 1024;

/// A line of the inbox.
#[derive(Debug, Serialize)]
struct Message<'a> {
    time_ms: u64,
    peer_key: String,
    peer: Option<String>,
    peer_name: Option<&'a str>,
    text: &'a str,
}

/// Returns every byte as it came.
pub(crate) async fn echo(mut incoming: Incoming) {
    let stream = &mut incoming.stream;
    while let Ok(Some(chunk)) = stream.read_chunk().await {
        if stream.write_chunk(chunk).await.is_err() {
            return;
        }
    }
    stream.finish();
}

/// Appends the message to the inbox; finishing without a word says that it is kept.
pub(crate) async fn keep_message(mut incoming: Incoming, inbox: PathBuf) {
    let text = match read_message(&mut incoming).await {
        Ok(text) => text,
        Err((code, reason)) => return incoming.stream.reset(code, &reason),
    };
    match append(&inbox, &incoming, &text) {
        Ok(()) => incoming.stream.finish(),
        Err((code, reason)) => incoming.stream.reset(code, &reason),
    }
}

type Rejection = (Code, String);

async fn read_message(incoming: &mut Incoming) -> Result<String, Rejection> {
    let mut message = Vec::new();
    loop {
        match incoming.stream.read_chunk().await {
            Ok(Some(chunk)) => message.extend_from_slice(&chunk),
            Ok(None) => break,
            // Half a message is none; who sent it knows that it did not arrive.
            Err(error) => return Err((error.code, error.reason)),
        }
        if message.len() > MESSAGE_MAX {
            return Err((Code::BAD_REQUEST, format!("a message may have {MESSAGE_MAX} bytes")));
        }
    }
    String::from_utf8(message).map_err(|_| (Code::BAD_REQUEST, "a message must be UTF-8 text".to_owned()))
}

fn append(inbox: &Path, incoming: &Incoming, text: &str) -> Result<(), Rejection> {
    let message = Message {
        time_ms: incoming.arrived.0 / 1_000_000,
        peer_key: incoming.peer.to_string(),
        peer: incoming.address.map(|address| address.to_string()),
        peer_name: incoming.name.as_deref(),
        text,
    };
    let failed = |error: &dyn std::fmt::Display| (Code::INTERNAL, format!("the message could not be kept: {error}"));
    let mut line = serde_json::to_vec(&message).map_err(|error| failed(&error))?;
    line.push(b'\n');
    let mut file =
        OpenOptions::new().create(true).append(true).mode(0o600).open(inbox).map_err(|error| failed(&error))?;
    let len = file.metadata().map_err(|error| failed(&error))?.len();
    if len + line.len() as u64 > INBOX_MAX {
        return Err((Code::BUSY, "the inbox is full".to_owned()));
    }
    file.write_all(&line).and_then(|()| file.sync_data()).map_err(|error| failed(&error))
}
