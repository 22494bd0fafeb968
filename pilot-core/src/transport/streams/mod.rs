//! All streams of a tunnel: their table, who may open them, and the credit of the tunnel (spec/streams.md §2 to §5).
//!
//! The parts: `frames_in` (what the peer's frames do), `credit` (how the window grows), `frames_out` (whose turn it is to send, and what becomes of it), `send` and `receive`
//! (the two directions of one stream), `assembler` (data that came out of order), `resting` (streams that have nothing to do).

mod assembler;
mod credit;
mod frames_in;
mod frames_out;
mod receive;
mod resting;
mod send;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use bytes::Bytes;

use self::assembler::Chunks;
use self::credit::Window;
use self::receive::ReceiveStream;
use self::resting::Slot;
use self::send::{Delivery, SendStream};
use super::audit::StreamAudit;
use super::config::{PeerLimits, TransportConfig};
use super::early::EARLY_STREAMS;
use super::event::{OpenStreamError, Read, ReadError, TransportError, TransportEvent, WriteError};
use super::range_set::RangeSet;
use super::sent::StreamKey;
use crate::id::StreamId;
use crate::time::Mono;
use crate::wire::frame::{self, Code};
use crate::wire::stream_header::{STREAM_HEADER_LEN_MAX, StreamHeader};

/// Streams that may be opened before the handshake has told the peer's limit. They wait if the limit turns out to be lower.
const STREAMS_BEFORE_HANDSHAKE: u64 = 64;

/// Credit that one stretch of data beyond a gap stands for: a packet of the smallest size carries more, so a sender that fills
/// its packets never meets the bound.
const CREDIT_PER_GAP: u64 = 1_024;

/// Length field and body of the longest stream header.
const HEADER_PEEK_LEN: usize = 2 + STREAM_HEADER_LEN_MAX;

/// The data could not be kept: its packet must not be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotKept;

/// What became of a frame that names a stream.
pub(super) type FrameResult = Result<Result<(), NotKept>, TransportError>;

/// One stream.
#[derive(Debug)]
struct Stream {
    id: u64,
    urgency: u8,
    /// Its opener, this side, allows that its data be a replay.
    is_replay_safe: bool,
    /// The peer opened it and its header has not been read.
    awaits_header: bool,
    send: SendStream,
    receive: ReceiveStream,
    /// It stands in a queue of `ready`.
    is_queued: bool,
    /// It stands in `credit_blocked`; what is lost meanwhile needs no credit and queues it all the same.
    is_credit_blocked: bool,
    /// It stands in `control`.
    has_control: bool,
    is_stalled: bool,
    /// It stands in `dozing`.
    is_dozing: bool,
}

/// All streams of a tunnel, and the events of the tunnel in the order they happened.
#[derive(Debug)]
pub(super) struct Streams {
    config: TransportConfig,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Streams that were idle and are awake still, the first of them first.
    dozing: VecDeque<u32>,
    by_id: HashMap<u64, u32, BuildHasherDefault<IdHasher>>,
    /// Lowest bit of the ids that this side opens.
    local_bit: u64,
    local_opened: u64,
    local_max: u64,
    peer_limits_known: bool,
    initial_max_stream_data: u64,
    /// Peer's streams below this count were opened, or are `unseen`.
    peer_opened: u64,
    /// Peer's streams overtaken by later ones.
    unseen: RangeSet,
    peer_closed: u64,
    peer_max: u64,
    max_streams_update: Delivery,
    ready: [VecDeque<u32>; 8],
    credit_blocked: VecDeque<u32>,
    control: VecDeque<u32>,
    data_sent: u64,
    data_sent_max: u64,
    data_received: u64,
    data_received_max: u64,
    data_read: u64,
    window: Window,
    max_data_update: Delivery,
    gap_chunks: usize,
    chunks: Chunks,
    /// Data of streams that are closed, sent and received.
    retired_sent: u64,
    retired_received: u64,
    pub(super) events: VecDeque<TransportEvent>,
}

impl Streams {
    pub(super) fn new(config: &TransportConfig, opens_even: bool, peer: PeerLimits) -> Self {
        let mut streams = Self {
            config: config.clone(),
            slots: Vec::new(),
            free: Vec::new(),
            dozing: VecDeque::new(),
            by_id: HashMap::default(),
            local_bit: u64::from(!opens_even),
            local_opened: 0,
            local_max: 0,
            peer_limits_known: false,
            initial_max_stream_data: 0,
            peer_opened: 0,
            unseen: RangeSet::default(),
            peer_closed: 0,
            peer_max: config.max_streams,
            max_streams_update: Delivery::None,
            ready: Default::default(),
            credit_blocked: VecDeque::new(),
            control: VecDeque::new(),
            data_sent: 0,
            data_sent_max: 0,
            data_received: 0,
            data_received_max: config.first_window(),
            data_read: 0,
            window: Window::new(config.first_window(), config.tunnel_window),
            max_data_update: Delivery::None,
            gap_chunks: 0,
            chunks: Chunks::default(),
            retired_sent: 0,
            retired_received: 0,
            events: VecDeque::new(),
        };
        if peer != PeerLimits::UNKNOWN {
            streams.set_peer_limits(peer);
        }
        streams
    }

    /// The handshake has told the peer's limits. They only ever rise.
    pub(super) fn set_peer_limits(&mut self, peer: PeerLimits) {
        self.peer_limits_known = true;
        self.initial_max_stream_data = self.initial_max_stream_data.max(peer.max_stream_data);
        self.slots.iter_mut().for_each(|slot| slot.set_max_data(peer.max_stream_data));
        self.on_max_streams(peer.max_streams);
        self.on_max_data(peer.max_data);
        self.schedule_all();
    }

    pub(super) fn peer_limits_known(&self) -> bool {
        self.peer_limits_known
    }

    pub(super) fn open(&mut self, header: &StreamHeader) -> Result<StreamId, OpenStreamError> {
        let limit = if self.peer_limits_known { self.local_max } else { STREAMS_BEFORE_HANDSHAKE };
        if self.local_opened >= limit {
            return Err(OpenStreamError::Limit);
        }
        let mut bytes = Vec::new();
        header.encode(&mut bytes).map_err(|_| OpenStreamError::Header)?;
        let id = self.local_opened << 1 | self.local_bit;
        self.local_opened += 1;
        let slot = self.insert(id, false);
        if let Some(stream) = self.stream_mut(slot) {
            stream.urgency = header.urgency;
            stream.is_replay_safe = header.replay_safe;
            stream.send.push(Bytes::from(bytes));
        }
        self.schedule(slot);
        Ok(StreamId(id))
    }

    pub(super) fn write(&mut self, id: StreamId, data: &mut Bytes) -> Result<usize, WriteError> {
        let slot = self.slot_of(id).ok_or(WriteError::UnknownStream)?;
        let stream = self.writable(slot)?;
        let taken = stream.send.write(data);
        self.schedule(slot);
        Ok(taken)
    }

    pub(super) fn finish(&mut self, id: StreamId) -> Result<(), WriteError> {
        let slot = self.slot_of(id).ok_or(WriteError::UnknownStream)?;
        self.writable(slot)?.send.finish();
        self.schedule(slot);
        Ok(())
    }

    pub(super) fn reset(&mut self, id: StreamId, code: Code, reason: &str) {
        if let Some(slot) = self.slot_of(id) {
            self.reset_slot(slot, code, reason);
        }
    }

    pub(super) fn stop_sending(&mut self, id: StreamId, code: Code, reason: &str) {
        if let Some(slot) = self.slot_of(id) {
            self.stop_slot(slot, code, reason);
            self.retire_if_over(slot);
        }
    }

    pub(super) fn read(&mut self, id: StreamId, max: usize) -> Result<Read, ReadError> {
        let slot = self.slot_of(id).ok_or(ReadError::UnknownStream)?;
        let read = self.read_slot(slot, max);
        self.doze(slot);
        read
    }

    fn read_slot(&mut self, slot: u32, max: usize) -> Result<Read, ReadError> {
        let Some(stream) = self.stream_mut(slot) else { return Err(ReadError::UnknownStream) };
        let receive = &mut stream.receive;
        if let Some((code, reason)) = &receive.reset {
            return Err(ReadError::Reset { code: *code, reason: reason.clone() });
        }
        if receive.stop != Delivery::None {
            return Err(ReadError::Stopped);
        }
        if max == 0 || stream.awaits_header {
            return Ok(Read::Blocked);
        }
        if let Some(data) = receive.data.read(max) {
            self.on_read(slot, data.len() as u64);
            return Ok(Read::Data(data));
        }
        if receive.is_at_end() {
            receive.is_read_to_end = true;
            self.retire_if_over(slot);
            return Ok(Read::Finished);
        }
        receive.reader_waits = true;
        Ok(Read::Blocked)
    }

    /// How much the window is to grow by what was read since.
    pub(super) fn credit_wanted(&mut self, now: Mono, round_trip: Duration) -> u64 {
        self.window.wanted(now, round_trip, self.data_read)
    }

    pub(super) fn grant_credit(&mut self, bytes: u64) {
        self.window.grow(bytes);
        self.update_max_data();
    }

    pub(super) fn earned_credit(&self) -> u64 {
        self.window.earned()
    }

    /// Tells every open stream that nothing is answered, or again is.
    pub(super) fn set_stalled(&mut self, is_stalled: bool) {
        for slot in &mut self.slots {
            let (id, was_stalled) = match slot {
                Slot::Resting(stream) => (stream.id, &mut stream.is_stalled),
                Slot::Awake(stream) if !stream.awaits_header => (stream.id, &mut stream.is_stalled),
                Slot::Awake(_) | Slot::Free => continue,
            };
            if std::mem::replace(was_stalled, is_stalled) != is_stalled {
                let id = StreamId(id);
                self.events.push_back(if is_stalled {
                    TransportEvent::Stalled(id)
                } else {
                    TransportEvent::Resumed(id)
                });
            }
        }
    }

    pub(super) fn open_count(&self) -> usize {
        self.by_id.len()
    }

    /// Those that were opened here or reported as opened: one that awaits its header has never been told of.
    pub(super) fn ids(&self) -> impl Iterator<Item = StreamId> + '_ {
        let id = |slot: &Slot| match slot {
            Slot::Resting(stream) => Some(StreamId(stream.id)),
            Slot::Awake(stream) => (!stream.awaits_header).then_some(StreamId(stream.id)),
            Slot::Free => None,
        };
        self.slots.iter().filter_map(id)
    }

    /// Fills in what the audit wants to know about streams.
    pub(super) fn audit(&self, audit: &mut super::Audit) {
        debug_assert!(self.idle_streams_doze(), "an idle stream that keeps its buffers");
        let audit_slot = |slot: &Slot| match slot {
            Slot::Resting(stream) => Some(self.audit_stream(&stream.wake(&self.config))),
            Slot::Awake(stream) => Some(self.audit_stream(stream)),
            Slot::Free => None,
        };
        audit.streams = self.slots.iter().filter_map(audit_slot).collect();
        (audit.data_sent, audit.data_sent_max) = (self.data_sent, self.data_sent_max);
        (audit.data_received, audit.data_received_max) = (self.data_received, self.data_received_max);
        (audit.data_kept_max, audit.window) =
            (self.data_received_max - self.data_read.min(self.data_received_max), self.window.size());
        audit.data_sent_recount = self.retired_sent + audit.streams.iter().map(|stream| stream.sent).sum::<u64>();
        audit.data_received_recount =
            self.retired_received + audit.streams.iter().map(|stream| stream.received).sum::<u64>();
        audit.gap_chunks =
            self.slots.iter().filter_map(Slot::awake).map(|stream| stream.receive.data.gap_chunks()).sum();
        audit.gap_chunks_max = self.gap_chunks_max();
    }

    fn audit_stream(&self, stream: &Stream) -> StreamAudit {
        StreamAudit {
            stream: StreamId(stream.id),
            sent: stream.send.sent(),
            sent_max: stream.send.max_data(),
            send_buffered: stream.send.buffered(),
            send_buffered_max: self.config.send_buffer + HEADER_PEEK_LEN,
            received: stream.receive.highest(),
            received_max: stream.receive.max_data(),
            receive_buffered: stream.receive.data.len(),
            read: stream.receive.data.read_offset(),
        }
    }

    fn insert(&mut self, id: u64, awaits_header: bool) -> u32 {
        let send = SendStream::new(self.initial_max_stream_data, &self.config);
        let receive = ReceiveStream::new(self.config.stream_window_in(self.config.first_window()));
        let stream = Stream { awaits_header, ..Stream::new(id, send, receive) };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                // By a quarter, where Vec itself doubles: with thousands of streams the table is most of what they cost.
                if self.slots.len() == self.slots.capacity() {
                    self.slots.reserve_exact(self.slots.len() / 4 + 1);
                }
                self.slots.push(Slot::Free);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.slots[slot as usize] = Slot::Awake(Box::new(stream));
        self.by_id.insert(id, slot);
        slot
    }

    /// Whether every open stream was opened here, nothing was sent of any, and any peer grants as many.
    pub(super) fn only_wait(&self) -> bool {
        let waits = |slot: &Slot| match slot {
            Slot::Free => true,
            Slot::Resting(_) => false,
            Slot::Awake(stream) => stream.id & 1 == self.local_bit && stream.send.sent() == 0,
        };
        self.local_opened <= EARLY_STREAMS && self.slots.iter().all(waits)
    }

    /// Takes over streams that only wait, or of which early data was sent, from another table. Nothing was opened in this one.
    pub(super) fn adopt(&mut self, mut waiting: Self) {
        self.local_opened = waiting.local_opened;
        for mut stream in waiting.slots.drain(..).filter_map(|slot| slot.into_stream(&waiting.config)) {
            let slot = self.insert(stream.id, false);
            (stream.is_queued, stream.is_credit_blocked, stream.has_control) = (false, false, false);
            stream.is_dozing = false;
            stream.send.restart_credit(self.initial_max_stream_data);
            self.data_sent += stream.send.sent();
            self.slots[slot as usize] = Slot::Awake(stream);
            self.doze(slot);
        }
        self.events.append(&mut waiting.events);
        self.schedule_all();
    }

    fn keyed_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.stream_mut(key.slot).filter(|stream| stream.id == key.id)
    }

    /// Changes a stream, if it still is the same, and lets it tell what it then has to.
    fn update_keyed(&mut self, key: StreamKey, change: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.keyed_mut(key) {
            change(stream);
            self.schedule_control(key.slot);
        }
    }

    fn slot_of(&self, id: StreamId) -> Option<u32> {
        self.by_id.get(&id.0).copied()
    }

    fn writable(&mut self, slot: u32) -> Result<&mut Stream, WriteError> {
        let stream = self.stream_mut(slot).ok_or(WriteError::UnknownStream)?;
        match &stream.send.reset_reason {
            Some((code, reason)) if stream.send.is_stopped => {
                Err(WriteError::Stopped { code: *code, reason: reason.clone() })
            }
            Some(_) => Err(WriteError::Finished),
            None if stream.send.is_finished() => Err(WriteError::Finished),
            None => Ok(stream),
        }
    }

    fn on_read(&mut self, slot: u32, len: u64) {
        self.data_read += len;
        let window = self.config.stream_window_in(self.window.size());
        if let Some(stream) = self.stream_mut(slot) {
            stream.receive.update_max_data(window);
        }
        self.schedule_control(slot);
        self.update_max_data();
    }

    /// As [`ReceiveStream::update_max_data`], for the tunnel.
    fn update_max_data(&mut self) {
        let max = self.data_read + self.window.size();
        if max - self.data_received_max.min(max) >= (self.window.size() / 8).max(1) {
            self.data_received_max = max;
            self.max_data_update = Delivery::Queued;
        }
    }

    /// Nobody will read this stream: its data counts as read.
    fn discard(&mut self, slot: u32) {
        let Some(stream) = self.stream_mut(slot) else { return };
        let gap_chunks = stream.receive.data.gap_chunks();
        let held_to = stream.receive.highest();
        let unread = held_to - stream.receive.discarded_to();
        stream.receive.discard();
        self.gap_chunks -= gap_chunks;
        self.data_read += unread;
        self.update_max_data();
    }

    fn reset_slot(&mut self, slot: u32, code: Code, reason: &str) {
        if let Some(stream) = self.stream_mut(slot) {
            stream.send.reset(code, reason);
            self.schedule_control(slot);
            self.retire_if_over(slot);
        }
    }

    fn stop_slot(&mut self, slot: u32, code: Code, reason: &str) {
        let Some(stream) = self.stream_mut(slot) else { return };
        if stream.receive.is_over() || stream.receive.stop != Delivery::None {
            return;
        }
        // There is nobody left to ask if everything has come already.
        stream.receive.stop = if stream.receive.is_complete() { Delivery::Acked } else { Delivery::Queued };
        stream.receive.stop_reason = Some((code, frame::cut_reason(reason).to_owned()));
        self.discard(slot);
        self.schedule_control(slot);
    }

    /// Forgets a stream of which both directions are over.
    fn retire_if_over(&mut self, slot: u32) {
        let Some(stream) = self.stream_mut(slot).filter(|stream| stream.send.is_over() && stream.receive.is_over())
        else {
            return;
        };
        let (id, is_known) = (stream.id, !stream.awaits_header);
        self.discard(slot);
        let Slot::Awake(stream) = std::mem::take(&mut self.slots[slot as usize]) else { return };
        if stream.is_dozing {
            self.dozing.retain(|dozing| *dozing != slot);
        }
        self.retired_sent += stream.send.sent();
        self.retired_received += stream.receive.highest();
        self.by_id.remove(&id);
        self.free.push(slot);
        if self.by_id.is_empty() {
            self.chunks.clear();
        }
        if id & 1 != self.local_bit {
            self.on_peer_stream_closed();
        }
        if is_known {
            self.events.push_back(TransportEvent::StreamClosed(StreamId(id)));
        }
    }

    /// Lets the peer open another stream, and says so in batches of a quarter of the limit.
    fn on_peer_stream_closed(&mut self) {
        self.peer_closed += 1;
        let max = self.peer_closed + self.config.max_streams;
        if max - self.peer_max >= (self.config.max_streams / 4).max(1) {
            self.peer_max = max;
            self.max_streams_update = Delivery::Queued;
        }
    }

    fn gap_chunks_max(&self) -> usize {
        usize::try_from((self.window.size() / CREDIT_PER_GAP).max(1)).unwrap_or(usize::MAX)
    }
}

impl Stream {
    fn new(id: u64, send: SendStream, receive: ReceiveStream) -> Self {
        Self {
            id,
            urgency: StreamHeader::URGENCY_DEFAULT,
            is_replay_safe: false,
            awaits_header: false,
            send,
            receive,
            is_queued: false,
            is_credit_blocked: false,
            has_control: false,
            is_stalled: false,
            is_dozing: false,
        }
    }
}

/// Spreads stream ids over a table. There are never more of them than the stream limits allow, so no secret is needed.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        // 2^64 divided by the golden ratio; the fold brings the well mixed upper half down.
        let product = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ product >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
