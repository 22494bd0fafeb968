//! `pilotctl demo` (spec/cli.md §5.10): the whole network on one machine, in processes of its own, explained as it goes.

mod mcp_client;
mod stage;
mod transfer;

use std::time::Duration;

use clap::Args;
use pilot_daemon::api::types::Path;
use serde::Serialize;
use serde_json::json;

use self::mcp_client::McpClient;
use self::stage::Stage;
use crate::client::Daemon;
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::output::{Output, byte_count};
use crate::signals::Interrupt;

/// How long a direct path may take to be proved between two sockets of one machine.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at the path.
const PROMOTION_POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl demo
  pilotctl demo --json

It uses a temporary home and removes it at the end, also when interrupted. What you see are real commands; try them.")]
pub(crate) struct DemoArgs {}

/// One line of `demo --json`.
#[derive(Serialize)]
struct Step<'a> {
    step: &'a str,
    ok: bool,
    #[serde(flatten)]
    details: serde_json::Value,
}

pub(crate) async fn run(_args: &DemoArgs, output: Output) -> Result<()> {
    let mut interrupt = Interrupt::with_hangup()?;
    let mut stage = Stage::new(output)?;
    let played = tokio::select! {
        played = play(&mut stage) => played,
        () = interrupt.received() => Err(Failure::new(ExitCode::Interrupted, "interrupted")),
    };
    let goodbye = stage.explain("Clearing up: the agents, the backbone and their files go.");
    let cleared = stage.clear().await;
    played.and(goodbye).and(cleared)?;
    if output.is_json() { Ok(()) } else { output.line("\nThat was all of it. `pilotctl --help` lists the verbs.") }
}

async fn play(stage: &mut Stage) -> Result<()> {
    start_agents(stage).await?;
    ping(stage).await?;
    query(stage).await?;
    connect(stage).await?;
    call_mcp_tool(stage).await?;
    let survivor = query_group(stage).await?;
    block_direct_path(stage, survivor).await?;
    transfer(stage, survivor).await
}

async fn start_agents(stage: &Stage) -> Result<()> {
    stage.explain(
        "Three agents, a process each. The first one starts a backbone too, the directory and relay that\n\
         agents meet by. Each address follows from a key that is made now; there is no account.",
    )?;
    stage.start_agent(&["daemon", "start", "--hostname", "alpha"]).await?;
    for (name, tags) in [("beta", "mcp,security"), ("gamma", "citations")] {
        stage.start_agent(&["daemon", "start", "--hostname", name, "--tags", tags, "--groups", "research"]).await?;
    }
    done(stage, "start", json!({ "agents": ["alpha", "beta", "gamma"] }))
}

async fn ping(stage: &Stage) -> Result<()> {
    stage.explain("alpha finds beta by its name, and the two make an encrypted tunnel.")?;
    let said = stage.run(&["ping", "beta", "--as", "alpha"]).await?;
    expect(said.stdout.contains("reply from"), "a reply to the ping")?;
    done(stage, "ping", json!({}))
}

async fn query(stage: &mut Stage) -> Result<()> {
    stage.explain(
        "beta and gamma answer queries, each with a command: the question is on its stdin, its stdout is\n\
         the answer. Who asks is in the environment, proved by the tunnel, never mixed into the text.",
    )?;
    let command = r#"echo "$PILOT_AGENT to $PILOT_PEER_NAME: I heard \"$(cat)\"""#;
    for (name, offer) in [("beta", "security advisories and CVE alerts"), ("gamma", "academic citations")] {
        stage.start_handler(&["answer", "--as", name, "--offer", offer, "--", "sh", "-c", command]).await?;
    }
    let said = stage.run(&["query", "beta", "what is new?", "--as", "alpha"]).await?;
    expect(said.stdout.contains("beta to alpha") && said.stdout.contains("what is new?"), "beta's answer")?;
    done(stage, "query", json!({}))
}

async fn connect(stage: &Stage) -> Result<()> {
    stage.explain("A plain stream of bytes between two agents, like netcat, but encrypted and by name.")?;
    let said = stage.run_with_input(&["connect", "gamma", "--as", "alpha"], Some("hello from alpha\n")).await?;
    expect(said.stderr.contains("Tunnel established"), "a tunnel")?;
    done(stage, "connect", json!({}))
}

async fn call_mcp_tool(stage: &mut Stage) -> Result<()> {
    stage.explain(
        "beta offers an MCP server, an ordinary one that speaks on stdin and stdout. To alpha's MCP client\n\
         it looks like a local one: its configuration names the second command.",
    )?;
    let program = crate::process::own_executable()?;
    let program = program.to_str().ok_or_else(|| Failure::failed("the path of pilotctl is not UTF-8"))?;
    stage.start_handler(&["mcp", "serve", "--as", "beta", "--", program, "mcp", "demo-server"]).await?;
    let mut client = McpClient::new(stage.start_client(&["mcp", "connect", "beta", "--as", "alpha"])?)?;
    let server = client.initialize().await?;
    let tools = client.list_tools().await?.join(", ");
    stage.show(&format!("initialize -> {server}\ntools/list -> {tools}"))?;
    let sum = client.call_tool("add", json!({ "a": 19, "b": 23 })).await?;
    stage.show(&format!("tools/call add 19 23 -> {sum}"))?;
    client.close().await?;
    expect(sum == "42", "42 from the tool")?;
    done(stage, "mcp", json!({ "server": server, "tools": tools, "sum": sum }))
}

/// Returns the member that is left.
async fn query_group(stage: &Stage) -> Result<&'static str> {
    stage.explain("A question to a group goes to the member that fits it best, by what it says it offers.")?;
    let question = ["query", "--group", "research", "latest CVE alerts for nginx 1.25", "--as", "alpha"];
    let said = stage.run(&question).await?;
    let first = author(&said.stderr)?;
    stage.explain("That one goes away. The next question is answered by the other.")?;
    stage.run(&["daemon", "stop", "--as", first]).await?;
    let said = stage.run(&question).await?;
    let second = author(&said.stderr)?;
    expect(first != second, "another member to answer")?;
    done(stage, "group", json!({ "first": first, "second": second }))?;
    Ok(second)
}

fn author(stderr: &str) -> Result<&'static str> {
    let line = stderr.lines().find_map(|line| line.strip_prefix("answered by: ")).unwrap_or_default();
    let members = ["beta", "gamma"];
    let named = members.into_iter().find(|member| line.starts_with(member));
    named.ok_or_else(|| Failure::failed("the answer has no author"))
}

async fn block_direct_path(stage: &Stage, peer: &str) -> Result<()> {
    stage.explain(
        "Where no direct path is possible, the backbone forwards the packets, sealed as they are. Here\n\
         direct paths are forbidden, then allowed again: the tunnel stays, and moves by itself.",
    )?;
    let alpha = agent(stage, "alpha").await?;
    stage.run(&["daemon", "set", "--direct", "off", "--as", "alpha"]).await?;
    stage.run(&["query", peer, "can you hear me by relay?", "--as", "alpha"]).await?;
    wait_for_path(&alpha, peer, Path::Relay).await?;
    stage.run(&["peers", "--as", "alpha"]).await?;
    stage.run(&["daemon", "set", "--direct", "on", "--as", "alpha"]).await?;
    stage.run(&["query", peer, "and now?", "--as", "alpha"]).await?;
    wait_for_path(&alpha, peer, Path::Direct).await?;
    stage.run(&["peers", "--as", "alpha"]).await?;
    done(stage, "relay", json!({ "promoted": true }))
}

/// Waits until the tunnel to `peer` has this path; pings keep it busy, for an idle tunnel has no reason to move.
async fn wait_for_path(daemon: &Daemon, peer: &str, path: Path) -> Result<()> {
    let waiting = async {
        loop {
            let peers = daemon.peers().await?.peers;
            let tunnel = peers.iter().find(|other| other.name.as_deref() == Some(peer));
            if tunnel.is_some_and(|tunnel| tunnel.path == Some(path)) {
                return Ok(());
            }
            daemon.ping(peer, PROMOTION_TIMEOUT).await?;
            tokio::time::sleep(PROMOTION_POLL).await;
        }
    };
    let gave_up = || Err(Failure::new(ExitCode::Timeout, format!("the path to {peer} did not become {path}")));
    tokio::time::timeout(PROMOTION_TIMEOUT, waiting).await.unwrap_or_else(|_| gave_up())
}

async fn transfer(stage: &Stage, peer: &str) -> Result<()> {
    stage
        .explain(&format!("200 MB over one stream, alpha to {peer}, through the local API sockets of both daemons."))?;
    let moved = transfer::run(&agent(stage, "alpha").await?, &agent(stage, peer).await?).await?;
    let rate = moved.len as f64 / moved.elapsed.as_secs_f64();
    let summary = format!(
        "sent     sha256 {}\nreceived sha256 {}\n{} in {:.2} s: {:.0} MB/s",
        moved.sent_sha256,
        moved.received_sha256,
        byte_count(moved.len),
        moved.elapsed.as_secs_f64(),
        rate / 1e6,
    );
    stage.show(&summary)?;
    expect(moved.sent_sha256 == moved.received_sha256, "the same bytes at both ends")?;
    let details = json!({ "bytes": moved.len, "bytes_per_s": rate.round(), "sha256": moved.received_sha256 });
    done(stage, "transfer", details)
}

async fn agent(stage: &Stage, name: &str) -> Result<Daemon> {
    let global =
        crate::cli::Global { agent: Some(name.to_owned()), home: Some(stage.home.clone().into()), json: false };
    Context::new(global)?.daemon().await
}

fn expect(happened: bool, what: &str) -> Result<()> {
    if happened { Ok(()) } else { Err(Failure::failed(format!("the demo expected {what}"))) }
}

fn done(stage: &Stage, step: &str, details: serde_json::Value) -> Result<()> {
    if !stage.output.is_json() {
        return Ok(());
    }
    stage.output.result(&Step { step, ok: true, details }, String::new)
}
