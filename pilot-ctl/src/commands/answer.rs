//! `pilotctl answer` (spec/cli.md §5.7): one process for each request.

use std::ffi::OsString;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pilot_daemon::api::hung_up;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::ReadHalf;
use tokio::process::ChildStdin;

use crate::bridge;
use crate::client::{AcceptOptions, Daemon, Incoming, PUBLISH_PATIENCE};
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::handler::{GRACE, Handler, HandlerCommand};
use crate::hint::{Failure, Result};
use crate::output::Output;
use crate::service::{Service, Stop, refuse};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl answer -- tr a-z A-Z
  pilotctl answer --offer \"CVE alerts for web servers\" -- python3 agent.py
  pilotctl answer --replay-safe -- ./look-up
  pilotctl answer -- sh -c 'echo \"you are $PILOT_PEER_NAME, you asked:\"; cat'

The request is on the command's stdin, its stdout is the reply; who asks is in PILOT_PEER_ADDRESS, PILOT_PEER_NAME and
PILOT_PEER_KEY. To be one of a group: `pilotctl group join research`.")]
pub(crate) struct AnswerArgs {
    /// The service to answer: query, or message for `pilotctl connect`.
    #[arg(long, value_name = "NAME", default_value = "query")]
    service: String,
    /// How many requests run at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Who may ask besides the agents of this PILOT_HOME.
    #[arg(long, value_name = "WHO")]
    allow: Option<super::Allow>,
    /// What this agent does, in words that `find --need` and group queries look at.
    #[arg(long, value_name = "TEXT")]
    offer: Option<String>,
    /// To run the command twice for one request does no harm, as for a look-up: who calls for the first time then gets the answer a round
    /// trip earlier.
    #[arg(long)]
    replay_safe: bool,
    /// The command, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The stable `--json` form of being ready.
#[derive(Debug, Serialize)]
struct Answering {
    pid: u32,
    agent: String,
    service: String,
}

pub(crate) async fn run(args: &AnswerArgs, context: &Context) -> Result<()> {
    let daemon = Arc::new(context.daemon().await?);
    let command = Arc::new(HandlerCommand::new(args.command.clone(), context, &daemon.name)?);
    let service = Service {
        accept: AcceptOptions {
            service: args.service.clone(),
            public: args.allow.is_some(),
            offer: args.offer.clone(),
            replay_safe: args.replay_safe,
        },
        concurrency: usize::from(args.concurrency),
    };
    let output = context.output;
    let ready = Answering { pid: std::process::id(), agent: daemon.name.clone(), service: args.service.clone() };
    let handler_daemon = daemon.clone();
    let handle = move |incoming, stop| answer(handler_daemon.clone(), command.clone(), output, incoming, stop);
    let published_daemon = daemon.clone();
    let announce = async move || {
        published_daemon.wait_until_published(output, PUBLISH_PATIENCE).await;
        output.ready(&ready, format_args!("answering '{}' as {}", ready.service, ready.agent))
    };
    service.run(daemon, announce, handle).await
}

/// Runs the command for one request. The caller gets the whole reply, or an error that says why not.
async fn answer(daemon: Arc<Daemon>, command: Arc<HandlerCommand>, output: Output, mut incoming: Incoming, stop: Stop) {
    let replied = match command.start(&incoming) {
        Ok(mut handler) => reply(&mut handler, &mut incoming, stop).await,
        Err(failure) => Err(failure),
    };
    match replied {
        Ok(()) => close_orderly(incoming).await,
        Err(failure) => refuse(&daemon, output, &incoming, failure.code, &failure.message).await,
    }
}

async fn reply(handler: &mut Handler, incoming: &mut Incoming, mut stop: Stop) -> Result<()> {
    let (stdin, mut stdout) = handler.take_pipes()?;
    let deadline = incoming.deadline;
    let (request, mut reply) = incoming.io.split();
    let answering = async {
        let copied = tokio::io::copy(&mut stdout, &mut reply).await;
        let status = handler.wait().await?;
        copied.map_err(|error| caller_gone(&error))?;
        Ok(status)
    };
    let ended = tokio::select! {
        status = answering => status.and_then(succeeded),
        failure = feed_for_ever(request, stdin) => Err(failure),
        () = sleep_until(deadline) => Err(Failure::new(ExitCode::Timeout, "the deadline passed before the handler was done")),
        () = stop.requested() => Err(Failure::failed("the handler is shutting down")),
    };
    if ended.is_err() {
        handler.end_now().await?;
    }
    ended
}

/// Gives the request to the handler. That the request ends, or that the handler does not read it, ends nothing; that the caller has gone does.
async fn feed_for_ever(mut request: ReadHalf<'_>, stdin: ChildStdin) -> Failure {
    match bridge::pump(&mut request, stdin).await {
        Err(error) if !bridge::is_reader_gone(&error) => return caller_gone(&error),
        Ok(_) | Err(_) => {}
    }
    match tokio::io::copy(&mut request, &mut tokio::io::sink()).await {
        Ok(_) => {
            hung_up(request.as_ref()).await;
            Failure::failed("the caller has gone")
        }
        Err(error) => caller_gone(&error),
    }
}

async fn sleep_until(deadline: Option<Duration>) {
    match deadline {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

fn succeeded(status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { Err(Failure::failed(format!("the handler failed: {status}"))) }
}

fn caller_gone(error: &io::Error) -> Failure {
    Failure::failed(format!("the caller has gone: {error}"))
}

/// Ends our side, then reads what the caller still says: closing over unread bytes would be a reset.
async fn close_orderly(mut incoming: Incoming) {
    let closing = async {
        incoming.io.shutdown().await?;
        let mut rest = [0; 4096];
        while incoming.io.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the caller stays to hear it is the caller's business.
    let _caller = tokio::time::timeout(GRACE, closing).await;
}
