//! Machines with an agent each, and what is asked of them.

use std::fs;

use serde_json::json;

use crate::support::{Home, Running, Said};

pub(crate) const FLEET: &str = "my-company-fleet";

/// Machines that share a backbone and nothing else.
pub(crate) struct Machines {
    pub(crate) backbone: Home,
    pub(crate) ticket: String,
}

/// A home with one agent in it.
pub(crate) struct Machine {
    pub(crate) home: Home,
    pub(crate) name: &'static str,
}

impl Machines {
    pub(crate) fn new() -> Self {
        let backbone = Home::new();
        let ticket = backbone.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]).trim().to_owned();
        Self { backbone, ticket }
    }

    pub(crate) fn stop_backbone(&self) {
        self.backbone.ok(&["backbone", "stop"]);
    }

    pub(crate) fn machine(&self, name: &'static str) -> Machine {
        self.machine_with(name, &[])
    }

    pub(crate) fn machine_with(&self, name: &'static str, options: &[&str]) -> Machine {
        let machine = Machine { home: Home::new(), name };
        let said = self.start(&machine, options);
        assert_eq!(said.code, 0, "{said:?}");
        machine
    }

    pub(crate) fn start(&self, machine: &Machine, options: &[&str]) -> Said {
        let always =
            ["daemon", "start", "--hostname", machine.name, "--backbone", &self.ticket, "--listen", "127.0.0.1:0"];
        machine.home.run(&[&always, options].concat())
    }

    /// The founder of a fleet, and its members `one` and `two`.
    pub(crate) fn fleet_of_three(&self) -> [Machine; 3] {
        let founder = self.founder();
        let invite = founder.invite(&["--uses", "2"]);
        let [one, two] = ["one", "two"].map(|name| self.member(name, &invite));
        [founder, one, two]
    }

    /// The founder of a fleet.
    pub(crate) fn founder(&self) -> Machine {
        let founder = self.machine("founder");
        founder.home.ok(&["org", "create", FLEET]);
        founder
    }

    /// An agent that is a member when its start has returned.
    pub(crate) fn member(&self, name: &'static str, invite: &str) -> Machine {
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
    pub(crate) fn invite(&self, options: &[&str]) -> String {
        self.home.ok(&[&["org", "invite"], options].concat()).trim().to_owned()
    }

    /// An invite that makes nobody a member any more.
    pub(crate) fn withdrawn_invite(&self) -> String {
        let invited = self.home.json(&["org", "invite"]);
        let [id, invite] = ["id", "invite"].map(|field| invited[field].as_str().expect("text"));
        self.home.ok(&["org", "uninvite", id]);
        invite.to_owned()
    }

    pub(crate) fn role(&self) -> String {
        self.home.json(&["org", "list"])["orgs"][0]["role"].as_str().expect("a role").to_owned()
    }

    pub(crate) fn members(&self) -> Vec<String> {
        let reply = self.home.json(&["org", "members", FLEET]);
        let members = reply["members"].as_array().expect("a list");
        members.iter().map(|member| member["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Whether there is a tunnel with another agent.
    pub(crate) fn is_connected(&self) -> bool {
        let reply = self.home.json(&["peers"]);
        let peers = reply["peers"].as_array().expect("a list");
        peers.iter().any(|peer| peer["connected"] == json!(true) && peer["backbone"] == json!(false))
    }

    pub(crate) fn is_connected_with(&self, address: &str) -> bool {
        let reply = self.home.json(&["peers"]);
        let peers = reply["peers"].as_array().expect("a list");
        peers.iter().any(|peer| peer["connected"] == json!(true) && peer["address"] == address)
    }

    pub(crate) fn answers(&self) -> Running {
        self.home.spawn(&["answer", "--", "cat"], &format!("answering 'query' as {}", self.name))
    }

    pub(crate) fn asks(&self, target: &str) -> Said {
        self.home.run(&["query", target, "hello", "--timeout", "20s"])
    }
}

#[track_caller]
pub(crate) fn is_answered(said: &Said) {
    assert_eq!((said.code, said.stdout.as_str()), (0, "hello"), "{said:?}");
}

pub(crate) fn in_fleet(name: &str) -> String {
    format!("{name}@{FLEET}")
}

/// Whether so many invites are open.
pub(crate) fn are_open(founder: &Machine, count: usize) -> bool {
    founder.home.json(&["org", "list"])["orgs"][0]["invites"].as_array().map(Vec::len) == Some(count)
}
