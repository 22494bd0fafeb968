//! The Pilot agent: one event loop that owns one node, its sockets, services and local API.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
mod backbone_link;
pub mod clock;
mod datagrams;
pub mod descriptors;
mod driver;
pub mod home;
mod interfaces;
pub mod logging;
mod names;
pub mod net;
mod netcheck;
mod org;
mod patience;
mod port_mapping;
pub mod renewal;
pub mod rules;
pub mod services;
mod sockets;
pub mod stream;
pub mod stun_servers;
mod timer;
pub mod tls;
