//! What the simulator has found, each under a name that tells the story.

use std::time::Duration;

use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Pair, pair};

const PATIENCE: Duration = Duration::from_secs(60);

/// Both agents dial at once; message 1 of each is answered by the other before it knows better. Each then had a tunnel of its own, and
/// took the first packet of the other's for a restart.
fn crossing_dials_end_in_one_tunnel(link: &LinkConfig) -> Result<(), Failure> {
    let seeds: Vec<u64> = (0..60).collect();
    for_each_seed(&seeds, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, link.clone());
        let jobs = [world.start_job(alice, bob, Plan::echo(20_000))?, world.start_job(bob, alice, Plan::echo(20_000))?];
        world.complete(&jobs, PATIENCE)
    })
}

#[test]
fn crossing_dials_that_overtake_each_other_end_in_one_tunnel() -> Result<(), Failure> {
    crossing_dials_end_in_one_tunnel(&LinkConfig::default().overtaking_jitter(Duration::from_millis(50)))
}

#[test]
fn crossing_dials_that_are_partly_lost_end_in_one_tunnel() -> Result<(), Failure> {
    let link = LinkConfig::default().loss(Chance::percent(30)).overtaking_jitter(Duration::from_millis(100));
    crossing_dials_end_in_one_tunnel(&link)
}

#[test]
fn crossing_dials_that_arrive_twice_end_in_one_tunnel() -> Result<(), Failure> {
    let link = LinkConfig::default().duplication(Chance::percent(50)).reordering(Chance::percent(50));
    crossing_dials_end_in_one_tunnel(&link)
}
