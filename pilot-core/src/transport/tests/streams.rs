//! What a stream tells its user: stalls, resets, limits, priorities, its end.

use super::*;

#[test]
fn a_silent_peer_stalls_the_stream_and_resumes_it() {
    let mut pair = Pair::new(16, Link::default());
    let stream = pair.send(10);
    pair.sides[1].reads = false;
    pair.run("the answer", |pair| pair.stats(0, RELAY).rtt.is_some());
    pair.link(RELAY).blocked = [true, true];
    pair.sides[0].transport.ping(RELAY);
    pair.run_for(Duration::from_millis(5_100));
    assert!(pair.sides[0].has(&TransportEvent::Stalled(stream)));
    pair.link(RELAY).blocked = [false, false];
    pair.run("its return", |pair| pair.sides[0].has(&TransportEvent::Resumed(stream)));
}

#[test]
fn a_stream_opened_to_a_silent_peer_is_stalled_like_the_others() {
    let mut pair = Pair::new(16, Link::default());
    pair.open(0);
    pair.run("the answer", |pair| pair.stats(0, RELAY).rtt.is_some());
    pair.link(RELAY).blocked = [true, true];
    pair.sides[0].transport.ping(RELAY);
    pair.run_for(Duration::from_millis(5_100));
    let late = pair.open(0);
    pair.sides[0].work();
    assert!(pair.sides[0].has(&TransportEvent::Stalled(late)));
    pair.link(RELAY).blocked = [false, false];
    pair.run("its return", |pair| pair.sides[0].has(&TransportEvent::Resumed(late)));
}

#[test]
fn a_peer_that_never_returns_ends_the_tunnel_at_the_idle_timeout() {
    let mut pair = Pair::new(17, Link { blocked: [true, true], ..Link::default() });
    pair.send(10);
    pair.run_for(Duration::from_secs(179));
    let closed = TransportEvent::Closed { code: Code::TIMEOUT, reason: "no answer for the idle timeout".to_owned() };
    assert!(!pair.sides[0].has(&closed));
    pair.run_for(Duration::from_secs(2));
    pair.sides[0].work();
    assert!(pair.sides[0].has(&closed) && pair.sides[0].transport.poll_timeout().is_none());
}

#[test]
fn a_reset_reaches_the_peer_with_its_reason() {
    let mut pair = Pair::new(18, Link { lost: 200, ..Link::default() });
    let stream = pair.open(0);
    pair.run("the stream", |pair| pair.sides[1].transport.open_stream_count() == 1);
    pair.sides[1].transport.reset(stream, Code::REFUSED, "ask for --allow public");
    pair.sides[1].transport.stop_sending(stream, Code::REFUSED, "ask for --allow public");
    let reason = "ask for --allow public".to_owned();
    let reset = TransportEvent::Reset { stream, code: Code::REFUSED, reason: reason.clone() };
    let stop = TransportEvent::StopSending { stream, code: Code::REFUSED, reason };
    pair.run("the reset", |pair| pair.sides[0].has(&reset) && pair.sides[0].has(&stop));
    pair.run_until_silent();
    assert_eq!(pair.sides[0].transport.open_stream_count() + pair.sides[1].transport.open_stream_count(), 0);
}

#[test]
fn streams_beyond_the_limit_wait_until_others_are_closed() {
    let config = TransportConfig::default().max_streams(2);
    let mut pair = Pair::with_config(19, Link::default(), &config, params());
    for _ in 0..5 {
        let streams = [pair.send(100), pair.send(100)];
        let refused = pair.sides[0].transport.open_stream(&StreamHeader::new(ServicePort::ECHO));
        assert_eq!(refused, Err(OpenStreamError::Limit));
        streams.into_iter().for_each(|stream| {
            pair.run_until_finished(stream, 100);
        });
        pair.run_until_silent();
    }
}

#[test]
fn a_reader_that_does_not_read_stops_the_sender_at_its_credit() {
    let config = TransportConfig::default().stream_window(20_000);
    let mut pair = Pair::with_config(20, Link::default(), &config, params());
    pair.sides[1].reads = false;
    let stream = pair.send(200_000);
    pair.run_for(Duration::from_secs(3));
    let audit = pair.sides[1].transport.audit();
    assert_eq!(audit.streams[0].received, 20_000);
    pair.sides[1].reads = true;
    // The application reads without having been called: what an event says was said before.
    pair.run_until_finished(stream, 200_000);
}

#[test]
fn urgent_streams_go_first() {
    let mut pair = Pair::new(21, Link::default());
    let bulk = pair.send(500_000);
    let urgent = StreamHeader { urgency: 0, ..StreamHeader::new(ServicePort::QUERY) };
    pair.run_for(50 * MS);
    let stream = pair.sides[0].transport.open_stream(&urgent).unwrap();
    pair.sides[0].to_write.insert(stream, pattern(2_000));
    let time = pair.run_until_finished(stream, 2_000);
    assert!(time < 80 * MS, "{time:?}");
    assert!(!pair.sides[1].finished.contains(&bulk));
}

#[test]
fn streams_that_rested_go_on_where_they_were_and_end() {
    let mut pair = Pair::new(26, Link { lost: 50, duplicated: 50, jitter: 30 * MS, ..Link::default() });
    let streams: Vec<_> = (0..40).map(|_| pair.open(0)).collect();
    let say = |pair: &mut Pair, side: usize, range: Range<usize>| {
        for stream in &streams {
            let taken = pair.sides[side].transport.write(*stream, &mut pattern(1_000).slice(range.clone()));
            assert_eq!(taken, Ok(range.len()));
        }
        pair.run_until_silent();
    };
    say(&mut pair, 0, 0..400);
    say(&mut pair, 1, 0..700);
    // Who was called has said all; the caller, which answers that with its own end once it reads it, goes on.
    pair.sides[0].reads = false;
    streams.iter().for_each(|stream| pair.sides[1].transport.finish(*stream).unwrap());
    pair.run_until_silent();
    say(&mut pair, 0, 400..1_000);
    let received = |side: &Side, len: usize| streams.iter().all(|stream| side.received[stream].len() == len);
    assert!(received(&pair.sides[1], 1_000) && received(&pair.sides[0], 700));
    assert!(pair.sides.iter().all(|side| side.transport.open_stream_count() == 40));

    pair.sides[0].reads = true;
    pair.run_until_silent();
    assert!(pair.sides.iter().all(|side| side.transport.open_stream_count() == 0));
}

#[test]
fn a_stream_at_rest_reports_that_it_stalls() {
    let mut pair = Pair::new(27, Link::default());
    let streams: Vec<_> = (0..8).map(|_| pair.open(0)).collect();
    pair.run_until_silent();
    pair.link(RELAY).blocked = [true, true];
    pair.sides[0].transport.ping(RELAY);
    pair.run_for(Duration::from_millis(5_100));
    assert!(streams.iter().all(|stream| pair.sides[0].has(&TransportEvent::Stalled(*stream))));
    pair.link(RELAY).blocked = [false, false];
    pair.run("its return", |pair| streams.iter().all(|stream| pair.sides[0].has(&TransportEvent::Resumed(*stream))));
}

#[test]
fn streams_opened_before_the_handshake_go_when_the_limits_are_known() {
    let mut pair = Pair::new(22, Link::default());
    let config = TransportConfig::default();
    pair.sides[0].transport = Transport::new(&config, true, PeerLimits::UNKNOWN, pair.now);
    pair.sides[0].transport.add_path(RELAY, params());
    pair.sides[0].transport.set_active_path(RELAY);
    let stream = pair.send(5_000);
    pair.settle();
    assert_eq!((pair.sent_count, pair.next_at()), (0, None));
    pair.sides[0].transport.set_peer_limits(config.local_limits());
    pair.run_until_finished(stream, 5_000);
}

#[test]
fn a_packet_in_flight_is_known_by_number_and_tag_until_it_is_acknowledged() {
    let mut pair = Pair::new(23, Link::default());
    let transport = &mut pair.sides[0].transport;
    transport.ping(RELAY);
    let mut payload = Vec::new();
    let pn = transport.poll_packet(pair.now, RELAY, &mut payload).unwrap();
    transport.packet_sealed(pn, 0xABCD);
    assert!(transport.is_in_flight(pn, 0xABCD) && !transport.is_in_flight(pn, 1));
    pair.carry(0, RELAY, pn, payload);
    pair.run_until_silent();
    assert!(!pair.sides[0].transport.is_in_flight(pn, 0xABCD));
}

#[test]
fn datagrams_arrive_or_not_but_never_twice() {
    let mut pair = Pair::new(24, Link { lost: 200, duplicated: 200, ..Link::default() });
    for number in 0..60u8 {
        pair.sides[0].transport.queue_datagram(ServicePort::ECHO, Bytes::from(vec![number; DATAGRAM_LEN_MAX])).unwrap();
    }
    pair.run_until_silent();
    let mut seen: Vec<_> =
        pair.sides[1].events.iter().filter(|event| matches!(event, TransportEvent::Datagram { .. })).collect();
    let count = seen.len();
    seen.dedup();
    assert!(seen.len() == count && (20..60).contains(&count), "{count}");
}

#[test]
fn close_is_told_once_and_ends_everything() {
    let mut pair = Pair::new(25, Link::default());
    let stream = pair.send(1_000_000);
    pair.run_for(100 * MS);
    pair.sides[0].transport.close(Code::SHUTDOWN, "good night");
    pair.run_until_silent();
    assert!(pair.sides[1].has(&TransportEvent::Closed { code: Code::SHUTDOWN, reason: "good night".to_owned() }));
    assert_eq!(
        pair.sides[0].transport.open_stream(&StreamHeader::new(ServicePort::ECHO)),
        Err(OpenStreamError::Closed)
    );
    assert!(!pair.sides[1].finished.contains(&stream));
}
