//! One direction between two hosts: its delay and rate, and everything that can go wrong on the way.
//!
//! Each datagram costs one draw from the link's own generator, whatever is switched on: a fault that is added to a scenario does not move
//! the decisions of the others.

use std::time::Duration;

use pilot_core::rng::Rng;
use pilot_core::time::Mono;

use crate::nat::NatDrop;

/// The longest that a datagram picked for reordering is held back: it falls behind a few round trips' worth of others.
const HOLD_BACK_MAX: Duration = Duration::from_millis(40);
/// What a datagram weighs on the wire beside its payload: IPv4 and UDP headers.
const HEADERS_LEN: u64 = 28;

/// A probability, in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chance(u32);

impl Chance {
    /// It does not happen.
    pub const NEVER: Self = Self(0);

    /// It happens this many times in a hundred.
    pub const fn percent(percent: u32) -> Self {
        Self(percent * 10_000)
    }

    /// Whether a uniform draw hits it.
    fn hits(self, draw: u32) -> bool {
        (u64::from(draw) * 1_000_000) >> 32 < u64::from(self.0)
    }
}

/// How a link turns bad and good again (Gilbert, 1960): while it is good it loses nothing by this, while it is bad everything. Each datagram may be
/// the one with which it turns.
#[derive(Clone, Copy, Debug)]
struct Bursts {
    begins: Chance,
    ends: Chance,
}

/// How a link treats datagrams. By default it takes 10 ms, loses nothing, keeps the order and carries the payload of an Ethernet frame.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    delay: Duration,
    jitter: Duration,
    keeps_order: bool,
    loss: Chance,
    bursts: Option<Bursts>,
    duplication: Chance,
    corruption: Chance,
    reordering: Chance,
    rate: Option<u64>,
    queue_len_max: u64,
    mtu: usize,
    is_cut: bool,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            keeps_order: true,
            loss: Chance::NEVER,
            bursts: None,
            duplication: Chance::NEVER,
            corruption: Chance::NEVER,
            reordering: Chance::NEVER,
            rate: None,
            queue_len_max: 256 * 1024,
            mtu: 1_472,
            is_cut: false,
        }
    }
}

impl LinkConfig {
    /// One-way delay. Default 10 ms.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Additional delay between zero and this, drawn for each datagram. The order is kept.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// As [`LinkConfig::jitter`], but datagrams overtake each other.
    #[must_use]
    pub fn overtaking_jitter(mut self, jitter: Duration) -> Self {
        self.keeps_order = false;
        self.jitter(jitter)
    }

    /// Share of datagrams that vanish.
    #[must_use]
    pub fn loss(mut self, chance: Chance) -> Self {
        self.loss = chance;
        self
    }

    /// Share of datagrams that vanish in bursts, beside those that vanish one by one; a burst takes `len_mean` of them on average.
    #[must_use]
    pub fn burst_loss(mut self, share: Chance, len_mean: u32) -> Self {
        let whole = u64::from(Chance::percent(100).0);
        let ends = whole / u64::from(len_mean.max(1));
        // In the long run as many begin as end.
        let begins = ends * u64::from(share.0) / (whole - u64::from(share.0)).max(1);
        self.bursts = Some(Bursts { begins: Chance(begins.min(whole) as u32), ends: Chance(ends as u32) });
        self
    }

    /// Share of datagrams that arrive twice.
    #[must_use]
    pub fn duplication(mut self, chance: Chance) -> Self {
        self.duplication = chance;
        self
    }

    /// Share of datagrams that arrive with one bit flipped.
    #[must_use]
    pub fn corruption(mut self, chance: Chance) -> Self {
        self.corruption = chance;
        self
    }

    /// Share of datagrams that are held back by up to 40 ms, so that later ones overtake them.
    #[must_use]
    pub fn reordering(mut self, chance: Chance) -> Self {
        self.reordering = chance;
        self
    }

    /// Bytes per second, headers included, behind a tail-drop queue of `queue_len_max` bytes. Default: unlimited.
    #[must_use]
    pub fn rate(mut self, bytes_per_second: u64, queue_len_max: u64) -> Self {
        self.rate = Some(bytes_per_second);
        self.queue_len_max = queue_len_max;
        self
    }

    /// Largest UDP payload that gets through; longer ones vanish, as behind a router that sends no ICMP. Default 1,472 bytes.
    #[must_use]
    pub fn mtu(mut self, bytes: usize) -> Self {
        self.mtu = bytes;
        self
    }

    /// Whether nothing gets through at all.
    #[must_use]
    pub fn cut(mut self, is_cut: bool) -> Self {
        self.is_cut = is_cut;
        self
    }
}

/// What a link did with one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// On its way.
    Sent,
    /// On its way, twice.
    Duplicated,
    /// On its way, damaged.
    Corrupted,
    /// On its way, behind later ones.
    HeldBack,
    /// Vanished.
    Lost,
    /// The link is cut.
    Cut,
    /// Longer than the link's MTU.
    TooLong,
    /// The queue in front of the link is full.
    QueueFull,
    /// Nobody has the destination address.
    NoHost,
    /// The sender does not have the local address or socket it wants to send from.
    NoLocalAddress,
    /// Its time to live was too short for the way.
    Expired,
    /// A gateway did not let it through.
    Nat(NatDrop),
}

/// What passed a link so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Datagrams offered to the link.
    pub offered: u64,
    /// Their bytes.
    pub offered_bytes: u64,
    /// Those among them that were RELAY packets.
    pub offered_relayed: u64,
    /// Datagrams that the link dropped.
    pub dropped: u64,
}

/// The state of one direction. Like [`crate::nat::Nat`] it is arithmetic only, so that a router in real time can use it too.
pub struct Link {
    pub(crate) config: LinkConfig,
    pub(crate) stats: LinkStats,
    rng: Rng,
    /// For bursts alone: what draws for them moves nothing else.
    burst_rng: Rng,
    is_in_burst: bool,
    busy_until: Mono,
    last_arrival: Mono,
}

/// When a datagram arrives, if it does, and its double.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    /// What happened to it.
    pub fate: Fate,
    /// When it is at the other end.
    pub arrivals: [Option<Mono>; 2],
}

impl Passage {
    /// Whether the datagram was dropped because too many waited.
    pub(crate) fn is_queue_full(&self) -> bool {
        self.fate == Fate::QueueFull
    }
}

/// The dice of one datagram.
struct Draw([u32; 6]);

impl Link {
    /// A link on which nothing is yet; `rng` decides what is left to chance.
    pub fn new(config: LinkConfig, rng: Rng) -> Self {
        let start = Mono::default();
        let burst_rng = rng.child("bursts");
        let stats = LinkStats::default();
        Self { config, stats, rng, burst_rng, is_in_burst: false, busy_until: start, last_arrival: start }
    }

    /// How long a datagram that comes now waits before the first byte of it leaves.
    pub fn wait(&self, now: Mono) -> Duration {
        self.busy_until.max(now).since(now)
    }

    /// What passed so far.
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    /// Decides what becomes of a datagram, and damages it if so decided.
    pub fn send(&mut self, now: Mono, datagram: &mut [u8]) -> Passage {
        let draw = Draw::new(&mut self.rng);
        self.stats.offered += 1;
        self.stats.offered_bytes += datagram.len() as u64;
        let passage = self.pass(now, datagram, &draw);
        if passage.arrivals[0].is_none() {
            self.stats.dropped += 1;
        }
        passage
    }

    /// Treats datagrams otherwise from now on.
    pub fn change(&mut self, change: impl FnOnce(LinkConfig) -> LinkConfig) {
        self.config = change(self.config.clone());
    }

    /// Whether it carries datagrams of this length.
    pub(crate) fn takes(&self, len: usize) -> bool {
        len <= self.config.mtu
    }

    fn pass(
        &mut self,
        now: Mono,
        datagram: &mut [u8],
        Draw([loss, double, damage, hold, jitter, extra]): &Draw,
    ) -> Passage {
        let dropped = |fate| Passage { fate, arrivals: [None, None] };
        if self.config.is_cut {
            return dropped(Fate::Cut);
        }
        if !self.takes(datagram.len()) {
            return dropped(Fate::TooLong);
        }
        if self.falls_into_burst() || self.config.loss.hits(*loss) {
            return dropped(Fate::Lost);
        }
        let Some(departure) = self.queue(now, datagram.len() as u64) else { return dropped(Fate::QueueFull) };
        let arrival = departure + self.config.delay + fraction(self.config.jitter, *jitter);
        if self.config.reordering.hits(*hold) {
            let late = arrival + fraction(HOLD_BACK_MAX, *extra);
            return Passage { fate: Fate::HeldBack, arrivals: [Some(late), None] };
        }
        let arrival = if self.config.keeps_order { arrival.max(self.last_arrival) } else { arrival };
        self.last_arrival = arrival;
        if self.config.duplication.hits(*double) {
            let again = arrival + fraction(HOLD_BACK_MAX, *extra);
            return Passage { fate: Fate::Duplicated, arrivals: [Some(arrival), Some(again)] };
        }
        let is_damaged = self.config.corruption.hits(*damage) && !datagram.is_empty();
        if is_damaged {
            let bit = *extra as usize % (datagram.len() * 8);
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        let fate = if is_damaged { Fate::Corrupted } else { Fate::Sent };
        Passage { fate, arrivals: [Some(arrival), None] }
    }

    /// Whether the link is bad for the datagram that comes now.
    fn falls_into_burst(&mut self) -> bool {
        let Some(Bursts { begins, ends }) = self.config.bursts else { return false };
        let turns = if self.is_in_burst { ends } else { begins };
        self.is_in_burst ^= turns.hits(u32::from_le_bytes(self.burst_rng.array()));
        self.is_in_burst
    }

    /// Puts a datagram behind those that wait for the link. Returns when its last byte has left, or nothing if the queue is full.
    fn queue(&mut self, now: Mono, len: u64) -> Option<Mono> {
        let Some(rate) = self.config.rate else { return Some(now) };
        let start = self.busy_until.max(now);
        let waiting_bytes = start.since(now).as_nanos() * u128::from(rate) / 1_000_000_000;
        if waiting_bytes + u128::from(len) > u128::from(self.config.queue_len_max) {
            return None;
        }
        self.busy_until = start + Duration::from_nanos((len + HEADERS_LEN) * 1_000_000_000 / rate);
        Some(self.busy_until)
    }
}

impl Draw {
    fn new(rng: &mut Rng) -> Self {
        let bytes: [u8; 24] = rng.array();
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self([word(0), word(4), word(8), word(12), word(16), word(20)])
    }
}

/// The part of `whole` that a uniform draw picks.
fn fraction(whole: Duration, draw: u32) -> Duration {
    let nanos = (whole.as_nanos() * u128::from(draw)) >> 32;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Mono = Mono(1_000_000_000);

    fn link(config: LinkConfig) -> Link {
        Link::new(config, Rng::new([7; 32]))
    }

    /// Sends `count` datagrams of 1,000 bytes, a microsecond apart; returns their fates and arrivals.
    fn send_many(link: &mut Link, count: u64) -> Vec<Passage> {
        (0..count).map(|at| link.send(START + Duration::from_micros(at), &mut [0; 1_000])).collect()
    }

    fn share_percent(passages: &[Passage], fate: Fate) -> usize {
        passages.iter().filter(|passage| passage.fate == fate).count() * 100 / passages.len()
    }

    #[test]
    fn faults_hit_about_as_often_as_asked() {
        let lossy = send_many(&mut link(LinkConfig::default().loss(Chance::percent(20))), 5_000);
        assert!((18..=22).contains(&share_percent(&lossy, Fate::Lost)));
        let doubling = send_many(&mut link(LinkConfig::default().duplication(Chance::percent(50))), 5_000);
        assert!((48..=52).contains(&share_percent(&doubling, Fate::Duplicated)));
        assert!(doubling.iter().all(|passage| (passage.fate == Fate::Duplicated) == passage.arrivals[1].is_some()));
    }

    #[test]
    fn losses_come_in_bursts_of_the_length_and_share_that_was_asked_for() {
        for (percent, len_mean) in [(5, 10), (10, 8), (10, 1), (50, 4)] {
            let bursty = || link(LinkConfig::default().burst_loss(Chance::percent(percent), len_mean));
            let lost = |mut link: Link| -> Vec<bool> {
                send_many(&mut link, 50_000).iter().map(|passage| passage.fate == Fate::Lost).collect()
            };
            let fates = lost(bursty());
            let losses = fates.iter().filter(|&&lost| lost).count();
            let bursts = fates.chunk_by(|one, next| one == next).filter(|run| run[0]).count();
            let (share, mean) = (losses as f64 / fates.len() as f64, losses as f64 / bursts as f64);
            assert!((share * 100.0 / f64::from(percent) - 1.0).abs() < 0.2, "{share} of {percent} %");
            assert!((mean / f64::from(len_mean) - 1.0).abs() < 0.2, "{mean} of {len_mean}");
            assert_eq!(fates, lost(bursty()), "one seed, one course");
        }
    }

    #[test]
    fn corruption_flips_exactly_one_bit() {
        let mut link = link(LinkConfig::default().corruption(Chance::percent(100)));
        for _ in 0..100 {
            let mut datagram = [0; 100];
            assert_eq!(link.send(START, &mut datagram).fate, Fate::Corrupted);
            assert_eq!(datagram.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        }
    }

    #[test]
    fn jitter_keeps_the_order_unless_told_otherwise() {
        let overtakes = |config| {
            let arrivals: Vec<_> =
                send_many(&mut link(config), 1_000).iter().filter_map(|passage| passage.arrivals[0]).collect();
            assert!(arrivals.iter().all(|&at| at.since(START) <= Duration::from_millis(16)));
            arrivals.windows(2).any(|pair| pair[1] < pair[0])
        };
        assert!(!overtakes(LinkConfig::default().jitter(Duration::from_millis(5))));
        assert!(overtakes(LinkConfig::default().overtaking_jitter(Duration::from_millis(5))));
    }

    #[test]
    fn a_rate_spaces_datagrams_out_and_a_full_queue_drops_the_tail() {
        let mut link = link(LinkConfig::default().delay(Duration::ZERO).rate(1_028_000, 5_000));
        let passages: Vec<_> = (0..10).map(|_| link.send(START, &mut [0; 1_000])).collect();
        let arrivals: Vec<_> = passages.iter().filter_map(|passage| passage.arrivals[0]).collect();
        let spaced: Vec<_> = (1..=arrivals.len() as u64).map(|count| START + Duration::from_millis(count)).collect();
        assert_eq!(arrivals, spaced);
        assert_eq!(passages.iter().position(|passage| passage.fate == Fate::QueueFull), Some(4));
    }

    #[test]
    fn what_is_longer_than_the_mtu_vanishes() {
        let mut link = link(LinkConfig::default().mtu(1_000));
        assert_eq!(link.send(START, &mut [0; 1_000]).fate, Fate::Sent);
        assert_eq!(link.send(START, &mut [0; 1_001]).fate, Fate::TooLong);
        assert_eq!(link.stats, LinkStats { offered: 2, offered_bytes: 2_001, offered_relayed: 0, dropped: 1 });
    }

    #[test]
    fn a_fault_that_is_added_does_not_move_the_others() {
        let losses = |config| -> Vec<bool> {
            send_many(&mut link(config), 500).iter().map(|passage| passage.fate == Fate::Lost).collect()
        };
        let plain = LinkConfig::default().loss(Chance::percent(10));
        assert_eq!(
            losses(plain.clone()),
            losses(plain.clone().reordering(Chance::percent(30)).duplication(Chance::percent(30)))
        );
        let (before, with_bursts) = (losses(plain.clone()), losses(plain.burst_loss(Chance::percent(5), 10)));
        assert!(before.iter().zip(&with_bursts).all(|(lost, still)| lost <= still));
    }
}
