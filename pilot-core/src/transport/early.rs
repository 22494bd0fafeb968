//! Early data: beginnings of streams that travel in message 1, before there is a session (spec/handshake.md §10).
//!
//! Early data is the payload of packet number 0. The initiator writes it once ([`Transport::take_early`]) and learns from message 2 whether
//! it was taken ([`Transport::settle_early`]). The responder checks it ([`EarlyData::check`]), hands out what may be a replay
//! ([`Transport::handle_early`]), and takes the whole as packet 0 when the session is in use ([`Transport::handle_packet`]).

use super::sent::{SentFrame, SentPacket};
use super::{PACKET_OVERHEAD, Transport};
use crate::id::PacketNumber;
use crate::time::Mono;
use crate::wire::codec::Reader;
use crate::wire::frame::{Frame, StreamData};
use crate::wire::stream_header::StreamHeader;

/// Streams that early data may open: each side grants them to everybody. More would not fit beside a request of any use.
pub(crate) const EARLY_STREAMS: u64 = 8;

/// Credit that each side grants to everybody: more than one datagram carries.
pub(crate) const EARLY_CREDIT: u64 = 1_024;

/// Early data that was written, until message 2 tells what became of it.
#[derive(Debug)]
pub(super) struct Written {
    payload: Vec<u8>,
    frames: Vec<SentFrame>,
}

/// Early data that keeps the rules.
#[derive(Debug)]
pub(crate) struct EarlyData {
    payload: Vec<u8>,
    /// Streams that may be delivered although all of it may be a replay.
    safe: Vec<u64>,
}

impl EarlyData {
    /// Checks early data: STREAM and PADDING only, within the bounds. `opens_even`: who sent it opens the streams of even ids.
    pub(crate) fn check(payload: Vec<u8>, opens_even: bool, is_safe: impl Fn(&StreamHeader) -> bool) -> Option<Self> {
        let (mut seen, mut safe) = (Vec::new(), Vec::new());
        let mut reader = Reader::new(&payload);
        while !reader.is_empty() {
            let frame = Frame::decode(&mut reader).ok()?;
            if matches!(frame, Frame::Padding) {
                continue;
            }
            let Frame::Stream(data) = frame else { return None };
            let is_theirs = data.stream & 1 == u64::from(!opens_even);
            if !is_theirs || data.stream >> 1 >= EARLY_STREAMS || data.offset + data.data.len() as u64 > EARLY_CREDIT {
                return None;
            }
            // The first frame of a stream decides: where others overlap it, its bytes are the ones that count.
            if !seen.contains(&data.stream) {
                seen.push(data.stream);
                if header_of(&data).is_some_and(|header| is_safe(&header)) {
                    safe.push(data.stream);
                }
            }
        }
        Some(Self { payload, safe })
    }

    /// How many of its streams may be delivered at once.
    pub(crate) fn safe_streams(&self) -> usize {
        self.safe.len()
    }

    /// The payload of packet number 0.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// The header of a stream, if its first bytes hold the whole of it.
fn header_of(data: &StreamData<'_>) -> Option<StreamHeader> {
    let starts_stream = data.offset == 0;
    StreamHeader::decode(data.data).ok().flatten().filter(|_| starts_stream).map(|(header, _)| header)
}

impl Transport {
    /// The early data of this transport, at most `len_max` bytes: streams whose opener allows a replay, as far as they are written.
    /// Once there is some, it stays the same. Only before anything else is sent.
    pub(crate) fn take_early(&mut self, len_max: usize) -> &[u8] {
        if self.early.is_none() && self.next_pn == 0 && !self.streams.peer_limits_known() {
            let (mut payload, mut frames) = (Vec::new(), Vec::new());
            self.streams.write_early(&mut payload, len_max, &mut frames);
            if !frames.is_empty() {
                self.next_pn = 1;
                self.early = Some(Written { payload, frames });
            }
        }
        self.early.as_ref().map_or(&[], |written| &written.payload)
    }

    /// What became of the early data: it is in flight now, on the active path, or goes again. Before anything else is sent.
    pub(crate) fn settle_early(&mut self, now: Mono, was_taken: bool) {
        let Some(written) = self.early.take() else { return };
        let active =
            self.active.filter(|_| was_taken).and_then(|active| self.paths.iter_mut().find(|p| p.id == active));
        let Some(path) = active else {
            written.frames.into_iter().for_each(|frame| self.streams.on_frame_lost(frame));
            return;
        };
        let size = u32::try_from(written.payload.len() + PACKET_OVERHEAD).unwrap_or(u32::MAX);
        let packet = path.depart(now, SentPacket::new(path.id, now, size, false));
        self.draft_frames = written.frames;
        self.sent.insert(PacketNumber(0), packet, &mut path.list, &mut self.draft_frames);
        self.unanswered_since = self.unanswered_since.or(Some(now));
    }

    /// Delivers those streams of early data that may be a replay. The packet itself has not been received yet.
    pub(crate) fn handle_early(&mut self, early: &EarlyData) -> Result<(), super::TransportError> {
        let mut reader = Reader::new(&early.payload);
        while !reader.is_empty() {
            if let Frame::Stream(data) = Frame::decode(&mut reader)?
                && early.safe.contains(&data.stream)
            {
                // What cannot be kept comes again with the whole packet.
                let (Ok(()) | Err(_)) = self.streams.on_stream_data(data)?;
            }
        }
        Ok(())
    }

    /// Whether all open streams [only wait](Self::adopt_streams): they could be another transport's.
    pub(crate) fn only_waits(&self) -> bool {
        self.streams.only_wait()
    }

    /// Takes over streams that wait for a session: nothing was sent of them, early data apart. None was opened here.
    pub(crate) fn adopt_streams(&mut self, mut waiting: Self) {
        waiting.settle_early(Mono(0), false);
        self.streams.adopt(waiting.streams);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ServicePort;
    use crate::wire::frame::{self, Code};

    fn header(replay_safe: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = StreamHeader { replay_safe, ..StreamHeader::new(ServicePort::ECHO) };
        header.encode(&mut bytes).unwrap();
        bytes
    }

    fn put_stream(buf: &mut Vec<u8>, stream: u64, offset: u64, data: &[u8]) {
        frame::put_stream_header(buf, stream, offset, data.len(), false, false);
        buf.extend_from_slice(data);
    }

    /// The streams that may be delivered at once, if the rest is as it must be.
    fn safe(put: impl FnOnce(&mut Vec<u8>)) -> Option<Vec<u64>> {
        let mut payload = Vec::new();
        put(&mut payload);
        EarlyData::check(payload, true, |header| header.replay_safe).map(|early| early.safe)
    }

    #[test]
    fn only_streams_that_begin_with_a_safe_header_are_safe() {
        assert_eq!(safe(|buf| put_stream(buf, 4, 0, &header(true))), Some(vec![4]));
        assert_eq!(safe(|buf| put_stream(buf, 4, 0, &header(false))), Some(vec![]));
        assert_eq!(safe(|buf| put_stream(buf, 4, 1, &header(true))), Some(vec![]));
        assert_eq!(safe(|buf| put_stream(buf, 4, 0, &header(true)[..2])), Some(vec![]));
        let both = |buf: &mut Vec<u8>| {
            put_stream(buf, 0, 0, &header(false));
            put_stream(buf, 2, 0, &header(true));
        };
        assert_eq!(safe(both), Some(vec![2]));
        let second_thoughts = |buf: &mut Vec<u8>| {
            put_stream(buf, 0, 0, &header(false));
            put_stream(buf, 0, 0, &header(true));
        };
        assert_eq!(safe(second_thoughts), Some(vec![]));
    }

    #[test]
    fn what_breaks_the_rules_is_refused_as_a_whole() {
        let with = |put: &dyn Fn(&mut Vec<u8>)| {
            safe(|buf| {
                put_stream(buf, 0, 0, &header(true));
                put(buf);
            })
        };
        assert_eq!(with(&|_| {}), Some(vec![0]));
        assert_eq!(with(&frame::put_ping), None);
        assert_eq!(with(&|buf| frame::put_close(buf, Code::SHUTDOWN, "")), None);
        assert_eq!(with(&|buf| put_stream(buf, 1, 0, b"")), None, "a stream of the other side");
        assert_eq!(with(&|buf| put_stream(buf, 2 * EARLY_STREAMS, 0, b"")), None);
        assert_eq!(with(&|buf| put_stream(buf, 2, EARLY_CREDIT, b"x")), None);
        assert_eq!(with(&|buf| put_stream(buf, 2, EARLY_CREDIT - 1, b"x")), Some(vec![0]));
        assert_eq!(with(&|buf| buf.push(0x3F)), None, "no frame");
    }
}
