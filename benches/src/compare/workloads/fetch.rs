//! `fetch`: fifty objects over a slow link, cold and warm.

use super::impaired::{Impairment, Network, obstacle};
use super::{STREAMS, Stage, Workload};
use crate::compare::process::Server;
use crate::compare::results::{Better, Quantity, Sample};
use crate::compare::system::Kind;
use crate::compare::task::Task;
use crate::error::BenchError;

const OBJECTS: usize = 50;
const OBJECT_LEN: u64 = 10 * 1_024;
const MEGABITS: u64 = 100;

const fn time(name: &'static str, what: &'static str) -> Quantity {
    Quantity { name, what, unit: "ms", better: Better::Less }
}

const COLD: &str = "50 objects of 10 KiB at once until the last is there, handshake included, by a client that has been there before but resumes nothing; 100 Mbit/s, 40 ms, a queue of one bandwidth-delay \
                    product; HTTP/1.1 on six connections; for pilot-replay-safe the first of the requests travel in the first message";
const WARM: &str = "the same once more over the same connection, a second later";

/// A loss in percent, and what is measured with it.
const CELLS: [(u32, Quantity, Quantity); 4] = [
    (0, time("fetch-cold-0", COLD), time("fetch-warm-0", WARM)),
    (
        1,
        time("fetch-cold-1", "as fetch-cold-0, with 1 % loss each way"),
        time("fetch-warm-1", "as fetch-warm-0, with 1 % loss each way"),
    ),
    (
        2,
        time("fetch-cold-2", "as fetch-cold-0, with 2 % loss each way"),
        time("fetch-warm-2", "as fetch-warm-0, with 2 % loss each way"),
    ),
    (
        5,
        time("fetch-cold-5", "as fetch-cold-0, with 5 % loss each way"),
        time("fetch-warm-5", "as fetch-warm-0, with 5 % loss each way"),
    ),
];

/// One lab for each cell, kept for all rounds.
#[derive(Default)]
pub(super) struct Fetch {
    networks: Vec<Network>,
}

impl Workload for Fetch {
    fn obstacle(&self) -> Option<String> {
        obstacle()
    }

    /// It takes its time, and nothing of it is warmer the second time.
    fn warms_up(&self) -> bool {
        false
    }

    fn systems(&self) -> Vec<Kind> {
        vec![
            Kind::Tcp,
            Kind::Http1,
            Kind::Http2,
            Kind::Http2Bbr,
            Kind::Http3,
            Kind::Quinn,
            Kind::QuinnBbr,
            Kind::S2n,
            Kind::Iroh,
            Kind::Pilot,
            Kind::PilotReplaySafe,
        ]
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        let mut samples = Vec::new();
        for (at, (loss, cold, warm)) in CELLS.into_iter().enumerate() {
            if self.networks.len() == at {
                self.networks.push(Network::build(Impairment { megabits: MEGABITS, loss, queue: 1 })?);
            }
            let task = Task::Fetch { objects: OBJECTS, len: OBJECT_LEN };
            let report = self.networks[at]
                .at(|server, client| Server::start(kind, STREAMS, &stage.pilotctl, server)?.run(&task, client))?;
            let [first, again] = report.values[..] else { return Err(BenchError::wrong("a fetch has two times")) };
            samples.extend([cold.of(first / 1e3), warm.of(again / 1e3)]);
        }
        Ok(samples)
    }
}
