//! Where a datagram came from and where one goes. The driver turns these into socket calls; [`Transmit`] mirrors [`Route`].

use std::net::{IpAddr, SocketAddr};

/// Names one of the driver's sockets; 0 is the node's main UDP socket, and the upper half of the names is for TLS links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

impl SocketId {
    /// The first name of a TLS link (spec/tcp.md §3); those below are UDP sockets.
    pub const FIRST_LINK: Self = Self(0x8000);

    /// Whether this is a TLS link, on which datagrams keep their order and their number.
    pub fn is_link(self) -> bool {
        self >= Self::FIRST_LINK
    }
}

/// How a datagram enters or leaves this host: socket, local address, and remote address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The socket that received it or is to send it.
    pub socket: SocketId,
    /// The local address it arrived at, if the socket can tell; a reply leaves from there.
    pub local_ip: Option<IpAddr>,
    /// The other end, IPv4 never in its IPv6-mapped form.
    pub remote: SocketAddr,
}

/// The ECN field of an IP header (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct,
    /// ECN-capable, code point 10.
    Ect0,
    /// ECN-capable, code point 01.
    Ect1,
    /// Congestion experienced.
    Ce,
}

/// One call of a socket's send: a datagram, or a train of datagrams of one size (GSO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Socket, local address and destination.
    pub route: Route,
    /// ECN field to set.
    pub ecn: Ecn,
    /// IP time to live, if not the system's default.
    pub ttl: Option<u8>,
    /// Size of each datagram of a train but the last, which may be shorter; `None` for a single datagram.
    pub segment_size: Option<usize>,
    /// Bytes appended to the caller's buffer.
    pub len: usize,
}

impl Route {
    /// A route by the main socket with no particular local address.
    pub fn to(remote: SocketAddr) -> Self {
        Self { socket: SocketId::default(), local_ip: None, remote }
    }
}
