//! How well an agent is what was searched for, and how near a name is to one that was not found.

use std::collections::BTreeMap;

use pilot_core::record::IdentityRecord;

use crate::store::words;

/// How well an agent matches the words: a label weighs more than a sentence, since it is chosen with more care.
pub(super) fn score(identity: &IdentityRecord, need: &[String]) -> u32 {
    const LABEL: u32 = 4;
    const OFFER: u32 = 2;
    const DESCRIPTION: u32 = 1;
    let labels = identity.tags.iter().chain(&identity.groups).chain([&identity.name]).map(|text| (LABEL, text));
    let offers = identity.offers.iter().flat_map(|offer| [(LABEL, &offer.service), (OFFER, &offer.description)]);
    let texts = labels.chain(offers).chain([(DESCRIPTION, &identity.description)]);
    let mut best: BTreeMap<&String, u32> = need.iter().map(|word| (word, 0)).collect();
    for (weight, word) in texts.flat_map(|(weight, text)| words(text).map(move |word| (weight, word))) {
        if let Some(score) = best.get_mut(&word) {
            *score = weight.max(*score);
        }
    }
    best.into_values().sum()
}

/// Optimal string alignment distance: typing errors, a swap of neighbours counted as one.
pub(super) fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substitution = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                let swap = if swapped { rows[i - 2][j - 2] + 1 } else { usize::MAX };
                substitution.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(swap)
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_a_swap_as_one() {
        assert_eq!(
            [edits("alpha", "alpha"), edits("alhpa", "alpha"), edits("", "abc"), edits("beta", "bet")],
            [0, 1, 3, 1]
        );
    }
}
