//! Messages that no handler took, kept until somebody reads them (spec/local-api.md §5.5): a JSON object a line.
//!
//! What the file holds was acknowledged. A write that fails leaves it as it was, and one that a crash has cut short costs no line but its
//! own.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pilot_core::transport::Code;
use serde::Serialize;

use super::Incoming;

/// Largest single message that the inbox takes.
const MESSAGE_MAX: usize = 1024 * 1024;
/// Size at which the inbox refuses more. Nothing in it is ever thrown away for a newer message.
const INBOX_MAX: u64 = 16 * 1024 * 1024;

/// The inbox of one agent; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    /// Guards the end of the file, on threads that may wait for a disk.
    path: Arc<Mutex<PathBuf>>,
}

/// A line of the inbox.
#[derive(Debug, Serialize)]
struct Message<'a> {
    time_ms: u64,
    peer_key: String,
    peer: Option<String>,
    peer_name: Option<&'a str>,
    text: &'a str,
}

type Rejection = (Code, String);

impl Inbox {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(Mutex::new(path)) }
    }

    /// Appends the message; finishing without a word says that it is kept.
    pub(crate) async fn keep(self, mut incoming: Incoming) {
        match self.try_keep(&mut incoming).await {
            Ok(()) => incoming.stream.finish(),
            Err((code, reason)) => incoming.stream.reset(code, &reason),
        }
    }

    async fn try_keep(self, incoming: &mut Incoming) -> Result<(), Rejection> {
        let text = read_message(incoming).await?;
        let line = line(incoming, &text).map_err(not_kept)?;
        let appended = tokio::task::spawn_blocking(move || self.append(&line)).await;
        appended.map_err(|_| not_kept("the agent is shutting down"))?
    }

    fn append(&self, line: &[u8]) -> Result<(), Rejection> {
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut file, len) = open(&path).map_err(not_kept)?;
        if len + line.len() as u64 > INBOX_MAX {
            return Err((Code::BUSY, "the inbox is full".to_owned()));
        }
        append_whole(&mut file, len, line).and_then(|()| sync_entry(&path, len)).map_err(not_kept)
    }
}

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

fn line(incoming: &Incoming, text: &str) -> serde_json::Result<Vec<u8>> {
    let message = Message {
        time_ms: incoming.arrived.0 / 1_000_000,
        peer_key: incoming.peer.to_string(),
        peer: incoming.address.map(|address| address.to_string()),
        peer_name: incoming.name.as_deref(),
        text,
    };
    let mut line = serde_json::to_vec(&message)?;
    line.push(b'\n');
    Ok(line)
}

fn not_kept(error: impl std::fmt::Display) -> Rejection {
    (Code::INTERNAL, format!("the message could not be kept: {error}"))
}

/// The inbox and its length, without the piece of a line that a crash may have left at its end.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    let len = file.metadata()?.len();
    let whole = whole_lines(&mut file, len)?;
    if whole < len {
        file.set_len(whole)?;
    }
    Ok((file, whole))
}

/// How many of the first `len` bytes are whole lines. All of it is read only where the last one is not.
fn whole_lines(file: &mut File, len: u64) -> io::Result<u64> {
    let mut last = [0];
    if len == 0 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(len - 1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(len);
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1))
}

/// All of the line is in the file when this returns, and on the disk; or nothing of it.
fn append_whole(file: &mut File, len: u64, line: &[u8]) -> io::Result<()> {
    let result = file.write_all(line).and_then(|()| file.sync_data());
    if result.is_err() {
        // A shorter file fits on every disk. Should even this fail, the next message finds the piece.
        if let Err(error) = file.set_len(len) {
            tracing::warn!(%error, "a piece of a message stays in the inbox");
        }
    }
    result
}

/// A file that is new is there after a loss of power only if its directory says so.
fn sync_entry(path: &Path, len: u64) -> io::Result<()> {
    match path.parent() {
        Some(directory) if len == 0 => File::open(directory)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> (tempfile::TempDir, PathBuf, Inbox) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inbox");
        (directory, path.clone(), Inbox::new(path))
    }

    #[test]
    fn a_line_that_a_crash_cut_short_spoils_neither_the_one_before_nor_the_next() {
        let (_directory, path, inbox) = inbox();
        inbox.append(b"one\n").unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"tw").unwrap();
        inbox.append(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nthree\n");

        std::fs::write(&path, "never whole").unwrap();
        inbox.append(b"four\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "four\n");
    }

    #[test]
    fn a_message_that_does_not_fit_on_the_disk_leaves_the_inbox_as_it_was() {
        // Every write fails here, as on a full disk, and the file has no length to restore.
        let mut full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        assert_eq!(append_whole(&mut full, 0, b"line\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        let (_directory, path, inbox) = inbox();
        std::fs::write(&path, vec![b'\n'; INBOX_MAX as usize - 4]).unwrap();
        assert_eq!(inbox.append(b"five\n").unwrap_err().0, Code::BUSY);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), INBOX_MAX - 4);
        inbox.append(b"six\n").unwrap();
    }

    #[test]
    fn messages_that_come_at_once_are_all_kept_whole() {
        let (_directory, path, inbox) = inbox();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let inbox = inbox.clone();
                scope
                    .spawn(move || inbox.append(format!("{}\n", number.to_string().repeat(9_999)).as_bytes()).unwrap());
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        let expected: Vec<String> = (0..8).map(|number| number.to_string().repeat(9_999)).collect();
        assert_eq!(lines, expected);
    }
}
