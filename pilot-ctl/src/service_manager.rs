//! The service manager that has started this daemon, if one has (spec/install.md §4): it is told when the daemon is ready, that
//! it lives, and that it ends. The protocol is that of sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET` names.

use std::convert::Infallible;
use std::env;
use std::ffi::OsStr;
use std::future::pending;
use std::io;
use std::os::unix::net as unix;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::env_vars;
use crate::hint::{Failure, Result};

/// How long a manager that reads nothing can hold us up.
const TELL_PATIENCE: Duration = Duration::from_secs(1);
/// An idle daemon wakes for its watchdog no more often than twice a second, whatever was asked for.
const BEAT_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Whom to tell, and how often. For a daemon that nobody watches, every call does nothing.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    beat_interval: Option<Duration>,
}

impl ServiceManager {
    /// The manager that the environment names. A daemon that a command of ours has started has none: the words there are meant for others.
    pub(crate) fn of(detached: bool) -> Result<Self> {
        let name = env::var_os(env_vars::NOTIFY_SOCKET).filter(|name| !name.is_empty() && !detached);
        let Some(name) = name else { return Ok(Self::default()) };
        let socket = connect(&name).and_then(UnixDatagram::from_std).map_err(|error| {
            let name = name.to_string_lossy();
            Failure::failed(format!("cannot reach the service manager at {name}: {error}"))
                .hint("NOTIFY_SOCKET is for service managers to set; unset it to start the agent by hand")
        })?;
        Ok(Self { socket: Some(socket), beat_interval: beat_interval(|name| env::var(name).ok(), std::process::id()) })
    }

    /// Whether there is one.
    pub(crate) fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Others may count on the daemon now.
    pub(crate) async fn ready(&self) {
        self.tell("READY=1").await;
    }

    /// The daemon is about to end, as it was told to.
    pub(crate) async fn stopping(&self) {
        self.tell("STOPPING=1").await;
    }

    /// Tells of each beat for as long as they come. `beat` has to go through the loop that is watched, and returns false once that
    /// has ended: what a timer alone could say would say nothing of it.
    pub(crate) async fn watch<F: Future<Output = bool>>(&self, beat: impl Fn() -> F) -> Infallible {
        let Some(period) = self.beat_interval else { return pending().await };
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        while beat().await {
            self.tell("WATCHDOG=1").await;
            ticks.tick().await;
        }
        pending().await
    }

    async fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket {
            // Whoever watches notices what it does not hear, and it is no reason for the daemon to end.
            let _unheard = timeout(TELL_PATIENCE, socket.send(state.as_bytes())).await;
        }
    }
}

/// A path, or `@` and a name in Linux's abstract namespace.
fn connect(name: &OsStr) -> io::Result<unix::UnixDatagram> {
    let socket = unix::UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match name.as_encoded_bytes().strip_prefix(b"@") {
        None => socket.connect(name)?,
        Some(name) => connect_abstract(&socket, name)?,
    }
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn connect_abstract(socket: &unix::UnixDatagram, name: &[u8]) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    socket.connect_addr(&unix::SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_: &unix::UnixDatagram, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Half of what the manager waits for, as sd_watchdog_enabled(3) advises; none if it watches nobody, or another process.
fn beat_interval(variable: impl Fn(&str) -> Option<String>, own_pid: u32) -> Option<Duration> {
    let micros: u64 = variable(env_vars::WATCHDOG_USEC)?.parse().ok().filter(|micros| *micros > 0)?;
    let is_ours = variable(env_vars::WATCHDOG_PID).is_none_or(|pid| pid.parse() == Ok(own_pid));
    is_ours.then(|| (Duration::from_micros(micros) / 2).max(BEAT_INTERVAL_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval_for(micros: Option<&str>, pid: Option<&str>) -> Option<Duration> {
        let value = |name: &str| if name == env_vars::WATCHDOG_USEC { micros } else { pid };
        beat_interval(|name| value(name).map(str::to_owned), 7)
    }

    #[test]
    fn the_watchdog_hears_twice_in_its_time() {
        assert_eq!(interval_for(Some("30000000"), Some("7")), Some(Duration::from_secs(15)));
        assert_eq!(interval_for(Some("30000000"), None), Some(Duration::from_secs(15)));
    }

    #[test]
    fn an_impatient_watchdog_does_not_keep_an_idle_daemon_awake() {
        assert_eq!(interval_for(Some("1"), None), Some(BEAT_INTERVAL_MIN));
    }

    #[test]
    fn a_watchdog_of_another_process_or_of_none_is_not_fed() {
        for (micros, pid) in [(None, None), (Some("0"), None), (Some("soon"), None), (Some("1000000"), Some("8"))] {
            assert_eq!(interval_for(micros, pid), None, "{micros:?} {pid:?}");
        }
    }

    #[tokio::test]
    async fn a_loop_that_does_not_answer_is_not_called_alive() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("notify");
        let heard = UnixDatagram::bind(&path).expect("bind");
        let socket = UnixDatagram::from_std(connect(path.as_os_str()).expect("connect")).expect("socket");
        let manager = ServiceManager { socket: Some(socket), beat_interval: Some(Duration::from_millis(1)) };
        let beats = std::cell::Cell::new(0);
        let wedged_at_the_third = || async {
            beats.set(beats.get() + 1);
            if beats.get() == 3 {
                pending::<()>().await;
            }
            true
        };
        let mut said = Vec::new();
        let listening = async {
            let mut word = [0; 64];
            loop {
                let length = heard.recv(&mut word).await.expect("receive");
                said.push(String::from_utf8_lossy(&word[..length]).into_owned());
            }
        };
        let watching = manager.watch(wedged_at_the_third);
        let wedged = async {
            while beats.get() < 3 {
                tokio::task::yield_now().await;
            }
            // What was said before is in the socket, and is heard.
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        tokio::select! {
            never = watching => match never {},
            () = listening => {}
            () = wedged => {}
        }
        assert_eq!(said, ["WATCHDOG=1", "WATCHDOG=1"]);
    }
}
