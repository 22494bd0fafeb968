//! Why a figure could not be measured.

use std::io;
use std::path::PathBuf;

use pilot_daemon::api::types::ApiError;

/// Why a figure could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The system said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is no program to measure.
    #[error(
        "no pilotctl at {0}: build it first with `cargo build --release -p pilot-ctl`, or name another in PILOTCTL"
    )]
    NoPilotctl(PathBuf),
    /// `pilotctl` failed.
    #[error("`pilotctl {command}` failed: {output}")]
    Pilotctl {
        /// Its arguments.
        command: String,
        /// What it said.
        output: String,
    },
    /// A daemon refused a call.
    #[error("a daemon refused a call: {0:?}")]
    Api(ApiError),
    /// What came is not what was sent.
    #[error("{0}")]
    Wrong(String),
}

#[cfg(feature = "peers")]
impl BenchError {
    /// What somebody's library says went wrong.
    pub(crate) fn wrong(error: impl std::fmt::Display) -> Self {
        Self::Wrong(error.to_string())
    }
}

impl From<ApiError> for BenchError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}
