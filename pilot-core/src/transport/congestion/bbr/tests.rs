//! The controller on a link of one queue, packet by packet on virtual time.

use std::collections::VecDeque;

use super::super::{DeliveryRate, Departure};
use super::*;

const MTU: u64 = 1_000;
const MS: Duration = Duration::from_millis(1);
const RTT: Duration = Duration::from_millis(40);
/// 8 Mbit/s: a packet each millisecond, 40 of them in a round trip.
const RATE: u64 = 1_000_000;
const PIPE: u64 = 40 * MTU;

struct Packet {
    seq: u64,
    sent_at: Mono,
    acked_at: Mono,
    departure: Departure,
    is_lost: bool,
}

/// A sender that always has data, and a link.
struct Net {
    bbr: Bbr,
    delivery: DeliveryRate,
    rtt: RttEstimator,
    now: Mono,
    flight: VecDeque<Packet>,
    next_seq: u64,
    /// When the link is free again, and when the pacer lets the next packet go.
    link_free: Mono,
    pacer_free: Mono,
    rate: u64,
    /// One packet of so many gets lost, whatever the queue.
    loses_each: Option<u64>,
    /// Packets that find so much in front of them are dropped.
    queue_max: Duration,
    /// Phases in the order that they were seen.
    phases: Vec<Phase>,
    longest_wait: Duration,
}

impl Net {
    fn new() -> Self {
        Self {
            bbr: Bbr::new(MTU),
            delivery: DeliveryRate::default(),
            rtt: RttEstimator::new(Some(RTT)),
            now: Mono(1_000_000_000),
            flight: VecDeque::new(),
            next_seq: 0,
            link_free: Mono(0),
            pacer_free: Mono(0),
            rate: RATE,
            loses_each: None,
            queue_max: Duration::MAX,
            phases: vec![Phase::Startup],
            longest_wait: Duration::ZERO,
        }
    }

    fn in_flight(&self) -> u64 {
        self.flight.len() as u64 * MTU
    }

    fn send(&mut self) {
        let in_flight = self.in_flight();
        self.bbr.on_packet_sent(self.now, in_flight);
        let departure = self.delivery.on_packet_sent(self.now, in_flight, MTU);
        let wait = self.link_free.since(self.now);
        let is_dropped = wait > self.queue_max;
        let is_lost = is_dropped || self.loses_each.is_some_and(|each| self.next_seq % each == each - 1);
        if !is_dropped {
            self.link_free = self.link_free.max(self.now) + Duration::from_nanos(MTU * 1_000_000_000 / self.rate);
            self.longest_wait = self.longest_wait.max(wait);
        }
        let acked_at = self.link_free + RTT;
        self.flight.push_back(Packet { seq: self.next_seq, sent_at: self.now, acked_at, departure, is_lost });
        self.next_seq += 1;
        let gap = Duration::from_nanos(MTU * 1_000_000_000 / self.bbr.pacing_rate(&self.rtt));
        self.pacer_free = self.pacer_free.max(self.now) + gap;
    }

    fn receive(&mut self) {
        let Some(packet) = self.flight.pop_front() else { return };
        if packet.is_lost {
            self.delivery.on_packet_lost(MTU);
            self.bbr.on_packet_lost(self.now, packet.sent_at);
            return;
        }
        self.rtt.update(self.now.since(packet.sent_at), Duration::ZERO);
        self.delivery.on_packet_acked(self.now, packet.seq, packet.sent_at, packet.departure, MTU);
        let sample = self.delivery.take_sample(self.now, self.in_flight(), self.rtt.min()).unwrap();
        self.bbr.on_delivery(self.now, &sample);
        if self.phases.last() != Some(&self.bbr.phase) {
            self.phases.push(self.bbr.phase);
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let may_send = self.in_flight() < self.bbr.window();
            let send_at = may_send.then_some(self.pacer_free.max(self.now));
            let ack_at = self.flight.front().map(|packet| packet.acked_at.max(self.now));
            self.now = send_at.into_iter().chain(ack_at).min().unwrap();
            if ack_at == Some(self.now) {
                self.receive();
            } else {
                self.send();
            }
        }
    }

    /// One packet there and back, and so much time more.
    fn ping(&mut self, late: Duration) {
        self.delivery.on_app_limited(self.in_flight());
        self.send();
        self.now = self.now + RTT + late;
        self.receive();
    }

    /// Runs until a phase is entered again.
    fn run_to(&mut self, phase: Phase) {
        while self.bbr.phase == phase {
            self.run_for(MS);
        }
        for _ in 0..10_000 {
            if self.bbr.phase == phase {
                return;
            }
            self.run_for(MS);
        }
        panic!("{phase:?} is not entered");
    }
}

#[test]
fn startup_finds_the_rate_and_the_queue_it_made_is_drained() {
    let mut net = Net::new();
    net.run_for(Duration::from_millis(800));
    assert_eq!(net.phases[..4], [Phase::Startup, Phase::Drain, Phase::Down, Phase::Cruise]);
    assert!((990_000..=1_010_000).contains(&net.bbr.model.rate()), "{}", net.bbr.model.rate());
    assert_eq!(net.bbr.model.min_rtt(), Some(RTT + MS));
    assert!(net.in_flight() <= PIPE + 2 * MTU, "{}", net.in_flight());
}

#[test]
fn the_window_more_than_doubles_each_round_trip_until_a_queue_shows() {
    let mut net = Net::new();
    net.rate = 10_000 * RATE;
    net.run_for(RTT * 7 / 2);
    assert!(net.bbr.window() >= 16 * INITIAL_WINDOW_PACKETS * MTU, "{}", net.bbr.window());
    let mut net = Net::new();
    net.run_for(RTT * 7 / 2);
    assert!(net.bbr.window() < 5 * INITIAL_WINDOW_PACKETS * MTU, "{}", net.bbr.window());
}

#[test]
fn a_single_packet_that_is_late_says_nothing_about_the_path() {
    let mut net = Net::new();
    net.rate = 10_000 * RATE;
    for late in [0, 0, 15, 0, 40, 40, 0] {
        net.ping(late * MS);
    }
    net.run_for(RTT * 7 / 2);
    assert_eq!(net.bbr.phase, Phase::Startup);
    assert!(net.bbr.window() >= 16 * INITIAL_WINDOW_PACKETS * MTU, "{}", net.bbr.window());
}

#[test]
fn a_probe_makes_a_queue_of_a_quarter_and_then_empties_it() {
    let mut net = Net::new();
    net.run_for(Duration::from_secs(1));
    net.run_to(Phase::Refill);
    net.longest_wait = Duration::ZERO;
    net.run_to(Phase::Cruise);
    assert!((5 * MS..20 * MS).contains(&net.longest_wait), "{:?}", net.longest_wait);
    assert!(net.phases.ends_with(&[Phase::Refill, Phase::Up, Phase::Down, Phase::Cruise]));
}

#[test]
fn a_link_that_becomes_faster_is_found_by_probes() {
    let mut net = Net::new();
    net.run_for(Duration::from_secs(2));
    net.rate = 2 * RATE;
    net.run_for(Duration::from_secs(10));
    assert!(net.bbr.model.rate() >= 1_900_000, "{}", net.bbr.model.rate());
}

#[test]
fn a_link_that_becomes_slower_is_believed_after_two_probes() {
    let mut net = Net::new();
    net.run_for(Duration::from_secs(2));
    net.rate = RATE / 2;
    net.run_for(Duration::from_secs(10));
    assert!(net.bbr.model.rate() <= 510_000, "{}", net.bbr.model.rate());
}

#[test]
fn loss_without_load_sets_no_bound() {
    let mut net = Net::new();
    net.loses_each = Some(20);
    net.run_for(Duration::from_secs(10));
    assert!(net.bbr.model.rate() >= 950_000, "{}", net.bbr.model.rate());
    assert!(net.bbr.window() > PIPE && net.bbr.bounds.short.is_none() && net.bbr.bounds.rate.is_none());
}

#[test]
fn a_queue_that_overflows_bounds_what_is_in_flight() {
    let mut net = Net::new();
    // Nobody else is there: only Startup and probes can fill a queue of ten packets.
    net.queue_max = 10 * MS;
    net.run_for(Duration::from_secs(20));
    let long = net.bbr.bounds.long.unwrap();
    assert!(long < 2 * PIPE, "{long}");
    assert!(net.bbr.model.rate() >= 900_000);
}

#[test]
fn a_round_trip_that_is_always_longer_is_measured_anew() {
    let mut net = Net::new();
    net.run_for(Duration::from_secs(1));
    // Somebody else keeps a queue of half a round trip.
    for _ in 0..700 {
        net.link_free = net.link_free.max(net.now + RTT / 2);
        net.run_for(10 * MS);
    }
    assert!(net.phases.iter().any(|phase| matches!(phase, Phase::ProbeRtt(Some(_)))), "{:?}", net.phases);
    assert!(net.bbr.model.min_rtt() > Some(RTT + RTT / 4), "{:?}", net.bbr.model.min_rtt());
}

#[test]
fn a_pause_keeps_what_is_known_and_a_long_one_half_of_it() {
    let mut net = Net::new();
    net.run_for(Duration::from_secs(2));
    let (rate, window) = (net.bbr.model.rate(), net.bbr.window());
    net.bbr.on_packet_sent(net.now + Duration::from_secs(9), 0);
    assert_eq!((net.bbr.model.rate(), net.bbr.window()), (rate, window));
    net.bbr.on_packet_sent(net.now + Duration::from_secs(11), 0);
    assert_eq!(net.bbr.window(), INITIAL_WINDOW_PACKETS * MTU, "half of 40 packets are less than anybody begins with");
}

#[test]
fn congestion_that_routers_mark_is_answered_like_loss() {
    let mut net = Net::new();
    net.run_for(Duration::from_secs(1));
    net.run_to(Phase::Up);
    net.bbr.on_congestion_experienced(net.now, net.now);
    net.run_for(2 * MS);
    assert_eq!(net.bbr.phase, Phase::Down);
    assert!(net.bbr.bounds.long.is_some());
}

#[test]
fn persistent_congestion_leaves_the_minimum() {
    let mut bbr = Bbr::new(MTU);
    bbr.on_persistent_congestion();
    assert_eq!(bbr.window(), MINIMUM_WINDOW_PACKETS * MTU);
    assert!(bbr.pacing_rate(&RttEstimator::new(Some(Duration::ZERO))) > 0);
}
