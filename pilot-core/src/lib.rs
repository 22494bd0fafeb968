//! The Pilot protocol as pure state machines.
//!
//! Nothing here opens a socket, reads a clock, takes a lock or asks for entropy: all of that is an argument.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod address;
pub mod crypto;
pub mod event;
pub mod id;
pub mod identity;
pub mod limits;
pub mod rng;
pub mod route;
pub mod stats;
pub mod ticket;
pub mod time;
pub mod transport;
pub mod wire;
