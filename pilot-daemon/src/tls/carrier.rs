//! The task of one link: bytes of TLS become datagrams for the driver, and what the driver has for the link becomes bytes.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pilot_core::route::Route;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::LinkInput;
use super::frame::{self, FrameError};
use super::outbox::Outbox;

/// Room for what one read brings: a TLS record.
const READ_LEN: usize = 16 * 1024;
/// A link on which nothing comes for so long is gone: the tunnel's keepalive passes every 25 s, and three may be late.
const SILENCE_MAX: Duration = Duration::from_secs(100);

/// Why a link has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The other side has closed it, or we have.
    #[error("closed")]
    Closed,
    /// The driver is gone.
    #[error("the loop has ended")]
    Abandoned,
    /// Nothing has come for long.
    #[error("nothing was heard")]
    Silent,
    /// The other side speaks something else.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// TCP or TLS has failed.
    #[error("broken: {0}")]
    Io(#[from] io::Error),
}

/// Carries datagrams until the link ends. `early` is what has come with the end of the HTTP head.
pub async fn carry<Io>(io: Io, early: Bytes, route: Route, outbox: &Outbox, inputs: &mpsc::Sender<LinkInput>) -> LinkEnd
where
    Io: AsyncRead + AsyncWrite,
{
    let (reader, writer) = tokio::io::split(io);
    tokio::select! {
        end = receive(reader, early, route, inputs) => end,
        end = send(writer, outbox) => end,
        () = inputs.closed() => LinkEnd::Abandoned,
    }
}

async fn receive(
    mut reader: impl AsyncRead + Unpin,
    early: Bytes,
    route: Route,
    inputs: &mpsc::Sender<LinkInput>,
) -> LinkEnd {
    let mut received = BytesMut::from(early);
    loop {
        let whole = match frame::whole_len(&received) {
            Ok(whole) => whole,
            Err(error) => return error.into(),
        };
        if whole > 0 {
            // Waits while the driver is busy, and so does the sender in turn: TCP has its own credit.
            let frames = received.split_to(whole);
            if inputs.send(LinkInput::Frames { route, frames }).await.is_err() {
                return LinkEnd::Abandoned;
            }
        }
        received.reserve(READ_LEN);
        match timeout(SILENCE_MAX, reader.read_buf(&mut received)).await {
            Ok(Ok(0)) => return LinkEnd::Closed,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return LinkEnd::Silent,
        }
    }
}

async fn send(mut writer: impl AsyncWrite + Unpin, outbox: &Outbox) -> LinkEnd {
    let mut spare = Vec::new();
    while let Some(mut frames) = outbox.take(spare).await {
        let sent = async {
            writer.write_all(&frames).await?;
            writer.flush().await
        };
        if let Err(error) = sent.await {
            return error.into();
        }
        frames.clear();
        spare = frames;
    }
    // A goodbye that fails changes nothing.
    writer.shutdown().await.ok();
    LinkEnd::Closed
}

#[cfg(test)]
mod tests {
    use pilot_core::route::SocketId;

    use super::*;

    fn route() -> Route {
        Route { socket: SocketId::FIRST_LINK, ..Route::to(([192, 0, 2, 1], 443).into()) }
    }

    #[tokio::test]
    async fn datagrams_cut_anywhere_arrive_whole_and_in_order() {
        let (near, far) = tokio::io::duplex(7);
        let (inputs, mut arrived) = mpsc::channel(64);
        let outbox = Outbox::default();
        let carrier = async { carry(near, Bytes::from_static(b"\0\x05ea"), route(), &outbox, &inputs).await };
        let other = async {
            let (mut reader, mut writer) = tokio::io::split(far);
            writer.write_all(b"rly\0\x04next\0\x01!").await.expect("open");
            let mut answer = [0; 8];
            assert!(outbox.push(b"answer"));
            reader.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"\0\x06answer");
            outbox.close();
        };
        let (end, ()) = tokio::join!(carrier, other);
        assert!(matches!(end, LinkEnd::Closed), "{end}");
        let mut datagrams = Vec::new();
        while let Ok(LinkInput::Frames { mut frames, .. }) = arrived.try_recv() {
            datagrams.extend(frame::datagrams(&mut frames).map(|datagram| datagram.to_vec()));
        }
        assert_eq!(datagrams, [&b"early"[..], b"next", b"!"]);
    }

    #[tokio::test]
    async fn garbage_after_the_upgrade_ends_the_link_and_reaches_nobody() {
        let (near, mut far) = tokio::io::duplex(64);
        let (inputs, mut arrived) = mpsc::channel(64);
        let outbox = Outbox::default();
        far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("open");
        let end = carry(near, Bytes::new(), route(), &outbox, &inputs).await;
        assert!(matches!(end, LinkEnd::Frame(_)), "{end}");
        assert!(arrived.try_recv().is_err());
    }
}
