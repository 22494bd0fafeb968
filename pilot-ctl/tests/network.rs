//! What people see of the network: netcheck, doctor, peers, ping --until-direct (spec/cli.md §5.2, §5.3, §5.14, §5.15).

mod support;

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use support::{Home, eventually};

fn pair() -> Home {
    let home = Home::new();
    home.start("alpha", &[]);
    home.start("beta", &[]);
    home
}

/// The last object of a verb that prints one a line.
fn last_line(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

/// What `doctor` has found of one thing.
#[track_caller]
fn check(diagnosis: &Value, name: &str) -> Value {
    let checks = diagnosis["checks"].as_array().expect("a list");
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no {name}: {diagnosis}")).clone()
}

#[test]
fn netcheck_tells_what_was_answered_and_guesses_nothing() {
    let home = Home::new();
    home.start("alpha", &[]);
    let found = home.json(&["netcheck"]);
    assert_eq!((&found["udp"], &found["ipv4"]["observed"]), (&json!(true), &json!("127.0.0.1")), "{found}");
    assert_eq!((&found["mapping"]["kind"], &found["filtering"]), (&json!("none"), &json!("unknown")), "{found}");
    assert_eq!(found["relays"][0]["home"], json!(true), "{found}");
    assert!(home.ok(&["netcheck"]).contains("\nFiltering: unknown (needs a second address)\n"));
}

#[test]
fn netcheck_without_a_backbone_knows_nobody_to_ask() {
    let home = Home::new();
    home.start("alpha", &["--no-backbone"]);
    let found = home.json(&["netcheck"]);
    assert_eq!((&found["udp"], &found["ipv4"]["answered"]), (&Value::Null, &Value::Null), "{found}");
    assert_eq!((&found["mapping"]["kind"], &found["relays"]), (&json!("unknown"), &json!([])), "{found}");
}

#[test]
fn a_stun_server_of_the_config_file_is_asked_and_a_misspelt_one_is_refused() {
    let home = Home::new();
    let config = home.path().join("config.toml");
    std::fs::write(&config, "stun = ['not a server']\n").expect("write");
    let said = home.run(&["daemon", "start", "--hostname", "alpha", "--no-backbone"]);
    assert_eq!(
        (said.code, said.stderr.lines().next()),
        (2, Some("error: 'not a server' is no STUN server")),
        "{said:?}"
    );

    let ticket = home.ok(&["backbone", "start", "--detach"]);
    let port = ticket.trim().rsplit(':').next().expect("a port");
    std::fs::write(&config, format!("stun = ['127.0.0.1:{port}']\n")).expect("write");
    home.start("alpha", &["--no-backbone"]);
    eventually("an answer", || home.json(&["netcheck"])["udp"] == json!(true));
}

#[test]
fn ping_until_direct_ends_with_a_direct_reply_and_peers_tells_where_that_leads() {
    let home = pair();
    let said = home.run(&["ping", "beta", "--until-direct", "--as", "alpha"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.lines().last().is_some_and(|line| line.contains("ms · direct 127.0.0.1:")), "{said:?}");
    let reply = last_line(&home.ok(&["ping", "beta", "--until-direct", "--as", "alpha", "--json"]));
    assert_eq!(reply["path"], json!("direct"));

    let peers = home.json(&["peers", "--as", "alpha"])["peers"].clone();
    let beta = peers.as_array().expect("a list").iter().find(|peer| peer["name"] == "beta").expect("a tunnel");
    assert_eq!((&beta["remote"], &beta["relay"]), (&reply["remote"], &Value::Null), "{beta}");
    assert!(beta["path_s"].is_number() && beta["sent_packets"].as_u64() > Some(0), "{beta}");
}

#[test]
fn what_policy_keeps_on_the_relay_has_its_reason_here_and_there() {
    let home = pair();
    home.ok(&["daemon", "set", "--direct", "off", "--as", "beta"]);
    let said = home.run(&["ping", "beta", "--until-direct", "--timeout", "1s", "--as", "alpha"]);
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.stdout.lines().all(|line| line.ends_with("ms · relay")) && !said.stdout.is_empty(), "{said:?}");
    let reason = "error: no direct path to 'beta' within 1 s: it names no address to be reached at: its policy forbids direct paths";
    assert_eq!(said.stderr.lines().next(), Some(reason), "{said:?}");

    let peer = check(&home.json(&["doctor", "beta", "--as", "alpha"]), "peer");
    assert_eq!((&peer["ok"], &peer["code"]), (&json!(false), &json!("forbidden_there")), "{peer}");
    let peer = check(&home.json(&["doctor", "alpha", "--as", "beta"]), "peer");
    assert_eq!(peer["code"], json!("forbidden_here"), "{peer}");
    let said = home.run(&["ping", "alpha", "--until-direct", "--as", "beta"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "nothing to wait for: {said:?}");

    let peers = home.json(&["peers", "--as", "alpha"])["peers"].clone();
    let of = |name: &str| peers.as_array().expect("a list").iter().find(|peer| peer["name"] == name).cloned();
    let backbone = peers.as_array().expect("a list").iter().find(|peer| peer["backbone"] == true).expect("a tunnel");
    let beta = of("beta").expect("a tunnel");
    assert_eq!((&beta["relay"], &beta["relay_remote"]), (&backbone["key"], &backbone["remote"]), "{beta}");
}

#[test]
fn who_forbids_direct_paths_tells_nobody_its_addresses() {
    let home = pair();
    let listen = home.json(&["daemon", "status", "--as", "beta"])["listen"].as_str().expect("an address").to_owned();
    let (_, port) = listen.rsplit_once(':').expect("a port");
    assert!(home.ok(&["ticket", "--as", "beta"]).contains(port));
    home.ok(&["daemon", "set", "--direct", "off", "--as", "beta"]);
    let ticket = home.ok(&["ticket", "--as", "beta"]);
    assert!(!ticket.contains(port), "{ticket}");
    home.ok(&["ping", ticket.trim(), "--as", "alpha"]);

    let alone = Home::new();
    alone.start("gamma", &["--no-backbone", "--direct", "off"]);
    let said = alone.run(&["ticket"]);
    assert!(said.code == 1 && said.stderr.contains("hint: `pilotctl daemon set --direct on`"), "{said:?}");
}

#[test]
fn doctor_finds_a_pair_that_is_direct_well_and_keys_that_others_can_read_not() {
    let home = pair();
    let diagnosis = home.json(&["doctor", "beta", "--as", "alpha"]);
    let wrong = diagnosis["checks"].as_array().expect("a list").iter().filter(|check| check["ok"] != true).count();
    assert_eq!(wrong, 0, "{diagnosis}");
    set_permissions(home.agent_path("alpha", "identity.pem"), Permissions::from_mode(0o644)).expect("a file of ours");
    let said = home.run(&["doctor", "--as", "alpha"]);
    let line = said.stdout.lines().find(|line| line.starts_with("✗ keys: ")).unwrap_or_else(|| panic!("{said:?}"));
    assert!(line.contains("; chmod go= ") && line.ends_with("identity.pem"), "{line}");
    assert_eq!(said.code, 0, "to find something is no failure");
    assert_eq!(home.run(&["doctor", "nobody", "--as", "alpha"]).code, 4);
}

#[test]
fn doctor_names_a_backbone_that_is_gone() {
    let home = Home::new();
    home.start("alpha", &[]);
    home.ok(&["backbone", "stop"]);
    eventually("the loss is noticed", || home.json(&["daemon", "status"])["backbone"]["connected"] == json!(false));
    let backbone = check(&home.json(&["doctor"]), "backbone");
    assert_eq!((&backbone["ok"], &backbone["code"]), (&json!(false), &json!("unreachable")), "{backbone}");
}

/// Beta is there, and cannot be asked: nothing may be said of it.
#[test]
fn doctor_blames_a_backbone_that_is_gone_and_not_the_peer_behind_it() {
    let home = pair();
    home.ok(&["backbone", "stop"]);
    eventually("the loss is noticed", || {
        home.json(&["daemon", "status", "--as", "alpha"])["backbone"]["connected"] == json!(false)
    });
    let diagnosis = home.json(&["doctor", "beta", "--as", "alpha"]);
    assert_eq!(check(&diagnosis, "backbone")["code"], json!("unreachable"), "{diagnosis}");
    let peer = check(&diagnosis, "peer");
    assert_eq!((&peer["ok"], &peer["code"]), (&json!(false), &json!("backbone_unreachable")), "{peer}");
}
