//! Relaying: packets go by a process that knows where each belongs, on a core of its own.
//!
//! Ours is a backbone node that forwards circuits (spec/relay.md §3). Beside it stands the least that such a process can do ([`forwarder`]): trains
//! in, a look-up for each packet, trains out. Both are given the same packets by the same program ([`load`]), which has the other core, and
//! keeps so few under way that none has to be dropped. What counts is a relay's processor time for each packet that came.

pub(crate) mod forwarder;
pub(crate) mod load;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Bytes of each datagram: what fits the packets of nearly all paths.
pub(crate) const DATAGRAM_LEN: usize = 1_400;
/// Datagrams of a train: as many as the kernel takes at once.
const TRAIN: usize = 46;
/// Bytes that tell a session of the bare forwarder.
const SESSION_LEN: usize = 16;

/// By which relay packets go.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum By {
    /// The bare forwarder at that address.
    Forwarder(SocketAddr),
    /// The backbone node of that ticket.
    Backbone(String),
}

/// What a load is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) by: By,
    /// Senders, each with a receiver.
    pub(crate) pairs: usize,
    pub(crate) milliseconds: u64,
}
