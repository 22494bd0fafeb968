//! Candidates: the addresses at which two nodes might reach each other directly, told, withdrawn and probed (spec/paths.md §3).

use std::net::SocketAddr;

use super::Node;
use super::send::Outgoing;
use crate::limits::{CANDIDATES_MAX, CANDIDATES_PROBED_MAX};
use crate::path::Hop;
use crate::route::Route;
use crate::time::Now;
use crate::transport::{Candidate, CandidateKind, PathFrame};

impl Node {
    /// A backbone node tells its clients how it sees them. Where a TLS link comes from says nothing of UDP.
    pub(super) fn tell_observed_address(&mut self, index: u32) {
        if self.is_agent() {
            return;
        }
        let peer = &mut self.peers[index as usize];
        let Some(path) = peer.paths.active() else { return };
        let (Hop::Direct(route), id) = (path.hop, path.id) else { return };
        if route.socket.is_link() {
            return;
        }
        if let Some(tunnel) = &mut peer.tunnel {
            tunnel.transport.queue_frame(id, PathFrame::ObservedAddress(route.remote));
        }
    }

    /// Sends our candidates anew to every peer that is reached by relay.
    pub(super) fn announce_candidates(&mut self, _now: Now) {
        for index in 0..self.peers.len() as u32 {
            self.peers[index as usize].has_sent_candidates = false;
            self.send_candidates(index);
            self.touch(index);
        }
    }

    /// Tells a peer that is reached by relay where else we might be reached, once per tunnel and change.
    pub(super) fn send_candidates(&mut self, index: u32) {
        let candidates = self.own_candidates();
        let peer = &mut self.peers[index as usize];
        let Some(path) = peer.paths.active().filter(|path| !path.hop.is_direct()).map(|path| path.id) else { return };
        if peer.is_backbone || peer.has_sent_candidates || !self.config.direct {
            return;
        }
        if let Some(tunnel) = peer.tunnel.as_mut().filter(|tunnel| tunnel.is_established()) {
            tunnel.transport.queue_frame(path, PathFrame::Candidates(candidates));
            (peer.has_sent_candidates, peer.has_taken_candidates) = (true, false);
            self.announce_ports(index);
        }
    }

    /// Tells a peer that we are reached by relay only: without a word it would go on to send directly until its probe timeouts pass.
    pub(super) fn withdraw_candidates(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        let Some(path) = peer.paths.active().map(|path| path.id) else { return };
        if let Some(tunnel) = peer.tunnel.as_mut().filter(|tunnel| tunnel.is_established()) {
            tunnel.transport.queue_frame(path, PathFrame::Candidates(Vec::new()));
        }
        peer.has_sent_candidates = false;
        self.touch(index);
    }

    fn own_candidates(&self) -> Vec<Candidate> {
        let mapped = self.mapped.filter(|mapped| Some(*mapped) != self.observed);
        let mapped = mapped.map(|address| Candidate { kind: CandidateKind::Mapped, address });
        let reflexive = self.observed_address();
        let reflexive = reflexive.map(|address| Candidate { kind: CandidateKind::ServerReflexive, address });
        let host = self.local_addresses.iter().map(|&address| Candidate { kind: CandidateKind::Host, address });
        mapped.into_iter().chain(reflexive).chain(host).take(CANDIDATES_MAX).collect()
    }

    /// Probes the addresses that a peer has named, and answers with ours. None at all says that it takes nothing directly.
    pub(super) fn candidates_received(&mut self, now: Now, index: u32, candidates: &[Candidate]) {
        if !self.config.direct || self.peers[index as usize].is_backbone {
            return;
        }
        self.peers[index as usize].has_candidates = !candidates.is_empty();
        if candidates.is_empty() {
            self.peers[index as usize].has_sent_candidates = false;
            return self.leave_direct_paths(now, index);
        }
        let is_same_host = self.is_on_this_host(index);
        let candidates = candidates.iter().take(CANDIDATES_MAX).map(|candidate| candidate.address);
        let addresses = candidates.filter(|address| is_probeable(address, is_same_host));
        let addresses: Vec<_> = addresses.take(CANDIDATES_PROBED_MAX).collect();
        let peer = &mut self.peers[index as usize];
        let hops = || addresses.iter().map(|&address| Hop::Direct(Route::to(address)));
        let is_new = |hop: Hop| !peer.paths.iter().any(|path| path.hop.is_same_way(&hop));
        let has_moved = hops().any(is_new);
        for hop in hops() {
            peer.add_path(now.mono, hop);
        }
        // What the peer's NAT is like it tells anew, behind its addresses.
        self.peers[index as usize].effort.peer = None;
        if has_moved {
            self.peers[index as usize].effort.begin_anew_if_told_rarely(now.mono);
            self.leave_path_of_old(now, index);
        }
        self.send_candidates(index);
        let peer = &self.peers[index as usize];
        if peer.has_sent_candidates && !peer.has_taken_candidates {
            addresses.into_iter().for_each(|address| self.open_towards(now, index, address));
        } else {
            self.probe_candidates(now, index);
        }
    }

    /// The peer has our candidates, and so has sent towards each: now probes find its NAT open.
    pub(super) fn candidates_taken(&mut self, now: Now, index: u32) {
        self.peers[index as usize].has_taken_candidates = true;
        if self.config.direct {
            self.probe_candidates(now, index);
        }
    }

    /// Begins a round on every direct path that is not proved.
    fn probe_candidates(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        for path in peer.paths.unproved() {
            peer.paths.probe(now.mono, path, &mut self.rng);
        }
        self.probe_paths(now, index);
        self.give_challenges_time(now, index);
        self.touch(index);
    }

    /// Lets our own NAT expect packets from an address, by one that dies on the way: at a NAT that does not expect it yet, it could spoil
    /// the port that the peer is about to use.
    fn open_towards(&mut self, now: Now, index: u32, address: SocketAddr) {
        if self.peers[index as usize].may_probe(now, address.ip()) {
            self.queue(Hop::Direct(Route::to(address)), Outgoing::Opener);
        }
    }

    /// Whether the backbone node, on this very host, sees the peer on this host too.
    fn is_on_this_host(&self, index: u32) -> bool {
        let is_loopback = |address: Option<SocketAddr>| address.is_some_and(|address| address.ip().is_loopback());
        is_loopback(self.observed) && is_loopback(self.peers[index as usize].attested)
    }

    /// Whether our home node is on this very host, by the address that we were given for it.
    pub(super) fn is_home_on_this_host(&self) -> bool {
        let is_loopback = |address: &SocketAddr| address.ip().is_loopback();
        self.home.is_some_and(|home| self.peers[home as usize].addresses.iter().any(is_loopback))
    }
}

/// Nobody can make us send to a multicast, broadcast or unspecified address, nor to a loopback that is not shared.
pub(super) fn is_probeable(address: &SocketAddr, is_same_host: bool) -> bool {
    let ip = address.ip();
    let is_broadcast = matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast());
    address.port() != 0
        && !ip.is_multicast()
        && !ip.is_unspecified()
        && !is_broadcast
        && (is_same_host || !ip.is_loopback())
}
