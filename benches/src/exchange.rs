//! What both sides of every comparison do with a stream of bytes, whatever carries it.

use std::future::Future;
use std::io;
use std::time::Duration;

use pilot_daemon::clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::BenchError;
use crate::figure::median;

/// Bytes that a program reads or writes at once.
pub(crate) const BLOCK_LEN: usize = 256 * 1024;

/// Bytes of a round trip.
pub(crate) const PING_LEN: usize = 64;

/// A connected stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Runs a future on a runtime of this thread alone.
pub(crate) fn on_this_thread<T>(future: impl Future<Output = Result<T, BenchError>>) -> Result<T, BenchError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Sends back what comes.
pub(crate) async fn echo(stream: &mut impl Duplex) -> io::Result<()> {
    let mut block = vec![0; BLOCK_LEN];
    loop {
        match stream.read(&mut block).await? {
            0 => return stream.shutdown().await,
            len => stream.write_all(&block[..len]).await?,
        }
    }
}

/// The median time of `count` round trips of [`PING_LEN`] bytes to a side that does [`echo`].
pub(crate) async fn round_trip_us(stream: &mut impl Duplex, count: usize) -> Result<f64, BenchError> {
    let mut times = Vec::with_capacity(count);
    let mut ping = [9; PING_LEN];
    for _ in 0..count {
        let start = clock::now().mono;
        stream.write_all(&ping).await?;
        stream.read_exact(&mut ping).await?;
        times.push(micros(clock::now().mono.since(start)));
    }
    Ok(median(&times))
}

/// Sends one request to a side that does [`echo`], and takes the whole reply.
pub(crate) async fn request(stream: &mut impl Duplex, len: usize) -> Result<(), BenchError> {
    stream.write_all(&vec![5; len]).await?;
    stream.shutdown().await?;
    let mut reply = Vec::with_capacity(len);
    stream.read_to_end(&mut reply).await?;
    let came = reply.len();
    if came == len { Ok(()) } else { Err(BenchError::Wrong(format!("{came} bytes of the reply instead of {len}"))) }
}

/// Sends one byte to a side that does [`echo`], and waits for it.
pub(crate) async fn first_byte(stream: &mut impl Duplex) -> Result<(), BenchError> {
    stream.write_all(&[1]).await?;
    stream.read_exact(&mut [0]).await?;
    Ok(())
}

/// The rate at which so many bytes went.
pub(crate) fn gbit_per_second(len: usize, time: Duration) -> f64 {
    len as f64 * 8.0 / 1e9 / time.as_secs_f64()
}

/// A duration as a number of microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
