//! What the simulator has found, each under a name that tells the story.

use std::time::Duration;

use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::storm::Storm;
use pilot_sim::topology::{Pair, Relayed, pair, relayed};
use pilot_sim::world::{Job, World};

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

/// An agent that had a tunnel by way of the relay is gone, and so is the circuit: a stream that is opened now has no way to go by.
fn stream_without_a_way(seed: u64) -> Result<(Relayed, Job), Failure> {
    let mut net = relayed(seed, LinkConfig::default())?;
    net.block_direct(true);
    let first = net.world.start_job(net.alice, net.bob, Plan::request(100, 100))?;
    net.world.complete(&[first], PATIENCE)?;
    net.world.kill(net.bob);
    net.world.restart(net.backbone)?;
    net.world.run_for(Duration::from_secs(30))?;
    let job = net.world.start_job(net.alice, net.bob, Plan::request(100, 100))?;
    net.world.run_for(Duration::from_secs(5))?;
    Ok((net, job))
}

fn has_ended(world: &World, job: Job) -> bool {
    world.report(job).is_some_and(|report| report.ended.is_some())
}

/// The one question for a circuit was answered with no, and nothing was in flight: nobody asked again, and no timer ran.
#[test]
fn a_stream_that_had_no_way_ends_when_its_agent_is_back() -> Result<(), Failure> {
    for_each_seed(&[1, 2, 3], |seed| {
        let (Relayed { mut world, bob, .. }, job) = stream_without_a_way(seed)?;
        assert!(!has_ended(&world, job));
        world.boot(bob)?;
        world.run_until("the end of the stream", PATIENCE, |world| has_ended(world, job))
    })
}

#[test]
fn a_stream_that_never_has_a_way_ends_at_the_idle_timeout() -> Result<(), Failure> {
    for_each_seed(&[1, 2, 3], |seed| {
        let (Relayed { mut world, .. }, job) = stream_without_a_way(seed)?;
        world.run_until("the end of the stream", Duration::from_secs(190), |world| has_ended(world, job))
    })
}

/// With the path in use, the one before it loses its proof. The challenge by which it might win it again was due at once, and had to wait for a
/// timer that was due already.
#[test]
fn an_address_before_the_last_is_challenged_in_the_turn_in_which_the_last_fails() -> Result<(), Failure> {
    for_each_seed(&[1, 2, 3], |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default());
        for _ in 0..2 {
            let job = world.start_job(alice, bob, Plan::echo(20_000))?;
            world.complete(&[job], PATIENCE)?;
            world.change_address(bob)?;
            world.run_for(Duration::from_secs(5))?;
        }
        let job = world.start_job(alice, bob, Plan::echo(20_000))?;
        world.complete(&[job], PATIENCE)?;
        world.kill(bob);
        world.start_job(alice, bob, Plan::echo(20_000))?;
        world.run_for(Duration::from_secs(10))
    })
}

/// Seeds of storms that found something: streams without a way, as above, and timers that were due the moment they were set.
#[test]
fn storms_that_found_something_find_nothing() -> Result<(), Failure> {
    for_each_seed(&[794, 1_956, 2_544, 3_159, 3_780, 7_700], |seed| Storm::SMALL.run(seed))
}
