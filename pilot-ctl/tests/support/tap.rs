//! Somebody on the path: carries datagrams to an agent and back, and keeps a copy of those that go to it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

/// A way to one agent that is listened to.
pub struct Tap {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    /// Listens on the way to `agent`, for as long as the test runs.
    pub fn on_the_way_to(agent: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let address = socket.local_addr().expect("address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copies = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut caller = None;
            let mut buffer = vec![0; 1 << 16];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let datagram = &buffer[..len];
                let to = if from == agent { caller } else { Some(agent) };
                if from != agent {
                    caller = Some(from);
                    copies.lock().expect("no panic").push(datagram.to_vec());
                }
                // What cannot be carried is lost, as on any path.
                let _lost = to.map(|to| socket.send_to(datagram, to));
            }
        });
        Self { address, seen }
    }

    /// The datagrams that went to the agent and begin with one of these bytes.
    pub fn seen(&self, first: impl Fn(u8) -> bool) -> Vec<Vec<u8>> {
        self.seen.lock().expect("no panic").iter().filter(|datagram| first(datagram[0])).cloned().collect()
    }
}
