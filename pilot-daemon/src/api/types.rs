//! Requests, replies and errors of the local API (spec/local-api.md §3). Fields are added, never renamed or removed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Why a call failed, what to do about it, and the class that decides `pilotctl`'s exit code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The class.
    pub code: ErrorCode,
    /// What failed and why: lower case, no full stop.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Classes of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// Anything else.
    Failed,
    /// The request makes no sense.
    Usage,
    /// No daemon answers.
    NotRunning,
    /// No such agent or service.
    NotFound,
    /// The other side's policy says no.
    Refused,
    /// Not within the time allowed.
    Timeout,
    /// The agent is known, but no way to it works.
    Unreachable,
}

/// Body of every reply that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ApiError,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Host name of the agent.
    pub name: String,
    /// Its address, `0:HHHH.HHHH.HHHH`.
    pub address: String,
    /// Its identity key in base32.
    pub key: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Version of the daemon.
    pub version: String,
    /// Whether a service manager has started it, and would start it again.
    #[serde(default)]
    pub supervised: bool,
    /// Labels it is found by.
    pub tags: Vec<String>,
    /// Groups it is a member of.
    pub groups: Vec<String>,
    /// What it says about itself.
    pub description: String,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// Its backbone node; none when it runs by tickets alone.
    pub backbone: Option<Backbone>,
    /// Whether direct paths are allowed.
    pub direct: bool,
    /// The Unix socket of this API; none for an agent that serves none.
    pub socket: Option<PathBuf>,
    /// The UDP address it listens on.
    pub listen: SocketAddr,
    /// Why the file of rules is not in force, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules_error: Option<String>,
    /// Services that have handlers.
    pub services: Vec<Service>,
    /// Counters of socket and node.
    pub counters: BTreeMap<String, u64>,
    /// Datagrams dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// The backbone node of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backbone {
    /// Its ticket.
    pub ticket: String,
    /// Whether the tunnel to it is up.
    pub connected: bool,
    /// Whether the directory has taken this agent's records.
    pub registered: bool,
    /// How that tunnel runs, while it is up.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// Why not by UDP, and what else is strange on the way.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// How it sees this agent.
    pub observed_address: Option<SocketAddr>,
    /// Why the directory has not taken them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How the tunnel to a backbone node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Over UDP.
    Udp,
    /// Over TLS and TCP, because UDP is not answered.
    Tls,
}

/// Something about the network that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What, for programs.
    pub code: FindingCode,
    /// What, for people.
    pub message: String,
}

/// What can be found out about the way to the backbone node (spec/tcp.md §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingCode {
    /// Nothing comes back by UDP.
    UdpBlocked,
    /// TLS does not end at the backbone node.
    TlsIntercepted,
    /// No TLS link came about.
    TlsFailed,
    /// In the node's place something answers as it would a browser: a network that wants a sign-in, most likely.
    Captive,
    /// The proxy wants other credentials.
    ProxyCredentials,
    /// The proxy cannot be used, or does not connect.
    ProxyFailed,
    /// What is of no kind that this version knows.
    #[serde(other)]
    Other,
}

impl FindingCode {
    /// Its name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::UdpBlocked => "udp_blocked",
            Self::TlsIntercepted => "tls_intercepted",
            Self::TlsFailed => "tls_failed",
            Self::Captive => "captive",
            Self::ProxyCredentials => "proxy_credentials",
            Self::ProxyFailed => "proxy_failed",
            Self::Other => "other",
        }
    }
}

/// A service with handlers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `mcp`, `query`, `message`, `echo` or a port number.
    pub service: String,
    /// Whether anybody may call it.
    pub public: bool,
    /// What it offers, in its own words.
    pub offer: String,
    /// Handlers that wait for a stream.
    pub waiting: usize,
}

/// `GET /v1/peers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// Agents and backbone nodes known.
    pub peers: Vec<Peer>,
}

/// An agent that this one knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name, if one was resolved.
    pub name: Option<String>,
    /// Its address, once it is known.
    pub address: Option<String>,
    /// Its identity key.
    pub key: String,
    /// Whether it is a backbone node.
    pub backbone: bool,
    /// Whether there is a tunnel.
    pub connected: bool,
    /// How the tunnel runs.
    pub path: Option<Path>,
    /// Remote socket address of a direct path.
    pub remote: Option<SocketAddr>,
    /// Key of the backbone node that relays.
    #[serde(default)]
    pub relay: Option<String>,
    /// Where that node is reached, if it is reached directly.
    #[serde(default)]
    pub relay_remote: Option<SocketAddr>,
    /// Seconds since this tunnel uses this path.
    #[serde(default)]
    pub path_s: Option<f64>,
    /// Smoothed round trip.
    pub rtt_ms: Option<f64>,
    /// Seconds since the tunnel came up.
    pub connected_s: Option<f64>,
    /// Bytes of sealed packets sent.
    pub bytes_sent: u64,
    /// Bytes of sealed packets received.
    pub bytes_received: u64,
    /// Packets sent on the path in use.
    #[serde(default)]
    pub sent_packets: u64,
    /// Of these, how many were declared lost.
    pub lost_packets: u64,
    /// Streams open.
    pub streams: usize,
}

/// How a tunnel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// From socket to socket.
    Direct,
    /// Through a backbone node.
    Relay,
    /// To a backbone node, over TLS and TCP.
    Tls,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Tls => "tls",
        })
    }
}

/// `POST /v1/resolve`, and each agent that `POST /v1/find` finds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its name; none for an agent known by its ticket alone.
    pub name: Option<String>,
    /// Its address.
    pub address: String,
    /// Its identity key.
    pub key: String,
    /// Labels it is found by.
    pub tags: Vec<String>,
    /// Groups it is a member of.
    pub groups: Vec<String>,
    /// What it says about itself.
    pub description: String,
    /// Services it offers.
    pub offers: Vec<Offer>,
    /// Whether its backbone node has a tunnel with it; none when no backbone was asked.
    pub reachable: Option<bool>,
    /// Round trip, where there is a tunnel.
    pub rtt_ms: Option<f64>,
}

/// A service that an agent offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// `mcp`, `query`, ... or a port number.
    pub service: String,
    /// What it does.
    pub description: String,
}

/// Body of `POST /v1/resolve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveRequest {
    /// Host name, address, key or `pilot:` ticket.
    pub target: String,
}

/// Body of `POST /v1/ping` and `POST /v1/connect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRequest {
    /// Host name, address, key or `pilot:` ticket.
    pub target: String,
    /// Time allowed; the daemon's own default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Reply of `POST /v1/ping` and `POST /v1/connect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// Address of the agent.
    pub address: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Round trip of the ping, or of the tunnel.
    pub rtt_ms: f64,
    /// How the tunnel runs.
    pub path: Option<Path>,
    /// Remote socket address of a direct path.
    #[serde(default)]
    pub remote: Option<SocketAddr>,
}

/// Body of `POST /v1/find`. All that is given must hold; words rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindRequest {
    /// Only agents with this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only members of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Only agents whose description or offers fit these words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub need: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u16>,
}

/// Reply of `POST /v1/find`, best first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The agents found.
    pub agents: Vec<AgentInfo>,
}

/// Body of `POST /v1/groups`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupsRequest {
    /// Groups to become a member of.
    #[serde(default)]
    pub join: Vec<String>,
    /// Groups to leave.
    #[serde(default)]
    pub leave: Vec<String>,
}

/// Reply of `POST /v1/groups`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// Groups that the agent is a member of now.
    pub groups: Vec<String>,
}

/// Body of `POST /v1/hand-over`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOverRequest {
    /// The key that is to have this agent's name.
    pub to: String,
}

/// Reply of `POST /v1/hand-over`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// The name.
    pub name: String,
    /// The key that had it.
    pub from: String,
    /// The key that has it now.
    pub to: String,
}

/// Body of `PUT /v1/settings`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Allow direct paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    /// Labels to be found by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// What the agent says about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Reply of `GET /v1/published`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Whether the directory has what this agent last said of itself; none when there is no backbone node to tell.
    pub published: Option<bool>,
    /// Why it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// Reply of `GET /v1/ticket`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketReply {
    /// `pilot:` and all that another agent needs to reach this one.
    pub ticket: String,
}

/// Reply of calls that have nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// `GET /v1/streams/{id}`: how a stream fares, and for 60 s how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// The stream's number at this daemon.
    pub id: u64,
    /// Whether it is over, and how.
    pub state: StreamState,
    /// Name of the code of a reset, for example `refused` or `peer_restarted`.
    pub code: Option<String>,
    /// What was said with it.
    pub reason: Option<String>,
    /// Who ended it.
    pub by: Option<EndedBy>,
    /// The same as an error, when the stream did not end well.
    pub error: Option<ApiError>,
    /// The peer has not answered for 5 s.
    pub stalled: bool,
    /// Bytes taken from the local program.
    pub bytes_sent: u64,
    /// Bytes given to it.
    pub bytes_received: u64,
    /// The peer has finished its direction: all that it had to say has arrived, whatever became of the other direction.
    #[serde(default)]
    pub peer_finished: bool,
}

/// Body of `POST /v1/streams/{id}/reset`: ends a stream with an error that its other end is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetRequest {
    /// The class that the other end's error has.
    pub code: ErrorCode,
    /// Why, at most 256 bytes of it.
    pub reason: String,
}

/// Whether a stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamState {
    /// Bytes may still flow.
    Open,
    /// Both directions ended as they should, and everything arrived.
    Finished,
    /// It ended early.
    Reset,
}

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndedBy {
    /// The other agent.
    Peer,
    /// This side: the program, or the daemon for it.
    Local,
    /// The tunnel broke.
    Network,
}

/// What to open, for `POST /v1/streams`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenRequest {
    /// Host name, address, key or `pilot:` ticket.
    pub target: String,
    /// `mcp`, `query`, `message`, `echo` or a port number.
    pub service: String,
    /// Milliseconds after which no answer is wanted.
    pub deadline_ms: Option<u64>,
    /// Media type of the data.
    pub content_type: Option<String>,
    /// 0 goes first, 7 last; 3 if none is given.
    pub urgency: Option<u8>,
    /// The request may be repeated without harm: it travels in the first message to the agent, which has no forward secrecy.
    pub replay_safe: bool,
    /// All that the program has to say, at most [`BODY_LEN_MAX`](super::BODY_LEN_MAX) bytes; empty: it says it on the socket.
    pub request: Vec<u8>,
}

/// The head of the `101` that answers [`OpenRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The stream's number at this daemon.
    pub stream: u64,
    /// Address of the agent called.
    pub address: String,
    /// Its name, if it has one.
    pub peer_name: Option<String>,
}

/// What to accept, for `GET /v1/accept`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcceptRequest {
    /// `mcp`, `query`, `message` or a port number.
    pub service: String,
    /// Let anybody call, not only agents of this home.
    pub public: bool,
    /// What the service does, for the directory.
    pub offer: Option<String>,
    /// To be asked twice does no harm.
    pub replay_safe: bool,
}

/// The head of the `101` that answers [`AcceptRequest`]: who calls. Everything but the name is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The stream's number at this daemon.
    pub stream: u64,
    /// Address of the caller.
    pub peer: String,
    /// Identity key of the caller.
    pub peer_key: String,
    /// Its name, if this agent has resolved it.
    pub peer_name: Option<String>,
    /// Service called.
    pub service: String,
    /// Milliseconds after which no answer is wanted.
    pub deadline_ms: Option<u64>,
    /// Media type of the data.
    pub content_type: Option<String>,
    /// How urgent the caller finds it: 0 goes first, 7 last.
    pub urgency: Option<u8>,
    /// Trace context, in hexadecimal.
    pub trace_id: Option<String>,
    /// When the stream arrived, in milliseconds since the UNIX epoch.
    pub time_ms: u64,
}

/// What `GET /v1/datagrams` is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatagramsRequest {
    /// Take the messages for this service; none to send only.
    pub service: Option<String>,
    /// Take those of anybody, not only of agents of this home.
    pub public: bool,
}

/// A line to the daemon: an unreliable message to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramToSend {
    /// Host name, address, key or `pilot:` ticket.
    pub to: String,
    /// A service, or a port number.
    pub service: String,
    /// The message, in base64.
    pub data: String,
}

/// A line from the daemon: an unreliable message that has come. Who sent it is proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramReceived {
    /// Address of the sender.
    pub peer: Option<String>,
    /// Its identity key.
    pub key: String,
    /// The message, in base64.
    pub data: String,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same error with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
