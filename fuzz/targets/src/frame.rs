//! Frames from a peer that holds the session's keys and respects nothing.

use std::time::Duration;

use arbitrary::Unstructured;
use bytes::Bytes;
use pilot_core::id::{PacketNumber, PathId, ServicePort, StreamId};
use pilot_core::time::Mono;
use pilot_core::transport::{PathParams, PeerLimits, Read, Transport, TransportConfig, TransportEvent};
use pilot_core::wire::INNER;
use pilot_core::wire::codec::Reader;
use pilot_core::wire::frame::{CANDIDATES_MAX, Frame, REASON_LEN_MAX};
use pilot_core::wire::stream_header::StreamHeader;
use pilot_core::wire::varint;

use crate::keys::START;

/// The only path.
const PATH: PathId = PathId(0);
/// Steps of one input: more would only make runs slow.
const STEPS_MAX: usize = 256;
/// Packets that a transport may produce without time going on. A correct one stops at its congestion window.
const PACKETS_AT_ONCE_MAX: usize = 10_000;
/// What the peer grants in its handshake: little, so that frames about credit matter.
const GRANTED: PeerLimits = PeerLimits { max_data: 4_096, max_stream_data: 1_024, max_streams: 2 };

/// Decodes the bytes as one payload, then plays them as packets and calls against a transport.
///
/// # Panics
/// If a frame is not what its layout allows, or the books of the transport are wrong while the peer has broken no rule.
pub fn frame(data: &[u8]) {
    decode(data);
    let mut play = Play::new();
    let mut input = Unstructured::new(data);
    for _ in 0..STEPS_MAX {
        if input.is_empty() || play.step(&mut input).is_err() {
            return;
        }
    }
}

fn decode(payload: &[u8]) {
    let mut reader = Reader::new(payload);
    while !reader.is_empty() {
        let before = reader.remaining();
        let Ok(frame) = Frame::decode(&mut reader) else { return };
        assert!(reader.remaining() < before, "every frame takes a byte");
        check(&frame, before - reader.remaining());
    }
}

fn check(frame: &Frame<'_>, len: usize) {
    match frame {
        Frame::Ack(ack) => {
            let mut below = ack.largest + 1;
            for (smallest, largest) in ack.ranges() {
                assert!(smallest <= largest && largest < below, "ranges descend and do not touch");
                below = smallest;
            }
            assert!(ack.ranges().count() <= len);
        }
        Frame::Reset { reason, .. } | Frame::StopSending { reason, .. } | Frame::Close { reason, .. } => {
            assert!(reason.len() <= REASON_LEN_MAX.min(len));
        }
        Frame::Stream(data) => assert!(data.offset + data.data.len() as u64 <= varint::MAX && data.data.len() < len),
        Frame::Candidates { candidates, .. } => assert!(candidates.len() <= CANDIDATES_MAX.min(len)),
        Frame::Datagram { data, .. } => assert!(data.len() < len),
        Frame::Padding
        | Frame::Ping
        | Frame::MaxData(_)
        | Frame::MaxStreamData { .. }
        | Frame::MaxStreams(_)
        | Frame::DataBlocked(_)
        | Frame::StreamDataBlocked { .. }
        | Frame::StreamsBlocked(_)
        | Frame::PathChallenge(_)
        | Frame::PathResponse(_)
        | Frame::ObservedAddress(_)
        | Frame::Ports { .. }
        | Frame::AckFrequency { .. } => {}
    }
}

/// The peer broke the protocol, or the input is at its end.
struct Over;

struct Play {
    transport: Transport,
    now: Mono,
    next_pn: u64,
    streams: Vec<StreamId>,
    /// Payload that has come, which bounds what may be kept of it.
    received: u64,
}

impl Play {
    fn new() -> Self {
        let mut transport = Transport::new(&TransportConfig::default(), true, GRANTED, START.mono);
        let params = PathParams { max_packet: INNER, probe_mtu_to: None, initial_rtt: None, is_proved: true };
        transport.add_path(PATH, params);
        transport.set_active_path(PATH);
        Self { transport, now: START.mono, next_pn: 0, streams: Vec::new(), received: 0 }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<(), Over> {
        let byte = |input: &mut Unstructured<'_>| input.arbitrary::<u8>().map_err(|_| Over);
        match byte(input)? % 10 {
            0..=3 => {
                let len = usize::from(byte(input)?).min(input.len());
                self.receive(input.bytes(len).map_err(|_| Over)?)?;
            }
            4 => self.streams.extend(self.transport.open_stream(&StreamHeader::new(ServicePort::ECHO)).ok()),
            5 => {
                let (stream, len) = (self.stream(byte(input)?), usize::from(byte(input)?) * 16);
                if let Some(stream) = stream {
                    // Refused writes are as good as others here: the books tell.
                    let _taken = self.transport.write(stream, &mut Bytes::from(vec![7; len]));
                }
            }
            6 => {
                let (stream, how) = (self.stream(byte(input)?), byte(input)?);
                if let Some(stream) = stream {
                    self.end(stream, how);
                }
            }
            7 => {
                let (stream, len) = (self.stream(byte(input)?), usize::from(byte(input)?) * 16);
                if let Some(stream) = stream {
                    let read = self.transport.read(stream, len);
                    assert!(
                        !matches!(read, Ok(Read::Data(data)) if data.len() > len.max(1)),
                        "more than was asked for"
                    );
                }
            }
            8 => self.next_pn += u64::from(byte(input)?),
            _ => self.now = self.now + Duration::from_millis(1 << (byte(input)? % 19)),
        }
        self.settle();
        Ok(())
    }

    fn receive(&mut self, payload: &[u8]) -> Result<(), Over> {
        self.received += payload.len() as u64;
        let pn = PacketNumber(self.next_pn);
        self.next_pn += 1;
        match self.transport.handle_packet(self.now, PATH, pn, false, payload) {
            Ok(()) => Ok(()),
            Err(error) => {
                // The tunnel closes: no book has to hold any more, but nothing may break either.
                self.transport.close(error.code(), "violation");
                self.send();
                Err(Over)
            }
        }
    }

    fn stream(&self, which: u8) -> Option<StreamId> {
        let count = self.streams.len();
        (count > 0).then(|| self.streams[usize::from(which) % count])
    }

    fn end(&mut self, stream: StreamId, how: u8) {
        let code = pilot_core::transport::Code::CANCELLED;
        match how % 3 {
            0 => {
                let _was_open = self.transport.finish(stream);
            }
            1 => self.transport.reset(stream, code, "enough"),
            _ => self.transport.stop_sending(stream, code, "enough"),
        }
    }

    /// Timers, events and output, then the books.
    fn settle(&mut self) {
        self.transport.handle_timeout(self.now);
        while let Some(event) = self.transport.poll_event() {
            if let TransportEvent::StreamOpened { stream, .. } = event {
                self.streams.push(stream);
            }
        }
        self.send();
        let audit = self.transport.audit();
        if let Err(violation) = audit.check(self.now) {
            panic!("{violation}");
        }
        let kept: u64 = audit.streams.iter().map(|stream| stream.receive_buffered).sum();
        assert!(kept <= self.received, "{kept} bytes are kept of {}", self.received);
    }

    fn send(&mut self) {
        let mut packet = Vec::new();
        for _ in 0..PACKETS_AT_ONCE_MAX {
            let Some(path) = self.transport.next_path(self.now) else { return };
            packet.clear();
            let Some(pn) = self.transport.poll_packet(self.now, path, &mut packet) else { return };
            assert!(packet.len() < INNER, "{} bytes of frames", packet.len());
            self.transport.packet_sealed(pn, pn.0 + 1);
            decode(&packet);
        }
        panic!("no end of output");
    }
}
