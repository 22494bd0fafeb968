//! Datagrams out: control datagrams first, then trains of sealed packets, one peer after the other.

use crate::id::{CircuitId, PathId};
use crate::limits::{CONTROL_QUEUE_MAX, TRAIN_LEN_MAX, TRAIN_SEGMENTS_MAX};
use crate::path::Hop;
use crate::route::{Ecn, Route, Transmit};
use crate::time::Now;
use crate::wire::{self, DataHeader, RelayHeader};

use super::Node;

/// What an opener holds: a first byte that nobody takes (RFC 7983), should it arrive.
const OPENER: u8 = 0x40;
/// How far an opener goes: the router at home passes it on, the next one drops it.
const OPENER_TTL: u8 = 2;

/// A sealed packet that was too long for the train in which it was made.
pub(super) struct Held {
    route: Route,
    datagram: Vec<u8>,
}

/// What waits to be sent outside of sessions.
pub(super) enum Outgoing {
    /// A datagram.
    Datagram(Vec<u8>),
    /// The datagram of the attempt to reach this peer, made when its turn comes.
    Dial(u32),
    /// One byte that leaves our NAT and goes no further.
    Opener,
    /// A sealed challenge to this peer, by the hop that it is queued with, of which nothing is kept.
    Challenge(u32),
}

/// Where a hop leads at this moment.
struct Way {
    route: Route,
    circuit: Option<CircuitId>,
}

impl Node {
    /// Appends the next datagram, or train of datagrams to one destination, to `buf`. `None`: all is sent, sleep now.
    pub fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.look_at_clocks(now);
        let transmit = self.next_transmit(now, buf)?;
        let segments = transmit.segment_size.map_or(1, |size| transmit.len.div_ceil(size));
        self.stats.datagrams_sent += segments as u64;
        self.stats.bytes_sent += transmit.len as u64;
        Some(transmit)
    }

    /// Queues a datagram that belongs to no session. A full queue drops it: every one of them is retried by somebody.
    pub(super) fn queue(&mut self, hop: Hop, outgoing: Outgoing) {
        if self.outbox.len() < CONTROL_QUEUE_MAX {
            self.outbox.push_back((hop, outgoing));
        }
    }

    /// Seals one packet for a path, if the transport has one, and queues it: the last word of a tunnel that ends. Where it goes is settled
    /// now, for the tunnel with a backbone node on its way may end next.
    pub(super) fn queue_last_packet(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        let Some(tunnel) = peer.tunnel.as_mut().filter(|tunnel| tunnel.can_seal(now.mono)) else { return };
        let Some(path) = tunnel.transport.next_path(now.mono) else { return };
        let Some(hop) = peer.paths.path(path).map(|path| path.hop) else { return };
        let mut packet = vec![0; DataHeader::LEN];
        if let Some(number) = tunnel.transport.poll_packet(now.mono, path, &mut packet) {
            tunnel.seal(&mut packet, 0, number);
            let mut datagram = Vec::new();
            if let Some(transmit) = self.transmit_single(&hop, &packet, &mut datagram) {
                self.queue(Hop::Direct(transmit.route), Outgoing::Datagram(datagram));
            }
        }
    }

    fn next_transmit(&mut self, now: Now, buf: &mut Vec<u8>) -> Option<Transmit> {
        if let Some(held) = self.held.take() {
            buf.extend_from_slice(&held.datagram);
            return Some(single(held.route, held.datagram.len()));
        }
        self.open_queued_circuits(now);
        while let Some((hop, outgoing)) = self.outbox.pop_front() {
            let is_opener = matches!(outgoing, Outgoing::Opener);
            let datagram = match outgoing {
                Outgoing::Datagram(datagram) => Some(datagram),
                Outgoing::Dial(index) => self.dial_datagram(now, index, &hop),
                Outgoing::Opener => Some(vec![OPENER]),
                Outgoing::Challenge(index) => self.lone_challenge(now, index),
            };
            let ttl = is_opener.then_some(OPENER_TTL);
            if let Some(transmit) = datagram.and_then(|datagram| self.transmit_single(&hop, &datagram, buf)) {
                return Some(Transmit { ttl, ..transmit });
            }
        }
        while let Some(index) = self.ready.pop_front() {
            let transmit = self.early_answer(now, index, buf).or_else(|| self.train(now, index, buf));
            if let Some(transmit) = transmit {
                self.ready.push_back(index);
                return Some(transmit);
            }
            self.peers[index as usize].is_queued = false;
            self.arm(now.mono, index);
            if !self.outbox.is_empty() || !self.circuits_queued.is_empty() {
                return self.next_transmit(now, buf);
            }
        }
        None
    }

    /// Puts one datagram on its way, if that leads anywhere now.
    pub(super) fn transmit_single(&mut self, hop: &Hop, datagram: &[u8], buf: &mut Vec<u8>) -> Option<Transmit> {
        let way = self.way(hop)?;
        let start = buf.len();
        push_relay_header(&way, buf);
        buf.extend_from_slice(datagram);
        Some(single(way.route, buf.len() - start))
    }

    /// The datagram of an attempt that still goes on, for one way.
    fn dial_datagram(&mut self, now: Now, index: u32, hop: &Hop) -> Option<Vec<u8>> {
        self.seal_dial(now, index);
        self.peers[index as usize].dial.as_ref().map(|dial| dial.datagram_by(hop))
    }

    /// Builds the next train of a peer: packets of one size for one path, the last may be shorter.
    fn train(&mut self, now: Now, index: u32, buf: &mut Vec<u8>) -> Option<Transmit> {
        loop {
            let tunnel = self.peers[index as usize].tunnel.as_mut().filter(|tunnel| tunnel.is_established())?;
            let path = tunnel.transport.next_path(now.mono)?;
            self.renew_keys(now, index);
            let peer = &self.peers[index as usize];
            peer.tunnel.as_ref().filter(|tunnel| tunnel.can_seal(now.mono))?;
            let way = peer.paths.path(path).and_then(|path| self.way(&path.hop));
            let start = buf.len();
            let segment_size = self.fill(now, index, path, way.as_ref(), buf)?;
            if let Some(way) = way {
                let len = buf.len() - start;
                let segment_size = (len > segment_size).then_some(segment_size);
                return Some(Transmit { route: way.route, ecn: Ecn::NotEct, ttl: None, segment_size, len });
            }
            // The path leads nowhere now: its packets are lost, and what is lost is repaired on a better path.
            buf.truncate(start);
        }
    }

    /// Appends sealed packets until the path, its pacer or the train's bound says stop. Returns the size of the first.
    fn fill(&mut self, now: Now, index: u32, path: PathId, way: Option<&Way>, buf: &mut Vec<u8>) -> Option<usize> {
        let peer = &mut self.peers[index as usize];
        let tunnel = peer.tunnel.as_mut()?;
        let train_start = buf.len();
        let train_len_max = tunnel.transport.burst_len(now.mono, path).min(TRAIN_LEN_MAX);
        let mut segment_size = None;
        for _ in 0..TRAIN_SEGMENTS_MAX {
            let start = buf.len();
            if let Some(way) = way {
                push_relay_header(way, buf);
            }
            let sealed_start = buf.len();
            buf.resize(sealed_start + DataHeader::LEN, 0);
            let is_alone = tunnel.transport.is_mtu_probe_next(path);
            let Some(number) = tunnel.transport.poll_packet(now.mono, path, buf) else {
                buf.truncate(start);
                break;
            };
            tunnel.seal(buf, sealed_start, number);
            tunnel.transport.packet_sealed(number, wire::tag8(buf).expect("a sealed packet ends with its tag"));
            peer.bytes_sent += (buf.len() - sealed_start) as u64;
            let len = buf.len() - start;
            let first = *segment_size.get_or_insert(len);
            if len > first {
                let datagram = buf.split_off(start);
                self.held = way.map(|way| Held { route: way.route, datagram });
                break;
            }
            if is_alone || len < first || buf.len() - train_start + first > train_len_max {
                break;
            }
        }
        segment_size
    }

    /// Resolves a hop to a socket address, by way of the backbone node's tunnel if it is relayed.
    fn way(&self, hop: &Hop) -> Option<Way> {
        match *hop {
            Hop::Direct(route) => Some(Way { route, circuit: None }),
            Hop::Relay { backbone, circuit } => {
                let route = self.validated_remote_of(backbone)?;
                Some(Way { route, circuit: Some(circuit) })
            }
        }
    }
}

fn push_relay_header(way: &Way, buf: &mut Vec<u8>) {
    if let Some(circuit) = way.circuit {
        buf.extend_from_slice(&RelayHeader { circuit }.encode());
    }
}

fn single(route: Route, len: usize) -> Transmit {
    Transmit { route, ecn: Ecn::NotEct, ttl: None, segment_size: None, len }
}
