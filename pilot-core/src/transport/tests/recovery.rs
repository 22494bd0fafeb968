//! What loss, reordering and late timers do to a transfer, and how it is repaired.

use super::*;

#[test]
fn a_transfer_is_byte_exact_under_loss_reorder_and_duplication() {
    let bad = [
        Link { lost: 30, ..Link::default() },
        Link { jitter: 15 * MS, ..Link::default() },
        Link { duplicated: 100, ..Link::default() },
        Link { lost: 50, duplicated: 50, jitter: 30 * MS, ..Link::default() },
    ];
    for (seed, link) in bad.into_iter().enumerate() {
        let mut pair = Pair::new(seed as u64, link);
        let streams: Vec<_> = (0..4).map(|_| pair.send(150_000)).collect();
        streams.into_iter().for_each(|stream| {
            pair.run_until_finished(stream, 150_000);
        });
        pair.run_until_silent();
        assert_eq!(pair.sides[0].transport.open_stream_count() + pair.sides[1].transport.open_stream_count(), 0);
    }
}

#[test]
fn trap_1_a_path_that_drops_large_packets_carries_every_byte() {
    let params = PathParams { probe_mtu_to: Some(65_000), ..params() };
    let link = Link { len_max: 1_200, ..Link::default() };
    let mut pair = Pair::with_config(1, link, &TransportConfig::default(), params);
    let stream = pair.send(300_000);
    pair.run_until_finished(stream, 300_000);
    let stats = pair.stats(0, RELAY);
    assert_eq!((stats.mtu, stats.lost_packets), (PACKET_LEN_MIN, 0), "lost probes are no loss of data");
    assert_eq!(pair.largest_sent, 1_452, "probed, and given up");
}

#[test]
fn trap_2_one_loss_costs_one_retransmission() {
    let mut pair = Pair::new(2, Link::default());
    let stream = pair.send(3_000_000);
    pair.lose = 701..702;
    pair.run_until_finished(stream, 3_000_000);
    assert_eq!(pair.stats(0, RELAY).lost_packets, 1);
}

#[test]
fn trap_3_an_outage_is_repaired_by_the_window_not_one_packet_a_timeout() {
    let mut pair = Pair::new(3, Link::default());
    let stream = pair.send(2_000_000);
    pair.run("half of the data", |pair| pair.sides[1].received.values().map(Vec::len).sum::<usize>() > 1_000_000);
    pair.link(RELAY).blocked = [true, true];
    pair.run_for(Duration::from_secs(2));
    pair.link(RELAY).blocked = [false, false];
    let time = pair.run_until_finished(stream, 2_000_000);
    assert!(time < Duration::from_secs(8), "{time:?} after the outage");
}

#[test]
fn trap_4_bytes_in_flight_hold_through_transfers_at_two_percent_loss() {
    for seed in 0..5 {
        let mut pair = Pair::new(seed, Link { lost: 20, jitter: 2 * MS, ..Link::default() });
        let stream = pair.send(1_000_000);
        pair.run_until_finished(stream, 1_000_000);
        pair.run_until_silent();
        assert_eq!(pair.stats(0, RELAY).bytes_in_flight, 0);
    }
}

#[test]
fn trap_5_chunks_and_replies_wait_for_no_delayed_acknowledgement() {
    let mut pair = Pair::new(5, Link::default());
    pair.sides[1].echoes = true;
    let warm_up = pair.send(500_000);
    pair.run("slow start to be over both ways", |pair| pair.sides[0].finished.contains(&warm_up));
    let stream = pair.open(0);
    let all = pattern(10 * 48 * 1024);
    for chunk in 1..=10 {
        let mut data = all.slice((chunk - 1) * 48 * 1024..chunk * 48 * 1024);
        pair.sides[0].transport.write(stream, &mut data).unwrap();
        assert!(data.is_empty());
        let echoed = chunk * 48 * 1024;
        let time =
            pair.run("the echo", |pair| pair.sides[0].received.get(&stream).is_some_and(|data| data.len() == echoed));
        assert!(time < 70 * MS, "chunk {chunk} took {time:?} at a round trip of 40 ms");
    }
}

#[test]
fn trap_6_a_full_send_buffer_is_backpressure() {
    let config = TransportConfig::default().send_buffer(20_000).stream_window(30_000);
    let mut pair = Pair::with_config(6, Link { lost: 10, ..Link::default() }, &config, params());
    pair.sides[1].echoes = true;
    let stream = pair.send(400_000);
    pair.run("the echo", |pair| pair.sides[0].finished.contains(&stream));
    assert_eq!(pair.sides[0].received[&stream].len(), 400_000);
    assert!(
        pair.sides[1].has(&TransportEvent::Writable(stream)) && pair.sides[0].has(&TransportEvent::Writable(stream))
    );
}

#[test]
fn trap_7_every_stream_ends_and_then_nothing_is_sent() {
    for seed in 0..10 {
        let mut pair = Pair::new(seed, Link { lost: 100, ..Link::default() });
        let streams: Vec<_> = (0..4).map(|_| pair.send(2_000)).collect();
        pair.sides[0].transport.reset(streams[1], Code::CANCELLED, "no longer wanted");
        pair.sides[0].transport.stop_sending(streams[1], Code::CANCELLED, "");
        pair.sides[0].transport.stop_sending(streams[2], Code::CANCELLED, "");
        pair.run("both sides to forget all streams", |pair| {
            pair.sides.iter().all(|side| side.transport.open_stream_count() == 0)
        });
        pair.run_until_silent();
        assert!(streams.iter().all(|stream| pair.sides[0].has(&TransportEvent::StreamClosed(*stream))));
        assert!(pair.sides.iter().all(|side| !side.transport.has_unfinished_work()));
    }
}

#[test]
fn the_loss_of_the_last_packet_is_repaired_after_a_probe_timeout() {
    let mut pair = Pair::new(8, Link::default());
    let warm_up = pair.send(100);
    pair.run_until_finished(warm_up, 100);
    pair.run_until_silent();
    let stream = pair.send(500);
    pair.lose = pair.sent_count..pair.sent_count + 1;
    let time = pair.run_until_finished(stream, 500);
    assert!(time < 300 * MS, "{time:?}");
    assert!(pair.sides[0].has(&TransportEvent::PtoExpired { path: RELAY, count: 1 }));
}

/// Acknowledgements wait in the socket of a process that is not running. Its timer may be the first that it looks at.
#[test]
fn the_time_that_a_process_slept_is_no_round_trip() {
    for is_timer_first in [false, true] {
        let mut pair = Pair::new(9, Link::default());
        let warm_up = pair.send(10_000);
        pair.run_until_finished(warm_up, 10_000);
        pair.run_until_silent();
        let before = pair.stats(0, RELAY).rtt;
        for _ in 0..2 {
            pair.send(500);
            pair.run_for(10 * MS);
        }
        pair.run("two acknowledgements to be on their way", |pair| {
            pair.packets.values().filter(|packet| packet.to == 0).count() == 2
        });
        let awake = pair.now + Duration::from_secs(20);
        let waiting: Vec<_> = std::mem::take(&mut pair.packets).into_values().collect();
        let transport = &mut pair.sides[0].transport;
        if is_timer_first {
            transport.handle_timeout(awake);
        }
        for packet in waiting {
            transport.handle_packet(awake, packet.path, packet.pn, false, &packet.payload).unwrap();
        }
        assert_eq!(pair.stats(0, RELAY).rtt, before);
    }
}

#[test]
fn a_request_and_its_reply_take_one_round_trip() {
    let mut pair = Pair::new(9, Link::default());
    pair.sides[1].echoes = true;
    let stream = pair.send(64);
    let time = pair.run("the reply", |pair| pair.sides[0].finished.contains(&stream));
    assert_eq!(time, 40 * MS);
}

#[test]
fn the_search_for_a_larger_packet_climbs_while_data_flows() {
    let params = PathParams { probe_mtu_to: Some(65_000), ..params() };
    let link = Link { len_max: 9_000, ..Link::default() };
    let mut pair = Pair::with_config(10, link, &TransportConfig::default(), params);
    let stream = pair.send(4_000_000);
    pair.run_until_finished(stream, 4_000_000);
    assert_eq!(pair.stats(0, RELAY).mtu, 8_952);
    assert!(pair.sides[0].has(&TransportEvent::MtuProved { path: RELAY, mtu: 8_952 }));
    assert_eq!(pair.stats(0, RELAY).lost_packets, 0);
}

/// Within one machine that is busy: packets of 65,000 bytes, and round trips that vary.
#[test]
fn an_answer_does_not_wait_for_what_the_search_for_a_larger_packet_has_sent() {
    let params = PathParams { probe_mtu_to: Some(65_000), ..params() };
    for seed in 0..400 {
        let link = Link { delay: MS / 20, jitter: 10 * MS, ..Link::default() };
        let mut pair = Pair::with_config(seed, link, &TransportConfig::default(), params);
        pair.sides[1].echoes = true;
        // Longer than a packet: the search has something to find.
        let stream = pair.send(4_000);
        pair.run("the reply", |pair| pair.sides[0].finished.contains(&stream));
        pair.sides[1].reads = false;
        let stream = pair.send(64);
        pair.sides[1].transport.ping(RELAY);
        pair.run_for(seed as u32 % 60 * MS);
        pair.sides[1].reads = true;
        pair.sides[1].read(stream);
        let time = pair.run("the reply", |pair| pair.sides[0].finished.contains(&stream));
        assert!(time < 50 * MS, "{time:?} with seed {seed}");
    }
}

#[test]
fn a_black_hole_behind_a_proved_size_is_escaped() {
    let params = PathParams { probe_mtu_to: Some(9_000), ..params() };
    let mut pair = Pair::with_config(11, Link::default(), &TransportConfig::default(), params);
    let stream = pair.send(6_000_000);
    pair.run("the larger size", |pair| pair.stats(0, RELAY).mtu == 8_952);
    pair.link(RELAY).len_max = 1_500;
    pair.run_until_finished(stream, 6_000_000);
    assert_eq!(pair.stats(0, RELAY).mtu, PACKET_LEN_MIN);
}

#[test]
fn a_late_wakeup_handles_the_probe_timeout_behind_a_loss_at_once() {
    let start = Mono(1_000_000_000);
    let limits = PeerLimits { max_data: 1 << 20, max_stream_data: 1 << 20, max_streams: 8 };
    let mut transport = Transport::new(&TransportConfig::default(), true, limits, start);
    transport.add_path(RELAY, PathParams { max_packet: 1_152, probe_mtu_to: None, initial_rtt: None, is_proved: true });
    transport.set_active_path(RELAY);
    let stream = transport.open_stream(&StreamHeader::new(ServicePort::ECHO)).expect("room");
    for sent in 0..3 {
        transport.write(stream, &mut Bytes::from_static(b"word")).expect("open");
        let now = start + MS * sent;
        assert_eq!(transport.next_path(now), Some(RELAY));
        assert_eq!(transport.poll_packet(now, RELAY, &mut Vec::new()), Some(PacketNumber(sent.into())));
    }
    // An acknowledgement of the second packet only: the first waits for its loss, the third for its probe.
    let acked = transport.handle_packet(start + MS * 20, RELAY, PacketNumber(0), false, &[0x02, 1, 0, 0, 0]);
    assert_eq!(acked, Ok(()));
    assert!(transport.audit().timers.iter().any(|(kind, _)| *kind == TimerKind::Loss));

    let late = start + MS * 60_000;
    transport.handle_timeout(late);
    assert_eq!(transport.audit().check(late), Ok(()));
}
