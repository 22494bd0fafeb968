//! File descriptors: how many this process may have, and how many of them local programs may take.
//!
//! Each connection of a program takes one. When all were taken the daemon could neither read a file nor answer `status`, so some are kept
//! back (spec/failures.md §2).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that programs leave alone: sockets, timer, log and runtime take half of them, files that are read and replaced the rest.
const RESERVED: u64 = 32;

/// Asks the system for as many descriptors as `connections` and the daemon itself need; the usual limit of 1,024 is meant to be raised.
///
/// For whoever owns the process: an agent inside another program leaves its limits alone.
pub fn raise_limit(connections: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = (connections as u64).saturating_add(RESERVED);
    let granted = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if current.is_none_or(|current| current >= granted) {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(granted), maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// How many of `connections` there are descriptors for.
pub(crate) fn connections_within_limit(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let left = usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
    // With fewer descriptors than that nothing would work; one connection says so.
    connections.min(left).max(1)
}
