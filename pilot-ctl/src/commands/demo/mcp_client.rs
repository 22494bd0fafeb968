//! The demo's MCP client: what any client does with `pilotctl mcp connect`, down to the messages (MCP revision 2025-11-25).

use serde_json::{Value, json};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};

/// The revision that the client asks for.
const PROTOCOL_VERSION: &str = "2025-11-25";
/// No answer of the demo's server takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client on the stdin and stdout of the process that stands for the server.
pub(super) struct McpClient {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    last_id: u64,
}

impl McpClient {
    pub(super) fn new(mut child: Child) -> Result<Self> {
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| Failure::failed("the client's pipes are taken"))?;
        Ok(Self { child, stdin, lines: BufReader::new(stdout).lines(), last_id: 0 })
    }

    /// Initialises the session; returns the server's name.
    pub(super) async fn initialize(&mut self) -> Result<String> {
        let client = json!({ "name": "pilot-demo-client", "version": env!("CARGO_PKG_VERSION") });
        let params = json!({ "protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "clientInfo": client });
        let result = self.request("initialize", params).await?;
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await?;
        Ok(result["serverInfo"]["name"].as_str().unwrap_or("a server without a name").to_owned())
    }

    /// The names of the server's tools.
    pub(super) async fn list_tools(&mut self) -> Result<Vec<String>> {
        let result = self.request("tools/list", json!({})).await?;
        let tools = result["tools"].as_array().cloned().unwrap_or_default();
        Ok(tools.iter().filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect())
    }

    /// Calls a tool; returns the text of its result.
    pub(super) async fn call_tool(&mut self, name: &str, arguments: Value) -> Result<String> {
        let result = self.request("tools/call", json!({ "name": name, "arguments": arguments })).await?;
        Ok(result["content"][0]["text"].as_str().unwrap_or_default().to_owned())
    }

    /// Ends the session as MCP has it: by closing the server's stdin.
    pub(super) async fn close(self) -> Result<()> {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        let ended = tokio::time::timeout(TIMEOUT, child.wait()).await.map_err(|_| no_answer("its end"))?;
        let status = ended.map_err(|error| Failure::failed(format!("cannot wait for the client: {error}")))?;
        if status.success() { Ok(()) } else { Err(Failure::failed(format!("`pilotctl mcp connect` failed: {status}"))) }
    }

    async fn request(&mut self, method: &str, params: Value) -> Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await?;
        let answer = tokio::time::timeout(TIMEOUT, self.answer(id)).await.map_err(|_| no_answer(method))??;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(Failure::failed(format!("{method}: the server says {}", answer["error"]["message"]))),
        }
    }

    async fn send(&mut self, message: &Value) -> Result<()> {
        let sent = self.stdin.write_all(format!("{message}\n").as_bytes()).await;
        sent.map_err(|error| Failure::failed(format!("cannot speak to the MCP server: {error}")))
    }

    async fn answer(&mut self, id: u64) -> Result<Value> {
        loop {
            let read = self.lines.next_line().await;
            let line = read.map_err(|error| Failure::failed(format!("cannot hear the MCP server: {error}")))?;
            let line = line.ok_or_else(|| Failure::failed("the MCP server ended without an answer"))?;
            match serde_json::from_str::<Value>(&line) {
                Ok(message) if message["id"] == id => return Ok(message),
                Ok(_) => {}
                Err(_) => return Err(Failure::failed(format!("not JSON-RPC: {line}"))),
            }
        }
    }
}

fn no_answer(what: &str) -> Failure {
    Failure::new(ExitCode::Timeout, format!("the MCP server does not answer {what}"))
}
