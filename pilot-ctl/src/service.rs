//! A service of this agent, handled by this process: a pool of accept calls to the daemon. As many as wait are its backlog.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{AcceptOptions, Daemon, Incoming};
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::output::Output;
use crate::signals::Interrupt;

/// What this process handles, and how much of it at once.
pub(crate) struct Service {
    pub(crate) accept: AcceptOptions,
    pub(crate) concurrency: usize,
}

/// Tells handlers at work that the service ends.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns when the service ends.
    pub(crate) async fn requested(&mut self) {
        // An error means that the service has gone without a word: that is the end as well.
        let _ended = self.0.wait_for(|stop| *stop).await;
    }
}

impl Service {
    /// Handles requests until SIGINT or SIGTERM, or until the daemon goes away, which is a failure.
    ///
    /// `ready` runs once the daemon knows the service.
    pub(crate) async fn run<H, F>(
        self,
        daemon: Arc<Daemon>,
        ready: impl AsyncFnOnce() -> Result<()>,
        handle: H,
    ) -> Result<()>
    where
        H: Fn(Incoming, Stop) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut interrupt = Interrupt::new()?;
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency {
            workers.spawn(work(daemon.clone(), self.accept.clone(), Stop(stopped.clone()), handle.clone()));
        }
        let ended = tokio::select! {
            ended = first_failure(&mut workers) => ended,
            ended = announce(&daemon, &self.accept.service, ready) => ended,
            () = interrupt.received() => Ok(()),
        };
        // Nobody listens any more if every worker has failed.
        let _nobody = stop.send(true);
        while workers.join_next().await.is_some() {}
        ended
    }
}

/// One place in the pool.
async fn work<H, F>(daemon: Arc<Daemon>, accept: AcceptOptions, mut stop: Stop, handle: H) -> Result<()>
where
    H: Fn(Incoming, Stop) -> F,
    F: Future<Output = ()>,
{
    loop {
        let incoming = tokio::select! {
            incoming = daemon.accept(&accept) => incoming?,
            () = stop.requested() => return Ok(()),
        };
        handle(incoming, stop.clone()).await;
    }
}

async fn first_failure(workers: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|error| Failure::failed(format!("a handler broke: {error}")))??;
    }
    Ok(())
}

/// Says that the service is ready when the daemon lists it, then waits for ever.
async fn announce(daemon: &Daemon, service: &str, ready: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    daemon.wait_for_service(service).await?;
    ready().await?;
    std::future::pending().await
}

/// What a handler's failure tells the caller, and us.
pub(crate) async fn refuse(daemon: &Daemon, output: Output, incoming: &Incoming, code: ExitCode, reason: &str) {
    let caller = incoming.name.as_deref().unwrap_or(&incoming.address);
    output.talk(format_args!("request of {caller}: {reason}"));
    if let Err(failure) = daemon.reset(incoming.stream, code, reason).await {
        output.talk(format_args!("request of {caller}: cannot tell the caller: {}", failure.message));
    }
}
