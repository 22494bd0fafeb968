//! Carries bytes between a local program's socket and a stream, in both directions at once.
//!
//! Neither direction ever holds more than a buffer: a program that does not read leaves its bytes in the stream, and the
//! peer gets no more credit; a peer that does not read leaves the program's bytes in its socket.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pilot_core::transport::Code;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, Shutdown};
use tokio::net::UnixStream;

use crate::stream::{ReadHalf, Stream, StreamError, WriteHalf};

/// One read from the local socket. Larger ones gain nothing: the kernel's own buffer is about as big.
const READ_LEN: usize = 256 * 1024;
/// With less room than this left in the buffer a new one is taken, so that no read is needlessly small.
const READ_ROOM_MIN: usize = 64 * 1024;
/// How often it is checked whether who sends no more is still there for the answer.
const HANGUP_INTERVAL: Duration = Duration::from_millis(500);

/// Why bytes stopped flowing before both directions had ended.
enum Broken {
    Socket(io::Error),
    Stream(StreamError),
    /// The program sends no more and does not wait for an answer either.
    ProgramLeft,
    Deadline(Duration),
}

/// Runs until both directions have ended, or something has broken, or the deadline has passed.
///
/// `early` are bytes that the program sent before it was told that the stream is open.
pub(super) async fn run(socket: UnixStream, early: Bytes, mut stream: Stream, deadline: Option<Duration>) {
    let has_sent_all = AtomicBool::new(false);
    let (mut from_peer, mut to_peer) = stream.split();
    let outgoing = async {
        read_program(&socket, early, &mut to_peer).await?;
        has_sent_all.store(true, Ordering::Relaxed);
        Ok(())
    };
    let both = async { tokio::try_join!(outgoing, write_program(&socket, &mut from_peer)).map(|_| ()) };
    let result = tokio::select! {
        result = both => result,
        () = program_left(&socket, &has_sent_all) => Err(Broken::ProgramLeft),
        deadline = passed(deadline) => Err(Broken::Deadline(deadline)),
    };
    match result {
        Ok(()) => {}
        // Dropping the stream tells the peer that nobody reads; what was sent before still arrives.
        Err(Broken::ProgramLeft) => {}
        // So it is with a program that has said all and closes over what it has not read.
        Err(Broken::Socket(error)) if has_sent_all.load(Ordering::Relaxed) => tracing::debug!(%error, "local program"),
        Err(Broken::Stream(error)) => tracing::debug!(%error, "stream ended early"),
        Err(Broken::Socket(error)) => {
            tracing::debug!(%error, "local program");
            stream.reset(Code::CANCELLED, "the program at the other end went away");
        }
        Err(Broken::Deadline(deadline)) => {
            let reason = format!("no answer within the {} ms that the caller allowed", deadline.as_millis());
            stream.reset(Code::DEADLINE_EXCEEDED, &reason);
        }
    }
}

/// From the program to the peer, until the program has finished or the peer wants no more.
async fn read_program(socket: &UnixStream, early: Bytes, to_peer: &mut WriteHalf<'_>) -> Result<(), Broken> {
    if has_finished(socket, early, to_peer).await? {
        to_peer.finish();
    } else {
        hear_no_more(socket);
    }
    Ok(())
}

/// Whether the program has finished; else the peer wants no more.
async fn has_finished(socket: &UnixStream, early: Bytes, to_peer: &mut WriteHalf<'_>) -> Result<bool, Broken> {
    if to_peer.write_chunk(early).await.is_err() {
        return Ok(false);
    }
    let mut buffer = BytesMut::new();
    loop {
        if buffer.capacity() < READ_ROOM_MIN {
            buffer.reserve(READ_LEN);
        }
        tokio::select! {
            readable = socket.readable() => readable.map_err(Broken::Socket)?,
            () = to_peer.stopped() => return Ok(false),
        }
        match socket.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) if to_peer.write_chunk(buffer.split().freeze()).await.is_err() => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Broken::Socket(error)),
        }
    }
}

/// Has the program's next write fail; once it has been sent everything, it sees a hang-up. Whether the whole stream has broken, the other
/// direction finds out.
///
/// What it has written until now is read out: where a socket is closed over bytes that nobody has read, its other end finds an error in
/// place of the end, behind what was sent, if it has not come so far yet.
fn hear_no_more(socket: &UnixStream) {
    // An error means that the program has gone.
    let _gone = rustix::net::shutdown(socket, Shutdown::Read);
    let mut unread = [0; 16 * 1024];
    while matches!(rustix::net::recv(socket, &mut unread, RecvFlags::DONTWAIT), Ok((1.., _))) {}
}

/// From the peer to the program, until the peer has finished.
async fn write_program(socket: &UnixStream, from_peer: &mut ReadHalf<'_>) -> Result<(), Broken> {
    while let Some(mut chunk) = from_peer.read_chunk().await.map_err(Broken::Stream)? {
        while !chunk.is_empty() {
            match socket.try_write(&chunk) {
                Ok(written) => chunk.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.writable().await.map_err(Broken::Socket)?;
                }
                Err(error) => return Err(Broken::Socket(error)),
            }
        }
    }
    rustix::net::shutdown(socket, Shutdown::Write).map_err(|error| Broken::Socket(error.into()))
}

/// An end of file says that the program sends no more; only a hang-up says that it has gone.
async fn program_left(socket: &UnixStream, has_sent_all: &AtomicBool) {
    loop {
        hung_up(socket).await;
        if has_sent_all.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(HANGUP_INTERVAL).await;
    }
}

/// Waits until the other end of a local socket has closed both directions. No event tells of it.
pub async fn hung_up(socket: &UnixStream) {
    let mut checks = tokio::time::interval(HANGUP_INTERVAL);
    loop {
        checks.tick().await;
        let mut events = [PollFd::new(socket, PollFlags::empty())];
        let is_polled = rustix::event::poll(&mut events, Some(&Timespec::default())).is_ok();
        if is_polled && events[0].revents().contains(PollFlags::HUP) {
            return;
        }
    }
}

async fn passed(deadline: Option<Duration>) -> Duration {
    match deadline {
        Some(deadline) => {
            tokio::time::sleep(deadline).await;
            deadline
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::agent::{Agent, AgentConfig, ServiceOptions, header};
    use crate::home::Home;
    use crate::services::service_port;

    const SERVICE: &str = "message";

    #[tokio::test]
    async fn a_program_whose_words_nobody_wants_any_more_finds_what_it_was_told_and_an_end() {
        let home = tempfile::tempdir().expect("a directory");
        let start = async |name| {
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let config = AgentConfig { listen, ..AgentConfig::new(Home::at(home.path()), name) };
            Agent::start(config).await.expect("it starts")
        };
        let (alpha, beta) = (start("alpha").await, start("beta").await);
        let found = alpha.resolve(&beta.ticket().await.expect("a ticket").to_string()).await.expect("found");
        let stream = alpha.open(&found, header(SERVICE).expect("a service")).await.expect("open");
        let port = service_port(SERVICE).expect("a port");
        let mut incoming = beta.accept(port, ServiceOptions::default()).await.expect("a caller");
        incoming.stream.write_chunk("enough".into()).await.expect("open");
        incoming.stream.finish();
        incoming.stream.stop(Code::CANCELLED, "it wants no more");
        let watch = stream.watch();
        while !watch.outcome().peer_finished || watch.outcome().error.is_none() {
            tokio::task::yield_now().await;
        }

        let (socket, mut program) = UnixStream::pair().expect("a pair");
        program.write_all(b"what nobody reads").await.expect("open");
        run(socket, Bytes::new(), stream, None).await;

        let mut said = String::new();
        program.read_to_string(&mut said).await.expect("an end, no error");
        assert_eq!(said, "enough");
    }
}
