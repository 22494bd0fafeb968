//! What is advised where an organisation is the reason: it can be typed as it stands, and it helps.

use std::fs;

use crate::machines::{FLEET, Machines};
use crate::support::{eventually, finish};

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
