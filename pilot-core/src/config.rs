//! Settings of a node.

use std::collections::BTreeSet;

use crate::handshake::{FEATURE_PORTS, Parameters};
use crate::id::ServicePort;
use crate::identity::{Certificate, Identity, TransportKey};
use crate::limits::CREDIT_CAP;
use crate::transport::TransportConfig;
use crate::wire::stream_header::StreamHeader;

/// What a node is in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Keeps a tunnel to a home node and takes circuits from it.
    Agent,
    /// A backbone node: hands circuit and directory streams to its driver and tells every client the address it sees.
    Backbone,
}

/// The secrets that a node runs with.
pub struct Keys {
    /// The long-term identity.
    pub identity: Identity,
    /// Transport keys still honoured, the current one first.
    pub transport: Vec<TransportKey>,
    /// Certifies the current transport key.
    pub certificate: Certificate,
}

/// Settings of a node, chained: `Config::new(Role::Agent).direct(false)`.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) role: Role,
    pub(crate) direct: bool,
    pub(crate) transport: TransportConfig,
    pub(crate) credit: u64,
    pub(crate) replay_safe: BTreeSet<ServicePort>,
}

impl Config {
    /// Settings with every default.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            direct: true,
            transport: TransportConfig::default(),
            credit: CREDIT_CAP,
            replay_safe: BTreeSet::new(),
        }
    }

    /// Whether peers may be reached without a relay; default true. False hides this agent's address from its peers and costs latency.
    #[must_use]
    pub fn direct(mut self, allowed: bool) -> Self {
        self.direct = allowed;
        self
    }

    /// Our limits, as the handshake tells them to the peer.
    pub(crate) fn parameters(&self) -> Parameters {
        let limits = self.transport.local_limits();
        Parameters {
            max_data: limits.max_data,
            max_stream_data: limits.max_stream_data,
            max_streams: limits.max_streams,
            features: FEATURE_PORTS,
            ..Parameters::default()
        }
    }

    /// Settings of each tunnel's streams and recovery.
    #[must_use]
    pub fn transport(mut self, transport: TransportConfig) -> Self {
        self.transport = transport.with_first_grants();
        self
    }

    /// Services whose requests do no harm when they are repeated, so that those in a first message are answered although it may be a
    /// replay (spec/handshake.md §10); default none. Only with the consent of who asks, given in the stream's header. A service that comes
    /// and goes says so by [`Node::set_replay_safe`](crate::node::Node::set_replay_safe).
    #[must_use]
    pub fn replay_safe(mut self, services: &[ServicePort]) -> Self {
        self.replay_safe = services.iter().copied().collect();
        self
    }

    /// Whether a stream may be served although it may be a replay.
    pub(crate) fn is_replay_safe(&self, header: &StreamHeader) -> bool {
        header.replay_safe && self.replay_safe.contains(&header.port)
    }

    /// Bytes of flow-control credit that all tunnels together may earn; default 256 MiB. Less bounds memory, more suits a node with many
    /// busy peers.
    #[must_use]
    pub fn credit(mut self, bytes: u64) -> Self {
        self.credit = bytes;
        self
    }
}
