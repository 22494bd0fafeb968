//! STUN servers of the settings: where they are, looked up while the agent runs (spec/paths.md §7).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Weak;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::agent::Inner;

/// Servers that can be named: as many as a node asks.
pub const STUN_SERVERS_MAX: usize = pilot_core::limits::STUN_SERVERS_MAX;
/// The port of a server that is named without one (RFC 8489 §18.6).
const STUN_PORT: u16 = 3_478;
/// What name servers may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause after a name that was not found; doubles.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause between two look-ups; servers move seldom.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(3_600);

/// A STUN server, by name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StunServer {
    host: String,
    port: u16,
}

/// It is written otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no STUN server")]
pub struct NotAServer(String);

impl FromStr for StunServer {
    type Err = NotAServer;

    fn from_str(text: &str) -> Result<Self, NotAServer> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Self::new(&address.ip().to_string(), address.port()).ok_or_else(|| NotAServer(text.to_owned()));
        }
        let server = match text.split_once(':') {
            None => Self::new(text, STUN_PORT),
            Some((host, port)) => port.parse().ok().and_then(|port| Self::new(host, port)),
        };
        let is_name = |server: &Self| server.host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        server.filter(is_name).ok_or_else(|| NotAServer(text.to_owned()))
    }
}

impl StunServer {
    fn new(host: &str, port: u16) -> Option<Self> {
        (!host.is_empty() && port > 0).then(|| Self { host: host.to_owned(), port })
    }

    /// Its first address of each family, IPv4 before IPv6: only IPv4 has NATs.
    async fn look_up(&self) -> Vec<SocketAddr> {
        let found = timeout(LOOKUP_TIMEOUT, lookup_host((self.host.as_str(), self.port))).await;
        let Ok(Ok(found)) = found else {
            tracing::debug!(server = %self, "STUN server not found");
            return Vec::new();
        };
        let found: Vec<_> = found.collect();
        let first = |is_ipv4| found.iter().copied().find(|address| address.is_ipv4() == is_ipv4);
        first(true).into_iter().chain(first(false)).collect()
    }
}

impl fmt::Display for StunServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Looks the servers up, and tells the node and `netcheck` where they are, until the agent is gone.
pub(crate) async fn run(agent: Weak<Inner>, servers: Vec<StunServer>, found: watch::Sender<Vec<SocketAddr>>) {
    let mut pause = RETRY_MIN;
    loop {
        let (mut addresses, mut is_complete) = (Vec::new(), true);
        for server in &servers {
            let its = server.look_up().await;
            is_complete &= !its.is_empty();
            addresses.extend(its);
        }
        addresses.sort_by_key(SocketAddr::is_ipv6);
        pause = if is_complete { LOOKUP_INTERVAL } else { (pause * 2).min(LOOKUP_INTERVAL) };
        if found.send_if_modified(|known| std::mem::replace(known, addresses.clone()) != addresses) {
            let Some(inner) = agent.upgrade() else { return };
            if inner.apply(move |core, now| core.node.set_stun_servers(now, &addresses)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = found.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_name_or_an_address_with_or_without_a_port() {
        for (text, written) in [
            ("stun.example.net", "stun.example.net:3478"),
            ("stun.example.net:19302", "stun.example.net:19302"),
            ("192.0.2.1", "192.0.2.1:3478"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("[2001:db8::1]:3478", "2001:db8::1:3478"),
        ] {
            assert_eq!(text.parse::<StunServer>().map(|server| server.to_string()), Ok(written.to_owned()));
        }
        for wrong in [
            "",
            ":3478",
            "stun.example.net:",
            "stun.example.net:0",
            "stun.example.net:99999",
            "a b",
            "[::1]",
            "stun:x:1",
        ] {
            assert_eq!(wrong.parse::<StunServer>(), Err(NotAServer(wrong.to_owned())));
        }
    }

    #[tokio::test]
    async fn an_address_needs_no_name_server() {
        let server: StunServer = "127.0.0.1:7".parse().expect("an address");
        assert_eq!(server.look_up().await, [SocketAddr::from(([127, 0, 0, 1], 7))]);
    }
}
