//! `pilot-bench`: the figures of Pilot, each beside a TCP twin measured in the same run.
//!
//! ```text
//! cargo run --release -p pilot-bench --features peers -- compare       Pilot beside TCP, TLS, QUIC and HTTP
//! cargo run --release -p pilot-bench -- figures                        the daemon beside twins that are processes
//! cargo run --release -p pilot-bench -- flood                          what a flood leaves of a stream
//! cargo run --release -p pilot-bench -- fleet                          the first day of a hundred agents
//! ```
//!
//! `compare`, with the feature `peers`, stands for itself. [`figure`] is how a quantity of the rest is measured, [`mod@figures`] is which
//! ones there are, [`report`] is what is said about them. The contestants: [`daemons`] (real processes), [`agents`] (the library) and
//! [`tcp`]. [`mod@flood`] stands apart: its twin is the same flood elsewhere; so does [`mod@fleet`], which has no twin, with the decisions that
//! a fleet rests on in [`micro`], and [`netlab`], a network of its own.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what was measured is this program's output")]

mod agents;
#[cfg(feature = "peers")]
mod compare;
mod daemons;
mod error;
mod exchange;
mod figure;
mod figures;
mod fleet;
mod flood;
mod micro;
#[cfg(target_os = "linux")]
mod netlab;
mod report;
mod tap;
mod tcp;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;

use crate::error::BenchError;
use crate::exchange::on_this_thread;
use crate::figures::{FIGURES, Stage};
use crate::report::Run;

/// The figures of Pilot, each beside a TCP twin measured in the same run.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Measure.
    Figures(FiguresArgs),
    /// Compare with TCP, TLS, QUIC and HTTP.
    #[cfg(feature = "peers")]
    Compare(compare::CompareArgs),
    /// One end of a comparison.
    #[cfg(feature = "peers")]
    #[command(hide = true, subcommand)]
    End(compare::end::End),
    /// Measure what a flood of forged packets leaves of an established stream.
    Flood(FloodArgs),
    /// Run real programs behind emulated NATs and links.
    #[cfg(target_os = "linux")]
    #[command(subcommand)]
    Netlab(netlab::Scenario),
    /// Measure a fleet of agents, from its first boot to a revocation.
    Fleet(FleetArgs),
    /// The twin of a daemon: listens, says so, and echoes until it is killed.
    #[command(hide = true)]
    TcpServer,
    /// The twin of `pilotctl ping`: one round trip.
    #[command(hide = true)]
    TcpPing { address: SocketAddr },
}

#[derive(Debug, Args)]
struct FiguresArgs {
    /// Only these, by name, with commas between; an unknown one lists them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A line of JSON for each result instead of tables.
    #[arg(long)]
    json: bool,
    /// Rounds behind each median.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The program to measure, built with `cargo build --release -p pilot-ctl` [default: beside this one].
    #[arg(long, env = "PILOTCTL")]
    pilotctl: Option<PathBuf>,
    /// Keep the results in this directory too.
    #[arg(long)]
    save: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct FloodArgs {
    /// Rounds behind each median.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each contestant is measured in a round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Keep the results in this file too.
    #[arg(long)]
    save: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct FleetArgs {
    /// Agents of the fleet.
    #[arg(long, default_value_t = 100)]
    agents: usize,
    /// Fleets behind each median.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The program to measure, built with `cargo build --release -p pilot-ctl` [default: beside this one].
    #[arg(long, env = "PILOTCTL")]
    pilotctl: Option<PathBuf>,
    /// The program as it is handed out, built with `packaging/build static`, for its size.
    #[arg(long)]
    handed_out: Option<PathBuf>,
    /// Keep the results in this file too.
    #[arg(long)]
    save: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Figures(args) => figures(args),
        #[cfg(feature = "peers")]
        Verb::Compare(args) => compare::run(&args),
        #[cfg(feature = "peers")]
        Verb::End(end) => compare::end::run(end),
        Verb::Flood(args) => flood(&args),
        #[cfg(target_os = "linux")]
        Verb::Netlab(scenario) => netlab::run(&scenario),
        Verb::Fleet(args) => fleet(args),
        Verb::TcpServer => tcp_server(),
        Verb::TcpPing { address } => tcp_ping(address),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn figures(args: FiguresArgs) -> Result<(), BenchError> {
    let unknown = args.only.iter().find(|name| FIGURES.iter().all(|(known, _)| known != name));
    if let Some(unknown) = unknown {
        let known: Vec<_> = FIGURES.iter().map(|(name, _)| *name).collect();
        return Err(BenchError::Wrong(format!("no figure '{unknown}'; there are {}", known.join(", "))));
    }
    let run = Run::here(args.rounds);
    if args.json {
        println!("{}", run.json());
    } else {
        println!("{}", run.markdown());
    }
    let stage = Stage::new(args.pilotctl.map_or_else(beside_this_program, Ok)?)?;
    let mut outcomes = Vec::new();
    for (name, make) in FIGURES {
        if args.only.is_empty() || args.only.iter().any(|only| only == name) {
            let outcome = make(&stage)?.run(args.rounds)?;
            if args.json {
                report::json_lines(&outcome).iter().for_each(|line| println!("{line}"));
            } else {
                println!("{}", report::table(&outcome));
            }
            outcomes.push(outcome);
        }
    }
    args.save.map_or(Ok(()), |directory| report::save(&directory, &run, &outcomes))
}

fn flood(args: &FloodArgs) -> Result<(), BenchError> {
    let run = Run::here(args.rounds);
    let (figure, tallies) = flood::figure(Duration::from_secs(args.seconds))?;
    let outcome = figure.run(args.rounds)?;
    let page = report::flood_page(&run, &outcome, &tallies.borrow());
    println!("{page}");
    args.save.as_ref().map_or(Ok(()), |path| Ok(std::fs::write(path, page)?))
}

fn fleet(args: FleetArgs) -> Result<(), BenchError> {
    let run = Run::here(args.rounds);
    let program = args.pilotctl.map_or_else(beside_this_program, Ok)?;
    let micro = [micro::proof_check()?, micro::rule_decision()?].map(|figure| figure.run(args.rounds));
    let micro = micro.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut days = Vec::with_capacity(args.rounds);
    for _ in 0..args.rounds {
        days.push(fleet::day(&program, args.agents)?);
    }
    let sizes = std::iter::once(program).chain(args.handed_out).map(|program| fleet::size(&program));
    let page = report::fleet_page(&run, args.agents, &days, &sizes.collect::<Result<Vec<_>, _>>()?, &micro);
    println!("{page}");
    args.save.map_or(Ok(()), |path| Ok(std::fs::write(path, page)?))
}

fn beside_this_program() -> Result<PathBuf, BenchError> {
    Ok(std::env::current_exe()?.with_file_name("pilotctl"))
}

fn tcp_server() -> Result<(), BenchError> {
    on_this_thread(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        tcp::serve(listener).await
    })
}

fn tcp_ping(address: SocketAddr) -> Result<(), BenchError> {
    on_this_thread(async { exchange::round_trip_us(&mut tcp::connect(address).await?, 1).await.map(drop) })
}
