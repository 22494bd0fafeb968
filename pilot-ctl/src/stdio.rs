//! stdin and stdout without threads, where it matters: MCP clients give pipes or sockets, and those are driven by the event
//! loop, so that a byte takes one wake-up to the tunnel and back. Terminals and files go through tokio's threads: a terminal
//! hands out one line a read, which edge-triggered readiness cannot tell from having no more, and files have none.
//!
//! The non-blocking flag belongs to the open file, which a shell or a parent may share: it is put back in the end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::hint::{Failure, Result};

/// This process's stdin.
pub(crate) struct Stdin {
    input: Box<dyn AsyncRead + Unpin>,
    _flags: Option<NonBlocking>,
}

/// This process's stdout.
pub(crate) struct Stdout {
    output: Box<dyn AsyncWrite + Unpin>,
    _flags: Option<NonBlocking>,
}

impl Stdin {
    pub(crate) fn open() -> Result<Self> {
        Self::of(io::stdin().as_fd()).map_err(|error| Failure::failed(format!("cannot use stdin: {error}")))
    }

    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let (input, flags): (Box<dyn AsyncRead + Unpin>, _) = match Polled::of(fd)? {
            Some(Polled::Pipe(fd, flags)) => (Box::new(pipe::Receiver::from_owned_fd_unchecked(fd)?), Some(flags)),
            Some(Polled::Socket(stream, flags)) => (Box::new(stream), Some(flags)),
            None => (Box::new(tokio::io::stdin()), None),
        };
        Ok(Self { input, _flags: flags })
    }
}

impl Stdout {
    pub(crate) fn open() -> Result<Self> {
        Self::of(io::stdout().as_fd()).map_err(|error| Failure::failed(format!("cannot use stdout: {error}")))
    }

    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let (output, flags): (Box<dyn AsyncWrite + Unpin>, _) = match Polled::of(fd)? {
            Some(Polled::Pipe(fd, flags)) => (Box::new(pipe::Sender::from_owned_fd_unchecked(fd)?), Some(flags)),
            Some(Polled::Socket(stream, flags)) => (Box::new(stream), Some(flags)),
            None => (Box::new(tokio::io::stdout()), None),
        };
        Ok(Self { output, _flags: flags })
    }
}

impl AsyncRead for Stdin {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.output).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_shutdown(cx)
    }
}

/// A descriptor that the event loop can drive, in non-blocking mode.
enum Polled {
    Pipe(OwnedFd, NonBlocking),
    Socket(UnixStream, NonBlocking),
}

impl Polled {
    /// None for a terminal, a file, a device.
    fn of(fd: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        if kind != FileType::Fifo && kind != FileType::Socket {
            return Ok(None);
        }
        let (own, flags) = (fd.try_clone_to_owned()?, NonBlocking::new(fd)?);
        if kind == FileType::Fifo {
            return Ok(Some(Self::Pipe(own, flags)));
        }
        Ok(Some(Self::Socket(UnixStream::from_std(own.into())?, flags)))
    }
}

/// Puts the flags back when dropped.
struct NonBlocking {
    fd: OwnedFd,
    flags_before: OFlags,
}

impl NonBlocking {
    fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let flags_before = fcntl_getfl(fd)?;
        fcntl_setfl(fd, flags_before | OFlags::NONBLOCK)?;
        Ok(Self { fd: fd.try_clone_to_owned()?, flags_before })
    }
}

impl Drop for NonBlocking {
    fn drop(&mut self) {
        let _the_file_is_gone = fcntl_setfl(&self.fd, self.flags_before);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LEN: usize = 1 << 20;

    async fn carry(mut input: Stdin, mut output: Stdout) -> Vec<u8> {
        let write = async move {
            output.write_all(&vec![7; LEN]).await.expect("write");
            output.shutdown().await.expect("shutdown");
        };
        let mut received = Vec::new();
        let ((), read) = tokio::join!(write, input.read_to_end(&mut received));
        read.expect("read");
        received
    }

    #[tokio::test]
    async fn a_pipe_carries_more_than_it_holds_and_gets_its_flags_back() {
        let (reader, writer) = io::pipe().expect("pipe");
        let flags_before = fcntl_getfl(&reader).expect("flags");
        let (input, output) = (Stdin::of(reader.as_fd()).expect("reader"), Stdout::of(writer.as_fd()).expect("writer"));
        assert!(input._flags.is_some());
        drop(writer);
        assert!(carry(input, output).await == vec![7; LEN]);
        assert_eq!(fcntl_getfl(&reader).expect("flags"), flags_before);
    }

    #[tokio::test]
    async fn a_socket_carries_more_than_it_holds() {
        let (reader, writer) = std::os::unix::net::UnixStream::pair().expect("pair");
        let (input, output) = (Stdin::of(reader.as_fd()).expect("reader"), Stdout::of(writer.as_fd()).expect("writer"));
        assert!(carry(input, output).await == vec![7; LEN]);
    }

    #[tokio::test]
    async fn what_cannot_be_polled_is_left_to_threads() {
        let null = std::fs::File::open("/dev/null").expect("open");
        assert!(Stdin::of(null.as_fd()).expect("open")._flags.is_none());
    }
}
