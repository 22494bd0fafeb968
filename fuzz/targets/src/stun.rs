//! STUN requests to the backbone.

use std::net::SocketAddr;

use bytes::Buf;
use pilot_relay::stun::{REQUEST_LEN_MAX, RESPONSE_LEN_MAX, StunServer};

use crate::keys::START;

/// Where the request comes from, in the two families.
const REMOTES: [&str; 2] = ["192.0.2.1:32853", "[2001:db8::1]:443"];
/// Header of every message (RFC 8489 §5).
const HEADER_LEN: usize = 20;

/// Asks the server with the bytes, then as a well-formed header around them.
///
/// # Panics
/// If an answer is too long, is none to this request, or answers anything but a Binding request.
pub fn stun(data: &[u8]) {
    ask(data);
    let mut framed = vec![0x00, 0x01];
    framed.extend_from_slice(&(data.len() as u16).to_be_bytes());
    framed.extend_from_slice(&[0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    framed.extend_from_slice(data);
    ask(&framed);
}

fn ask(request: &[u8]) {
    for remote in REMOTES {
        let remote: SocketAddr = remote.parse().expect("an address");
        let Ok((port, response)) = StunServer::new().handle_datagram(START.mono, remote, request) else { continue };
        assert!((HEADER_LEN..=REQUEST_LEN_MAX).contains(&request.len()));
        assert!(port != 0 && (port == remote.port() || response.len() <= request.len()), "port {port}");
        assert_eq!(request[..2], [0x00, 0x01], "only a Binding request is answered");
        assert!((HEADER_LEN..=RESPONSE_LEN_MAX).contains(&response.len()), "{} bytes", response.len());
        assert!([0x0101, 0x0111].contains(&(&response[..]).get_u16()));
        assert_eq!(usize::from((&response[2..]).get_u16()), response.len() - HEADER_LEN);
        assert_eq!(response[4..HEADER_LEN], request[4..HEADER_LEN], "cookie and transaction id");
    }
}
