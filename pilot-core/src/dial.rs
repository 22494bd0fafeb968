//! One attempt to reach a peer: certificate if it is missing, then message 1, retried until something answers (spec/handshake.md §5).
//!
//! States: `Certificate -> Unsealed -> Handshake -> done`; a CERT that answers message 1 (our copy was stale) leads to a fresh `Handshake`.

use std::time::Duration;

use crate::event::ConnectError;
use crate::handshake::Initiator;
use crate::id::SessionIndex;
use crate::limits::{CONNECT_TIMEOUT, HANDSHAKE_RETRY_MAX, HANDSHAKE_RETRY_MIN, HANDSHAKE_RETRY_WAITED_FOR};
use crate::path::Hop;
use crate::time::Mono;
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
            cookies: Vec::new(),
        }
    }

    /// Notes by which way the question before this attempt was answered.
    pub(crate) fn note_answer(&mut self, hop: Hop) {
        self.answered_by = Some(hop);
    }

    pub(crate) fn has_answered_by(&self, hop: &Hop) -> bool {
        self.answered_by.is_some_and(|answered| answered.is_same_way(hop))
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
