//! What a command changes can be found when it ends (spec/cli.md §2): nothing here asks twice.

mod support;

use serde_json::{Value, json};
use support::{Home, PILOTCTL};

const WARNING: &str = "warning: the directory does not have the change yet: ";

fn pair() -> Home {
    let home = Home::new();
    home.start("asker", &[]);
    home.start("beta", &[]);
    home
}

/// What the directory finds, as the asker hears it.
#[track_caller]
fn find(home: &Home, arguments: &[&str]) -> Vec<Value> {
    let found = home.json(&[&["find", "--as", "asker"], arguments].concat());
    found["agents"].as_array().expect("a list").clone()
}

#[test]
fn a_member_that_has_just_joined_is_asked_and_one_that_has_left_is_not() {
    let home = pair();
    let _handler = home.spawn(&["answer", "--as", "beta", "--", "cat"], "answering 'query' as beta");
    let question = ["query", "--group", "research", "x", "--as", "asker"];
    for _ in 0..3 {
        let joined = home.run(&["group", "join", "research", "--as", "beta"]);
        assert_eq!((joined.stdout.as_str(), joined.stderr.as_str()), ("research\n", ""));
        assert_eq!(home.ok(&question), "x");
        home.ok(&["group", "leave", "research", "--as", "beta"]);
        assert_eq!(home.run(&question).code, 4);
    }
}

#[test]
fn an_agent_is_found_when_its_start_has_returned() {
    let home = pair();
    let started = home.run(&["daemon", "start", "--hostname", "gamma", "--tags", "finance"]);
    assert_eq!((started.code, started.stderr.as_str()), (0, ""));
    assert_eq!(find(&home, &["--tag", "finance"])[0]["name"], json!("gamma"));
    home.ok(&["daemon", "restart", "--as", "gamma"]);
    assert_eq!(find(&home, &["--tag", "finance"])[0]["reachable"], json!(true));
}

#[test]
fn settings_are_found_when_they_are_set() {
    let home = pair();
    home.ok(&["daemon", "set", "--as", "beta", "--tags", "weather", "--description", "tells of rain"]);
    assert_eq!(find(&home, &["--tag", "weather"])[0]["description"], json!("tells of rain"));
    home.ok(&["daemon", "set", "--as", "beta", "--tags", "wind"]);
    assert_eq!(home.run(&["find", "--tag", "weather", "--as", "asker"]).code, 4);
}

#[test]
fn services_are_found_when_they_are_ready() {
    let home = pair();
    let answer = ["answer", "--as", "beta", "--offer", "resolves citations", "--", "cat"];
    let _handler = home.spawn(&answer, "answering 'query' as beta");
    assert_eq!(find(&home, &["--need", "citations"])[0]["name"], json!("beta"));
    let serve = ["mcp", "serve", "--as", "asker", "--offer", "forecasts", "--", PILOTCTL, "mcp", "demo-server"];
    let _server = home.spawn(&serve, "serving MCP as asker");
    assert_eq!(find(&home, &["--need", "forecasts"])[0]["name"], json!("asker"));
    home.ok(&["mcp", "serve", "--as", "beta", "--detach", "--", PILOTCTL, "mcp", "demo-server"]);
    assert!(find(&home, &["--need", "demo-server"])[0]["offers"].to_string().contains("MCP server: "));
}

#[test]
fn a_command_that_is_too_long_to_be_an_offer_is_cut() {
    let home = pair();
    let long = "é".repeat(400);
    let serve = ["mcp", "serve", "--as", "beta", "--detach", "--", PILOTCTL, "mcp", "demo-server", &long];
    let said = home.run(&serve);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    assert!(find(&home, &[]).iter().any(|agent| agent["offers"].to_string().contains("MCP server: ")));
}

#[test]
fn without_the_backbone_a_change_is_kept_and_the_command_warns() {
    let home = pair();
    home.ok(&["backbone", "stop"]);
    let said = home.run(&["group", "join", "research", "--as", "beta"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, "research\n"), "{said:?}");
    let lines: Vec<&str> = said.stderr.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with(WARNING) && lines[1].starts_with("hint: "), "{said:?}");
    assert_eq!(home.ok(&["group", "list", "--as", "beta"]), "research\n");
    let said = home.run(&["daemon", "set", "--as", "beta", "--tags", "a", "--json"]);
    assert!(said.code == 0 && said.stderr.starts_with(WARNING), "{said:?}");
    assert_eq!(serde_json::from_str::<Value>(&said.stdout).expect("one object")["tags"], json!(["a"]));
}

#[test]
fn agents_of_tickets_alone_wait_for_nobody() {
    let home = Home::new();
    let arguments = ["daemon", "start", "--hostname", "alone", "--no-backbone", "--groups", "research"];
    for arguments in [&arguments[..], &["group", "join", "more"], &["daemon", "set", "--tags", "a"]] {
        let said = home.run(arguments);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    }
}
