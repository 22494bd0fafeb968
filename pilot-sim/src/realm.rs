//! Who is where: address realms (RFC 2663 §2.1), the gateways between them, and the way of a datagram through both.
//!
//! A host is in the public realm or behind a gateway; a gateway is in the public realm or behind another. Each has a [`Nat`] for IPv4 and a
//! firewall for IPv6. Outbound translation happens as a datagram leaves, inbound translation as it arrives: two that cross on the way
//! find the tables as they are then.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use pilot_core::rng::Rng;
use pilot_core::time::Mono;

use crate::link::Fate;
use crate::nat::{Nat, NatConfig, NatDrop};
use crate::world::HostId;

/// Routers between the outermost gateways of two sites: what a datagram's time to live has to outlast.
const CORE_HOPS: u8 = 6;

/// Names a gateway of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayId(usize);

/// Where a link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// At a host.
    Host(HostId),
    /// At the outer side of a gateway.
    Gateway(GatewayId),
}

/// Where a host is, and under which addresses.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) addresses: Vec<SocketAddr>,
    /// An address that the host answers at, and that no record of it names.
    pub(crate) unnamed: Option<SocketAddr>,
    pub(crate) gateway: Option<GatewayId>,
    /// Its IPv6 leads nowhere, although it has addresses.
    pub(crate) is_ipv6_broken: bool,
}

/// One gateway.
struct Gateway {
    nat: Nat,
    firewall: Nat,
    parent: Option<GatewayId>,
    public: IpAddr,
}

/// The gateways of a world.
#[derive(Default)]
pub(crate) struct Realms {
    gateways: Vec<Gateway>,
    addresses_made: u16,
}

impl Site {
    /// Whether the address is one of the host's.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        self.all().any(|address| address.ip() == ip)
    }

    /// Every address of the host.
    pub(crate) fn all(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().copied().chain(self.unnamed)
    }

    /// The address from which the host sends to `remote`: the one asked for, or the first of that family.
    pub(crate) fn source_for(&self, remote: SocketAddr, local_ip: Option<IpAddr>) -> Option<SocketAddr> {
        let mut family = self.all().filter(|address| address.is_ipv4() == remote.is_ipv4());
        match local_ip {
            Some(ip) => family.find(|address| address.ip() == ip),
            None => family.next(),
        }
    }
}

impl Realms {
    /// Adds a gateway with an outside address of its own.
    pub(crate) fn add(
        &mut self,
        nat: NatConfig,
        firewall: NatConfig,
        parent: Option<GatewayId>,
        rng: &Rng,
    ) -> GatewayId {
        let public = self.new_address(parent);
        let mut rng = rng.child(&format!("gateway {}", self.gateways.len()));
        let nat = Nat::new(nat, vec![public], rng.array());
        let firewall = Nat::new(firewall, Vec::new(), rng.array());
        self.gateways.push(Gateway { nat, firewall, parent, public });
        GatewayId(self.gateways.len() - 1)
    }

    /// Gives a gateway a new outside address and an empty table.
    pub(crate) fn rebind(&mut self, gateway: GatewayId) {
        let public = self.new_address(self.gateways[gateway.0].parent);
        let gateway = &mut self.gateways[gateway.0];
        gateway.public = public;
        gateway.nat.rebind(vec![public]);
        gateway.firewall.rebind(Vec::new());
    }

    /// Mappings of a gateway that are alive.
    pub(crate) fn mappings_len(&self, now: Mono, gateway: GatewayId) -> usize {
        self.gateways[gateway.0].nat.mappings_len(now)
    }

    /// Lets a gateway forget every mapping, and give other ports from now on.
    pub(crate) fn remap(&mut self, gateway: GatewayId) {
        let gateway = &mut self.gateways[gateway.0];
        gateway.nat.remap();
        gateway.firewall.rebind(Vec::new());
    }

    /// Lets a gateway forget every mapping.
    pub(crate) fn flush(&mut self, gateway: GatewayId) {
        let gateway = &mut self.gateways[gateway.0];
        gateway.nat.rebind(vec![gateway.public]);
        gateway.firewall.rebind(Vec::new());
    }

    /// Takes a datagram from a host as far as the link that it travels on: its end, and the source address that it has there.
    pub(crate) fn climb<'a>(
        &mut self,
        now: Mono,
        sites: &impl Fn(usize) -> Option<&'a Site>,
        from: &Site,
        mut source: SocketAddr,
        mut remote: SocketAddr,
        ttl: Option<u8>,
    ) -> Result<(Endpoint, SocketAddr, SocketAddr), Fate> {
        if from.is_ipv6_broken && remote.is_ipv6() {
            return Err(Fate::NoHost);
        }
        let mut realm = from.gateway;
        let mut hops = 0;
        loop {
            if let Some(end) = self.leads_to(sites, realm, remote.ip()) {
                let needed = if realm.is_none() { hops + CORE_HOPS } else { hops };
                return if ttl.is_some_and(|ttl| ttl <= needed) {
                    Err(Fate::Expired)
                } else {
                    Ok((end, source, remote))
                };
            }
            let Some(id) = realm else { return Err(Fate::NoHost) };
            hops += 1;
            if ttl.is_some_and(|ttl| ttl <= hops) {
                return Err(Fate::Expired);
            }
            let gateway = &mut self.gateways[id.0];
            if gateway.nat.is_public(remote.ip()) {
                (source, remote) = gateway.nat.hairpin(now, source, remote)?;
                continue;
            }
            source = gateway.table(remote).outbound(now, source, remote)?;
            realm = gateway.parent;
        }
    }

    /// Takes a datagram from the outer side of a gateway inwards: the host, and the address of it that is meant.
    pub(crate) fn descend<'a>(
        &mut self,
        now: Mono,
        sites: &impl Fn(usize) -> Option<&'a Site>,
        source: SocketAddr,
        mut end: Endpoint,
        mut destination: SocketAddr,
    ) -> Result<(HostId, SocketAddr), Fate> {
        loop {
            let id = match end {
                Endpoint::Host(host) => return Ok((host, destination)),
                Endpoint::Gateway(id) => id,
            };
            let table = self.gateways[id.0].table(destination);
            destination = table.inbound(now, source, destination)?;
            end = self.leads_to(sites, Some(id), destination.ip()).ok_or(Fate::NoHost)?;
        }
    }

    /// Who in a realm has an address, or has it behind it.
    fn leads_to<'a>(
        &self,
        sites: &impl Fn(usize) -> Option<&'a Site>,
        realm: Option<GatewayId>,
        ip: IpAddr,
    ) -> Option<Endpoint> {
        let is_outer =
            |&position: &usize| self.gateways[position].parent == realm && self.gateways[position].public == ip;
        if let Some(position) = (0..self.gateways.len()).find(is_outer) {
            return Some(Endpoint::Gateway(GatewayId(position)));
        }
        for (position, site) in (0..).map_while(|position| Some((position, sites(position)?))) {
            if !site.has(ip) {
                continue;
            }
            if site.gateway == realm {
                return Some(Endpoint::Host(HostId::at(position)));
            }
            // Only IPv6 addresses mean the same in every realm.
            let way = ip.is_ipv6().then(|| self.ancestors(site.gateway).find(|id| self.gateways[id.0].parent == realm));
            if let Some(id) = way.flatten() {
                return Some(Endpoint::Gateway(id));
            }
        }
        None
    }

    /// A gateway, and those around it.
    fn ancestors(&self, gateway: Option<GatewayId>) -> impl Iterator<Item = GatewayId> + '_ {
        std::iter::successors(gateway, |id| self.gateways[id.0].parent)
    }

    /// TEST-NET-2 outside, the shared space of RFC 6598 behind a carrier's gateway.
    fn new_address(&mut self, parent: Option<GatewayId>) -> IpAddr {
        self.addresses_made += 1;
        let [high, low] = self.addresses_made.to_be_bytes();
        let address = if parent.is_some() { [100, 64, high, low] } else { [198, 51, 100 + high, low] };
        address.into()
    }
}

impl Gateway {
    fn table(&mut self, family: SocketAddr) -> &mut Nat {
        if family.is_ipv4() { &mut self.nat } else { &mut self.firewall }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Gateway(GatewayId(position)) => write!(f, "gateway {position}"),
        }
    }
}

impl From<NatDrop> for Fate {
    fn from(drop: NatDrop) -> Self {
        Self::Nat(drop)
    }
}
