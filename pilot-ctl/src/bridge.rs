//! Bytes both ways between this process and a stream of the daemon, untouched.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

/// What is read at once. Large enough that a system call per chunk does not show, small enough for many bridges.
const CHUNK_LEN: usize = 64 * 1024;

/// Copies until `from` ends, then ends `to`. The half-close is how the other side learns that nothing more comes.
pub(crate) async fn pump(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<u64> {
    let mut from = BufReader::with_capacity(CHUNK_LEN, from);
    let copied = tokio::io::copy_buf(&mut from, &mut to).await?;
    to.flush().await?;
    to.shutdown().await?;
    Ok(copied)
}

/// Whether the error says that the reader at the other end of a pipe or socket has gone.
pub(crate) fn is_reader_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected)
}
