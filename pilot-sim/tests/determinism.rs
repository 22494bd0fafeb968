//! The simulator itself: one seed, one run.

use std::time::Duration;

use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::topology::{Pair, pair};

fn trace_of(seed: u64) -> Result<u64, Failure> {
    let link = LinkConfig::default().overtaking_jitter(Duration::from_millis(5)).loss(Chance::percent(5));
    let Pair { mut world, alice, bob } = pair(seed, link);
    let jobs = [
        world.start_job(alice, bob, Plan::transfer(100_000, 100_000))?,
        world.start_job(bob, alice, Plan::echo(10_000))?,
    ];
    world.complete(&jobs, Duration::from_secs(60))?;
    Ok(world.trace_hash())
}

#[test]
fn the_same_seed_gives_the_same_trace() -> Result<(), Failure> {
    assert_eq!(trace_of(1)?, trace_of(1)?);
    Ok(())
}

#[test]
fn another_seed_gives_another_trace() -> Result<(), Failure> {
    assert_ne!(trace_of(1)?, trace_of(2)?);
    Ok(())
}
