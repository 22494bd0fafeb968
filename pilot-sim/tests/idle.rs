//! Two agents with nothing to say to each other say nothing.

use std::time::Duration;

use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Pair, Relayed, pair, relayed};

const SEEDS: &[u64] = &[1, 2, 3];
const MINUTE: Duration = Duration::from_secs(60);
/// What is under way when the last stream closes, and its acknowledgement, arrives within this time.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(1);

#[test]
fn a_minute_after_the_last_stream_has_no_packet() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default());
        let jobs =
            [world.start_job(alice, bob, Plan::echo(1 << 20))?, world.start_job(bob, alice, Plan::request(10, 10))?];
        world.complete(&jobs, MINUTE)?;
        world.run_for(LAST_ACKNOWLEDGEMENTS)?;
        let before = [world.link_stats(alice, bob), world.link_stats(bob, alice)];
        world.run_for(MINUTE)?;
        assert_eq!([world.link_stats(alice, bob), world.link_stats(bob, alice)], before);
        Ok(())
    })
}

#[test]
fn a_lossy_link_falls_silent_too() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let Pair { mut world, alice, bob } = pair(seed, LinkConfig::default().loss(Chance::percent(20)));
        let job = world.start_job(alice, bob, Plan::echo(50_000))?;
        world.complete(&[job], MINUTE)?;
        world.settle()?;
        let before = [world.link_stats(alice, bob), world.link_stats(bob, alice)];
        world.run_for(10 * MINUTE)?;
        assert_eq!([world.link_stats(alice, bob), world.link_stats(bob, alice)], before);
        Ok(())
    })
}

/// The keepalives of the home tunnel are all that is left: a PING and its ACK every 25 s, from each agent.
fn only_keepalives_remain(blocks_direct: bool) -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default())?;
        net.block_direct(blocks_direct);
        let job = net.world.start_job(net.alice, net.bob, Plan::echo(1 << 20))?;
        net.world.complete(&[job], MINUTE)?;
        net.world.run_for(LAST_ACKNOWLEDGEMENTS)?;
        let before = (net.relayed_packets(), net.direct_packets());
        let keepalives = |net: &Relayed| net.world.link_stats(net.alice, net.backbone).offered;
        let keepalives_before = keepalives(&net);
        net.world.run_for(MINUTE)?;
        assert_eq!((net.relayed_packets(), net.direct_packets()), before);
        assert!((2..=3).contains(&(keepalives(&net) - keepalives_before)));
        Ok(())
    })
}

#[test]
fn agents_with_a_home_send_keepalives_and_nothing_else() -> Result<(), Failure> {
    only_keepalives_remain(false)
}

#[test]
fn agents_behind_a_relay_send_keepalives_and_nothing_else() -> Result<(), Failure> {
    only_keepalives_remain(true)
}
