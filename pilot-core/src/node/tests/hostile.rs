//! What a peer, or somebody on the path, tries.

use super::*;
use crate::limits::{HANDSHAKE_RETRY_MIN, REKEY_AFTER_TIME};
use crate::wire::{self, PacketKind};

/// Nobody's address: whoever answers there has been lied to.
const VICTIM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)), 9);

/// Longest packet to an address that nobody has proved.
const PROBE_LEN_MAX: usize = 64;

impl Pair {
    /// Two hosts that hold each other's certificates.
    fn with_certificates() -> Self {
        let mut pair = Self::new();
        for (which, other) in [(0, 1), (1, 0)] {
            let certificate = Some(keys(other, START).certificate);
            let info = PeerInfo { key: pair.key(other), certificate, addresses: Vec::new(), homes: Vec::new() };
            pair.hosts[which].node.learn_peer(START, info);
        }
        pair
    }

    /// Takes the packets of one kind off the wire.
    fn intercept(&mut self, to: usize, kind: PacketKind) -> Vec<Vec<u8>> {
        let is_wanted =
            |packet: &(Mono, usize, SocketAddr, Vec<u8>)| packet.1 == to && wire::peek(&packet.3) == Ok(kind);
        let (taken, left) = std::mem::take(&mut self.wire).into_iter().partition(is_wanted);
        self.wire = left;
        let taken: Vec<(Mono, usize, SocketAddr, Vec<u8>)> = taken;
        taken.into_iter().map(|packet| packet.3).collect()
    }

    fn step_until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        self.run_until(Duration::from_secs(5), &mut is_done);
    }
}

fn is_connected(event: &Event) -> bool {
    matches!(event, Event::PeerConnected { .. })
}

#[test]
fn sessions_that_were_replaced_leave_nothing_behind() {
    let mut pair = connected();
    for _ in 0..20 {
        let slot = pair.slot(0, 1);
        pair.hosts[0].node.start_dial(pair.now, slot);
        pair.run_for(Duration::from_secs(1));
    }
    assert!(pair.hosts[0].node.stats().handshakes >= 20);
    for host in &pair.hosts {
        assert!(host.node.by_index.len() <= 2, "{}", host.node.by_index.len());
        assert!(host.node.by_remote_index.len() <= 2, "{}", host.node.by_remote_index.len());
    }
}

/// The initiator has the new keys, the responder never hears of it and forgets them: the old ones still tell that it is the same tunnel.
#[test]
fn a_rekey_that_only_one_side_has_seen_is_made_good() {
    let mut pair = connected();
    pair.run_for(REKEY_AFTER_TIME);
    let handshakes = pair.hosts[0].node.stats().handshakes;
    pair.request(0, 1, b"old keys");
    pair.step_until(|pair| pair.hosts[0].node.stats().handshakes > handshakes);
    pair.wire.clear();
    pair.cut = true;
    pair.run_for(Duration::from_secs(20));
    pair.cut = false;
    pair.hosts[1].events.clear();
    pair.request(0, 1, b"new keys");
    pair.run_until(Duration::from_secs(10), |pair| pair.incoming(1).is_some());
    assert!(!pair.has(0, |event| matches!(event, Event::Reset { .. })));
}

/// The answer went to the initiator, so only its address is proved by what follows; a source address can be forged.
#[test]
fn the_first_packet_of_a_session_proves_no_other_address() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.step_until(|pair| pair.has(0, is_connected));
    let first = pair.intercept(1, PacketKind::Data);
    pair.deliver(1, VICTIM, &first[0]);
    pair.request(1, 0, &[7; 1_000]);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.astray.iter().all(|(to, datagram)| *to == VICTIM && datagram.len() <= PROBE_LEN_MAX));
}

/// The same message 1 from two addresses: its answer at one of them proves nothing about the other.
#[test]
fn a_duplicate_of_message_1_proves_no_other_address() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.drain();
    let init = pair.wire[0].3.clone();
    pair.deliver(1, VICTIM, &init);
    pair.run_for(HANDSHAKE_RETRY_MIN);
    pair.deliver(1, pair.hosts[0].address, &init);
    pair.step_until(|pair| pair.has(0, is_connected));
    let first = pair.intercept(1, PacketKind::Data);
    pair.deliver(1, VICTIM, &first[0]);
    pair.astray.clear();
    pair.request(1, 0, &[7; 1_000]);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.astray.iter().all(|(to, datagram)| *to == VICTIM && datagram.len() <= PROBE_LEN_MAX));
}

/// Our answer to the peer's message 1 is under way when our own attempt succeeds: the session that came later stays, on both sides.
#[test]
fn a_late_packet_of_a_crossed_handshake_ends_no_tunnel() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.step_until(|pair| pair.has(0, is_connected));
    let late = pair.intercept(1, PacketKind::Data);
    pair.request(1, 0, b"crossing");
    pair.step_until(|pair| pair.has(1, is_connected));
    pair.deliver(1, pair.hosts[0].address, &late[0]);
    pair.run_for(Duration::from_secs(3));
    assert!(!pair.has(1, |event| matches!(event, Event::Reset { .. })));
    let stream = pair.incoming(0).expect("the request has come through");
    assert_eq!(pair.read_all(0, stream), b"crossing");
}

/// Who records a handshake of ours can send it again, but not in place of the one that we are in.
#[test]
fn a_replayed_first_message_does_not_disturb_a_handshake() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.drain();
    let recorded = pair.wire[0].3.clone();
    pair.step_until(|pair| pair.has(0, is_connected) && pair.has(1, is_connected));
    pair.restart(0);
    pair.introduce(0, 1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.step_until(|pair| pair.has(0, is_connected));
    pair.deliver(1, VICTIM, &recorded);
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.hosts[1].node.stats().drops(DropReason::UnknownSession), 0);
    assert_eq!(pair.hosts[0].node.stats().handshakes, 1);
}
