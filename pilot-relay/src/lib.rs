//! The Pilot backbone: STUN, relay and directory.
#![forbid(unsafe_code)]

pub mod circuits;
pub mod limits;
pub mod relay;
pub mod stun;
pub mod train;
