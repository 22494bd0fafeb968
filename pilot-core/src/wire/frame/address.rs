//! CANDIDATES and OBSERVED_ADDRESS: where a node may be reached (spec/streams.md §1, spec/paths.md §3).

use std::net::{IpAddr, SocketAddr};

use bytes::BufMut;

use super::{Frame, kind};
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::varint;

/// Most candidates in one CANDIDATES frame: two address families on a few interfaces, the reflexive ones and the relays.
/// The largest list still fits the smallest packet.
pub const CANDIDATES_MAX: usize = 24;

/// Where a candidate address comes from, in the words of RFC 8445 §5.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// An address of one of the node's own interfaces.
    Host,
    /// As a STUN server or backbone node sees the node.
    ServerReflexive,
    /// As a peer sees the node.
    PeerReflexive,
    /// A port mapping that the node's router has granted.
    Mapped,
}

/// One address at which a node may be reached directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// Where the address comes from.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

impl CandidateKind {
    fn code(self) -> u8 {
        match self {
            Self::Host => 0,
            Self::ServerReflexive => 1,
            Self::PeerReflexive => 2,
            Self::Mapped => 3,
        }
    }

    fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::Host),
            1 => Ok(Self::ServerReflexive),
            2 => Ok(Self::PeerReflexive),
            3 => Ok(Self::Mapped),
            _ => Err(DecodeError::Invalid("candidate kind")),
        }
    }
}

pub(super) fn decode_candidates<'a>(reader: &mut Reader<'a>) -> Result<Frame<'a>, DecodeError> {
    let generation = reader.varint()?;
    let count = usize::from(reader.u8()?);
    if count > CANDIDATES_MAX {
        return Err(DecodeError::Invalid("candidate count"));
    }
    let candidates = (0..count).map(|_| decode_candidate(reader)).collect::<Result<_, _>>()?;
    Ok(Frame::Candidates { generation, candidates })
}

fn decode_candidate(reader: &mut Reader<'_>) -> Result<Candidate, DecodeError> {
    Ok(Candidate { kind: CandidateKind::from_code(reader.u8()?)?, address: decode_address(reader)? })
}

/// Reads an address. The IPv6 form of an IPv4 address becomes that: two forms of one address would count as two.
pub(super) fn decode_address(reader: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    let ip = match reader.u8()? {
        4 => IpAddr::from(reader.array::<4>()?),
        6 => IpAddr::from(reader.array::<16>()?),
        _ => return Err(DecodeError::Invalid("address family")),
    };
    Ok(SocketAddr::new(ip.to_canonical(), reader.u16()?))
}

/// Appends CANDIDATES with the first [`CANDIDATES_MAX`] of the list.
pub fn put_candidates(buf: &mut Vec<u8>, generation: u64, candidates: &[Candidate]) {
    let candidates = &candidates[..candidates.len().min(CANDIDATES_MAX)];
    buf.push(kind::CANDIDATES);
    varint::put(buf, generation);
    buf.put_u8(candidates.len().try_into().unwrap_or(u8::MAX));
    for candidate in candidates {
        buf.put_u8(candidate.kind.code());
        put_address(buf, candidate.address);
    }
}

/// Appends OBSERVED_ADDRESS.
pub fn put_observed_address(buf: &mut Vec<u8>, address: SocketAddr) {
    buf.push(kind::OBSERVED_ADDRESS);
    put_address(buf, address);
}

fn put_address(buf: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            buf.push(4);
            buf.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            buf.push(6);
            buf.extend_from_slice(&ip.octets());
        }
    }
    buf.put_u16(address.port());
}
