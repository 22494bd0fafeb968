//! What a backbone keeps, and what it says when it cannot (spec/backbone.md §5).

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::{Home, eventually, is_alive, signal};

fn directory_file(home: &Home) -> PathBuf {
    home.path().join("backbone").join("directory.redb")
}

/// Ends a process without a goodbye.
fn kill(status: &Value) {
    let pid = status["pid"].as_u64().expect("a pid") as u32;
    signal(pid, "KILL");
    eventually("the process is gone", || !is_alive(pid));
}

/// A home whose backbone's file is not one, and what was written there.
fn with_damaged_file() -> (Home, &'static str) {
    let home = Home::new();
    home.ok(&["backbone", "start", "--detach"]);
    home.ok(&["backbone", "stop"]);
    std::fs::write(directory_file(&home), "rubbish").expect("write");
    (home, "rubbish")
}

#[test]
fn an_agent_and_its_name_outlive_a_backbone_that_is_killed() {
    let (home, other) = (Home::new(), Home::new());
    let ticket = home.ok(&["backbone", "start", "--detach"]);
    home.start("asker", &[]);
    home.start("beta", &["--tags", "finance"]);
    kill(&home.json(&["daemon", "status", "--as", "beta"]));
    kill(&home.json(&["backbone", "status"]));
    assert_eq!(home.ok(&["backbone", "start", "--detach"]), ticket);
    let mut found = Value::Null;
    eventually("the directory answers again", || {
        let said = home.run(&["find", "--tag", "finance", "--as", "asker", "--json"]);
        found = serde_json::from_str(&said.stdout).unwrap_or_default();
        said.code == 0
    });
    assert_eq!((&found["agents"][0]["name"], &found["agents"][0]["reachable"]), (&json!("beta"), &json!(false)));
    let said = other.run(&["daemon", "start", "--hostname", "beta", "--backbone", ticket.trim()]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.starts_with("error: the name 'beta' belongs to another agent\n"), "{said:?}");
}

#[test]
fn a_damaged_directory_is_an_error_and_stays_as_it_is() {
    let (home, rubbish) = with_damaged_file();
    let said = home.run(&["backbone", "start", "--detach"]);
    assert_eq!(said.code, 1, "{said:?}");
    let (error, hint) = said.stderr.trim_end().split_once('\n').expect("two lines");
    assert!(error.contains(&*directory_file(&home).to_string_lossy()) && error.contains(" is damaged: "), "{said:?}");
    assert!(
        hint.starts_with("hint: restore it from a backup; or `pilotctl backbone start --set-aside-damaged`"),
        "{said:?}"
    );
    assert_eq!(std::fs::read_to_string(directory_file(&home)).expect("read"), rubbish);
    let said = home.run(&["daemon", "start", "--hostname", "alpha"]);
    assert!(said.code == 1 && said.stderr.contains("--set-aside-damaged"), "{said:?}");
}

#[test]
fn a_damaged_directory_is_set_aside_if_the_user_says_so() {
    let (home, rubbish) = with_damaged_file();
    home.ok(&["backbone", "start", "--detach", "--set-aside-damaged"]);
    let names = std::fs::read_dir(home.path().join("backbone")).expect("read");
    let mut aside = names.map(|entry| entry.expect("an entry").path());
    let aside =
        aside.find(|path| path.to_string_lossy().contains("directory.redb.damaged-")).expect("the damaged file");
    assert_eq!(std::fs::read_to_string(aside).expect("read"), rubbish);
    home.start("alpha", &[]);
}

#[test]
fn a_directory_file_that_cannot_be_used_is_named() {
    let home = Home::new();
    // A directory in its place cannot be opened as a file by any user, root included.
    std::fs::create_dir_all(directory_file(&home)).expect("create");
    let said = home.run(&["backbone", "start", "--detach"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr.contains(&*directory_file(&home).to_string_lossy()) && said.stderr.contains(" cannot be used: ")
    );
    assert!(said.stderr.contains("hint: check the file's owner and permissions"), "{said:?}");
}

#[test]
fn a_backbone_of_some_roles_shows_them_and_refuses_calls_for_the_others() {
    let (backbone, home) = (Home::new(), Home::new());
    let ticket = backbone.ok(&["backbone", "start", "--detach", "--roles", "stun,relay"]);
    let status = backbone.json(&["backbone", "status"]);
    assert_eq!(status["roles"], json!(["stun", "relay"]));
    assert!(backbone.ok(&["backbone", "status"]).contains("\nRoles: stun, relay\n"));
    assert!(!directory_file(&backbone).exists(), "without a directory there is nothing to keep");
    let key = ticket.trim().strip_prefix("pilot-backbone:").and_then(|rest| rest.split_once('@')).expect("a ticket").0;
    let said = home.run(&["daemon", "start", "--hostname", "alpha", "--backbone", ticket.trim()]);
    let refusal = format!("the directory refused: backbone node {key} is no directory; its roles: stun, relay");
    assert!(said.stderr.contains(&refusal), "{said:?}");
}

#[test]
fn a_role_that_there_is_not_is_a_mistake_in_the_command_line() {
    let said = Home::new().run(&["backbone", "start", "--roles", "stun,dns"]);
    assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
    assert!(said.stderr.contains("'dns'") && said.stderr.contains("\nhint: "), "{said:?}");
}

#[test]
fn who_knows_an_agent_by_its_name_follows_when_the_name_is_handed_over() {
    let [backbone, asker, old, new] = std::array::from_fn(|_| Home::new());
    let ticket = backbone.ok(&["backbone", "start", "--detach"]);
    let by = ["--backbone", ticket.trim()];
    asker.start("asker", &by);
    old.start("alpha", &by);
    let address = |home: &Home| home.json(&["info"])["address"].as_str().expect("an address").to_owned();
    let replies_from = |address: &str| asker.ok(&["ping", "alpha"]).starts_with(&format!("✓ reply from {address} "));
    assert!(replies_from(&address(&old)));

    new.start("alpha", &["--no-backbone"]);
    let (key, new_address) = (new.json(&["info"])["key"].as_str().expect("a key").to_owned(), address(&new));
    new.ok(&["daemon", "stop"]);
    assert_eq!(old.ok(&["handover", &key]), format!("The name 'alpha' is kept for {key}\n"));
    assert_eq!(old.json(&["handover", &key])["to"], json!(key), "once more is no harm");
    old.ok(&["daemon", "stop"]);
    new.start("alpha", &by);
    assert!(replies_from(&new_address), "{}", asker.ok(&["ping", "alpha"]));
}

#[test]
fn a_name_is_handed_over_to_keys_and_to_another() {
    let home = Home::new();
    home.start("alpha", &[]);
    let said = home.run(&["handover", "beta"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.starts_with("error: 'beta' is no key\nhint: `pilotctl info` shows the key"), "{said:?}");
    let own = home.json(&["info"])["key"].as_str().expect("a key").to_owned();
    let said = home.run(&["handover", &own]);
    assert_eq!((said.code, said.stderr.lines().next()), (2, Some("error: this is the agent's own key")), "{said:?}");
}
