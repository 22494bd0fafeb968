//! An agent that restarts has forgotten everything: its peers find out in a round trip, and tell their streams.

use std::time::Duration;

use pilot_core::transport::Code;
use pilot_sim::application::{Ending, Plan};
use pilot_sim::invariants::Failure;
use pilot_sim::link::LinkConfig;
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Pair, Relayed, pair, relayed};
use pilot_sim::world::{HostId, Job, World};

const SEEDS: &[u64] = &[1, 2, 3];
const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// What ends a job: one second is the promise.
fn ends_with_peer_restarted(world: &mut World, job: Job) -> Result<(), Failure> {
    world.run_until("the end of the job", SECOND, |world| {
        world.report(job).is_some_and(|report| report.ended.is_some())
    })?;
    let ending = world.report(job).and_then(|report| report.ended).map(|(_, ending)| ending);
    assert_eq!(ending, Some(Ending::Reset(Code::PEER_RESTARTED)));
    Ok(())
}

fn request_works(world: &mut World, from: HostId, to: HostId) -> Result<(), Failure> {
    let request = world.start_job(from, to, Plan::request(100, 100))?;
    world.complete(&[request], SECOND)
}

#[test]
fn streams_to_a_restarted_agent_end_and_the_next_request_works() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default().rate(1_000_000, 128 * 1024));
        let job = world.start_job(alice, bob, Plan::transfer(8 * MIB, 8 * MIB))?;
        world.run_for(SECOND)?;
        world.restart(bob)?;
        ends_with_peer_restarted(&mut world, job)?;
        request_works(&mut world, alice, bob)?;
        request_works(&mut world, bob, alice)?;
        world.settle()
    })
}

#[test]
fn a_stream_that_waits_for_an_answer_ends_too() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default());
        world.set_reading(bob, false)?;
        let waiting = world.start_job(alice, bob, Plan::request(100, 100))?;
        world.run_for(Duration::from_secs(10))?;
        world.restart(bob)?;
        world.run_for(SECOND)?;
        ends_with_peer_restarted(&mut world, waiting)?;
        request_works(&mut world, alice, bob)
    })
}

#[test]
fn an_agent_that_was_down_for_a_while_is_found_again() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default().rate(1_000_000, 128 * 1024));
        let job = world.start_job(alice, bob, Plan::transfer(8 * MIB, 0))?;
        world.run_for(SECOND)?;
        world.kill(bob);
        world.run_for(Duration::from_secs(20))?;
        assert!(world.report(job).is_some_and(|report| report.ended.is_none() && report.stalls == 1));
        world.boot(bob)?;
        world.run_for(SECOND)?;
        ends_with_peer_restarted(&mut world, job)?;
        request_works(&mut world, alice, bob)
    })
}

/// Nobody has told the caller of the restart: its next request finds out, in two round trips. Whether it may be repeated is for the caller
/// to know, so it ends; the one after it works.
#[test]
fn a_restart_that_went_unnoticed_costs_one_request() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default());
        request_works(&mut world, alice, bob)?;
        world.run_for(Duration::from_secs(10))?;
        world.restart(bob)?;
        let request = world.start_job(alice, bob, Plan::request(100, 100))?;
        let asked_at = world.now();
        ends_with_peer_restarted(&mut world, request)?;
        assert_eq!(world.now().since(asked_at), Duration::from_millis(40));
        request_works(&mut world, alice, bob)?;
        request_works(&mut world, bob, alice)?;
        world.settle()
    })
}

#[test]
fn a_restarted_agent_may_speak_first() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default());
        request_works(&mut world, alice, bob)?;
        world.run_for(Duration::from_secs(10))?;
        world.restart(bob)?;
        request_works(&mut world, bob, alice)?;
        request_works(&mut world, alice, bob)?;
        world.settle()
    })
}

#[test]
fn an_agent_behind_the_relay_is_found_again() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default())?;
        net.block_direct(true);
        let Relayed { mut world, alice, bob, .. } = net;
        world.set_reading(bob, false)?;
        let waiting = world.start_job(alice, bob, Plan::request(100, 100))?;
        world.run_for(Duration::from_secs(10))?;
        world.restart(bob)?;
        world.run_for(SECOND)?;
        ends_with_peer_restarted(&mut world, waiting)?;
        request_works(&mut world, alice, bob)
    })
}
