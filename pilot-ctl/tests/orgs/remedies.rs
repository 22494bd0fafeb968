//! What is advised where an organisation is the reason: it can be typed as it stands, and it helps.

use std::fs;

use crate::machines::{FLEET, Machines, in_fleet};
use crate::support::{Running, eventually, finish};

#[test]
fn who_is_in_several_organisations_is_told_how_to_name_one() {
    let machines = Machines::new();
    let founder = machines.founder();
    let lead = machines.member("lead", &founder.invite(&["--may-enrol", "1"]));
    let _below = machines.member("below", &lead.invite(&[]));
    eventually("the founder has heard of it", || founder.members().len() == 3);
    founder.home.ok(&["org", "create", "another-fleet"]);
    for (verb, hint) in [
        (&["members"][..], "hint: say which one: pilotctl org … ORG\n"),
        (&["invite"], "hint: say which one: pilotctl org … ORG\n"),
        (&["revoke", "lead"], "hint: say which one with --org ORG\n"),
        (&["uninvite", "0"], "hint: say which one with --org ORG\n"),
    ] {
        let several = founder.home.run(&[&["org"], verb].concat());
        assert!(several.code == 2 && several.stderr.ends_with(hint), "{several:?}");
    }
    let revoked = founder.home.run(&["org", "revoke", "lead", "--org", FLEET]);
    let remedy = format!("pilotctl org invite {FLEET}");
    assert!(revoked.code == 0 && revoked.stderr.contains(&format!("joins again: {remedy}\n")), "{revoked:?}");
    founder.home.ok(&remedy.split(' ').skip(1).collect::<Vec<_>>());
}

#[test]
fn an_invite_goes_to_stdout_by_a_hyphen_and_a_code_needs_who_has_made_it() {
    let machines = Machines::new();
    let founder = machines.founder();
    let mut invite = founder.home.command(&["org", "invite", "--file", "-"]);
    invite.current_dir(founder.home.path());
    let invite = finish(invite, b"");
    assert!(invite.code == 0 && invite.stdout.starts_with("pilot-invite:"), "{invite:?}");
    assert!(!fs::exists(founder.home.path().join("-")).expect("a look"), "no file is called so");
    let code = founder.invite(&["--code"]);
    let (_, symbols) = code.rsplit_once('/').expect("a name in front");
    let short = machines.machine("one").home.run(&["join", "--code", symbols]);
    assert!(short.code == 2 && short.stderr.starts_with("error: the code does not say who has made it\n"), "{short:?}");
    assert!(short.stderr.ends_with(&format!("hint: put the name in front: NAME/{symbols}\n")), "{short:?}");
}

#[test]
fn where_lists_are_too_old_caller_and_called_are_told_so_and_what_helps() {
    let machines = Machines::new();
    let founder = machines.machine("founder");
    founder.home.ok(&["org", "create", FLEET, "--list-age", "3s"]);
    let invite = founder.invite(&["--uses", "2"]);
    let (one, two) = (machines.member("one", &invite), machines.member("two", &invite));
    let _handler = two.answers();
    assert!(!two.home.ok(&["doctor"]).contains(FLEET));
    founder.home.ok(&["daemon", "stop"]);
    eventually("the lists get too old", || one.asks("two").code == 5);
    for rule in ["org:", "role:member@"] {
        let refused = one.asks("two");
        assert_eq!(refused.code, 5);
        assert!(refused.stderr.contains("the revocation lists of the organisation are too old"), "{refused:?}");
        assert!(refused.stderr.ends_with("start the agent that has the organisation's key\n"), "{refused:?}");
        let why = two.home.ok(&["why", "one", "query"]);
        assert!(why.starts_with("refused: the revocation lists of its organisation are too old"), "{why}");
        two.home.ok(&["allow", "query", &format!("{rule}{FLEET}")]);
    }
    let list = two.home.run(&["org", "list"]);
    let warning = format!("warning: the revocation lists of {FLEET} are too old: ");
    assert!(list.stderr.starts_with(&warning), "{list:?}");
    let found = two.home.ok(&["doctor"]);
    assert!(found.contains(&format!("✗ org: the revocation lists of {FLEET} are too old: ")), "{found}");
    two.home.json(&["doctor"]);
}

#[test]
fn who_is_revoked_during_a_call_is_told_what_lets_it_in_again() {
    let machines = Machines::new();
    let [founder, one, two] = machines.fleet_of_three();
    let handler = two.home.spawn(&["answer", "--", "sh", "-c", "echo asked >&2; exec sleep 600"], "answering 'query'");
    let mut asking = Running::start(one.home.command(&["query", &in_fleet("two"), "hello"]));
    handler.wait_for_line("asked");
    founder.home.ok(&["org", "revoke", "one"]);
    assert_eq!(asking.wait(), Some(5));
    let said = asking.rest();
    assert!(said[0].contains(&format!("no longer a member of '{FLEET}'")), "{said:?}");
    assert!(said[1].ends_with("ask for a new invite: pilotctl org invite makes one"), "{said:?}");
}
