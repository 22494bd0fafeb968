//! Every environment variable that `pilotctl` reads or sets, in one list (spec/cli.md §2 and §5.7).

/// Where everything an agent keeps lives.
pub(crate) const PILOT_HOME: &str = "PILOT_HOME";
/// The agent that a command speaks for.
pub(crate) const PILOT_AGENT: &str = "PILOT_AGENT";
/// The backbone's ticket.
pub(crate) const PILOT_BACKBONE: &str = "PILOT_BACKBONE";
/// Tags of the agent that is started, comma separated.
pub(crate) const PILOT_TAGS: &str = "PILOT_TAGS";
/// Groups of the agent that is started, comma separated.
pub(crate) const PILOT_GROUPS: &str = "PILOT_GROUPS";
/// What the agent that is started says about itself.
pub(crate) const PILOT_DESCRIPTION: &str = "PILOT_DESCRIPTION";
/// An invite to an organisation.
pub(crate) const PILOT_TOKEN: &str = "PILOT_TOKEN";
/// A file with an invite to an organisation.
pub(crate) const PILOT_TOKEN_FILE: &str = "PILOT_TOKEN_FILE";
/// The UDP address that the agent or the backbone listens on.
pub(crate) const PILOT_LISTEN: &str = "PILOT_LISTEN";
/// How long a verb waits for the other side.
pub(crate) const PILOT_TIMEOUT: &str = "PILOT_TIMEOUT";
/// No colours (no-color.org).
pub(crate) const NO_COLOR: &str = "NO_COLOR";

/// Set by a service manager: where it wants to hear from us (sd_notify(3)).
pub(crate) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// Set by a service manager: how long it waits for a sign of life, in microseconds.
pub(crate) const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
/// Set by a service manager: the process that it watches.
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// Set for handlers: the caller's address.
pub(crate) const PILOT_PEER_ADDRESS: &str = "PILOT_PEER_ADDRESS";
/// Set for handlers: the caller's hostname, if it has one that was verified.
pub(crate) const PILOT_PEER_NAME: &str = "PILOT_PEER_NAME";
/// Set for handlers: the caller's public key.
pub(crate) const PILOT_PEER_KEY: &str = "PILOT_PEER_KEY";
/// Set for handlers: the service that was called.
pub(crate) const PILOT_SERVICE: &str = "PILOT_SERVICE";
/// Set for handlers: the trace id that the caller sent.
pub(crate) const PILOT_TRACE_ID: &str = "PILOT_TRACE_ID";
/// Set for handlers: when the request arrived, in milliseconds since the UNIX epoch.
pub(crate) const PILOT_TIME: &str = "PILOT_TIME";
/// Set for handlers: milliseconds until the caller stops waiting.
pub(crate) const PILOT_DEADLINE_MS: &str = "PILOT_DEADLINE_MS";
