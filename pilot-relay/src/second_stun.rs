//! STUN on a second port, the one above that of the node's tunnels (spec/backbone.md §2): an agent whose NAT gives each destination another
//! port finds out by asking both.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;

use pilot_daemon::clock;
use tokio::net::UdpSocket;

use crate::stun::{REQUEST_LEN_MAX, StunServer};

/// Answers for as long as it is polled. Without the port it answers nothing: agents then know less of their NATs.
pub(crate) async fn serve(main: SocketAddr) -> Infallible {
    let Some(port) = main.port().checked_add(1) else { return pending().await };
    let socket = match UdpSocket::bind(SocketAddr::new(main.ip(), port)).await {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!(%error, port, "no second port for STUN");
            return pending().await;
        }
    };
    let mut server = StunServer::new();
    // One byte more than a request may have, so that a longer one is seen to be.
    let mut buf = [0; REQUEST_LEN_MAX + 1];
    loop {
        // Errors of earlier answers come out here; they say nothing about the socket.
        let Ok((len, remote)) = socket.recv_from(&mut buf).await else { continue };
        let seen = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        if let Ok((port, response)) = server.handle_datagram(clock::now().mono, seen, &buf[..len]) {
            // A lost answer is asked for again.
            socket.send_to(&response, SocketAddr::new(remote.ip(), port)).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn the_port_above_answers_stun() {
        // A port whose neighbour is free, most likely.
        let main = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let above = SocketAddr::new(main.local_addr().unwrap().ip(), main.local_addr().unwrap().port() + 1);
        let asked = tokio::task::spawn_blocking(move || {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let mapped = stunclient::StunClient::new(above).query_external_address(&socket);
            (mapped, socket.local_addr().unwrap())
        });
        tokio::select! {
            never = serve(main.local_addr().unwrap()) => match never {},
            asked = asked => {
                let (mapped, own) = asked.unwrap();
                assert_eq!(mapped.unwrap(), own);
            }
        }
    }
}
