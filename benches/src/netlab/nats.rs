//! The networks that a scenario puts a host into: those of the simulator, in TUN devices.

use std::net::IpAddr;
use std::time::Duration;

use pilot_sim::link::LinkConfig;
use pilot_sim::meeting::Network;
use pilot_sim::nat::NatConfig;
use pilot_sim::world::Families;

use super::lab::Plan;
use super::router::{CORE, Gateway, NodeId, Policy};

/// Plans a host in a network of that kind. `number` makes its addresses, and those of its gateways, its own.
pub(crate) fn plan(network: Network, plan: &mut Plan, name: &'static str, number: u8, link: &LinkConfig) -> NodeId {
    let has_v4 = network.families() != Families::V6;
    let has_v6 = network.families() != Families::V4;
    let mut parent = CORE;
    let nats = network.nats();
    for (depth, nat) in nats.iter().enumerate() {
        let public = if depth == 0 { format!("198.51.100.{number}") } else { format!("100.64.{number}.{depth}") };
        let v4 = match has_v4 {
            true => translate(nat.clone(), &[address(&public)], plan),
            false => Policy::Drop,
        };
        let v6 = match (has_v6, network) {
            (true, Network::BrokenIpv6) | (false, _) => Policy::Drop,
            (true, _) => translate(NatConfig::firewall(), &[], plan),
        };
        // Only the outermost line is long.
        let line = if depth == 0 { link.clone() } else { lan() };
        parent = plan.router.add_gateway(parent, Gateway { v4, v6 }, &line);
    }
    let v4 = if nats.is_empty() { format!("198.51.100.{number}") } else { format!("192.168.{number}.2") };
    let v6 = format!("2001:db8:{number}::2");
    let addresses: Vec<&str> =
        [has_v4.then_some(v4.as_str()), has_v6.then_some(v6.as_str())].into_iter().flatten().collect();
    let line = if nats.is_empty() { link.clone() } else { lan() };
    plan.host(name, parent, &addresses, &line)
}

fn translate(udp: NatConfig, public: &[IpAddr], plan: &mut Plan) -> Policy {
    let tcp = if public.is_empty() { NatConfig::firewall() } else { NatConfig::port_restricted() };
    Policy::nat(udp, tcp, public, plan.router.rng())
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("addresses of labs are written in this program")
}

/// A cable at home.
pub(crate) fn lan() -> LinkConfig {
    LinkConfig::default().delay(Duration::from_micros(200))
}

/// The way to a provider and its network.
pub(crate) fn access() -> LinkConfig {
    LinkConfig::default().delay(Duration::from_millis(10))
}
