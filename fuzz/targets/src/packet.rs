//! Any datagram from a stranger.

use pilot_core::config::{Config, Role};
use pilot_core::handshake::{Acquaintances, Incoming};
use pilot_core::id::{CircuitId, SessionIndex};
use pilot_core::node::Node;
use pilot_core::route::{Ecn, Route};
use pilot_core::wire::handshake::{Cert, CertRequest, Init, Mac1Key, Resp};
use pilot_core::wire::{DataHeader, PacketKind, RelayHeader, Unknown, peek};

use crate::keys::{START, keys};

/// Where the stranger is.
const STRANGER: ([u8; 4], u16) = ([198, 51, 100, 9], 9);

/// Decodes the bytes as every packet there is, and hands them to a node that knows nobody.
///
/// # Panics
/// If a decoder reads what its encoder does not write, two kinds are read from one packet, or the node answers with more than it was
/// sent or remembers the stranger.
pub fn packet(data: &[u8]) {
    decode(data);
    offer_to_a_node(data);
}

fn decode(data: &[u8]) {
    let kind = peek(data).ok();
    let mac1_key = Mac1Key::new(&keys(0).certificate.identity);
    if let Ok(header) = DataHeader::decode(data) {
        assert_eq!(kind, Some(PacketKind::Data));
        assert_eq!(header.encode(), data[..DataHeader::LEN]);
        let answer = Unknown::answer(data).expect("a data packet").encode();
        assert!(answer.len() < data.len());
        assert!(Unknown::decode(&answer).is_ok_and(|unknown| unknown.receiver == header.receiver));
    }
    if let Ok(unknown) = Unknown::decode(data) {
        assert_eq!(kind, Some(PacketKind::Unknown));
        assert_eq!(unknown.encode()[4..], data[4..]);
    }
    if let Ok((RelayHeader { circuit: CircuitId(circuit) }, inner)) = RelayHeader::decode(data) {
        assert_eq!(kind, Some(PacketKind::Relay));
        assert_eq!(circuit.to_be_bytes(), data[4..RelayHeader::LEN]);
        assert_eq!(inner, &data[RelayHeader::LEN..]);
    }
    if let Ok(init) = Init::decode(data) {
        assert_eq!(kind, Some(PacketKind::Init));
        let SessionIndex(index) = init.initiator;
        assert_eq!(index.to_be_bytes(), data[4..8]);
        // Who knows the identity may make it; the fuzzer does not know how.
        let _made_for_us = init.is_for(&mac1_key);
    }
    if let Ok(resp) = Resp::decode(data) {
        assert_eq!(kind, Some(PacketKind::Resp));
        let _made_for_us = resp.is_for(&mac1_key);
    }
    if let Ok(Some(request)) = CertRequest::decode(data, &mac1_key) {
        assert_eq!(kind, Some(PacketKind::CertRequest));
        assert!(data.starts_with(&request.encode(&mac1_key)[..4]));
    }
    if let Ok(cert) = Cert::decode(data) {
        assert_eq!(kind, Some(PacketKind::Cert));
        assert_eq!(cert.encode()[4..], data[4..]);
    }
}

fn offer_to_a_node(data: &[u8]) {
    let mut node = Node::new(Config::new(Role::Agent), keys(0), [7; 32], START);
    let mut datagram = data.to_vec();
    node.handle_datagram(START, Route::to(STRANGER.into()), Ecn::NotEct, &mut datagram);
    let mut out = Vec::new();
    let sent: usize = std::iter::from_fn(|| node.poll_transmit(START, &mut out)).map(|transmit| transmit.len).sum();
    assert!(sent <= data.len(), "{sent} bytes answer {}", data.len());
    assert_eq!(node.peers().filter(|peer| peer.connected).count(), 0);
    // Only who has our certificate and one of its own makes such a message 1; the corpus has one.
    let is_genuine =
        Incoming::open(node.key(), &keys(0).transport, &mut Acquaintances::default(), data, START.unix).is_ok();
    assert!(is_genuine || node.peers().count() == 0, "a stranger is remembered");
}
