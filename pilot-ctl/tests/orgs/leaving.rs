//! Who leaves and who is revoked, whoever is there to hear of it.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::machines::{FLEET, Machine, Machines, in_fleet, is_answered};
use crate::support::{eventually, signal};

#[test]
fn who_is_revoked_is_refused_and_loses_its_tunnels_at_once() {
    let machines = Machines::new();
    let [founder, one, two] = machines.fleet_of_three();
    let _handler = two.answers();
    is_answered(&one.asks(&in_fleet("two")));
    assert!(two.is_connected_with(&one.home.address("one")));
    // It returns when members that are connected have answered, and these do when they have ended their tunnels.
    founder.home.ok(&["org", "revoke", "one"]);
    let address = one.home.address("one");
    assert!(!two.is_connected_with(&address));
    eventually("it is told", || one.home.json(&["org", "list"])["orgs"][0]["expires_s"] == json!(null));
    eventually("the tunnel in which it was told ends, too", || !founder.is_connected_with(&address));
    let refused = one.asks("two");
    assert_eq!(refused.code, 5, "{refused:?}");
    // A stranger may still knock.
    let reply = two.home.json(&["peers"]);
    let peer = reply["peers"].as_array().expect("a list").iter().find(|peer| peer["address"] == address.as_str());
    let [path_s, connected_s] = ["path_s", "connected_s"].map(|field| peer.expect("it has called")[field].as_f64());
    assert!(path_s.is_some() && path_s <= connected_s, "a path is not in use for longer than its tunnel: {reply}");
    assert!(!two.members().contains(&"one".to_owned()));
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

/// A founder and a member here, who has answered one there.
fn fleet_at_two_backbones(here: &Machines, there: &Machines) -> [Machine; 3] {
    let founder = here.founder();
    let invite = founder.invite(&["--uses", "2"]);
    let (two, mallory) = (here.member("two", &invite), there.member("mallory", &invite));
    let _handler = two.answers();
    is_answered(&mallory.asks(&in_fleet("two")));
    [founder, two, mallory]
}

#[test]
fn a_revoked_member_behind_another_backbone_node_is_out_where_ones_own_holds_the_list() {
    let (here, there) = (Machines::new(), Machines::new());
    let [founder, two, mallory] = fleet_at_two_backbones(&here, &there);
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
    let [founder, two, mallory] = fleet_at_two_backbones(&here, &there);
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
fn who_revokes_a_delegate_is_told_who_is_out_with_it() {
    let machines = Machines::new();
    let founder = machines.founder();
    let lead = machines.member("lead", &founder.invite(&["--may-enrol", "2"]));
    let by = machines.member("by", &lead.invite(&["--may-enrol", "1"]));
    let _below = machines.member("below", &by.invite(&[]));
    eventually("the founder has heard of all", || founder.members() == ["below", "by", "founder", "lead"]);
    let revoked = founder.home.run(&["org", "revoke", "lead"]);
    assert!(revoked.code == 0 && revoked.stderr.contains("below, by"), "{revoked:?}");
    assert_eq!(founder.members(), ["founder"]);
}

#[test]
fn whom_a_revoked_delegate_has_enrolled_is_told_serves_it_no_more_and_joins_anew() {
    let machines = Machines::new();
    let founder = machines.founder();
    let lead = machines.member("lead", &founder.invite(&["--may-enrol", "2"]));
    let below = machines.member("below", &lead.invite(&["--may-enrol", "1"]));
    let _handler = below.answers();
    is_answered(&lead.asks("below"));
    eventually("the founder has heard of it", || founder.members() == ["below", "founder", "lead"]);
    founder.home.ok(&["org", "revoke", "lead"]);
    eventually("it hears of that", || lead.asks("below").code == 5);
    assert_eq!(below.home.run(&["org", "invite"]).code, 5, "such an invite would make nobody a member");
    below.home.ok(&["join", "--token", &founder.invite(&[])]);
    is_answered(&founder.asks(&in_fleet("below")));
    assert_eq!(lead.asks("below").code, 5);
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
