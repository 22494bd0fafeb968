//! `memory`: what a server keeps for each connection that is idle, and how fast connections are opened.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use super::{HERE, STREAMS, Stage, Workload};
use crate::compare::process::Server;
use crate::compare::results::{Better, Quantity, Sample};
use crate::compare::system::Kind;
use crate::compare::task::Task;
use crate::error::BenchError;

/// Connections of each system. Ours are by as many agents, each an identity of its own.
const CONNECTIONS: usize = 1_000;
/// Connections of those that are opened only to see how fast that is: one more of each costs no more.
const MANY: usize = 10_000;
/// How long they are left alone before memory is read.
const IDLE: Duration = Duration::from_secs(60);

const MEMORY: Quantity = Quantity {
    name: "memory",
    what: "growth of the server's resident memory for each of 1,000 connections, each with one exchange behind it, after 60 s without any; then \
           all answer again",
    unit: "KiB",
    better: Better::Less,
};
const OPENED: Quantity = Quantity {
    name: "memory-opened",
    what: "the same connections: opened in a second, 50 handshakes at a time, an exchange on each",
    unit: "1/s",
    better: Better::More,
};

const OPENED_MANY: Quantity = Quantity {
    name: "memory-opened-10000",
    what: "10,000 connections, opened in a second, 50 handshakes at a time, an exchange on each; then all answer again; agents each from an address and a /24 of its own",
    unit: "1/s",
    better: Better::More,
};

/// All systems are idle at the same time, so that a round takes one idle time and not ten.
#[derive(Default)]
pub(super) struct Memory {
    measured: BTreeMap<Kind, Vec<Sample>>,
}

impl Workload for Memory {
    fn systems(&self) -> Vec<Kind> {
        // Two daemons share one tunnel: a thousand would take a thousand daemons.
        let mut systems = super::on_loopback();
        systems.retain(|kind| !matches!(kind, Kind::TlsOneThread | Kind::QuinnOneThread | Kind::PilotDaemons));
        systems
    }

    /// Memory needs no warming up.
    fn warms_up(&self) -> bool {
        false
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        if !self.measured.contains_key(&kind) {
            self.measured = measure_all(stage, &self.systems())?;
        }
        let mut samples = self.measured.remove(&kind).ok_or_else(|| BenchError::wrong("its connections failed"))?;
        if matches!(kind, Kind::Tcp | Kind::Quinn | Kind::Pilot) {
            samples.push(open_many(stage, kind)?);
        }
        Ok(samples)
    }
}

fn open_many(stage: &Stage, kind: Kind) -> Result<Sample, BenchError> {
    let server = Server::start(kind, STREAMS, &stage.pilotctl, HERE)?;
    let mut client = server.client(&Task::Hold { connections: MANY }, HERE)?;
    let opened = client.report()?;
    client.go_on()?;
    client.report()?;
    Ok(OPENED_MANY.of(MANY as f64 / opened.values.first().copied().unwrap_or(f64::NAN)))
}

fn measure_all(stage: &Stage, systems: &[Kind]) -> Result<BTreeMap<Kind, Vec<Sample>>, BenchError> {
    let mut held = Vec::new();
    for kind in systems.iter().copied().filter(|kind| stage.has(*kind)) {
        let server = Server::start(kind, STREAMS, &stage.pilotctl, HERE)?;
        // The first connection pays for what is made once.
        server.run(&Task::RoundTrips { count: 1 }, HERE)?;
        let before = server.resident()?;
        let mut client = server.client(&Task::Hold { connections: CONNECTIONS }, HERE)?;
        match client.report() {
            Ok(report) => held.push((kind, server, client, before, report)),
            Err(error) => eprintln!("{} does not hold {CONNECTIONS} connections: {error}", kind.name()),
        }
    }
    thread::sleep(IDLE);
    let mut measured = BTreeMap::new();
    for (kind, server, mut client, before, opened) in held {
        let grown = server.resident()?.saturating_sub(before) as f64 / 1_024.0 / CONNECTIONS as f64;
        client.go_on()?;
        client.report()?;
        let seconds = opened.values.first().copied().unwrap_or(f64::NAN);
        measured.insert(kind, vec![MEMORY.of(grown), OPENED.of(CONNECTIONS as f64 / seconds)]);
    }
    Ok(measured)
}
