//! What must hold on every host after every step, whatever the network does.
//!
//! The accounts of each tunnel come from [`pilot_core::transport::Audit`], recomputed from first principles; the content of streams is
//! checked by [`crate::application`]; timers and loops by the world itself. Each rule can be broken on purpose
//! (`Sabotage` in the transport of pilot-core), and `tests/sabotage.rs` shows that the simulator notices.

use std::fmt;
use std::time::Duration;

use pilot_core::node::{Node, OpenStreamError};
use pilot_core::time::Mono;
use pilot_core::transport;

use crate::application::{JobFault, JobId, StreamFault};
use crate::world::HostId;

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// The bytes in flight of a path are the sum of its unacknowledged packets.
    BytesInFlight,
    /// Neither side sends or accepts more stream data than was granted.
    Credit,
    /// A counter equals its recount.
    Count,
    /// No buffer is above its bound.
    Buffers,
    /// Delivered bytes are a prefix of the bytes sent.
    Content,
    /// Once the timers that are due have been handled, every armed timer lies in the future.
    Timers,
    /// A host asked for its output stops producing it.
    Progress,
    /// What a scenario waits for happens in time.
    Scenario,
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// In the accounts of a tunnel.
    #[error(transparent)]
    Transport(#[from] transport::Violation),
    /// On a stream.
    #[error("{0}: {1}")]
    Stream(JobId, StreamFault),
    /// The timer of a host is still due after it was handled.
    #[error("the timer is {0:?} in the past after it was handled")]
    Timer(Duration),
    /// A host goes on producing output without end.
    #[error("no end of output after {0} rounds")]
    Livelock(usize),
    /// The node did not do what the scenario asked for.
    #[error("the node refused: {0}")]
    Refused(OpenStreamError),
    /// Something did not happen in time.
    #[error("{0} did not happen within {1:?}")]
    Deadline(String, Duration),
}

impl Violation {
    /// The rule that was broken.
    pub fn invariant(&self) -> Invariant {
        match self {
            Self::Transport(violation) => invariant_of(violation),
            Self::Stream(..) => Invariant::Content,
            Self::Timer(_) => Invariant::Timers,
            Self::Livelock(_) => Invariant::Progress,
            Self::Refused(_) | Self::Deadline(..) => Invariant::Scenario,
        }
    }
}

/// A broken rule, with what is needed to see it again.
#[derive(Clone)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// Virtual time since the world began.
    pub at: Duration,
    /// Where; none if it concerns the whole scenario.
    pub host: Option<HostId>,
    /// What.
    pub violation: Violation,
    /// The last things that happened, and the state of the hosts.
    pub report: String,
}

impl From<JobFault> for Violation {
    fn from(fault: JobFault) -> Self {
        match fault {
            JobFault::Open(error) => Self::Refused(error),
            JobFault::Stream(job, fault) => Self::Stream(job, fault),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, violation, report, .. } = self;
        let host = self.host.map_or_else(|| "the scenario".to_owned(), |host| host.to_string());
        let invariant = violation.invariant();
        write!(
            f,
            "{invariant:?} broken at {host} after {at:?}: {violation}\nreplay with PILOT_SIM_SEED={seed}\n{report}"
        )
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

/// Checks the accounts of every tunnel of a node.
pub(crate) fn check_node(node: &Node, now: Mono) -> Result<(), Violation> {
    node.audit_credit()?;
    node.audit(now).try_for_each(|(_, audit)| Ok(audit.check(now)?))
}

fn invariant_of(violation: &transport::Violation) -> Invariant {
    match violation {
        transport::Violation::BytesInFlight { .. } => Invariant::BytesInFlight,
        transport::Violation::Credit { .. } => Invariant::Credit,
        transport::Violation::Buffer { .. } => Invariant::Buffers,
        transport::Violation::Timer(_) => Invariant::Timers,
        transport::Violation::Count { .. } => Invariant::Count,
    }
}
