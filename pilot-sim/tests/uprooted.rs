//! Two agents behind NATs, on a direct path, and the network changes under one of them: it is not told, and its packets are let in nowhere
//! but at the relay. They go on within a second of the first packet that shows where it is now, and the tunnel is the same.

use std::net::SocketAddr;
use std::time::Duration;

use pilot_core::event::Event;
use pilot_sim::invariants::Failure;
use pilot_sim::link::LinkConfig;
use pilot_sim::meeting::{Meeting, Network, Pair};
use pilot_sim::nat::NatConfig;
use pilot_sim::scenario::for_each_seed;
use pilot_sim::world::{Families, HostId, World};

const SEEDS: &[u64] = &[1, 2, 3];
/// Within what they are to go on.
const RESUMED: Duration = Duration::from_secs(1);

/// The keepalive with the home node, and what it takes to follow it.
const KEEPALIVE: Duration = Duration::from_secs(26);

/// Two agents on a direct path, each behind what most homes have.
fn met(seed: u64) -> Result<Meeting, Failure> {
    met_as(seed, Pair::Apart(Network::PortRestricted, Network::PortRestricted))
}

fn met_as(seed: u64, pair: Pair) -> Result<Meeting, Failure> {
    let link = LinkConfig::default().delay(Duration::from_millis(20));
    let mut meeting = Meeting::new(seed, link, pair, true)?;
    for _ in 0..20 {
        meeting.ping()?;
        meeting.world.run_for(Duration::from_millis(100))?;
    }
    Ok(meeting)
}

/// Something happens, and what is asked from then on is answered in time, by the same tunnel, and soon directly.
fn is_survived(change: impl Fn(&mut Meeting) -> Result<(), Failure>) -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut meeting = met(seed)?;
        change(&mut meeting)?;
        for _ in 0..30 {
            let answered = meeting.ping()?;
            assert!(answered <= RESUMED, "answered after {answered:?}");
            meeting.world.run_for(Duration::from_millis(100))?;
        }
        assert_eq!(tunnels(&meeting.world, meeting.alice, meeting.bob), 1);
        let relayed = meeting.relayed();
        meeting.ping()?;
        assert_eq!(meeting.relayed(), relayed, "they are on a direct path again");
        meeting.world.settle()
    })
}

fn tunnels(world: &World, of: HostId, with: HostId) -> usize {
    let milestones = world.application(of).into_iter().flat_map(|application| application.milestones());
    let key = world.key(with);
    milestones.filter(|(_, event)| matches!(event, Event::PeerConnected { peer, .. } if *peer == key)).count()
}

#[test]
fn a_caller_whose_public_address_or_port_changes_goes_on() -> Result<(), Failure> {
    for change in [World::rebind, World::remap] {
        is_survived(|meeting| {
            change(&mut meeting.world, meeting.gateways[0].expect("it is behind one"));
            Ok(())
        })?;
    }
    Ok(())
}

/// It has no reason to send before its next keepalive, and until then nobody knows where it is.
#[test]
fn a_called_agent_whose_public_address_changes_is_reached_again_after_its_keepalive() -> Result<(), Failure> {
    is_survived(|meeting| {
        let gateway = meeting.gateways[1].expect("it is behind one");
        meeting.world.rebind(gateway);
        meeting.world.run_for(KEEPALIVE)
    })
}

#[test]
fn both_may_lose_their_public_address_or_port_at_once() -> Result<(), Failure> {
    for change in [World::rebind, World::remap] {
        is_survived(|meeting| {
            for gateway in meeting.gateways.into_iter().flatten() {
                change(&mut meeting.world, gateway);
            }
            meeting.world.run_for(KEEPALIVE)
        })?;
    }
    Ok(())
}

/// Both leave their network and come into another in the same moment. Their addresses happen to be the same there.
#[test]
fn both_may_move_to_other_networks_at_once() -> Result<(), Failure> {
    is_survived(|meeting| {
        for agent in [meeting.alice, meeting.bob] {
            let elsewhere = meeting.world.add_gateway(NatConfig::port_restricted(), None);
            meeting.world.call(agent, |node, now| node.set_local_addresses(now, &[]))?;
            meeting.world.move_behind(agent, Some(elsewhere), Families::V4)?;
        }
        Ok(())
    })
}

/// Each address that it leaves is one more path that leads nowhere any more: they leave room for those of today.
#[test]
fn a_caller_whose_public_address_changes_without_end_goes_on() -> Result<(), Failure> {
    let mut meeting = met(1)?;
    let gateway = meeting.gateways[0].expect("it is behind one");
    for change in 1..=25 {
        meeting.world.rebind(gateway);
        for _ in 0..20 {
            meeting.ping()?;
            meeting.world.run_for(Duration::from_secs(1))?;
        }
        let relayed = meeting.relayed();
        meeting.ping()?;
        assert_eq!(meeting.relayed(), relayed, "still relayed after change {change}");
    }
    meeting.world.settle()
}

/// The first challenge to a router that answers and has given other ports begins a flow there, and the port that was named is no longer free. They
/// go on by relay meanwhile.
#[test]
fn routers_that_answer_are_met_again_within_three_seconds() -> Result<(), Failure> {
    let pairs = [Network::PortRestricted, Network::Answering].map(|other| Pair::Apart(Network::Answering, other));
    for pair in [pairs[0], pairs[1], Pair::Apart(Network::PortRestricted, Network::Answering)] {
        for_each_seed(SEEDS, |seed| {
            let mut meeting = met_as(seed, pair)?;
            for change in [World::remap, World::rebind] {
                change(&mut meeting.world, meeting.gateways[0].expect("it is behind one"));
                for _ in 0..8 {
                    assert!(meeting.ping()? <= RESUMED, "{pair:?}");
                    meeting.world.run_for(Duration::from_millis(400))?;
                }
                let relayed = meeting.relayed();
                meeting.ping()?;
                assert_eq!(meeting.relayed(), relayed, "{pair:?}: still relayed");
            }
            meeting.world.settle()
        })?;
    }
    Ok(())
}

/// Addresses that lead nowhere, as of containers and virtual machines, drive those that lead somewhere out of no table.
#[test]
fn agents_with_very_many_addresses_meet() -> Result<(), Failure> {
    let link = LinkConfig::default().delay(Duration::from_millis(20));
    let mut meeting = Meeting::new(1, link, Pair::Apart(Network::PortRestricted, Network::PortRestricted), true)?;
    for (network, agent) in [(1, meeting.alice), (2, meeting.bob)] {
        let many: Vec<_> = (1..=15).map(|host| SocketAddr::from(([172, 17, network, host], 4_000))).collect();
        meeting.world.call(agent, |node, now| node.set_local_addresses(now, &many))?;
    }
    let gateway = meeting.gateways[0].expect("it is behind one");
    for change in 0..4 {
        assert!(meeting.run()?.direct.is_some(), "after change {change}");
        meeting.world.remap(gateway);
        meeting.world.run_for(Duration::from_secs(20))?;
    }
    meeting.world.settle()
}
