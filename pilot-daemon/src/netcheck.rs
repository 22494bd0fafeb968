//! Asks STUN servers, from sockets made for that, whether UDP and either family of addresses get through (spec/local-api.md §9).
//!
//! What the agent's own socket has to do with it, mapping and home node, the node finds out itself (spec/paths.md §7).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use pilot_core::stun::{self, TransactionId};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::clock;
use crate::home::entropy;

/// Servers of a family that are asked: the home node's addresses, and those of the settings.
const SERVERS_MAX: usize = 8;
/// A question is repeated after this (RFC 8489 §6.2.1).
const RETRY: Duration = Duration::from_millis(500);
/// Then nobody answers.
const TRIES: u32 = 3;
/// An answer of ours has at most 112 bytes, one of others little more; what is cut off is none.
const ANSWER_LEN_MAX: usize = 548;

/// What a server has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) observed: IpAddr,
    pub(crate) rtt: Duration,
}

/// The first answer of any of these servers, which are of one family.
///
/// # Errors
/// If none has answered in time, or the system has no way to any.
pub(crate) async fn ask(servers: &[SocketAddr]) -> io::Result<Answer> {
    let servers = &servers[..servers.len().min(SERVERS_MAX)];
    let is_ipv4 = servers.first().is_none_or(SocketAddr::is_ipv4);
    let any = if is_ipv4 { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    let transaction: TransactionId = entropy().map_err(io::Error::other)?;
    let mut reason = io::ErrorKind::TimedOut.into();
    for _ in 0..TRIES {
        let asked = clock::now().mono;
        let mut is_asked = false;
        for server in servers {
            match socket.send_to(&stun::request(&transaction), server).await {
                Ok(_) => is_asked = true,
                Err(error) => reason = error,
            }
        }
        if !is_asked {
            return Err(reason);
        }
        if let Ok(observed) = timeout(RETRY, answered(&socket, servers, &transaction)).await {
            return Ok(Answer { observed: observed?, rtt: clock::now().mono.since(asked) });
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Waits for the answer of one of them.
async fn answered(socket: &UdpSocket, servers: &[SocketAddr], transaction: &TransactionId) -> io::Result<IpAddr> {
    let mut buffer = [0; ANSWER_LEN_MAX];
    loop {
        // An error here is that of a server at which nobody listens; another may.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let answer = stun::response(&buffer[..len]).ok().filter(|_| servers.contains(&from));
        if let Some((_, observed)) = answer.filter(|(known, _)| known == transaction) {
            return Ok(observed.ip());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says all of this to whoever asks.
    async fn server(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = socket.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                for answer in answers(&buffer[..len]) {
                    socket.send_to(&answer, from).await.expect("sent");
                }
            }
        });
        address
    }

    /// That we are at 192.0.2.`last`:32853, under the mask of RFC 8489 §14.2.
    fn success(request: &[u8], last: u8) -> Vec<u8> {
        let attribute = [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x42 ^ last];
        [&[1, 1, 0, 12], &request[4..20], &attribute].concat()
    }

    #[tokio::test]
    async fn the_first_server_that_answers_tells_the_address() {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let talkative = server(|request| vec![success(request, 1)]).await;
        let answer = ask(&[silent.local_addr().expect("an address"), talkative]).await.expect("one answers");
        assert_eq!(answer.observed, IpAddr::from([192, 0, 2, 1]));
    }

    #[tokio::test]
    async fn junk_and_answers_to_others_are_passed_over() {
        let server = server(|request| {
            let mut to_another = success(request, 7);
            to_another[19] ^= 1;
            vec![Vec::new(), vec![0; 20], to_another, success(request, 2)]
        });
        let answer = ask(&[server.await]).await.expect("an answer");
        assert_eq!(answer.observed, IpAddr::from([192, 0, 2, 2]));
    }
}
