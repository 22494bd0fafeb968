//! The network lab: real programs on hosts of their own, behind every NAT and link that the simulator has, in real time.
//!
//! ```text
//! cargo run --release -p pilot-bench -- netlab classify      that each NAT behaves as named, emulated ones and the kernel's
//! cargo run --release -p pilot-bench -- netlab matrix        which pairs of networks meet directly, and how fast
//! cargo run --release -p pilot-bench -- netlab kernel        the same with NATs of the kernel
//! cargo run --release -p pilot-bench -- netlab effort        how often ports that nobody can name are met
//! cargo run --release -p pilot-bench -- netlab links         what bad links leave of a tunnel
//! cargo run --release -p pilot-bench -- netlab rates         how fast the paths are that pairs end on
//! cargo run --release -p pilot-bench -- netlab mtu           which packets are sent where longer ones vanish
//! cargo run --release -p pilot-bench -- netlab roam          what changes of the network cost a stream
//! ```
//!
//! Each judges what it finds, and fails if that is not what theory says. [`packet`] and [`router`] are the network, without I/O; [`engine`]
//! runs it; [`lab`] builds hosts around it, some of them gateways by [`kernel`]. The scenarios are on top: [`classify`] proves the lab; the
//! others put [`agents`] into it. Each report begins with what the router can do at most ([`ceiling`]), and says how late it was. It takes root on
//! Linux, iproute2 and nftables.

mod agents;
mod ceiling;
mod classify;
mod engine;
mod kernel;
pub(crate) mod lab;
mod links;
mod matrix;
mod mtu;
mod nats;
mod packet;
mod rates;
mod roam;
pub(crate) mod router;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use pilot_sim::meeting::Network;

use crate::error::BenchError;
use crate::report::Run;

/// For each unit of slack beyond the first.
const STRAYS: u64 = 4;

/// What the lab can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Proves that each NAT behaves as named, from outside (RFC 5780).
    Classify {
        /// Decides everything that is left to chance.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Which pairs of networks meet directly, and how fast.
    Matrix {
        /// Only pairs of these, by the letters of the table, with commas between.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Only pairs whose networks have a NAT in common.
        #[arg(long, conflicts_with = "only")]
        neighbours: bool,
        #[command(flatten)]
        at_once: AtOnce,
        #[command(flatten)]
        common: Common,
    },
    /// The same behind NATs of the kernel: each with its like, and each with that of most homes.
    Kernel {
        #[command(flatten)]
        at_once: AtOnce,
        #[command(flatten)]
        common: Common,
    },
    /// How often random ports meet a NAT that keeps its own.
    Effort {
        /// Pairs, each of new daemons.
        #[arg(long, default_value_t = 40)]
        trials: usize,
        #[command(flatten)]
        at_once: AtOnce,
        #[command(flatten)]
        common: Common,
    },
    /// What bad links leave of a tunnel.
    Links {
        /// Only these, by their number, with commas between.
        #[arg(long, value_delimiter = ',')]
        only: Vec<usize>,
        #[command(flatten)]
        common: Common,
    },
    /// How fast the paths are that pairs of networks end on.
    Rates {
        #[command(flatten)]
        common: Common,
    },
    /// Which packets are sent where longer ones vanish.
    Mtu {
        #[command(flatten)]
        common: Common,
    },
    /// What two agents that talk notice when the network changes under them.
    Roam {
        /// The networks of the two, by the letters of the matrix: two port-restricted ones, or two of both families.
        #[arg(long, value_delimiter = ',', default_value = "P,P")]
        networks: Vec<String>,
        /// Seconds for which the caller's machine sleeps.
        #[arg(long, default_value_t = 120)]
        sleep: u64,
        #[command(flatten)]
        common: Common,
    },
}

/// How much goes on at a time.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct AtOnce {
    /// Pairs at a time.
    #[arg(long, default_value_t = 4)]
    at_once: usize,
}

/// What all scenarios with agents take.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Decides everything that is left to chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program to try, built with `cargo build --release -p pilot-ctl` [default: beside this one].
    #[arg(long, env = "PILOTCTL")]
    pilotctl: Option<PathBuf>,
    /// Every deadline is so many times what it should be, for a machine that has other things to do.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    slack: u32,
    /// Keep the page in this file too.
    #[arg(long)]
    save: Option<PathBuf>,
}

/// What every scenario with agents needs.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) pilotctl: PathBuf,
    pub(crate) seed: u64,
    /// What deadlines are multiplied with.
    pub(crate) slack: u32,
}

impl Rig {
    /// Relayed packets in ten seconds that are no traffic. A daemon that gets no processor takes its silence for that of a path that may be dead,
    /// and asks by the relay too; pings that are relayed are forty a second.
    pub(crate) fn strays_max(&self) -> u64 {
        u64::from(self.slack - 1) * STRAYS
    }
}

/// What a scenario has found.
#[derive(Debug)]
pub(crate) struct Findings {
    /// For people.
    pub(crate) page: String,
    /// Each thing that is not as it should be.
    pub(crate) wrong: Vec<String>,
}

/// Builds the hosts, runs the scenario, prints what came out, and removes everything.
///
/// # Errors
/// If a lab could not be built, or what came out is not what should.
pub(crate) fn run(scenario: &Scenario) -> Result<(), BenchError> {
    match scenario {
        Scenario::Classify { seed } => {
            print!("{}", Run::here(1).lab_markdown(*seed, &ceiling::sentence()?));
            classify::run(*seed)
        }
        Scenario::Matrix { only, neighbours, at_once, common } => {
            let networks = if only.is_empty() && !neighbours { Network::ALL.to_vec() } else { named(only)? };
            common.judge(|rig| matrix::run(rig, &networks, at_once.at_once))
        }
        Scenario::Kernel { at_once, common } => common.judge(|rig| matrix::run_kernel(rig, at_once.at_once)),
        Scenario::Effort { trials, at_once, common } => {
            common.judge(|rig| matrix::effort(rig, *trials, at_once.at_once))
        }
        Scenario::Links { only, common } => common.judge(|rig| links::run(rig, only)),
        Scenario::Rates { common } => common.judge(rates::run),
        Scenario::Mtu { common } => common.judge(mtu::run),
        Scenario::Roam { networks, sleep, common } => {
            let networks = named(networks)?;
            let networks =
                <[Network; 2]>::try_from(networks).map_err(|_| BenchError::Wrong("two networks, please".to_owned()))?;
            common.judge(|rig| roam::run(rig, networks, Duration::from_secs(*sleep)))
        }
    }
}

impl Common {
    /// Prints what a scenario finds, keeps it if asked to, and fails with what is wrong about it.
    fn judge(&self, scenario: impl FnOnce(&Rig) -> Result<Findings, BenchError>) -> Result<(), BenchError> {
        let pilotctl = self.pilotctl.clone().map_or_else(crate::beside_this_program, Ok)?;
        if !pilotctl.is_file() {
            return Err(BenchError::NoPilotctl(pilotctl));
        }
        let head = Run::here(1).lab_markdown(self.seed, &ceiling::sentence()?);
        let rig = Rig { pilotctl, seed: self.seed, slack: self.slack };
        let Findings { page, wrong } = scenario(&rig)?;
        let verdict = if wrong.is_empty() { "All as it should be." } else { "NOT all as it should be." };
        let page = format!("{head}{page}\n{verdict}\n");
        println!("{page}");
        self.save.as_ref().map_or(Ok(()), |path| std::fs::write(path, &page))?;
        if wrong.is_empty() { Ok(()) } else { Err(BenchError::Wrong(wrong.join("\n       "))) }
    }
}

/// The networks of these letters.
fn named(letters: &[String]) -> Result<Vec<Network>, BenchError> {
    let network = |letter: &String| {
        let found = Network::ALL.into_iter().find(|network| network.to_string() == *letter);
        found.ok_or_else(|| {
            BenchError::Wrong(format!(
                "no network '{letter}'; there are {}",
                Network::ALL.map(|network| network.to_string()).join(", ")
            ))
        })
    };
    letters.iter().map(network).collect()
}
