//! Byte-exact transfers in both directions, under each fault and under all of them.

use std::time::Duration;

use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Pair, pair};

const SEEDS: &[u64] = &[1, 2, 3];
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// No transfer here may take longer, whatever happens to its packets.
const PATIENCE: Duration = Duration::from_secs(120);

/// A transfer of `len` bytes each way, an echo from the other side and a few requests, all at once; both sides dial at the same moment.
fn everything_arrives(link: &LinkConfig, len: u64) -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, link.clone());
        let mut jobs = vec![
            world.start_job(alice, bob, Plan::transfer(len, len))?,
            world.start_job(bob, alice, Plan::echo(len / 4))?,
        ];
        for _ in 0..5 {
            jobs.push(world.start_job(alice, bob, Plan::request(1_000, 3_000))?);
        }
        world.complete(&jobs, PATIENCE)?;
        world.settle()
    })
}

#[test]
fn a_transfer_is_exact_on_a_good_link() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default(), 4 * MIB)
}

#[test]
fn a_transfer_is_exact_without_any_delay() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().delay(Duration::ZERO), MIB)
}

#[test]
fn a_transfer_is_exact_over_a_long_way() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().delay(Duration::from_millis(300)), 2 * MIB)
}

#[test]
fn a_transfer_is_exact_under_jitter() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().jitter(Duration::from_millis(30)), MIB)
}

#[test]
fn a_transfer_is_exact_under_jitter_that_reorders() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().overtaking_jitter(Duration::from_millis(30)), MIB)
}

#[test]
fn a_transfer_is_exact_at_1_percent_loss() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().loss(Chance::percent(1)), 2 * MIB)
}

#[test]
fn a_transfer_is_exact_at_5_percent_loss() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().loss(Chance::percent(5)), MIB)
}

#[test]
fn a_transfer_is_exact_at_20_percent_loss() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().loss(Chance::percent(20)), 256 * KIB)
}

#[test]
fn a_transfer_is_exact_under_reordering() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().reordering(Chance::percent(10)), MIB)
}

#[test]
fn a_transfer_is_exact_under_duplication() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().duplication(Chance::percent(30)), MIB)
}

#[test]
fn a_transfer_is_exact_under_corruption() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().corruption(Chance::percent(5)), MIB)
}

#[test]
fn a_transfer_is_exact_through_a_narrow_queue() -> Result<(), Failure> {
    everything_arrives(&LinkConfig::default().rate(1_250_000, 32 * KIB), 2 * MIB)
}

#[test]
fn a_transfer_is_exact_under_everything_at_once() -> Result<(), Failure> {
    let link = LinkConfig::default()
        .delay(Duration::from_millis(25))
        .overtaking_jitter(Duration::from_millis(15))
        .loss(Chance::percent(3))
        .duplication(Chance::percent(5))
        .corruption(Chance::percent(3))
        .reordering(Chance::percent(5))
        .rate(2_500_000, 64 * KIB);
    everything_arrives(&link, 512 * KIB)
}

#[test]
fn three_hundred_streams_share_a_lossy_tunnel() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default().loss(Chance::percent(2)));
        let mut jobs = vec![world.start_job(alice, bob, Plan::request(10, 10))?];
        world.complete(&jobs, PATIENCE)?;
        for count in 0..300 {
            jobs.push(world.start_job(alice, bob, Plan::echo(100 * count))?);
        }
        world.complete(&jobs, PATIENCE)?;
        world.settle()
    })
}

/// A receiver that does not read takes what it granted, and no more; nothing is lost by that.
#[test]
fn a_reader_that_pauses_stops_the_writer_and_nothing_else() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default());
        world.set_reading(bob, false)?;
        let upload = world.start_job(alice, bob, Plan::transfer(24 * MIB, 0))?;
        let other_way = world.start_job(bob, alice, Plan::transfer(MIB, 0))?;
        world.run_for(Duration::from_secs(20))?;
        assert!(world.report(upload).is_some_and(|report| report.ended.is_none()));
        world.set_reading(bob, true)?;
        world.complete(&[upload, other_way], PATIENCE)?;
        world.settle()
    })
}
