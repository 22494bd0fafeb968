//! A picture for each quantity: bars, the systems below each other.

use std::path::Path;

use plotters::prelude::*;

use super::results::{Outcome, Row};
use crate::error::BenchError;
use crate::report::short;

/// Pixels of a bar and the gap below it.
const BAR: u32 = 26;
/// Pixels for the title.
const TITLE: u32 = 40;
/// Pixels of the whole.
const WIDTH: u32 = 760;
/// Pixels for names on the left, and for numbers on the right.
const NAMES: i32 = 150;
const NUMBERS: i32 = 110;
/// Colours of Pilot and of everybody else.
const OURS: RGBColor = RGBColor(31, 119, 180);
const THEIRS: RGBColor = RGBColor(170, 170, 170);

/// Draws the medians.
pub(crate) fn draw(outcome: &Outcome, path: &Path) -> Result<(), BenchError> {
    let height = TITLE + BAR * u32::try_from(outcome.rows.len()).unwrap_or(u32::MAX);
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(BenchError::wrong)?;
    let title = format!("{} ({})", outcome.quantity.name, outcome.quantity.unit);
    area.draw(&Text::new(title, (10, 10), ("sans-serif", 18))).map_err(BenchError::wrong)?;
    let most = outcome.rows.iter().map(|row| row.median).fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(WIDTH.cast_signed() - NAMES - NUMBERS);
    let mut top = TITLE.cast_signed();
    for row in &outcome.rows {
        let width = (room * row.median / most).round() as i32;
        bar(&area, row, top, width).map_err(BenchError::wrong)?;
        top += BAR.cast_signed();
    }
    area.present().map_err(BenchError::wrong)
}

fn bar<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    row: &Row,
    top: i32,
    width: i32,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let colour = if row.kind.is_pilot() { OURS } else { THEIRS };
    let corners = [(NAMES, top), (NAMES + width, top + BAR.cast_signed() - 8)];
    area.draw(&Rectangle::new(corners, colour.filled()))?;
    area.draw(&Text::new(row.kind.name(), (10, top + 2), ("sans-serif", 14)))?;
    let number = format!("{} ± {}", short(row.median), short(row.spread));
    area.draw(&Text::new(number, (NAMES + width + 6, top + 2), ("sans-serif", 14)))
}
