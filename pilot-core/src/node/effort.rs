//! Direct paths that simple challenges do not find: by foretelling the port that a NAT will give, or by trying many (spec/paths.md §7).
//!
//! What this side does follows from its own NAT (`survey`) and from what the peer tells of its own (PORTS). Addresses with guessed ports are
//! those that our own home node attests for the peer, and no others.

use std::net::SocketAddr;
use std::time::Duration;

use super::Node;
use super::send::Outgoing;
use super::sockets::Purpose;
use crate::effort::{Effort, Queued, Stage};
use crate::limits::{
    EFFORT_AFTER, EFFORT_AFTERMATH, EFFORT_PATIENCE, EFFORT_ROUND_TRIPS, SEQUENCE_PROBES, SOCKETS_KEPT_FOR,
    VOLLEY_WAITED_FOR,
};
use crate::mapping::{NatMapping, Volley};
use crate::path::{Hop, Path};
use crate::route::{Route, SocketId};
use crate::time::{Mono, Now};
use crate::transport::{PathFrame, PortSet, Ports};
use crate::wire::{DataHeader, frame};

impl Node {
    /// Tells a peer, behind our candidates, that our ports cannot be named among them.
    pub(super) fn announce_ports(&mut self, index: u32) {
        match self.survey.mapping() {
            NatMapping::Unknown | NatMapping::Independent { .. } | NatMapping::PortIndependent { .. } => {}
            NatMapping::Sequence { step } => self.tell_ports(index, Ports::Sequence { next: 0, step }),
            NatMapping::Random { set } => self.tell_ports(index, Ports::Random { set, sockets: 0 }),
        }
    }

    fn tell_ports(&mut self, index: u32, ports: Ports) {
        let peer = &mut self.peers[index as usize];
        let Some(path) = peer.paths.active().map(|path| path.id) else { return };
        if let Some(tunnel) = peer.tunnel.as_mut().filter(|tunnel| tunnel.knows_ports()) {
            tunnel.transport.queue_frame(path, PathFrame::Ports(ports));
            self.touch(index);
        }
    }

    /// Both sides have the other's candidates: if simple challenges do not meet soon, something is done about it.
    pub(super) fn give_challenges_time(&mut self, now: Now, index: u32) {
        let round_trips = match self.survey.mapping().unexplained_set() {
            // Nothing says that an effort is needed: they have failed when an answer would be here.
            Some(_) => self.round_trip(index) * EFFORT_ROUND_TRIPS,
            None => Duration::ZERO,
        };
        let peer = &mut self.peers[index as usize];
        if !peer.is_backbone && !peer.paths.has_proved_direct() {
            peer.effort.give_time(now.mono, EFFORT_AFTER + round_trips);
        }
    }

    /// Of the path in use, as far as it is known.
    fn round_trip(&self, index: u32) -> Duration {
        let peer = &self.peers[index as usize];
        let stats = peer.paths.active().and_then(|path| peer.tunnel.as_ref()?.transport.path_stats(path.id));
        stats.and_then(|stats| stats.rtt).unwrap_or_default()
    }

    /// Does what is due.
    pub(super) fn effort_timeout(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        let is_in_use = peer.is_in_use();
        let burst_due = peer.effort.volley.as_ref().and_then(|(_, volley)| volley.timeout());
        if burst_due.is_some_and(|due| due <= now.mono) {
            self.fire_burst(now, index);
        }
        let queued = self.peers[index as usize].effort.queued.take_if(|queued| queued.due <= now.mono);
        if let Some(Queued { latest, set, .. }) = queued {
            self.begin_volley(now, index, set, latest);
            self.touch(index);
        }
        if self.peers[index as usize].effort.tidied.is_some_and(|due| due <= now.mono) {
            self.close_useless_sockets(now, index);
        }
        let peer = &mut self.peers[index as usize];
        if peer.effort.stage_timeout(is_in_use).is_none_or(|due| now.mono < due) {
            return;
        }
        match &mut peer.effort.stage {
            Stage::Idle => {}
            Stage::Waiting(_) => self.begin_effort(now, index),
            Stage::Preparing(_) | Stage::Foretold(_) | Stage::Spread { has_challenged: true, .. } => {
                peer.effort.rest(now.mono, &mut self.rng);
                self.close_useless_sockets(now, index);
            }
            Stage::Spread { due, has_challenged } => {
                (*due, *has_challenged) = (now.mono + EFFORT_AFTERMATH, true);
                self.challenge_from_sockets(now, index);
            }
            Stage::Met(_) => {
                peer.effort.stage = Stage::Idle;
                self.close_useless_sockets(now, index);
                // The way on which it was met may have failed meanwhile.
                self.give_challenges_time(now, index);
            }
        }
    }

    /// Simple challenges have not met. What can be done depends on both NATs; if the peer's is like a lottery and ours is none, the peer
    /// begins.
    fn begin_effort(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        peer.effort.stage = Stage::Idle;
        let knows_ports = peer.tunnel.as_ref().is_some_and(crate::tunnel::Tunnel::knows_ports);
        if peer.paths.has_proved_direct() || peer.attested.is_none() || !knows_ports || !self.config.direct {
            return;
        }
        let is_neighbour = peer.attested.map(|address| address.ip()) == self.observed.map(|address| address.ip());
        let has_nat = self.observed.is_some_and(|address| !self.local_addresses.contains(&address));
        let mapping = self.survey.mapping();
        let count = match (mapping, peer.effort.peer) {
            (NatMapping::Random { set }, None) => self.sockets.share_of(now.mono, set),
            (NatMapping::Independent { .. } | NatMapping::PortIndependent { .. }, None) if has_nat && !is_neighbour => {
                mapping.unexplained_set().map_or(0, |set| self.sockets.share_of(now.mono, set))
            }
            (NatMapping::Sequence { .. }, None | Some(Ports::Sequence { .. })) => 1,
            _ => return,
        };
        self.close_useless_sockets(now, index);
        let sockets = self.want_sockets(Purpose::Effort(index), count);
        let effort = &mut self.peers[index as usize].effort;
        if sockets.is_empty() {
            // Others have them all, and give them back soon.
            return effort.give_time(now.mono, EFFORT_PATIENCE);
        }
        self.sockets.note_mappings(now.mono, &sockets);
        effort.begin(now.mono, sockets);
    }

    /// The driver has opened a socket. With the last of them the effort goes on.
    pub(super) fn effort_socket_opened(&mut self, now: Now, index: u32, socket: SocketId) {
        let effort = &mut self.peers[index as usize].effort;
        if !matches!(effort.stage, Stage::Preparing(_)) {
            return;
        }
        effort.open += 1;
        if effort.open < effort.sockets.len() {
            return;
        }
        match self.survey.mapping() {
            NatMapping::Random { set } => self.spread(now, index, set),
            mapping @ (NatMapping::Independent { .. } | NatMapping::PortIndependent { .. }) => {
                mapping.unexplained_set().into_iter().for_each(|set| self.spread(now, index, set));
            }
            NatMapping::Sequence { .. } => {
                if let Some(server) = self.home_address() {
                    self.ask_stun(server, socket, Purpose::Effort(index));
                }
            }
            NatMapping::Unknown => {}
        }
    }

    /// The new socket's port is known, and with it the one that follows.
    pub(super) fn effort_answered(&mut self, now: Now, index: u32, mapped: SocketAddr) {
        let NatMapping::Sequence { step } = self.survey.mapping() else { return };
        let effort = &mut self.peers[index as usize].effort;
        if !matches!(effort.stage, Stage::Preparing(_)) {
            return;
        }
        effort.stage = Stage::Foretold(Effort::patience(now.mono));
        let next = mapped.port().wrapping_add_signed(step);
        self.tell_ports(index, Ports::Sequence { next, step });
        self.challenge_sequence(now, index);
    }

    /// Lets many sockets wait for the peer's volley.
    fn spread(&mut self, now: Now, index: u32, set: PortSet) {
        let peer = &mut self.peers[index as usize];
        let (Some(remote), sockets) = (peer.attested, peer.effort.sockets.clone()) else { return };
        peer.effort.stage = Stage::Spread { due: Effort::patience(now.mono), has_challenged: false };
        for &socket in &sockets {
            self.queue(Hop::Direct(Route { socket, ..Route::to(remote) }), Outgoing::Opener);
        }
        self.tell_ports(index, Ports::Random { set, sockets: sockets.len() as u64 });
    }

    /// The peer has what we have told it, and acts on it.
    pub(super) fn ports_taken(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        if let Stage::Spread { due, has_challenged: false } = &mut peer.effort.stage {
            *due = now.mono + Volley::duration();
        } else if matches!(peer.effort.stage, Stage::Foretold(_)) && peer.effort.peer.is_none() {
            // The peer has opened its NAT towards the port that we are about to get.
            let (socket, attested) = (peer_socket(&peer.effort), peer.attested.into_iter().collect());
            self.challenge_all(now, index, socket, attested);
        }
        self.touch(index);
    }

    /// The peer tells what its NAT does with its ports.
    pub(super) fn ports_received(&mut self, now: Now, index: u32, ports: Ports) {
        if !self.config.direct || self.peers[index as usize].is_backbone {
            return;
        }
        let effort = &mut self.peers[index as usize].effort;
        // Sockets that nothing has announced are an attempt, which says nothing of the peer's NAT.
        let is_attempt = effort.peer.is_none() && matches!(ports, Ports::Random { sockets: 1.., .. });
        effort.peer = Some(ports).filter(|_| !is_attempt);
        match ports {
            Ports::Random { set, sockets: 1.. } if self.survey.mapping().is_own_port_known() => {
                self.begin_volley(now, index, set, now.mono + VOLLEY_WAITED_FOR);
            }
            Ports::Sequence { next: 1.., .. } => self.challenge_sequence(now, index),
            Ports::Random { .. } | Ports::Sequence { .. } => {}
        }
        self.touch(index);
    }

    /// Begins a volley at an address that our own home node attests, if there were not too many; when the one that is under way has ended, if
    /// that is not after `latest`.
    fn begin_volley(&mut self, now: Now, index: u32, set: PortSet, latest: Mono) {
        let peer = &mut self.peers[index as usize];
        let Some(target) = peer.attested.map(|address| address.ip()) else { return };
        if peer.effort.volley.is_none()
            && let Some(due) = self.sockets.volley_ends(now.mono)
        {
            peer.effort.queued = Some(Queued { due, latest, set }).filter(|_| due <= latest);
            return;
        }
        if peer.effort.volley.is_none() && self.sockets.may_volley(now.mono, target) && peer.effort.may_volley(now.mono)
        {
            peer.effort.volley = Some((target, Volley::new(now.mono, set, &mut self.rng)));
            self.sockets.volley_begins(now.mono, target);
        }
    }

    /// Challenges the ports that the peer's NAT will give next. If ours gives a sequence too, only once the peer knows ours: from the new
    /// socket, in order, so that both sides meet at each step.
    fn challenge_sequence(&mut self, now: Now, index: u32) {
        let peer = &self.peers[index as usize];
        let Some(Ports::Sequence { next: next @ 1.., step }) = peer.effort.peer else { return };
        let Some(attested) = peer.attested else { return };
        let at = |nth: u16| next.wrapping_add_signed(step.wrapping_mul(nth.cast_signed()));
        let addresses = (0..SEQUENCE_PROBES).map(|nth| SocketAddr::new(attested.ip(), at(nth))).collect();
        match (self.survey.mapping(), &peer.effort.stage) {
            (NatMapping::Unknown | NatMapping::Independent { .. } | NatMapping::PortIndependent { .. }, _) => {
                self.challenge_all(now, index, SocketId::default(), addresses);
            }
            (NatMapping::Sequence { .. }, Stage::Foretold(_)) => {
                self.challenge_all(now, index, peer_socket(&peer.effort), addresses);
            }
            (NatMapping::Sequence { .. }, Stage::Idle | Stage::Waiting(_)) => self.begin_effort(now, index),
            (NatMapping::Sequence { .. } | NatMapping::Random { .. }, _) => {}
        }
    }

    /// Begins a round of challenges at each address, out of one socket.
    fn challenge_all(&mut self, now: Now, index: u32, socket: SocketId, addresses: Vec<SocketAddr>) {
        for address in addresses.into_iter().filter(|address| address.port() != 0) {
            let peer = &mut self.peers[index as usize];
            let path = peer.add_path(now.mono, Hop::Direct(Route { socket, ..Route::to(address) }));
            peer.paths.probe(now.mono, path, &mut self.rng);
        }
        self.probe_paths(now, index);
        self.touch(index);
    }

    /// Sends the next challenges of a volley, or ends it.
    fn fire_burst(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        let Some((target, volley)) = &mut peer.effort.volley else { return };
        let target = *target;
        let ports = volley.burst(now.mono);
        if volley.timeout().is_none() {
            peer.effort.volley = None;
        }
        for port in ports {
            let hop = Hop::Direct(Route::to(SocketAddr::new(target, port)));
            self.queue(hop, Outgoing::Challenge(index));
        }
        self.touch(index);
    }

    /// Sends one challenge from each waiting socket: those whose opener got through no router but the first. Where the home node says that
    /// the peer is, few of these arrive, as of volleys.
    fn challenge_from_sockets(&mut self, now: Now, index: u32) {
        let peer = &self.peers[index as usize];
        let Some(attested) = peer.attested.filter(|at| self.sockets.may_challenge(now.mono, at.ip())) else { return };
        for socket in peer.effort.sockets.clone() {
            self.queue(Hop::Direct(Route { socket, ..Route::to(attested) }), Outgoing::Challenge(index));
        }
        self.touch(index);
    }

    /// A challenge of which nothing is kept. Its token answers nothing: the peer's own challenge comes back the same way.
    pub(super) fn lone_challenge(&mut self, now: Now, index: u32) -> Option<Vec<u8>> {
        let token = self.rng.array();
        let tunnel = self.peers[index as usize].tunnel.as_mut();
        let tunnel = tunnel.filter(|tunnel| tunnel.is_established() && tunnel.can_seal(now.mono))?;
        let mut packet = vec![0; DataHeader::LEN];
        frame::put_path_challenge(&mut packet, token);
        let number = tunnel.transport.take_number();
        tunnel.seal(&mut packet, 0, number);
        Some(packet)
    }

    /// A direct path is proved: whatever was under way for it ends. Its sockets stay for a moment, since the peer may have proved another one.
    pub(super) fn effort_succeeded(&mut self, now: Now, index: u32) {
        self.peers[index as usize].effort.succeed(now.mono);
        self.forget_questions(Purpose::Effort(index));
    }

    /// Closes the sockets by which the peer was not met, or was not heard for long, or all if the tunnel has ended.
    pub(super) fn close_useless_sockets(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        let is_met_by = |socket| {
            let is_way = |path: &Path| path.hop.is_by(socket) && path.is_proved() && path.is_heard(now.mono);
            peer.tunnel.is_some() && peer.paths.iter().any(is_way)
        };
        let (kept, useless): (Vec<_>, Vec<_>) =
            peer.effort.sockets.iter().copied().partition(|&socket| is_met_by(socket));
        for path in peer.paths.ids_where(|hop| useless.iter().any(|&socket| hop.is_by(socket))) {
            peer.remove_path(path);
        }
        peer.effort.tidied = (!kept.is_empty()).then(|| now.mono + SOCKETS_KEPT_FOR);
        peer.effort.sockets = kept;
        self.close_sockets(&useless);
        if self.peers[index as usize].paths.active().is_none() {
            self.choose_path(now, index);
        }
    }
}

/// The one socket of an effort that foretells a port.
fn peer_socket(effort: &Effort) -> SocketId {
    effort.sockets.last().copied().unwrap_or_default()
}
