//! Sockets beside the main one, opened when the node asks for them to meet a peer behind a difficult NAT (spec/paths.md §7).
//!
//! There are none for nearly all of the time, 256 for some seconds now and then, and one where such an effort has found the way to a peer.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;

use pilot_core::route::SocketId;

use crate::net::UdpSocket;

/// What the node wants done.
pub(crate) enum SocketRequest {
    Open(Vec<SocketId>),
    Close(Vec<SocketId>),
}

/// The further sockets of a node, each on a port of its own.
#[derive(Default)]
pub(crate) struct Sockets {
    open: BTreeMap<SocketId, UdpSocket>,
}

impl Sockets {
    /// Does what is asked, on the address of the main socket. Returns the sockets that are open now; where the system has no more, the rest
    /// is missing, and the node makes do without its effort.
    pub(crate) fn handle(&mut self, request: SocketRequest, ip: IpAddr) -> Vec<SocketId> {
        match request {
            SocketRequest::Close(sockets) => {
                sockets.iter().for_each(|socket| drop(self.open.remove(socket)));
                Vec::new()
            }
            SocketRequest::Open(sockets) => {
                let opened = sockets.into_iter().map_while(|socket| match self.open_one(socket, ip) {
                    Ok(()) => Some(socket),
                    Err(error) => {
                        tracing::debug!(%error, "no further socket");
                        None
                    }
                });
                opened.collect()
            }
        }
    }

    fn open_one(&mut self, socket: SocketId, ip: IpAddr) -> io::Result<()> {
        let udp = UdpSocket::bind_beside(SocketAddr::new(ip, 0), socket)?;
        self.open.insert(socket, udp);
        Ok(())
    }

    pub(crate) fn get_mut(&mut self, socket: SocketId) -> Option<&mut UdpSocket> {
        self.open.get_mut(&socket)
    }

    /// Waits until one of them may have something to receive; for ever if there is none.
    pub(crate) async fn readable(&self) -> SocketId {
        poll_fn(|context| {
            let ready = self.open.iter().find(|(_, udp)| udp.poll_readable(context).is_ready());
            ready.map_or(Poll::Pending, |(&socket, _)| Poll::Ready(socket))
        })
        .await
    }

    /// Waits until a socket has room; not at all for one that is closed.
    pub(crate) async fn writable(&self, socket: SocketId) {
        if let Some(udp) = self.open.get(&socket) {
            // It fails only with the runtime.
            udp.writable().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use pilot_core::route::{Ecn, Route, Transmit};

    use super::*;
    use crate::net::{RecvBatch, Sent};

    #[tokio::test]
    async fn what_is_sent_from_a_further_socket_is_answered_there() {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut sockets = Sockets::default();
        let wanted = vec![SocketId(7), SocketId(9)];
        assert_eq!(sockets.handle(SocketRequest::Open(wanted.clone()), ip), wanted);
        let peer = tokio::net::UdpSocket::bind((ip, 0)).await.unwrap();
        let route = Route { socket: SocketId(9), ..Route::to(peer.local_addr().unwrap()) };
        let transmit = Transmit { route, ecn: Ecn::NotEct, ttl: None, segment_size: None, len: 5 };
        // A socket has room only once the runtime has heard so from the system.
        sockets.writable(SocketId(9)).await;
        assert_eq!(sockets.get_mut(SocketId(9)).unwrap().send(&transmit, b"hello"), Sent::All);
        let mut buf = [0; 8];
        let (len, from) = peer.recv_from(&mut buf).await.unwrap();
        peer.send_to(&buf[..len], from).await.unwrap();
        assert_eq!(sockets.readable().await, SocketId(9));
        let mut batch = RecvBatch::new();
        sockets.get_mut(SocketId(9)).unwrap().recv(&mut batch).unwrap();
        let came: Vec<_> = batch.datagrams().map(|datagram| (datagram.route.socket, datagram.bytes.to_vec())).collect();
        assert_eq!(came, [(SocketId(9), b"hello".to_vec())]);
        sockets.handle(SocketRequest::Close(wanted), ip);
        assert!(sockets.get_mut(SocketId(9)).is_none());
    }
}
