//! A lab that stands: network namespaces as hosts, each with a TUN device, and the [`Engine`] that is everything between them.
//!
//! A host may be a gateway for another one, which hangs on it by a cable (veth): what such a gateway does, the kernel does, by rules of
//! nftables.
//!
//! It takes root, `ip` of iproute2, `nft` for gateways and `/dev/net/tun`. Whatever way its process ends, nothing of it is left: a shell that waits for the end
//! of its input removes the namespaces and what runs in them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use pilot_sim::link::LinkConfig;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::engine::{Engine, Port};
use super::router::{CORE, NodeId, Router};
use crate::error::BenchError;

/// The name of a host's interface.
const INTERFACE: &str = "eth0";
/// The name of the one that it may change to.
const SPARE: &str = "eth1";
/// What the names of a gateway's interfaces to hosts behind it begin with.
pub(crate) const INSIDE: &str = "lan-";
/// The address of a gateway for those behind it.
const GATEWAY: &str = "169.254.0.1";
/// What `ip netns exec` lays over `/etc`.
const ETC: &str = "/etc/netns";
/// That of Ethernet.
pub(crate) const MTU: u16 = 1_500;
/// What makes a gateway of a host, and takes from it what an emulated one does not do.
const FORWARDING: [(&str, &str); 4] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/icmp_ratelimit", "0"),
];
/// Labs of this process so far, for names.
static LABS: AtomicU32 = AtomicU32::new(0);

/// A network that is still to be built.
pub(crate) struct Plan {
    pub(crate) router: Router,
    hosts: Vec<Planned>,
    /// MTU of every interface.
    pub(crate) mtu: u16,
    /// Lines of every host's `/etc/hosts`: the labs' only directory of names.
    names: String,
}

#[derive(Debug)]
struct Planned {
    name: &'static str,
    node: NodeId,
    addresses: Vec<IpAddr>,
    /// The gateway that it is behind, if that is a host too.
    gateway: Option<&'static str>,
    /// The rules of nftables by which it is a gateway.
    rules: Option<String>,
    /// Where its second interface leads.
    spare: Option<NodeId>,
}

/// The network, built.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) engine: Engine,
    hosts: Vec<Host>,
    cleaner: Child,
    /// Where the hosts keep their files.
    _home: TempDir,
}

/// A machine of the lab.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) node: NodeId,
    /// Whether a gateway that is a host too stands before it.
    is_behind: bool,
    namespace: String,
    home: PathBuf,
}

impl Plan {
    /// Nothing but a core; the seed decides everything that is left to chance.
    pub(crate) fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { router: Router::new(bytes), hosts: Vec::new(), mtu: MTU, names: String::new() }
    }

    /// Plans a host below `parent`.
    pub(crate) fn host(&mut self, name: &'static str, parent: NodeId, addresses: &[&str], link: &LinkConfig) -> NodeId {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| address(text)).collect();
        let node = self.router.add_host(parent, addresses.clone(), link);
        self.hosts.push(Planned { name, node, addresses, gateway: None, rules: None, spare: None });
        node
    }

    /// Plans a host that is a gateway by these rules of nftables.
    pub(crate) fn gateway(&mut self, name: &'static str, public: &str, rules: String, link: &LinkConfig) -> NodeId {
        let node = self.host(name, CORE, &[public], link);
        self.planned(name).rules = Some(rules);
        node
    }

    /// Plans a host behind a planned [`Plan::gateway`].
    pub(crate) fn host_behind(&mut self, name: &'static str, gateway: &'static str, at: &str) {
        let node = self.planned(gateway).node;
        let addresses = vec![address(at)];
        self.hosts.push(Planned { name, node, addresses, gateway: Some(gateway), rules: None, spare: None });
    }

    /// Plans a second interface of a host, to change to ([`Host::change_interface`]).
    pub(crate) fn spare(&mut self, name: &str, parent: NodeId, at: &str, link: &LinkConfig) {
        let node = self.router.add_host(parent, vec![address(at)], link);
        self.planned(name).spare = Some(node);
    }

    fn planned(&mut self, name: &str) -> &mut Planned {
        self.hosts.iter_mut().find(|host| host.name == name).expect("planned before")
    }

    /// Lets every host know addresses by a name.
    pub(crate) fn name(&mut self, name: &str, addresses: &[&str]) {
        self.names.extend(addresses.iter().map(|address| format!("{address} {name}\n")));
    }

    /// Builds it.
    pub(crate) fn build(self) -> Result<Lab, BenchError> {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let home = tempfile::Builder::new().prefix("netlab-").tempdir()?;
        let namespace = |host: &Planned| format!("pilot-{}-{number}-{}", std::process::id(), host.name);
        let cleaner = start_cleaner(self.hosts.iter().map(namespace))?;
        let mut hosts = Vec::new();
        let mut ports = Vec::new();
        for planned in &self.hosts {
            let host = Host {
                name: planned.name,
                node: planned.node,
                is_behind: planned.gateway.is_some(),
                namespace: namespace(planned),
                home: home.path().join(planned.name),
            };
            std::fs::create_dir(&host.home)?;
            ports.extend(host.build(planned, &hosts, &self)?);
            hosts.push(host);
        }
        Ok(Lab { engine: Engine::start(self.router, ports)?, hosts, cleaner, _home: home })
    }
}

impl Lab {
    /// The host of that name.
    ///
    /// # Panics
    /// If none was planned.
    pub(crate) fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).expect("hosts are named where they are planned")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        if let Err(error) = self.cleaner.wait() {
            eprintln!("a lab was not removed: {error}");
        }
    }
}

impl Host {
    /// A command that will run there, with `PILOT_HOME` in a directory of the host.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command.env("PILOT_HOME", self.pilot_home()).env_remove("PILOT_BACKBONE").env_remove("PILOT_AGENT");
        command.stdin(Stdio::null());
        command
    }

    /// `PILOT_HOME` of this host.
    pub(crate) fn pilot_home(&self) -> PathBuf {
        self.home.join("pilot")
    }

    /// Does something in the host's network, most of all: opens a socket, which stays there.
    pub(crate) fn enter<T: Send>(&self, action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let namespace = File::open(Path::new("/run/netns").join(&self.namespace))?;
        // A thread of its own, which ends in there: none of ours changes its network.
        let inside = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            action()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().map_err(|_| io::Error::other("panicked inside")))?
    }

    /// Runs `ip` on this host's network.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<(), BenchError> {
        run_ip(&[&["-n", &self.namespace], args].concat())
    }

    /// Makes the host. Returns its ends in the emulated network.
    fn build(&self, planned: &Planned, others: &[Self], plan: &Plan) -> Result<Vec<Port>, BenchError> {
        run_ip(&["netns", "add", &self.namespace])?;
        let etc = Path::new(ETC).join(&self.namespace);
        std::fs::create_dir_all(&etc)?;
        std::fs::write(etc.join("hosts"), &plan.names)?;
        self.ip(&["link", "set", "lo", "up"])?;
        if planned.rules.is_some() {
            self.forward()?;
        }
        let mut ports = Vec::new();
        match planned.gateway {
            None => ports.push(Port { host: self.node, device: self.tun(INTERFACE, plan.mtu)? }),
            Some(gateway) => {
                let gateway = others.iter().find(|host| host.name == gateway).expect("planned before");
                self.cable_to(gateway, &planned.addresses, plan.mtu)?;
            }
        }
        if let Some(host) = planned.spare {
            ports.push(Port { host, device: self.tun(SPARE, plan.mtu)? });
        }
        self.ip(&["link", "set", INTERFACE, "up"])?;
        self.set_addresses(&planned.addresses)?;
        planned.rules.as_deref().map_or(Ok(()), |rules| self.rule(rules))?;
        Ok(ports)
    }

    fn tun(&self, name: &str, mtu: u16) -> Result<SyncDevice, BenchError> {
        let device = self.enter(|| DeviceBuilder::new().name(name).mtu(mtu).enable(false).build_sync())?;
        device.set_nonblocking(true)?;
        Ok(device)
    }

    /// Lets the host's TCP use that controller, unless a program chooses another.
    #[cfg(feature = "peers")]
    pub(crate) fn set_congestion(&self, name: &str) -> Result<(), BenchError> {
        self.ip(&["route", "replace", "default", "dev", INTERFACE, "congctl", name])
    }

    /// Gives the host a file of its own in `/etc`.
    #[cfg(feature = "peers")]
    pub(crate) fn write_etc(&self, name: &str, contents: &str) -> Result<(), BenchError> {
        Ok(std::fs::write(Path::new(ETC).join(&self.namespace).join(name), contents)?)
    }

    /// Lets TCP have as much in flight as a gigabit link holds, and what it retransmits.
    #[cfg(feature = "peers")]
    pub(crate) fn widen_tcp(&self) -> Result<(), BenchError> {
        self.set_kernel(&[("ipv4/tcp_wmem", "4096 16384 67108864"), ("ipv4/tcp_rmem", "4096 131072 67108864")])
    }

    fn forward(&self) -> Result<(), BenchError> {
        self.set_kernel(&FORWARDING)?;
        self.ip(&["address", "add", &format!("{GATEWAY}/32"), "dev", "lo"])
    }

    fn set_kernel(&self, values: &[(&str, &str)]) -> Result<(), BenchError> {
        let set = |(name, value): &(&str, &str)| std::fs::write(Path::new("/proc/sys/net").join(name), value);
        Ok(self.enter(|| values.iter().try_for_each(set))?)
    }

    fn cable_to(&self, gateway: &Self, addresses: &[IpAddr], mtu: u16) -> Result<(), BenchError> {
        let (far, mtu) = (format!("{INSIDE}{}", self.name), mtu.to_string());
        let near = ["link", "add", INTERFACE, "mtu", &mtu, "type", "veth"];
        self.ip(&[near.as_slice(), &["peer", "name", &far, "mtu", &mtu, "netns", &gateway.namespace]].concat())?;
        gateway.ip(&["link", "set", &far, "up"])?;
        addresses.iter().try_for_each(|ip| gateway.ip(&["route", "add", &ip.to_string(), "dev", &far]))
    }

    /// Loads rules of nftables.
    fn rule(&self, rules: &str) -> Result<(), BenchError> {
        let mut command = self.command("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // Its end tells `nft` that this is all.
        child.stdin.take().expect("piped").write_all(rules.as_bytes())?;
        let output = child.wait_with_output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(BenchError::Wrong(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim()))),
        }
    }

    /// Gives the host these addresses in place of what it has, and routes by its interface.
    pub(crate) fn set_addresses(&self, addresses: &[IpAddr]) -> Result<(), BenchError> {
        self.set_addresses_of(INTERFACE, addresses)
    }

    /// Lets the host leave its interface for the spare one, with these addresses there.
    pub(crate) fn change_interface(&self, addresses: &[IpAddr]) -> Result<(), BenchError> {
        self.ip(&["link", "set", INTERFACE, "down"])?;
        self.ip(&["link", "set", SPARE, "up"])?;
        self.set_addresses_of(SPARE, addresses)
    }

    /// Lets the host route by its interface again, with these addresses there. The spare one stays as it is.
    pub(crate) fn route_back(&self, addresses: &[IpAddr]) -> Result<(), BenchError> {
        self.ip(&["link", "set", INTERFACE, "up"])?;
        self.set_addresses(addresses)
    }

    /// Gives the host's interface another MTU.
    pub(crate) fn set_mtu(&self, mtu: u16) -> Result<(), BenchError> {
        self.ip(&["link", "set", INTERFACE, "mtu", &mtu.to_string()])
    }

    fn set_addresses_of(&self, interface: &str, addresses: &[IpAddr]) -> Result<(), BenchError> {
        self.ip(&["address", "flush", "dev", interface, "scope", "global"])?;
        for family in ["-4", "-6"] {
            // Those that were made here: without it a family without an address would keep its default route.
            self.ip(&[family, "route", "flush", "dev", interface, "proto", "boot"])?;
        }
        for address in addresses {
            let (family, whole) = if address.is_ipv4() { ("-4", "/32") } else { ("-6", "/128") };
            self.ip(&[family, "address", "add", &format!("{address}{whole}"), "dev", interface, "nodad"])?;
            let via = if self.is_behind { ["via", GATEWAY, "onlink"].as_slice() } else { &[] };
            self.ip(&[&[family, "route", "replace", "default", "dev", interface], via].concat())?;
        }
        Ok(())
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("addresses of labs are written in this program")
}

fn run_ip(args: &[&str]) -> Result<(), BenchError> {
    let output = Command::new("ip").args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(BenchError::Wrong(format!("`ip {}` failed: {} (a lab takes root)", args.join(" "), said.trim())))
}

/// Waits for the end of its stdin, which comes when the lab is dropped, and also when its process is killed.
const CLEANER: &str = r#"
read -r _
for namespace in "$@"; do
    ip netns pids "$namespace" | xargs -r kill -9
    ip netns delete "$namespace"
    rm -r "/etc/netns/$namespace"
done
"#;

fn start_cleaner(namespaces: impl Iterator<Item = String>) -> io::Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", CLEANER, "cleaner"]).args(namespaces);
    // A group of its own, for it has to outlive a lab that is interrupted.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn()
}
