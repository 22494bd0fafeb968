//! Whether the loop looks for more, or sleeps.
//!
//! To wake a sleeping core costs more, in a virtual machine several times more, than all that a packet needs. So after something has come the
//! loop stays awake for a while, giving its core to whoever wants it. How long is worth it, the last waits tell: what came soon after the loop
//! had gone to sleep doubles its patience, what came late halves it. Where others want the core, the loop sleeps at once.

use std::time::Duration;

use pilot_core::time::Mono;

/// To wait awake any longer saves nothing that anybody would notice.
const PATIENCE_MAX: Duration = Duration::from_micros(400);
/// The least that is worth looking: to sleep and to be woken takes as long.
const PATIENCE_MIN: Duration = Duration::from_micros(50);
/// Giving the core away takes longer than this only where somebody else took it.
const OTHERS_TURN: Duration = Duration::from_micros(50);
/// Where others want the core, giving it away costs a turn of theirs, milliseconds: for so long the loop sleeps at once instead, since who is
/// woken comes before who has worked.
const SLEEPY_WHERE_OTHERS_WORK: Duration = Duration::from_millis(100);

/// What the loop knows of its waits.
#[derive(Debug)]
pub(crate) struct Patience {
    window: Duration,
    last_input: Mono,
    has_slept: bool,
    sleepy_until: Mono,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { window: PATIENCE_MIN, last_input: Mono(0), has_slept: false, sleepy_until: Mono(0) }
    }

    /// Something has come.
    pub(crate) fn on_input(&mut self, now: Mono) {
        if std::mem::take(&mut self.has_slept) {
            self.window = if now.since(self.last_input) < PATIENCE_MAX {
                (self.window * 2).clamp(PATIENCE_MIN, PATIENCE_MAX)
            } else {
                // Below the least it is over.
                Some(self.window / 2).filter(|half| *half >= PATIENCE_MIN).unwrap_or_default()
            };
        }
        self.last_input = now;
    }

    /// Whether to look again at `now`; if not, the loop sleeps. `left` is the time until something is due: a paced sender's next batch is due
    /// in a moment, again and again, and it is cheaper to look than to be woken.
    pub(crate) fn stays_awake(&mut self, now: Mono, left: Option<Duration>) -> bool {
        let is_soon = now.since(self.last_input) < self.window || left.is_some_and(|left| left < PATIENCE_MIN);
        let is_awake = is_soon && now >= self.sleepy_until;
        self.has_slept |= !is_awake;
        is_awake
    }

    /// The core was given to whoever wanted it, and is back.
    pub(crate) fn gave_way(&mut self, before: Mono, back: Mono) {
        if back.since(before) > OTHERS_TURN {
            self.sleepy_until = back + SLEEPY_WHERE_OTHERS_WORK;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// Whether the loop is still awake so long after an input.
    fn is_awake_after(patience: &mut Patience, input: Mono, wait: Duration) -> bool {
        patience.stays_awake(input + wait, None)
    }

    #[test]
    fn answers_that_come_soon_are_waited_for_awake_and_others_are_not() {
        let (mut patience, mut now) = (Patience::new(), Mono(1_000_000_000));
        patience.on_input(now);
        assert!(is_awake_after(&mut patience, now, micros(40)));
        for _ in 0..4 {
            assert!(!is_awake_after(&mut patience, now, PATIENCE_MAX));
            now = now + micros(300);
            patience.on_input(now);
        }
        assert!(is_awake_after(&mut patience, now, micros(300)), "three such answers have taught it");
        for _ in 0..4 {
            assert!(!is_awake_after(&mut patience, now, PATIENCE_MAX));
            now = now + Duration::from_secs(1);
            patience.on_input(now);
        }
        assert!(!is_awake_after(&mut patience, now, micros(0)), "what comes once a second is not worth a look");
    }

    #[test]
    fn where_others_want_the_core_the_loop_sleeps_at_once_for_a_while() {
        let (mut patience, now) = (Patience::new(), Mono(1_000_000_000));
        patience.on_input(now);
        patience.gave_way(now, now + micros(3_000));
        patience.on_input(now + micros(3_000));
        assert!(!is_awake_after(&mut patience, now, micros(3_010)));
        let later = now + micros(3_000) + SLEEPY_WHERE_OTHERS_WORK;
        patience.on_input(later);
        assert!(is_awake_after(&mut patience, later, micros(10)));
    }
}
