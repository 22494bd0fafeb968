//! What tunnels report, turned into events and path decisions.

use bytes::Bytes;

use crate::event::{Event, StreamHandle};
use crate::id::{Instance, PathId, ServicePort};
use crate::limits::{
    EVENTS_BESIDE_MESSAGES_MAX, HOME_LOST_PTO_COUNT, LIVENESS_PROBE_AFTER, MISSED_AFTER, PATH_FAILED_PTO_COUNT,
    PATH_OUTLIVED_PTO_COUNT, WAITED_IN_SOCKET,
};
use crate::path::{Hop, Path};
use crate::stats::DropReason;
use crate::time::{Mono, Now};
use crate::transport::{PathFrame, TransportEvent};
use crate::tunnel::Generation;

use super::Node;

impl Node {
    /// Does for one peer what has become due.
    pub(super) fn peer_timeout(&mut self, now: Now, index: u32) {
        let keepalive = self.keepalive_of(index);
        let peer = &mut self.peers[index as usize];
        if let Some(tunnel) = peer.tunnel.as_mut().filter(|tunnel| tunnel.is_established()) {
            tunnel.transport.handle_timeout(now.mono);
            if let Some(expired) = tunnel.expire_previous(now.mono) {
                self.forget_session(index, &expired);
            }
        }
        if self.peers[index as usize].has_stale_unconfirmed(now.mono) {
            self.drop_unconfirmed(index);
        }
        let peer = &mut self.peers[index as usize];
        let is_silent = now.mono.since(peer.last_received()) > LIVENESS_PROBE_AFTER * 3 / 2;
        if peer.probe_liveness(now.mono, keepalive) {
            self.look_for_a_way(now, index);
            if is_silent && !self.peers[index as usize].is_backbone {
                // What it may send us goes to an address of ours that our own NAT has perhaps forgotten.
                self.suspect_move(now, false);
            }
        }
        if self.peers[index as usize].dial_due().is_some_and(|due| due <= now.mono) {
            self.start_dial(now, index);
        }
        self.dial_timeout(now, index);
        self.probe_paths(now, index);
        self.effort_timeout(now, index);
        self.drain_peer(now, index);
    }

    /// The peer is silent: perhaps there is no way to it any more, or no keys, and nothing under way that would change that.
    fn look_for_a_way(&mut self, now: Now, index: u32) {
        let peer = &self.peers[index as usize];
        if peer.paths.active().is_none() && peer.dial.is_none() {
            self.start_dial(now, index);
        } else if peer.is_in_use() {
            self.ensure_route(now, index);
        }
        let (has_way, peer) = (self.has_usable_path(now.mono, index), &mut self.peers[index as usize]);
        let is_in_use = peer.is_in_use();
        if let Some(tunnel) = peer.tunnel.as_mut().filter(|tunnel| is_in_use && !(has_way && tunnel.can_seal(now.mono)))
        {
            tunnel.transport.begin_silence(now.mono);
        }
    }

    /// Sends the path probes that are due.
    pub(super) fn probe_paths(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        let wants_probes = peer.wants_probes();
        let attested = peer.attested.map(|address| address.ip());
        let due = peer.paths.due_probes(now.mono, wants_probes, attested, &mut self.rng);
        let Some(tunnel) = &mut peer.tunnel else { return };
        for (path, data) in due {
            tunnel.transport.queue_frame(path, PathFrame::Challenge { data, pad: false });
        }
    }

    /// Takes over everything that the peer's transport reports, until it reports nothing more.
    pub(super) fn drain_peer(&mut self, now: Now, index: u32) {
        while let Some(tunnel) = &mut self.peers[index as usize].tunnel {
            let generation = tunnel.generation();
            let Some(event) = tunnel.transport.poll_event() else { break };
            self.handle_transport_event(now, index, generation, event);
        }
        self.drain_early(now, index);
        self.grant_credit(now.mono, index);
        self.touch(index);
    }

    pub(super) fn handle_transport_event(
        &mut self,
        now: Now,
        index: u32,
        generation: Generation,
        event: TransportEvent,
    ) {
        let handle = |stream| generation.handle(stream);
        match event {
            TransportEvent::StreamOpened { stream, header } if self.is_offer(index, header.port) => {
                self.accept_offer(now, handle(stream));
            }
            TransportEvent::StreamOpened { stream, header } => {
                let Instance { key: peer, id: instance } = self.instance_at(index);
                self.events.push_back(Event::StreamOpened { stream: handle(stream), peer, instance, header });
            }
            TransportEvent::Readable(stream) => self.stream_readable(now, handle(stream)),
            TransportEvent::Reset { stream, code, reason } => {
                if self.is_control(handle(stream)) {
                    self.abandon_control(now, handle(stream));
                } else {
                    self.events.push_back(Event::Reset { stream: handle(stream), code, reason });
                }
            }
            TransportEvent::Writable(stream) => self.stream_event(handle(stream), Event::Writable),
            TransportEvent::SendFinished(stream) => self.stream_event(handle(stream), Event::SendFinished),
            TransportEvent::StreamClosed(stream) => self.stream_event(handle(stream), Event::StreamClosed),
            TransportEvent::Stalled(stream) => self.stream_event(handle(stream), Event::Stalled),
            TransportEvent::Resumed(stream) => self.stream_event(handle(stream), Event::Resumed),
            TransportEvent::StopSending { stream, code, reason } => {
                self.stream_event(handle(stream), |stream| Event::StopSending { stream, code, reason });
            }
            TransportEvent::Datagram { port, data } => self.message_arrived(index, port, data),
            TransportEvent::Path { path, frame } => self.path_frame(now, index, path, frame),
            TransportEvent::CandidatesTaken => self.candidates_taken(now, index),
            TransportEvent::PortsTaken => self.ports_taken(now, index),
            TransportEvent::PtoExpired { path, count } => self.pto_expired(now, index, path, count),
            TransportEvent::MtuProved { mtu, .. } => tracing::debug!(mtu, "path MTU"),
            TransportEvent::Closed { code, reason } => {
                let Instance { key: peer, id: instance } = self.instance_at(index);
                self.peer_gone(now, index, code, &reason);
                self.events.push_back(Event::PeerClosed { peer, instance, code, reason });
                if self.home == Some(index) {
                    self.lose_home(now);
                    self.start_dial(now, index);
                }
            }
        }
    }

    /// An unreliable message, which is dropped where there is no place for it.
    fn message_arrived(&mut self, index: u32, port: ServicePort, data: Bytes) {
        if self.events.len() >= EVENTS_BESIDE_MESSAGES_MAX {
            return self.stats.drop(DropReason::EventsFull);
        }
        let peer = self.peers[index as usize].key;
        self.events.push_back(Event::Datagram { peer, port, data });
    }

    /// The peer has ended the tunnel: where it was reached says nothing about where it will be.
    fn peer_gone(&mut self, now: Now, index: u32, code: crate::transport::Code, reason: &str) {
        self.end_tunnel(index, code, reason);
        let peer = &mut self.peers[index as usize];
        for id in peer.paths.ids_where(|_| true) {
            peer.remove_path(id);
        }
        self.close_useless_sockets(now, index);
    }

    fn is_control(&self, stream: StreamHandle) -> bool {
        self.control_streams.contains_key(&stream)
    }

    fn is_offer(&self, index: u32, port: ServicePort) -> bool {
        self.is_agent() && port == ServicePort::CIRCUIT && self.peers[index as usize].is_backbone
    }

    fn stream_readable(&mut self, now: Now, stream: StreamHandle) {
        if self.is_control(stream) {
            self.read_control(now, stream);
        } else {
            self.events.push_back(Event::Readable(stream));
        }
    }

    fn stream_event(&mut self, stream: StreamHandle, event: impl FnOnce(StreamHandle) -> Event) {
        if !self.is_control(stream) {
            self.events.push_back(event(stream));
        }
    }

    fn path_frame(&mut self, now: Now, index: u32, path: PathId, frame: PathFrame) {
        let peer = &mut self.peers[index as usize];
        match frame {
            PathFrame::Challenge { data, .. } => {
                if let Some(tunnel) = &mut peer.tunnel
                    && peer.paths.spend_response(now.mono, path)
                {
                    tunnel.transport.queue_frame(path, PathFrame::Response { data, pad: false });
                }
            }
            PathFrame::Response { data, .. } => {
                if peer.paths.is_response(path, &data) {
                    peer.prove_path(now.mono, path);
                    self.choose_path(now, index);
                    self.tell_observed_address(index);
                    self.direct_path_proved(now, index, path);
                }
            }
            PathFrame::Candidates(candidates) => self.candidates_received(now, index, &candidates),
            PathFrame::Ports(ports) => self.ports_received(now, index, ports),
            PathFrame::ObservedAddress(address) => self.observed_by(now, index, address),
        }
    }

    fn observed_by(&mut self, now: Now, index: u32, address: std::net::SocketAddr) {
        if self.home == Some(index) && self.observed != Some(address) {
            let has_moved = self.observed.replace(address).is_some();
            self.events.push_back(Event::ObservedAddress(address));
            if has_moved {
                self.network_since = now.mono;
                for peer in 0..self.peers.len() as u32 {
                    self.peers[peer as usize].effort.begin_anew();
                    self.leave_path_of_old(now, peer);
                    if self.peers[peer as usize].is_in_use() {
                        self.renew_attestation(now, peer);
                    }
                }
                self.mapping_lost(now);
            } else {
                self.network_changed(now);
            }
            self.announce_candidates(now);
            self.begin_survey(now);
        }
    }

    fn direct_path_proved(&mut self, now: Now, index: u32, path: PathId) {
        if self.peers[index as usize].paths.path(path).is_some_and(|path| path.hop.is_direct()) {
            self.effort_succeeded(now, index);
        }
    }

    /// Silence on a path: after some in a row another path is taken, and the home node is dialled again.
    fn pto_expired(&mut self, now: Now, index: u32, path: PathId, count: u32) {
        if count >= PATH_FAILED_PTO_COUNT {
            // The address of ours that it holds on to may be what leads nowhere, or nowhere any more.
            self.peers[index as usize].paths.forget_local_ip(path);
        }
        let is_home = self.home == Some(index);
        let heard = self.peers[index as usize].last_received();
        if is_home && count >= self.lost_after(now.mono, heard, HOME_LOST_PTO_COUNT) {
            // An attempt may be under way already: keys are often due when a keepalive is.
            self.lose_home(now);
            if self.peers[index as usize].dial.is_none() {
                self.start_dial(now, index);
                return;
            }
        }
        let peer = &mut self.peers[index as usize];
        if peer.is_backbone {
            // It is left by one way only for another: its TLS link, or UDP.
            if count >= PATH_FAILED_PTO_COUNT && peer.link.is_some() && peer.paths.has_other_proved(path) {
                self.path_failed(now, index, path);
            }
            return;
        }
        if peer.paths.active().is_some_and(|active| active.id == path) {
            let relays = peer.paths.doubt(now.mono, path, count);
            if let Some(tunnel) = &mut peer.tunnel {
                relays.into_iter().for_each(|relay| tunnel.transport.ping(relay));
            }
            self.suspect_move(now, count > 1);
        }
        if count >= self.failed_after(now.mono, index, path) {
            self.path_failed(now, index, path);
        } else {
            self.leave_outlived_path(now, index);
        }
    }

    /// Leaves a direct path on which two probe timeouts have passed, if the peer was heard by another one meanwhile.
    pub(super) fn leave_outlived_path(&mut self, now: Now, index: u32) {
        let silent = self.silent_path(index, PATH_OUTLIVED_PTO_COUNT);
        if let Some(path) = silent.filter(|path| self.peers[index as usize].paths.is_outlived(*path)) {
            self.path_failed(now, index, path);
        }
    }

    /// One end of the path in use has another address than before: if a probe timeout has passed on it already, that is why.
    pub(super) fn leave_path_of_old(&mut self, now: Now, index: u32) {
        if let Some(path) = self.silent_path(index, 1) {
            self.path_failed(now, index, path);
        }
    }

    /// The path in use, if it is direct and so many probe timeouts have passed on it in a row.
    fn silent_path(&self, index: u32, timeouts_min: u32) -> Option<PathId> {
        let peer = &self.peers[index as usize];
        let active = peer.paths.active().filter(|path| !peer.is_backbone && path.hop.is_direct())?;
        let stats = peer.tunnel.as_ref()?.transport.path_stats(active.id)?;
        (stats.pto_count >= timeouts_min).then_some(active.id)
    }

    fn path_failed(&mut self, now: Now, index: u32, path: PathId) {
        let peer = &mut self.peers[index as usize];
        if peer.paths.iter().count() > 1 || !peer.homes.is_empty() {
            let stats = peer.tunnel.as_ref().and_then(|tunnel| tunnel.transport.path_stats(path));
            let carries_probes_only = stats.is_some_and(|stats| stats.carries_probes_only);
            peer.paths.fail(now.mono, path, carries_probes_only, &mut self.rng);
            self.probe_paths(now, index);
            self.choose_path(now, index);
            self.send_candidates(index);
            self.give_challenges_time(now, index);
            if self.has_usable_path(now.mono, index) {
                self.renew_attestation(now, index);
            } else {
                self.open_circuit(now, index);
            }
        }
    }

    /// A path has fallen silent. Perhaps our NAT has given us another address: the home node, which would not take what we have
    /// relayed from there, is shown it. `again`: this is not the first probe timeout in a row; that one may have been too soon after another.
    fn suspect_move(&mut self, now: Now, again: bool) {
        let Some(home) = self.home else { return };
        if self.peers[home as usize].suspect_move(now.mono, again) {
            self.touch(home);
        }
    }

    /// Probe timeouts in a row after which a path is left.
    fn failed_after(&self, now: Mono, index: u32, path: PathId) -> u32 {
        let active = self.peers[index as usize].paths.active().filter(|active| active.id == path);
        let heard = active.filter(|active| active.hop.is_direct()).and_then(Path::last_received);
        heard.map_or(PATH_FAILED_PTO_COUNT, |heard| self.lost_after(now, heard, PATH_FAILED_PTO_COUNT))
    }

    /// Probe timeouts in a row after which somebody counts as lost who was `heard` then. Who was not heard since the network has changed may be
    /// out of reach: one, if a round trip can be over that is longer than those of before.
    fn lost_after(&self, now: Mono, heard: Mono, otherwise: u32) -> u32 {
        let is_unheard_here = heard < self.network_since + WAITED_IN_SOCKET;
        if is_unheard_here && now.since(self.network_since) >= MISSED_AFTER { 1 } else { otherwise }
    }

    pub(super) fn lose_home(&mut self, now: Now) {
        if !std::mem::replace(&mut self.is_home_lost, true) {
            self.mapping_lost(now);
            self.events.push_back(Event::HomeLost);
        }
    }

    /// Something authentic has come from a peer. If that is the home node, and it was lost, it is there again: its tunnel may have outlived
    /// the silence, so that nothing else would tell.
    pub(super) fn heard_from(&mut self, index: u32) {
        if self.home == Some(index) && std::mem::take(&mut self.is_home_lost) {
            self.events.push_back(Event::HomeConnected);
        }
    }

    /// Lets data take the best path there is.
    pub(super) fn choose_path(&mut self, now: Now, index: u32) {
        let relays = self.relays_up(index);
        let own = self.key();
        let peer = &mut self.peers[index as usize];
        let Some(hop) = peer.choose_path(now.mono, &own, |backbone| relays.contains(&backbone)) else { return };
        self.tell_path_change(index, &hop);
        if !hop.is_direct() {
            self.seek_silent_paths(now, index);
        }
    }

    fn tell_path_change(&mut self, index: u32, hop: &Hop) {
        let peer = &self.peers[index as usize];
        if peer.is_connected() {
            let (peer, path) = (peer.key, self.path_kind(hop));
            self.events.push_back(Event::PathChanged { peer, path });
            // A client that has moved was proved at its new address some time ago.
            self.tell_observed_address(index);
        }
    }

    /// The relay leads because the direct paths were silent for long. NATs may have forgotten them, so that they are looked for as in the
    /// beginning: by challenges, by the addresses of today, and with effort if these fail.
    fn seek_silent_paths(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        if peer.is_backbone || !peer.paths.doubt_silent(now.mono, &mut self.rng) {
            return;
        }
        peer.has_sent_candidates = false;
        self.probe_paths(now, index);
        self.send_candidates(index);
        self.give_challenges_time(now, index);
        self.touch(index);
    }

    pub(super) fn has_usable_path(&self, now: Mono, index: u32) -> bool {
        let peer = &self.peers[index as usize];
        peer.paths.is_usable(now, |backbone| self.peers[backbone as usize].is_connected())
    }

    pub(super) fn has_usable_relay(&self, index: u32) -> bool {
        !self.relays_up(index).is_empty()
    }

    /// The connected backbone nodes at which the peer has a circuit.
    fn relays_up(&self, index: u32) -> Vec<u32> {
        let relays = self.peers[index as usize].paths.iter().filter_map(|path| match path.hop {
            Hop::Relay { backbone, .. } => Some(backbone),
            Hop::Direct(_) => None,
        });
        relays.filter(|&backbone| self.peers[backbone as usize].is_connected()).collect()
    }

    /// Leaves the direct paths of a peer, because policy says so. The relay takes over.
    pub(super) fn leave_direct_paths(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        for id in peer.paths.ids_where(Hop::is_direct) {
            peer.remove_path(id);
        }
        self.choose_path(now, index);
        if self.peers[index as usize].is_connected() && !self.has_usable_path(now.mono, index) {
            self.open_circuit(now, index);
        }
        self.touch(index);
    }
}
