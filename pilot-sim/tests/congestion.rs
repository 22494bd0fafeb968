//! What the default controller makes of a link, and of others on it (spec/congestion.md). Virtual time: the same seeds give the same figures.

use std::ops::Range;
use std::time::Duration;

use pilot_core::rng::Rng;
use pilot_core::transport::{Congestion, TransportConfig};
use pilot_sim::dumbbell::{Dumbbell, FlowId, Stall, Stalls};
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::scenario::seeds;

const SEEDS: &[u64] = &[1, 2, 3];
/// Bytes a second: 100 Mbit/s.
const RATE: u64 = 12_500_000;
const DELAY: Duration = Duration::from_millis(20);
/// Bytes that are under way when the link is full and its queue is empty.
const PIPE: u64 = RATE / 25;
const BULK_TIME: Duration = Duration::from_secs(8);
const SHARED_TIME: Duration = Duration::from_secs(60);

fn with(congestion: Congestion) -> TransportConfig {
    TransportConfig::default().congestion(congestion)
}

/// A link of 100 Mbit/s and 40 ms there and back.
fn link(seed: u64, queue: u64, loss_percent: u32) -> Dumbbell {
    let way = LinkConfig::default().delay(DELAY).loss(Chance::percent(loss_percent));
    Dumbbell::new(seed, way.clone().rate(RATE, queue), way)
}

/// One flow alone, from its beginning.
fn alone(seed: u64, loss_percent: u32, congestion: Congestion) -> (Dumbbell, FlowId) {
    let mut net = link(seed, PIPE, loss_percent);
    let flow = net.add_flow(&with(congestion));
    net.run_for(BULK_TIME);
    (net, flow)
}

/// Bytes sent for each byte that the reader got.
fn sent_per_byte(net: &Dumbbell, flow: FlowId) -> f64 {
    let stats = net.stats(flow);
    stats.sent as f64 / stats.delivered as f64
}

/// Holds a flow alone, on the mean of some seeds, to a goodput of at least so many Mbit/s, and to so many bytes sent for each delivered.
fn random_loss_costs_little(loss_percent: u32, mbit: f64, sent_max: f64) {
    let seeds = seeds(SEEDS);
    let flows = seeds.iter().map(|&seed| alone(seed, loss_percent, Congestion::default()));
    let figures: Vec<_> = flows.map(|(net, flow)| (net.goodput_mbit(flow), sent_per_byte(&net, flow))).collect();
    let mean = |figure: fn(&(f64, f64)) -> f64| figures.iter().map(figure).sum::<f64>() / figures.len() as f64;
    let (goodput, sent) = (mean(|figure| figure.0), mean(|figure| figure.1));
    assert!(goodput >= mbit && sent <= sent_max, "{figures:.3?}");
}

#[test]
fn a_link_without_loss_gives_92_of_100_mbit() {
    random_loss_costs_little(0, 92.0, 1.035);
}

#[test]
fn random_loss_of_one_percent_keeps_90_of_100_mbit() {
    random_loss_costs_little(1, 90.0, 1.05);
}

#[test]
fn random_loss_of_five_percent_keeps_85_of_100_mbit() {
    random_loss_costs_little(5, 85.0, 1.10);
}

/// 5 to 100 ms during which a machine does nothing, after twice as long on average during which it works.
fn stalls(seed: u64) -> Vec<Stall> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let mut rng = Rng::new(bytes);
    let mut millis = |range: Range<u64>| {
        let draw = u64::from(u32::from_le_bytes(rng.array()));
        Duration::from_millis(range.start + draw % (range.end - range.start))
    };
    let mut end = Duration::ZERO;
    let next = || {
        let start = end + millis(0..210);
        end = start + millis(5..101);
        Some(start..end)
    };
    std::iter::from_fn(next).take_while(|stall| stall.start < BULK_TIME).collect()
}

/// A host that has too many machines takes a third of the time from the writer, or from all: what Startup learns
/// of the path is still about the path.
#[test]
fn machines_that_are_late_a_third_of_the_time_keep_half_of_the_link() {
    for seed in seeds(&[1, 2, 3, 4, 5, 6, 7, 8]) {
        let writer = Stalls { writers: stalls(seed), ..Stalls::default() };
        let all = Stalls { writers: stalls(seed), readers: stalls(seed), bottleneck: stalls(seed) };
        let goodputs = [writer, all].map(|stalls| {
            let mut net = link(seed, PIPE, 1);
            net.stall(stalls);
            let flow = net.add_flow(&with(Congestion::default()));
            net.run_for(BULK_TIME);
            net.goodput_mbit(flow)
        });
        assert!(goodputs.iter().all(|goodput| *goodput > 50.0), "seed {seed}: {goodputs:.1?} Mbit/s");
    }
}

#[test]
fn a_flow_alone_leaves_the_queue_empty_most_of_the_time() {
    for loss in [0, 5] {
        let mut net = link(1, 4 * PIPE, loss);
        net.add_flow(&with(Congestion::default()));
        net.run_for(Duration::from_secs(2));
        net.begin_measurement();
        net.run_for(Duration::from_secs(20));
        let (median, p95) = (net.queue_wait(50), net.queue_wait(95));
        assert!(median < DELAY / 4 && p95 < DELAY / 2, "{loss} % loss: {median:?}, {p95:?}");
    }
}

#[test]
fn controllers_that_take_every_loss_for_load_collapse_where_it_is_none() {
    for congestion in [Congestion::NewReno, Congestion::Cubic] {
        let goodput = |loss| {
            let (net, flow) = alone(1, loss, congestion);
            net.goodput_mbit(flow)
        };
        assert!(goodput(0) > 90.0 && goodput(1) < 10.0, "{congestion:?}");
    }
}

/// What two flows get in a minute, the second five seconds after the first.
fn shares(seed: u64, queue: u64, first: Congestion, second: Congestion) -> (f64, f64) {
    let mut net = link(seed, queue, 0);
    let first = net.add_flow(&with(first));
    net.run_for(Duration::from_millis(5_000 + 37 * seed));
    let second = net.add_flow(&with(second));
    net.begin_measurement();
    net.run_for(SHARED_TIME);
    (net.goodput_mbit(first), net.goodput_mbit(second))
}

/// Jain's index of two shares: 1 if they are equal, 1/2 if one flow has all.
fn index(one: f64, other: f64) -> f64 {
    (one + other).powi(2) / (2.0 * (one.powi(2) + other.powi(2)))
}

fn assert_fair(queue: u64, first: Congestion, second: Congestion) {
    let all: Vec<_> = seeds(SEEDS).into_iter().map(|seed| shares(seed, queue, first, second)).collect();
    let mean = all.iter().map(|(one, other)| index(*one, *other)).sum::<f64>() / all.len() as f64;
    assert!(mean >= 0.9, "Jain's index {mean:.3}: {all:?}");
    assert!(all.iter().all(|(one, other)| one + other > 90.0), "the link is idle: {all:?}");
}

#[test]
fn two_flows_share_a_short_queue_fairly() {
    assert_fair(PIPE, Congestion::Bbr, Congestion::Bbr);
}

#[test]
fn two_flows_share_a_long_queue_fairly() {
    assert_fair(4 * PIPE, Congestion::Bbr, Congestion::Bbr);
}

#[test]
fn a_flow_of_cubic_gets_its_share_of_a_short_queue() {
    assert_fair(PIPE, Congestion::Bbr, Congestion::Cubic);
}

#[test]
fn a_flow_of_cubic_leaves_a_share_of_a_long_queue() {
    assert_fair(4 * PIPE, Congestion::Bbr, Congestion::Cubic);
}

/// The price of a floor for loss: two flows in front of a queue that is too short to be seen must not take their own drops for the path's.
#[test]
fn a_queue_of_a_few_packets_is_not_overrun() {
    for seed in seeds(SEEDS) {
        let mut net = link(seed, PIPE / 10, 0);
        let flows = [(); 2].map(|()| net.add_flow(&with(Congestion::Bbr)));
        net.run_for(Duration::from_secs(30));
        let total: f64 = flows.iter().map(|flow| net.goodput_mbit(*flow)).sum();
        let sent = flows.map(|flow| sent_per_byte(&net, flow)).into_iter().fold(0.0, f64::max);
        assert!(total > 80.0 && sent < 1.08, "seed {seed}: {total:.1} Mbit/s, {sent:.3} sent per byte");
    }
}
