//! Circuits at backbone nodes, and the control streams on which they are asked for and offered (spec/relay.md §2).

use std::net::SocketAddr;

use bytes::Bytes;

use super::Node;
use super::candidates::is_probeable;
use crate::event::{ConnectError, StreamHandle};
use crate::id::{CircuitId, IdentityKey, InstanceId, PathId, ServicePort};
use crate::limits::{HEARSAY_ADDRESSES_MAX, HOMES_MAX};
use crate::path::Hop;
use crate::peer::Home;
use crate::route::Ecn;
use crate::time::{Mono, Now};
use crate::transport::{Code, Read};
use crate::wire::circuit::{
    self, CIRCUIT_MESSAGE_LEN_MAX, CircuitAnswer, CircuitOffer, CircuitOpen, CircuitOpened, CircuitStatus,
};
use crate::wire::stream_header::StreamHeader;

/// A stream that the node uses itself, with what has arrived on it so far.
pub(super) struct ControlStream {
    pub(super) purpose: Purpose,
    received: Vec<u8>,
}

/// What a control stream is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// `circuit.open` to this backbone slot, for this peer slot.
    Open { backbone: u32, peer: u32 },
    /// `circuit.offer` from this backbone slot.
    Offer { backbone: u32 },
}

impl Node {
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
        let (homes, share) = self.peers[index as usize].take_homes();
        let homes: Vec<u32> = homes.into_iter().filter_map(|home| self.learn_backbone(now.mono, home, share)).collect();
        let refused_by = &self.peers[index as usize].refused_by;
        let homes: Vec<u32> = homes.into_iter().filter(|home| !refused_by.contains(home)).collect();
        let Some(&first) = homes.first() else { return };
        self.peers[index as usize].wants_circuit = true;
        if let Some(&backbone) = homes.iter().find(|&&home| self.peers[home as usize].is_connected()) {
            self.ask_for_circuit(now, backbone, index);
        } else {
            self.circuits_waiting.entry(first).or_default().insert(index);
            self.ensure_route(now, first);
        }
    }

    /// Asks our home node where a peer is now, and lets it tell the peer where we are: the question for a circuit that exists is that.
    pub(super) fn renew_attestation(&mut self, now: Now, index: u32) {
        let Some(home) = self.home.filter(|&home| self.peers[home as usize].is_connected()) else { return };
        let home_key = self.peers[home as usize].key;
        let peer = &mut self.peers[index as usize];
        let is_at_home = peer.homes.iter().any(|known| known.key == home_key);
        if peer.is_connected() && is_at_home && !peer.is_backbone && !peer.wants_circuit {
            peer.wants_circuit = true;
            self.ask_for_circuit(now, home, index);
        }
    }

    /// As [`Self::open_circuit`], but with the next packets out: what is written until then can travel with the question.
    pub(super) fn queue_circuit(&mut self, index: u32) {
        self.circuits_queued.insert(index);
    }

    /// Asks for the circuits that attempts have begun to need.
    pub(super) fn open_queued_circuits(&mut self, now: Now) {
        while let Some(index) = self.circuits_queued.pop_first() {
            if self.peers[index as usize].dial.is_some() {
                self.open_circuit(now, index);
            }
        }
    }

    fn ask_for_circuit(&mut self, now: Now, backbone: u32, index: u32) {
        self.seal_dial(now, index);
        let peer = &self.peers[index as usize];
        let packet = peer.dial.as_ref().map(|dial| dial.datagram.clone()).unwrap_or_default();
        let instance = peer.instance.map(|instance| instance.0.into());
        let request = CircuitOpen { destination: peer.key.0.into(), packet: packet.into(), instance };
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
            // The node was asked where the peer is, and does not know: that ends no way on which it is heard.
            if self.peers[index as usize].dial.is_none() && self.has_usable_path(now.mono, index) {
                return;
            }
            self.peers[index as usize].refused_by.push(backbone);
            self.open_circuit(now, index);
            if !self.peers[index as usize].wants_circuit {
                self.circuit_denied(now, index, opened);
            }
            return;
        }
        self.attest(index, backbone, opened.attested.as_deref().unwrap_or_default());
        let hop = Hop::Relay { backbone, circuit: CircuitId(opened.circuit) };
        self.replace_circuit(now, index, hop);
        self.choose_path(now, index);
        self.touch(index);
    }

    /// The last node says no. If nothing else is left to try, that is the answer; else the attempt goes on.
    fn circuit_denied(&mut self, now: Now, index: u32, opened: CircuitOpened) {
        let error = match opened.status {
            CircuitStatus::Busy => return self.circuit_later(index, opened.reason),
            CircuitStatus::Refused => ConnectError::Refused(opened.reason),
            CircuitStatus::Ok | CircuitStatus::NotFound => ConnectError::Offline(opened.reason),
        };
        let peer = &self.peers[index as usize];
        let has_direct = self.config.direct && peer.all_addresses().next().is_some();
        if peer.dial.is_some() && !peer.is_connected() && !has_direct {
            self.fail_dial(now, index, error);
        }
    }

    /// No node opens a circuit now: the retry of the attempt asks all of them again.
    fn circuit_later(&mut self, index: u32, reason: String) {
        let peer = &mut self.peers[index as usize];
        peer.refused_by.clear();
        if let Some(dial) = &mut peer.dial {
            dial.obstacle = Some(ConnectError::Busy(reason));
        }
    }

    /// The question got no answer; the retry of the attempt asks again.
    pub(super) fn circuit_failed(&mut self, purpose: Purpose) {
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
        let Some(index) = self.caller(&IdentityKey(*offer.caller), InstanceId(*offer.instance)) else { return };
        self.attest(index, backbone, &offer.attested);
        if self.peers[index as usize].is_connected() {
            self.replace_circuit(now, index, hop);
            self.choose_path(now, index);
            self.send_candidates(index);
        }
    }

    /// The slot of a caller, or the one in which it is looked for while nothing is known of its instances.
    fn caller(&self, key: &IdentityKey, instance: InstanceId) -> Option<u32> {
        let is_it = |&index: &u32| self.peers[index as usize].instance.is_none_or(|known| known == instance);
        self.slots_of(key).iter().copied().find(is_it)
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
    pub(super) fn forget_circuits_at(&mut self, backbone: u32) {
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

    /// Takes a backbone node from another agent's record. What such a record says makes no agent a backbone node, and changes nothing about
    /// a node that we have chosen, have addresses for from elsewhere, or have a tunnel with. `record_len`: bytes of the record that pay for what is sent
    /// there.
    pub(super) fn learn_backbone(&mut self, now: Mono, home: Home, record_len: usize) -> Option<u32> {
        let index = self.slot(now, home.key)?;
        let peer = &self.peers[index as usize];
        if !peer.is_backbone && (peer.is_connected() || !peer.homes.is_empty()) {
            return None;
        }
        if self.home != Some(index) && peer.addresses.is_empty() && !peer.is_connected() {
            let mut addresses = self.dialable(home.addresses);
            addresses.truncate(HEARSAY_ADDRESSES_MAX);
            self.peers[index as usize].learn_hearsay(&addresses, record_len);
        }
        self.mark_backbone(index);
        Some(index)
    }

    /// Those addresses from a record at which somebody could be. On this host it is if our home node is here too, or if we have none,
    /// and so no directory: who tells of nodes then is a ticket, or our own organisation.
    pub(super) fn dialable(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let may_be_here = self.home.is_none() || self.is_home_on_this_host();
        addresses.iter_mut().for_each(|address| address.set_ip(address.ip().to_canonical()));
        addresses.retain(|address| is_probeable(address, may_be_here));
        addresses
    }

    /// Notes where a backbone node sees a peer. Only the home node is believed: we have chosen it. What would be no candidate is no attested
    /// address either.
    pub(super) fn attest(&mut self, index: u32, backbone: u32, address: &str) {
        if self.home == Some(backbone) {
            let is_same_host = self.is_home_on_this_host();
            let attested = circuit::attested_address(address).filter(|address| is_probeable(address, is_same_host));
            self.peers[index as usize].attested = attested;
        }
    }

    /// Notes by which way a packet of the peer has come. If by a backbone node, it can be called back there: this is proof, the node's
    /// word that it would be is none.
    pub(super) fn heard_by(&mut self, now: Mono, index: u32, hop: Hop) -> PathId {
        self.note_link_user(index, &hop);
        let path = self.peers[index as usize].received_by(now, hop);
        if let Hop::Relay { backbone, .. } = hop {
            let node = &self.peers[backbone as usize];
            let (key, homes) = (node.key, &self.peers[index as usize].homes);
            if homes.len() < HOMES_MAX && !homes.iter().any(|home| home.key == key) {
                let home = Home { key, addresses: node.all_addresses().collect() };
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
}
