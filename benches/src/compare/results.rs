//! What came out: medians, spreads and ratios, as lines of JSON and as a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::system::Kind;
use crate::figure::{median, spread};
use crate::report::short;

/// What is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// Something that is measured, the same for all systems.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantity {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

/// One system's value of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) quantity: Quantity,
    pub(crate) value: f64,
    /// Processor seconds of all processes for each 10^9 bytes, where bytes are what it is about.
    pub(crate) cpu_s_per_gb: Option<f64>,
}

/// One system's values of all rounds, and what they come to.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) median: f64,
    /// Half the interquartile range.
    pub(crate) spread: f64,
    /// Median of the ratios to plain TCP within a round, if TCP was measured.
    pub(crate) ratio_tcp: Option<f64>,
    /// The same to the best encrypted peer of the run.
    pub(crate) ratio_best: Option<f64>,
    pub(crate) cpu_s_per_gb: Option<f64>,
    pub(crate) samples: Vec<f64>,
}

/// A quantity, measured.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) quantity: Quantity,
    pub(crate) rows: Vec<Row>,
}

/// Values of the systems, a place for each round.
type Values = BTreeMap<Kind, Vec<Option<Sample>>>;

/// Rounds of one workload, as they come in. A system that fails in a round has no value in it.
#[derive(Default)]
pub(crate) struct Rounds {
    quantities: Vec<(Quantity, Values)>,
}

impl Quantity {
    /// A value without processor time.
    pub(crate) fn of(self, value: f64) -> Sample {
        Sample { quantity: self, value, cpu_s_per_gb: None }
    }
}

impl Rounds {
    /// Takes what a system came to in a round. Rounds count from 0.
    pub(crate) fn add(&mut self, round: usize, kind: Kind, samples: &[Sample]) {
        for sample in samples {
            let known = self.quantities.iter().position(|(quantity, _)| quantity.name == sample.quantity.name);
            let at = known.unwrap_or_else(|| {
                self.quantities.push((sample.quantity, BTreeMap::new()));
                self.quantities.len() - 1
            });
            let rounds = self.quantities[at].1.entry(kind).or_default();
            rounds.resize(round, None);
            rounds.push(Some(*sample));
        }
    }

    /// What the rounds come to.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.quantities.iter().map(|(quantity, systems)| outcome(*quantity, systems)).collect()
    }
}

fn outcome(quantity: Quantity, systems: &Values) -> Outcome {
    let best = systems
        .iter()
        .filter(|(kind, _)| !kind.is_pilot() && **kind != Kind::Tcp)
        .map(|(kind, rounds)| (*kind, median(&values(rounds))))
        .min_by(|(_, one), (_, other)| match quantity.better {
            Better::More => other.total_cmp(one),
            Better::Less => one.total_cmp(other),
        });
    let rows = systems.iter().map(|(kind, rounds)| {
        let samples = values(rounds);
        let cpu: Vec<f64> = rounds.iter().flatten().filter_map(|sample| sample.cpu_s_per_gb).collect();
        Row {
            kind: *kind,
            median: median(&samples),
            spread: spread(&samples),
            ratio_tcp: systems.get(&Kind::Tcp).and_then(|tcp| ratio(rounds, tcp)),
            ratio_best: best.and_then(|(best, _)| ratio(rounds, &systems[&best])),
            cpu_s_per_gb: (!cpu.is_empty()).then(|| median(&cpu)),
            samples,
        }
    });
    Outcome { quantity, rows: rows.collect() }
}

fn values(rounds: &[Option<Sample>]) -> Vec<f64> {
    rounds.iter().flatten().map(|sample| sample.value).collect()
}

/// Median of the ratios within rounds that both took part in.
fn ratio(rounds: &[Option<Sample>], yardstick: &[Option<Sample>]) -> Option<f64> {
    let both =
        rounds.iter().zip(yardstick).filter_map(|(one, other)| Some(one.as_ref()?.value / other.as_ref()?.value));
    // Where nobody has lost anything, nobody has lost more.
    let ratios: Vec<f64> = both.filter(|ratio| ratio.is_finite()).collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

impl Outcome {
    /// The row of a system.
    pub(crate) fn row(&self, kind: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == kind)
    }

    /// One object for each system.
    pub(crate) fn json(&self) -> Vec<Value> {
        let line = |row: &Row| {
            json!({
                "workload": self.quantity.name, "system": row.kind.name(), "unit": self.quantity.unit, "median": row.median,
                "spread": row.spread, "samples": row.samples, "ratio_tcp": row.ratio_tcp, "ratio_best": row.ratio_best,
                "cpu_s_per_gb": row.cpu_s_per_gb,
            })
        };
        self.rows.iter().map(line).collect()
    }

    /// A table, with its heading.
    pub(crate) fn markdown(&self) -> String {
        let Quantity { name, what, unit, .. } = self.quantity;
        let has_cpu = self.rows.iter().any(|row| row.cpu_s_per_gb.is_some());
        let (cpu_head, cpu_line) = if has_cpu { (" CPU s/GB |", "---|") } else { ("", "") };
        let mut page = format!(
            "\n## {name}\n\n{what}\n\n| | {unit} | ± | x TCP | x best peer |{cpu_head}\n|---|---|---|---|---|{cpu_line}\n"
        );
        for row in &self.rows {
            let [tcp, best, cpu] =
                [row.ratio_tcp, row.ratio_best, row.cpu_s_per_gb].map(|ratio| ratio.map(short).unwrap_or_default());
            let cpu = if has_cpu { format!(" {cpu} |") } else { String::new() };
            // Writing to a string does not fail.
            _ = writeln!(
                page,
                "| {} | {} | {} | {tcp} | {best} |{cpu}",
                row.kind.name(),
                short(row.median),
                short(row.spread)
            );
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Quantity = Quantity { name: "t", what: "", unit: "s", better: Better::Less };
    const RATE: Quantity = Quantity { name: "r", what: "", unit: "1/s", better: Better::More };

    fn rounds(quantity: Quantity, systems: &[(Kind, &[f64])]) -> Outcome {
        let mut rounds = Rounds::default();
        for (kind, values) in systems {
            for (round, value) in values.iter().enumerate() {
                rounds.add(round, *kind, &[quantity.of(*value)]);
            }
        }
        rounds.outcomes().remove(0)
    }

    #[test]
    fn ratios_are_medians_of_ratios_within_rounds() {
        let outcome = rounds(TIME, &[(Kind::Tcp, &[1.0, 10.0, 100.0]), (Kind::Pilot, &[2.0, 30.0, 100.0])]);
        let pilot = outcome.row(Kind::Pilot).unwrap();
        assert_eq!((pilot.median, pilot.ratio_tcp, pilot.ratio_best), (30.0, Some(2.0), None));
    }

    #[test]
    fn the_best_peer_is_encrypted_and_not_ours() {
        let systems: [(Kind, &[f64]); 4] =
            [(Kind::Tcp, &[9.0]), (Kind::Tls, &[4.0]), (Kind::Quinn, &[2.0]), (Kind::Pilot, &[8.0])];
        assert_eq!(rounds(RATE, &systems).row(Kind::Pilot).unwrap().ratio_best, Some(2.0));
        assert_eq!(rounds(TIME, &systems).row(Kind::Pilot).unwrap().ratio_best, Some(4.0));
    }

    #[test]
    fn a_round_that_a_system_failed_in_is_compared_with_nothing() {
        let mut rounds = Rounds::default();
        for (round, value) in [1.0, 2.0, 4.0].into_iter().enumerate() {
            rounds.add(round, Kind::Tcp, &[TIME.of(value)]);
        }
        rounds.add(2, Kind::Quinn, &[TIME.of(12.0)]);
        let outcome = rounds.outcomes().remove(0);
        let quinn = outcome.row(Kind::Quinn).unwrap();
        assert_eq!((quinn.ratio_tcp, quinn.samples.len()), (Some(3.0), 1));
    }
}
