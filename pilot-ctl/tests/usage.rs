//! Help and every way to get the command line wrong: words, exit codes and the two forms of an error (spec/cli.md §2 to §4).

mod support;

use std::collections::BTreeSet;

use support::{Home, assert_snapshot, clean_command, finish, snapshots, verbs, verbs_below};

/// Every verb, and everything above one: `[]`, `["daemon"]`, `["daemon", "start"]`.
fn verbs_and_groups() -> BTreeSet<Vec<String>> {
    verbs().iter().flat_map(|verb| (0..=verb.len()).map(|len| verb[..len].to_vec())).collect()
}

fn run(verb: &[String], before: &[&str], after: &[&str]) -> support::Said {
    let verb: Vec<&str> = verb.iter().map(String::as_str).collect();
    finish(clean_command(&[before, &verb, after].concat()), b"")
}

#[test]
fn help_is_as_reviewed() {
    let mut reviewed = BTreeSet::new();
    for verb in verbs_and_groups() {
        let [long, short] = ["--help", "-h"].map(|flag| run(&verb, &[], &[flag]));
        for said in [&long, &short] {
            assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{verb:?}");
        }
        let name = ["help"].into_iter().chain(verb.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
        if short.stdout != long.stdout {
            let name = format!("short-{name}");
            assert_snapshot(&name, &short.stdout);
            reviewed.insert(name);
        }
        assert_snapshot(&name, &long.stdout);
        reviewed.insert(name);
    }
    let kept: BTreeSet<String> = snapshots().into_iter().filter(|name| name.contains("help")).collect();
    assert_eq!(kept, reviewed, "no help of a verb that is gone");
}

#[test]
fn errors_say_what_failed_and_what_to_do() {
    let home = Home::new();
    let cases: [(&[&str], i32, &str, &str); 13] = [
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
            "`pilotctl ping --help` shows how",
        ),
        (
            &["daemon", "start", "--listen", "here"],
            2,
            "invalid value 'here' for '--listen <ADDR>': invalid socket address syntax",
            "`pilotctl daemon start --help` shows how",
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
fn every_shell_completes_every_verb() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let said = finish(clean_command(&["completions", shell]), b"");
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{shell}");
        let words: BTreeSet<&str> = said.stdout.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
        for word in verbs().iter().flatten() {
            assert!(words.contains(&**word), "{shell} does not know '{word}'");
        }
        for internal in ["demo-server", "detached", "idle-exit"] {
            assert!(!words.iter().any(|word| word.contains(internal)), "{shell} offers '{internal}'");
        }
    }
}

#[test]
fn bash_offers_the_verbs_below_what_is_typed() {
    let script = finish(clean_command(&["completions", "bash"]), b"").stdout;
    let groups = verbs_and_groups().into_iter().filter(|verb| !verbs().contains(verb));
    for group in groups {
        let typed = group.join(" ");
        let ask = format!(
            "{script}\nCOMP_WORDS=(pilotctl {typed} '')\nCOMP_CWORD={}\n_pilotctl pilotctl '' {}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            group.len() + 1,
            group.last().map_or("pilotctl", String::as_str),
        );
        let output = std::process::Command::new("bash").args(["-c", &ask]).output().expect("bash");
        let offered = String::from_utf8_lossy(&output.stdout).into_owned();
        let offered: BTreeSet<&str> = offered.lines().filter(|word| !word.starts_with('-')).collect();
        let below = verbs_below(&group);
        assert_eq!(offered, below.iter().map(String::as_str).collect(), "'pilotctl {typed}': {output:?}");
    }
}

#[test]
fn every_verb_has_a_manual_page_of_its_own() {
    for verb in verbs_and_groups() {
        let said = run(&verb, &["man"], &[]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{verb:?}");
        let name = ["pilotctl"].into_iter().chain(verb.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
        assert!(said.stdout.contains(&format!(".TH {name} 1")), "{verb:?}: {}", said.stdout);
        for section in ["NAME", "SYNOPSIS"] {
            assert!(said.stdout.contains(&format!(".SH {section}")), "{verb:?} has no {section}");
        }
    }
    assert_eq!(finish(clean_command(&["man", "nonsense"]), b"").code, 2);
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_quietly() {
    let script = format!("{} completions bash | head -1", support::PILOTCTL);
    let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
