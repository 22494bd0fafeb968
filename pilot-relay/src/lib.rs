//! The Pilot backbone: STUN, relay and directory (spec/backbone.md).
//!
//! [`backbone::Backbone`] is the whole as one sans-IO machine with the five verbs of a node, built of parts that stand alone:
//!
//! ```text
//! datagram --peek--> stun       answers strangers with their address
//!                    relay      RELAY packets along circuits, in trains
//!                    node       tunnels; their streams go to
//!                      control    circuit.open, and the calls to
//!                        directory  over a store, and a journal of what must be on disk first
//! ```
//!
//! With the feature `server`, `driver::serve` gives it a socket, a home directory and an end.
#![forbid(unsafe_code)]

pub mod backbone;
pub mod circuits;
pub mod control;
pub mod directory;
#[cfg(feature = "server")]
pub mod driver;
pub mod journal;
pub mod limits;
pub mod relay;
pub mod roles;
#[cfg(feature = "server")]
mod second_stun;
#[cfg(feature = "server")]
pub mod status_api;
pub mod store;
pub mod stun;
#[cfg(feature = "server")]
mod tls_listener;
pub mod train;
#[cfg(feature = "server")]
mod writer;
