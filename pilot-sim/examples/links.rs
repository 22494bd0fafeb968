//! What each congestion controller makes of a link, in virtual time: `cargo run --release -p pilot-sim --example links -- [bulk] [gigabit] [fetch] [fair]`.
//!
//! All parts without arguments. "sent" is bytes of datagrams for each byte that the reader got: headers alone make 1.027 of it. The
//! queue wait is that of the datagrams after the first two seconds, as a share of the round trip without a queue.
#![expect(clippy::print_stdout, reason = "the tables are this program's output")]

use std::time::Duration;

use pilot_core::config::{Config, Role};
use pilot_core::transport::{Congestion, TransportConfig};
use pilot_sim::application::{JobReport, Plan};
use pilot_sim::dumbbell::Dumbbell;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::topology::acquainted;

/// One way; the round trip is twice that.
const DELAY: Duration = Duration::from_millis(20);
const ROUND_TRIP: Duration = Duration::from_millis(40);
const MBIT: u64 = 1_000_000 / 8;
/// In percent, each way.
const LOSSES: [u32; 3] = [0, 1, 5];
const SEEDS: u64 = 3;
const FETCH_SEEDS: u64 = 20;
/// Objects that are fetched at once, and the length of each.
const OBJECTS: usize = 50;
const OBJECT_LEN: u64 = 10 * 1024;

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|name| name == part);
    if is_wanted("bulk") {
        bulk("100 Mbit/s, 40 ms, queue of 1 BDP, 8 s with the beginning", 100 * MBIT, Duration::from_secs(8));
    }
    if is_wanted("gigabit") {
        bulk("1 Gbit/s, 40 ms, queue of 1 BDP, 4 s with the beginning", 1_000 * MBIT, Duration::from_secs(4));
    }
    if is_wanted("fetch") {
        fetch();
    }
    if is_wanted("fair") {
        fairness();
    }
}

/// The controllers that are measured.
fn controllers() -> Vec<(&'static str, TransportConfig)> {
    let with = |congestion| TransportConfig::default().congestion(congestion);
    vec![("new reno", with(Congestion::NewReno)), ("cubic", with(Congestion::Cubic)), ("bbr", with(Congestion::Bbr))]
}

/// Bytes that are under way when the link is full and its queue is empty.
fn bandwidth_delay_product(rate: u64) -> u64 {
    rate * ROUND_TRIP.as_millis() as u64 / 1_000
}

fn bulk(title: &str, rate: u64, time: Duration) {
    println!("\n{title}; means of {SEEDS} seeds\n");
    println!("| controller | loss | Mbit/s | sent per byte | dropped at queue | median wait | p95 wait |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (name, config) in controllers() {
        for loss in LOSSES {
            let runs: Vec<_> = (1..=SEEDS).map(|seed| bulk_run(seed, rate, loss, time, &config)).collect();
            let mean = |value: fn(&Bulk) -> f64| runs.iter().map(value).sum::<f64>() / SEEDS as f64;
            println!(
                "| {name} | {loss} % | {:.1} | {:.3} | {:.2} % | {:.2} | {:.2} |",
                mean(|run| run.goodput),
                mean(|run| run.sent_per_byte),
                mean(|run| run.dropped_percent),
                mean(|run| run.median_wait),
                mean(|run| run.p95_wait),
            );
        }
    }
}

struct Bulk {
    goodput: f64,
    sent_per_byte: f64,
    dropped_percent: f64,
    median_wait: f64,
    p95_wait: f64,
}

fn bulk_run(seed: u64, rate: u64, loss: u32, time: Duration, config: &TransportConfig) -> Bulk {
    let link = LinkConfig::default().delay(DELAY).loss(Chance::percent(loss));
    let mut net = Dumbbell::new(seed, link.clone().rate(rate, bandwidth_delay_product(rate)), link);
    let flow = net.add_flow(config);
    let beginning = Duration::from_secs(2);
    net.run_for(beginning);
    net.forget_waits();
    net.run_for(time - beginning);
    let (stats, round_trip) = (net.stats(flow), ROUND_TRIP.as_secs_f64());
    let sent_packets = net.path_stats(flow).map_or(1, |path| path.sent_packets.max(1));
    Bulk {
        goodput: net.goodput_mbit(flow),
        sent_per_byte: stats.sent as f64 / stats.delivered.max(1) as f64,
        dropped_percent: stats.dropped_at_queue as f64 * 100.0 / sent_packets as f64,
        median_wait: net.queue_wait(50).as_secs_f64() / round_trip,
        p95_wait: net.queue_wait(95).as_secs_f64() / round_trip,
    }
}

fn fetch() {
    println!(
        "\n{OBJECTS} x 10 KiB at once, 100 Mbit/s, 40 ms, queue of 1 BDP, {FETCH_SEEDS} seeds: ms to the last byte\n"
    );
    println!("cold: no tunnel, the certificate is known; warm: once more in the same tunnel, a second later\n");
    println!("| controller | loss | cold p50 | cold p90 | cold worst | warm p50 | warm p90 | warm worst |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (name, config) in controllers() {
        for loss in [0, 1, 2, 5] {
            let runs: Vec<_> = (1..=FETCH_SEEDS).map(|seed| fetch_run(seed, loss, &config)).collect();
            let times = [runs.iter().map(|run| run.0).collect(), runs.iter().map(|run| run.1).collect()];
            let [cold, warm] = times.map(spread);
            println!("| {name} | {loss} % | {cold} | {warm} |");
        }
    }
}

/// Median, 90th percentile and worst, as cells of a table.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_millis();
    format!("{} | {} | {}", at(50), at(90), at(100))
}

/// Times of a fetch without a tunnel, and of another one afterwards.
///
/// # Panics
/// If the fetch does not end.
fn fetch_run(seed: u64, loss: u32, config: &TransportConfig) -> (Duration, Duration) {
    let rate = 100 * MBIT;
    let link = LinkConfig::default().delay(DELAY).loss(Chance::percent(loss)).rate(rate, bandwidth_delay_product(rate));
    let node = || Config::new(Role::Agent).transport(config.clone());
    let mut net = acquainted(seed, link, node(), node());
    let [cold, warm] = [(); 2].map(|()| {
        let plan = Plan::request(64, OBJECT_LEN);
        let jobs = [(); OBJECTS].map(|()| net.world.start_job(net.alice, net.bob, plan).expect("a stream"));
        net.world.complete(&jobs, Duration::from_secs(60)).expect("the end of the fetch");
        net.world.run_for(Duration::from_secs(1)).expect("a pause");
        let times = jobs.iter().filter_map(|job| net.world.report(*job).and_then(JobReport::answer_time));
        times.max().unwrap_or_default()
    });
    (cold, warm)
}

fn fairness() {
    println!("\ntwo flows at 100 Mbit/s, 40 ms, the second 5 s later, 60 s with both; means of {SEEDS} seeds\n");
    println!("| flows | queue | first Mbit/s | second Mbit/s | Jain's index | median wait |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let all = controllers();
    for (position, first) in all.iter().enumerate() {
        for second in &all[..=position] {
            for queue in [1, 4] {
                let runs: Vec<_> = (1..=SEEDS).map(|seed| fairness_run(seed, queue, &first.1, &second.1)).collect();
                let mean = |value: fn(&Shares) -> f64| runs.iter().map(value).sum::<f64>() / SEEDS as f64;
                println!(
                    "| {}, {} | {queue} BDP | {:.1} | {:.1} | {:.3} | {:.2} |",
                    first.0,
                    second.0,
                    mean(|run| run.first),
                    mean(|run| run.second),
                    mean(Shares::jain),
                    mean(|run| run.median_wait),
                );
            }
        }
    }
}

struct Shares {
    first: f64,
    second: f64,
    median_wait: f64,
}

impl Shares {
    /// Jain's fairness index: 1 for equal shares, 1/2 if one flow has all.
    fn jain(&self) -> f64 {
        let (sum, squares) = (self.first + self.second, self.first.powi(2) + self.second.powi(2));
        sum * sum / (2.0 * squares)
    }
}

fn fairness_run(seed: u64, queue: u64, first: &TransportConfig, second: &TransportConfig) -> Shares {
    let (rate, link) = (100 * MBIT, LinkConfig::default().delay(DELAY));
    let mut net = Dumbbell::new(seed, link.clone().rate(rate, queue * bandwidth_delay_product(rate)), link);
    let first = net.add_flow(first);
    net.run_for(Duration::from_secs(5) + Duration::from_millis(seed * 37));
    let second = net.add_flow(second);
    net.begin_measurement();
    net.run_for(Duration::from_secs(60));
    Shares {
        first: net.goodput_mbit(first),
        second: net.goodput_mbit(second),
        median_wait: net.queue_wait(50).as_secs_f64() / ROUND_TRIP.as_secs_f64(),
    }
}
