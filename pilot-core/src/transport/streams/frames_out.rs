//! Whose turn it is to send, the frames that are sent, and what becomes of them (spec/streams.md §2, §4 and §7).

use super::send::{Delivery, NotWritten};
use super::{Stream, Streams};
use crate::id::StreamId;
use crate::transport::early::{EARLY_CREDIT, EARLY_STREAMS};
use crate::transport::event::TransportEvent;
use crate::transport::sent::{SentFrame, StreamKey};
use crate::wire::frame;
use crate::wire::stream_header::StreamHeader;

/// STOP_SENDING at its longest.
const STOP_SENDING_LEN_MAX: usize = 1 + 8 + 8 + 2 + frame::REASON_LEN_MAX;

/// MAX_STREAM_DATA, MAX_DATA or MAX_STREAMS at its longest.
const CREDIT_FRAME_LEN_MAX: usize = 1 + 8 + 8;

impl Streams {
    /// Appends frames of streams to a packet that may grow up to `end`, and notes them in `sent`.
    pub(in crate::transport) fn write_frames(&mut self, buf: &mut Vec<u8>, end: usize, sent: &mut Vec<SentFrame>) {
        self.write_credit(buf, end, sent);
        self.write_control(buf, end, sent);
        self.write_data(buf, end, sent);
    }

    /// Appends the beginnings of streams that may be a replay to early data that may grow up to `end`, and notes them in `sent`. What
    /// the peer grants is not known yet; so much it grants to everybody.
    pub(in crate::transport) fn write_early(&mut self, buf: &mut Vec<u8>, end: usize, sent: &mut Vec<SentFrame>) {
        let mut slots: Vec<_> = (0..self.slots.len()).filter(|&slot| self.may_go_early(slot)).collect();
        slots.sort_by_key(|&slot| self.slots[slot].awake().map(|stream| (stream.urgency, stream.id)));
        if !slots.is_empty() {
            self.initial_max_stream_data = EARLY_CREDIT;
            (self.data_sent_max, self.local_max) = (EARLY_CREDIT, EARLY_STREAMS);
        }
        for slot in slots {
            let credit = self.send_credit();
            let Some(stream) = self.slots[slot].awake_mut() else { continue };
            stream.send.set_max_data(EARLY_CREDIT);
            let key = StreamKey { slot: u32::try_from(slot).unwrap_or(u32::MAX), id: stream.id };
            let Ok(written) = stream.send.write_frame(key.id, buf, end, credit) else { return };
            self.count_sent(written.fresh);
            sent.push(SentFrame::Stream { key, offset: written.offset, len: written.len, fin: written.fin });
        }
    }

    fn may_go_early(&self, slot: usize) -> bool {
        let stream = self.slots[slot].awake().filter(|stream| stream.is_replay_safe && stream.id >> 1 < EARLY_STREAMS);
        // A reset needs the session.
        stream.is_some_and(|stream| stream.send.reset_reason.is_none())
    }

    /// Takes out of the queues what has nothing to send any more, or no credit, so that a queue with an entry means a frame.
    pub(in crate::transport) fn settle_queues(&mut self) {
        let credit = self.send_credit();
        for urgency in 0..self.ready.len() {
            while let Some(slot) = self.ready[urgency].front().copied() {
                let Some(stream) = self.slots[slot as usize].awake_mut() else {
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
                self.doze(slot);
            }
        }
        while let Some(slot) = self.control.front().copied() {
            match self.awake_mut(slot) {
                Some(stream) if stream.has_control_frames() => break,
                Some(stream) => stream.has_control = false,
                None => {}
            }
            self.control.pop_front();
            self.doze(slot);
        }
    }

    /// Whether `write_frames` has something to write.
    pub(in crate::transport) fn has_frames(&self) -> bool {
        self.max_data_update == Delivery::Queued
            || self.max_streams_update == Delivery::Queued
            || !self.control.is_empty()
            || self.has_data()
    }

    /// Whether stream data waits for its turn.
    pub(in crate::transport) fn has_data(&self) -> bool {
        self.ready.iter().any(|queue| !queue.is_empty())
    }

    /// The peer has this frame.
    pub(in crate::transport) fn on_frame_acked(&mut self, frame: SentFrame) {
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
    pub(in crate::transport) fn on_frame_lost(&mut self, frame: SentFrame) {
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
        self.doze(key.slot);
    }

    /// Queues a stream that has data to send and may.
    pub(super) fn schedule(&mut self, slot: u32) {
        let (local_bit, local_max) = (self.local_bit, self.local_max);
        let Some(stream) = self.awake_mut(slot) else { return };
        let is_allowed = stream.id & 1 != local_bit || stream.id >> 1 < local_max;
        if is_allowed && !stream.is_queued && stream.send.has_data_to_send() {
            stream.is_queued = true;
            let urgency = usize::from(stream.urgency.min(StreamHeader::URGENCY_MAX));
            self.ready[urgency].push_back(slot);
        }
    }

    pub(super) fn schedule_all(&mut self) {
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            self.schedule(slot);
            self.schedule_control(slot);
        }
    }

    pub(super) fn schedule_control(&mut self, slot: u32) {
        let (local_bit, local_max) = (self.local_bit, self.local_max);
        let Some(stream) = self.awake_mut(slot) else { return };
        let is_allowed = stream.id & 1 != local_bit || stream.id >> 1 < local_max;
        if is_allowed && !stream.has_control && stream.has_control_frames() {
            stream.has_control = true;
            self.control.push_back(slot);
        }
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
            let Some(stream) = self.awake_mut(slot) else { continue };
            stream.has_control = false;
            stream.write_control(slot, buf, end, sent);
            if stream.has_control_frames() {
                stream.has_control = true;
                self.control.push_front(slot);
                return;
            }
            self.doze(slot);
        }
    }

    fn write_data(&mut self, buf: &mut Vec<u8>, end: usize, sent: &mut Vec<SentFrame>) {
        while let Some(urgency) = self.ready.iter().position(|queue| !queue.is_empty()) {
            let Some(slot) = self.ready[urgency].pop_front() else { return };
            let credit = self.send_credit();
            let Some(stream) = self.awake_mut(slot) else { continue };
            stream.is_queued = false;
            let key = StreamKey { slot, id: stream.id };
            match stream.send.write_frame(key.id, buf, end, credit) {
                Ok(written) => {
                    self.count_sent(written.fresh);
                    sent.push(SentFrame::Stream { key, offset: written.offset, len: written.len, fin: written.fin });
                    self.schedule(slot);
                }
                Err(NotWritten::Nothing) => self.doze(slot),
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

    fn count_sent(&mut self, fresh: u64) {
        #[cfg(feature = "sabotage")]
        if self.config.breaks(crate::transport::Sabotage::MiscountData) {
            return;
        }
        self.data_sent += fresh;
    }

    fn send_credit(&self) -> u64 {
        #[cfg(feature = "sabotage")]
        if self.config.breaks(crate::transport::Sabotage::IgnoreCredit) {
            return u64::MAX;
        }
        self.data_sent_max.saturating_sub(self.data_sent)
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
