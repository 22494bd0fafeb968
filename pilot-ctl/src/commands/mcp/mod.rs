//! `pilotctl mcp` (spec/cli.md §5.8): MCP's byte stream through a tunnel, untouched.

mod connect;
mod demo_server;
mod serve;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::hint::Result;
use crate::signals::interruptible;

/// The service that MCP servers are offered on.
pub(crate) const SERVICE: &str = "mcp";

pub(crate) use serve::{ServeArgs, restart_detached, running_detached};

#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    #[command(subcommand)]
    verb: McpVerb,
}

#[derive(Debug, Subcommand)]
enum McpVerb {
    /// Offer an MCP server that speaks on stdin and stdout.
    Serve(ServeArgs),
    /// Join stdin and stdout to the MCP server of an agent.
    Connect(connect::McpConnectArgs),
    /// A small MCP server on stdin and stdout, to try things with.
    #[command(hide = true)]
    DemoServer,
}

pub(crate) async fn run(args: &McpArgs, context: &Context) -> Result<()> {
    match &args.verb {
        McpVerb::Serve(args) => serve::run(args, context).await,
        McpVerb::Connect(args) => interruptible(connect::run(args, context)).await,
        McpVerb::DemoServer => demo_server::run().await,
    }
}
