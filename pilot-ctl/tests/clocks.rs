//! Machines whose clocks are wrong: processes under libfaketime, which gives each of them the date that it is to believe (spec/org.md §3.1).
//!
//! Needs libfaketime. Without it the test says so and passes; with `PILOT_REQUIRE_NAMESPACES` set, as in `.ci/run`, it fails.

#![cfg(target_os = "linux")]

mod support;

use std::io::Write;
use std::path::PathBuf;

use support::{Home, Said, finish};

const FLEET: &str = "my-company-fleet";

/// A home whose processes have a clock of their own.
struct Machine {
    home: Home,
    library: PathBuf,
    /// What their clocks are ahead of the true one, as libfaketime is told it.
    offset: &'static str,
}

impl Machine {
    fn run(&self, arguments: &[&str]) -> Said {
        let mut command = self.home.command(arguments);
        // Timers take the clock that nobody sets.
        command.env("LD_PRELOAD", &self.library).env("FAKETIME", self.offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        finish(command, b"")
    }
}

/// Where Debian, and others, put it.
fn library() -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found =
        places.iter().map(|place| PathBuf::from(place).join("faketime/libfaketime.so.1")).find(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var_os("PILOT_REQUIRE_NAMESPACES").is_none(), "libfaketime is not installed");
        // Straight to stderr: the test harness swallows what `eprintln!` says in a test that passes.
        writeln!(std::io::stderr(), "\nSKIPPED: clocks: libfaketime is not installed").expect("stderr");
    }
    found
}

#[test]
fn who_is_off_by_less_than_a_day_joins_and_is_trusted_and_who_is_off_by_a_week_is_told_that_a_clock_is_wrong() {
    let Some(library) = library() else { return };
    let founder = Home::new();
    let ticket = founder.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]).trim().to_owned();
    let ticket: &str = &ticket;
    founder.start("founder", &["--backbone", ticket, "--listen", "127.0.0.1:0"]);
    // How old lists are, each tells by its own clock: for one of the two that join, they are too old from the start.
    founder.ok(&["org", "create", FLEET, "--list-age", "12h"]);
    let invite = founder.ok(&["org", "invite", "--uses", "4"]).trim().to_owned();
    let join = |name: &str, offset| {
        let machine = Machine { home: Home::new(), library: library.clone(), offset };
        let always = ["daemon", "start", "--hostname", name, "--backbone", ticket, "--listen", "127.0.0.1:0"];
        let said = machine.run(&[&always[..], &["--org", FLEET, "--token", &invite]].concat());
        (machine, said)
    };
    let _answering = founder.spawn(&["answer", "--", "cat"], "answering 'query' as founder");
    for (name, offset, decision) in [
        ("ahead", "+23h", "refused: the revocation lists of its organisation are too old"),
        ("behind", "-23h", "allowed: "),
    ] {
        let (machine, said) = join(name, offset);
        assert_eq!(said.code, 0, "{offset}: {said:?}");
        let answered = machine.run(&["query", &format!("founder@{FLEET}"), "hello", "--timeout", "20s"]);
        assert_eq!((answered.code, answered.stdout.as_str()), (0, "hello"), "{offset}: {answered:?}");
        let ping = founder.run(&["ping", &format!("{name}@{FLEET}")]);
        assert_eq!(ping.code, 0, "{offset}: {ping:?}");
        let why = machine.run(&["why", &format!("founder@{FLEET}"), "query"]);
        assert!(why.stdout.starts_with(decision), "{offset}: {why:?}");
    }
    for (name, offset) in [("far-ahead", "+7d"), ("far-behind", "-7d")] {
        let (_machine, said) = join(name, offset);
        assert!(said.code != 0 && said.stderr.contains("clock"), "{offset}: {said:?}");
        assert!(said.stderr.contains("hint: compare what 'date -u' says"), "{offset}: {said:?}");
    }
    assert_eq!(founder.json(&["org", "members", FLEET])["members"].as_array().expect("a list").len(), 3);
}

#[test]
fn a_founder_whose_clock_is_set_right_invites_as_before() {
    let Some(library) = library() else { return };
    let backbone = Home::new();
    let ticket = backbone.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]).trim().to_owned();
    let always = ["--backbone", &ticket, "--listen", "127.0.0.1:0"];
    let mut founder = Machine { home: Home::new(), library, offset: "+1h" };
    let start = |founder: &Machine| {
        let said = founder.run(&[&["daemon", "start", "--hostname", "founder"][..], &always].concat());
        assert_eq!(said.code, 0, "{said:?}");
    };
    start(&founder);
    assert_eq!(founder.run(&["org", "create", FLEET]).code, 0);
    founder.run(&["daemon", "stop"]);
    founder.offset = "+0";
    start(&founder);
    assert_eq!(founder.run(&["org", "invite", "--code"]).code, 0);
    let invited = founder.run(&["org", "invite"]);
    assert_eq!(invited.code, 0, "{invited:?}");
    let one = Home::new();
    one.start("one", &[&always[..], &["--org", FLEET, "--token", invited.stdout.trim()]].concat());
}

/// The secrets of an agent's transport keys, the current one first.
fn transport_keys(home: &Home, agent: &str) -> Vec<String> {
    let file = std::fs::read_to_string(home.agent_path(agent, "transport.keys")).expect("a file");
    let words = file.lines().filter_map(|line| line.split(' ').next());
    words.filter(|word| word.len() == 64).map(str::to_owned).collect()
}

#[test]
fn a_member_whose_transport_key_has_rotated_is_trusted_with_the_backbone_off() {
    let Some(library) = library() else { return };
    let founder = Home::new();
    let ticket = founder.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]).trim().to_owned();
    founder.start("founder", &["--backbone", &ticket, "--listen", "127.0.0.1:0"]);
    founder.ok(&["org", "create", FLEET]);
    let invite = founder.ok(&["org", "invite"]);
    let mut one = Machine { home: Home::new(), library, offset: "-23h" };
    let start = ["daemon", "start", "--hostname", "one", "--backbone", &ticket, "--listen", "127.0.0.1:0"];
    let joined = one.run(&[&start[..], &["--org", FLEET, "--token", invite.trim()]].concat());
    assert_eq!(joined.code, 0, "{joined:?}");
    let before = transport_keys(&one.home, "one");

    founder.ok(&["backbone", "stop"]);
    one.run(&["daemon", "stop"]);
    // By its own clock it comes back more than a day later.
    one.offset = "+2h";
    let back = one.run(&["daemon", "start", "--hostname", "one", "--no-backbone", "--listen", "127.0.0.1:0"]);
    assert_eq!(back.code, 0, "{back:?}");
    let after = transport_keys(&one.home, "one");
    assert!(before.len() == 1 && after.len() == 2 && after[1] == before[0], "{} and {}", before.len(), after.len());
    let _answering = [
        founder.spawn(&["answer", "--", "cat"], "answering 'query' as founder"),
        one.home.spawn(&["answer", "--", "cat"], "answering 'query' as one"),
    ];
    let asked = one.run(&["query", &format!("founder@{FLEET}"), "hello", "--timeout", "20s"]);
    assert_eq!((asked.code, asked.stdout.as_str()), (0, "hello"), "{asked:?}");
    let asked = founder.run(&["query", &format!("one@{FLEET}"), "hello", "--timeout", "20s"]);
    assert_eq!((asked.code, asked.stdout.as_str()), (0, "hello"), "{asked:?}");
}
