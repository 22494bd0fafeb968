//! A figure: one quantity, measured for several contestants in turn, round after round.
//!
//! The machine is never quiet, so nothing is measured alone: every round measures each contestant once, the first of them is the TCP
//! twin, and what is kept is the median of the ratios within a round, with the absolute values beside it.

use crate::error::BenchError;

/// Measures one contestant once.
pub(crate) type Measure = Box<dyn FnMut() -> Result<f64, BenchError>>;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// 10^9 bits in a second; more is better.
    GbitPerSecond,
    /// Less is better.
    Microseconds,
    /// Less is better.
    Milliseconds,
    /// 2^20 bytes; less is better.
    Mebibytes,
}

/// One of those who are compared.
pub(crate) struct Contestant {
    name: &'static str,
    measure: Measure,
}

/// One quantity and who is measured for it, the yardstick first.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    contestants: Vec<Contestant>,
}

/// What came out for one contestant.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Median over the rounds.
    pub(crate) median: f64,
    /// Half the interquartile range.
    pub(crate) spread: f64,
    /// Median of the ratios to the yardstick of the same round.
    pub(crate) ratio: f64,
    /// Every round, in order.
    pub(crate) rounds: Vec<f64>,
}

/// What came out for a figure.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    pub(crate) rows: Vec<Row>,
}

impl Unit {
    /// How it is written behind a number.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::GbitPerSecond => "Gbit/s",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
        }
    }
}

impl Figure {
    /// A figure with its yardstick.
    pub(crate) fn new(
        name: &'static str,
        what: &'static str,
        unit: Unit,
        yardstick: &'static str,
        measure: impl FnMut() -> Result<f64, BenchError> + 'static,
    ) -> Self {
        Self { name, what, unit, contestants: Vec::new() }.with(yardstick, measure)
    }

    /// Adds a contestant.
    pub(crate) fn with(
        mut self,
        name: &'static str,
        measure: impl FnMut() -> Result<f64, BenchError> + 'static,
    ) -> Self {
        self.contestants.push(Contestant { name, measure: Box::new(measure) });
        self
    }

    /// Measures everybody once without keeping it, then `rounds` times.
    pub(crate) fn run(mut self, rounds: usize) -> Result<Outcome, BenchError> {
        let mut kept = vec![Vec::with_capacity(rounds); self.contestants.len()];
        for round in 0..=rounds {
            for (contestant, kept) in self.contestants.iter_mut().zip(&mut kept) {
                let value = (contestant.measure)()?;
                if round > 0 {
                    kept.push(value);
                }
            }
        }
        let rows = self.contestants.iter().zip(&kept);
        let rows = rows.map(|(contestant, rounds)| row(contestant.name, rounds, &kept[0])).collect();
        Ok(Outcome { name: self.name, what: self.what, unit: self.unit, rows })
    }
}

/// The middle of `values`, between the two middle ones if their number is even.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Half the interquartile range.
pub(crate) fn spread(values: &[f64]) -> f64 {
    (quantile(values, 0.75) - quantile(values, 0.25)) / 2.0
}

fn row(name: &'static str, rounds: &[f64], yardstick: &[f64]) -> Row {
    let ratios: Vec<f64> = rounds.iter().zip(yardstick).map(|(value, yardstick)| value / yardstick).collect();
    Row { name, median: median(rounds), spread: spread(rounds), ratio: median(&ratios), rounds: rounds.to_vec() }
}

/// Interpolates between the two nearest ranks.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = part * sorted.len().saturating_sub(1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(low), Some(high)) => low + (high - low) * position.fract(),
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn series(values: &'static [f64]) -> impl FnMut() -> Result<f64, BenchError> {
        let mut values = values.iter();
        move || Ok(*values.next().expect("a value a round"))
    }

    #[test]
    fn the_ratio_is_the_median_of_ratios_within_rounds() {
        let figure = Figure::new("f", "", Unit::Microseconds, "tcp", series(&[9.0, 1.0, 10.0, 100.0]));
        let outcome = figure.with("pilot", series(&[9.0, 2.0, 30.0, 100.0])).run(3).unwrap();
        let pilot = &outcome.rows[1];
        assert_eq!((pilot.median, pilot.ratio), (30.0, 2.0));
        assert_eq!(pilot.rounds, [2.0, 30.0, 100.0], "the first round only warms up");
    }

    #[test]
    fn contestants_take_turns() {
        let order = Rc::new(RefCell::new(String::new()));
        let note = |name| {
            let order = Rc::clone(&order);
            move || {
                order.borrow_mut().push(name);
                Ok(1.0)
            }
        };
        Figure::new("f", "", Unit::Microseconds, "a", note('a')).with("b", note('b')).run(2).unwrap();
        assert_eq!(*order.borrow(), "ababab");
    }

    #[test]
    fn spread_is_half_the_interquartile_range() {
        let outcome = Figure::new("f", "", Unit::Microseconds, "a", series(&[0.0, 5.0, 1.0, 4.0, 2.0, 3.0]));
        assert_eq!(outcome.run(5).unwrap().rows[0].spread, 1.0);
    }
}
