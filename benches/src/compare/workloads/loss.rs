//! `loss`: bulk over a slow link that loses packets.

use super::impaired::{Impairment, Network, obstacle};
use super::{STREAMS, Stage, Workload};
use crate::compare::process::Server;
use crate::compare::results::{Better, Quantity, Sample};
use crate::compare::system::Kind;
use crate::compare::task::Task;
use crate::error::BenchError;

/// How long a download lasts, from before the handshake.
const SECONDS: u32 = 8;
const fn rate(name: &'static str, what: &'static str) -> Quantity {
    Quantity { name, what, unit: "Mbit/s", better: Better::More }
}

const fn cost(name: &'static str, what: &'static str) -> Quantity {
    Quantity { name, what, unit: "bytes", better: Better::Less }
}

const SENT: &str = "the same: bytes of UDP or TCP payload that the server sent for each byte of the reply that came, what was queued at the end included";

/// Megabits a second, a loss in percent, and what is measured with them.
const CELLS: [(u64, u32, Quantity, Quantity); 7] = [
    (
        100,
        0,
        rate(
            "loss-0",
            "one reply without end for 8 s, the handshake included; 100 Mbit/s, 40 ms, a queue of one bandwidth-delay product",
        ),
        cost("loss-0-sent", SENT),
    ),
    (100, 1, rate("loss-1", "the same with 1 % loss each way"), cost("loss-1-sent", SENT)),
    (100, 2, rate("loss-2", "the same with 2 % loss each way"), cost("loss-2-sent", SENT)),
    (100, 5, rate("loss-5", "the same with 5 % loss each way"), cost("loss-5-sent", SENT)),
    (
        1_000,
        0,
        rate(
            "loss-0-gigabit",
            "as loss-0, with 1 Gbit/s: what a network in user space carries without being late on two cores",
        ),
        cost("loss-0-gigabit-sent", SENT),
    ),
    (1_000, 1, rate("loss-1-gigabit", "the same with 1 % loss each way"), cost("loss-1-gigabit-sent", SENT)),
    (1_000, 5, rate("loss-5-gigabit", "the same with 5 % loss each way"), cost("loss-5-gigabit-sent", SENT)),
];

/// One lab for each cell, kept for all rounds.
#[derive(Default)]
pub(super) struct Loss {
    networks: Vec<Network>,
}

impl Workload for Loss {
    fn obstacle(&self) -> Option<String> {
        obstacle()
    }

    /// It takes its time, and nothing of it is warmer the second time.
    fn warms_up(&self) -> bool {
        false
    }

    fn systems(&self) -> Vec<Kind> {
        vec![Kind::Tcp, Kind::TlsBbr, Kind::Quinn, Kind::QuinnBbr, Kind::S2n, Kind::Iroh, Kind::Pilot]
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        let mut samples = Vec::new();
        for (at, (megabits, loss, rate, cost)) in CELLS.into_iter().enumerate() {
            if self.networks.len() == at {
                self.networks.push(Network::build(Impairment { megabits, loss, queue: 1 })?);
            }
            let network = &self.networks[at];
            let task = Task::Download { intervals: SECONDS, interval_ms: 1_000 };
            let (report, sent) = network.at(|server, client| {
                let server = Server::start(kind, STREAMS, &stage.pilotctl, server)?;
                let before = network.load().1.offered_bytes;
                let report = server.run(&task, client)?;
                Ok::<_, BenchError>((report, network.load().1.offered_bytes - before))
            })?;
            let came: f64 = report.values.iter().sum();
            samples.push(rate.of(came * 8.0 / 1e6 / f64::from(SECONDS)));
            samples.push(cost.of(sent as f64 / came));
        }
        Ok(samples)
    }
}
