//! Several paths under one tunnel.

use super::*;

#[test]
fn data_goes_on_over_the_new_path_and_overtakes_nothing_wrongly() {
    let mut pair = Pair::new(12, Link { delay: 80 * MS, ..Link::default() });
    pair.links.insert(DIRECT, Link { delay: 5 * MS, ..Link::default() });
    let stream = pair.send(3_000_000);
    pair.run("half of the data", |pair| pair.sides[1].received.values().map(Vec::len).sum::<usize>() > 1_000_000);
    for side in &mut pair.sides {
        side.transport.add_path(DIRECT, params());
        side.transport.set_active_path(DIRECT);
    }
    pair.run_until_finished(stream, 3_000_000);
    assert_eq!(pair.stats(0, RELAY).lost_packets, 0, "packets overtaken on another path are not lost");
    assert_eq!(pair.stats(0, DIRECT).lost_packets, 0);
}

#[test]
fn a_path_that_dies_hands_its_data_to_the_one_that_is_left() {
    let mut pair = Pair::new(13, Link::default());
    pair.links.insert(DIRECT, Link { delay: 5 * MS, ..Link::default() });
    for side in &mut pair.sides {
        side.transport.add_path(DIRECT, params());
        side.transport.set_active_path(DIRECT);
    }
    let stream = pair.send(800_000);
    pair.run("some data", |pair| pair.sides[1].received.values().map(Vec::len).sum::<usize>() > 500_000);
    pair.link(DIRECT).blocked = [true, true];
    pair.run("a probe timeout", |pair| pair.sides[0].has(&TransportEvent::PtoExpired { path: DIRECT, count: 1 }));
    pair.sides[0].transport.set_active_path(RELAY);
    assert_eq!(pair.stats(0, DIRECT).bytes_in_flight, 0);
    // The other side goes on acknowledging the way the data comes, whatever its own active path is.
    pair.run_until_finished(stream, 800_000);
    pair.sides[0].transport.remove_path(DIRECT);
    pair.sides[1].transport.remove_path(DIRECT);
    pair.sides[1].transport.set_active_path(RELAY);
    let after = pair.send(1_000);
    pair.run_until_finished(after, 1_000);
}

#[test]
fn challenges_go_on_their_own_path_and_are_padded() {
    let mut pair = Pair::new(14, Link::default());
    pair.links.insert(DIRECT, Link::default());
    pair.sides.iter_mut().for_each(|side| side.transport.add_path(DIRECT, params()));
    let challenge = PathFrame::Challenge { data: [3; 8], pad: true };
    pair.sides[0].transport.queue_frame(DIRECT, challenge.clone());
    pair.run_until_silent();
    assert!(pair.sides[1].has(&TransportEvent::Path { path: DIRECT, frame: challenge }));
    assert_eq!((pair.stats(0, DIRECT).sent_bytes, pair.stats(0, RELAY).sent_bytes), (PACKET_LEN_MIN as u64, 0));
}

#[test]
fn announcements_survive_loss_and_newer_lists_win() {
    let mut pair = Pair::new(15, Link { lost: 300, ..Link::default() });
    let candidate = |port| Candidate { kind: CandidateKind::Host, address: ([192, 0, 2, 1], port).into() };
    for port in 1..=3 {
        pair.sides[0].transport.queue_frame(RELAY, PathFrame::Candidates(vec![candidate(port); 40]));
        pair.run_for(MS);
    }
    pair.run_until_silent();
    let lists: Vec<_> =
        pair.sides[1].events.iter().filter(|event| matches!(event, TransportEvent::Path { .. })).collect();
    let newest = PathFrame::Candidates(vec![candidate(3); frame::CANDIDATES_MAX]);
    assert_eq!(lists.last(), Some(&&TransportEvent::Path { path: RELAY, frame: newest }));
}
