//! Plain TCP, a connection for each channel: what nobody can do without, and the yardstick of every ratio.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::compare::pipe::{self, Pipe, Piped};
use crate::compare::system::{Announce, Congestion, Connection, Contact, Setup, System};
use crate::error::BenchError;
use crate::exchange::{BLOCK_LEN, Duplex};

/// Connections that wait to be accepted: as many as come at once.
const BACKLOG: u32 = 4_096;
/// What a connection reads into at first, before it turns out to be a busy one.
const BUFFER_LEN_FIRST: usize = 4_096;

/// A client of a server that speaks TCP.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    address: SocketAddr,
    congestion: Congestion,
}

impl System for Tcp {
    type Connection = Self;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        let listener = listen(setup.listen, setup.kind.congestion())?;
        announce(Contact { address: listener.local_addr()?, credential: String::new(), helpers: Vec::new() })?;
        loop {
            let stream = accept(&listener).await?;
            tokio::spawn(async move { pipe::serve(&mut StreamPipe::new(stream)).await });
        }
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        Ok(Self { address: contact.address, congestion: setup.kind.congestion() })
    }

    async fn connect(&self) -> Result<Self, BenchError> {
        Ok(*self)
    }
}

impl Connection for Tcp {
    type Channel = Piped<StreamPipe<TcpStream>>;

    const IS_MULTIPLEXED: bool = false;

    async fn open(&self) -> Result<Self::Channel, BenchError> {
        Ok(Piped(StreamPipe::new(connect(self.address, self.congestion).await?)))
    }
}

/// Listens with that controller for all connections.
pub(super) fn listen(ip: IpAddr, congestion: Congestion) -> Result<TcpListener, BenchError> {
    let socket = socket(ip, congestion)?;
    socket.bind(SocketAddr::new(ip, 0))?;
    Ok(socket.listen(BACKLOG)?)
}

/// The next connection, without Nagle's algorithm.
pub(super) async fn accept(listener: &TcpListener) -> Result<TcpStream, BenchError> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection with that controller, without Nagle's algorithm.
pub(super) async fn connect(address: SocketAddr, congestion: Congestion) -> Result<TcpStream, BenchError> {
    let stream = socket(address.ip(), congestion)?.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn socket(ip: IpAddr, congestion: Congestion) -> Result<TcpSocket, BenchError> {
    let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let name = match congestion {
        Congestion::Cubic => "cubic",
        Congestion::Bbr => "bbr",
    };
    sockopt::set_tcp_congestion(&socket, name).map_err(std::io::Error::from)?;
    Ok(socket)
}

/// Exchanges over what reads and writes buffers.
pub(crate) struct StreamPipe<S> {
    stream: S,
    buffer: Vec<u8>,
    len: usize,
}

impl<S> StreamPipe<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: vec![0; BUFFER_LEN_FIRST], len: 0 }
    }
}

impl<S: Duplex + Send + 'static> Pipe for StreamPipe<S> {
    async fn write(&mut self, data: Bytes) -> Result<(), BenchError> {
        Ok(self.stream.write_all(&data).await?)
    }

    async fn flush(&mut self) -> Result<(), BenchError> {
        Ok(self.stream.flush().await?)
    }

    async fn finish(&mut self) -> Result<(), BenchError> {
        Ok(self.stream.shutdown().await?)
    }

    async fn read(&mut self) -> Result<&[u8], BenchError> {
        if self.len == self.buffer.len() && self.len < BLOCK_LEN {
            self.buffer.resize(self.len * 2, 0);
        }
        self.len = self.stream.read(&mut self.buffer).await?;
        Ok(&self.buffer[..self.len])
    }
}
