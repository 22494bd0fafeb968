//! The network lab as a place for ends: a server behind one slow link, and clients in front of it.
//!
//! The server's link has the rate, the queue, the loss and the delay of each way; the clients' links have none of them. It takes root.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pilot_core::time::Mono;
use pilot_daemon::clock;
use pilot_sim::link::{Chance, LinkConfig, LinkStats};

use crate::compare::process::Place;
use crate::error::BenchError;
use crate::netlab::lab::{Host, Lab, Plan};
use crate::netlab::router::{CORE, NodeId, Way};

/// There and back.
pub(super) const ROUND_TRIP: Duration = Duration::from_millis(40);
const SERVER: &str = "server";
const CLIENT: &str = "client";
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Decides which packets are lost.
const SEED: u64 = 1;

/// How the server's link treats packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Impairment {
    pub(super) megabits: u64,
    /// Of 100 packets, each way.
    pub(super) loss: u32,
    /// The queue, in bandwidth-delay products.
    pub(super) queue: u64,
}

/// A lab with one server's host and one clients' host.
pub(super) struct Network {
    lab: Lab,
    server: Host,
    client: Host,
}

impl Impairment {
    fn bytes_per_second(self) -> u64 {
        self.megabits * 1_000_000 / 8
    }

    fn link(self) -> LinkConfig {
        let product = self.bytes_per_second() * ROUND_TRIP.as_millis() as u64 / 1_000;
        let link = LinkConfig::default().delay(ROUND_TRIP / 2).loss(Chance::percent(self.loss));
        link.rate(self.bytes_per_second(), self.queue * product)
    }
}

impl Network {
    pub(super) fn build(impairment: Impairment) -> Result<Self, BenchError> {
        let mut plan = Plan::new(SEED);
        plan.host(SERVER, CORE, &[&SERVER_IP.to_string()], &impairment.link());
        plan.host(CLIENT, CORE, &[&CLIENT_IP.to_string()], &LinkConfig::default().delay(Duration::ZERO));
        let lab = plan.build()?;
        let [server, client] = [SERVER, CLIENT].map(|name| lab.host(name).clone());
        [&server, &client].into_iter().try_for_each(Host::widen_tcp)?;
        Ok(Self { lab, server, client })
    }

    /// Does something with the places of servers and of clients.
    pub(super) fn at<T>(&self, action: impl FnOnce(Place<'_>, Place<'_>) -> T) -> T {
        let launch_server = |program: &Path| -> Command { self.server.command(program) };
        let launch_client = |program: &Path| -> Command { self.client.command(program) };
        let server = Place { launch: &launch_server, ip: IpAddr::V4(SERVER_IP) };
        let client = Place { launch: &launch_client, ip: IpAddr::V4(CLIENT_IP) };
        action(server, client)
    }

    /// How long a packet from the server would wait now, and what the server has sent so far.
    pub(super) fn load(&self) -> (Duration, LinkStats) {
        let (now, server): (Mono, NodeId) = (clock::now().mono, self.server.node);
        self.lab.engine.with(move |router| router.load(now, server, Way::Up))
    }
}

/// Why there is no lab here, if there is none.
pub(super) fn obstacle() -> Option<String> {
    let is_root = rustix::process::geteuid().is_root();
    (!is_root).then(|| "it takes root, for the network lab".to_owned())
}
