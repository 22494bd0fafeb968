//! The verbs, one file each. A verb's file holds its arguments and `run`, which is the whole of it.

pub(crate) mod answer;
pub(crate) mod backbone;
pub(crate) mod completions;
pub(crate) mod connect;
pub(crate) mod daemon;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod find;
pub(crate) mod group;
pub(crate) mod hand_over;
pub(crate) mod identity;
pub(crate) mod info;
pub(crate) mod join;
pub(crate) mod man;
pub(crate) mod mcp;
pub(crate) mod netcheck;
pub(crate) mod org;
pub(crate) mod peers;
pub(crate) mod ping;
pub(crate) mod query;
pub(crate) mod rules;
pub(crate) mod ticket;

/// Who may call a service besides the agents of the same `PILOT_HOME`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Allow {
    /// Everybody.
    Public,
}
