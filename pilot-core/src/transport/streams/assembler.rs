//! Puts a stream's data in order. Everything up to the credit granted is kept, in bytes, whatever the size of its pieces.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// First and largest size of the chunks that data in order is gathered in: small streams stay small, and a byte on each of all the streams
/// that a stranger may open takes no more than those streams themselves.
const CHUNK_LEN_MIN: usize = 128;
const CHUNK_LEN_MAX: usize = 64 * 1024;

/// Data from beyond a gap that is copied to the rest: a longer stretch is worth a chunk of its own.
const COPY_LEN_MAX: usize = 2 * 1024;

/// Used chunks that a tunnel keeps: twice what a driver queues for a reader, so that a stream at full speed finds one it can use again.
const USED_CHUNKS_MAX: usize = 32;

/// Memory for data in order, used again as soon as its reader is done with it: fresh pages cost more than the copy into them.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Largest chunks that readers hold or have held, oldest first: empty, but they share the memory.
    used: VecDeque<BytesMut>,
}

impl Chunks {
    /// An empty chunk with room for so much.
    fn take(&mut self, len: usize) -> BytesMut {
        if let Some(oldest) = self.used.front_mut()
            && len >= CHUNK_LEN_MAX
            && oldest.try_reclaim(len)
            && let Some(chunk) = self.used.pop_front()
        {
            return chunk;
        }
        BytesMut::with_capacity(len)
    }

    /// Takes back what is left of a chunk after its data was handed out.
    fn put_back(&mut self, rest: BytesMut, len: usize) {
        if len >= CHUNK_LEN_MAX && self.used.len() < USED_CHUNKS_MAX {
            self.used.push_back(rest);
        }
    }

    /// Gives all memory back.
    pub(super) fn clear(&mut self) {
        self.used = VecDeque::new();
    }
}

/// The data cannot be kept: it would take one more stretch beyond a gap than there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyGaps;

/// Data of one stream between the network and its reader.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// Offset of the next byte to be read.
    read: u64,
    /// Offset behind the data in order.
    end: u64,
    /// Full chunks of data in order.
    ready: VecDeque<Bytes>,
    /// The chunk that data in order is appended to, behind `ready`.
    tail: BytesMut,
    chunk_len: usize,
    /// Data beyond a gap, by offset, without overlaps.
    beyond: VecDeque<(u64, BytesMut)>,
    beyond_len: u64,
}

impl Assembler {
    /// All data below was read.
    pub(super) fn starting_at(offset: u64) -> Self {
        Self { read: offset, end: offset, ..Self::default() }
    }

    /// Takes data that lies within the credit. `gaps_left` more stretches beyond gaps are allowed.
    ///
    /// # Errors
    /// If a new stretch would be needed: the packet must not be acknowledged then. Parts of the data may have been kept.
    pub(super) fn insert(
        &mut self,
        offset: u64,
        data: &[u8],
        gaps_left: usize,
        chunks: &mut Chunks,
    ) -> Result<(), TooManyGaps> {
        if offset > self.end {
            return self.insert_beyond(offset, data, gaps_left);
        }
        let known = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
        if known < data.len() {
            self.append(&data[known..], chunks);
            self.join(chunks);
        }
        Ok(())
    }

    /// Takes data as if no byte before it were missing.
    #[cfg(feature = "sabotage")]
    pub(super) fn insert_out_of_order(&mut self, data: &[u8], chunks: &mut Chunks) {
        self.append(data, chunks);
    }

    /// The next bytes in order, at most `max`; none if there are none.
    pub(super) fn read(&mut self, max: usize) -> Option<Bytes> {
        let data = match self.ready.front_mut() {
            Some(chunk) if chunk.len() > max => chunk.split_to(max),
            Some(_) => self.ready.pop_front()?,
            None => self.tail.split_to(max.min(self.tail.len())).freeze(),
        };
        self.read += data.len() as u64;
        (!data.is_empty()).then_some(data)
    }

    /// Copies up to `max` of the next bytes in order, without reading them.
    pub(super) fn peek(&self, max: usize) -> Vec<u8> {
        let chunks = self.ready.iter().map(|chunk| &chunk[..]).chain([&self.tail[..]]);
        chunks.flatten().copied().take(max).collect()
    }

    /// Forgets all data: nobody will read it.
    pub(super) fn discard(&mut self) {
        *self = Self::starting_at(self.end);
    }

    /// Offset of the next byte to be read.
    pub(super) fn read_offset(&self) -> u64 {
        self.read
    }

    /// Offset behind the data in order.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes held.
    pub(super) fn len(&self) -> u64 {
        self.end - self.read + self.beyond_len
    }

    /// Stretches of data beyond a gap.
    pub(super) fn gap_chunks(&self) -> usize {
        self.beyond.len()
    }

    fn append(&mut self, data: &[u8], chunks: &mut Chunks) {
        let has_room = self.tail.capacity() - self.tail.len() >= data.len();
        if !has_room && (!self.tail.is_empty() || !self.tail.try_reclaim(data.len())) {
            self.begin_chunk(data.len(), chunks);
        }
        self.tail.extend_from_slice(data);
        self.end += data.len() as u64;
    }

    fn begin_chunk(&mut self, len: usize, chunks: &mut Chunks) {
        if !self.tail.is_empty() {
            self.ready.push_back(self.tail.split().freeze());
        }
        let used_len = self.chunk_len;
        self.chunk_len = (self.chunk_len * 4).clamp(CHUNK_LEN_MIN, CHUNK_LEN_MAX).max(len);
        let used = std::mem::replace(&mut self.tail, chunks.take(self.chunk_len));
        chunks.put_back(used, used_len);
    }

    /// Moves what is no longer beyond a gap to the data in order. Large stretches move without a copy.
    fn join(&mut self, chunks: &mut Chunks) {
        while let Some((start, _)) = self.beyond.front()
            && *start <= self.end
            && let Some((start, mut chunk)) = self.beyond.pop_front()
        {
            self.beyond_len -= chunk.len() as u64;
            let known = usize::try_from(self.end - start).unwrap_or(usize::MAX).min(chunk.len());
            let fresh = chunk.split_off(known);
            if fresh.len() <= COPY_LEN_MAX {
                self.append(&fresh, chunks);
                continue;
            }
            if !self.tail.is_empty() {
                self.ready.push_back(self.tail.split().freeze());
            }
            self.end += fresh.len() as u64;
            self.ready.push_back(fresh.freeze());
        }
    }

    fn insert_beyond(&mut self, offset: u64, data: &[u8], gaps_left: usize) -> Result<(), TooManyGaps> {
        let chunks_max = self.beyond.len() + gaps_left;
        let end = offset + data.len() as u64;
        let mut position = offset;
        while position < end {
            let index = self.beyond.partition_point(|(start, _)| *start <= position);
            let known_to = index.checked_sub(1).map_or(0, |before| chunk_range(&self.beyond[before]).end);
            position = position.max(known_to);
            let free_to = self.beyond.get(index).map_or(end, |(start, _)| end.min(*start));
            if position < free_to {
                self.put_beyond(
                    index,
                    position,
                    &data[within(position - offset)..within(free_to - offset)],
                    chunks_max,
                )?;
                position = free_to;
            }
        }
        Ok(())
    }

    /// Puts data into the free place before the chunk `index`: on to the chunk before it if that ends there.
    fn put_beyond(&mut self, index: usize, offset: u64, data: &[u8], chunks_max: usize) -> Result<(), TooManyGaps> {
        let before = index.checked_sub(1).and_then(|before| self.beyond.get_mut(before));
        match before {
            Some(chunk) if chunk_range(chunk).end == offset && chunk.1.len() < CHUNK_LEN_MAX => {
                // BytesMut doubles its capacity here, up to the largest chunk.
                chunk.1.extend_from_slice(data);
            }
            Some(_) | None => {
                if self.beyond.len() >= chunks_max {
                    return Err(TooManyGaps);
                }
                self.beyond.insert(index, (offset, BytesMut::from(data)));
            }
        }
        self.beyond_len += data.len() as u64;
        Ok(())
    }
}

fn chunk_range(chunk: &(u64, BytesMut)) -> Range<u64> {
    chunk.0..chunk.0 + chunk.1.len() as u64
}

/// An offset within one packet's data.
fn within(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(assembler: &mut Assembler, max: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(data) = assembler.read(max) {
            assert!(!data.is_empty() && data.len() <= max);
            all.extend_from_slice(&data);
        }
        all
    }

    fn pattern(range: Range<u64>) -> Vec<u8> {
        range.map(|offset| (offset * 31 % 251) as u8).collect()
    }

    #[test]
    fn a_first_byte_takes_little_room() {
        let mut assembler = Assembler::default();
        assembler.insert(0, &[7], 0, &mut Chunks::default()).unwrap();
        assert!(assembler.tail.capacity() <= CHUNK_LEN_MIN, "{}", assembler.tail.capacity());
    }

    #[test]
    fn data_in_order_is_handed_out_in_large_pieces() {
        let mut assembler = Assembler::default();
        for offset in (0..400_000).step_by(1_000) {
            assembler.insert(offset, &pattern(offset..offset + 1_000), 0, &mut Chunks::default()).unwrap();
        }
        assert!(assembler.ready.len() < 12, "{} chunks", assembler.ready.len());
        assert_eq!(read_all(&mut assembler, 1 << 20), pattern(0..400_000));
        assert_eq!(assembler.len(), 0);
    }

    #[test]
    fn one_loss_costs_one_retransmission_not_the_window() {
        let mut assembler = Assembler::default();
        for offset in (1_000..8_000_000).step_by(1_000) {
            assembler.insert(offset, &pattern(offset..offset + 1_000), 200, &mut Chunks::default()).unwrap();
        }
        assert_eq!(assembler.len(), 7_999_000);
        assert_eq!(assembler.read(10), None);
        assembler.insert(0, &pattern(0..1_000), 0, &mut Chunks::default()).unwrap();
        assert_eq!(read_all(&mut assembler, 100_000), pattern(0..8_000_000));
    }

    #[test]
    fn a_stretch_too_many_is_refused_and_comes_again() {
        let mut assembler = Assembler::default();
        assembler.insert(10, b"a", 2, &mut Chunks::default()).unwrap();
        assembler.insert(20, b"b", 1, &mut Chunks::default()).unwrap();
        assert_eq!(assembler.insert(30, b"c", 0, &mut Chunks::default()), Err(TooManyGaps));
        assert_eq!(assembler.insert(21, b"d", 0, &mut Chunks::default()), Ok(()), "it joins a stretch");
        assert_eq!((assembler.gap_chunks(), assembler.len()), (2, 3));
    }

    #[test]
    fn a_chunk_is_used_again_once_its_reader_is_done_and_never_before() {
        let mut chunks = Chunks::default();
        let mut chunk = chunks.take(CHUNK_LEN_MAX);
        chunk.extend_from_slice(b"held");
        let held = chunk.split().freeze();
        chunks.put_back(chunk, CHUNK_LEN_MAX);

        let mut other = chunks.take(CHUNK_LEN_MAX);
        other.extend_from_slice(b"else");
        assert_eq!((&held[..], chunks.used.len()), (&b"held"[..], 1));

        drop(held);
        assert!(chunks.take(CHUNK_LEN_MAX).capacity() >= CHUNK_LEN_MAX);
        assert_eq!(chunks.used.len(), 0, "it was the chunk that had been held");
    }

    proptest! {
        #[test]
        fn any_order_and_overlap_gives_the_same_bytes(
            mut pieces in proptest::collection::vec((0..300u64, 1..40u64), 1..80),
            max in 1..50usize,
        ) {
            let mut assembler = Assembler::default();
            let mut read = Vec::new();
            pieces.extend((0..340).step_by(20).map(|start| (start, 20)));
            for (start, len) in pieces {
                assembler.insert(start, &pattern(start..start + len), 1_000, &mut Chunks::default()).unwrap();
                let chunks: Vec<_> = assembler.beyond.iter().map(chunk_range).collect();
                prop_assert!(chunks.windows(2).all(|pair| pair[0].end <= pair[1].start));
                prop_assert_eq!(assembler.beyond_len, chunks.iter().map(|chunk| chunk.end - chunk.start).sum::<u64>());
                read.extend(read_all(&mut assembler, max));
            }
            prop_assert_eq!(read, pattern(0..340));
            prop_assert_eq!(assembler.gap_chunks(), 0);
        }
    }
}
