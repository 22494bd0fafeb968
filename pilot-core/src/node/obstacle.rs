//! Why a peer is reached by relay and not directly, as far as this side can know: for people who want to do something about it.

use std::net::SocketAddr;

use super::Node;
use crate::event::ConnectError;
use crate::id::IdentityKey;
use crate::mapping::NatMapping;
use crate::path::Hop;
use crate::peer::Peer;
use crate::transport::Ports;

/// What keeps packets for a peer from going straight to it. Of several the first of this list is named: who removes it sees the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// There is no tunnel with it.
    NotConnected,
    /// Our own policy is to go by relay only.
    ForbiddenHere,
    /// Our home node is reached by TLS only: UDP does not get out.
    NoUdpHere,
    /// The peer has named no address: its policy is to go by relay only, or its list is still on its way.
    NoCandidates,
    /// The one has IPv4 alone and the other IPv6 alone.
    NoCommonFamily,
    /// The home node knows no UDP address of the peer, which has come to it by TLS.
    NoUdpThere,
    /// Neither NAT lets the port be named that it will give, and together there are too many (spec/paths.md §7.6).
    HardMappings {
        /// Ours.
        ours: NatMapping,
        /// What the peer tells of its own.
        theirs: Ports,
    },
    /// Challenges, or what is done beyond them, are under way.
    Trying,
    /// Challenges were answered, and then nothing that was longer. The next ones go out after a pause, while the tunnel is in use.
    ShortPacketsOnly,
    /// Nobody has answered a challenge. The next ones go out after a pause, while the tunnel is in use.
    Unanswered {
        /// Our own mapping.
        ours: NatMapping,
        /// What the peer tells of its own NAT, if that makes it hard to reach.
        theirs: Option<Ports>,
    },
}

impl Node {
    /// Why a peer is not reached directly; none if it is.
    pub fn obstacle(&self, peer: &IdentityKey) -> Option<Obstacle> {
        let Some(peer) = self.index_of(peer).ok().map(|index| &self.peers[index as usize]) else {
            return Some(Obstacle::NotConnected);
        };
        if !peer.is_connected() {
            return Some(Obstacle::NotConnected);
        }
        let is_direct = peer.paths.active().is_some_and(|path| path.hop.is_direct() && !path.hop.is_link());
        if is_direct { None } else { Some(self.obstacle_on_relay(peer)) }
    }

    /// What stands in the way to the home node, as far as anybody has said, while there is no tunnel with it.
    pub fn home_error(&self) -> Option<&ConnectError> {
        self.peers[self.home? as usize].dial.as_ref()?.obstacle.as_ref()
    }

    /// The same of the way to a peer that is just being connected to.
    pub fn connect_error(&self, peer: &IdentityKey) -> Option<&ConnectError> {
        self.peers[self.index_of(peer).ok()? as usize].dial.as_ref()?.obstacle.as_ref()
    }

    fn obstacle_on_relay(&self, peer: &Peer) -> Obstacle {
        let ours = self.survey.mapping();
        let is_in_use = peer.is_in_use();
        let is_telling = peer.has_sent_candidates && !peer.has_taken_candidates;
        if !self.config.direct {
            Obstacle::ForbiddenHere
        } else if self.is_home_by_link() {
            Obstacle::NoUdpHere
        } else if !peer.has_candidates {
            Obstacle::NoCandidates
        } else if !self.has_common_family(peer) {
            Obstacle::NoCommonFamily
        } else if is_telling || peer.paths.is_probing(is_in_use) || peer.effort.is_under_way() {
            Obstacle::Trying
        } else if carries_short_packets_only(peer) {
            Obstacle::ShortPacketsOnly
        } else if peer.attested.is_none() && self.is_relayed_by_home(peer) {
            Obstacle::NoUdpThere
        } else {
            match peer.effort.peer {
                Some(theirs) if are_hard(ours, theirs) => Obstacle::HardMappings { ours, theirs },
                theirs => Obstacle::Unanswered { ours, theirs },
            }
        }
    }

    /// Whether one of the addresses that a peer is known at is of a family that we have. Who has told the node no addresses has any.
    fn has_common_family(&self, peer: &Peer) -> bool {
        let direct = peer.paths.iter().filter_map(|path| match path.hop {
            Hop::Direct(route) if !route.socket.is_link() => Some(route.remote),
            Hop::Direct(_) | Hop::Relay { .. } => None,
        });
        let mut theirs = direct.chain(peer.attested);
        let is_ours = |theirs: SocketAddr| self.local_addresses.iter().any(|own| own.is_ipv4() == theirs.is_ipv4());
        self.local_addresses.is_empty() || theirs.any(is_ours)
    }

    /// Nobody else says where a peer is seen.
    fn is_relayed_by_home(&self, peer: &Peer) -> bool {
        let by = peer.paths.active().map(|path| path.hop);
        matches!(by, Some(Hop::Relay { backbone, .. }) if Some(backbone) == self.home)
    }

    pub(super) fn is_home_by_link(&self) -> bool {
        let home = self.home.map(|home| &self.peers[home as usize]);
        home.and_then(|home| home.paths.active()).is_some_and(|path| path.hop.is_link())
    }
}

/// Whether a direct path was proved and then acknowledged nothing but challenges.
fn carries_short_packets_only(peer: &Peer) -> bool {
    let Some(tunnel) = &peer.tunnel else { return false };
    let mut failed = peer.paths.iter().filter(|path| path.hop.is_direct() && path.was_proved() && !path.is_proved());
    failed.any(|path| tunnel.transport.path_stats(path.id).is_some_and(|stats| stats.carries_probes_only))
}

/// The pairs for which nothing is done.
fn are_hard(ours: NatMapping, theirs: Ports) -> bool {
    match (ours, theirs) {
        (NatMapping::Random { .. }, _) | (NatMapping::Sequence { .. }, Ports::Random { .. }) => true,
        (NatMapping::Sequence { .. }, Ports::Sequence { .. })
        | (NatMapping::Unknown | NatMapping::Independent { .. } | NatMapping::PortIndependent { .. }, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::PortSet;

    #[test]
    fn a_pair_is_hard_when_no_effort_is_made_for_it() {
        let set = PortSet::default();
        let (random, sequence) = (NatMapping::Random { set }, NatMapping::Sequence { step: 1 });
        let their_random = Ports::Random { set, sockets: 0 };
        let their_sequence = Ports::Sequence { next: 0, step: 1 };
        assert!(are_hard(random, their_random) && are_hard(random, their_sequence) && are_hard(sequence, their_random));
        assert!(!are_hard(sequence, their_sequence));
        for easy in [NatMapping::Independent { set: None }, NatMapping::PortIndependent { set }, NatMapping::Unknown] {
            assert!(!are_hard(easy, their_random) && !are_hard(easy, their_sequence));
        }
    }
}
