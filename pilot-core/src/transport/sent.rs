//! Packets sent and neither acknowledged nor lost (RFC 9002 §A.1.1).
//!
//! A ring by packet number holds the packets, a queue beside it their frames, both reused without allocation once they have
//! grown to the window. The packets of each path are linked in the order they were sent, so that loss detection of one path never
//! walks over those of another.

use std::collections::VecDeque;

use super::congestion::Departure;
use super::received::Reported;
use crate::id::{PacketNumber, PathId};
use crate::time::Mono;

/// Largest span of packet numbers in flight: the peer's replay window refuses what is older (spec/wire.md §3).
const SPAN_MAX: usize = 1 << 16;

/// Slots of a tunnel that has something in flight: enough for a request and its reply. One at rest has none.
const SPAN_MIN: usize = 8;

/// No packet, in the links between packets.
const NONE: u64 = u64::MAX;

/// What a packet carried that has to be repaired when it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SentFrame {
    /// An acknowledgement.
    Ack(Reported),
    /// Data of a stream.
    Stream { key: StreamKey, offset: u64, len: u32, fin: bool },
    /// RESET of a stream.
    Reset(StreamKey),
    /// STOP_SENDING of a stream.
    StopSending(StreamKey),
    /// Credit of a stream.
    MaxStreamData(StreamKey),
    /// Credit of the tunnel.
    MaxData,
    /// The stream limit.
    MaxStreams,
    /// CANDIDATES or OBSERVED_ADDRESS, by the number under which it waits for its acknowledgement.
    Announcement(u64),
}

/// A stream's slot, and its id to tell whether it is still the same stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamKey {
    pub(super) slot: u32,
    pub(super) id: u64,
}

/// One ack-eliciting packet in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentPacket {
    pub(super) path: PathId,
    pub(super) sent_at: Mono,
    /// With header and tag.
    pub(super) size: u32,
    /// Counts ack-eliciting packets of the same path.
    pub(super) path_seq: u64,
    /// A probe for a larger packet size.
    pub(super) is_mtu_probe: bool,
    /// What the path had delivered when it left.
    pub(super) departure: Departure,
    /// Last bytes of the sealed packet.
    tag8: u64,
    first_frame: u64,
    is_tracked: bool,
    older: u64,
    newer: u64,
}

/// Ends of a path's list of packets in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathList {
    oldest: u64,
    newest: u64,
}

/// All packets in flight.
#[derive(Debug)]
pub(super) struct SentPackets {
    slots: Vec<SentPacket>,
    /// No packet below this number is in flight.
    base: u64,
    /// Highest packet number tracked, plus one.
    end: u64,
    frames: VecDeque<SentFrame>,
    /// Number of the first frame in `frames`.
    frames_base: u64,
}

impl Default for PathList {
    fn default() -> Self {
        Self { oldest: NONE, newest: NONE }
    }
}

impl PathList {
    /// The oldest packet in flight.
    pub(super) fn oldest(&self) -> Option<PacketNumber> {
        (self.oldest != NONE).then_some(PacketNumber(self.oldest))
    }
}

impl SentPacket {
    const EMPTY: Self = Self {
        path: PathId(0),
        sent_at: Mono(0),
        size: 0,
        path_seq: 0,
        is_mtu_probe: false,
        departure: Departure::NONE,
        tag8: 0,
        first_frame: 0,
        is_tracked: false,
        older: NONE,
        newer: NONE,
    };

    /// A packet to be tracked.
    pub(super) fn new(path: PathId, sent_at: Mono, size: u32, is_mtu_probe: bool) -> Self {
        Self { path, sent_at, size, is_mtu_probe, ..Self::EMPTY }
    }
}

impl SentPackets {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), base: 0, end: 0, frames: VecDeque::new(), frames_base: 0 }
    }

    /// The packet that has to leave before `pn` can be tracked: it is older than the peer's replay window.
    pub(super) fn too_old_for(&self, pn: PacketNumber) -> Option<PacketNumber> {
        (self.base < self.end && pn.0 - self.base >= SPAN_MAX as u64).then_some(PacketNumber(self.base))
    }

    /// Tracks a packet that carries `frames`. Nothing is [too old](Self::too_old_for) for it.
    pub(super) fn insert(
        &mut self,
        pn: PacketNumber,
        packet: SentPacket,
        list: &mut PathList,
        frames: &mut Vec<SentFrame>,
    ) {
        if self.base == self.end {
            (self.base, self.end) = (pn.0, pn.0);
        }
        self.grow_to(pn.0);
        let first_frame = self.frames_base + self.frames.len() as u64;
        self.frames.extend(frames.drain(..));
        for between in self.end..pn.0 {
            // Packets that elicit no acknowledgement are not tracked; their slots still have to say where frames begin.
            *self.slot_mut(between) = SentPacket { first_frame, ..SentPacket::EMPTY };
        }
        *self.slot_mut(pn.0) = SentPacket { first_frame, is_tracked: true, older: list.newest, newer: NONE, ..packet };
        self.end = pn.0 + 1;
        match list.newest {
            NONE => list.oldest = pn.0,
            newest => self.slot_mut(newest).newer = pn.0,
        }
        list.newest = pn.0;
    }

    /// The packet, if it is in flight.
    pub(super) fn get(&self, pn: PacketNumber) -> Option<&SentPacket> {
        let in_span = (self.base..self.end).contains(&pn.0);
        in_span.then(|| self.slot(pn.0)).filter(|packet| packet.is_tracked)
    }

    /// The smallest packet number that can be in flight.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Stops tracking a packet. Its frames stay readable with [`frame`](Self::frame) until [`release`](Self::release).
    pub(super) fn remove(&mut self, pn: PacketNumber, list: &mut PathList) -> Option<SentPacket> {
        let packet = *self.get(pn)?;
        self.slot_mut(pn.0).is_tracked = false;
        match packet.older {
            NONE => list.oldest = packet.newer,
            older => self.slot_mut(older).newer = packet.newer,
        }
        match packet.newer {
            NONE => list.newest = packet.older,
            newer => self.slot_mut(newer).older = packet.older,
        }
        Some(packet)
    }

    /// Numbers of the frames that a packet carries.
    pub(super) fn frame_numbers(&self, pn: PacketNumber) -> std::ops::Range<u64> {
        let end = self.frames_base + self.frames.len() as u64;
        if !(self.base..self.end).contains(&pn.0) {
            return end..end;
        }
        let next = pn.0 + 1;
        self.slot(pn.0).first_frame..if next < self.end { self.slot(next).first_frame } else { end }
    }

    /// One frame by its number.
    pub(super) fn frame(&self, number: u64) -> Option<SentFrame> {
        let index = usize::try_from(number.checked_sub(self.frames_base)?).ok()?;
        self.frames.get(index).copied()
    }

    /// The next younger packet of the same path.
    pub(super) fn newer(&self, pn: PacketNumber) -> Option<PacketNumber> {
        let newer = self.get(pn)?.newer;
        (newer != NONE).then_some(PacketNumber(newer))
    }

    /// Keeps the last bytes of a sealed packet with it.
    pub(super) fn set_tag(&mut self, pn: PacketNumber, tag8: u64) {
        if self.get(pn).is_some() {
            self.slot_mut(pn.0).tag8 = tag8;
        }
    }

    /// Whether this very packet is in flight.
    pub(super) fn is_in_flight(&self, pn: PacketNumber, tag8: u64) -> bool {
        self.get(pn).is_some_and(|packet| packet.tag8 == tag8)
    }

    /// Makes room at the old end.
    pub(super) fn release(&mut self) {
        while self.base < self.end && !self.slot(self.base).is_tracked {
            self.base += 1;
        }
        let keep = if self.base < self.end {
            self.slot(self.base).first_frame
        } else {
            self.frames_base + self.frames.len() as u64
        };
        let gone = usize::try_from(keep - self.frames_base).unwrap_or(usize::MAX);
        self.frames.drain(..gone.min(self.frames.len()));
        self.frames_base = keep;
        if self.base == self.end {
            (self.slots, self.frames) = (Vec::new(), VecDeque::new());
        }
    }

    /// Every packet in flight, recounted for the audit.
    pub(super) fn iter(&self) -> impl Iterator<Item = &SentPacket> {
        (self.base..self.end).map(|pn| self.slot(pn)).filter(|packet| packet.is_tracked)
    }

    fn grow_to(&mut self, pn: u64) {
        let span = usize::try_from(pn - self.base).unwrap_or(SPAN_MAX) + 1;
        if span <= self.slots.len() {
            return;
        }
        let mut slots = vec![SentPacket::EMPTY; span.next_power_of_two().max(SPAN_MIN)];
        let mask = slots.len() as u64 - 1;
        for old in self.base..self.end {
            slots[index(old, mask)] = *self.slot(old);
        }
        self.slots = slots;
    }

    fn slot(&self, pn: u64) -> &SentPacket {
        &self.slots[index(pn, self.slots.len() as u64 - 1)]
    }

    fn slot_mut(&mut self, pn: u64) -> &mut SentPacket {
        let mask = self.slots.len() as u64 - 1;
        &mut self.slots[index(pn, mask)]
    }
}

/// The length of the ring is a power of two: `mask` has all bits below it.
#[expect(clippy::cast_possible_truncation, reason = "masked to the length of a vector")]
fn index(pn: u64, mask: u64) -> usize {
    (pn & mask) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: PathId = PathId(1);

    fn packet() -> SentPacket {
        SentPacket::new(PATH, Mono(0), 100, false)
    }

    fn frames_of(sent: &SentPackets, pn: u64) -> Vec<SentFrame> {
        sent.frame_numbers(PacketNumber(pn)).filter_map(|number| sent.frame(number)).collect()
    }

    #[test]
    fn frames_stay_with_their_packet_while_the_ring_grows_and_wraps() {
        let (mut sent, mut list) = (SentPackets::new(), PathList::default());
        for pn in 0..10_000u64 {
            // Every third packet elicits no acknowledgement and is not tracked.
            if pn % 3 != 0 {
                let mut frames = vec![SentFrame::Announcement(pn); (pn % 4) as usize];
                sent.insert(PacketNumber(pn), packet(), &mut list, &mut frames);
            }
            if pn >= 500 {
                let old = pn - 500;
                assert_eq!(frames_of(&sent, old).len() as u64, if old % 3 == 0 { 0 } else { old % 4 }, "{old}");
                assert!(frames_of(&sent, old).iter().all(|frame| *frame == SentFrame::Announcement(old)));
                assert_eq!(sent.remove(PacketNumber(old), &mut list).is_some(), old % 3 != 0);
                sent.release();
            }
        }
        assert!(sent.slots.len() <= 1_024 && sent.frames.len() < 1_000);
    }

    #[test]
    fn the_list_of_a_path_skips_what_was_removed() {
        let (mut sent, mut list, mut other) = (SentPackets::new(), PathList::default(), PathList::default());
        for pn in 0..6 {
            let list = if pn == 3 { &mut other } else { &mut list };
            sent.insert(PacketNumber(pn), packet(), list, &mut Vec::new());
        }
        sent.remove(PacketNumber(2), &mut list);
        sent.remove(PacketNumber(0), &mut list);
        let walk: Vec<_> = std::iter::successors(list.oldest(), |pn| sent.newer(*pn)).map(|pn| pn.0).collect();
        assert_eq!(walk, [1, 4, 5]);
    }

    #[test]
    fn a_packet_is_known_by_number_and_tag() {
        let (mut sent, mut list) = (SentPackets::new(), PathList::default());
        sent.insert(PacketNumber(7), packet(), &mut list, &mut Vec::new());
        sent.set_tag(PacketNumber(7), 99);
        assert!(sent.is_in_flight(PacketNumber(7), 99));
        assert!(!sent.is_in_flight(PacketNumber(7), 98) && !sent.is_in_flight(PacketNumber(8), 99));
    }

    #[test]
    fn a_packet_older_than_the_replay_window_has_to_leave() {
        let (mut sent, mut list) = (SentPackets::new(), PathList::default());
        sent.insert(PacketNumber(7), packet(), &mut list, &mut Vec::new());
        assert_eq!(sent.too_old_for(PacketNumber(7 + 65_535)), None);
        assert_eq!(sent.too_old_for(PacketNumber(7 + 65_536)), Some(PacketNumber(7)));
    }
}
