//! A bare transport that is fed frames, those of a peer that breaks the rules among them.

use proptest::prelude::*;

use super::*;

/// A side that hears what no honest peer says.
fn listener() -> Transport {
    let config = TransportConfig::default().stream_window(1_000).tunnel_window(1_500).max_streams(2);
    let mut transport = Transport::new(&config, false, config.local_limits(), Mono(0));
    transport.add_path(RELAY, params());
    transport.set_active_path(RELAY);
    transport
}

fn hear(transport: &mut Transport, pn: u64, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), TransportError> {
    let mut payload = Vec::new();
    put(&mut payload);
    transport.handle_packet(Mono(pn), RELAY, PacketNumber(pn), false, &payload)
}

fn stream_frame(stream: u64, offset: u64, data: &'static [u8], fin: bool) -> impl FnOnce(&mut Vec<u8>) {
    move |buf| {
        frame::put_stream_header(buf, stream, offset, data.len(), fin, true);
        buf.extend_from_slice(data);
    }
}

#[test]
fn a_peer_that_breaks_the_rules_is_told_which() {
    type Case<'a> = (&'a dyn Fn(&mut Vec<u8>), TransportError);
    let cases: [Case<'_>; 7] = [
        (&|buf| buf.push(0x3F), TransportError::Frame(crate::wire::codec::DecodeError::UnknownType(0x3F))),
        (&|buf| stream_frame(0, 1_000, b"x", false)(buf), TransportError::FlowControl),
        (&|buf| stream_frame(4, 0, b"x", false)(buf), TransportError::StreamLimit),
        (&|buf| stream_frame(1, 0, b"x", false)(buf), TransportError::Violation("stream that was never opened")),
        (&|buf| frame::put_reset(buf, 0, Code::CANCELLED, 1_001, ""), TransportError::FlowControl),
        (
            &|buf| assert_eq!(frame::put_ack(buf, 50, &[0..1, 3..5], 0, 0), Some(0)),
            TransportError::Violation("acknowledgement of a packet that was never sent"),
        ),
        (
            &|buf| {
                frame::put_stream_header(buf, 0, 100, 1, true, false);
                buf.push(1);
                stream_frame(0, 200, b"x", false)(buf);
            },
            TransportError::FinalSize,
        ),
    ];
    for (index, (put, expected)) in cases.into_iter().enumerate() {
        assert_eq!(hear(&mut listener(), 0, put), Err(expected), "case {index}");
    }
}

/// It would open the congestion window wide. The number left out tells who has received nothing (RFC 9000 §21.4).
#[test]
fn a_peer_that_acknowledges_blindly_is_found_out() {
    let mut transport = listener();
    let stream = transport.open_stream(&StreamHeader::new(ServicePort::ECHO)).unwrap();
    let mut sent = Vec::new();
    for turn in 0..4u64 {
        transport.write(stream, &mut pattern(100)).unwrap();
        let pn = transport.poll_packet(Mono(turn), RELAY, &mut Vec::new()).unwrap();
        transport.packet_sealed(pn, if turn == 1 { PACKETS_PER_SKIP } else { 1 });
        sent.push(pn.0);
    }
    assert_eq!(sent, [0, 1, 3, 4]);
    let blind = Err(TransportError::Violation("acknowledgement of a packet that was never sent"));
    let ack = |ranges: &'static [Range<u64>]| {
        move |buf: &mut Vec<u8>| assert!(frame::put_ack(buf, 50, ranges, 0, 0).is_some())
    };
    assert_eq!(hear(&mut transport, 0, ack(&[0..2, 3..5])), Ok(()));
    #[expect(clippy::single_range_in_vec_init, reason = "one range of packets")]
    let blindly = ack(&[0..5]);
    assert_eq!(hear(&mut transport, 1, blindly), blind);
}

#[test]
fn the_tunnel_credit_covers_all_streams() {
    let mut transport = listener();
    assert_eq!(hear(&mut transport, 0, stream_frame(0, 999, b"x", false)), Ok(()));
    assert_eq!(hear(&mut transport, 1, stream_frame(2, 499, b"x", false)), Ok(()));
    assert_eq!(hear(&mut transport, 2, stream_frame(2, 500, b"x", false)), Err(TransportError::FlowControl));
}

#[test]
fn one_stalled_stream_does_not_stop_the_others() {
    let mut pair = Pair::new(30, Link::default());
    pair.sides[1].reads = false;
    pair.send(200_000);
    pair.run_for(Duration::from_secs(1));
    let second = pair.open(0);
    pair.sides[0].transport.write(second, &mut pattern(2_000)).unwrap();
    pair.run("the second stream", |pair| {
        pair.sides[1].transport.audit().streams.iter().any(|stream| stream.stream == second && stream.received > 2_000)
    });
}

#[test]
fn a_window_that_is_read_from_keeps_ahead_of_slow_start() {
    let mut pair = Pair::new(31, Link { delay: 50 * MS, ..Link::default() });
    let stream = pair.send(4 << 20);
    // With all the credit from the start it takes 888 ms: slow start, not the credit, is what a bulk transfer waits for.
    let time = pair.run_until_finished(stream, 4 << 20);
    assert!(time < 950 * MS, "{time:?}");
}

#[test]
fn very_many_tiny_gaps_cost_neither_the_tunnel_nor_memory() {
    let config = TransportConfig::default().tunnel_window(32 * 1_024);
    let mut transport = Transport::new(&config, false, config.local_limits(), Mono(0));
    transport.add_path(RELAY, params());
    for pn in 0..1_000 {
        let offset = 1 + pn * 2;
        assert_eq!(hear(&mut transport, pn, stream_frame(0, offset, b"x", false)), Ok(()));
    }
    let audit = transport.audit();
    assert_eq!((audit.gap_chunks, audit.gap_chunks_max), (32, 32));
    let mut payload = Vec::new();
    transport.set_active_path(RELAY);
    transport.poll_packet(Mono(2_000), RELAY, &mut payload).unwrap();
    let Ok(Frame::Ack(ack)) = Frame::decode(&mut Reader::new(&payload)) else { panic!("no ACK") };
    assert_eq!(ack.largest, 31, "what was not kept is not acknowledged");
}

#[test]
fn a_stream_without_a_readable_header_is_refused_and_never_shown() {
    for (data, fin) in [(&b"\x03\x00\x07\x10"[..], false), (&b"\x09abc"[..], true)] {
        let mut transport = listener();
        assert_eq!(hear(&mut transport, 0, stream_frame(0, 0, data, fin)), Ok(()));
        assert_eq!(transport.poll_event(), None);
        let mut payload = Vec::new();
        transport.poll_packet(Mono(1), RELAY, &mut payload).unwrap();
        let mut reader = Reader::new(&payload);
        let frames: Vec<_> = std::iter::from_fn(|| Frame::decode(&mut reader).ok()).collect();
        assert!(frames.iter().any(|frame| matches!(frame, Frame::Reset { code: Code::BAD_REQUEST, .. })), "{frames:?}");
    }
}

proptest! {
    #[test]
    fn no_payload_panics_or_leaves_the_books_wrong(
        payloads in proptest::collection::vec(proptest::collection::vec(0..0x40u8, 0..40), 1..30),
    ) {
        let mut transport = listener();
        let stream = transport.open_stream(&StreamHeader::new(ServicePort::ECHO)).unwrap();
        for (pn, payload) in (0u64..).zip(payloads) {
            let now = Mono(pn * 7_000_000);
            if transport.handle_packet(now, RELAY, PacketNumber(pn), false, &payload).is_err() {
                break;
            }
            let _taken = transport.write(stream, &mut Bytes::from_static(b"data"));
            transport.handle_timeout(now);
            while let Some(path) = transport.next_path(now) {
                prop_assert!(transport.poll_packet(now, path, &mut Vec::new()).is_some());
            }
            prop_assert_eq!(transport.audit().check(now), Ok(()));
        }
    }
}

#[test]
fn a_stream_that_awaits_its_header_is_not_told_of() {
    let mut transport = Transport::new(&TransportConfig::default(), true, PeerLimits::UNKNOWN, Mono(0));
    let mut payload = Vec::new();
    frame::put_stream_header(&mut payload, 1, 1_000, 4, false, true);
    payload.extend(b"tail");
    assert_eq!(transport.handle_packet(Mono(0), RELAY, PacketNumber(0), false, &payload), Ok(()));
    assert_eq!((transport.open_stream_count(), transport.streams().count()), (1, 0));
    assert!(transport.poll_event().is_none());
}
