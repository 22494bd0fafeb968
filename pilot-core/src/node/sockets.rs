//! Sockets besides the main one, opened by the driver on request, and STUN questions out of any of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};

use super::Node;
use super::send::Outgoing;
use crate::event::Event;
use crate::limits::{SOCKETS_MAX, STUN_QUESTIONS_MAX, VOLLEYS_COUNTED_FOR, VOLLEYS_PER_ADDRESS_MAX};
use crate::mapping::Volley;
use crate::path::Hop;
use crate::route::{Route, SocketId};
use crate::stats::DropReason;
use crate::stun::{self, TransactionId};
use crate::time::{Mono, Now};

/// What a socket, or a question, is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To learn what our NAT is like.
    Survey,
    /// To learn how long it keeps a mapping.
    Keepalive,
    /// To meet the peer of this slot.
    Effort(u32),
}

/// A question that has no answer yet, and the socket on which one is expected.
struct Question {
    server: SocketAddr,
    socket: SocketId,
    purpose: Purpose,
}

/// The further sockets, and what was asked.
#[derive(Default)]
pub(super) struct Sockets {
    purposes: BTreeMap<SocketId, Purpose>,
    last: u16,
    questions: BTreeMap<TransactionId, Question>,
    /// The volleys of the last minute: when each began, and at which address.
    volleys: Vec<(Mono, IpAddr)>,
}

impl Node {
    /// Tells that sockets which were asked for by [`Event::OpenSockets`] are open.
    pub fn sockets_opened(&mut self, now: Now, sockets: &[SocketId]) {
        for &socket in sockets {
            match self.sockets.purposes.get(&socket).copied() {
                Some(Purpose::Survey) => self.survey_socket_opened(now, socket),
                Some(Purpose::Keepalive) => self.keepalive_socket_opened(now, socket),
                Some(Purpose::Effort(index)) => self.effort_socket_opened(now, index, socket),
                None => {}
            }
        }
    }

    /// Asks the driver for sockets. Fewer, if there would be too many.
    pub(super) fn want_sockets(&mut self, purpose: Purpose, count: usize) -> Vec<SocketId> {
        let count = count.min(SOCKETS_MAX.saturating_sub(self.sockets.purposes.len()));
        let wanted: Vec<_> = (0..count).map(|_| self.sockets.name(purpose)).collect();
        if !wanted.is_empty() {
            self.events.push_back(Event::OpenSockets(wanted.clone()));
        }
        wanted
    }

    /// Closes sockets, whether the driver has opened them yet or not.
    pub(super) fn close_sockets(&mut self, sockets: &[SocketId]) {
        let closed: Vec<_> =
            sockets.iter().copied().filter(|socket| self.sockets.purposes.remove(socket).is_some()).collect();
        self.sockets.questions.retain(|_, question| !closed.contains(&question.socket));
        if !closed.is_empty() {
            self.events.push_back(Event::CloseSockets(closed));
        }
    }

    /// Asks a STUN server which address a socket of ours has there.
    pub(super) fn ask_stun(&mut self, server: SocketAddr, socket: SocketId, purpose: Purpose) {
        if let Some(transaction) = self.new_question(Question { server, socket, purpose }) {
            let hop = Hop::Direct(Route { socket, ..Route::to(server) });
            self.queue(hop, Outgoing::Datagram(stun::request(&transaction)));
        }
    }

    /// Asks a STUN server from the main socket to answer to a port that leads to another one of ours: there the answer counts.
    pub(super) fn ask_stun_to_port(&mut self, server: SocketAddr, port: u16, socket: SocketId, purpose: Purpose) {
        if let Some(transaction) = self.new_question(Question { server, socket, purpose }) {
            let hop = Hop::Direct(Route::to(server));
            self.queue(hop, Outgoing::Datagram(stun::request_to_port(&transaction, port)));
        }
    }

    fn new_question(&mut self, question: Question) -> Option<TransactionId> {
        if self.sockets.questions.len() >= STUN_QUESTIONS_MAX {
            return None;
        }
        let transaction = self.rng.array();
        self.sockets.questions.insert(transaction, question);
        Some(transaction)
    }

    /// Whether any question for this purpose has no answer yet.
    pub(super) fn has_questions(&self, purpose: Purpose) -> bool {
        self.sockets.questions.values().any(|question| question.purpose == purpose)
    }

    /// Gives up what was asked for this purpose.
    pub(super) fn forget_questions(&mut self, purpose: Purpose) {
        self.sockets.questions.retain(|_, question| question.purpose != purpose);
    }

    /// Takes the answer of a STUN server, if it is one to a question of ours, from where it was asked, on the socket where it is expected.
    pub(super) fn handle_stun(&mut self, now: Now, from: Route, datagram: &[u8]) -> Result<(), DropReason> {
        let (transaction, mapped) = stun::response(datagram).map_err(|_| DropReason::UnexpectedStun)?;
        let question = self.sockets.questions.get(&transaction).ok_or(DropReason::UnexpectedStun)?;
        if (question.server, question.socket) != (from.remote, from.socket) {
            return Err(DropReason::UnexpectedStun);
        }
        let Question { server, socket, purpose } = self.sockets.questions.remove(&transaction).expect("found above");
        match purpose {
            Purpose::Survey => self.survey_answered(now, server, socket, mapped),
            Purpose::Keepalive => self.keepalive_answered(now, socket, mapped),
            Purpose::Effort(index) => self.effort_answered(now, index, mapped),
        }
        Ok(())
    }
}

impl Sockets {
    /// Whether a volley may begin: there is one at a time, whomever it is for, and few in a minute at one address, whoever is said to be there.
    pub(super) fn may_volley(&mut self, now: Mono, target: IpAddr) -> bool {
        self.volleys.retain(|(begun, _)| now.since(*begun) < VOLLEYS_COUNTED_FOR);
        let goes_on = |begun: Mono| now.since(begun) < Volley::duration();
        let at_target = self.volleys.iter().filter(|(_, ip)| *ip == target).count();
        at_target < VOLLEYS_PER_ADDRESS_MAX && !self.volleys.iter().any(|(begun, _)| goes_on(*begun))
    }

    pub(super) fn volley_begins(&mut self, now: Mono, target: IpAddr) {
        self.volleys.push((now, target));
    }

    /// Names a new socket. There are fewer of them than names.
    fn name(&mut self, purpose: Purpose) -> SocketId {
        loop {
            self.last = self.last % (SocketId::FIRST_LINK.0 - 1) + 1;
            let socket = SocketId(self.last);
            if let Entry::Vacant(vacant) = self.purposes.entry(socket) {
                vacant.insert(purpose);
                return socket;
            }
        }
    }
}
