//! `netlab matrix`: two real daemons and a real backbone, the daemons each in a network of some kind. How soon is the first ping answered,
//! and how soon does nothing go by the relay any more? Each pair is judged by what theory says of it.
//!
//! A path is direct if the backbone's host forwards nothing for ten seconds of traffic: packets are counted on the wire, nobody is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pilot_sim::meeting::{DIRECT_WITHIN, Expected, Network, Pair, answered_within, calculated_odds};

use super::agents::{Agents, Met};
use super::engine::Punctuality;
use super::kernel;
use super::nats::{Ground, RELAYED_ROUND_TRIP, Site};
use super::{Findings, Rig};
use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// What is left to chance gets as many chances: of twenty pairs that meet in 99.4 of 100 cases, one does not in every ninth matrix.
const TRIES: usize = 3;
/// No more than one of so many such pairs may need a second try; one alone is bad luck.
const SECOND_TRIES: usize = 5;
/// Of a hundred trials of random ports beside a NAT that keeps its own, so many end on a direct path.
const DIRECT_PERCENT: usize = 95;
/// How agents are spread over networks, as far as somebody has counted: 4 % have no UDP (RFC 9308 §2: 3 to 5 %); of the others 91 % are
/// behind a NAT (peers of IPFS, rust-libp2p discussion 6584), 82 % of these with endpoint-independent mapping (Ford, Srisuresh, Kegel,
/// "Peer-to-Peer Communication Across Network Address Translators", 2005). Each is taken for the worst of its kind: port-restricted
/// filtering, random ports, no port mapping, no IPv6.
const POPULATION: [(Network, f64); 4] = [
    (Network::Open, 0.96 * 0.09),
    (Network::PortRestricted, 0.96 * 0.91 * 0.82),
    (Network::Random, 0.96 * 0.91 * 0.18),
    (Network::Blocked, 0.04),
];

/// What came of a pair.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Nothing, if the daemons did not start.
    met: Option<Met>,
    tries: usize,
    punctuality: Punctuality,
}

/// Measures the pairs of `networks`, and neighbours if it is all of them or none, some at a time.
///
/// # Errors
/// If a lab could not be built.
pub(crate) fn run(rig: &Rig, networks: &[Network], at_once: usize) -> Result<Findings, BenchError> {
    let with_itself_and_later = |at: usize| networks[at..].iter().map(move |&other| Pair::Apart(networks[at], other));
    let mut pairs: Vec<_> = (0..networks.len()).flat_map(with_itself_and_later).collect();
    if networks.is_empty() || networks == Network::ALL {
        pairs.extend(Pair::NEIGHBOURS);
    }
    let sites: Vec<_> = pairs.into_iter().map(Site::new).collect();
    let outcomes = measure(rig, &sites, at_once)?;
    let mut page = table(networks, &sites, &outcomes);
    for (site, outcome) in sites.iter().zip(&outcomes).filter(|(site, _)| Pair::NEIGHBOURS.contains(&site.pair)) {
        page += &format!("\n{:?}: {outcome}\n", site.pair);
    }
    page += &weighted(&sites, &outcomes);
    page += &punctuality(&outcomes);
    Ok(Findings { page, wrong: judge(rig, &sites, &outcomes) })
}

/// The same with NATs of the kernel: each with its like, and all with the one that most homes have.
///
/// # Errors
/// If a lab could not be built.
pub(crate) fn run_kernel(rig: &Rig, at_once: usize) -> Result<Findings, BenchError> {
    let alike = kernel::NETWORKS.map(|network| (network, network));
    let with_home = kernel::NETWORKS.map(|network| (network, Network::PortRestricted));
    let pairs = alike.into_iter().chain(with_home.into_iter().filter(|(one, other)| one != other));
    let site = |(one, other)| Site { ground: Ground::Kernel, ..Site::new(Pair::Apart(one, other)) };
    let sites: Vec<_> = pairs.map(site).collect();
    let outcomes = measure(rig, &sites, at_once)?;
    let page = table(&kernel::NETWORKS, &sites, &outcomes) + &punctuality(&outcomes);
    Ok(Findings { page, wrong: judge(rig, &sites, &outcomes) })
}

/// Random ports and a NAT that keeps its own, again and again, each calling in turn.
///
/// # Errors
/// If a lab could not be built.
pub(crate) fn effort(rig: &Rig, trials: usize, at_once: usize) -> Result<Findings, BenchError> {
    let pair = |trial| match trial % 2 {
        0 => Pair::Apart(Network::Random, Network::PortRestricted),
        _ => Pair::Apart(Network::PortRestricted, Network::Random),
    };
    let sites: Vec<_> = (0..trials).map(|trial| Site::new(pair(trial))).collect();
    let outcomes = each(&sites, at_once, |at, site| on_this_thread(meet(rig, site, rig.seed + at as u64)))?;
    let mut times: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.met?.direct).collect();
    times.sort();
    let median =
        times.get(times.len() / 2).map_or_else(|| "none".to_owned(), |time| format!("{} ms", time.as_millis()));
    let page = format!(
        "{} of {trials} pairs direct within {:?}, median {median}; calculated for one volley: {:.1} %\n{}",
        times.len(),
        rig.slack * DIRECT_WITHIN,
        calculated_odds() * 100.0,
        punctuality(&outcomes)
    );
    let is_enough = times.len() * 100 >= trials * DIRECT_PERCENT;
    let wrong = if is_enough { vec![] } else { vec![format!("{} of {trials} direct", times.len())] };
    Ok(Findings { page, wrong })
}

/// All sites, those again whose luck was bad.
fn measure(rig: &Rig, sites: &[Site], at_once: usize) -> Result<Vec<Outcome>, BenchError> {
    each(sites, at_once, |_, site| {
        let mut outcome = on_this_thread(meet(rig, site, rig.seed))?;
        while site.pair.expected() == Expected::Effort && !outcome.is_direct() && outcome.tries < TRIES {
            let again = on_this_thread(meet(rig, site, rig.seed + outcome.tries as u64))?;
            outcome = Outcome { tries: outcome.tries + 1, ..again };
        }
        eprintln!("{:?}: {outcome}", site.pair);
        Ok(outcome)
    })
}

/// Does the same for each of `sites`, for some at a time; what comes out has their order.
fn each<T: Send>(
    sites: &[Site],
    at_once: usize,
    work: impl Fn(usize, &Site) -> Result<T, BenchError> + Sync,
) -> Result<Vec<T>, BenchError> {
    let done = Mutex::new(Vec::with_capacity(sites.len()));
    let next = AtomicUsize::new(0);
    let worker = || -> Result<(), BenchError> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(site) = sites.get(at) else { return Ok(()) };
            let outcome = work(at, site)?;
            done.lock().expect("nobody panics with it").push((at, outcome));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker reports, it does not panic"))
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

async fn meet(rig: &Rig, site: &Site, seed: u64) -> Result<Outcome, BenchError> {
    let Some(agents) = Agents::start(&rig.pilotctl, site, seed)? else {
        return Ok(Outcome { met: None, tries: 1, punctuality: Punctuality::default() });
    };
    agents.rest().await;
    // That a pair stays on the relay is seen at once; only those who hurry may be slow.
    let is_relayed = site.pair.expected() == Expected::Relay;
    let within = if is_relayed { DIRECT_WITHIN } else { rig.slack * DIRECT_WITHIN };
    let met = agents.meet(within, rig.strays_max()).await?;
    Ok(Outcome { met: Some(met), tries: 1, punctuality: agents.lab.engine.punctuality() })
}

impl Outcome {
    fn is_direct(&self) -> bool {
        self.met.is_some_and(|met| met.direct.is_some())
    }

    /// What is not as it should be.
    fn wrong(&self, expected: Expected, slack: u32) -> Option<String> {
        let limit = slack * answered_within(RELAYED_ROUND_TRIP);
        match (self.met, expected) {
            (None, _) => Some("the daemons did not start".to_owned()),
            (Some(Met { answered: None, .. }), _) => Some("the first ping was not answered".to_owned()),
            (Some(Met { answered: Some(time), .. }), _) if time > limit => {
                Some(format!("the first ping was answered after {time:?}; the limit is {limit:?}"))
            }
            (Some(Met { direct: None, relayed, .. }), Expected::Direct | Expected::Effort) => {
                Some(format!("not direct; {relayed} packets were relayed"))
            }
            (Some(Met { direct: Some(_), .. }), Expected::Relay) => Some("direct, which cannot be".to_owned()),
            (Some(_), Expected::Direct | Expected::Effort | Expected::Relay) => None,
        }
    }
}

/// Each pair that is not what theory says.
fn judge(rig: &Rig, sites: &[Site], outcomes: &[Outcome]) -> Vec<String> {
    let wrong = |(site, outcome): (&Site, &Outcome)| {
        outcome.wrong(site.pair.expected(), rig.slack).map(|what| format!("{:?}: {what}", site.pair))
    };
    let mut found: Vec<_> = sites.iter().zip(outcomes).filter_map(wrong).collect();
    let tries = sites.iter().zip(outcomes).filter(|(site, _)| site.pair.expected() == Expected::Effort);
    let tries: Vec<_> = tries.map(|(_, outcome)| outcome.tries).collect();
    let again = tries.iter().filter(|&&tries| tries > 1).count();
    if again > 1 && again * SECOND_TRIES > tries.len() {
        found.push(format!("{again} of {} pairs that take effort needed more than one try", tries.len()));
    }
    found
}

/// A row for each network that calls, a column for each that is called.
fn table(networks: &[Network], sites: &[Site], outcomes: &[Outcome]) -> String {
    if networks.is_empty() {
        return String::new();
    }
    let cell = |pair: Pair| {
        let at = sites.iter().position(|known| known.pair == pair);
        at.map_or_else(String::new, |at| outcomes[at].to_string())
    };
    let mut page = String::from("Milliseconds to the direct path; in brackets, to the first answer.\n\n");
    page += &format!("| | {} |\n", networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "));
    page += &format!("| ---{} |\n", " | ---".repeat(networks.len()));
    for &caller in networks {
        let cells: Vec<_> = networks.iter().map(|&callee| cell(Pair::Apart(caller, callee))).collect();
        page += &format!("| {caller} | {} |\n", cells.join(" | "));
    }
    page
}

/// The share of pairs that are direct if agents are spread as in the field; nothing, if their networks were not all measured. A pair that was
/// tried again counts as much as the share of its tries that were direct.
fn weighted(sites: &[Site], outcomes: &[Outcome]) -> String {
    let is_direct = |one, other| {
        let pairs = [Pair::Apart(one, other), Pair::Apart(other, one)];
        let at = sites.iter().position(|site| pairs.contains(&site.pair))?;
        Some(f64::from(u8::from(outcomes[at].is_direct())) / outcomes[at].tries as f64)
    };
    let rate = |networks: &[(Network, f64)]| -> Option<f64> {
        let all: f64 = networks.iter().map(|(_, weight)| weight).sum();
        let mut direct = 0.0;
        for (one, weight) in networks {
            for (other, weight_of_other) in networks {
                direct += weight * weight_of_other * is_direct(*one, *other)?;
            }
        }
        Some(direct / (all * all) * 100.0)
    };
    let [_, restricted, random, _] = POPULATION;
    let (Some(all), Some(behind_nats)) = (rate(&POPULATION), rate(&[restricted, random])) else { return String::new() };
    let weights: Vec<_> =
        POPULATION.iter().map(|(network, weight)| format!("{network} {:.1} %", weight * 100.0)).collect();
    format!(
        "\nDirect, of all pairs in a population of {}: {all:.1} %; of those with both behind a NAT that passes UDP: {behind_nats:.1} %.\n",
        weights.join(", ")
    )
}

fn punctuality(outcomes: &[Outcome]) -> String {
    let latest = outcomes.iter().max_by_key(|outcome| outcome.punctuality.late_max);
    latest.map_or_else(String::new, |latest| {
        format!("\nThe least punctual of the labs: {}.\n", latest.punctuality.sentence())
    })
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.met {
            Some(Met { direct: Some(direct), answered: Some(answered), .. }) => {
                write!(f, "{} ({})", direct.as_millis(), answered.as_millis())?;
            }
            Some(Met { direct: None, answered: Some(answered), .. }) => write!(f, "relay ({})", answered.as_millis())?,
            Some(Met { answered: None, .. }) => f.write_str("no answer")?,
            None => f.write_str("no start")?,
        }
        if self.tries > 1 { write!(f, ", try {}", self.tries) } else { Ok(()) }
    }
}
