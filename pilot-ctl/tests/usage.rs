//! Help and every way to get the command line wrong: words, exit codes and the two forms of an error (spec/cli.md §2 to §4).

mod support;

use support::{Home, assert_snapshot, clean_command, finish};

#[test]
fn help_is_as_reviewed() {
    let verbs: [&[&str]; 21] = [
        &[],
        &["daemon"],
        &["daemon", "start"],
        &["daemon", "stop"],
        &["daemon", "logs"],
        &["daemon", "set"],
        &["info"],
        &["peers"],
        &["ping"],
        &["connect"],
        &["query"],
        &["answer"],
        &["find"],
        &["group"],
        &["hand-over"],
        &["mcp", "serve"],
        &["mcp", "connect"],
        &["ticket"],
        &["backbone", "start"],
        &["demo"],
        &["completions"],
    ];
    for verb in verbs {
        let said = finish(clean_command(&[verb, &["--help"]].concat()), b"");
        assert_eq!(said.code, 0, "{verb:?}");
        assert_eq!(said.stderr, "", "{verb:?}");
        let name = ["help"].iter().chain(verb).copied().collect::<Vec<_>>().join("-");
        assert_snapshot(&name, &said.stdout);
    }
}

#[test]
fn errors_say_what_failed_and_what_to_do() {
    let home = Home::new();
    let cases: [(&[&str], i32, &str, &str); 12] = [
        (&["pign", "x"], 2, "unrecognized subcommand 'pign'", "did you mean 'ping'?"),
        (
            &["ping"],
            2,
            "the following required arguments were not provided: <TARGET>",
            "`pilotctl ping --help` shows how",
        ),
        (&["ping", "x", "--cuont", "2"], 2, "unexpected argument '--cuont' found", "did you mean '--count'?"),
        (
            &["ping", "x", "--timeout", "soon"],
            2,
            "invalid value 'soon' for '--timeout <TIME>': write it as 30s, 500ms or 2m",
            "`pilotctl --help` shows how",
        ),
        (&["query", "x"], 2, "the text of the query is missing", "usage is `pilotctl query NAME TEXT`"),
        (&["ping", "x"], 3, "no agent is running", "`pilotctl daemon start --hostname NAME` starts one"),
        (
            &["info", "--as", "agent-alpha"],
            3,
            "agent 'agent-alpha' is not running",
            "`pilotctl daemon start --hostname agent-alpha` creates and starts it",
        ),
        (&["daemon", "status"], 3, "no agent is running", "`pilotctl daemon start --hostname NAME` starts one"),
        (&["daemon", "stop"], 3, "no agent is running", "`pilotctl daemon start --hostname NAME` starts one"),
        (&["backbone", "status"], 3, "no backbone is running in this home", "`pilotctl backbone start` starts one"),
        (
            &["daemon", "start", "--hostname", "My Agent"],
            2,
            "'My Agent' is no hostname",
            "lower-case letters, digits and hyphens, at most 63; for example 'my-agent'",
        ),
        (&["daemon", "set"], 2, "nothing to set", "for example `pilotctl daemon set --direct off`"),
    ];
    for (arguments, code, message, hint) in cases {
        let said = home.run(arguments);
        assert_eq!(said.stderr, format!("error: {message}\nhint: {hint}\n"), "{arguments:?}");
        assert_eq!((said.code, said.stdout.as_str()), (code, ""), "{arguments:?}");

        let said = home.run(&[&["--json"], arguments].concat());
        assert_eq!(said.error()["message"], message, "{arguments:?}");
        assert_eq!(said.error()["hint"], hint, "{arguments:?}");
        assert_eq!((said.code, said.stderr.as_str()), (code, ""), "{arguments:?}");
    }
}

#[test]
fn a_command_that_failed_leaves_no_home_behind() {
    let home = Home::new();
    let inner = home.path().join("inner");
    let mut command = clean_command(&["ping", "x"]);
    command.env("PILOT_HOME", &inner);
    assert_eq!(finish(command, b"").code, 3);
    assert!(!inner.exists());
}

#[test]
fn no_home_is_an_error_with_a_hint() {
    let mut command = clean_command(&["info"]);
    command.env_remove("HOME");
    let said = finish(command, b"");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.starts_with("error: neither PILOT_HOME nor HOME is set\nhint: "), "{said:?}");
}

#[test]
fn a_misspelt_setting_is_named() {
    let home = Home::new();
    std::fs::write(home.path().join("config.toml"), "agnet = 'x'\n").expect("write");
    let said = home.run(&["info"]);
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("unknown field `agnet`"), "{said:?}");
}

#[test]
fn flag_beats_environment_beats_config_file() {
    let home = Home::new();
    std::fs::write(home.path().join("config.toml"), "agent = 'from-config'\n").expect("write");
    let named = |said: &support::Said| said.stderr.lines().next().unwrap_or_default().to_owned();
    assert_eq!(named(&home.run(&["info"])), "error: agent 'from-config' is not running");
    let mut command = home.command(&["info"]);
    command.env("PILOT_AGENT", "from-env");
    assert_eq!(named(&finish(command, b"")), "error: agent 'from-env' is not running");
    let mut command = home.command(&["info", "--as", "from-flag"]);
    command.env("PILOT_AGENT", "from-env");
    assert_eq!(named(&finish(command, b"")), "error: agent 'from-flag' is not running");
}

#[test]
fn completions_and_manual_come_from_the_binary() {
    for shell in ["bash", "zsh", "fish"] {
        let said = finish(clean_command(&["completions", shell]), b"");
        assert!(said.code == 0 && said.stdout.contains("pilotctl"), "{shell}");
    }
    let said = finish(clean_command(&["man", "daemon", "start"]), b"");
    assert!(said.stdout.contains(".TH pilotctl-daemon-start"), "{said:?}");
    assert_eq!(finish(clean_command(&["man", "nonsense"]), b"").code, 2);
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_quietly() {
    let script = format!("{} completions bash | head -1", support::PILOTCTL);
    let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
