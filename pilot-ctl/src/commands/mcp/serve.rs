//! `pilotctl mcp serve`: one server process for each connection.
//!
//! A lock on its record, `agents/NAME/mcp.json`, tells whether a server runs: an agent has one. `--detach` hands it to the
//! daemon: it runs in the background and holds its accept calls to the daemon's local API, so it ends when they do, whatever
//! way the daemon ends; `daemon restart` starts it again from that record.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pilot_core::record::OFFER_DESCRIPTION_LEN_MAX;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::SERVICE;
use crate::bridge;
use crate::client::{AcceptOptions, Daemon, Incoming, PUBLISH_PATIENCE};
use crate::context::Context;
use crate::handler::{GRACE, Handler, HandlerCommand};
use crate::hint::{Failure, Result};
use crate::lock::Lock;
use crate::output::Output;
use crate::process::{self, child};
use crate::service::{Service, Stop, refuse};

/// How long a server may take to end when its daemon has: each of its connections gets the time of [`GRACE`] twice.
const END_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl mcp serve -- npx -y @modelcontextprotocol/server-everything
  pilotctl mcp serve --allow public --offer \"weather forecasts\" -- ./weather-server
  pilotctl mcp serve --detach -- uvx mcp-server-git

On the other host: `pilotctl mcp connect NAME` in the MCP client's configuration.")]
pub(crate) struct ServeArgs {
    /// Who may call besides the agents of this PILOT_HOME.
    #[arg(long, value_name = "WHO")]
    allow: Option<super::super::Allow>,
    /// Hand it to the daemon and return; it ends with the daemon.
    #[arg(long)]
    detach: bool,
    /// What the server can do, in words that `find --need` looks at.
    #[arg(long, value_name = "TEXT")]
    offer: Option<String>,
    /// How many connections are served at once, a process each.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// What `--detach` starts.
    #[arg(long, hide = true, conflicts_with = "detach")]
    detached: bool,
    /// The server, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What a server that is ready says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Serving {
    pid: u32,
    agent: String,
}

pub(crate) async fn run(args: &ServeArgs, context: &Context) -> Result<()> {
    if args.detach {
        return detach(args, context).await;
    }
    let serve = serve(args, context);
    if args.detached { child::run(serve).await } else { serve.await }
}

async fn detach(args: &ServeArgs, context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
    let serving: Serving =
        process::spawn_detached(&argv(args, context, &daemon.name), &log(context, &daemon.name)).await?;
    daemon.wait_until_published(context.output, PUBLISH_PATIENCE).await;
    context.output.result(&serving, || format!("MCP server of {} running (pid {})", serving.agent, serving.pid))
}

async fn serve(args: &ServeArgs, context: &Context) -> Result<()> {
    let daemon = Arc::new(context.daemon().await?);
    let command = Arc::new(HandlerCommand::new(args.command.clone(), context, &daemon.name)?);
    let record = take_record(args, context, &daemon.name)?;
    let service = Service {
        accept: AcceptOptions {
            service: SERVICE.to_owned(),
            public: args.allow.is_some(),
            offer: Some(offer(args)),
            replay_safe: false,
        },
        concurrency: usize::from(args.concurrency),
    };
    let output = context.output;
    let agent = daemon.name.clone();
    let detached = args.detached;
    let published_daemon = daemon.clone();
    let announce = async move || {
        let serving = Serving { pid: std::process::id(), agent };
        if detached {
            // Whoever has started this waits for the directory, and can still say so.
            return child::report_ready(&serving);
        }
        published_daemon.wait_until_published(output, PUBLISH_PATIENCE).await;
        output.ready(&serving, format_args!("serving MCP as {}", serving.agent))
    };
    let handler_daemon = daemon.clone();
    let handle = move |incoming, stop| connection(handler_daemon.clone(), command.clone(), output, incoming, stop);
    let ended = service.run(daemon, announce, handle).await;
    drop(record);
    ended
}

/// Without words of its own, the server is found by the name of its program.
fn offer(args: &ServeArgs) -> String {
    args.offer.clone().unwrap_or_else(|| {
        let words: Vec<_> = args.command.iter().map(|word| word.to_string_lossy()).collect();
        let mut offer = format!("MCP server: {}", words.join(" "));
        offer.truncate(offer.floor_char_boundary(OFFER_DESCRIPTION_LEN_MAX));
        offer
    })
}

/// One connection: starts a server and passes bytes until either side has ended.
async fn connection(
    daemon: Arc<Daemon>,
    command: Arc<HandlerCommand>,
    output: Output,
    mut incoming: Incoming,
    stop: Stop,
) {
    let ended = match command.start(&incoming) {
        Ok(mut handler) => pass_bytes(&mut handler, &mut incoming, stop).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = ended {
        refuse(&daemon, output, &incoming, failure.code, &failure.message).await;
    }
}

async fn pass_bytes(handler: &mut Handler, incoming: &mut Incoming, stop: Stop) -> Result<()> {
    let status = serve_connection(handler, incoming, stop).await?;
    if !status.success() && !has_client_ended(&incoming.io) {
        return Err(Failure::failed(format!("the MCP server failed: {status}")));
    }
    let ended = incoming.io.shutdown().await;
    ended.map_err(|error| Failure::failed(format!("the client has gone: {error}")))
}

/// Whether the client has said all: how the server takes its end is then no failure, also if both ended at once.
fn has_client_ended(io: &UnixStream) -> bool {
    let mut rest = [0; 4096];
    loop {
        match io.try_read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// Returns how the server took it that the connection, or itself, has ended.
async fn serve_connection(handler: &mut Handler, incoming: &mut Incoming, mut stop: Stop) -> Result<ExitStatus> {
    let (stdin, mut stdout) = handler.take_pipes()?;
    let (from_client, mut to_client) = incoming.io.split();
    let down = tokio::io::copy(&mut stdout, &mut to_client);
    tokio::pin!(down);
    tokio::select! {
        _server_ended = &mut down => handler.end().await,
        status = handler.wait() => {
            // What the server wrote last is still in the pipe; a child of its own may hold that open for ever.
            let _rest = tokio::time::timeout(GRACE, &mut down).await;
            status
        }
        _client_ended = bridge::pump(from_client, stdin) => {
            let ended = async { tokio::join!(&mut down, handler.end()) };
            // The client is the one that ended: how the server takes it is no failure.
            let _ended = tokio::time::timeout(GRACE * 3, ended).await;
            Ok(ExitStatus::default())
        }
        () = stop.requested() => {
            handler.end_now().await?;
            Err(Failure::failed("the MCP server is shutting down"))
        }
    }
}

/// Which server runs for an agent. A server in the background has what `daemon restart` needs to start it again.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: u32,
    argv: Option<Vec<String>>,
}

/// The command line of the server that runs in the background for this agent.
pub(crate) fn running_detached(context: &Context, agent: &str) -> Result<Option<Vec<String>>> {
    let path = record_path(context, agent);
    if Lock::is_free(&path)? { Ok(None) } else { Ok(read_record(&path).and_then(|record| record.argv)) }
}

/// Starts a server again, as it ran before.
pub(crate) async fn restart_detached(argv: &[String], context: &Context, agent: &str) -> Result<()> {
    // The one before ends with its daemon, but its connections may take a moment.
    drop(Lock::take(&record_path(context, agent), END_PATIENCE).await?);
    let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
    process::spawn_detached::<Serving>(&argv, &log(context, agent)).await.map(drop)
}

/// Holds the record for as long as this process serves: of two servers, callers would meet now the one, now the other.
fn take_record(args: &ServeArgs, context: &Context, agent: &str) -> Result<Lock> {
    let path = record_path(context, agent);
    let argv = if args.detached { Some(text(argv(args, context, agent))?) } else { None };
    let Some(mut lock) = Lock::try_take(&path)? else {
        return Err(already_serving(agent, read_record(&path).map(|record| record.pid)));
    };
    let record = Record { pid: std::process::id(), argv };
    lock.write(&serde_json::json!(record).to_string())?;
    Ok(lock)
}

/// `None` while its holder is writing it.
fn read_record(path: &Path) -> Option<Record> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

fn text(argv: Vec<OsString>) -> Result<Vec<String>> {
    let text: std::result::Result<_, _> = argv.into_iter().map(OsString::into_string).collect();
    text.map_err(|_| Failure::usage("a command that is handed over must be UTF-8"))
}

fn already_serving(agent: &str, pid: Option<u32>) -> Failure {
    let holder = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let end = pid.map_or_else(|| "end it first".to_owned(), |pid| format!("`kill {pid}` ends it"));
    Failure::failed(format!("an MCP server of {agent} is already running{holder}"))
        .hint(format!("an agent has one: {end}, or serve this one as another agent with --as NAME"))
}

/// The same server as a child of its own; `--detached` is added when it is spawned.
fn argv(args: &ServeArgs, context: &Context, agent: &str) -> Vec<OsString> {
    let concurrency = args.concurrency.to_string();
    let mut argv: Vec<OsString> = vec!["--home".into(), context.home.clone().into(), "--as".into(), agent.into()];
    argv.extend(["mcp", "serve", "--concurrency", &concurrency].map(OsString::from));
    if args.allow.is_some() {
        argv.extend(["--allow", "public"].map(OsString::from));
    }
    if let Some(offer) = &args.offer {
        argv.extend(["--offer", offer].map(OsString::from));
    }
    argv.push("--detached".into());
    argv.push("--".into());
    argv.extend(args.command.iter().cloned());
    argv
}

fn record_path(context: &Context, agent: &str) -> PathBuf {
    context.agent_dir(agent).join("mcp.json")
}

fn log(context: &Context, agent: &str) -> PathBuf {
    context.agent_dir(agent).join("mcp.log")
}
