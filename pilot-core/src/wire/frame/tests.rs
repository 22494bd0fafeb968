use proptest::prelude::*;

use super::*;

/// One of each frame that says where it ends, encoded.
fn one_of_each() -> Vec<(Vec<u8>, &'static str)> {
    let v4 = "192.0.2.1:4433".parse().unwrap();
    let v6 = "[2001:db8::7]:9".parse().unwrap();
    let candidates = [
        Candidate { kind: CandidateKind::Host, address: v4 },
        Candidate { kind: CandidateKind::ServerReflexive, address: v6 },
        Candidate { kind: CandidateKind::PeerReflexive, address: v4 },
        Candidate { kind: CandidateKind::Mapped, address: v6 },
    ];
    let encode = |name, put: &dyn Fn(&mut Vec<u8>)| {
        let mut buf = Vec::new();
        put(&mut buf);
        (buf, name)
    };
    vec![
        encode("PING", &put_ping),
        encode("ACK", &|buf| assert_eq!(put_ack(buf, 100, &[2..4, 7..8, 9..300], 1_000, 0), Some(2))),
        encode("ACK_ECN", &|buf| assert_eq!(put_ack(buf, 100, &[0..1, 9..300], 0, 70), Some(0))),
        encode("RESET", &|buf| put_reset(buf, 6, Code::REFUSED, 70_000, "not on the list")),
        encode("STOP_SENDING", &|buf| put_stop_sending(buf, 6, Code(77), "")),
        encode("STREAM", &|buf| {
            put_stream_header(buf, 9, 5_000_000_000, 3, true, false);
            buf.extend_from_slice(b"abc");
        }),
        encode("STREAM at 0", &|buf| {
            put_stream_header(buf, 9, 0, 3, false, false);
            buf.extend_from_slice(b"abc");
        }),
        encode("MAX_DATA", &|buf| put_max_data(buf, 1 << 40)),
        encode("MAX_STREAM_DATA", &|buf| put_max_stream_data(buf, 4, 1 << 20)),
        encode("MAX_STREAMS", &|buf| put_max_streams(buf, 1_024)),
        encode("DATA_BLOCKED", &|buf| put_data_blocked(buf, 63)),
        encode("STREAM_DATA_BLOCKED", &|buf| put_stream_data_blocked(buf, 64, 16_384)),
        encode("STREAMS_BLOCKED", &|buf| put_streams_blocked(buf, 16)),
        encode("PATH_CHALLENGE", &|buf| put_path_challenge(buf, *b"8 bytes.")),
        encode("PATH_RESPONSE", &|buf| put_path_response(buf, *b"8 bytes.")),
        encode("CLOSE", &|buf| put_close(buf, Code::SHUTDOWN, "good night")),
        encode("CANDIDATES", &|buf| put_candidates(buf, 3, &candidates)),
        encode("OBSERVED_ADDRESS", &|buf| put_observed_address(buf, v6)),
        encode("ACK_FREQUENCY", &|buf| put_ack_frequency(buf, 10, 25_000)),
        encode("PORTS random", &|buf| {
            put_ports(buf, 4, Ports::Random { set: PortSet::new(0xff00, 0x5000), sockets: 64 });
        }),
        encode("PORTS sequence", &|buf| put_ports(buf, 5, Ports::Sequence { next: 4_001, step: -1 })),
        encode("DATAGRAM", &|buf| put_datagram(buf, ServicePort::ECHO, b"hello")),
    ]
}

fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut buf = Vec::new();
    match frame {
        Frame::Padding => put_padding(&mut buf, 1),
        Frame::Ping => put_ping(&mut buf),
        Frame::Ack(ack) => {
            let mut ranges: Vec<_> = ack.ranges().map(|(smallest, largest)| smallest..largest + 1).collect();
            ranges.reverse();
            assert!(put_ack(&mut buf, usize::MAX, &ranges, ack.delay_us, ack.ce_count.unwrap_or(0)).is_some());
        }
        Frame::Reset { stream, code, final_size, reason } => put_reset(&mut buf, *stream, *code, *final_size, reason),
        Frame::StopSending { stream, code, reason } => put_stop_sending(&mut buf, *stream, *code, reason),
        Frame::Stream(StreamData { stream, offset, data, fin }) => {
            put_stream_header(&mut buf, *stream, *offset, data.len(), *fin, false);
            buf.extend_from_slice(data);
        }
        Frame::MaxData(max) => put_max_data(&mut buf, *max),
        Frame::MaxStreamData { stream, max } => put_max_stream_data(&mut buf, *stream, *max),
        Frame::MaxStreams(max) => put_max_streams(&mut buf, *max),
        Frame::DataBlocked(max) => put_data_blocked(&mut buf, *max),
        Frame::StreamDataBlocked { stream, max } => put_stream_data_blocked(&mut buf, *stream, *max),
        Frame::StreamsBlocked(max) => put_streams_blocked(&mut buf, *max),
        Frame::PathChallenge(data) => put_path_challenge(&mut buf, *data),
        Frame::PathResponse(data) => put_path_response(&mut buf, *data),
        Frame::Close { code, reason } => put_close(&mut buf, *code, reason),
        Frame::Candidates { generation, candidates } => put_candidates(&mut buf, *generation, candidates),
        Frame::ObservedAddress(address) => put_observed_address(&mut buf, *address),
        Frame::Ports { generation, ports } => put_ports(&mut buf, *generation, *ports),
        Frame::AckFrequency { threshold, max_ack_delay_us } => {
            put_ack_frequency(&mut buf, *threshold, *max_ack_delay_us);
        }
        Frame::Datagram { port, data } => put_datagram(&mut buf, *port, data),
    }
    buf
}

#[test]
fn every_frame_round_trips_and_every_truncation_is_refused() {
    for (bytes, name) in one_of_each() {
        let mut reader = Reader::new(&bytes);
        let frame = Frame::decode(&mut reader).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(reader.is_empty(), "{name}");
        assert_eq!(encode(&frame), bytes, "{name}");
        for end in 0..bytes.len() {
            assert_eq!(
                Frame::decode(&mut Reader::new(&bytes[..end])),
                Err(DecodeError::Truncated),
                "{name} cut at {end}"
            );
        }
    }
}

#[test]
fn the_vectors_decode_as_they_say() {
    let text = include_str!("../../../../spec/vectors/frames.txt");
    let mut seen = 0;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (hex, meaning) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.replace(' ', "").as_bytes()).unwrap();
        let decoded = match Frame::decode(&mut Reader::new(&bytes)) {
            Ok(Frame::Ack(ack)) => {
                format!("Ack {:?} delay {} ce {:?}", ack.ranges().collect::<Vec<_>>(), ack.delay_us, ack.ce_count)
            }
            Ok(frame) => format!("{frame:?}"),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(decoded, meaning, "{hex}");
        seen += 1;
    }
    assert!(seen >= 20, "only {seen} vectors");
}

#[test]
fn stream_data_without_length_takes_the_rest_of_the_payload() {
    let mut buf = Vec::new();
    put_stream_header(&mut buf, 1, 64, 4, false, true);
    assert_eq!(buf.len(), stream_header_len(1, 64));
    buf.extend_from_slice(b"rest");
    let frame = Frame::decode(&mut Reader::new(&buf)).unwrap();
    assert_eq!(frame, Frame::Stream(StreamData { stream: 1, offset: 64, data: b"rest", fin: false }));
}

#[test]
fn a_run_of_padding_is_one_frame() {
    let mut reader = Reader::new(&[0, 0, 0, 1]);
    assert_eq!(Frame::decode(&mut reader), Ok(Frame::Padding));
    assert_eq!(Frame::decode(&mut reader), Ok(Frame::Ping));
    assert!(reader.is_empty());
}

#[test]
fn an_ack_that_does_not_fit_reports_the_largest_packets() {
    let ranges: Vec<_> = (0..100u64).map(|i| i * 10..i * 10 + 5).collect();
    let mut buf = Vec::new();
    let smallest = put_ack(&mut buf, 40, &ranges, 0, 0).unwrap();
    assert!(buf.len() <= 40);
    let Ok(Frame::Ack(ack)) = Frame::decode(&mut Reader::new(&buf)) else { panic!() };
    assert_eq!(ack.ranges().next(), Some((990, 994)));
    assert_eq!(ack.ranges().last().map(|(smallest, _)| smallest), Some(smallest));
    assert!(smallest > 0);
    assert_eq!(put_ack(&mut Vec::new(), 4, &ranges, 0, 0), None);
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let reason = "ä".repeat(200);
    let mut buf = Vec::new();
    put_close(&mut buf, Code::BUSY, &format!("x{reason}"));
    let Ok(Frame::Close { reason, .. }) = Frame::decode(&mut Reader::new(&buf)) else { panic!() };
    assert_eq!(reason.len(), 255);
}

#[test]
fn codes_have_names_both_ways() {
    assert_eq!(Code::PEER_RESTARTED.name(), Some("peer_restarted"));
    assert_eq!(Code::from_name("refused"), Some(Code::REFUSED));
    assert_eq!(Code(4_000).to_string(), "code_4000");
}

proptest! {
    #[test]
    fn no_payload_panics_and_what_decodes_can_be_encoded(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut reader = Reader::new(&bytes);
        while !reader.is_empty() {
            let Ok(frame) = Frame::decode(&mut reader) else { break };
            let again = encode(&frame);
            prop_assert_eq!(Frame::decode(&mut Reader::new(&again)).map(|frame| encode(&frame)), Ok(again.clone()));
        }
    }
}
