//! Rules of a service, and what says why.

use std::fs;

use crate::machines::{FLEET, Machines, in_fleet, is_answered};

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
fn a_service_that_loses_its_last_rule_is_open_to_members_again_which_is_said() {
    let machines = Machines::new();
    let founder = machines.founder();
    let rule = ["allow", "query", &format!("role:lead@{FLEET}")];
    let changes = |options: &[&str]| founder.home.run(&[&rule, options].concat()).stderr;
    let first = changes(&[]);
    assert!(first.contains(&format!("other members of {FLEET} may not call query any more")), "{first}");
    founder.home.ok(&["allow", "query", "home"]);
    assert_eq!(changes(&["--remove"]), "", "there is another one");
    let last = founder.home.run(&["allow", "query", "home", "--remove"]).stderr;
    assert!(last.contains(&format!("members of {FLEET} may call query now: it has no rules any more")), "{last}");
    assert!(last.ends_with("to let in some of them only: pilotctl allow query WHO\n"), "{last}");
    // Rules of a service that is open to all anyway neither open it nor close it.
    let _handler = founder.home.spawn(&["answer", "--allow", "public", "--", "cat"], "answering 'query'");
    assert_eq!([changes(&[]), changes(&["--remove"])], ["", ""]);
}

#[test]
fn a_member_that_is_let_in_by_its_name_is_out_when_it_is_revoked_and_one_that_is_kept_out_stays_so() {
    let machines = Machines::new();
    let founder = machines.founder();
    let invite = founder.invite(&["--uses", "2"]);
    let [one, two] = ["one", "two"].map(|name| machines.member(name, &invite));
    let _handler = founder.answers();
    let allowed = founder.home.ok(&["allow", "query", &in_fleet("one")]);
    assert!(allowed.starts_with("allow query agent:") && allowed.ends_with(&format!("@{FLEET}\n")), "{allowed}");
    assert_eq!([one.asks("founder").code, two.asks("founder").code], [0, 5]);
    founder.home.ok(&["org", "revoke", "one"]);
    assert_eq!(one.asks("founder").code, 5);
    let key = one.home.json(&["info"])["key"].as_str().expect("text").to_owned();
    let why = founder.home.ok(&["why", &key, "query"]);
    assert!(why.starts_with("refused: no rule for 'query' names it"), "{why}");
    let from = format!("agent:{key}@{FLEET}");
    founder.home.ok(&["allow", "query", &from, "--remove"]);

    founder.home.ok(&["allow", "query", "public"]);
    founder.home.ok(&["deny", "query", &in_fleet("two")]);
    founder.home.ok(&["org", "revoke", "two"]);
    assert_eq!([one.asks("founder").code, two.asks("founder").code], [0, 5]);
}

#[test]
fn where_a_membership_does_not_name_a_service_that_is_why_and_what_is_advised_lets_its_member_in() {
    let machines = Machines::new();
    let founder = machines.founder();
    let one = machines.member("one", &founder.invite(&["--services", "mcp"]));
    let _handler = founder.answers();
    let warned = founder.home.run(&["allow", "query", &in_fleet("one")]).stderr;
    assert!(warned.contains("all the same: its membership does not name the service 'query'\n"), "{warned}");
    assert_eq!(one.asks("founder").code, 5);
    let key = one.home.json(&["info"])["key"].as_str().expect("text").to_owned();
    assert!(warned.contains(&format!("whatever its membership says: pilotctl allow query {key}\n")), "{warned}");
    founder.home.ok(&["allow", "query", &key]);
    assert_eq!(one.asks("founder").code, 0);
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
    fs::write(&file, [before.as_bytes(), "# für\n# ".as_bytes(), b"\xff\n"].concat()).expect("written");
    let start = machines.start(&two, &[]);
    assert!(start.code == 1 && start.stderr.contains("line 5, column 3: this is no UTF-8"), "{start:?}");
    fs::write(&file, before).expect("written");
    assert_eq!(machines.start(&two, &[]).code, 0);
}
