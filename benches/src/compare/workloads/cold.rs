//! `cold`: from nothing to the first reply.

use super::{HERE, STREAMS, Stage, Workload, on_loopback};
use crate::compare::results::{Better, Quantity, Sample};
use crate::compare::system::Kind;
use crate::compare::task::Task;
use crate::error::BenchError;
use crate::figure::median;

const COUNT: usize = 100;

const MEDIAN: Quantity = Quantity {
    name: "cold",
    what: "connection, handshake, 64 B there and 64 B back, by a client that has done it before but resumes nothing: the median of 100; for pilot-replay-safe the 64 B travel in the first message",
    unit: "µs",
    better: Better::Less,
};

pub(super) struct Cold;

impl Workload for Cold {
    fn systems(&self) -> Vec<Kind> {
        // Daemons keep their tunnels: there is nothing cold about a call by them.
        let others = on_loopback().into_iter().filter(|kind| *kind != Kind::PilotDaemons);
        others.chain([Kind::PilotReplaySafe]).collect()
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        let report = stage.server(kind, STREAMS)?.run(&Task::Cold { count: COUNT }, HERE)?;
        Ok(vec![MEDIAN.of(median(&report.values))])
    }
}
