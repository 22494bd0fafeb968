//! What acknowledgements, losses and timeouts do (RFC 9002 §6; spec/streams.md §7).

use std::time::Duration;

use super::Transport;
use super::announce::Taken;
use super::audit::TimerKind;
use super::event::{TransportError, TransportEvent};
use super::mtu::BLACK_HOLE_PTO_COUNT;
use super::sent::{SentFrame, SentPacket};
use crate::id::{PacketNumber, PathId};
use crate::time::Mono;
use crate::wire::frame::{Ack, Code};

/// Packets whose frames a probe timeout repeats: as many as it sends.
const PROBED_PACKETS: usize = 2;

/// A timer of ours that is late by more shows that nobody was here: the process was stopped, or the machine slept.
const LATE_MAX: Duration = Duration::from_millis(100);

/// The youngest packet that one ACK newly acknowledges on one path.
#[derive(Clone, Copy, Debug)]
struct NewlyAcked {
    pn: u64,
    packet: SentPacket,
}

impl Transport {
    pub(super) fn on_ack(&mut self, now: Mono, ack: &Ack<'_>) -> Result<(), TransportError> {
        let names = |pn| ack.ranges().take_while(|range| range.1 >= pn).any(|range| range.0 <= pn);
        if ack.largest >= self.next_pn || self.skipped.is_some_and(names) {
            return Err(TransportError::Violation("acknowledgement of a packet that was never sent"));
        }
        let in_flight_before: u64 = self.active().map_or(0, |path| path.bytes_in_flight);
        self.note_absence(now);
        let Some(largest) = self.remove_acked(now, ack, in_flight_before) else { return Ok(()) };
        if largest.pn == ack.largest
            && let Some(path) = self.path_mut(largest.packet.path)
        {
            path.measure(now, largest.packet.sent_at, Duration::from_micros(ack.delay_us));
        }
        self.on_ce_count(now, ack.ce_count.unwrap_or(0), largest.packet);
        self.detect_lost_everywhere(now);
        self.paths.iter_mut().for_each(|path| path.on_ack_taken(now));
        self.sent.release();
        self.note_answer(now);
        Ok(())
    }

    /// Notices that nobody was here for a while.
    pub(super) fn note_absence(&mut self, now: Mono) {
        let timers = self.paths.iter().filter_map(|path| path.timer());
        if timers.map(|(_, due)| now.since(due)).any(|late| late > LATE_MAX) {
            self.paths.iter_mut().for_each(|path| path.forget_unmeasured(now));
        }
    }

    /// Declares lost what later packets of the same path have overtaken, and sets the path's timer for the rest.
    pub(super) fn detect_lost(&mut self, now: Mono, id: PathId) {
        let Some(path) = self.path_mut(id) else { return };
        path.loss_time = None;
        let mut next = path.list.oldest();
        while let Some(pn) = next {
            next = self.sent.newer(pn);
            let Some(path) = self.paths.iter_mut().find(|path| path.id == id) else { return };
            let Some(lost_at) = self.sent.get(pn).and_then(|packet| path.lost_at(packet)) else { break };
            if lost_at > now {
                path.loss_time = Some(lost_at);
                break;
            }
            self.on_packet_lost(now, pn);
        }
    }

    /// Gives up all packets in flight on a path that is not to be waited for. This is not congestion.
    pub(super) fn abandon_in_flight(&mut self, id: PathId) {
        while let Some(pn) = self.path_mut(id).and_then(|path| path.list.oldest()) {
            self.remove_lost(pn);
        }
        if let Some(path) = self.path_mut(id) {
            path.loss_time = None;
        }
        self.sent.release();
        self.settle_silence();
    }

    /// Gives up one packet for which the ring has no place any more.
    pub(super) fn remove_lost(&mut self, pn: PacketNumber) -> Option<SentPacket> {
        let id = self.sent.get(pn)?.path;
        let path = self.paths.iter_mut().find(|path| path.id == id)?;
        let packet = self.sent.remove(pn, &mut path.list)?;
        path.on_packet_gone(&packet);
        if packet.is_mtu_probe {
            path.mtu.on_probe_lost(pn);
        }
        self.repair(pn);
        Some(packet)
    }

    pub(super) fn on_path_timeout(&mut self, now: Mono, id: PathId) {
        // Who wakes up late may find the probe timeout passed behind the loss that stood before it.
        while let Some((kind, _)) = self.path(id).and_then(|path| path.timer()).filter(|(_, at)| *at <= now) {
            if kind == TimerKind::Pto {
                self.on_pto(now, id);
            } else {
                self.detect_lost(now, id);
                self.sent.release();
                self.settle_silence();
            }
        }
    }

    /// Reports stalled streams, and gives the tunnel up in the end.
    pub(super) fn on_silence(&mut self, now: Mono) {
        let Some(since) = self.unanswered_since else { return };
        if since + self.idle_timeout <= now {
            self.end(Code::TIMEOUT, "no answer for the idle timeout");
        } else if since + self.stalled_after <= now && !self.is_stalled && self.open_stream_count() > 0 {
            self.is_stalled = true;
            self.streams.set_stalled(true);
        }
    }

    /// Takes out every packet that the ACK names; returns the youngest of them.
    fn remove_acked(&mut self, now: Mono, ack: &Ack<'_>, in_flight_before: u64) -> Option<NewlyAcked> {
        let mut youngest = None;
        for (smallest, largest) in ack.ranges() {
            if largest < self.sent.base() {
                break;
            }
            for pn in (smallest.max(self.sent.base())..=largest).rev() {
                let Some(packet) = self.on_packet_acked(now, PacketNumber(pn), in_flight_before) else { continue };
                youngest = youngest.or(Some(NewlyAcked { pn, packet }));
            }
        }
        youngest
    }

    fn on_packet_acked(&mut self, now: Mono, pn: PacketNumber, in_flight_before: u64) -> Option<SentPacket> {
        let id = self.sent.get(pn)?.path;
        let path = self.paths.iter_mut().find(|path| path.id == id)?;
        let packet = self.sent.remove(pn, &mut path.list)?;
        path.on_packet_gone(&packet);
        #[cfg(feature = "sabotage")]
        if self.breaks_in_flight {
            path.bytes_in_flight = path.bytes_in_flight.saturating_sub(u64::from(packet.size));
        }
        path.on_packet_acked(now, &packet, in_flight_before);
        if packet.is_mtu_probe {
            path.mtu.on_probe_acked(pn, packet.size as usize);
            let mtu = path.mtu.current();
            path.controller.on_mtu_update(mtu as u64);
            self.streams.events.push_back(TransportEvent::MtuProved { path: id, mtu });
        }
        for number in self.sent.frame_numbers(pn) {
            let Some(frame) = self.sent.frame(number) else { continue };
            match frame {
                SentFrame::Ack(reported) => self.received.on_ack_acked(reported),
                SentFrame::Announcement(number) => {
                    let taken = self.announcements.on_acked(number);
                    self.streams.events.extend(taken.map(|taken| match taken {
                        Taken::Candidates => TransportEvent::CandidatesTaken,
                        Taken::Ports => TransportEvent::PortsTaken,
                    }));
                }
                SentFrame::Stream { .. }
                | SentFrame::Reset(_)
                | SentFrame::StopSending(_)
                | SentFrame::MaxStreamData(_)
                | SentFrame::MaxData
                | SentFrame::MaxStreams => self.streams.on_frame_acked(frame),
            }
        }
        Some(packet)
    }

    fn on_ce_count(&mut self, now: Mono, ce_count: u64, packet: SentPacket) {
        if ce_count > self.peer_ce_count {
            self.peer_ce_count = ce_count;
            if let Some(path) = self.path_mut(packet.path) {
                path.controller.on_congestion_experienced(now, packet.sent_at);
            }
        }
    }

    fn detect_lost_everywhere(&mut self, now: Mono) {
        for index in 0..self.paths.len() {
            self.detect_lost(now, self.paths[index].id);
        }
    }

    fn on_packet_lost(&mut self, now: Mono, pn: PacketNumber) {
        let Some(packet) = self.remove_lost(pn) else { return };
        // What is lost beside the data are probes, of the packet size or of the path: that they fail says nothing about congestion.
        let is_beside_data = packet.is_mtu_probe || self.active != Some(packet.path);
        let Some(path) = self.path_mut(packet.path) else { return };
        if is_beside_data {
            return;
        }
        path.on_packet_lost(now, &packet);
    }

    /// Queues again what a packet carried.
    fn repair(&mut self, pn: PacketNumber) {
        for number in self.sent.frame_numbers(pn) {
            match self.sent.frame(number) {
                Some(SentFrame::Announcement(number)) => self.announcements.on_lost(number),
                Some(frame) => self.streams.on_frame_lost(frame),
                None => {}
            }
        }
    }

    fn on_pto(&mut self, now: Mono, id: PathId) {
        if self.is_only_mtu_probe(id) {
            // The silence says something about the size, nothing about the path.
            return self.abandon_in_flight(id);
        }
        let is_active = self.active == Some(id);
        let Some(path) = self.path_mut(id) else { return };
        path.on_pto(now);
        let count = path.pto_count;
        self.streams.events.push_back(TransportEvent::PtoExpired { path: id, count });
        if !is_active {
            // Data does not wait for a path that does not carry it any more.
            if let Some(path) = self.path_mut(id) {
                path.probes = 0;
            }
            return self.abandon_in_flight(id);
        }
        if count >= BLACK_HOLE_PTO_COUNT {
            self.suspect_black_hole(now, id);
        }
        let oldest = self.path(id).and_then(|path| path.list.oldest());
        let probed: Vec<_> = std::iter::successors(oldest, |pn| self.sent.newer(*pn)).take(PROBED_PACKETS).collect();
        probed.into_iter().for_each(|pn| self.repair(pn));
    }

    fn is_only_mtu_probe(&self, id: PathId) -> bool {
        let Some(oldest) = self.path(id).and_then(|path| path.list.oldest()) else { return false };
        self.sent.newer(oldest).is_none() && self.sent.get(oldest).is_some_and(|packet| packet.is_mtu_probe)
    }

    fn suspect_black_hole(&mut self, now: Mono, id: PathId) {
        let Some(path) = self.path_mut(id) else { return };
        if path.mtu.on_black_hole(now) {
            self.announce_mtu(id);
        }
    }

    /// A path was left because it had stopped answering. Perhaps only its long packets vanish: a short one will prove it again, and its size
    /// has to be proved again too (spec/paths.md §5).
    pub(super) fn doubt_mtu(&mut self, id: PathId) {
        let Some(path) = self.path_mut(id) else { return };
        if path.mtu.on_path_left() {
            self.announce_mtu(id);
        }
    }

    fn announce_mtu(&mut self, id: PathId) {
        let Some(path) = self.path_mut(id) else { return };
        let mtu = path.mtu.current();
        path.controller.on_mtu_update(mtu as u64);
        self.streams.events.push_back(TransportEvent::MtuProved { path: id, mtu });
    }

    /// Nothing is waited for any more once what was in flight is lost and needs no repair.
    fn settle_silence(&mut self) {
        if !self.has_packets_in_flight() && !self.streams.has_frames() && !self.announcements.has_queued() {
            self.unanswered_since = None;
        }
    }

    /// The peer is there: the clock of silence starts anew.
    fn note_answer(&mut self, now: Mono) {
        let is_waiting = self.paths.iter().any(|path| path.list.oldest().is_some());
        self.unanswered_since = is_waiting.then_some(now);
        if self.is_stalled {
            self.is_stalled = false;
            self.streams.set_stalled(false);
        }
    }
}
