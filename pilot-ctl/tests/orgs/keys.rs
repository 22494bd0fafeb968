//! The organisation's keys: in nobody's files, replaced, lost and stolen.

use std::fs;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use serde_json::json;

use crate::machines::{FLEET, Machine, Machines, in_fleet, is_answered};
use crate::support::eventually;

#[test]
fn the_organisations_keys_are_in_no_file_but_their_founders() {
    let machines = Machines::new();
    let founder = machines.founder();
    let org = founder.home.agent_path(founder.name, "orgs").join(FLEET);
    let keys = ["key", "successor"].map(|kind| org.join(kind).join("identity.pem"));
    let keys = keys.map(|file| fs::read_to_string(file).expect("a key"));
    let one = machines.member("one", &founder.invite(&["--may-enrol", "1"]));
    let two = machines.member("two", &one.invite(&[]));
    founder.home.ok(&["org", "revoke", "one"]);
    assert_eq!(founder.members(), ["founder"]);
    // What a node has in its hands is on its disk when it has ended.
    machines.stop_backbone();
    for key in &keys {
        assert!(holds_key(founder.home.path(), key), "it can be found");
        for home in [&machines.backbone, &one.home, &two.home] {
            assert!(!holds_key(home.path(), key));
        }
    }
}

/// Whether a file below has the key in it, as text or as bytes.
fn holds_key(path: &Path, pem: &str) -> bool {
    if path.is_dir() {
        return fs::read_dir(path).expect("a directory").any(|entry| holds_key(&entry.expect("an entry").path(), pem));
    }
    let text = pem.lines().nth(1).expect("base64").as_bytes();
    // PKCS#8 of Ed25519 (RFC 8410 §7): 16 bytes, then the key.
    let bytes = &BASE64.decode(text).expect("base64")[16..48];
    // A socket is no file.
    let file = fs::read(path).unwrap_or_default();
    let holds = |wanted: &[u8]| file.windows(wanted.len()).any(|found| found == wanted);
    holds(bytes) || holds(text) || holds(HEXLOWER.encode(bytes).as_bytes())
}

#[test]
fn who_holds_a_stolen_key_is_out_when_it_is_cut_off_and_nobody_else_is() {
    let machines = Machines::new();
    let founder = machines.founder();
    let lead = machines.member("lead", &founder.invite(&["--may-enrol", "1"]));
    let (worker, two) = (machines.member("worker", &lead.invite(&[])), machines.member("two", &founder.invite(&[])));
    let _handler = two.answers();
    is_answered(&worker.asks(&in_fleet("two")));
    // The thief has a copy of everything but the successor, which was moved to a safe place.
    let orgs = |machine: &Machine| machine.home.agent_path(machine.name, "orgs").join(FLEET);
    let safe = founder.home.path().join("safe");
    fs::rename(orgs(&founder).join("successor"), &safe).expect("moved");
    let thief = machines.machine("thief");
    thief.home.ok(&["daemon", "stop"]);
    fs::create_dir_all(orgs(&thief).join("key")).expect("a directory");
    for file in ["state", "key/identity.pem"] {
        fs::copy(orgs(&founder).join(file), orgs(&thief).join(file)).expect("copied");
    }
    assert_eq!(machines.start(&thief, &[]).code, 0);
    let mallory = machines.member("mallory", &thief.invite(&[]));
    is_answered(&mallory.asks(&in_fleet("two")));

    let without = founder.home.run(&["org", "rotate", "--stolen"]);
    assert!(without.code == 5 && without.stderr.contains("--successor FILE"), "{without:?}");
    let safe = safe.join("identity.pem").display().to_string();
    let rotated = founder.home.json(&["org", "rotate", "--stolen", "--successor", &safe]);
    assert_eq!(rotated["members"], 4, "mallory is none: {rotated}");
    eventually("mallory is out", || mallory.asks("two").code == 5);
    let late = machines.machine("late");
    let invite = thief.home.run(&["org", "invite"]).stdout;
    late.home.run(&["join", "--token", invite.trim()]);
    assert_eq!(late.asks("two").code, 5, "the thief makes no members any more");
    is_answered(&worker.asks(&in_fleet("two")));
    is_answered(&lead.asks(&in_fleet("two")));
    is_answered(&machines.member("three", &founder.invite(&[])).asks(&in_fleet("two")));
    assert_eq!(founder.members(), ["founder", "lead", "three", "two", "worker"]);
    // Nor after everybody has forgotten what it was told in memory.
    two.home.ok(&["daemon", "restart", "--as", "two"]);
    assert_eq!(two.members(), ["founder", "lead", "three", "two", "worker"]);
}

#[test]
fn a_new_key_of_the_organisation_keeps_everybody_in_also_when_the_old_one_is_lost() {
    let machines = Machines::new();
    let founder = machines.founder();
    let one = machines.member("one", &founder.invite(&[]));
    let _handler = one.answers();
    founder.home.ok(&["org", "rotate"]);
    is_answered(&founder.asks(&in_fleet("one")));
    let two = machines.member("two", &founder.invite(&[]));
    is_answered(&two.asks(&in_fleet("one")));

    founder.home.ok(&["daemon", "stop"]);
    fs::remove_dir_all(founder.home.agent_path("founder", "orgs").join(FLEET).join("key")).expect("the key is lost");
    assert_eq!(machines.start(&founder, &[]).code, 0);
    assert_eq!(founder.home.run(&["org", "invite"]).code, 5);
    founder.home.ok(&["org", "rotate"]);
    let three = machines.member("three", &founder.invite(&[]));
    is_answered(&three.asks(&in_fleet("one")));
    is_answered(&two.asks(&in_fleet("one")));
}

#[test]
fn without_founder_and_key_any_member_replaces_it_by_the_successor_and_nobody_has_to_join_again() {
    let machines = Machines::new();
    let [founder, one, two] = machines.fleet_of_three();
    let safe = machines.backbone.path().join("safe.pem");
    fs::rename(founder.home.agent_path("founder", "orgs").join(FLEET).join("successor/identity.pem"), &safe)
        .expect("moved");
    founder.home.ok(&["daemon", "stop"]);
    fs::remove_dir_all(founder.home.agent_path("founder", "")).expect("the machine is lost");
    let rotated = one.home.run(&["org", "rotate", "--successor", safe.to_str().expect("text")]);
    assert_eq!(rotated.code, 0, "{rotated:?}");
    let _handler = two.answers();
    is_answered(&one.asks(&in_fleet("two")));
    let three = machines.member("three", &one.invite(&[]));
    is_answered(&three.asks(&in_fleet("two")));
    one.home.ok(&["org", "revoke", "three"]);
    eventually("the new key's word counts", || three.asks("two").code == 5);
}

#[test]
fn where_the_machine_of_the_key_was_stolen_a_member_begins_anew_with_the_successor() {
    let machines = Machines::new();
    let [founder, one, two] = machines.fleet_of_three();
    let safe = founder.home.agent_path("founder", "orgs").join(FLEET).join("successor/identity.pem");
    let safe = safe.display().to_string();
    founder.home.ok(&["daemon", "stop"]);
    let foreign = one.home.agent_path("one", "identity.pem").display().to_string();
    for wrong in [&["--stolen"][..], &[], &["--successor", &foreign], &["--stolen", "--successor", &foreign]] {
        let refused = one.home.run(&[&["org", "rotate"], wrong].concat());
        assert!(refused.code == 5 && refused.stderr.contains("--successor FILE"), "{wrong:?}: {refused:?}");
    }
    let rotated = one.home.run(&["org", "rotate", "--stolen", "--successor", &safe]);
    assert!(rotated.code == 0 && rotated.stdout.contains("Members: 1\n"), "{rotated:?}");
    assert!(rotated.stderr.contains("join again: pilotctl org invite"), "{rotated:?}");
    assert_eq!(one.members(), ["one"]);
    eventually("two is out", || two.members() == ["one"]);
    two.home.ok(&["org", "leave"]);
    two.home.ok(&["join", "--token", &one.invite(&[])]);
    let _handler = two.answers();
    is_answered(&one.asks(&in_fleet("two")));
    let refused = one.home.run(&["org", "rotate", "--stolen", "--successor", &safe]);
    assert!(refused.code == 5 && refused.stderr.contains("has replaced the key"), "{refused:?}");
    let left = fs::read_dir(one.home.agent_path("one", "orgs").join(FLEET)).expect("a directory");
    let mut left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["key", "state", "successor"], "nothing of the attempt is left");
}

#[test]
fn a_founder_whose_key_was_replaced_by_the_successor_leaves_like_anybody() {
    let machines = Machines::new();
    let [founder, one] = [machines.founder(), machines.machine("one")];
    one.home.ok(&["join", "--token", &founder.invite(&[])]);
    let refused = founder.home.run(&["org", "leave"]);
    assert!(refused.code == 5 && refused.stderr.contains("keeps the key"), "{refused:?}");
    let safe = founder.home.agent_path("founder", "orgs").join(FLEET).join("successor/identity.pem");
    one.home.ok(&["org", "rotate", "--successor", safe.to_str().expect("text")]);
    eventually("it has heard of the new key", || founder.home.run(&["org", "leave"]).code == 0);
    assert_eq!(founder.home.json(&["org", "list"]), json!({ "orgs": [] }));
}

#[test]
fn where_two_have_replaced_the_key_out_of_each_others_sight_the_successor_brings_all_to_one_key_again() {
    // So that no backbone node tells the one what the other has done.
    let (here, there) = (Machines::new(), Machines::new());
    let founder = here.founder();
    let invite = founder.invite(&["--uses", "2"]);
    let (heir, two) = (there.member("heir", &invite), there.member("two", &invite));
    let [orgs, heirs] = [&founder, &heir].map(|machine| machine.home.agent_path(machine.name, "orgs").join(FLEET));
    let safe = here.backbone.path().join("safe.pem");
    fs::copy(orgs.join("successor/identity.pem"), &safe).expect("copied");
    [&founder, &heir].iter().for_each(|machine| drop(machine.home.ok(&["daemon", "stop"])));
    fs::create_dir_all(heirs.join("key")).expect("a directory");
    fs::copy(orgs.join("key/identity.pem"), heirs.join("key/identity.pem")).expect("copied");

    assert_eq!(there.start(&heir, &[]).code, 0);
    heir.home.ok(&["org", "rotate"]);
    [&heir, &two].iter().for_each(|machine| drop(machine.home.ok(&["daemon", "stop"])));
    assert_eq!(here.start(&founder, &[]).code, 0);
    founder.home.ok(&["org", "rotate"]);
    let late = here.member("late", &founder.invite(&[]));
    [&heir, &two].iter().for_each(|machine| assert_eq!(there.start(machine, &[]).code, 0));
    let _handler = two.answers();
    is_answered(&founder.asks(&in_fleet("two")));
    assert_eq!(late.asks(&in_fleet("two")).code, 5, "each follows the key that it heard of first");
    let other_key = |machine: &Machine| machine.home.json(&["org", "list"])["orgs"][0]["other_key"].clone();
    for machine in [&founder, &two, &heir, &late] {
        eventually("everybody hears of that", || other_key(machine) != json!(null));
    }
    for words in [["org", "list"].as_slice(), &["doctor"]] {
        let said = two.home.run(words);
        let all = [said.stdout, said.stderr].concat();
        assert!(all.contains("was replaced twice at once") && all.contains("org rotate"), "{all}");
    }

    let decide = ["org", "rotate", "--successor", safe.to_str().expect("text")];
    let refused = founder.home.run(&decide);
    assert!(refused.code == 5 && refused.stderr.contains("would be out: late\n"), "{refused:?}");
    founder.home.ok(&["org", "revoke", "late"]);
    founder.home.ok(&decide);
    late.home.ok(&["org", "leave"]);
    late.home.ok(&["join", "--token", &founder.invite(&[])]);
    eventually("two follows the successor", || late.asks(&in_fleet("two")).code == 0);
    assert_eq!(other_key(&two), json!(null), "it is decided");
    eventually("so does the heir, whose key is none any more", || heir.home.run(&["org", "invite"]).code == 5);
}

#[test]
fn an_organisation_has_twelve_keys_and_four_more_after_thefts_and_a_refused_one_leaves_nothing() {
    let machines = Machines::new();
    let founder = machines.founder();
    let rotate = |options: &[&str]| founder.home.run(&[&["org", "rotate"], options].concat());
    let more = |options: &[&str]| (0..20).take_while(|_| rotate(options).code == 0).count();
    assert_eq!((more(&[]), more(&["--stolen"])), (11, 4), "and the first");
    for options in [&[][..], &["--stolen"]] {
        let refused = rotate(options);
        assert!(refused.code == 5 && refused.stderr.contains("found another organisation"), "{refused:?}");
    }
    let files = fs::read_dir(founder.home.agent_path("founder", "orgs").join(FLEET)).expect("a directory");
    let mut files: Vec<_> = files.map(|entry| entry.expect("an entry").file_name()).collect();
    files.sort();
    assert_eq!(files, ["key", "state", "successor"]);
    machines.member("late", &founder.invite(&[]));
}
