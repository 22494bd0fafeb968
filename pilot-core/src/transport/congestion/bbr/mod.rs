//! BBR: sends at the rate that the path delivers, with about as much in flight as fits it without a queue (spec/congestion.md;
//! after draft-ietf-ccwg-bbr, whose names stand in brackets).
//!
//! ```text
//! Startup  -> Drain                    the rate has stopped to grow, the queue does not empty, or loss is in excess
//! Drain    -> Down                     what is in flight fits the path
//! Down     -> Cruise                   .. and leaves room to others
//! Cruise   -> Refill -> Up             one to one and a half seconds, or as many round trips as New Reno would take
//! Up       -> Down                     a quarter more than fits the path is in flight, or loss is in excess
//! any      -> ProbeRtt -> Cruise       the queue was not empty for three seconds
//! ```

mod loss;
mod model;
mod silence;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::loss::LossFloor;
use self::model::Model;
use self::silence::Silence;
use super::{Controller, DeliverySample, INITIAL_WINDOW_PACKETS};
use crate::time::Mono;
use crate::transport::rtt::RttEstimator;

/// Gains are in percent.
const UNITY: u64 = 100;

/// Pacing in Startup: 4 ln 2, with which the rate doubles each round trip (StartupPacingGain).
const STARTUP_GAIN: u64 = 277;

/// While no packet has met a queue, Startup raises the window by this multiple of what is acknowledged: a round trip less for what an
/// agent fetches. Three would save another half, and lose a hundredth of a gigabit link's packets at the end.
const SWIFT_GROWTH: u64 = 2;

/// Part of the smallest round trip time that a queue takes when it begins to show.
const FIRST_QUEUE_PART: u32 = 8;

/// Packets in flight from which on a round trip that takes longer tells of a queue: with fewer it is the jitter of a radio link, or a processor
/// that was busy.
const LOAD_PACKETS: u64 = INITIAL_WINDOW_PACKETS / 2;

/// Pacing in Drain: what Startup has queued is gone after a round trip or two (DrainPacingGain).
const DRAIN_GAIN: u64 = 50;

/// Pacing in Down and Up.
const DOWN_GAIN: u64 = 90;
const UP_GAIN: u64 = 125;

/// Window in Up; twice what fits the path otherwise, for acknowledgements that come late (DefaultCwndGain).
const UP_WINDOW_GAIN: u64 = 225;
const WINDOW_GAIN: u64 = 200;

/// Window in ProbeRtt (ProbeRTTCwndGain).
const PROBE_RTT_WINDOW_GAIN: u64 = 50;

/// Pacing stays this much below the rate, so that a queue empties in time (PacingMarginPercent).
const PACING_MARGIN: u64 = 1;

/// What excess loss leaves of a bound (Beta).
const BETA: u64 = 70;

/// What is used of the bound in flight while not probing: the rest is for those who come (Headroom).
const WITH_HEADROOM: u64 = 85;

/// A rate that grew by less than this in each of so many round trips has stopped to grow (StartupFullBwCnt).
const GROWTH: u64 = 125;
const ROUNDS_WITHOUT_GROWTH: u32 = 3;

/// Packets of the smallest window, for one ACK of every two packets and one under way (MinPipeCwnd).
const MINIMUM_WINDOW_PACKETS: u64 = 4;

/// Time in ProbeRtt: long enough for flows that share the queue to meet there (ProbeRTTDuration).
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);

/// Time between two probes for rate: this, and up to half of it more, so that flows do not probe together. Half of the draft's: two flows
/// of ours come to equal shares in half the time, and one alone still has an empty queue most of the time.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Round trips between two probes at most: with so many New Reno would have raised its window by as many packets.
const PROBE_ROUNDS_MAX: u64 = 63;

/// Part of the smallest round trip time that a queue takes which somebody fills, and one in a round that tells of loss without load.
const FULL_QUEUE_PART: u32 = 4;
const QUIET_QUEUE_PART: u32 = 10;

/// Round trips of Up while the long bound holds it back, which then rises by 1 + 2 + 4 packets. With fewer a flow gives way to CUBIC in
/// a long queue for ever (29 against 66 of 100 Mbit/s, with three 37 and 59), with more it takes from CUBIC in a short one.
const BOUND_UP_ROUNDS: u64 = 3;

/// A long bound above this holds nothing back: it is what Startup had in flight when its queue was full.
const BINDING_GAIN: u64 = 175;

/// Longest batch of the pacer, of which three have to fit the window: one leaves, one is under way, one is acknowledged.
const BATCHES: u64 = 3;

/// After so long without anything in flight the path may be another: half of what was known is used until it is proved again.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Doubles the rate each round trip.
    Startup,
    /// Empties the queue that Startup has made.
    Drain,
    /// Empties the queue that Up has made.
    Down,
    /// Sends at the rate of the path.
    Cruise,
    /// Fills the path for a round trip before it probes.
    Refill,
    /// Looks whether the path delivers more.
    Up,
    /// Lets the queue run empty to see the path's own round trip time. Over at this time; none before little enough is in flight.
    ProbeRtt(Option<Mono>),
}

/// One round trip, counted by what was delivered.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Over when a packet is acknowledged that left after so much was delivered.
    ends: u64,
    delivered_before: u64,
    lost_before: u64,
    /// Highest rate, and most delivered within a sample.
    rate: u64,
    in_flight: u64,
    min_rtt: Duration,
    /// The smallest of what silence does not explain.
    min_punctual_rtt: Duration,
    is_app_limited: bool,
    is_marked: bool,
}

/// What a round has shown.
#[derive(Clone, Copy, Debug)]
struct Finished {
    round: Round,
    lost: u64,
    /// Delivered and lost.
    sent: u64,
    /// Every packet met a queue.
    has_queue: bool,
    is_loss_excess: bool,
}

/// Bounds that loss has taught. Without one, the model alone decides.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    /// Until the next probe (bw_shortterm, inflight_shortterm).
    rate: Option<u64>,
    short: Option<u64>,
    /// The last round trip has lowered a bound; what it had in flight already may still get lost.
    is_settling: bool,
    /// Until a probe shows better (inflight_longterm).
    long: Option<u64>,
}

/// Growth of the long bound in Up: by one packet in the first round trip, two in the second, four in the third.
#[derive(Clone, Copy, Debug, Default)]
struct Rise {
    rounds: u32,
    acked: u64,
}

/// Controller by delivery rate.
#[derive(Clone, Debug)]
pub(crate) struct Bbr {
    mtu: u64,
    phase: Phase,
    phase_since: Mono,
    /// Round trips since this phase began.
    phase_rounds: u64,
    window: u64,
    model: Model,
    floor: LossFloor,
    round: Round,
    bounds: Bounds,
    rise: Rise,
    /// Whether Startup is over for good.
    is_full: bool,
    /// A packet has met a queue.
    has_met_queue: bool,
    growth_from: u64,
    rounds_without_growth: u32,
    /// When the last probe ended, how long it is to the next, and round trips so far.
    probed_at: Mono,
    probe_wait: Duration,
    probe_rounds: u64,
    /// What is acknowledged now was sent by a probe: excess loss teaches the long bound.
    is_probe_answered: bool,
    /// When something was acknowledged last.
    acked_at: Mono,
    silence: Silence,
    /// Nothing was in flight, and nothing was acknowledged since: no time to measure round trips.
    is_restarted: bool,
}

impl Round {
    fn starting(sample_ends: u64, lost: u64) -> Self {
        Self {
            ends: sample_ends,
            delivered_before: sample_ends,
            lost_before: lost,
            rate: 0,
            in_flight: 0,
            min_rtt: Duration::MAX,
            min_punctual_rtt: Duration::MAX,
            is_app_limited: false,
            is_marked: false,
        }
    }

    fn has_samples(&self) -> bool {
        self.min_rtt < Duration::MAX
    }

    fn add(&mut self, sample: &DeliverySample, punctual_rtt: Duration) {
        self.rate = self.rate.max(sample.rate.unwrap_or(0));
        self.in_flight = self.in_flight.max(sample.delivered - sample.prior_delivered);
        self.min_rtt = self.min_rtt.min(sample.rtt);
        self.min_punctual_rtt = self.min_punctual_rtt.min(punctual_rtt);
        self.is_app_limited |= sample.is_app_limited;
    }
}

impl Bbr {
    pub(crate) fn new(mtu: u64) -> Self {
        Self {
            mtu,
            phase: Phase::Startup,
            phase_since: Mono(0),
            phase_rounds: 0,
            window: INITIAL_WINDOW_PACKETS * mtu,
            model: Model::new(),
            floor: LossFloor::new(mtu),
            round: Round::starting(0, 0),
            bounds: Bounds::default(),
            rise: Rise::default(),
            is_full: false,
            has_met_queue: false,
            growth_from: 0,
            rounds_without_growth: 0,
            probed_at: Mono(0),
            probe_wait: PROBE_INTERVAL,
            probe_rounds: 0,
            is_probe_answered: false,
            acked_at: Mono(0),
            silence: Silence::new(),
            is_restarted: false,
        }
    }

    fn minimum(&self) -> u64 {
        MINIMUM_WINDOW_PACKETS * self.mtu
    }

    /// The rate to send at before gains.
    fn rate(&self) -> u64 {
        self.model.rate().min(self.bounds.rate.unwrap_or(u64::MAX))
    }

    /// Bytes in flight that this gain asks for.
    fn in_flight_at(&self, gain: u64) -> u64 {
        let rate = self.rate();
        let Some(fits) = self.model.in_flight_at(rate).filter(|fits| *fits > 0) else {
            return INITIAL_WINDOW_PACKETS * self.mtu * gain / UNITY;
        };
        percent_of(fits, gain).max(BATCHES * crate::transport::pacing::batch_len(rate, self.mtu)).max(self.minimum())
    }

    /// What the long bound allows while not probing.
    fn with_headroom(&self) -> u64 {
        self.bounds.long.map_or(u64::MAX, |long| percent_of(long, WITH_HEADROOM).max(self.minimum()))
    }

    fn enter(&mut self, now: Mono, phase: Phase) {
        (self.phase, self.phase_since, self.phase_rounds) = (phase, now, 0);
    }

    fn enter_down(&mut self, now: Mono, delivered: u64) {
        self.enter(now, Phase::Down);
        self.rise = Rise::default();
        self.probed_at = now;
        self.probe_rounds = 0;
        self.probe_wait = PROBE_INTERVAL + spread(PROBE_INTERVAL / 2, now.0 ^ delivered);
    }

    fn enter_up(&mut self, now: Mono) {
        self.enter(now, Phase::Up);
        self.is_probe_answered = true;
    }

    /// Adds a sample to its round; returns the round before, if the sample begins another.
    fn count_round(&mut self, sample: &DeliverySample, punctual_rtt: Duration) -> Option<Finished> {
        let is_over = sample.prior_delivered >= self.round.ends;
        let next = Round::starting(sample.delivered, sample.lost);
        let over = is_over.then(|| std::mem::replace(&mut self.round, next)).filter(Round::has_samples);
        let finished = over.map(|round| {
            let lost = sample.lost - round.lost_before;
            let sent = sample.delivered - round.delivered_before + lost;
            let has_queue = self.model.has_queue(round.min_rtt, FULL_QUEUE_PART);
            let is_loss_excess = round.is_marked || self.floor.is_excess(lost, sent, self.mtu, has_queue);
            Finished { round, lost, sent, has_queue, is_loss_excess }
        });
        self.round.add(sample, punctual_rtt);
        finished
    }

    fn on_round(&mut self, now: Mono, finished: &Finished, sample: &DeliverySample) {
        self.model.on_round();
        self.phase_rounds += 1;
        self.probe_rounds += 1;
        match self.phase {
            Phase::Startup => self.on_startup_round(now, finished),
            Phase::Down | Phase::Cruise | Phase::Drain | Phase::ProbeRtt(_) => self.adapt_short_bounds(finished),
            Phase::Refill | Phase::Up => {}
        }
        if self.is_quiet(finished) {
            self.floor.on_quiet_round(finished.lost, finished.sent, self.mtu);
        }
        if self.phase == Phase::Down && self.phase_rounds == 1 {
            // The acknowledgements of what was sent in Up are in.
            self.is_probe_answered = false;
            if !sample.is_app_limited {
                self.model.advance_rates();
            }
        }
    }

    /// Whether what was lost in a round was lost without load of ours.
    fn is_quiet(&self, finished: &Finished) -> bool {
        let is_calm = match self.phase {
            Phase::Startup | Phase::Cruise | Phase::ProbeRtt(_) => true,
            Phase::Down => self.phase_rounds > 1,
            Phase::Drain | Phase::Refill | Phase::Up => false,
        };
        is_calm && !finished.round.is_marked && !self.model.has_queue(finished.round.min_rtt, QUIET_QUEUE_PART)
    }

    /// Whether the path is full (BBRCheckStartupDone). Beyond the draft: if every packet of a round met a queue, the link was busy all the
    /// time, and its rate is known.
    fn on_startup_round(&mut self, now: Mono, finished: &Finished) {
        if finished.is_loss_excess {
            let fits = self.model.in_flight_at(self.model.rate()).unwrap_or(0);
            self.bounds.long = Some(fits.max(finished.round.in_flight).max(self.minimum()));
        } else if !self.has_filled_queue(finished) && !self.has_stopped_to_grow(finished) {
            return;
        }
        self.is_full = true;
        self.enter(now, Phase::Drain);
    }

    /// Whether Startup may grow faster than the rate is measured.
    fn is_swift(&self) -> bool {
        self.phase == Phase::Startup && !self.has_met_queue
    }

    fn is_load(&self, in_flight: u64) -> bool {
        in_flight >= LOAD_PACKETS * self.mtu
    }

    fn has_filled_queue(&self, finished: &Finished) -> bool {
        let has_queue = self.model.has_queue(finished.round.min_punctual_rtt, FULL_QUEUE_PART);
        has_queue && self.is_load(finished.round.in_flight)
    }

    fn has_stopped_to_grow(&mut self, finished: &Finished) -> bool {
        if finished.round.is_app_limited {
            return false;
        }
        if self.model.rate() >= percent_of(self.growth_from, GROWTH) {
            (self.growth_from, self.rounds_without_growth) = (self.model.rate(), 0);
        } else {
            self.rounds_without_growth += 1;
        }
        self.rounds_without_growth >= ROUNDS_WITHOUT_GROWTH
    }

    /// Excess loss while not probing: somebody else needs room at once (BBRAdaptLowerBoundsFromCongestion).
    fn adapt_short_bounds(&mut self, finished: &Finished) {
        if std::mem::take(&mut self.bounds.is_settling) || !finished.is_loss_excess {
            return;
        }
        self.bounds.is_settling = true;
        if finished.has_queue {
            let in_flight = self.bounds.short.unwrap_or(u64::MAX).min(finished.round.in_flight);
            self.bounds.short = Some(percent_of(in_flight, BETA));
            return;
        }
        let (rate, in_flight) =
            (self.bounds.rate.unwrap_or(self.model.rate()), self.bounds.short.unwrap_or(self.window));
        self.bounds.rate = Some(percent_of(rate, BETA).max(finished.round.rate));
        self.bounds.short = Some(percent_of(in_flight, BETA).max(finished.round.in_flight));
    }

    /// What a probe teaches about the long bound (BBRAdaptLongTermModel).
    fn adapt_long_bound(&mut self, now: Mono, sample: &DeliverySample) {
        let has_queue = self.model.has_queue(sample.rtt, FULL_QUEUE_PART);
        let is_excess =
            self.round.is_marked || self.floor.is_excess(sample.lost_since, sample.sent_in_flight, self.mtu, has_queue);
        if is_excess && self.is_probe_answered {
            self.is_probe_answered = false;
            if !sample.is_app_limited {
                self.bounds.long = Some(sample.sent_in_flight.max(percent_of(self.in_flight_at(UNITY), BETA)));
            }
            if self.phase == Phase::Up {
                self.enter_down(now, sample.delivered);
            }
        } else if let Some(long) = self.bounds.long.filter(|_| !is_excess) {
            let long = long.max(sample.sent_in_flight);
            self.bounds.long = Some(if self.phase == Phase::Up { self.raise(long, sample) } else { long });
        }
    }

    /// Raises the long bound while it is what holds the probe back (BBRProbeInflightLongtermUpward).
    fn raise(&mut self, long: u64, sample: &DeliverySample) -> u64 {
        if sample.in_flight + sample.newly_acked + self.mtu < long.min(self.window) {
            return long;
        }
        self.rise.acked += sample.newly_acked;
        let packets_a_round = 1u64 << self.rise.rounds.min(30);
        let acked_a_packet = (self.window / packets_a_round).max(1);
        let packets = self.rise.acked / acked_a_packet;
        self.rise.acked -= packets * acked_a_packet;
        long.saturating_add(packets * self.mtu)
    }

    fn advance_phase(&mut self, now: Mono, sample: &DeliverySample, is_round_start: bool) {
        match self.phase {
            Phase::Startup => {}
            Phase::Drain => {
                if sample.in_flight <= self.in_flight_at(UNITY) {
                    self.enter_down(now, sample.delivered);
                }
            }
            Phase::Down => {
                if self.is_time_to_probe(now) {
                    self.enter_refill(now);
                } else if sample.in_flight <= self.in_flight_at(UNITY).min(self.with_headroom()) {
                    self.enter(now, Phase::Cruise);
                }
            }
            Phase::Cruise => {
                if self.is_time_to_probe(now) {
                    self.enter_refill(now);
                }
            }
            Phase::Refill => {
                if is_round_start && self.phase_rounds > 0 {
                    self.enter_up(now);
                }
            }
            Phase::Up => {
                self.rise.rounds += u32::from(is_round_start);
                if self.has_probed(now) && sample.in_flight >= self.in_flight_at(UP_GAIN) {
                    self.enter_down(now, sample.delivered);
                }
            }
            Phase::ProbeRtt(until) => self.on_probe_rtt(now, sample, until, is_round_start),
        }
    }

    /// Whether Up has lasted long enough to be answered, and to raise a bound that holds it back.
    fn has_probed(&self, now: Mono) -> bool {
        let is_answered = self.model.min_rtt().is_some_and(|min| now.since(self.phase_since) > min);
        let is_bound = self.bounds.long.is_some_and(|long| long < self.in_flight_at(BINDING_GAIN));
        is_answered && (!is_bound || self.phase_rounds >= BOUND_UP_ROUNDS)
    }

    fn is_time_to_probe(&self, now: Mono) -> bool {
        let reno_rounds = (self.in_flight_at(UNITY) / self.mtu).min(PROBE_ROUNDS_MAX);
        now.since(self.probed_at) > self.probe_wait || self.probe_rounds >= reno_rounds
    }

    fn enter_refill(&mut self, now: Mono) {
        (self.bounds.rate, self.bounds.short) = (None, None);
        self.enter(now, Phase::Refill);
    }

    fn on_probe_rtt(&mut self, now: Mono, sample: &DeliverySample, until: Option<Mono>, is_round_start: bool) {
        match until {
            None if sample.in_flight <= self.probe_rtt_window() => {
                self.enter(now, Phase::ProbeRtt(Some(now + PROBE_RTT_TIME)));
            }
            Some(until) if until <= now && is_round_start && self.phase_rounds > 0 => {
                (self.bounds.rate, self.bounds.short) = (None, None);
                if self.is_full {
                    self.enter_down(now, sample.delivered);
                    self.enter(now, Phase::Cruise);
                } else {
                    self.enter(now, Phase::Startup);
                }
            }
            None | Some(_) => {}
        }
    }

    fn probe_rtt_window(&self) -> u64 {
        self.in_flight_at(PROBE_RTT_WINDOW_GAIN)
    }

    fn update_window(&mut self, newly_acked: u64, delivered: u64) {
        let gain = if self.phase == Phase::Up { UP_WINDOW_GAIN } else { WINDOW_GAIN };
        let target = self.in_flight_at(gain).saturating_add(self.model.excess());
        let is_swift = self.is_swift();
        let grown = self.window + if is_swift { SWIFT_GROWTH * newly_acked } else { newly_acked };
        if self.is_full {
            self.window = grown.min(target);
        } else if is_swift || self.window < target || delivered < INITIAL_WINDOW_PACKETS * self.mtu {
            self.window = grown;
        }
        self.window = self.window.max(self.minimum());
    }

    /// What the phase and the bounds leave of the window.
    fn bound(&self) -> u64 {
        let long = match self.phase {
            Phase::Startup | Phase::Drain => u64::MAX,
            Phase::Down | Phase::Refill | Phase::Up => self.bounds.long.unwrap_or(u64::MAX),
            Phase::Cruise => self.with_headroom(),
            Phase::ProbeRtt(_) => self.with_headroom().min(self.probe_rtt_window()),
        };
        long.min(self.bounds.short.unwrap_or(u64::MAX)).max(self.minimum())
    }

    fn pacing_gain(&self) -> u64 {
        match self.phase {
            Phase::Startup => STARTUP_GAIN,
            Phase::Drain => DRAIN_GAIN,
            Phase::Down => DOWN_GAIN,
            Phase::Cruise | Phase::Refill | Phase::ProbeRtt(_) => UNITY,
            Phase::Up => UP_GAIN,
        }
    }
}

impl Controller for Bbr {
    fn on_packet_sent(&mut self, now: Mono, bytes_in_flight: u64) {
        if bytes_in_flight > 0 {
            return;
        }
        self.is_restarted = true;
        if self.is_full && now.since(self.acked_at) > STALE_AFTER {
            let known = self.in_flight_at(UNITY) / 2;
            self.window = self.window.min(known.max(INITIAL_WINDOW_PACKETS * self.mtu));
        }
        self.silence.on_restart(now);
    }

    fn on_delivery(&mut self, now: Mono, sample: &DeliverySample) {
        self.acked_at = now;
        self.model.update_rate(sample);
        let is_min_rtt_old = self.model.update_min_rtt(now, sample.rtt);
        let min_rtt = self.model.min_rtt().unwrap_or(sample.rtt);
        let punctual_rtt = self.silence.on_acked(now, sample.rtt, min_rtt);
        self.has_met_queue |= self.is_load(sample.sent_in_flight) && self.model.has_queue(sample.rtt, FIRST_QUEUE_PART);
        let finished = self.count_round(sample, punctual_rtt);
        if let Some(finished) = &finished {
            self.on_round(now, finished, sample);
        }
        self.adapt_long_bound(now, sample);
        let rate = self.rate();
        self.model.update_excess(now, sample.newly_acked, rate, self.window);
        self.advance_phase(now, sample, finished.is_some());
        if is_min_rtt_old && !self.is_restarted && !matches!(self.phase, Phase::ProbeRtt(_)) {
            self.enter(now, Phase::ProbeRtt(None));
        }
        self.is_restarted = false;
        self.update_window(sample.newly_acked, sample.delivered);
    }

    fn on_congestion_experienced(&mut self, _now: Mono, _sent_at: Mono) {
        self.round.is_marked = true;
    }

    fn on_persistent_congestion(&mut self) {
        self.window = self.minimum();
    }

    fn on_mtu_update(&mut self, mtu: u64) {
        self.mtu = mtu;
        self.window = self.window.max(self.minimum());
    }

    fn window(&self) -> u64 {
        self.window.min(self.bound())
    }

    fn pacing_rate(&self, rtt: &RttEstimator) -> u64 {
        let rate = percent_of(self.rate(), self.pacing_gain() * (UNITY - PACING_MARGIN) / UNITY);
        if self.is_swift() || rate == 0 {
            return rate.max(super::rate_of_window(self.window, true, rtt));
        }
        // Beyond the draft: who sends less than the path takes has measured itself, and would wait for its own tokens. What a new path may
        // have at once it may have, too.
        if self.round.is_app_limited {
            let initial = self.window.min(INITIAL_WINDOW_PACKETS * self.mtu);
            return rate.max(super::rate_of_window(initial, false, rtt));
        }
        rate
    }
}

fn percent_of(value: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(percent) / u128::from(UNITY)).unwrap_or(u64::MAX)
}

/// A part of a time that looks random; flows need no more than to differ.
fn spread(time: Duration, seed: u64) -> Duration {
    // The finaliser of SplitMix64.
    let mixed = (seed ^ seed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 40;
    time * u32::try_from(mixed & 0xFF).unwrap_or(0) / 0x100
}
