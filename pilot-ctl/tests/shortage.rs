//! What is promised when the machine runs out of something, or a local program misbehaves (spec/failures.md), against real processes.

#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::{Value, json};
use support::disk::Disk;
use support::stream::LocalStream;
use support::{Home, PILOTCTL, Running, Said, eventually, finish, is_alive, signal};

/// What the daemon may have at most in these tests, of which 32 are kept for itself.
const DESCRIPTORS: usize = 96;

// --- Disks --------------------------------------------------------------------------------------------------------------------------

#[test]
fn on_a_full_disk_agents_go_on_refuse_changes_and_lose_nothing() {
    let Some(home) = Home::on_a_small_disk("a full disk") else { return };
    without_writing(&home, Disk::fill, Disk::make_room);
}

#[test]
fn on_a_read_only_disk_agents_go_on_refuse_changes_and_lose_nothing() {
    let Some(home) = Home::on_a_small_disk("a read-only disk") else { return };
    without_writing(&home, Disk::make_read_only, Disk::make_writable);
}

/// Two agents on a disk that cannot be written for a while, and their backbone on one that can.
fn without_writing(home: &Home, begin: fn(&Disk), end: fn(&Disk)) {
    let backbone = Home::new();
    let ticket = backbone.ok(&["backbone", "start", "--detach"]);
    let start = |agent: &str| {
        let mut command = home.command(&["daemon", "start", "--hostname", agent, "--backbone", ticket.trim()]);
        // So that there is something to log all the time.
        command.env("PILOT_LOG", "debug");
        finish(command, b"")
    };
    for agent in ["alpha", "beta"] {
        assert_eq!(start(agent).code, 0);
    }
    let (pids, address) = (["alpha", "beta"].map(|agent| home.pid(agent)), home.address("alpha"));
    home.ok(&["group", "join", "before", "--as", "alpha"]);
    let message = |text: &str| home.run(&["connect", "alpha", "--message", text, "--as", "beta"]);
    assert_eq!(message("one").code, 0);
    let mut echo = LocalStream::open(home, "beta", "alpha", "echo");

    begin(home.disk());
    let log_len = || fs::metadata(home.agent_path("alpha", "log")).expect("a log").len();
    let log_before = log_len();
    for round in 0..20 {
        let text = format!("round {round}");
        echo.send(&text);
        echo.expect(&text);
        assert!(home.ok(&["ping", "alpha", "--as", "beta"]).starts_with("✓ reply from "));
    }
    let said = home.run(&["group", "join", "meanwhile", "--as", "alpha"]);
    assert!(said.code == 1 && said.stderr.contains("config.toml") && said.stderr.contains("\nhint: "), "{said:?}");
    assert_eq!(groups(home), json!(["before"]), "what a restart would forget is not so now either");
    let said = message(&"two".repeat(4_096));
    assert!(said.code == 1 && said.stderr.contains("could not be kept"), "{said:?}");
    assert_eq!(inbox(home), ["one"]);
    assert_eq!(["alpha", "beta"].map(|agent| home.pid(agent)), pids, "nobody has died of it");
    assert!(log_len() < log_before + (1 << 20), "and the log does not grow for it");

    signal(pids[0], "KILL");
    eventually("alpha is gone", || !is_alive(pids[0]));
    let said = start("alpha");
    assert!(said.code == 1 && said.stderr.contains("error: ") && said.stderr.contains("\nhint: "), "{said:?}");
    end(home.disk());
    let said = start("alpha");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!((home.address("alpha"), groups(home)), (address, json!(["before"])));
    home.ok(&["group", "join", "after", "--as", "alpha"]);
    // By this beta notices that alpha has restarted.
    home.ok(&["ping", "alpha", "--as", "beta"]);
    assert_eq!(message("three").code, 0);
    assert_eq!(inbox(home), ["one", "three"]);
}

fn groups(home: &Home) -> Value {
    home.json(&["group", "list", "--as", "alpha"])["groups"].clone()
}

/// The texts that alpha has kept.
fn inbox(home: &Home) -> Vec<String> {
    let lines = fs::read_to_string(home.agent_path("alpha", "inbox")).expect("an inbox");
    let messages = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("a whole line"));
    messages.map(|message| message["text"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn a_backbone_on_a_full_disk_refuses_the_new_and_serves_what_it_has() {
    let Some(backbone) = Home::on_a_small_disk("a backbone's full disk") else { return };
    let home = Home::new();
    let ticket = backbone.ok(&["backbone", "start", "--detach"]);
    let start = |agent: &str| home.run(&["daemon", "start", "--hostname", agent, "--backbone", ticket.trim()]);
    for agent in ["alpha", "beta"] {
        assert_eq!(start(agent).code, 0);
    }
    backbone.disk().fill();
    let said = start("gamma");
    assert!(said.code == 1 && said.stderr.contains("\nhint: "), "{said:?}");
    let status = || backbone.json(&["backbone", "status"]);
    assert!(status()["store_error"].is_string(), "{}", status());
    assert!(home.ok(&["ping", "beta", "--as", "alpha"]).starts_with("✓ reply from "));
    assert_eq!(home.run(&["ping", "gamma", "--as", "alpha"]).code, 4, "who was refused is not served");

    backbone.disk().make_room();
    assert_eq!(start("gamma").code, 0);
    assert_eq!(status()["store_error"], Value::Null);
    kill(status()["pid"].as_u64().expect("a pid") as u32);
    backbone.ok(&["backbone", "start", "--detach"]);
    assert_eq!(status()["agents"], 3, "who was acknowledged is there");
}

#[test]
fn a_start_that_cannot_join_stops_the_agent_also_where_the_disk_is_full() {
    let Some(home) = Home::on_a_small_disk("a start on a full disk") else { return };
    let founder = Home::new();
    let ticket = founder.ok(&["backbone", "start", "--detach"]);
    founder.start("founder", &["--backbone", ticket.trim()]);
    founder.ok(&["org", "create", "fleet"]);
    let invite = founder.ok(&["org", "invite"]);
    let open = founder.json(&["org", "list"]);
    founder.ok(&["org", "uninvite", open["orgs"][0]["invites"][0]["id"].as_str().expect("a number")]);
    let pid = founder.pid("founder");
    signal(pid, "STOP");
    let always = ["daemon", "start", "--hostname", "one", "--backbone", ticket.trim()];
    let mut starting =
        Running::start(home.command(&[&always[..], &["--org", "fleet", "--token", invite.trim()]].concat()));
    eventually("it runs", || home.run(&["daemon", "status", "--as", "one"]).code == 0);
    home.disk().fill();
    signal(pid, "CONT");
    starting.wait_for_line("what was made for this agent stays: ");
    assert_ne!(starting.wait(), Some(0));
    assert_eq!(home.run(&["daemon", "status", "--as", "one"]).code, 3, "it does not run");
    home.disk().make_room();
}

fn kill(pid: u32) {
    signal(pid, "KILL");
    eventually("the process is gone", || !is_alive(pid));
}

// --- Flipped bytes ------------------------------------------------------------------------------------------------------------------

#[test]
fn a_flipped_byte_in_an_agents_file_is_named_or_does_no_harm() {
    let (backbone, home) = (Home::new(), Home::new());
    let ticket = backbone.ok(&["backbone", "start", "--detach"]);
    let start = |agent: &str| home.run(&["daemon", "start", "--hostname", agent, "--backbone", ticket.trim()]);
    assert_eq!(start("beta").code, 0);
    assert_eq!(start("alpha").code, 0);
    home.ok(&["ping", "beta", "--as", "alpha"]);
    eventually("the pin is stored", || home.agent_path("alpha", "names").exists());
    let address = home.address("alpha");
    home.ok(&["daemon", "stop", "--as", "alpha"]);

    for (name, complaint, code) in [
        ("identity.pem", "identity.pem is damaged", 1),
        ("transport.keys", "transport.keys is damaged", 1),
        ("pins", "pins is damaged", 1),
        ("config.toml", "cannot use the config file", 2),
    ] {
        let (whole, flipped) = flip(&home, name);
        let said = start("alpha");
        assert!(said.code == code && said.stderr.contains(complaint) && said.stderr.contains("\nhint: "), "{said:?}");
        assert_eq!(fs::read(home.agent_path("alpha", name)).expect("read"), flipped, "it stays as it is");
        fs::write(home.agent_path("alpha", name), whole).expect("write");
    }
    for name in ["identity.pub", "names", "port", "sequence", "instance"] {
        let (whole, _) = flip(&home, name);
        let said = start("alpha");
        // Two digits in sixteen become none: that is noticed, the others are another number, which harms nobody.
        if name == "instance" && said.code == 1 && said.stderr.contains("instance is damaged") {
            fs::write(home.agent_path("alpha", name), whole).expect("write");
            continue;
        }
        assert!(said.code == 0 && said.stdout.contains(&address), "{name}: {said:?}");
        assert!(home.ok(&["ping", "alpha", "--as", "beta"]).contains(&address), "{name}");
        assert!(home.ok(&["ping", "beta", "--as", "alpha"]).starts_with("✓ reply from "), "{name}");
        home.ok(&["daemon", "stop", "--as", "alpha"]);
    }
}

/// Changes a byte in the middle of a file; returns what it was and what it is.
fn flip(home: &Home, name: &str) -> (Vec<u8>, Vec<u8>) {
    let path = home.agent_path("alpha", name);
    let whole = fs::read(&path).expect("read");
    let mut flipped = whole.clone();
    // In a file for people, what stands between two values; elsewhere any byte.
    let at = flipped.iter().position(|byte| *byte == b'=' && name == "config.toml").unwrap_or(flipped.len() / 2);
    flipped[at] ^= 1;
    fs::write(&path, &flipped).expect("write");
    (whole, flipped)
}

#[test]
fn a_flipped_byte_in_a_backbones_key_is_named_and_stays() {
    let home = Home::new();
    let ticket = home.ok(&["backbone", "start", "--detach"]);
    home.ok(&["backbone", "stop"]);
    let path = home.path().join("backbone/identity.pem");
    let whole = fs::read(&path).expect("read");
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    fs::write(&path, &flipped).expect("write");
    let said = home.run(&["backbone", "start", "--detach"]);
    assert!(said.code == 1 && said.stderr.contains("identity.pem is damaged"), "{said:?}");
    assert_eq!(fs::read(&path).expect("read"), flipped);
    fs::write(&path, whole).expect("write");
    assert_eq!(home.ok(&["backbone", "start", "--detach"]), ticket);
}

// --- Local programs -----------------------------------------------------------------------------------------------------------------

/// Starts an agent whose process may have so many descriptors: for good with `-n`, or until it asks for more with `-Sn`.
fn start_with_descriptors(home: &Home, agent: &str, kind: &str, count: usize) {
    let script = format!("ulimit {kind} {count} && exec {PILOTCTL} daemon start --no-backbone --hostname {agent}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("PILOT_HOME", home.path());
    assert!(command.output().expect("sh").status.success());
}

/// Two agents that know each other by ticket, the first with few descriptors, and the second's ticket.
fn with_few_descriptors() -> (Home, String) {
    let home = Home::new();
    start_with_descriptors(&home, "alpha", "-n", DESCRIPTORS);
    home.start("beta", &["--no-backbone"]);
    let ticket = |agent| home.ok(&["ticket", "--as", agent]).trim().to_owned();
    home.ok(&["ping", &ticket("alpha"), "--as", "beta"]);
    let ticket = ticket("beta");
    (home, ticket)
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there").count()
}

fn api(home: &Home, agent: &str) -> UnixStream {
    UnixStream::connect(home.agent_path(agent, "api.sock")).expect("the local API")
}

/// A program that has asked for an upgrade, and keeps its connection as long as it likes.
fn upgrading_program(home: &Home, agent: &str, call: &str) -> UnixStream {
    let mut program = api(home, agent);
    let upgrade = "connection: upgrade\r\nupgrade: pilot\r\ncontent-length: 0\r\n\r\n";
    program.write_all(format!("{call} HTTP/1.1\r\nhost: localhost\r\n{upgrade}").as_bytes()).expect("write");
    program
}

#[test]
fn programs_that_take_every_connection_leave_the_agent_what_it_needs() {
    take_every_connection(|_| "GET /v1/accept?service=7777".to_owned());
}

#[test]
fn programs_with_streams_leave_the_agent_what_it_needs() {
    take_every_connection(|beta| format!("POST /v1/streams?target={beta}&service=echo"));
}

/// Lets more programs make this call than there are descriptors for.
fn take_every_connection(call: impl Fn(&str) -> String) {
    let (home, beta) = with_few_descriptors();
    let pid = home.pid("alpha");
    let mut echo = LocalStream::open(&home, "alpha", &beta, "echo");
    let mut early = api(&home, "alpha");
    let call = call(&beta);
    let programs: Vec<_> = (0..2 * DESCRIPTORS).map(|_| upgrading_program(&home, "alpha", &call)).collect();
    eventually("programs take most descriptors", || descriptors(pid) > DESCRIPTORS / 2);
    // All are queued when `info` comes, so that it has to wait for one of them to go.
    let info = Running::start(home.command(&["info", "--as", "alpha"]));
    echo.send("still here");
    echo.expect("still here");
    let body = r#"{"description":"new"}"#;
    let (len, head) = (body.len(), "PUT /v1/settings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json");
    write!(early, "{head}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}").expect("write");
    let mut reply = String::new();
    early.read_to_string(&mut reply).expect("read");
    assert!(reply.starts_with("HTTP/1.1 200 "), "files can still be written: {reply}");
    let open = descriptors(pid);
    assert!(open > DESCRIPTORS / 2 && open < DESCRIPTORS, "{open} descriptors are open");
    let log = fs::read_to_string(home.agent_path("alpha", "log")).expect("a log");
    assert!(!log.contains("programs wait for the local API"), "descriptors have run out: {log}");
    drop(programs);
    info.wait_for_line("new");
}

#[test]
fn without_descriptors_streams_go_on_and_programs_wait() {
    let (home, beta) = with_few_descriptors();
    let pid = home.pid("alpha");
    let mut echo = LocalStream::open(&home, "alpha", &beta, "echo");
    let set_limit = |limit: usize| {
        let set =
            Command::new("prlimit").args([format!("--pid={pid}"), format!("--nofile={limit}:{DESCRIPTORS}")]).status();
        assert!(set.expect("prlimit").success());
    };
    // What is open stays open, and nothing can be opened.
    set_limit(3);
    let info = Running::start(home.command(&["info", "--as", "alpha"]));
    let log = || fs::read_to_string(home.agent_path("alpha", "log")).expect("a log");
    eventually("the daemon says why", || log().contains("programs wait for the local API"));
    for _ in 0..100 {
        echo.send("still here");
        echo.expect("still here");
    }
    set_limit(DESCRIPTORS);
    info.wait_for_line("alpha");
    assert_eq!(log().matches("programs wait").count(), 1, "{}", log());
}

#[test]
fn a_thousand_programs_at_once_are_all_answered() {
    const PROGRAMS: usize = 1_000;
    pilot_daemon::descriptors::raise_limit(2 * PROGRAMS);
    let home = Home::new();
    start_with_descriptors(&home, "alpha", "-Sn", 256);
    home.start("beta", &["--no-backbone"]);
    let beta = home.ok(&["ticket", "--as", "beta"]).trim().to_owned();
    let mut asking: Vec<_> = (0..PROGRAMS).map(|_| api(&home, "alpha")).collect();
    for program in &mut asking {
        program.write_all(b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("write");
    }
    for program in &mut asking {
        let mut reply = String::new();
        program.read_to_string(&mut reply).expect("read");
        assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with('}'), "{reply}");
    }
    drop(asking);

    let mut streams: Vec<_> = (0..PROGRAMS).map(|_| LocalStream::open(&home, "alpha", &beta, "echo")).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.send(&format!("program {number:4}"));
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.expect(&format!("program {number:4}"));
    }
}

#[test]
fn a_program_that_does_not_read_slows_nobody_and_costs_bounded_memory() {
    /// What an agent may grow by for it: the credit of a tunnel and the queues at its ends.
    const GROWTH_MAX_KB: u64 = 48 * 1024;
    let home = Home::new();
    for agent in ["alpha", "beta", "gamma"] {
        home.start(agent, &["--no-backbone"]);
    }
    let [beta, gamma] = ["beta", "gamma"].map(|agent| home.ok(&["ticket", "--as", agent]).trim().to_owned());
    let pids = ["alpha", "beta", "gamma"].map(|agent| home.pid(agent));
    let before = pids.map(resident_kb);
    // What it says comes back and is not read, until nothing more goes anywhere.
    let mut stalled = LocalStream::open(&home, "alpha", &beta, "echo");
    let written = fill_with(stalled.socket(), &[b'x'; 4096]);
    assert!(written > 64 * 1024, "{written} bytes are no load");
    // One that asks and asks, and reads no answer.
    let mut asking = api(&home, "alpha");
    fill_with(&mut asking, b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\n\r\n");

    for target in [&beta, &gamma] {
        let mut echo = LocalStream::open(&home, "alpha", target, "echo");
        for _ in 0..100 {
            echo.send("still here");
            echo.expect("still here");
        }
        assert!(home.ok(&["ping", target, "--as", "alpha"]).starts_with("✓ reply from "));
    }
    home.ok(&["daemon", "status", "--as", "alpha"]);
    let after = pids.map(resident_kb);
    let growth: Vec<_> = after.iter().zip(before).map(|(after, before)| after.saturating_sub(before)).collect();
    assert!(growth.iter().all(|growth| *growth < GROWTH_MAX_KB), "{growth:?} KB for {written} bytes");
    assert_eq!(stalled.status(&home, "alpha")["state"], "open", "and it may read on whenever it likes");
    stalled.expect(&"x".repeat(written));
}

/// Writes until the other side takes no more for good: the queues behind it fill one after the other.
fn fill_with(socket: &mut UnixStream, block: &[u8]) -> usize {
    // Long for a queue that moves at all, short for a test.
    let pause = std::time::Duration::from_millis(300);
    socket.set_write_timeout(Some(pause)).expect("a timeout");
    let mut written = 0;
    loop {
        match socket.write(block) {
            Ok(len) => written += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn programs_that_hold_the_backbones_api_do_not_hold_it_for_long() {
    let home = Home::new();
    home.ok(&["backbone", "start", "--detach"]);
    let connect = || UnixStream::connect(home.path().join("backbone/api.sock")).expect("the local API");
    let silent: Vec<_> = (0..16).map(|_| connect()).collect();
    let mut asking = connect();
    eventually("status is answered", || home.run(&["backbone", "status"]).code == 0);
    drop(silent);
    fill_with(&mut asking, b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\n\r\n");
    home.ok(&["backbone", "status"]);
}

// --- A minute's sleep ---------------------------------------------------------------------------------------------------------------

#[test]
#[ignore = "takes over a minute, whatever the machine; `.ci/run patience` runs it"]
fn who_was_stopped_for_a_minute_goes_on_and_loses_nothing() {
    let (backbone, home) = (Home::new(), Home::new());
    let ticket = backbone.ok(&["backbone", "start", "--detach"]);
    for agent in ["alpha", "beta", "gamma"] {
        home.start(agent, &["--backbone", ticket.trim()]);
    }
    let mut to_beta = LocalStream::open(&home, "alpha", "beta", "echo");
    let mut to_gamma = LocalStream::open(&home, "alpha", "gamma", "echo");
    to_beta.send("before");
    to_beta.expect("before");
    let backbone_pid = backbone.json(&["backbone", "status"])["pid"].as_u64().expect("a pid") as u32;
    let stopped = [home.pid("beta"), backbone_pid];
    stopped.iter().for_each(|pid| signal(*pid, "STOP"));
    to_beta.send("meanwhile");
    let said: Said = home.run(&["ping", "delta", "--as", "alpha"]);
    assert_eq!(said.code, 7, "the backbone does not answer, and that is told: {said:?}");
    assert!(Command::new("sleep").arg("61").status().expect("sleep").success());
    to_gamma.send("still here");
    to_gamma.expect("still here");
    assert_eq!(to_beta.status(&home, "alpha")["state"], "open");

    stopped.iter().for_each(|pid| signal(*pid, "CONT"));
    to_beta.expect("meanwhile");
    eventually("the stream moves", || to_beta.status(&home, "alpha")["stalled"] == false);
    eventually("the directory answers", || home.run(&["find", "--need", "beta", "--as", "alpha"]).code != 7);
    home.start("delta", &["--backbone", ticket.trim()]);
    for agent in ["beta", "gamma", "delta"] {
        assert!(home.ok(&["ping", agent, "--as", "alpha"]).starts_with("✓ reply from "));
    }
    assert_eq!(backbone.json(&["backbone", "status"])["agents"], 4);
}
