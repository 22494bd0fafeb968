//! Storms of a range of seeds, on all cores: `cargo run --release -p pilot-sim --example storms -- FIRST END`.
//!
//! Prints every seed that fails with the rule that it broke, and how long all took. `PILOT_SIM_SEED=N cargo test -p pilot-sim --test storm` shows one in full.
#![expect(clippy::print_stdout, reason = "what failed is this program's output")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use pilot_sim::storm::Storm;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(end)), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: storms FIRST END   runs the seeds FIRST, FIRST + 1, ... END - 1");
        return ExitCode::from(2);
    };
    let (next, failed) = (AtomicU64::new(first), AtomicUsize::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            if let Err(failure) = Storm::SMALL.run(seed) {
                failed.fetch_add(1, Ordering::Relaxed);
                println!("seed {seed}: {} after {:?}", failure.violation, failure.at);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    println!("seeds {first} to {end}: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
