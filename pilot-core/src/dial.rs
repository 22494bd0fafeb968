//! One attempt to reach a peer: certificate if it is missing, then message 1, retried until something answers (spec/handshake.md §5).
//!
//! States: `Certificate -> Unsealed -> Handshake -> done`; a CERT that answers message 1 (our copy was stale) leads to a fresh `Handshake`.

use std::time::Duration;

use crate::event::ConnectError;
use crate::handshake::Initiator;
use crate::hearsay::Knock;
use crate::id::SessionIndex;
use crate::limits::{CONNECT_TIMEOUT, HANDSHAKE_RETRY_MAX, HANDSHAKE_RETRY_MIN, HANDSHAKE_RETRY_WAITED_FOR};
use crate::path::Hop;
use crate::rng::Rng;
use crate::time::Mono;
use crate::wire::Unknown;
use crate::wire::handshake::{Cert, MAC_LEN, put_mac2};

/// What the attempt waits for.
pub(crate) enum Stage {
    /// The responder's certificate; the nonce, which begins with our index, ties the answer to the question.
    Certificate { nonce: [u8; 8], index: SessionIndex },
    /// Message 1 is made when it is sent first, so that it can carry what is written by then.
    Unsealed { index: SessionIndex },
    /// Message 2.
    Handshake { initiator: Box<Initiator>, index: SessionIndex },
}

/// An attempt under way. The same datagram is sent again, so that a duplicate is recognised by its transcript.
pub(crate) struct Dial {
    pub(crate) stage: Stage,
    pub(crate) datagram: Vec<u8>,
    pub(crate) started: Mono,
    next_retry: Mono,
    backoff: Duration,
    retries: u32,
    /// What stands in the way, as far as anybody has said.
    pub(crate) obstacle: Option<ConnectError>,
    /// Another instance of the peer has answered.
    pub(crate) has_met_other: bool,
    /// The way by which its certificate has come: somebody is there.
    answered_by: Option<Hop>,
    /// The direct ways by which the datagram has gone.
    sent_by: Vec<Hop>,
    /// Ways by which the peer was reached once, and the knocks there.
    knocks: Vec<(Hop, Knock)>,
    /// Of these, where somebody has answered.
    still_there: Vec<Hop>,
    /// What the responder has answered under load, and by which way.
    cookies: Vec<(Hop, [u8; MAC_LEN])>,
}

impl Dial {
    pub(crate) fn new(stage: Stage, datagram: Vec<u8>, started: Mono, now: Mono) -> Self {
        Self {
            stage,
            datagram,
            started,
            next_retry: now + HANDSHAKE_RETRY_MIN,
            backoff: HANDSHAKE_RETRY_MIN,
            retries: 0,
            obstacle: None,
            has_met_other: false,
            answered_by: None,
            sent_by: Vec::new(),
            knocks: Vec::new(),
            still_there: Vec::new(),
            cookies: Vec::new(),
        }
    }

    /// Notes by which way the question before this attempt was answered.
    pub(crate) fn note_answer(&mut self, hop: Hop) {
        self.answered_by = Some(hop);
    }

    pub(crate) fn has_answered_by(&self, hop: &Hop) -> bool {
        self.answered_by.iter().chain(&self.still_there).any(|answered| answered.is_same_way(hop))
    }

    /// Notes that the datagram goes by a way.
    pub(crate) fn note_sent(&mut self, hop: Hop) {
        if !self.was_sent_by(&hop) {
            self.sent_by.push(hop);
        }
    }

    /// Whether it has gone by a way; by a circuit it may have, with the question for that.
    pub(crate) fn was_sent_by(&self, hop: &Hop) -> bool {
        !hop.is_direct() || self.sent_by.iter().any(|sent| sent.is_same_way(hop))
    }

    /// Asks whether somebody is still where the peer was. The packet for a way is the same in all of the attempt.
    pub(crate) fn knock(&mut self, hop: &Hop, rng: &mut Rng) -> Vec<u8> {
        let known = self.knocks.iter().find(|(way, _)| way.is_same_way(hop));
        if let Some((_, knock)) = known {
            return knock.packet.to_vec();
        }
        let knock = Knock::new(self.index(), rng);
        let packet = knock.packet.to_vec();
        self.knocks.push((*hop, knock));
        packet
    }

    /// Takes UNKNOWN for the answer to such a knock. Returns whether it is one, and the first from there.
    pub(crate) fn take_knock_answer(&mut self, hop: &Hop, answer: &Unknown) -> bool {
        let is_one = self.knocks.iter().any(|(way, knock)| way.is_same_way(hop) && knock.answer == *answer);
        let is_first = is_one && !self.has_answered_by(hop);
        if is_first {
            self.still_there.push(*hop);
        }
        is_first
    }

    /// The datagram for one way, with the proof of the cookie that has come by it.
    pub(crate) fn datagram_by(&self, hop: &Hop) -> Vec<u8> {
        let mut datagram = self.datagram.clone();
        if let Some((_, cookie)) = self.cookies.iter().find(|(way, _)| way.is_same_way(hop)) {
            put_mac2(&mut datagram, cookie);
        }
        datagram
    }

    /// Keeps the cookie of a way. Whether it is the first: only that one is used at once, so that cookies make nobody a source of packets.
    pub(crate) fn keep_cookie(&mut self, hop: Hop, cookie: [u8; MAC_LEN]) -> bool {
        let known = self.cookies.iter_mut().find(|(way, _)| way.is_same_way(&hop));
        let is_first = known.is_none();
        match known {
            Some(known) => known.1 = cookie,
            None => self.cookies.push((hop, cookie)),
        }
        is_first
    }

    /// Whether the datagram is to be sent again now. If so, arms the next retry.
    pub(crate) fn is_retry_due(&mut self, now: Mono) -> bool {
        if now < self.next_retry {
            return false;
        }
        let is_waited_for = now.since(self.started) < CONNECT_TIMEOUT;
        let backoff_max = if is_waited_for { HANDSHAKE_RETRY_WAITED_FOR } else { HANDSHAKE_RETRY_MAX };
        self.backoff = (self.backoff * 2).min(backoff_max);
        self.next_retry = now + self.backoff;
        self.retries += 1;
        true
    }

    /// How often the datagram was sent again.
    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// Our session index, under which an answer comes.
    pub(crate) fn index(&self) -> SessionIndex {
        match self.stage {
            Stage::Certificate { index, .. } | Stage::Unsealed { index } | Stage::Handshake { index, .. } => index,
        }
    }

    pub(crate) fn is_in_handshake(&self) -> bool {
        matches!(self.stage, Stage::Unsealed { .. } | Stage::Handshake { .. })
    }

    /// Whether a certificate under this nonce is what the attempt waits for, or what message 1 was answered with.
    pub(crate) fn awaits_certificate(&self, asked: &[u8; 8]) -> bool {
        match &self.stage {
            Stage::Certificate { nonce, .. } => nonce == asked,
            Stage::Handshake { index, .. } => Cert::nonce_for(*index) == *asked,
            Stage::Unsealed { .. } => false,
        }
    }

    /// The initiator that waits for message 2 under this index.
    pub(crate) fn initiator(&mut self, asked: SessionIndex) -> Option<&mut Initiator> {
        match &mut self.stage {
            Stage::Handshake { initiator, index } if *index == asked => Some(initiator),
            Stage::Handshake { .. } | Stage::Unsealed { .. } | Stage::Certificate { .. } => None,
        }
    }

    pub(crate) fn timeout(&self) -> Mono {
        self.next_retry
    }
}
