//! The two clocks of the machine, read together once per turn of the loop (spec/README.md §3).

use std::time::{Duration, SystemTime};

use pilot_core::time::{Mono, Now, UnixTime};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// The clock that goes on during suspend, so that timers notice how long the machine slept.
#[cfg(target_os = "linux")]
const BOOT_TIME: ClockId = ClockId::Boottime;
/// Elsewhere the monotonic clock is the nearest thing.
#[cfg(not(target_os = "linux"))]
const BOOT_TIME: ClockId = ClockId::Monotonic;

/// So often a wait looks at the clock: what was due while the machine slept is done so soon after that.
const LOOK_INTERVAL: Duration = if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(30) };

/// Reads both clocks.
pub fn now() -> Now {
    Now { mono: Mono(nanos(clock_gettime(BOOT_TIME))), unix: wall_clock() }
}

/// The wall clock by way of the system's library, so that one which is wrong can be put under an agent (`pilot-ctl/tests/namespaces.rs`).
/// One that claims to be before its epoch counts as being at it.
#[expect(clippy::disallowed_methods, reason = "this is where the driver reads the clock")]
fn wall_clock() -> UnixTime {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::default() + since_epoch
}

/// How long the machine has slept since it was started: what the boot-time clock has counted and the monotonic one has not. Where only one of
/// them exists it has not slept.
pub fn slept() -> Duration {
    // Read first, so that the moment between the two is not taken for sleep.
    let boot_time = nanos(clock_gettime(BOOT_TIME));
    Duration::from_nanos(boot_time.saturating_sub(nanos(clock_gettime(ClockId::Monotonic))))
}

/// Waits by the clock that goes on during suspend. Timers of tokio do not.
pub async fn sleep(pause: Duration) {
    sleep_by(|| now().mono, pause).await;
}

async fn sleep_by(clock: impl Fn() -> Mono, pause: Duration) {
    let due = clock() + pause;
    loop {
        let left = due.since(clock());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
    }
}

/// No such clock can be before its epoch; one that claims so counts as being at it.
fn nanos(time: Timespec) -> u64 {
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_machine_that_has_slept_through_a_wait_finds_out() {
        const HOUR: Duration = Duration::from_secs(3_600);
        let looks = Cell::new(0);
        let clock = || {
            looks.set(looks.get() + 1);
            // It falls asleep in the midst of the wait, and wakes two hours later.
            Mono::default() + if looks.get() <= 3 { Duration::ZERO } else { HOUR * 2 }
        };
        assert!(timeout(Duration::from_secs(10), sleep_by(clock, HOUR)).await.is_ok());
        assert_eq!(looks.get(), 4);
    }

    #[tokio::test]
    async fn a_wait_lasts_as_long_as_it_is_to() {
        let (before, pause) = (now().mono, LOOK_INTERVAL * 2);
        sleep(pause).await;
        assert!(now().mono.since(before) >= pause);
    }
}
