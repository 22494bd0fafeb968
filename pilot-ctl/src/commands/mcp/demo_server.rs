//! A small MCP server on stdin and stdout, for the demo and the tests: an ordinary server of the official SDK that knows
//! nothing of Pilot.

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{ProgressNotificationParam, RequestMetaObject};
use rmcp::schemars::{self, JsonSchema};
use rmcp::{Peer, RoleServer, ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use serde::Deserialize;

use crate::hint::{Failure, Result};

/// The most that `count` counts to: each step is a message.
const COUNT_MAX: u32 = 1_000;

/// Serves until stdin ends.
pub(crate) async fn run() -> Result<()> {
    let service = DemoServer.serve(rmcp::transport::stdio()).await.map_err(server_failure)?;
    service.waiting().await.map_err(server_failure)?;
    Ok(())
}

fn server_failure(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("MCP server: {error}"))
}

#[derive(Clone)]
struct DemoServer;

#[derive(Deserialize, JsonSchema)]
struct EchoArguments {
    /// What to say back.
    message: String,
}

#[derive(Deserialize, JsonSchema)]
struct AddArguments {
    /// First summand.
    a: f64,
    /// Second summand.
    b: f64,
}

#[derive(Deserialize, JsonSchema)]
struct CountArguments {
    /// How far to count, at most 1000.
    to: u32,
}

#[tool_router]
impl DemoServer {
    #[tool(description = "Says the message back.")]
    async fn echo(&self, Parameters(EchoArguments { message }): Parameters<EchoArguments>) -> String {
        message
    }

    #[tool(description = "Adds two numbers.")]
    async fn add(&self, Parameters(AddArguments { a, b }): Parameters<AddArguments>) -> String {
        (a + b).to_string()
    }

    #[tool(description = "Counts, and reports each step as progress.")]
    async fn count(
        &self,
        Parameters(CountArguments { to }): Parameters<CountArguments>,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
    ) -> Result<String, rmcp::ErrorData> {
        if to > COUNT_MAX {
            return Err(rmcp::ErrorData::invalid_params(format!("at most {COUNT_MAX}"), None));
        }
        for step in 1..=to {
            report_progress(&meta, &client, step, to).await?;
        }
        Ok(format!("counted to {to}"))
    }
}

#[tool_handler(name = "pilot-demo", instructions = "Tools to try an MCP connection with: echo, add, count.")]
impl ServerHandler for DemoServer {}

/// Progress goes to a client that asked for it, by giving a token.
async fn report_progress(
    meta: &RequestMetaObject,
    client: &Peer<RoleServer>,
    step: u32,
    total: u32,
) -> Result<(), rmcp::ErrorData> {
    let Some(token) = meta.get_progress_token() else { return Ok(()) };
    let progress = ProgressNotificationParam::new(token, f64::from(step)).with_total(f64::from(total));
    let sent = client.notify_progress(progress.with_message(format!("{step} of {total}"))).await;
    sent.map_err(|error| rmcp::ErrorData::internal_error(error.to_string(), None))
}
