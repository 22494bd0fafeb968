//! The queue of relayed packets, kept as trains (GSO): consecutive packets of one size to one destination leave in one system call.

use std::collections::VecDeque;

use pilot_core::route::{Ecn, Route, Transmit};

/// The greatest UDP payload of one send over IPv6: 65,535 less the IPv6 and UDP headers.
const TRAIN_LEN_MAX: usize = 65_487;
/// Segments that Linux takes in one send (`UDP_MAX_SEGMENTS`).
const TRAIN_SEGMENTS_MAX: usize = 64;
/// Bytes that wait for the socket: 30 ms at 1 Gbit/s. Packets that wait longer would arrive too late to be of use.
pub const QUEUE_LEN_MAX: usize = 4 * 1_024 * 1_024;
/// Buffers kept for reuse, so that forwarding does not allocate: as many as a full queue of long trains has.
const SPARE_BUFFERS_MAX: usize = QUEUE_LEN_MAX / TRAIN_LEN_MAX;

/// Packets to one destination, all of `segment_size` but perhaps the last.
#[derive(Debug)]
struct Train {
    route: Route,
    ecn: Ecn,
    segment_size: usize,
    segments: usize,
    bytes: Vec<u8>,
}

/// Packets that wait to be sent, oldest first.
#[derive(Debug, Default)]
pub struct TrainQueue {
    trains: VecDeque<Train>,
    queued_bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl TrainQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues the packet `header || body`. Returns whether there was room: what comes last is dropped, not what waits.
    pub fn push(&mut self, route: Route, ecn: Ecn, header: &[u8], body: &[u8]) -> bool {
        let len = header.len() + body.len();
        if self.queued_bytes + len > QUEUE_LEN_MAX || len > TRAIN_LEN_MAX {
            return false;
        }
        if !self.trains.back().is_some_and(|train| train.has_room_for(route, ecn, len)) {
            let bytes = self.spare.pop().unwrap_or_default();
            self.trains.push_back(Train { route, ecn, segment_size: len, segments: 0, bytes });
        }
        if let Some(train) = self.trains.back_mut() {
            train.segments += 1;
            train.bytes.extend_from_slice(header);
            train.bytes.extend_from_slice(body);
        }
        self.queued_bytes += len;
        true
    }

    /// Appends the oldest train to `buf`. An empty `buf` is swapped for the train's, not copied to.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let mut train = self.trains.pop_front()?;
        let len = train.bytes.len();
        self.queued_bytes -= len;
        if buf.is_empty() {
            std::mem::swap(buf, &mut train.bytes);
        } else {
            buf.extend_from_slice(&train.bytes);
        }
        self.recycle(train.bytes);
        let segment_size = (train.segments > 1).then_some(train.segment_size);
        Some(Transmit { route: train.route, ecn: train.ecn, ttl: None, segment_size, len })
    }

    /// Bytes that wait.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

impl Train {
    /// A shorter packet may end a train; after it nothing fits.
    fn has_room_for(&self, route: Route, ecn: Ecn, len: usize) -> bool {
        self.route == route
            && self.ecn == ecn
            && len <= self.segment_size
            && self.bytes.len() == self.segments * self.segment_size
            && self.segments < TRAIN_SEGMENTS_MAX
            && self.bytes.len() + len <= TRAIN_LEN_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> Route {
        Route::to(([192, 0, 2, 1], port).into())
    }

    fn drained(queue: &mut TrainQueue) -> Vec<(u16, Option<usize>, usize)> {
        let mut buf = Vec::new();
        let mut trains = Vec::new();
        while let Some(transmit) = queue.poll_transmit(&mut buf) {
            assert_eq!(buf.len(), transmit.len);
            trains.push((transmit.route.remote.port(), transmit.segment_size, transmit.len));
            buf.clear();
        }
        assert_eq!(queue.queued_bytes, 0);
        trains
    }

    #[test]
    fn packets_of_one_size_to_one_destination_are_one_train() {
        let mut queue = TrainQueue::new();
        for len in [100, 100, 40, 100] {
            assert!(queue.push(to(1), Ecn::NotEct, b"h", &vec![0; len - 1]));
        }
        assert_eq!(drained(&mut queue), [(1, Some(100), 240), (1, None, 100)]);
    }

    #[test]
    fn another_destination_or_ecn_field_starts_a_train() {
        let mut queue = TrainQueue::new();
        for (port, ecn) in [(1, Ecn::Ect0), (2, Ecn::Ect0), (2, Ecn::Ce), (2, Ecn::Ce)] {
            assert!(queue.push(to(port), ecn, b"", &[0; 50]));
        }
        assert_eq!(drained(&mut queue), [(1, None, 50), (2, None, 50), (2, Some(50), 100)]);
    }

    #[test]
    fn a_longer_packet_starts_a_train() {
        let mut queue = TrainQueue::new();
        assert!(queue.push(to(1), Ecn::NotEct, b"", &[0; 50]));
        assert!(queue.push(to(1), Ecn::NotEct, b"", &[0; 51]));
        assert_eq!(drained(&mut queue), [(1, None, 50), (1, None, 51)]);
    }

    #[test]
    fn a_train_fits_in_one_send() {
        let mut queue = TrainQueue::new();
        for _ in 0..100 {
            assert!(queue.push(to(1), Ecn::NotEct, b"", &[0; 1_200]));
            assert!(queue.push(to(1), Ecn::NotEct, b"", &[0; 1_200]));
        }
        for (_, _, len) in drained(&mut queue) {
            assert!(len <= TRAIN_LEN_MAX);
        }
        for _ in 0..100 {
            assert!(queue.push(to(1), Ecn::NotEct, b"", &[0; 10]));
        }
        assert_eq!(drained(&mut queue), [(1, Some(10), 640), (1, Some(10), 360)]);
    }

    #[test]
    fn bytes_keep_their_order_behind_what_the_buffer_holds() {
        let mut queue = TrainQueue::new();
        assert!(queue.push(to(1), Ecn::NotEct, b"ab", b"cd"));
        assert!(queue.push(to(1), Ecn::NotEct, b"ef", b"gh"));
        let mut buf = b"before".to_vec();
        assert_eq!(queue.poll_transmit(&mut buf).unwrap().len, 8);
        assert_eq!(buf, b"beforeabcdefgh");
    }

    #[test]
    fn a_full_queue_drops_its_tail() {
        let mut queue = TrainQueue::new();
        let accepted = (0..10_000).filter(|_| queue.push(to(1), Ecn::NotEct, b"", &[0; 1_000])).count();
        assert_eq!(accepted, QUEUE_LEN_MAX / 1_000);
    }
}
