//! What a peer, or somebody on the path, tries.

use std::net::IpAddr;

use super::*;
use crate::id::PacketNumber;
use crate::limits::{
    BIRTHDAY_SOCKETS, CANDIDATES_MAX, CONNECT_TIMEOUT, HANDSHAKE_RETRY_MIN, PEERS_MAX, PROBE_COUNTED_FOR,
    PROBED_ADDRESSES_MAX, PROBES_PER_ADDRESS_MAX, REJECT_AFTER_TIME, REKEY_AFTER_TIME, SLOTS_LOOKED_AT, VOLLEY_PROBES,
    VOLLEYS_PER_ADDRESS_MAX,
};
use crate::mapping::NatMapping;
use crate::path::{Paths, Word};
use crate::transport::{Candidate, CandidateKind, PathFrame, PortSet, Ports};
use crate::wire::{self, PacketKind, frame};

/// Nobody's address: whoever answers there has been lied to.
pub(super) const VICTIM: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)), 9);

/// Longest packet to an address that nobody has proved.
pub(super) const PROBE_LEN_MAX: usize = 64;

/// Bytes to addresses that are not proved, per byte that a peer has spent (RFC 9000 §8.1).
pub(super) const AMPLIFICATION_MAX: usize = 3;

/// Packet numbers far beyond those that the peer has used itself.
const FORGED: u64 = 1_000;

impl Pair {
    /// Two hosts that hold each other's certificates.
    pub(super) fn with_certificates() -> Self {
        let mut pair = Self::new();
        for (which, other) in [(0, 1), (1, 0)] {
            let certificate = Some(keys(other, START).certificate);
            let info = PeerInfo { key: pair.key(other), certificate, addresses: Vec::new(), homes: Vec::new() };
            pair.hosts[which].node.learn_peer(START, info);
        }
        pair
    }

    /// Takes the packets of one kind off the wire.
    pub(super) fn intercept(&mut self, to: usize, kind: PacketKind) -> Vec<Vec<u8>> {
        let is_wanted =
            |packet: &(Mono, usize, SocketAddr, Vec<u8>)| packet.1 == to && wire::peek(&packet.3) == Ok(kind);
        let (taken, left) = std::mem::take(&mut self.wire).into_iter().partition(is_wanted);
        self.wire = left;
        let taken: Vec<(Mono, usize, SocketAddr, Vec<u8>)> = taken;
        taken.into_iter().map(|packet| packet.3).collect()
    }

    pub(super) fn step_until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        self.run_until(Duration::from_secs(5), &mut is_done);
    }
}

pub(super) fn is_connected(event: &Event) -> bool {
    matches!(event, Event::PeerConnected { .. })
}

#[test]
fn sessions_that_were_replaced_leave_nothing_behind() {
    let mut pair = connected();
    for _ in 0..20 {
        let slot = pair.slot(0, 1);
        pair.hosts[0].node.start_dial(pair.now, slot);
        pair.run_for(Duration::from_secs(1));
    }
    assert!(pair.hosts[0].node.stats().handshakes >= 20);
    for host in &pair.hosts {
        assert!(host.node.by_index.len() <= 2, "{}", host.node.by_index.len());
        assert!(host.node.by_remote_index.len() <= 2, "{}", host.node.by_remote_index.len());
    }
}

/// The initiator has the new keys, the responder never hears of it and forgets them: the old ones still tell that it is the same tunnel.
#[test]
fn a_rekey_that_only_one_side_has_seen_is_made_good() {
    let mut pair = connected();
    pair.run_for(REKEY_AFTER_TIME);
    let handshakes = pair.hosts[0].node.stats().handshakes;
    pair.request(0, 1, b"old keys");
    pair.step_until(|pair| pair.hosts[0].node.stats().handshakes > handshakes);
    pair.wire.clear();
    pair.cut = true;
    pair.run_for(Duration::from_secs(20));
    pair.cut = false;
    pair.hosts[1].events.clear();
    pair.request(0, 1, b"new keys");
    pair.run_until(Duration::from_secs(10), |pair| pair.incoming(1).is_some());
    assert!(!pair.has(0, |event| matches!(event, Event::Reset { .. })));
}

/// The answer went to the initiator, so only its address is proved by what follows; a source address can be forged.
#[test]
fn the_first_packet_of_a_session_proves_no_other_address() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.step_until(|pair| pair.has(0, is_connected));
    let first = pair.intercept(1, PacketKind::Data);
    pair.deliver(1, VICTIM, &first[0]);
    pair.request(1, 0, &[7; 1_000]);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.astray.iter().all(|(to, datagram)| *to == VICTIM && datagram.len() <= PROBE_LEN_MAX));
}

/// The peer used the session from an address where it is no more, and has lost it since: there is a tunnel, but no way that is proved.
#[test]
fn a_tunnel_without_a_way_finds_the_peer_by_a_handshake() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.step_until(|pair| pair.has(0, is_connected));
    let first = pair.intercept(1, PacketKind::Data);
    pair.restart(0);
    pair.introduce(0, 1);
    pair.deliver(1, VICTIM, &first[0]);
    pair.request(1, 0, b"where are you");
    pair.step_until(|pair| pair.has(1, |event| matches!(event, Event::PeerConnected { restarted: true, .. })));
    pair.request(1, 0, b"there you are");
    pair.step_until(|pair| pair.incoming(0).is_some());
}

/// Whoever forbids direct paths to a peer that has no other leaves a tunnel with keys and no path, of which the peer may know nothing any more.
#[test]
fn a_tunnel_whose_paths_were_all_forbidden_finds_the_peer_when_they_are_allowed_again() {
    let mut pair = connected();
    pair.hosts[0].node.set_direct(pair.now, false);
    pair.restart(1);
    pair.run_for(Duration::from_secs(1));
    pair.hosts[0].node.set_direct(pair.now, true);
    pair.request(0, 1, b"where are you");
    pair.step_until(|pair| pair.has(0, |event| matches!(event, Event::PeerConnected { restarted: true, .. })));
    pair.request(0, 1, b"there you are");
    pair.step_until(|pair| pair.incoming(1).is_some());
}

/// The same message 1 from two addresses: its answer at one of them proves nothing about the other.
#[test]
fn a_duplicate_of_message_1_proves_no_other_address() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.drain();
    let init = pair.wire[0].3.clone();
    pair.deliver(1, VICTIM, &init);
    pair.run_for(HANDSHAKE_RETRY_MIN);
    pair.deliver(1, pair.hosts[0].address, &init);
    pair.step_until(|pair| pair.has(0, is_connected));
    let first = pair.intercept(1, PacketKind::Data);
    pair.deliver(1, VICTIM, &first[0]);
    pair.astray.clear();
    pair.request(1, 0, &[7; 1_000]);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.astray.iter().all(|(to, datagram)| *to == VICTIM && datagram.len() <= PROBE_LEN_MAX));
}

/// Our answer to the peer's message 1 is under way when our own attempt succeeds: the session that came later stays, on both sides.
#[test]
fn a_late_packet_of_a_crossed_handshake_ends_no_tunnel() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.step_until(|pair| pair.has(0, is_connected));
    let late = pair.intercept(1, PacketKind::Data);
    pair.request(1, 0, b"crossing");
    pair.step_until(|pair| pair.has(1, is_connected));
    pair.deliver(1, pair.hosts[0].address, &late[0]);
    pair.run_for(Duration::from_secs(3));
    assert!(!pair.has(1, |event| matches!(event, Event::Reset { .. })));
    let stream = pair.incoming(0).expect("the request has come through");
    assert_eq!(pair.read_all(0, stream), b"crossing");
}

/// Who records a handshake of ours can send it again, but not in place of the one that we are in.
#[test]
fn a_replayed_first_message_does_not_disturb_a_handshake() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.drain();
    let recorded = pair.wire[0].3.clone();
    pair.step_until(|pair| pair.has(0, is_connected) && pair.has(1, is_connected));
    pair.restart(0);
    pair.introduce(0, 1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.step_until(|pair| pair.has(0, is_connected));
    pair.deliver(1, VICTIM, &recorded);
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.hosts[1].node.stats().drops(DropReason::UnknownSession), 0);
    assert_eq!(pair.hosts[0].node.stats().handshakes, 1);
}

impl Pair {
    /// A packet of `which` to `other` with these frames, as only a peer that breaks the rules would send it.
    pub(super) fn forge(&mut self, which: usize, other: usize, number: u64, put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let slot = self.slot(which, other) as usize;
        let tunnel = self.hosts[which].node.peers[slot].tunnel.as_mut().expect("connected");
        let mut packet = vec![0; wire::DataHeader::LEN];
        put(&mut packet);
        tunnel.seal(&mut packet, 0, PacketNumber(number));
        packet
    }

    pub(super) fn astray_bytes(&self) -> usize {
        self.astray.iter().map(|(_, datagram)| datagram.len()).sum()
    }

    /// Lets `which` send a packet that is to be acknowledged.
    fn ping(&mut self, which: usize, other: usize) {
        let slot = self.slot(which, other);
        let peer = &mut self.hosts[which].node.peers[slot as usize];
        let path = peer.paths.active().expect("connected").id;
        peer.tunnel.as_mut().expect("connected").transport.ping(path);
        self.hosts[which].node.touch(slot);
    }

    /// Lets `which` name ports of the victim as its own addresses.
    fn name_victim(&mut self, which: usize, other: usize, generation: u16) {
        let candidate = |place| Candidate {
            kind: CandidateKind::Host,
            address: SocketAddr::new(VICTIM.ip(), 1_000 + generation * CANDIDATES_MAX as u16 + place),
        };
        let slot = self.slot(which, other);
        let node = &mut self.hosts[which].node;
        let peer = &mut node.peers[slot as usize];
        let path = peer.paths.active().expect("connected").id;
        let candidates = (0..CANDIDATES_MAX as u16).map(candidate).collect();
        let tunnel = peer.tunnel.as_mut().expect("connected");
        tunnel.transport.queue_frame(path, PathFrame::Candidates(candidates));
        node.touch(slot);
    }

    /// Bytes of sealed packets that `which` has had from `other`.
    fn heard_from(&self, which: usize, other: usize) -> usize {
        self.hosts[which].node.peers[self.slot(which, other) as usize].bytes_received as usize
    }
}

/// Gaps between the packets make acknowledgements long, and the source address is the victim's.
#[test]
fn no_acknowledgement_goes_to_an_address_that_is_not_proved() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    pair.cut_ways.insert((1, 0));
    let mut spent = 0;
    for number in 0..200 {
        let packet = pair.forge(0, 1, FORGED + number * 2, frame::put_ping);
        spent += packet.len();
        pair.deliver(1, VICTIM, &packet);
        pair.run_for(Duration::from_millis(1));
    }
    pair.run_for(Duration::from_secs(10));
    assert!(pair.astray.iter().all(|(_, datagram)| datagram.len() <= PROBE_LEN_MAX));
    assert!(pair.astray_bytes() <= spent * AMPLIFICATION_MAX, "{} for {spent}", pair.astray_bytes());
}

/// CLOSE goes where the peer was proved to be, not where the packet that broke the rules seemed to come from.
#[test]
fn a_peer_that_breaks_the_rules_is_told_at_its_own_address_only() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    let packet = pair.forge(0, 1, FORGED, |buf| buf.push(0x3F));
    pair.deliver(1, VICTIM, &packet);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.astray_bytes() <= packet.len() * AMPLIFICATION_MAX);
    assert!(pair.has(0, |event| matches!(event, Event::PeerClosed { code: Code::FRAME_ENCODING, .. })));
}

/// A list of addresses is short, the probes that it asks for are many.
#[test]
fn candidates_make_nobody_send_more_than_was_spent_on_them() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    for generation in 1..=100 {
        pair.name_victim(0, 1, generation);
        pair.run_for(ONE_WAY);
    }
    pair.run_for(Duration::from_secs(8));
    assert!(pair.astray.len() >= CANDIDATES_MAX, "they are probed");
    assert!(pair.astray.iter().all(|(_, datagram)| datagram.len() <= PROBE_LEN_MAX));
    let allowed = (wire::INNER + pair.heard_from(1, 0)) * AMPLIFICATION_MAX;
    assert!(pair.astray_bytes() <= allowed, "{} of {allowed}", pair.astray_bytes());
}

/// Many ports of one address are many places to probe, eight times each, and the address is still one. The peer has credit in plenty.
#[test]
fn an_address_that_a_peer_has_named_has_sixteen_unanswered_probes_at_most() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    let mut sent = Vec::new();
    for generation in 1..=400 {
        pair.name_victim(0, 1, generation);
        pair.run_for(Duration::from_millis(200));
        sent.resize(pair.astray.len(), pair.now.mono);
    }
    assert_sixteen_at_a_time(&sent);
}

/// The same where it seems to send from there itself.
#[test]
fn an_address_that_a_peer_forges_as_its_own_has_sixteen_unanswered_probes_at_most() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    let mut sent = Vec::new();
    for number in 0..400 {
        pair.ping(0, 1);
        pair.run_for(Duration::from_millis(1));
        let packet = pair.intercept(1, PacketKind::Data).pop().expect("a packet");
        pair.deliver(1, SocketAddr::new(VICTIM.ip(), 1_000 + number), &packet);
        pair.run_for(Duration::from_millis(200));
        sent.resize(pair.astray.len(), pair.now.mono);
    }
    assert_sixteen_at_a_time(&sent);
}

/// `sent`: when probes went to one address, to the nearest 200 ms.
fn assert_sixteen_at_a_time(sent: &[Mono]) {
    assert!(sent.len() > PROBES_PER_ADDRESS_MAX, "it is probed again after a while");
    for probes in sent.windows(PROBES_PER_ADDRESS_MAX + 1) {
        assert!(probes[PROBES_PER_ADDRESS_MAX].since(probes[0]) >= PROBE_COUNTED_FOR - Duration::from_millis(200));
    }
}

impl Pair {
    /// Lets `which` believe that `other` was proved at ports of the victim just now.
    fn prove_at_victim(&mut self, which: usize, other: usize, ports: std::ops::RangeInclusive<u16>) {
        let (now, slot) = (self.now.mono, self.slot(which, other));
        let peer = &mut self.hosts[which].node.peers[slot as usize];
        for port in ports {
            let path = peer.add_path(now, Hop::Direct(Route::to(SocketAddr::new(VICTIM.ip(), port))));
            peer.prove_path(now, path);
        }
    }
}

/// Host 1 has called host 0, which knows no address of it but those where it was.
fn called_by_a_stranger() -> Pair {
    let mut pair = Pair::strangers();
    pair.introduce(1, 0);
    let peer = pair.key(0);
    pair.hosts[1].node.connect(pair.now, &peer).expect("known");
    pair.step_until(|pair| (0..2).all(|which| pair.has(which, is_connected)));
    pair.run_for(Duration::from_secs(1));
    pair
}

/// A carrier's NAT, or a cloud, has given them to somebody else since.
#[test]
fn addresses_that_a_peer_has_left_are_sent_no_handshakes_and_little_else() {
    let mut pair = called_by_a_stranger();
    pair.prove_at_victim(0, 1, 1..=14);
    pair.run_for(REJECT_AFTER_TIME);
    pair.cut = true;
    pair.astray.clear();
    for _ in 0..10 {
        pair.request(0, 1, b"are you there");
        pair.run_for(CONNECT_TIMEOUT + Duration::from_secs(1));
    }
    assert!(!pair.astray.is_empty(), "somebody may be there");
    assert!(pair.astray.iter().all(|(_, datagram)| datagram.len() <= PROBE_LEN_MAX));
    let allowed = (wire::INNER + pair.heard_from(0, 1)) * AMPLIFICATION_MAX;
    assert!(pair.astray_bytes() <= allowed, "{} of {allowed}", pair.astray_bytes());
}

/// It is asked for where it was last, however often nobody was there.
#[test]
fn who_called_long_ago_is_called_back_where_it_was() {
    let mut pair = called_by_a_stranger();
    pair.run_for(REJECT_AFTER_TIME * 2);
    pair.cut = true;
    for _ in 0..5 {
        pair.request(0, 1, b"are you there");
        pair.run_for(CONNECT_TIMEOUT + Duration::from_secs(1));
    }
    pair.cut = false;
    pair.run_until(PROBE_COUNTED_FOR, |pair| pair.incoming(1).is_some());
}

/// The peer sees what is sent to it, and answers under a victim's address.
#[test]
fn an_answer_from_where_no_handshake_was_sent_proves_nothing() {
    let mut pair = called_by_a_stranger();
    pair.prove_at_victim(0, 1, 9..=9);
    let (now, slot) = (pair.now.mono, pair.slot(0, 1));
    let node = &mut pair.hosts[0].node;
    let path = node.peers[slot as usize].paths.ids_where(|hop| *hop == Hop::Direct(Route::to(VICTIM)))[0];
    node.peers[slot as usize].paths.fail(now, path, false, &mut node.rng);
    pair.run_for(REJECT_AFTER_TIME);
    pair.astray.clear();
    pair.request(0, 1, &[7; 1_000]);
    let mut answers = Vec::new();
    pair.step_until(|pair| {
        answers = pair.intercept(0, PacketKind::Resp);
        !answers.is_empty()
    });
    pair.deliver(0, VICTIM, &answers[0]);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.astray.iter().all(|(to, datagram)| *to == VICTIM && datagram.len() <= PROBE_LEN_MAX));
}

/// A machine that was asleep wakes up behind a new mapping: many probes went to its old port meanwhile, and all relayed packets wait for the
/// proof of the new one.
#[test]
fn a_peer_that_is_heard_where_many_probes_were_unanswered_is_challenged_at_once() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    for generation in 1..=10 {
        pair.name_victim(0, 1, generation);
        pair.run_for(Duration::from_millis(200));
    }
    assert_eq!(pair.astray.len(), PROBES_PER_ADDRESS_MAX, "all that go to a place that was only named");
    let new_port = SocketAddr::new(VICTIM.ip(), 40_000);
    let packet = pair.forge(0, 1, FORGED, frame::put_ping);
    pair.deliver(1, new_port, &packet);
    pair.run_for(Duration::from_millis(1));
    assert_eq!(pair.astray.iter().filter(|(to, _)| *to == new_port).count(), 1);
}

/// What probes are counted by is itself bounded: who names ever other addresses makes nobody forget how often one was probed.
#[test]
fn probes_at_many_addresses_are_counted_in_bounded_space() {
    let (mut paths, ip) = (Paths::default(), |n: u16| IpAddr::from([203, 0, (n >> 8) as u8, n as u8]));
    paths.earn_probes(1 << 20);
    let now = Mono(1_000_000_000);
    let probed = (0..1_000).filter(|&n| paths.spend_probe(now, ip(n), Some(Word::Named))).count();
    assert_eq!(probed, PROBED_ADDRESSES_MAX);
    paths.earn_probes(1 << 20);
    let again = (0..100).filter(|_| paths.spend_probe(now, ip(0), Some(Word::Named))).count();
    assert_eq!(again, PROBES_PER_ADDRESS_MAX - 1);
    paths.earn_probes(1 << 20);
    assert!(paths.spend_probe(now + PROBE_COUNTED_FOR, ip(0), Some(Word::Named)));
}

/// A home node attests a victim's address for whomever it likes, and forwards what a peer tells of its ports. Volleys go there, as they would to
/// a peer; how many, the victim's address decides and no peer.
#[test]
fn a_lying_home_node_aims_few_volleys_at_a_victim() {
    let mut pair = Pair::by_relay();
    pair.cut_ways.extend([(0, 1), (1, 0)]);
    pair.exchange(0, 1, Duration::from_secs(1));
    let slot = pair.slot(1, 0);
    let ports = Ports::Random { set: PortSet::default(), sockets: 256 };
    for _ in 0..60 {
        let now = pair.at(1);
        let peer = &mut pair.hosts[1].node.peers[slot as usize];
        peer.attested = Some(VICTIM);
        // As after each change of network that the peer claims.
        peer.effort.begin_anew();
        pair.hosts[1].node.ports_received(now, slot, ports);
        pair.run_for(Duration::from_secs(1));
    }
    let sent = pair.astray.iter().filter(|(to, _)| to.ip() == VICTIM.ip()).count();
    assert!(sent >= VOLLEY_PROBES as usize, "a volley: {sent}");
    assert!(sent <= VOLLEYS_PER_ADDRESS_MAX * VOLLEY_PROBES as usize, "{sent}");
}

/// The same for what goes there out of the many sockets of an effort.
#[test]
fn a_lying_home_node_aims_few_challenges_of_many_sockets_at_a_victim() {
    let mut pair = Pair::by_relay();
    pair.cut_ways.extend([(0, 1), (1, 0)]);
    pair.exchange(0, 1, Duration::from_secs(1));
    let (slot, peer) = (pair.slot(1, 0), pair.key(0));
    let header = StreamHeader::new(ServicePort::ECHO);
    pair.hosts[1].node.open_stream(pair.now, &peer, &header).expect("a stream: the tunnel is in use");
    for _ in 0..60 {
        let now = pair.at(1);
        let node = &mut pair.hosts[1].node;
        node.survey.suppose(NatMapping::Random { set: PortSet::default() });
        node.peers[slot as usize].attested = Some(VICTIM);
        // As after each move that the home node claims.
        node.peers[slot as usize].effort.begin_anew();
        node.give_challenges_time(now, slot);
        pair.run_for(Duration::from_secs(1));
        for event in std::mem::take(&mut pair.hosts[1].events) {
            if let Event::OpenSockets(sockets) = event {
                pair.hosts[1].node.sockets_opened(pair.now, &sockets);
            }
        }
    }
    let sent = pair.astray.iter().filter(|(to, packet)| to.ip() == VICTIM.ip() && packet.len() > 1).count();
    assert!(sent >= BIRTHDAY_SOCKETS as usize, "from each socket: {sent}");
    assert!(sent <= VOLLEYS_PER_ADDRESS_MAX * BIRTHDAY_SOCKETS as usize, "{sent}");
}

/// What a probe or a list of candidates looks like to those who have no keys, from an address each time another: sealed by nobody, for a
/// session that is there and for one that is not; and a STUN answer to no question.
#[test]
fn probes_and_candidates_of_strangers_move_no_path_and_draw_no_more_than_they_cost() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    let (path, slot) = (pair.path(1, 0), pair.slot(1, 0) as usize);
    let paths = pair.hosts[1].node.peers[slot].paths.iter().count();
    let genuine = pair.forge(0, 1, FORGED, frame::put_ping);
    let flipped = |at: usize| {
        let mut packet = genuine.clone();
        packet[at] ^= 1;
        packet
    };
    let stun =
        [&[1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12], &[0, 0x20, 0, 8, 0, 1, 0, 9, 1, 2, 3, 4]].concat();
    let unwanted = [flipped(genuine.len() - 1), flipped(4), vec![0x40], stun];
    let mut spent = 0;
    for port in 1..=300 {
        for packet in &unwanted {
            spent += packet.len();
            pair.deliver(1, SocketAddr::new(VICTIM.ip(), port), packet);
        }
        pair.run_for(Duration::from_millis(1));
    }
    pair.run_for(Duration::from_secs(5));
    assert_eq!((pair.path(1, 0), pair.hosts[1].node.peers[slot].paths.iter().count()), (path, paths));
    assert!(pair.astray_bytes() <= spent, "{} for {spent}", pair.astray_bytes());
    assert!(pair.hosts[1].node.stats().drops(DropReason::Authentication) >= 300);
    pair.request(0, 1, b"as before");
    pair.run_until(Duration::from_millis(100), |pair| pair.incoming(1).is_some());
}

/// A handshake is thirty probes long: it goes to addresses from the peer's record and to those where the peer once was.
#[test]
fn an_address_that_a_peer_has_named_is_sent_no_handshake() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    pair.name_victim(0, 1, 1);
    pair.run_for(Duration::from_secs(1));
    let slot = pair.slot(1, 0);
    pair.hosts[1].node.start_dial(pair.now, slot);
    pair.run_for(Duration::from_secs(1));
    assert!(!pair.astray.is_empty());
    assert!(pair.astray.iter().all(|(_, datagram)| datagram.len() <= PROBE_LEN_MAX));
    assert!(pair.hosts[1].node.stats().handshakes >= 2);
}

/// Packet numbers have 64 bits, acknowledgements name 62 of them.
#[test]
fn a_packet_number_that_cannot_be_acknowledged_ends_the_tunnel() {
    let mut pair = connected();
    let packet = pair.forge(0, 1, 1 << 62, frame::put_ping);
    pair.deliver(1, pair.hosts[0].address, &packet);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.has(0, |event| matches!(event, Event::PeerClosed { code: Code::PROTOCOL_VIOLATION, .. })));
}

/// Its own address is what a relay-only agent hides: who tries addresses finds nobody there, even with its key at hand.
#[test]
fn a_relay_only_agent_answers_nobody_directly() {
    let mut pair = connected();
    pair.hosts[1].node.set_direct(pair.now, false);
    pair.run_for(Duration::from_secs(1));
    let key = pair.key(1);
    let stale = TransportKey::from_secret([99; 32]);
    let identity = Identity::restore(IDENTITIES[1].0, IDENTITIES[1].1).expect("a committed identity");
    let stale = Certificate::issue(&identity, &stale, InstanceId([1; 8]), 1, pair.now.unix);
    let mut rng = Rng::new([7; 32]);
    let stranger = keys(2, pair.now);
    let local = crate::handshake::Local {
        identity: &stranger.identity,
        certificate: &stranger.certificate,
        transport: &stranger.transport[0],
    };
    let init = |certificate: &Certificate, rng: &mut Rng| {
        let (index, tunnel) = (SessionIndex(u32::from_be_bytes(rng.array())), crate::id::TunnelId([1; 16]));
        crate::handshake::Initiator::start(
            &local,
            &mut Default::default(),
            certificate,
            index,
            tunnel,
            &Default::default(),
            &[],
            START.unix,
            rng,
        )
        .expect("good keys")
        .1
    };
    let current = keys(1, pair.now).certificate;
    let mut junk = vec![0xC0; 64];
    junk[4] = 9;
    let questions =
        [crate::handshake::certificate_request(&key, [3; 8]), init(&stale, &mut rng), init(&current, &mut rng), junk];
    let peers = pair.hosts[1].node.peers.len();
    for question in questions {
        pair.deliver(1, VICTIM, &question);
    }
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.astray_bytes(), 0);
    assert_eq!(pair.hosts[1].node.peers.len(), peers, "and nobody has a place in its tables");
}

/// Who has recorded first messages sends them again while we dial. They look as if the peer had begun at the same time.
#[test]
fn replayed_first_messages_hold_up_no_dial() {
    let mut pair = Pair::with_certificates();
    let (smaller, larger) = if pair.key(0) < pair.key(1) { (0, 1) } else { (1, 0) };
    let (peer, from) = (pair.key(larger), pair.hosts[smaller].address);
    let mut recorded = Vec::new();
    for _ in 0..12 {
        pair.restart(smaller);
        let (certificate, addresses) = (Some(keys(larger, START).certificate), vec![pair.hosts[larger].address]);
        pair.hosts[smaller]
            .node
            .learn_peer(pair.now, PeerInfo { key: peer, certificate, addresses, homes: Vec::new() });
        pair.hosts[smaller].node.connect(pair.now, &peer).expect("known");
        pair.drain();
        recorded.extend(pair.intercept(larger, PacketKind::Init));
        pair.run_for(Duration::from_millis(100));
    }
    assert_eq!(recorded.len(), 12);
    pair.wire.clear();
    pair.restart(smaller);
    pair.restart(larger);
    let certificate = Some(keys(smaller, pair.now).certificate);
    let (key, addresses) = (pair.key(smaller), vec![from]);
    pair.hosts[larger].node.learn_peer(pair.now, PeerInfo { key, certificate, addresses, homes: Vec::new() });
    pair.hosts[larger].node.connect(pair.now, &key).expect("known");
    pair.drain();
    for init in recorded {
        pair.deliver(larger, from, &init);
        pair.run_for(Duration::from_millis(500));
    }
    assert!(pair.has(larger, is_connected));
    assert!(!pair.has(larger, |event| matches!(event, Event::ConnectFailed { .. })));
}

/// It has forgotten every timestamp, so that it answers; the answer is of no use to who cannot read it.
#[test]
fn a_replay_to_a_restarted_responder_makes_no_tunnel() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.drain();
    let recorded = pair.wire[0].3.clone();
    pair.step_until(|pair| pair.has(0, is_connected) && pair.has(1, is_connected));
    pair.restart(1);
    for _ in 0..20 {
        pair.deliver(1, VICTIM, &recorded);
        pair.run_for(Duration::from_millis(300));
    }
    assert!(pair.astray_bytes() <= 20 * recorded.len());
    assert!(pair.hosts[1].events.is_empty(), "{:?}", pair.hosts[1].events);
    assert_eq!(pair.hosts[1].node.by_index.len(), 1, "one session that nobody can use");
    pair.run_for(crate::limits::UNCONFIRMED_SESSION_LIFETIME);
    assert_eq!(pair.hosts[1].node.by_index.len(), 0);
}

/// Junk costs nothing to make; answering it must not keep those from an answer who ask for a certificate.
#[test]
fn a_flood_of_junk_keeps_nobody_from_connecting() {
    let mut pair = Pair::new();
    let junk = |number: u32| [&[0xC0][..], &number.to_be_bytes(), &[0; 24]].concat();
    for number in 0..2 * crate::limits::STATELESS_REPLIES_PER_SECOND {
        pair.deliver(1, VICTIM, &junk(number));
    }
    assert!(pair.hosts[1].node.stats().drops(DropReason::RateLimited) > 0);
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.run_until(ONE_WAY * 5, |pair| pair.has(0, is_connected));
}

/// Who does not know the identity cannot ask; who does is told no more than the certificate.
#[test]
fn a_certificate_goes_only_to_who_knows_the_identity_already() {
    let mut pair = Pair::new();
    let question = crate::handshake::certificate_request(&pair.key(0), [3; 8]);
    pair.deliver(1, VICTIM, &question);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.astray_bytes(), 0);
    let question = crate::handshake::certificate_request(&pair.key(1), [3; 8]);
    pair.deliver(1, VICTIM, &question);
    pair.run_for(Duration::from_secs(1));
    let certificate = pair.hosts[1].node.keys.certificate.encode();
    assert_eq!(pair.astray[0].1[4..], [&[3; 8][..], &certificate].concat());
}

/// Index and number of a packet may be guessed, its tag is not; and who has seen it starts one handshake, no more.
#[test]
fn a_forged_unknown_ends_no_session() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    pair.request(0, 1, b"in flight");
    pair.drain();
    let data = pair.intercept(1, PacketKind::Data).pop().expect("sent");
    let seen = wire::Unknown::answer(&data).expect("a data packet");
    let handshakes = pair.hosts[0].node.stats().handshakes;
    for guess in 1..100 {
        let forged = wire::Unknown { tag8: seen.tag8 ^ guess, ..seen };
        pair.deliver(0, pair.hosts[1].address, &forged.encode());
    }
    assert_eq!(pair.hosts[0].node.stats().drops(DropReason::Unsolicited), 99);
    for _ in 0..100 {
        pair.deliver(0, pair.hosts[1].address, &seen.encode());
    }
    pair.run_for(Duration::from_millis(500));
    assert_eq!(pair.hosts[0].node.stats().handshakes, handshakes + 1);
    assert!(!pair.has(0, |event| matches!(event, Event::Reset { .. } | Event::PeerClosed { .. })));
    assert!(pair.incoming(1).is_some());
}

/// Strangers come and go for months. Those whose keys have run out make room; those in use do not.
#[test]
fn strangers_of_the_past_make_room_for_newcomers() {
    let mut pair = connected();
    let stranger = |number: u32| {
        let mut key = [0xEE; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        IdentityKey(key)
    };
    let node = &mut pair.hosts[1].node;
    for number in 0..3 * PEERS_MAX as u32 {
        let slot = node.slot(pair.now.mono, stranger(number)).expect("room");
        assert_eq!(node.peers[slot as usize].key, stranger(number));
    }
    assert_eq!(node.peers.len(), PEERS_MAX);
    assert_eq!(node.by_key.len(), PEERS_MAX);
    pair.hosts[1].events.clear();
    pair.request(0, 1, b"still known");
    pair.run_until(Duration::from_millis(100), |pair| pair.incoming(1).is_some());
}

#[test]
fn a_row_of_peers_that_stay_hides_no_forgotten_stranger_for_long() {
    let mut node = host(1, 2, START, Config::new(Role::Agent)).node;
    let known = |number: u32| {
        let mut key = [0xEE; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let addresses = vec![VICTIM];
        PeerInfo { key: IdentityKey(key), certificate: None, addresses, homes: Vec::new() }
    };
    let rows = 4;
    let staying = rows * SLOTS_LOOKED_AT as u32;
    for number in 0..staying {
        node.learn_peer(START, known(number));
    }
    for number in staying..PEERS_MAX as u32 {
        node.slot(START.mono, known(number).key).expect("room");
    }
    let newcomer = known(PEERS_MAX as u32).key;
    let tries = (1..).find(|_| node.slot(START.mono, newcomer).is_some()).expect("a slot in the end");
    assert!(tries <= rows + 1, "each try looks at the next {SLOTS_LOOKED_AT}: {tries}");
}

/// The IPv6 form of an IPv4 address is that address: it is no way round the rule, and no second count of one host.
#[test]
fn a_candidate_in_ipv6_form_is_the_ipv4_address_that_it_names() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    let mapped = ["[::ffff:127.0.0.1]:9", "[::ffff:224.0.0.1]:9", "[::ffff:198.51.100.9]:9", "198.51.100.9:9"];
    let candidates = mapped.map(|text| Candidate { kind: CandidateKind::Host, address: text.parse().expect("good") });
    let packet = pair.forge(0, 1, FORGED, |buf| frame::put_candidates(buf, FORGED, &candidates));
    pair.deliver(1, pair.hosts[0].address, &packet);
    let slot = pair.slot(1, 0) as usize;
    assert_eq!(pair.hosts[1].node.peers[slot].paths.iter().count(), 2, "the peer's, and one to the victim");
    pair.run_for(Duration::from_secs(5));
    assert!(!pair.astray.is_empty());
    assert!(pair.astray.iter().all(|(to, _)| *to == VICTIM), "{:?}", pair.astray);
}

/// Volleys go to the attested address, so that it is held to the same rule as candidates.
#[test]
fn a_home_node_attests_no_address_that_would_not_be_probed() {
    let mut pair = Pair::by_relay();
    let (slot, home) = (pair.slot(1, 0), pair.slot(1, 2));
    let node = &mut pair.hosts[1].node;
    for text in
        ["224.0.0.1:9", "[::ffff:224.0.0.1]:9", "127.0.0.1:9", "[::ffff:127.0.0.1]:9", "0.0.0.0:9", "198.51.100.9:0"]
    {
        node.attest(slot, home, text);
        assert_eq!(node.peers[slot as usize].attested, None, "{text}");
    }
    node.attest(slot, home, "[::ffff:198.51.100.9]:9");
    assert_eq!(node.peers[slot as usize].attested, Some(VICTIM));
    node.peers[home as usize].addresses = vec!["127.0.0.1:4000".parse().expect("an address")];
    node.attest(slot, home, "127.0.0.1:9");
    assert!(node.peers[slot as usize].attested.is_some(), "our home is on this host");
}

impl Pair {
    /// Uses up what `which` may send to addresses of `other` that are not proved. Returns how many probes that was.
    fn spend_credit(&mut self, which: usize, other: usize) -> usize {
        let slot = self.slot(which, other) as usize;
        let (paths, now) = (&mut self.hosts[which].node.peers[slot].paths, self.now.mono);
        std::iter::repeat_with(|| paths.spend_probe(now, VICTIM.ip(), None)).take_while(|&may| may).count()
    }
}

/// What a challenge draws, its answer and our own challenges there, comes out of one account.
#[test]
fn challenges_from_a_victims_address_draw_no_more_than_three_times_their_bytes() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    pair.cut_ways.extend([(0, 1), (1, 0)]);
    pair.request(1, 0, b"in use");
    pair.spend_credit(1, 0);
    let mut spent = 0;
    for number in 0..2 {
        let packet = pair.forge(0, 1, FORGED + number, |buf| frame::put_path_challenge(buf, [number as u8; 8]));
        spent += packet.len();
        pair.deliver(1, VICTIM, &packet);
        pair.run_for(Duration::from_millis(1));
    }
    pair.run_for(Duration::from_secs(10));
    assert!(pair.astray.len() >= 2, "both are answered");
    assert!(pair.astray_bytes() <= spent * AMPLIFICATION_MAX, "{} for {spent}", pair.astray_bytes());
}

/// Message 1 is paid back in part by the answer to it, which may have gone to an address that is not the peer's.
#[test]
fn what_the_answer_to_message_1_has_used_up_is_no_credit_for_probes() {
    let mut pair = Pair::with_certificates();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.step_until(|pair| pair.has(1, is_connected));
    let answer = pair.log.iter().find(|(which, _)| *which == 1).expect("message 2").1.len();
    let probes = pair.spend_credit(1, 0) * 38;
    let allowed = (wire::INNER + pair.heard_from(1, 0)) * AMPLIFICATION_MAX;
    assert!(probes + answer <= allowed, "{probes} and {answer} of {allowed}");
    assert!(probes > 0);
}
