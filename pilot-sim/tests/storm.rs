//! Seeds decide what happens to a whole network; whatever it was, afterwards everybody reaches everybody (`pilot_sim::storm`).
//!
//! Many more seeds: `cargo run --release -p pilot-sim --example storms -- 0 10000`.

use pilot_sim::invariants::Failure;
use pilot_sim::scenario::for_each_seed;
use pilot_sim::storm::Storm;

#[test]
fn two_hundred_storms_leave_everybody_reachable() -> Result<(), Failure> {
    let seeds: Vec<u64> = (0..200).collect();
    for_each_seed(&seeds, |seed| Storm::SMALL.run(seed))
}

#[test]
fn fifty_agents_that_come_and_go_leave_everybody_reachable() -> Result<(), Failure> {
    for_each_seed(&[1, 2], |seed| Storm::LARGE.run(seed))
}
