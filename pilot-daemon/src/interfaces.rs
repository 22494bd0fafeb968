//! When addresses of this machine come and go, or the way out becomes another: told by the kernel where it tells, looked at now and then elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

#[cfg(target_os = "linux")]
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;

#[cfg(target_os = "linux")]
use rustix::net::netlink::SocketAddrNetlink;
#[cfg(target_os = "linux")]
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;

/// Where nobody tells, interfaces are looked at this often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Multicast groups of rtnetlink(7): links, and addresses and routes of both families.
#[cfg(target_os = "linux")]
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// Addresses that nobody has (RFC 5737, RFC 3849): the way to them is the way to the rest of the world.
const ELSEWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1)), 9),
];

/// From which address of each family the system would send to the rest of the world, if there is a way. Nothing is sent.
pub(crate) fn outgoing() -> [Option<IpAddr>; 2] {
    ELSEWHERE.map(|elsewhere| {
        let any = if elsewhere.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(elsewhere).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// What is said is read for its own sake only: it is the state afterwards that counts.
#[cfg(target_os = "linux")]
const MESSAGE_LEN: usize = 4_096;

/// Waits for changes.
#[derive(Debug)]
pub(crate) struct AddressChanges {
    #[cfg(target_os = "linux")]
    socket: Option<AsyncFd<OwnedFd>>,
}

impl AddressChanges {
    /// Begins to listen; must be called inside a tokio runtime. A sandbox may forbid it: then it looks now and then.
    pub(crate) fn watch() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            socket: route_socket()
                .inspect_err(|error| tracing::debug!(%error, "the kernel tells of no changes of addresses"))
                .ok(),
        }
    }

    /// Returns when something may have changed since the last time.
    pub(crate) async fn next(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some(socket) = &self.socket {
            match heard(socket).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "no longer told of changes of addresses");
                    self.socket = None;
                }
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(target_os = "linux")]
#[expect(
    deprecated,
    reason = "the replacement is unsafe for the sake of types that do not own their descriptor; OwnedFd does"
)]
fn route_socket() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Its protocol number, NETLINK_ROUTE, is zero.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    AsyncFd::new(socket)
}

/// Waits for a message, and takes all that are there.
#[cfg(target_os = "linux")]
async fn heard(socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = socket.readable().await?;
    let mut message = [0; MESSAGE_LEN];
    loop {
        match recv(socket.get_ref(), &mut message, RecvFlags::empty()) {
            // More was said than fits: something has changed for sure.
            Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    ready.clear_ready();
    Ok(())
}
