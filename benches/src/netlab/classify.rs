//! `netlab classify`: what each emulated NAT is, found out from outside as RFC 5780 does it, beside what its name promises.
//!
//! All sockets are in this process, each in the network of its host; nobody needs to be told what to send.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use pilot_sim::meeting::Network;
use pilot_sim::nat::{Allocation, Hairpin, NatConfig, UdpPolicy};

use super::kernel;
use super::lab::{Host, Lab, Plan};
use super::nats::{access, lan};
use super::router::{CORE, Gateway, Policy};
use crate::error::BenchError;

/// Longer than any round trip of this lab: what has not come by then does not come.
const PATIENCE: Duration = Duration::from_millis(250);
/// Local ports tried, to tell how outside ports are chosen.
const SOCKETS: usize = 6;
/// Both addresses and both ports of the server.
const ADDRESSES: [&str; 2] = ["203.0.113.10", "203.0.113.11"];
const PORTS: [u16; 2] = [3_478, 3_479];
const INSIDE: &str = "192.168.1.2";
const NEIGHBOUR: &str = "192.168.1.3";
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// What a behaviour depends on, as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

/// How outside ports are chosen, as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    Preserved,
    Sequential,
    Random,
}

/// What a NAT is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    UdpBlocked { tcp_passes: bool },
    Udp { mapping: Seen, filtering: Seen, ports: Ports, hairpin: bool, poisons: bool },
}

/// Where the server and the client are, and the client's neighbour.
struct Stage {
    lab: Lab,
    servers: [[UdpSocket; 2]; 2],
    tcp: TcpListener,
}

/// Classifies every NAT of the lab.
///
/// # Errors
/// If one of them is not what its name says.
pub(crate) fn run(seed: u64) -> Result<(), BenchError> {
    let mut wrong = Vec::new();
    println!("| NAT | mapping | filtering | ports | hairpin | poisoned by who comes early |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut judge = |name: String, promised: Class, class: Class| {
        println!("| {name} | {class} |");
        if promised != class {
            wrong.push(format!("{name}: {class:?}"));
        }
    };
    for (name, config, promised) in nats() {
        judge(name.to_owned(), promised, Stage::emulated(seed, config)?.classify()?);
    }
    for (network, promised) in kernel::NETWORKS.into_iter().zip(of_kernel()) {
        judge(format!("kernel: {network}"), promised, Stage::by_kernel(seed, network)?.classify()?);
    }
    if wrong.is_empty() {
        println!("\nEach is what its name says.");
        return Ok(());
    }
    Err(BenchError::Wrong(format!("not what the name says: {}", wrong.join("; "))))
}

/// Every emulated NAT, and what its name promises.
fn nats() -> Vec<(&'static str, NatConfig, Class)> {
    use Ports::{Preserved, Random, Sequential};
    use Seen::{AddressAndPortDependent as Both, AddressDependent as Address, EndpointIndependent as Nothing};
    let class = |mapping, filtering, ports| Class::Udp { mapping, filtering, ports, hairpin: false, poisons: false };
    let hairpin =
        |filtering| Class::Udp { mapping: Nothing, filtering, ports: Preserved, hairpin: true, poisons: false };
    let poisons = Class::Udp { mapping: Nothing, filtering: Both, ports: Preserved, hairpin: false, poisons: true };
    let restricted = NatConfig::port_restricted;
    vec![
        ("full cone", NatConfig::full_cone(), class(Nothing, Nothing, Preserved)),
        ("full cone, hairpin", NatConfig::full_cone().hairpin(Hairpin::ExternalSource), hairpin(Nothing)),
        ("address-restricted", NatConfig::address_restricted(), class(Nothing, Address, Preserved)),
        ("port-restricted", restricted(), class(Nothing, Both, Preserved)),
        ("port-restricted, other ports", restricted().allocation(Allocation::Random), class(Nothing, Both, Random)),
        ("port-restricted, hairpin", restricted().hairpin(Hairpin::ExternalSource), hairpin(Both)),
        ("Linux router that answers", NatConfig::answering_linux(), poisons),
        ("address-dependent", NatConfig::address_dependent(), class(Address, Both, Random)),
        ("symmetric sequential", NatConfig::symmetric_sequential(), class(Both, Both, Sequential)),
        ("symmetric random", NatConfig::symmetric_random(), class(Both, Both, Random)),
        ("symmetric, 256 ports", NatConfig::symmetric_random().ports([20_480..=20_735]), class(Both, Both, Random)),
        ("UDP blocked", restricted().udp(UdpPolicy::Blocked), Class::UdpBlocked { tcp_passes: true }),
    ]
}

/// What the names of the kernel's promise, in the order of [`kernel::NETWORKS`].
fn of_kernel() -> [Class; 7] {
    use Ports::{Preserved, Random, Sequential};
    use Seen::{AddressAndPortDependent as Both, AddressDependent as Address, EndpointIndependent as Nothing};
    let class = |mapping, filtering, ports| Class::Udp { mapping, filtering, ports, hairpin: false, poisons: false };
    [
        class(Nothing, Nothing, Preserved),
        class(Nothing, Address, Preserved),
        class(Nothing, Both, Preserved),
        Class::Udp { mapping: Nothing, filtering: Both, ports: Preserved, hairpin: false, poisons: true },
        class(Address, Both, Random),
        class(Both, Both, Sequential),
        class(Both, Both, Random),
    ]
}

impl Stage {
    fn emulated(seed: u64, udp: NatConfig) -> Result<Self, BenchError> {
        let mut plan = Plan::new(seed);
        let v4 = Policy::nat(udp, NatConfig::port_restricted(), &[OUTSIDE], plan.router.rng());
        let gateway = plan.router.add_gateway(CORE, Gateway { v4, v6: Policy::Drop }, &access());
        plan.host("client", gateway, &[INSIDE], &lan());
        plan.host("neighbour", gateway, &[NEIGHBOUR], &lan());
        Self::build(plan)
    }

    fn by_kernel(seed: u64, network: Network) -> Result<Self, BenchError> {
        let mut plan = Plan::new(seed);
        let public = OUTSIDE.to_string();
        plan.gateway("gateway", &public, kernel::rules(network, &public), &access());
        plan.host_behind("client", "gateway", INSIDE);
        plan.host_behind("neighbour", "gateway", NEIGHBOUR);
        Self::build(plan)
    }

    fn build(mut plan: Plan) -> Result<Self, BenchError> {
        plan.host("server", CORE, &ADDRESSES, &access());
        let lab = plan.build()?;
        let bind =
            |address: usize, port: usize| bind(lab.host("server"), &format!("{}:{}", ADDRESSES[address], PORTS[port]));
        let servers = [[bind(0, 0)?, bind(0, 1)?], [bind(1, 0)?, bind(1, 1)?]];
        let tcp = lab.host("server").enter(|| TcpListener::bind((ADDRESSES[0], 443)))?;
        Ok(Self { lab, servers, tcp })
    }

    fn classify(&self) -> Result<Class, BenchError> {
        let client = self.client()?;
        let Some(first) = self.mapped(&client, 0, 0)? else {
            return Ok(Class::UdpBlocked { tcp_passes: self.tcp_passes() });
        };
        let other_port = self.mapped(&client, 0, 1)?;
        let other_address = self.mapped(&client, 1, 0)?;
        let mapping = match (other_port == Some(first), other_address == Some(first)) {
            (true, true) => Seen::EndpointIndependent,
            (true, false) => Seen::AddressDependent,
            (false, _) => Seen::AddressAndPortDependent,
        };
        Ok(Class::Udp {
            mapping,
            filtering: self.filtering()?,
            ports: self.ports()?,
            hairpin: self.hairpin()?,
            poisons: self.poisons()?,
        })
    }

    fn client(&self) -> Result<UdpSocket, BenchError> {
        bind(self.lab.host("client"), &format!("{INSIDE}:0"))
    }

    /// The address by which a server sees the socket.
    fn mapped(&self, socket: &UdpSocket, address: usize, port: usize) -> Result<Option<SocketAddr>, BenchError> {
        socket.send_to(b"who am I", (ADDRESSES[address], PORTS[port]))?;
        received(&self.servers[address][port])
    }

    /// Who may answer a socket that has sent to the first port of the first address.
    fn filtering(&self) -> Result<Seen, BenchError> {
        let client = self.client()?;
        let mapped = self.mapped(&client, 0, 0)?.ok_or_else(|| BenchError::Wrong("no mapping".to_owned()))?;
        let may_answer = |address: usize, port: usize| -> Result<bool, BenchError> {
            self.servers[address][port].send_to(b"hello", mapped)?;
            Ok(received(&client)?.is_some())
        };
        Ok(match (may_answer(1, 1)?, may_answer(0, 1)?) {
            (true, _) => Seen::EndpointIndependent,
            (false, true) => Seen::AddressDependent,
            (false, false) => Seen::AddressAndPortDependent,
        })
    }

    fn ports(&self) -> Result<Ports, BenchError> {
        let mut is_preserved = true;
        let mut outside = Vec::new();
        for _ in 0..SOCKETS {
            let client = self.client()?;
            let Some(mapped) = self.mapped(&client, 0, 0)? else { continue };
            is_preserved &= mapped.port() == client.local_addr()?.port();
            outside.push(i32::from(mapped.port()));
        }
        let steps: BTreeSet<_> = outside.windows(2).map(|pair| pair[1] - pair[0]).collect();
        Ok(match steps.len() {
            _ if is_preserved => Ports::Preserved,
            1 => Ports::Sequential,
            _ => Ports::Random,
        })
    }

    /// Whether a neighbour is reached by its outside address.
    fn hairpin(&self) -> Result<bool, BenchError> {
        let (client, neighbour) = (self.client()?, bind(self.lab.host("neighbour"), &format!("{NEIGHBOUR}:0"))?);
        let ours = self.mapped(&client, 0, 0)?;
        let theirs = self.mapped(&neighbour, 0, 0)?;
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return Ok(false) };
        // Both send, one after the other, so that filtering is no obstacle.
        client.send_to(b"over here", theirs)?;
        received(&neighbour)?;
        neighbour.send_to(b"over here", ours)?;
        received(&client)?;
        client.send_to(b"over here", theirs)?;
        Ok(received(&neighbour)?.is_some())
    }

    /// Whether somebody who sends before we have sent to him makes us another address for him.
    fn poisons(&self) -> Result<bool, BenchError> {
        let client = self.client()?;
        let Some(mapped) = self.mapped(&client, 0, 0)? else { return Ok(false) };
        self.servers[1][1].send_to(b"too early", mapped)?;
        let is_let_in = received(&client)?.is_some();
        let without = self.mapped(&client, 1, 0)?;
        let with = self.mapped(&client, 1, 1)?;
        Ok(!is_let_in && without == Some(mapped) && with != Some(mapped))
    }

    fn tcp_passes(&self) -> bool {
        let connect =
            || TcpStream::connect_timeout(&SocketAddr::new(ADDRESSES[0].parse().expect("an address"), 443), PATIENCE);
        self.lab.host("client").enter(connect).is_ok() && self.tcp.accept().is_ok()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |is: bool| if is { "yes" } else { "no" };
        match self {
            Self::UdpBlocked { tcp_passes } => write!(f, "UDP blocked, TCP 443 passes: {} | | | |", yes(*tcp_passes)),
            Self::Udp { mapping, filtering, ports, hairpin, poisons } => {
                let (ports, hairpin, poisons) = (format!("{ports:?}").to_lowercase(), yes(*hairpin), yes(*poisons));
                write!(f, "{mapping} | {filtering} | {ports} | {hairpin} | {poisons}")
            }
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address- and port-dependent",
        })
    }
}

fn bind(host: &Host, address: &str) -> Result<UdpSocket, BenchError> {
    let socket = host.enter(|| UdpSocket::bind(address))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Whom the next datagram is from, if one comes.
fn received(socket: &UdpSocket) -> Result<Option<SocketAddr>, BenchError> {
    match socket.recv_from(&mut [0; 64]) {
        Ok((_, from)) => Ok(Some(from)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
