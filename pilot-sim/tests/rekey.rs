//! Keys are renewed under way: no byte is lost by it, and none is late.

use std::time::Duration;

use pilot_core::event::Event;
use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Pair, pair};
use pilot_sim::world::{HostId, World};

const SEEDS: &[u64] = &[1, 2];
const MIB: u64 = 1 << 20;

fn handshakes(world: &World, host: HostId) -> u64 {
    world.node(host).map_or(0, |node| node.stats().handshakes)
}

fn has_one_tunnel(world: &World, host: HostId) -> bool {
    let milestones = world.application(host).into_iter().flat_map(|application| application.milestones());
    milestones.filter(|(_, event)| matches!(event, Event::PeerConnected { .. })).count() == 1
}

#[test]
fn no_request_is_late_over_400_seconds() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default());
        let first = world.start_job(alice, bob, Plan::request(100, 100))?;
        world.complete(&[first], Duration::from_secs(5))?;
        while world.elapsed() < Duration::from_secs(400) {
            world.run_for(Duration::from_millis(1_700))?;
            let request = world.start_job(alice, bob, Plan::request(2_000, 2_000))?;
            world.complete(&[request], Duration::from_secs(5))?;
            let answer_time = world.report(request).and_then(|report| report.answer_time());
            assert!(answer_time.is_some_and(|time| time < Duration::from_millis(25)), "{answer_time:?}");
        }
        assert!(handshakes(&world, alice) >= 4);
        assert!(has_one_tunnel(&world, alice) && has_one_tunnel(&world, bob));
        world.settle()
    })
}

#[test]
fn a_transfer_of_400_seconds_is_exact() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let link = LinkConfig::default().rate(30_000, 30_000);
        let Pair { mut world, alice, bob } = pair(seed, link);
        let job = world.start_job(alice, bob, Plan::transfer(10 * MIB, MIB))?;
        world.complete(&[job], Duration::from_secs(600))?;
        assert!(world.elapsed() > Duration::from_secs(350), "{:?}", world.elapsed());
        assert!(handshakes(&world, alice) >= 3);
        assert!(has_one_tunnel(&world, alice) && has_one_tunnel(&world, bob));
        assert_eq!(world.report(job).map(|report| report.stalls), Some(0));
        world.settle()
    })
}

#[test]
fn a_rekey_whose_packets_are_lost_is_repeated() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let link = LinkConfig::default().loss(Chance::percent(20)).rate(100_000, 64 * 1024);
        let Pair { mut world, alice, bob } = pair(seed, link);
        let mut jobs = Vec::new();
        while world.elapsed() < Duration::from_secs(400) {
            jobs.push(world.start_job(alice, bob, Plan::echo(20_000))?);
            world.run_for(Duration::from_secs(4))?;
        }
        world.complete(&jobs, Duration::from_secs(60))?;
        assert!(has_one_tunnel(&world, alice) && has_one_tunnel(&world, bob));
        world.settle()
    })
}

#[test]
fn a_stream_that_sleeps_past_the_life_of_its_keys_wakes_up() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default());
        world.set_reading(bob, false)?;
        let sleeping = world.start_job(alice, bob, Plan::request(100_000, 100_000))?;
        world.run_for(Duration::from_secs(300))?;
        world.set_reading(bob, true)?;
        world.complete(&[sleeping], Duration::from_secs(5))?;
        assert!(has_one_tunnel(&world, alice) && has_one_tunnel(&world, bob));
        world.settle()
    })
}

#[test]
fn a_tunnel_that_slept_past_the_life_of_its_keys_costs_one_round_trip() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default());
        for pause in [0, 130, 200, 1_000] {
            world.run_for(Duration::from_secs(pause))?;
            let request = world.start_job(alice, bob, Plan::request(100, 100))?;
            world.complete(&[request], Duration::from_secs(5))?;
            let answer_time = world.report(request).and_then(|report| report.answer_time());
            // The first asks for the certificate, shakes hands, and asks; the others have the certificate.
            assert!(
                answer_time.is_some_and(|time| time < Duration::from_millis(65)),
                "{answer_time:?} after {pause} s"
            );
        }
        world.settle()
    })
}
