//! Addresses of a peer that nothing but a record names. The record is signed, and may name a victim all the same: few messages of handshakes, each
//! as long as thirty probes, are sent there before one is answered (spec/handshake.md §5).

use std::net::SocketAddr;

use crate::limits::{ADDRESSES_MAX, CONNECT_TIMEOUT, HEARSAY_MESSAGES_MAX};
use crate::time::Mono;

/// Such addresses of one peer, and what was sent there.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    /// Whose turn it is comes first.
    addresses: Vec<SocketAddr>,
    /// When the messages went that still count.
    sent: Vec<Mono>,
}

impl Hearsay {
    /// Takes addresses, the latest first: an earlier record that lies keeps no later one from being tried.
    pub(crate) fn learn(&mut self, addresses: impl Iterator<Item = SocketAddr>) {
        let new: Vec<_> = addresses.filter(|address| !self.addresses.contains(address)).collect();
        self.addresses.splice(..0, new);
        self.addresses.truncate(ADDRESSES_MAX);
    }

    /// Forgets the addresses, and not what was sent.
    pub(crate) fn forget(&mut self) {
        self.addresses.clear();
    }

    /// Whether a message may be sent to an address now. One of these is behind the others then. All others are not counted.
    pub(crate) fn may_send(&mut self, now: Mono, to: &SocketAddr) -> bool {
        let Some(position) = self.addresses.iter().position(|address| address == to) else { return true };
        self.sent.retain(|at| now.since(*at) < CONNECT_TIMEOUT);
        let may = self.sent.len() < HEARSAY_MESSAGES_MAX;
        if may {
            self.sent.push(now);
            self.addresses[position..].rotate_left(1);
        }
        may
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}
