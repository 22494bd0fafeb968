//! MCP through the tunnel (spec/cli.md §5.4, §5.8): the client speaks to `pilotctl mcp connect` as to any local server.

mod support;

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout};

use serde_json::{Value, json};
use support::{Home, PILOTCTL, Running, eventually};

/// The client's side of MCP over stdin and stdout.
struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn connect(home: &Home, from: &str, to: &str) -> Self {
        let mut child = home.command(&["mcp", "connect", to, "--as", from]).spawn().expect("spawn");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { stdin: child.stdin.take(), child, lines }
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.stdin.as_mut().expect("open"), "{message}").expect("write");
    }

    /// The next line, which has to be JSON-RPC.
    fn receive(&mut self) -> Value {
        let line = self.lines.next().expect("a line").expect("read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    fn request(&mut self, id: u64, method: &str, params: Value) -> Value {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        self.receive()
    }

    fn initialize(&mut self) -> Value {
        let client = json!({ "name": "test", "version": "0" });
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client });
        let answer = self.request(1, "initialize", params);
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        answer
    }

    /// Closes stdin, and returns how the process ended.
    fn close(mut self) -> i32 {
        drop(self.stdin.take());
        self.child.wait().expect("wait").code().unwrap_or(-1)
    }
}

fn pair() -> Home {
    let home = Home::new();
    home.start("alpha", &[]);
    home.start("my-mcp-server", &[]);
    home
}

fn serve(home: &Home) -> Running {
    let arguments = ["mcp", "serve", "--as", "my-mcp-server", "--", PILOTCTL, "mcp", "demo-server"];
    home.spawn(&arguments, "serving MCP as my-mcp-server")
}

#[test]
fn an_ordinary_client_lists_and_calls_tools() {
    let home = pair();
    let _server = serve(&home);
    let mut client = Client::connect(&home, "alpha", "my-mcp-server");
    assert_eq!(client.initialize()["result"]["serverInfo"]["name"], "pilot-demo");
    let tools = client.request(2, "tools/list", json!({}))["result"]["tools"].clone();
    let names: Vec<&str> = tools.as_array().expect("tools").iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, ["add", "count", "echo"]);
    let answer = client.request(3, "tools/call", json!({ "name": "echo", "arguments": { "message": "héllo" } }));
    assert_eq!(answer["result"]["content"][0]["text"], "héllo");
    assert_eq!(client.close(), 0);
}

#[test]
fn progress_arrives_one_by_one_before_the_result() {
    let home = pair();
    let _server = serve(&home);
    let mut client = Client::connect(&home, "alpha", "my-mcp-server");
    client.initialize();
    let call = json!({ "name": "count", "arguments": { "to": 5 }, "_meta": { "progressToken": "t" } });
    let mut message = client.request(2, "tools/call", call);
    let mut steps = Vec::new();
    while message["method"] == "notifications/progress" {
        steps.push(message["params"]["progress"].as_f64().expect("progress"));
        message = client.receive();
    }
    assert_eq!(steps, [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(message["result"]["content"][0]["text"], "counted to 5");
}

#[test]
fn bytes_pass_untouched_in_both_directions() {
    let home = pair();
    let _server = home.spawn(&["mcp", "serve", "--as", "my-mcp-server", "--", "cat"], "serving MCP as");
    let odd = "\u{0}\u{1}\r\n\r\n{ \"not\" : json \u{fffd}\n".repeat(20_000);
    let said = home.run_with_input(&["mcp", "connect", "my-mcp-server", "--as", "alpha"], &odd);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert!(said.stdout == odd);
}

#[test]
fn the_bridge_ends_when_the_server_ends() {
    let home = pair();
    let _server = home.spawn(&["mcp", "serve", "--as", "my-mcp-server", "--", "sh", "-c", "echo bye"], "serving");
    let mut client = Client::connect(&home, "alpha", "my-mcp-server");
    assert_eq!(client.lines.next().expect("a line").expect("read"), "bye");
    // Our side of stdin stays open: it is the other side that ends it.
    let said = std::io::read_to_string(client.child.stderr.take().expect("stderr")).expect("read");
    assert_eq!((client.child.wait().expect("wait").code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_server_that_fails_is_an_error_at_the_client() {
    let home = pair();
    let _server = home.spawn(&["mcp", "serve", "--as", "my-mcp-server", "--", "sh", "-c", "exit 7"], "serving");
    // Its stdin stays open: a client that ends first does not hear how the server takes it.
    let mut client = Client::connect(&home, "alpha", "my-mcp-server");
    assert!(client.lines.next().is_none(), "nothing on stdout");
    let said = std::io::read_to_string(client.child.stderr.take().expect("stderr")).expect("read");
    assert!(said.contains("the MCP server failed: exit status: 7"), "{said}");
    assert_eq!(client.child.wait().expect("wait").code(), Some(1));
}

#[test]
fn connecting_to_an_agent_without_a_server_is_not_found() {
    let home = pair();
    let said = home.run(&["mcp", "connect", "my-mcp-server", "--as", "alpha"]);
    assert_eq!((said.code, said.stdout.as_str()), (4, ""), "{said:?}");
}

#[test]
fn a_json_rpc_message_goes_to_the_mcp_server() {
    let home = pair();
    // What alpha remembers of the agent from before is that it offers nothing.
    home.ok(&["ping", "my-mcp-server", "--as", "alpha"]);
    let _server = serve(&home);

    let message = r#"{"jsonrpc": "2.0", "method": "call_tool"}"#;
    let said = home.run(&["connect", "my-mcp-server", "--as", "alpha", "--message", message]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said:?}");
    assert!(said.stderr.contains("no reply is owed"), "{said:?}");

    let message = r#"{"jsonrpc": "2.0", "id": 9, "method": "call_tool"}"#;
    let said = home.run(&["connect", "my-mcp-server", "--as", "alpha", "--message", message]);
    assert_eq!(said.code, 0, "{said:?}");
    let answer: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(answer["id"], 9);
    assert!(answer["error"]["code"].is_i64(), "{answer}");

    let sent = home.json(&["connect", "my-mcp-server", "--as", "alpha", "--message", message]);
    assert_eq!(sent["name"], "my-mcp-server");
    let reply: Value = serde_json::from_str(sent["reply"].as_str().expect("text")).expect("JSON");
    assert_eq!(reply, answer);
}

#[test]
fn a_json_rpc_message_is_a_message_where_no_mcp_server_runs_any_more() {
    let home = pair();
    let mut server = serve(&home);
    let message = r#"{"jsonrpc": "2.0", "id": 1, "method": "call_tool"}"#;
    let send = || home.run(&["connect", "my-mcp-server", "--as", "alpha", "--message", message]);
    assert!(send().stdout.contains("error"), "the server has answered");
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let said = send();
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said:?}");
    assert!(said.stderr.contains("delivered to my-mcp-server"), "{said:?}");
    let inbox = std::fs::read_to_string(home.agent_path("my-mcp-server", "inbox")).expect("inbox");
    assert!(inbox.contains("call_tool"), "{inbox}");
}

#[test]
fn a_detached_server_lives_with_its_daemon() {
    let home = pair();
    let arguments = ["mcp", "serve", "--as", "my-mcp-server", "--detach", "--", PILOTCTL, "mcp", "demo-server"];
    let printed = home.ok(&arguments);
    assert!(printed.starts_with("MCP server of my-mcp-server running (pid "), "{printed}");
    assert_eq!(home.run(&arguments).code, 1, "one a daemon");
    let works = || Client::connect(&home, "alpha", "my-mcp-server").initialize()["result"].is_object();
    assert!(works());

    home.ok(&["daemon", "restart", "--as", "my-mcp-server"]);
    assert!(works(), "started again with the daemon");

    home.ok(&["daemon", "stop", "--as", "my-mcp-server"]);
    home.start("my-mcp-server", &[]);
    assert_eq!(home.run(&["mcp", "connect", "my-mcp-server", "--as", "alpha"]).code, 4, "ended with the daemon");
}

#[test]
fn an_agent_has_one_mcp_server_and_the_second_is_told() {
    let home = pair();
    let second = |detach: &[&str]| {
        let command = ["--", PILOTCTL, "mcp", "demo-server"];
        home.run(&[&["mcp", "serve", "--as", "my-mcp-server"], detach, &command].concat())
    };
    let mut server = serve(&home);
    for detach in [&[][..], &["--detach"]] {
        let said = second(detach);
        let expected =
            format!("error: an MCP server of my-mcp-server is already running (pid {})\nhint: ", server.pid());
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{detach:?}: {said:?}");
        assert!(said.stderr.starts_with(&expected), "{detach:?}: {said:?}");
    }
    let mut client = Client::connect(&home, "alpha", "my-mcp-server");
    assert!(client.initialize()["result"].is_object(), "the first one serves on");
    client.close();
    // Ended, it is no server that a restart would start again.
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    home.ok(&["daemon", "restart", "--as", "my-mcp-server"]);
    assert_eq!(home.run(&["mcp", "connect", "my-mcp-server", "--as", "alpha"]).code, 4);
    assert_eq!(second(&["--detach"]).code, 0);
    assert_eq!(second(&[]).code, 1);
}

#[test]
fn a_restart_waits_for_the_end_of_a_detached_server_with_connections() {
    let home = pair();
    let slow_to_end = "trap 'sleep 1; exit' TERM; echo ready; while :; do sleep 0.1; done";
    home.ok(&["mcp", "serve", "--as", "my-mcp-server", "--detach", "--", "sh", "-c", slow_to_end]);
    let mut client = Client::connect(&home, "alpha", "my-mcp-server");
    assert_eq!(client.lines.next().expect("a line").expect("read"), "ready");
    home.ok(&["daemon", "restart", "--as", "my-mcp-server"]);
    let mut client = Client::connect(&home, "alpha", "my-mcp-server");
    assert_eq!(client.lines.next().expect("a line").expect("read"), "ready");
}

#[test]
fn a_program_that_cannot_be_run_is_no_server() {
    let home = pair();
    for detach in [&[][..], &["--detach"]] {
        let said =
            home.run(&[&["mcp", "serve", "--as", "my-mcp-server"], detach, &["--", "/no/such/program"]].concat());
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{detach:?}: {said:?}");
        assert!(said.stderr.starts_with("error: cannot run '/no/such/program': "), "{detach:?}: {said:?}");
    }
    assert_eq!(home.run(&["answer", "--as", "alpha", "--", "no-such-program"]).code, 1);
    for agent in ["alpha", "my-mcp-server"] {
        let services = home.json(&["info", "--as", agent])["services"].clone();
        assert!(services.as_array().expect("a list").iter().all(|service| service["waiting"] == 0), "{services}");
    }
}

#[test]
fn sigterm_ends_the_server_and_its_children() {
    let home = pair();
    let script = "echo $$; exec sleep 600";
    let mut server = home.spawn(&["mcp", "serve", "--as", "my-mcp-server", "--", "sh", "-c", script], "serving");
    let mut client = Client::connect(&home, "alpha", "my-mcp-server");
    let child: u32 = client.lines.next().expect("a line").expect("read").parse().expect("a pid");
    assert!(support::is_alive(child));
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    eventually("the child is gone", || !support::is_alive(child));
    assert_ne!(client.close(), 0);
}
