//! Early data: what message 1 carries of streams, and what becomes of it before and after the session is used (spec/handshake.md §10).

use super::Node;
use crate::handshake::Incoming;
use crate::id::{PacketNumber, PathId};
use crate::limits::EARLY_ANSWER_PACKETS_MAX;
use crate::path::Hop;
use crate::peer::{EarlyTunnel, hop_params};
use crate::route::Transmit;
use crate::time::Now;
use crate::transport::{Code, EarlyData};
use crate::tunnel::Tunnel;
use crate::wire::{self, DataHeader};

impl Node {
    /// The early data of a message 1, if it is taken: it keeps the rules, and nobody has sent it before.
    pub(super) fn take_early(&mut self, now: Now, incoming: &mut Incoming) -> Option<EarlyData> {
        let payload = std::mem::take(&mut incoming.early);
        if payload.is_empty() {
            return None;
        }
        let opens_even = incoming.certificate.identity < self.key();
        let early = EarlyData::check(payload, opens_even, |header| self.config.is_replay_safe(header))?;
        let is_fresh = self.freshness.take(incoming.certificate.transport_public, incoming.timestamp, now.unix);
        self.stats.early_data += u64::from(is_fresh);
        is_fresh.then_some(early)
    }

    /// Keeps early data until the session is used, and delivers what may be a replay.
    pub(super) fn hold_early(&mut self, now: Now, index: u32, early: EarlyData, hop: Hop) {
        let peer = &mut self.peers[index as usize];
        if early.safe_streams() > 0 && peer.may_begin_early(now.mono) {
            peer.generations += 1;
            let names = (index, peer.generations);
            let path = peer.paths.reserve(&hop);
            let opens_even = self.keys.certificate.identity < peer.key;
            let mut tunnel = Tunnel::new(&self.config.transport, names, opens_even, now.mono);
            tunnel.transport.add_path(path, hop_params(&hop, false));
            tunnel.transport.set_active_path(path);
            if let Some(unconfirmed) = &mut peer.unconfirmed
                && tunnel.transport.handle_early(&early).is_ok()
            {
                self.stats.early_streams += early.safe_streams() as u64;
                tunnel.transport.set_peer_limits(unconfirmed.agreed.limits);
                unconfirmed.early = Some(EarlyTunnel { tunnel, hop, path, packets_left: EARLY_ANSWER_PACKETS_MAX });
            }
        }
        if let Some(unconfirmed) = &mut self.peers[index as usize].unconfirmed {
            unconfirmed.held = Some(early);
        }
        self.drain_early(now, index);
    }

    /// The session is in use: its early data is the packet before the first.
    pub(super) fn receive_early(&mut self, now: Now, index: u32, path: PathId, early: &EarlyData) {
        let Some(tunnel) = &mut self.peers[index as usize].tunnel else { return };
        let taken = tunnel.transport.handle_packet(now.mono, path, PacketNumber(0), false, early.payload());
        if let Err(error) = taken {
            self.close(now, index, error.code(), &error.to_string());
        }
    }

    /// Lets nobody find a session that was never used, and ends what was delivered of its early data.
    pub(super) fn drop_unconfirmed(&mut self, index: u32) {
        let Some(unconfirmed) = self.peers[index as usize].unconfirmed.take() else { return };
        self.by_index.remove(&unconfirmed.agreed.live.index());
        if let Some(early) = unconfirmed.early {
            self.end_streams(&early.tunnel, Code::CANCELLED, "who asked has not gone on");
        }
    }

    /// Takes over what streams of early data report.
    pub(super) fn drain_early(&mut self, now: Now, index: u32) {
        while let Some(early) = self.early_tunnel(index) {
            let generation = early.tunnel.generation();
            let Some(event) = early.tunnel.transport.poll_event() else { break };
            self.handle_transport_event(now, index, generation, event);
        }
    }

    /// A packet that answers early data, by the way that message 2 has gone.
    pub(super) fn early_answer(&mut self, now: Now, index: u32, buf: &mut Vec<u8>) -> Option<Transmit> {
        let unconfirmed = self.peers[index as usize].unconfirmed.as_mut()?;
        let early = unconfirmed.early.as_mut().filter(|early| early.packets_left > 0)?;
        let path = early.tunnel.transport.next_path(now.mono)?;
        let mut packet = vec![0; DataHeader::LEN];
        let number = early.tunnel.transport.poll_packet(now.mono, path, &mut packet)?;
        early.packets_left -= 1;
        unconfirmed.agreed.live.seal(&mut packet, 0, number);
        let tag8 = wire::tag8(&packet).expect("a sealed packet ends with its tag");
        early.tunnel.transport.packet_sealed(number, tag8);
        let hop = early.hop;
        self.transmit_single(&hop, &packet, buf)
    }

    fn early_tunnel(&mut self, index: u32) -> Option<&mut EarlyTunnel> {
        self.peers[index as usize].unconfirmed.as_mut()?.early.as_mut()
    }
}
