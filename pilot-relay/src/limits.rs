//! Rates: how much one client, or one source prefix, may ask for.
//!
//! Clients with a tunnel are limited by identity. STUN comes from strangers, so there the source prefix stands for them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use pilot_core::time::Mono;

/// Source prefixes tracked at once, about 200 kB. When all are in use, newcomers share one allowance.
const PREFIXES_MAX: usize = 4_096;
/// A full table is searched for idle entries at most this often: the search is linear.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// An allowance: a steady rate, and a burst after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units a second in the long run. At least 1.
    pub per_second: u64,
    /// Units allowed at once after a pause.
    pub burst: u64,
}

impl Rate {
    fn time_of(self, units: u64) -> Duration {
        let per_second = self.per_second.max(1);
        let nanos = match units.checked_mul(1_000_000_000) {
            // As good as always, and several times as fast.
            Some(product) => product / per_second,
            None => {
                let nanos = u128::from(units) * 1_000_000_000 / u128::from(per_second);
                u64::try_from(nanos).unwrap_or(u64::MAX)
            }
        };
        Duration::from_nanos(nanos)
    }
}

/// A token bucket, kept as the time at which it is full again.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenBucket {
    full_at: Mono,
}

impl TokenBucket {
    /// Takes `units` if the bucket holds that many. Returns whether it did.
    pub fn take(&mut self, now: Mono, rate: Rate, units: u64) -> bool {
        let full_at = self.full_at.max(now) + rate.time_of(units);
        let fits = full_at.since(now) <= rate.time_of(rate.burst);
        if fits {
            self.full_at = full_at;
        }
        fits
    }

    /// Whether forgetting the bucket would change nothing.
    pub fn is_full(&self, now: Mono) -> bool {
        self.full_at <= now
    }
}

/// The block that providers assign to one customer: all addresses in it count as one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prefix {
    V4([u8; 3]),
    V6([u8; 7]),
}

impl Prefix {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g])
            }
        }
    }
}

/// One token bucket per source prefix (/24 and /56), in bounded memory.
#[derive(Debug)]
pub struct PrefixLimiter {
    rate: Rate,
    buckets: BTreeMap<Prefix, TokenBucket>,
    overflow: TokenBucket,
    next_sweep: Mono,
}

impl PrefixLimiter {
    /// A limiter that allows each prefix `rate`.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: BTreeMap::new(), overflow: TokenBucket::default(), next_sweep: Mono::default() }
    }

    /// Takes one unit from the allowance of the prefix of `ip`. Returns whether there was one.
    pub fn take(&mut self, now: Mono, ip: IpAddr) -> bool {
        let prefix = Prefix::of(ip);
        if !self.buckets.contains_key(&prefix) && !self.make_room(now) {
            return self.overflow.take(now, self.rate, 1);
        }
        self.buckets.entry(prefix).or_default().take(now, self.rate, 1)
    }

    fn make_room(&mut self, now: Mono) -> bool {
        if self.buckets.len() >= PREFIXES_MAX && now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        self.buckets.len() < PREFIXES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    fn at(millis: u64) -> Mono {
        Mono(millis * 1_000_000)
    }

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let mut bucket = TokenBucket::default();
        assert!((0..3).all(|_| bucket.take(at(0), RATE, 1)));
        assert!(!bucket.take(at(99), RATE, 1));
        assert!(bucket.take(at(100), RATE, 1));
        assert!(!bucket.take(at(100), RATE, 1));
    }

    #[test]
    fn what_was_refused_costs_nothing() {
        let mut bucket = TokenBucket::default();
        assert!(!bucket.take(at(0), RATE, 4));
        assert!(bucket.take(at(0), RATE, 3));
    }

    #[test]
    fn one_prefix_does_not_use_up_the_allowance_of_another() {
        let mut limiter = PrefixLimiter::new(RATE);
        let [noisy, neighbour, other] = ["192.0.2.1", "192.0.2.77", "198.51.100.1"].map(|ip| ip.parse().unwrap());
        assert!((0..3).all(|_| limiter.take(at(0), noisy)));
        assert!(!limiter.take(at(0), neighbour));
        assert!(limiter.take(at(0), other));
    }

    #[test]
    fn a_flood_of_prefixes_shares_one_allowance_and_one_table() {
        let mut limiter = PrefixLimiter::new(RATE);
        let prefix = |i: usize| IpAddr::from([10, (i / 256) as u8, (i % 256) as u8, 1]);
        assert!((0..PREFIXES_MAX).all(|i| limiter.take(at(0), prefix(i))));
        assert_eq!((PREFIXES_MAX..PREFIXES_MAX + 100).filter(|i| limiter.take(at(0), prefix(*i))).count(), 3);
        assert_eq!(limiter.buckets.len(), PREFIXES_MAX);
        assert!(limiter.take(at(1_000), prefix(PREFIXES_MAX)));
        assert_eq!(limiter.buckets.len(), 1);
    }
}
