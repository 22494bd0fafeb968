//! What a transport keeps for each path: recovery, congestion control, pacing and packet size (RFC 9002; spec/streams.md §7).

use std::collections::VecDeque;
use std::time::Duration;

use super::audit::TimerKind;
use super::congestion::{AckedPacket, Congestion, Controller, DeliveryRate};
use super::event::{PathFrame, PathParams, PathStats};
use super::mtu::MtuDiscovery;
use super::pacing::Pacer;
use super::rtt::RttEstimator;
use super::sent::{PathList, SentPacket};
use crate::id::PathId;
use crate::time::Mono;

/// Challenges and responses that wait for a packet of the path; older ones are forgotten, a probe is repeated anyway.
const FRAMES_MAX: usize = 16;

/// Later packets of the same path after which one counts as lost (RFC 9002 §6.1.1).
const PACKET_THRESHOLD: u64 = 3;

/// Packets that a probe timeout sends (RFC 9002 §6.2.4).
const PROBE_PACKETS: u8 = 2;

/// Probe timeouts in a row from which on the first answer may tell how long the peer was not there, and not how far it is.
const SILENT_PTO_COUNT: u32 = 3;

/// One way to the peer.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) id: PathId,
    /// The peer has answered over it: it may carry more than challenges and responses.
    pub(super) is_proved: bool,
    pub(super) rtt: RttEstimator,
    pub(super) controller: Box<dyn Controller>,
    pub(super) delivery: DeliveryRate,
    pub(super) pacer: Pacer,
    pub(super) mtu: MtuDiscovery,
    pub(super) bytes_in_flight: u64,
    /// Packets in flight, oldest first.
    pub(super) list: PathList,
    next_seq: u64,
    largest_acked_seq: Option<u64>,
    /// When the oldest packet that a later one has overtaken counts as lost.
    pub(super) loss_time: Option<Mono>,
    /// When the probe timeout began to run: with the first packet in flight, the last acknowledgement, or the last timeout. A packet that is
    /// sent meanwhile does not put it off (RFC 9002 §6.2.1 would): who goes on sending notices a dead path no later than who stops.
    pto_base: Mono,
    pub(super) pto_count: u32,
    /// Packets that were sent before are no measure of the round trip: one of the two ends was not there.
    measured_from: Mono,
    /// An answer after a silence was no measure, and none has come since.
    is_unmeasured: bool,
    /// Packets that may go whatever the window says.
    pub(super) probes: u8,
    pub(super) is_ping_queued: bool,
    pub(super) frames: VecDeque<PathFrame>,
    loss_run: Option<LossRun>,
    /// The longest packets that were sent, and acknowledged, since the path was proved; searches for longer ones apart.
    longest_sent: u32,
    longest_acked: u32,
    lost_packets: u64,
    sent_packets: u64,
    sent_bytes: u64,
}

/// Packets of consecutive numbers in the path, all of them lost (RFC 9002 §7.6.2).
#[derive(Clone, Copy, Debug)]
struct LossRun {
    first_sent_at: Mono,
    last_seq: u64,
}

impl Path {
    pub(super) fn new(id: PathId, params: PathParams, congestion: Congestion) -> Self {
        let mtu = params.max_packet as u64;
        Self {
            id,
            is_proved: params.is_proved,
            rtt: RttEstimator::new(params.initial_rtt),
            controller: congestion.controller(mtu),
            delivery: DeliveryRate::default(),
            pacer: Pacer::new(mtu),
            mtu: MtuDiscovery::new(params.max_packet, params.probe_mtu_to),
            bytes_in_flight: 0,
            list: PathList::default(),
            next_seq: 0,
            largest_acked_seq: None,
            loss_time: None,
            pto_base: Mono(0),
            pto_count: 0,
            measured_from: Mono(0),
            is_unmeasured: false,
            probes: 0,
            is_ping_queued: false,
            frames: VecDeque::new(),
            loss_run: None,
            longest_sent: 0,
            longest_acked: 0,
            lost_packets: 0,
            sent_packets: 0,
            sent_bytes: 0,
        }
    }

    /// The peer has answered over it: probe timeouts before that are no evidence against it any more.
    pub(super) fn prove(&mut self) {
        self.is_proved = true;
        (self.pto_count, self.longest_sent, self.longest_acked) = (0, 0, 0);
    }

    /// Queues a challenge or a response.
    pub(super) fn queue_frame(&mut self, frame: PathFrame) {
        if self.frames.len() == FRAMES_MAX {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
    }

    /// Whether the window and the pacer let another packet of data go.
    pub(super) fn may_send_data(&self) -> bool {
        self.probes > 0 || (self.has_window() && self.pacer.can_send())
    }

    /// Whether the window lets another packet go. Data does not wait for a probe of the packet size, which may be larger than the window.
    pub(super) fn has_window(&self) -> bool {
        self.bytes_in_flight.saturating_sub(self.mtu.len_in_flight()) < self.controller.window()
    }

    /// Lets the pacer know whether there is data, and room for it.
    pub(super) fn note_backlog(&mut self, has_data: bool) {
        self.pacer.note_backlog(has_data && self.has_window());
    }

    /// Fills the pacer's bucket.
    pub(super) fn refill_pacer(&mut self, now: Mono) {
        let rate = self.controller.pacing_rate(&self.rtt);
        self.pacer.refill(now, rate, self.mtu.current() as u64);
    }

    /// Counts a packet, whatever it carries.
    pub(super) fn count_sent(&mut self, size: u64) {
        self.sent_packets += 1;
        self.sent_bytes += size;
    }

    /// Sends an ack-eliciting packet; returns it with what is to be known of it when it is acknowledged or lost.
    pub(super) fn depart(&mut self, now: Mono, mut packet: SentPacket) -> SentPacket {
        let size = u64::from(packet.size);
        self.controller.on_packet_sent(now, self.bytes_in_flight);
        packet.departure = self.delivery.on_packet_sent(now, self.bytes_in_flight, size);
        packet.path_seq = self.next_seq;
        if self.bytes_in_flight == 0 {
            self.pto_base = now;
        }
        self.bytes_in_flight += size;
        self.probes = self.probes.saturating_sub(1);
        // A probe of the packet size goes alone, once in a round trip, and may be longer than the rate has tokens for in seconds.
        if !packet.is_mtu_probe {
            self.pacer.on_packet_sent(size);
            self.longest_sent = self.longest_sent.max(packet.size);
        }
        self.next_seq += 1;
        packet
    }

    /// A packet left the flight, acknowledged or lost.
    pub(super) fn on_packet_gone(&mut self, packet: &SentPacket) {
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(u64::from(packet.size));
    }

    /// A packet was acknowledged. `in_flight_before`: on the active path, before the ACK came.
    pub(super) fn on_packet_acked(&mut self, now: Mono, packet: &SentPacket, in_flight_before: u64) {
        self.pto_base = now;
        self.note_silence(now);
        self.largest_acked_seq = self.largest_acked_seq.max(Some(packet.path_seq));
        self.pto_count = 0;
        self.probes = 0;
        self.mtu.on_answer(now);
        if !packet.is_mtu_probe {
            self.longest_acked = self.longest_acked.max(packet.size);
        }
        let bytes = u64::from(packet.size);
        self.delivery.on_packet_acked(now, packet.path_seq, packet.sent_at, packet.departure, bytes);
        // RFC 9002 §7.8: a window of which not even half was used is not the bottleneck.
        let app_limited = in_flight_before < self.controller.window() / 2;
        let acked = AckedPacket { sent_at: packet.sent_at, bytes, app_limited };
        self.controller.on_packet_acked(now, acked, &self.rtt);
    }

    /// Nobody was here: what was sent before says nothing of the round trip, for its acknowledgement may have waited.
    pub(super) fn forget_unmeasured(&mut self, now: Mono) {
        self.measured_from = now;
    }

    /// Who answers after some probe timeouts may have slept, with our packet in its socket. A path that has become so long shows it with the
    /// next, which is sent now.
    fn note_silence(&mut self, now: Mono) {
        if self.pto_count >= SILENT_PTO_COUNT && !self.is_unmeasured {
            (self.measured_from, self.is_unmeasured) = (now, true);
            self.is_ping_queued = true;
        }
    }

    /// Takes the time to the acknowledgement of a packet for a round trip, if it is one.
    pub(super) fn measure(&mut self, now: Mono, sent_at: Mono, ack_delay: Duration) {
        if sent_at >= self.measured_from {
            self.is_unmeasured = false;
            self.rtt.update(now.since(sent_at), ack_delay);
        }
    }

    /// An ACK has been taken in, with the losses that it showed.
    pub(super) fn on_ack_taken(&mut self, now: Mono) {
        if let Some(sample) = self.delivery.take_sample(now, self.bytes_in_flight, self.rtt.min()) {
            self.controller.on_delivery(now, &sample);
        }
    }

    /// When a packet that a later one of this path has overtaken is lost; none if none has. At once: the packet threshold.
    pub(super) fn lost_at(&self, packet: &SentPacket) -> Option<Mono> {
        let largest = self.largest_acked_seq.filter(|largest| *largest > packet.path_seq)?;
        let is_over_threshold = largest - packet.path_seq >= PACKET_THRESHOLD;
        Some(if is_over_threshold { packet.sent_at } else { packet.sent_at + self.rtt.loss_delay() })
    }

    /// A packet was lost.
    pub(super) fn on_packet_lost(&mut self, now: Mono, packet: &SentPacket) {
        self.lost_packets += 1;
        self.delivery.on_packet_lost(u64::from(packet.size));
        let is_persistent = self.is_persistent(packet);
        self.controller.on_packet_lost(now, packet.sent_at);
        if is_persistent {
            self.controller.on_persistent_congestion();
        }
    }

    /// Whether a loss ends a long run of them (RFC 9002 §7.6).
    fn is_persistent(&mut self, packet: &SentPacket) -> bool {
        let run = match self.loss_run {
            Some(run) if run.last_seq + 1 == packet.path_seq => LossRun { last_seq: packet.path_seq, ..run },
            Some(_) | None => LossRun { first_sent_at: packet.sent_at, last_seq: packet.path_seq },
        };
        self.loss_run = Some(run);
        self.rtt.measured().is_some() && packet.sent_at.since(run.first_sent_at) >= self.rtt.persistent_congestion()
    }

    /// A probe timeout has passed.
    pub(super) fn on_pto(&mut self, now: Mono) {
        self.pto_count += 1;
        self.probes = PROBE_PACKETS;
        self.pto_base = now;
    }

    /// The timer that runs for this path's packets (RFC 9002 §A.8).
    pub(super) fn timer(&self) -> Option<(TimerKind, Mono)> {
        if let Some(loss_time) = self.loss_time {
            return Some((TimerKind::Loss, loss_time));
        }
        self.list.oldest().map(|_| (TimerKind::Pto, self.pto_base + self.rtt.pto(self.pto_count)))
    }

    pub(super) fn stats(&self) -> PathStats {
        let measured = self.rtt.measured();
        PathStats {
            rtt: measured.map(|(_, smoothed)| smoothed),
            min_rtt: measured.map(|(min, _)| min),
            cwnd: self.controller.window(),
            bytes_in_flight: self.bytes_in_flight,
            mtu: self.mtu.current(),
            carries_probes_only: self.longest_acked < self.longest_sent / 2,
            pto_count: self.pto_count,
            lost_packets: self.lost_packets,
            sent_packets: self.sent_packets,
            sent_bytes: self.sent_bytes,
        }
    }
}
