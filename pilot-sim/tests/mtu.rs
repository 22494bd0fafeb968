//! Packet sizes: what is found to fit is used, and left when it fits no more.

use std::time::Duration;

use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::meeting::{self, Meeting, Network};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Pair, pair};

const SEEDS: &[u64] = &[1, 2, 3];
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Datagrams that a transfer of 4 MiB takes.
fn datagrams_at(seed: u64, mtu: usize) -> Result<u64, Failure> {
    let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default().mtu(mtu).loss(Chance::percent(1)));
    let job = world.start_job(alice, bob, Plan::transfer(4 * MIB, 0))?;
    world.complete(&[job], PATIENCE)?;
    Ok(world.link_stats(alice, bob).offered)
}

#[test]
fn larger_packets_are_used_where_they_fit() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let (small, ethernet, jumbo) =
            (datagrams_at(seed, 1_200)?, datagrams_at(seed, 1_472)?, datagrams_at(seed, 8_972)?);
        assert!(ethernet * 100 < small * 90, "{small} {ethernet} {jumbo}");
        assert!(jumbo * 100 < small * 30, "{small} {ethernet} {jumbo}");
        Ok(())
    })
}

/// Tunnels and access lines carry what is between the common sizes.
#[test]
fn what_fits_between_two_common_sizes_is_found() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let (small, dsl) = (bytes_in_each(seed, 1_200)?, bytes_in_each(seed, 1_400)?);
        let (ethernet, odd) = (bytes_in_each(seed, 1_472)?, bytes_in_each(seed, 4_000)?);
        println!("bytes in each datagram at 1,200: {small}, 1,400: {dsl}, 1,472: {ethernet}, 4,000: {odd}");
        assert!(dsl > 1_280 && ethernet > 1_380 && odd > 3_600, "{dsl} {ethernet} {odd}");
        Ok(())
    })
}

/// Bytes of a transfer that each of its datagrams carries, once the search is over.
fn bytes_in_each(seed: u64, mtu: usize) -> Result<u64, Failure> {
    let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default().mtu(mtu));
    let search = world.start_job(alice, bob, Plan::transfer(8 * MIB, 0))?;
    for _ in 0..100 {
        let job = world.start_job(alice, bob, Plan::request(32, 32))?;
        world.complete(&[job], PATIENCE)?;
        world.run_for(Duration::from_millis(100))?;
    }
    world.complete(&[search], PATIENCE)?;
    let before = world.link_stats(alice, bob).offered;
    let job = world.start_job(alice, bob, Plan::transfer(4 * MIB, 0))?;
    world.complete(&[job], PATIENCE)?;
    Ok(4 * MIB / (world.link_stats(alice, bob).offered - before))
}

/// Silence says nothing about sizes: what fitted before a cut is found again after it.
#[test]
fn a_line_that_was_cut_carries_large_packets_again() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default().mtu(9_000).rate(5_000_000, 256 * 1024));
        let job = world.start_job(alice, bob, Plan::transfer(12 * MIB, 0))?;
        world.run_for(Duration::from_secs(1))?;
        for _ in 0..3 {
            world.change_link(alice, bob, |link| link.cut(true));
            world.run_for(Duration::from_secs(5))?;
            world.change_link(alice, bob, |link| link.cut(false));
            world.run_for(Duration::from_millis(200))?;
        }
        world.complete(&[job], PATIENCE)?;
        world.run_for(Duration::from_secs(60))?;
        let search = world.start_job(alice, bob, Plan::transfer(4 * MIB, 0))?;
        world.complete(&[search], PATIENCE)?;
        let before = world.link_stats(alice, bob).offered;
        let job = world.start_job(alice, bob, Plan::transfer(4 * MIB, 0))?;
        world.complete(&[job], PATIENCE)?;
        let bytes = 4 * MIB / (world.link_stats(alice, bob).offered - before);
        assert!(bytes > 7_000, "{bytes} in each datagram");
        Ok(())
    })
}

/// Whoever asks little, now and then, has a probe in most of his trains.
#[test]
fn a_probe_that_does_not_fit_takes_no_request_with_it() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let delay = Duration::from_millis(20);
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default().delay(delay));
        let connected = world.start_job(alice, bob, Plan::request(32, 32))?;
        world.complete(&[connected], PATIENCE)?;
        for _ in 0..20 {
            world.run_for(Duration::from_secs(1))?;
            let job = world.start_job(alice, bob, Plan::request(2_000, 2_000))?;
            let started = world.elapsed();
            world.complete(&[job], PATIENCE)?;
            let took = world.elapsed().saturating_sub(started);
            assert!(took < 3 * delay, "{took:?} for a round trip of {:?}", 2 * delay);
        }
        Ok(())
    })
}

#[test]
fn a_path_that_begins_to_swallow_large_packets_goes_on_with_small_ones() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default().mtu(9_000).rate(5_000_000, 256 * 1024));
        let job = world.start_job(alice, bob, Plan::transfer(12 * MIB, 12 * MIB))?;
        world.run_for(Duration::from_secs(2))?;
        assert!(world.report(job).is_some_and(|report| report.ended.is_none()));
        world.change_link(alice, bob, |link| link.mtu(1_300));
        world.complete(&[job], PATIENCE)?;
        world.settle()
    })
}

/// The path is left for the relay before the third probe timeout: its size has to be doubted by then, or it would be left again and again.
#[test]
fn a_direct_path_that_begins_to_swallow_large_packets_is_taken_again_with_small_ones() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let networks = meeting::Pair::Apart(Network::PortRestricted, Network::PortRestricted);
        let mut meeting = Meeting::new(seed, LinkConfig::default().rate(5_000_000, 256 * 1024), networks, true)?;
        assert!(meeting.run()?.direct.is_some());
        transfer(&mut meeting)?;
        meeting.change_direct(|link| link.mtu(1_300));
        transfer(&mut meeting)?;
        // In use, so that the path that has failed is probed again.
        for _ in 0..100 {
            meeting.world.run_for(Duration::from_millis(100))?;
            meeting.ping()?;
        }
        let before = meeting.relayed();
        transfer(&mut meeting)?;
        assert_eq!(meeting.relayed(), before, "by the direct path");
        Ok(())
    })
}

fn transfer(meeting: &mut Meeting) -> Result<(), Failure> {
    let job = meeting.world.start_job(meeting.alice, meeting.bob, Plan::transfer(4 * MIB, 0))?;
    meeting.world.complete(&[job], PATIENCE)
}
