//! An agent moves: `identity export` and `identity import` (spec/cli.md §5.11).

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::terminal::terminal;
use support::{Home, Said, finish};

/// The private key of RFC 8410 §10.3, as `openssl genpkey -algorithm ed25519` writes one.
const FOREIGN_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                           MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                           -----END PRIVATE KEY-----\n";

/// An agent without a backbone, and what is public of it.
fn agent(name: &str) -> (Home, Value) {
    let home = Home::new();
    home.start(name, &["--no-backbone"]);
    let info = home.json(&["info"]);
    (home, info)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

fn file_in(home: &Home) -> (PathBuf, String) {
    let path = home.path().join("exported.pem");
    let text = path.to_str().expect("text").to_owned();
    (path, text)
}

#[test]
fn an_agent_has_the_same_address_key_and_name_in_another_home() {
    let (home, before) = agent("alpha");
    let (path, file) = file_in(&home);
    let exported = home.json(&["identity", "export", &file]);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(exported["file"], *file);

    let other = Home::new();
    let imported = other.json(&["identity", "import", &file]);
    other.start("alpha", &["--no-backbone"]);
    let after = other.json(&["info"]);
    for field in ["name", "address", "key"] {
        assert_eq!(before[field], exported[field], "{field}");
        assert_eq!(before[field], imported[field], "{field}");
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(mode(&other.agent_path("alpha", "identity.pem")), 0o600);
    assert_eq!(mode(&other.path().join("agents/alpha")), 0o700);
}

#[test]
fn an_export_says_where_memberships_are_which_are_not_in_it() {
    let (home, _) = agent("alpha");
    let (_, file) = file_in(&home);
    let export = || home.run(&["identity", "export", &file, "--force"]);
    assert_eq!(export().stderr, "");
    home.ok(&["org", "create", "my-company-fleet"]);
    let said = export();
    let orgs = home.agent_path("alpha", "orgs").display().to_string();
    assert!(said.code == 0 && said.stderr.contains("memberships are not in it"), "{said:?}");
    assert!(said.stderr.contains(&format!("hint: they are in {orgs}")), "{said:?}");
}

#[test]
fn a_pipe_from_export_to_import_moves_an_agent() {
    let (home, before) = agent("alpha");
    home.ok(&["daemon", "stop"]);
    let text = home.ok(&["identity", "export"]);
    let other = Home::new();
    let said = other.run_with_input(&["identity", "import"], &text);
    let address = before["address"].as_str().expect("an address");
    assert_eq!((said.code, said.stdout), (0, format!("Address: {address}\nHostname: alpha\n")), "{}", said.stderr);
    assert!(said.stderr.contains("`pilotctl daemon start --hostname alpha`"), "{}", said.stderr);
    let json = home.json(&["identity", "export", "-"]);
    assert_eq!(json["pem"], *text);
}

#[test]
fn a_key_is_not_shown_on_a_terminal_unless_asked_for() {
    let (home, _) = agent("alpha");
    let said = on_a_terminal(&home, &["identity", "export"]);
    assert_eq!((said.stdout.as_str(), said.code), ("", 2));
    let hint = "hint: name a file to write it to, or print it here with --force\n";
    assert_eq!(said.stderr, format!("error: the key is secret, and stdout is a terminal\n{hint}"));
    let said = on_a_terminal(&home, &["identity", "export", "--force"]);
    assert!(said.code == 0 && said.stdout.contains("BEGIN PRIVATE KEY"), "{said:?}");
}

/// Runs a command whose stdout is a terminal, and reads what that shows.
fn on_a_terminal(home: &Home, arguments: &[&str]) -> Said {
    let (theirs, shown) = terminal();
    let mut command = home.command(arguments);
    command.stdout(theirs);
    let said = finish(command, b"");
    Said { stdout: shown.join().expect("read"), ..said }
}

#[test]
fn export_replaces_a_file_by_force_only() {
    let (home, _) = agent("alpha");
    let (path, file) = file_in(&home);
    std::fs::write(&path, "mine").expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let said = home.run(&["identity", "export", &file]);
    assert_eq!(said.stderr, format!("error: {file} exists already\nhint: --force replaces it\n"));
    assert_eq!((said.code, std::fs::read_to_string(&path).expect("read")), (1, "mine".to_owned()));
    home.ok(&["identity", "export", &file, "--force"]);
    assert_eq!(mode(&path), 0o600);
    assert!(std::fs::read_to_string(&path).expect("read").contains("BEGIN PRIVATE KEY"));
}

#[test]
fn import_never_replaces_an_agent() {
    let (home, _) = agent("alpha");
    let (other, _) = agent("alpha");
    other.ok(&["daemon", "stop"]);
    let key = std::fs::read(other.agent_path("alpha", "identity.pem")).expect("the key");
    let text = home.ok(&["identity", "export"]);
    let said = other.run_with_input(&["identity", "import"], &text);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.starts_with("error: there is an agent 'alpha' already\nhint: "), "{said:?}");
    assert_eq!(std::fs::read(other.agent_path("alpha", "identity.pem")).expect("the key"), key);
    let said = other.run_with_input(&["identity", "import", "--hostname", "beta"], &text);
    assert_eq!(said.code, 0, "{said:?}");
    // Not even while it starts, or where its key cannot be read.
    let running = home.run_with_input(&["identity", "import"], FOREIGN_KEY);
    assert_ne!(running.code, 0, "{running:?}");
}

#[test]
fn an_identity_has_one_name_in_a_home() {
    let (home, _) = agent("alpha");
    let text = home.ok(&["identity", "export"]);
    let said = home.run_with_input(&["identity", "import", "--hostname", "beta"], &text);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.starts_with("error: agent 'alpha' of this home has this identity already\nhint: "), "{said:?}");
    assert!(!home.path().join("agents/beta").exists());
}

#[test]
fn what_is_no_key_is_refused_with_what_is_wrong_and_makes_no_agent() {
    let (home, _) = agent("alpha");
    let text = home.ok(&["identity", "export"]);
    let other = Home::new();
    let wrong = [
        (String::new(), "there is no PEM block in it"),
        ("hello".to_owned(), "there is no PEM block in it"),
        (text.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY"), "it holds 'OPENSSH PRIVATE KEY', not 'PRIVATE KEY'"),
        (text[..text.len() - 40].to_owned(), "not an Ed25519 private key in PKCS#8 PEM"),
        (text.replace("# address: 0:", "# address: 0:0"), "but its key has"),
    ];
    for (input, what) in wrong {
        let said = other.run_with_input(&["identity", "import", "--hostname", "beta"], &input);
        let first = said.stderr.lines().next().unwrap_or_default();
        assert!(first.starts_with("error: stdin is no identity: ") && first.contains(what), "{said:?}");
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
        assert!(!other.path().join("agents").exists(), "{what}");
    }
    let mut not_text = other.command(&["identity", "import", "--hostname", "beta"]);
    not_text.env("PILOT_AGENT", "");
    assert_eq!(finish(not_text, b"\xff\xfe").code, 1);
}

#[test]
fn the_key_of_another_program_is_an_identity_that_needs_a_name() {
    let home = Home::new();
    let said = home.run_with_input(&["identity", "import"], FOREIGN_KEY);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("\nhint: say it with --hostname NAME"), "{said:?}");
    let said = home.run_with_input(&["identity", "import", "--hostname", "alpha"], FOREIGN_KEY);
    assert_eq!(said.code, 0, "{said:?}");
    let printed = home.start("alpha", &["--no-backbone"]);
    assert!(printed.contains(said.stdout.lines().next().expect("Address: …")), "{printed} {said:?}");
}

#[test]
fn a_renamed_agent_is_found_by_its_new_name_with_the_key_that_it_had() {
    let home = Home::new();
    home.start("asker", &[]);
    home.start("beta", &[]);
    let before = home.json(&["info", "--as", "beta"]);
    let running = home.run(&["identity", "rename", "beta", "gamma"]);
    assert_eq!(running.code, 1, "{running:?}");
    home.ok(&["daemon", "stop", "--as", "beta"]);
    assert_eq!(home.run(&["identity", "rename", "beta", "asker"]).code, 1, "that one is taken");
    assert_eq!(home.run(&["identity", "rename", "nobody", "delta"]).code, 4);
    assert_eq!(home.run(&["identity", "rename", "beta", "No Name"]).code, 2);
    home.ok(&["identity", "rename", "beta", "gamma"]);
    home.start("gamma", &[]);
    let after = home.json(&["info", "--as", "gamma"]);
    assert_eq!((&after["key"], &after["address"]), (&before["key"], &before["address"]));
    assert_eq!(home.json(&["ping", "gamma", "--as", "asker"])["address"], before["address"]);
    assert_eq!(home.run(&["find", "--need", "beta", "--as", "asker"]).code, 4, "the old name leads nowhere");
    home.ok(&["daemon", "restart", "--as", "gamma"]);
    assert!(!home.path().join("agents/beta").exists(), "a restart does not bring the old one back");
}
