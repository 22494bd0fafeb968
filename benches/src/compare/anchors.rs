//! What peers are known to reach beside TCP on a quiet machine of two cores: a peer that is far from it is set up badly here, and a run
//! that compares Pilot with it shows nothing.

use super::results::{Better, Outcome};
use super::system::Kind;

/// The part of its anchor that a peer has to reach.
const PART: f64 = 0.8;

/// Ratios to plain TCP of the same round, measured with programs of the peers' own.
const ANCHORS: &[(&str, Kind, f64)] = &[
    ("bulk", Kind::Tls, 0.394),
    ("bulk", Kind::Http1, 0.332),
    ("bulk", Kind::Http2, 0.296),
    ("bulk", Kind::Quinn, 0.119),
    ("bulk", Kind::QuinnOneThread, 0.166),
    ("bulk", Kind::Http3, 0.104),
    ("bulk", Kind::S2n, 0.110),
    ("bulk", Kind::Iroh, 0.108),
    ("rr", Kind::Tls, 1.16),
    ("rr", Kind::Quinn, 2.64),
    ("rr", Kind::QuinnOneThread, 1.49),
    ("rr", Kind::Iroh, 2.85),
    ("rr", Kind::S2n, 2.94),
    ("rr", Kind::Http1, 1.95),
    ("rr", Kind::Http2, 2.95),
    ("rr", Kind::Http3, 3.04),
    ("cold", Kind::Tls, 4.82),
    ("cold", Kind::Http1, 5.31),
    ("cold", Kind::Http2, 5.78),
    ("cold", Kind::Quinn, 8.29),
    ("cold", Kind::QuinnOneThread, 6.43),
    ("cold", Kind::Http3, 8.01),
    ("cold", Kind::S2n, 6.06),
    ("cold", Kind::Iroh, 10.17),
    ("parallel-50", Kind::Tls, 1.34),
    ("parallel-50", Kind::Http1, 1.50),
    ("parallel-50", Kind::Http2, 2.30),
    ("parallel-50", Kind::Quinn, 1.11),
    ("parallel-50", Kind::QuinnOneThread, 0.68),
    ("parallel-50", Kind::Http3, 1.63),
    ("parallel-50", Kind::S2n, 1.65),
    ("parallel-50", Kind::Iroh, 1.30),
    ("parallel-1000", Kind::Tls, 1.18),
    ("parallel-1000", Kind::Http1, 1.63),
    ("parallel-1000", Kind::Http2, 3.82),
    ("parallel-1000", Kind::Quinn, 1.96),
    ("parallel-1000", Kind::QuinnOneThread, 1.24),
    ("parallel-1000", Kind::Http3, 3.18),
    ("parallel-1000", Kind::S2n, 2.53),
    ("parallel-1000", Kind::Iroh, 2.92),
];

/// The peers among `systems` that are not what they could be, each with the reason.
pub(crate) fn missed(outcomes: &[Outcome], systems: &[Kind]) -> Vec<String> {
    let check = |(name, kind, anchor): &(&str, Kind, f64)| {
        let outcome = outcomes.iter().find(|outcome| outcome.quantity.name == *name && systems.contains(kind))?;
        let Some(ratio) = outcome.row(*kind).and_then(|row| row.ratio_tcp) else {
            return Some(format!("{} has no result in {name}", kind.name()));
        };
        let part = match outcome.quantity.better {
            Better::More => ratio / anchor,
            Better::Less => anchor / ratio,
        };
        let reason =
            || format!("{} reaches {part:.2} of its anchor in {name}: {ratio:.3} x TCP, {anchor} known", kind.name());
        (part < PART).then(reason)
    };
    ANCHORS.iter().filter_map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::{Quantity, Rounds};

    fn outcome(better: Better, name: &'static str, tcp: f64, quinn: f64) -> Vec<Outcome> {
        let quantity = Quantity { name, what: "", unit: "", better };
        let mut rounds = Rounds::default();
        rounds.add(0, Kind::Tcp, &[quantity.of(tcp)]);
        rounds.add(0, Kind::Quinn, &[quantity.of(quinn)]);
        rounds.outcomes()
    }

    #[test]
    fn a_peer_below_four_fifths_of_its_anchor_is_told() {
        assert!(missed(&outcome(Better::More, "bulk", 100.0, 9.6), &[Kind::Quinn]).is_empty());
        assert_eq!(missed(&outcome(Better::More, "bulk", 100.0, 9.4), &[Kind::Quinn]).len(), 1);
    }

    #[test]
    fn a_peer_that_was_to_be_measured_and_failed_is_told() {
        assert_eq!(missed(&outcome(Better::More, "bulk", 100.0, 20.0), &[Kind::Quinn, Kind::Tls]).len(), 1);
    }

    #[test]
    fn where_less_is_better_more_is_a_miss() {
        assert!(missed(&outcome(Better::Less, "rr", 10.0, 32.0), &[Kind::Quinn]).is_empty());
        assert_eq!(missed(&outcome(Better::Less, "rr", 10.0, 34.0), &[Kind::Quinn]).len(), 1);
    }
}
