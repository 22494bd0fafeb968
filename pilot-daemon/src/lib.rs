//! The Pilot agent: one event loop that owns one node, its sockets, services and local API.
#![forbid(unsafe_code)]

pub mod api;
pub mod clock;
pub mod home;
pub mod net;
