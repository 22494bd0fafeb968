//! The networks that a scenario puts hosts into: those of the simulator in TUN devices, or those of the kernel.

use std::net::IpAddr;
use std::time::Duration;

use pilot_sim::link::LinkConfig;
use pilot_sim::meeting::{Network, Pair};
use pilot_sim::nat::{Hairpin, NatConfig};
use pilot_sim::world::Families;

use super::kernel;
use super::lab::{MTU, Plan};
use super::router::{CORE, Gateway, NodeId, Policy, Router};

/// The address of a host's second interface, and of the home that it leads to.
pub(crate) const SPARE: &str = "10.9.0.5";
const SPARE_HOME: &str = "198.51.100.4";
/// Names of the gateways where they are hosts.
pub(crate) const GATEWAYS: [&str; 2] = ["home-a", "home-b"];
/// One way from a home to the core.
const ACCESS_DELAY: Duration = Duration::from_millis(10);
/// One way by a cable at home.
const LAN_DELAY: Duration = Duration::from_micros(200);
/// From agent to agent and back by a relay: each way goes up and down two lines, and through two cables at most.
pub(crate) const RELAYED_ROUND_TRIP: Duration =
    Duration::from_micros(2 * (4 * ACCESS_DELAY.as_micros() + 4 * LAN_DELAY.as_micros()) as u64);

/// Who does what a NAT does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// The lab's router, as the simulator.
    Emulated,
    /// The kernel, by nftables.
    Kernel,
}

/// Where two agents are.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) pair: Pair,
    pub(crate) ground: Ground,
    /// Their lines.
    pub(crate) lines: [LinkConfig; 2],
    /// MTU of all interfaces.
    pub(crate) mtu: u16,
    /// Whether the first has a second interface to change to.
    pub(crate) has_spare: bool,
}

impl Site {
    /// Two emulated networks with good lines.
    pub(crate) fn new(pair: Pair) -> Self {
        Self { pair, ground: Ground::Emulated, lines: [access(), access()], mtu: MTU, has_spare: false }
    }

    /// Plans the hosts. Returns the emulated gateway that each is directly behind.
    pub(crate) fn plan(&self, plan: &mut Plan, names: [&'static str; 2]) -> [Option<NodeId>; 2] {
        plan.mtu = self.mtu;
        let gateways = match self.ground {
            Ground::Emulated => emulate(self.pair, plan, names, &self.lines),
            Ground::Kernel => by_kernel(self.pair, plan, names, &self.lines),
        };
        if self.has_spare {
            let home = another_home(&mut plan.router, Network::PortRestricted, SPARE_HOME, &access());
            plan.spare(names[0], home, SPARE, &lan());
        }
        gateways
    }
}

fn by_kernel(pair: Pair, plan: &mut Plan, names: [&'static str; 2], lines: &[LinkConfig; 2]) -> [Option<NodeId>; 2] {
    let Pair::Apart(one, other) = pair else { panic!("no rules for {pair:?}") };
    kernel::plan(one, plan, [GATEWAYS[0], names[0]], 1, &lines[0]);
    kernel::plan(other, plan, [GATEWAYS[1], names[1]], 2, &lines[1]);
    [None, None]
}

/// Plans two hosts in emulated networks; those with a gateway in common have the first line in common too.
fn emulate(pair: Pair, plan: &mut Plan, names: [&'static str; 2], lines: &[LinkConfig; 2]) -> [Option<NodeId>; 2] {
    let home = NatConfig::port_restricted;
    let line = &lines[0];
    match pair {
        Pair::Apart(one, other) => [apart(one, plan, names[0], 1, line), apart(other, plan, names[1], 2, &lines[1])],
        Pair::SameNat(hairpin) => {
            let gateway = gateway(home().hairpin(hairpin), "198.51.100.1", plan, CORE, line);
            plan.host(names[0], gateway, &["192.168.1.2"], &lan());
            plan.host(names[1], gateway, &["192.168.1.3"], &lan());
            [Some(gateway); 2]
        }
        Pair::SameCarrier(hairpin) => same_carrier(home().hairpin(hairpin), plan, names, line),
        Pair::SameSymmetricCarrier => {
            same_carrier(NatConfig::symmetric_random().hairpin(Hairpin::ExternalSource), plan, names, line)
        }
    }
}

/// Another home with the one NAT of a network, while the lab runs already.
pub(crate) fn another_home(router: &mut Router, network: Network, public: &str, link: &LinkConfig) -> NodeId {
    let udp = network.nats().pop().expect("it has a NAT");
    let v4 = Policy::nat(udp, NatConfig::port_restricted(), &[address(public)], router.rng());
    router.add_gateway(CORE, Gateway { v4, v6: Policy::Drop }, link)
}

/// Two homes behind one carrier's NAT.
fn same_carrier(nat: NatConfig, plan: &mut Plan, names: [&'static str; 2], link: &LinkConfig) -> [Option<NodeId>; 2] {
    let carrier = gateway(nat, "198.51.100.1", plan, CORE, link);
    let mut home = |name, number: u8| {
        let home = gateway(NatConfig::port_restricted(), &format!("100.64.0.{number}"), plan, carrier, &lan());
        plan.host(name, home, &[&format!("192.168.{number}.2")], &lan());
        Some(home)
    };
    [home(names[0], 1), home(names[1], 2)]
}

/// A host in a network of its own. `number` makes its addresses, and those of its gateways, its own.
fn apart(network: Network, plan: &mut Plan, name: &'static str, number: u8, link: &LinkConfig) -> Option<NodeId> {
    let has_v4 = network.families() != Families::V6;
    let has_v6 = network.families() != Families::V4;
    let is_v6_broken = network == Network::BrokenIpv6;
    let mut parent = CORE;
    let nats = network.nats();
    for (depth, nat) in nats.iter().enumerate() {
        let public = if depth == 0 { format!("198.51.100.{number}") } else { format!("100.64.{number}.{depth}") };
        let v4 = if has_v4 { translate(nat.clone(), &[address(&public)], plan) } else { Policy::Drop };
        let v6 = if has_v6 && !is_v6_broken { translate(NatConfig::firewall(), &[], plan) } else { Policy::Drop };
        // Only the outermost line is long.
        let line = if depth == 0 { link.clone() } else { lan() };
        parent = plan.router.add_gateway(parent, Gateway { v4, v6 }, &line);
    }
    let (v4, line) = match nats.is_empty() {
        true => (format!("198.51.100.{number}"), link.clone()),
        false => (format!("192.168.{number}.2"), lan()),
    };
    let v6 = format!("2001:db8:{number}::2");
    let addresses: Vec<&str> =
        [has_v4.then_some(v4.as_str()), has_v6.then_some(v6.as_str())].into_iter().flatten().collect();
    plan.host(name, parent, &addresses, &line);
    (parent != CORE).then_some(parent)
}

/// A NAT for IPv4 that lets no IPv6 through.
fn gateway(nat: NatConfig, public: &str, plan: &mut Plan, parent: NodeId, link: &LinkConfig) -> NodeId {
    let v4 = translate(nat, &[address(public)], plan);
    plan.router.add_gateway(parent, Gateway { v4, v6: Policy::Drop }, link)
}

/// Scenarios are about what a NAT does to UDP. TCP has one that nobody minds: an agent has no more than one connection, to its home node.
fn translate(udp: NatConfig, public: &[IpAddr], plan: &mut Plan) -> Policy {
    let tcp = if public.is_empty() { NatConfig::firewall() } else { NatConfig::port_restricted() };
    Policy::nat(udp, tcp, public, plan.router.rng())
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("addresses of labs are written in this program")
}

/// A cable at home: it carries whatever interfaces give it.
pub(crate) fn lan() -> LinkConfig {
    LinkConfig::default().delay(LAN_DELAY).mtu(usize::from(u16::MAX))
}

/// The way to a provider and its network.
pub(crate) fn access() -> LinkConfig {
    LinkConfig::default().delay(ACCESS_DELAY)
}
