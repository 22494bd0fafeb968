//! The Pilot protocol as pure state machines.
//!
//! Nothing here opens a socket, reads a clock, takes a lock or asks for entropy: all of that is an argument.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod address;
pub mod config;
pub mod crypto;
mod dial;
pub mod directory;
mod effort;
pub mod event;
pub mod handshake;
mod hearsay;
pub mod id;
pub mod identity;
mod keepalive;
pub mod limits;
pub mod mapping;
pub mod node;
pub mod org;
mod path;
mod peer;
pub mod record;
pub mod rng;
pub mod route;
pub mod session;
pub mod stats;
pub mod stun;
pub mod ticket;
pub mod time;
pub mod transport;
mod transport_key;
mod tunnel;
#[cfg(test)]
mod vectors;
pub mod wire;
