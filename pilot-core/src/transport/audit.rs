//! The books of a transport, recomputed from first principles for the simulator.

use crate::id::{PathId, StreamId};
use crate::time::Mono;

/// The state that invariants are checked on. Every number that the transport also counts along stands beside its recount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// One entry a path.
    pub paths: Vec<PathAudit>,
    /// One entry an open stream.
    pub streams: Vec<StreamAudit>,
    /// Stream data sent for the first time: the counter.
    pub data_sent: u64,
    /// What the peer allows of it.
    pub data_sent_max: u64,
    /// Stream data received, up to the highest offset of each stream: the counter.
    pub data_received: u64,
    /// What was granted of it.
    pub data_received_max: u64,
    /// What was granted and not read yet, whether it has come or not.
    pub data_kept_max: u64,
    /// The tunnel's window, which bounds it.
    pub window: u64,
    /// Highest offsets of open streams, and final sizes of closed ones, summed up: equals `data_sent`.
    pub data_sent_recount: u64,
    /// As above, for `data_received`.
    pub data_received_recount: u64,
    /// Stretches of data beyond a gap, over all streams.
    pub gap_chunks: usize,
    /// The bound on them.
    pub gap_chunks_max: usize,
    /// Armed timers.
    pub timers: Vec<(TimerKind, Mono)>,
}

/// The books of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathAudit {
    /// The path.
    pub path: PathId,
    /// The counter.
    pub bytes_in_flight: u64,
    /// Bytes of all packets sent on the path and neither acknowledged nor lost.
    pub unacked_bytes: u64,
}

/// The books of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAudit {
    /// The stream.
    pub stream: StreamId,
    /// Highest offset sent.
    pub sent: u64,
    /// What the peer allows of it.
    pub sent_max: u64,
    /// Bytes taken from the writer and not yet acknowledged.
    pub send_buffered: usize,
    /// The bound on them.
    pub send_buffered_max: usize,
    /// Highest offset received.
    pub received: u64,
    /// What was granted of it.
    pub received_max: u64,
    /// Bytes received and not yet read, gaps apart.
    pub receive_buffered: u64,
    /// Bytes read, or consumed as stream header.
    pub read: u64,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerKind {
    /// A packet that later ones have overtaken counts as lost then (RFC 9002 §6.1.2).
    Loss,
    /// Probe timeout (RFC 9002 §6.2).
    Pto,
    /// The pacer lets the next packets go.
    Pacing,
    /// A delayed acknowledgement is due.
    AckDelay,
    /// Streams report that they stall.
    Stalled,
    /// The tunnel is given up.
    Idle,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bytes in flight are not the sum of the unacknowledged packets.
    #[error("bytes in flight of {path:?} are {counted}, unacknowledged are {recounted}")]
    BytesInFlight {
        /// The path.
        path: PathId,
        /// The counter.
        counted: u64,
        /// The sum.
        recounted: u64,
    },
    /// More was sent or accepted than was granted.
    #[error("{what}: {used} used of {granted}")]
    Credit {
        /// Which credit.
        what: &'static str,
        /// Used.
        used: u64,
        /// Granted.
        granted: u64,
    },
    /// A counter differs from its recount.
    #[error("{what}: counted {counted}, recounted {recounted}")]
    Count {
        /// Which counter.
        what: &'static str,
        /// The counter.
        counted: u64,
        /// The recount.
        recounted: u64,
    },
    /// A buffer is above its bound.
    #[error("{what}: {len} above the bound of {max}")]
    Buffer {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        len: u64,
        /// Its bound.
        max: u64,
    },
    /// A timer that should have been handled is still armed.
    #[error("timer {0:?} is in the past")]
    Timer(TimerKind),
}

impl Audit {
    /// Checks every invariant. Call it after `handle_timeout(now)` and after the output is drained.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self, now: Mono) -> Result<(), Violation> {
        self.check_paths()?;
        self.check_credit()?;
        self.check_buffers()?;
        match self.timers.iter().find(|(_, at)| *at <= now) {
            Some((kind, _)) => Err(Violation::Timer(*kind)),
            None => Ok(()),
        }
    }

    fn check_paths(&self) -> Result<(), Violation> {
        match self.paths.iter().find(|path| path.bytes_in_flight != path.unacked_bytes) {
            Some(&PathAudit { path, bytes_in_flight: counted, unacked_bytes: recounted }) => {
                Err(Violation::BytesInFlight { path, counted, recounted })
            }
            None => Ok(()),
        }
    }

    fn check_credit(&self) -> Result<(), Violation> {
        within("tunnel data sent", self.data_sent, self.data_sent_max)?;
        within("tunnel data received", self.data_received, self.data_received_max)?;
        within("tunnel window", self.data_kept_max, self.window)?;
        equal("tunnel data sent", self.data_sent, self.data_sent_recount)?;
        equal("tunnel data received", self.data_received, self.data_received_recount)?;
        self.streams.iter().try_for_each(|stream| {
            within("stream data sent", stream.sent, stream.sent_max)?;
            within("stream data received", stream.received, stream.received_max)
        })
    }

    fn check_buffers(&self) -> Result<(), Violation> {
        let bounded =
            |what, len: u64, max: u64| if len <= max { Ok(()) } else { Err(Violation::Buffer { what, len, max }) };
        bounded("gap chunks", self.gap_chunks as u64, self.gap_chunks_max as u64)?;
        self.streams.iter().try_for_each(|stream| {
            bounded("send buffer", stream.send_buffered as u64, stream.send_buffered_max as u64)?;
            bounded("receive buffer", stream.receive_buffered, stream.received_max.saturating_sub(stream.read))
        })
    }
}

fn within(what: &'static str, used: u64, granted: u64) -> Result<(), Violation> {
    if used <= granted { Ok(()) } else { Err(Violation::Credit { what, used, granted }) }
}

fn equal(what: &'static str, counted: u64, recounted: u64) -> Result<(), Violation> {
    if counted == recounted { Ok(()) } else { Err(Violation::Count { what, counted, recounted }) }
}
