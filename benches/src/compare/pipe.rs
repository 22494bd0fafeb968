//! Exchanges over streams of bytes: the part that TCP, TLS, QUIC and Pilot share.
//!
//! A request begins with its own length and that of the reply wanted, 8 bytes each, which count as uploaded. Each system hands over and takes
//! pieces in the form that costs it least ([`Pipe`]), so that none pays for another's interface.

use std::sync::OnceLock;

use bytes::Bytes;

use super::system::{Channel, Exchange, Progress};
use crate::error::BenchError;
use crate::exchange::BLOCK_LEN;

/// The two lengths.
const HEAD_LEN: usize = 16;
/// A request of no more than this is handed over in one piece.
const FIRST_PIECE_LEN: u64 = 4_096;

/// One stream of bytes each way.
pub(crate) trait Pipe: Send + 'static {
    /// Hands over a piece, when there is room for it.
    fn write(&mut self, data: Bytes) -> impl Future<Output = Result<(), BenchError>> + Send;

    /// Lets everything handed over leave.
    fn flush(&mut self) -> impl Future<Output = Result<(), BenchError>> + Send;

    /// Ends what is written.
    fn finish(&mut self) -> impl Future<Output = Result<(), BenchError>> + Send;

    /// The next piece that has come; nothing at the end.
    fn read(&mut self) -> impl Future<Output = Result<&[u8], BenchError>> + Send;
}

/// The client's side of a pipe.
pub(crate) struct Piped<P>(pub(crate) P);

impl<P: Pipe> Channel for Piped<P> {
    async fn exchange(&mut self, exchange: Exchange, progress: &Progress) -> Result<(), BenchError> {
        let Self(pipe) = self;
        let first = exchange.upload.min(FIRST_PIECE_LEN);
        let mut head = vec![7; usize::try_from(first).unwrap_or(HEAD_LEN)];
        head[..8].copy_from_slice(&exchange.upload.to_be_bytes());
        head[8..HEAD_LEN].copy_from_slice(&exchange.reply.to_be_bytes());
        pipe.write(head.into()).await?;
        write(pipe, exchange.upload - first).await?;
        if exchange.is_only {
            pipe.finish().await?;
        }
        let mut left = exchange.reply;
        while left > 0 || exchange.is_only {
            let len = pipe.read().await?.len();
            if len == 0 && left == 0 {
                return Ok(());
            }
            progress.add(len);
            left = left_after(left, len)?;
        }
        Ok(())
    }
}

/// The server's side: answers until the client finishes.
pub(crate) async fn serve(pipe: &mut impl Pipe) -> Result<(), BenchError> {
    let mut head = [0; HEAD_LEN];
    loop {
        let (mut have, mut taken) = (0, 0);
        while have < HEAD_LEN {
            let piece = pipe.read().await?;
            if piece.is_empty() {
                return pipe.finish().await;
            }
            let part = piece.len().min(HEAD_LEN - have);
            head[have..have + part].copy_from_slice(&piece[..part]);
            have += part;
            taken += piece.len();
        }
        let mut left = left_after(number(&head[..8]), taken)?;
        while left > 0 {
            let len = pipe.read().await?.len();
            left = left_after(left, len)?;
        }
        write(pipe, number(&head[8..])).await?;
    }
}

/// What both sides send: shared, for making it is not measured.
pub(crate) fn block() -> &'static Bytes {
    static BLOCK: OnceLock<Bytes> = OnceLock::new();
    BLOCK.get_or_init(|| vec![7; BLOCK_LEN].into())
}

/// The part of a block that is sent when so much is left.
pub(crate) fn piece(left: u64) -> Bytes {
    block().slice(..usize::try_from(left).map_or(BLOCK_LEN, |left| left.min(BLOCK_LEN)))
}

async fn write(pipe: &mut impl Pipe, mut left: u64) -> Result<(), BenchError> {
    while left > 0 {
        let piece = piece(left);
        left -= piece.len() as u64;
        pipe.write(piece).await?;
    }
    pipe.flush().await
}

/// What is still to come; an end or an excess is an error.
pub(crate) fn left_after(left: u64, len: usize) -> Result<u64, BenchError> {
    match left.checked_sub(len as u64) {
        Some(after) if len > 0 || left == 0 => Ok(after),
        Some(_) => Err(BenchError::wrong(format!("the stream ended {left} bytes early"))),
        None => Err(BenchError::wrong(format!("{len} bytes came, {left} were to come"))),
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
