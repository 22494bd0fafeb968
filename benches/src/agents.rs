//! Agents embedded in this process, for what is measured of the library itself.

use std::net::{Ipv4Addr, SocketAddr};

use pilot_daemon::agent::{Agent, AgentConfig};
use pilot_daemon::home::Home;

use crate::error::BenchError;

/// The service that takes the bytes.
pub(crate) const SERVICE: &str = "4242";

/// Starts an agent on loopback that needs no backbone.
pub(crate) async fn start(home: Home, name: &str) -> Result<Agent, BenchError> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Agent::start(AgentConfig { listen, ..AgentConfig::new(home, name) }).await.map_err(wrong)
}

pub(crate) fn wrong(error: impl std::fmt::Display) -> BenchError {
    BenchError::Wrong(error.to_string())
}
