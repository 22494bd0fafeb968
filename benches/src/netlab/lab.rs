//! A lab that stands: network namespaces as hosts, each with one TUN device, and the [`Engine`] that is everything between them.
//!
//! It takes root, `ip` of iproute2 and `/dev/net/tun`. Whatever way its process ends, nothing of it is left: a shell that waits for the end
//! of its input removes the namespaces and what runs in them.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
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
use super::router::{NodeId, Router};
use crate::error::BenchError;

/// The name of a host's only interface.
const INTERFACE: &str = "eth0";
/// What `ip netns exec` lays over `/etc`.
const ETC: &str = "/etc/netns";
/// That of Ethernet.
const MTU: u16 = 1_500;
/// Labs of this process so far, for names.
static LABS: AtomicU32 = AtomicU32::new(0);

/// A network that is still to be built.
pub(crate) struct Plan {
    pub(crate) router: Router,
    hosts: Vec<Planned>,
    /// Lines of every host's `/etc/hosts`: the labs' only directory of names.
    names: String,
}

#[derive(Debug)]
struct Planned {
    name: &'static str,
    node: NodeId,
    addresses: Vec<IpAddr>,
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
    namespace: String,
    home: PathBuf,
}

impl Plan {
    /// Nothing but a core; the seed decides everything that is left to chance.
    pub(crate) fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { router: Router::new(bytes), hosts: Vec::new(), names: String::new() }
    }

    /// Plans a host below `parent`, with interfaces of Ethernet's MTU.
    pub(crate) fn host(&mut self, name: &'static str, parent: NodeId, addresses: &[&str], link: &LinkConfig) -> NodeId {
        let addresses: Vec<IpAddr> =
            addresses.iter().map(|text| text.parse().expect("addresses of labs are written in this program")).collect();
        let node = self.router.add_host(parent, addresses.clone(), link);
        self.hosts.push(Planned { name, node, addresses });
        node
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
                namespace: namespace(planned),
                home: home.path().join(planned.name),
            };
            std::fs::create_dir(&host.home)?;
            ports.push(Port { host: host.node, device: host.build(planned, &self.names)? });
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

    fn build(&self, planned: &Planned, names: &str) -> Result<SyncDevice, BenchError> {
        run_ip(&["netns", "add", &self.namespace])?;
        let etc = Path::new(ETC).join(&self.namespace);
        std::fs::create_dir_all(&etc)?;
        std::fs::write(etc.join("hosts"), names)?;
        let device = self.enter(|| DeviceBuilder::new().name(INTERFACE).mtu(MTU).enable(false).build_sync())?;
        device.set_nonblocking(true)?;
        self.ip(&["link", "set", "lo", "up"])?;
        self.ip(&["link", "set", INTERFACE, "up"])?;
        self.set_addresses(&planned.addresses)?;
        Ok(device)
    }

    /// Gives the host these addresses in place of what it has, and routes by its interface.
    pub(crate) fn set_addresses(&self, addresses: &[IpAddr]) -> Result<(), BenchError> {
        self.ip(&["address", "flush", "dev", INTERFACE, "scope", "global"])?;
        for address in addresses {
            let (family, whole) = if address.is_ipv4() { ("-4", "/32") } else { ("-6", "/128") };
            self.ip(&[family, "address", "add", &format!("{address}{whole}"), "dev", INTERFACE, "nodad"])?;
            self.ip(&[family, "route", "replace", "default", "dev", INTERFACE])?;
        }
        Ok(())
    }
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
