//! TLS links: a backbone node by TCP, where UDP is blocked (spec/tcp.md).
//!
//! ```text
//! driver -> Links -> Outbox -> carrier -> TLS over TCP .. and back: carrier -> LinkInput -> driver
//! ```
//!
//! What both ends need: the form of datagrams in TCP ([`frame`]), what waits to be sent ([`outbox`]), the task that moves bytes
//! ([`carrier`]), the TLS and HTTP that come first ([`upgrade`]), and the table by which a driver finds its links ([`Links`]). The agent's end beside it: where a proxy is ([`proxy`]), which
//! address answers first (`race`), and when a link is made and given up (`keeper`). The node's end is pilot-relay's listener.

pub mod carrier;
pub mod frame;
pub(crate) mod keeper;
pub mod outbox;
pub mod proxy;
mod race;
pub mod upgrade;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use pilot_core::id::IdentityKey;
use pilot_core::node::Node;
use pilot_core::route::{Route, SocketId, Transmit};
use pilot_core::time::{Mono, Now};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use self::outbox::Outbox;

/// Bytes in the kernel that were not sent yet: what waits there is late, and no acknowledgement of the tunnel overtakes it.
#[cfg(target_os = "linux")]
const NOT_SENT_LEN_MAX: u32 = 32 * 1024;
/// What was sent and is not acknowledged for this long ends the connection: the other side is gone.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: std::time::Duration = std::time::Duration::from_secs(20);
/// TCP asks an idle peer whether it is there; the tunnel's own keepalive comes first.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(45);

/// What the task of a link tells the driver.
#[derive(Debug)]
pub enum LinkInput {
    /// The link is up; `backbone` is the node at its other end, if we have made it.
    Up {
        /// Its name, and the TCP address of the other end.
        route: Route,
        /// Where datagrams for it go.
        outbox: Arc<Outbox>,
        /// The node that it leads to.
        backbone: Option<IdentityKey>,
    },
    /// Whole frames have arrived.
    Frames {
        /// By which link.
        route: Route,
        /// One or more of them, checked.
        frames: BytesMut,
    },
    /// The link is gone.
    Down(SocketId),
}

/// The links of one driver.
#[derive(Debug, Default)]
pub struct Links {
    open: BTreeMap<SocketId, Open>,
    /// Datagrams that had no room, or no link any more.
    dropped: u64,
}

#[derive(Debug)]
struct Open {
    outbox: Arc<Outbox>,
    since: Mono,
}

impl Links {
    /// Notes that a link is up.
    pub fn open(&mut self, now: Now, link: SocketId, outbox: Arc<Outbox>) {
        self.open.insert(link, Open { outbox, since: now.mono });
    }

    /// Forgets a link.
    pub fn close(&mut self, link: SocketId) {
        if let Some(open) = self.open.remove(&link) {
            open.outbox.close();
        }
    }

    /// Queues the datagrams of a transmit for its link. What finds no room is dropped, as a router would: the sender slows down.
    pub fn send(&mut self, transmit: &Transmit, contents: &[u8]) {
        let outbox = self.open.get(&transmit.route.socket).map(|open| &open.outbox);
        for datagram in contents.chunks(transmit.segment_size.unwrap_or(contents.len()).max(1)) {
            if !outbox.is_some_and(|outbox| outbox.push(datagram)) {
                self.dropped += 1;
            }
        }
    }

    /// Ends links that have been up since before `since` and that no tunnel uses.
    pub fn end_unused(&mut self, since: Mono, node: &Node) {
        for (_, open) in self.open.iter().filter(|(link, open)| open.since < since && !node.is_link_in_use(**link)) {
            open.outbox.close();
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Datagrams dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Prepares a TCP connection for datagrams: none waits for another, and little waits in the kernel. What the system does not know is left as it is.
pub fn tune(socket: &TcpStream) {
    if let Err(error) = try_tune(socket) {
        tracing::debug!(%error, "TCP options keep the system's values");
    }
}

fn try_tune(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_notsent_lowat(NOT_SENT_LEN_MAX)?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pilot_core::config::{Config, Role};

    use super::*;
    use crate::clock;
    use crate::home::AgentHome;

    #[tokio::test]
    async fn a_link_without_a_tunnel_ends() {
        let home = tempfile::tempdir().expect("a directory");
        let now = clock::now();
        let keys = AgentHome::at(home.path()).keys(now.unix).expect("keys");
        let node = Node::new(Config::new(Role::Backbone), keys, [1; 32], now);
        let (mut links, outbox) = (Links::default(), Arc::new(Outbox::default()));
        links.open(now, SocketId::FIRST_LINK, Arc::clone(&outbox));
        links.end_unused(now.mono, &node);
        assert!(outbox.push(b"not yet"), "it has its time");
        links.end_unused(now.mono + Duration::from_secs(1), &node);
        assert!(!outbox.push(b"now it is over"));
        assert!(outbox.take(Vec::new()).await.is_some(), "what waits is sent");
        assert!(outbox.take(Vec::new()).await.is_none(), "then the task ends the link");
    }
}
