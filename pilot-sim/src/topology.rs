//! The networks that most scenarios start from.

use std::time::Duration;

use pilot_core::config::{Config, Role};
use pilot_core::node::Node;

use crate::invariants::Failure;
use crate::link::LinkConfig;
use crate::world::{HostId, World};

/// Time in which an agent reaches its home node, whatever the network does.
const HOME_PATIENCE: Duration = Duration::from_secs(20);

/// Time in which the home node has the first packet of a connected agent, so that others can be connected to it.
const HOME_CONFIRMATION: Duration = Duration::from_secs(1);

/// Two agents that hold each other's ticket, and nothing else.
pub struct Pair {
    /// The network.
    pub world: World,
    /// One agent.
    pub alice: HostId,
    /// The other.
    pub bob: HostId,
}

/// Two agents with a home node, who know each other from its directory.
pub struct Relayed {
    /// The network.
    pub world: World,
    /// One agent.
    pub alice: HostId,
    /// The other.
    pub bob: HostId,
    /// The home node of both.
    pub backbone: HostId,
}

/// Some agents at home at one backbone node.
pub struct Village {
    /// The network.
    pub world: World,
    /// The agents.
    pub agents: Vec<HostId>,
    /// The home node of all.
    pub backbone: HostId,
}

/// Two agents with every default.
pub fn pair(seed: u64, link: LinkConfig) -> Pair {
    pair_with(seed, link, Config::new(Role::Agent), Config::new(Role::Agent))
}

/// Two agents with these settings.
pub fn pair_with(seed: u64, link: LinkConfig, alice: Config, bob: Config) -> Pair {
    let mut world = World::new(seed, link);
    let (alice, bob) = (world.add_agent(alice), world.add_agent(bob));
    world.give_ticket(alice, bob);
    world.give_ticket(bob, alice);
    Pair { world, alice, bob }
}

/// Two agents with these settings that have spoken to each other before: no certificate is asked for.
pub fn acquainted(seed: u64, link: LinkConfig, alice: Config, bob: Config) -> Pair {
    let mut world = World::new(seed, link);
    let (alice, bob) = (world.add_agent(alice), world.add_agent(bob));
    world.give_acquaintance(alice, bob);
    world.give_acquaintance(bob, alice);
    Pair { world, alice, bob }
}

/// Two agents and the backbone node where both are at home and connected. Between the two, nothing has been sent yet.
pub fn relayed(seed: u64, link: LinkConfig) -> Result<Relayed, Failure> {
    let Village { world, agents, backbone } = village(seed, link, 2)?;
    Ok(Relayed { world, alice: agents[0], bob: agents[1], backbone })
}

/// Agents at home at one backbone node, who know each other from its directory and have not spoken yet.
pub fn village(seed: u64, link: LinkConfig, agents: usize) -> Result<Village, Failure> {
    let mut world = World::new(seed, link);
    let agents: Vec<_> = (0..agents).map(|_| world.add_agent(Config::new(Role::Agent))).collect();
    let backbone = world.add_backbone();
    for &agent in &agents {
        for &other in agents.iter().filter(|&&other| other != agent) {
            world.give_record(agent, other, &[backbone]);
        }
        world.set_home(agent, backbone)?;
    }
    let is_home = |world: &World, agent| world.node(agent).is_some_and(Node::is_home_connected);
    world.run_until("all agents at home", HOME_PATIENCE, |world| agents.iter().all(|&agent| is_home(world, agent)))?;
    world.run_for(HOME_CONFIRMATION)?;
    Ok(Village { world, agents, backbone })
}

impl Relayed {
    /// Closes or opens the direct way between the two agents, as a firewall between them would.
    pub fn block_direct(&mut self, is_blocked: bool) {
        self.world.change_link(self.alice, self.bob, |link| link.cut(is_blocked));
    }

    /// RELAY packets that the agents have sent to the backbone node so far.
    pub fn relayed_packets(&self) -> u64 {
        [self.alice, self.bob].map(|agent| self.world.link_stats(agent, self.backbone).offered_relayed).iter().sum()
    }

    /// Datagrams that the agents have sent to each other directly so far.
    pub fn direct_packets(&self) -> u64 {
        let ways = [(self.alice, self.bob), (self.bob, self.alice)];
        ways.map(|(from, to)| self.world.link_stats(from, to).offered).iter().sum()
    }
}
