//! Invites and codes, and what becomes of who has them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use pilot_core::org::code::Code;
use pilot_core::org::invite::Invite;
use rqrr::PreparedImage;
use serde_json::json;

use crate::machines::{FLEET, Machine, Machines, are_open, in_fleet, is_answered};
use crate::support::terminal::terminal;
use crate::support::{Home, eventually, finish, signal};

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
fn members_are_known_by_address_and_key_with_the_backbone_gone() {
    let machines = Machines::new();
    let [_founder, one, two] = machines.fleet_of_three();
    let [address, key] = ["address", "key"].map(|field| two.home.json(&["daemon", "status"])[field].clone());
    let [address, key] = [&address, &key].map(|value| value.as_str().expect("text"));
    let _handler = two.answers();
    machines.stop_backbone();
    for target in [address, key] {
        is_answered(&one.asks(target));
        let why = one.home.json(&["why", target, "query"]);
        assert_eq!(why["allowed"], true, "{why}");
    }
    one.home.ok(&["allow", "query", address]);
    one.home.ok(&["deny", "query", key]);
    assert_eq!(one.home.json(&["why", address, "query"])["allowed"], false);
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
fn an_invite_replaces_no_file_and_none_is_made_where_it_would() {
    let machines = Machines::new();
    let founder = machines.founder();
    let path = founder.home.path().join("fleet.invite");
    let file = path.to_str().expect("text");
    founder.home.ok(&["org", "invite", "--file", file]);
    let first = fs::read_to_string(&path).expect("an invite");
    let again = founder.home.run(&["org", "invite", "--file", file]);
    assert_eq!(again.code, 1, "{again:?}");
    let hint = "hint: an invite in it may be in use: name another file, or remove that one first\n";
    assert_eq!(again.stderr, format!("error: {file} exists already\n{hint}"));
    assert_eq!(fs::read_to_string(&path).expect("an invite"), first);
    assert!(are_open(&founder, 1));
    machines.member("one", &first);
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
        (vec!["--token", &invite, "--name", "Foo Bar"], "\nhint: use 1 to 63 lower-case letters"),
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
fn what_a_camera_reads_on_a_terminal_leads_to_the_code_that_stands_beside_it() {
    let machines = Machines::new();
    let founder = machines.founder();
    let (stderr, shown) = terminal();
    let mut invite = founder.home.command(&["org", "invite", "--code"]);
    invite.stderr(stderr);
    let said = finish(invite, b"");
    let read = read_by_a_camera(&shown.join().expect("read"));
    let (_, word) = said.stdout.trim().split_once('/').expect("a name and a word");
    assert!(read.starts_with("pilot:") && read.ends_with(&format!("/{word}")), "{read} beside {said:?}");
    let one = machines.machine("one");
    one.home.ok(&["join", "--code", &read]);
    assert_eq!(founder.members(), ["founder", "one"]);
}

/// The text of the one QR code that a terminal shows, where letters are light and the ground is dark.
fn read_by_a_camera(shown: &str) -> String {
    const UPPER: [char; 2] = ['█', '▀'];
    const LOWER: [char; 2] = ['█', '▄'];
    /// Pixels to a module, in each direction.
    const SCALE: usize = 4;
    let drawn = shown.lines().filter(|line| line.contains([UPPER, LOWER].concat().as_slice()));
    let half = |line: &str, lit: [char; 2]| line.chars().map(|symbol| lit.contains(&symbol)).collect::<Vec<_>>();
    let rows: Vec<_> = drawn.flat_map(|line| [half(line, UPPER), half(line, LOWER)]).collect();
    let is_lit = |x: usize, y: usize| rows[y].get(x).is_some_and(|is_lit| *is_lit);
    let width = rows.iter().map(Vec::len).max().expect("a code");
    let (wide, high) = (width * SCALE, rows.len() * SCALE);
    let picture = |x, y| if is_lit(x / SCALE, y / SCALE) { u8::MAX } else { 0 };
    let mut picture = PreparedImage::prepare_from_greyscale(wide, high, picture);
    let codes = picture.detect_grids();
    let [code] = &codes[..] else { panic!("{} codes on:\n{shown}", codes.len()) };
    code.decode().expect("it can be read").1
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
    let beyond = lead.home.run(&["org", "invite", "--services", "mcp"]);
    let most = "pilotctl org invite my-company-fleet --role lead --groups research --services query";
    assert!(beyond.stderr.ends_with(&format!("\nhint: at most this: {most}\n")), "{beyond:?}");
    let most: Vec<_> = most.split(' ').skip(1).collect();
    assert_eq!(machines.member("deputy", lead.home.ok(&most).trim()).role(), "lead");
    // One that names no services gives those that it has.
    let worker = machines.member("worker", &lead.invite(&[]));
    assert_eq!(worker.home.json(&["org", "list"])["orgs"][0]["services"], json!(["query"]));
    is_answered(&worker.asks(&in_fleet("two")));
    assert_eq!(worker.home.run(&["org", "invite"]).code, 5, "it enrols nobody");
    let not_named = worker.home.run(&["connect", &in_fleet("two"), "--message", "x"]);
    assert_eq!(not_named.code, 5, "{not_named:?}");
    lead.home.ok(&["org", "revoke", "worker"]);
    eventually("the worker is out", || worker.asks("two").code == 5);
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
