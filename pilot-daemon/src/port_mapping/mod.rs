//! A port mapping at the router at home, so that others reach this agent there (spec/paths.md §8).
//!
//! ```text
//! no NAT -> the home node sees us elsewhere -> asked -> granted -> renewed at half of its life .. -> given back at the end
//!                                                   \-> refused -> asked again after a pause, or when we are seen elsewhere
//! ```
//!
//! A task of its own: nothing waits for it but the agent's end, for a moment. It asks the default gateway alone, and only if there is a NAT
//! on the way to the home node.

mod gateway;
mod router;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pilot_core::time::Mono;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::gateway::Place;
use self::router::{Granted, Mapping, Refusal};
use crate::api::network::{self, MappingProtocol, MappingState};
use crate::clock;
use crate::driver::Command;
use crate::net::host_addresses;

/// First pause after a refusal; doubles.
const PAUSE_MIN: Duration = Duration::from_secs(120);
/// Longest pause: a router is seldom taught something new.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// A mapping is renewed at least this often, however long it would last: a router that was restarted has forgotten it.
const RENEWAL_MAX: Duration = Duration::from_secs(3_600);
/// How long the end of the agent waits for the router to take the mapping back.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the mapping, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Report {
    /// The settings say no.
    Off,
    /// Nobody has said whether there is a NAT on the way to the home node.
    #[default]
    Unknown,
    /// There is none.
    Unneeded,
    /// The router is being asked.
    Asking,
    /// There is none, and why.
    None(String),
    /// There is one, until then.
    Mapped { address: SocketAddr, protocol: MappingProtocol, until: Mono },
}

/// The task, as the agent holds it.
pub(crate) struct PortMapper {
    report: watch::Receiver<Report>,
    is_over: watch::Sender<bool>,
    /// Taken when the agent ends; a leaf, never held across an await.
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the task works with.
struct Keeper {
    /// Leads to the node, as long as the agent is there.
    commands: mpsc::WeakSender<Command>,
    listen: SocketAddr,
    /// The agent's socket as the home node sees it, while it does.
    observed: watch::Receiver<Option<SocketAddr>>,
    /// The addresses of this machine: with others the router may be another one.
    network: watch::Receiver<Vec<SocketAddr>>,
    is_over: watch::Receiver<bool>,
    report: watch::Sender<Report>,
}

/// Why the task goes on.
enum Woken {
    /// The home node sees us elsewhere or no more, or this machine has other addresses.
    Moved,
    /// Time has passed.
    Due,
    /// The agent ends.
    Over,
}

impl PortMapper {
    /// One that asks nobody.
    pub(crate) fn off() -> Self {
        Self { report: watch::channel(Report::Off).1, is_over: watch::Sender::new(true), task: Mutex::default() }
    }

    /// Begins; `observed` tells when there is a NAT, `network` when the machine's addresses change.
    pub(crate) fn start(
        commands: mpsc::WeakSender<Command>,
        listen: SocketAddr,
        observed: watch::Receiver<Option<SocketAddr>>,
        network: watch::Receiver<Vec<SocketAddr>>,
    ) -> Self {
        let (report_sender, report) = watch::channel(Report::default());
        let is_over = watch::Sender::new(false);
        let is_over_receiver = is_over.subscribe();
        let keeper = Keeper { commands, listen, observed, network, is_over: is_over_receiver, report: report_sender };
        Self { report, is_over, task: Mutex::new(Some(tokio::spawn(keeper.run()))) }
    }

    /// How it stands.
    pub(crate) fn state(&self) -> network::PortMapping {
        let without = |state| network::PortMapping { state, ..network::PortMapping::default() };
        match &*self.report.borrow() {
            Report::Off => without(MappingState::Off),
            Report::Unknown => without(MappingState::Unknown),
            Report::Unneeded => without(MappingState::Unneeded),
            Report::Asking => without(MappingState::Asking),
            Report::None(reason) => {
                network::PortMapping { reason: Some(reason.clone()), ..without(MappingState::None) }
            }
            Report::Mapped { address, protocol, until } => network::PortMapping {
                protocol: Some(*protocol),
                address: Some(*address),
                expires_s: Some(until.since(clock::now().mono).as_secs()),
                ..without(MappingState::Mapped)
            },
        }
    }

    /// The address at which the router takes packets for us.
    pub(crate) fn mapped(&self) -> Option<SocketAddr> {
        match &*self.report.borrow() {
            Report::Mapped { address, .. } => Some(*address),
            Report::Off | Report::Unknown | Report::Unneeded | Report::Asking | Report::None(_) => None,
        }
    }

    /// Gives the mapping back.
    pub(crate) async fn end(&self) {
        self.is_over.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // A router that hangs holds nobody up; it forgets the mapping by itself.
            timeout(REMOVAL_PATIENCE, task).await.ok();
        }
    }
}

impl Keeper {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let Some(place) = self.wait_for_nat().await else { return };
            self.report.send_replace(Report::Asking);
            let asked = match place {
                Some(place) => tokio::select! {
                    asked = Mapping::request(place) => asked.map(|granted| (place, granted)),
                    () = over(self.is_over.clone()) => return,
                },
                None => Err(Refusal::NoRouter),
            };
            match asked {
                Ok((place, (mapping, granted))) => {
                    pause = PAUSE_MIN;
                    if let Woken::Over = self.hold(place, mapping, granted).await {
                        return;
                    }
                }
                Err(refusal) => {
                    tracing::debug!(%refusal, "no port mapping");
                    self.report.send_replace(Report::None(refusal.to_string()));
                    if let Woken::Over = self.wait(pause).await {
                        return;
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Waits until there is a NAT on the way to the home node; gives the router, if one is known. None if the agent ends.
    async fn wait_for_nat(&mut self) -> Option<Option<Place>> {
        loop {
            let observed = *self.observed.borrow_and_update();
            if observed.is_some_and(|observed| is_behind_nat(observed, &host_addresses(self.listen))) {
                return Some(Place::now(self.listen));
            }
            self.report.send_replace(if observed.is_some() { Report::Unneeded } else { Report::Unknown });
            tokio::select! {
                changed = self.observed.changed() => changed.ok()?,
                () = over(self.is_over.clone()) => return None,
            }
        }
    }

    /// Keeps the mapping until the router does not, or it is of no more use.
    async fn hold(&mut self, place: Place, mut mapping: Mapping, mut granted: Granted) -> Woken {
        let woken = loop {
            if self.announce(granted).await.is_err() {
                break Woken::Over;
            }
            let woken = self.wait((granted.lifetime / 2).min(RENEWAL_MAX)).await;
            if matches!(woken, Woken::Over) || Place::now(self.listen) != Some(place) {
                break woken;
            }
            match mapping.renew(place).await {
                Ok(renewed) => granted = renewed,
                Err(refusal) => {
                    tracing::info!(%refusal, "port mapping lost");
                    break woken;
                }
            }
        };
        self.withdraw().await;
        mapping.remove().await;
        woken
    }

    async fn wait(&mut self, pause: Duration) -> Woken {
        tokio::select! {
            () = clock::sleep(pause) => Woken::Due,
            changed = self.observed.changed() => if changed.is_ok() { Woken::Moved } else { Woken::Over },
            changed = self.network.changed() => if changed.is_ok() { Woken::Moved } else { Woken::Over },
            () = over(self.is_over.clone()) => Woken::Over,
        }
    }

    /// Tells the node, and people. Fails if the agent is gone.
    async fn announce(&self, granted: Granted) -> Result<(), ()> {
        let Granted { address, lifetime, protocol } = granted;
        let until = clock::now().mono + lifetime;
        let report = Report::Mapped { address, protocol, until };
        if !matches!(self.report.send_replace(report), Report::Mapped { .. }) {
            tracing::info!(?protocol, "port mapped");
        }
        self.tell_node(Some(address)).await
    }

    async fn withdraw(&self) {
        self.report.send_replace(Report::Unknown);
        // The agent may be gone: then it needs no candidates.
        self.tell_node(None).await.ok();
    }

    async fn tell_node(&self, mapped: Option<SocketAddr>) -> Result<(), ()> {
        let commands = self.commands.upgrade().ok_or(())?;
        let tell: Command = Box::new(move |core, now| core.node.set_mapped_address(now, mapped));
        commands.send(tell).await.map_err(|_| ())
    }
}

/// Completes when the agent ends.
async fn over(mut is_over: watch::Receiver<bool>) {
    // The sender is gone with the agent.
    is_over.wait_for(|is_over| *is_over).await.ok();
}

/// Whether the home node sees us at an address that is none of ours. Who sees us on this very machine says nothing of NATs.
fn is_behind_nat(observed: SocketAddr, own: &[SocketAddr]) -> bool {
    observed.is_ipv4() && !observed.ip().is_loopback() && !own.contains(&observed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_asked_only_where_the_home_node_sees_another_address() {
        let own: SocketAddr = "192.168.1.2:7".parse().expect("an address");
        let seen = |address: &str| is_behind_nat(address.parse().expect("an address"), &[own]);
        assert!(seen("198.51.100.1:7") && seen("192.168.1.2:8"));
        assert!(!seen("192.168.1.2:7") && !seen("127.0.0.1:7") && !seen("[2001:db8::1]:7"));
    }
}
