//! Starting, stopping and looking after agents and backbones, on real processes (spec/cli.md §5.1, §5.2, §5.9, §6).

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::{Home, eventually, finish, is_alive, signal};

/// The form `0:HHHH.HHHH.HHHH`.
fn is_address(text: &str) -> bool {
    let groups: Vec<&str> = text.strip_prefix("0:").unwrap_or_default().split('.').collect();
    let is_group =
        |group: &&str| group.len() == 4 && group.chars().all(|c| c.is_ascii_digit() || ('A'..='F').contains(&c));
    groups.len() == 3 && groups.iter().all(is_group)
}

#[test]
fn start_prints_pid_address_and_hostname() {
    let home = Home::new();
    let printed = home.start("my-agent", &[]);
    let lines: Vec<&str> = printed.lines().collect();
    let pid = lines[0].strip_prefix("Daemon running (pid ").and_then(|rest| rest.strip_suffix(")")).expect("pid");
    assert!(is_alive(pid.parse().expect("number")));
    assert!(is_address(lines[1].strip_prefix("Address: ").expect("address")), "{printed}");
    assert_eq!(lines[2..], ["Hostname: my-agent"]);
}

#[test]
fn start_prints_tags_last() {
    let home = Home::new();
    let printed = home.start("my-mcp-server", &["--tags", "mcp,finance"]);
    assert!(printed.ends_with("\nHostname: my-mcp-server\nTags: mcp, finance\n"), "{printed}");
    assert_eq!(printed.lines().count(), 4);
}

#[test]
fn an_idle_agent_wakes_no_more_than_twice_a_second() {
    let home = Home::new();
    home.start("alpha", &[]);
    home.start("beta", &[]);
    home.ok(&["ping", "beta", "--as", "alpha"]);
    support::rest::assert_rests(&["alpha", "beta"].map(|name| home.pid(name)));
}

#[test]
fn three_starts_at_once_share_one_backbone_and_reach_each_other() {
    let home = Home::new();
    let names = ["alpha", "beta", "gamma"];
    let children: Vec<_> = names
        .iter()
        .map(|name| home.command(&["daemon", "start", "--hostname", name]).spawn().expect("spawn"))
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("wait");
        assert!(output.status.success(), "{output:?}");
    }
    let tickets: std::collections::BTreeSet<String> = names
        .iter()
        .map(|name| {
            home.json(&["daemon", "status", "--as", name])["backbone"]["ticket"].as_str().expect("ticket").to_owned()
        })
        .collect();
    assert_eq!(tickets.len(), 1, "{tickets:?}");
    for from in names {
        for to in names.into_iter().filter(|to| *to != from) {
            let reply = home.ok(&["ping", to, "--as", from]);
            assert!(reply.starts_with("✓ reply from 0:"), "{reply}");
        }
    }
}

#[test]
fn a_second_start_names_the_process_that_runs() {
    let home = Home::new();
    home.start("alpha", &[]);
    let pid = home.json(&["daemon", "status"])["pid"].to_string();
    let said = home.run(&["daemon", "start", "--hostname", "alpha"]);
    assert_eq!(said.code, 1);
    assert!(
        said.stderr.starts_with(&format!("error: agent 'alpha' is already running (pid {pid})\nhint: ")),
        "{said:?}"
    );
}

#[test]
fn status_tells_all_and_stop_ends_the_process() {
    let home = Home::new();
    home.start("alpha", &["--tags", "a", "--groups", "research"]);
    home.start("beta", &["--description", "looks things up"]);
    let printed = home.ok(&["daemon", "status"]);
    assert!(printed.contains("Hostname: alpha\n") && printed.contains("Hostname: beta\n"), "{printed}");
    let status = home.json(&["daemon", "status", "--as", "alpha"]);
    assert_eq!(status["tags"], serde_json::json!(["a"]));
    assert_eq!(status["groups"], serde_json::json!(["research"]));
    assert!(status["drops"].is_object());
    assert!(status["pid"].is_u64());

    let said = home.run(&["daemon", "stop"]);
    assert_eq!((said.code, said.stderr.lines().next()), (2, Some("error: several agents are running: alpha, beta")));
    assert_eq!(home.ok(&["daemon", "stop", "--as", "alpha"]), "Stopped alpha\n");
    // The process has let go of everything; as a zombie it may wait for its parent's parent.
    assert_eq!(home.run(&["daemon", "status", "--as", "alpha"]).code, 3);
    assert_eq!(home.ok(&["info"]).lines().next(), Some("Hostname: beta"), "one is left, and needs no name");
    assert_eq!(home.ok(&["daemon", "stop", "--all"]), "Stopped beta\n");
    assert_eq!(home.run(&["daemon", "stop"]).code, 3);
}

#[test]
fn a_restart_with_a_config_file_that_no_agent_starts_with_stops_nothing() {
    let home = Home::new();
    home.start("alpha", &["--no-backbone"]);
    let pid = home.pid("alpha");
    let config = home.agent_path("alpha", "config.toml");
    let before = fs::read_to_string(&config).expect("a file");
    for broken in ["tags = [", "tagz = []", "stun = ['no:port:']", "tags = ['Not A Label']"] {
        fs::write(&config, broken).expect("written");
        let refused = home.run(&["daemon", "restart"]);
        assert!(refused.code == 2 && refused.stderr.contains("\nhint: "), "{broken}: {refused:?}");
        assert_eq!(home.pid("alpha"), pid, "{broken}");
    }
    fs::write(&config, before).expect("written");
    home.ok(&["daemon", "restart"]);
    assert_ne!(home.pid("alpha"), pid);
}

#[test]
fn restart_keeps_address_settings_and_groups() {
    let home = Home::new();
    home.start("alpha", &["--tags", "one,two", "--groups", "first"]);
    home.ok(&["group", "join", "second"]);
    let before = home.json(&["daemon", "status"]);
    let printed = home.ok(&["daemon", "restart"]);
    assert!(printed.ends_with("Tags: one, two\n"), "{printed}");
    let after = home.json(&["daemon", "status"]);
    for field in ["address", "key", "tags", "groups", "name"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_ne!(before["pid"], after["pid"]);
}

#[test]
fn groups_are_joined_left_and_listed() {
    let home = Home::new();
    home.start("alpha", &[]);
    home.ok(&["group", "join", "research", "ops"]);
    let mut listed: Vec<String> = home.ok(&["group", "list"]).lines().map(str::to_owned).collect();
    listed.sort();
    assert_eq!(listed, ["ops", "research"]);
    home.ok(&["group", "leave", "ops"]);
    assert_eq!(home.ok(&["group", "list"]), "research\n");
}

#[test]
fn find_looks_at_tags_groups_and_needs() {
    let home = Home::new();
    home.start("alpha", &["--tags", "finance", "--description", "resolves academic citations"]);
    home.start("beta", &["--groups", "research"]);
    for (option, value, found) in
        [("--tag", "finance", "alpha"), ("--group", "research", "beta"), ("--need", "citations", "alpha")]
    {
        let agents = home.json(&["find", option, value, "--as", "beta"])["agents"].clone();
        let names: Vec<&str> =
            agents.as_array().expect("a list").iter().filter_map(|agent| agent["name"].as_str()).collect();
        assert_eq!(names, [found], "{option} {value}");
    }
    let table = home.ok(&["find", "--tag", "finance", "--as", "beta"]);
    assert!(table.starts_with("HOSTNAME  ADDRESS"), "{table}");
    let said = home.run(&["find", "--tag", "nothing", "--as", "beta"]);
    assert_eq!((said.code, said.stderr.lines().next()), (4, Some("error: no agent with tag 'nothing'")));
}

#[test]
fn logs_show_what_a_stopped_agent_said() {
    let home = Home::new();
    home.start("alpha", &[]);
    home.ok(&["daemon", "stop"]);
    let all = home.ok(&["daemon", "logs"]);
    let position = |word: &str| all.find(word).unwrap_or_else(|| panic!("no '{word}' in {all}"));
    assert!(position("started") < position("registered") && position("registered") < position("ended"), "{all}");
    assert_eq!(home.ok(&["daemon", "logs", "-n", "1"]).lines().next(), all.lines().last());
    let line = home.json(&["daemon", "logs", "-n", "1"]);
    assert_eq!(line["line"].as_str(), all.lines().last());
}

#[test]
fn a_foreground_daemon_prints_the_same_and_ends_on_sigterm() {
    let home = Home::new();
    let mut running = home.spawn(&["daemon", "run", "--hostname", "alpha"], "Daemon running (pid ");
    running.wait_for_line("Hostname: alpha");
    running.signal("TERM");
    assert_eq!(running.wait(), Some(0));
    assert_eq!(home.run(&["info"]).code, 3);
}

#[test]
fn a_daemon_that_was_killed_leaves_nothing_in_the_way() {
    let home = Home::new();
    home.start("alpha", &[]);
    let pid = u32::try_from(home.json(&["daemon", "status"])["pid"].as_u64().expect("pid")).expect("a pid");
    signal(pid, "KILL");
    eventually("the daemon is gone", || home.run(&["daemon", "status"]).code == 3);
    home.start("alpha", &[]);
}

#[test]
fn two_agents_with_tickets_need_no_backbone() {
    let home = Home::new();
    let other = Home::new();
    home.start("alpha", &["--no-backbone"]);
    other.start("beta", &["--no-backbone"]);
    assert!(!home.path().join("backbone").exists());
    let ticket = other.ok(&["ticket"]);
    assert!(ticket.starts_with("pilot:"), "{ticket}");
    let reply = home.ok(&["ping", ticket.trim()]);
    assert!(reply.starts_with("✓ reply from 0:"), "{reply}");
}

#[test]
fn homes_meet_at_a_backbone_by_its_ticket() {
    let backbone = Home::new();
    let ticket = backbone.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]);
    assert!(ticket.starts_with("pilot-backbone:") && ticket.lines().count() == 1, "{ticket}");
    let (one, two) = (Home::new(), Home::new());
    one.start("alpha", &["--backbone", ticket.trim()]);
    let mut start = two.command(&["daemon", "start", "--hostname", "beta"]);
    start.env("PILOT_BACKBONE", ticket.trim());
    assert_eq!(finish(start, b"").code, 0);
    assert!(one.ok(&["ping", "beta"]).starts_with("✓ reply from "));
    assert!(two.ok(&["ping", "alpha"]).starts_with("✓ reply from "));
    let status = backbone.json(&["backbone", "status"]);
    assert_eq!(status["agents"], 2);
    assert_eq!(backbone.run(&["backbone", "start"]).code, 1, "one a home");
}

#[test]
fn a_variable_is_unset_where_it_is_empty_and_gives_way_to_a_flag_where_it_is_not() {
    let home = Home::new();
    let start = |options: &[&str], value: &str| {
        let mut start = home.command(&[&["daemon", "start", "--hostname", "alpha"], options].concat());
        let names = ["BACKBONE", "TAGS", "GROUPS", "DESCRIPTION", "LISTEN", "TIMEOUT", "AGENT", "LOG"];
        start.envs(names.map(|name| (format!("PILOT_{name}"), if name == "BACKBONE" { value } else { "" })));
        finish(start, b"")
    };
    let first = start(&["--description", "knows all", "--tags", "mcp"], "");
    assert_eq!(first.code, 0, "{first:?}");
    assert!(!home.json(&["daemon", "status"])["backbone"].is_null(), "that of this home");
    assert!(home.ok(&["daemon", "logs"]).contains("started"), "as much is logged as ever");
    home.ok(&["daemon", "stop"]);
    let second = start(&["--no-backbone"], "pilot-backbone:of-others");
    assert_eq!(second.code, 0, "{second:?}");
    let status = home.json(&["daemon", "status"]);
    assert!(status["backbone"].is_null(), "{status}");
    assert_eq!((&status["description"], &status["tags"][0]), (&"knows all".into(), &"mcp".into()), "they were kept");
    let mut ping = home.command(&["ping", "nobody"]);
    ping.env("PILOT_TIMEOUT", "");
    assert_eq!(finish(ping, b"").code, 7);
}

#[test]
fn a_foreground_backbone_prints_its_ticket_alone_and_ends_on_sigint() {
    let home = Home::new();
    let mut running = home.spawn(&["backbone", "start"], "Backbone running (pid ");
    running.wait_for_line("pilot-backbone:");
    running.signal("INT");
    assert_eq!(running.wait(), Some(0));
    assert_eq!(home.run(&["backbone", "status"]).code, 3);
}

#[test]
fn a_name_that_another_home_has_is_refused() {
    let (one, two) = (Home::new(), Home::new());
    let ticket = one.ok(&["backbone", "start", "--detach"]);
    one.start("alpha", &["--backbone", ticket.trim()]);
    let said = two.run(&["daemon", "start", "--hostname", "alpha", "--backbone", ticket.trim()]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("alpha") && said.stderr.contains("\nhint: "), "{said:?}");
}

#[test]
fn a_host_is_no_ticket() {
    let home = Home::new();
    let said = home.run(&["daemon", "start", "--hostname", "alpha", "--backbone", "backbone.example.net"]);
    assert!(said.stderr.starts_with("error: 'backbone.example.net' is no backbone ticket: "), "{said:?}");
    assert!(said.stderr.contains("\nhint: a ticket is the line that `pilotctl backbone start` prints"), "{said:?}");
}

#[test]
fn a_taken_port_and_an_unreadable_key_say_why() {
    let home = Home::new();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let taken = socket.local_addr().expect("address").to_string();
    let said = home.run(&["daemon", "start", "--hostname", "alpha", "--no-backbone", "--listen", &taken]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(&taken) && said.stderr.contains("\nhint: "), "{said:?}");

    let key = home.agent_path("alpha", "identity.pem");
    let before = fs::read(&key).expect("the first attempt made a key");
    fs::write(&key, "not a key").expect("write");
    let said = home.run(&["daemon", "start", "--hostname", "alpha", "--no-backbone"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("identity.pem") && said.stderr.contains("\nhint: "), "{said:?}");
    assert_eq!(fs::read(&key).expect("read"), b"not a key", "nothing is replaced");
    fs::write(&key, before).expect("write");
    home.start("alpha", &["--no-backbone"]);
}

#[test]
fn keys_are_for_their_owner_alone() {
    let home = Home::new();
    home.start("alpha", &[]);
    let mode = |path: std::path::PathBuf| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(home.agent_path("alpha", "identity.pem")), 0o600);
    assert_eq!(mode(home.agent_path("alpha", "api.sock")), 0o600);
    assert_eq!(mode(home.path().join("agents/alpha")), 0o700);
    assert_eq!(mode(home.path().join("backbone")), 0o700);
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    let home = Home::new();
    fs::write(home.path().join("agents"), "in the way").expect("write");
    let said = home.run(&["daemon", "start", "--hostname", "alpha", "--no-backbone"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("agents") && said.stderr.contains("\nhint: "), "{said:?}");
}
