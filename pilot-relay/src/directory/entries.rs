//! What is served of a registration: the records as they were signed, and whether the agent is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use pilot_core::id::Instance;
use pilot_core::time::UnixTime;
use pilot_core::wire::directory::{Entry, REPLY_LEN_MAX};

use crate::store::{Present, Registration};

/// Bytes of a reply to a search beside its entries, and of an entry beside its records.
const FRAMING_LEN: usize = 64;

/// Tells which instances of agents have a live tunnel to this node.
pub trait Presence {
    /// Whether `instance` has one.
    fn is_connected(&self, instance: &Instance) -> bool;
}

/// What a node keeps for each client with a live tunnel.
impl<V> Presence for BTreeMap<Instance, V> {
    fn is_connected(&self, instance: &Instance) -> bool {
        self.contains_key(instance)
    }
}

/// Whether one of its instances has said how to reach it, and is there.
pub(super) fn is_reachable(now: UnixTime, registration: &Registration, presence: &impl Presence) -> bool {
    registration.presences_at(now).any(|present| presence.is_connected(&present.instance()))
}

/// The registration as a client gets it. Instances that are there come first, then those that were heard of last.
pub(super) fn entry(now: UnixTime, registration: &Registration, presence: &impl Presence) -> Entry {
    let mut presences: Vec<&Present> = registration.presences_at(now).collect();
    presences.sort_by_key(|present| !presence.is_connected(&present.instance()));
    Entry {
        identity: registration.identity_bytes.clone(),
        presences: presences.into_iter().map(|present| present.bytes.clone().into()).collect(),
        reachable: is_reachable(now, registration, presence),
        hand_overs: registration.hand_overs.clone(),
    }
}

/// As many entries as a client accepts in one reply.
pub(super) fn entries_in_bounds(now: UnixTime, ranked: &[Arc<Registration>], presence: &impl Presence) -> Vec<Entry> {
    let mut room = REPLY_LEN_MAX - FRAMING_LEN;
    let mut fits = |entry: &Entry| {
        let proofs: usize = entry.presences.iter().chain(&entry.hand_overs).map(|bytes| bytes.len()).sum();
        room.checked_sub(entry.identity.len() + proofs + FRAMING_LEN).map(|rest| room = rest).is_some()
    };
    let entries = ranked.iter().map(|registration| entry(now, registration, presence));
    entries.take_while(|entry| fits(entry)).collect()
}
