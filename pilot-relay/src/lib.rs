//! The Pilot backbone: STUN, relay and directory.
#![forbid(unsafe_code)]

pub mod circuits;
pub mod directory;
pub mod limits;
pub mod relay;
pub mod store;
pub mod stun;
pub mod train;
