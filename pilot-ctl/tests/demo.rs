//! `pilotctl demo`: it ends by itself, shows everything, and leaves nothing (spec/cli.md §5.10).

mod support;

use std::io::{BufRead, BufReader};
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

/// A demo whose temporary files are in `directory`, in a process group of its own, as a terminal starts it.
fn demo_in(home: &Home, directory: &Path) -> std::process::Command {
    let mut command = home.command(&["demo"]);
    command.env("TMPDIR", directory).env_remove("XDG_RUNTIME_DIR").process_group(0);
    command
}

#[test]
fn a_demo_whose_terminal_is_closed_leaves_nothing() {
    let home = Home::new();
    let mut demo = support::Running::start(demo_in(&home, home.path()));
    demo.wait_for_line("Hostname: beta");
    demo.signal_group("HUP");
    assert_eq!(demo.wait(), Some(130));
    assert_eq!(leftovers(home.path()), Vec::<String>::new());
    assert_eq!(processes_of(home.path()), Vec::<String>::new());
}

#[test]
fn a_demo_that_nobody_reads_any_more_leaves_nothing() {
    let home = Home::new();
    let mut demo = demo_in(&home, home.path()).spawn().expect("spawn");
    let mut lines = BufReader::new(demo.stdout.take().expect("stdout")).lines();
    assert!(lines.any(|line| line.expect("read").contains("Hostname: beta")));
    drop(lines);
    assert_eq!(demo.wait().expect("wait").code(), Some(0));
    assert_eq!(leftovers(home.path()), Vec::<String>::new());
    assert_eq!(processes_of(home.path()), Vec::<String>::new());
}

#[test]
fn a_long_directory_for_temporary_files_does_not_keep_the_demo_from_running() {
    let home = Home::new();
    let long = home.path().join("x".repeat(100));
    std::fs::create_dir(&long).expect("a directory");
    let mut demo = support::Running::start(demo_in(&home, &long));
    let elsewhere = Path::new("/tmp").join(format!("pilot-demo-{}", demo.pid()));
    demo.wait_for_line("Hostname: alpha");
    assert!(elsewhere.exists());
    demo.signal("INT");
    assert_eq!(demo.wait(), Some(130));
    assert!(!elsewhere.exists());
    assert_eq!(leftovers(&long), Vec::<String>::new());
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
        let mut demo = support::Running::start(demo_in(&home, home.path()));
        demo.wait_for_line(moment);
        // As a terminal does it: Ctrl-C goes to the whole group of the foreground.
        demo.signal_group("INT");
        assert_eq!(demo.wait(), Some(130), "{moment}: {:#?}", demo.rest());
        assert_eq!(leftovers(home.path()), Vec::<String>::new(), "{moment}");
        assert_eq!(processes_of(home.path()), Vec::<String>::new(), "{moment}");
    }
}
