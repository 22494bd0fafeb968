//! `netlab matrix`: two real daemons and a real backbone, the daemons each in a network of some kind. How soon is the first ping answered,
//! and how soon does nothing go by the relay any more?
//!
//! A path is direct if the backbone's host forwards nothing for ten seconds of traffic: packets are counted on the wire, nobody is asked.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pilot_core::time::Mono;
use pilot_daemon::clock;
use pilot_sim::meeting::{DIRECT_FOR, DIRECT_WITHIN, Network, Pair};
use pilot_sim::nat::Hairpin;

use super::agents::{Agent, Agents};
use super::engine::Punctuality;
use super::lab::Lab;
use super::nats::access;
use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// Pause between two pings of the traffic that shows which way it takes.
const PING_INTERVAL: Duration = Duration::from_millis(50);
/// A ping that takes longer has failed.
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// Pairs that are not in two networks of their own.
const NEIGHBOURS: [Pair; 6] = [
    Pair::SameNat(Hairpin::Off),
    Pair::SameNat(Hairpin::ExternalSource),
    Pair::SameNat(Hairpin::InternalSource),
    Pair::SameCarrier(Hairpin::Off),
    Pair::SameCarrier(Hairpin::ExternalSource),
    Pair::SameSymmetricCarrier,
];

/// What came of a pair.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// From the first ping to its answer, if one came.
    answered: Option<Duration>,
    /// From the first ping to the last relayed packet, if none came for [`DIRECT_FOR`] after that.
    direct: Option<Duration>,
    punctuality: Punctuality,
}

/// Measures the pairs of `networks`, and neighbours if it is all of them, some at a time. Returns what came out as a page.
///
/// # Errors
/// If a lab could not be built.
pub(crate) fn run(pilotctl: &Path, networks: &[Network], seed: u64, at_once: usize) -> Result<String, BenchError> {
    let with_itself_and_later = |at: usize| networks[at..].iter().map(move |&other| Pair::Apart(networks[at], other));
    let mut pairs: Vec<_> = (0..networks.len()).flat_map(with_itself_and_later).collect();
    if networks == Network::ALL {
        pairs.extend(NEIGHBOURS);
    }
    let outcomes = measure(pilotctl, &pairs, seed, at_once)?;
    let cell = |pair: Pair| {
        let at = pairs.iter().position(|known| *known == pair);
        at.map_or_else(String::new, |at| outcomes[at].to_string())
    };
    let mut page = String::from("Milliseconds to the direct path; in brackets, to the first answer.\n\n");
    page += &format!("| | {} |\n", networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "));
    page += &format!("| ---{} |\n", " | ---".repeat(networks.len()));
    for &caller in networks {
        let cells: Vec<_> = networks.iter().map(|&callee| cell(Pair::Apart(caller, callee))).collect();
        page += &format!("| {caller} | {} |\n", cells.join(" | "));
    }
    for pair in pairs.iter().filter(|pair| NEIGHBOURS.contains(pair)) {
        page += &format!("\n{pair:?}: {}\n", cell(*pair));
    }
    let latest = outcomes.iter().max_by_key(|outcome| outcome.punctuality.late_max);
    if let Some(latest) = latest {
        page += &format!("\nThe least punctual of the labs: {}.\n", latest.punctuality.sentence());
    }
    Ok(page)
}

/// All pairs, in their order, some at a time.
fn measure(pilotctl: &Path, pairs: &[Pair], seed: u64, at_once: usize) -> Result<Vec<Outcome>, BenchError> {
    let outcomes = Mutex::new(vec![None; pairs.len()]);
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), BenchError> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(&pair) = pairs.get(at) else { return Ok(()) };
            let outcome = on_this_thread(meet(pilotctl, pair, seed))?;
            eprintln!("{pair:?}: {outcome}");
            outcomes.lock().expect("nobody panics with it")[at] = Some(outcome);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker reports, it does not panic"))
    })?;
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(outcomes.into_iter().map(|outcome| outcome.expect("each pair was measured")).collect())
}

async fn meet(pilotctl: &Path, pair: Pair, seed: u64) -> Result<Outcome, BenchError> {
    let Some(agents) = Agents::start(pilotctl, pair, seed, &access())? else {
        return Ok(Outcome { answered: None, direct: None, punctuality: Punctuality::default() });
    };
    agents.rest().await;
    let (answered, direct) = traffic(&agents.lab, &agents.caller).await?;
    Ok(Outcome { answered, direct, punctuality: agents.lab.engine.punctuality() })
}

/// Pings until nothing was relayed for long enough, or it is clear that this will not be in time.
async fn traffic(lab: &Lab, caller: &Agent) -> Result<(Option<Duration>, Option<Duration>), BenchError> {
    let client = caller.client().await?;
    let relayed = || lab.relayed();
    let started = clock::now().mono;
    let before = relayed();
    if !caller.ping(&client, PING_PATIENCE).await {
        return Ok((None, None));
    }
    let answered = clock::now().mono.since(started);
    let mut last = (relayed(), clock::now().mono);
    if last.0 == before {
        last.1 = started;
    }
    let since = |at: Mono| at.since(started);
    while clock::now().mono.since(last.1) < DIRECT_FOR && since(last.1) <= DIRECT_WITHIN {
        tokio::time::sleep(PING_INTERVAL).await;
        caller.ping(&client, PING_PATIENCE).await;
        let now = relayed();
        if now != last.0 {
            last = (now, clock::now().mono);
        }
    }
    Ok((Some(answered), Some(since(last.1)).filter(|direct| *direct <= DIRECT_WITHIN)))
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.direct, self.answered) {
            (Some(direct), Some(answered)) => write!(f, "{} ({})", direct.as_millis(), answered.as_millis()),
            (None, Some(answered)) => write!(f, "relay ({})", answered.as_millis()),
            (_, None) => f.write_str("none"),
        }
    }
}
