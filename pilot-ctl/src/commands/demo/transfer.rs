//! The demo's bulk transfer: one stream, through the local API sockets of both daemons, hashed at both ends.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::client::{AcceptOptions, Daemon, OpenOptions};
use crate::hint::{Failure, Result};

/// How much is sent: long enough for the rate to mean something, short enough to watch.
const TRANSFER_LEN: u64 = 200_000_000;
/// What is written and read at once.
const BLOCK_LEN: usize = 256 * 1024;
/// A port that no service of the product uses.
const SERVICE: &str = "9000";
/// No transfer of this size takes longer on one machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What was moved, and what arrived.
pub(super) struct Transferred {
    pub(super) sent_sha256: String,
    pub(super) received_sha256: String,
    pub(super) len: u64,
    pub(super) elapsed: Duration,
}

/// Sends from `sender` to `receiver`. Each end works on a thread of its own, as two programs would.
pub(super) async fn run(sender: &Daemon, receiver: &Daemon) -> Result<Transferred> {
    let accept = AcceptOptions { service: SERVICE.to_owned(), public: false, offer: None, replay_safe: false };
    let accepting = receiver.accept(&accept);
    let opening = async {
        receiver.wait_for_service(SERVICE).await?;
        sender.open(&OpenOptions::new(&receiver.name, SERVICE, TIMEOUT)).await
    };
    let (incoming, outgoing) = tokio::try_join!(accepting, opening)?;
    let (incoming, outgoing) = (blocking(incoming.io)?, blocking(outgoing.io)?);

    let started = Instant::now();
    let receiving = tokio::task::spawn_blocking(move || receive(incoming));
    let sending = tokio::task::spawn_blocking(move || send(outgoing));
    let both = async { tokio::try_join!(sending, receiving) };
    let ended = tokio::time::timeout(TIMEOUT, both).await.map_err(|_| Failure::failed("the transfer does not end"))?;
    let (sent, received) = ended.map_err(|error| Failure::failed(format!("the transfer broke: {error}")))?;
    let (received_sha256, len) = received.map_err(|error| Failure::failed(format!("receiving: {error}")))?;
    let sent_sha256 = sent.map_err(|error| Failure::failed(format!("sending: {error}")))?;
    Ok(Transferred { sent_sha256, received_sha256, len, elapsed: started.elapsed() })
}

fn blocking(stream: tokio::net::UnixStream) -> Result<UnixStream> {
    let made = stream.into_std().and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
    made.map_err(|error| Failure::failed(format!("cannot use the stream: {error}")))
}

fn send(mut stream: UnixStream) -> std::io::Result<String> {
    let progress = progress_bar();
    let mut hash = Sha256::new();
    let mut block = noise();
    let mut left = TRANSFER_LEN;
    while left > 0 {
        // Each block differs, so that one in the wrong place would show.
        block[..8].copy_from_slice(&left.to_be_bytes());
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK_LEN);
        stream.write_all(&block[..len])?;
        hash.update(&block[..len]);
        progress.inc(len as u64);
        left -= len as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The receiver's end of its side says that it has everything.
    stream.read_to_end(&mut Vec::new())?;
    progress.finish_and_clear();
    Ok(hex(hash))
}

fn receive(mut stream: UnixStream) -> std::io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK_LEN];
    let mut len = 0;
    loop {
        match stream.read(&mut block)? {
            0 => break,
            read => {
                hash.update(&block[..read]);
                len += read as u64;
            }
        }
    }
    stream.shutdown(Shutdown::Write)?;
    Ok((hex(hash), len))
}

/// Bytes that do not compress and do not repeat within a block (xorshift64, Marsaglia 2003).
fn noise() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut block = Vec::with_capacity(BLOCK_LEN);
    while block.len() < BLOCK_LEN {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    block
}

/// On stderr, and only if that is a terminal.
fn progress_bar() -> ProgressBar {
    let template = "  [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(TRANSFER_LEN).with_style(style.progress_chars("=> "))
}

fn hex(hash: Sha256) -> String {
    data_encoding::HEXLOWER.encode(&hash.finalize())
}
