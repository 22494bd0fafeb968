//! Sockets besides the main one, opened by the driver on request, and STUN questions out of any of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};

use super::Node;
use super::send::Outgoing;
use crate::event::Event;
use crate::limits::{
    BIRTHDAY_PORTS_PER_SOCKET_MAX, BIRTHDAY_SHARE, BIRTHDAY_SOCKETS, EFFORT_MAPPINGS_MAX, MAPPING_COUNTED_FOR,
    SOCKETS_MAX, STUN_QUESTIONS_MAX, VOLLEYS_COUNTED_FOR, VOLLEYS_PER_ADDRESS_MAX,
};
use crate::mapping::Volley;
use crate::path::Hop;
use crate::route::{Route, SocketId};
use crate::stats::DropReason;
use crate::stun::{self, TransactionId};
use crate::time::{Mono, Now};
use crate::transport::PortSet;

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
    /// The volleys of the last minute.
    volleys: Aimed,
    /// The same of the challenges out of many sockets.
    challenges: Aimed,
    /// Ports of our NAT that efforts have taken: when, and for which socket.
    mappings: Vec<(Mono, SocketId)>,
}

/// What went to addresses in the last minute that nobody but the home node has named: when it began, and where.
#[derive(Default)]
struct Aimed(Vec<(Mono, IpAddr)>);

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

    /// Sends the questions for this purpose that have no answer yet once more, each as it was: an answer to any of its copies counts.
    pub(super) fn repeat_questions(&mut self, purpose: Purpose) {
        let unanswered = self.sockets.questions.iter().filter(|(_, question)| question.purpose == purpose);
        let requests: Vec<_> = unanswered
            .map(|(transaction, Question { server, socket, .. })| {
                let hop = Hop::Direct(Route { socket: *socket, ..Route::to(*server) });
                (hop, Outgoing::Datagram(stun::request(transaction)))
            })
            .collect();
        requests.into_iter().for_each(|(hop, request)| self.queue(hop, request));
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
    /// When the volley ends that is under way: there is one at a time, whomever it is for.
    pub(super) fn volley_ends(&self, now: Mono) -> Option<Mono> {
        let ends = self.volleys.0.iter().map(|(begun, _)| *begun + Volley::duration());
        ends.filter(|end| now < *end).max()
    }

    /// Whether a volley may begin: there are few in a minute at one address, whoever is said to be there.
    pub(super) fn may_volley(&mut self, now: Mono, target: IpAddr) -> bool {
        self.volleys.is_rare(now, target)
    }

    pub(super) fn volley_begins(&mut self, now: Mono, target: IpAddr) {
        self.volleys.0.push((now, target));
    }

    /// Whether the sockets of an effort may send challenges to an address now: they are as few in a minute as volleys. Notes that they do.
    pub(super) fn may_challenge(&mut self, now: Mono, target: IpAddr) -> bool {
        let may = self.challenges.is_rare(now, target);
        if may {
            self.challenges.0.push((now, target));
        }
        may
    }

    /// How many sockets the next effort may open: half of what others have left of the part of a NAT's ports that is for efforts. None
    /// where a volley would too often miss so few.
    pub(super) fn share_of(&mut self, now: Mono, set: PortSet) -> usize {
        self.expire_mappings(now);
        let all = (set.ports_len() / BIRTHDAY_SHARE).min(EFFORT_MAPPINGS_MAX) as usize;
        let left = all.saturating_sub(self.mappings.len());
        let share =
            left.div_ceil(2).min(BIRTHDAY_SOCKETS as usize).min(SOCKETS_MAX.saturating_sub(self.purposes.len()));
        if share < (set.ports_len() / BIRTHDAY_PORTS_PER_SOCKET_MAX) as usize { 0 } else { share }
    }

    /// Counts the ports that these sockets will take.
    pub(super) fn note_mappings(&mut self, now: Mono, sockets: &[SocketId]) {
        self.expire_mappings(now);
        self.mappings.extend(sockets.iter().map(|&socket| (now, socket)));
    }

    fn expire_mappings(&mut self, now: Mono) {
        let is_open = |socket: &SocketId| self.purposes.contains_key(socket);
        self.mappings.retain(|(made, socket)| now.since(*made) < MAPPING_COUNTED_FOR || is_open(socket));
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

impl Aimed {
    /// Whether so little went to an address that more may.
    fn is_rare(&mut self, now: Mono, target: IpAddr) -> bool {
        self.0.retain(|(begun, _)| now.since(*begun) < VOLLEYS_COUNTED_FOR);
        self.0.iter().filter(|(_, ip)| *ip == target).count() < VOLLEYS_PER_ADDRESS_MAX
    }
}
