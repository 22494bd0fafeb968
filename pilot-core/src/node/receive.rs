//! Datagrams in: sorted by kind, authenticated, then handed to the peer they are proved to come from.

use std::time::Duration;

use crate::dial::Dial;
use crate::event::ConnectError;
use crate::handshake::{self, HandshakeError, Incoming, Local, Parameters};
use crate::id::SessionIndex;
use crate::identity::CertificateError;
use crate::limits::{
    HANDSHAKE_CROSSING, HANDSHAKE_RETRY_MIN, STATELESS_REPLIES_PER_SECOND, UNKNOWN_HANDSHAKE_INTERVAL,
};
use crate::path::Hop;
use crate::peer::{Answered, PeerInfo, Unconfirmed};
use crate::route::{Ecn, Route};
use crate::stats::DropReason;
use crate::time::{Mono, Now};
use crate::transport::Code;
use crate::tunnel::{Agreed, Tunnel, TunnelOpenError};
use crate::wire::codec::DecodeError;
use crate::wire::handshake::{Cert, Init};
use crate::wire::{self, DataHeader, PacketKind, RelayHeader, Unknown};

use super::Node;
use super::connect::Made;
use super::send::Outgoing;

/// A token bucket for answers that need no state, so that junk cannot make us a source of junk.
pub(super) struct RateLimit {
    tokens: u32,
    refilled: Mono,
}

impl RateLimit {
    pub(super) fn new(now: Mono) -> Self {
        Self { tokens: STATELESS_REPLIES_PER_SECOND, refilled: now }
    }

    fn spend(&mut self, now: Mono) -> Result<(), DropReason> {
        if now.since(self.refilled) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.tokens = self.tokens.checked_sub(1).ok_or(DropReason::RateLimited)?;
        Ok(())
    }
}

impl Node {
    /// Takes one datagram. Whatever is wrong with it is counted under a [`DropReason`] and has no other effect.
    pub fn handle_datagram(&mut self, now: Now, from: Route, ecn: Ecn, datagram: &mut [u8]) {
        self.look_at_clocks(now);
        self.stats.datagrams_received += 1;
        self.stats.bytes_received += datagram.len() as u64;
        if let Err(reason) = self.dispatch(now, from, ecn, datagram) {
            self.stats.drop(reason);
            tracing::trace!(?reason, "datagram dropped");
        }
    }

    fn dispatch(&mut self, now: Now, from: Route, ecn: Ecn, datagram: &mut [u8]) -> Result<(), DropReason> {
        if wire::peek(datagram) == Ok(PacketKind::Stun) {
            return self.handle_stun(now, from, datagram);
        }
        if wire::peek(datagram) != Ok(PacketKind::Relay) {
            return self.handle_packet(now, Hop::Direct(from), ecn, datagram);
        }
        let (header, packet) = RelayHeader::decode_mut(datagram).map_err(|_| DropReason::Malformed)?;
        let backbone = self.backbone_at(now.mono, &from).ok_or(DropReason::RelaySource)?;
        self.handle_packet(now, Hop::Relay { backbone, circuit: header.circuit }, ecn, packet)
    }

    /// Takes an end-to-end packet, whichever way it came.
    pub(super) fn handle_packet(&mut self, now: Now, hop: Hop, ecn: Ecn, packet: &mut [u8]) -> Result<(), DropReason> {
        match wire::peek(packet).map_err(|_| DropReason::Malformed)? {
            PacketKind::Data => self.handle_data(now, hop, ecn, packet),
            PacketKind::Init => self.handle_init(now, hop, packet),
            PacketKind::Resp => self.handle_resp(now, hop, packet),
            PacketKind::CertRequest => self.handle_cert_request(now, hop, packet),
            PacketKind::Cert => self.handle_cert(now, hop, packet),
            PacketKind::Unknown => self.handle_unknown(now, hop, packet),
            PacketKind::Stun => Err(DropReason::UnexpectedStun),
            PacketKind::Cookie => self.handle_cookie(hop, packet),
            PacketKind::Relay => Err(DropReason::Malformed),
        }
    }

    /// The backbone node that this is a validated address of.
    pub(super) fn backbone_at(&self, now: Mono, from: &Route) -> Option<u32> {
        self.backbones.iter().copied().find(|&index| self.has_validated_at(now, index, from))
    }

    fn handle_data(&mut self, now: Now, hop: Hop, ecn: Ecn, packet: &mut [u8]) -> Result<(), DropReason> {
        let header = DataHeader::decode(packet).map_err(|_| DropReason::Malformed)?;
        let Some(&index) = self.by_index.get(&header.receiver) else {
            self.answer_unknown(now, hop, packet)?;
            return Err(DropReason::UnknownSession);
        };
        self.check_direct(Some(index), &hop)?;
        if self.peers[index as usize].paths.is_crowded(now.mono, &hop) {
            return Err(DropReason::TableFull);
        }
        let len = packet.len();
        self.confirm(now, index, header.receiver, hop, packet)?;
        let peer = &mut self.peers[index as usize];
        let Some(tunnel) = &mut peer.tunnel else { return Err(DropReason::UnknownSession) };
        let (number, frames) = tunnel.open(now.mono, header.receiver, packet).map_err(|error| match error {
            TunnelOpenError::Unknown => DropReason::UnknownSession,
            TunnelOpenError::Expired => DropReason::ExpiredSession,
            TunnelOpenError::Replay => DropReason::Replay,
            TunnelOpenError::Open(_) => DropReason::Authentication,
        })?;
        peer.bytes_received += len as u64;
        peer.paths.earn_probes(len);
        self.heard_from(index);
        let path = self.heard_by(now.mono, index, hop);
        let peer = &mut self.peers[index as usize];
        if !peer.paths.path(path).is_some_and(crate::path::Path::is_proved) {
            peer.paths.probe(now.mono, path, &mut self.rng);
        }
        let tunnel = peer.tunnel.as_mut().expect("opened above");
        if let Err(error) = tunnel.transport.handle_packet(now.mono, path, number, ecn == Ecn::Ce, frames) {
            self.close(now, index, error.code(), &error.to_string());
            return Ok(());
        }
        if self.peers[index as usize].paths.active().is_none_or(|active| active.id != path) {
            self.leave_outlived_path(now, index);
            self.choose_path(now, index);
        }
        self.drain_peer(now, index);
        Ok(())
    }

    /// If the packet is the first of a session that we answered, its initiator has the keys: the session takes over. The packet itself is
    /// opened as any other afterwards, so here only a copy is.
    fn confirm(
        &mut self,
        now: Now,
        index: u32,
        receiver: SessionIndex,
        hop: Hop,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        let peer = &mut self.peers[index as usize];
        let Some(unconfirmed) = peer.unconfirmed.as_mut().filter(|session| session.agreed.live.index() == receiver)
        else {
            return Ok(());
        };
        let mut copy = packet.to_vec();
        unconfirmed.agreed.live.open(&mut copy).map_err(|_| DropReason::Authentication)?;
        let unconfirmed = peer.unconfirmed.take().expect("found above");
        let is_proved = unconfirmed.is_proof_of(&hop);
        let unspent = peer.answered.as_ref().map_or(0, |answered| unconfirmed.unspent(&answered.response));
        let Unconfirmed { agreed, continues, early, held, .. } = *unconfirmed;
        self.establish(now, index, Made { agreed, continues, hop, is_proved, early, unspent });
        if let Some(held) = held {
            let path = self.peers[index as usize].add_path(now.mono, hop);
            self.receive_early(now, index, path, &held);
        }
        Ok(())
    }

    fn handle_init(&mut self, now: Now, hop: Hop, packet: &[u8]) -> Result<(), DropReason> {
        self.admit_init(now, hop, packet)?;
        let incoming = match Incoming::open(self.key(), &self.keys.transport, &mut self.acquaintances, packet, now.unix)
        {
            Ok(incoming) => incoming,
            Err(HandshakeError::UnknownKey { initiator, .. }) => {
                let answer = handshake::answer_stale_init(initiator, &self.keys.certificate);
                self.answer_certificate(now, hop, answer)?;
                return Err(DropReason::UnknownKey);
            }
            Err(HandshakeError::Certificate(error)) if error.is_about_time() => {
                let initiator = Init::decode(packet).map_err(|_| DropReason::Malformed)?.initiator;
                let answer = handshake::answer_stale_init(initiator, &self.keys.certificate);
                self.answer_certificate(now, hop, answer)?;
                return Err(DropReason::CertificateExpired);
            }
            Err(error) => return Err(drop_reason(&error)),
        };
        let key = incoming.certificate.identity;
        self.check_direct(self.slots_of(&key).first().copied(), &hop)?;
        let instance = incoming.certificate.instance;
        let index = self.slot_of_instance(now.mono, key, instance).ok_or(DropReason::TableFull)?;
        if self.answer_duplicate(now, index, &incoming, hop) {
            return Ok(());
        }
        if self.wins_against(index) {
            self.send_dial_by(index, hop);
            return Err(DropReason::SimultaneousInitiation);
        }
        if self.peers[index as usize].unconfirmed.as_ref().is_some_and(|ours| incoming.timestamp < ours.timestamp) {
            return Err(DropReason::Replay);
        }
        self.respond(now, index, incoming, hop)
    }

    /// Answers a message 1 that was answered before, in the same words. Copies that came by other ways in the same moment are not
    /// answered: the first way is as good, and an answer by one way only proves that way.
    fn answer_duplicate(&mut self, now: Now, index: u32, incoming: &Incoming, hop: Hop) -> bool {
        let peer = &mut self.peers[index as usize];
        let Some(answered) = peer.answered.as_ref().filter(|answered| answered.transcript == incoming.transcript)
        else {
            return false;
        };
        let response = answered.response.clone();
        if let Some(unconfirmed) = &mut peer.unconfirmed {
            if now.mono.since(unconfirmed.since) < HANDSHAKE_RETRY_MIN && !unconfirmed.is_proof_of(&hop) {
                return true;
            }
            unconfirmed.answer_again(&hop);
        }
        self.queue(hop, Outgoing::Datagram(response));
        true
    }

    /// Answers message 1. Nothing but the answer exists until the initiator has used the session.
    fn respond(&mut self, now: Now, index: u32, mut incoming: Incoming, hop: Hop) -> Result<(), DropReason> {
        let local_index = self.new_index();
        let (transcript, timestamp) = (incoming.transcript, incoming.timestamp);
        let certificate = incoming.certificate.clone();
        let tunnel = self.peers[index as usize]
            .tunnel
            .as_ref()
            .filter(|tunnel| tunnel.is_established() && tunnel.id == incoming.tunnel)
            .filter(|tunnel| !tunnel.is_ahead_of(&incoming.parameters));
        let psk = tunnel.and_then(Tunnel::shared_psk);
        let next_packet = tunnel.map_or(0, Tunnel::doubted_next_packet);
        let early = if psk.is_none() { self.take_early(now, &mut incoming) } else { None };
        let parameters =
            Parameters { early_taken: u64::from(early.is_some()), next_packet, ..self.config.parameters() };
        let local = Local {
            identity: &self.keys.identity,
            certificate: &self.keys.certificate,
            transport: &self.keys.transport[0],
        };
        let (established, response) =
            incoming.respond(&local, local_index, &psk.unwrap_or(handshake::NO_PSK), &parameters, &mut self.rng);
        self.drop_unconfirmed(index);
        let peer = &mut self.peers[index as usize];
        let agreed = Agreed::new(established, local_index, false, now.mono);
        let unconfirmed = Unconfirmed::new(agreed, psk.is_some(), now.mono, timestamp, hop);
        peer.unconfirmed = Some(Box::new(unconfirmed));
        peer.answered = Some(Answered { transcript, response: response.clone() });
        peer.learn(PeerInfo {
            key: certificate.identity,
            certificate: Some(certificate),
            addresses: Vec::new(),
            homes: Vec::new(),
        });
        self.by_index.insert(local_index, index);
        self.queue(hop, Outgoing::Datagram(response));
        self.last_handshake = Some(now.mono);
        if let Some(early) = early {
            self.hold_early(now, index, early, hop);
        }
        self.touch(index);
        Ok(())
    }

    fn handle_resp(&mut self, now: Now, hop: Hop, packet: &[u8]) -> Result<(), DropReason> {
        let resp = wire::handshake::Resp::decode(packet).map_err(|_| DropReason::Malformed)?;
        let &index = self.by_index.get(&resp.initiator).ok_or(DropReason::Unsolicited)?;
        self.check_direct(Some(index), &hop)?;
        if self.yields_to(index, now.mono) {
            return Err(DropReason::SimultaneousInitiation);
        }
        let peer = &mut self.peers[index as usize];
        let psks = peer.rekey_psks();
        let initiator =
            peer.dial.as_mut().and_then(|dial| dial.initiator(resp.initiator)).ok_or(DropReason::Unsolicited)?;
        let local_index = resp.initiator;
        let established = initiator.finish(packet, &psks, now.unix).map_err(|error| drop_reason(&error))?;
        let is_proved = peer.dial.as_ref().is_some_and(|dial| dial.was_sent_by(&hop));
        let continues = established.psk_index + 1 < psks.len();
        peer.dial = None;
        let info = PeerInfo {
            key: peer.key,
            certificate: Some(established.remote.clone()),
            addresses: Vec::new(),
            homes: Vec::new(),
        };
        peer.learn(info);
        let agreed = Agreed::new(established, local_index, true, now.mono);
        if continues && peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_ahead_of(&agreed.parameters)) {
            return self.begin_anew(now, index, local_index);
        }
        self.establish(now, index, Made { agreed, continues, hop, is_proved, early: None, unspent: wire::INNER });
        // A session that the peer began before goes: it has answered us since, and will use ours.
        self.drop_unconfirmed(index);
        let peer = &mut self.peers[index as usize];
        // The responder holds its session back until we have used it.
        let path = peer.add_path(now.mono, hop);
        if let Some(tunnel) = &mut peer.tunnel {
            tunnel.transport.ping(path);
        }
        self.touch(index);
        Ok(())
    }

    /// The peer is an older copy of the one that the tunnel is with: what was sent since is not its own. A new tunnel takes the old one's
    /// place, on both sides.
    fn begin_anew(&mut self, now: Now, index: u32, attempt: SessionIndex) -> Result<(), DropReason> {
        self.by_index.remove(&attempt);
        self.end_tunnel(index, Code::PEER_RESTARTED, "the agent has lost what was sent since it was stored");
        self.start_dial(now, index);
        Ok(())
    }

    fn handle_cert_request(&mut self, now: Now, hop: Hop, packet: &[u8]) -> Result<(), DropReason> {
        let answer = handshake::answer_certificate_request(packet, &self.keys.certificate)
            .map_err(|error| drop_reason(&error))?;
        self.answer_certificate(now, hop, answer)
    }

    /// Takes a certificate that an attempt of ours waits for: asked for outright, or because the one it had is stale.
    fn handle_cert(&mut self, now: Now, hop: Hop, packet: &[u8]) -> Result<(), DropReason> {
        let nonce = Cert::decode(packet).map_err(|_| DropReason::Malformed)?.nonce;
        let index = self.dial_with_nonce(&nonce).ok_or(DropReason::Unsolicited)?;
        let peer = &mut self.peers[index as usize];
        let accepted = handshake::accept_certificate(packet, nonce, &peer.key, now.unix);
        if let (Err(HandshakeError::Certificate(error)), Some(dial)) = (&accepted, &mut peer.dial) {
            let text = format!("the agent's certificate is not of this time ({error})");
            dial.obstacle = error.is_about_time().then_some(ConnectError::Clock(text));
        }
        let certificate = accepted.map_err(|error| drop_reason(&error))?;
        let is_known = peer.certificate.as_ref().is_some_and(|known| known.key_id == certificate.key_id);
        if let Some(dial) = peer.dial.as_mut().filter(|dial| is_known && dial.is_in_handshake()) {
            // It has the key that we have used, and yet does not take our message.
            let text = "the agent refuses our certificate as not of its time".to_owned();
            dial.obstacle = Some(ConnectError::Clock(text));
            return Err(DropReason::Unsolicited);
        }
        if !self.meet(now.mono, index, certificate) {
            return Err(DropReason::OtherInstance);
        }
        self.dial_again(now, index, Some(hop));
        Ok(())
    }

    /// The peer does not know the session of a packet that is in flight: it has lost its state, or somebody on the path says so. Either
    /// way one handshake tells; nothing else changes before it is complete. Or it is the answer to a knock.
    fn handle_unknown(&mut self, now: Now, hop: Hop, packet: &[u8]) -> Result<(), DropReason> {
        let unknown = Unknown::decode(packet).map_err(|_| DropReason::Malformed)?;
        if self.knock_answered(now, &hop, &unknown) {
            return Ok(());
        }
        let &index = self.by_remote_index.get(&unknown.receiver).ok_or(DropReason::Unsolicited)?;
        let peer = &mut self.peers[index as usize];
        let is_ours = peer
            .tunnel
            .as_ref()
            .is_some_and(|tunnel| tunnel.transport.is_in_flight(unknown.packet_number, unknown.tag8));
        if !is_ours {
            return Err(DropReason::Unsolicited);
        }
        if peer.last_unknown.is_some_and(|at| now.mono.since(at) < UNKNOWN_HANDSHAKE_INTERVAL) || peer.dial.is_some() {
            return Err(DropReason::RateLimited);
        }
        peer.last_unknown = Some(now.mono);
        self.start_dial(now, index);
        Ok(())
    }

    /// Somebody is at an address that only a record names: the attempt goes on there. Returns whether it is so.
    fn knock_answered(&mut self, now: Now, hop: &Hop, unknown: &Unknown) -> bool {
        let Some(&index) = self.by_index.get(&unknown.receiver) else { return false };
        let peer = &mut self.peers[index as usize];
        let is_answer = peer.take_knock_answer(now.mono, hop, unknown);
        if is_answer && peer.may_dial_by(now.mono, hop) {
            self.send_dial_by(index, *hop);
        }
        is_answer
    }

    fn answer_unknown(&mut self, now: Now, hop: Hop, packet: &[u8]) -> Result<(), DropReason> {
        let unknown = Unknown::answer(packet).map_err(|_| DropReason::Malformed)?;
        self.check_direct(None, &hop)?;
        self.unknowns.spend(now.mono)?;
        self.queue(hop, Outgoing::Datagram(unknown.encode().to_vec()));
        Ok(())
    }

    /// Tells a stranger who knows our identity the rest of the certificate. A relay-only agent does not: it would tell where it is.
    fn answer_certificate(&mut self, now: Now, hop: Hop, answer: Vec<u8>) -> Result<(), DropReason> {
        self.check_direct(None, &hop)?;
        self.certificates.spend(now.mono)?;
        self.queue(hop, Outgoing::Datagram(answer));
        Ok(())
    }

    /// Relay-only agents take nothing from a peer's own address; backbone nodes have no other.
    pub(super) fn check_direct(&self, peer: Option<u32>, hop: &Hop) -> Result<(), DropReason> {
        let is_backbone = peer.is_some_and(|index| self.peers[index as usize].is_backbone);
        let is_allowed = self.config.direct || !hop.is_direct() || is_backbone;
        if is_allowed { Ok(()) } else { Err(DropReason::DirectForbidden) }
    }

    /// Both sides have sent message 1: that of the smaller key goes on, the other is answered by its retry.
    fn wins_against(&self, index: u32) -> bool {
        let peer = &self.peers[index as usize];
        peer.dial.as_deref().is_some_and(Dial::is_in_handshake) && self.key() < peer.key
    }

    /// Both sides have answered the other's message 1: the session of the smaller key's goes on, and is about to be used. Only for a
    /// moment after our attempt has begun: a replay looks the same.
    fn yields_to(&self, index: u32, now: Mono) -> bool {
        let peer = &self.peers[index as usize];
        let is_recent = peer.dial.as_ref().is_some_and(|dial| now.since(dial.started) < HANDSHAKE_CROSSING);
        is_recent && peer.key < self.key() && peer.unconfirmed.as_ref().is_some_and(|session| !session.continues)
    }

    pub(super) fn new_index(&mut self) -> SessionIndex {
        loop {
            let index = SessionIndex(u32::from_be_bytes(self.rng.array()));
            if !self.by_index.contains_key(&index) {
                return index;
            }
        }
    }

    /// The slot whose attempt waits for a certificate under this nonce. Every nonce of ours begins with an index of ours.
    fn dial_with_nonce(&self, nonce: &[u8; 8]) -> Option<u32> {
        let local = SessionIndex(u32::from_be_bytes(nonce[..4].try_into().expect("four of eight bytes")));
        let &index = self.by_index.get(&local)?;
        self.peers[index as usize].dial.as_ref()?.awaits_certificate(nonce).then_some(index)
    }
}

pub(super) fn drop_reason(error: &HandshakeError) -> DropReason {
    match error {
        HandshakeError::Decode(DecodeError::UnsupportedVersion(_) | DecodeError::UnsupportedSuite(_)) => {
            DropReason::Version
        }
        HandshakeError::Decode(_) | HandshakeError::Payload(_) => DropReason::Malformed,
        HandshakeError::Mac1 | HandshakeError::OwnIdentity => DropReason::Mac1,
        HandshakeError::Forged | HandshakeError::SmallOrder(_) => DropReason::Handshake,
        HandshakeError::ForeignTransportKey => DropReason::ForeignTransportKey,
        HandshakeError::ForeignIdentity => DropReason::ForeignIdentity,
        HandshakeError::UnknownKey { .. } => DropReason::UnknownKey,
        HandshakeError::Unasked => DropReason::Unsolicited,
        HandshakeError::Certificate(error) => match error {
            CertificateError::Address => DropReason::CertificateAddress,
            CertificateError::NotYetValid { .. } | CertificateError::Expired { .. } => DropReason::CertificateExpired,
            CertificateError::Version { .. } | CertificateError::Suites(_) => DropReason::Version,
            CertificateError::Decode(_)
            | CertificateError::KeyId
            | CertificateError::Validity
            | CertificateError::Signature(_) => DropReason::Certificate,
        },
    }
}
