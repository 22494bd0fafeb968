//! Silence of the path while acknowledgements were due (spec/congestion.md §4, 3).
//!
//! A queue delivers without a pause. Where a pause is as long as the acknowledgements after it are late, nothing was queued: a machine stood
//! still, as those of a host that has too many.

use std::time::Duration;

use crate::time::Mono;

/// Part of the smallest round trip time that a silence takes at least: the acknowledgements of a small flight come in bursts, with
/// pauses between them. With half of this a flow that begins beside another leaves Startup too late for a fair share.
const SILENCE_PART: u32 = 2;

/// The longest silence since the packet left that was acknowledged last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    longest: Duration,
    ended_at: Mono,
    /// When something was acknowledged last, or sent while nothing was in flight.
    heard_at: Mono,
}

impl Silence {
    pub(super) fn new() -> Self {
        Self { longest: Duration::ZERO, ended_at: Mono(0), heard_at: Mono(0) }
    }

    /// Something is sent, and nothing was in flight: until now nothing was due.
    pub(super) fn on_restart(&mut self, now: Mono) {
        self.heard_at = now;
    }

    /// Takes an acknowledgement. Returns what silence does not explain of its round trip time.
    pub(super) fn on_acked(&mut self, now: Mono, rtt: Duration, min_rtt: Duration) -> Duration {
        let pause = now.since(self.heard_at);
        let silence = if pause > min_rtt / SILENCE_PART { pause } else { Duration::ZERO };
        let has_left_since = now.since(self.ended_at) >= rtt;
        if has_left_since || silence > self.longest {
            (self.longest, self.ended_at) = (silence, now);
        }
        self.heard_at = now;
        rtt.saturating_sub(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(millis * 1_000_000)
    }

    #[test]
    fn silence_explains_the_lateness_of_what_left_before_it_ended() {
        let mut silence = Silence::new();
        silence.on_restart(at(1_000));
        let mut punctual = |now, rtt| {
            let rest = silence.on_acked(at(now), Duration::from_millis(rtt), Duration::from_millis(40));
            u64::try_from(rest.as_millis()).unwrap()
        };
        assert_eq!(punctual(1_040, 40), 0, "the first comes after a silence that is none, and is late for nothing");
        assert_eq!(punctual(1_050, 40), 0, "left before the first came");
        assert_eq!(punctual(1_065, 15), 15, "a pause between two bursts");
        assert_eq!(punctual(1_165, 110), 10, "late after a hundred milliseconds");
        assert_eq!(punctual(1_165, 90), 0, "one of those that waited meanwhile");
        assert_eq!(punctual(1_180, 15), 15, "left after the silence");
        assert_eq!(punctual(1_230, 60), 10, "fifty more");
    }
}
