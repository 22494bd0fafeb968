//! SIGINT and SIGTERM: every command that waits can be told to end, and ends cleanly.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};

/// Both signals, listened for from when this was made.
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
    /// For those that listen to it.
    hangup: Option<Signal>,
}

impl Interrupt {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// The same, and the end of the terminal: for a command that would leave something behind. Others end by SIGHUP as it is, so that
    /// `nohup` works.
    pub(crate) fn with_hangup() -> Result<Self> {
        Ok(Self { hangup: Some(listen(SignalKind::hangup())?), ..Self::new()? })
    }

    /// Whether a signal has arrived already.
    pub(crate) fn was_received(&mut self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut has_come = |signal: &mut Signal| signal.poll_recv(&mut context).is_ready();
        has_come(&mut self.interrupt) || has_come(&mut self.terminate)
    }

    /// Returns when a signal arrives.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = hung_up(self.hangup.as_mut()) => {}
        }
    }

    /// Goes on with a command until it is done or a signal arrives, or has arrived since this was made.
    pub(crate) async fn or<T>(&mut self, command: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            ended = command => ended,
            () = self.received() => Err(interrupted()),
        }
    }

    /// Why a command broke: by a signal that has come meanwhile, or as it says itself. A child that has no process group of its own yet
    /// gets Ctrl-C too, and its end may be noticed first.
    pub(crate) async fn reason_for(&mut self, failure: Failure) -> Failure {
        tokio::select! {
            biased;
            () = self.received() => interrupted(),
            // The runtime has looked for signals before it comes back.
            () = tokio::task::yield_now() => failure,
        }
    }
}

/// What a command says that was told to end.
pub(crate) fn interrupted() -> Failure {
    Failure::new(ExitCode::Interrupted, "interrupted")
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))
}

async fn hung_up(hangup: Option<&mut Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Does what may wait for somebody else, such as a read of a pipe that nobody writes to: in a thread, so that a signal ends the command
/// meanwhile. The thread does not keep the process.
pub(crate) async fn aside<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let waited = tokio::task::spawn_blocking(wait).await;
    waited.map_err(|error| Failure::failed(format!("a thread has broken off: {error}")))
}

/// Runs a command until it is done or somebody interrupts it; what it holds is dropped in order either way.
pub(crate) async fn interruptible(command: impl Future<Output = Result<()>>) -> Result<()> {
    Interrupt::new()?.or(command).await
}
