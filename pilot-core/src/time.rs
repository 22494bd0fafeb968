//! Time as an argument. Core never reads a clock: the driver reads it once per loop turn and passes [`Now`] to every verb.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the boot-time clock, in nanoseconds. It advances during suspend and never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// Nanoseconds since the UNIX epoch. It may step either way; only certificates, records and handshake timestamps use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

/// Both clocks, read at the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Boot-time clock: every timer and round trip.
    pub mono: Mono,
    /// Wall clock: every date that another machine reads.
    pub unix: UnixTime,
}

/// How far the two clocks may part between two looks at them: more than slewing and drift do, less than a snapshot is ever worth.
pub const CLOCKS_PART_AFTER: Duration = Duration::from_secs(2);

/// Notices that the two clocks have not passed the same time since they were looked at last: somebody has set one, or this is a restored
/// snapshot (spec/handshake.md §12).
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockWatch {
    last: Option<Now>,
}

impl ClockWatch {
    /// A watch that has seen the clocks.
    pub fn new(now: Now) -> Self {
        Self { last: Some(now) }
    }

    /// When they were looked at last.
    pub fn looked_at(&self) -> Mono {
        self.last.unwrap_or_default().mono
    }

    /// Looks at the clocks. Whether they have parted since the last look.
    pub fn have_parted(&mut self, now: Now) -> bool {
        let Some(last) = self.last.replace(now) else { return false };
        let passed = |from: u64, to: u64| i128::from(to) - i128::from(from);
        let apart = passed(last.mono.0, now.mono.0).abs_diff(passed(last.unix.0, now.unix.0));
        apart > CLOCKS_PART_AFTER.as_nanos()
    }
}

impl Mono {
    /// Time passed since `earlier`, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl UnixTime {
    /// A wall-clock time from whole seconds since the epoch.
    pub fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }
}

impl Add<Duration> for UnixTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for UnixTime {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

/// Durations here are minutes to days; one past 584 years saturates.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_pass_the_same_time_have_not_parted() {
        let start = Now { mono: Mono(1 << 40), unix: UnixTime(1 << 60) };
        let later = |mono: i64, unix: i64| Now {
            mono: Mono(start.mono.0.saturating_add_signed(mono)),
            unix: UnixTime(start.unix.0.saturating_add_signed(unix)),
        };
        let bound = CLOCKS_PART_AFTER.as_nanos() as i64;
        let day = 86_400_000_000_000;
        for (mono, unix, parted) in [
            (day, day, false),
            (0, bound, false),
            (0, -bound, false),
            (0, bound + 1, true),
            (0, -bound - 1, true),
            (bound + 1, 0, true),
            (-bound - 1, 0, true),
            (0, -day, true),
        ] {
            let mut watch = ClockWatch::new(start);
            assert_eq!(watch.have_parted(later(mono, unix)), parted, "{mono} {unix}");
            assert!(!watch.have_parted(later(mono, unix)), "once");
        }
        assert!(!ClockWatch::default().have_parted(start));
    }
}
