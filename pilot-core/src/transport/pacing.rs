//! Spreads the window over the round trip (RFC 9002 §7.7), in batches that one system call can carry.

use std::time::Duration;

use crate::time::Mono;

/// Timers of drivers are no finer than this; so much of the rate may go at once.
const BATCH_PERIOD: Duration = Duration::from_millis(1);

/// Time that is made up for when data was due and the driver came late, as on a busy machine: else the rate would sink below what the
/// path delivers by all the time that others had the processor.
const LATE_PERIOD: Duration = Duration::from_millis(5);

/// Bytes that leave at once at most for such a reason: four calls.
const LATE_LEN_MAX: u64 = 4 * BURST_LEN_MAX;

/// Largest batch: what one segmentation-offload call takes.
pub(super) const BURST_LEN_MAX: u64 = 64 * 1024;

/// Packets with which an idle path may begin at once (RFC 9002 §7.7).
pub(super) const BURST_PACKETS: u64 = 10;

/// Packets that wait for each other before the pacer lets them go.
const BATCH_PACKETS: u64 = 2;

/// A bucket of bytes that fills at the path's rate.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    /// Bytes that may go now; the last packet may overdraw it.
    tokens: i64,
    filled_at: Mono,
    rate: u64,
    mtu: u64,
    /// Empty, and not yet filled again to a batch.
    is_waiting: bool,
    /// There is data, and nothing but the pacer holds it back.
    is_due: bool,
}

impl Pacer {
    pub(super) fn new(mtu: u64) -> Self {
        let tokens = signed(BURST_PACKETS * mtu);
        Self { tokens, filled_at: Mono(0), rate: u64::MAX, mtu, is_waiting: false, is_due: false }
    }

    /// Fills the bucket for the time passed, at the rate of now.
    pub(super) fn refill(&mut self, now: Mono, rate: u64, mtu: u64) {
        (self.rate, self.mtu) = (rate.max(1), mtu);
        let filled = bytes_at(self.rate, now.since(self.filled_at));
        if filled > 0 {
            self.filled_at = now;
            self.tokens = self.tokens.saturating_add(signed(filled)).min(self.capacity());
        }
        if self.tokens >= self.batch() {
            self.is_waiting = false;
        }
    }

    /// Notes whether there is data that nothing else holds back.
    pub(super) fn note_backlog(&mut self, has_backlog: bool) {
        self.is_due = has_backlog && self.is_waiting;
    }

    /// Takes a packet out of the bucket.
    pub(super) fn on_packet_sent(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(signed(bytes));
        self.is_waiting |= self.tokens <= 0;
    }

    pub(super) fn can_send(&self) -> bool {
        !self.is_waiting
    }

    /// When the next batch may go, if it has to wait.
    pub(super) fn release_at(&self) -> Option<Mono> {
        let missing = u128::try_from(self.batch() - self.tokens).unwrap_or(0);
        let nanos = u64::try_from((missing * 1_000_000_000).div_ceil(u128::from(self.rate))).unwrap_or(u64::MAX);
        self.is_waiting.then(|| self.filled_at + Duration::from_nanos(nanos.max(1)))
    }

    /// Bytes of the batch that may go now.
    pub(super) fn burst_len(&self) -> u64 {
        u64::try_from(self.tokens)
            .unwrap_or(0)
            .clamp(BATCH_PACKETS * self.mtu, BURST_LEN_MAX.max(BATCH_PACKETS * self.mtu))
    }

    fn batch(&self) -> i64 {
        signed(BATCH_PACKETS * self.mtu)
    }

    /// An idle path may begin with a burst, and what is late may follow at once.
    fn capacity(&self) -> i64 {
        let idle = bytes_at(self.rate, BATCH_PERIOD).max(BURST_PACKETS * self.mtu);
        let late = if self.is_due { bytes_at(self.rate, LATE_PERIOD).min(LATE_LEN_MAX) } else { 0 };
        signed(idle.max(late))
    }
}

/// Bytes of a batch at this rate: a millisecond's worth, but two packets at least and one call at most.
pub(super) fn batch_len(rate: u64, mtu: u64) -> u64 {
    bytes_at(rate, BATCH_PERIOD).clamp(BATCH_PACKETS * mtu, BURST_LEN_MAX.max(BATCH_PACKETS * mtu))
}

fn bytes_at(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u64 = 1_000;
    const RATE: u64 = 1_000_000;

    #[test]
    fn a_burst_then_batches_at_the_rate() {
        let mut pacer = Pacer::new(MTU);
        let mut now = Mono(1_000_000_000);
        pacer.refill(now, RATE, MTU);
        let mut sent = 0;
        while pacer.can_send() {
            pacer.on_packet_sent(MTU);
            sent += MTU;
        }
        assert_eq!(sent, BURST_PACKETS * MTU);
        let start = now;
        while now.since(start) < Duration::from_secs(1) {
            now = pacer.release_at().unwrap();
            pacer.refill(now, RATE, MTU);
            assert!(pacer.can_send(), "released when it said");
            while pacer.can_send() {
                pacer.on_packet_sent(MTU);
                sent += MTU;
            }
        }
        assert!((RATE..=RATE + 15 * MTU).contains(&sent), "{sent} bytes in a second");
    }

    #[test]
    fn what_is_late_is_made_up_for_and_idle_time_is_not() {
        for (has_backlog, late, sent_at_once) in
            [(true, 4, 4), (true, 50, 5), (false, 4, BURST_PACKETS / 10), (false, 50, BURST_PACKETS / 10)]
        {
            let (rate, mut now) = (10 * RATE, Mono(1_000_000_000));
            let mut pacer = Pacer::new(MTU);
            pacer.refill(now, rate, MTU);
            pacer.on_packet_sent(u64::try_from(pacer.tokens).unwrap());
            pacer.note_backlog(has_backlog);
            now = now + Duration::from_millis(late);
            pacer.refill(now, rate, MTU);
            assert_eq!(pacer.burst_len(), sent_at_once * 10 * MTU, "{late} ms late, data waits: {has_backlog}");
        }
    }

    #[test]
    fn a_batch_is_a_millisecond_at_the_rate_and_one_system_call() {
        let mut pacer = Pacer::new(MTU);
        pacer.refill(Mono(1_000_000_000), 10_000_000_000, MTU);
        assert_eq!(pacer.burst_len(), BURST_LEN_MAX);
        pacer.on_packet_sent(10_000_000);
        assert!(!pacer.can_send());
        assert_eq!(pacer.burst_len(), BATCH_PACKETS * MTU);
    }
}
