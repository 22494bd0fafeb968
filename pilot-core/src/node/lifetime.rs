//! How long our NAT keeps a mapping that nobody uses, and how rare the keepalive of the home tunnel may be (spec/paths.md §6).

use std::net::SocketAddr;
use std::time::Duration;

use super::Node;
use super::sockets::Purpose;
use crate::keepalive::{Keepalive, Step};
use crate::limits::HOME_KEEPALIVE;
use crate::route::SocketId;
use crate::time::Now;

/// What was found out about the life of mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingLifetime {
    /// The longest silence that a mapping has outlived here; none before that was measured, or where it cannot be.
    pub outlived: Option<Duration>,
    /// How much silence the tunnel to the home node may have.
    pub keepalive: Duration,
}

impl Node {
    /// How long our NAT keeps a mapping without use, as far as was tried, and the keepalive that follows from it.
    pub fn mapping_lifetime(&self) -> MappingLifetime {
        let keepalive = self.home.and_then(|home| self.keepalive_of(home)).unwrap_or(HOME_KEEPALIVE);
        MappingLifetime { outlived: self.keepalive.outlived(), keepalive }
    }

    /// How much silence the tunnel with this peer may have, if it is the home node. TCP has timers of its own, in which nobody looks.
    pub(super) fn keepalive_of(&self, index: u32) -> Option<Duration> {
        let is_by_link = || self.peers[index as usize].paths.active().is_some_and(|active| active.hop.is_link());
        let interval = || if is_by_link() { HOME_KEEPALIVE } else { self.keepalive.interval() };
        (self.home == Some(index)).then(interval)
    }

    /// This is another network, or another home node.
    pub(super) fn network_changed(&mut self, now: Now) {
        self.network_since = now.mono;
        let step = self.keepalive.network_changed(now.mono);
        self.begin_keepalive_anew(now, step);
    }

    /// The NAT has given the tunnel another mapping, or the tunnel is lost.
    pub(super) fn mapping_lost(&mut self, now: Now) {
        let step = self.keepalive.mapping_lost(now.mono);
        self.begin_keepalive_anew(now, step);
    }

    /// Without a home there is nothing to keep.
    fn begin_keepalive_anew(&mut self, now: Now, step: Option<Step>) {
        self.follow_keepalive(now, step);
        match self.home {
            Some(home) => self.touch(home),
            None => self.keepalive = Keepalive::default(),
        }
    }

    /// Does what is due.
    pub(super) fn keepalive_timeout(&mut self, now: Now) {
        let step = self.keepalive.timeout_expired(now.mono);
        self.follow_keepalive(now, step);
    }

    /// The socket asked for is open.
    pub(super) fn keepalive_socket_opened(&mut self, now: Now, socket: SocketId) {
        let step = self.keepalive.opened(now.mono, socket);
        self.follow_keepalive(now, step);
    }

    /// The home node has answered on that socket.
    pub(super) fn keepalive_answered(&mut self, now: Now, socket: SocketId, mapped: SocketAddr) {
        // What else was asked was the same question.
        self.forget_questions(Purpose::Keepalive);
        let step = self.keepalive.answered(now.mono, socket, mapped, self.observed);
        self.follow_keepalive(now, step);
    }

    /// Takes the step, if the home node is there to be asked, and lets its timer follow what is known now.
    fn follow_keepalive(&mut self, now: Now, step: Option<Step>) {
        let Some(step) = step else { return };
        match (step, self.home_address()) {
            (Step::Close(socket), _) => self.close_sockets(&[socket]),
            (Step::Open, None) => self.keepalive.postpone(now.mono),
            (Step::Open, Some(_)) => {
                let socket = self.want_sockets(Purpose::Keepalive, 1).first().copied();
                self.keepalive.opening(now.mono, socket);
            }
            (Step::Ask(socket), Some(server)) => self.ask_stun(server, socket, Purpose::Keepalive),
            (Step::Knock { socket, port }, Some(server)) => {
                self.ask_stun_to_port(server, port, socket, Purpose::Keepalive);
            }
            // A question that cannot be asked is one without an answer.
            (Step::Ask(_) | Step::Knock { .. }, None) => {}
        }
        if let Some(home) = self.home {
            self.touch(home);
        }
    }
}
