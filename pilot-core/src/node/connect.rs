//! Reaching a peer: attempts and their retries, circuits at backbone nodes, and what begins when a session is there.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::dial::{Dial, Stage};
use crate::event::{ConnectError, Event, StreamHandle};
use crate::handshake::{self, Initiator, Local};
use crate::id::{CircuitId, IdentityKey, PathId, ServicePort, TunnelId};
use crate::limits::{ADDRESSES_MAX, CANDIDATES_MAX, CONNECT_TIMEOUT, HOMES_MAX, RETRIES_BEFORE_NEW_CIRCUIT};
use crate::path::Hop;
use crate::peer::{Home, Peer};
use crate::route::{Ecn, Route};
use crate::time::{Mono, Now};
use crate::transport::{Candidate, CandidateKind, Code, PathFrame};
use crate::tunnel::{Agreed, LiveSession};
use crate::wire;
use crate::wire::circuit::{
    self, CIRCUIT_MESSAGE_LEN_MAX, CircuitAnswer, CircuitOffer, CircuitOpen, CircuitOpened, CircuitStatus,
};
use crate::wire::stream_header::StreamHeader;

use super::Node;

/// A stream that the node uses itself, with what has arrived on it so far.
pub(super) struct ControlStream {
    purpose: Purpose,
    received: Vec<u8>,
}

/// What a control stream is for.
#[derive(Clone, Copy)]
enum Purpose {
    /// `circuit.open` to this backbone slot, for this peer slot.
    Open { backbone: u32, peer: u32 },
    /// `circuit.offer` from this backbone slot.
    Offer { backbone: u32 },
}

impl Node {
    /// Sees to it that packets can reach the peer: a handshake if there is no session, a circuit if there is no path that works.
    pub(super) fn ensure_route(&mut self, now: Now, index: u32) {
        let peer = &self.peers[index as usize];
        let can_seal = peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.can_seal(now.mono));
        if !can_seal {
            if peer.dial.is_none() {
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
        self.dial_since(now, index, now.mono);
        let peer = &self.peers[index as usize];
        if peer.addresses.is_empty() && peer.homes.is_empty() && peer.paths.active().is_none() {
            self.fail_dial(index, ConnectError::NoRoute);
            return;
        }
        self.send_dial(index);
        if !self.has_usable_relay(index) {
            self.open_circuit(now, index);
        }
        self.touch(index);
    }

    /// Goes on with an attempt after the peer's certificate has come.
    pub(super) fn dial_again(&mut self, now: Now, index: u32) {
        let Some(dial) = &self.peers[index as usize].dial else { return };
        let started = dial.started;
        self.dial_since(now, index, started);
        self.send_dial(index);
        self.touch(index);
    }

    /// Prepares the datagram of an attempt: message 1, or the question for the certificate that it needs.
    fn dial_since(&mut self, now: Now, index: u32, started: Mono) {
        let local_index = self.new_index();
        let peer = &mut self.peers[index as usize];
        if let Some(old) = peer.dial.take() {
            self.by_index.remove(&old.index());
        }
        let certificate = peer.certificate.as_ref().filter(|certificate| certificate.check_dates(now.unix).is_ok());
        let running = peer.tunnel.as_ref().filter(|tunnel| tunnel.is_established());
        let tunnel = running.map_or_else(|| TunnelId(self.rng.array()), |tunnel| tunnel.id);
        let local = Local {
            identity: &self.keys.identity,
            certificate: &self.keys.certificate,
            transport: &self.keys.transport[0],
        };
        let parameters = self.config.parameters();
        let message_1 = certificate.and_then(|certificate| {
            Initiator::start(&local, certificate, local_index, tunnel, &parameters, now.unix, &mut self.rng).ok()
        });
        let (stage, datagram) = if let Some((initiator, datagram)) = message_1 {
            (Stage::Handshake { initiator: Box::new(initiator), index: local_index }, datagram)
        } else {
            let mut nonce: [u8; 8] = self.rng.array();
            nonce[..4].copy_from_slice(&local_index.0.to_be_bytes());
            (Stage::Certificate { nonce, index: local_index }, handshake::certificate_request(&peer.key, nonce))
        };
        peer.dial = Some(Dial::new(stage, datagram, started, now.mono));
        self.by_index.insert(local_index, index);
    }

    /// Sends the attempt's datagram by every way that is known; the first answer counts.
    fn send_dial(&mut self, index: u32) {
        for hop in self.dial_hops(index) {
            self.send_dial_by(index, hop);
        }
    }

    /// The ways by which a peer is dialled. What it has named itself, or seemed to come from, is not one before it was there: a
    /// handshake is as long as thirty probes.
    pub(super) fn dial_hops(&self, index: u32) -> Vec<Hop> {
        let peer = &self.peers[index as usize];
        let allows_direct = self.config.direct || peer.is_backbone;
        let known = peer.paths.iter().filter(|path| path.was_proved()).map(|path| path.hop);
        let known = known.filter(|hop| allows_direct || !hop.is_direct());
        let addresses = peer.addresses.iter().filter(|_| allows_direct).map(|&address| Hop::Direct(Route::to(address)));
        let mut hops: Vec<Hop> = known.collect();
        for hop in addresses {
            if !hops.iter().any(|known| known.is_same_way(&hop)) {
                hops.push(hop);
            }
        }
        hops
    }

    /// Sends the attempt's datagram by one way.
    pub(super) fn send_dial_by(&mut self, index: u32, hop: Hop) {
        if let Some(dial) = &self.peers[index as usize].dial {
            let datagram = dial.datagram.clone();
            self.queue(hop, datagram);
        }
    }

    /// Retries an attempt, or ends it. The home node is tried for ever.
    pub(super) fn dial_timeout(&mut self, now: Now, index: u32) {
        let is_home = self.home == Some(index);
        let Some(dial) = &mut self.peers[index as usize].dial else { return };
        if now.mono.since(dial.started) >= CONNECT_TIMEOUT {
            self.fail_dial(index, ConnectError::NoAnswer);
            if is_home {
                self.start_dial(now, index);
            }
            return;
        }
        if dial.is_retry_due(now.mono) {
            let is_unheard = dial.retries() >= RETRIES_BEFORE_NEW_CIRCUIT;
            self.send_dial(index);
            if is_unheard || !self.has_usable_relay(index) {
                self.open_circuit(now, index);
            }
        }
    }

    /// Gives an attempt up. Without a session the streams that waited for it end too.
    pub(super) fn fail_dial(&mut self, index: u32, error: ConnectError) {
        let peer = &mut self.peers[index as usize];
        peer.wants_circuit = false;
        let Some(dial) = peer.dial.take() else { return };
        self.by_index.remove(&dial.index());
        if !peer.is_connected() {
            let key = peer.key;
            self.end_tunnel(index, Code::UNREACHABLE, &error.to_string());
            self.events.push_back(Event::ConnectFailed { peer: key, error });
        }
    }

    /// Puts a new session in charge. `continues`: it belongs to the tunnel that we have; else the peer has lost its state and so do we.
    /// `is_proved`: the handshake was answered by this very way.
    pub(super) fn establish(
        &mut self,
        now: Now,
        index: u32,
        agreed: Agreed,
        continues: bool,
        hop: Hop,
        is_proved: bool,
    ) {
        let peer = &self.peers[index as usize];
        let was_connected = peer.is_connected();
        let is_unheard = peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_unheard(now.mono));
        let restarted = was_connected && !continues && !is_unheard;
        if restarted {
            self.end_tunnel(index, Code::PEER_RESTARTED, "the agent has restarted");
            self.forget_circuits_at(index);
        }
        if !continues && let Some(crossing) = self.peers[index as usize].unconfirmed.take() {
            self.by_index.remove(&crossing.agreed.live.index());
        }
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
        peer.paths.earn_probes(wire::INNER);
        let path = self.heard_by(now.mono, index, hop);
        let peer = &mut self.peers[index as usize];
        if is_proved {
            peer.prove_path(now.mono, path);
        } else {
            peer.paths.probe(now.mono, path, &mut self.rng);
        }
        self.choose_path(now, index);
        if !was_connected || restarted {
            self.connected(now, index, restarted);
        }
        self.touch(index);
    }

    /// What a new tunnel begins with.
    fn connected(&mut self, now: Now, index: u32, restarted: bool) {
        let peer = &mut self.peers[index as usize];
        let key = peer.key;
        peer.has_sent_candidates = false;
        self.events.push_back(Event::PeerConnected { peer: key, restarted });
        if self.home == Some(index) {
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
        let peer = &mut self.peers[index as usize];
        if let Some(unconfirmed) = peer.unconfirmed.take() {
            self.by_index.remove(&unconfirmed.agreed.live.index());
        }
        let Some(tunnel) = peer.tunnel.take() else { return };
        for session in tunnel.sessions() {
            self.forget_session(index, session);
        }
        for stream in tunnel.transport.streams() {
            let stream = StreamHandle { peer: index, generation: tunnel.generation, stream };
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
        }
    }

    pub(super) fn mark_backbone(&mut self, index: u32) {
        self.peers[index as usize].is_backbone = true;
        if !self.backbones.contains(&index) {
            self.backbones.push(index);
        }
    }

    /// Asks a backbone node of the peer for a circuit; the pending datagram travels with the question.
    pub(super) fn open_circuit(&mut self, now: Now, index: u32) {
        let peer = &self.peers[index as usize];
        if peer.is_backbone || peer.wants_circuit || peer.homes.is_empty() {
            return;
        }
        let homes: Vec<u32> =
            peer.homes.clone().into_iter().filter_map(|home| self.learn_backbone(now.mono, home)).collect();
        let Some(&first) = homes.first() else { return };
        self.peers[index as usize].wants_circuit = true;
        if let Some(&backbone) = homes.iter().find(|&&home| self.peers[home as usize].is_connected()) {
            self.ask_for_circuit(now, backbone, index);
        } else {
            self.circuits_waiting.entry(first).or_default().insert(index);
            self.ensure_route(now, first);
        }
    }

    fn ask_for_circuit(&mut self, now: Now, backbone: u32, index: u32) {
        let peer = &self.peers[index as usize];
        let packet = peer.dial.as_ref().map(|dial| dial.datagram.clone()).unwrap_or_default();
        let request = CircuitOpen { destination: peer.key.0.into(), packet: packet.into() };
        let purpose = Purpose::Open { backbone, peer: index };
        let key = self.peers[backbone as usize].key;
        let Ok(stream) = self.open_stream(now, &key, &StreamHeader::new(ServicePort::CIRCUIT)) else {
            self.circuit_failed(purpose);
            return;
        };
        self.control_streams.insert(stream, ControlStream { purpose, received: Vec::new() });
        self.send_message(now, stream, circuit::encode(&request));
    }

    /// Takes a stream that a backbone node opened to offer a circuit.
    pub(super) fn accept_offer(&mut self, now: Now, stream: StreamHandle) {
        let purpose = Purpose::Offer { backbone: stream.peer };
        self.control_streams.insert(stream, ControlStream { purpose, received: Vec::new() });
        self.read_control(now, stream);
    }

    /// Reads a control stream as far as it goes; at its end the message is handled.
    pub(super) fn read_control(&mut self, now: Now, stream: StreamHandle) {
        use crate::transport::Read;
        loop {
            let Some(tunnel) = self.tunnel_of(stream) else { return };
            let read = tunnel.transport.read(stream.stream, CIRCUIT_MESSAGE_LEN_MAX);
            let Some(control) = self.control_streams.get_mut(&stream) else { return };
            match read {
                Ok(Read::Data(data)) if control.received.len() + data.len() <= CIRCUIT_MESSAGE_LEN_MAX => {
                    control.received.extend_from_slice(&data);
                }
                Ok(Read::Blocked) => return,
                Ok(Read::Finished) => {
                    let control = self.control_streams.remove(&stream).expect("found above");
                    return self.handle_control(now, stream, control);
                }
                Ok(Read::Data(_)) | Err(_) => return self.abandon_control(now, stream),
            }
        }
    }

    /// Gives up a control stream that failed or broke the protocol.
    pub(super) fn abandon_control(&mut self, now: Now, stream: StreamHandle) {
        if let Some(control) = self.control_streams.remove(&stream) {
            self.reset(now, stream, Code::PROTOCOL_VIOLATION, "not a circuit message");
            self.circuit_failed(control.purpose);
        }
    }

    fn handle_control(&mut self, now: Now, stream: StreamHandle, control: ControlStream) {
        match control.purpose {
            Purpose::Open { backbone, peer } => match circuit::decode::<CircuitOpened>(&control.received) {
                Ok(opened) => self.circuit_opened(now, backbone, peer, opened),
                Err(_) => self.circuit_failed(control.purpose),
            },
            Purpose::Offer { backbone } => match circuit::decode::<CircuitOffer>(&control.received) {
                Ok(offer) => self.circuit_offered(now, stream, backbone, &offer),
                Err(_) => self.reset(now, stream, Code::PROTOCOL_VIOLATION, "not a circuit offer"),
            },
        }
    }

    fn circuit_opened(&mut self, now: Now, backbone: u32, index: u32, opened: CircuitOpened) {
        self.peers[index as usize].wants_circuit = false;
        if opened.status != CircuitStatus::Ok {
            self.circuit_denied(index, opened);
            return;
        }
        self.attest(index, backbone, opened.attested.as_deref().unwrap_or_default());
        let hop = Hop::Relay { backbone, circuit: CircuitId(opened.circuit) };
        self.replace_circuit(now, index, hop);
        self.choose_path(now, index);
        self.touch(index);
    }

    /// The node says no. If nothing else is left to try, that is the answer; else the attempt goes on.
    fn circuit_denied(&mut self, index: u32, opened: CircuitOpened) {
        let peer = &self.peers[index as usize];
        let has_direct = self.config.direct && !peer.addresses.is_empty();
        if peer.dial.is_none() || peer.is_connected() || has_direct {
            return;
        }
        let error = match opened.status {
            CircuitStatus::Refused => ConnectError::Refused(opened.reason),
            CircuitStatus::Ok | CircuitStatus::NotFound | CircuitStatus::Busy => ConnectError::Offline(opened.reason),
        };
        self.fail_dial(index, error);
    }

    /// The question got no answer; the retry of the attempt asks again.
    fn circuit_failed(&mut self, purpose: Purpose) {
        if let Purpose::Open { peer, .. } = purpose {
            self.peers[peer as usize].wants_circuit = false;
        }
    }

    /// Takes a circuit from a backbone node. Who the caller is, only its packet proves.
    fn circuit_offered(&mut self, now: Now, stream: StreamHandle, backbone: u32, offer: &CircuitOffer) {
        self.send_message(now, stream, circuit::encode(&CircuitAnswer { status: CircuitStatus::Ok }));
        let hop = Hop::Relay { backbone, circuit: CircuitId(offer.circuit) };
        let mut packet = offer.packet.to_vec();
        if !packet.is_empty()
            && let Err(reason) = self.handle_packet(now, hop, Ecn::NotEct, &mut packet)
        {
            self.stats.drop(reason);
        }
        let Ok(index) = self.index_of(&IdentityKey(*offer.caller)) else { return };
        self.attest(index, backbone, &offer.attested);
        if self.peers[index as usize].is_connected() {
            self.replace_circuit(now, index, hop);
            self.choose_path(now, index);
            self.send_candidates(index);
        }
    }

    /// A peer has one circuit at a node: the newest.
    fn replace_circuit(&mut self, now: Now, index: u32, hop: Hop) {
        let Hop::Relay { backbone, .. } = hop else { return };
        let peer = &mut self.peers[index as usize];
        let is_old = |known: &Hop| matches!(known, Hop::Relay { backbone: at, .. } if *at == backbone) && *known != hop;
        for id in peer.paths.ids_where(is_old) {
            peer.remove_path(id);
        }
        peer.add_path(now.mono, hop);
    }

    /// The circuits of a backbone node that has restarted are gone; peers in use ask for new ones when they next have something to send.
    fn forget_circuits_at(&mut self, backbone: u32) {
        if !self.peers[backbone as usize].is_backbone {
            return;
        }
        for peer in &mut self.peers {
            for id in peer.paths.ids_where(|hop| matches!(hop, Hop::Relay { backbone: at, .. } if *at == backbone)) {
                peer.remove_path(id);
            }
        }
        for index in 0..self.peers.len() as u32 {
            if self.peers[index as usize].is_in_use() && !self.peers[index as usize].is_backbone {
                self.circuits_waiting.entry(backbone).or_default().insert(index);
            }
        }
    }

    /// Takes a backbone node from another agent's record. What such a record says takes nothing away from what is known of the node, and
    /// makes no agent a backbone node.
    pub(super) fn learn_backbone(&mut self, now: Mono, home: Home) -> Option<u32> {
        let index = self.slot(now, home.key)?;
        let peer = &mut self.peers[index as usize];
        if !peer.is_backbone && (peer.is_connected() || !peer.homes.is_empty()) {
            return None;
        }
        for address in home.addresses {
            if peer.addresses.len() < ADDRESSES_MAX && !peer.addresses.contains(&address) {
                peer.addresses.push(address);
            }
        }
        self.mark_backbone(index);
        Some(index)
    }

    /// Notes where a backbone node sees a peer. Only the home node is believed: we have chosen it.
    fn attest(&mut self, index: u32, backbone: u32, address: &str) {
        if self.home == Some(backbone) {
            self.peers[index as usize].attested = circuit::attested_address(address);
        }
    }

    /// Notes by which way a packet of the peer has come. If by a backbone node, it can be called back there: this is proof, the node's
    /// word that it would be is none.
    pub(super) fn heard_by(&mut self, now: Mono, index: u32, hop: Hop) -> PathId {
        let path = self.peers[index as usize].received_by(now, hop);
        if let Hop::Relay { backbone, .. } = hop {
            let Peer { key, addresses, .. } = &self.peers[backbone as usize];
            let (key, homes) = (*key, &self.peers[index as usize].homes);
            if homes.len() < HOMES_MAX && !homes.iter().any(|home| home.key == key) {
                let home = Home { key, addresses: addresses.clone() };
                self.peers[index as usize].homes.push(home);
            }
        }
        path
    }

    fn send_message(&mut self, now: Now, stream: StreamHandle, message: Vec<u8>) {
        let mut message = Bytes::from(message);
        let sent = self.write(now, stream, &mut message).and_then(|_| self.finish(now, stream));
        if sent.is_err() || !message.is_empty() {
            self.abandon_control(now, stream);
        }
    }

    /// A backbone node tells its clients how it sees them.
    pub(super) fn tell_observed_address(&mut self, index: u32) {
        if self.is_agent() {
            return;
        }
        let peer = &mut self.peers[index as usize];
        let Some(path) = peer.paths.active() else { return };
        let (Hop::Direct(route), id) = (path.hop, path.id) else { return };
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
            peer.has_sent_candidates = true;
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
        let reflexive = self.observed.map(|address| Candidate { kind: CandidateKind::ServerReflexive, address });
        let host = self.local_addresses.iter().map(|&address| Candidate { kind: CandidateKind::Host, address });
        reflexive.into_iter().chain(host).take(CANDIDATES_MAX).collect()
    }

    /// Probes the addresses that a peer has named, and answers with ours. None at all says that it takes nothing directly.
    pub(super) fn candidates_received(&mut self, now: Now, index: u32, candidates: &[Candidate]) {
        if !self.config.direct || self.peers[index as usize].is_backbone {
            return;
        }
        if candidates.is_empty() {
            self.peers[index as usize].has_sent_candidates = false;
            return self.leave_direct_paths(now, index);
        }
        let is_same_host = self.is_on_this_host(index);
        for candidate in candidates.iter().take(CANDIDATES_MAX) {
            if is_probeable(&candidate.address, is_same_host) {
                let peer = &mut self.peers[index as usize];
                let path = peer.add_path(now.mono, Hop::Direct(Route::to(candidate.address)));
                peer.paths.probe(now.mono, path, &mut self.rng);
            }
        }
        self.send_candidates(index);
        self.probe_paths(now, index);
    }

    /// Whether the backbone node, on this very host, sees the peer on this host too.
    fn is_on_this_host(&self, index: u32) -> bool {
        let is_loopback = |address: Option<SocketAddr>| address.is_some_and(|address| address.ip().is_loopback());
        is_loopback(self.observed) && is_loopback(self.peers[index as usize].attested)
    }
}

/// Nobody can make us send to a multicast, broadcast or unspecified address, nor to a loopback that is not shared.
fn is_probeable(address: &SocketAddr, is_same_host: bool) -> bool {
    let ip = address.ip();
    let is_broadcast = matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast());
    address.port() != 0
        && !ip.is_multicast()
        && !ip.is_unspecified()
        && !is_broadcast
        && (is_same_host || !ip.is_loopback())
}
