//! The world: hosts, links between them, and virtual time.
//!
//! One thing happens at a time: the datagram that arrives next, or the timer that is due next, in the order of (time, sequence number). It
//! gives one host one turn, whose output goes onto links, which decide when it arrives. No thread, no clock, no entropy: a run follows from
//! its seed alone, and is compared by [`World::trace_hash`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pilot_core::config::Config;
use pilot_core::id::IdentityKey;
use pilot_core::node::{Home, Node, PeerInfo};
use pilot_core::rng::Rng;
use pilot_core::route::{Ecn, Transmit};
use pilot_core::time::{Mono, Now};
use pilot_core::wire::{self, PacketKind};
use pilot_relay::backbone::BackboneStatus;

use crate::application::{Application, JobId, JobReport, Plan};
use crate::host::{Host, Input, Role, Turn};
use crate::invariants::{Failure, Violation};
use crate::link::{Fate, Link, LinkConfig, LinkStats};
use crate::nat::NatConfig;
use crate::realm::{Endpoint, GatewayId, Realms, Site};
use crate::trace::{Entry, Trace, since_start};

/// Virtual time at the beginning: an hour after boot, since no real clock is found at zero.
pub(crate) const START: Mono = Mono(3_600_000_000_000);
/// Steps allowed within one nanosecond of virtual time. A train takes 64; more than this is an exchange that never ends.
const STEPS_PER_INSTANT_MAX: usize = 100_000;
/// Datagrams that wait in the socket of a host that sleeps.
const WAITING_MAX: usize = 8;
/// Time in which the last acknowledgements of a scenario get through, whatever the network does.
const SETTLING_TIME: Duration = Duration::from_secs(20);
/// Port of an agent's main socket.
const MAIN_PORT: u16 = 4_000;
/// Port of a backbone node: what firewalls let through if they let anything through.
const BACKBONE_PORT: u16 = 443;
/// How far apart the wall clocks of two neighbours in the list of hosts are: real ones never agree.
const CLOCK_SKEW: Duration = Duration::from_secs(47);

/// Names a host of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// A job and the host that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    /// Where it was started.
    pub host: HostId,
    /// Which it is.
    pub id: JobId,
}

/// Hosts, links and time.
pub struct World {
    seed: u64,
    rng: Rng,
    now: Mono,
    hosts: Vec<Host>,
    default_link: LinkConfig,
    realms: Realms,
    links: BTreeMap<(HostId, Endpoint), Link>,
    arrivals: BTreeMap<(Mono, u64), Arrival>,
    arrivals_made: u64,
    steps_at_this_instant: usize,
    jobs_made: u64,
    trace: Trace,
}

/// The address families that a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

/// A datagram under way.
struct Arrival {
    from: HostId,
    source: SocketAddr,
    to: Endpoint,
    destination: SocketAddr,
    ecn: Ecn,
    datagram: Vec<u8>,
}

/// What happens next.
enum Next {
    Arrival(Mono),
    Timer(Mono, HostId),
}

impl World {
    /// An empty world. Links between its hosts are as `link` says until they are changed.
    pub fn new(seed: u64, link: LinkConfig) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        Self {
            seed,
            rng: Rng::new(bytes),
            now: START,
            hosts: Vec::new(),
            default_link: link,
            realms: Realms::default(),
            links: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            arrivals_made: 0,
            steps_at_this_instant: 0,
            jobs_made: 0,
            trace: Trace::default(),
        }
    }

    /// Adds an agent at an address of its own, and starts it.
    pub fn add_agent(&mut self, config: Config) -> HostId {
        self.add_host(Role::Agent(config))
    }

    /// Adds a backbone node at an address of its own, and starts it.
    pub fn add_backbone(&mut self) -> HostId {
        self.add_host(Role::Backbone)
    }

    /// Adds a gateway to the public realm, or behind another one.
    pub fn add_gateway(&mut self, nat: NatConfig, parent: Option<GatewayId>) -> GatewayId {
        self.realms.add(nat, NatConfig::firewall(), parent, &self.rng)
    }

    /// Adds an agent behind a gateway, or in the public realm, with addresses of these families, and starts it.
    pub fn add_agent_at(&mut self, config: Config, gateway: Option<GatewayId>, families: Families) -> HostId {
        self.add_host_at(Role::Agent(config), gateway, families)
    }

    /// Adds a backbone node with addresses of these families, and starts it.
    pub fn add_backbone_with(&mut self, families: Families) -> HostId {
        self.add_host_at(Role::Backbone, None, families)
    }

    /// Gives a host one more address, in a network of its own, which no record of it names.
    pub fn add_address(&mut self, host: HostId) -> IpAddr {
        let position = u8::try_from(host.0).expect("few hosts");
        let site = &mut self.hosts[host.0].site;
        let address = SocketAddr::from(([11, position, 0, 1], site.addresses[0].port()));
        site.unnamed = Some(address);
        address.ip()
    }

    /// Sockets that a host has beside its main one.
    pub fn sockets_len(&self, host: HostId) -> usize {
        self.hosts[host.0].sockets.len()
    }

    /// Lets the IPv6 of a host lead nowhere, although it has an address.
    pub fn break_ipv6(&mut self, host: HostId) {
        self.hosts[host.0].site.is_ipv6_broken = true;
    }

    /// Gives a gateway a new outside address and lets it forget every mapping, as after a reconnect of its line.
    pub fn rebind(&mut self, gateway: GatewayId) {
        self.note(format!("{} has a new address", Endpoint::Gateway(gateway)));
        self.realms.rebind(gateway);
    }

    /// Lets a gateway forget every mapping, and give other ports from now on.
    pub fn remap(&mut self, gateway: GatewayId) {
        self.note(format!("{} gives other ports", Endpoint::Gateway(gateway)));
        self.realms.remap(gateway);
    }

    /// Lets a gateway forget every mapping.
    pub fn flush(&mut self, gateway: GatewayId) {
        self.note(format!("{} forgets its mappings", Endpoint::Gateway(gateway)));
        self.realms.flush(gateway);
    }

    /// Takes a host behind another gateway, or to the public realm, with new addresses. Its driver notices.
    pub fn move_behind(&mut self, host: HostId, gateway: Option<GatewayId>, families: Families) -> Result<(), Failure> {
        let site = &mut self.hosts[host.0].site;
        (site.gateway, site.addresses) = (gateway, families.addresses(host.0, gateway, MAIN_PORT));
        let addresses = site.addresses.clone();
        self.note(format!("{host} moves to {addresses:?}"));
        self.call(host, |node, now| node.set_local_addresses(now, &addresses))
    }

    /// Tells one agent where another is, as a ticket would: address, but no certificate.
    pub fn give_ticket(&mut self, to: HostId, of: HostId) {
        let info = self.contact(of);
        self.learn(to, info);
    }

    /// Tells one agent what it would still know of another that it has spoken to: address and certificate.
    pub fn give_acquaintance(&mut self, to: HostId, of: HostId) {
        let info = PeerInfo { certificate: Some(self.hosts[of.0].certificate()), ..self.contact(of) };
        self.learn(to, info);
    }

    /// Tells one agent of another what a directory record says: the certificate, but no address.
    pub fn give_record(&mut self, to: HostId, of: HostId, homes: &[HostId]) {
        let certificate = Some(self.hosts[of.0].certificate());
        let homes = homes.iter().map(|&home| Home { key: self.key(home), addresses: self.addresses(home) }).collect();
        self.learn(to, PeerInfo { key: self.key(of), certificate, addresses: Vec::new(), homes });
    }

    /// Names the home node of an agent.
    pub fn set_home(&mut self, host: HostId, home: HostId) -> Result<(), Failure> {
        let info = self.contact(home);
        self.hosts[host.0].disk.home = Some(info.clone());
        self.with_agent(host, |node, _, now| {
            node.set_home(now, Some(info));
            Ok(())
        })
    }

    /// Opens a stream for a new job.
    pub fn start_job(&mut self, from: HostId, to: HostId, plan: Plan) -> Result<Job, Failure> {
        self.jobs_made += 1;
        let (id, peer) = (JobId(self.jobs_made), self.key(to));
        self.note(format!("{id}: {from} to {to}, {plan:?}"));
        self.with_agent(from, |node, application, now| Ok(application.start(node, now, &peer, id, plan)?))?;
        Ok(Job { host: from, id })
    }

    /// Lets the program of an agent read no more, or read again.
    pub fn set_reading(&mut self, host: HostId, is_reading: bool) -> Result<(), Failure> {
        self.note(format!("{host} reads: {is_reading}"));
        self.with_agent(host, |node, application, now| Ok(application.set_reading(node, now, is_reading)?))
    }

    /// Calls a verb of an agent's node that has no method here.
    pub fn call(&mut self, host: HostId, call: impl FnOnce(&mut Node, Now)) -> Result<(), Failure> {
        self.with_agent(host, |node, _, now| {
            call(node, now);
            Ok(())
        })
    }

    /// Changes the link between two hosts, in both directions.
    pub fn change_link(&mut self, one: HostId, other: HostId, change: impl Fn(LinkConfig) -> LinkConfig) {
        self.note(format!("the link between {one} and {other} changes"));
        for (from, to) in [(one, other), (other, one)] {
            let link = self.link(from, Endpoint::Host(to));
            link.config = change(link.config.clone());
        }
    }

    /// Changes the link from one host to another, in this direction only.
    pub fn change_one_way(&mut self, from: HostId, to: HostId, change: impl Fn(LinkConfig) -> LinkConfig) {
        self.note(format!("the link from {from} to {to} changes"));
        let link = self.link(from, Endpoint::Host(to));
        link.config = change(link.config.clone());
    }

    /// Changes the link from a host to a gateway.
    pub fn change_link_to_gateway(&mut self, from: HostId, to: GatewayId, change: impl Fn(LinkConfig) -> LinkConfig) {
        self.note(format!("the link from {from} to {} changes", Endpoint::Gateway(to)));
        let link = self.link(from, Endpoint::Gateway(to));
        link.config = change(link.config.clone());
    }

    /// Outside ports that a gateway has given away.
    pub fn mappings_len(&self, gateway: GatewayId) -> usize {
        self.realms.mappings_len(self.now, gateway)
    }

    /// Lets a host sleep: nothing runs there, while its clocks go on. The first datagrams that arrive wait in its socket, as if they had come just
    /// before; no others arrive. Or wakes it.
    pub fn set_asleep(&mut self, host: HostId, is_asleep: bool) -> Result<(), Failure> {
        self.note(format!("{host} sleeps: {is_asleep}"));
        self.hosts[host.0].is_asleep = is_asleep;
        let waiting = if is_asleep { Vec::new() } else { std::mem::take(&mut self.hosts[host.0].waiting) };
        waiting.into_iter().try_for_each(|datagram| self.turn(host, datagram))
    }

    /// Gives a host a new address; datagrams to the old one find nobody. Its driver notices.
    pub fn change_address(&mut self, host: HostId) -> Result<(), Failure> {
        let address = &mut self.hosts[host.0].site.addresses[0];
        address.set_port(address.port() + 1);
        let SocketAddr::V4(v4) = address else { unreachable!("addresses are made in `add_host`") };
        let [a, b, c, d] = v4.ip().octets();
        v4.set_ip([a, b, c + 1, d].into());
        let addresses = self.addresses(host);
        self.note(format!("{host} moves to {addresses:?}"));
        self.call(host, |node, now| node.set_local_addresses(now, &addresses))
    }

    /// Kills what runs on a host, without a farewell to its peers.
    pub fn kill(&mut self, host: HostId) {
        self.note(format!("{host} dies"));
        self.hosts[host.0].program = None;
    }

    /// Kills a host and boots it at once: what its disk does not hold is forgotten.
    pub fn restart(&mut self, host: HostId) -> Result<(), Failure> {
        self.kill(host);
        self.boot(host)
    }

    /// Starts a host anew with what its disk holds.
    pub fn boot(&mut self, host: HostId) -> Result<(), Failure> {
        self.note(format!("{host} boots"));
        self.hosts[host.0].boot(self.now);
        self.turn(host, Input::Nothing)
    }

    /// Lets virtual time pass.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        let end = self.now + time;
        while self.step(end)? {}
        Ok(())
    }

    /// Lets virtual time pass until something is so.
    ///
    /// # Errors
    /// If it is not so within `time`, or an invariant is broken before.
    pub fn run_until(&mut self, what: &str, time: Duration, is_so: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let end = self.now + time;
        while !is_so(self) {
            if !self.step(end)? {
                return Err(self.failure(None, Violation::Deadline(what.to_owned(), time)));
            }
        }
        Ok(())
    }

    /// Lets virtual time pass until all jobs have ended, and fails unless every byte of each has arrived.
    pub fn complete(&mut self, jobs: &[Job], time: Duration) -> Result<(), Failure> {
        let has_ended = |world: &Self, job: &Job| world.report(*job).is_some_and(|report| report.ended.is_some());
        self.run_until("the end of all jobs", time, |world| jobs.iter().all(|job| has_ended(world, job)))?;
        match jobs.iter().find(|job| !self.report(**job).is_some_and(JobReport::is_complete)) {
            Some(job) => {
                Err(self.failure(Some(job.host), Violation::Deadline(format!("completion of {}", job.id), time)))
            }
            None => Ok(()),
        }
    }

    /// Lets a while pass and fails if any stream is left on any agent: every state of a stream has an exit.
    pub fn settle(&mut self) -> Result<(), Failure> {
        self.run_for(SETTLING_TIME)?;
        let has_streams = |host: &Host| host.agent().is_some_and(|(_, application)| application.open_streams() > 0);
        match self.hosts.iter().position(has_streams).map(HostId) {
            Some(host) => {
                Err(self.failure(Some(host), Violation::Deadline("the end of all streams".to_owned(), SETTLING_TIME)))
            }
            None => Ok(()),
        }
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        since_start(self.now)
    }

    /// Virtual time, as hosts see it.
    pub fn now(&self) -> Mono {
        self.now
    }

    /// Whether something runs on a host.
    pub fn is_up(&self, host: HostId) -> bool {
        self.hosts[host.0].program.is_some()
    }

    /// The identity key of a host.
    pub fn key(&self, host: HostId) -> IdentityKey {
        self.hosts[host.0].key()
    }

    /// The address of a host.
    pub fn address(&self, host: HostId) -> SocketAddr {
        self.hosts[host.0].site.addresses[0]
    }

    /// All addresses of a host.
    pub fn addresses(&self, host: HostId) -> Vec<SocketAddr> {
        self.hosts[host.0].site.addresses.clone()
    }

    /// How the backbone node on a host fares.
    pub fn backbone_status(&self, host: HostId) -> Option<BackboneStatus> {
        self.hosts[host.0].backbone_status()
    }

    /// The node of an agent, if it runs.
    pub fn node(&self, host: HostId) -> Option<&Node> {
        self.hosts[host.0].agent().map(|agent| &agent.0)
    }

    /// The program of an agent, if it runs.
    pub fn application(&self, host: HostId) -> Option<&Application> {
        self.hosts[host.0].agent().map(|agent| &agent.1)
    }

    /// What became of a job; nothing if its host has restarted since.
    pub fn report(&self, job: Job) -> Option<&JobReport> {
        self.application(job.host)?.report(job.id)
    }

    /// What one host has sent towards another so far.
    pub fn link_stats(&self, from: HostId, to: HostId) -> LinkStats {
        self.links.get(&(from, Endpoint::Host(to))).map(|link| link.stats).unwrap_or_default()
    }

    /// What one host has sent so far, to whomever.
    pub fn sent(&self, from: HostId) -> LinkStats {
        let links = self.links.iter().filter(|((sender, _), _)| *sender == from).map(|(_, link)| link.stats);
        links.fold(LinkStats::default(), |sum, stats| LinkStats {
            offered: sum.offered + stats.offered,
            offered_bytes: sum.offered_bytes + stats.offered_bytes,
            offered_relayed: sum.offered_relayed + stats.offered_relayed,
            dropped: sum.dropped + stats.dropped,
        })
    }

    /// Stands for everything that has happened: equal for equal seeds.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    fn add_host(&mut self, role: Role) -> HostId {
        self.add_host_at(role, None, Families::V4)
    }

    fn add_host_at(&mut self, role: Role, gateway: Option<GatewayId>, families: Families) -> HostId {
        let position = self.hosts.len();
        let port = if matches!(role, Role::Backbone) { BACKBONE_PORT } else { MAIN_PORT };
        let addresses = families.addresses(position, gateway, port);
        let site = Site { addresses, unnamed: None, gateway, is_ipv6_broken: false };
        let rng = self.rng.child(&format!("host {position}"));
        let mut host = Host::new(position, site, role, CLOCK_SKEW * position as u32, rng);
        host.boot(self.now);
        self.hosts.push(host);
        HostId(position)
    }

    fn contact(&self, host: HostId) -> PeerInfo {
        PeerInfo { key: self.key(host), certificate: None, addresses: self.addresses(host), homes: Vec::new() }
    }

    fn learn(&mut self, host: HostId, info: PeerInfo) {
        let now = self.hosts[host.0].clock(self.now);
        self.hosts[host.0].disk.known.push(info.clone());
        if let Some((node, _)) = self.hosts[host.0].agent_mut() {
            node.learn_peer(now, info);
        }
    }

    fn with_agent(
        &mut self,
        host: HostId,
        act: impl FnOnce(&mut Node, &mut Application, Now) -> Result<(), Violation>,
    ) -> Result<(), Failure> {
        let now = self.hosts[host.0].clock(self.now);
        let outcome = self.hosts[host.0].agent_mut().map_or(Ok(()), |(node, application)| act(node, application, now));
        outcome.map_err(|violation| self.failure(Some(host), violation))?;
        self.turn(host, Input::Nothing)
    }

    /// Does the next thing that happens until `end`. Returns whether there was one; if not, it is `end` now.
    fn step(&mut self, end: Mono) -> Result<bool, Failure> {
        let Some(next) = self.next().filter(|next| next.at() <= end) else {
            self.advance(end);
            return Ok(false);
        };
        self.advance(next.at());
        if self.steps_at_this_instant > STEPS_PER_INSTANT_MAX {
            return Err(self.failure(None, Violation::Livelock(STEPS_PER_INSTANT_MAX)));
        }
        match next {
            Next::Arrival(_) => self.arrive()?,
            Next::Timer(_, host) => {
                self.trace.push(self.now, Entry::Timeout(host), 0);
                self.turn(host, Input::Timeout)?;
            }
        }
        Ok(true)
    }

    fn next(&self) -> Option<Next> {
        let arrival = self.arrivals.first_key_value().map(|(&(at, _), _)| Next::Arrival(at));
        let timers =
            self.hosts.iter().enumerate().filter_map(|(position, host)| Some((host.poll_timeout()?, HostId(position))));
        let timer = timers.map(|(at, host)| Next::Timer(at.max(self.now), host)).min_by_key(Next::at);
        arrival.into_iter().chain(timer).min_by_key(Next::at)
    }

    fn advance(&mut self, to: Mono) {
        self.steps_at_this_instant = if to == self.now { self.steps_at_this_instant + 1 } else { 0 };
        self.now = to;
    }

    fn arrive(&mut self) -> Result<(), Failure> {
        let Some((_, Arrival { from, source, to, destination, ecn, datagram })) = self.arrivals.pop_first() else {
            return Ok(());
        };
        let hosts = &self.hosts;
        let sites = |position: usize| hosts.get(position).map(|host: &Host| &host.site);
        let (to, at) = match self.realms.descend(self.now, &sites, source, to, destination) {
            Ok(found) => found,
            Err(fate) => {
                self.trace.push(self.now, Entry::Stopped { from, at: to, fate }, fingerprint(&datagram));
                return Ok(());
            }
        };
        let host = &mut self.hosts[to.0];
        if !host.listens_at(at) || host.program.is_none() || (host.site.is_ipv6_broken && at.is_ipv6()) {
            return Ok(());
        }
        let (first, len) = (datagram.first().copied().unwrap_or_default(), datagram.len());
        let (content, input) = (fingerprint(&datagram), Input::Datagram { from: source, at, ecn, datagram });
        if host.is_asleep {
            if host.waiting.len() < WAITING_MAX {
                host.waiting.push(input);
            }
            return Ok(());
        }
        self.trace.push(self.now, Entry::Arrived { from, to, len, first }, content);
        self.turn(to, input)
    }

    /// Gives a host its turn and takes care of what comes out of it.
    fn turn(&mut self, host: HostId, input: Input) -> Result<(), Failure> {
        let outcome = self.hosts[host.0].turn(self.now, input);
        let Turn { datagrams, events } = outcome.map_err(|violation| self.failure(Some(host), violation))?;
        for event in events {
            self.trace.push(self.now, Entry::Event(host, Box::new(event)), 0);
        }
        for (transmit, datagram) in datagrams {
            self.send(host, &transmit, datagram);
        }
        Ok(())
    }

    fn send(&mut self, from: HostId, transmit: &Transmit, mut datagram: Vec<u8>) {
        let (len, first) = (datagram.len(), datagram.first().copied().unwrap_or_default());
        let content = fingerprint(&datagram);
        let sent = |world: &mut Self, to, fate| {
            world.trace.push(world.now, Entry::Sent { from, to, len, first, fate }, content);
        };
        let (to, source, destination) = match self.way(from, transmit) {
            Ok(way) => way,
            Err(fate) => return sent(self, None, fate),
        };
        let now = self.now;
        let link = self.link(from, to);
        if wire::peek(&datagram) == Ok(PacketKind::Relay) {
            link.stats.offered_relayed += 1;
        }
        // As the kernel does: one segment that is too long for the interface, and the whole train is refused.
        if transmit.segment_size.is_some_and(|len| !link.takes(len)) {
            return sent(self, Some(to), Fate::TooLong);
        }
        let passage = link.send(now, &mut datagram);
        sent(self, Some(to), passage.fate);
        for at in passage.arrivals.into_iter().flatten() {
            let arrival = Arrival { from, source, to, destination, ecn: transmit.ecn, datagram: datagram.clone() };
            self.arrivals.insert((at, self.arrivals_made), arrival);
            self.arrivals_made += 1;
        }
    }

    /// The link that a datagram takes out of the realm of its host, and both addresses that it has there.
    fn way(&mut self, from: HostId, transmit: &Transmit) -> Result<(Endpoint, SocketAddr, SocketAddr), Fate> {
        let hosts = &self.hosts;
        let sites = |position: usize| hosts.get(position).map(|host: &Host| &host.site);
        let host = &hosts[from.0];
        let source = host.source(&transmit.route).ok_or(Fate::NoLocalAddress)?;
        self.realms.climb(self.now, &sites, &host.site, source, transmit.route.remote, transmit.ttl)
    }

    fn link(&mut self, from: HostId, to: Endpoint) -> &mut Link {
        let (rng, config) = (&self.rng, &self.default_link);
        self.links
            .entry((from, to))
            .or_insert_with(|| Link::new(config.clone(), rng.child(&format!("link {from} {to}"))))
    }

    fn note(&mut self, text: String) {
        self.trace.push(self.now, Entry::Note(text), 0);
    }

    fn failure(&self, host: Option<HostId>, violation: Violation) -> Failure {
        Failure { seed: self.seed, at: self.elapsed(), host, violation, report: self.describe() }
    }

    /// The last things that happened, and how the hosts stand.
    fn describe(&self) -> String {
        let mut text = self.trace.to_string();
        for (position, host) in self.hosts.iter().enumerate() {
            let Some(machine) = host.machine() else { continue };
            let node = machine.node();
            let drops: Vec<_> = node.stats().drop_counters().filter(|&(_, count)| count > 0).collect();
            let due = machine.poll_timeout().map(since_start);
            text += &format!("{} {:?}: next timer {due:?}, drops {drops:?}\n", HostId(position), node.key());
            for peer in node.peers() {
                text += &format!("  {peer:?}\n");
            }
            for (_, audit) in node.audit(self.now) {
                text += &format!("  {audit:?}\n");
            }
            if let Some(status) = host.backbone_status() {
                text += &format!("  {status:?}\n");
            }
            if let Some((_, application)) = host.agent() {
                text += &format!("  {application:?}\n");
            }
        }
        text
    }
}

impl HostId {
    pub(crate) fn at(position: usize) -> Self {
        Self(position)
    }
}

impl Families {
    /// Addresses of the host at this position: private ones behind a gateway, IPv6 global everywhere.
    fn addresses(self, position: usize, gateway: Option<GatewayId>, port: u16) -> Vec<SocketAddr> {
        let byte = u8::try_from(position).expect("few hosts");
        let v4 = if gateway.is_some() { [192, 168, 1, byte + 10] } else { [10, byte, 0, 1] };
        let v4 = SocketAddr::from((v4, port));
        let v6 = SocketAddr::from(([0x2001, 0xdb8, byte.into(), 0, 0, 0, 0, 1], port));
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }
}

impl Next {
    fn at(&self) -> Mono {
        match *self {
            Self::Arrival(at) | Self::Timer(at, _) => at,
        }
    }
}

impl Drop for World {
    /// A test that fails by an assertion of its own shows the seed and the last events too.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:?}; replay with PILOT_SIM_SEED={}\n{}", self.elapsed(), self.seed, self.describe());
        }
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", self.0)
    }
}

/// The last bytes of a datagram: of a sealed packet its tag, which stands for all of it.
fn fingerprint(datagram: &[u8]) -> u64 {
    datagram.iter().rev().take(8).fold(0, |value, &byte| (value << 8) | u64::from(byte))
}
