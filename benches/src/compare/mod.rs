//! `compare`: Pilot beside its peers, workload by workload, all in the same run.
//!
//! ```text
//! cargo run --release -p pilot-bench --features peers -- compare --save benches/results  everything, and what came out is kept
//! cargo run --release -p pilot-bench --features peers -- compare --only bulk,rr --json   some of it, for programs
//! ```
//!
//! A *system* carries *exchanges*: so many bytes there, so many back ([`system`]). One module a system says how it serves and calls
//! ([`systems`]); [`task`] is what clients do with any of them, [`workloads`] what that means. Ends are processes ([`process`], [`end`]), so
//! that what each costs can be read off, and so that they can stand on hosts of the network lab. The rounds are interleaved: each measures
//! every system once, and ratios are those within a round ([`results`]). A peer that is far below what it is known to reach fails the run
//! ([`anchors`]).

mod anchors;
pub(crate) mod end;
mod errand;
mod pipe;
mod plot;
mod process;
mod relay;
mod results;
mod system;
mod systems;
mod task;
mod workloads;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use self::results::{Outcome, Rounds};
use self::system::Kind;
use self::workloads::{Stage, WORKLOADS, Workload};
use crate::error::BenchError;
use crate::report::Run;

/// Fewer say little of a machine that others work on, too.
const ROUNDS_MIN: usize = 5;

/// What `compare` takes.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Only these workloads, by name, with commas between; an unknown one lists them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these systems, by name, with commas between; plain TCP is always there.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Lines of JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Rounds behind each median; below five the run is a trial, and peers are not held to what they are known to reach.
    #[arg(long, default_value_t = ROUNDS_MIN)]
    rounds: usize,
    /// The program to measure, built with `cargo build --release -p pilot-ctl` [default: beside this one].
    #[arg(long, env = "PILOTCTL")]
    pilotctl: Option<PathBuf>,
    /// Keep the results in this directory too: JSON, a page and pictures, for each workload.
    #[arg(long)]
    save: Option<PathBuf>,
}

/// Measures, and says what came out.
pub(crate) fn run(args: &CompareArgs) -> Result<(), BenchError> {
    let systems = chosen(&args.systems)?;
    check_workloads(&args.only)?;
    let run = Run::here(args.rounds);
    if args.json {
        println!("{}", run.json());
    } else {
        println!("{}", run.markdown());
    }
    let pilotctl = args.pilotctl.clone().map_or_else(crate::beside_this_program, Ok)?;
    let mut stage = Stage::new(pilotctl, systems.clone());
    let mut all = Vec::new();
    for (name, make) in WORKLOADS {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        let mut workload = make();
        if let Some(obstacle) = workload.obstacle() {
            eprintln!("SKIPPED {name}: {obstacle}");
            continue;
        }
        let outcomes = measure(&mut *workload, &mut stage, args.rounds)?;
        if args.json {
            outcomes.iter().flat_map(Outcome::json).for_each(|line| println!("{line}"));
        } else {
            println!("{}", workload.page(&outcomes));
        }
        if let Some(directory) = &args.save {
            save(directory, name, &run, &*workload, &outcomes)?;
        }
        all.extend(outcomes);
    }
    let missed = anchors::missed(&all, &systems);
    if missed.is_empty() || args.rounds < ROUNDS_MIN { Ok(()) } else { Err(BenchError::Wrong(missed.join("\n"))) }
}

/// All rounds, after one that is not kept. Who fails is told of, and the others go on.
fn measure(workload: &mut dyn Workload, stage: &mut Stage, count: usize) -> Result<Vec<Outcome>, BenchError> {
    let mut rounds = Rounds::default();
    let systems: Vec<_> = workload.systems().into_iter().filter(|kind| stage.has(*kind)).collect();
    let unkept = usize::from(workload.warms_up());
    for round in 0..count + unkept {
        for kind in &systems {
            match workload.measure(stage, *kind) {
                Ok(samples) if round >= unkept => rounds.add(round - unkept, *kind, &samples),
                Ok(_) => (),
                Err(error) if kind.is_pilot() || *kind == Kind::Tcp => return Err(error),
                Err(error) => eprintln!("{} failed: {error}", kind.name()),
            }
        }
    }
    Ok(rounds.outcomes())
}

fn chosen(names: &[String]) -> Result<Vec<Kind>, BenchError> {
    if names.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    let known = || Kind::ALL.map(Kind::name).join(", ");
    let find = |name: &String| {
        Kind::named(name).ok_or_else(|| BenchError::Wrong(format!("no system '{name}'; there are {}", known())))
    };
    let mut systems = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    systems.push(Kind::Tcp);
    Ok(systems)
}

fn check_workloads(names: &[String]) -> Result<(), BenchError> {
    let known: Vec<_> = WORKLOADS.iter().map(|(name, _)| *name).collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(BenchError::Wrong(format!("no workload '{unknown}'; there are {}", known.join(", ")))),
    }
}

/// `NAME.jsonl` for programs, `NAME.md` for people, and a picture of each quantity.
fn save(
    directory: &Path,
    name: &str,
    run: &Run,
    workload: &dyn Workload,
    outcomes: &[Outcome],
) -> Result<(), BenchError> {
    std::fs::create_dir_all(directory)?;
    let lines = std::iter::once(run.json()).chain(outcomes.iter().flat_map(Outcome::json));
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(directory.join(format!("{name}.jsonl")), lines)?;
    let mut page = format!("# {name}\n\n{}{}", run.markdown(), workload.page(outcomes));
    for outcome in outcomes.iter().filter(|outcome| workload.has_picture(&outcome.quantity)) {
        let picture = format!("{}.svg", outcome.quantity.name);
        plot::draw(outcome, &directory.join(&picture))?;
        // Writing to a string does not fail.
        _ = writeln!(page, "\n![{}]({picture})", outcome.quantity.name);
    }
    Ok(std::fs::write(directory.join(format!("{name}.md")), page)?)
}
