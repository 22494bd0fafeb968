//! `pilotctl mcp connect`: what an MCP client starts instead of a server of its own.

use std::time::Duration;

use clap::Args;
use tokio::net::UnixStream;

use super::SERVICE;
use crate::bridge;
use crate::client::{OpenOptions, Outgoing};
use crate::context::Context;
use crate::hint::Result;
use crate::stdio::{Stdin, Stdout};
use crate::{duration, env_vars};

/// How long to wait for the tunnel.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How long the server may go on after the client has ended its side: longer than `mcp serve` gives it.
const LINGER: Duration = Duration::from_secs(6);

#[derive(Debug, Args)]
#[command(after_help = "Example, in any MCP client's configuration:
  \"command\": \"pilotctl\", \"args\": [\"mcp\", \"connect\", \"my-mcp-server\"]

Only MCP's own messages appear on stdout. It ends when either side ends.")]
pub(crate) struct McpConnectArgs {
    /// Hostname, address, public key or ticket.
    target: String,
    /// How long to wait for the tunnel [default: 10s].
    #[arg(long, value_name = "TIME", env = env_vars::PILOT_TIMEOUT, hide_env_values = true, value_parser = duration::parse)]
    timeout: Option<Duration>,
}

pub(crate) async fn run(args: &McpConnectArgs, context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
    let mut options = OpenOptions::new(&args.target, SERVICE, context.timeout(args.timeout, TIMEOUT_DEFAULT));
    options.content_type = Some("application/json");
    let Outgoing { stream, io, .. } = daemon.open(&options).await?;
    let joined = join(io, Stdin::open()?, Stdout::open()?);
    match daemon.telling_stalls(context.output, stream, &args.target, joined).await {
        Ok(()) => daemon.was_ended_by_peer(stream).await,
        Err(error) => Err(daemon.why_ended(stream, &error).await),
    }
}

/// Bytes both ways until either side has ended.
async fn join(stream: UnixStream, stdin: Stdin, stdout: Stdout) -> std::io::Result<()> {
    let (from_server, to_server) = stream.into_split();
    let down = async {
        match bridge::pump(from_server, stdout).await {
            // The client has closed its end: there is nobody left to serve.
            Err(error) if bridge::is_reader_gone(&error) => Ok(()),
            other => other.map(drop),
        }
    };
    tokio::pin!(down);
    tokio::select! {
        ended = &mut down => return ended,
        // An error here is the stream's end, and `down` knows more about that.
        _client_ended = bridge::pump(stdin, to_server) => {}
    }
    tokio::time::timeout(LINGER, down).await.unwrap_or(Ok(()))
}
