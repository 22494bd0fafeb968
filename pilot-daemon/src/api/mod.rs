//! The local API: HTTP/1.1 and JSON over a Unix socket (spec/local-api.md). Types and client are shared with `pilotctl`.

pub mod client;
mod datagrams;
pub mod network;
pub mod orgs;
mod pump;
pub mod request;
pub mod rules;
pub mod server;
pub mod types;

pub use pump::hung_up;

/// Version of the API, sent in [`VERSION_HEADER`] with every reply.
pub const VERSION: u32 = 1;
/// Names [`VERSION`] in every reply.
pub const VERSION_HEADER: &str = "pilot-api-version";
/// Largest body of a call: what a program has to say at once when it opens a stream, for one.
pub const BODY_LEN_MAX: usize = 64 * 1024;
/// Token of the `Upgrade` header that turns a connection into the bytes of a stream.
pub const UPGRADE: &str = "pilot";

/// Headers of a stream, in requests and in the `101` (spec/local-api.md §4).
pub mod header {
    /// Names the stream at this daemon, for `GET /v1/streams/{id}`.
    pub const STREAM: &str = "pilot-stream";
    /// Address of the agent called.
    pub const ADDRESS: &str = "pilot-address";
    /// Name of the agent at the other end, if it is known.
    pub const PEER_NAME: &str = "pilot-peer-name";
    /// Address of the agent that called.
    pub const PEER: &str = "pilot-peer";
    /// Identity key of the agent at the other end.
    pub const PEER_KEY: &str = "pilot-peer-key";
    /// Service that the stream is for.
    pub const SERVICE: &str = "pilot-service";
    /// Milliseconds after which the caller no longer wants an answer.
    pub const DEADLINE_MS: &str = "pilot-deadline-ms";
    /// How urgent the stream's data is: 0 goes first, 7 last.
    pub const URGENCY: &str = "pilot-urgency";
    /// Whether the request may be repeated without harm.
    pub const REPLAY_SAFE: &str = "pilot-replay-safe";
    /// Media type of the stream's data.
    pub const CONTENT_TYPE: &str = "pilot-content-type";
    /// W3C trace context that the caller passed on.
    pub const TRACE_ID: &str = "pilot-trace-id";
    /// When the stream arrived, in milliseconds since the UNIX epoch.
    pub const TIME: &str = "pilot-time";
}
