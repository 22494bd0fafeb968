//! What happened in a world: a running hash over all of it, and the last entries for people.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use pilot_core::time::Mono;

use crate::host::Happening;
use crate::link::Fate;
use crate::realm::Endpoint;
use crate::world::{HostId, START};

/// Entries kept for a failure's report: about as many as a person reads.
const TAIL_LEN: usize = 60;

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A host gave a datagram to its link.
    Sent { from: HostId, to: Option<Endpoint>, len: usize, first: u8, fate: Fate },
    /// A gateway at the end of a link let a datagram in no further.
    Stopped { from: HostId, at: Endpoint, fate: Fate },
    /// A host took a datagram.
    Arrived { from: HostId, to: HostId, len: usize, first: u8 },
    /// A host's timer fired.
    Timeout(HostId),
    /// A node told its driver something.
    Event(HostId, Box<Happening>),
    /// The scenario did something.
    Note(String),
}

/// The record of a run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    tail: VecDeque<(Mono, Entry)>,
}

impl Trace {
    /// Notes an entry; `content` stands for the datagram's bytes in the hash.
    pub(crate) fn push(&mut self, at: Mono, entry: Entry, content: u64) {
        (at, content).hash(&mut self.hasher);
        match &entry {
            Entry::Sent { from, to, len, fate, .. } => (0, from, to, len, fate).hash(&mut self.hasher),
            Entry::Stopped { from, at, fate } => (5, from, at, fate).hash(&mut self.hasher),
            Entry::Arrived { from, to, len, .. } => (1, from, to, len).hash(&mut self.hasher),
            Entry::Timeout(host) => (2, host).hash(&mut self.hasher),
            Entry::Event(host, happening) => (3, host, happening.discriminant()).hash(&mut self.hasher),
            Entry::Note(text) => (4, text).hash(&mut self.hasher),
        }
        if self.tail.len() == TAIL_LEN {
            self.tail.pop_front();
        }
        self.tail.push_back((at, entry));
    }

    /// Stands for everything that has happened.
    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tail.iter().try_for_each(|(at, entry)| writeln!(f, "  {:>13.6} {entry}", since_start(*at).as_secs_f64()))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { from, to: Some(to), len, first, fate } => {
                write!(f, "{from} -> {to} {} of {len} B: {fate:?}", kind(*first))
            }
            Self::Sent { from, to: None, len, first, fate } => {
                write!(f, "{from} -> nobody, {} of {len} B: {fate:?}", kind(*first))
            }
            Self::Stopped { from, at, fate } => write!(f, "{at} stops what came from {from}: {fate:?}"),
            Self::Arrived { from, to, len, first } => write!(f, "{to} <- {from} {} of {len} B", kind(*first)),
            Self::Timeout(host) => write!(f, "{host} timer"),
            Self::Event(host, happening) => match &**happening {
                Happening::Agent(event) => write!(f, "{host} {event:?}"),
                Happening::Backbone(event) => write!(f, "{host} {event:?}"),
            },
            Self::Note(text) => write!(f, "scenario: {text}"),
        }
    }
}

/// Virtual time since the world began.
pub(crate) fn since_start(at: Mono) -> Duration {
    at.since(START)
}

/// Name of a packet by its first byte.
fn kind(first: u8) -> String {
    pilot_core::wire::peek(&[first]).map_or_else(|_| "junk".to_owned(), |kind| format!("{kind:?}"))
}
