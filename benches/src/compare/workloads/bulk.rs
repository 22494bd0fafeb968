//! `bulk`: a gigabyte in one upload.

use super::{HERE, STREAMS, Stage, Workload, on_loopback};
use crate::compare::results::{Better, Quantity, Sample};
use crate::compare::system::Kind;
use crate::compare::task::Task;
use crate::error::BenchError;

/// Long against slow start, short against patience.
const LEN: u64 = 1_000_000_000;

const RATE: Quantity = Quantity {
    name: "bulk",
    what: "1 GB over one stream, the handshake done; packets as large as each finds that they may be, but for pilot-1452",
    unit: "Gbit/s",
    better: Better::More,
};

pub(super) struct Bulk;

impl Workload for Bulk {
    fn systems(&self) -> Vec<Kind> {
        let mut systems = on_loopback();
        systems.push(Kind::PilotEthernet);
        systems
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        let report = stage.server(kind, STREAMS)?.run(&Task::Bulk { len: LEN }, HERE)?;
        let seconds = report.values.first().copied().unwrap_or(f64::NAN);
        let gigabytes = LEN as f64 / 1e9;
        let cpu = report.cpu.as_secs_f64() / gigabytes;
        Ok(vec![Sample { cpu_s_per_gb: Some(cpu), ..RATE.of(gigabytes * 8.0 / seconds) }])
    }
}
