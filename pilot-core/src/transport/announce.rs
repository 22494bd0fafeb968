//! CANDIDATES, PORTS and OBSERVED_ADDRESS: reliable frames that belong to no stream.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::wire::frame::{self, CANDIDATES_MAX, Candidate, Ports};

/// Announcements kept until acknowledged; older ones are overtaken by newer ones anyway.
const ANNOUNCEMENTS_MAX: usize = 8;

/// The largest announcement: a full list of IPv6 candidates.
const ANNOUNCEMENT_LEN_MAX: usize = 1 + 8 + 1 + CANDIDATES_MAX * (1 + 1 + 16 + 2);

#[derive(Debug)]
enum Content {
    Candidates(Vec<Candidate>),
    Ports(Ports),
    ObservedAddress(SocketAddr),
}

/// What the peer has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Candidates,
    Ports,
}

#[derive(Debug)]
struct Announcement {
    number: u64,
    content: Content,
    is_queued: bool,
}

/// Announcements that the peer has not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    waiting: VecDeque<Announcement>,
    next_number: u64,
    /// Generation of the newest list that the peer has sent, plus one.
    peer_generation: u64,
    /// The same of what it has told of its ports.
    peer_ports_generation: u64,
}

impl Announcements {
    /// Announces a list; it replaces the one before.
    pub(super) fn candidates(&mut self, mut candidates: Vec<Candidate>) {
        candidates.truncate(CANDIDATES_MAX);
        self.waiting.retain(|waiting| !matches!(waiting.content, Content::Candidates(_)));
        self.push(Content::Candidates(candidates));
    }

    /// Announces what is known of our ports; it replaces what was before.
    pub(super) fn ports(&mut self, ports: Ports) {
        self.waiting.retain(|waiting| !matches!(waiting.content, Content::Ports(_)));
        self.push(Content::Ports(ports));
    }

    /// Announces an address.
    pub(super) fn observed_address(&mut self, address: SocketAddr) {
        self.push(Content::ObservedAddress(address));
    }

    /// Whether a list from the peer is newer than all before.
    pub(super) fn is_news(&mut self, generation: u64) -> bool {
        is_newest(generation, &mut self.peer_generation)
    }

    /// Whether what the peer tells of its ports is newer than all before.
    pub(super) fn is_news_of_ports(&mut self, generation: u64) -> bool {
        is_newest(generation, &mut self.peer_ports_generation)
    }

    pub(super) fn has_queued(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.is_queued)
    }

    /// Appends the next announcement, if it fits: the number to acknowledge it by. The number serves as generation too.
    pub(super) fn write_next(&mut self, buf: &mut Vec<u8>, end: usize) -> Option<u64> {
        if buf.len() + ANNOUNCEMENT_LEN_MAX > end {
            return None;
        }
        let announcement = self.waiting.iter_mut().find(|waiting| waiting.is_queued)?;
        announcement.is_queued = false;
        match &announcement.content {
            Content::Candidates(candidates) => frame::put_candidates(buf, announcement.number, candidates),
            Content::Ports(ports) => frame::put_ports(buf, announcement.number, *ports),
            Content::ObservedAddress(address) => frame::put_observed_address(buf, *address),
        }
        Some(announcement.number)
    }

    /// The peer has an announcement. Returns what it was, if that is the newest of its kind and anybody waits for this.
    pub(super) fn on_acked(&mut self, number: u64) -> Option<Taken> {
        let position = self.waiting.iter().position(|waiting| waiting.number == number)?;
        match self.waiting.remove(position)?.content {
            Content::Candidates(_) => Some(Taken::Candidates),
            Content::Ports(_) => Some(Taken::Ports),
            Content::ObservedAddress(_) => None,
        }
    }

    pub(super) fn on_lost(&mut self, number: u64) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.number == number) {
            waiting.is_queued = true;
        }
    }

    fn push(&mut self, content: Content) {
        if self.waiting.len() == ANNOUNCEMENTS_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Announcement { number: self.next_number, content, is_queued: true });
        self.next_number += 1;
    }
}

/// Notes a generation. Returns whether it is above all before.
fn is_newest(generation: u64, next: &mut u64) -> bool {
    let is_newest = generation >= *next;
    if is_newest {
        *next = generation + 1;
    }
    is_newest
}
