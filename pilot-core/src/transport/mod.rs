//! One tunnel's packets: frames, streams, recovery and congestion control over several paths (spec/streams.md).
//!
//! The node owns one [`Transport`] for each peer, opens and seals its packets, and moves them over the paths. The transport knows
//! neither keys nor sockets nor clocks.
//!
//! ```text
//! packet in    handle_packet -> frames -> streams, received, recovery       -> poll_event
//! packet out   next_path -> poll_packet -> (the node seals) -> packet_sealed
//! time         poll_timeout -> handle_timeout
//! ```
//!
//! After each input (`handle_packet` for a batch of datagrams, `handle_timeout`, any verb of a stream) drain `poll_event` until it
//! is empty, send until `next_path` is none, then sleep until `poll_timeout`.
//!
//! Invariants, which [`Audit::check`] recomputes: the bytes in flight of a path are the sum of its packets in flight; no credit is
//! exceeded in either direction; no buffer is above its bound; no timer is left in the past.

mod announce;
mod audit;
mod config;
mod congestion;
mod early;
mod event;
mod mtu;
mod pacing;
mod packet;
mod path;
mod range_set;
mod received;
mod recovery;
mod rtt;
mod sent;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use self::announce::Announcements;
pub use self::audit::{Audit, PathAudit, StreamAudit, TimerKind, Violation};
#[cfg(feature = "sabotage")]
pub use self::config::Sabotage;
pub use self::config::{PeerLimits, TransportConfig};
pub use self::congestion::Congestion;
pub(crate) use self::early::EarlyData;
pub use self::event::{
    DatagramError, OpenStreamError, PathFrame, PathParams, PathStats, Read, ReadError, TransportError, TransportEvent,
    WriteError,
};
use self::path::Path;
use self::received::{Arrival, ReceivedPackets};
use self::sent::{SentFrame, SentPackets};
use self::streams::{FrameResult, Streams};
use crate::id::{PacketNumber, PathId, ServicePort, StreamId};
use crate::time::Mono;
use crate::wire::codec::Reader;
use crate::wire::frame::{self, Frame};
pub use crate::wire::frame::{Candidate, CandidateKind, Code, PortSet, Ports};
use crate::wire::stream_header::StreamHeader;
use crate::wire::varint;

/// Bytes that a data packet has beside its frames: header and tag (spec/wire.md §3).
pub const PACKET_OVERHEAD: usize = 13 + 16;

/// Smallest packet size of a path: what every path carries (spec/wire.md §4).
pub const PACKET_LEN_MIN: usize = crate::wire::INNER;

/// Longest unreliable message: it fits every path's packets, beside anything small.
pub const DATAGRAM_LEN_MAX: usize = 1_024;

/// Of so many packets, one is followed by a number that is never used: a peer that acknowledges blindly is found out within a few
/// windows, and one that does not has that many more gaps to report.
const PACKETS_PER_SKIP: u64 = 512;

/// Datagrams that wait to be sent: they are for what is worthless when late.
const DATAGRAMS_MAX: usize = 64;

/// One tunnel's packet-number space with its paths and streams.
///
/// Inputs: packets that the AEAD accepted and the replay window admitted, verbs of streams, time. Outputs: frames for packets to be
/// sealed, events, the next deadline. Nothing is sent before the peer's limits are known and a path is there.
#[derive(Debug)]
pub struct Transport {
    streams: Streams,
    paths: Vec<Path>,
    active: Option<PathId>,
    sent: SentPackets,
    received: ReceivedPackets,
    next_pn: u64,
    /// Early data of which nobody has said yet whether it was taken.
    early: Option<early::Written>,
    /// The last number that was left out: who acknowledges it acknowledges what it has not received (RFC 9000 §21.4).
    skipped: Option<u64>,
    /// Packets that the peer has seen marked "congestion experienced".
    peer_ce_count: u64,
    announcements: Announcements,
    datagrams: VecDeque<(ServicePort, Bytes)>,
    /// Repairable frames of the packet under construction.
    draft_frames: Vec<SentFrame>,
    /// The train that `next_path` began with may begin with a probe for a larger packet.
    may_probe_mtu: bool,
    closing: Option<(Code, String)>,
    is_closed: bool,
    /// Since when nothing was acknowledged although something is in flight on the active path.
    unanswered_since: Option<Mono>,
    is_stalled: bool,
    stalled_after: Duration,
    idle_timeout: Duration,
    packet_len_max: usize,
    congestion: Congestion,
    #[cfg(feature = "sabotage")]
    breaks_in_flight: bool,
    #[cfg(feature = "sabotage")]
    breaks_timers: bool,
    #[cfg(feature = "sabotage")]
    breaks_progress: bool,
}

impl Transport {
    /// A transport without paths. `opens_even`: this side opens the streams of even ids. With [`PeerLimits::UNKNOWN`], nothing is sent
    /// until [`set_peer_limits`](Self::set_peer_limits).
    pub fn new(config: &TransportConfig, opens_even: bool, peer: PeerLimits, _now: Mono) -> Self {
        Self {
            streams: Streams::new(config, opens_even, peer),
            paths: Vec::new(),
            active: None,
            sent: SentPackets::new(),
            received: ReceivedPackets::default(),
            next_pn: 0,
            early: None,
            skipped: None,
            peer_ce_count: 0,
            announcements: Announcements::default(),
            datagrams: VecDeque::new(),
            draft_frames: Vec::new(),
            may_probe_mtu: false,
            closing: None,
            is_closed: false,
            unanswered_since: None,
            is_stalled: false,
            stalled_after: config.stalled_after,
            idle_timeout: config.idle_timeout,
            packet_len_max: config.packet_len_max,
            congestion: config.congestion,
            #[cfg(feature = "sabotage")]
            breaks_in_flight: config.breaks(Sabotage::DoubleCountAck),
            #[cfg(feature = "sabotage")]
            breaks_timers: config.breaks(Sabotage::TimerInThePast),
            #[cfg(feature = "sabotage")]
            breaks_progress: config.breaks(Sabotage::EndlessPing),
        }
    }

    /// The handshake has told the peer's limits. Limits only rise: a lower value changes nothing.
    pub fn set_peer_limits(&mut self, peer: PeerLimits) {
        self.streams.set_peer_limits(peer);
    }

    /// Adds a path. Ids are chosen by the caller and never used again. A `max_packet` below [`PACKET_LEN_MIN`] is raised to it.
    pub fn add_path(&mut self, path: PathId, params: PathParams) {
        if self.path(path).is_none() {
            let max_packet = params.max_packet.max(PACKET_LEN_MIN);
            let probe_mtu_to = params.probe_mtu_to.map(|len| len.min(self.packet_len_max));
            let params = PathParams { max_packet, probe_mtu_to, ..params };
            // Room for what there is: most tunnels have one path, and a path half a kilobyte.
            self.paths.reserve_exact(1);
            self.paths.push(Path::new(path, params, self.congestion));
        }
    }

    /// The peer has answered over this path.
    pub fn prove_path(&mut self, path: PathId) {
        if let Some(path) = self.path_mut(path) {
            path.prove();
        }
    }

    /// Removes a path. What is in flight on it counts as lost, but not as congestion, and goes again on the active path.
    pub fn remove_path(&mut self, path: PathId) {
        self.abandon_in_flight(path);
        self.paths.retain(|kept| kept.id != path);
        self.received.on_path_removed(path);
        self.active = self.active.filter(|active| *active != path);
    }

    /// Lets data go on this path from now on. If the path before it had stopped answering, what is in flight there goes again at once.
    /// A path that was never added changes nothing.
    pub fn set_active_path(&mut self, path: PathId) {
        if self.path(path).is_none() {
            return;
        }
        let previous = self.active.replace(path).filter(|previous| *previous != path);
        if let Some(previous) = previous.and_then(|previous| self.path_mut(previous)) {
            previous.probes = 0;
            let (id, is_silent) = (previous.id, previous.pto_count > 0);
            if is_silent {
                self.abandon_in_flight(id);
                self.doubt_mtu(id);
            }
        }
    }

    /// The path that carries data.
    pub fn active_path(&self) -> Option<PathId> {
        self.active
    }

    /// What is known about a path.
    pub fn path_stats(&self, path: PathId) -> Option<PathStats> {
        self.path(path).map(Path::stats)
    }

    /// Takes the frames of a packet, after the AEAD has accepted it and the replay window has admitted it.
    ///
    /// # Errors
    /// If the peer broke the protocol: [`close`](Self::close) the tunnel with the error's code.
    pub fn handle_packet(
        &mut self,
        now: Mono,
        path: PathId,
        pn: PacketNumber,
        congestion_experienced: bool,
        payload: &[u8],
    ) -> Result<(), TransportError> {
        if self.is_closed || self.received.contains(pn) {
            return Ok(());
        }
        if pn.0 > varint::MAX {
            return Err(TransportError::Violation("packet number that no acknowledgement can name"));
        }
        let mut arrival = Arrival { congestion_experienced, len: payload.len(), ..Arrival::default() };
        let mut is_kept = true;
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            let frame = Frame::decode(&mut reader)?;
            note_arrival(&mut arrival, &frame);
            is_kept &= self.handle_frame(now, path, frame, payload.len())?.is_ok();
        }
        // What could not be kept is not acknowledged: it comes again.
        if is_kept {
            self.received.on_packet(now, path, pn, arrival);
        }
        Ok(())
    }

    /// The path that has something to send now: window, pacer, acknowledgements, probes and queued frames considered.
    /// Call it before each train of packets.
    pub fn next_path(&mut self, now: Mono) -> Option<PathId> {
        let path = self.choose_path(now)?;
        self.may_probe_mtu = self.is_mtu_probe_due(path);
        Some(path)
    }

    /// Appends the frames of one packet for `path` to `buf`, in which the caller has reserved the packet's header. They take
    /// [`segment_len`](Self::segment_len) less [`PACKET_OVERHEAD`] bytes at most. None if there is nothing to send.
    pub fn poll_packet(&mut self, now: Mono, path: PathId, buf: &mut Vec<u8>) -> Option<PacketNumber> {
        self.build_packet(now, path, buf)
    }

    /// Keeps the last eight bytes of a sealed packet while it is in flight. They tell, too, whether the next number is left out: the peer
    /// cannot know it before it has the packet.
    pub fn packet_sealed(&mut self, pn: PacketNumber, tag8: u64) {
        self.sent.set_tag(pn, tag8);
        if tag8.is_multiple_of(PACKETS_PER_SKIP) && pn.0 + 1 == self.next_pn {
            self.skipped = Some(self.next_pn);
            self.next_pn += 1;
        }
    }

    /// The number that the next packet will have.
    pub(crate) fn next_packet(&self) -> u64 {
        self.next_pn
    }

    /// A number for a packet of which nothing is kept: whether it arrives, its answer tells.
    pub(crate) fn take_number(&mut self) -> PacketNumber {
        self.next_pn += 1;
        PacketNumber(self.next_pn - 1)
    }

    /// Whether a packet of this number, or a later one, was received.
    pub(crate) fn has_received_from(&self, pn: u64) -> bool {
        self.received.largest().is_some_and(|largest| largest >= pn)
    }

    /// Whether this very packet is in flight: what a peer must name to be believed that it has lost the session.
    pub fn is_in_flight(&self, pn: PacketNumber, tag8: u64) -> bool {
        self.sent.is_in_flight(pn, tag8)
    }

    /// Length of the next packet of a train on this path, with header and tag. A shorter packet ends the train, and so does a probe for a
    /// larger size, which begins one.
    pub fn segment_len(&self, path: PathId) -> usize {
        let is_probe = self.is_mtu_probe_next(path);
        let Some(path) = self.path(path) else { return PACKET_LEN_MIN };
        path.mtu.next_probe().filter(|_| is_probe).unwrap_or_else(|| path.mtu.current())
    }

    /// Whether the next packet on this path is a probe for a larger size. It is a train of its own: a system that finds one packet of a train
    /// too long for its interface refuses the whole train.
    pub fn is_mtu_probe_next(&self, path: PathId) -> bool {
        self.may_probe_mtu && self.is_mtu_probe_due(path)
    }

    /// Bytes that pacing allows in one batch on this path: two packets or a millisecond at the rate, 64 KiB at most.
    pub fn burst_len(&self, _now: Mono, path: PathId) -> usize {
        self.path(path).map_or(0, |path| usize::try_from(path.pacer.burst_len()).unwrap_or(usize::MAX))
    }

    /// Handles the deadlines that have passed. Safe to call early, late and twice.
    pub fn handle_timeout(&mut self, now: Mono) {
        if self.is_closed {
            return;
        }
        self.note_absence(now);
        for index in 0..self.paths.len() {
            self.on_path_timeout(now, self.paths[index].id);
        }
        #[cfg(feature = "sabotage")]
        if self.breaks_timers {
            return;
        }
        self.received.handle_timeout(now);
        self.on_silence(now);
    }

    /// The next deadline. Whether something can be sent at once is for [`next_path`](Self::next_path) to say.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers().map(|(_, at)| at).min()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<TransportEvent> {
        let event = self.streams.events.pop_front();
        if event.is_none() {
            // A tunnel at rest keeps no room for them.
            self.streams.events = VecDeque::new();
        }
        event
    }

    /// Queues a frame about paths. Challenges and responses go once, on `path`; the others are reliable and go on any.
    pub fn queue_frame(&mut self, path: PathId, frame: PathFrame) {
        match frame {
            PathFrame::Challenge { .. } | PathFrame::Response { .. } => {
                if let Some(path) = self.path_mut(path) {
                    path.queue_frame(frame);
                }
            }
            PathFrame::Candidates(candidates) => self.announcements.candidates(candidates),
            PathFrame::Ports(ports) => self.announcements.ports(ports),
            PathFrame::ObservedAddress(address) => self.announcements.observed_address(address),
        }
    }

    /// Queues an unreliable message for the active path.
    ///
    /// # Errors
    /// If it is longer than [`DATAGRAM_LEN_MAX`], or too many wait.
    pub fn queue_datagram(&mut self, port: ServicePort, data: Bytes) -> Result<(), DatagramError> {
        let max = DATAGRAM_LEN_MAX;
        if data.len() > max {
            return Err(DatagramError::TooLong { len: data.len(), max });
        }
        if self.datagrams.len() >= DATAGRAMS_MAX {
            return Err(DatagramError::QueueFull);
        }
        self.datagrams.push_back((port, data));
        Ok(())
    }

    /// Sends PING on a path, to keep it open or to see whether it answers.
    pub fn ping(&mut self, path: PathId) {
        if let Some(path) = self.path_mut(path) {
            path.is_ping_queued = true;
        }
    }

    /// There is no way to the peer now, or there are no keys: what cannot even be sent waits for an answer too.
    pub fn begin_silence(&mut self, now: Mono) {
        self.unanswered_since = self.unanswered_since.or(Some(now));
    }

    /// Whether streams have waited for an answer for so long that this was reported.
    pub fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// Sends one CLOSE; after it nothing is sent, accepted or reported.
    pub fn close(&mut self, code: Code, reason: &str) {
        if !self.is_closed && self.closing.is_none() {
            self.closing = Some((code, frame::cut_reason(reason).to_owned()));
        }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// If the peer allows no more streams, the header is too long, or the tunnel is closed.
    pub fn open_stream(&mut self, header: &StreamHeader) -> Result<StreamId, OpenStreamError> {
        if self.is_closed || self.closing.is_some() {
            return Err(OpenStreamError::Closed);
        }
        let stream = self.streams.open(header)?;
        if self.is_stalled {
            self.streams.set_stalled(true);
        }
        Ok(stream)
    }

    /// Takes the front of `data` into the send buffer; returns how much. Zero means that the buffer is full: `Writable` follows.
    ///
    /// # Errors
    /// If the stream takes no data any more.
    pub fn write(&mut self, stream: StreamId, data: &mut Bytes) -> Result<usize, WriteError> {
        self.streams.write(stream, data)
    }

    /// Ends this side's direction of the stream behind the data written.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn finish(&mut self, stream: StreamId) -> Result<(), WriteError> {
        self.streams.finish(stream)
    }

    /// Ends this side's direction early; what the peer does not have is dropped.
    pub fn reset(&mut self, stream: StreamId, code: Code, reason: &str) {
        self.streams.reset(stream, code, reason);
    }

    /// Asks the peer to end its direction early; what comes is dropped.
    pub fn stop_sending(&mut self, stream: StreamId, code: Code, reason: &str) {
        self.streams.stop_sending(stream, code, reason);
    }

    /// Reads at most `max` bytes.
    ///
    /// # Errors
    /// If nothing more can be read.
    pub fn read(&mut self, stream: StreamId, max: usize) -> Result<Read, ReadError> {
        self.streams.read(stream, max)
    }

    /// Bytes by which the tunnel's window should grow, because what comes is read as fast as the path brings it. Ask after reading.
    pub fn credit_wanted(&mut self, now: Mono) -> u64 {
        let round_trip = self.active.and_then(|active| self.path_stats(active)?.rtt).unwrap_or_default();
        self.streams.credit_wanted(now, round_trip)
    }

    /// Lets the tunnel's window grow, up to its maximum. It does not shrink again.
    pub fn grant_credit(&mut self, bytes: u64) {
        self.streams.grant_credit(bytes);
    }

    /// What the window has grown by since the tunnel began.
    pub fn earned_credit(&self) -> u64 {
        self.streams.earned_credit()
    }

    /// Number of open streams, of both sides.
    pub fn open_stream_count(&self) -> usize {
        self.streams.open_count()
    }

    /// Ids of all open streams that the application has been told of, in no particular order.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.streams.ids()
    }

    /// Whether a stream is open, or anything on the active path is not yet acknowledged. Probes of other paths are no work.
    pub fn has_unfinished_work(&self) -> bool {
        let active = self.active.and_then(|active| self.path(active));
        let is_unacknowledged = active.is_some_and(|path| path.list.oldest().is_some());
        !self.is_closed && (self.open_stream_count() > 0 || is_unacknowledged || self.announcements.has_queued())
    }

    /// The books, recomputed from first principles.
    pub fn audit(&self) -> Audit {
        let unacked =
            |id| self.sent.iter().filter(|packet| packet.path == id).map(|packet| u64::from(packet.size)).sum();
        let audit_path = |path: &Path| PathAudit {
            path: path.id,
            bytes_in_flight: path.bytes_in_flight,
            unacked_bytes: unacked(path.id),
        };
        let mut audit = Audit {
            paths: self.paths.iter().map(audit_path).collect(),
            timers: self.timers().collect(),
            ..Audit::default()
        };
        self.streams.audit(&mut audit);
        audit
    }

    fn handle_frame(&mut self, now: Mono, path: PathId, frame: Frame<'_>, payload_len: usize) -> FrameResult {
        let pad = payload_len + PACKET_OVERHEAD >= PACKET_LEN_MIN;
        match frame {
            Frame::Padding | Frame::Ping => {}
            Frame::Ack(ack) => self.on_ack(now, &ack)?,
            Frame::Reset { stream, code, final_size, reason } => {
                return self.streams.on_reset(stream, code, final_size, reason);
            }
            Frame::StopSending { stream, code, reason } => return self.streams.on_stop_sending(stream, code, reason),
            Frame::Stream(data) => return self.streams.on_stream_data(data),
            Frame::MaxData(max) => self.streams.on_max_data(max),
            Frame::MaxStreamData { stream, max } => return self.streams.on_max_stream_data(stream, max),
            Frame::MaxStreams(max) => self.streams.on_max_streams(max),
            Frame::StreamDataBlocked { stream, max: _ } => return self.streams.on_stream_data_blocked(stream),
            // Credit is granted as data is read and told reliably; how often to acknowledge is this side's to choose.
            Frame::DataBlocked(_) | Frame::StreamsBlocked(_) | Frame::AckFrequency { .. } => {}
            Frame::PathChallenge(data) => self.report(path, PathFrame::Challenge { data, pad }),
            Frame::PathResponse(data) => self.report(path, PathFrame::Response { data, pad }),
            Frame::Candidates { generation, candidates } => {
                if self.announcements.is_news(generation) {
                    self.report(path, PathFrame::Candidates(candidates));
                }
            }
            Frame::Ports { generation, ports } => {
                if self.announcements.is_news_of_ports(generation) {
                    self.report(path, PathFrame::Ports(ports));
                }
            }
            Frame::ObservedAddress(address) => self.report(path, PathFrame::ObservedAddress(address)),
            Frame::Close { code, reason } => self.end(code, reason),
            Frame::Datagram { port, data } => {
                let data = Bytes::copy_from_slice(data);
                self.streams.events.push_back(TransportEvent::Datagram { port, data });
            }
        }
        Ok(Ok(()))
    }

    fn report(&mut self, path: PathId, frame: PathFrame) {
        self.streams.events.push_back(TransportEvent::Path { path, frame });
    }

    /// The tunnel is over, by the peer's word or its silence.
    fn end(&mut self, code: Code, reason: &str) {
        if !self.is_closed {
            self.is_closed = true;
            self.streams.events.push_back(TransportEvent::Closed { code, reason: reason.to_owned() });
        }
    }

    fn timers(&self) -> impl Iterator<Item = (TimerKind, Mono)> + '_ {
        let paths = self.paths.iter().filter_map(Path::timer);
        let pacing = self.pacing_release().map(|at| (TimerKind::Pacing, at));
        let ack = self.received.deadline().map(|at| (TimerKind::AckDelay, at));
        let stalled_after = Some(self.stalled_after).filter(|_| !self.is_stalled && self.open_stream_count() > 0);
        let stalled =
            self.unanswered_since.zip(stalled_after).map(|(since, after)| (TimerKind::Stalled, since + after));
        let idle = self.unanswered_since.map(|since| (TimerKind::Idle, since + self.idle_timeout));
        let all = paths.chain(pacing).chain(ack).chain(stalled).chain(idle);
        all.filter(|_| !self.is_closed)
    }

    fn has_packets_in_flight(&self) -> bool {
        self.paths.iter().any(|path| path.list.oldest().is_some())
    }

    fn path(&self, id: PathId) -> Option<&Path> {
        self.paths.iter().find(|path| path.id == id)
    }

    fn path_mut(&mut self, id: PathId) -> Option<&mut Path> {
        self.paths.iter_mut().find(|path| path.id == id)
    }

    fn active(&self) -> Option<&Path> {
        self.path(self.active?)
    }

    fn active_mut(&mut self) -> Option<&mut Path> {
        self.path_mut(self.active?)
    }
}

/// Notes what a frame means for the acknowledgement of its packet.
fn note_arrival(arrival: &mut Arrival, frame: &Frame<'_>) {
    match frame {
        Frame::Padding | Frame::Ack(_) | Frame::Close { .. } => {}
        Frame::PathChallenge(_) | Frame::PathResponse(_) => {
            (arrival.is_ack_eliciting, arrival.is_urgent) = (true, true);
        }
        Frame::Ping | Frame::Candidates { .. } | Frame::Ports { .. } | Frame::ObservedAddress(_) => {
            (arrival.is_ack_eliciting, arrival.is_urgent, arrival.carries_data) = (true, true, true);
        }
        Frame::Stream(data) => {
            (arrival.is_ack_eliciting, arrival.carries_data) = (true, true);
            arrival.is_urgent |= data.fin;
        }
        Frame::Reset { .. }
        | Frame::StopSending { .. }
        | Frame::MaxData(_)
        | Frame::MaxStreamData { .. }
        | Frame::MaxStreams(_)
        | Frame::DataBlocked(_)
        | Frame::StreamDataBlocked { .. }
        | Frame::StreamsBlocked(_)
        | Frame::AckFrequency { .. }
        | Frame::Datagram { .. } => (arrival.is_ack_eliciting, arrival.carries_data) = (true, true),
    }
}
