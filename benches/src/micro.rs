//! What an agent decides for each call of a member: whether the proof of its membership holds, and whether a rule lets it in.

use std::fs;
use std::hint::black_box;
use std::time::Duration;

use pilot_core::crypto;
use pilot_core::id::IdentityKey;
use pilot_core::identity::Identity;
use pilot_core::org::issuer::{Applicant, Issuer, Terms};
use pilot_core::org::membership::{Proof, consent};
use pilot_core::org::roster::Roster;
use pilot_core::time::UnixTime;
use pilot_daemon::agent::Agent;
use pilot_daemon::api::rules::WhyRequest;
use pilot_daemon::clock;
use pilot_daemon::home::Home;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::agents::{start, wrong};
use crate::error::BenchError;
use crate::exchange::micros;
use crate::figure::{Figure, Unit, median};

/// Decisions behind one value.
const DECISIONS: usize = 1_000;
/// Rules of an agent that has many.
const RULES: usize = 1_000;
/// How long memberships last here.
const DAY_S: u64 = 86_400;
/// The agent that decides by rules.
const RULED: &str = "bench-ruled";

/// An agent that shows the proof of its membership: seen before, and seen for the first time.
pub(crate) fn proof_check() -> Result<Figure, BenchError> {
    let org = Organisation::found()?;
    let (direct, delegated) = (org.proofs.first().cloned(), org.proofs.last().cloned());
    let (Some(direct), Some(delegated)) = (direct, delegated) else { return Err(wrong("nobody is a member")) };
    let what = "the proof of a membership: one that the agent has verified before, and one that is new to it, with the address of \
                its member; a chain has a member for each that may enrol the next";
    let (mut roster, now) = (org.roster, org.now);
    let charters = roster.charters().clone();
    let known = direct.clone();
    let cached = move || timed(|| roster.add_proof(black_box(&known), now).map(drop).map_err(wrong));
    let cold = |proof: Vec<u8>| {
        let charters = charters.clone();
        move || timed(|| Proof::verify(black_box(&proof), &charters, now).map(drop).map_err(wrong))
    };
    let figure = Figure::new("proof-check", what, Unit::Microseconds, "known", cached);
    Ok(figure.with("new, one membership", cold(direct)).with("new, a chain of four", cold(delegated)))
}

/// A call that the last of so many rules lets in.
pub(crate) fn rule_decision() -> Result<Figure, BenchError> {
    let what = "may this agent call this service? Asked of an agent in this process, the way to its event loop and back included; the last rule of \
                the file is the one that decides";
    let (one, many) = (RuledAgent::with_rules(1)?, RuledAgent::with_rules(RULES)?);
    let figure = Figure::new("rule-decision", what, Unit::Microseconds, "one rule", move || one.decide());
    Ok(figure.with("1,000 rules", move || many.decide()))
}

/// An organisation in which each member but the last has enrolled the next.
struct Organisation {
    roster: Roster,
    proofs: Vec<Vec<u8>>,
    now: UnixTime,
}

impl Organisation {
    fn found() -> Result<Self, BenchError> {
        let now = clock::now().unix;
        let [key, successor, a, b, c, d] = [1, 2, 3, 4, 5, 6].map(|seed| Identity::generate([seed; 32]));
        let charters = Issuer::found(&key, successor.key(), "fleet", Duration::ZERO, now).map_err(wrong)?;
        let mut org = Self { roster: Roster::new(charters), proofs: Vec::new(), now };
        let mut issuer = Issuer::Org(key);
        for (member, generations) in [(a, 3), (b, 2), (c, 1), (d, 0)] {
            org.enrol(&issuer, &member, generations)?;
            issuer = Issuer::Member(member);
        }
        Ok(org)
    }

    fn enrol(&mut self, issuer: &Issuer, member: &Identity, generations: u8) -> Result<(), BenchError> {
        let name = format!("member-{}", self.proofs.len());
        let (key, modifier) = (member.key(), member.modifier());
        let consented = self.now;
        let consent = Some(consent(member, &self.roster.org(), &issuer.key(), &name, consented).into());
        let applicant = Applicant { key, modifier, name, lifetime_max: Duration::MAX, consented, consent };
        let terms =
            Terms { role: "member".to_owned(), groups: Vec::new(), services: Vec::new(), generations, lifetime: DAY_S };
        let proof = issuer.enrol(&self.roster, &applicant, &terms, self.now).map_err(wrong)?;
        self.roster.add_proof(&proof, self.now).map_err(wrong)?;
        self.proofs.push(proof);
        Ok(())
    }
}

/// An agent with rules, and the ticket of the one that its last rule lets in.
struct RuledAgent {
    agent: Agent,
    caller: String,
    runtime: Runtime,
    _home: TempDir,
}

impl RuledAgent {
    fn with_rules(count: usize) -> Result<Self, BenchError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let directory = tempfile::tempdir()?;
        // Homes of their own: who lives in the same one is let in before any rule is looked at.
        let [ours, theirs] = ["ours", "theirs"].map(|name| Home::at(directory.path().join(name)));
        let caller = runtime.block_on(start(theirs, "bench-caller"))?;
        let others = (1..count).map(|number| IdentityKey(crypto::sha256(&[&number.to_be_bytes()])));
        let rules: String = others.chain([caller.key()]).map(rule).collect();
        let home = ours.agent(RULED).map_err(wrong)?;
        fs::create_dir_all(home.path())?;
        fs::write(home.path().join("rules.toml"), rules)?;
        let agent = runtime.block_on(start(ours, RULED))?;
        let ticket = runtime.block_on(caller.ticket())?.to_string();
        runtime.block_on(caller.shutdown());
        Ok(Self { agent, caller: ticket, runtime, _home: directory })
    }

    fn decide(&self) -> Result<f64, BenchError> {
        let request = WhyRequest { agent: self.caller.clone(), service: "query".to_owned() };
        self.runtime.block_on(async {
            let mut times = Vec::with_capacity(DECISIONS);
            for _ in 0..DECISIONS {
                let start = clock::now().mono;
                let decision = self.agent.why(black_box(&request)).await?;
                times.push(micros(clock::now().mono.since(start)));
                if !decision.allowed {
                    return Err(wrong(decision.reason));
                }
            }
            Ok(median(&times))
        })
    }
}

fn rule(key: IdentityKey) -> String {
    format!("[[allow]]\nservice = \"query\"\nfrom = \"agent:{key}\"\n\n")
}

/// The median time of a decision.
fn timed(mut decide: impl FnMut() -> Result<(), BenchError>) -> Result<f64, BenchError> {
    let mut times = Vec::with_capacity(DECISIONS);
    for _ in 0..DECISIONS {
        let start = clock::now().mono;
        decide()?;
        times.push(micros(clock::now().mono.since(start)));
    }
    Ok(median(&times))
}
