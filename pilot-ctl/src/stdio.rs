//! stdin and stdout without threads: non-blocking descriptors on the event loop, so that a byte takes one wake-up from the
//! MCP client to the tunnel and back.
//!
//! The flag belongs to the open file, which a shell or a parent may share: it is put back when the command ends. Files
//! and `/dev/null` cannot be polled and are always ready; tokio's file type reads those.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::hint::{Failure, Result};

/// A standard stream, driven by readiness where the system allows it.
pub(crate) enum Stdio {
    /// Pipe, socket or terminal.
    Polled(PolledFd),
    /// File or device without readiness.
    File(tokio::fs::File),
}

impl Stdio {
    pub(crate) fn stdin() -> Result<Self> {
        Self::open(io::stdin().as_fd()).map_err(|error| Failure::failed(format!("cannot use stdin: {error}")))
    }

    pub(crate) fn stdout() -> Result<Self> {
        Self::open(io::stdout().as_fd()).map_err(|error| Failure::failed(format!("cannot use stdout: {error}")))
    }

    fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let own = fd.try_clone_to_owned()?;
        match PolledFd::new(own)? {
            Ok(polled) => Ok(Self::Polled(polled)),
            Err(own) => Ok(Self::File(tokio::fs::File::from_std(own.into()))),
        }
    }
}

/// A descriptor in non-blocking mode until dropped.
pub(crate) struct PolledFd {
    fd: AsyncFd<NonBlocking>,
}

impl PolledFd {
    /// Gives the descriptor back if the system cannot poll it.
    fn new(fd: OwnedFd) -> io::Result<std::result::Result<Self, OwnedFd>> {
        let spare = fd.try_clone()?;
        match AsyncFd::register(NonBlocking::new(fd)?) {
            Ok(fd) => Ok(Ok(Self { fd })),
            Err(_cannot_be_polled) => Ok(Err(spare)),
        }
    }
}

struct NonBlocking {
    fd: OwnedFd,
    flags_before: OFlags,
}

impl NonBlocking {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags_before = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags_before | OFlags::NONBLOCK)?;
        Ok(Self { fd, flags_before })
    }
}

impl Drop for NonBlocking {
    fn drop(&mut self) {
        let _the_file_is_gone = fcntl_setfl(&self.fd, self.flags_before);
    }
}

impl AsFd for NonBlocking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsyncRead for Stdio {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Polled(polled) => polled.poll_read(cx, buf),
            Self::File(file) => Pin::new(file).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Polled(polled) => polled.poll_write(cx, buf),
            Self::File(file) => Pin::new(file).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Polled(_) => Poll::Ready(Ok(())),
            Self::File(file) => Pin::new(file).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl PolledFd {
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(&fd.get_ref().fd, unfilled)?)) {
                Ok(read) => return Poll::Ready(read.map(|len| buf.advance(len))),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::write(&fd.get_ref().fd, bytes)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_pipe_carries_more_than_it_holds_and_gets_its_flags_back() {
        let (reader, writer) = io::pipe().expect("pipe");
        let flags_before = fcntl_getfl(&reader).expect("flags");
        let mut input = Stdio::open(reader.as_fd()).expect("reader");
        let mut output = Stdio::open(writer.as_fd()).expect("writer");
        drop(writer);
        assert!(matches!(input, Stdio::Polled(_)));

        let sent = vec![7_u8; 1 << 20];
        let expected = sent.clone();
        let write = async move {
            output.write_all(&sent).await.expect("write");
            drop(output);
        };
        let mut received = Vec::new();
        let ((), read) = tokio::join!(write, input.read_to_end(&mut received));
        read.expect("read");
        drop(input);

        assert!(received == expected);
        assert_eq!(fcntl_getfl(&reader).expect("flags"), flags_before);
    }

    #[tokio::test]
    async fn what_cannot_be_polled_is_read_as_a_file() {
        let null = std::fs::File::open("/dev/null").expect("open");
        let mut input = Stdio::open(null.as_fd()).expect("open");
        let mut received = Vec::new();
        assert_eq!(input.read_to_end(&mut received).await.expect("read"), 0);
    }
}
