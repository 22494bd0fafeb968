//! The bytes that jobs send: a function of job, direction and offset, so that checking them needs no memory and no order.

/// Which way bytes travel on a job's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the opener of the stream.
    Upload,
    /// To the opener of the stream.
    Download,
}

/// Appends `len` bytes of the pattern from `offset` on.
pub(crate) fn extend(out: &mut Vec<u8>, job: u64, direction: Direction, offset: u64, len: usize) {
    out.reserve(len + 16);
    let start = out.len();
    let skip = (offset % 8) as usize;
    let first = offset / 8;
    for index in first..first + (skip + len).div_ceil(8) as u64 {
        out.extend_from_slice(&word(job, direction, index).to_le_bytes());
    }
    out.drain(start..start + skip);
    out.truncate(start + len);
}

/// Offset of the first of `bytes`, found at `offset`, that is not of the pattern.
pub(crate) fn first_difference(job: u64, direction: Direction, offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut expected = Vec::new();
    extend(&mut expected, job, direction, offset, bytes.len());
    if expected == bytes {
        return None;
    }
    expected.iter().zip(bytes).position(|(expected, found)| expected != found).map(|at| offset + at as u64)
}

/// The mixing function of SplitMix64: neighbours have nothing in common.
fn word(job: u64, direction: Direction, index: u64) -> u64 {
    let lane = (job << 1) | u64::from(direction == Direction::Download);
    let mut word = lane.wrapping_mul(0xd1b5_4a32_d192_ed03).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_same_whole_wherever_they_are_cut() {
        let mut whole = Vec::new();
        extend(&mut whole, 5, Direction::Upload, 0, 100);
        for cut in 0..=100 {
            let mut pieces = Vec::new();
            extend(&mut pieces, 5, Direction::Upload, 0, cut);
            extend(&mut pieces, 5, Direction::Upload, cut as u64, 100 - cut);
            assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn a_wrong_byte_is_found_where_it_is() {
        let mut bytes = Vec::new();
        extend(&mut bytes, 5, Direction::Download, 1_003, 50);
        assert_eq!(first_difference(5, Direction::Download, 1_003, &bytes), None);
        bytes[20] ^= 1;
        assert_eq!(first_difference(5, Direction::Download, 1_003, &bytes), Some(1_023));
    }

    #[test]
    fn jobs_and_directions_and_offsets_differ() {
        let mut bytes = Vec::new();
        extend(&mut bytes, 5, Direction::Upload, 0, 64);
        assert!(first_difference(6, Direction::Upload, 0, &bytes).is_some());
        assert!(first_difference(5, Direction::Download, 0, &bytes).is_some());
        assert!(first_difference(5, Direction::Upload, 8, &bytes).is_some());
    }
}
