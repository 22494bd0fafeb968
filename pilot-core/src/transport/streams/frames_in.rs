//! What the peer's frames do to streams: open them, bring data and credit, end them (spec/streams.md §2 to §4).

use super::resting::Slot;
use super::send::Delivery;
use super::{FrameResult, HEADER_PEEK_LEN, NotKept, Streams};
use crate::id::StreamId;
use crate::transport::event::{TransportError, TransportEvent};
use crate::wire::frame::{Code, StreamData};
use crate::wire::stream_header::StreamHeader;

impl Streams {
    pub(in crate::transport) fn on_stream_data(&mut self, data: StreamData<'_>) -> FrameResult {
        let Some(slot) = self.slot_for_frame(data.stream)? else { return Ok(Ok(())) };
        self.note_received(slot, data.offset + data.data.len() as u64, data.fin)?;
        let kept = self.insert_data(slot, data);
        self.on_progress(slot);
        Ok(kept)
    }

    pub(in crate::transport) fn on_reset(&mut self, id: u64, code: Code, final_size: u64, reason: &str) -> FrameResult {
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

    pub(in crate::transport) fn on_stop_sending(&mut self, id: u64, code: Code, reason: &str) -> FrameResult {
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

    pub(in crate::transport) fn on_max_data(&mut self, max: u64) {
        if max > self.data_sent_max {
            self.data_sent_max = max;
            while let Some(slot) = self.credit_blocked.pop_front() {
                if let Some(stream) = self.awake_mut(slot) {
                    stream.is_credit_blocked = false;
                }
                self.schedule(slot);
                self.doze(slot);
            }
        }
    }

    pub(in crate::transport) fn on_max_stream_data(&mut self, id: u64, max: u64) -> FrameResult {
        let Some(slot) = self.slot_for_frame(id)? else { return Ok(Ok(())) };
        if self.stream_mut(slot).is_some_and(|stream| stream.send.set_max_data(max)) {
            self.schedule(slot);
        }
        Ok(Ok(()))
    }

    pub(in crate::transport) fn on_max_streams(&mut self, max: u64) {
        if max > self.local_max {
            // Only what was opened before the limit was known waits for it: else a frame would cost a look at every stream.
            let some_wait = self.local_opened > self.local_max;
            self.local_max = max;
            if some_wait {
                self.schedule_all();
            }
        }
    }

    /// A frame that only tells about a stream: checks that it may exist.
    pub(in crate::transport) fn on_stream_data_blocked(&mut self, id: u64) -> FrameResult {
        self.slot_for_frame(id).map(|_| Ok(()))
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
        let breaks_order = self.config.breaks(crate::transport::Sabotage::DeliverOutOfOrder);
        let Some(stream) = self.slots.get_mut(slot as usize).and_then(Slot::awake_mut) else { return Ok(()) };
        #[cfg(feature = "sabotage")]
        if breaks_order && !stream.awaits_header {
            stream.receive.data.insert_out_of_order(data.data, &mut self.chunks);
            return Ok(());
        }
        let before = stream.receive.data.gap_chunks();
        let result = stream.receive.insert(data.offset, data.data, gaps_left, &mut self.chunks);
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
        self.doze(slot);
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
}
