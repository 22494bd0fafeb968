//! The TCP twins: the same exchanges over loopback TCP, with nothing encrypted and nobody in between.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use tokio::net::{TcpListener, TcpStream};

use crate::error::BenchError;
use crate::exchange::{self, on_this_thread};

/// An echo server on a thread of its own, until the process ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EchoServer {
    address: SocketAddr,
}

impl EchoServer {
    /// Starts one.
    pub(crate) fn start() -> Result<Self, BenchError> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        thread::spawn(move || on_this_thread(async { serve(TcpListener::from_std(listener)?).await }));
        Ok(Self { address })
    }

    /// Where it listens.
    pub(crate) fn address(self) -> SocketAddr {
        self.address
    }

    /// A new connection to it.
    pub(crate) async fn connect(self) -> Result<TcpStream, BenchError> {
        connect(self.address).await
    }
}

/// Echoes on every connection, for ever.
pub(crate) async fn serve(listener: TcpListener) -> Result<(), BenchError> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move { exchange::echo(&mut stream).await });
    }
}

/// A connection that waits for nothing.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, BenchError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
