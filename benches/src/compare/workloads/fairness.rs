//! `fairness`: a flow beside one of TCP, and alone, through the same queue.

use std::thread;
use std::time::Duration;

use super::impaired::{Impairment, Network, ROUND_TRIP, obstacle};
use super::{STREAMS, Stage, Workload};
use crate::compare::process::Server;
use crate::compare::results::{Better, Quantity, Sample};
use crate::compare::system::Kind;
use crate::compare::task::{Report, Task};
use crate::error::BenchError;
use crate::figure::median;

/// How long both flows last together.
const TOGETHER: u32 = 60;
/// How long the other flow had the link alone.
const AHEAD: u32 = 5;
/// Between two looks at the queue.
const LOOK: Duration = Duration::from_millis(100);
const MEGABITS: u64 = 100;

const fn index(name: &'static str, what: &'static str) -> Quantity {
    Quantity { name, what, unit: "Jain's index", better: Better::More }
}

const fn share(name: &'static str) -> Quantity {
    Quantity { name, what: "the same: the flow's part of what both got", unit: "%", better: Better::More }
}

/// The other flow, the queue in bandwidth-delay products, and what is measured with them.
const CELLS: [(Kind, u64, Quantity, Quantity); 4] = [
    (
        Kind::Tcp,
        1,
        index(
            "fairness-cubic-1",
            "60 s beside TCP with CUBIC, which began 5 s before; 100 Mbit/s, 40 ms, a queue of one bandwidth-delay product",
        ),
        share("fairness-cubic-1-share"),
    ),
    (Kind::Tcp, 4, index("fairness-cubic-4", "the same with a queue of four"), share("fairness-cubic-4-share")),
    (
        Kind::TlsBbr,
        1,
        index("fairness-bbr-1", "the same beside TCP with BBR, a queue of one"),
        share("fairness-bbr-1-share"),
    ),
    (
        Kind::TlsBbr,
        4,
        index("fairness-bbr-4", "the same beside TCP with BBR, a queue of four"),
        share("fairness-bbr-4-share"),
    ),
];
const QUEUE: Quantity = Quantity {
    name: "fairness-alone-queue",
    what: "the flow alone, a queue of four: median wait in it, in base round trips",
    unit: "round trips",
    better: Better::Less,
};

#[derive(Default)]
pub(super) struct Fairness {
    networks: Vec<Network>,
}

impl Workload for Fairness {
    fn obstacle(&self) -> Option<String> {
        obstacle()
    }

    /// It takes its time, and nothing of it is warmer the second time.
    fn warms_up(&self) -> bool {
        false
    }

    fn systems(&self) -> Vec<Kind> {
        vec![Kind::Tcp, Kind::TlsBbr, Kind::Quinn, Kind::QuinnBbr, Kind::Pilot]
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        let mut samples = Vec::new();
        for (at, (other, queue, index, share)) in CELLS.into_iter().enumerate() {
            if self.networks.len() == at {
                self.networks.push(Network::build(Impairment { megabits: MEGABITS, loss: 0, queue })?);
            }
            let [first, second] = beside(&self.networks[at], stage, [other, kind])?;
            samples.push(index.of(jain(first, second)));
            samples.push(share.of(100.0 * second / (first + second)));
        }
        let long = self.networks.last().ok_or_else(|| BenchError::wrong("no network"))?;
        samples.push(QUEUE.of(alone(long, stage, kind)?.as_secs_f64() / ROUND_TRIP.as_secs_f64()));
        Ok(samples)
    }
}

/// Bytes of both while both were there, the first ahead.
fn beside(network: &Network, stage: &Stage, kinds: [Kind; 2]) -> Result<[f64; 2], BenchError> {
    let task = |intervals| Task::Download { intervals, interval_ms: 1_000 };
    network.at(|server, client| {
        let [first, second] = kinds.map(|kind| Server::start(kind, STREAMS, &stage.pilotctl, server));
        let (first, second) = (first?, second?);
        let mut ahead = first.client(&task(AHEAD + TOGETHER), client)?;
        thread::sleep(Duration::from_secs(AHEAD.into()));
        let mut behind = second.client(&task(TOGETHER), client)?;
        let bytes = |report: Report, skipped: u32| report.values.iter().skip(skipped as usize).sum();
        Ok([bytes(ahead.report()?, AHEAD), bytes(behind.report()?, 0)])
    })
}

/// The median wait in the queue of a flow that has it for itself.
fn alone(network: &Network, stage: &Stage, kind: Kind) -> Result<Duration, BenchError> {
    network.at(|server, client| {
        let server = Server::start(kind, STREAMS, &stage.pilotctl, server)?;
        let mut flow = server.client(&Task::Download { intervals: AHEAD * 2, interval_ms: 1_000 }, client)?;
        thread::sleep(Duration::from_secs(AHEAD.into()));
        let mut waits = Vec::new();
        for _ in 0..AHEAD * 8 {
            thread::sleep(LOOK);
            waits.push(network.load().0.as_secs_f64());
        }
        flow.report()?;
        Ok(Duration::from_secs_f64(median(&waits)))
    })
}

/// 1 if both have the same, 1/2 if one has everything (RFC 5166 §2.3).
fn jain(one: f64, other: f64) -> f64 {
    (one + other).powi(2) / (2.0 * (one.powi(2) + other.powi(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_for_equals_and_a_half_for_one_alone() {
        assert_eq!((jain(5.0, 5.0), jain(0.0, 9.0)), (1.0, 0.5));
    }
}
