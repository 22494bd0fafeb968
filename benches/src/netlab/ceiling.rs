//! What the lab's router can do at most: packets go from one host to another over lines that do nothing to them, as fast as they arrive, for a
//! quarter of a second each way of filling them. Every report says so beside its figures: what comes near it has measured the lab.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pilot_daemon::clock;
use pilot_sim::link::LinkConfig;

use super::engine::Punctuality;
use super::lab::Plan;
use super::router::CORE;
use crate::error::BenchError;

const SENDER: &str = "198.51.100.1";
const RECEIVER: &str = "198.51.100.2";
const PORT: u16 = 4_242;
/// Bytes of a datagram: such as acknowledgements have, and such as data has.
const LENGTHS: [usize; 2] = [64, 1_452];
/// How long each length is tried.
const TIME: Duration = Duration::from_millis(250);
/// Packets on the way at once: less than any queue on the way holds, so that the router alone decides how many a second.
const WINDOW: u64 = 32;
/// What has not come by then is lost.
const PATIENCE: Duration = Duration::from_millis(250);

/// What went through.
struct Flow {
    len: usize,
    packets: u64,
    lost: u64,
    time: Duration,
}

/// Measures, and says what came out in one line for a report.
///
/// # Errors
/// If the lab could not be built.
pub(crate) fn sentence() -> Result<String, BenchError> {
    let (flows, punctuality) = measure()?;
    let flows: Vec<String> = flows.iter().map(Flow::phrase).collect();
    Ok(format!("ceiling of the lab's router just before: {}; {}", flows.join(", "), punctuality.sentence()))
}

fn measure() -> Result<(Vec<Flow>, Punctuality), BenchError> {
    let mut plan = Plan::new(1);
    let line = LinkConfig::default().delay(Duration::ZERO);
    plan.host("sender", CORE, &[SENDER], &line);
    plan.host("receiver", CORE, &[RECEIVER], &line);
    let lab = plan.build()?;
    let [sender, receiver] = [("sender", SENDER), ("receiver", RECEIVER)]
        .map(|(name, ip)| lab.host(name).enter(|| UdpSocket::bind(SocketAddr::new(ip.parse().expect("good"), PORT))));
    let (sender, receiver) = (sender?, receiver?);
    sender.connect((RECEIVER, PORT))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let flows = LENGTHS.map(|len| flow(&sender, &receiver, len)).into_iter().collect::<io::Result<_>>()?;
    Ok((flows, lab.engine.punctuality()))
}

/// Keeps so many packets on the way that the router is never without one.
fn flow(sender: &UdpSocket, receiver: &UdpSocket, len: usize) -> io::Result<Flow> {
    let (received, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| count(receiver, &received, &is_over));
        let sent = send(sender, &received, len);
        is_over.store(true, Ordering::Relaxed);
        sent
    })
    .map(|(packets, lost, time)| Flow { len, packets, lost, time })
}

/// Sends for a while; returns how many packets went, how many did not arrive, and how long that took.
fn send(sender: &UdpSocket, received: &AtomicU64, len: usize) -> io::Result<(u64, u64, Duration)> {
    let (packet, started) = (vec![0; len], clock::now().mono);
    // What came too late for the flow before counts too.
    let on_the_way = |sent: u64| sent.saturating_sub(received.load(Ordering::Relaxed));
    let mut sent = 0;
    while clock::now().mono.since(started) < TIME && falls_below(WINDOW, || on_the_way(sent)) {
        sender.send(&packet)?;
        sent += 1;
    }
    falls_below(1, || on_the_way(sent));
    Ok((sent, on_the_way(sent), clock::now().mono.since(started)))
}

/// Waits until a count is below a bound. Returns whether it is before patience ends.
fn falls_below(bound: u64, count: impl Fn() -> u64) -> bool {
    let until = clock::now().mono + PATIENCE;
    while count() >= bound {
        if clock::now().mono > until {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Counts what arrives until it is over.
fn count(receiver: &UdpSocket, received: &AtomicU64, is_over: &AtomicBool) {
    let mut buffer = [0; 2_048];
    while !is_over.load(Ordering::Relaxed) {
        if receiver.recv(&mut buffer).is_ok() {
            received.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Flow {
    fn phrase(&self) -> String {
        let Self { len, packets, lost, time } = self;
        let a_second = (packets - lost) as f64 / time.as_secs_f64();
        let megabits = a_second * *len as f64 * 8.0 / 1e6;
        format!("{a_second:.0} packets a second of {len} bytes ({megabits:.0} Mbit/s), {lost} lost")
    }
}
