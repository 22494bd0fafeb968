//! The bodies of the fuzz targets. Development only.
//!
//! Each takes bytes that an attacker or a local program chose, and panics when a promise is broken. `fuzz/` runs them under libFuzzer,
//! `tests/corpora.rs` replays what was found worth keeping with nothing but a stable compiler.
#![forbid(unsafe_code)]

mod control_message;
mod frame;
mod handshake;
mod keys;
mod local_api_request;
mod node;
mod packet;
mod stun;

pub use control_message::control_message;
pub use frame::frame;
pub use handshake::handshake;
pub use local_api_request::local_api_request;
pub use node::node;
pub use packet::packet;
pub use stun::stun;

/// One target.
pub type Target = fn(&[u8]);

/// Every target under the name of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("packet", packet),
    ("frame", frame),
    ("handshake", handshake),
    ("stun", stun),
    ("control_message", control_message),
    ("node", node),
    ("local_api_request", local_api_request),
];
