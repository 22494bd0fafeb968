//! Sizes and numbers at which other transports were seen to stall, to end a connection, or to slow down.

use super::*;

/// quinn stalls for ever on packets that are so long from the first one on.
#[test]
fn packets_that_are_long_from_the_first_one_on_get_through() {
    for (seed, max_packet, lost) in [(0, 16_336, 0), (1, 16_336, 10), (2, 65_000, 0), (3, 65_000, 10)] {
        let link = Link { delay: MS / 20, lost, ..Link::default() };
        let params = PathParams { max_packet, ..params() };
        let mut pair = Pair::with_config(seed, link, &TransportConfig::default(), params);
        let stream = pair.send(8_000_000);
        pair.run_until_finished(stream, 8_000_000);
        pair.run_until_silent();
        assert_eq!(pair.largest_sent, max_packet);
    }
}

/// iroh ends its connection: "too many gaps in stream buffer".
#[test]
fn a_large_window_may_be_full_of_gaps() {
    let config = TransportConfig::default().stream_window(32 << 20).tunnel_window(32 << 20).send_buffer(32 << 20);
    let mut pair = Pair::with_config(4, Link::default(), &config, params());
    let stream = pair.send(16 << 20);
    // The window is wide by then, and what comes next is mixed up.
    pair.run_until_finished(stream, 16 << 20);
    *pair.link(RELAY) = Link { lost: 10, jitter: 40 * MS, ..Link::default() };
    let stream = pair.send(16 << 20);
    let mut gaps = 0;
    pair.run("the end of the stream", |pair| {
        gaps = gaps.max(pair.sides[1].transport.audit().gap_chunks);
        pair.sides[1].finished.contains(&stream)
    });
    assert_eq!(pair.sides[1].received[&stream].len(), 16 << 20);
    assert!(gaps > 1_000, "{gaps} gaps say nothing");
}

/// iroh makes 366 connections a second between two endpoints, and 19 when there are to be ten thousand. Two agents have one tunnel, and a
/// stream for each call.
#[test]
fn ten_thousand_calls_between_two_agents_take_as_many_packets_in_the_end_as_at_first() {
    let mut pair = Pair::new(5, Link::default());
    pair.sides[1].echoes = true;
    let mut hundred = || {
        let before = pair.sent_count;
        (0..100).for_each(|_| _ = pair.send(64));
        pair.run("the replies", |pair| pair.sides[0].finished.len() == 100);
        pair.run_until_silent();
        for side in &mut pair.sides {
            assert_eq!(side.transport.open_stream_count(), 0);
            (side.events, side.finished) = (Vec::new(), Vec::new());
            (side.received, side.to_write) = (BTreeMap::new(), BTreeMap::new());
        }
        pair.sent_count - before
    };
    let packets: Vec<_> = (0..100).map(|_| hundred()).collect();
    assert!(packets.iter().all(|count| *count <= packets[0] + 2), "{packets:?}");
}
