//! Where agents come by TCP that have no UDP (feature `server`; spec/tcp.md §1, §7).
//!
//! Everybody can come, and nobody has proved anything before a tunnel has: so each step has its time and its place, and strangers have few of
//! both. A task for each connection takes it through TLS and HTTP and then carries datagrams; the loop sees links as sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pilot_core::identity::Identity;
use pilot_core::route::{Route, SocketId};
use pilot_core::time::Mono;
use pilot_daemon::clock;
use pilot_daemon::tls::outbox::Outbox;
use pilot_daemon::tls::{LinkInput, carrier, tune, upgrade};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::limits::{Prefix, PrefixLimiter, Rate};

/// Connections at once. One that works holds some 50 kB, one whose client reads nothing 130 kB: half a gigabyte at the very most.
pub(crate) const CONNECTIONS_MAX: usize = 4_096;
/// Of these from one source prefix: the agents behind the proxy of one company.
pub(crate) const CONNECTIONS_PER_PREFIX: usize = 256;
/// New connections from one source prefix.
const CONNECTION_RATE: Rate = Rate { per_second: 16, burst: 256 };
/// Time for TLS and HTTP, however slowly the bytes come.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait in the kernel's queue.
const BACKLOG: i32 = 512;
/// Where no descriptor is left, the next connection is not accepted before so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The port that firewalls let through if they let anything through.
const HTTPS_PORT: u16 = 443;

/// The TCP sockets of a node.
pub(crate) struct TlsListener {
    sockets: Vec<TcpListener>,
    shared: Arc<Shared>,
}

/// What the tasks of all connections share.
struct Shared {
    acceptor: TlsAcceptor,
    identity: Identity,
    inputs: mpsc::Sender<LinkInput>,
    /// A leaf, never held across an await.
    places: Mutex<Places>,
}

/// Who is there, and under which name.
struct Places {
    limiter: PrefixLimiter,
    by_prefix: BTreeMap<Prefix, usize>,
    taken: BTreeSet<SocketId>,
    last: SocketId,
}

/// A place among the connections, given back when it is dropped.
struct Place {
    shared: Arc<Shared>,
    prefix: Prefix,
    link: SocketId,
}

impl TlsListener {
    /// Listens beside a UDP socket, on the TCP port of the same number, and on 443 where others can come and the system allows it. A port that is
    /// taken is none: the node serves by UDP what it cannot serve by TCP.
    pub(crate) fn bind(
        local: SocketAddr,
        host: &str,
        identity: Identity,
        inputs: mpsc::Sender<LinkInput>,
    ) -> io::Result<Self> {
        let mut ports = vec![local.port()];
        if !local.ip().is_loopback() && local.port() != HTTPS_PORT {
            ports.push(HTTPS_PORT);
        }
        let sockets = ports.into_iter().filter_map(|port| match listen(SocketAddr::new(local.ip(), port)) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::info!(port, %error, "no TLS on this TCP port");
                None
            }
        });
        let places = Mutex::new(Places::new());
        let shared = Shared { acceptor: acceptor(host)?, identity, inputs, places };
        Ok(Self { sockets: sockets.collect(), shared: Arc::new(shared) })
    }

    /// Takes connections until the node ends.
    pub(crate) async fn serve(self) -> Infallible {
        for socket in self.sockets {
            tokio::spawn(accept(socket, Arc::clone(&self.shared)));
        }
        pending().await
    }
}

/// Takes the connections of one socket until the driver is gone.
async fn accept(socket: TcpListener, shared: Arc<Shared>) {
    while !shared.inputs.is_closed() {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = shared.inputs.closed() => return,
        };
        let (connection, remote) = match accepted {
            Ok((connection, remote)) => (connection, SocketAddr::new(remote.ip().to_canonical(), remote.port())),
            Err(error) => {
                tracing::debug!(%error, "no TCP connection taken");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Who finds no place is closed at once, before it has cost a handshake.
        if let Some(place) = Place::take(&shared, remote.ip(), clock::now().mono) {
            tokio::spawn(serve(connection, remote, place));
        }
    }
}

/// Takes one connection through TLS and HTTP, and carries its datagrams.
async fn serve(connection: TcpStream, remote: SocketAddr, place: Place) {
    tune(&connection);
    let shared = &place.shared;
    let greeting = upgrade::answer(&shared.acceptor, connection, &shared.identity);
    let link = match timeout(HANDSHAKE_TIMEOUT, greeting).await {
        Ok(Ok(Some(link))) => link,
        Ok(Err(error)) => return tracing::debug!(%remote, %error, "no TLS link"),
        Ok(Ok(None)) | Err(_) => return,
    };
    let route = Route { socket: place.link, ..Route::to(remote) };
    let outbox = Arc::new(Outbox::default());
    let up = LinkInput::Up { route, outbox: Arc::clone(&outbox), backbone: None };
    if shared.inputs.send(up).await.is_err() {
        return;
    }
    let end = carrier::carry(link.io, link.early, route, &outbox, &shared.inputs).await;
    tracing::debug!(%remote, %end, "TLS link down");
    // The name is free for another only after the driver has forgotten it; a driver that has ended has.
    shared.inputs.send(LinkInput::Down(place.link)).await.ok();
}

/// TLS under a certificate that this process has made and nobody checks (spec/tcp.md §1).
fn acceptor(host: &str) -> io::Result<TlsAcceptor> {
    let named = rcgen::generate_simple_self_signed([host.to_owned()]);
    // What is no name for a certificate is none for a client either: it will not look.
    let made = named.or_else(|_| rcgen::generate_simple_self_signed(["localhost".to_owned()]));
    let made = made.map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    upgrade::acceptor(made.cert.der().clone(), key).map_err(io::Error::other)
}

/// One socket for both families, as that of UDP is; what a run before has left in TIME_WAIT does not count.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let wide = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    let socket = if address.ip().is_unspecified() { bound(wide).or_else(|_| bound(address)) } else { bound(address) }?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn new() -> Self {
        Self {
            limiter: PrefixLimiter::new(CONNECTION_RATE),
            by_prefix: BTreeMap::new(),
            taken: BTreeSet::new(),
            last: SocketId(u16::MAX),
        }
    }

    /// A name for a connection from there, if it may have one.
    fn take(&mut self, now: Mono, ip: IpAddr, prefix: Prefix) -> Option<SocketId> {
        let is_full = self.taken.len() >= CONNECTIONS_MAX
            || self.by_prefix.get(&prefix).is_some_and(|&count| count >= CONNECTIONS_PER_PREFIX);
        if is_full || !self.limiter.take(now, ip) {
            return None;
        }
        // There are eight times as many names as places: one that was given back is not soon another's.
        loop {
            self.last = SocketId(self.last.0.wrapping_add(1)).max(SocketId::FIRST_LINK);
            if self.taken.insert(self.last) {
                *self.by_prefix.entry(prefix).or_default() += 1;
                return Some(self.last);
            }
        }
    }

    fn give_back(&mut self, prefix: Prefix, link: SocketId) {
        self.taken.remove(&link);
        if let Some(count) = self.by_prefix.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.by_prefix.remove(&prefix);
            }
        }
    }
}

impl Place {
    fn take(shared: &Arc<Shared>, ip: IpAddr, now: Mono) -> Option<Self> {
        let prefix = Prefix::of(ip);
        let link = shared.places().take(now, ip, prefix)?;
        Some(Self { shared: Arc::clone(shared), prefix, link })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.places().give_back(self.prefix, self.link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix_ip(prefix: usize) -> IpAddr {
        IpAddr::from([10, (prefix / 256) as u8, (prefix % 256) as u8, 1])
    }

    fn take(places: &mut Places, now: u64, prefix: usize) -> Option<SocketId> {
        places.take(Mono(now), prefix_ip(prefix), Prefix::of(prefix_ip(prefix)))
    }

    #[test]
    fn one_prefix_takes_its_share_of_the_places_and_no_more() {
        let mut places = Places::new();
        let noisy = (0..1_000u64).filter(|&second| take(&mut places, second * 1_000_000_000, 0).is_some()).count();
        assert_eq!(noisy, CONNECTIONS_PER_PREFIX);
        assert!(take(&mut places, 0, 1).is_some(), "another one finds a place");
    }

    #[test]
    fn all_together_take_a_bounded_number_of_places() {
        let mut places = Places::new();
        let links: Vec<SocketId> = (0..2 * CONNECTIONS_MAX).filter_map(|n| take(&mut places, 0, n % 4_000)).collect();
        assert_eq!(links.len(), CONNECTIONS_MAX);
        assert!(links.iter().all(|link| link.is_link()));
        assert_eq!(links.iter().collect::<BTreeSet<_>>().len(), CONNECTIONS_MAX, "each under a name of its own");
    }

    #[test]
    fn a_name_that_is_given_back_is_not_the_next_one_given() {
        let mut places = Places::new();
        let first = take(&mut places, 0, 0).expect("a place");
        places.give_back(Prefix::of(prefix_ip(0)), first);
        assert_ne!(take(&mut places, 0, 0), Some(first));
        assert_eq!(places.by_prefix.len(), 1);
    }
}
