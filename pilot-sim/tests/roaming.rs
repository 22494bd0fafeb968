//! An agent whose address changes keeps its tunnels and streams: sessions are named by an index, not by an address.

use std::time::Duration;

use pilot_core::event::Event;
use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::LinkConfig;
use pilot_sim::nat::{NatConfig, UdpPolicy};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Pair, Relayed, pair, relayed};
use pilot_sim::world::{Families, HostId, World};

const SEEDS: &[u64] = &[1, 2, 3];
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn slow_link() -> LinkConfig {
    LinkConfig::default().rate(1_000_000, 128 * 1024)
}

/// Tunnels that an agent has had so far with another.
fn tunnels(world: &World, of: HostId, with: HostId) -> usize {
    let milestones = world.application(of).into_iter().flat_map(|application| application.milestones());
    let key = world.key(with);
    milestones.filter(|(_, event)| matches!(event, Event::PeerConnected { peer, .. } if *peer == key)).count()
}

/// One of the two moves in the middle of a transfer in the direction given by `plan`.
fn a_move_is_survived(plan: Plan, moves_opener: bool) -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, slow_link());
        let job = world.start_job(alice, bob, plan)?;
        world.run_for(Duration::from_secs(1))?;
        world.change_address(if moves_opener { alice } else { bob })?;
        world.complete(&[job], PATIENCE)?;
        assert_eq!((tunnels(&world, alice, bob), tunnels(&world, bob, alice)), (1, 1));
        world.settle()
    })
}

#[test]
fn a_sender_that_moves_goes_on_sending() -> Result<(), Failure> {
    a_move_is_survived(Plan::transfer(4 * MIB, 0), true)
}

#[test]
fn a_receiver_that_moves_goes_on_receiving() -> Result<(), Failure> {
    a_move_is_survived(Plan::transfer(4 * MIB, 0), false)
}

#[test]
fn an_opener_that_moves_goes_on_receiving() -> Result<(), Failure> {
    a_move_is_survived(Plan::transfer(100, 4 * MIB), true)
}

#[test]
fn agents_that_send_both_ways_survive_a_move() -> Result<(), Failure> {
    a_move_is_survived(Plan::transfer(4 * MIB, 4 * MIB), true)
}

#[test]
fn both_agents_may_move_one_after_the_other() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, slow_link());
        let job = world.start_job(alice, bob, Plan::transfer(4 * MIB, 4 * MIB))?;
        for mover in [alice, bob, alice, bob] {
            world.run_for(Duration::from_secs(1))?;
            world.change_address(mover)?;
        }
        world.complete(&[job], PATIENCE)?;
        assert_eq!((tunnels(&world, alice, bob), tunnels(&world, bob, alice)), (1, 1));
        world.settle()
    })
}

#[test]
fn a_relayed_agent_that_moves_keeps_home_and_stream() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, slow_link())?;
        net.block_direct(true);
        let Relayed { mut world, alice, bob, backbone } = net;
        let job = world.start_job(alice, bob, Plan::transfer(4 * MIB, 4 * MIB))?;
        world.run_for(Duration::from_secs(1))?;
        world.change_address(alice)?;
        world.complete(&[job], PATIENCE)?;
        assert_eq!((tunnels(&world, alice, bob), tunnels(&world, alice, backbone)), (1, 1));
        world.settle()
    })
}

/// Nothing is under way when it moves, and its next keepalive is 25 s ahead.
#[test]
fn an_idle_agent_that_moved_can_be_reached_at_once() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default())?;
        net.block_direct(true);
        let Relayed { mut world, alice, bob, .. } = net;
        for _ in 0..3 {
            let request = world.start_job(bob, alice, Plan::request(100, 100))?;
            world.complete(&[request], Duration::from_secs(1))?;
            world.run_for(Duration::from_secs(5))?;
            world.change_address(alice)?;
            world.run_for(Duration::from_secs(1))?;
        }
        Ok(())
    })
}

/// UDP gets nowhere there: only who knows that soon has a TLS link soon.
#[test]
fn an_agent_that_moved_misses_its_home_node_within_four_tenths_of_a_second() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Relayed { mut world, alice, .. } = relayed(seed, LinkConfig::default().delay(Duration::from_millis(20)))?;
        let nowhere = world.add_gateway(NatConfig::port_restricted().udp(UdpPolicy::Blocked), None);
        world.run_for(Duration::from_secs(10))?;
        world.move_behind(alice, Some(nowhere), Families::V4)?;
        let is_missed = |world: &World| has_missed_home(world, alice);
        world.run_until("the home node is missed", Duration::from_millis(400), is_missed)
    })
}

fn has_missed_home(world: &World, agent: HostId) -> bool {
    let milestones = world.application(agent).into_iter().flat_map(|application| application.milestones());
    milestones.into_iter().any(|(_, event)| matches!(event, Event::HomeLost))
}

/// The timeouts of the line before say nothing of the one there.
#[test]
fn an_agent_that_moved_to_a_line_ten_times_as_long_misses_nobody() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let link = |ms| LinkConfig::default().delay(Duration::from_millis(ms));
        let Relayed { mut world, alice, backbone, .. } = relayed(seed, link(9))?;
        world.run_for(Duration::from_secs(40))?;
        world.change_link(alice, backbone, |_| link(90));
        world.change_address(alice)?;
        world.run_for(Duration::from_secs(5))?;
        assert!(!has_missed_home(&world, alice));
        Ok(())
    })
}

/// A receiver says little; its sender must not go on sending to where it was.
#[test]
fn a_receiver_that_moves_receives_again_within_half_a_second() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, slow_link());
        let job = world.start_job(alice, bob, Plan::transfer(100, 4 * MIB))?;
        world.run_for(Duration::from_secs(2))?;
        world.change_address(alice)?;
        let received = world.report(job).map_or(0, |report| report.received);
        let goes_on = |world: &World| world.report(job).is_some_and(|report| report.received > received + 100_000);
        world.run_until("data at the new address", Duration::from_millis(500), goes_on)?;
        world.complete(&[job], PATIENCE)?;
        world.settle()
    })
}
