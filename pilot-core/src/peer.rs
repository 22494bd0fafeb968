//! Everything a node keeps for one peer, and the parts of its behaviour that touch nobody else.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::crypto::{KEY_LEN, SIGNATURE_LEN};
use crate::dial::Dial;
use crate::effort::Effort;
use crate::event::PathKind;
use crate::handshake::NO_PSK;
use crate::hearsay::Hearsay;
use crate::id::{IdentityKey, InstanceId, PathId};
use crate::identity::Certificate;
use crate::limits::{
    ADDRESSES_MAX, EARLY_ANSWER_PACKETS_MAX, FOLLOW_AFTER_GREATER, FOLLOW_AFTER_SMALLER, HANDSHAKE_CROSSING,
    HOME_KEEPALIVE, HOMES_MAX, LIVENESS_PROBE_AFTER, MAPPING_SETTLES_AFTER, MOVE_CONFIRMED_AFTER,
    MOVE_SUSPECTED_INTERVAL, MTU_PROBE_MAX, UNCONFIRMED_SESSION_LIFETIME,
};
use crate::path::{Hop, PROBE_BYTES_PER_BYTE, Path, Paths, Word};
pub use crate::record::Home;
use crate::rng::Rng;
use crate::route::{Route, SocketId};
use crate::time::{Mono, Now, UnixTime};
use crate::transport::{EarlyData, PathParams};
use crate::tunnel::{Agreed, Tunnel};
use crate::wire::{self, Unknown};

/// What is known of a peer before there is a tunnel: from a ticket, a directory record or a configuration.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its identity key.
    pub key: IdentityKey,
    /// Its current certificate, if known; else it is asked for.
    pub certificate: Option<Certificate>,
    /// Addresses to try directly.
    pub addresses: Vec<SocketAddr>,
    /// Backbone nodes that have a tunnel with it.
    pub homes: Vec<Home>,
}

/// What a signed record takes at least beside what it tells: a key and a signature.
const RECORD_LEN_MIN: usize = KEY_LEN + SIGNATURE_LEN;
/// An address of a record: four bytes and a port, in CBOR.
pub(crate) const RECORD_ADDRESS_LEN_MIN: usize = 8;

impl PeerInfo {
    /// Bytes that a record which tells this takes at least, without addresses, for each of the places that it names: the peer's own, and its
    /// backbone nodes. They pay for what is sent there (spec/paths.md §2.3).
    pub(crate) fn record_share(&self) -> usize {
        let places = self.homes.len() + usize::from(!self.addresses.is_empty());
        let certificate = self.certificate.as_ref().map_or(0, |_| Certificate::LEN);
        (RECORD_LEN_MIN + certificate) / places.max(1)
    }
}

/// A peer as `pilotctl peers` shows it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its identity key.
    pub key: IdentityKey,
    /// Whether there is a tunnel.
    pub connected: bool,
    /// Whether it is known as a backbone node.
    pub backbone: bool,
    /// The path in use.
    pub path: Option<PathKind>,
    /// Since when the tunnel uses it.
    pub path_since: Option<Mono>,
    /// Smoothed round trip of that path.
    pub rtt: Option<Duration>,
    /// Since when the tunnel is up.
    pub connected_since: Option<Mono>,
    /// Bytes of sealed packets sent.
    pub bytes_sent: u64,
    /// Bytes of sealed packets received.
    pub bytes_received: u64,
    /// Packets sent on the path in use.
    pub sent_packets: u64,
    /// Of these, how many were declared lost.
    pub lost_packets: u64,
    /// Streams open.
    pub streams: usize,
}

/// A session that the initiator has not used yet: no state of the tunnel has changed for it.
pub(crate) struct Unconfirmed {
    pub(crate) agreed: Agreed,
    /// Whether it continues the tunnel that we have, by its psk.
    pub(crate) continues: bool,
    pub(crate) since: Mono,
    /// When the initiator made message 1, by its clock.
    pub(crate) timestamp: UnixTime,
    /// The one way by which the answer has gone, if it is one: who uses the session has got it there.
    answered_by: Option<Hop>,
    /// Early data that was taken, to be received when the session is used.
    pub(crate) held: Option<EarlyData>,
    /// The tunnel-to-be, if some of that has been delivered.
    pub(crate) early: Option<EarlyTunnel>,
}

/// A tunnel that nobody has used yet: what may be a replay has been delivered, and is answered with a few packets at most.
pub(crate) struct EarlyTunnel {
    pub(crate) tunnel: Tunnel,
    /// The way by which message 1 has come, and the id that it will have as a path.
    pub(crate) hop: Hop,
    pub(crate) path: PathId,
    /// Packets that may still be sent.
    pub(crate) packets_left: u32,
}

/// The last message 1 that was answered, so that its duplicate gets the same answer.
pub(crate) struct Answered {
    pub(crate) transcript: [u8; 32],
    pub(crate) response: Vec<u8>,
}

/// One peer's slot.
pub(crate) struct Peer {
    pub(crate) key: IdentityKey,
    /// Which home of the identity this is; none before its certificate is known.
    pub(crate) instance: Option<InstanceId>,
    /// It was not reached by the attempt that is now at another instance.
    pub(crate) was_tried: bool,
    pub(crate) certificate: Option<Certificate>,
    /// Addresses from a ticket or our configuration.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Those that only records name.
    pub(crate) hearsay: Hearsay,
    pub(crate) homes: Vec<Home>,
    /// Bytes of the record that names them which pay for what is sent to each, if one of them is not known yet.
    homes_share: usize,
    pub(crate) is_backbone: bool,
    /// In a box, as what follows: of thousands of tunnels few are being made.
    pub(crate) dial: Option<Box<Dial>>,
    pub(crate) unconfirmed: Option<Box<Unconfirmed>>,
    pub(crate) answered: Option<Answered>,
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) paths: Paths,
    /// A circuit is being opened, or waits for its backbone node.
    pub(crate) wants_circuit: bool,
    /// Backbone nodes that have refused a circuit in this attempt: the peer is perhaps at another one.
    pub(crate) refused_by: Vec<u32>,
    /// The TLS link to this backbone node, while it is up.
    pub(crate) link: Option<Route>,
    /// The address that a backbone node has attested for this peer.
    pub(crate) attested: Option<SocketAddr>,
    /// The peer has named addresses at which it takes packets directly.
    pub(crate) has_candidates: bool,
    /// Candidates have gone out on this tunnel.
    pub(crate) has_sent_candidates: bool,
    /// The peer has them, and has opened its NAT towards them: what is sent there finds it open.
    pub(crate) has_taken_candidates: bool,
    /// What is done to reach it directly, when simple challenges do not.
    pub(crate) effort: Effort,
    pub(crate) last_unknown: Option<Mono>,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) generations: u32,
    last_received: Mono,
    waiting_since: Mono,
    /// When the peer hears from a new local address once more.
    confirm_move_at: Option<Mono>,
    move_suspected: Option<Mono>,
    /// When a mapping that may have been made anew, after a silence, is used once more, so that it lasts.
    settle_mapping_at: Option<Mono>,
    /// In the node's queue of peers that may have something to send.
    pub(crate) is_queued: bool,
    /// The timer that the node has armed for it.
    pub(crate) armed: Option<Mono>,
}

impl Unconfirmed {
    pub(crate) fn new(agreed: Agreed, continues: bool, now: Mono, timestamp: UnixTime, answered_by: Hop) -> Self {
        Self { agreed, continues, since: now, timestamp, answered_by: Some(answered_by), held: None, early: None }
    }

    /// Notes that a duplicate of message 1 is answered, too.
    pub(crate) fn answer_again(&mut self, hop: &Hop) {
        self.answered_by = self.answered_by.filter(|first| first.is_same_way(hop));
    }

    /// Bytes of message 1 that its answer, and the packets that have answered its early data, leave for probes.
    pub(crate) fn unspent(&self, response: &[u8]) -> usize {
        let packets = self.early.as_ref().map_or(0, |early| EARLY_ANSWER_PACKETS_MAX - early.packets_left);
        let spent = response.len() + packets as usize * wire::INNER;
        wire::INNER.saturating_sub(spent.div_ceil(PROBE_BYTES_PER_BYTE))
    }

    /// Whether a packet of the session proves the way it has come by. Its source address alone can be forged.
    pub(crate) fn is_proof_of(&self, hop: &Hop) -> bool {
        self.answered_by.is_some_and(|answered_by| answered_by.is_same_way(hop))
    }
}

impl Peer {
    pub(crate) fn new(key: IdentityKey, now: Mono) -> Self {
        Self {
            key,
            instance: None,
            was_tried: false,
            certificate: None,
            addresses: Vec::new(),
            hearsay: Hearsay::default(),
            homes: Vec::new(),
            homes_share: 0,
            is_backbone: false,
            dial: None,
            unconfirmed: None,
            answered: None,
            tunnel: None,
            paths: Paths::default(),
            wants_circuit: false,
            refused_by: Vec::new(),
            link: None,
            attested: None,
            has_candidates: false,
            has_sent_candidates: false,
            has_taken_candidates: false,
            effort: Effort::default(),
            last_unknown: None,
            bytes_sent: 0,
            bytes_received: 0,
            generations: 0,
            last_received: now,
            waiting_since: now,
            confirm_move_at: None,
            move_suspected: None,
            settle_mapping_at: None,
            is_queued: false,
            armed: None,
        }
    }

    /// Adds what is newly known; a later certificate replaces an earlier one.
    pub(crate) fn learn(&mut self, info: PeerInfo) {
        if let Some(certificate) = info.certificate {
            let is_newer = self.certificate.as_ref().is_none_or(|known| known.not_before <= certificate.not_before);
            if is_newer {
                self.certificate = Some(certificate);
            }
        }
        if !info.addresses.is_empty() {
            self.hearsay.forget();
        }
        for address in info.addresses {
            push_front_bounded(&mut self.addresses, address, ADDRESSES_MAX);
        }
        for home in info.homes {
            self.homes.retain(|known| known.key != home.key);
            push_front_bounded(&mut self.homes, home, HOMES_MAX);
        }
    }

    /// Takes addresses from a record. So many bytes of it pay for what is sent there.
    pub(crate) fn learn_hearsay(&mut self, addresses: &[SocketAddr], record_len: usize) {
        let unknown = addresses.iter().copied().filter(|address| !self.addresses.contains(address));
        self.hearsay.learn(unknown, record_len);
    }

    /// A record names the backbone nodes, each with its key and an address at least: so many bytes of it pay for what is sent to each.
    pub(crate) fn pay_for_homes(&mut self, record_share: usize) {
        self.homes_share = record_share + KEY_LEN + RECORD_ADDRESS_LEN_MIN;
    }

    /// Its backbone nodes, and the bytes that pay for what is sent to each. A record pays once.
    pub(crate) fn take_homes(&mut self) -> (Vec<Home>, usize) {
        (self.homes.clone(), std::mem::take(&mut self.homes_share))
    }

    /// All addresses at which it is said to be, the most certain first.
    pub(crate) fn all_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().copied().chain(self.hearsay.addresses())
    }

    /// Whether a message of the attempt may go by a way now. To an address where the peer was once, or that only a record names, it may once a
    /// knock was answered there; to the latter few.
    pub(crate) fn may_dial_by(&mut self, now: Mono, hop: &Hop) -> bool {
        let Hop::Direct(route) = hop else { return true };
        let has_answered = self.dial.as_ref().is_some_and(|dial| dial.has_answered_by(hop));
        if hop.is_link() || has_answered || self.paths.is_there(now, hop) {
            return true;
        }
        !self.is_of_the_past(hop) && self.hearsay.may_send(now, &route.remote)
    }

    /// What goes by a way in place of the message, if it may not.
    pub(crate) fn knock(&mut self, now: Mono, hop: &Hop, rng: &mut Rng) -> Option<Vec<u8>> {
        let is_of_the_past = self.is_of_the_past(hop);
        let (Hop::Direct(route), Some(dial)) = (hop, &mut self.dial) else { return None };
        if is_of_the_past {
            return self.paths.spend_knock(now, hop).then(|| dial.knock(hop, rng));
        }
        self.hearsay.knock(now, &route.remote, dial.index(), rng)
    }

    /// Whether all that speaks for an address is that the peer was there once.
    fn is_of_the_past(&self, hop: &Hop) -> bool {
        let is_named = matches!(hop, Hop::Direct(route) if self.all_addresses().any(|address| address == route.remote));
        !is_named && self.paths.was_proved(hop)
    }

    /// Takes UNKNOWN for the answer to a knock of the attempt. Returns whether it is one, and the first from there.
    pub(crate) fn take_knock_answer(&mut self, now: Mono, hop: &Hop, answer: &Unknown) -> bool {
        let Hop::Direct(route) = hop else { return false };
        let Some(dial) = self.dial.as_mut().filter(|dial| dial.index() == answer.receiver) else { return false };
        dial.take_knock_answer(hop, answer) || self.hearsay.take_answer(now, &route.remote, answer)
    }

    /// The tunnel-to-be that early data has begun.
    pub(crate) fn early_tunnel(&self) -> Option<&Tunnel> {
        self.unconfirmed.as_ref()?.early.as_ref().map(|early| &early.tunnel)
    }

    /// The tunnel, and the one that early data has begun.
    pub(crate) fn tunnels_mut(&mut self) -> impl Iterator<Item = &mut Tunnel> {
        let early = self.unconfirmed.as_mut().and_then(|unconfirmed| unconfirmed.early.as_mut());
        self.tunnel.iter_mut().chain(early.map(|early| &mut early.tunnel))
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.tunnel.as_ref().is_some_and(Tunnel::is_established)
    }

    /// Whether what was asked of it has had no answer for long.
    pub(crate) fn is_stalled(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.transport.is_stalled())
    }

    /// Keys by which message 2 may prove continuity, the likeliest first; the last is that of a new tunnel.
    pub(crate) fn rekey_psks(&self) -> Vec<[u8; 32]> {
        let running = self.tunnel.iter().flat_map(Tunnel::rekey_psks);
        running.chain([NO_PSK]).collect()
    }

    /// Whether nothing is lost if another peer takes this place: a stranger that came to us, and whose keys have run out since.
    pub(crate) fn is_forgettable(&self, now: Mono) -> bool {
        let is_stranger = self.all_addresses().next().is_none() && !self.is_backbone;
        is_stranger && self.is_resting(now)
    }

    /// Whether nothing is under way with it, and its keys have run out.
    pub(crate) fn is_resting(&self, now: Mono) -> bool {
        let is_under_way = self.dial.is_some() || self.unconfirmed.is_some() || self.wants_circuit;
        let has_keys = self.tunnel.as_ref().is_some_and(|tunnel| tunnel.can_seal(now));
        !is_under_way && !has_keys && !self.is_in_use()
    }

    /// Whether there is nothing but what is known of it.
    pub(crate) fn is_untouched(&self) -> bool {
        self.tunnel.is_none() && self.dial.is_none() && self.unconfirmed.is_none()
    }

    /// Whether the instance may become another without harm: there are no good keys, and nothing but streams that wait for new ones.
    pub(crate) fn may_change_instance(&self, now: Mono) -> bool {
        let has_keys = self.tunnel.as_ref().is_some_and(|tunnel| tunnel.can_seal(now));
        let only_waits = self.tunnel.as_ref().is_none_or(|tunnel| tunnel.transport.only_waits());
        !self.is_connected() || (!has_keys && only_waits)
    }

    /// Lets the two slots of one peer change the instances that they are for.
    pub(crate) fn swap_instance(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.instance, &mut other.instance);
        std::mem::swap(&mut self.certificate, &mut other.certificate);
        std::mem::swap(&mut self.was_tried, &mut other.was_tried);
    }

    /// Lets them change the ways by which these are reached. Paths lead to the old ones.
    pub(crate) fn swap_ways(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.addresses, &mut other.addresses);
        std::mem::swap(&mut self.hearsay, &mut other.hearsay);
        std::mem::swap(&mut self.homes, &mut other.homes);
        std::mem::swap(&mut self.homes_share, &mut other.homes_share);
        std::mem::swap(&mut self.attested, &mut other.attested);
        for peer in [self, other] {
            for id in peer.paths.ids_where(|_| true) {
                peer.remove_path(id);
            }
        }
    }

    /// Adds the ways by which another instance was looked for.
    pub(crate) fn share_ways_of(&mut self, other: &Self) {
        for &address in &other.addresses {
            push_front_bounded(&mut self.addresses, address, ADDRESSES_MAX);
        }
        self.learn_hearsay(&other.hearsay.addresses().collect::<Vec<_>>(), 0);
        for home in &other.homes {
            self.homes.retain(|known| known.key != home.key);
            push_front_bounded(&mut self.homes, home.clone(), HOMES_MAX);
        }
    }

    /// Whether a tunnel of the peer's, in which some early data is delivered at once, would meet nothing of ours that is under way.
    pub(crate) fn may_begin_early(&self, now: Mono) -> bool {
        let is_settled = |tunnel: &Tunnel| tunnel.is_established() && !tunnel.is_unheard(now);
        self.dial.is_none() && self.tunnel.as_ref().is_none_or(is_settled)
    }

    /// Whether the peer is about to use a session in which it has asked something already. An attempt of ours would only cross it.
    pub(crate) fn is_expected(&self, now: Mono) -> bool {
        let begun = self.unconfirmed.as_ref().filter(|unconfirmed| unconfirmed.early.is_some());
        begun.is_some_and(|unconfirmed| now < unconfirmed.since + HANDSHAKE_CROSSING)
    }

    /// When streams that wait for a session need an attempt of ours: there is none, since the peer was expected.
    pub(crate) fn dial_due(&self) -> Option<Mono> {
        let is_waiting = self.dial.is_none() && self.tunnel.as_ref().is_some_and(|tunnel| !tunnel.is_established());
        let begun = self.unconfirmed.as_ref().filter(|unconfirmed| unconfirmed.early.is_some());
        is_waiting.then(|| begun.map_or(Mono(0), |unconfirmed| unconfirmed.since + HANDSHAKE_CROSSING))
    }

    /// Makes the tunnel that was begun early the tunnel of the peer, which has none that is in use. `hop`: the way of its first packet.
    pub(crate) fn promote(&mut self, now: Mono, early: EarlyTunnel, hop: &Hop) {
        let EarlyTunnel { mut tunnel, hop: began, path, .. } = early;
        if !hop.is_same_way(&began) || !self.paths.insert_as(now, path, began) {
            tunnel.transport.remove_path(path);
        }
        if let Some(waiting) = self.tunnel.take() {
            tunnel.adopt_streams(waiting);
        }
        self.tunnel = Some(tunnel);
        // The transport knows none yet but that of its own.
        self.paths.evict();
        self.introduce_paths();
    }

    /// Gives the slot to another peer and returns whose it was. The node's queue and timers go on, and handles of streams stay stale.
    pub(crate) fn make_way_for(&mut self, key: IdentityKey, now: Mono) -> IdentityKey {
        let Self { generations, is_queued, armed, .. } = *self;
        std::mem::replace(self, Self { generations, is_queued, armed, ..Self::new(key, now) }).key
    }

    /// Whether streams are open or data is unacknowledged.
    pub(crate) fn is_in_use(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.transport.has_unfinished_work())
    }

    /// Whether this is the TLS link to it.
    pub(crate) fn has_link(&self, link: SocketId) -> bool {
        self.link.is_some_and(|known| known.socket == link)
    }

    /// Whether unanswered rounds of probes are followed by others: also while a TLS link stands in for UDP.
    pub(crate) fn wants_probes(&self) -> bool {
        self.is_in_use() || self.paths.active().is_some_and(|active| active.hop.is_link())
    }

    /// Takes what it costs to send a probe to an address that the peer is said to have, if it may be sent.
    pub(crate) fn may_probe(&mut self, now: Now, ip: IpAddr) -> bool {
        let is_attested = self.attested.is_some_and(|address| address.ip() == ip);
        self.paths.spend_probe(now.mono, ip, Some(Word::Named).filter(|_| !is_attested))
    }

    /// Adds a path to the table and to the transport.
    pub(crate) fn add_path(&mut self, now: Mono, hop: Hop) -> PathId {
        let (id, is_new) = self.paths.insert(now, hop);
        if is_new {
            self.introduce_path(id);
        }
        id
    }

    /// Notes by which path an authenticated packet came.
    pub(crate) fn received_by(&mut self, now: Mono, hop: Hop) -> PathId {
        if now.since(self.last_received) >= HOME_KEEPALIVE {
            self.settle_mapping_at = Some(now + MAPPING_SETTLES_AFTER);
        }
        self.last_received = now;
        let (id, is_new) = self.paths.received(now, hop);
        if is_new {
            tracing::debug!("a packet came by a new path");
            self.introduce_path(id);
        }
        id
    }

    /// The peer has answered over this path.
    pub(crate) fn prove_path(&mut self, now: Mono, id: PathId) {
        self.paths.prove(now, id);
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.transport.prove_path(id);
        }
    }

    pub(crate) fn remove_path(&mut self, id: PathId) {
        self.paths.remove(id);
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.transport.remove_path(id);
        }
    }

    /// Tells a new transport of the paths that exist.
    pub(crate) fn introduce_paths(&mut self) {
        let Some(tunnel) = &mut self.tunnel else { return };
        for path in self.paths.iter() {
            tunnel.transport.add_path(path.id, path_params(path));
        }
        if let Some(active) = self.paths.active() {
            tunnel.transport.set_active_path(active.id);
        }
    }

    /// Lets the best path carry the data. Returns it if that is news.
    pub(crate) fn choose_path(
        &mut self,
        now: Mono,
        own: &IdentityKey,
        is_relay_up: impl Fn(u32) -> bool,
    ) -> Option<Hop> {
        let follow_after = if *own < self.key { FOLLOW_AFTER_SMALLER } else { FOLLOW_AFTER_GREATER };
        let chosen = self.paths.choose(now, follow_after, is_relay_up)?;
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.transport.set_active_path(chosen);
        }
        self.paths.path(chosen).map(|path| path.hop)
    }

    /// Leaves local addresses that are of no use any more to the system's choice. A peer that may be sending to the old one is told by a
    /// PING, and by another: it follows when it has heard nothing from elsewhere for a while.
    pub(crate) fn network_changed(&mut self, now: Mono, is_of_use: impl Fn(IpAddr) -> bool) {
        self.paths.leave_network(is_of_use);
        if self.is_backbone || self.is_in_use() {
            self.ping_direct_paths();
            self.confirm_move_at = Some(now + MOVE_CONFIRMED_AFTER);
        }
    }

    /// Our address may be another, although nobody has told: the peer hears from us now, and once more when it can tell a move from a packet
    /// that was late. Returns whether this was not done just now.
    pub(crate) fn suspect_move(&mut self, now: Mono, again: bool) -> bool {
        let is_due = again || self.move_suspected.is_none_or(|at| now.since(at) >= MOVE_SUSPECTED_INTERVAL);
        if is_due {
            self.move_suspected = Some(now);
            self.ping_direct_paths();
            self.confirm_move_at = Some(now + MOVE_CONFIRMED_AFTER);
        }
        is_due
    }

    /// By all of them: the one in use leads nowhere if the peer has moved too.
    fn ping_direct_paths(&mut self) {
        let Some(tunnel) = self.tunnel.as_mut().filter(|tunnel| tunnel.is_established()) else { return };
        for path in self.paths.iter().filter(|path| path.hop.is_direct() && path.is_proved()) {
            tunnel.transport.ping(path.id);
        }
    }

    /// When something authentic has come from it last.
    pub(crate) fn last_received(&self) -> Mono {
        self.last_received
    }

    /// Something is asked of the peer now: only from here on does its silence count.
    pub(crate) fn begin_waiting(&mut self, now: Mono) {
        self.waiting_since = now;
    }

    /// Sends a PING where silence must be told from death: an open stream that waits, or the NAT mapping to the home node, or where that
    /// mapping is to last. Returns whether one was due. `keepalive`: how much silence the home tunnel may have; no other has one.
    pub(crate) fn probe_liveness(&mut self, now: Mono, keepalive: Option<Duration>) -> bool {
        if self.liveness_timeout(keepalive).is_none_or(|due| now < due) {
            return false;
        }
        self.waiting_since = now;
        self.settle_mapping_at.take_if(|at| *at <= now);
        if self.confirm_move_at.take_if(|at| *at <= now).is_some() {
            self.ping_direct_paths();
            return true;
        }
        let active = self.paths.active().map(|path| path.id);
        if let (Some(tunnel), Some(path)) = (&mut self.tunnel, active) {
            tunnel.transport.ping(path);
        }
        true
    }

    /// When this peer needs attention, the home tunnel's keepalive included.
    ///
    /// A tunnel whose keys are too old has no timers: it waits for the handshake that renews them.
    pub(crate) fn timeout(&self, now: Mono, keepalive: Option<Duration>) -> Option<Mono> {
        let tunnel = self.tunnel.as_ref().filter(|tunnel| tunnel.can_seal(now));
        let timers = [
            tunnel.and_then(|tunnel| tunnel.transport.poll_timeout()),
            tunnel.and_then(Tunnel::previous_expiry),
            self.dial.as_deref().map(Dial::timeout),
            self.dial_due(),
            self.unconfirmed.as_ref().map(|session| session.since + UNCONFIRMED_SESSION_LIFETIME),
            self.paths.timeout(self.wants_probes()),
            self.effort.timeout(tunnel.is_some() && self.is_in_use()),
            self.liveness_timeout(keepalive),
        ];
        timers.into_iter().flatten().min()
    }

    /// Whether the unconfirmed session's time is over.
    pub(crate) fn has_stale_unconfirmed(&self, now: Mono) -> bool {
        self.unconfirmed.as_ref().is_some_and(|session| now.since(session.since) >= UNCONFIRMED_SESSION_LIFETIME)
    }

    /// Everything that `pilotctl peers` shows; `relay_key` names a backbone slot.
    pub(crate) fn status(&self, relay_key: impl Fn(u32) -> IdentityKey) -> PeerStatus {
        let active = self.paths.active();
        let transport = self.tunnel.as_ref().map(|tunnel| &tunnel.transport);
        let stats = active.and_then(|path| transport?.path_stats(path.id));
        let connected_since = self.tunnel.as_ref().and_then(|tunnel| tunnel.connected_since);
        PeerStatus {
            key: self.key,
            connected: self.is_connected(),
            backbone: self.is_backbone,
            path: active.map(|path| match path.hop {
                Hop::Direct(route) if route.socket.is_link() => PathKind::Tls(route.remote),
                Hop::Direct(route) => PathKind::Direct(route.remote),
                Hop::Relay { backbone, .. } => PathKind::Relay(relay_key(backbone)),
            }),
            path_since: self.paths.active_since().map(|since| since.max(connected_since.unwrap_or(since))),
            rtt: stats.as_ref().and_then(|stats| stats.rtt),
            connected_since,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            sent_packets: stats.map_or(0, |stats| stats.sent_packets),
            lost_packets: stats.map_or(0, |stats| stats.lost_packets),
            streams: transport.map_or(0, crate::transport::Transport::open_stream_count),
        }
    }

    fn introduce_path(&mut self, id: PathId) {
        let evicted = self.paths.evict();
        let (Some(tunnel), Some(path)) = (&mut self.tunnel, self.paths.path(id)) else { return };
        tunnel.transport.add_path(id, path_params(path));
        if let Some(evicted) = evicted {
            tunnel.transport.remove_path(evicted);
        }
    }

    fn liveness_timeout(&self, keepalive: Option<Duration>) -> Option<Mono> {
        let tunnel = self.tunnel.as_ref().filter(|tunnel| tunnel.is_established())?;
        let interval = if tunnel.transport.open_stream_count() > 0 { Some(LIVENESS_PROBE_AFTER) } else { keepalive };
        let silence_ends = interval.map(|interval| self.last_received.max(self.waiting_since) + interval);
        // Where the next keepalive comes in time for any mapping there is nothing to settle.
        let is_rare = keepalive.is_some_and(|keepalive| keepalive > HOME_KEEPALIVE);
        let settle_at = self.settle_mapping_at.filter(|_| is_rare);
        silence_ends.into_iter().chain(self.confirm_move_at).chain(settle_at).min()
    }
}

/// Packet sizes of a path: what always fits, and how far discovery may go (spec/paths.md §5).
fn path_params(path: &Path) -> PathParams {
    hop_params(&path.hop, path.was_proved())
}

/// As [`path_params`], for a way that is no path yet.
pub(crate) fn hop_params(hop: &Hop, is_proved: bool) -> PathParams {
    match hop {
        // TCP cuts the bytes as it likes: there is nothing to find out.
        Hop::Direct(route) if route.socket.is_link() => {
            PathParams { max_packet: wire::INNER, probe_mtu_to: None, initial_rtt: None, is_proved }
        }
        Hop::Direct(_) => {
            PathParams { max_packet: wire::BASE, probe_mtu_to: Some(MTU_PROBE_MAX), initial_rtt: None, is_proved }
        }
        Hop::Relay { .. } => PathParams { max_packet: wire::INNER, probe_mtu_to: None, initial_rtt: None, is_proved },
    }
}

/// Puts a value first, once, and keeps the list within its bound.
fn push_front_bounded<T: PartialEq>(list: &mut Vec<T>, value: T, len_max: usize) {
    list.retain(|known| *known != value);
    list.insert(0, value);
    list.truncate(len_max);
}
