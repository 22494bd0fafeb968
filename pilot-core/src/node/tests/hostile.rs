//! What a peer, or somebody on the path, tries.

use super::*;
use crate::event::ConnectError;
use crate::handshake;
use crate::id::PacketNumber;
use crate::limits::{HANDSHAKE_RETRY_MIN, REKEY_AFTER_TIME};
use crate::transport::{Candidate, CandidateKind, PathFrame};
use crate::wire::{self, DataHeader, PacketKind};

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

    /// Seals frames as `from` would for `to`.
    pub(super) fn sealed(&mut self, from: usize, to: usize, number: u64, frames: &[u8]) -> Vec<u8> {
        let slot = self.slot(from, to);
        let mut packet = vec![0; DataHeader::LEN];
        packet.extend_from_slice(frames);
        let tunnel = self.hosts[from].node.peers[slot as usize].tunnel.as_mut().expect("connected");
        tunnel.seal(&mut packet, 0, PacketNumber(number));
        packet
    }

    /// Lets `from` name addresses to `to` that are not its own.
    pub(super) fn name_candidates(&mut self, from: usize, to: usize, addresses: impl Iterator<Item = SocketAddr>) {
        let slot = self.slot(from, to);
        let peer = &mut self.hosts[from].node.peers[slot as usize];
        let path = peer.paths.active().expect("connected").id;
        let candidates = addresses.map(|address| Candidate { kind: CandidateKind::Host, address }).collect();
        let tunnel = peer.tunnel.as_mut().expect("connected");
        tunnel.transport.queue_frame(path, PathFrame::Candidates(candidates));
        self.hosts[from].node.touch(slot);
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
