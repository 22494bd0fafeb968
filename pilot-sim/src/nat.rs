//! Network address translators in the terms of RFC 4787: mapping, filtering, port allocation, expiry, hairpinning.
//!
//! [`Nat`] is arithmetic over a table: no I/O, no clock, no entropy of its own. Whoever has packets asks it what becomes of each and passes
//! the time: the simulator in virtual time, a router over TUN in real time. Nested NATs are several of these, one behind the other. A
//! firewall that translates nothing, as home routers have for IPv6, is one with [`NatConfig::firewall`].
//!
//! `tests/nat_classes.rs` classifies each model after RFC 5780, from outside, and proves that it behaves as named.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use pilot_core::rng::Rng;
use pilot_core::time::Mono;

/// Random draws for a free port before the next free one is taken: enough unless the pool is nearly full.
const PORT_DRAWS_MAX: usize = 64;
/// A flow seen in both directions has the longer timeout, on Linux, only if a packet passes so long after its first one: what a single
/// exchange leaves behind goes sooner, however old it becomes meanwhile.
const LINUX_STREAM_AFTER: Duration = Duration::from_secs(2);
/// Entries at which those that have expired are swept out: the table stays proportional to what is alive.
const SWEEP_AT_LEN: usize = 4_096;

/// On what of the remote endpoint a behaviour depends (RFC 4787 §4.1 and §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependence {
    /// On nothing.
    EndpointIndependent,
    /// On its address.
    Address,
    /// On its address and port.
    AddressAndPort,
}

/// Which port a new mapping gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// That of the inside, if no other inside endpoint has it; else the next free one.
    Preserve,
    /// This far behind the one before.
    Sequential(u16),
    /// Any.
    Random,
    /// As Linux masquerades: that of the inside, unless a flow with the same remote endpoint has it; then any. An unsolicited datagram that
    /// the router answers counts as such a flow.
    Linux,
}

/// What lets a mapping live on (RFC 4787 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Datagrams in either direction.
    Both,
    /// Datagrams from inside.
    Outbound,
}

/// Whether inside endpoints reach each other by their outside addresses (RFC 4787 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hairpin {
    /// They do not.
    Off,
    /// They do, and see the outside address of the sender.
    ExternalSource,
    /// They do, and see the inside address of the sender.
    InternalSource,
}

/// What happens to a datagram from outside for which there is no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsolicited {
    /// It vanishes.
    Drop,
    /// The router answers port unreachable. On Linux its connection tracking then remembers the flow.
    Answer,
}

/// Which UDP gets out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UdpPolicy {
    /// All.
    Open,
    /// None.
    Blocked,
    /// What is for one of these remote ports.
    OnlyTo(Vec<u16>),
}

/// How a NAT behaves. By default it is what most homes have: endpoint-independent mapping, address- and port-dependent filtering, ports
/// preserved, no hairpinning.
#[derive(Clone, Debug)]
pub struct NatConfig {
    mapping: Dependence,
    filtering: Dependence,
    allocation: Allocation,
    ports: Vec<RangeInclusive<u16>>,
    one_way_timeout: Duration,
    two_way_timeout: Duration,
    refresh: Refresh,
    hairpin: Hairpin,
    unsolicited: Unsolicited,
    udp: UdpPolicy,
    translates: bool,
    pairs_addresses: bool,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressAndPort,
            allocation: Allocation::Preserve,
            ports: vec![1_024..=65_535],
            one_way_timeout: Duration::from_secs(30),
            two_way_timeout: Duration::from_secs(120),
            refresh: Refresh::Both,
            hairpin: Hairpin::Off,
            unsolicited: Unsolicited::Drop,
            udp: UdpPolicy::Open,
            translates: true,
            pairs_addresses: true,
        }
    }
}

impl NatConfig {
    /// Full cone: anybody may answer.
    pub fn full_cone() -> Self {
        Self::default().filtering(Dependence::EndpointIndependent)
    }

    /// Address-restricted cone.
    pub fn address_restricted() -> Self {
        Self::default().filtering(Dependence::Address)
    }

    /// Port-restricted cone: most homes.
    pub fn port_restricted() -> Self {
        Self::default()
    }

    /// A plain Linux router that masquerades, and answers unsolicited datagrams: those poison the port that they name.
    pub fn answering_linux() -> Self {
        Self::default()
            .mapping(Dependence::AddressAndPort)
            .allocation(Allocation::Linux)
            .unsolicited(Unsolicited::Answer)
    }

    /// Address-dependent mapping, random ports.
    pub fn address_dependent() -> Self {
        Self::default().mapping(Dependence::Address).allocation(Allocation::Random)
    }

    /// Symmetric, each new mapping on the next port.
    pub fn symmetric_sequential() -> Self {
        Self::default().mapping(Dependence::AddressAndPort).allocation(Allocation::Sequential(1))
    }

    /// Symmetric, each new mapping on any port.
    pub fn symmetric_random() -> Self {
        Self::default().mapping(Dependence::AddressAndPort).allocation(Allocation::Random)
    }

    /// A stateful firewall that leaves addresses as they are.
    pub fn firewall() -> Self {
        Self { translates: false, ..Self::default() }
    }

    /// On what it depends which outside port an inside endpoint has. Default: on nothing.
    #[must_use]
    pub fn mapping(mut self, mapping: Dependence) -> Self {
        self.mapping = mapping;
        self
    }

    /// On what it depends who is let in. Default: on address and port.
    #[must_use]
    pub fn filtering(mut self, filtering: Dependence) -> Self {
        self.filtering = filtering;
        self
    }

    /// Which port a new mapping gets. Default: that of the inside.
    #[must_use]
    pub fn allocation(mut self, allocation: Allocation) -> Self {
        self.allocation = allocation;
        self
    }

    /// The outside ports there are. Default: all from 1,024.
    #[must_use]
    pub fn ports(mut self, ports: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        self.ports = ports.into_iter().collect();
        self
    }

    /// The ports of a MAP-E subscriber (RFC 7597 §5.1): `offset` bits above the port-set id of `len` bits, without the block at zero.
    #[must_use]
    pub fn port_set(self, offset: u32, len: u32, id: u16) -> Self {
        let low = 16 - offset - len;
        let block = move |high: u32| {
            let first = (high << (16 - offset)) | (u32::from(id) << low);
            port(first)..=port(first + (1 << low) - 1)
        };
        self.ports((1..1 << offset).map(block))
    }

    /// Silence after which a mapping goes: seen from inside only, and seen both ways. Default: 30 s and 120 s, as on Linux.
    #[must_use]
    pub fn timeouts(mut self, one_way: Duration, two_way: Duration) -> Self {
        (self.one_way_timeout, self.two_way_timeout) = (one_way, two_way);
        self
    }

    /// What lets a mapping live on. Default: both directions.
    #[must_use]
    pub fn refresh(mut self, refresh: Refresh) -> Self {
        self.refresh = refresh;
        self
    }

    /// Whether inside endpoints reach each other by their outside addresses. Default: not.
    #[must_use]
    pub fn hairpin(mut self, hairpin: Hairpin) -> Self {
        self.hairpin = hairpin;
        self
    }

    /// What happens to unsolicited datagrams. Default: they vanish.
    #[must_use]
    pub fn unsolicited(mut self, unsolicited: Unsolicited) -> Self {
        self.unsolicited = unsolicited;
        self
    }

    /// Which UDP gets out. Default: all.
    #[must_use]
    pub fn udp(mut self, udp: UdpPolicy) -> Self {
        self.udp = udp;
        self
    }

    /// Whether an inside host keeps one of several outside addresses (RFC 4787 REQ-2). Default: it does.
    #[must_use]
    pub fn pairs_addresses(mut self, pairs: bool) -> Self {
        self.pairs_addresses = pairs;
        self
    }

    /// How many outside ports there are.
    pub fn ports_len(&self) -> usize {
        self.ports.iter().map(|range| usize::from(*range.end()) - usize::from(*range.start()) + 1).sum()
    }
}

/// Why a datagram did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatDrop {
    /// UDP, or this port, is not let out.
    Policy,
    /// All ports are taken.
    NoPort,
    /// Nobody inside has this outside address.
    NoMapping,
    /// Somebody has, and has not sent to where it comes from.
    Filtered,
    /// As one of these two, and the router says so.
    Answered,
}

/// One NAT and its table.
pub struct Nat {
    config: NatConfig,
    public: Vec<IpAddr>,
    rng: Rng,
    next_port: usize,
    /// How far behind the port of the inside the one lies that is given in its place, where ports are preserved.
    shift: usize,
    mappings: BTreeMap<MappingKey, Mapping>,
    /// Mappings by their outside address. Several flows of a Linux router may share one.
    by_outside: BTreeMap<SocketAddr, Vec<MappingKey>>,
    /// Flows that unsolicited datagrams have begun: outside address and remote endpoint, and when the entry goes.
    poisoned: BTreeMap<(SocketAddr, SocketAddr), Mono>,
}

/// For what there is a mapping of its own.
type MappingKey = (SocketAddr, Option<IpAddr>, Option<u16>);

#[derive(Debug)]
struct Mapping {
    outside: SocketAddr,
    begun: Mono,
    is_two_way: bool,
    refreshed: Mono,
    /// Remote endpoints that were sent to, as far as filtering looks at them, and when last.
    permitted: BTreeMap<(Option<IpAddr>, Option<u16>), Mono>,
}

impl Nat {
    /// A NAT with these outside addresses; a firewall needs none.
    ///
    /// # Panics
    /// If it translates and has no outside address or port.
    pub fn new(config: NatConfig, public: Vec<IpAddr>, seed: [u8; 32]) -> Self {
        assert!(!config.translates || (!public.is_empty() && config.ports_len() > 0), "a NAT has outside addresses");
        let mut rng = Rng::new(seed);
        let next_port = if config.translates { draw(&mut rng, config.ports_len()) } else { 0 };
        Self {
            config,
            public,
            rng,
            next_port,
            shift: 0,
            mappings: BTreeMap::new(),
            by_outside: BTreeMap::new(),
            poisoned: BTreeMap::new(),
        }
    }

    /// Whether it gives others addresses, as a firewall does not.
    pub fn translates(&self) -> bool {
        self.config.translates
    }

    /// Whether this is one of its outside addresses.
    pub fn is_public(&self, ip: IpAddr) -> bool {
        self.public.contains(&ip)
    }

    /// Forgets every mapping, as a reboot of the router does, and lets the outside be elsewhere from now on.
    pub fn rebind(&mut self, public: Vec<IpAddr>) {
        if self.config.translates {
            self.public = public;
        }
        self.flush();
    }

    /// Forgets every mapping, and gives other ports from now on, also where it preserved those of the inside: each is moved by as much.
    pub fn remap(&mut self) {
        if self.config.translates {
            self.shift = 1 + draw(&mut self.rng, self.config.ports_len() - 1);
        }
        self.flush();
    }

    /// Forgets every mapping.
    pub fn flush(&mut self) {
        self.mappings.clear();
        self.by_outside.clear();
        self.poisoned.clear();
    }

    /// Mappings that are alive.
    pub fn mappings_len(&self, now: Mono) -> usize {
        self.mappings.values().filter(|mapping| self.config.is_alive(mapping, now)).count()
    }

    /// A datagram from inside: the source address that it has outside.
    ///
    /// # Errors
    /// If it does not get out.
    pub fn outbound(&mut self, now: Mono, source: SocketAddr, remote: SocketAddr) -> Result<SocketAddr, NatDrop> {
        let is_allowed = match &self.config.udp {
            UdpPolicy::Open => true,
            UdpPolicy::Blocked => false,
            UdpPolicy::OnlyTo(ports) => ports.contains(&remote.port()),
        };
        if !is_allowed {
            return Err(NatDrop::Policy);
        }
        self.sweep(now);
        let key = mapping_key(self.config.mapping, source, remote);
        if !self.mappings.get(&key).is_some_and(|mapping| self.config.is_alive(mapping, now)) {
            self.remove(&key);
            let outside = self.allocate(now, source, remote)?;
            self.by_outside.entry(outside).or_default().push(key);
            self.mappings.insert(key, Mapping::new(outside, now));
        }
        let permission = permission(self.config.filtering, remote);
        let mapping = self.mappings.get_mut(&key).expect("made above");
        mapping.refreshed = now;
        mapping.permitted.insert(permission, now);
        Ok(mapping.outside)
    }

    /// A datagram from outside for one of the outside addresses: who inside it is for.
    ///
    /// # Errors
    /// If it does not get in.
    pub fn inbound(&mut self, now: Mono, remote: SocketAddr, outside: SocketAddr) -> Result<SocketAddr, NatDrop> {
        let keys = self.by_outside.get(&outside).map_or(&[][..], Vec::as_slice);
        let alive = keys.iter().filter(|key| self.config.is_alive(&self.mappings[*key], now));
        let mut is_mapped = false;
        let permitted = alive.inspect(|_| is_mapped = true).find(|key| {
            let mapping = &self.mappings[*key];
            let sent = mapping.permitted.get(&permission(self.config.filtering, remote));
            let is_permitted = sent.is_some_and(|&sent| now.since(sent) < self.config.lifetime(mapping));
            self.config.filtering == Dependence::EndpointIndependent || is_permitted
        });
        let Some(&key) = permitted else {
            let is_answered = self.config.unsolicited == Unsolicited::Answer;
            if is_answered && self.config.allocation == Allocation::Linux {
                self.poisoned.insert((outside, remote), now + self.config.one_way_timeout);
            }
            let reason = if is_mapped { NatDrop::Filtered } else { NatDrop::NoMapping };
            return Err(if is_answered { NatDrop::Answered } else { reason });
        };
        let mapping = self.mappings.get_mut(&key).expect("found above");
        mapping.is_two_way = true;
        if self.config.refresh == Refresh::Both {
            mapping.refreshed = now;
            mapping.permitted.insert(permission(self.config.filtering, remote), now);
        }
        Ok(key.0)
    }

    /// A datagram from inside for one of the outside addresses: the source that its receiver sees, and the receiver.
    ///
    /// # Errors
    /// If it does not get back in.
    pub fn hairpin(
        &mut self,
        now: Mono,
        source: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(SocketAddr, SocketAddr), NatDrop> {
        if self.config.hairpin == Hairpin::Off {
            return Err(NatDrop::NoMapping);
        }
        let outside = self.outbound(now, source, remote)?;
        let receiver = self.inbound(now, outside, remote)?;
        let seen = if self.config.hairpin == Hairpin::ExternalSource { outside } else { source };
        Ok((seen, receiver))
    }

    /// The outside address of a new mapping.
    fn allocate(&mut self, now: Mono, source: SocketAddr, remote: SocketAddr) -> Result<SocketAddr, NatDrop> {
        if !self.config.translates {
            return Ok(source);
        }
        let ip = self.outside_ip(source.ip());
        let len = self.config.ports_len();
        let preserved = self.port_position(source.port()).map(|position| (position + self.shift) % len);
        let is_free =
            |nat: &Self, position: usize| nat.is_free(now, SocketAddr::new(ip, nat.port_at(position)), remote);
        let first = match self.config.allocation {
            Allocation::Preserve | Allocation::Linux => {
                let random = draw(&mut self.rng, len);
                match preserved {
                    Some(preserved) if is_free(self, preserved) => preserved,
                    Some(preserved) if self.config.allocation == Allocation::Preserve => preserved,
                    _ => random,
                }
            }
            Allocation::Sequential(delta) => (self.next_port + usize::from(delta)) % len,
            Allocation::Random => {
                let mut drawn = draw(&mut self.rng, len);
                for _ in 0..PORT_DRAWS_MAX {
                    if is_free(self, drawn) {
                        break;
                    }
                    drawn = draw(&mut self.rng, len);
                }
                drawn
            }
        };
        let position = (0..len).map(|step| (first + step) % len).find(|&position| is_free(self, position));
        let position = position.ok_or(NatDrop::NoPort)?;
        if matches!(self.config.allocation, Allocation::Sequential(_)) {
            self.next_port = position;
        }
        Ok(SocketAddr::new(ip, self.port_at(position)))
    }

    /// Whether a mapping towards `remote` may have this outside address.
    fn is_free(&self, now: Mono, outside: SocketAddr, remote: SocketAddr) -> bool {
        let is_poisoned = self.poisoned.get(&(outside, remote)).is_some_and(|&until| now < until);
        let mut alive = self.by_outside.get(&outside).into_iter().flatten();
        let is_taken = match self.config.allocation {
            // Connection tracking tells flows apart by both ends.
            Allocation::Linux => alive.any(|key| {
                let is_same_flow = mapping_key(self.config.mapping, key.0, remote) == *key;
                is_same_flow && self.config.is_alive(&self.mappings[key], now)
            }),
            Allocation::Preserve | Allocation::Sequential(_) | Allocation::Random => {
                alive.any(|key| self.config.is_alive(&self.mappings[key], now))
            }
        };
        !is_poisoned && !is_taken
    }

    fn outside_ip(&mut self, inside: IpAddr) -> IpAddr {
        let last_byte = match inside {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        };
        let position = if self.config.pairs_addresses {
            usize::from(last_byte) % self.public.len()
        } else {
            draw(&mut self.rng, self.public.len())
        };
        self.public[position]
    }

    fn port_at(&self, mut position: usize) -> u16 {
        for range in &self.config.ports {
            let len = usize::from(*range.end()) - usize::from(*range.start()) + 1;
            if position < len {
                return range.start() + u16::try_from(position).expect("within a range of ports");
            }
            position -= len;
        }
        unreachable!("positions are below the number of ports")
    }

    fn port_position(&self, port: u16) -> Option<usize> {
        let mut before = 0;
        for range in &self.config.ports {
            if range.contains(&port) {
                return Some(before + usize::from(port - range.start()));
            }
            before += usize::from(*range.end()) - usize::from(*range.start()) + 1;
        }
        None
    }

    fn remove(&mut self, key: &MappingKey) {
        let Some(mapping) = self.mappings.remove(key) else { return };
        if let Some(keys) = self.by_outside.get_mut(&mapping.outside) {
            keys.retain(|kept| kept != key);
            if keys.is_empty() {
                self.by_outside.remove(&mapping.outside);
            }
        }
    }

    fn sweep(&mut self, now: Mono) {
        if self.mappings.len() + self.poisoned.len() < SWEEP_AT_LEN {
            return;
        }
        self.poisoned.retain(|_, until| now < *until);
        let is_dead = |mapping: &Mapping| !self.config.is_alive(mapping, now);
        let dead: Vec<_> = self.mappings.iter().filter(|(_, mapping)| is_dead(mapping)).map(|(key, _)| *key).collect();
        dead.iter().for_each(|key| self.remove(key));
    }
}

impl NatConfig {
    fn is_alive(&self, mapping: &Mapping, now: Mono) -> bool {
        now.since(mapping.refreshed) < self.lifetime(mapping)
    }

    fn lifetime(&self, mapping: &Mapping) -> Duration {
        let has_gone_on = mapping.refreshed.since(mapping.begun) >= LINUX_STREAM_AFTER;
        let is_young = self.allocation == Allocation::Linux && !has_gone_on;
        if mapping.is_two_way && !is_young { self.two_way_timeout } else { self.one_way_timeout }
    }
}

impl Mapping {
    fn new(outside: SocketAddr, now: Mono) -> Self {
        Self { outside, begun: now, is_two_way: false, refreshed: now, permitted: BTreeMap::new() }
    }
}

fn mapping_key(mapping: Dependence, source: SocketAddr, remote: SocketAddr) -> MappingKey {
    let (ip, port) = permission(mapping, remote);
    (source, ip, port)
}

/// What a behaviour sees of a remote endpoint.
fn permission(dependence: Dependence, remote: SocketAddr) -> (Option<IpAddr>, Option<u16>) {
    match dependence {
        Dependence::EndpointIndependent => (None, None),
        Dependence::Address => (Some(remote.ip()), None),
        Dependence::AddressAndPort => (Some(remote.ip()), Some(remote.port())),
    }
}

/// A uniform draw below `len`, near enough.
fn draw(rng: &mut Rng, len: usize) -> usize {
    let word = u64::from(u32::from_be_bytes(rng.array()));
    usize::try_from((word * len as u64) >> 32).unwrap_or_default()
}

fn port(value: u32) -> u16 {
    u16::try_from(value).expect("a port has 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Mono = Mono(1_000_000_000_000);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn nat(config: NatConfig) -> Nat {
        Nat::new(config, vec![address("198.51.100.1:0").ip()], [3; 32])
    }

    fn at(seconds: u64) -> Mono {
        START + Duration::from_secs(seconds)
    }

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::new(address("203.0.113.1:0").ip(), port)
    }

    const INSIDE: fn() -> SocketAddr = || "10.0.0.2:4000".parse().unwrap();

    #[test]
    fn a_mapping_seen_both_ways_lives_longer() {
        let mut nat = nat(NatConfig::default());
        let outside = nat.outbound(at(0), INSIDE(), remote(1)).unwrap();
        assert_eq!(nat.inbound(at(29), remote(1), outside), Ok(INSIDE()));
        assert_eq!(nat.inbound(at(29 + 119), remote(1), outside), Ok(INSIDE()));
        assert_eq!(nat.inbound(at(29 + 119 + 120), remote(1), outside), Err(NatDrop::NoMapping));
        let outside = nat.outbound(at(400), INSIDE(), remote(1)).unwrap();
        assert_eq!(nat.inbound(at(430), remote(1), outside), Err(NatDrop::NoMapping));
    }

    #[test]
    fn on_linux_a_single_exchange_is_forgotten_soon_and_one_that_goes_on_late() {
        let remembered_after = |exchanges: &[u64], silence_s: u64| {
            let mut nat = nat(NatConfig::answering_linux());
            for &second in exchanges {
                let outside = nat.outbound(at(second), INSIDE(), remote(1)).unwrap();
                assert_eq!(nat.inbound(at(second), remote(1), outside), Ok(INSIDE()));
            }
            nat.mappings_len(at(exchanges.last().unwrap() + silence_s)) == 1
        };
        assert!(remembered_after(&[0], 29));
        assert!(!remembered_after(&[0], 30));
        assert!(!remembered_after(&[0, 1], 30));
        assert!(remembered_after(&[0, 3], 119));
        assert!(!remembered_after(&[0, 3], 120));
    }

    #[test]
    fn outbound_refresh_looks_at_nothing_from_outside() {
        let mut nat = nat(NatConfig::default().refresh(Refresh::Outbound));
        let outside = nat.outbound(at(0), INSIDE(), remote(1)).unwrap();
        assert!((1..12).all(|tens| nat.inbound(at(tens * 10), remote(1), outside).is_ok()));
        assert_eq!(nat.inbound(at(120), remote(1), outside), Err(NatDrop::NoMapping));
    }

    #[test]
    fn sequential_ports_follow_each_other_and_skip_what_is_taken() {
        let config = NatConfig::symmetric_sequential().ports([2_000..=2_009]);
        let mut nat = nat(config);
        let ports: Vec<_> =
            (0..10).map(|port| nat.outbound(at(0), INSIDE(), remote(100 + port)).unwrap().port()).collect();
        assert!(ports.windows(2).all(|pair| pair[1] == pair[0] + 1 || (pair[0] == 2_009 && pair[1] == 2_000)));
        assert_eq!(nat.outbound(at(0), INSIDE(), remote(200)), Err(NatDrop::NoPort));
        assert!(nat.outbound(at(31), INSIDE(), remote(200)).is_ok(), "what has expired is free again");
    }

    #[test]
    fn an_answered_datagram_poisons_the_port_for_its_sender_only() {
        let mut nat = nat(NatConfig::answering_linux());
        let outside = nat.outbound(at(0), INSIDE(), remote(1)).unwrap();
        assert_eq!(outside.port(), INSIDE().port());
        assert_eq!(nat.inbound(at(1), remote(2), outside), Err(NatDrop::Answered));
        assert_ne!(nat.outbound(at(2), INSIDE(), remote(2)).unwrap(), outside);
        assert_eq!(nat.outbound(at(2), INSIDE(), remote(3)).unwrap(), outside);
        // Who has opened first is not poisoned.
        assert_eq!(nat.inbound(at(3), remote(3), outside), Ok(INSIDE()));
    }

    #[test]
    fn a_poisoned_port_is_good_again_after_silence() {
        let mut nat = nat(NatConfig::answering_linux());
        let outside = SocketAddr::new(address("198.51.100.1:0").ip(), INSIDE().port());
        assert_eq!(nat.inbound(at(0), remote(2), outside), Err(NatDrop::Answered));
        assert_eq!(nat.outbound(at(31), INSIDE(), remote(2)).unwrap(), outside);
    }

    #[test]
    fn a_port_set_is_that_of_rfc_7597() {
        // Appendix A, example 1: offset 6, port-set id 0x34 of 8 bits: 1232 .. 1235, 2256 .. 2259, up to 64720 .. 64723.
        let ports = NatConfig::default().port_set(6, 8, 0x34).ports;
        assert_eq!((ports.len(), &ports[0], &ports[1]), (63, &(1_232..=1_235), &(2_256..=2_259)));
        assert_eq!(ports[62], 64_720..=64_723);
    }

    #[test]
    fn two_inside_hosts_with_one_port_get_two_outside() {
        let mut nat = nat(NatConfig::default());
        let one = nat.outbound(at(0), INSIDE(), remote(1)).unwrap();
        let other = nat.outbound(at(0), address("10.0.0.3:4000"), remote(1)).unwrap();
        assert_ne!(one, other);
        assert_eq!(nat.inbound(at(0), remote(1), other), Ok(address("10.0.0.3:4000")));
    }

    #[test]
    fn hairpinning_tells_the_source_that_it_is_told_to_tell() {
        let seen = |hairpin| {
            let mut nat = nat(NatConfig::full_cone().hairpin(hairpin));
            let receiver = nat.outbound(at(0), address("10.0.0.3:5000"), remote(1)).unwrap();
            nat.hairpin(at(0), INSIDE(), receiver)
        };
        let outside = SocketAddr::new(address("198.51.100.1:0").ip(), 4_000);
        assert_eq!(seen(Hairpin::ExternalSource), Ok((outside, address("10.0.0.3:5000"))));
        assert_eq!(seen(Hairpin::InternalSource), Ok((INSIDE(), address("10.0.0.3:5000"))));
        assert_eq!(seen(Hairpin::Off), Err(NatDrop::NoMapping));
    }

    #[test]
    fn a_firewall_translates_nothing_and_lets_answers_in() {
        let mut firewall = Nat::new(NatConfig::firewall(), Vec::new(), [1; 32]);
        let inside = address("[2001:db8::2]:4000");
        let peer = address("[2001:db8:1::2]:4000");
        assert_eq!(firewall.inbound(at(0), peer, inside), Err(NatDrop::NoMapping));
        assert_eq!(firewall.outbound(at(0), inside, peer), Ok(inside));
        assert_eq!(firewall.inbound(at(0), peer, inside), Ok(inside));
    }

    #[test]
    fn a_policy_lets_out_what_it_names() {
        let mut nat = nat(NatConfig::default().udp(UdpPolicy::OnlyTo(vec![443, 3_478])));
        assert!(nat.outbound(at(0), INSIDE(), remote(443)).is_ok());
        assert_eq!(nat.outbound(at(0), INSIDE(), remote(444)), Err(NatDrop::Policy));
    }

    #[test]
    fn the_table_forgets_what_has_expired() {
        let mut nat = nat(NatConfig::symmetric_random());
        for port in 0..5_000 {
            nat.outbound(at(u64::from(port / 50)), INSIDE(), remote(port)).unwrap();
        }
        assert!(nat.mappings.len() < SWEEP_AT_LEN + 1_000);
        assert_eq!(nat.mappings_len(at(1_000)), 0);
    }
}
