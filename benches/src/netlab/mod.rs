//! The network lab: real programs on hosts of their own, behind every NAT and link that the simulator has, in real time.
//!
//! ```text
//! cargo run --release -p pilot-bench -- netlab classify      that each emulated NAT behaves as named
//! cargo run --release -p pilot-bench -- netlab matrix        which pairs of NATs meet directly, and how fast
//! cargo run --release -p pilot-bench -- netlab roam          what changes of the network cost a stream
//! ```
//!
//! [`packet`] and [`router`] are the network, without I/O; [`engine`] runs it; [`lab`] builds hosts around it. The scenarios are on top:
//! [`classify`] proves the lab; [`matrix`] and [`roam`] put [`agents`] into it. It takes root on Linux.

mod agents;
mod classify;
mod engine;
pub(crate) mod lab;
mod matrix;
mod nats;
mod packet;
mod roam;
pub(crate) mod router;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pilot_sim::meeting::Network;

use crate::error::BenchError;
use crate::report::Run;

/// What the lab can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Proves that each emulated NAT behaves as named, from outside (RFC 5780).
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
        /// Pairs at a time.
        #[arg(long, default_value_t = 4)]
        at_once: usize,
        #[command(flatten)]
        common: Common,
    },
    /// What two agents that talk notice when the network changes under them.
    Roam {
        /// The networks of the two, by the letters of the matrix.
        #[arg(long, value_delimiter = ',', num_args = 2, default_value = "P,P")]
        networks: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
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
    /// Keep the page in this file too.
    #[arg(long)]
    save: Option<PathBuf>,
}

/// Builds the hosts, runs the scenario, prints what came out, and removes everything.
pub(crate) fn run(scenario: &Scenario) -> Result<(), BenchError> {
    match scenario {
        Scenario::Classify { seed } => classify::run(*seed),
        Scenario::Matrix { only, at_once, common } => {
            let networks = if only.is_empty() { Network::ALL.to_vec() } else { named(only)? };
            common.page(|pilotctl, seed| matrix::run(pilotctl, &networks, seed, *at_once))
        }
        Scenario::Roam { networks, common } => {
            let networks = named(networks)?;
            let networks =
                <[Network; 2]>::try_from(networks).map_err(|_| BenchError::Wrong("two networks, please".to_owned()))?;
            common.page(|pilotctl, seed| roam::run(pilotctl, networks, seed))
        }
    }
}

impl Common {
    /// Prints what a scenario finds, and keeps it if asked to.
    fn page(&self, scenario: impl FnOnce(&Path, u64) -> Result<String, BenchError>) -> Result<(), BenchError> {
        let pilotctl = self.pilotctl.clone().map_or_else(crate::beside_this_program, Ok)?;
        let page = Run::here(1).lab_markdown(self.seed) + &scenario(&pilotctl, self.seed)?;
        println!("{page}");
        self.save.as_ref().map_or(Ok(()), |path| Ok(std::fs::write(path, page)?))
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
