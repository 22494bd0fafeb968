//! What an agent finds out of the network around it when it is asked (spec/local-api.md §9).

use std::net::SocketAddr;
use std::time::Duration;

use pilot_core::mapping::{self, NatMapping};
use pilot_core::node::{MappingLifetime, PeerStatus};

use super::Agent;
use super::status::{millis, path_of};
use crate::api::network::{Family, Filtering, Lifetime, Mapping, MappingGap, MappingKind, NetCheck, Relay};
use crate::api::types::{ApiError, Transport};
use crate::backbone_link::own_homes;
use crate::driver::Core;
use crate::net::host_addresses;
use crate::netcheck::{self, Answer};

/// A survey of the NAT that is under way is waited for so long: three questions to second servers, and eight more (spec/paths.md §7).
const SURVEY_LOOKS: u32 = 60;
/// It is looked at so often.
const SURVEY_INTERVAL: Duration = Duration::from_millis(100);

/// What the node knows of the network.
pub(super) struct Seen {
    pub(super) mapping: NatMapping,
    /// Why it is not known.
    gap: Option<mapping::MappingGap>,
    pub(super) observed: Option<SocketAddr>,
    lifetime: MappingLifetime,
    backbones: Vec<PeerStatus>,
    is_surveying: bool,
}

impl Agent {
    /// Finds out what the network lets through, and how.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn netcheck(&self) -> Result<NetCheck, ApiError> {
        let servers = self.stun_servers().await;
        let (servers_v4, servers_v6): (Vec<_>, Vec<_>) = servers.into_iter().partition(SocketAddr::is_ipv4);
        let (ipv4, ipv6, seen) =
            tokio::join!(self.family(true, &servers_v4), self.family(false, &servers_v6), self.settled());
        let seen = seen?;
        let link = *self.inner.home_link.borrow();
        Ok(NetCheck {
            udp: match link.transport {
                Some(Transport::Udp) => Some(true),
                Some(Transport::Tls) | None => one_of(ipv4.answered, ipv6.answered),
            },
            ipv4,
            ipv6,
            observed_address: seen.observed,
            mapping: self.mapping(&seen),
            filtering: Filtering::Unknown,
            mapping_lifetime: lifetime(seen.lifetime),
            port_mapping: self.inner.port_mapper.state(),
            relays: seen.backbones.iter().map(|status| self.relay(status)).collect(),
            findings: self.inner.backbone.as_ref().map(|ticket| self.findings(ticket, link)).unwrap_or_default(),
        })
    }

    /// The STUN servers that are known: the home node, and those of the settings.
    async fn stun_servers(&self) -> Vec<SocketAddr> {
        let homes = own_homes(&self.inner).await;
        let mut servers: Vec<_> = homes.into_iter().flat_map(|home| home.addresses).collect();
        servers.extend(self.inner.stun_servers.borrow().iter());
        servers
    }

    async fn family(&self, is_ipv4: bool, servers: &[SocketAddr]) -> Family {
        let local = host_addresses(self.inner.listen).into_iter().map(|address| address.ip());
        let local = local.filter(|ip| ip.is_ipv4() == is_ipv4 && !ip.is_loopback()).collect();
        if servers.is_empty() {
            return Family { local, ..Family::default() };
        }
        match netcheck::ask(servers).await {
            Ok(Answer { observed, rtt }) => {
                Family { local, answered: Some(true), observed: Some(observed), rtt_ms: Some(millis(rtt)) }
            }
            Err(error) => {
                tracing::debug!(%error, is_ipv4, "no STUN server answers");
                Family { local, answered: Some(false), observed: None, rtt_ms: None }
            }
        }
    }

    /// What the node knows, once it has asked all that it wants to ask.
    pub(super) async fn settled(&self) -> Result<Seen, ApiError> {
        let mut seen = self.inner.ask(|core, _| Seen::take(core)).await?;
        for _ in 0..SURVEY_LOOKS {
            if !seen.is_surveying {
                break;
            }
            tokio::time::sleep(SURVEY_INTERVAL).await;
            seen = self.inner.ask(|core, _| Seen::take(core)).await?;
        }
        Ok(seen)
    }

    /// How the NAT maps sockets, if there is one.
    pub(super) fn mapping(&self, seen: &Seen) -> Mapping {
        let is_own =
            |observed: SocketAddr| observed.ip().is_loopback() || host_addresses(self.inner.listen).contains(&observed);
        if seen.observed.is_some_and(is_own) {
            return Mapping { kind: MappingKind::None, ..Mapping::default() };
        }
        let (kind, step, ports) = match seen.mapping {
            NatMapping::Unknown => (MappingKind::Unknown, None, None),
            NatMapping::Independent { .. } => (MappingKind::Independent, None, None),
            NatMapping::PortIndependent { .. } => (MappingKind::PortIndependent, None, None),
            NatMapping::Sequence { step } => (MappingKind::Sequence, Some(step), None),
            NatMapping::Random { set } => (MappingKind::Random, None, Some(set.ports_len())),
        };
        Mapping { kind, step, ports, reason: seen.gap.map(reason) }
    }

    fn relay(&self, status: &PeerStatus) -> Relay {
        let (path, remote) = path_of(status.path);
        Relay {
            key: status.key.to_string(),
            home: self.inner.backbone.as_ref().is_some_and(|ticket| ticket.identity == status.key),
            remote,
            path,
            rtt_ms: status.rtt.map(millis),
        }
    }
}

impl Seen {
    fn take(core: &Core) -> Self {
        Self {
            mapping: core.node.nat_mapping(),
            gap: core.node.nat_mapping_gap(),
            observed: core.node.current_observed_address(),
            lifetime: core.node.mapping_lifetime(),
            backbones: core.node.peers().filter(|peer| peer.backbone && peer.connected).collect(),
            is_surveying: core.node.is_surveying(),
        }
    }
}

fn reason(gap: mapping::MappingGap) -> MappingGap {
    match gap {
        mapping::MappingGap::NotAsked => MappingGap::NotAsked,
        mapping::MappingGap::Asking => MappingGap::Asking,
        mapping::MappingGap::NoSecondServer => MappingGap::NoSecondServer,
        mapping::MappingGap::NoAnswer => MappingGap::NoAnswer,
        mapping::MappingGap::NoSockets => MappingGap::NoSockets,
        mapping::MappingGap::SocketsUnanswered => MappingGap::SocketsUnanswered,
    }
}

fn lifetime(MappingLifetime { outlived, keepalive }: MappingLifetime) -> Lifetime {
    Lifetime { at_least_s: outlived.map(|outlived| outlived.as_secs()), keepalive_s: keepalive.as_secs() }
}

/// Yes if one of them is, no if one is not; else nobody knows.
fn one_of(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    one.into_iter().chain(other).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_family_has_shown_the_other_cannot_take_back() {
        assert_eq!(one_of(Some(true), Some(false)), Some(true));
        assert_eq!(one_of(None, Some(false)), Some(false));
        assert_eq!(one_of(None, None), None);
    }
}
