//! TLS links: ways to a backbone node by TCP, where UDP is blocked (spec/tcp.md §3).
//!
//! To the node a link is one more socket, whose id says so ([`SocketId::is_link`](crate::route::SocketId::is_link)). The driver makes it and tells when it is there and when it
//! is gone; handshakes go by it beside UDP, and what they prove decides which of the two carries the tunnel.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use crate::event::PathKind;
use crate::id::{IdentityKey, Instance};
use crate::path::Hop;
use crate::route::{Route, SocketId};
use crate::time::{Mono, Now};

/// Which peers have been heard by which link, so that the end of one costs the others nothing.
pub(super) type LinkUsers = BTreeMap<SocketId, BTreeSet<u32>>;

impl Node {
    /// Tells that a link to a backbone node of ours is up. What waits for an answer of that node goes by it at once.
    pub fn link_up(&mut self, now: Now, backbone: &IdentityKey, link: Route) {
        debug_assert!(link.socket.is_link(), "a UDP socket is no link");
        let Some(index) = self.backbones.iter().copied().find(|&index| self.peers[index as usize].key == *backbone)
        else {
            return;
        };
        let peer = &mut self.peers[index as usize];
        peer.link = Some(link);
        if peer.dial.is_some() {
            self.send_dial_by(index, Hop::Direct(link));
        } else if peer.is_connected() {
            let path = peer.add_path(now.mono, Hop::Direct(link));
            peer.paths.probe(now.mono, path, &mut self.rng);
            self.probe_paths(now, index);
        } else {
            self.start_dial(now, index);
        }
        self.touch(index);
    }

    /// Tells that a link is gone, whichever side has ended it. Its name may be given to another one after that.
    pub fn link_down(&mut self, now: Now, link: SocketId) {
        let mut users = self.link_users.remove(&link).unwrap_or_default();
        users.extend(self.backbones.iter().filter(|&&index| self.peers[index as usize].has_link(link)));
        for index in users {
            let peer = &mut self.peers[index as usize];
            peer.link = peer.link.filter(|known| known.socket != link);
            for path in peer.paths.ids_where(|hop| hop.is_by(link)) {
                peer.remove_path(path);
            }
            self.choose_path(now, index);
            if self.home == Some(index) && self.peers[index as usize].paths.active().is_none() {
                self.home_link_lost(now, index);
            }
            self.touch(index);
        }
    }

    /// How the home node is reached, while it is.
    pub fn home_path(&self) -> Option<PathKind> {
        let home = self.home.filter(|_| !self.is_home_lost)?;
        let peer = &self.peers[home as usize];
        let active = peer.paths.active().filter(|_| peer.is_connected())?;
        Some(self.path_kind(&active.hop))
    }

    /// Whether a tunnel has proved itself by this link: one that nobody uses is not worth its memory.
    pub fn is_link_in_use(&self, link: SocketId) -> bool {
        let users = self.link_users.get(&link).into_iter().flatten();
        let is_proved = |index: &u32| {
            let peer = &self.peers[*index as usize];
            peer.is_connected() && peer.paths.iter().any(|path| path.is_proved() && path.hop.is_by(link))
        };
        users.into_iter().any(is_proved)
    }

    /// Whether a client's tunnel has proved this route, and uses it or has lately: from there a backbone node takes its relayed packets.
    pub fn has_validated(&self, now: Mono, instance: &Instance, from: &Route) -> bool {
        self.index_of_instance(instance).is_some_and(|index| self.has_validated_at(now, index, from))
    }

    pub(super) fn has_validated_at(&self, now: Mono, index: u32, from: &Route) -> bool {
        let peer = &self.peers[index as usize];
        let active = peer.paths.active().map(|path| path.id);
        let mut proved = peer.paths.iter().filter(|path| path.is_proved());
        peer.is_connected()
            && proved.any(|path| {
                (Some(path.id) == active || path.is_fresh(now)) && path.hop.is_same_way(&Hop::Direct(*from))
            })
    }

    /// Notes that a peer was heard by a link.
    pub(super) fn note_link_user(&mut self, index: u32, hop: &Hop) {
        if let Hop::Direct(route) = hop
            && route.socket.is_link()
        {
            self.link_users.entry(route.socket).or_default().insert(index);
        }
    }

    /// A handshake that went by UDP too was answered by a link: UDP has to show anew that it works, and is asked to at once.
    pub(super) fn doubt_udp(&mut self, now: Now, index: u32) {
        let peer = &mut self.peers[index as usize];
        for address in peer.all_addresses().collect::<Vec<_>>() {
            peer.add_path(now.mono, Hop::Direct(Route::to(address)));
        }
        for path in peer.paths.ids_where(|hop| hop.is_direct() && !hop.is_link()) {
            peer.paths.fail(now.mono, path, false, &mut self.rng);
            peer.paths.probe(now.mono, path, &mut self.rng);
        }
        self.probe_paths(now, index);
    }

    /// The home node was reached by that link only: it is looked for by UDP until there is another.
    fn home_link_lost(&mut self, now: Now, index: u32) {
        self.lose_home(now);
        if self.peers[index as usize].dial.is_none() {
            self.start_dial(now, index);
        }
    }
}
