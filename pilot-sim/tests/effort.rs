//! Direct paths that take effort (spec/paths.md §7): how often it succeeds, how much it sends, and what nobody can make an agent do by it.

use std::net::SocketAddr;
use std::time::Duration;

use pilot_core::config::{Config, Role};
use pilot_core::mapping::NatMapping;
use pilot_core::transport::Code;
use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::meeting::{DIRECT_WITHIN, Meeting, Network, Outcome, Pair, calculated_odds};
use pilot_sim::nat::{Allocation, NatConfig};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::world::{Families, World};

use Network::{AddressDependent, Answering, DoubleRandom, PortRestricted, PortSet, Random, Sequential};

/// Runs of which 98 of 100 are to end on a direct path.
const RUNS: u64 = 100;
/// Those of them whose volleys meet: one in 170 does not.
const SEEDS: &[u64] = &[1, 2, 3, 5, 6];
/// What a volley adds to what is sent otherwise, at most: its challenges, those from sockets, and the rounds of those that met.
const VOLLEY_PACKETS: u64 = 1_280 + 256 + 200;

fn link() -> LinkConfig {
    LinkConfig::default().delay(Duration::from_millis(20))
}

fn meet(seed: u64, caller: Network, callee: Network) -> Result<(Meeting, Outcome), Failure> {
    let mut meeting = Meeting::new(seed, link(), Pair::Apart(caller, callee), true)?;
    let outcome = meeting.run()?;
    Ok((meeting, outcome))
}

#[test]
fn random_ports_meet_a_nat_that_keeps_its_own_in_98_of_100_runs() -> Result<(), Failure> {
    let with = |random| [PortRestricted, Answering].map(|own| [(random, own), (own, random)]);
    for (caller, callee) in [Random, AddressDependent].into_iter().flat_map(with).flatten() {
        let mut times = Vec::new();
        for seed in 0..RUNS {
            times.extend(meet(seed, caller, callee)?.1.direct);
        }
        times.sort();
        let median = times[times.len() / 2];
        println!(
            "{caller} calls {callee}: {} of {RUNS} direct within {DIRECT_WITHIN:?}, median {median:?}; calculated {:.1} %",
            times.len(),
            calculated_odds() * 100.0
        );
        assert!(times.len() as u64 * 100 >= RUNS * 98, "{caller} calls {callee}: {} of {RUNS}", times.len());
    }
    Ok(())
}

#[test]
fn sequences_are_foretold_whoever_calls() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        for (caller, callee) in [
            (Sequential, PortRestricted),
            (PortRestricted, Sequential),
            (Sequential, Sequential),
            (Sequential, Answering),
            (Answering, Sequential),
        ] {
            let (_, outcome) = meet(seed, caller, callee)?;
            assert!(outcome.direct.is_some(), "{caller} calls {callee}, seed {seed}");
        }
        Ok(())
    })
}

#[test]
fn a_lossy_network_is_met_too() -> Result<(), Failure> {
    for (caller, callee) in [(Random, PortRestricted), (Sequential, PortRestricted), (Sequential, Sequential)] {
        let pair = Pair::Apart(caller, callee);
        let runs = (0..20).map(|seed| Meeting::new(seed, link().loss(Chance::percent(3)), pair, true)?.run());
        let direct = runs.collect::<Result<Vec<_>, _>>()?.iter().filter(|outcome| outcome.direct.is_some()).count();
        println!("{caller} calls {callee} at 3 % loss: {direct} of 20 direct within {DIRECT_WITHIN:?}");
        assert!(direct >= 16, "{caller} calls {callee}: {direct}");
    }
    Ok(())
}

#[test]
fn each_agent_knows_what_its_nat_does_with_ports() -> Result<(), Failure> {
    let seen = |network| {
        let meeting = Meeting::new(1, link(), Pair::Apart(network, PortRestricted), true)?;
        Ok::<_, Failure>(meeting.world.node(meeting.alice).map(|node| node.nat_mapping()))
    };
    let is_random = |mapping: &Option<NatMapping>| matches!(mapping, Some(NatMapping::Random { .. }));
    for network in [Network::Open, Network::FullCone, PortRestricted, Answering, Network::Double] {
        assert!(matches!(seen(network)?, Some(NatMapping::Independent { .. })), "{network}");
    }
    assert_eq!(seen(Sequential)?, Some(NatMapping::Sequence { step: 1 }));
    assert!(is_random(&seen(Random)?) && is_random(&seen(AddressDependent)?) && is_random(&seen(DoubleRandom)?));
    assert!(matches!(seen(PortSet)?, Some(NatMapping::Random { set }) if set.ports_len() == 256));
    Ok(())
}

/// All that they know is a home node with one address: what depends on the port they can tell, what depends on the address they cannot.
#[test]
fn who_knows_no_second_address_does_not_guess_what_another_one_would_see() -> Result<(), Failure> {
    let seen = |network| {
        let meeting = Meeting::by_default(1, link(), Pair::Apart(network, PortRestricted))?;
        Ok::<_, Failure>(meeting.world.node(meeting.alice).map(|node| node.nat_mapping()))
    };
    assert_eq!(seen(Network::Open)?, Some(NatMapping::Independent { set: None }));
    for network in [Network::FullCone, PortRestricted, AddressDependent] {
        assert!(matches!(seen(network)?, Some(NatMapping::PortIndependent { .. })), "{network}");
    }
    assert!(matches!(seen(Random)?, Some(NatMapping::Random { .. })));
    assert_eq!(seen(Sequential)?, Some(NatMapping::Sequence { step: 1 }));
    Ok(())
}

/// Nobody can tell them that one of their mappings depends on the address: that simple challenges fail is all that speaks for it.
#[test]
fn an_address_dependent_mapping_is_met_without_a_second_server() -> Result<(), Failure> {
    for (caller, callee) in [(AddressDependent, PortRestricted), (PortRestricted, AddressDependent)] {
        let mut times = Vec::new();
        for seed in 0..RUNS {
            times.extend(Meeting::by_default(seed, link(), Pair::Apart(caller, callee))?.run()?.direct);
        }
        times.sort();
        let median = times.get(times.len() / 2);
        println!(
            "{caller} calls {callee}: {} of {RUNS} direct within {DIRECT_WITHIN:?}, median {median:?}",
            times.len()
        );
        assert!(times.len() as u64 * 100 >= RUNS * 98, "{caller} calls {callee}: {} of {RUNS}", times.len());
    }
    Ok(())
}

/// Another backbone node makes no difference to that: it is the home node that both share which attests where they are.
#[test]
fn it_is_met_too_where_the_backbone_has_two_nodes() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut meeting = Meeting::by_default(seed, link(), Pair::Apart(AddressDependent, PortRestricted))?;
        let other = meeting.world.add_backbone();
        let stranger = meeting.world.add_agent(Config::new(Role::Agent));
        meeting.world.set_home(stranger, other)?;
        for agent in [meeting.alice, meeting.bob] {
            meeting.world.give_record(agent, stranger, &[other]);
            let job = meeting.world.start_job(agent, stranger, Plan::request(32, 32))?;
            meeting.world.complete(&[job], Duration::from_secs(10))?;
        }
        assert!(meeting.run()?.direct.is_some(), "seed {seed}");
        Ok(())
    })
}

/// Simple challenges meet, on a long line too: no socket is opened.
#[test]
fn who_meets_by_simple_challenges_makes_no_effort() -> Result<(), Failure> {
    for delay in [5, 20, 150, 300] {
        let link = LinkConfig::default().delay(Duration::from_millis(delay));
        let mut meeting = Meeting::by_default(1, link, Pair::Apart(PortRestricted, PortRestricted))?;
        for _ in 0..30 {
            meeting.ping()?;
            meeting.world.run_for(Duration::from_millis(100))?;
            for agent in [meeting.alice, meeting.bob] {
                // One is for the life of mappings.
                assert!(meeting.world.sockets_len(agent) <= 1, "{delay} ms");
            }
        }
    }
    Ok(())
}

/// Neither knows whether its mapping depends on the address, and nothing gets through between them: both try, once in a while.
#[test]
fn an_attempt_in_vain_is_rarely_repeated() -> Result<(), Failure> {
    let mut meeting = Meeting::by_default(1, link(), Pair::Apart(PortRestricted, PortRestricted))?;
    let before = [meeting.alice, meeting.bob].map(|agent| meeting.world.sent(agent).offered);
    meeting.block_direct();
    for _ in 0..100 {
        meeting.ping()?;
        meeting.world.run_for(Duration::from_millis(100))?;
    }
    for (agent, before) in [meeting.alice, meeting.bob].into_iter().zip(before) {
        let sent = meeting.world.sent(agent).offered - before;
        assert!(sent < VOLLEY_PACKETS + 256 + 100 * 10, "{sent} packets");
        assert_eq!(meeting.world.sockets_len(agent), 0, "the sockets are closed");
    }
    Ok(())
}

/// The volley that helped before the change is no reason to wait with the next.
#[test]
fn a_change_of_network_is_followed_by_an_effort_at_once() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        for changes_at in [0, 1] {
            let (mut meeting, outcome) = meet(seed, Random, PortRestricted)?;
            assert!(outcome.direct.is_some());
            let (agent, nat) =
                [(meeting.alice, NatConfig::symmetric_random()), (meeting.bob, NatConfig::port_restricted())]
                    [changes_at]
                    .clone();
            let elsewhere = meeting.world.add_gateway(nat, None);
            meeting.world.move_behind(agent, Some(elsewhere), Families::V4)?;
            for _ in 0..50 {
                meeting.ping()?;
                meeting.world.run_for(Duration::from_millis(100))?;
            }
            let before = meeting.relayed();
            for _ in 0..50 {
                meeting.ping()?;
                meeting.world.run_for(Duration::from_millis(100))?;
            }
            assert_eq!(meeting.relayed(), before, "still relayed, seed {seed}, side {changes_at}");
        }
        Ok(())
    })
}

/// An agent that changes its network every few seconds draws no more volleys than there may be in a minute.
#[test]
fn changes_without_end_draw_few_volleys() -> Result<(), Failure> {
    let (mut meeting, _) = meet(1, Random, PortRestricted)?;
    let before = meeting.world.sent(meeting.bob).offered;
    let gateway = meeting.gateways[0].expect("a NAT");
    for _ in 0..20 {
        meeting.world.rebind(gateway);
        for _ in 0..30 {
            meeting.ping()?;
            meeting.world.run_for(Duration::from_millis(100))?;
        }
    }
    let sent = meeting.world.sent(meeting.bob).offered - before;
    println!("{sent} packets");
    assert!(sent < 8 * VOLLEY_PACKETS + 600 * 10, "{sent} packets");
    Ok(())
}

/// A line with 252 ports has an eighth of them taken, and works as before: STUN, relay, and another agent's ping.
#[test]
fn a_small_port_set_is_not_used_up() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut meeting = Meeting::new(seed, link(), Pair::Apart(PortSet, PortRestricted), true)?;
        let gateway = meeting.gateways[0].expect("a NAT");
        let mut most = 0;
        for _ in 0..20 {
            meeting.ping()?;
            meeting.world.run_for(Duration::from_millis(100))?;
            most = most.max(meeting.world.mappings_len(gateway));
        }
        assert!((32..=48).contains(&most), "{most} mappings");
        Ok(())
    })
}

/// Mapping is independent there, and challenges go nowhere: that the set is small is known all the same, also where each socket gets the next
/// port of it.
#[test]
fn a_small_port_set_whose_mapping_is_independent_is_not_used_up() -> Result<(), Failure> {
    let block = NatConfig::port_restricted().ports([20_480..=20_735]);
    let most = mappings_of_three_calls(NatConfig::port_restricted().port_set(6, 8, 0x34))?;
    assert!((32..=72).contains(&most), "{most} mappings of 252");
    let most = mappings_of_three_calls(block.clone().allocation(Allocation::Random))?;
    assert!((32..=72).contains(&most), "{most} mappings of 256");
    let most = mappings_of_three_calls(block.allocation(Allocation::Sequential(1)))?;
    assert!(most <= 72, "{most} mappings of 256");
    Ok(())
}

/// The most mappings that an agent has at once behind a NAT, while it calls three peers to whom nothing direct leads.
fn mappings_of_three_calls(nat: NatConfig) -> Result<usize, Failure> {
    let mut world = World::new(1, link());
    let backbone = world.add_backbone();
    let second = SocketAddr::new(world.add_address(backbone), world.address(backbone).port());
    let [line, other] = [nat, NatConfig::port_restricted()].map(|nat| world.add_gateway(nat, None));
    let alice = world.add_agent_at(Config::new(Role::Agent), Some(line), Families::V4);
    let peers = [(); 3].map(|()| world.add_agent_at(Config::new(Role::Agent), Some(other), Families::V4));
    for agent in [alice, peers[0], peers[1], peers[2]] {
        world.set_home(agent, backbone)?;
        world.call(agent, |node, now| node.set_stun_servers(now, &[second]))?;
    }
    for peer in peers {
        world.give_record(alice, peer, &[backbone]);
        world.change_link_to_gateway(peer, line, |link| link.cut(true));
    }
    world.change_link_to_gateway(alice, other, |link| link.cut(true));
    world.run_for(Duration::from_secs(10))?;
    let mut most = 0;
    for _ in 0..300 {
        for peer in peers {
            world.start_job(alice, peer, Plan::request(32, 32))?;
        }
        world.run_for(Duration::from_millis(100))?;
        most = most.max(world.mappings_len(line));
    }
    Ok(most)
}

/// What the line bears is for all of an agent's peers together.
#[test]
fn many_peers_at_once_do_not_use_up_a_small_port_set() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut meeting = Meeting::new(seed, link(), Pair::Apart(PortSet, PortRestricted), true)?;
        let (gateway, world) = (meeting.gateways[0].expect("a NAT"), &mut meeting.world);
        let mut peers = vec![meeting.bob];
        for _ in 0..4 {
            let nat = world.add_gateway(NatConfig::port_restricted(), None);
            let peer = world.add_agent_at(Config::new(Role::Agent), Some(nat), Families::V4);
            world.give_record(meeting.alice, peer, &[meeting.backbone]);
            world.set_home(peer, meeting.backbone)?;
            peers.push(peer);
        }
        world.run_for(Duration::from_secs(5))?;
        let mut most = 0;
        for _ in 0..100 {
            let plan = || Plan::request(32, 32);
            let jobs: Result<Vec<_>, _> =
                peers.iter().map(|&peer| world.start_job(meeting.alice, peer, plan())).collect();
            world.complete(&jobs?, Duration::from_secs(10))?;
            world.run_for(Duration::from_millis(100))?;
            most = most.max(world.mappings_len(gateway));
        }
        // A quarter of 256, and what the main socket has with five peers, their addresses and the servers.
        assert!(most <= 64 + 48, "{most} mappings, seed {seed}");
        Ok(())
    })
}

/// A peer that names another address of its own every few seconds has not moved each time: what its word brings about, time limits.
#[test]
fn a_peer_that_claims_to_move_without_end_draws_few_efforts() -> Result<(), Failure> {
    let mut meeting = Meeting::by_default(1, link(), Pair::Apart(AddressDependent, PortRestricted))?;
    meeting.block_direct();
    let (mut efforts, mut open) = (0, 0);
    for step in 0..600_u16 {
        if step % 35 == 0 {
            let claimed = SocketAddr::from(([192, 168, (step >> 8) as u8, step as u8], 4_000));
            meeting.world.call(meeting.bob, |node, now| node.set_local_addresses(now, &[claimed]))?;
        }
        meeting.ping()?;
        meeting.world.run_for(Duration::from_millis(100))?;
        let was_open = std::mem::replace(&mut open, meeting.world.sockets_len(meeting.alice));
        efforts += u32::from(was_open < 100 && open >= 100);
    }
    assert!((1..=4).contains(&efforts), "{efforts} efforts in a minute");
    Ok(())
}

/// A way that was found is kept while there is something to say. Nobody comes back by it after long silence.
#[test]
fn the_sockets_of_a_way_that_was_found_are_closed_after_long_silence() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let (mut meeting, outcome) = meet(seed, Random, PortRestricted)?;
        assert!(outcome.direct.is_some());
        let alice = meeting.alice;
        meeting.world.run_until("no sockets", Duration::from_secs(600), |world| world.sockets_len(alice) == 0)
    })
}

#[test]
fn the_sockets_of_an_effort_are_closed_with_the_tunnel() -> Result<(), Failure> {
    let mut meeting = Meeting::new(1, link(), Pair::Apart(Random, PortRestricted), true)?;
    meeting.ping()?;
    let (alice, bob) = (meeting.alice, meeting.world.key(meeting.bob));
    for _ in 0..20 {
        meeting.ping()?;
        meeting.world.run_for(Duration::from_millis(50))?;
        if meeting.world.sockets_len(alice) > 100 {
            break;
        }
    }
    assert!(meeting.world.sockets_len(alice) > 100, "an effort is under way");
    meeting.world.call(alice, |node, now| node.close_peer(now, &bob, Code::SHUTDOWN, "enough"))?;
    meeting.world.run_until("no sockets", Duration::from_secs(10), |world| world.sockets_len(alice) <= 1)
}

/// Answers take longer than the time after which a question is repeated: they are answers all the same.
#[test]
fn a_long_line_hides_no_nat() -> Result<(), Failure> {
    for network in [Random, Sequential] {
        let link = LinkConfig::default().delay(Duration::from_millis(350));
        let mut meeting = Meeting::new(1, link, Pair::Apart(network, PortRestricted), true)?;
        meeting.world.run_for(Duration::from_secs(30))?;
        let mapping = meeting.world.node(meeting.alice).map(|node| node.nat_mapping());
        let is_known = matches!(mapping, Some(NatMapping::Random { .. } | NatMapping::Sequence { .. }));
        assert!(is_known, "{network}: {mapping:?}");
    }
    Ok(())
}

#[test]
fn sockets_that_met_nobody_are_closed() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let (mut meeting, outcome) = meet(seed, Random, PortRestricted)?;
        assert!(outcome.direct.is_some());
        meeting.world.run_for(Duration::from_secs(5))?;
        assert!(meeting.world.sockets_len(meeting.alice) <= 8);
        assert_eq!(meeting.world.sockets_len(meeting.bob), 0);
        Ok(())
    })
}

#[test]
fn nothing_is_tried_where_nothing_can_come_of_it() -> Result<(), Failure> {
    for (caller, callee) in [(Random, Random), (Random, Sequential), (Sequential, AddressDependent)] {
        let (meeting, outcome) = meet(1, caller, callee)?;
        assert_eq!(outcome.direct, None);
        for agent in [meeting.alice, meeting.bob] {
            assert!(
                meeting.world.sent(agent).offered < 300,
                "{caller} calls {callee}: {:?}",
                meeting.world.sent(agent)
            );
        }
    }
    Ok(())
}

/// Each agent has a home of its own. The caller is at a node that it has not chosen when it hears where the other one is seen.
#[test]
fn guessed_ports_are_those_of_an_address_that_our_own_home_attests() -> Result<(), Failure> {
    let mut world = World::new(1, link());
    let homes = [world.add_backbone(), world.add_backbone()];
    let seconds = homes.map(|home| SocketAddr::new(world.add_address(home), world.address(home).port()));
    let nats = [NatConfig::port_restricted(), NatConfig::symmetric_random()].map(|nat| world.add_gateway(nat, None));
    let agents = nats.map(|nat| world.add_agent_at(Config::new(Role::Agent), Some(nat), Families::V4));
    for side in [0, 1] {
        world.give_record(agents[side], agents[1 - side], &[homes[1 - side]]);
        world.set_home(agents[side], homes[side])?;
        world.call(agents[side], |node, now| node.set_stun_servers(now, &[seconds[side]]))?;
    }
    world.run_for(Duration::from_secs(5))?;
    for _ in 0..30 {
        let job = world.start_job(agents[0], agents[1], Plan::request(32, 32))?;
        world.complete(&[job], Duration::from_secs(10))?;
        world.run_for(Duration::from_millis(100))?;
    }
    assert!(world.sent(agents[0]).offered < 500, "{:?}", world.sent(agents[0]));
    Ok(())
}

/// Ten seconds of use of a pair whose volley never meets, since nothing of it arrives.
#[test]
fn a_volley_in_vain_is_not_repeated_soon() -> Result<(), Failure> {
    let mut meeting = Meeting::new(1, link(), Pair::Apart(Random, PortRestricted), true)?;
    let before = meeting.world.sent(meeting.bob).offered;
    meeting.block_direct();
    for _ in 0..100 {
        meeting.ping()?;
        meeting.world.run_for(Duration::from_millis(100))?;
    }
    let sent = meeting.world.sent(meeting.bob).offered - before;
    assert!(sent < VOLLEY_PACKETS + 100 * 10, "{sent} packets");
    Ok(())
}

/// A node fires one volley at a time, and who waits for one has sockets for a while: some wait in line, and the others do not come again in the
/// same moment.
#[test]
fn callers_that_need_a_volley_at_once_all_get_theirs() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let mut meeting = Meeting::new(seed, link(), Pair::Apart(Random, PortRestricted), true)?;
        let (bob, backbone, world) = (meeting.bob, meeting.backbone, &mut meeting.world);
        let mut callers = vec![meeting.alice];
        for _ in 0..4 {
            let nat = world.add_gateway(NatConfig::symmetric_random(), None);
            let caller = world.add_agent_at(Config::new(Role::Agent), Some(nat), Families::V4);
            world.give_record(caller, bob, &[backbone]);
            world.set_home(caller, backbone)?;
            callers.push(caller);
        }
        world.run_for(Duration::from_secs(10))?;
        let ping = |world: &mut World| {
            let plan = || Plan::request(32, 32);
            let jobs: Result<Vec<_>, _> = callers.iter().map(|&caller| world.start_job(caller, bob, plan())).collect();
            world.complete(&jobs?, Duration::from_secs(10))?;
            world.run_for(Duration::from_millis(200))
        };
        for _ in 0..550 {
            ping(world)?;
        }
        let relayed = |world: &World| world.backbone_status(backbone).map_or(0, |status| status.relay.packets);
        let before = relayed(world);
        ping(world)?;
        assert_eq!(relayed(world), before, "still relayed after two minutes, seed {seed}");
        Ok(())
    })
}
