//! The attacks that have succeeded against a network of this kind (spec/security.md §8), tried as they were tried there. Two of them, on
//! the directory and on the relay, are in `pilot-relay`.

use super::hostile::{VICTIM, is_connected};
use super::*;
use crate::crypto;
use crate::handshake::{Acquaintances, Established, Incoming, Initiator, Local, NO_PSK, Parameters};
use crate::id::{CircuitId, PacketNumber, SessionIndex, TunnelId};
use crate::rng::Rng;
use crate::session::Session;
use crate::wire::handshake::{Cert, CertRequest, Init, MAC_LEN, Mac1Key, encode_init, encode_resp};
use crate::wire::{self, DataHeader, PacketKind, frame};

/// Where the attacker is: an agent like any other, whose key everybody may know.
const MALLORY: usize = 2;
/// Streams that nobody has opened yet: one of either parity.
const STREAMS: [u64; 2] = [8, 9];

impl Pair {
    /// Two agents with a tunnel that has settled, and a third who is known to nobody.
    fn with_mallory() -> Self {
        let mut pair = Self::with_certificates();
        pair.hosts.push(host(MALLORY, 77, START, Config::new(Role::Agent)));
        pair.settle();
        pair
    }

    /// The first two connect, and what that causes passes.
    fn settle(&mut self) {
        let peer = self.key(1);
        self.hosts[0].node.connect(self.now, &peer).expect("known");
        self.step_until(|pair| (0..2).all(|which| pair.has(which, is_connected)));
        self.run_for(Duration::from_secs(1));
        self.forget_events();
    }

    fn forget_events(&mut self) {
        self.hosts.iter_mut().for_each(|host| host.events.clear());
    }

    /// The two go on as if nothing had happened: same tunnel, same path, and a request is answered.
    fn assert_unharmed(&mut self) {
        let is_end = |event: &Event| {
            matches!(event, Event::PeerConnected { .. } | Event::PeerClosed { .. } | Event::Reset { .. })
        };
        for (which, other) in [(0, 1), (1, 0)] {
            assert!(!self.has(which, is_end), "{:?}", self.hosts[which].events);
            let status = self.hosts[which].node.peer_status(&self.key(other)).expect("a peer");
            assert_eq!(status.path, Some(PathKind::Direct(self.hosts[other].address)));
        }
        self.forget_events();
        self.request(0, 1, b"as before");
        self.run_until(Duration::from_millis(100), |pair| pair.incoming(1).is_some());
        let stream = self.incoming(1).expect("opened");
        assert_eq!(self.read_all(1, stream), b"as before");
    }

    /// What the third agent begins with, when it does by hand what a node does by the rules.
    fn start_by_hand(&self, certificate: &Certificate, tunnel: TunnelId, index: SessionIndex) -> (Initiator, Vec<u8>) {
        let own = keys(MALLORY, START);
        let local = Local { certificate, ..local(&own) };
        let (responder, parameters) = (keys(1, START).certificate, Parameters::default());
        let mut rng = Rng::new([index.0 as u8; 32]);
        let mut met = Acquaintances::default();
        Initiator::start(&local, &mut met, &responder, index, tunnel, &parameters, &[], START.unix, &mut rng)
            .expect("good keys")
    }

    /// Lets the third agent complete a handshake with host 1 in its own name, for a tunnel of this id.
    fn honest_handshake(&mut self, tunnel: TunnelId) -> Established {
        let (initiator, init) = self.start_by_hand(&keys(MALLORY, START).certificate, tunnel, SessionIndex(0x3A11));
        let from = self.hosts[MALLORY].address;
        self.deliver(1, from, &init);
        self.drain();
        let resp = self.intercept(MALLORY, PacketKind::Resp).pop().expect("answered");
        initiator.finish(&resp, &[NO_PSK], START.unix).expect("authentic")
    }

    fn drops(&self, which: usize, reason: DropReason) -> u64 {
        self.hosts[which].node.stats().drops(reason)
    }

    /// What host 1 has been asked, and by whom.
    fn askers(&self) -> Vec<IdentityKey> {
        let asker = |event: &Event| if let Event::StreamOpened { peer, .. } = event { Some(*peer) } else { None };
        self.hosts[1].events.iter().filter_map(asker).collect()
    }
}

/// A stream to the echo service with these words, as the frame that opens it.
fn put_request(buf: &mut Vec<u8>, stream: u64, words: &[u8]) {
    let mut data = Vec::new();
    StreamHeader::new(ServicePort::ECHO).encode(&mut data).expect("in bounds");
    data.extend_from_slice(words);
    frame::put_stream_header(buf, stream, 0, data.len(), true, true);
    buf.extend_from_slice(&data);
}

/// The attacker's own certificate with the name of another in it, and that of the other with the attacker's key in it.
fn forged_certificates(own: &Certificate, other: &Certificate) -> [Certificate; 2] {
    let (mut own_renamed, mut other_rekeyed) = (own.clone(), other.clone());
    (own_renamed.identity, own_renamed.modifier) = (other.identity, other.modifier);
    (other_rekeyed.transport_public, other_rekeyed.key_id) = (own.transport_public, own.key_id);
    [own_renamed, other_rekeyed]
}

fn local(keys: &Keys) -> Local<'_> {
    Local { identity: &keys.identity, certificate: &keys.certificate, transport: &keys.transport[0] }
}

/// A good answer to a handshake that host 0 might have begun with the third agent, under the index of one that it has begun with another.
fn accept_by_mallory(index: SessionIndex) -> Vec<u8> {
    let (caller, own, parameters) = (keys(0, START), keys(MALLORY, START), Parameters::default());
    let (tunnel, mut rng) = (TunnelId([9; 16]), Rng::new([8; 32]));
    let (local_caller, mut met) = (local(&caller), Acquaintances::default());
    let (_, init) = Initiator::start(
        &local_caller,
        &mut met,
        &own.certificate,
        index,
        tunnel,
        &parameters,
        &[],
        START.unix,
        &mut rng,
    )
    .expect("good keys");
    let incoming = Incoming::open(own.identity.key(), &own.transport, &mut Acquaintances::default(), &init, START.unix);
    let incoming = incoming.expect("for the third agent");
    incoming.respond(&local(&own), SessionIndex(7), &NO_PSK, &parameters, &mut rng).1
}

/// mac1 needs the receiver's key only, which is no secret.
fn put_fresh_mac1(packet: &mut [u8], receiver: &IdentityKey) {
    let (covered, macs) = packet.split_at_mut(packet.len() - 2 * MAC_LEN);
    let key = crypto::sha256(&[b"pilot/1 mac1", &receiver.0]);
    macs[..MAC_LEN].copy_from_slice(&crypto::hmac_sha256(&key, &[covered])[..MAC_LEN]);
}

fn session_of(established: Established) -> Session {
    Session::new(established, SessionIndex(0x3A11))
}

fn seal(session: &mut Session, number: u64, frames: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = vec![0; DataHeader::LEN];
    frames(&mut packet);
    session.seal(&mut packet, 0, PacketNumber(number));
    packet
}

/// The attacker reads the header off the wire and puts frames of its own behind it, in the clear, from the right address.
#[test]
fn attack_1_plaintext_injection_delivers_no_byte() {
    let mut pair = Pair::with_mallory();
    pair.request(0, 1, b"genuine");
    pair.drain();
    let genuine = pair.intercept(1, PacketKind::Data).pop().expect("sent");
    let from = pair.hosts[0].address;
    let (header, tag) = (&genuine[..DataHeader::LEN], genuine.last_chunk::<16>().expect("a tag"));
    for stream in STREAMS {
        let mut frames = Vec::new();
        frame::put_datagram(&mut frames, ServicePort::ECHO, b"injected");
        put_request(&mut frames, stream, b"injected");
        for behind in [&[][..], &[0; 16], tag] {
            pair.deliver(1, from, &[header, &frames, behind].concat());
        }
        pair.deliver(1, from, &frames);
    }
    assert!(pair.drops(1, DropReason::Authentication) >= 6);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.askers(), [pair.key(0)]);
    assert!(!pair.has(1, |event| matches!(event, Event::Datagram { .. })));
    let stream = pair.incoming(1).expect("sent again");
    assert_eq!(pair.read_all(1, stream), b"genuine");
}

/// Whoever answers first in the peer's place, in the words that are expected, is believed for its signature and its keys only.
#[test]
fn attack_2_forged_trust_accept_makes_nobody_a_peer() {
    let mut pair = Pair::new();
    pair.hosts.push(host(MALLORY, 77, START, Config::new(Role::Agent)));
    let (peer, from) = (pair.key(1), pair.hosts[1].address);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.drain();

    let question = pair.wire[0].3.clone();
    let nonce = CertRequest::decode(&question, &Mac1Key::new(&peer)).expect("well formed").expect("to the peer").nonce;
    let own = keys(MALLORY, START).certificate;
    let [in_the_peers_name, with_own_key] = forged_certificates(&own, &keys(1, START).certificate);
    for certificate in [own, in_the_peers_name, with_own_key] {
        pair.deliver(0, from, &Cert { nonce, certificate: &certificate.encode() }.encode());
    }
    assert_eq!(pair.drops(0, DropReason::ForeignIdentity), 1);
    assert_eq!(pair.drops(0, DropReason::Certificate), 2);

    pair.step_until(|pair| pair.wire.iter().any(|packet| wire::peek(&packet.3) == Ok(PacketKind::Init)));
    let asked = pair.wire.iter().find(|packet| wire::peek(&packet.3) == Ok(PacketKind::Init)).expect("sent");
    let index = Init::decode(&asked.3).expect("well formed").initiator;
    pair.deliver(0, from, &accept_by_mallory(index));
    assert_eq!(pair.drops(0, DropReason::Handshake), 1, "the index and the identity are right, the keys are not");
    pair.step_until(|pair| pair.has(0, is_connected));
    let connected = pair.hosts[0].node.peers().filter(|peer| peer.connected).map(|peer| peer.key).collect::<Vec<_>>();
    assert_eq!(connected, [peer], "the peer itself, by its own answer");
}

/// Everything that has made the session comes again, from another address: at once, later, and after a rekey.
#[test]
fn attack_3_replayed_key_exchange_moves_no_endpoint() {
    let mut pair = Pair::with_mallory();
    let is_exchange = |datagram: &[u8]| !matches!(wire::peek(datagram), Ok(PacketKind::Data));
    let recorded: Vec<_> = pair.log.iter().filter(|(_, datagram)| is_exchange(datagram)).cloned().collect();
    assert!(recorded.len() >= 2, "INIT and RESP");
    for wait in [Duration::from_secs(1), crate::limits::REKEY_AFTER_TIME] {
        for _ in 0..5 {
            for (from, datagram) in &recorded {
                pair.deliver(1 - from, VICTIM, datagram);
            }
            pair.run_for(Duration::from_millis(300));
        }
        pair.assert_unharmed();
        pair.request(1, 0, &[7; 10_000]);
        pair.run_for(wait);
    }
    assert!(
        pair.astray.iter().all(|(_, datagram)| is_exchange(datagram)),
        "no data goes to where the replay came from"
    );
    assert!(pair.astray_bytes() <= 10 * recorded.iter().map(|(_, datagram)| datagram.len()).sum::<usize>());
}

/// How long 200 kB take, and what the receiver has in its tables then, while at each step so many packets of each kind come from
/// senders that nobody knows.
fn transfer_under_flood(per_step: usize) -> (Duration, [usize; 3]) {
    const LEN: usize = 200_000;
    let mut pair = Pair::with_mallory();
    let (peer, began) = (pair.key(1), pair.now.mono);
    let header = StreamHeader::new(ServicePort::ECHO);
    let sending = pair.hosts[0].node.open_stream(pair.now, &peer, &header).expect("a stream");
    let (mut unsent, mut received) = (Bytes::from(vec![7; LEN]), 0);
    let mut rng = Rng::new([6; 32]);
    let session = *pair.hosts[1].node.by_index.keys().next().expect("a session");
    pair.run_until(Duration::from_secs(20), |pair| {
        for _ in 0..per_step {
            for unwanted in unknown_senders(&mut rng, &peer, session) {
                pair.deliver(1, VICTIM, &unwanted);
            }
        }
        pair.hosts[0].node.write(pair.now, sending, &mut unsent).expect("open");
        if let Some(stream) = pair.incoming(1) {
            received += pair.read_all(1, stream).len();
        }
        received == LEN
    });
    let node = &pair.hosts[1].node;
    (pair.now.mono.since(began), [node.peers.len(), node.by_index.len(), node.by_remote_index.len()])
}

/// A data packet for a session that is not there, one for a session that is, and message 1 with a good mac1 and nothing else.
fn unknown_senders(rng: &mut Rng, responder: &IdentityKey, session: SessionIndex) -> [Vec<u8>; 3] {
    let data = |receiver, rng: &mut Rng| {
        let number = PacketNumber(u64::from_be_bytes(rng.array()) >> 2);
        let header = DataHeader { key_phase: false, receiver, packet_number: number }.encode();
        [&header[..], &rng.array::<64>()].concat()
    };
    let nobody = SessionIndex(u32::from_be_bytes(rng.array()));
    let sealed_payload = [7; wire::handshake::INIT_PAYLOAD_LEN + 16];
    let key_id = keys(1, START).transport[0].id();
    let init = encode_init(nobody, key_id, &rng.array(), &[7; 48], &sealed_payload, &Mac1Key::new(responder));
    [data(nobody, rng), data(session, rng), init]
}

/// The flood costs the stream no round trip and the receiver no memory.
#[test]
fn attack_6_unknown_sender_flood_stalls_no_stream() {
    assert_eq!(transfer_under_flood(100), transfer_under_flood(0));
}

/// Version, suite and flags are changed on the way, under a fresh mac1; so is what the certificate says of suites; and at last nothing
/// gets through at all. There is nothing weaker to fall back to.
#[test]
fn attack_7_silent_downgrade_gives_no_session_and_no_plaintext() {
    const WORDS: &[u8] = b"for the peer's eyes only";
    let mut pair = Pair::with_certificates();
    pair.request(0, 1, WORDS);
    pair.drain();
    let from = pair.hosts[0].address;
    let init = pair.intercept(1, PacketKind::Init).pop().expect("sent");
    for place in [1, 2, 3] {
        for value in (0..=255).filter(|&value| value != init[place]) {
            let mut changed = init.clone();
            changed[place] = value;
            put_fresh_mac1(&mut changed, &pair.key(1));
            pair.deliver(1, from, &changed);
        }
    }
    pair.drain();
    assert!(pair.wire.is_empty() && pair.hosts[1].node.by_index.is_empty(), "nothing is answered, nothing begun");

    let genuine = keys(1, START).certificate.encode();
    for place in 1..4 {
        for value in (0..=255).filter(|&value| value != genuine[place]) {
            let mut changed = genuine;
            changed[place] = value;
            assert!(Certificate::verify(&changed, START.unix).is_err(), "byte {place} as {value}");
        }
    }

    pair.cut = true;
    pair.run_until(Duration::from_secs(15), |pair| pair.has(0, |event| matches!(event, Event::ConnectFailed { .. })));
    let is_in_clear = |(_, datagram): &(usize, Vec<u8>)| datagram.windows(WORDS.len()).any(|part| part == WORDS);
    assert!(!pair.log.iter().any(is_in_clear));
    assert!(pair.log.iter().all(|(_, datagram)| wire::peek(datagram) != Ok(PacketKind::Data)));
}

/// Mallory has a tunnel of her own, honestly. With its keys, and with all that she can read of Alice, she speaks as Alice.
#[test]
fn attack_8_impersonation_after_an_honest_handshake_is_refused() {
    let mut pair = Pair::with_mallory();
    let (alice, from) = (keys(0, START).certificate, pair.hosts[MALLORY].address);
    let slot = pair.slot(1, 0) as usize;
    let tunnel = pair.hosts[1].node.peers[slot].tunnel.as_ref().expect("connected");
    let (alices_tunnel, alices_index) = (tunnel.id, tunnel.sessions().next().expect("a session").index());

    let mut established = pair.honest_handshake(alices_tunnel);
    let own_index = established.remote_index;
    established.remote_index = alices_index;
    let mut session = session_of(established);
    let as_alice = seal(&mut session, 1_000, |buf| put_request(buf, STREAMS[0], b"I am Alice"));
    assert_eq!(as_alice[1..5], alices_index.0.to_be_bytes());
    pair.deliver(1, from, &as_alice);
    assert_eq!(pair.drops(1, DropReason::Authentication), 1, "her keys, under Alice's index");

    let (_, init) = pair.start_by_hand(&alice, alices_tunnel, SessionIndex(2));
    pair.deliver(1, from, &init);
    assert_eq!(pair.drops(1, DropReason::ForeignTransportKey), 1, "Alice's certificate, on Mallory's key");

    let own = keys(MALLORY, START).certificate;
    for (certificate, index) in forged_certificates(&own, &alice).into_iter().zip(3..) {
        let (_, init) = pair.start_by_hand(&certificate, alices_tunnel, SessionIndex(index));
        pair.deliver(1, from, &init);
    }
    assert_eq!(pair.drops(1, DropReason::Certificate), 2);
    assert!(pair.hosts[1].node.by_index.contains_key(&own_index), "her own session, in her own name");
    assert_eq!(pair.askers(), []);
    pair.assert_unharmed();
}

/// One packet of each kind, cut, changed in one bit, or recorded in an earlier life of the tunnel, ends nothing on either side.
#[test]
fn attack_9_no_one_packet_kill() {
    let mut pair = Pair::with_mallory();
    pair.hosts[0].node.shutdown(pair.now);
    pair.drain();
    let mut packets = pair.intercept(1, PacketKind::Data);
    assert!(!packets.is_empty(), "CLOSE, sealed for a session that will be over");
    for which in [0, 1] {
        pair.restart(which);
    }
    pair.introduce(0, 1);
    pair.settle();

    pair.request(0, 1, b"in flight");
    pair.drain();
    let in_flight = pair.intercept(1, PacketKind::Data).pop().expect("sent");
    let unknown = wire::Unknown::answer(&in_flight).expect("a data packet");
    let (key, index) = (pair.key(1), unknown.receiver);
    packets.extend(pair.log.iter().map(|(_, datagram)| datagram.clone()));
    packets.push(wire::Unknown { tag8: unknown.tag8 ^ 1, ..unknown }.encode().to_vec());
    packets.push(encode_resp(index, index, &[9; 32], &[7; 32], &Mac1Key::new(&key)));
    packets.push(crate::handshake::certificate_request(&key, [3; 8]));
    let certificate = keys(0, START).certificate.encode();
    packets.push(Cert { nonce: Cert::nonce_for(index), certificate: &certificate }.encode());
    packets.push([&wire::RelayHeader { circuit: CircuitId(1) }.encode()[..], &in_flight].concat());
    for (to, other) in [(0, 1), (1, 0)] {
        let from = pair.hosts[other].address;
        for packet in &packets {
            for len in (0..=packet.len()).step_by(5) {
                pair.deliver(to, from, &packet[..len]);
            }
            for bit in (0..packet.len() * 8).step_by(3) {
                let mut changed = packet.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                pair.deliver(to, from, &changed);
            }
            pair.deliver(to, from, packet);
        }
    }
    pair.run_for(Duration::from_secs(1));
    pair.assert_unharmed();
}

/// Mallory sends in her own session what says, by its address and by all that she can write in it, that it comes from Alice.
#[test]
fn attack_10_spoofed_inner_source_is_named_by_its_session() {
    let mut pair = Pair::with_mallory();
    let mallory = pair.key(MALLORY);
    let alices_address = pair.hosts[0].address;
    let established = pair.honest_handshake(TunnelId([3; 16]));
    let mut session = session_of(established);
    let hers = STREAMS[usize::from(mallory > pair.key(1))];
    let packet = seal(&mut session, 0, |buf| {
        frame::put_datagram(buf, ServicePort::ECHO, b"from Alice");
        put_request(buf, hers, b"from Alice");
    });
    pair.deliver(1, alices_address, &packet);
    pair.drain();
    assert_eq!(pair.askers(), [mallory]);
    let senders: Vec<_> = pair.hosts[1]
        .events
        .iter()
        .filter_map(|event| if let Event::Datagram { peer, .. } = event { Some(*peer) } else { None })
        .collect();
    assert_eq!(senders, [mallory]);
    pair.forget_events();
    pair.assert_unharmed();
}
