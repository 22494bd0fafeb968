//! Two agents with nothing to say to each other say nothing.

use std::time::Duration;

use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Pair, Relayed, Village, pair, relayed, village};

const SEEDS: &[u64] = &[1, 2, 3];
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// What people are told about an agent that has nothing to do.
const PAGE: &str = include_str!("../../docs/what-pilot-sends.md");
/// What is under way when the last stream closes, and its acknowledgement, arrives within this time.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(1);
/// By then it is known how long a mapping lasts.
const MEASURED: Duration = Duration::from_secs(480);
/// A PING, message 1, the first packet of the new session with what is acknowledged, and the PING by which a new mapping would last.
const KEEPALIVE_PACKETS_MAX: u64 = 6;

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

/// The keepalives of the home tunnel are all that is left, one every two minutes from each agent, with the handshake that is due then.
fn only_keepalives_remain(blocks_direct: bool) -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut net = relayed(seed, LinkConfig::default())?;
        net.block_direct(blocks_direct);
        let job = net.world.start_job(net.alice, net.bob, Plan::echo(1 << 20))?;
        net.world.complete(&[job], MINUTE)?;
        net.world.run_for(MEASURED)?;
        let before = (net.relayed_packets(), net.direct_packets());
        let keepalives = |net: &Relayed| net.world.link_stats(net.alice, net.backbone).offered;
        let keepalives_before = keepalives(&net);
        net.world.run_for(12 * MINUTE)?;
        assert_eq!((net.relayed_packets(), net.direct_packets()), before);
        let sent = keepalives(&net) - keepalives_before;
        assert!((6..=6 * KEEPALIVE_PACKETS_MAX).contains(&sent), "{sent} in 12 minutes");
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

#[test]
fn an_idle_hour_costs_what_the_page_for_newcomers_says_and_goes_to_the_home_node_alone() -> Result<(), Failure> {
    let Village { mut world, agents, backbone } = village(1, LinkConfig::default(), 2)?;
    let [alice, bob] = agents[..] else { unreachable!("there are two") };
    let before = world.link_stats(alice, backbone);
    world.run_for(HOUR)?;
    let hour = world.link_stats(alice, backbone);
    let (datagrams, bytes) = (hour.offered - before.offered, hour.offered_bytes - before.offered_bytes);
    let told = format!("{datagrams} datagrams, {} kB", (bytes + 500) / 1_000);
    assert!(PAGE.contains(&told), "an idle hour: {told}");
    assert_eq!(world.link_stats(alice, bob).offered, 0, "alice knows bob, and has nothing to say to him");
    Ok(())
}
