//! Packets received, and when to acknowledge them (spec/streams.md §6).

use std::collections::VecDeque;

use super::range_set::RangeSet;
use super::rtt::MAX_ACK_DELAY;
use crate::id::{PacketNumber, PathId};
use crate::time::Mono;
use crate::wire::frame;

/// Ranges kept: a window of packets of which every other one was lost has fewer. Beyond it the oldest are forgotten, and what they
/// stood for is sent again.
const RANGES_MAX: usize = 4_096;

/// Acknowledgements in a row, while there are gaps, after which the peer is asked to acknowledge them, so that the ranges it has
/// heard of can be forgotten (RFC 9000 §13.2.4).
const ACKS_WITHOUT_PING_MAX: u32 = 32;

/// Entries kept about packets that came late; more are merged, which only delays forgetting.
const LATE_MAX: usize = 64;

/// Ack-eliciting packets that may wait for an acknowledgement, the last of them excepted.
const ACK_THRESHOLD: u32 = 2;

/// What is special about a packet, as far as its acknowledgement goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival {
    /// It carries more than ACK, PADDING and CLOSE.
    pub(super) is_ack_eliciting: bool,
    /// Its sender waits for the acknowledgement: FIN, PING, frames about paths.
    pub(super) is_urgent: bool,
    /// It carries more than frames about paths: acknowledgements go the way that such packets come.
    pub(super) carries_data: bool,
    /// The mark of ECN.
    pub(super) congestion_experienced: bool,
    /// Length of its frames.
    pub(super) len: usize,
}

/// Receiving side of the packet-number space.
#[derive(Debug, Default)]
pub(super) struct ReceivedPackets {
    ranges: RangeSet,
    /// When the largest of them came.
    largest_at: Mono,
    ce_count: u64,
    /// Ack-eliciting packets not acknowledged yet.
    waiting: u32,
    /// One of them carried more than frames about paths.
    has_data_waiting: bool,
    is_due: bool,
    deadline: Option<Mono>,
    path: Option<PathId>,
    /// Length of the ack-eliciting packet before: a shorter one behind it is the tail of a train.
    previous_len: usize,
    acks_without_ping: u32,
    /// Acknowledgements written so far.
    acks_written: u64,
    /// Packets that came behind larger ones, until the peer has heard of them.
    late: VecDeque<Late>,
}

/// The smallest of the late packets that one acknowledgement was the first to report.
#[derive(Clone, Copy, Debug)]
struct Late {
    ack: u64,
    smallest: u64,
}

/// What one ACK has reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    /// Counts the acknowledgements written.
    pub(super) ack: u64,
    pub(super) smallest: u64,
    pub(super) largest: u64,
}

impl ReceivedPackets {
    /// Whether a packet was received before.
    pub(super) fn contains(&self, pn: PacketNumber) -> bool {
        self.ranges.contains(pn.0)
    }

    /// The largest number received.
    pub(super) fn largest(&self) -> Option<u64> {
        self.ranges.largest()
    }

    /// Notes a packet whose frames were all accepted.
    pub(super) fn on_packet(&mut self, now: Mono, path: PathId, pn: PacketNumber, arrival: Arrival) {
        let expected = self.ranges.largest().map_or(pn.0, |largest| largest + 1);
        self.ranges.insert(pn.0..pn.0 + 1);
        if self.ranges.len() > RANGES_MAX {
            self.ranges.remove_first();
        }
        if pn.0 >= expected {
            self.largest_at = now;
        } else {
            self.note_late(pn.0);
        }
        self.ce_count += u64::from(arrival.congestion_experienced);
        if arrival.is_ack_eliciting {
            self.schedule(now, path, arrival, pn.0 != expected);
        }
    }

    /// The peer has seen this acknowledgement: what it reported need not be reported again. What came late within its range, but
    /// after it was written, has to be.
    pub(super) fn on_ack_acked(&mut self, reported: Reported) {
        while self.late.front().is_some_and(|late| late.ack <= reported.ack) {
            self.late.pop_front();
        }
        let unreported = self.late.iter().map(|late| late.smallest).min().unwrap_or(u64::MAX);
        // The largest stays: gaps are told from it.
        let kept = self.ranges.largest().unwrap_or(0).min(unreported);
        self.ranges.remove(reported.smallest..kept.min(reported.largest + 1).max(reported.smallest));
    }

    /// Makes a delayed acknowledgement due.
    pub(super) fn handle_timeout(&mut self, now: Mono) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            (self.is_due, self.deadline) = (true, None);
        }
    }

    /// When a delayed acknowledgement becomes due.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.deadline
    }

    /// Whether an acknowledgement has to go now.
    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// Whether a packet that goes anyway should carry an acknowledgement.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting > 0
    }

    /// Whether what waits is more than probes of paths: its acknowledgement must not travel in a probe, which often leads nowhere.
    pub(super) fn has_data_waiting(&self) -> bool {
        self.has_data_waiting
    }

    /// The path by which data came last.
    pub(super) fn path(&self) -> Option<PathId> {
        self.path
    }

    /// Acknowledgements need another way.
    pub(super) fn on_path_removed(&mut self, path: PathId) {
        self.path = self.path.filter(|current| *current != path);
    }

    /// Appends ACK, if it fits.
    pub(super) fn write_ack(&mut self, now: Mono, buf: &mut Vec<u8>, room: usize) -> Option<Reported> {
        let largest = self.ranges.largest()?;
        let delay_us = u64::try_from(now.since(self.largest_at).as_micros()).unwrap_or(0);
        let smallest = frame::put_ack(buf, room, self.ranges.as_slice(), delay_us, self.ce_count)?;
        (self.waiting, self.is_due, self.deadline) = (0, false, None);
        self.has_data_waiting = false;
        self.acks_written += 1;
        Some(Reported { ack: self.acks_written - 1, smallest, largest })
    }

    /// A packet with nothing but ACK is about to go: whether it should ask for an acknowledgement itself.
    pub(super) fn wants_ping(&mut self) -> bool {
        self.acks_without_ping += 1;
        let wants = self.acks_without_ping >= ACKS_WITHOUT_PING_MAX && self.ranges.len() > 1;
        if wants {
            self.acks_without_ping = 0;
        }
        wants
    }

    fn note_late(&mut self, pn: u64) {
        let ack = self.acks_written;
        let is_full = self.late.len() == LATE_MAX;
        match self.late.back_mut() {
            Some(last) if is_full || last.ack == ack => *last = Late { ack, smallest: last.smallest.min(pn) },
            Some(_) | None => self.late.push_back(Late { ack, smallest: pn }),
        }
    }

    fn schedule(&mut self, now: Mono, path: PathId, arrival: Arrival, is_out_of_order: bool) {
        if arrival.carries_data || self.path.is_none() {
            self.path = Some(path);
        }
        self.has_data_waiting |= arrival.carries_data;
        self.waiting += 1;
        let is_tail = arrival.len < self.previous_len;
        self.previous_len = arrival.len;
        let at_once = arrival.is_urgent || is_out_of_order || is_tail || arrival.congestion_experienced;
        if at_once || self.waiting >= ACK_THRESHOLD {
            (self.is_due, self.deadline) = (true, None);
        } else if !self.is_due {
            self.deadline = self.deadline.or(Some(now + MAX_ACK_DELAY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: PathId = PathId(0);
    const DATA: Arrival = Arrival {
        is_ack_eliciting: true,
        is_urgent: false,
        carries_data: true,
        congestion_experienced: false,
        len: 1_000,
    };

    fn reported(ack: u64, smallest: u64, largest: u64) -> Reported {
        Reported { ack, smallest, largest }
    }

    fn after(arrivals: &[(u64, Arrival)]) -> ReceivedPackets {
        let mut received = ReceivedPackets::default();
        arrivals.iter().for_each(|(pn, arrival)| received.on_packet(Mono(10), PATH, PacketNumber(*pn), *arrival));
        received
    }

    #[test]
    fn one_packet_waits_and_two_do_not() {
        let mut received = after(&[(0, DATA)]);
        assert!(!received.is_due() && received.is_wanted());
        assert_eq!(received.deadline(), Some(Mono(10) + MAX_ACK_DELAY));
        received.handle_timeout(Mono(10) + MAX_ACK_DELAY);
        assert!(received.is_due() && received.deadline().is_none());
        assert!(after(&[(0, DATA), (1, DATA)]).is_due());
    }

    #[test]
    fn gaps_tails_and_urgent_packets_are_acknowledged_at_once() {
        let acked = |last| {
            let mut received = after(&[(0, DATA), (1, DATA)]);
            assert_eq!(received.write_ack(Mono(11), &mut Vec::new(), 100), Some(reported(0, 0, 1)));
            received.on_packet(Mono(12), PATH, PacketNumber(2), last);
            received.is_due()
        };
        assert!(!acked(DATA));
        assert!(acked(Arrival { len: 999, ..DATA }), "the odd tail of a train");
        assert!(acked(Arrival { is_urgent: true, ..DATA }));
        assert!(acked(Arrival { congestion_experienced: true, ..DATA }));
        assert!(after(&[(0, DATA), (2, Arrival { is_ack_eliciting: true, ..DATA })]).is_due());
    }

    #[test]
    fn packets_that_elicit_nothing_are_never_acknowledged_by_themselves() {
        let received = after(&[(0, Arrival::default()), (5, Arrival::default())]);
        assert!(!received.is_due() && received.deadline().is_none() && !received.is_wanted());
    }

    #[test]
    fn ranges_are_forgotten_once_the_peer_knows_and_never_before() {
        let mut received = after(&[(0, DATA), (2, DATA), (4, DATA)]);
        assert_eq!(received.write_ack(Mono(11), &mut Vec::new(), 100), Some(reported(0, 0, 4)));
        received.on_packet(Mono(12), PATH, PacketNumber(6), DATA);
        assert_eq!(received.ranges.as_slice(), [0..1, 2..3, 4..5, 6..7]);
        received.on_ack_acked(reported(0, 0, 4));
        assert_eq!(received.ranges.as_slice(), std::slice::from_ref(&(6..7)));
        received.on_ack_acked(reported(1, 0, 6));
        assert_eq!(received.ranges.as_slice(), std::slice::from_ref(&(6..7)), "the largest stays");
    }

    #[test]
    fn a_packet_that_came_late_is_reported_before_it_is_forgotten() {
        let mut received = after(&[(0, DATA), (2, DATA), (4, DATA)]);
        received.write_ack(Mono(11), &mut Vec::new(), 100).unwrap();
        received.on_packet(Mono(12), PATH, PacketNumber(3), DATA);
        received.on_ack_acked(reported(0, 0, 4));
        assert_eq!(received.ranges.as_slice(), std::slice::from_ref(&(3..5)));
        received.write_ack(Mono(13), &mut Vec::new(), 100).unwrap();
        received.on_ack_acked(reported(1, 3, 4));
        assert_eq!(received.ranges.as_slice(), std::slice::from_ref(&(4..5)));
    }

    #[test]
    fn a_receiver_with_gaps_asks_for_an_acknowledgement_now_and_then() {
        let mut received = after(&[(0, DATA), (2, DATA)]);
        assert_eq!((0..64).filter(|_| received.wants_ping()).count(), 2);
        let mut whole = after(&[(0, DATA), (1, DATA)]);
        assert!((0..64).all(|_| !whole.wants_ping()));
    }
}
