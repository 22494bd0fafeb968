//! `netlab matrix`: two real daemons and a real backbone, the daemons each in a network of some kind. How soon is the first ping answered,
//! and how soon does nothing go by the relay any more?
//!
//! A path is direct if the backbone's host forwards nothing for ten seconds of traffic: packets are counted on the wire, nobody is asked.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pilot_core::time::Mono;
use pilot_daemon::api::client::Client;
use pilot_daemon::api::types::{Reached, TargetRequest};
use pilot_daemon::clock;
use pilot_daemon::home::Home;
use pilot_sim::meeting::{DIRECT_FOR, DIRECT_WITHIN, Network};

use super::lab::{Host, Lab, Plan};
use super::nats::{access, plan};
use super::router::CORE;
use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// How long daemons have been ready before they are asked for anything.
const READY: Duration = Duration::from_secs(10);
/// Pause between two pings of the traffic that shows which way it takes.
const PING_INTERVAL: Duration = Duration::from_millis(50);
/// A ping that takes longer has failed.
const PING_PATIENCE: Duration = Duration::from_secs(10);
const BACKBONE: &str = "203.0.113.10";
const BACKBONE_V6: &str = "2001:db8:ffff::10";

/// What came of a pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// From the first ping to its answer.
    answered: Duration,
    /// From the first ping to the last relayed packet, if none came for [`DIRECT_FOR`] after that.
    direct: Option<Duration>,
}

/// Measures the pairs of `networks`, some at a time, and prints what came out.
///
/// # Errors
/// If a pair could not be measured.
pub(crate) fn run(pilotctl: &Path, networks: &[Network], seed: u64, at_once: usize) -> Result<(), BenchError> {
    let pairs: Vec<_> =
        networks.iter().enumerate().flat_map(|(at, &one)| networks[at..].iter().map(move |&two| (one, two))).collect();
    let outcomes = Mutex::new(vec![None; pairs.len()]);
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), BenchError> {
        while let Some(&(caller, callee)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = meet(pilotctl, caller, callee, seed)?;
            eprintln!("{caller} to {callee}: {outcome:?}");
            let at = pairs.iter().position(|pair| *pair == (caller, callee)).expect("taken from there");
            outcomes.lock().expect("nobody panics with it")[at] = Some(outcome);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker reports, it does not panic"))
    })?;
    let outcomes = outcomes.into_inner().expect("nobody panics with it");
    println!("seed {seed}; ms to direct, of the first answer in brackets\n");
    println!("| | {} |", networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "));
    println!("|{} --- |", " --- |".repeat(networks.len()));
    for (row, caller) in networks.iter().enumerate() {
        let cell = |callee: &Network| {
            let at = pairs.iter().position(|pair| *pair == (*caller, *callee))?;
            let outcome = outcomes[at]?;
            let direct = outcome.direct.map_or("relay".to_owned(), |time| time.as_millis().to_string());
            Some(format!("{direct} ({})", outcome.answered.as_millis()))
        };
        let cells: Vec<_> = networks.iter().map(|callee| cell(callee).unwrap_or_default()).collect();
        let _ = row;
        println!("| {caller} | {} |", cells.join(" | "));
    }
    Ok(())
}

/// One pair: builds its lab, and measures it.
fn meet(pilotctl: &Path, caller: Network, callee: Network, seed: u64) -> Result<Outcome, BenchError> {
    let mut lab = Plan::new(seed);
    lab.host("relay", CORE, &[BACKBONE, BACKBONE_V6], &access());
    plan(caller, &mut lab, "a", 1, &access());
    plan(callee, &mut lab, "b", 2, &access());
    let lab = lab.build()?;
    let (_backbone, ticket) = start_backbone(pilotctl, lab.host("relay"))?;
    start_agent(pilotctl, lab.host("a"), &ticket)?;
    start_agent(pilotctl, lab.host("b"), &ticket)?;
    std::thread::sleep(READY);
    on_this_thread(traffic(&lab))
}

/// Pings until nothing was relayed for long enough, or it is clear that this will not be in time.
async fn traffic(lab: &Lab) -> Result<Outcome, BenchError> {
    let agent = Home::at(lab.host("a").pilot_home()).agent("a").map_err(wrong)?;
    let client = Client::connect(agent.socket_path().map_err(wrong)?).await?;
    let relay = lab.host("relay").node;
    let relayed = || lab.engine.with(move |router| router.relayed_by(relay));
    let started = clock::now().mono;
    let before = relayed();
    ping(&client).await?;
    let answered = clock::now().mono.since(started);
    let mut last = (relayed(), clock::now().mono);
    if last.0 == before {
        last.1 = started;
    }
    let since = |at: Mono| at.since(started);
    while clock::now().mono.since(last.1) < DIRECT_FOR && since(last.1) <= DIRECT_WITHIN {
        tokio::time::sleep(PING_INTERVAL).await;
        ping(&client).await?;
        let now = relayed();
        if now != last.0 {
            last = (now, clock::now().mono);
        }
    }
    Ok(Outcome { answered, direct: Some(since(last.1)).filter(|direct| *direct <= DIRECT_WITHIN) })
}

async fn ping(client: &Client) -> Result<(), BenchError> {
    let timeout_ms = u64::try_from(PING_PATIENCE.as_millis()).ok();
    let request = TargetRequest { target: "b".to_owned(), timeout_ms };
    let _reached: Reached = client.post("/v1/ping", &request).await?;
    Ok(())
}

/// A backbone, and its ticket.
fn start_backbone(pilotctl: &Path, host: &Host) -> Result<(Child, String), BenchError> {
    let mut command = host.command(pilotctl);
    command.args(["backbone", "start", "--listen", "[::]:3478", "--advertise", BACKBONE]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| BenchError::Wrong("the backbone has no stdout".to_owned()))?;
    let mut ticket = String::new();
    BufReader::new(stdout).read_line(&mut ticket)?;
    Ok((child, ticket.trim().to_owned()))
}

fn start_agent(pilotctl: &Path, host: &Host, ticket: &str) -> Result<(), BenchError> {
    let mut command: Command = host.command(pilotctl);
    command.args(["daemon", "start", "--hostname", host.name, "--backbone", ticket]);
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(BenchError::Pilotctl { command: format!("daemon start --hostname {}", host.name), output })
}

fn wrong(error: impl std::fmt::Display) -> BenchError {
    BenchError::Wrong(error.to_string())
}
