//! `errand`: twenty facts from twenty sources, by agents and by the web.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::thread;

use super::{Stage, Workload, impaired};
use crate::compare::errand::world::{PROGRAMS, ROUND_TRIPS, World};
use crate::compare::errand::{Order, Question, reader};
use crate::compare::results::{Better, Outcome, Quantity, Sample};
use crate::compare::system::Kind;
use crate::error::BenchError;
use crate::figure::median;
use crate::report::short;

/// How long a source thinks.
const THINKS_MS: [u64; 3] = [0, 50, 500];
/// Bytes of a page: what one has on the wire, compressed, and what one has with much around the fact.
const PAGE_LENS: [usize; 2] = [20_000, 200_000];
/// The orders, by name.
const ORDERS: [(&str, Order); 3] = [("turn", Order::InTurn), ("once", Order::AtOnce), ("found", Order::Found)];
/// The cells that have a picture: the middle of the grid.
const PICTURED: &str = "40ms-50ms-20k";

/// Twice an errand of a reader: what it took at first, and once more.
struct Cell {
    order: Order,
    /// Its place in [`ROUND_TRIPS`].
    at: usize,
    question: Question,
    /// The three numbers, for people.
    label: String,
    cold: String,
    warm: String,
    what: String,
}

/// The grid.
static CELLS: LazyLock<Vec<Cell>> = LazyLock::new(|| {
    let mut cells = Vec::new();
    for (name, order) in ORDERS {
        for (at, round_trip) in ROUND_TRIPS.iter().enumerate() {
            for think_ms in THINKS_MS {
                for page_len in PAGE_LENS {
                    let (round_trip, page) = (round_trip.as_millis(), page_len / 1_000);
                    let numbers = format!("{round_trip}ms-{think_ms}ms-{page}k");
                    cells.push(Cell {
                        order,
                        at,
                        question: Question { think_ms, page_len },
                        label: format!("{round_trip} ms, {think_ms} ms, {page} KB"),
                        cold: format!("errand-{name}-cold-{numbers}"),
                        warm: format!("errand-{name}-warm-{numbers}"),
                        what: format!(
                            "twenty facts, {}; {round_trip} ms there and back, {think_ms} ms of thought, pages of {page} KB",
                            match order {
                                Order::InTurn => "one after the other",
                                Order::AtOnce => "all at once",
                                Order::Found => "one search for all sources by their group, then one after the other",
                            }
                        ),
                    });
                }
            }
        }
    }
    cells
});

const fn time(name: &'static str, what: &'static str) -> Quantity {
    Quantity { name, what, unit: "ms", better: Better::Less }
}

/// One lab for all rounds.
#[derive(Default)]
pub(super) struct Errands {
    world: Option<World>,
}

impl Workload for Errands {
    fn obstacle(&self) -> Option<String> {
        let is_missing =
            |program: &&&str| !std::env::split_paths("/usr/sbin:/usr/bin").any(|path| path.join(program).is_file());
        let missing = PROGRAMS.iter().find(is_missing);
        impaired::obstacle().or_else(|| missing.map(|program| format!("there is no {program}; Debian has one")))
    }

    /// What is cold is to be cold, and the first errand of each reader warms its second.
    fn warms_up(&self) -> bool {
        false
    }

    fn systems(&self) -> Vec<Kind> {
        vec![Kind::Http1, Kind::Http2, Kind::Http3, Kind::PilotDaemons]
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        let world = match &mut self.world {
            Some(world) => world,
            none => {
                let world = World::build(&stage.pilotctl, &PAGE_LENS)?;
                eprintln!("sources: processes {:?}, and a daemon for each", world.pids());
                none.insert(world)
            }
        };
        let mut samples = Vec::new();
        for (_, order) in ORDERS.into_iter().filter(|(_, order)| is_asked_so(kind, *order)) {
            for think_ms in THINKS_MS {
                for page_len in PAGE_LENS {
                    samples.extend(row(world, kind, order, Question { think_ms, page_len })?);
                }
            }
        }
        Ok(samples)
    }

    fn page(&self, outcomes: &[Outcome]) -> String {
        let grids: String = [Order::InTurn, Order::AtOnce].into_iter().map(|order| grid(outcomes, order)).collect();
        grids + &found(outcomes)
    }

    /// What one system alone does has a table.
    fn has_picture(&self, quantity: &Quantity) -> bool {
        quantity.name.ends_with(PICTURED) && !quantity.name.starts_with("errand-found")
    }
}

/// Only agents can be searched for.
fn is_asked_so(kind: Kind, order: Order) -> bool {
    order != Order::Found || kind == Kind::PilotDaemons
}

/// What one kind of reader takes at all distances. Where sources think, readers have little to do but wait, and wait beside each other.
fn row(world: &World, kind: Kind, order: Order, question: Question) -> Result<Vec<Sample>, BenchError> {
    let cells = CELLS.iter().filter(|cell| cell.order == order && cell.question == question);
    let run = |cell: &'static Cell| {
        world.run(cell.at, kind, order, question).map(|report| samples(cell, kind, &report.values))
    };
    let samples: Result<Vec<_>, BenchError> = if question.think_ms == 0 {
        cells.map(run).collect()
    } else {
        thread::scope(|scope| {
            let readers: Vec<_> = cells.map(|cell| scope.spawn(move || run(cell))).collect();
            let join = |reader: thread::ScopedJoinHandle<'_, _>| {
                reader.join().unwrap_or_else(|_| Err(BenchError::wrong("a reader's thread panicked")))
            };
            readers.into_iter().map(join).collect()
        })
    };
    Ok(samples?.into_iter().flatten().collect())
}

fn samples(cell: &'static Cell, kind: Kind, values: &[f64]) -> Vec<Sample> {
    let warm = time(&cell.warm, &cell.what);
    match values {
        [first] if cell.order == Order::Found => vec![time(&cell.cold, &cell.what).of(*first)],
        [first, second] if reader::is_measured_cold(kind) => {
            vec![time(&cell.cold, &cell.what).of(*first), warm.of(*second)]
        }
        _ => values.iter().map(|value| warm.of(*value)).collect(),
    }
}

/// A table of all cells in one order.
fn grid(outcomes: &[Outcome], order: Order) -> String {
    let title = if order == Order::InTurn {
        "errand-turn: each question after the answer before it"
    } else {
        "errand-once: all questions at once"
    };
    let mut page = format!(
        "\n## {title}\n\nMilliseconds until twenty facts from twenty sources are known, median ± half the interquartile range. Cold: no \
         name, connection or tunnel is known. \
         Warm: the same reader once more. x: how many times as fast Pilot is, by rounds.\n\n\
         | round trip, thought, page | HTTP/1.1 cold | Pilot cold | x cold | HTTP/1.1 warm | HTTP/2 warm | HTTP/3 warm | Pilot warm | x best warm | x HTTP/1.1 cold |\n\
         |---|---|---|---|---|---|---|---|---|---|\n"
    );
    for cell in CELLS.iter().filter(|cell| cell.order == order) {
        let (cold, warm) = (named(outcomes, &cell.cold), named(outcomes, &cell.warm));
        let times = |outcome: Option<&Outcome>| {
            let ratio = outcome.and_then(|outcome| outcome.row(Kind::PilotDaemons)?.ratio_best);
            ratio.map(|ratio| short(1.0 / ratio)).unwrap_or_default()
        };
        // Writing to a string does not fail.
        _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            cell.label,
            value(cold, Kind::Http1),
            value(cold, Kind::PilotDaemons),
            times(cold),
            value(warm, Kind::Http1),
            value(warm, Kind::Http2),
            value(warm, Kind::Http3),
            value(warm, Kind::PilotDaemons),
            times(warm),
            beside_cold_web(warm, cold).map(short).unwrap_or_default(),
        );
    }
    page
}

/// A table of errands that begin with a search, beside readers of the web who ask in turn.
fn found(outcomes: &[Outcome]) -> String {
    let mut page = "\n## errand-found: one search for all sources by their group, then each question after the answer before it\n\nMilliseconds, as \
                    above; no name, connection or tunnel is known. HTTP/1.1: as in errand-turn, for the web has no such search. x: how many \
                    times as fast Pilot is, by rounds.\n\n\
                    | round trip, thought, page | HTTP/1.1 cold | Pilot cold, found by one search | x |\n|---|---|---|---|\n"
        .to_owned();
    for cell in CELLS.iter().filter(|cell| cell.order == Order::Found) {
        let in_turn = CELLS.iter().find(|other| (other.order, &other.label) == (Order::InTurn, &cell.label));
        let web = in_turn.and_then(|in_turn| named(outcomes, &in_turn.cold));
        let ours = named(outcomes, &cell.cold);
        // Writing to a string does not fail.
        _ = writeln!(
            page,
            "| {} | {} | {} | {} |",
            cell.label,
            value(web, Kind::Http1),
            value(ours, Kind::PilotDaemons),
            beside_cold_web(ours, web).map(short).unwrap_or_default(),
        );
    }
    page
}

fn named<'a>(outcomes: &'a [Outcome], name: &str) -> Option<&'a Outcome> {
    outcomes.iter().find(|outcome| outcome.quantity.name == name)
}

/// Median and spread of a system, for people.
fn value(outcome: Option<&Outcome>, kind: Kind) -> String {
    let row = outcome.and_then(|outcome| outcome.row(kind));
    row.map(|row| format!("{} ± {}", short(row.median), short(row.spread))).unwrap_or_default()
}

/// How many times as fast agents are as a reader who comes to the web anew and asks in the same order.
fn beside_cold_web(ours: Option<&Outcome>, cold: Option<&Outcome>) -> Option<f64> {
    let (ours, theirs) = (ours?.row(Kind::PilotDaemons)?, cold?.row(Kind::Http1)?);
    let ratios: Vec<f64> = theirs.samples.iter().zip(&ours.samples).map(|(theirs, ours)| theirs / ours).collect();
    Some(median(&ratios))
}
