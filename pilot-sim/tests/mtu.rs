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
