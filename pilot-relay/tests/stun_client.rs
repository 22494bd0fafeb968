//! A STUN client that is not ours asks our server over a real loopback socket.

use std::net::UdpSocket;
use std::thread;

use pilot_core::time::Mono;
use pilot_relay::stun::StunServer;
use stunclient::StunClient;

#[test]
fn stunclient_learns_its_own_address() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server_addr = server.local_addr().unwrap();
    let answering = thread::spawn(move || {
        let mut buf = [0; 1_500];
        let (len, from) = server.recv_from(&mut buf).unwrap();
        let (port, response) = StunServer::new().handle_datagram(Mono(0), from, &buf[..len]).unwrap();
        assert_eq!(port, from.port());
        server.send_to(&response, from).unwrap();
    });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let learned = StunClient::new(server_addr).query_external_address(&socket).unwrap();
    answering.join().unwrap();
    assert_eq!(learned, socket.local_addr().unwrap());
}
