//! Floods of first messages: under load only those are looked into that prove to come from where they seem to (spec/handshake.md §9).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::Node;
use super::send::Outgoing;
use crate::crypto::{Secret, hmac_sha256};
use crate::limits::{
    COOKIE_LIFETIME, UNDER_LOAD_COOKIE_GROUPS, UNDER_LOAD_COOKIES_PER_GROUP, UNDER_LOAD_INITS_PER_PREFIX,
    UNDER_LOAD_INITS_PER_SECOND, UNDER_LOAD_PREFIXES_MAX,
};
use crate::path::Hop;
use crate::rng::Rng;
use crate::stats::DropReason;
use crate::time::{Mono, Now};
use crate::wire::handshake::{Cookie, Init, MAC_LEN, Mac1Key};

/// The second in which first messages are counted.
const SECOND: Duration = Duration::from_secs(1);

/// How many first messages there are, and the secret of the cookies.
pub(super) struct Load {
    second: Mono,
    inits: u32,
    inits_before: u32,
    /// First messages with a good cookie in this second, by source prefix.
    served: BTreeMap<Vec<u8>, u32>,
    /// Cookies given in this second, by group of source prefixes.
    given: Vec<u16>,
    secret: Option<(Mono, Secret)>,
}

impl Load {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            second: now,
            inits: 0,
            inits_before: 0,
            served: BTreeMap::new(),
            given: vec![0; UNDER_LOAD_COOKIE_GROUPS],
            secret: None,
        }
    }

    /// Counts a first message. Whether there are too many.
    fn count(&mut self, now: Mono) -> bool {
        let passed = now.since(self.second);
        if passed >= SECOND {
            self.inits_before = if passed < 2 * SECOND { self.inits } else { 0 };
            (self.second, self.inits) = (now, 0);
            self.served.clear();
            self.given.fill(0);
        }
        self.inits = self.inits.saturating_add(1);
        self.inits.max(self.inits_before) > UNDER_LOAD_INITS_PER_SECOND
    }

    fn secret(&mut self, now: Mono, rng: &mut Rng) -> &Secret {
        let kept = self.secret.take().filter(|(since, _)| now.since(*since) < COOKIE_LIFETIME);
        &self.secret.insert(kept.unwrap_or_else(|| (now, rng.secret_key()))).1
    }

    fn cookie(&mut self, now: Mono, source: &[u8], rng: &mut Rng) -> [u8; MAC_LEN] {
        let secret = self.secret(now, rng);
        *hmac_sha256(&**secret, &[source]).first_chunk().expect("a hash is longer than a mac")
    }

    /// Counts a cookie that is about to be given.
    fn give(&mut self, now: Mono, prefix: &[u8], rng: &mut Rng) -> Result<(), DropReason> {
        let secret = self.secret(now, rng);
        // No source can choose its group: the label keeps what decides it apart from every cookie.
        let digest = hmac_sha256(&**secret, &[b"group", prefix]);
        let group = usize::from(u16::from_be_bytes([digest[0], digest[1]])) % UNDER_LOAD_COOKIE_GROUPS;
        let given = &mut self.given[group];
        if *given >= UNDER_LOAD_COOKIES_PER_GROUP {
            return Err(DropReason::RateLimited);
        }
        *given += 1;
        Ok(())
    }

    /// Counts a first message with a good cookie.
    fn serve(&mut self, prefix: Vec<u8>) -> Result<(), DropReason> {
        if self.served.len() >= UNDER_LOAD_PREFIXES_MAX && !self.served.contains_key(&prefix) {
            return Err(DropReason::RateLimited);
        }
        let served = self.served.entry(prefix).or_default();
        *served += 1;
        if *served > UNDER_LOAD_INITS_PER_PREFIX { Err(DropReason::RateLimited) } else { Ok(()) }
    }
}

impl Node {
    /// Decides whether a message 1 may cost anything.
    pub(super) fn admit_init(&mut self, now: Now, hop: Hop, packet: &[u8]) -> Result<(), DropReason> {
        let init = Init::decode(packet).map_err(|error| super::receive::drop_reason(&error.into()))?;
        let own = self.key();
        if !init.is_for(&Mac1Key::new(&own)) {
            return Err(DropReason::Mac1);
        }
        if !self.load.count(now.mono) {
            return Ok(());
        }
        let prefix = prefix_of(&hop);
        if init.has_mac2() && init.proves(&self.load.cookie(now.mono, &source_of(&hop), &mut self.rng)) {
            return self.load.serve(prefix);
        }
        self.load.give(now.mono, &prefix, &mut self.rng)?;
        let cookie = self.load.cookie(now.mono, &source_of(&hop), &mut self.rng);
        let backbone = if let Hop::Direct(route) = &hop { self.backbone_at(now.mono, route) } else { None };
        self.check_direct(backbone, &hop)?;
        let answer = Cookie::seal(&init, &own, self.rng.array(), cookie);
        self.queue(hop, Outgoing::Datagram(answer.encode()));
        Err(DropReason::UnderLoad)
    }

    /// Takes the cookie that answers an attempt of ours, for the way by which it has come.
    pub(super) fn handle_cookie(&mut self, hop: Hop, packet: &[u8]) -> Result<(), DropReason> {
        let cookie = Cookie::decode(packet).map_err(|_| DropReason::Malformed)?;
        let &index = self.by_index.get(&cookie.initiator).ok_or(DropReason::Unsolicited)?;
        let peer = &mut self.peers[index as usize];
        let dial = peer.dial.as_mut().filter(|dial| dial.is_in_handshake() && dial.index() == cookie.initiator);
        let dial = dial.filter(|dial| dial.was_sent_by(&hop));
        let dial = dial.ok_or(DropReason::Unsolicited)?;
        let init = Init::decode(&dial.datagram).map_err(|_| DropReason::Unsolicited)?;
        let opened = cookie.open(&init, &peer.key).map_err(|_| DropReason::Authentication)?;
        if dial.keep_cookie(hop, opened) {
            self.send_dial_by(index, hop);
            self.touch(index);
        }
        Ok(())
    }
}

/// What a cookie is bound to.
fn source_of(hop: &Hop) -> Vec<u8> {
    match hop {
        Hop::Direct(route) => route.remote.to_string().into_bytes(),
        Hop::Relay { backbone, circuit } => [backbone.to_be_bytes(), circuit.0.to_be_bytes()].concat(),
    }
}

/// Whose first messages count together: an attacker has all ports of its address, and all addresses of its network in IPv6.
fn prefix_of(hop: &Hop) -> Vec<u8> {
    match hop {
        Hop::Direct(route) => match route.remote.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets()[..8].to_vec(),
        },
        Hop::Relay { .. } => source_of(hop),
    }
}
