//! Somebody on the path: carries datagrams to an agent and back, and learns how the agent names its session.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pilot_core::id::SessionIndex;
use pilot_core::wire::DataHeader;
use rustix::net::sockopt;

/// No session was seen yet; indices have 32 bits.
const NONE: u64 = u64::MAX;

/// Kernel buffer, as an agent's own: a late wake-up of the tap is not to be measured.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A way to one agent that is listened to, for as long as the process lives.
pub(crate) struct Tap {
    address: SocketAddr,
    session: Arc<AtomicU64>,
}

impl Tap {
    /// Opens one before `agent`.
    pub(crate) fn before(agent: SocketAddr) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        // Best effort: the privileged call passes the system's ceiling.
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
        }
        let tap = Self { address: socket.local_addr()?, session: Arc::new(AtomicU64::new(NONE)) };
        let session = Arc::clone(&tap.session);
        thread::spawn(move || carry(&socket, agent, &session));
        Ok(tap)
    }

    /// Where to send what shall pass here.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The session of the packets that go to the agent.
    pub(crate) fn session(&self) -> Option<SessionIndex> {
        u32::try_from(self.session.load(Ordering::Relaxed)).ok().map(SessionIndex)
    }
}

fn carry(socket: &UdpSocket, agent: SocketAddr, session: &AtomicU64) {
    let mut caller = None;
    let mut buffer = vec![0; 1 << 16];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        let datagram = &buffer[..len];
        if from != agent {
            caller = Some(from);
            if let Ok(header) = DataHeader::decode(datagram) {
                session.store(u64::from(header.receiver.0), Ordering::Relaxed);
            }
        }
        // What cannot be carried is lost, as on any path.
        let _lost = if from == agent { caller } else { Some(agent) }.map(|to| socket.send_to(datagram, to));
    }
}
