//! An MCP server of the official SDK that speaks revision 2026-07-28 and no other: there is no `initialize`, each request
//! says for itself which revision it is in. It knows nothing of Pilot; `tests/mcp` offers it through a tunnel.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{ProgressNotificationParam, ProtocolVersion, RequestMetaObject};
use rmcp::schemars::{self, JsonSchema};
use rmcp::{ErrorData, Peer, RoleServer, ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use serde::Deserialize;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    Server.serve(rmcp::transport::stdio()).await?.waiting().await?;
    Ok(())
}

#[derive(Clone)]
struct Server;

#[derive(Deserialize, JsonSchema)]
struct EchoArguments {
    /// What to say back.
    message: String,
}

#[derive(Deserialize, JsonSchema)]
struct CountArguments {
    /// How many steps to take.
    steps: u32,
    /// The pause before each step.
    pause_ms: u64,
}

#[tool_router]
impl Server {
    #[tool(description = "Says the message back.")]
    async fn echo(&self, Parameters(EchoArguments { message }): Parameters<EchoArguments>) -> String {
        format!("Echo: {message}")
    }

    #[tool(description = "Counts slowly, and reports each step as progress.")]
    async fn count(
        &self,
        Parameters(CountArguments { steps, pause_ms }): Parameters<CountArguments>,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
    ) -> Result<String, ErrorData> {
        let token = meta.get_progress_token().ok_or_else(|| ErrorData::invalid_params("no progress token", None))?;
        for step in 1..=steps {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            let progress = ProgressNotificationParam::new(token.clone(), f64::from(step)).with_total(f64::from(steps));
            let sent = client.notify_progress(progress).await;
            sent.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        }
        Ok(format!("Counted {steps} steps."))
    }
}

#[tool_handler(name = "counter")]
impl ServerHandler for Server {
    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(&[ProtocolVersion::V_2026_07_28])
    }
}
