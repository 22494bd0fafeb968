//! Reaching a peer: attempts and their retries, and what begins and ends with a session.

use std::net::SocketAddr;

use super::Node;
use super::send::Outgoing;
use crate::dial::{Dial, Stage};
use crate::event::{ConnectError, Event};
use crate::handshake::{self, EARLY_DATA_LEN_MAX, Initiator, Local, Parameters};
use crate::id::{IdentityKey, Instance, SessionIndex, TunnelId};
use crate::limits::{
    CONNECT_TIMEOUT, HOME_LOST_PTO_COUNT, NEXT_INSTANCE_AFTER, RETRIES_BEFORE_NEW_CIRCUIT, UNCONFIRMED_SESSION_LIFETIME,
};
use crate::path::Hop;
use crate::peer::EarlyTunnel;
use crate::rng::Rng;
use crate::route::Route;
use crate::time::{Mono, Now, UnixTime};
use crate::transport::Code;
use crate::tunnel::{Agreed, LiveSession, Tunnel};

/// A session that a handshake has made.
pub(super) struct Made {
    pub(super) agreed: Agreed,
    /// It belongs to the tunnel that we have; else the peer has lost its state and so do we.
    pub(super) continues: bool,
    /// The way by which the last packet of the handshake has come.
    pub(super) hop: Hop,
    /// The handshake was answered by this very way.
    pub(super) is_proved: bool,
    /// What its early data has begun.
    pub(super) early: Option<EarlyTunnel>,
    /// Bytes of the peer's handshake that nothing was sent for yet: its address may have been forged.
    pub(super) unspent: usize,
}

impl Node {
    /// Sees to it that packets can reach the peer: a handshake if there is no session, a circuit if there is no path that works.
    pub(super) fn ensure_route(&mut self, now: Now, index: u32) {
        let peer = &self.peers[index as usize];
        let can_seal = peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.can_seal(now.mono));
        if !can_seal {
            if peer.dial.is_none() && peer.is_expected(now.mono) {
                // What waits for it is noticed by the timer if it does not come.
                self.tunnel_or_new(now.mono, index);
            } else if peer.dial.is_none() {
                self.start_dial(now, index);
            }
            return;
        }
        if peer.paths.active().is_some_and(|active| active.hop.is_direct() && active.is_fresh(now.mono)) {
            return;
        }
        self.choose_path(now, index);
        let peer = &mut self.peers[index as usize];
        if let Some(active) = peer.paths.active().filter(|active| active.hop.is_direct()) {
            let id = active.id;
            peer.paths.probe(now.mono, id, &mut self.rng);
            self.probe_paths(now, index);
        }
        if !self.has_usable_path(now.mono, index) {
            self.open_circuit(now, index);
        }
    }

    /// Renews keys that are due while they are in use.
    pub(super) fn renew_keys(&mut self, now: Now, index: u32) {
        let peer = &self.peers[index as usize];
        if peer.dial.is_none() && peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.wants_rekey(now.mono)) {
            self.start_dial(now, index);
        }
    }

    /// Begins an attempt: a session with the peer, new or renewed.
    pub(super) fn start_dial(&mut self, now: Now, index: u32) {
        self.peers[index as usize].refused_by.clear();
        self.dial_since(now, index, now.mono);
        let peer = &self.peers[index as usize];
        let has_address = peer.all_addresses().next().is_some() || peer.link.is_some();
        if !has_address && peer.homes.is_empty() && peer.paths.active().is_none() {
            self.fail_dial(now, index, ConnectError::NoRoute);
            return;
        }
        self.send_dial(now.mono, index);
        if !self.has_usable_relay(index) {
            self.queue_circuit(index);
        }
        self.touch(index);
    }

    /// Goes on with an attempt after the peer's certificate has come by this way, or without.
    pub(super) fn dial_again(&mut self, now: Now, index: u32, answered_by: Option<Hop>) {
        let Some(dial) = &self.peers[index as usize].dial else { return };
        let started = dial.started;
        self.dial_since(now, index, started);
        if let (Some(dial), Some(hop)) = (&mut self.peers[index as usize].dial, answered_by) {
            dial.note_answer(hop);
        }
        self.send_dial(now.mono, index);
        self.touch(index);
    }

    /// Prepares an attempt: message 1, or the question for the certificate that it needs.
    fn dial_since(&mut self, now: Now, index: u32, started: Mono) {
        let local_index = self.new_index();
        let peer = &mut self.peers[index as usize];
        if let Some(old) = peer.dial.take() {
            self.by_index.remove(&old.index());
        }
        let certificate = peer.certificate.as_ref().filter(|certificate| certificate.check_dates(now.unix).is_ok());
        let (stage, datagram) = if certificate.is_some() {
            (Stage::Unsealed { index: local_index }, Vec::new())
        } else {
            certificate_question(&peer.key, local_index, &mut self.rng)
        };
        peer.dial = Some(Box::new(Dial::new(stage, datagram, started, now.mono)));
        self.by_index.insert(local_index, index);
    }

    /// Makes message 1 of an attempt that has none yet. A new tunnel's has the early data that there is.
    pub(super) fn seal_dial(&mut self, now: Now, index: u32) {
        let is_unsealed = |dial: &Dial| matches!(dial.stage, Stage::Unsealed { .. });
        if !self.peers[index as usize].dial.as_deref().is_some_and(is_unsealed) {
            return;
        }
        let timestamp = self.init_timestamp(now);
        let peer = &mut self.peers[index as usize];
        let Some(dial) = &mut peer.dial else { return };
        let Stage::Unsealed { index: local_index } = dial.stage else { return };
        let next_packet = peer.tunnel.as_ref().map_or(0, Tunnel::doubted_next_packet);
        let (tunnel, early) = match &mut peer.tunnel {
            Some(tunnel) if tunnel.is_established() => (tunnel.id, &[][..]),
            Some(tunnel) => (TunnelId(self.rng.array()), tunnel.transport.take_early(EARLY_DATA_LEN_MAX)),
            None => (TunnelId(self.rng.array()), &[][..]),
        };
        let local = Local {
            identity: &self.keys.identity,
            certificate: &self.keys.certificate,
            transport: &self.keys.transport[0],
        };
        let parameters = Parameters { next_packet, ..self.config.parameters() };
        let message_1 = peer.certificate.as_ref().and_then(|remote| {
            let (met, rng) = (&mut self.acquaintances, &mut self.rng);
            Initiator::start(&local, met, remote, local_index, tunnel, &parameters, early, timestamp, rng).ok()
        });
        (dial.stage, dial.datagram) = match message_1 {
            Some((initiator, datagram)) => {
                self.last_handshake = Some(now.mono);
                (Stage::Handshake { initiator: Box::new(initiator), index: local_index }, datagram)
            }
            None => certificate_question(&peer.key, local_index, &mut self.rng),
        };
    }

    /// The time that a first message names. As long as the one before may wait at its responder it is a later one, even if the clock was
    /// set back: the responder drops what is older (spec/handshake.md §4).
    fn init_timestamp(&mut self, now: Now) -> UnixTime {
        let (made, last) = self.last_init;
        let is_recent = now.mono.since(made) < UNCONFIRMED_SESSION_LIFETIME;
        let least = if is_recent { UnixTime(last.0.saturating_add(1)) } else { UnixTime(0) };
        self.last_init = (now.mono, now.unix.max(least));
        self.last_init.1
    }

    /// Sends the attempt's datagram by every way that is known, and a knock by those that are only said to be; the first answer counts.
    fn send_dial(&mut self, now: Mono, index: u32) {
        let mut hops = self.dial_hops(index);
        if self.prefers_ipv4(index) && hops.iter().any(is_ipv4) {
            hops.retain(|hop| is_ipv4(hop) || hop.is_link());
        }
        for hop in hops {
            let peer = &mut self.peers[index as usize];
            if peer.may_dial_by(now, &hop) {
                self.send_dial_by(index, hop);
            } else if let Some(knock) = peer.knock(now, &hop, &mut self.rng) {
                self.queue(hop, Outgoing::Datagram(knock));
            }
        }
    }

    /// Whether the datagram goes by IPv4 alone for once: a backbone node learns from it, and attests to others, what our NAT makes of us. By
    /// IPv6 there is nothing to learn. The retry goes by both.
    fn prefers_ipv4(&self, index: u32) -> bool {
        let peer = &self.peers[index as usize];
        let is_first = peer.dial.as_ref().is_some_and(|dial| dial.retries() == 0);
        let has_ipv4 = |address: &SocketAddr| address.is_ipv4() && !address.ip().is_loopback();
        is_first && peer.is_backbone && !peer.is_connected() && self.local_addresses.iter().any(has_ipv4)
    }

    /// The ways by which a peer is dialled. What it has named itself, or seemed to come from, is not one before it was there: a
    /// handshake is as long as thirty probes.
    fn dial_hops(&self, index: u32) -> Vec<Hop> {
        let peer = &self.peers[index as usize];
        let allows_direct = self.config.direct || peer.is_backbone;
        let known = peer.paths.iter().filter(|path| path.was_proved()).map(|path| path.hop);
        let known = known.filter(|hop| allows_direct || !hop.is_direct());
        let addresses = peer.all_addresses().filter(|_| allows_direct).map(|address| Hop::Direct(Route::to(address)));
        let mut hops: Vec<Hop> = known.collect();
        let link = peer.link.map(Hop::Direct);
        for hop in addresses.chain(link) {
            if !hops.iter().any(|known| known.is_same_way(&hop)) {
                hops.push(hop);
            }
        }
        hops
    }

    /// Sends the attempt's datagram by one way.
    pub(super) fn send_dial_by(&mut self, index: u32, hop: Hop) {
        if let Some(dial) = &mut self.peers[index as usize].dial {
            dial.note_sent(hop);
            self.queue(hop, Outgoing::Dial(index));
        }
    }

    /// Retries an attempt, or ends it. The home node is tried for ever.
    pub(super) fn dial_timeout(&mut self, now: Now, index: u32) {
        let is_home = self.home == Some(index);
        let patience = if self.has_next_instance(index) { NEXT_INSTANCE_AFTER } else { CONNECT_TIMEOUT };
        let Some(dial) = &mut self.peers[index as usize].dial else { return };
        if now.mono.since(dial.started) >= patience {
            let error = dial.obstacle.take().unwrap_or(ConnectError::NoAnswer);
            self.fail_dial(now, index, error);
            if is_home && self.peers[index as usize].dial.is_none() {
                self.start_dial(now, index);
            }
            return;
        }
        if dial.is_retry_due(now.mono) {
            let is_unheard = dial.retries() >= RETRIES_BEFORE_NEW_CIRCUIT;
            let is_home_silent = is_home && dial.retries() >= HOME_LOST_PTO_COUNT;
            let peer = &self.peers[index as usize];
            // Keys that have run out have no probe timeouts.
            if is_home_silent && peer.is_connected() && !peer.tunnel.as_ref().is_some_and(|it| it.can_seal(now.mono)) {
                self.lose_home(now);
            }
            self.send_dial(now.mono, index);
            if is_unheard || !self.has_usable_relay(index) {
                self.open_circuit(now, index);
            }
        }
    }

    /// Gives an attempt up. Without a session the streams that waited for it end too.
    pub(super) fn fail_dial(&mut self, now: Now, index: u32, error: ConnectError) {
        let goes_on = self.has_next_instance(index);
        let peer = &mut self.peers[index as usize];
        peer.wants_circuit = false;
        let Some(dial) = peer.dial.take() else { return };
        self.by_index.remove(&dial.index());
        if goes_on {
            return self.go_on_with_next_instance(now, index);
        }
        let (key, is_connected) = (peer.key, peer.is_connected());
        self.forget_tries(index);
        if !is_connected {
            self.end_tunnel(index, Code::UNREACHABLE, &error.to_string());
            self.events.push_back(Event::ConnectFailed { peer: key, error });
        }
    }

    /// Puts a new session in charge.
    pub(super) fn establish(&mut self, now: Now, index: u32, made: Made) {
        let Made { agreed, continues, hop, is_proved, early, unspent } = made;
        let peer = &self.peers[index as usize];
        let was_connected = peer.is_connected();
        let is_unheard = peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_unheard(now.mono));
        let restarted = was_connected && !continues && !is_unheard;
        if restarted {
            self.end_tunnel(index, Code::PEER_RESTARTED, "the agent has restarted");
            self.forget_circuits_at(index);
        }
        if !continues {
            self.drop_unconfirmed(index);
        }
        if let Some(early) = early {
            self.peers[index as usize].promote(now.mono, early, &hop);
        }
        let took_early = agreed.took_early();
        self.forget_tries(index);
        self.by_index.insert(agreed.live.index(), index);
        self.by_remote_index.entry(agreed.live.remote_index()).or_insert(index);
        self.stats.handshakes += 1;
        let forgotten = self.tunnel_or_new(now.mono, index).adopt(agreed, now.mono);
        if let Some(forgotten) = forgotten {
            self.forget_session(index, &forgotten);
        }
        let peer = &mut self.peers[index as usize];
        if let Some(dial) = peer.dial.take() {
            self.by_index.remove(&dial.index());
        }
        peer.paths.earn_probes(unspent);
        let path = self.heard_by(now.mono, index, hop);
        let peer = &mut self.peers[index as usize];
        if is_proved {
            peer.prove_path(now.mono, path);
        } else {
            peer.paths.probe(now.mono, path, &mut self.rng);
        }
        if is_proved && hop.is_link() {
            self.doubt_udp(now, index);
        }
        self.choose_path(now, index);
        if let Some(tunnel) = &mut self.peers[index as usize].tunnel {
            tunnel.transport.settle_early(now.mono, took_early);
        }
        if !was_connected || restarted {
            self.connected(now, index, restarted);
        }
        self.heard_from(index);
        self.touch(index);
    }

    /// What a new tunnel begins with.
    fn connected(&mut self, now: Now, index: u32, restarted: bool) {
        let peer = &mut self.peers[index as usize];
        (peer.has_candidates, peer.has_sent_candidates) = (false, false);
        let Instance { key: peer, id: instance } = self.instance_at(index);
        self.events.push_back(Event::PeerConnected { peer, instance, restarted });
        if self.home == Some(index) {
            self.is_home_lost = false;
            self.events.push_back(Event::HomeConnected);
        }
        self.tell_observed_address(index);
        self.send_candidates(index);
        for waiting in self.circuits_waiting.remove(&index).unwrap_or_default() {
            self.peers[waiting as usize].wants_circuit = false;
            self.open_circuit(now, waiting);
        }
    }

    /// Lets no packet find a session any more. The peer has chosen the remote index, so that it may be another peer's as well.
    pub(super) fn forget_session(&mut self, index: u32, session: &LiveSession) {
        self.by_index.remove(&session.index());
        if self.by_remote_index.get(&session.remote_index()) == Some(&index) {
            self.by_remote_index.remove(&session.remote_index());
        }
    }

    /// Ends a tunnel on our side: its streams are reset, its sessions forgotten.
    pub(super) fn end_tunnel(&mut self, index: u32, code: Code, reason: &str) {
        self.drop_unconfirmed(index);
        let Some(tunnel) = self.peers[index as usize].tunnel.take() else { return };
        self.credit.give_back(tunnel.transport.earned_credit());
        for session in tunnel.sessions() {
            self.forget_session(index, session);
        }
        self.end_streams(&tunnel, code, reason);
    }

    /// Tells that the streams of a tunnel are over.
    pub(super) fn end_streams(&mut self, tunnel: &Tunnel, code: Code, reason: &str) {
        for stream in tunnel.transport.streams() {
            let stream = tunnel.generation().handle(stream);
            if let Some(control) = self.control_streams.remove(&stream) {
                self.circuit_failed(control.purpose);
            } else {
                self.events.push_back(Event::Reset { stream, code, reason: reason.to_owned() });
                self.events.push_back(Event::StreamClosed(stream));
            }
        }
    }

    /// Ends a tunnel on both sides.
    pub(super) fn close(&mut self, now: Now, index: u32, code: Code, reason: &str) {
        let peer = &mut self.peers[index as usize];
        if let Some(dial) = peer.dial.take() {
            self.by_index.remove(&dial.index());
        }
        if let Some(tunnel) = &mut peer.tunnel {
            tunnel.transport.close(code, reason);
            self.queue_last_packet(now, index);
            self.end_tunnel(index, code, reason);
            self.peers[index as usize].effort.end(now.mono);
            self.touch(index);
        }
    }
}

fn is_ipv4(hop: &Hop) -> bool {
    matches!(hop, Hop::Direct(route) if route.remote.is_ipv4())
}

/// Asks for a peer's certificate. The nonce begins with the index of the attempt.
fn certificate_question(peer: &IdentityKey, index: SessionIndex, rng: &mut Rng) -> (Stage, Vec<u8>) {
    let mut nonce: [u8; 8] = rng.array();
    nonce[..4].copy_from_slice(&index.0.to_be_bytes());
    (Stage::Certificate { nonce, index }, handshake::certificate_request(peer, nonce))
}
