//! `pilotctl connect` (spec/cli.md §5.4).

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::mcp;
use crate::bridge;
use crate::client::{Daemon, OpenOptions, Outgoing};
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::output::{Output, Reply, milliseconds};
use crate::stdio::{Stdin, Stdout};
use crate::{duration, env_vars};

/// The service that people and agents talk on.
const SERVICE: &str = "message";
/// How long to wait for the tunnel, and for the answer to a message.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// The longest line that is taken from an MCP server as its answer.
const ANSWER_LEN_MAX: u64 = 16 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl connect my-mcp-server
  echo \"deploy is done\" | pilotctl connect agent-alpha
  pilotctl connect secure-mcp-tool --message '{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"tools/list\"}'

A message that is JSON-RPC goes to the agent's MCP server, if it has one, and the answer is printed.")]
pub(crate) struct ConnectArgs {
    /// Hostname, address, public key or ticket.
    target: String,
    /// Send this one message, print what comes back, and end.
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// How long to wait for the tunnel, and for an answer to --message [default: 10s].
    #[arg(long, value_name = "TIME", env = env_vars::PILOT_TIMEOUT, hide_env_values = true, value_parser = duration::parse)]
    timeout: Option<Duration>,
}

/// A message that has arrived, and what came back.
#[derive(Debug, Serialize)]
struct Sent {
    name: Option<String>,
    address: String,
    #[serde(flatten)]
    reply: Reply,
}

impl Sent {
    fn new(outgoing: &Outgoing, reply: Reply) -> Self {
        Self { name: outgoing.name.clone(), address: outgoing.address.clone(), reply }
    }
}

pub(crate) async fn run(args: &ConnectArgs, context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
    let timeout = context.timeout(args.timeout, TIMEOUT_DEFAULT);
    match &args.message {
        Some(message) => send_message(&daemon, context.output, &args.target, message, timeout).await,
        None => converse(&daemon, context.output, &args.target, timeout).await,
    }
}

/// Joins the terminal, or the pipe, to the agent's message service until each side has ended its own.
async fn converse(daemon: &Daemon, output: Output, target: &str, timeout: Duration) -> Result<()> {
    let tunnel = daemon.connect(target, timeout).await?;
    let Outgoing { stream, io, .. } = daemon.open(&OpenOptions::new(target, SERVICE, timeout)).await?;
    let established = format!("Tunnel established · {} · {}", tunnel.address, milliseconds(tunnel.rtt_ms));
    if output.is_json() || std::io::stdin().is_terminal() {
        output.result(&tunnel, || established)?;
    } else {
        output.talk(established);
    }
    let (from_agent, to_agent) = io.into_split();
    let stdin = Stdin::open()?;
    let stdout = Stdout::open()?;
    let (down, up) = (bridge::pump(from_agent, stdout), bridge::pump(stdin, to_agent));
    tokio::pin!(down, up);
    let exchange = async {
        let ended = tokio::select! {
            ended = &mut down => ended,
            // An error of sending is the stream's end: the receiving half knows why.
            _stdin_ended = &mut up => return heard_out(daemon, stream, down.await).await,
        };
        let has_reader = ended.is_ok();
        heard_out(daemon, stream, ended).await?;
        // The agent has said all; it may still listen.
        if has_reader {
            tokio::select! {
                _stdin_ended = up => {}
                () = daemon.wait_until_over(stream) => {}
            }
        }
        Ok(())
    };
    daemon.telling_stalls(output, stream, target, exchange).await
}

/// Whether the agent has said all that it had to say, or we have heard all that we wanted.
async fn heard_out(daemon: &Daemon, stream: u64, ended: std::io::Result<u64>) -> Result<()> {
    match ended {
        Err(error) if !bridge::is_reader_gone(&error) => Err(daemon.why_ended(stream, &error).await),
        Ok(_) | Err(_) => daemon.was_ended_by_peer(stream).await,
    }
}

/// JSON-RPC goes to the agent's MCP server, if one serves there; everything else is a message.
async fn send_message(daemon: &Daemon, output: Output, target: &str, message: &str, timeout: Duration) -> Result<()> {
    let Some(rpc) = JsonRpc::parse(message) else {
        return deliver(daemon, output, target, message, timeout).await;
    };
    match call_mcp(daemon, output, target, message, rpc.id, timeout).await {
        Err(failure) if failure.code == ExitCode::NotFound => deliver(daemon, output, target, message, timeout).await,
        called => called,
    }
}

/// Gives the message to the agent's message service, and prints what comes back.
async fn deliver(daemon: &Daemon, output: Output, target: &str, message: &str, timeout: Duration) -> Result<()> {
    let mut outgoing = daemon.open(&OpenOptions::new(target, SERVICE, timeout)).await?;
    let stream = outgoing.stream;
    let mut reply = Vec::new();
    let exchange = async {
        outgoing.io.write_all(message.as_bytes()).await?;
        outgoing.io.shutdown().await?;
        (&mut outgoing.io).take(ANSWER_LEN_MAX).read_to_end(&mut reply).await
    };
    let exchange = daemon.telling_stalls(output, stream, target, exchange);
    let exchanged = tokio::time::timeout(timeout, exchange).await.map_err(|_| no_answer(timeout))?;
    if let Err(error) = exchanged {
        return Err(daemon.why_ended(outgoing.stream, &error).await);
    }
    daemon.was_ended_by_peer(outgoing.stream).await?;
    if reply.is_empty() {
        let delivered = format!("delivered to {}", outgoing.name.as_deref().unwrap_or(&outgoing.address));
        return no_reply(output, &outgoing, &delivered);
    }
    print_reply(output, &outgoing, &reply)
}

/// Prints what came back, with a line break at its end.
fn print_reply(output: Output, outgoing: &Outgoing, reply: &[u8]) -> Result<()> {
    if output.is_json() {
        return output.result(&Sent::new(outgoing, reply.into()), String::new);
    }
    output.bytes(reply)?;
    if reply.ends_with(b"\n") { Ok(()) } else { output.bytes(b"\n") }
}

/// Says why nothing came back, which is no error.
fn no_reply(output: Output, outgoing: &Outgoing, why: &str) -> Result<()> {
    output.talk(why);
    if output.is_json() { output.result(&Sent::new(outgoing, Reply::default()), String::new) } else { Ok(()) }
}

/// Gives the message to the agent's MCP server as one line, and prints the answer to it.
async fn call_mcp(
    daemon: &Daemon,
    output: Output,
    target: &str,
    message: &str,
    id: Option<Value>,
    timeout: Duration,
) -> Result<()> {
    let mut options = OpenOptions::new(target, mcp::SERVICE, timeout);
    options.content_type = Some("application/json");
    let mut outgoing = daemon.open(&options).await?;
    let stream = outgoing.stream;
    let line = format!("{}\n", message.replace(['\r', '\n'], " "));
    let exchange = async {
        outgoing.io.write_all(line.as_bytes()).await?;
        match &id {
            Some(id) => read_answer(&mut outgoing, id).await.map(Some),
            None => drain(&mut outgoing).await.map(|()| None),
        }
    };
    let exchange = daemon.telling_stalls(output, stream, target, exchange);
    let exchanged = tokio::time::timeout(timeout, exchange).await.map_err(|_| no_answer(timeout))?;
    match exchanged {
        Ok(Some(answer)) => print_reply(output, &outgoing, answer.trim_end().as_bytes()),
        Ok(None) => {
            daemon.was_ended_by_peer(outgoing.stream).await?;
            no_reply(output, &outgoing, "no reply is owed: without an \"id\" the message is a JSON-RPC notification")
        }
        Err(error) => Err(daemon.why_ended(outgoing.stream, &error).await),
    }
}

/// Reads lines until the one that answers `id`; what else the server says meanwhile is not for us.
async fn read_answer(outgoing: &mut Outgoing, id: &Value) -> std::io::Result<String> {
    let mut lines = BufReader::new((&mut outgoing.io).take(ANSWER_LEN_MAX));
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if JsonRpc::parse(&line).is_some_and(|rpc| rpc.id.as_ref() == Some(id) && rpc.is_answer) {
            return Ok(line);
        }
    }
}

/// Ends our side and waits for the server's end: then the message has been delivered and read.
async fn drain(outgoing: &mut Outgoing) -> std::io::Result<()> {
    outgoing.io.shutdown().await?;
    tokio::io::copy(&mut outgoing.io, &mut tokio::io::sink()).await.map(drop)
}

fn no_answer(timeout: Duration) -> Failure {
    Failure::new(ExitCode::Timeout, format!("no answer within {}", duration::display_short(timeout)))
        .hint("--timeout gives it longer")
}

/// What can be told from a JSON-RPC message without knowing the protocol above it.
#[derive(Debug, PartialEq)]
struct JsonRpc {
    id: Option<Value>,
    is_answer: bool,
}

impl JsonRpc {
    fn parse(text: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(text).ok()?;
        let message = message.as_object()?;
        if message.get("jsonrpc")? != "2.0" {
            return None;
        }
        let is_answer = message.contains_key("result") || message.contains_key("error");
        Some(Self { id: message.get("id").cloned(), is_answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_an_id_is_a_notification() {
        let parsed = JsonRpc::parse(r#"{"jsonrpc": "2.0", "method": "call_tool"}"#);
        assert_eq!(parsed, Some(JsonRpc { id: None, is_answer: false }));
    }

    #[test]
    fn an_error_is_an_answer_to_its_id() {
        let parsed = JsonRpc::parse(r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no"}}"#);
        assert_eq!(parsed, Some(JsonRpc { id: Some(7.into()), is_answer: true }));
    }

    #[test]
    fn other_json_is_no_json_rpc() {
        for text in ["hello", "[]", r#"{"jsonrpc":"1.0","id":1}"#, r#"{"id":1}"#] {
            assert_eq!(JsonRpc::parse(text), None, "{text}");
        }
    }
}
