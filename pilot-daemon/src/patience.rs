//! Whether the loop looks for more, or sleeps.
//!
//! To wake a sleeping core costs more, in a virtual machine several times more, than all that a packet needs. So after something has come the
//! loop stays awake for about as long as being woken takes, giving its core to whoever wants it; and a little longer where a handshake is
//! answered, by who computes first. Where others want the core, the loop sleeps at once.

use std::time::Duration;

use pilot_core::time::Mono;

/// How long to look for more after an input: an answer mostly comes before that.
const AFTER_INPUT: Duration = Duration::from_micros(50);
/// How long after a message of a handshake, that its first reply may fall into the same wait: four Diffie-Hellman functions, and a wake-up.
const AFTER_HANDSHAKE: Duration = Duration::from_micros(400);
/// Giving the core away takes longer than this only where somebody else took it.
const OTHERS_TURN: Duration = Duration::from_micros(50);
/// Where others want the core, giving it away costs a turn of theirs, milliseconds: for so long the loop sleeps at once instead, since who is
/// woken comes before who has worked.
const SLEEPY_WHERE_OTHERS_WORK: Duration = Duration::from_millis(100);

/// What the loop knows of its waits.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    last_input: Mono,
    sleepy_until: Mono,
}

impl Patience {
    /// Something has come.
    pub(crate) fn on_input(&mut self, now: Mono) {
        self.last_input = now;
    }

    /// Whether to look again at `now`; if not, the loop sleeps. `last_handshake` is when a message of one was sent, `left` the time until
    /// something is due: a paced sender's next batch is due in a moment, again and again, and it is cheaper to look than to be woken.
    pub(crate) fn stays_awake(&self, now: Mono, last_handshake: Option<Mono>, left: Option<Duration>) -> bool {
        let is_soon = now.since(self.last_input) < AFTER_INPUT
            || last_handshake.is_some_and(|at| now.since(at) < AFTER_HANDSHAKE)
            || left.is_some_and(|left| left < AFTER_INPUT);
        is_soon && now >= self.sleepy_until
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

    const NOW: Mono = Mono(1_000_000_000);

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn an_answer_is_waited_for_awake_and_that_of_a_handshake_longer() {
        let mut patience = Patience::default();
        patience.on_input(NOW);
        let waits = |wait, handshake| patience.stays_awake(NOW + micros(wait), handshake, None);
        assert_eq!((waits(40, None), waits(60, None)), (true, false));
        assert_eq!((waits(300, Some(NOW)), waits(500, Some(NOW))), (true, false));
        assert!(patience.stays_awake(NOW + micros(500), None, Some(micros(20))), "something is due in a moment");
    }

    #[test]
    fn where_others_want_the_core_the_loop_sleeps_at_once_for_a_while() {
        let mut patience = Patience::default();
        patience.gave_way(NOW, NOW + micros(3_000));
        patience.on_input(NOW + micros(3_000));
        assert!(!patience.stays_awake(NOW + micros(3_010), Some(NOW), None));
        let later = NOW + micros(3_000) + SLEEPY_WHERE_OTHERS_WORK;
        patience.on_input(later);
        assert!(patience.stays_awake(later + micros(10), None, None));
    }
}
