//! Whole lives from a seed, and rules that are broken on purpose.

use super::*;

/// A link, limits and buffers from the seed; loss up to 15 %.
fn random_pair(seed: u64) -> Pair {
    let mut dice = Pair::new(seed, Link::default());
    let mut roll = |from: u64, below: u64| from + dice.random(below);
    let relay = Link {
        delay: Duration::from_micros(roll(10, 60_000)),
        jitter: Duration::from_micros(roll(0, 30_000)),
        lost: roll(0, 150),
        duplicated: roll(0, 100),
        ..Link::default()
    };
    let direct = Link {
        delay: Duration::from_micros(roll(10, 60_000)),
        len_max: usize::try_from(roll(1_200, 40_000)).unwrap(),
        ..relay.clone()
    };
    let config = TransportConfig::default()
        .send_buffer(usize::try_from(roll(5_000, 300_000)).unwrap())
        .stream_window(roll(2_000, 200_000))
        .tunnel_window(roll(4_000, 300_000))
        .max_streams(roll(1, 6));
    let params = PathParams { probe_mtu_to: Some(usize::try_from(roll(1_152, 65_000)).unwrap()), ..params() };
    let mut pair = Pair::with_config(seed, relay, &config, params);
    pair.links.insert(DIRECT, direct);
    pair.sides.iter_mut().for_each(|side| side.transport.add_path(DIRECT, params));
    pair.sides[1].echoes = seed.is_multiple_of(3);
    pair
}

/// Opens what the limit allows, gives up a stream now and then, and moves one side to a path.
fn random_turn(pair: &mut Pair, turn: u8, streams: &mut Vec<(StreamId, usize)>) {
    let header = StreamHeader { urgency: turn % 8, ..StreamHeader::new(ServicePort::ECHO) };
    while let Ok(stream) = pair.sides[0].transport.open_stream(&header) {
        let len = usize::try_from(pair.random(60_000)).unwrap();
        pair.sides[0].to_write.insert(stream, pattern(len));
        streams.push((stream, len));
    }
    if pair.random(4) == 0
        && let Some((stream, _)) = streams.pop()
    {
        pair.sides[0].transport.reset(stream, Code::CANCELLED, "");
        pair.sides[0].transport.stop_sending(stream, Code::CANCELLED, "");
    }
    let path = if pair.random(2) == 0 { RELAY } else { DIRECT };
    let side = usize::try_from(pair.random(2)).unwrap();
    pair.sides[side].transport.set_active_path(path);
    pair.sides[side].transport.queue_frame(path, PathFrame::Challenge { data: [1; 8], pad: true });
    let wait = Duration::from_millis(pair.random(300));
    pair.run_for(wait);
}

/// Seed 4: lost data behind missing credit was not sent again. Seed 69: the idle timer ran with nothing in flight.
#[test]
fn random_lives_are_byte_exact_and_end_in_silence() {
    for seed in 0..100 {
        println!("seed {seed}");
        let (mut pair, mut streams) = (random_pair(seed), Vec::new());
        (0..12).for_each(|turn| random_turn(&mut pair, turn, &mut streams));
        streams.into_iter().for_each(|(stream, len)| {
            pair.run_until_finished(stream, len);
        });
        pair.run("all streams to be forgotten", |pair| {
            pair.sides.iter().all(|side| side.transport.open_stream_count() == 0)
        });
        pair.run_until_silent();
        assert_eq!(pair.error, None);
    }
}

#[cfg(feature = "sabotage")]
mod sabotage {
    use super::*;

    /// Runs a transfer on a transport with one broken rule; the panic or error that ends it.
    fn run(sabotage: Sabotage) -> String {
        let outcome = std::panic::catch_unwind(|| {
            let config = TransportConfig::default().send_buffer(20_000).stream_window(10_000).sabotage(sabotage);
            let mut pair =
                Pair::with_config(1, Link { lost: 20, jitter: 5 * MS, ..Link::default() }, &config, params());
            let stream = pair.send(300_000);
            pair.run_until_finished(stream, 300_000);
        });
        let panic = outcome.expect_err("the broken rule was not noticed");
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap()
    }

    #[test]
    fn every_broken_rule_is_noticed() {
        let noticed = |sabotage, text: &str| {
            let panic = run(sabotage);
            assert!(panic.contains(text), "{sabotage:?}: {panic}");
        };
        noticed(Sabotage::DoubleCountAck, "bytes in flight");
        noticed(Sabotage::IgnoreCredit, "data sent");
        noticed(Sabotage::DeliverOutOfOrder, "the bytes differ");
        noticed(Sabotage::UnboundedBuffer, "send buffer");
        noticed(Sabotage::TimerInThePast, "timer AckDelay is in the past");
        noticed(Sabotage::MiscountData, "tunnel data sent: counted 0");
    }
}
