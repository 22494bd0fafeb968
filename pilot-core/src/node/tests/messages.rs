//! Unreliable messages: DATAGRAM frames with a port (spec/streams.md §10).

use super::*;
use crate::limits::EVENTS_BESIDE_MESSAGES_MAX;
use crate::transport::{DATAGRAM_LEN_MAX, TransportEvent};

const PORT: ServicePort = ServicePort(900);

fn send(pair: &mut Pair, len: usize) -> Result<(), SendDatagramError> {
    let peer = pair.key(1);
    pair.hosts[0].node.send_datagram(&peer, PORT, Bytes::from(vec![7; len]))
}

fn messages(pair: &Pair) -> usize {
    pair.hosts[1].events.iter().filter(|event| matches!(event, Event::Datagram { .. })).count()
}

#[test]
fn a_message_arrives_with_its_port_and_the_proved_sender() {
    let mut pair = connected();
    send(&mut pair, 5).expect("queued");
    let sender = pair.key(0);
    pair.run_until(Duration::from_millis(100), |pair| {
        pair.has(1, |event| matches!(event, Event::Datagram { peer, port: PORT, data } if *peer == sender && data == &[7; 5][..]))
    });
}

#[test]
fn a_message_without_a_tunnel_or_beyond_the_size_is_an_error_that_says_so() {
    assert_eq!(send(&mut Pair::new(), 1), Err(SendDatagramError::NotConnected));
    let mut pair = connected();
    let error = send(&mut pair, DATAGRAM_LEN_MAX + 1).expect_err("too long");
    assert_eq!(error.to_string(), "datagram of 1025 bytes is longer than 1024");
    send(&mut pair, DATAGRAM_LEN_MAX).expect("as long as may be");
    pair.run_until(Duration::from_millis(100), |pair| messages(pair) == 1);
}

#[test]
fn a_sender_that_is_too_fast_is_told_and_nothing_is_kept() {
    let mut pair = connected();
    let queued = (0..1_000).take_while(|_| send(&mut pair, DATAGRAM_LEN_MAX).is_ok()).count();
    assert!((1..1_000).contains(&queued));
    assert_eq!(send(&mut pair, 1), Err(SendDatagramError::Datagram(DatagramError::QueueFull)));
    pair.run_for(Duration::from_secs(1));
    assert_eq!(messages(&pair), queued);
}

#[test]
fn a_flood_of_empty_messages_takes_no_more_than_its_share_of_events() {
    let mut pair = connected();
    let node = &mut pair.hosts[1].node;
    let (index, before) = (node.index_of(&keys(0, START).certificate.identity).expect("known"), node.stats.clone());
    let generation = node.peers[index as usize].tunnel.as_ref().expect("connected").generation();
    for _ in 0..10 * EVENTS_BESIDE_MESSAGES_MAX {
        let empty = TransportEvent::Datagram { port: PORT, data: Bytes::new() };
        node.handle_transport_event(START, index, generation, empty);
    }
    assert_eq!(node.events.len(), EVENTS_BESIDE_MESSAGES_MAX);
    let dropped = node.stats.drops(DropReason::EventsFull) - before.drops(DropReason::EventsFull);
    assert_eq!(dropped, 9 * EVENTS_BESIDE_MESSAGES_MAX as u64);
}
