//! The sending direction of a stream (RFC 9000 §3.1): data from its writer until the peer has acknowledged it.

use std::collections::VecDeque;

use bytes::Bytes;

#[cfg(feature = "sabotage")]
use crate::transport::config::Sabotage;
use crate::transport::config::TransportConfig;
use crate::transport::range_set::RangeSet;
use crate::wire::frame::{self, Code};

/// Pieces of data that one stream holds: a writer of single bytes meets this bound before that of the buffer.
const SEGMENTS_MAX: usize = 8_192;

/// Bytes that a writer may be ahead of a reader that has not earned it more credit than this: a path that is filled needs them, a reader that
/// has gone to sleep does not.
const BUFFER_UNEARNED: usize = 4 << 20;

/// A stretch of a stream, as it goes into a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) fin: bool,
    /// Bytes never sent before: they use up the tunnel's credit.
    pub(super) fresh: u64,
}

/// Why nothing was written into a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotWritten {
    /// Nothing to send, or no credit of the stream.
    Nothing,
    /// The packet is too full.
    NoRoom,
    /// Only the tunnel's credit is missing.
    NoTunnelCredit,
}

/// How far a single fact has got to the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Not to be told.
    #[default]
    None,
    /// To be told with the next packet.
    Queued,
    /// In flight.
    Sent,
    /// The peer knows.
    Acked,
}

impl Delivery {
    /// A packet with the fact was lost.
    pub(super) fn on_lost(&mut self) {
        if *self == Self::Sent {
            *self = Self::Queued;
        }
    }
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct SendStream {
    /// Data by offset, from `acked_to` on.
    segments: VecDeque<(u64, Bytes)>,
    /// The peer has everything below.
    acked_to: u64,
    /// What it has above.
    acked: RangeSet,
    /// To be sent again.
    lost: RangeSet,
    /// Offset behind what was sent once.
    sent: u64,
    /// Offset behind what the writer gave.
    written: u64,
    /// The stream's credit.
    max_data: u64,
    buffer_max: usize,
    fin: Delivery,
    reset: Delivery,
    /// Code and reason of the reset; from the peer if it asked to stop.
    pub(super) reset_reason: Option<(Code, String)>,
    /// The peer asked to stop.
    pub(super) is_stopped: bool,
    /// The writer was told that the buffer is full.
    pub(super) writer_waits: bool,
    #[cfg(feature = "sabotage")]
    ignores_credit: bool,
    #[cfg(feature = "sabotage")]
    ignores_buffer_max: bool,
}

/// A sending direction whose data, as far as there is any, the peer has.
#[derive(Clone, Copy, Debug)]
pub(super) struct RestingSend {
    /// Offset behind all data.
    sent: u64,
    pub(super) max_data: u64,
    is_finished: bool,
    writer_waits: bool,
}

impl SendStream {
    pub(super) fn new(max_data: u64, config: &TransportConfig) -> Self {
        Self {
            segments: VecDeque::new(),
            acked_to: 0,
            acked: RangeSet::default(),
            lost: RangeSet::default(),
            sent: 0,
            written: 0,
            max_data,
            buffer_max: config.send_buffer,
            fin: Delivery::None,
            reset: Delivery::None,
            reset_reason: None,
            is_stopped: false,
            writer_waits: false,
            #[cfg(feature = "sabotage")]
            ignores_credit: config.breaks(Sabotage::IgnoreCredit),
            #[cfg(feature = "sabotage")]
            ignores_buffer_max: config.breaks(Sabotage::UnboundedBuffer),
        }
    }

    /// What there is to keep of it; none if it is not at rest.
    pub(super) fn at_rest(&self) -> Option<RestingSend> {
        let is_told =
            self.sent == self.written && self.acked_to == self.sent && self.acked.len() + self.lost.len() == 0;
        let is_ending = !matches!(self.fin, Delivery::None | Delivery::Acked) || self.reset != Delivery::None;
        if !is_told || is_ending || self.is_stopped {
            return None;
        }
        let (sent, max_data, is_finished) = (self.sent, self.max_data, self.fin == Delivery::Acked);
        Some(RestingSend { sent, max_data, is_finished, writer_waits: self.writer_waits })
    }

    /// The other way round.
    pub(super) fn wake(resting: RestingSend, config: &TransportConfig) -> Self {
        let RestingSend { sent, max_data, is_finished, writer_waits } = resting;
        let fin = if is_finished { Delivery::Acked } else { Delivery::None };
        Self { acked_to: sent, sent, written: sent, fin, writer_waits, ..Self::new(max_data, config) }
    }

    /// Takes as much of `data` as the buffer has room for.
    pub(super) fn write(&mut self, data: &mut Bytes) -> usize {
        let room = self.room();
        let taken = data.split_to(room.min(data.len()));
        let len = taken.len();
        self.push(taken);
        self.writer_waits |= len == 0 && !data.is_empty();
        len
    }

    /// Takes data without a look at the bound: the stream header.
    pub(super) fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            let start = self.written;
            self.written += data.len() as u64;
            self.segments.push_back((start, data));
        }
    }

    /// No more data will come.
    pub(super) fn finish(&mut self) {
        if self.fin == Delivery::None {
            self.fin = Delivery::Queued;
        }
    }

    /// Gives up what was not delivered.
    pub(super) fn reset(&mut self, code: Code, reason: &str) {
        if self.is_over() || self.reset != Delivery::None {
            return;
        }
        self.reset = Delivery::Queued;
        self.reset_reason = Some((code, frame::cut_reason(reason).to_owned()));
        self.segments.clear();
        self.lost.clear();
    }

    /// Raises the stream's credit. Says whether it was raised.
    pub(super) fn set_max_data(&mut self, max: u64) -> bool {
        let is_raised = max > self.max_data;
        self.max_data = self.max_data.max(max);
        is_raised
    }

    /// The peer is another: what the one before had granted counts no more, but for what was sent.
    pub(super) fn restart_credit(&mut self, max: u64) {
        self.max_data = max.max(self.sent);
    }

    /// Whether the writer should be told to go on.
    pub(super) fn take_writable(&mut self) -> bool {
        let has_room = self.buffered() <= self.bound() / 4 * 3 && self.segments.len() <= SEGMENTS_MAX / 4 * 3;
        has_room && std::mem::take(&mut self.writer_waits)
    }

    /// Appends one STREAM frame to `buf`, which may grow up to `end`. `credit` is what the tunnel allows of fresh data.
    pub(super) fn write_frame(
        &mut self,
        id: u64,
        buf: &mut Vec<u8>,
        end: usize,
        credit: u64,
    ) -> Result<Written, NotWritten> {
        let (offset, available, is_fresh) = self.next_stretch(credit)?;
        let header_len = frame::stream_header_len(id, offset);
        let room = end.saturating_sub(buf.len() + header_len);
        // Without its length field the frame must fill the packet; with it, that field takes two bytes or four.
        let length_len = if room < 0x4000 { 2 } else { 4 };
        let is_last = available >= room as u64;
        let len = if is_last {
            room
        } else {
            usize::try_from(available).unwrap_or(room).min(room.saturating_sub(length_len))
        };
        if len == 0 && (available > 0 || room < length_len) {
            return Err(NotWritten::NoRoom);
        }
        let fin = self.fin != Delivery::None && offset + len as u64 == self.written;
        frame::put_stream_header(buf, id, offset, len, fin, is_last);
        self.copy(offset, len, buf);
        Ok(self.note_sent(offset, len, fin, is_fresh))
    }

    /// Appends RESET, if it is to be told and fits.
    pub(super) fn write_reset(&mut self, id: u64, buf: &mut Vec<u8>, end: usize) -> bool {
        let Some((code, reason)) = &self.reset_reason else { return false };
        if self.reset != Delivery::Queued || end.saturating_sub(buf.len()) < RESET_LEN_MAX {
            return false;
        }
        frame::put_reset(buf, id, *code, self.sent, reason);
        self.reset = Delivery::Sent;
        true
    }

    /// The peer has this stretch.
    pub(super) fn on_acked(&mut self, offset: u64, len: u32, fin: bool) {
        if fin {
            self.fin = Delivery::Acked;
        }
        let range = offset..offset + u64::from(len);
        self.lost.remove(range.clone());
        if range.start > self.acked_to {
            self.acked.insert(range);
            return;
        }
        self.acked_to = self.acked_to.max(range.end);
        while let Some(first) = self.acked.first()
            && first.start <= self.acked_to
        {
            self.acked_to = self.acked_to.max(first.end);
            self.acked.remove_first();
        }
        while self.segments.front().is_some_and(|(start, data)| start + data.len() as u64 <= self.acked_to) {
            self.segments.pop_front();
        }
    }

    /// This stretch has to be sent again, as far as the peer does not have it.
    pub(super) fn on_lost(&mut self, offset: u64, len: u32, fin: bool) {
        if self.reset != Delivery::None {
            return;
        }
        if fin {
            self.fin.on_lost();
        }
        let range = offset.max(self.acked_to)..offset + u64::from(len);
        if range.is_empty() {
            return;
        }
        self.lost.insert(range.clone());
        let first = self.acked.as_slice().partition_point(|have| have.end <= range.start);
        for have in self.acked.as_slice()[first..].iter().take_while(|have| have.start < range.end) {
            self.lost.remove(have.clone());
        }
    }

    /// The peer knows of the reset.
    pub(super) fn on_reset_acked(&mut self) {
        self.reset = Delivery::Acked;
    }

    /// The packet with the reset was lost.
    pub(super) fn on_reset_lost(&mut self) {
        self.reset.on_lost();
    }

    /// Whether a STREAM frame could be sent, the tunnel's credit apart.
    pub(super) fn has_data_to_send(&self) -> bool {
        self.can_write(u64::MAX).is_ok()
    }

    /// Whether a STREAM frame could be sent, or what is missing. `credit` is what the tunnel allows of fresh data.
    pub(super) fn can_write(&self, credit: u64) -> Result<(), NotWritten> {
        self.next_stretch(credit).map(|_| ())
    }

    /// Whether RESET is to be told.
    pub(super) fn has_reset_to_send(&self) -> bool {
        self.reset == Delivery::Queued
    }

    /// Whether the writer has ended it, one way or the other.
    pub(super) fn is_finished(&self) -> bool {
        self.fin != Delivery::None || self.reset != Delivery::None
    }

    /// Whether the peer has all data and the end.
    pub(super) fn is_delivered(&self) -> bool {
        self.fin == Delivery::Acked && self.acked_to == self.written && self.reset == Delivery::None
    }

    /// Whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.is_delivered() || self.reset == Delivery::Acked
    }

    /// Offset behind what was sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// The stream's credit.
    pub(super) fn max_data(&self) -> u64 {
        self.max_data
    }

    /// Bytes from the writer that the peer has not acknowledged.
    pub(super) fn buffered(&self) -> usize {
        if self.reset == Delivery::None {
            usize::try_from(self.written - self.acked_to).unwrap_or(usize::MAX)
        } else {
            0
        }
    }

    /// What is to be sent next: offset, length available, and whether it is fresh.
    fn next_stretch(&self, credit: u64) -> Result<(u64, u64, bool), NotWritten> {
        if self.reset != Delivery::None {
            return Err(NotWritten::Nothing);
        }
        if let Some(lost) = self.lost.first() {
            return Ok((lost.start, lost.end - lost.start, false));
        }
        let allowed = self.written.min(self.credit().max(self.sent));
        let fresh = allowed - self.sent;
        match (fresh.min(credit), self.fin) {
            (0, Delivery::Queued) if self.sent == self.written => Ok((self.sent, 0, false)),
            (0, _) if fresh > 0 => Err(NotWritten::NoTunnelCredit),
            (0, _) => Err(NotWritten::Nothing),
            (available, _) => Ok((self.sent, available, true)),
        }
    }

    fn room(&self) -> usize {
        #[cfg(feature = "sabotage")]
        if self.ignores_buffer_max {
            return usize::MAX;
        }
        if self.segments.len() < SEGMENTS_MAX { self.bound().saturating_sub(self.buffered()) } else { 0 }
    }

    /// Bytes that may be kept now: what the peer takes ahead of its reader is the measure of what the path can use.
    fn bound(&self) -> usize {
        let granted = usize::try_from(self.max_data.saturating_sub(self.acked_to)).unwrap_or(usize::MAX);
        self.buffer_max.min(granted.max(BUFFER_UNEARNED))
    }

    fn credit(&self) -> u64 {
        #[cfg(feature = "sabotage")]
        if self.ignores_credit {
            return u64::MAX;
        }
        self.max_data
    }

    fn note_sent(&mut self, offset: u64, len: usize, fin: bool, is_fresh: bool) -> Written {
        let end = offset + len as u64;
        if is_fresh {
            self.sent = end;
        } else {
            self.lost.remove(offset..end);
        }
        if fin && self.fin != Delivery::Acked {
            self.fin = Delivery::Sent;
        }
        let fresh = if is_fresh { len as u64 } else { 0 };
        Written { offset, len: u32::try_from(len).unwrap_or(u32::MAX), fin, fresh }
    }

    fn copy(&self, offset: u64, len: usize, buf: &mut Vec<u8>) {
        let first = self.segments.partition_point(|(start, data)| start + data.len() as u64 <= offset);
        let mut left = len;
        for (start, data) in self.segments.range(first..) {
            let skip = usize::try_from(offset.saturating_sub(*start)).unwrap_or(usize::MAX);
            let piece = &data[skip..data.len().min(skip.saturating_add(left))];
            buf.extend_from_slice(piece);
            left -= piece.len();
            if left == 0 {
                break;
            }
        }
        debug_assert_eq!(left, 0, "a stretch to be sent is in the buffer");
    }
}

/// RESET at its longest.
const RESET_LEN_MAX: usize = 1 + 8 + 8 + 8 + 2 + frame::REASON_LEN_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_with(data: &'static [u8]) -> SendStream {
        let mut stream = SendStream::new(1_000, &TransportConfig::default().send_buffer(100));
        stream.write(&mut Bytes::from_static(data));
        stream
    }

    #[test]
    fn a_full_buffer_is_backpressure_and_ends() {
        let mut stream = SendStream::new(1_000, &TransportConfig::default().send_buffer(100));
        let mut data = Bytes::from(vec![7; 150]);
        assert_eq!((stream.write(&mut data), data.len()), (100, 50));
        assert_eq!(stream.write(&mut data), 0);
        assert!(!stream.take_writable());
        let written = stream.write_frame(0, &mut Vec::new(), 60, 1_000).unwrap();
        stream.on_acked(written.offset, written.len, false);
        assert!(stream.take_writable());
        assert!(!stream.take_writable(), "told once");
    }

    #[test]
    fn lost_data_goes_before_fresh_data_and_uses_no_credit() {
        let mut stream = stream_with(b"0123456789abcdef");
        let first = stream.write_frame(0, &mut Vec::new(), 10, 1_000).unwrap();
        assert_eq!((first.offset, first.len, first.fresh), (0, 8, 8));
        stream.on_lost(0, 8, false);
        stream.on_acked(2, 3, false);
        let mut buf = Vec::new();
        let again = stream.write_frame(0, &mut buf, 100, 0).unwrap();
        assert_eq!((again.offset, again.len, again.fresh), (0, 2, 0));
        assert!(buf.ends_with(b"01"));
        assert_eq!(stream.write_frame(0, &mut Vec::new(), 100, 0).unwrap().offset, 5);
        assert_eq!(stream.write_frame(0, &mut Vec::new(), 100, 0), Err(NotWritten::NoTunnelCredit));
    }

    #[test]
    fn the_end_goes_with_the_last_byte_or_alone() {
        let mut stream = stream_with(b"abc");
        stream.finish();
        let written = stream.write_frame(0, &mut Vec::new(), 100, 1_000).unwrap();
        assert!(written.fin && !stream.has_data_to_send());
        stream.on_lost(0, 0, true);
        let alone = stream.write_frame(0, &mut Vec::new(), 100, 0).unwrap();
        assert_eq!((alone.offset, alone.len, alone.fin), (3, 0, true));
        stream.on_acked(3, 0, true);
        assert!(!stream.is_over());
        stream.on_acked(0, 3, true);
        assert!(stream.is_delivered());
    }

    #[test]
    fn a_reset_gives_up_the_data() {
        let mut stream = stream_with(b"abc");
        stream.write_frame(0, &mut Vec::new(), 100, 1_000).unwrap();
        stream.reset(Code::CANCELLED, "");
        stream.on_lost(0, 3, false);
        assert!(!stream.has_data_to_send() && stream.has_reset_to_send() && stream.buffered() == 0);
        let mut buf = Vec::new();
        assert!(stream.write_reset(0, &mut buf, 1_000) && !stream.has_reset_to_send());
        stream.on_reset_lost();
        assert!(stream.has_reset_to_send());
        stream.on_reset_acked();
        assert!(stream.is_over());
    }

    #[test]
    fn every_room_is_used_as_far_as_it_can_be() {
        for end in 0..40 {
            let mut stream = stream_with(b"0123456789abcdef");
            stream.finish();
            let mut buf = Vec::new();
            match stream.write_frame(5, &mut buf, end, 1_000) {
                Ok(written) => assert!(buf.len() <= end && (written.len == 16) == written.fin, "{end}"),
                Err(error) => assert!(error == NotWritten::NoRoom && end < 3 && buf.is_empty(), "{end}"),
            }
        }
    }
}
