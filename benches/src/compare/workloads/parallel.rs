//! `parallel`: many requests at once.

use super::{HERE, Stage, Workload, on_loopback};
use crate::compare::results::{Better, Quantity, Sample};
use crate::compare::system::Kind;
use crate::compare::task::Task;
use crate::error::BenchError;
use crate::figure::median;

/// Streams that are opened at once, and some to spare.
const STREAMS: u32 = 1_024;

const REPLY: u64 = 1_024;

const FEW: Quantity = Quantity {
    name: "parallel-50",
    what: "50 requests of 64 B at once, 1 KiB in reply to each, until the last is there; on streams of one connection, or on 50 connections that are open",
    unit: "µs",
    better: Better::Less,
};
const MANY: Quantity =
    Quantity { name: "parallel-1000", what: "the same with 1,000 requests", unit: "µs", better: Better::Less };

pub(super) struct Parallel;

impl Workload for Parallel {
    fn systems(&self) -> Vec<Kind> {
        on_loopback()
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        let mut samples = Vec::new();
        for (quantity, requests, bursts) in [(FEW, 50, 60), (MANY, 1_000, 12)] {
            // A call by the local API is a connection of its own; a thousand at once are more than a daemon takes.
            if kind == Kind::PilotDaemons && requests > 50 {
                continue;
            }
            let report = stage.server(kind, STREAMS)?.run(&Task::Parallel { requests, reply: REPLY, bursts }, HERE)?;
            samples.push(quantity.of(median(&report.values)));
        }
        Ok(samples)
    }
}
