//! Ephemeral agents with real processes (spec/install.md §6): what is left of them.

mod support;

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;
use support::{Home, Said, eventually, signal};

const FLEET: &str = "my-company-fleet";
const WORKER: &str = "worker-7";
/// As many as live one after another under one name.
const LIVES: usize = 20;

/// A fleet with its founder, and a machine on which agents come and go.
struct Fleet {
    backbone: Home,
    ticket: String,
    founder: Home,
    machine: Home,
    invite: Home,
}

impl Fleet {
    fn new() -> Self {
        let [backbone, founder, machine, invite] = [(); 4].map(|()| Home::new());
        let ticket = backbone.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]).trim().to_owned();
        founder.start("founder", &["--backbone", &ticket, "--listen", "127.0.0.1:0"]);
        founder.ok(&["org", "create", FLEET]);
        let fleet = Self { backbone, ticket, founder, machine, invite };
        fleet.founder.ok(&["org", "invite", "--uses", "100", "--file", &fleet.invite_file()]);
        fleet
    }

    fn invite_file(&self) -> String {
        self.invite.path().join("fleet.invite").to_str().expect("text").to_owned()
    }

    fn at(&self, verb: &[&str], hostname: &str) -> Vec<String> {
        let options = ["--hostname", hostname, "--backbone", &self.ticket, "--listen", "127.0.0.1:0"];
        verb.iter().chain(&options).map(|word| (*word).to_owned()).collect()
    }

    fn ephemeral(&self, verb: &[&str]) -> Vec<String> {
        let mut arguments = self.at(verb, WORKER);
        arguments.extend(["--org", FLEET, "--token-file", &self.invite_file(), "--ephemeral"].map(str::to_owned));
        arguments
    }

    fn start(&self) -> Said {
        self.run(&self.ephemeral(&["daemon", "start"]))
    }

    fn run(&self, arguments: &[String]) -> Said {
        self.machine.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Waits until the worker knows that it is a member: what it does not know yet it cannot give back.
    fn wait_for_member(&self) {
        let is_member = || {
            let said = self.machine.run(&["org", "list", "--as", WORKER]);
            said.code == 0 && said.stdout.contains(FLEET)
        };
        eventually("it is a member", is_member);
    }

    /// Ends the worker as nobody can see it coming.
    fn kill(&self) {
        signal(self.machine.pid(WORKER), "KILL");
        eventually("it is dead", || self.machine.run(&["info", "--as", WORKER]).code == 3);
    }

    /// Members, registered agents, and what is on the machine's disk.
    fn traces(&self) -> (Vec<String>, u64, BTreeSet<String>) {
        let reply = self.founder.json(&["org", "members", FLEET]);
        let members = reply["members"].as_array().expect("a list");
        let members = members.iter().map(|member| member["name"].as_str().expect("a name").to_owned()).collect();
        let agents = self.backbone.json(&["backbone", "status"])["agents"].as_u64().expect("a count");
        let entries = fs::read_dir(self.machine.path().join("agents")).into_iter().flatten();
        let files = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        (members, agents, files)
    }
}

#[test]
fn agents_that_live_for_a_moment_one_after_another_under_one_name_leave_nothing_behind() {
    let fleet = Fleet::new();
    let before = fleet.traces();
    assert_eq!(before, (vec!["founder".to_owned()], 1, BTreeSet::new()));
    let mut addresses = BTreeSet::new();
    for life in 0..LIVES {
        let said = fleet.start();
        assert_eq!(said.code, 0, "life {life}: {said:?}");
        assert!(said.stdout.ends_with("\nOrg: my-company-fleet (member)\n"), "{said:?}");
        addresses.insert(fleet.machine.address(WORKER));
        if life % 4 == 3 {
            fleet.kill();
        } else {
            fleet.machine.ok(&["daemon", "stop"]);
            assert_eq!(fleet.traces(), before, "life {life}");
        }
    }
    assert_eq!(addresses.len(), LIVES, "each is somebody else");
    // The last one was killed: whoever starts next in this home sees it out.
    let said = fleet.run(&fleet.at(&["daemon", "start"], "other"));
    assert_eq!(said.code, 0, "{said:?}");
    let after = (vec!["founder".to_owned()], 2, BTreeSet::from(["other".to_owned()]));
    eventually("the last one is seen out", || fleet.traces() == after);
}

#[test]
fn an_ephemeral_agent_in_the_foreground_is_gone_with_its_process() {
    let fleet = Fleet::new();
    let before = fleet.traces();
    let arguments = fleet.ephemeral(&["daemon", "run"]);
    let mut running =
        support::Running::start(fleet.machine.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
    fleet.wait_for_member();
    running.signal("TERM");
    assert_eq!(running.wait(), Some(0));
    assert_eq!(fleet.traces(), before);
}

#[test]
fn with_no_backbone_named_it_goes_to_the_one_of_who_invites_it_and_leaves_none_of_its_own() {
    let fleet = Fleet::new();
    let before = fleet.traces();
    let file = fleet.invite_file();
    let options = ["--hostname", WORKER, "--listen", "127.0.0.1:0", "--org", FLEET, "--ephemeral"];
    let words = |verb: &'static str, invite: &[&'static str]| [&["daemon", verb], &options[..], invite].concat();
    let by_file = |verb| [words(verb, &[]), vec!["--token-file", &file]].concat();
    let is_untouched = || fleet.traces() == before && !fleet.machine.path().join("backbone").exists();

    fleet.machine.ok(&by_file("start"));
    let backbone = fleet.machine.json(&["daemon", "status"])["backbone"].clone();
    assert_eq!((&backbone["ticket"], &backbone["registered"]), (&json!(fleet.ticket), &json!(true)), "{backbone}");
    fleet.machine.ok(&["daemon", "stop"]);
    assert!(is_untouched());

    let mut running = support::Running::start(fleet.machine.command(&by_file("run")));
    fleet.wait_for_member();
    running.signal("TERM");
    assert_eq!(running.wait(), Some(0));
    assert!(is_untouched());

    // A name says nothing of where somebody is.
    let named = fleet.machine.run(&words("start", &["--code", "founder/0000-0000"]));
    assert!(named.code == 2 && named.stderr.contains("--backbone TICKET"), "{named:?}");
    assert!(is_untouched());
}

#[test]
fn where_who_invites_it_has_no_backbone_it_has_none() {
    let [founder, machine] = [(); 2].map(|()| Home::new());
    founder.start("founder", &["--no-backbone", "--listen", "127.0.0.1:0"]);
    founder.ok(&["org", "create", FLEET]);
    let invite = founder.ok(&["org", "invite"]);
    let options = ["--listen", "127.0.0.1:0", "--org", FLEET, "--token", invite.trim(), "--ephemeral"];
    let said = machine.start(WORKER, &options);
    assert!(said.ends_with("\nOrg: my-company-fleet (member)\n"), "{said}");
    machine.ok(&["daemon", "stop"]);
    assert!(!machine.path().join("backbone").exists());
}

#[test]
fn with_nobody_there_to_say_goodbye_to_the_name_is_free_within_the_hour() {
    let fleet = Fleet::new();
    assert_eq!(fleet.start().code, 0);
    let status = fleet.machine.json(&["org", "list"]);
    let ends = status["orgs"][0]["expires_s"].as_u64().expect("it is a member");
    assert!((1..=3_600).contains(&ends), "{status}");
    fleet.founder.ok(&["daemon", "stop"]);
    fleet.backbone.ok(&["backbone", "stop"]);
    fleet.machine.ok(&["daemon", "stop"]);
    assert!(!fleet.machine.agent_path(WORKER, "").exists(), "also then it leaves no file");
}

#[test]
fn an_agent_that_is_kept_does_not_become_ephemeral_nor_the_other_way_round() {
    let fleet = Fleet::new();
    let start = fleet.at(&["daemon", "start"], WORKER);
    assert_eq!(fleet.run(&start).code, 0);
    let address = fleet.machine.address(WORKER);
    fleet.machine.ok(&["daemon", "stop"]);
    let said = fleet.start();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("is kept here") && said.stderr.contains("\nhint: "), "{said:?}");
    assert_eq!(fleet.run(&start).code, 0);
    assert_eq!(fleet.machine.address(WORKER), address, "its key is untouched");
    fleet.machine.ok(&["daemon", "stop"]);
    fs::remove_dir_all(fleet.machine.agent_path(WORKER, "")).expect("removed");
    fleet.founder.ok(&["daemon", "stop"]);
    fleet.backbone.ok(&["backbone", "stop"]);
    let alone = ["daemon", "start", "--hostname", WORKER, "--no-backbone", "--ephemeral"];
    fleet.machine.ok(&alone);
    let restart = fleet.machine.run(&["daemon", "restart"]);
    assert_eq!(restart.code, 1, "{restart:?}");
    assert!(restart.stderr.contains("is ephemeral"), "{restart:?}");
    fleet.kill();
    // A killed one is no reason for the next of its name to be ephemeral, too, and nothing of it is taken over.
    fleet.machine.ok(&["daemon", "start", "--hostname", WORKER, "--no-backbone"]);
    fleet.machine.ok(&["daemon", "stop"]);
    assert!(fleet.machine.agent_path(WORKER, "identity.pem").exists());
}

#[test]
fn a_start_that_fails_leaves_nothing_either() {
    let fleet = Fleet::new();
    let before = fleet.traces();
    let open = fleet.founder.json(&["org", "list"]);
    fleet.founder.ok(&["org", "uninvite", open["orgs"][0]["invites"][0]["id"].as_str().expect("a number")]);
    let refused = fleet.start();
    assert_eq!(refused.code, 5, "{refused:?}");
    assert_eq!(fleet.traces(), before);
    fs::write(fleet.invite_file(), "pilot-invite:my-company-fleet.AAAA").expect("written");
    let damaged = fleet.start();
    assert_eq!(damaged.code, 2, "{damaged:?}");
    assert_eq!(fleet.traces(), before);
}
