//! Organisations with real processes (spec/org.md, spec/rules.md): agents in homes of their own, so that nothing but an organisation makes
//! them trust each other.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use pilot_core::org::code::Code;
use pilot_core::org::invite::Invite;
use serde_json::json;
use support::{Home, Running, Said, eventually, finish, signal};

const FLEET: &str = "my-company-fleet";

/// Machines that share a backbone and nothing else.
struct Machines {
    backbone: Home,
    ticket: String,
}

/// A home with one agent in it.
struct Machine {
    home: Home,
    name: &'static str,
}

impl Machines {
    fn new() -> Self {
        let backbone = Home::new();
        let ticket = backbone.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]).trim().to_owned();
        Self { backbone, ticket }
    }

    fn stop_backbone(&self) {
        self.backbone.ok(&["backbone", "stop"]);
    }

    fn machine(&self, name: &'static str) -> Machine {
        self.machine_with(name, &[])
    }

    fn machine_with(&self, name: &'static str, options: &[&str]) -> Machine {
        let machine = Machine { home: Home::new(), name };
        let said = self.start(&machine, options);
        assert_eq!(said.code, 0, "{said:?}");
        machine
    }

    fn start(&self, machine: &Machine, options: &[&str]) -> Said {
        let always =
            ["daemon", "start", "--hostname", machine.name, "--backbone", &self.ticket, "--listen", "127.0.0.1:0"];
        machine.home.run(&[&always, options].concat())
    }

    /// The founder of a fleet, and its members `one` and `two`.
    fn fleet_of_three(&self) -> [Machine; 3] {
        let founder = self.founder();
        let invite = founder.invite(&["--uses", "2"]);
        let [one, two] = ["one", "two"].map(|name| self.member(name, &invite));
        [founder, one, two]
    }

    /// The founder of a fleet.
    fn founder(&self) -> Machine {
        let founder = self.machine("founder");
        founder.home.ok(&["org", "create", FLEET]);
        founder
    }

    /// An agent that is a member when its start has returned.
    fn member(&self, name: &'static str, invite: &str) -> Machine {
        let machine = Machine { home: Home::new(), name };
        let file = machine.home.path().join("invite");
        fs::write(&file, invite).expect("the invite is written");
        let said = self.start(&machine, &["--org", FLEET, "--token-file", file.to_str().expect("a path")]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stdout.ends_with(&format!("\nOrg: {FLEET} ({})\n", machine.role())), "{said:?}");
        fs::remove_file(file).expect("the invite is removed");
        machine
    }
}

impl Machine {
    fn invite(&self, options: &[&str]) -> String {
        self.home.ok(&[&["org", "invite"], options].concat()).trim().to_owned()
    }

    /// An invite that makes nobody a member any more.
    fn withdrawn_invite(&self) -> String {
        let invited = self.home.json(&["org", "invite"]);
        let [id, invite] = ["id", "invite"].map(|field| invited[field].as_str().expect("text"));
        self.home.ok(&["org", "uninvite", id]);
        invite.to_owned()
    }

    fn role(&self) -> String {
        self.home.json(&["org", "list"])["orgs"][0]["role"].as_str().expect("a role").to_owned()
    }

    fn members(&self) -> Vec<String> {
        let reply = self.home.json(&["org", "members", FLEET]);
        let members = reply["members"].as_array().expect("a list");
        members.iter().map(|member| member["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Whether there is a tunnel with another agent.
    fn is_connected(&self) -> bool {
        let reply = self.home.json(&["peers"]);
        let peers = reply["peers"].as_array().expect("a list");
        peers.iter().any(|peer| peer["connected"] == json!(true) && peer["backbone"] == json!(false))
    }

    fn answers(&self) -> Running {
        self.home.spawn(&["answer", "--", "cat"], &format!("answering 'query' as {}", self.name))
    }

    fn asks(&self, target: &str) -> Said {
        self.home.run(&["query", target, "hello", "--timeout", "20s"])
    }
}

#[track_caller]
fn is_answered(said: &Said) {
    assert_eq!((said.code, said.stdout.as_str()), (0, "hello"), "{said:?}");
}

fn in_fleet(name: &str) -> String {
    format!("{name}@{FLEET}")
}

#[test]
fn members_find_and_trust_each_other_with_backbone_and_founder_gone_and_trust_nobody_else() {
    let machines = Machines::new();
    let [founder, one, two] = machines.fleet_of_three();
    let stranger = machines.machine("stranger");
    let (_first, _second) = (one.answers(), two.answers());
    is_answered(&one.asks(&in_fleet("two")));
    is_answered(&two.asks("one"));
    assert_eq!(founder.members(), ["founder", "one", "two"]);
    let refused = stranger.asks("two");
    assert_eq!((refused.code, refused.stdout.as_str()), (5, ""), "{refused:?}");
    assert!(refused.stderr.contains("--allow public"), "{refused:?}");

    founder.home.ok(&["daemon", "stop"]);
    machines.stop_backbone();
    is_answered(&one.asks(&in_fleet("two")));
    // Also from nothing but what is on disk.
    one.home.run(&["daemon", "restart"]);
    is_answered(&one.asks(&in_fleet("two")));
    let unknown = one.asks(&in_fleet("three"));
    assert_eq!(unknown.code, 4, "{unknown:?}");
}

#[test]
fn who_is_revoked_is_refused_and_loses_its_tunnels_at_once() {
    let machines = Machines::new();
    let [founder, one, two] = machines.fleet_of_three();
    let _handler = two.answers();
    is_answered(&one.asks(&in_fleet("two")));
    founder.home.ok(&["org", "revoke", "one"]);
    eventually("the tunnel with the revoked member ends", || {
        let peers = two.home.json(&["peers"]);
        let peers = peers["peers"].as_array().expect("a list");
        peers.iter().filter(|peer| peer["connected"] == json!(true) && peer["backbone"] == json!(false)).count() <= 1
    });
    let refused = one.asks("two");
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(!two.members().contains(&"one".to_owned()));
    let status = one.home.json(&["org", "list"]);
    assert_eq!(status["orgs"][0]["expires_s"], json!(null), "{status}");
    assert_eq!(founder.home.run(&["org", "revoke", "one"]).code, 4, "it is a member no more");
}

#[test]
fn a_revocation_names_the_invite_that_is_still_open_and_one_made_after_it_lets_the_member_in_again() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&["--uses", "2"]);
    let [one, two] = ["one", "two"].map(|name| machines.member(name, &founder.invite(&["--uses", "9"])));
    machines.member("last", &invite);
    machines.member("next-to-last", &invite);
    assert_eq!(founder.home.json(&["org", "revoke", "last"])["invites"], json!([]), "it is used up");
    let id = founder.home.json(&["org", "list"])["orgs"][0]["invites"][0]["id"].as_str().expect("text").to_owned();
    let revoked = founder.home.run(&["org", "revoke", "one"]);
    let again = founder.invite(&[]);
    assert_eq!((revoked.code, &*revoked.stdout), (0, "one is no longer a member of my-company-fleet\n"), "{revoked:?}");
    let hint = format!("hint: take it back, too: pilotctl org uninvite {id}\n");
    assert!(revoked.stderr.starts_with("warning: ") && revoked.stderr.ends_with(&hint), "{revoked:?}");
    one.home.ok(&["org", "leave"]);
    one.home.ok(&["join", "--token", &again]);
    let _handler = two.answers();
    is_answered(&one.asks(&in_fleet("two")));
    founder.home.ok(&["org", "uninvite", &id]);
}

#[test]
fn a_revoked_member_that_nobody_was_there_to_be_told_of_is_refused_after_the_next_news() {
    let machines = Machines::new();
    let [founder, one, two] = machines.fleet_of_three();
    two.home.ok(&["daemon", "stop"]);
    founder.home.ok(&["org", "revoke", "one"]);
    two.home.ok(&["daemon", "restart", "--as", "two"]);
    let _handler = two.answers();
    eventually("the news arrive", || !two.members().contains(&"one".to_owned()));
    let refused = one.asks("two");
    assert_eq!(refused.code, 5, "{refused:?}");
}

#[test]
fn a_revoked_member_behind_another_backbone_node_is_out_where_ones_own_holds_the_list() {
    let (here, there) = (Machines::new(), Machines::new());
    let founder = here.founder();
    let invite = founder.invite(&["--uses", "2"]);
    let (two, mallory) = (here.member("two", &invite), there.member("mallory", &invite));
    let handler = two.answers();
    is_answered(&mallory.asks(&in_fleet("two")));
    drop(handler);
    two.home.ok(&["daemon", "stop"]);
    founder.home.ok(&["org", "revoke", "mallory"]);
    founder.home.ok(&["daemon", "stop"]);
    // Nobody is there who could tell it, but its backbone node.
    assert_eq!(here.start(&two, &[]).code, 0);
    let _handler = two.answers();
    eventually("the backbone tells", || !two.members().contains(&"mallory".to_owned()));
    let refused = mallory.asks(&in_fleet("two"));
    assert_eq!(refused.code, 5, "{refused:?}");
}

#[test]
fn the_tunnel_with_a_revoked_member_ends_when_the_backbone_that_holds_the_list_comes_back() {
    let (here, there) = (Machines::new(), Machines::new());
    let founder = here.founder();
    let invite = founder.invite(&["--uses", "2"]);
    let (two, mallory) = (here.member("two", &invite), there.member("mallory", &invite));
    let handler = two.answers();
    is_answered(&mallory.asks(&in_fleet("two")));
    drop(handler);
    for machine in [&two, &mallory] {
        machine.home.ok(&["daemon", "stop"]);
    }
    founder.home.ok(&["org", "revoke", "mallory"]);
    founder.home.ok(&["daemon", "stop"]);
    here.stop_backbone();
    // Neither of the two knows, and they trust each other.
    two.home.run(&["daemon", "restart", "--as", "two"]);
    assert_eq!(there.start(&mallory, &[]).code, 0);
    let _handler = two.answers();
    is_answered(&mallory.asks(&in_fleet("two")));
    assert!(two.is_connected());
    // The list is on the node's disk.
    here.backbone.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]);
    eventually("the tunnel ends", || !two.is_connected());
    assert_eq!(mallory.asks(&in_fleet("two")).code, 5);
}

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
fn an_invite_may_stand_in_the_environment_or_in_a_file_and_the_organisations_key_is_its_founders_alone() {
    let machines = Machines::new();
    let founder = machines.founder();
    let org = founder.home.agent_path(founder.name, "orgs").join(FLEET);
    for (path, expected) in [("key", 0o700), ("key/identity.pem", 0o600), ("successor/identity.pem", 0o600)] {
        let mode = fs::metadata(org.join(path)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, expected, "{path}");
    }

    let invite = founder.invite(&["--uses", "2"]);
    let file = founder.home.path().join("invite");
    fs::write(&file, &invite).expect("the invite is written");
    let file = file.to_str().expect("a path");
    for (name, variable, value) in [("one", "PILOT_TOKEN", invite.as_str()), ("two", "PILOT_TOKEN_FILE", file)] {
        let machine = machines.machine(name);
        let mut join = machine.home.command(&["join", "--org", FLEET]);
        join.env(variable, value);
        let joined = finish(join, b"");
        assert_eq!(joined.code, 0, "{joined:?}");
    }
    assert_eq!(founder.members(), ["founder", "one", "two"]);
}

#[test]
fn a_flag_beats_the_variables_of_an_invite_and_they_hinder_nobody_who_joins_nothing() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&["--uses", "2"]);
    let file = founder.home.path().join("invite");
    fs::write(&file, &invite).expect("the invite is written");
    let code = founder.invite(&["--code"]);
    let with_variables = |machine: &Machine, arguments: &[&str]| {
        let mut command = machine.home.command(arguments);
        command.env("PILOT_TOKEN", "x").env("PILOT_TOKEN_FILE", "/nonexistent");
        finish(command, b"")
    };
    let flags = [("--token-file", file.to_str().expect("a path")), ("--token", &*invite), ("--code", &*code)];
    for (name, (flag, value)) in ["one", "two", "three"].into_iter().zip(flags) {
        let machine = Machine { home: Home::new(), name };
        let options = ["--backbone", &machines.ticket, "--listen", "127.0.0.1:0"];
        let started = with_variables(&machine, &[&["daemon", "start", "--hostname", name], &options[..]].concat());
        assert_eq!(started.code, 0, "{started:?}");
        let joined = with_variables(&machine, &["join", "--org", FLEET, flag, value]);
        assert_eq!(joined.code, 0, "{flag}: {joined:?}");
        let first = with_variables(&machine, &["join", "--org", FLEET]);
        assert!(first.code == 2 && first.stderr.contains("an invite looks like"), "{first:?}");
        let both = with_variables(&machine, &["join", "--token", "x", flag, value]);
        assert_eq!(both.code, 2, "{flag}: {both:?}");
    }
    assert_eq!(founder.members(), ["founder", "one", "three", "two"]);
    let unsaid = with_variables(&founder, &["daemon", "start", "--hostname", "more", "--token", &invite]);
    assert!(unsaid.code == 2 && unsaid.stderr.contains("--org ORG"), "{unsaid:?}");
}

#[test]
fn an_invite_that_was_taken_back_makes_nobody_a_member_also_while_somebody_joins() {
    let machines = Machines::new();
    let founder = machines.founder();
    let (one, two) = (machines.machine("one"), machines.machine("two"));
    let invited = founder.home.json(&["org", "invite", "--uses", "9"]);
    let [id, invite] = ["id", "invite"].map(|field| invited[field].as_str().expect("text").to_owned());
    assert!(founder.home.ok(&["org", "list"]).contains(&id));
    let (joined, taken_back) = thread::scope(|scope| {
        let joining = scope.spawn(|| one.home.run(&["join", "--token", &invite]));
        let taken_back = founder.home.run(&["org", "uninvite", &id]);
        (joining.join().expect("joined"), taken_back)
    });
    assert_eq!(taken_back.code, 0, "{taken_back:?}");
    assert!([0, 5].contains(&joined.code), "{joined:?}");
    assert_eq!(founder.members().contains(&"one".to_owned()), joined.code == 0, "it is a member or it is none");
    let late = two.home.run(&["join", "--token", &invite]);
    assert!(late.code == 5 && late.stderr.contains("taken back"), "{late:?}");
    assert!(!founder.home.ok(&["org", "list"]).contains(&id));
    for unknown in [id.as_str(), "hello", ""] {
        let again = founder.home.run(&["org", "uninvite", unknown]);
        assert!(again.code == 4 && again.stderr.contains("pilotctl org list"), "{again:?}");
    }
}

#[test]
fn invites_and_memberships_last_no_longer_than_they_may() {
    let machines = Machines::new();
    let founder = machines.founder();
    for (option, time, what) in [
        ("--expires", "91d", "up to 90 days"),
        ("--expires", "0s", "between 1s and 400d"),
        ("--membership", "401d", "between 1s and 400d"),
    ] {
        let said = founder.home.run(&["org", "invite", option, time]);
        assert!(said.code == 2 && said.stderr.contains(what) && said.stderr.contains("\nhint: "), "{said:?}");
    }
    founder.invite(&["--expires", "90d", "--membership", "400d"]);
}

#[test]
fn an_invite_that_no_file_takes_is_named_with_what_takes_it_back() {
    let machines = Machines::new();
    let founder = machines.founder();
    for org in [&[][..], &[FLEET]] {
        let unwritten = founder.home.run(&[&["org", "invite", "--file", "/nonexistent/invite"], org].concat());
        assert!(unwritten.code == 1 && unwritten.stderr.starts_with("error: cannot write "), "{unwritten:?}");
        let (_, command) = unwritten.stderr.trim().rsplit_once("pilotctl ").expect("a command");
        founder.home.ok(&command.split(' ').collect::<Vec<_>>());
        assert!(are_open(&founder, 0));
    }
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
fn an_invite_is_used_as_often_as_it_says_also_by_two_at_once_and_over_a_killed_issuer() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&[]);
    let (one, two) = (machines.machine("one"), machines.machine("two"));
    let join = |machine: &Machine| machine.home.run(&["join", "--org", FLEET, "--token", &invite]);
    let codes = thread::scope(|scope| {
        let attempts = [scope.spawn(|| join(&one)), scope.spawn(|| join(&two))];
        attempts.map(|attempt| attempt.join().expect("joined").code)
    });
    assert!(codes == [0, 5] || codes == [5, 0], "{codes:?}");
    let late = if codes[0] == 0 { &two } else { &one };
    let status = founder.home.json(&["daemon", "status"]);
    signal(u32::try_from(status["pid"].as_u64().expect("a pid")).expect("a pid"), "KILL");
    eventually("the issuer is gone", || founder.home.run(&["daemon", "status"]).code == 3);
    let away = late.home.run(&["join", "--token", &invite]);
    assert_eq!(away.code, 7, "{away:?}");
    assert!(away.stderr.contains("must run while you join"), "{away:?}");
    assert_eq!(machines.start(&founder, &[]).code, 0);
    let used_up = join(late);
    assert_eq!(used_up.code, 5, "{used_up:?}");
    assert!(used_up.stderr.contains("used up") && used_up.stderr.contains("\nhint: ask who made it"), "{used_up:?}");
    let late = Machine { home: Home::new(), name: "late" };
    assert_eq!(machines.start(&late, &["--org", FLEET, "--token", &invite]).code, 5);
    assert!(!late.home.agent_path("late", "identity.pem").exists(), "it was made for nothing");
    let prepared = Machine { home: Home::new(), name: "prepared" };
    let rules = prepared.home.agent_path("prepared", "rules.toml");
    fs::create_dir_all(rules.parent().expect("a directory")).expect("a directory");
    fs::write(&rules, "# mine\n").expect("written");
    assert_eq!(machines.start(&prepared, &["--org", FLEET, "--token", &invite]).code, 5);
    assert!(rules.exists(), "what was there before stays");
    assert_eq!(machines.start(&Machine { home: Home::new(), name: "late" }, &[]).code, 0, "its name is free");
}

#[test]
fn what_is_no_invite_for_this_is_refused_with_what_is_wrong() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&[]);
    let one = machines.machine("one");
    let join = |arguments: &[&str]| one.home.run(&[&["join"], arguments].concat());
    let errors = [
        (vec!["--token", &invite[..invite.len() - 3]], "part of it is missing"),
        (vec!["--token", "hello"], "an invite looks like"),
        (vec!["--org", "another-fleet", "--token", &invite], "not for 'another-fleet'"),
        (vec!["--org", FLEET], "there is no invite"),
        (vec!["--token-file", "/nonexistent"], "cannot read the invite"),
    ];
    for (arguments, what) in errors {
        let said = join(&arguments);
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.stderr.contains(what) && said.stderr.contains("\nhint: "), "{said:?}");
    }
    let taken = join(&["--token", &invite, "--name", "founder"]);
    assert!(taken.code == 5 && taken.stderr.contains("\nhint: take another name"), "{taken:?}");
    assert_eq!(join(&["--token", &invite]).code, 0, "none of that has used it up");
    assert_eq!(join(&["--token", &invite]).code, 1, "it is a member already");
    let mut relabelled = founder.invite(&[]).parse::<Invite>().expect("an invite");
    relabelled.name = "hobby".to_owned();
    let already = join(&["--token", &relabelled.to_string(), "--name", "oops"]);
    assert!(already.code == 1 && already.stderr.contains("it is called 'my-company-fleet'"), "{already:?}");
    assert_eq!(founder.members(), ["founder", "one"], "its word for another name was not given");
    let two = Machine { home: Home::new(), name: "two" };
    let of_another = ["--org", "another-fleet", "--token", &invite];
    for wrong in [&["--org", FLEET][..], &["--org", FLEET, "--token", "hello"], &["--token", &invite], &of_another] {
        assert_eq!(machines.start(&two, wrong).code, 2);
    }
    assert!(!two.home.agent_path("two", "identity.pem").exists(), "no agent was made for nothing");
}

#[test]
fn a_code_read_aloud_makes_one_member_and_a_mistyped_one_costs_nothing() {
    let machines = Machines::new();
    let founder = machines.founder();
    let [one, two] = ["one", "two"].map(|name| machines.machine(name));
    let code = founder.invite(&["--code", "--role", "guest"]);
    let (name, word) = code.split_once('/').expect("a name and a word");
    assert_eq!((name, word.len()), ("founder", 9), "{code}");
    let join = |machine: &Machine, code: &str| machine.home.run(&["join", "--org", FLEET, "--code", code]);

    let swapped: String = word.chars().map(|symbol| if symbol == 'A' { 'B' } else { 'A' }).collect();
    let shorter = &code[..code.len() - 1];
    for mistyped in [shorter, &format!("founder/{swapped}")] {
        let said = join(&one, mistyped);
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.stderr.contains("mistyped") && said.stderr.contains("no try is used up"), "{said:?}");
    }
    let elsewhere = join(&one, &format!("two/{word}"));
    assert_eq!(elsewhere.code, 5, "{elsewhere:?}");
    let open = founder.home.json(&["org", "list"]);
    assert_eq!(open["orgs"][0]["invites"][0]["tries_left"], json!(3), "{open}");
    assert!(!open.to_string().contains(word), "it is shown once");

    let joined = join(&one, &code.to_lowercase().replace('-', ""));
    assert_eq!((joined.code, joined.stdout.as_str()), (0, "Org: my-company-fleet\nRole: guest\nMembers: 2\n"));
    let used_up = join(&two, &code);
    assert_eq!(used_up.code, 5, "{used_up:?}");
    assert!(used_up.stderr.contains("wrong or used up\nhint: "), "{used_up:?}");
}

#[test]
fn a_code_that_was_guessed_at_is_open_no_more() {
    let machines = Machines::new();
    let founder = machines.founder();
    let mallory = machines.machine("mallory");
    let code = founder.invite(&["--code"]);
    let open = || founder.home.json(&["org", "list"])["orgs"][0]["invites"].as_array().map(Vec::len);
    for _ in 0..3 {
        assert_eq!(open(), Some(1));
        let guess = guess_beside(&code);
        assert_eq!(mallory.home.run(&["join", "--code", &guess]).code, 5);
    }
    assert_eq!(open(), Some(0));
}

/// Another word of the same number, well formed.
fn guess_beside(code: &str) -> String {
    const ALPHABET: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let (issuer, word) = code.split_once('/').expect("a name and a word");
    let symbols: Vec<_> = word.chars().filter(|symbol| *symbol != '-').collect();
    let changed = |place: usize| ALPHABET.chars().find(|symbol| *symbol != symbols[place]).expect("another");
    // Of all words that differ in the second symbol, the one that the check symbol fits.
    let words = ALPHABET.chars().map(|check| {
        let mut word = symbols.clone();
        (word[1], word[7]) = (changed(1), check);
        word.into_iter().collect::<String>()
    });
    let mut fitting = words.filter(|word| format!("{issuer}/{word}").parse::<Code>().is_ok());
    format!("{issuer}/{}", fitting.next().expect("one of them"))
}

#[test]
fn a_member_that_may_enrol_does_within_its_rights_while_the_founder_is_away() {
    let machines = Machines::new();
    let founder = machines.founder();
    let lead = machines.member(
        "lead",
        &founder.invite(&["--may-enrol", "1", "--groups", "research", "--role", "lead", "--services", "query"]),
    );
    let two = machines.member("two", &founder.invite(&[]));
    let _handler = two.answers();
    founder.home.ok(&["daemon", "stop"]);
    for beyond in [["--groups", "finance"], ["--role", "admin"], ["--services", "mcp"], ["--may-enrol", "1"]] {
        let said = lead.home.run(&[&["org", "invite", "--services", "query"], beyond.as_slice()].concat());
        assert_eq!(said.code, 5, "{beyond:?}: {said:?}");
    }
    assert_eq!(lead.home.run(&["org", "invite"]).code, 5, "all services are more than it has");
    let worker = machines.member("worker", &lead.invite(&["--services", "query", "--groups", "research"]));
    is_answered(&worker.asks(&in_fleet("two")));
    assert_eq!(worker.home.run(&["org", "invite"]).code, 5, "it enrols nobody");
    let not_named = worker.home.run(&["connect", &in_fleet("two"), "--message", "x"]);
    assert_eq!(not_named.code, 5, "{not_named:?}");
    lead.home.ok(&["org", "revoke", "worker"]);
    eventually("the worker is out", || worker.asks("two").code == 5);
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
fn where_old_revocation_lists_block_nobody_is_trusted_without_a_new_one() {
    let machines = Machines::new();
    let founder = machines.machine("founder");
    founder.home.ok(&["org", "create", FLEET, "--list-age", "3s"]);
    let invite = founder.invite(&["--uses", "2"]);
    let (one, two) = (machines.member("one", &invite), machines.member("two", &invite));
    let _handler = two.answers();
    founder.home.ok(&["daemon", "stop"]);
    eventually("the lists get too old", || one.asks("two").code == 5);
    let why = two.home.ok(&["why", "one", "query"]);
    assert!(why.starts_with("refused: "), "{why}");
}

#[test]
fn lists_that_are_too_old_soon_are_signed_anew_in_time_where_the_founder_runs() {
    let machines = Machines::new();
    let founder = machines.machine("founder");
    founder.home.ok(&["org", "create", FLEET, "--list-age", "8s"]);
    let invite = founder.invite(&["--uses", "2"]);
    let (one, two) = (machines.member("one", &invite), machines.member("two", &invite));
    let _handler = two.answers();
    // The first list is too old by then.
    thread::sleep(Duration::from_secs(10));
    eventually("there is a newer one", || one.asks("two").code == 0);
}

#[test]
fn whoever_gets_the_files_of_an_organisation_is_heard_by_its_members_also_without_a_backbone() {
    let machines = Machines::new();
    let [founder, one, two] = machines.fleet_of_three();
    let desk = Machine { home: founder.home, name: "desk" };
    assert_eq!(machines.start(&desk, &[]).code, 0);
    ["founder", "desk"].iter().for_each(|name| drop(desk.home.ok(&["daemon", "stop", "--as", name])));
    let [from, to] = ["founder", "desk"].map(|name| desk.home.agent_path(name, "orgs"));
    fs::create_dir_all(&to).expect("a directory");
    fs::rename(from.join(FLEET), to.join(FLEET)).expect("moved");
    fs::remove_dir_all(desk.home.agent_path("founder", "")).expect("removed");
    let _handler = one.answers();
    is_answered(&two.asks(&in_fleet("one")));
    machines.stop_backbone();
    desk.home.ok(&["daemon", "start", "--hostname", "desk", "--no-backbone", "--listen", "127.0.0.1:0"]);
    assert_eq!(desk.role(), "admin");
    desk.home.ok(&["org", "revoke", "two"]);
    eventually("one has heard of it", || !one.members().contains(&"two".to_owned()));
}

#[test]
fn whom_a_delegate_has_enrolled_a_moment_ago_the_founder_can_revoke() {
    let machines = Machines::new();
    let founder = machines.founder();
    let lead = machines.member("lead", &founder.invite(&["--may-enrol", "1"]));
    let invite = lead.invite(&[]);
    let pid = founder.home.pid("founder");
    signal(pid, "STOP");
    let by = machines.member("by", &invite);
    signal(by.home.pid("by"), "KILL");
    signal(pid, "CONT");
    eventually("the founder asks who that is", || founder.home.run(&["org", "revoke", "by"]).code == 0);
    assert_eq!(lead.members(), ["founder", "lead"]);
}

#[test]
fn who_leaves_is_a_member_no_more_and_its_name_is_free() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&["--uses", "2"]);
    let one = machines.member("one", &invite);
    one.home.ok(&["org", "leave"]);
    assert_eq!(founder.members(), ["founder"]);
    assert_eq!(one.home.json(&["org", "list"]), json!({ "orgs": [] }));
    let two = machines.machine("two");
    two.home.ok(&["join", "--token", &invite, "--name", "one"]);
    assert_eq!(founder.members(), ["founder", "one"]);
}

#[test]
fn a_membership_that_nobody_has_seen_off_ends_with_its_time_where_its_issuer_runs() {
    let machines = Machines::new();
    let founder = machines.founder();
    let one = machines.member("one", &founder.invite(&["--membership", "2s"]));
    signal(one.home.pid("one"), "KILL");
    let ends_in = || founder.home.json(&["org", "members"])["members"][1]["expires_s"].clone();
    eventually("its time is over", || ends_in() == json!(0));
    assert_eq!(founder.members(), ["founder", "one"], "clocks may be wrong");
    // It looks when it starts, and every few minutes.
    founder.home.ok(&["daemon", "restart"]);
    eventually("its issuer says so", || founder.members() == ["founder"]);
    machines.member("two", &founder.invite(&[])).home.ok(&["org", "leave"]);
}

#[test]
fn a_delegate_leaves_those_whom_it_has_enrolled_without_a_membership_only_if_it_insists() {
    let machines = Machines::new();
    let founder = machines.founder();
    let lead = machines.member("lead", &founder.invite(&["--may-enrol", "1"]));
    let invite = lead.invite(&["--uses", "9"]);
    let workers = ["a", "b"].map(|name| machines.member(name, &invite));
    let refused = lead.home.run(&["org", "leave"]);
    assert!(refused.code == 5 && refused.stderr.contains("out when it leaves: a, b\nhint: "), "{refused:?}");
    assert!(refused.stderr.ends_with("pilotctl org leave my-company-fleet --force\n"), "{refused:?}");
    assert_eq!(founder.members(), ["a", "b", "founder", "lead"], "nothing has happened");
    lead.home.ok(&["org", "leave", "--force"]);
    assert_eq!(founder.members(), ["founder"]);
    drop(workers);
    // Of nobody that it knows it asks nothing.
    let other = machines.member("other", &founder.invite(&["--may-enrol", "1"]));
    other.home.ok(&["org", "leave"]);
}

#[test]
fn who_leaves_while_the_founder_is_off_and_joins_by_a_delegate_is_a_member_by_that_one_when_the_founder_is_back() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&["--uses", "2", "--may-enrol", "1"]);
    let (lead, other) = (machines.member("lead", &invite), machines.member("other", &invite));
    let worker = machines.member("worker", &founder.invite(&[]));
    eventually("the lead knows the worker", || lead.members().len() == 4);
    founder.home.ok(&["daemon", "stop"]);
    worker.home.ok(&["org", "leave"]);
    worker.home.ok(&["join", "--token", &lead.invite(&[]), "--name", "elsewhere"]);
    assert_eq!(machines.start(&founder, &[]).code, 0);
    let _handler = worker.answers();
    for machine in [&founder, &other, &lead, &worker] {
        eventually("all know who it is", || machine.members() == ["elsewhere", "founder", "lead", "other"]);
    }
    is_answered(&founder.asks(&in_fleet("elsewhere")));
    assert_eq!(founder.asks(&in_fleet("worker")).code, 4);
    // And it is the delegate's from then on.
    lead.home.ok(&["org", "revoke", "elsewhere"]);
    for machine in [&founder, &other] {
        eventually("it is out", || machine.members() == ["founder", "lead", "other"]);
    }
}

#[test]
fn delegates_and_founder_who_enrol_and_revoke_at_once_lose_nobody() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&["--uses", "2", "--may-enrol", "1"]);
    let leads = ["lead-a", "lead-b"].map(|name| machines.member(name, &invite));
    let admins = [&founder, &leads[0], &leads[1]];
    let at_once = |names: [&'static [&'static str]; 3]| {
        thread::scope(|scope| {
            let enrolling = admins.into_iter().zip(names).map(|(admin, names)| {
                scope.spawn(|| {
                    let invite = admin.invite(&["--uses", "2"]);
                    names.iter().map(|name| machines.member(name, &invite)).collect::<Vec<_>>()
                })
            });
            let enrolling: Vec<_> = enrolling.collect();
            enrolling.into_iter().flat_map(|enrolled| enrolled.join().expect("enrolled")).collect::<Vec<_>>()
        })
    };
    let first = at_once([&["f-out", "f-one"], &["a-out", "a-one"], &["b-out", "b-one"]]);
    for admin in admins {
        eventually("everybody is known", || admin.members().len() == 9);
    }

    let second = thread::scope(|scope| {
        let revoking = admins.into_iter().zip(["f-out", "a-out", "b-out"]);
        let revoking: Vec<_> =
            revoking.map(|(admin, name)| scope.spawn(|| admin.home.run(&["org", "revoke", name]))).collect();
        let second = at_once([&["f-two"], &["a-two"], &["b-two"]]);
        revoking.into_iter().for_each(|revoked| assert_eq!(revoked.join().expect("revoked").code, 0));
        second
    });
    let expected = ["a-one", "a-two", "b-one", "b-two", "f-one", "f-two", "founder", "lead-a", "lead-b"];
    let stay = first.iter().chain(&second).filter(|machine| !machine.name.ends_with("-out"));
    for machine in admins.into_iter().chain(stay) {
        eventually("nobody is lost, and nobody stays", || machine.members() == expected);
    }
}

#[test]
fn namesakes_whom_two_delegates_have_enrolled_apart_are_told_until_one_is_out() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&["--uses", "2", "--may-enrol", "1"]);
    let leads = ["lead-a", "lead-b"].map(|name| machines.member(name, &invite));
    leads.iter().for_each(|lead| drop(lead.home.ok(&["daemon", "stop"])));
    founder.home.ok(&["daemon", "stop"]);
    let twins = ["twin-a", "twin-b"].map(|name| machines.machine(name));
    for (lead, twin) in leads.iter().zip(&twins) {
        assert_eq!(machines.start(lead, &[]).code, 0);
        twin.home.ok(&["join", "--token", &lead.invite(&[]), "--name", "twin"]);
        [lead, twin].into_iter().for_each(|machine| drop(machine.home.ok(&["daemon", "stop"])));
    }
    for machine in [&founder, &leads[0], &leads[1], &twins[0], &twins[1]] {
        assert_eq!(machines.start(machine, &[]).code, 0);
    }
    eventually("both are known", || founder.members() == ["founder", "lead-a", "lead-b", "twin", "twin"]);
    let nobody = founder.asks(&in_fleet("twin"));
    assert!(nobody.code == 4 && nobody.stderr.contains("has several members 'twin'"), "{nobody:?}");
    founder.home.ok(&["org", "revoke", &twins[1].home.address("twin-b")]);
    let _handler = twins[0].answers();
    eventually("it is the other one's", || founder.asks(&in_fleet("twin")).code == 0);
}

#[test]
fn rules_decide_who_may_call_what_and_why_says_so() {
    let machines = Machines::new();
    let founder = machines.founder();
    let lead = machines.member("lead", &founder.invite(&["--role", "lead"]));
    let worker = machines.member("worker", &founder.invite(&["--groups", "research"]));
    let stranger = machines.machine("stranger");
    let _handler = founder.answers();
    let rules = |arguments: &[&str]| founder.home.ok(arguments);
    let codes = || [lead.asks("founder").code, worker.asks("founder").code, stranger.asks("founder").code];
    assert_eq!(codes(), [0, 0, 5]);

    rules(&["allow", "query", &format!("role:lead@{FLEET}")]);
    assert_eq!(codes(), [0, 5, 5]);
    assert!(rules(&["why", "worker", "query"]).starts_with("refused: no rule for 'query' names it"));
    rules(&["allow", "query", "stranger"]);
    assert_eq!(codes(), [0, 5, 0]);
    assert!(rules(&["why", "stranger", "query"]).starts_with("allowed: the rule 'query agent:"));
    rules(&["deny", "*", "stranger"]);
    assert_eq!(codes(), [0, 5, 5]);
    for (who, what) in [("stranger", "keeps it out"), ("org:another-fleet", "in no organisation 'another-fleet'")] {
        let allowed = founder.home.run(&["allow", "query", who]);
        assert!(allowed.code == 0 && allowed.stderr.contains(what), "{allowed:?}");
    }
    rules(&["allow", "query", "org:another-fleet", "--remove"]);
    let list = founder.home.json(&["rules"]);
    assert_eq!(list["rules"].as_array().map(Vec::len), Some(3), "{list}");
    rules(&["deny", "*", "stranger", "--remove"]);
    assert_eq!(codes(), [0, 5, 0]);
    // By whatever name the service goes.
    assert!(rules(&["deny", "0100", "stranger"]).starts_with("deny query "));
    assert_eq!(codes(), [0, 5, 5]);
    rules(&["deny", "100", "stranger", "--remove"]);
    for (service, why) in
        [("echo", "allowed: echo has no rules"), ("55", "allowed: organisations' calls have no rules")]
    {
        for verb in ["deny", "allow"] {
            let refused = founder.home.run(&[verb, service, "public"]);
            assert!(
                refused.code == 2 && refused.stderr.contains("no rules"),
                "it would say what is not so: {refused:?}"
            );
        }
        assert!(rules(&["why", "stranger", service]).starts_with(why));
    }
    rules(&["allow", "query", "public"]);
    assert_eq!(codes(), [0, 0, 0]);
    let missing = founder.home.run(&["deny", "mcp", "public", "--remove"]);
    assert_eq!(missing.code, 4, "{missing:?}");
}

#[test]
fn an_error_in_the_rules_is_named_with_its_place_and_the_rules_before_stay() {
    let machines = Machines::new();
    let (one, two) = (machines.machine("one"), machines.machine("two"));
    let _handler = two.answers();
    two.home.ok(&["allow", "query", "public"]);
    is_answered(&one.asks("two"));
    let file = two.home.agent_path("two", "rules.toml");
    let before = fs::read_to_string(&file).expect("rules");
    fs::write(&file, format!("{before}\n[[deny]]\nservice = \"query\"\nfrom = \"everybody\"\n")).expect("written");
    is_answered(&one.asks("two"));
    let said = two.home.run(&["rules"]);
    assert!(said.stderr.contains("line 7, column 8: 'everybody' names nobody"), "{said:?}");
    let status = two.home.ok(&["daemon", "status"]);
    assert!(status.contains("line 7, column 8: 'everybody' names nobody"), "{status}");
    let edit = two.home.run(&["deny", "query", "one"]);
    assert_eq!(edit.code, 1, "an edit loses nothing that a person has written: {edit:?}");
    let restart = two.home.run(&["daemon", "restart", "--as", "two"]);
    assert!(restart.code == 1 && restart.stderr.contains("line 7, column 8"), "{restart:?}");
    is_answered(&one.asks("two"));
    two.home.ok(&["daemon", "stop"]);
    let start = machines.start(&two, &[]);
    assert!(start.code == 1 && start.stderr.contains("line 7, column 8"), "{start:?}");
    assert!(start.stderr.contains("`pilotctl man rules` tells what it may say"), "{start:?}");
    let page = two.home.ok(&["man", "rules"]);
    assert!(
        ["[[allow]]", "[[deny]]", "service", "from", "ORG", "agent:KEY"].iter().all(|word| page.contains(word)),
        "{page}"
    );
    fs::write(&file, before).expect("written");
    assert_eq!(machines.start(&two, &[]).code, 0);
}

#[test]
fn with_a_damaged_file_of_an_organisation_nothing_is_stopped_or_made() {
    let machines = Machines::new();
    let founder = machines.founder();
    let pid = founder.home.pid("founder");
    let state = founder.home.agent_path("founder", "orgs").join(FLEET).join("state");
    let before = fs::read(&state).expect("a file");
    let mut damaged = before.clone();
    damaged[40] ^= 1;
    fs::write(&state, &damaged).expect("written");
    let restart = founder.home.run(&["daemon", "restart"]);
    let is_named = |said: &Said| said.code == 1 && said.stderr.contains("state is damaged: ");
    assert!(is_named(&restart) && restart.stderr.contains("\nhint: restore it"), "{restart:?}");
    assert_eq!(founder.home.pid("founder"), pid, "it runs on");
    founder.home.ok(&["daemon", "stop"]);
    fs::write(&state, &damaged).expect("written");
    let files = ["config.toml", "log"].map(|name| founder.home.agent_path("founder", name));
    let read = || files.clone().map(|file| fs::read(file).expect("a file"));
    let kept = read();
    for verb in ["start", "run"] {
        let refused = founder.home.run(&[
            "daemon",
            verb,
            "--hostname",
            "founder",
            "--tags",
            "other",
            "--backbone",
            &machines.ticket,
        ]);
        assert!(is_named(&refused), "{refused:?}");
        assert!(read() == kept, "{verb}: nothing was begun");
    }
    fs::write(&state, before).expect("written");
    assert_eq!(machines.start(&founder, &[]).code, 0);
    assert_eq!(founder.members(), ["founder"]);
}

// --- An agent that was to join --------------------------------------------------------------------------------------------------------------

/// What somebody who started an agent in vain must not find: its files, and its name in the directory.
#[track_caller]
fn is_nothing_left(machines: &Machines, machine: &Machine) {
    assert!(!machine.home.agent_path(machine.name, "").exists(), "files of it stay");
    let namesake = machines.machine(machine.name);
    assert_eq!(
        namesake.home.json(&["daemon", "status"])["backbone"]["registered"],
        json!(true),
        "its name stays taken"
    );
}

/// An agent that waits for the answer of a founder that is stopped.
fn joining(machines: &Machines, founder: &Machine, verb: &str, name: &'static str) -> (Machine, Running) {
    let invite = founder.invite(&[]);
    signal(founder.home.pid(founder.name), "STOP");
    let machine = Machine { home: Home::new(), name };
    let options = ["--hostname", name, "--backbone", &machines.ticket, "--listen", "127.0.0.1:0"];
    let command =
        machine.home.command(&[&["daemon", verb], &options[..], &["--org", FLEET, "--token", &invite]].concat());
    let running = Running::start(command);
    // What follows the registration is the call to the founder.
    eventually("it is registered", || machines.backbone.json(&["backbone", "status"])["agents"] == json!(2));
    (machine, running)
}

#[test]
fn who_was_revoked_starts_as_a_member_by_a_new_invite_and_does_not_run_without() {
    let machines = Machines::new();
    let founder = machines.founder();
    let one = machines.member("one", &founder.invite(&[]));
    let file = one.home.path().join("invite");
    let by_file = ["--org", FLEET, "--token-file", file.to_str().expect("a path")];
    let is_off = || one.home.run(&["info"]).code == 3;
    for is_told in [true, false] {
        if is_told {
            founder.home.ok(&["org", "revoke", "one"]);
            eventually("it is told", || one.role().starts_with("none"));
            one.home.ok(&["daemon", "stop"]);
            let without = machines.start(&one, &["--org", FLEET]);
            assert!(without.code == 2 && without.stderr.contains("was revoked or has expired"), "{without:?}");
            fs::write(&file, founder.withdrawn_invite()).expect("written");
            let refused = machines.start(&one, &by_file);
            assert!(refused.code == 5 && refused.stderr.contains("taken back"), "{refused:?}");
            assert!(is_off(), "it does not run outside of the organisation");
        } else {
            one.home.ok(&["daemon", "stop"]);
            founder.home.ok(&["org", "revoke", "one"]);
        }
        fs::write(&file, founder.invite(&[])).expect("written");
        let again = machines.start(&one, &by_file);
        assert!(again.code == 0 && again.stdout.ends_with("\nOrg: my-company-fleet (member)\n"), "{again:?}");
        assert_eq!(founder.members(), ["founder", "one"]);
        assert!(are_open(&founder, 0), "the invite is used");
    }
    // Who is a member uses none.
    one.home.ok(&["daemon", "stop"]);
    fs::write(&file, founder.invite(&[])).expect("written");
    assert_eq!(machines.start(&one, &by_file).code, 0);
    assert!(are_open(&founder, 1));
    founder.home.ok(&["org", "revoke", "one"]);
    eventually("it is told", || one.role().starts_with("none"));
    one.home.ok(&["daemon", "stop"]);
    let run = ["daemon", "run", "--hostname", "one", "--backbone", &machines.ticket, "--listen", "127.0.0.1:0"];
    let refused = one.home.run(&[&run[..], &by_file].concat());
    assert!(refused.code == 5 && refused.stderr.contains("revoked"), "{refused:?}");
    fs::write(&file, founder.invite(&[])).expect("written");
    let _running = one.home.spawn(&[&run[..], &by_file].concat(), "Org: my-company-fleet (member)");
    assert_eq!(founder.members(), ["founder", "one"]);
}

/// Whether so many invites are open.
fn are_open(founder: &Machine, count: usize) -> bool {
    founder.home.json(&["org", "list"])["orgs"][0]["invites"].as_array().map(Vec::len) == Some(count)
}

#[test]
fn an_agent_in_the_foreground_that_cannot_join_leaves_nothing() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.withdrawn_invite();
    let machine = Machine { home: Home::new(), name: "one" };
    let always =
        ["daemon", "run", "--hostname", machine.name, "--backbone", &machines.ticket, "--listen", "127.0.0.1:0"];
    let refused = machine.home.run(&[&always[..], &["--org", FLEET, "--token", &invite]].concat());
    assert_eq!(refused.code, 5, "{refused:?}");
    is_nothing_left(&machines, &machine);
}

#[test]
fn an_agent_that_is_told_to_end_while_it_joins_leaves_nothing() {
    for (verb, told, code) in [("start", "INT", 130), ("start", "TERM", 130), ("start", "HUP", 130), ("run", "TERM", 0)]
    {
        let machines = Machines::new();
        let founder = machines.founder();
        let pid = founder.home.pid(founder.name);
        let (machine, mut running) = joining(&machines, &founder, verb, "one");
        running.signal(told);
        assert_eq!(running.wait(), Some(code), "{verb} {told}: {:?}", running.rest());
        signal(pid, "CONT");
        is_nothing_left(&machines, &machine);
        assert_eq!(founder.members(), ["founder"]);
    }
}

#[test]
fn what_a_killed_start_has_begun_goes_on_with_the_same_key() {
    for goes_on_by in ["join", "start"] {
        let machines = Machines::new();
        let founder = machines.founder();
        let invite = founder.invite(&["--uses", "2"]);
        let pid = founder.home.pid(founder.name);
        let (machine, mut running) = joining(&machines, &founder, "start", "one");
        running.signal("KILL");
        running.wait();
        let address = machine.home.address("one");
        let membership = ["--org", FLEET, "--token", &invite];
        let named = machines.start(&machine, &membership);
        assert!(named.code == 1 && named.stderr.contains("'one' is already running (pid "), "{named:?}");
        let hint = "\nhint: have it join: `pilotctl join --as one --org my-company-fleet` with the invite";
        assert!(named.stderr.contains(hint), "{named:?}");
        signal(pid, "CONT");
        if goes_on_by == "join" {
            // Its own call may have been answered meanwhile.
            let joined = machine.home.run(&[&["join"], &membership[..]].concat());
            assert!(joined.code == 0 || machine.members().len() == 2, "{joined:?}");
        } else {
            machine.home.ok(&["daemon", "stop"]);
            assert_eq!(machines.start(&machine, &membership).code, 0);
        }
        assert_eq!((founder.members(), machine.home.address("one")), (vec!["founder".into(), "one".into()], address));
        let again = machines.start(&machine, &membership);
        assert!(again.code == 1 && again.stderr.contains("hint: `pilotctl daemon stop"), "it is a member: {again:?}");
    }
}

#[test]
fn a_start_that_cannot_join_leaves_an_agent_that_was_there_as_it_was() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.withdrawn_invite();
    let machine = machines.machine_with("one", &["--tags", "before"]);
    let address = machine.home.address("one");
    machine.home.ok(&["daemon", "stop"]);
    let read = |file: &str| fs::read_to_string(machine.home.agent_path("one", file)).expect("a file");
    let files = ["config.toml", "start.json"];
    let before = files.map(read);
    let refused = machines.start(&machine, &["--tags", "after", "--groups", "ops", "--org", FLEET, "--token", &invite]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert_eq!(files.map(read), before);
    machine.home.ok(&["daemon", "start"]);
    let info = machine.home.json(&["info"]);
    assert_eq!(
        (&info["tags"], &info["groups"], info["address"].as_str()),
        (&json!(["before"]), &json!([]), Some(&*address))
    );
}
