//! How long a NAT keeps a mapping is found out, the home tunnel is kept as rarely as that allows, and the agent can be called all the while
//! (spec/paths.md §6).

use std::time::Duration;

use pilot_core::config::{Config, Role};
use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::LinkConfig;
use pilot_sim::nat::{NatConfig, Refresh};
use pilot_sim::realm::GatewayId;
use pilot_sim::world::{Families, HostId, World};

/// When all silences have been tried: 30 s, then up to 150 s.
const MEASURED: Duration = Duration::from_secs(480);
/// How soon who calls is to be answered: a round trip by the relay takes 80 ms, and a call by a stranger three of them.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);
/// How long the answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Unlike any interval and any silence that is tried, so that calls come at all times of both.
const BETWEEN_CALLS: Duration = Duration::from_millis(7_300);

/// An agent behind a NAT, its home, and somebody who may call it.
struct Village {
    world: World,
    called: HostId,
    caller: HostId,
    backbone: HostId,
    gateway: GatewayId,
}

impl Village {
    fn new(nat: NatConfig) -> Result<Self, Failure> {
        let mut world = World::new(1, LinkConfig::default().delay(Duration::from_millis(20)));
        let backbone = world.add_backbone();
        let gateway = world.add_gateway(nat, None);
        let called = world.add_agent_at(Config::new(Role::Agent), Some(gateway), Families::V4);
        let caller = world.add_agent(Config::new(Role::Agent).direct(false));
        world.give_record(caller, called, &[backbone]);
        for agent in [called, caller] {
            world.set_home(agent, backbone)?;
        }
        Ok(Self { world, called, caller, backbone, gateway })
    }

    /// Seconds of silence that the called agent's home tunnel may have.
    fn keepalive(&self) -> u64 {
        self.world.node(self.called).map_or(0, |node| node.mapping_lifetime().keepalive.as_secs())
    }

    /// How long the caller waits for an answer.
    fn call(&mut self) -> Result<Duration, Failure> {
        let job = self.world.start_job(self.caller, self.called, Plan::request(32, 32))?;
        self.world.complete(&[job], PATIENCE)?;
        Ok(self.world.report(job).and_then(|report| report.answer_time()).expect("completed"))
    }
}

fn lasting(seconds: u64, refresh: Refresh) -> NatConfig {
    let lifetime = Duration::from_secs(seconds);
    NatConfig::port_restricted().timeouts(lifetime.min(Duration::from_secs(30)), lifetime).refresh(refresh)
}

#[test]
fn the_keepalive_is_as_rare_as_the_nat_allows() -> Result<(), Failure> {
    for refresh in [Refresh::Both, Refresh::Outbound] {
        for (lifetime_s, keepalive_s) in [(30, 25), (60, 36), (120, 88), (300, 120)] {
            let mut village = Village::new(lasting(lifetime_s, refresh))?;
            village.world.run_for(Duration::from_secs(60))?;
            assert_eq!(village.keepalive(), 25, "nothing is known yet");
            village.world.run_for(MEASURED)?;
            assert_eq!(village.keepalive(), keepalive_s, "{lifetime_s} s, {refresh:?}");
            assert_eq!(village.world.sockets_len(village.called), 0, "its socket is closed");
        }
    }
    Ok(())
}

/// A NAT of each lifetime, a call at each time of the trial and of the intervals after it; each by somebody to whom there was no tunnel, and
/// each in a world of its own, for a call keeps the mapping.
#[test]
fn an_agent_can_be_called_at_any_time_while_its_keepalive_becomes_rarer() -> Result<(), Failure> {
    for refresh in [Refresh::Both, Refresh::Outbound] {
        for lifetime_s in [30, 120, 300] {
            let mut at = Duration::from_secs(10);
            while at < MEASURED + Duration::from_secs(260) {
                let mut village = Village::new(lasting(lifetime_s, refresh))?;
                village.world.run_for(at)?;
                let answered = village.call()?;
                assert!(answered <= ANSWERED_WITHIN, "{lifetime_s} s, {refresh:?}: after {at:?}: {answered:?}");
                at += BETWEEN_CALLS;
            }
        }
    }
    Ok(())
}

#[test]
fn every_kind_of_nat_is_measured_and_so_is_a_public_address() -> Result<(), Failure> {
    for nat in [
        NatConfig::full_cone(),
        NatConfig::answering_linux(),
        NatConfig::symmetric_random(),
        NatConfig::symmetric_sequential(),
        NatConfig::address_dependent(),
    ] {
        let nat = nat.timeouts(Duration::from_secs(30), Duration::from_secs(120));
        let mut village = Village::new(nat.clone())?;
        village.world.run_for(MEASURED)?;
        assert_eq!(village.keepalive(), 88, "{nat:?}");
        let public = village.world.node(village.caller).map(|node| node.mapping_lifetime().keepalive.as_secs());
        assert_eq!(public, Some(120));
    }
    Ok(())
}

/// What happens to a village.
type Change = fn(&mut Village) -> Result<(), Failure>;

#[test]
fn whatever_changes_brings_back_the_short_keepalive_at_once() -> Result<(), Failure> {
    let changes: [(&str, Change); 3] = [
        ("another network", |village| {
            let other = village.world.add_gateway(lasting(30, Refresh::Both), None);
            // It gives the same private address: what tells is that there was none for a moment.
            village.world.call(village.called, |node, now| node.set_local_addresses(now, &[]))?;
            village.world.move_behind(village.called, Some(other), Families::V4)
        }),
        ("another mapping", |village| {
            village.world.rebind(village.gateway);
            // It shows itself with the next keepalive.
            village.world.run_for(Duration::from_secs(122))
        }),
        ("the home node is gone", |village| {
            village.world.kill(village.backbone);
            village.world.run_for(Duration::from_secs(130))
        }),
    ];
    for (what, change) in changes {
        let mut village = Village::new(lasting(300, Refresh::Both))?;
        village.world.run_for(MEASURED)?;
        assert_eq!(village.keepalive(), 120);
        change(&mut village)?;
        assert_eq!(village.keepalive(), 25, "{what}");
    }
    Ok(())
}

/// It was seen elsewhere soon after its keepalive had become rare: perhaps that is why. The next trial takes its time, and then counts.
#[test]
fn after_a_mapping_that_was_lost_it_is_tried_again_later() -> Result<(), Failure> {
    let mut village = Village::new(lasting(300, Refresh::Both))?;
    village.world.run_for(MEASURED)?;
    village.world.rebind(village.gateway);
    village.world.run_for(Duration::from_secs(600))?;
    assert_eq!(village.keepalive(), 25);
    village.world.run_for(Duration::from_secs(120) + MEASURED)?;
    assert_eq!(village.keepalive(), 120);
    Ok(())
}

/// What puts an end to the mapping although the tunnel is kept.
type Blackout = fn(&mut Village) -> Result<(), Failure>;

/// A Linux router forgets a flow of one exchange after 30 s: what a keepalive has made anew must not be left at that. A call at each time of
/// the intervals that follow, each in a world of its own.
#[test]
fn a_mapping_that_was_lost_and_made_anew_at_the_same_port_lasts_as_long_as_the_one_before() -> Result<(), Failure> {
    let blackouts: [(&str, Blackout); 3] = [
        ("the machine slept", |village| {
            village.world.set_asleep(village.called, true)?;
            village.world.run_for(Duration::from_secs(128))?;
            village.world.set_asleep(village.called, false)?;
            Ok(())
        }),
        ("the router forgot, and a keepalive follows", |village| {
            village.world.flush(village.gateway);
            village.world.run_for(Duration::from_secs(92))
        }),
        ("the router forgot, and short calls follow", |village| {
            village.world.flush(village.gateway);
            village.world.run_for(Duration::from_secs(40))?;
            let job = village.world.start_job(village.called, village.caller, Plan::request(32, 32))?;
            village.world.complete(&[job], PATIENCE)
        }),
    ];
    let linux = NatConfig::answering_linux().timeouts(Duration::from_secs(30), Duration::from_secs(120));
    for (what, blackout) in blackouts {
        let mut after = Duration::from_secs(5);
        while after < Duration::from_secs(200) {
            let mut village = Village::new(linux.clone())?;
            village.world.give_record(village.called, village.caller, &[village.backbone]);
            village.world.run_for(MEASURED)?;
            assert_eq!(village.keepalive(), 88);
            blackout(&mut village)?;
            village.world.run_for(after)?;
            let answered = village.call()?;
            assert!(answered <= ANSWERED_WITHIN, "{what}: {after:?} later: {answered:?}");
            after += BETWEEN_CALLS;
        }
    }
    Ok(())
}

/// Keys last for three minutes and are renewed when they are used, so that at a rare keepalive they are young, due, or over.
#[test]
fn a_home_node_that_dies_is_missed_at_the_next_keepalive_however_old_the_keys_are() -> Result<(), Failure> {
    for used_after in [0, 40, 80, 115] {
        let mut village = Village::new(lasting(300, Refresh::Both))?;
        village.world.run_for(MEASURED + Duration::from_secs(used_after))?;
        village.call()?;
        village.world.kill(village.backbone);
        village.world.run_for(Duration::from_secs(120) + PATIENCE)?;
        assert_eq!(village.keepalive(), 25, "used {used_after} s later");
    }
    Ok(())
}
