//! Addresses of a peer that nothing but a record names. The record is signed, and may name a victim all the same, and a message of a handshake is as
//! long as thirty probes. So it goes there only once a *knock* was answered: the shortest packet that any node answers, with bytes that nobody
//! else knows. Knocks are paid by the bytes of the record (spec/paths.md §2.3).

use std::net::SocketAddr;

use crate::id::{PacketNumber, SessionIndex};
use crate::limits::{ADDRESSES_MAX, CONNECT_TIMEOUT, HEARSAY_CREDIT_MAX, HEARSAY_MESSAGES_MAX};
use crate::path::PROBE_BYTES_PER_BYTE;
use crate::rng::Rng;
use crate::time::Mono;
use crate::wire::{DataHeader, Unknown};

/// A DATA packet without frames.
const KNOCK_LEN: usize = DataHeader::OVERHEAD;

/// Such addresses of one peer, and what was sent there.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    /// Whose turn it is comes first.
    addresses: Vec<Address>,
    /// Bytes of knocks that records have paid for.
    credit: usize,
    /// When the messages went that still count.
    sent: Vec<Mono>,
}

#[derive(Debug)]
struct Address {
    at: SocketAddr,
    /// What is sent there in the attempt that is under way.
    knock: Option<Knock>,
    /// When that was answered.
    answered: Option<Mono>,
}

/// A packet of no session. It is the same in all of an attempt, so that an answer that is late counts too.
#[derive(Debug)]
pub(crate) struct Knock {
    pub(crate) packet: [u8; KNOCK_LEN],
    pub(crate) answer: Unknown,
}

impl Hearsay {
    /// Takes addresses from a record of which so many bytes are about them, the latest first: an earlier record that lies keeps no later one from
    /// being tried.
    pub(crate) fn learn(&mut self, addresses: impl Iterator<Item = SocketAddr>, record_len: usize) {
        self.credit = (self.credit + record_len * PROBE_BYTES_PER_BYTE).min(HEARSAY_CREDIT_MAX);
        let is_new = |at: &SocketAddr| !self.addresses.iter().any(|known| known.at == *at);
        let new: Vec<_> = addresses.filter(is_new).map(|at| Address { at, knock: None, answered: None }).collect();
        self.addresses.splice(..0, new);
        self.addresses.truncate(ADDRESSES_MAX);
    }

    /// Forgets the addresses, and not what was sent.
    pub(crate) fn forget(&mut self) {
        self.addresses.clear();
    }

    /// Whether a message may be sent to an address now. All others are not counted.
    pub(crate) fn may_send(&mut self, now: Mono, to: &SocketAddr) -> bool {
        let Some(address) = self.addresses.iter().find(|address| address.at == *to) else { return true };
        self.sent.retain(|at| now.since(*at) < CONNECT_TIMEOUT);
        let may = address.has_answered(now) && self.sent.len() < HEARSAY_MESSAGES_MAX;
        if may {
            self.sent.push(now);
        }
        may
    }

    /// The packet to send to an address that has not answered one, if it is paid for. The address is behind the others then. `index`: that of the
    /// attempt, under which the answer comes.
    pub(crate) fn knock(&mut self, now: Mono, to: &SocketAddr, index: SessionIndex, rng: &mut Rng) -> Option<Vec<u8>> {
        let position = self.addresses.iter().position(|address| address.at == *to && !address.has_answered(now))?;
        self.credit = self.credit.checked_sub(KNOCK_LEN)?;
        let address = &mut self.addresses[position];
        if address.knock.as_ref().is_none_or(|knock| knock.answer.receiver != index) {
            address.knock = Some(Knock::new(index, rng));
        }
        let packet = address.knock.as_ref().map(|knock| knock.packet.to_vec());
        self.addresses[position..].rotate_left(1);
        packet
    }

    /// Takes the answer to a knock. Returns whether it is one, and the first.
    pub(crate) fn take_answer(&mut self, now: Mono, from: &SocketAddr, answer: &Unknown) -> bool {
        let Some(address) = self.addresses.iter_mut().find(|address| address.at == *from) else { return false };
        let is_one = address.knock.as_ref().is_some_and(|knock| knock.answer == *answer);
        let is_first = is_one && !address.has_answered(now);
        if is_first {
            address.answered = Some(now);
        }
        is_first
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|address| address.at)
    }
}

impl Address {
    /// For as long as an attempt lasts: somebody else may be there later.
    fn has_answered(&self, now: Mono) -> bool {
        self.answered.is_some_and(|at| now.since(at) < CONNECT_TIMEOUT)
    }
}

impl Knock {
    pub(crate) fn new(index: SessionIndex, rng: &mut Rng) -> Self {
        let packet_number = PacketNumber(u64::from_be_bytes(rng.array()));
        let mut packet: [u8; KNOCK_LEN] = rng.array();
        let header = DataHeader { key_phase: false, receiver: index, packet_number };
        packet[..DataHeader::LEN].copy_from_slice(&header.encode());
        let answer = Unknown::answer(&packet).expect("a header and a tag are a packet");
        Self { packet, answer }
    }
}
