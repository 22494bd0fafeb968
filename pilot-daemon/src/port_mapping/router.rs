//! One mapping at one router, by whichever protocol it speaks: PCP (RFC 6887), NAT-PMP (RFC 6886), UPnP IGD.
//!
//! Whatever the router says is bounded: in time, in length by the libraries, and in what is made of it. Its words go nowhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};
use tokio::time::timeout;

use super::gateway::Place;
use crate::api::network::MappingProtocol;

/// How long a mapping is asked for: what RFC 6886 §3.3 recommends.
const LIFETIME_S: u32 = 7_200;
/// A router that grants less is not worth asking twice a minute.
const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// PCP and NAT-PMP: four questions in 2.75 s, then the router is silent. It is one hop away.
const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: if cfg!(test) { 1 } else { 3 },
    max_retry_timeout: Some(Duration::from_secs(1)),
};
/// The same for the search by which UPnP begins; routers may take a second to answer that.
const SEARCH_PATIENCE: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(3) };
/// Whatever is asked, however many questions it takes, ends after this.
const REQUEST_PATIENCE: Duration = Duration::from_secs(15);
/// Where UPnP is looked for: at the router itself, then at the group that all devices listen to.
const SSDP_PORT: u16 = 1_900;
const SSDP_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// What the router's own pages show of us.
const DESCRIPTION: &str = "pilot";

/// A mapping that the router keeps.
pub(super) enum Mapping {
    /// By PCP or NAT-PMP.
    Pcp(Box<PortMapping>),
    /// By UPnP.
    Upnp { gateway: Box<Gateway<Tokio>>, external_port: u16, client: SocketAddr },
}

/// What it has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) address: SocketAddr,
    pub(super) lifetime: Duration,
    pub(super) protocol: MappingProtocol,
}

/// Why there is no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no router is known")]
    NoRouter,
    #[error("the router at {0} answers neither PCP, NAT-PMP nor UPnP")]
    Silent(Ipv4Addr),
    #[error("the router at {0} grants none")]
    Refused(Ipv4Addr),
    #[error("the router at {router} is behind another NAT itself: it has the address {external}")]
    NotPublic { router: Ipv4Addr, external: IpAddr },
}

impl Mapping {
    /// Asks the router for one.
    pub(super) async fn request(place: Place) -> Result<(Self, Granted), Refusal> {
        let asked = timeout(REQUEST_PATIENCE, Self::request_by_any(place)).await;
        let (mut mapping, granted) = asked.unwrap_or(Err(Refusal::Silent(place.gateway)))?;
        match is_useful(place.gateway, granted) {
            Ok(granted) => Ok((mapping, granted)),
            Err(refusal) => {
                mapping.remove().await;
                Err(refusal)
            }
        }
    }

    /// Asks for the same once more; the address may be another.
    pub(super) async fn renew(&mut self, place: Place) -> Result<Granted, Refusal> {
        let asked = timeout(REQUEST_PATIENCE, self.renew_as_it_was()).await;
        let granted = asked.ok().flatten().ok_or(Refusal::Silent(place.gateway))?;
        is_useful(place.gateway, granted)
    }

    /// Gives it back. A router that does not answer forgets it when its time is over.
    pub(super) async fn remove(&mut self) {
        let removing = async {
            match self {
                Self::Pcp(mapping) => mapping.as_ref().clone().try_drop().await.is_ok(),
                Self::Upnp { gateway, external_port, .. } => {
                    gateway.remove_port(PortMappingProtocol::UDP, *external_port).await.is_ok()
                }
            }
        };
        let is_removed = timeout(REQUEST_PATIENCE, removing).await.unwrap_or(false);
        tracing::debug!(is_removed, "port mapping given back");
    }

    async fn request_by_any(place: Place) -> Result<(Self, Granted), Refusal> {
        match by_pcp(place).await {
            Ok(mapped) => Ok(mapped),
            Err(refusal) => match by_upnp(place).await {
                Some(mapped) => mapped,
                None => Err(refusal),
            },
        }
    }

    async fn renew_as_it_was(&mut self) -> Option<Granted> {
        match self {
            Self::Pcp(mapping) => {
                mapping.renew().await.ok()?;
                granted_by_pcp(mapping).await
            }
            Self::Upnp { gateway, external_port, client } => {
                add_port(gateway, *external_port, *client).await.ok()?;
                granted_by_upnp(gateway, *external_port).await
            }
        }
    }
}

/// PCP, or NAT-PMP if that is what the router says that it speaks.
async fn by_pcp(place: Place) -> Result<(Mapping, Granted), Refusal> {
    let port = NonZeroU16::new(place.client.port()).ok_or(Refusal::NoRouter)?;
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(LIFETIME_S),
        timeout_config: Some(TIMING),
    };
    let asked = PortMapping::new(place.gateway.into(), place.client.ip(), InternetProtocol::Udp, port, options).await;
    let mapping = asked.map_err(|failure| {
        tracing::debug!(%failure, "no port mapping by PCP or NAT-PMP");
        if is_silence(&failure) { Refusal::Silent(place.gateway) } else { Refusal::Refused(place.gateway) }
    })?;
    let granted = granted_by_pcp(&mapping).await.ok_or(Refusal::Silent(place.gateway))?;
    Ok((Mapping::Pcp(Box::new(mapping)), granted))
}

fn is_silence(failure: &crab_nat::MappingFailure) -> bool {
    use crab_nat::{MappingFailure, natpmp, pcp};
    match failure {
        MappingFailure::Pcp(failure) => matches!(failure, pcp::Failure::Timeout | pcp::Failure::Socket(_)),
        MappingFailure::NatPmp(failure) => matches!(failure, natpmp::Failure::Timeout | natpmp::Failure::Socket(_)),
    }
}

async fn granted_by_pcp(mapping: &PortMapping) -> Option<Granted> {
    let (ip, protocol) = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => (external_ip.to_canonical(), MappingProtocol::Pcp),
        PortMappingType::NatPmp => {
            let ip = natpmp::external_address(mapping.gateway(), Some(TIMING)).await.ok()?;
            (ip.into(), MappingProtocol::NatPmp)
        }
    };
    let address = SocketAddr::new(ip, mapping.external_port().get());
    Some(Granted { address, lifetime: Duration::from_secs(mapping.lifetime().into()), protocol })
}

/// UPnP; none if the router does not speak it.
async fn by_upnp(place: Place) -> Option<Result<(Mapping, Granted), Refusal>> {
    let gateway = match search(place, place.gateway).await {
        Some(gateway) => gateway,
        None => search(place, SSDP_GROUP).await?,
    };
    let refused = Some(Err(Refusal::Refused(place.gateway)));
    let Ok(external_port) = add_some_port(&gateway, place.client).await else { return refused };
    let granted = granted_by_upnp(&gateway, external_port).await;
    let mut mapping = Mapping::Upnp { gateway: Box::new(gateway), external_port, client: place.client };
    if granted.is_none() {
        mapping.remove().await;
    }
    Some(granted.map(|granted| (mapping, granted)).ok_or(Refusal::Refused(place.gateway)))
}

/// Asks whoever hears it for a router. Any machine of this network may answer: only the gateway is believed.
async fn search(place: Place, whom: Ipv4Addr) -> Option<Gateway<Tokio>> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::new(place.client.ip(), 0);
    options.broadcast_address = (whom, SSDP_PORT).into();
    options.timeout = Some(SEARCH_PATIENCE);
    options.single_search_timeout = Some(SEARCH_PATIENCE);
    let found = search_gateway(options).await.ok()?;
    (found.addr.ip() == place.gateway).then_some(found)
}

/// The port of our own socket, or, if another machine has that, one that the router chooses.
async fn add_some_port(gateway: &Gateway<Tokio>, client: SocketAddr) -> Result<u16, ()> {
    match add_port(gateway, client.port(), client).await {
        Ok(()) => Ok(client.port()),
        Err(AddPortError::PortInUse) => {
            let added = gateway.add_any_port(PortMappingProtocol::UDP, client, LIFETIME_S, DESCRIPTION).await;
            added.map_err(|_| ())
        }
        // One that is never forgotten (OnlyPermanentLeasesSupported) would outlive an agent that is killed.
        Err(_) => Err(()),
    }
}

async fn add_port(gateway: &Gateway<Tokio>, external_port: u16, client: SocketAddr) -> Result<(), AddPortError> {
    gateway.add_port(PortMappingProtocol::UDP, external_port, client, LIFETIME_S, DESCRIPTION).await
}

async fn granted_by_upnp(gateway: &Gateway<Tokio>, external_port: u16) -> Option<Granted> {
    let ip = gateway.get_external_ip().await.ok()?;
    let lifetime = Duration::from_secs(LIFETIME_S.into());
    Some(Granted { address: SocketAddr::new(ip, external_port), lifetime, protocol: MappingProtocol::Upnp })
}

/// Whether others can make something of it. The address is the router's word: it is a candidate like others, proved before it is used.
fn is_useful(router: Ipv4Addr, granted: Granted) -> Result<Granted, Refusal> {
    let external = granted.address.ip();
    if !is_public(external) {
        return Err(Refusal::NotPublic { router, external });
    }
    if granted.lifetime < LIFETIME_MIN || granted.address.port() == 0 {
        return Err(Refusal::Refused(router));
    }
    Ok(granted)
}

/// Whether packets from elsewhere can be sent there (RFC 6890); a mapping leads from IPv4 to IPv4.
fn is_public(ip: IpAddr) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    let [first, second, ..] = ip.octets();
    let is_shared = first == 100 && (64..128).contains(&second);
    let is_none = first == 0 || first >= 224;
    !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared || is_none)
}

#[cfg(test)]
mod tests;
