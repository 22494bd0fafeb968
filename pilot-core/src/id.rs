//! Identifiers and counters as types, so that one cannot stand in for another.

use std::fmt;
use std::ops::RangeInclusive;

/// The public Ed25519 key of an agent: what is pinned and trusted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityKey(pub [u8; 32]);

/// First four bytes of SHA-256 of a transport key, as named in handshakes (spec/handshake.md §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

/// Names a session at its receiver, instead of an IP address; random, chosen by the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIndex(pub u32);

/// Names a tunnel over all its sessions; chosen by the initiator of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub [u8; 16]);

/// Names one installation of an identity; random per home directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub [u8; 8]);

/// One installation of an identity: who a tunnel is with, to the last detail (spec/handshake.md §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// The identity.
    pub key: IdentityKey,
    /// Which of its installations.
    pub id: InstanceId,
}

impl Instance {
    /// What lies between the least and the greatest instance of an identity: all that there can be.
    pub fn all_of(key: IdentityKey) -> RangeInclusive<Self> {
        Self { key, id: InstanceId([0; 8]) }..=Self { key, id: InstanceId([0xff; 8]) }
    }
}

/// Counts the packets that one side sends in a tunnel, over all its sessions and paths. Also the AEAD nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketNumber(pub u64);

/// Names a bidirectional stream of a tunnel. The lowest bit tells who opened it (spec/streams.md §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Names a path of one peer at this node; local, counted up, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// Names one end of a relayed circuit at its backbone node; random, chosen by that node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitId(pub u32);

/// Names the service of an agent that a stream is for (spec/streams.md §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort(pub u16);

impl ServicePort {
    /// Returns every byte as it came: the round trip that `ping` measures.
    pub const ECHO: Self = Self(7);
    /// Calls to a backbone node's directory: one CBOR request, one CBOR reply.
    pub const DIRECTORY: Self = Self(53);
    /// Circuits: `circuit.open` towards a backbone node, `circuit.offer` from it.
    pub const CIRCUIT: Self = Self(54);
    /// Between members of an organisation (spec/org.md §3).
    pub const ORG: Self = Self(55);
    /// One request, one reply, a deadline.
    pub const QUERY: Self = Self(100);
    /// Newline-delimited JSON-RPC of the Model Context Protocol.
    pub const MCP: Self = Self(101);
    /// Bytes between people or agents: `pilotctl connect`.
    pub const MESSAGE: Self = Self(102);
}

impl PacketNumber {
    /// The number of the packet after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({})", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

impl fmt::Display for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}
