//! The workloads: what is measured, of whom, and what the numbers of a client's report mean.

mod bulk;
mod cold;
#[cfg(target_os = "linux")]
mod errand;
#[cfg(target_os = "linux")]
mod fairness;
#[cfg(target_os = "linux")]
mod fetch;
#[cfg(target_os = "linux")]
mod impaired;
#[cfg(target_os = "linux")]
mod loss;
mod memory;
mod parallel;
#[cfg(target_os = "linux")]
mod relay;
mod rr;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::process::{Place, Server, here};
use super::results::{Outcome, Quantity, Sample};
use super::system::Kind;
use crate::error::BenchError;

/// One of the workloads.
pub(crate) trait Workload {
    /// Whom it is measured for, the yardstick first.
    fn systems(&self) -> Vec<Kind>;

    /// Why it cannot be measured here, if it cannot.
    fn obstacle(&self) -> Option<String> {
        None
    }

    /// Whether a first round is not to be kept.
    fn warms_up(&self) -> bool {
        true
    }

    /// What came out, for people.
    fn page(&self, outcomes: &[Outcome]) -> String {
        outcomes.iter().map(Outcome::markdown).collect()
    }

    /// Whether a quantity has a picture.
    fn has_picture(&self, _quantity: &Quantity) -> bool {
        true
    }

    /// Measures one of them once.
    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError>;
}

/// What makes a workload.
type Maker = fn() -> Box<dyn Workload>;

/// All of them by name, in the order in which they are measured.
pub(crate) const WORKLOADS: &[(&str, Maker)] = &[
    ("bulk", || Box::new(bulk::Bulk)),
    ("rr", || Box::new(rr::RoundTrips)),
    ("cold", || Box::new(cold::Cold)),
    ("parallel", || Box::new(parallel::Parallel)),
    ("memory", || Box::<memory::Memory>::default()),
    #[cfg(target_os = "linux")]
    ("loss", || Box::<loss::Loss>::default()),
    #[cfg(target_os = "linux")]
    ("fetch", || Box::<fetch::Fetch>::default()),
    #[cfg(target_os = "linux")]
    ("fairness", || Box::<fairness::Fairness>::default()),
    #[cfg(target_os = "linux")]
    ("relay", || Box::new(relay::Relay)),
    #[cfg(target_os = "linux")]
    ("errand", || Box::<errand::Errands>::default()),
];

/// What workloads on this machine share: a server of each system, started when it is asked for.
pub(crate) struct Stage {
    pub(crate) pilotctl: PathBuf,
    systems: Vec<Kind>,
    servers: BTreeMap<(Kind, u32), Server>,
}

impl Stage {
    /// A stage for these systems.
    pub(crate) fn new(pilotctl: PathBuf, systems: Vec<Kind>) -> Self {
        Self { pilotctl, systems, servers: BTreeMap::new() }
    }

    /// Whether a system is among those that are compared.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.systems.contains(&kind)
    }

    /// The server of a system for so many streams at once, which stays until the stage is gone.
    fn server(&mut self, kind: Kind, streams: u32) -> Result<&Server, BenchError> {
        let which = (kind, streams);
        if !self.servers.contains_key(&which) {
            self.servers.insert(which, Server::start(kind, streams, &self.pilotctl, HERE)?);
        }
        self.servers.get(&which).ok_or_else(|| BenchError::wrong("a server that was just started is gone"))
    }
}

/// Streams that a client may have at once, unless a workload wants more: the default of most.
const STREAMS: u32 = 100;

/// On this machine, by loopback.
const HERE: Place<'static> = Place { launch: &here, ip: IpAddr::V4(Ipv4Addr::LOCALHOST) };

/// Everybody but those who differ only on a path with loss, or in one workload.
fn on_loopback() -> Vec<Kind> {
    let differs_with_loss = |kind: &Kind| matches!(kind, Kind::TlsBbr | Kind::Http2Bbr | Kind::QuinnBbr);
    let is_of_few = |kind: &Kind| matches!(kind, Kind::PilotReplaySafe | Kind::PilotEthernet | Kind::Forwarder);
    Kind::ALL.into_iter().filter(|kind| !differs_with_loss(kind) && !is_of_few(kind)).collect()
}
