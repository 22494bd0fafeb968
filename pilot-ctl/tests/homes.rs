//! One agent at two homes at once, at the same backbone (spec/handshake.md §11).

mod support;

use serde_json::{Value, json};
use support::{Home, eventually, is_alive, signal};

/// An agent `alpha` at two homes, and one that asks for it, all at one backbone.
struct Homes {
    // Dropped first: agents say goodbye to a backbone that is there.
    alpha: [Home; 2],
    asker: Home,
    ticket: String,
}

impl Homes {
    fn new() -> Self {
        let (asker, alpha) = (Home::new(), [Home::new(), Home::new()]);
        let ticket = asker.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]).trim().to_owned();
        asker.start("asker", &[]);
        alpha[0].start("alpha", &["--backbone", &ticket]);
        let key = alpha[0].ok(&["identity", "export"]);
        assert_eq!(alpha[1].run_with_input(&["identity", "import"], &key).code, 0);
        let homes = Self { alpha, asker, ticket };
        homes.start(1);
        homes
    }

    fn start(&self, which: usize) {
        self.alpha[which].start("alpha", &["--backbone", &self.ticket]);
    }

    /// What the directory says of alpha: one agent, however many homes it has.
    #[track_caller]
    fn found(&self) -> Value {
        let found = self.asker.json(&["find"]);
        let agents = found["agents"].as_array().expect("a list");
        let mut alphas = agents.iter().filter(|agent| agent["name"] == json!("alpha"));
        let alpha = alphas.next().expect("alpha").clone();
        assert!(alphas.next().is_none(), "{found}");
        alpha
    }
}

#[test]
fn whichever_of_two_homes_stops_the_agent_is_reached_at_the_other() {
    let homes = Homes::new();
    homes.asker.ok(&["ping", "alpha"]);
    for which in [0, 1, 0] {
        homes.alpha[which].ok(&["daemon", "stop"]);
        assert_eq!(homes.found()["reachable"], json!(true));
        homes.asker.ok(&["ping", "alpha"]);
        homes.start(which);
    }
}

#[test]
fn whichever_of_two_homes_is_killed_the_agent_is_soon_reached_at_the_other() {
    let homes = Homes::new();
    for which in [0, 1] {
        homes.asker.ok(&["ping", "alpha"]);
        let pid = homes.alpha[which].json(&["daemon", "status"])["pid"].as_u64().expect("a pid") as u32;
        signal(pid, "KILL");
        eventually("the process is gone", || !is_alive(pid));
        eventually("the other home answers", || homes.asker.run(&["ping", "alpha", "--timeout", "8s"]).code == 0);
        homes.start(which);
    }
}

#[test]
fn what_one_home_says_last_is_said_of_the_agent_until_another_says_something_new() {
    let homes = Homes::new();
    for (which, tag) in [(0, "one"), (1, "two"), (0, "three"), (1, "four")] {
        let set = homes.alpha[which].run(&["daemon", "set", "--tags", tag]);
        assert_eq!((set.code, set.stderr.as_str()), (0, ""), "{set:?}");
        assert_eq!(homes.found()["tags"], json!([tag]));
    }
    // The first home comes back with nothing new to say: it is told, and repeats that.
    let times_told = || homes.alpha[0].ok(&["daemon", "logs"]).matches("another home of this agent has said").count();
    let before = times_told();
    homes.asker.ok(&["backbone", "stop"]);
    homes.asker.ok(&["backbone", "start", "--listen", "127.0.0.1:0", "--detach"]);
    eventually("the first home has been told", || times_told() > before);
    homes.asker.ok(&["ping", "alpha"]);
    assert_eq!(homes.found()["tags"], json!(["four"]));
}
