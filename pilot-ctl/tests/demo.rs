//! `pilotctl demo`: it ends by itself, shows everything, and leaves nothing (spec/cli.md §5.10).

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;

use serde_json::Value;
use support::{Home, finish};

/// What is left of the demo's home in a directory for temporary files.
fn leftovers(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("read").map(|entry| entry.expect("entry").file_name());
    entries.filter_map(|name| name.into_string().ok()).collect()
}

#[test]
fn demo_shows_every_step_and_leaves_nothing() {
    let home = Home::new();
    let mut demo = home.command(&["demo", "--json"]);
    demo.env("TMPDIR", home.path());
    let said = finish(demo, b"");
    assert_eq!(said.code, 0, "{said:?}");
    let steps: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<&str> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(names, ["start", "ping", "query", "connect", "mcp", "group", "relay", "transfer"]);
    assert_eq!(steps.last().expect("a step")["bytes"], 200_000_000);
    assert_eq!(leftovers(home.path()), Vec::<String>::new());
}

/// The processes that work in a directory.
fn processes_of(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let command_lines = entries.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    let command_lines = command_lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    command_lines.filter(|line| line.contains(&*directory.to_string_lossy())).collect()
}

#[test]
fn a_demo_interrupted_while_it_starts_an_agent_leaves_nothing() {
    for moment in [
        "--hostname alpha",
        "Hostname: alpha",
        "--hostname beta",
        "Hostname: beta",
        "--hostname gamma",
        "Hostname: gamma",
    ] {
        let home = Home::new();
        let mut command = home.command(&["demo"]);
        command.env("TMPDIR", home.path());
        // As a terminal does it: Ctrl-C goes to the whole group of the foreground.
        command.process_group(0);
        let mut demo = support::Running::start(command);
        demo.wait_for_line(moment);
        demo.signal_group("INT");
        assert_eq!(demo.wait(), Some(130), "{moment}: {:#?}", demo.rest());
        assert_eq!(leftovers(home.path()), Vec::<String>::new(), "{moment}");
        assert_eq!(processes_of(home.path()), Vec::<String>::new(), "{moment}");
    }
}
