//! What is served of an organisation's charters and lists (spec/org.md §3.9).

use pilot_core::org::roster::{Records, Roster};
use pilot_core::wire::directory::{REPLY_LEN_MAX, RuleDigest, Rules};

/// Left for charters, digests and framing.
const REST_LEN_MAX: usize = 256 * 1_024;

/// What the caller does not have, as much of it as fits: who gets something asks again. And what the caller has and the node has not.
pub(super) fn rules_in_bounds(held: Option<Roster>, known: &[RuleDigest]) -> Rules {
    let Some(roster) = held else { return Rules { missing: known.to_vec(), ..Rules::default() } };
    let digests: Vec<_> = roster.rule_digests().collect();
    let missing = known.iter().filter(|known| !digests.contains(&known.0)).copied().collect();
    let known: Vec<_> = known.iter().map(|known| known.0).collect();
    let first = roster.rules_in_parts(&known, REPLY_LEN_MAX - REST_LEN_MAX).into_iter().next().unwrap_or_default();
    let Records { charters, lists, proofs, .. } = first;
    Rules { charters, lists, proofs, missing }
}
