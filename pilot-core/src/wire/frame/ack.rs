//! ACK and ACK_ECN: which packets have arrived (spec/streams.md §1 and §6).

use super::kind;
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::varint;

/// Most ranges of one ACK beside the first: the count then takes two bytes at most.
const ACK_RANGES_MAX: usize = (1 << 14) - 1;

/// The ACK frame. Its ranges were checked when it was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Largest packet number acknowledged.
    pub largest: u64,
    /// How long its acknowledgement was held back.
    pub delay_us: u64,
    /// Packets that arrived with the mark "congestion experienced", in all; none if the receiver saw none.
    pub ce_count: Option<u64>,
    first_len: u64,
    ranges: &'a [u8],
}

impl<'a> Ack<'a> {
    /// The acknowledged ranges, both ends included, from the largest down.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let mut reader = Reader::new(self.ranges);
        let mut smallest = self.largest - self.first_len;
        let first = (smallest, self.largest);
        std::iter::once(first).chain(std::iter::from_fn(move || {
            let range = next_range(&mut reader, smallest).ok()?;
            smallest = range.0;
            Some(range)
        }))
    }

    pub(super) fn decode(reader: &mut Reader<'a>, ecn: bool) -> Result<Self, DecodeError> {
        let largest = reader.varint()?;
        let delay_us = reader.varint()?;
        let range_count = reader.varint()?;
        let first_len = reader.varint()?;
        let ranges = reader.rest();
        let mut smallest = largest.checked_sub(first_len).ok_or(DecodeError::Invalid("ACK range"))?;
        for _ in 0..range_count {
            (smallest, _) = next_range(reader, smallest)?;
        }
        let ranges = &ranges[..ranges.len() - reader.remaining()];
        let ce_count = if ecn { Some(reader.varint()?) } else { None };
        Ok(Self { largest, delay_us, ce_count, first_len, ranges })
    }
}

/// The range below the one that begins at `smallest`: gap and length, each one less than it counts (RFC 9000 §19.3.1).
fn next_range(reader: &mut Reader<'_>, smallest: u64) -> Result<(u64, u64), DecodeError> {
    let (gap, len) = (reader.varint()?, reader.varint()?);
    let largest = smallest.checked_sub(gap + 2).ok_or(DecodeError::Invalid("ACK range"))?;
    let smallest = largest.checked_sub(len).ok_or(DecodeError::Invalid("ACK range"))?;
    Ok((smallest, largest))
}

/// Appends ACK with as many of the half-open `ranges`, sorted upward, as fit into `room` bytes, the largest first. Returns the
/// smallest packet number that it acknowledges; none if not even one range fits.
pub fn put_ack(
    buf: &mut Vec<u8>,
    room: usize,
    ranges: &[std::ops::Range<u64>],
    delay_us: u64,
    ce_count: u64,
) -> Option<u64> {
    let first = ranges.last()?;
    let (largest, first_len) = (first.end - 1, first.end - 1 - first.start);
    let ecn_len = if ce_count > 0 { varint::len(ce_count) } else { 0 };
    // The range count is below 2^14: more would not fit a packet's worth of ranges kept.
    let fixed = 1 + varint::len(largest) + varint::len(delay_us) + 2 + varint::len(first_len) + ecn_len;
    let mut left = room.checked_sub(fixed)?;
    let pairs = || {
        ranges
            .windows(2)
            .rev()
            .map(|pair| (pair[1].start - pair[0].end - 1, pair[0].end - pair[0].start - 1, pair[0].start))
    };
    let more = pairs()
        .take_while(|(gap, len, _)| {
            let need = varint::len(*gap) + varint::len(*len);
            left.checked_sub(need).map(|rest| left = rest).is_some()
        })
        .take(ACK_RANGES_MAX)
        .count();
    buf.push(if ce_count > 0 { kind::ACK_ECN } else { kind::ACK });
    varint::put(buf, largest);
    varint::put(buf, delay_us);
    varint::put(buf, more as u64);
    varint::put(buf, first_len);
    let mut smallest = first.start;
    for (gap, len, start) in pairs().take(more) {
        varint::put(buf, gap);
        varint::put(buf, len);
        smallest = start;
    }
    if ce_count > 0 {
        varint::put(buf, ce_count);
    }
    Some(smallest)
}
