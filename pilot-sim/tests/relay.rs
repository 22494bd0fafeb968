//! Relay and direct path: which carries the data is judged by the packets on the links, not by what the nodes say.

use std::time::Duration;

use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Relayed, relayed};
use pilot_sim::world::Job;

const SEEDS: &[u64] = &[1, 2, 3];
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// Slow enough that a transfer of a few megabytes is under way for a while: 1 MB/s.
fn slow_link() -> LinkConfig {
    LinkConfig::default().rate(1_000_000, 128 * 1024)
}

/// Lets a transfer from one agent to the other get under way.
fn transfer_under_way(net: &mut Relayed, len: u64) -> Result<Job, Failure> {
    let job = net.world.start_job(net.alice, net.bob, Plan::transfer(1_000, len))?;
    net.world.run_until("the first quarter", PATIENCE, |world| {
        world.report(job).is_some_and(|report| report.received > len / 4)
    })?;
    Ok(job)
}

#[test]
fn where_the_direct_path_is_blocked_the_relay_carries_everything() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default().loss(Chance::percent(2)))?;
        net.block_direct(true);
        let transfer = net.world.start_job(net.alice, net.bob, Plan::transfer(MIB, MIB))?;
        let echo = net.world.start_job(net.bob, net.alice, Plan::echo(100_000))?;
        net.world.complete(&[transfer, echo], PATIENCE)?;
        assert!(net.relayed_packets() > 2 * MIB / 1_152);
        net.world.settle()
    })
}

#[test]
fn nobody_waits_for_the_direct_path() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default())?;
        net.block_direct(true);
        net.world.run_for(Duration::from_secs(5))?;
        let request = net.world.start_job(net.alice, net.bob, Plan::request(100, 100))?;
        net.world.complete(&[request], PATIENCE)?;
        let answer_time = net.world.report(request).and_then(|report| report.answer_time());
        // Four ways from agent to agent by the relay at 20 ms each: handshake and request, and the call for the circuit within the first.
        assert!(answer_time.is_some_and(|time| time <= Duration::from_millis(130)), "{answer_time:?}");
        Ok(())
    })
}

#[test]
fn a_direct_path_is_taken_once_it_opens() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default())?;
        net.block_direct(true);
        let by_relay = net.world.start_job(net.alice, net.bob, Plan::echo(100_000))?;
        net.world.complete(&[by_relay], PATIENCE)?;
        assert!(net.relayed_packets() > 100);
        net.block_direct(false);
        for _ in 0..80 {
            let request = net.world.start_job(net.alice, net.bob, Plan::request(100, 100))?;
            net.world.complete(&[request], PATIENCE)?;
            net.world.run_for(Duration::from_secs(1))?;
        }
        let (relayed, direct) = (net.relayed_packets(), net.direct_packets());
        let transfer = net.world.start_job(net.alice, net.bob, Plan::transfer(MIB, MIB))?;
        net.world.complete(&[transfer], PATIENCE)?;
        assert_eq!(net.relayed_packets(), relayed);
        assert!(net.direct_packets() > direct + 2 * MIB / 1_472);
        net.world.settle()
    })
}

#[test]
fn who_takes_nothing_directly_any_more_is_answered_by_relay_at_once() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default())?;
        let direct = net.world.start_job(net.alice, net.bob, Plan::echo(100_000))?;
        net.world.complete(&[direct], PATIENCE)?;
        net.world.run_for(Duration::from_secs(1))?;
        let relayed = net.relayed_packets();
        net.world.call(net.alice, |node, now| node.set_direct(now, false))?;
        let request = net.world.start_job(net.alice, net.bob, Plan::request(100, 100))?;
        net.world.complete(&[request], PATIENCE)?;
        let answer_time = net.world.report(request).and_then(|report| report.answer_time());
        // By relay there and back, 80 ms, and one repetition of an answer that was on its way directly.
        assert!(answer_time.is_some_and(|time| time <= Duration::from_millis(500)), "{answer_time:?}");
        assert!(net.relayed_packets() > relayed);
        net.world.settle()
    })
}

#[test]
fn an_open_direct_path_is_taken_at_once() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default())?;
        let transfer = net.world.start_job(net.alice, net.bob, Plan::transfer(4 * MIB, 4 * MIB))?;
        net.world.complete(&[transfer], PATIENCE)?;
        let (relayed, direct) = (net.relayed_packets(), net.direct_packets());
        assert!(relayed * 10 < direct, "{relayed} relayed, {direct} direct");
        net.world.settle()
    })
}

#[test]
fn a_direct_path_that_dies_in_mid_transfer_is_replaced_by_the_relay() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, slow_link())?;
        let job = transfer_under_way(&mut net, 8 * MIB)?;
        let before = net.relayed_packets();
        net.world.run_for(Duration::from_secs(1))?;
        assert_eq!(net.relayed_packets(), before);
        net.block_direct(true);
        net.world.complete(&[job], PATIENCE)?;
        assert!(net.relayed_packets() > before + 4 * MIB / 1_152);
        net.world.settle()
    })
}

#[test]
fn a_transfer_outlives_the_death_and_return_of_its_relay() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, slow_link())?;
        net.block_direct(true);
        let job = transfer_under_way(&mut net, 4 * MIB)?;
        net.world.kill(net.backbone);
        net.world.run_for(Duration::from_secs(15))?;
        assert!(net.world.report(job).is_some_and(|report| report.ended.is_none() && report.stalls == 1));
        net.world.boot(net.backbone)?;
        net.world.complete(&[job], PATIENCE)?;
        net.world.settle()
    })
}

#[test]
fn a_direct_transfer_does_not_notice_the_death_of_the_relay() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, slow_link())?;
        let job = transfer_under_way(&mut net, 4 * MIB)?;
        net.world.kill(net.backbone);
        net.world.complete(&[job], Duration::from_secs(10))?;
        assert_eq!(net.world.report(job).map(|report| report.stalls), Some(0));
        Ok(())
    })
}

#[test]
fn one_side_forbids_direct_paths_and_allows_them_again() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default())?;
        let first = net.world.start_job(net.alice, net.bob, Plan::echo(1_000))?;
        net.world.complete(&[first], PATIENCE)?;
        net.world.run_for(Duration::from_secs(2))?;
        net.world.call(net.alice, |node, now| node.set_direct(now, false))?;
        let relayed = net.relayed_packets();
        let by_relay = net.world.start_job(net.alice, net.bob, Plan::echo(100_000))?;
        net.world.complete(&[by_relay], Duration::from_secs(3))?;
        assert!(net.relayed_packets() > relayed + 100);
        net.world.call(net.alice, |node, now| node.set_direct(now, true))?;
        net.world.run_for(Duration::from_secs(2))?;
        let relayed = net.relayed_packets();
        let direct_again = net.world.start_job(net.alice, net.bob, Plan::echo(100_000))?;
        net.world.complete(&[direct_again], Duration::from_secs(3))?;
        assert_eq!(net.relayed_packets(), relayed);
        net.world.settle()
    })
}
