//! One timer with the resolution that pacing needs: tokio's own counts whole milliseconds.

use pilot_core::time::{Mono, Now};

/// Fires once the boot-time clock has reached the deadline, or earlier.
#[derive(Debug)]
pub(crate) struct Timer {
    #[cfg(target_os = "linux")]
    fd: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
    armed: Option<Mono>,
    #[cfg(not(target_os = "linux"))]
    now: Mono,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    use super::{Mono, Now, Timer};

    impl Timer {
        #[expect(
            deprecated,
            reason = "the replacement is unsafe for the sake of types that do not own their descriptor; OwnedFd does"
        )]
        pub(crate) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            // The alarm clock that counts suspended time, as `Mono` does.
            let fd = timerfd_create(TimerfdClockId::Boottime, flags)?;
            Ok(Self { fd: AsyncFd::new(fd)?, armed: None })
        }

        /// Moves the deadline. One that is armed for earlier stays: the early call is harmless and saves a system call.
        pub(crate) fn arm(&mut self, _now: Now, deadline: Option<Mono>) {
            let Some(deadline) = deadline else { return };
            if self.armed.is_some_and(|armed| armed <= deadline) {
                return;
            }
            // Zero would disarm it.
            let nanos = deadline.0.max(1);
            let spec = Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: Timespec {
                    tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
                    tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
                },
            };
            match timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::ABSTIME, &spec) {
                Ok(_) => self.armed = Some(deadline),
                Err(error) => tracing::error!(%error, "timer cannot be set"),
            }
        }

        /// Waits until the deadline.
        pub(crate) async fn expired(&mut self) {
            loop {
                let Ok(mut ready) = self.fd.readable().await else { return };
                let mut count = [0; 8];
                match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut count)?)) {
                    Ok(_) => break,
                    Err(_would_block) => {}
                }
            }
            self.armed = None;
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Timer {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { armed: None, now: Mono(0) })
    }

    pub(crate) fn arm(&mut self, now: Now, deadline: Option<Mono>) {
        (self.now, self.armed) = (now.mono, deadline);
    }

    pub(crate) async fn expired(&mut self) {
        match self.armed {
            Some(deadline) => tokio::time::sleep(deadline.since(self.now)).await,
            None => std::future::pending().await,
        }
    }
}
