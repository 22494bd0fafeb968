//! What the local API tells of the network around an agent: `GET /v1/netcheck` and `POST /v1/doctor` (spec/local-api.md §9, §10).

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::types::{Finding, Path};

/// `GET /v1/netcheck`. What is not known is null, never a guess.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetCheck {
    /// Whether UDP is answered; none if there is nobody to ask.
    pub udp: Option<bool>,
    /// By IPv4.
    pub ipv4: Family,
    /// By IPv6.
    pub ipv6: Family,
    /// The agent's own socket as its home node sees it.
    pub observed_address: Option<SocketAddr>,
    /// How the NAT gives its sockets outside ports.
    pub mapping: Mapping,
    /// Which packets from outside the NAT lets in.
    pub filtering: Filtering,
    /// How long the NAT keeps a mapping that nobody uses.
    pub mapping_lifetime: Lifetime,
    /// What the router does for the agent.
    pub port_mapping: PortMapping,
    /// The backbone nodes that there is a tunnel with.
    pub relays: Vec<Relay>,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// One family of addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// This machine's own, without loopback and link-local ones.
    pub local: Vec<IpAddr>,
    /// Whether a STUN server has answered; none if none of this family is known.
    pub answered: Option<bool>,
    /// The address that it sees.
    pub observed: Option<IpAddr>,
    /// How long its answer took.
    pub rtt_ms: Option<f64>,
}

/// How long a NAT keeps a mapping without use, as far as that was tried (spec/paths.md §6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// At least so many seconds; none if that is not measured yet, or cannot be.
    pub at_least_s: Option<u64>,
    /// The silence after which the home tunnel is kept by a packet.
    pub keepalive_s: u64,
}

/// How a NAT maps a socket to outside ports (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Of which kind.
    pub kind: MappingKind,
    /// How far each port of a sequence is behind the one before.
    pub step: Option<i16>,
    /// From how many ports a random one is taken.
    pub ports: Option<u32>,
    /// Why it is unknown.
    #[serde(default)]
    pub reason: Option<MappingGap>,
}

/// What outside ports depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingKind {
    /// There is no NAT: the world sees an address of this machine.
    None,
    /// One port, whatever the destination.
    Independent,
    /// One port for all ports of the home node's address; no server at another address has answered.
    PortIndependent,
    /// A port for each destination, one behind the other.
    Sequence,
    /// A port for each destination, anywhere in a set.
    Random,
    /// Nobody has told.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Why it is not known what outside ports depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingGap {
    /// No backbone node sees the agent by UDP.
    NotAsked,
    /// Servers are being asked.
    Asking,
    /// No second STUN server is known.
    NoSecondServer,
    /// No second STUN server has answered.
    NoAnswer,
    /// The system gives no further sockets.
    NoSockets,
    /// The home node has not answered further sockets.
    SocketsUnanswered,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

impl MappingGap {
    /// For people.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::NotAsked => "no backbone sees this agent by UDP",
            Self::Asking => "servers are still being asked",
            Self::NoSecondServer => "no second STUN server is known",
            Self::NoAnswer => "no second STUN server answers",
            Self::NoSockets => "the system gives no further sockets to ask from",
            Self::SocketsUnanswered => "the backbone does not answer further sockets",
            Self::Other => "for a reason that this version does not know",
        }
    }
}

/// Whose packets a NAT lets in (RFC 4787 §5). To tell, somebody has to send from an address that the agent has not sent to, and there is no
/// such server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// Nobody can tell.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A port of the router's that leads to the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// How it stands.
    pub state: MappingState,
    /// By which protocol it was asked for.
    pub protocol: Option<MappingProtocol>,
    /// The router's word on where it is.
    pub address: Option<SocketAddr>,
    /// Seconds that it lasts, unless it is renewed.
    pub expires_s: Option<u64>,
    /// Why there is none.
    pub reason: Option<String>,
}

/// Whether there is a port mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingState {
    /// The settings say no.
    Off,
    /// The router is being asked.
    Asking,
    /// There is none.
    None,
    /// There is one.
    Mapped,
    /// There is no NAT on the way to the home node.
    Unneeded,
    /// The home node has not seen the agent by UDP: whether there is a NAT is not known.
    #[default]
    #[serde(other)]
    Unknown,
}

/// How routers are asked for port mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingProtocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device.
    Upnp,
}

/// A backbone node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relay {
    /// Its identity key.
    pub key: String,
    /// Whether it is the agent's home node.
    pub home: bool,
    /// Where it is reached.
    pub remote: Option<SocketAddr>,
    /// How.
    pub path: Option<Path>,
    /// Round trip of the tunnel.
    pub rtt_ms: Option<f64>,
}

/// Body of `POST /v1/doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorRequest {
    /// An agent: host name, address, key or `pilot:` ticket. Then what keeps the two on the relay is examined too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How long a direct path to it is waited for; the daemon's own default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<u64>,
}

/// Reply of `POST /v1/doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// What was examined, in the order in which one thing needs another.
    pub checks: Vec<Check>,
}

/// One thing that was examined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: `daemon`, `keys`, `clock`, `backbone`, `network`, `nat`, or `peer`.
    pub check: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, for programs; none if all is well.
    pub code: Option<String>,
    /// What was found, for people.
    pub message: String,
    /// What to do about it; none if all is well.
    pub remedy: Option<String>,
}

impl Check {
    /// All is well.
    pub(crate) fn fine(check: &str, message: impl Into<String>) -> Self {
        Self { check: check.to_owned(), ok: true, code: None, message: message.into(), remedy: None }
    }

    /// Something is not as it should be.
    pub(crate) fn wrong(check: &str, code: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (code, remedy) = (Some(code.to_owned()), Some(remedy.into()));
        Self { check: check.to_owned(), ok: false, code, message: message.into(), remedy }
    }
}
