//! All streams of a tunnel: who may open them, credit, and whose turn it is to send (spec/streams.md §2 to §5).

mod assembler;
mod receive;
mod send;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;

use self::receive::ReceiveStream;
use self::send::{Delivery, NotWritten, SendStream};
use super::audit::StreamAudit;
use super::config::{PeerLimits, TransportConfig};
use super::event::{OpenStreamError, Read, ReadError, TransportError, TransportEvent, WriteError};
use super::range_set::RangeSet;
use super::sent::{SentFrame, StreamKey};
use crate::id::StreamId;
use crate::wire::frame::{self, Code, StreamData};
use crate::wire::stream_header::{STREAM_HEADER_LEN_MAX, StreamHeader};

/// Streams that may be opened before the handshake has told the peer's limit. They wait if the limit turns out to be lower.
const STREAMS_BEFORE_HANDSHAKE: u64 = 64;

/// Credit that one stretch of data beyond a gap stands for: a packet of the smallest size carries more, so a sender that fills
/// its packets never meets the bound.
const CREDIT_PER_GAP: u64 = 1_024;

/// STOP_SENDING at its longest.
const STOP_SENDING_LEN_MAX: usize = 1 + 8 + 8 + 2 + frame::REASON_LEN_MAX;

/// MAX_STREAM_DATA, MAX_DATA or MAX_STREAMS at its longest.
const CREDIT_FRAME_LEN_MAX: usize = 1 + 8 + 8;

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
}

/// All streams of a tunnel, and the events of the tunnel in the order they happened.
#[derive(Debug)]
pub(super) struct Streams {
    config: TransportConfig,
    slots: Vec<Option<Stream>>,
    free: Vec<u32>,
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
    max_data_update: Delivery,
    gap_chunks: usize,
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
            data_received_max: config.tunnel_window,
            data_read: 0,
            max_data_update: Delivery::None,
            gap_chunks: 0,
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
        for slot in 0..self.slots.len() {
            if let Some(stream) = &mut self.slots[slot] {
                stream.send.set_max_data(peer.max_stream_data);
            }
        }
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

    pub(super) fn on_stream_data(&mut self, data: StreamData<'_>) -> FrameResult {
        let Some(slot) = self.slot_for_frame(data.stream)? else { return Ok(Ok(())) };
        self.note_received(slot, data.offset + data.data.len() as u64, data.fin)?;
        let kept = self.insert_data(slot, data);
        self.on_progress(slot);
        Ok(kept)
    }

    pub(super) fn on_reset(&mut self, id: u64, code: Code, final_size: u64, reason: &str) -> FrameResult {
        let Some(slot) = self.slot_for_frame(id)? else { return Ok(Ok(())) };
        let Some(stream) = self.stream_mut(slot) else { return Ok(Ok(())) };
        // Once everything is here the reset comes too late to matter (RFC 9000 §3.2, "Data Recvd").
        let is_late = stream.receive.reset.is_some() || (stream.receive.is_complete() && !stream.receive.discards());
        self.note_received(slot, final_size, true)?;
        let Some(stream) = self.stream_mut(slot).filter(|_| !is_late) else { return Ok(Ok(())) };
        stream.receive.reset = Some((code, reason.to_owned()));
        let (is_known, is_stopped) = (!stream.awaits_header, stream.receive.stop != Delivery::None);
        self.discard(slot);
        if !is_known {
            self.reset_slot(slot, code, "");
        } else if !is_stopped {
            self.events.push_back(TransportEvent::Reset { stream: StreamId(id), code, reason: reason.to_owned() });
        }
        self.retire_if_over(slot);
        Ok(Ok(()))
    }

    pub(super) fn on_stop_sending(&mut self, id: u64, code: Code, reason: &str) -> FrameResult {
        let Some(slot) = self.slot_for_frame(id)? else { return Ok(Ok(())) };
        let Some(stream) = self.stream_mut(slot) else { return Ok(Ok(())) };
        let is_news = !stream.send.is_stopped && !stream.send.is_over();
        stream.send.is_stopped = true;
        let is_known = !stream.awaits_header;
        if is_news {
            self.reset_slot(slot, code, reason);
        }
        if is_news && is_known {
            self.events.push_back(TransportEvent::StopSending {
                stream: StreamId(id),
                code,
                reason: reason.to_owned(),
            });
        }
        Ok(Ok(()))
    }

    pub(super) fn on_max_data(&mut self, max: u64) {
        if max > self.data_sent_max {
            self.data_sent_max = max;
            while let Some(slot) = self.credit_blocked.pop_front() {
                if let Some(stream) = self.stream_mut(slot) {
                    stream.is_credit_blocked = false;
                }
                self.schedule(slot);
            }
        }
    }

    pub(super) fn on_max_stream_data(&mut self, id: u64, max: u64) -> FrameResult {
        let Some(slot) = self.slot_for_frame(id)? else { return Ok(Ok(())) };
        if self.stream_mut(slot).is_some_and(|stream| stream.send.set_max_data(max)) {
            self.schedule(slot);
        }
        Ok(Ok(()))
    }

    pub(super) fn on_max_streams(&mut self, max: u64) {
        if max > self.local_max {
            self.local_max = max;
            self.schedule_all();
        }
    }

    /// A frame that only tells about a stream: checks that it may exist.
    pub(super) fn on_stream_data_blocked(&mut self, id: u64) -> FrameResult {
        self.slot_for_frame(id).map(|_| Ok(()))
    }

    /// Appends frames of streams to a packet that may grow up to `end`, and notes them in `sent`.
    pub(super) fn write_frames(&mut self, buf: &mut Vec<u8>, end: usize, sent: &mut Vec<SentFrame>) {
        self.write_credit(buf, end, sent);
        self.write_control(buf, end, sent);
        self.write_data(buf, end, sent);
    }

    /// Takes out of the queues what has nothing to send any more, or no credit, so that a queue with an entry means a frame.
    pub(super) fn settle_queues(&mut self) {
        let credit = self.send_credit();
        for urgency in 0..self.ready.len() {
            while let Some(slot) = self.ready[urgency].front().copied() {
                let Some(stream) = self.slots[slot as usize].as_mut() else {
                    self.ready[urgency].pop_front();
                    continue;
                };
                match stream.send.can_write(credit) {
                    Ok(()) => break,
                    Err(NotWritten::NoTunnelCredit) if !stream.is_credit_blocked => {
                        stream.is_credit_blocked = true;
                        self.credit_blocked.push_back(slot);
                    }
                    Err(NotWritten::NoTunnelCredit | NotWritten::Nothing | NotWritten::NoRoom) => {}
                }
                stream.is_queued = false;
                self.ready[urgency].pop_front();
            }
        }
        while let Some(slot) = self.control.front().copied() {
            match self.stream_mut(slot) {
                Some(stream) if stream.has_control_frames() => break,
                Some(stream) => stream.has_control = false,
                None => {}
            }
            self.control.pop_front();
        }
    }

    /// Whether `write_frames` has something to write.
    pub(super) fn has_frames(&self) -> bool {
        self.max_data_update == Delivery::Queued
            || self.max_streams_update == Delivery::Queued
            || !self.control.is_empty()
            || self.has_data()
    }

    /// Whether stream data waits for its turn.
    pub(super) fn has_data(&self) -> bool {
        self.ready.iter().any(|queue| !queue.is_empty())
    }

    /// The peer has this frame.
    pub(super) fn on_frame_acked(&mut self, frame: SentFrame) {
        match frame {
            SentFrame::Stream { key, offset, len, fin } => self.on_data_acked(key, offset, len, fin),
            SentFrame::Reset(key) => {
                if let Some(stream) = self.keyed_mut(key) {
                    stream.send.on_reset_acked();
                    self.retire_if_over(key.slot);
                }
            }
            SentFrame::StopSending(key) => self.update_keyed(key, |stream| stream.receive.stop = Delivery::Acked),
            SentFrame::MaxStreamData(_)
            | SentFrame::MaxData
            | SentFrame::MaxStreams
            | SentFrame::Ack(_)
            | SentFrame::Announcement(_) => {}
        }
    }

    /// The frame was lost, or is to be sent again to be sure.
    pub(super) fn on_frame_lost(&mut self, frame: SentFrame) {
        match frame {
            SentFrame::Stream { key, offset, len, fin } => {
                self.update_keyed(key, |stream| stream.send.on_lost(offset, len, fin));
                self.schedule(key.slot);
            }
            SentFrame::Reset(key) => self.update_keyed(key, |stream| stream.send.on_reset_lost()),
            SentFrame::StopSending(key) => self.update_keyed(key, |stream| stream.receive.stop.on_lost()),
            SentFrame::MaxStreamData(key) => self.update_keyed(key, |stream| stream.receive.max_data_update.on_lost()),
            SentFrame::MaxData => self.max_data_update.on_lost(),
            SentFrame::MaxStreams => self.max_streams_update.on_lost(),
            SentFrame::Ack(_) | SentFrame::Announcement(_) => {}
        }
    }

    /// Tells every open stream that nothing is answered, or again is.
    pub(super) fn set_stalled(&mut self, is_stalled: bool) {
        for stream in self.slots.iter_mut().flatten() {
            if stream.is_stalled != is_stalled && !stream.awaits_header {
                stream.is_stalled = is_stalled;
                let id = StreamId(stream.id);
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

    pub(super) fn ids(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.slots.iter().flatten().map(|stream| StreamId(stream.id))
    }

    /// Fills in what the audit wants to know about streams.
    pub(super) fn audit(&self, audit: &mut super::Audit) {
        audit.streams = self.slots.iter().flatten().map(|stream| self.audit_stream(stream)).collect();
        (audit.data_sent, audit.data_sent_max) = (self.data_sent, self.data_sent_max);
        (audit.data_received, audit.data_received_max) = (self.data_received, self.data_received_max);
        audit.data_sent_recount = self.retired_sent + audit.streams.iter().map(|stream| stream.sent).sum::<u64>();
        audit.data_received_recount =
            self.retired_received + audit.streams.iter().map(|stream| stream.received).sum::<u64>();
        audit.gap_chunks = self.slots.iter().flatten().map(|stream| stream.receive.data.gap_chunks()).sum();
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
        #[cfg_attr(not(feature = "sabotage"), expect(unused_mut, reason = "only sabotage changes it"))]
        let mut send = SendStream::new(self.initial_max_stream_data, self.config.send_buffer);
        #[cfg(feature = "sabotage")]
        {
            send.ignores_credit = self.config.breaks(super::Sabotage::IgnoreCredit);
            send.ignores_buffer_max = self.config.breaks(super::Sabotage::UnboundedBuffer);
        }
        let stream = Stream {
            id,
            urgency: StreamHeader::URGENCY_DEFAULT,
            awaits_header,
            send,
            receive: ReceiveStream::new(self.config.stream_window),
            is_queued: false,
            is_credit_blocked: false,
            has_control: false,
            is_stalled: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.slots[slot as usize] = Some(stream);
        self.by_id.insert(id, slot);
        slot
    }

    fn stream_mut(&mut self, slot: u32) -> Option<&mut Stream> {
        self.slots.get_mut(slot as usize)?.as_mut()
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

    /// The stream that a frame names, opened now if the peer may; none if it is closed.
    fn slot_for_frame(&mut self, id: u64) -> Result<Option<u32>, TransportError> {
        if let Some(slot) = self.by_id.get(&id) {
            return Ok(Some(*slot));
        }
        let count = id >> 1;
        if id & 1 == self.local_bit {
            let was_opened = count < self.local_opened;
            return if was_opened { Ok(None) } else { Err(TransportError::Violation("stream that was never opened")) };
        }
        if count >= self.peer_max {
            return Err(TransportError::StreamLimit);
        }
        if count >= self.peer_opened {
            self.unseen.insert(self.peer_opened..count + 1);
            self.peer_opened = count + 1;
        }
        if !self.unseen.contains(count) {
            return Ok(None);
        }
        self.unseen.remove(count..count + 1);
        Ok(Some(self.insert(id, true)))
    }

    fn note_received(&mut self, slot: u32, end: u64, is_final: bool) -> Result<(), TransportError> {
        let Some(stream) = self.stream_mut(slot) else { return Ok(()) };
        let needed = stream.receive.credit_needed(end);
        stream.receive.note_received(end, is_final)?;
        self.data_received += needed;
        if self.data_received > self.data_received_max { Err(TransportError::FlowControl) } else { Ok(()) }
    }

    fn insert_data(&mut self, slot: u32, data: StreamData<'_>) -> Result<(), NotKept> {
        let gaps_left = self.gap_chunks_max().saturating_sub(self.gap_chunks);
        #[cfg(feature = "sabotage")]
        let breaks_order = self.config.breaks(super::Sabotage::DeliverOutOfOrder);
        let Some(stream) = self.stream_mut(slot) else { return Ok(()) };
        #[cfg(feature = "sabotage")]
        if breaks_order && !stream.awaits_header {
            stream.receive.data.insert_out_of_order(data.data);
            return Ok(());
        }
        let before = stream.receive.data.gap_chunks();
        let result = stream.receive.insert(data.offset, data.data, gaps_left);
        let after = stream.receive.data.gap_chunks();
        self.gap_chunks = self.gap_chunks + after - before;
        if self.stream_mut(slot).is_some_and(|stream| stream.receive.discards()) {
            self.discard(slot);
        }
        result.map_err(|_| NotKept)
    }

    /// Something has come for a stream: its header, data to read, or its end.
    fn on_progress(&mut self, slot: u32) {
        self.read_header(slot);
        let Some(stream) = self.stream_mut(slot) else { return };
        if stream.receive.reader_waits
            && !stream.awaits_header
            && !stream.receive.discards()
            && stream.receive.is_readable()
        {
            stream.receive.reader_waits = false;
            let id = StreamId(stream.id);
            self.events.push_back(TransportEvent::Readable(id));
        }
        self.retire_if_over(slot);
    }

    fn read_header(&mut self, slot: u32) {
        let Some(stream) = self.stream_mut(slot).filter(|stream| stream.awaits_header) else { return };
        if stream.receive.discards() {
            return;
        }
        let id = StreamId(stream.id);
        let is_complete = stream.receive.is_complete();
        match StreamHeader::decode(&stream.receive.data.peek(HEADER_PEEK_LEN)) {
            Ok(Some((header, len))) => {
                stream.awaits_header = false;
                stream.urgency = header.urgency;
                let header_bytes = std::iter::from_fn({
                    let mut left = len;
                    move || {
                        let read = stream.receive.data.read(left)?.len();
                        left -= read;
                        Some(read as u64)
                    }
                });
                let read = header_bytes.sum();
                self.events.push_back(TransportEvent::StreamOpened { stream: id, header });
                self.on_read(slot, read);
            }
            Ok(None) if !is_complete => {}
            Ok(None) | Err(_) => {
                self.stop_slot(slot, Code::BAD_REQUEST, "stream header");
                self.reset_slot(slot, Code::BAD_REQUEST, "stream header");
            }
        }
    }

    fn on_data_acked(&mut self, key: StreamKey, offset: u64, len: u32, fin: bool) {
        let Some(stream) = self.keyed_mut(key) else { return };
        let was_delivered = stream.send.is_delivered();
        stream.send.on_acked(offset, len, fin);
        let is_writable = stream.send.take_writable() && !stream.send.is_finished();
        let is_delivered = stream.send.is_delivered() && !was_delivered;
        let is_known = !stream.awaits_header;
        if is_writable {
            self.events.push_back(TransportEvent::Writable(StreamId(key.id)));
        }
        if is_delivered && is_known {
            self.events.push_back(TransportEvent::SendFinished(StreamId(key.id)));
        }
        if is_delivered {
            self.retire_if_over(key.slot);
        }
    }

    fn on_read(&mut self, slot: u32, len: u64) {
        self.data_read += len;
        if let Some(stream) = self.stream_mut(slot) {
            stream.receive.update_max_data();
        }
        self.schedule_control(slot);
        self.update_max_data();
    }

    /// As [`ReceiveStream::update_max_data`], for the tunnel.
    fn update_max_data(&mut self) {
        let max = self.data_read + self.config.tunnel_window;
        if max - self.data_received_max.min(max) >= (self.config.tunnel_window / 8).max(1) {
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

    /// Queues a stream that has data to send and may.
    fn schedule(&mut self, slot: u32) {
        let (local_bit, local_max) = (self.local_bit, self.local_max);
        let Some(stream) = self.stream_mut(slot) else { return };
        let is_allowed = stream.id & 1 != local_bit || stream.id >> 1 < local_max;
        if is_allowed && !stream.is_queued && stream.send.has_data_to_send() {
            stream.is_queued = true;
            let urgency = usize::from(stream.urgency.min(StreamHeader::URGENCY_MAX));
            self.ready[urgency].push_back(slot);
        }
    }

    fn schedule_all(&mut self) {
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            self.schedule(slot);
            self.schedule_control(slot);
        }
    }

    fn schedule_control(&mut self, slot: u32) {
        let (local_bit, local_max) = (self.local_bit, self.local_max);
        let Some(stream) = self.stream_mut(slot) else { return };
        let is_allowed = stream.id & 1 != local_bit || stream.id >> 1 < local_max;
        if is_allowed && !stream.has_control && stream.has_control_frames() {
            stream.has_control = true;
            self.control.push_back(slot);
        }
    }

    /// Forgets a stream of which both directions are over.
    fn retire_if_over(&mut self, slot: u32) {
        let Some(stream) = self.stream_mut(slot).filter(|stream| stream.send.is_over() && stream.receive.is_over())
        else {
            return;
        };
        let (id, is_known) = (stream.id, !stream.awaits_header);
        self.discard(slot);
        let Some(stream) = self.slots[slot as usize].take() else { return };
        self.retired_sent += stream.send.sent();
        self.retired_received += stream.receive.highest();
        self.by_id.remove(&id);
        self.free.push(slot);
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
        usize::try_from((self.config.tunnel_window / CREDIT_PER_GAP).max(1)).unwrap_or(usize::MAX)
    }

    fn write_credit(&mut self, buf: &mut Vec<u8>, end: usize, sent: &mut Vec<SentFrame>) {
        let fits = |buf: &Vec<u8>| buf.len() + CREDIT_FRAME_LEN_MAX <= end;
        if self.max_data_update == Delivery::Queued && fits(buf) {
            self.max_data_update = Delivery::Sent;
            frame::put_max_data(buf, self.data_received_max);
            sent.push(SentFrame::MaxData);
        }
        if self.max_streams_update == Delivery::Queued && fits(buf) {
            self.max_streams_update = Delivery::Sent;
            frame::put_max_streams(buf, self.peer_max);
            sent.push(SentFrame::MaxStreams);
        }
    }

    fn write_control(&mut self, buf: &mut Vec<u8>, end: usize, sent: &mut Vec<SentFrame>) {
        while let Some(slot) = self.control.pop_front() {
            let Some(stream) = self.stream_mut(slot) else { continue };
            stream.has_control = false;
            stream.write_control(slot, buf, end, sent);
            if stream.has_control_frames() {
                stream.has_control = true;
                self.control.push_front(slot);
                return;
            }
        }
    }

    fn write_data(&mut self, buf: &mut Vec<u8>, end: usize, sent: &mut Vec<SentFrame>) {
        while let Some(urgency) = self.ready.iter().position(|queue| !queue.is_empty()) {
            let Some(slot) = self.ready[urgency].pop_front() else { return };
            let credit = self.send_credit();
            let Some(stream) = self.stream_mut(slot) else { continue };
            stream.is_queued = false;
            let key = StreamKey { slot, id: stream.id };
            match stream.send.write_frame(key.id, buf, end, credit) {
                Ok(written) => {
                    self.data_sent += written.fresh;
                    sent.push(SentFrame::Stream { key, offset: written.offset, len: written.len, fin: written.fin });
                    self.schedule(slot);
                }
                Err(NotWritten::Nothing) => {}
                Err(NotWritten::NoTunnelCredit) => {
                    if !std::mem::replace(&mut stream.is_credit_blocked, true) {
                        self.credit_blocked.push_back(slot);
                    }
                }
                Err(NotWritten::NoRoom) => {
                    stream.is_queued = true;
                    self.ready[urgency].push_front(slot);
                    return;
                }
            }
        }
    }

    fn send_credit(&self) -> u64 {
        #[cfg(feature = "sabotage")]
        if self.config.breaks(super::Sabotage::IgnoreCredit) {
            return u64::MAX;
        }
        self.data_sent_max - self.data_sent
    }
}

impl Stream {
    fn has_control_frames(&self) -> bool {
        self.send.has_reset_to_send()
            || self.receive.stop == Delivery::Queued
            || self.receive.max_data_update == Delivery::Queued
    }

    fn write_control(&mut self, slot: u32, buf: &mut Vec<u8>, end: usize, sent: &mut Vec<SentFrame>) {
        let key = StreamKey { slot, id: self.id };
        if self.send.write_reset(self.id, buf, end) {
            sent.push(SentFrame::Reset(key));
        }
        if self.receive.stop == Delivery::Queued
            && buf.len() + STOP_SENDING_LEN_MAX <= end
            && let Some((code, reason)) = &self.receive.stop_reason
        {
            frame::put_stop_sending(buf, self.id, *code, reason);
            self.receive.stop = Delivery::Sent;
            sent.push(SentFrame::StopSending(key));
        }
        if self.receive.max_data_update == Delivery::Queued && buf.len() + CREDIT_FRAME_LEN_MAX <= end {
            frame::put_max_stream_data(buf, self.id, self.receive.max_data());
            self.receive.max_data_update = Delivery::Sent;
            sent.push(SentFrame::MaxStreamData(key));
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
