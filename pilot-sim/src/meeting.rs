//! Two agents, each behind a network of some kind, with a home node between them: how soon one reaches the other, and by which way.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use pilot_core::config::{Config, Role};
use pilot_core::node::Node;
use pilot_core::time::Mono;

use crate::application::Plan;
use crate::invariants::Failure;
use crate::link::LinkConfig;
use crate::nat::{Hairpin, NatConfig, UdpPolicy};
use crate::realm::GatewayId;
use crate::world::{Families, HostId, World};

/// Time in which an agent reaches its home node, and then rests: what its network is like, it has found out by then.
const READY: Duration = Duration::from_secs(10);
/// Pause between two pings of the traffic that shows which way it takes.
const PING_INTERVAL: Duration = Duration::from_millis(100);
/// A first ping that takes longer than this has failed.
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// Traffic for this long without a relayed packet means: direct.
pub const DIRECT_FOR: Duration = Duration::from_secs(10);
/// How soon a direct path is to carry the traffic.
pub const DIRECT_WITHIN: Duration = Duration::from_secs(2);

/// The network that an agent is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// A public address.
    Open,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Address-dependent filtering.
    AddressRestricted,
    /// Address- and port-dependent filtering.
    PortRestricted,
    /// As this, on a Linux router that answers unsolicited datagrams.
    Answering,
    /// Address-dependent mapping.
    AddressDependent,
    /// Symmetric, sequential ports.
    Sequential,
    /// Symmetric, random ports.
    Random,
    /// Symmetric, random ports out of the 252 that a carrier gives each line (MAP-E).
    PortSet,
    /// A home router behind a carrier's NAT, both port-restricted.
    Double,
    /// A home router behind a carrier's symmetric NAT.
    DoubleRandom,
    /// UDP to port 443 only.
    Blocked,
    /// IPv6 only, behind a stateful firewall.
    Ipv6Only,
    /// Both families, port-restricted and stateful.
    Dual,
    /// Both families, of which IPv6 leads nowhere.
    BrokenIpv6,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Answering,
        Self::AddressDependent,
        Self::Sequential,
        Self::Random,
        Self::PortSet,
        Self::Double,
        Self::DoubleRandom,
        Self::Blocked,
        Self::Ipv6Only,
        Self::Dual,
        Self::BrokenIpv6,
    ];

    /// The NATs around the agent, the outermost first.
    pub fn nats(self) -> Vec<NatConfig> {
        match self {
            Self::Open => vec![],
            Self::FullCone => vec![NatConfig::full_cone()],
            Self::AddressRestricted => vec![NatConfig::address_restricted()],
            Self::PortRestricted | Self::Ipv6Only | Self::Dual | Self::BrokenIpv6 => vec![NatConfig::port_restricted()],
            Self::Answering => vec![NatConfig::answering_linux()],
            Self::AddressDependent => vec![NatConfig::address_dependent()],
            Self::Sequential => vec![NatConfig::symmetric_sequential()],
            Self::Random => vec![NatConfig::symmetric_random()],
            Self::PortSet => vec![NatConfig::symmetric_random().port_set(6, 8, 0x34)],
            Self::Double => vec![NatConfig::port_restricted(), NatConfig::port_restricted()],
            Self::DoubleRandom => vec![NatConfig::symmetric_random(), NatConfig::port_restricted()],
            Self::Blocked => vec![NatConfig::port_restricted().udp(UdpPolicy::OnlyTo(vec![443]))],
        }
    }

    /// The families of its addresses.
    pub fn families(self) -> Families {
        match self {
            Self::Ipv6Only => Families::V6,
            Self::Dual | Self::BrokenIpv6 => Families::Dual,
            Self::Open
            | Self::FullCone
            | Self::AddressRestricted
            | Self::PortRestricted
            | Self::Answering
            | Self::AddressDependent
            | Self::Sequential
            | Self::Random
            | Self::PortSet
            | Self::Double
            | Self::DoubleRandom
            | Self::Blocked => Families::V4,
        }
    }
}

/// What theory says of two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A direct path, by challenges from both sides.
    Direct,
    /// A direct path with effort (spec/paths.md §7): ports that are foreseen, or met among many.
    Effort,
    /// The relay.
    Relay,
}

/// How two agents' networks hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// Each in its own.
    Apart(Network, Network),
    /// Both behind one NAT.
    SameNat(Hairpin),
    /// Two homes behind one carrier's NAT.
    SameCarrier(Hairpin),
    /// Two homes behind one carrier's symmetric NAT.
    SameSymmetricCarrier,
}

impl Network {
    /// The easiest network that it is as good as.
    fn class(self) -> Self {
        match self {
            Self::Double | Self::Dual | Self::BrokenIpv6 | Self::Answering => Self::PortRestricted,
            Self::DoubleRandom | Self::PortSet => Self::Random,
            Self::Open
            | Self::FullCone
            | Self::AddressRestricted
            | Self::PortRestricted
            | Self::AddressDependent
            | Self::Sequential
            | Self::Random
            | Self::Blocked
            | Self::Ipv6Only => self,
        }
    }

    /// Whether what it has of IPv6 leads anywhere.
    fn has_ipv6(self) -> bool {
        matches!(self, Self::Ipv6Only | Self::Dual)
    }
}

impl Pair {
    /// Those whose networks have a NAT in common.
    pub const NEIGHBOURS: [Self; 6] = [
        Self::SameNat(Hairpin::Off),
        Self::SameNat(Hairpin::ExternalSource),
        Self::SameNat(Hairpin::InternalSource),
        Self::SameCarrier(Hairpin::Off),
        Self::SameCarrier(Hairpin::ExternalSource),
        Self::SameSymmetricCarrier,
    ];

    /// What theory says of it.
    pub fn expected(self) -> Expected {
        match self {
            Self::Apart(one, other) => expected_apart(one, other),
            // By their host addresses.
            Self::SameNat(_) => Expected::Direct,
            Self::SameCarrier(Hairpin::ExternalSource | Hairpin::InternalSource) => Expected::Direct,
            Self::SameCarrier(Hairpin::Off) | Self::SameSymmetricCarrier => Expected::Relay,
        }
    }
}

fn expected_apart(one: Network, other: Network) -> Expected {
    if one.has_ipv6() && other.has_ipv6() {
        return Expected::Direct;
    }
    if [one, other].contains(&Network::Ipv6Only) {
        return Expected::Relay;
    }
    // From here on by the class of the easier one, and of the harder one.
    let (easy, hard) = (one.class().min(other.class()), one.class().max(other.class()));
    let both = |network| easy == network && hard == network;
    if hard == Network::Blocked {
        Expected::Relay
    } else if easy < Network::PortRestricted || both(Network::PortRestricted) {
        Expected::Direct
    } else if easy == Network::PortRestricted || both(Network::Sequential) {
        Expected::Effort
    } else {
        Expected::Relay
    }
}

/// How soon the first ping is to be answered, if a round trip by the relay takes so long.
pub fn answered_within(relayed_round_trip: Duration) -> Duration {
    Duration::from_millis(500) + 2 * relayed_round_trip
}

/// The chance that none of a volley's 1,280 ports is among the 256 that are open, of all from 1,024 on, taken from one
/// (spec/paths.md §7): how often random ports meet a NAT that keeps its own.
pub fn calculated_odds() -> f64 {
    let ports = 65_536.0 - 1_024.0;
    let missed: f64 = (0..256).map(|socket| 1.0 - 1_280.0 / (ports - f64::from(socket))).product();
    1.0 - missed
}

/// Two agents and their home node.
pub struct Meeting {
    /// The network.
    pub world: World,
    /// The agent that calls.
    pub alice: HostId,
    /// The other.
    pub bob: HostId,
    /// The home node of both.
    pub backbone: HostId,
    /// The outermost gateways of the two.
    pub gateways: [Option<GatewayId>; 2],
}

/// What came of a meeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// From the first ping to its answer.
    pub answered: Duration,
    /// From the first ping to the last relayed packet, if none came for [`DIRECT_FOR`] after that.
    pub direct: Option<Duration>,
}

impl Meeting {
    /// Builds the networks and lets the agents be ready for a while. `direct`: whether they may reach each other directly. They know a STUN
    /// server at a second address.
    pub fn new(seed: u64, link: LinkConfig, pair: Pair, direct: bool) -> Result<Self, Failure> {
        Self::build(seed, link, pair, direct, true)
    }

    /// The same with agents as they are when nobody has set anything: all that they know is a home node with one address.
    pub fn by_default(seed: u64, link: LinkConfig, pair: Pair) -> Result<Self, Failure> {
        Self::build(seed, link, pair, true, false)
    }

    fn build(seed: u64, link: LinkConfig, pair: Pair, direct: bool, has_second: bool) -> Result<Self, Failure> {
        let mut world = World::new(seed, link);
        let backbone = world.add_backbone_with(Families::Dual);
        let second = has_second.then(|| SocketAddr::new(world.add_address(backbone), world.address(backbone).port()));
        let config = || Config::new(Role::Agent).direct(direct);
        let gateways = place(&mut world, pair);
        let families = |side: usize| match pair {
            Pair::Apart(one, other) => [one, other][side].families(),
            Pair::SameNat(_) | Pair::SameCarrier(_) | Pair::SameSymmetricCarrier => Families::V4,
        };
        let [alice, bob] = [0, 1].map(|side| world.add_agent_at(config(), gateways[side].1, families(side)));
        if let Pair::Apart(one, other) = pair {
            for (agent, network) in [(alice, one), (bob, other)] {
                if network == Network::BrokenIpv6 {
                    world.break_ipv6(agent);
                }
            }
        }
        let gateways = gateways.map(|(outer, _)| outer);
        let mut meeting = Self { world, alice, bob, backbone, gateways };
        meeting.go_home(second)?;
        Ok(meeting)
    }

    /// `second`: another address of the home node, where it answers STUN too.
    fn go_home(&mut self, second: Option<SocketAddr>) -> Result<(), Failure> {
        let Self { alice, bob, backbone, .. } = *self;
        for (agent, other) in [(alice, bob), (bob, alice)] {
            self.world.give_record(agent, other, &[backbone]);
            self.world.set_home(agent, backbone)?;
            if let Some(second) = second {
                self.world.call(agent, |node, now| node.set_stun_servers(now, &[second]))?;
            }
        }
        self.world.run_for(READY)?;
        let is_home = |world: &World, agent| world.node(agent).is_some_and(Node::is_home_connected);
        self.world.run_until("both at home", READY, |world| is_home(world, alice) && is_home(world, bob))
    }

    /// RELAY packets that the backbone node has forwarded so far.
    pub fn relayed(&self) -> u64 {
        self.world.backbone_status(self.backbone).map_or(0, |status| status.relay.packets)
    }

    /// Lets nothing through between the two agents' networks but what the relay forwards.
    pub fn block_direct(&mut self) {
        self.change_direct(|link| link.cut(true));
    }

    /// Changes the links between the two agents' networks.
    pub fn change_direct(&mut self, change: impl Fn(LinkConfig) -> LinkConfig) {
        let [alice, bob] = [self.alice, self.bob];
        for (from, gateway) in [(alice, self.gateways[1]), (bob, self.gateways[0])] {
            if let Some(gateway) = gateway {
                self.world.change_link_to_gateway(from, gateway, &change);
            }
        }
    }

    /// One ping from alice to bob: the time to its answer.
    pub fn ping(&mut self) -> Result<Duration, Failure> {
        let job = self.world.start_job(self.alice, self.bob, Plan::request(32, 32))?;
        self.world.complete(&[job], PING_PATIENCE)?;
        Ok(self.world.report(job).and_then(|report| report.answer_time()).expect("completed"))
    }

    /// Lets alice ping bob until no packet has been relayed for [`DIRECT_FOR`], or it is clear that this will not be in time.
    pub fn run(&mut self) -> Result<Outcome, Failure> {
        let started = self.world.now();
        let before = self.relayed();
        let answered = self.ping()?;
        let mut last = (self.relayed(), self.world.now());
        if last.0 == before {
            last.1 = started;
        }
        let since = |at: Mono| at.since(started);
        while self.world.now().since(last.1) < DIRECT_FOR && since(last.1) <= DIRECT_WITHIN {
            self.world.run_for(PING_INTERVAL)?;
            self.ping()?;
            if self.relayed() != last.0 {
                last = (self.relayed(), self.world.now());
            }
        }
        let direct = Some(since(last.1)).filter(|direct| *direct <= DIRECT_WITHIN);
        Ok(Outcome { answered, direct })
    }
}

/// Adds the gateways of both sides: the outermost of each, and that which its agent is behind.
fn place(world: &mut World, pair: Pair) -> [(Option<GatewayId>, Option<GatewayId>); 2] {
    let home = NatConfig::port_restricted;
    match pair {
        Pair::Apart(one, other) => [one, other].map(|network| {
            let mut chain: Vec<GatewayId> = Vec::new();
            for nat in network.nats() {
                chain.push(world.add_gateway(nat, chain.last().copied()));
            }
            (chain.first().copied(), chain.last().copied())
        }),
        Pair::SameNat(hairpin) => {
            let gateway = Some(world.add_gateway(home().hairpin(hairpin), None));
            [(gateway, gateway); 2]
        }
        Pair::SameCarrier(hairpin) => {
            let carrier = world.add_gateway(home().hairpin(hairpin), None);
            [(); 2].map(|()| (Some(carrier), Some(world.add_gateway(home(), Some(carrier)))))
        }
        Pair::SameSymmetricCarrier => {
            let nat = NatConfig::symmetric_random().hairpin(Hairpin::ExternalSource);
            let carrier = world.add_gateway(nat, None);
            [(); 2].map(|()| (Some(carrier), Some(world.add_gateway(home(), Some(carrier)))))
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Open => "N",
            Self::FullCone => "F",
            Self::AddressRestricted => "A",
            Self::PortRestricted => "P",
            Self::Answering => "P!",
            Self::AddressDependent => "D",
            Self::Sequential => "Q",
            Self::Random => "R",
            Self::PortSet => "R252",
            Self::Double => "PP",
            Self::DoubleRandom => "PR",
            Self::Blocked => "B",
            Self::Ipv6Only => "6",
            Self::Dual => "46",
            Self::BrokenIpv6 => "46!",
        })
    }
}
