//! What peers are known to reach beside TCP on a quiet machine of two cores: a peer that is far from it is set up badly here, and a run
//! that compares Pilot with it shows nothing.

use super::results::{Better, Outcome};
use super::system::Kind;

/// The part of its anchor that a peer has to reach.
const PART: f64 = 0.8;

/// Ratios to plain TCP of the same round, measured with programs of the peers' own.
const ANCHORS: [(&str, Kind, f64); 22] = [
    ("bulk", Kind::Tls, 0.394),
    ("bulk", Kind::Http1, 0.332),
    ("bulk", Kind::Http2, 0.233),
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
    ("rr", Kind::Http1, 2.03),
    ("rr", Kind::Http2, 2.85),
    ("rr", Kind::Http3, 3.12),
    ("cold", Kind::Tls, 4.82),
    ("cold", Kind::Quinn, 8.29),
    ("cold", Kind::S2n, 6.06),
    ("parallel-1000", Kind::Quinn, 1.96),
    ("parallel-1000", Kind::Http2, 3.82),
    ("parallel-1000", Kind::QuinnOneThread, 1.24),
];

/// The peers that are not what they could be, each with the reason.
pub(crate) fn missed(outcomes: &[Outcome]) -> Vec<String> {
    let check = |(name, kind, anchor): &(&str, Kind, f64)| {
        let outcome = outcomes.iter().find(|outcome| outcome.quantity.name == *name)?;
        let ratio = outcome.row(*kind)?.ratio_tcp?;
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
        assert!(missed(&outcome(Better::More, "bulk", 100.0, 9.6)).is_empty());
        assert_eq!(missed(&outcome(Better::More, "bulk", 100.0, 9.4)).len(), 1);
    }

    #[test]
    fn where_less_is_better_more_is_a_miss() {
        assert!(missed(&outcome(Better::Less, "rr", 10.0, 32.0)).is_empty());
        assert_eq!(missed(&outcome(Better::Less, "rr", 10.0, 34.0)).len(), 1);
    }
}
