//! `rr`: small requests and replies, one after the other.

use super::{HERE, STREAMS, Stage, Workload, on_loopback};
use crate::compare::results::{Better, Quantity, Sample};
use crate::compare::system::Kind;
use crate::compare::task::Task;
use crate::error::BenchError;
use crate::figure::quantile;

const COUNT: usize = 8_000;

const MEDIAN: Quantity = Quantity {
    name: "rr",
    what: "64 B there and 64 B back on one channel that is open: the median of 8,000",
    unit: "µs",
    better: Better::Less,
};
const TAIL: Quantity =
    Quantity { name: "rr-p99", what: "the same: what 99 of 100 do not exceed", unit: "µs", better: Better::Less };

pub(super) struct RoundTrips;

impl Workload for RoundTrips {
    fn systems(&self) -> Vec<Kind> {
        on_loopback()
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        let report = stage.server(kind, STREAMS)?.run(&Task::RoundTrips { count: COUNT }, HERE)?;
        Ok(vec![MEDIAN.of(quantile(&report.values, 0.5)), TAIL.of(quantile(&report.values, 0.99))])
    }
}
