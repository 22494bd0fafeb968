//! The receiving direction of a stream (RFC 9000 §3.2): data from the peer until its reader has taken it.

use super::assembler::{Assembler, Chunks, TooManyGaps};
use super::send::Delivery;
use crate::transport::TransportError;
use crate::wire::frame::Code;

/// The receiving direction.
#[derive(Debug)]
pub(super) struct ReceiveStream {
    pub(super) data: Assembler,
    /// Offset behind the last byte seen, in order or not.
    highest: u64,
    /// What the peer may send.
    max_data: u64,
    final_size: Option<u64>,
    /// Everything below counts as read although nobody did.
    discarded_to: u64,
    /// The peer ended it early, with code and reason.
    pub(super) reset: Option<(Code, String)>,
    /// This side asked the peer to stop, with code and reason.
    pub(super) stop_reason: Option<(Code, String)>,
    pub(super) stop: Delivery,
    pub(super) max_data_update: Delivery,
    /// The reader was told that there is nothing, or has not been told anything yet.
    pub(super) reader_waits: bool,
    /// The reader has seen the end.
    pub(super) is_read_to_end: bool,
}

/// A receiving direction of which all that came was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct RestingReceive {
    /// Offset behind all data.
    read: u64,
    max_data: u64,
    max_data_update: Delivery,
    /// The peer has ended it there.
    is_at_end: bool,
    is_read_to_end: bool,
    reader_waits: bool,
}

impl ReceiveStream {
    pub(super) fn new(window: u64) -> Self {
        Self {
            data: Assembler::default(),
            highest: 0,
            max_data: window,
            final_size: None,
            discarded_to: 0,
            reset: None,
            stop_reason: None,
            stop: Delivery::None,
            max_data_update: Delivery::None,
            reader_waits: true,
            is_read_to_end: false,
        }
    }

    /// What there is to keep of it; none if it is not at rest.
    pub(super) fn at_rest(&self) -> Option<RestingReceive> {
        let read = self.data.read_offset();
        let is_read = self.data.len() == 0 && self.highest == read && self.final_size.is_none_or(|size| size == read);
        if !is_read || self.discards() || self.max_data_update == Delivery::Queued {
            return None;
        }
        Some(RestingReceive {
            read,
            max_data: self.max_data,
            max_data_update: self.max_data_update,
            is_at_end: self.final_size.is_some(),
            is_read_to_end: self.is_read_to_end,
            reader_waits: self.reader_waits,
        })
    }

    /// The other way round.
    pub(super) fn wake(resting: RestingReceive) -> Self {
        let RestingReceive { read, max_data, max_data_update, is_at_end, is_read_to_end, reader_waits } = resting;
        Self {
            data: Assembler::starting_at(read),
            highest: read,
            final_size: is_at_end.then_some(read),
            max_data_update,
            reader_waits,
            is_read_to_end,
            ..Self::new(max_data)
        }
    }

    /// How many bytes of the tunnel's credit data up to `end` would use.
    pub(super) fn credit_needed(&self, end: u64) -> u64 {
        end.saturating_sub(self.highest)
    }

    /// Checks data, or an end, at `end` against credit and final size, and notes it.
    ///
    /// # Errors
    /// If the peer has sent more than it may, or the end moves.
    pub(super) fn note_received(&mut self, end: u64, is_final: bool) -> Result<(), TransportError> {
        if end > self.max_data {
            return Err(TransportError::FlowControl);
        }
        let is_consistent = match self.final_size {
            Some(size) => {
                if is_final {
                    end == size
                } else {
                    end <= size
                }
            }
            None => !is_final || end >= self.highest,
        };
        if !is_consistent {
            return Err(TransportError::FinalSize);
        }
        self.highest = self.highest.max(end);
        if is_final {
            self.final_size = Some(end);
        }
        Ok(())
    }

    /// Takes data that was noted.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub(super) fn insert(
        &mut self,
        offset: u64,
        data: &[u8],
        gaps_left: usize,
        chunks: &mut Chunks,
    ) -> Result<(), TooManyGaps> {
        if self.discards() { Ok(()) } else { self.data.insert(offset, data, gaps_left, chunks) }
    }

    /// Forgets all data and counts everything seen as read, now and whenever more comes.
    pub(super) fn discard(&mut self) {
        self.data.discard();
        self.discarded_to = self.highest;
        self.max_data_update = Delivery::None;
    }

    /// Offset below which data was read or discarded.
    pub(super) fn discarded_to(&self) -> u64 {
        self.discarded_to.max(self.data.read_offset())
    }

    /// Whether nobody will read what comes.
    pub(super) fn discards(&self) -> bool {
        self.reset.is_some() || self.stop != Delivery::None
    }

    /// Whether the reader has data or the end to take.
    pub(super) fn is_readable(&self) -> bool {
        self.data.read_offset() < self.data.end() || self.is_at_end()
    }

    /// Whether everything up to the end was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.final_size == Some(self.data.read_offset())
    }

    /// Whether all data is here but the reader has not taken it yet.
    pub(super) fn is_complete(&self) -> bool {
        self.final_size == Some(self.data.end())
    }

    /// Whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.is_read_to_end || self.reset.is_some() || (self.stop != Delivery::None && self.final_size.is_some())
    }

    /// Grants more once the reader has taken an eighth of the window: seldom enough to cost little, early enough that the peer does
    /// not run dry.
    pub(super) fn update_max_data(&mut self, window: u64) {
        let max = self.data.read_offset() + window;
        let is_due = max - self.max_data.min(max) >= (window / 8).max(1);
        if is_due && self.final_size.is_none() && !self.discards() {
            self.max_data = max;
            self.max_data_update = Delivery::Queued;
        }
    }

    /// Offset behind the last byte seen.
    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// What the peer may send.
    pub(super) fn max_data(&self) -> u64 {
        self.max_data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_enforced_and_grows_with_reading() {
        let mut stream = ReceiveStream::new(80);
        assert_eq!(stream.note_received(81, false), Err(TransportError::FlowControl));
        assert_eq!(stream.note_received(80, false), Ok(()));
        stream.insert(0, &[1; 80], 0, &mut Chunks::default()).unwrap();
        stream.data.read(9);
        stream.update_max_data(80);
        assert_eq!(stream.max_data_update, Delivery::None);
        stream.data.read(1);
        stream.update_max_data(80);
        assert_eq!((stream.max_data(), stream.max_data_update), (90, Delivery::Queued));
    }

    #[test]
    fn the_end_of_a_stream_does_not_move() {
        let mut stream = ReceiveStream::new(100);
        stream.note_received(50, false).unwrap();
        assert_eq!(stream.note_received(40, true), Err(TransportError::FinalSize));
        stream.note_received(60, true).unwrap();
        stream.note_received(60, true).unwrap();
        assert_eq!(stream.note_received(61, false), Err(TransportError::FinalSize));
        assert_eq!(stream.note_received(61, true), Err(TransportError::FinalSize));
    }
}
