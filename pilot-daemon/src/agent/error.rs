//! Why an agent does not start, and how failures below are told to a user: with what to do about them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use pilot_core::event::ConnectError;
use pilot_core::transport::Code;

use super::Resolved;
use crate::api::types::{ApiError, ErrorCode};
use crate::home::HomeError;
use crate::stream::{EndedBy, StreamError};

/// Why an agent could not start. Nothing on disk was lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Something about its directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The UDP socket could not be opened.
    #[error("cannot listen on UDP {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The loop could not be set up.
    #[error("the system gives no timer")]
    Timer(#[source] io::Error),
    /// The name or a record does not suit the directory, or the name belongs to another agent.
    #[error("{0}")]
    Registration(ApiError),
}

impl StartError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Home(error) => error.hint(),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                "another program has that port: choose one with --listen, or leave it out for any".into()
            }
            Self::Listen { .. } => "give an address of this machine with --listen, or leave it out".into(),
            Self::Timer(_) => "raise the limit of open files (ulimit -n)".into(),
            Self::Registration(error) => error.hint.clone().unwrap_or_default(),
        }
    }
}

impl From<HomeError> for ApiError {
    fn from(error: HomeError) -> Self {
        Self::new(ErrorCode::Failed, error.to_string()).hint(error.hint())
    }
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        let code = match error.code {
            Code::REFUSED => ErrorCode::Refused,
            Code::NOT_FOUND => ErrorCode::NotFound,
            Code::TIMEOUT | Code::DEADLINE_EXCEEDED => ErrorCode::Timeout,
            Code::UNREACHABLE => ErrorCode::Unreachable,
            _ => ErrorCode::Failed,
        };
        let (message, remedy) = error.reason.split_once('\n').unwrap_or((&error.reason, ""));
        let converted = Self::new(code, if message.is_empty() { error.code.to_string() } else { message.to_owned() });
        match error.code {
            // What the peer advises is its word, not ours.
            _ if !remedy.is_empty() && error.by == EndedBy::Peer => {
                converted.hint(format!("the other side says: {remedy}"))
            }
            _ if !remedy.is_empty() => converted.hint(remedy),
            Code::REFUSED => converted.hint("ask its owner to start the service with --allow public"),
            Code::BUSY => converted.hint("try again in a moment"),
            Code::PEER_RESTARTED => converted.hint("try again: the agent is back"),
            Code::NOT_FOUND => {
                converted.hint("its owner starts one: `pilotctl answer` for queries, `pilotctl mcp serve` for MCP")
            }
            _ if error.by == EndedBy::Peer => converted.hint("the fault is at the other end: its owner can see more"),
            _ => converted,
        }
    }
}

/// What helps where certificates are not of their time.
pub(crate) const COMPARE_CLOCKS: &str = "compare what 'date -u' says on both machines, and set the one that is wrong";

pub(super) fn connect_failed(peer: &Resolved, error: &ConnectError) -> ApiError {
    let who = peer.label();
    if let ConnectError::Refused(_) = error {
        let text = error.to_string();
        let refused = |message: &str| ApiError::new(ErrorCode::Refused, format!("'{who}': {message}"));
        return match text.split_once('\n') {
            Some((message, remedy)) => refused(message).hint(format!("the other side says: {remedy}")),
            None => refused(&text),
        };
    }
    if let ConnectError::Offline(reason) = error {
        return ApiError::new(ErrorCode::Unreachable, format!("'{who}' is not at its backbone node: {reason}"))
            .hint("it is reachable again as soon as its daemon runs");
    }
    if let ConnectError::Busy(_) = error {
        return ApiError::new(ErrorCode::Unreachable, format!("'{who}' cannot be reached now: {error}"))
            .hint("try again in a moment");
    }
    if let ConnectError::Clock(_) = error {
        return ApiError::new(ErrorCode::Unreachable, format!("'{who}' cannot be reached: {error}"))
            .hint(COMPARE_CLOCKS);
    }
    ApiError::new(ErrorCode::Unreachable, format!("'{who}' cannot be reached: {error}"))
        .hint("see whether its daemon runs, and whether UDP gets through between the two machines")
}

pub(super) fn is_itself(peer: &Resolved) -> ApiError {
    ApiError::new(ErrorCode::Usage, format!("'{}' is this agent itself", peer.label()))
        .hint("name another one: `pilotctl find` shows who is there")
}

pub(super) fn timed_out(peer: &Resolved, time_allowed: Duration) -> ApiError {
    let message = format!("no answer from '{}' within {} ms", peer.label(), time_allowed.as_millis());
    ApiError::new(ErrorCode::Timeout, message).hint("allow more with --timeout, or see whether it runs: pilotctl peers")
}

pub(super) fn has_ended() -> ApiError {
    ApiError::new(ErrorCode::NotRunning, "the agent has shut down")
        .hint("start it again: pilotctl daemon start --hostname NAME")
}
