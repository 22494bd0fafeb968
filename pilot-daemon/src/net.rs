//! The UDP socket: trains of datagrams in one system call (GSO out, GRO in), no fragments, big buffers.
//!
//! Used by the agent's and the backbone's drivers. Nothing here is fatal: a datagram that cannot leave is counted and
//! dropped as the network would have dropped it, and a full send buffer is a state ([`Sent::Blocked`]), after which the
//! driver keeps the train and waits for [`UdpSocket::writable`].
//!
//! An unspecified address (`0.0.0.0`, `[::]`) binds one dual-stack socket where the system has IPv6; addresses of IPv4
//! peers are always given and taken as IPv4, never as v4-mapped.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use pilot_core::route::{Ecn, Route, SocketId, Transmit};
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSocketState};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;

/// Kernel buffer asked for in each direction: 20 ms at 1.6 Gbit/s, so that one late wake-up of the driver loses nothing.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Buffers filled by one `recvmmsg`. Each may hold a whole GRO train, so eight keep a batch (512 KiB) inside the L2 cache.
const RECV_BUFFERS: usize = 8;
/// Largest GRO train, and largest UDP datagram.
const RECV_BUFFER_LEN: usize = 64 * 1024;
/// Largest train given to the kernel at once: 65,535 less the IPv6 and UDP headers.
const TRAIN_MAX_BYTES: usize = 65_535 - 48;
/// The system's own hop limit, restored after a datagram that asked for another.
const DEFAULT_TTL: u32 = 64;

/// A socket of a node.
#[derive(Debug)]
pub struct UdpSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    id: SocketId,
    counters: NetCounters,
}

/// What the socket did and what it could not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes handed to the kernel.
    pub bytes_sent: u64,
    /// System calls that sent something.
    pub send_calls: u64,
    /// Trains or datagrams that the system refused because no route leads there.
    pub unreachable: u64,
    /// Trains or datagrams refused for another reason, for example an MTU probe larger than the interface.
    pub refused: u64,
    /// Times that the send buffer was full.
    pub blocked: u64,
}

/// How far a [`UdpSocket::send`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a blocked train must be kept and sent again from where it stopped"]
pub enum Sent {
    /// All of it is gone: sent, or dropped and counted.
    All,
    /// The send buffer is full; the first so many bytes are gone, the rest waits for [`UdpSocket::writable`].
    Blocked(usize),
}

/// Buffers of one receive call, and what came.
#[derive(Debug)]
pub struct RecvBatch {
    storage: Vec<u8>,
    metas: [RecvMeta; RECV_BUFFERS],
    filled: usize,
    socket: SocketId,
}

/// One datagram of a batch.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// How it came.
    pub route: Route,
    /// Its ECN field.
    pub ecn: Ecn,
    /// Its bytes, writable because they are decrypted in place.
    pub bytes: &'a mut [u8],
}

impl UdpSocket {
    /// Opens the socket; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Those of the system, first of all an address already taken.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.ip().is_unspecified() { bind_all(address.port())? } else { bind_one(address)? };
        grow_buffers(&socket);
        Self::new(socket, SocketId::default())
    }

    /// Opens a socket beside the main one, with the system's buffers.
    ///
    /// # Errors
    /// Those of the system, first of all that there are no more descriptors.
    pub fn bind_beside(address: SocketAddr, id: SocketId) -> io::Result<Self> {
        let socket = if address.ip().is_unspecified() { bind_all(address.port())? } else { bind_one(address)? };
        Self::new(socket, id)
    }

    fn new(socket: Socket, id: SocketId) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let io = tokio::net::UdpSocket::from_std(socket.into())?;
        let local = io.local_addr()?;
        Ok(Self { io, state, local, id, counters: NetCounters::default() })
    }

    /// The address bound, with the port that the system chose if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Host candidates: the socket addresses under which machines on the same links may reach this socket.
    ///
    /// Loopback counts only where the socket is bound to it or the machine has nothing else.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        host_addresses(self.local)
    }

    /// What happened so far.
    pub fn counters(&self) -> NetCounters {
        self.counters
    }

    /// Waits until there may be something to receive.
    ///
    /// # Errors
    /// Only when the runtime shuts down.
    pub async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// As [`Self::readable`], for one of many.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.io.poll_recv_ready(context).map(|_| ())
    }

    /// Waits until the send buffer may have room.
    ///
    /// # Errors
    /// Only when the runtime shuts down.
    pub async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// Fills `batch` with what has arrived, without waiting; afterwards [`RecvBatch::datagrams`] yields it.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has arrived; [`Self::readable`] tells when to try again.
    pub fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<()> {
        (batch.filled, batch.socket) = (0, self.id);
        let Self { io, state, .. } = self;
        let RecvBatch { storage, metas, .. } = &mut *batch;
        let mut chunks = storage.chunks_exact_mut(RECV_BUFFER_LEN);
        let mut buffers: [IoSliceMut<'_>; RECV_BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let filled = io.try_io(Interest::READABLE, || state.recv((&*io).into(), &mut buffers, metas))?;
        batch.filled = filled;
        for meta in &batch.metas[..filled] {
            self.counters.bytes_received += meta.len as u64;
            self.counters.datagrams_received += meta.len.div_ceil(meta.stride.max(1)) as u64;
        }
        Ok(())
    }

    /// Sends `contents` as `transmit` says, without waiting.
    ///
    /// After [`Sent::Blocked`] call again with the same `transmit` and the rest of `contents`.
    pub fn send(&mut self, transmit: &Transmit, contents: &[u8]) -> Sent {
        let Some(destination) = self.destination(transmit.route.remote) else {
            self.counters.unreachable += 1;
            return Sent::All;
        };
        let segment = transmit.segment_size.unwrap_or(contents.len()).max(1);
        let mut source = transmit.route.local_ip;
        let mut sent = 0;
        while sent < contents.len() {
            // Asked anew each time: the kernel may refuse segmentation at run time, and quinn-udp then answers 1.
            let segments = self.state.max_gso_segments().min(TRAIN_MAX_BYTES / segment).max(1);
            let end = contents.len().min(sent.saturating_add(segments.saturating_mul(segment)));
            let call = quinn_udp::Transmit {
                destination,
                ecn: codepoint(transmit.ecn),
                contents: &contents[sent..end],
                segment_size: (end - sent > segment).then_some(segment),
                src_ip: source,
            };
            match self.send_call(&call, transmit.ttl) {
                Ok(()) => {
                    self.counters.send_calls += 1;
                    self.counters.bytes_sent += (end - sent) as u64;
                    sent = end;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.counters.blocked += 1;
                    return Sent::Blocked(sent);
                }
                // The local address went away under the path; the system chooses another.
                Err(error) if source.is_some() && is_invalid_source(&error) => {
                    source = None;
                    self.forgive_segmentation();
                }
                Err(error) if is_invalid(&error) && segments > self.state.max_gso_segments() => {}
                Err(error) => {
                    self.count_failure(&error);
                    sent = end;
                }
            }
        }
        Sent::All
    }
}

impl UdpSocket {
    /// The address as this socket's family wants it; `None` where an IPv4 socket is asked for IPv6.
    fn destination(&self, remote: SocketAddr) -> Option<SocketAddr> {
        match (self.local, remote) {
            (SocketAddr::V4(_), SocketAddr::V6(_)) => None,
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => Some(SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))),
            (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => Some(remote),
        }
    }

    fn send_call(&self, call: &quinn_udp::Transmit<'_>, ttl: Option<u8>) -> io::Result<()> {
        let send = || self.state.try_send((&self.io).into(), call);
        let Some(ttl) = ttl else {
            return self.io.try_io(Interest::WRITABLE, send);
        };
        self.set_ttl(u32::from(ttl))?;
        let result = self.io.try_io(Interest::WRITABLE, send);
        self.set_ttl(DEFAULT_TTL)?;
        result
    }

    /// A bad source address makes quinn-udp give up segmentation, which was not at fault: its state starts afresh.
    fn forgive_segmentation(&mut self) {
        if let Ok(fresh) = UdpSocketState::new((&self.io).into()) {
            self.state = fresh;
        }
    }

    fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let socket = SockRef::from(&self.io);
        if self.local.is_ipv6() {
            socket.set_unicast_hops_v6(ttl)?;
        }
        socket.set_ttl_v4(ttl)
    }

    fn count_failure(&mut self, error: &io::Error) {
        tracing::debug!(%error, "datagram not sent");
        let is_unreachable = matches!(
            error.kind(),
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::ConnectionRefused
        );
        let counter = if is_unreachable { &mut self.counters.unreachable } else { &mut self.counters.refused };
        *counter += 1;
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl RecvBatch {
    /// Buffers for one call; the pages are touched only as far as traffic fills them.
    pub fn new() -> Self {
        Self {
            storage: vec![0; RECV_BUFFERS * RECV_BUFFER_LEN],
            metas: Default::default(),
            filled: 0,
            socket: SocketId::default(),
        }
    }

    /// The datagrams of the last [`UdpSocket::recv`], GRO trains taken apart, in order of arrival.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let socket = self.socket;
        let filled = self.metas[..self.filled].iter().zip(self.storage.chunks_exact_mut(RECV_BUFFER_LEN));
        filled.flat_map(move |(meta, buffer)| {
            let route =
                Route { socket, local_ip: meta.dst_ip.map(|ip| ip.to_canonical()), remote: canonical(meta.addr) };
            let ecn = ecn(meta.ecn);
            let segments = buffer[..meta.len].chunks_mut(meta.stride.max(1));
            segments.map(move |bytes| Datagram { route, ecn, bytes })
        })
    }
}

/// As [`UdpSocket::local_addresses`], for a socket bound to `local`: interfaces come and go while it stays.
pub fn host_addresses(local: SocketAddr) -> Vec<SocketAddr> {
    if !local.ip().is_unspecified() {
        return vec![local];
    }
    let is_usable = |ip: &IpAddr| ip.is_ipv4() || local.is_ipv6();
    let usable = interface_addresses().into_iter().filter(is_usable);
    let addresses: Vec<_> = usable.map(|ip| SocketAddr::new(ip, local.port())).collect();
    if addresses.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, local.port()))] } else { addresses }
}

/// One socket for both families, or IPv4 alone where the system has no IPv6.
fn bind_all(port: u16) -> io::Result<Socket> {
    let dual_stack = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        Ok(socket)
    };
    match dual_stack() {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse && error.kind() != io::ErrorKind::PermissionDenied => {
            bind_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        result => result,
    }
}

fn bind_one(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Best effort: the privileged call passes the system's ceiling, the plain one stops at it.
fn grow_buffers(socket: &Socket) {
    #[cfg(target_os = "linux")]
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER_BYTES).is_ok()
        && sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER_BYTES).is_ok()
    {
        return;
    }
    if let Err(error) = sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER_BYTES)
        .and_then(|()| sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES))
    {
        tracing::debug!(%error, "socket buffers keep the system's size");
    }
}

/// Addresses of interfaces that are up, without loopback and link-local ones (those need a scope that peers cannot know).
fn interface_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let up = interfaces.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    let mut addresses: Vec<IpAddr> = up
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !is_link_local(ip))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_invalid(error: &io::Error) -> bool {
    // What Linux answers when a device cannot segment.
    const REFUSALS: [i32; 2] = [rustix::io::Errno::INVAL.raw_os_error(), rustix::io::Errno::IO.raw_os_error()];
    error.raw_os_error().is_some_and(|code| REFUSALS.contains(&code))
}

/// What systems answer to a source address that they do not have.
fn is_invalid_source(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable) || is_invalid(error)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        IpAddr::V6(_) => address,
    }
}

fn ecn(codepoint: Option<EcnCodepoint>) -> Ecn {
    match codepoint {
        None => Ecn::NotEct,
        Some(EcnCodepoint::Ect0) => Ecn::Ect0,
        Some(EcnCodepoint::Ect1) => Ecn::Ect1,
        Some(EcnCodepoint::Ce) => Ecn::Ce,
    }
}

fn codepoint(ecn: Ecn) -> Option<EcnCodepoint> {
    match ecn {
        Ecn::NotEct => None,
        Ecn::Ect0 => Some(EcnCodepoint::Ect0),
        Ecn::Ect1 => Some(EcnCodepoint::Ect1),
        Ecn::Ce => Some(EcnCodepoint::Ce),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transmit(to: SocketAddr, segment_size: Option<usize>, len: usize) -> Transmit {
        let route = Route { socket: SocketId(0), local_ip: None, remote: to };
        Transmit { route, ecn: Ecn::Ect0, ttl: None, segment_size, len }
    }

    /// Also the way a driver sends: from where it stopped, once there is room.
    async fn send(socket: &mut UdpSocket, transmit: &Transmit, contents: &[u8]) {
        let mut start = 0;
        while let Sent::Blocked(sent) = socket.send(transmit, &contents[start..]) {
            start += sent;
            socket.writable().await.expect("runtime runs");
        }
    }

    async fn receive(socket: &mut UdpSocket, count: usize) -> Vec<(Route, Ecn, Vec<u8>)> {
        let mut batch = RecvBatch::new();
        let mut all = Vec::new();
        while all.len() < count {
            socket.readable().await.expect("runtime runs");
            if socket.recv(&mut batch).is_ok() {
                all.extend(batch.datagrams().map(|datagram| (datagram.route, datagram.ecn, datagram.bytes.to_vec())));
            }
        }
        all
    }

    fn loopback() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    #[tokio::test]
    async fn train_arrives_as_its_datagrams_in_order() {
        let (mut from, mut to) = (UdpSocket::bind(loopback()).unwrap(), UdpSocket::bind(loopback()).unwrap());
        let train: Vec<u8> = (0..20u8).flat_map(|number| vec![number; 1200]).chain([99; 7]).collect();

        send(&mut from, &transmit(to.local_addr(), Some(1200), train.len()), &train).await;

        let arrived = receive(&mut to, 21).await;
        let numbers: Vec<_> = arrived.iter().map(|(.., bytes)| (bytes[0], bytes.len())).collect();
        let expected: Vec<_> = (0..20u8).map(|number| (number, 1200)).chain([(99, 7)]).collect();
        assert_eq!(numbers, expected);
        assert!(arrived.iter().all(|(route, ..)| route.remote == from.local_addr()));
        assert_eq!(to.counters().datagrams_received, 21);
    }

    #[tokio::test]
    async fn train_longer_than_one_system_call_is_split() {
        let (mut from, mut to) = (UdpSocket::bind(loopback()).unwrap(), UdpSocket::bind(loopback()).unwrap());
        let train = vec![5; 100 * 1000];

        send(&mut from, &transmit(to.local_addr(), Some(1000), train.len()), &train).await;

        assert_eq!(receive(&mut to, 100).await.len(), 100);
    }

    #[tokio::test]
    async fn dual_stack_socket_shows_ipv4_peers_as_ipv4() {
        let mut all = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
        let mut v4 = UdpSocket::bind(loopback()).unwrap();
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, all.local_addr().port()));

        send(&mut v4, &transmit(target, None, 2), b"hi").await;
        let (route, ecn, _) = receive(&mut all, 1).await.remove(0);
        assert_eq!(ecn, Ecn::Ect0);
        assert_eq!(route.remote, v4.local_addr());
        assert_eq!(route.local_ip, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));

        let back = Transmit { route, ..transmit(target, None, 2) };
        send(&mut all, &back, b"ho").await;
        assert_eq!(receive(&mut v4, 1).await[0].2, b"ho");
    }

    #[tokio::test]
    async fn local_address_that_went_away_is_replaced_by_the_systems_choice() {
        let (mut from, mut to) = (UdpSocket::bind(loopback()).unwrap(), UdpSocket::bind(loopback()).unwrap());
        let mut lost = transmit(to.local_addr(), Some(10), 40);
        lost.route.local_ip = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)));

        send(&mut from, &lost, &[1; 40]).await;

        assert_eq!(receive(&mut to, 4).await.len(), 4);
    }

    #[tokio::test]
    async fn datagram_without_a_way_is_counted_and_dropped() {
        let mut from = UdpSocket::bind(loopback()).unwrap();
        let to_v6 = transmit(SocketAddr::from((Ipv6Addr::LOCALHOST, 9)), None, 1);

        send(&mut from, &to_v6, b"x").await;
        send(&mut from, &transmit(loopback(), None, 70_000), &[0; 70_000]).await;

        assert_eq!((from.counters().unreachable, from.counters().refused), (1, 1));
    }

    #[tokio::test]
    async fn taken_port_is_an_error() {
        let first = UdpSocket::bind(loopback()).unwrap();
        let error = UdpSocket::bind(first.local_addr()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
