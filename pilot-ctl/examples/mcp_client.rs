//! An MCP client of the official Rust SDK, configured as any MCP client is, by a command and its arguments. It knows
//! nothing of Pilot; `tests/mcp` runs it, and `tests/mcp/client.py`, its twin in Python, against servers behind a tunnel.
//!
//! `mcp_client CONFIG TEXT TOOL ARGUMENTS` connects to the one server in CONFIG, lists its tools, calls `echo` with TEXT
//! and TOOL with ARGUMENTS, and prints what it saw as one JSON object: each notification of progress and the result of
//! TOOL in the order and at the millisecond of their arrival.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::{Future, ready};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rmcp::model::{CallToolRequestParams, CallToolResult, JsonObject, ProgressNotificationParam, ProtocolVersion};
use rmcp::service::NotificationContext;
use rmcp::transport::TokioChildProcess;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    mcp_servers: BTreeMap<String, ServerCommand>,
}

#[derive(Deserialize)]
struct ServerCommand {
    command: String,
    args: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    client: &'static str,
    revision: String,
    tools: Vec<String>,
    echo: String,
    arrivals: Vec<Arrival>,
}

#[derive(Clone, Serialize)]
struct Arrival {
    at_ms: u128,
    #[serde(flatten)]
    message: Message,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Progress(f64),
    Result(String),
}

/// Notes what arrives, as it arrives.
#[derive(Clone)]
struct Recorder {
    start: Instant,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

#[expect(clippy::disallowed_methods, reason = "the arrival times are the measurement")]
impl Recorder {
    fn new() -> Self {
        Self { start: Instant::now(), arrivals: Arc::default() }
    }

    fn note(&self, message: Message) {
        let at_ms = self.start.elapsed().as_millis();
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(Arrival { at_ms, message });
    }

    fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientHandler for Recorder {
    fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) -> impl Future<Output = ()> + Send + '_ {
        self.note(Message::Progress(params.progress));
        ready(())
    }
}

// One thread, so that what arrives is noted in the order of arrival.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, text, tool, tool_arguments] = arguments.as_slice() else {
        return Err("usage: mcp_client CONFIG TEXT TOOL ARGUMENTS".into());
    };
    let server = only_server(config)?;
    let report = talk(&server, text, tool, serde_json::from_str(tool_arguments)?).await?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

fn only_server(config: &str) -> Result<ServerCommand, Box<dyn Error>> {
    let config: Config = serde_json::from_slice(&std::fs::read(config)?)?;
    config.mcp_servers.into_values().next().ok_or_else(|| "the configuration names no server".into())
}

async fn talk(server: &ServerCommand, text: &str, tool: &str, arguments: JsonObject) -> Result<Report, Box<dyn Error>> {
    let mut command = Command::new(&server.command);
    command.args(&server.args);
    let recorder = Recorder::new();
    let client = recorder.clone().serve_with_lifecycle(TokioChildProcess::new(command)?, newest_first()).await?;

    let revision = client.peer_info().ok_or("no revision was negotiated")?.protocol_version.to_string();
    let tools = client.list_all_tools().await?.into_iter().map(|tool| tool.name.into_owned()).collect();
    let message = JsonObject::from_iter([("message".to_owned(), text.into())]);
    let echo = said(&client.call_tool(CallToolRequestParams::new("echo").with_arguments(message)).await?);
    let result = client.call_tool(CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments)).await?;
    recorder.note(Message::Result(said(&result)));
    client.cancel().await?;
    Ok(Report { client: "rmcp", revision, tools, echo, arrivals: recorder.arrivals() })
}

/// Asks for the revision without `initialize`, and falls back to the newest with it.
fn newest_first() -> ClientLifecycleMode {
    ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
    }
}

fn said(result: &CallToolResult) -> String {
    result.content.iter().filter_map(|content| content.as_text()).map(|text| text.text.as_str()).collect()
}
