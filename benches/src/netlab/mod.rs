//! The network lab: real programs on hosts of their own, behind every NAT and link that the simulator has, in real time.
//!
//! ```text
//! cargo run --release -p pilot-bench -- netlab classify      that each emulated NAT behaves as named
//! cargo run --release -p pilot-bench -- netlab matrix        which pairs of NATs meet directly, and how fast
//! ```
//!
//! [`packet`] and [`router`] are the network, without I/O; [`engine`] runs it; [`lab`] builds hosts around it. The scenarios are on top:
//! [`classify`] proves the lab; [`matrix`] puts [`agents`] into it. It takes root on Linux.

mod agents;
mod classify;
mod engine;
mod lab;
mod matrix;
mod nats;
mod packet;
mod router;

use std::path::PathBuf;

use clap::Subcommand;
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
        /// Decides everything that is left to chance.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only pairs of these, by the letters of the table, with commas between.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Pairs at a time.
        #[arg(long, default_value_t = 4)]
        at_once: usize,
        /// The program to try, built with `cargo build --release -p pilot-ctl` [default: beside this one].
        #[arg(long, env = "PILOTCTL")]
        pilotctl: Option<PathBuf>,
        /// Keep the page in this file too.
        #[arg(long)]
        save: Option<PathBuf>,
    },
}

/// Builds the hosts, runs the scenario, prints what came out, and removes everything.
pub(crate) fn run(scenario: &Scenario) -> Result<(), BenchError> {
    match scenario {
        Scenario::Classify { seed } => classify::run(*seed),
        Scenario::Matrix { seed, only, at_once, pilotctl, save } => {
            let pilotctl = pilotctl.clone().map_or_else(crate::beside_this_program, Ok)?;
            let wanted = |network: &Network| only.is_empty() || only.contains(&network.to_string());
            let networks: Vec<_> = Network::ALL.into_iter().filter(wanted).collect();
            let head = Run::here(1).lab_markdown(*seed);
            let page = head + &matrix::run(&pilotctl, &networks, *seed, *at_once)?;
            println!("{page}");
            save.as_ref().map_or(Ok(()), |path| Ok(std::fs::write(path, page)?))
        }
    }
}
