//! Agents that are to be members from their start.

use std::fs;

use serde_json::json;

use crate::machines::{FLEET, Machine, Machines, are_open};
use crate::support::{Home, Running, Said, eventually, handles_sigterm, named_pipe, signal};

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

#[test]
fn an_invite_may_come_by_a_pipe_which_says_it_once() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&["--uses", "3"]);
    let join = |home: &Home, command: &[&str]| {
        let pipe = named_pipe(home.path());
        let writing = std::thread::spawn({
            let (pipe, invite) = (pipe.clone(), invite.clone());
            move || fs::write(pipe, invite)
        });
        let joined = home.run(&[command, &["--org", FLEET, "--token-file", pipe.to_str().expect("a path")]].concat());
        assert_eq!(joined.code, 0, "{joined:?}");
        writing.join().expect("joined").expect("written");
    };
    join(&machines.machine("one").home, &["join"]);
    let (two, three) = (Home::new(), Home::new());
    let options = ["--backbone", &machines.ticket, "--listen", "127.0.0.1:0"];
    join(&two, &[&["daemon", "start", "--hostname", "two"], &options[..]].concat());
    // This one looks into it for a backbone, too.
    join(&three, &["daemon", "start", "--hostname", "three", "--listen", "127.0.0.1:0", "--ephemeral"]);
    assert_eq!(founder.members(), ["founder", "one", "three", "two"]);
}

#[test]
fn who_waits_for_a_file_that_nobody_writes_ends_when_it_is_told_to() {
    let machines = Machines::new();
    let founder = machines.founder();
    let pipe = named_pipe(founder.home.path());
    let pipe = pipe.to_str().expect("a path");
    let commands: [&[&str]; 6] = [
        &["join", "--token-file", pipe],
        &["daemon", "start", "--hostname", "new", "--org", FLEET, "--token-file", pipe],
        &["daemon", "start", "--hostname", "new", "--org", FLEET, "--token-file", pipe, "--ephemeral"],
        &["org", "rotate", "--successor", pipe],
        &["identity", "import", pipe],
        &["query", "founder", "-"],
    ];
    for (command, told) in commands.into_iter().flat_map(|command| [(command, "INT"), (command, "TERM")]) {
        let mut waiting = Running::start_with_stdin(founder.home.command(command));
        eventually("it listens for signals", || handles_sigterm(waiting.pid()));
        waiting.signal(told);
        eventually("it has ended", || waiting.has_ended());
        assert_eq!(waiting.wait(), Some(130), "{command:?}, {told}: {:?}", waiting.rest());
    }
    assert!(!founder.home.agent_path("new", "").exists(), "nothing was begun");
}
