//! The handshake against `snow`, against itself, and against whoever tampers with it.

use std::cell::RefCell;
use std::time::Duration;

use proptest::prelude::*;
use snow::{Builder, HandshakeState};

use super::*;
use crate::crypto::{AeadKey, TAG_LEN, nonce};
use crate::id::{InstanceId, PacketNumber};
use crate::identity::CLOCK_SKEW;
use crate::identity::tests::{NOW, alice, bob, certificate, mallory};
use crate::rng::Rng;
use crate::session::Session;
use crate::time::UnixTime;
use crate::vectors;
use crate::wire::INNER;
use crate::wire::handshake::{Init, Mac1Key, Resp, encode_init, encode_resp};

const NOISE: &str = "Noise_IKpsk2_25519_AESGCM_SHA256";
const TUNNEL: TunnelId = TunnelId([0x77; 16]);
const INITIATOR: SessionIndex = SessionIndex(0x0A0A_0A0A);
const RESPONDER: SessionIndex = SessionIndex(0x0B0B_0B0B);
/// Where the Noise message begins in both packets.
const NOISE_AT: usize = 12;
const MACS_LEN: usize = 32;

/// One side: identity, transport key, certificate.
struct Party {
    identity: Identity,
    transport: TransportKey,
    certificate: Certificate,
    acquaintances: RefCell<Acquaintances>,
}

impl Party {
    fn new(identity: Identity, transport: [u8; 32]) -> Self {
        let transport = TransportKey::from_secret(transport);
        let certificate = certificate(&identity, &transport);
        Self { identity, transport, certificate, acquaintances: RefCell::default() }
    }

    fn local(&self) -> Local<'_> {
        Local { identity: &self.identity, certificate: &self.certificate, transport: &self.transport }
    }

    fn start(&self, remote: &Self, seed: u8) -> (Initiator, Vec<u8>) {
        let mut rng = Rng::new([seed; 32]);
        let (local, met, remote) = (self.local(), &mut self.acquaintances.borrow_mut(), &remote.certificate);
        Initiator::start(&local, met, remote, INITIATOR, TUNNEL, &parameters(1), &[], NOW, &mut rng)
            .expect("a good certificate")
    }

    fn open(&self, datagram: &[u8]) -> Result<Incoming, HandshakeError> {
        self.open_at(datagram, NOW)
    }

    fn open_at(&self, datagram: &[u8], now: UnixTime) -> Result<Incoming, HandshakeError> {
        let keys = std::slice::from_ref(&self.transport);
        Incoming::open(self.identity.key(), keys, &mut self.acquaintances.borrow_mut(), datagram, now)
    }

    /// The certificate of a transport key that it remembers.
    fn remembered(&self, public: &[u8; 32]) -> Option<Certificate> {
        let acquaintances = self.acquaintances.borrow();
        acquaintances.with(&self.transport, public).map(|known| known.certificate.clone())
    }

    fn respond(&self, incoming: Incoming, psk: &[u8; 32]) -> (Established, Vec<u8>) {
        incoming.respond(&self.local(), RESPONDER, psk, &parameters(2), &mut Rng::new([0x22; 32]))
    }
}

fn parties() -> (Party, Party) {
    (Party::new(alice(), [0x1A; 32]), Party::new(bob(), [0x1B; 32]))
}

fn parameters(max_streams: u64) -> Parameters {
    Parameters { max_streams, ..Parameters::default() }
}

fn error<T>(result: Result<T, HandshakeError>) -> HandshakeError {
    result.err().expect("a refusal")
}

#[test]
fn both_sides_agree_on_everything() {
    let (alice, bob) = parties();
    let (initiator, init) = alice.start(&bob, 0x11);
    let incoming = bob.open(&init).expect("an authentic message");
    assert_eq!((incoming.tunnel, incoming.timestamp, incoming.initiator), (TUNNEL, NOW, INITIATOR));
    assert_eq!(incoming.certificate, alice.certificate);

    let (at_bob, resp) = bob.respond(incoming, &NO_PSK);
    let at_alice = initiator.finish(&resp, &[NO_PSK], NOW).expect("an authentic answer");
    assert!(resp.len() <= init.len() && init.len() == INNER);
    assert_eq!(at_alice.keys.send, at_bob.keys.receive);
    assert_eq!(at_alice.keys.receive, at_bob.keys.send);
    assert_ne!(at_alice.keys.send, at_alice.keys.receive);
    assert_eq!(at_alice.keys.next_psk, at_bob.keys.next_psk);
    assert_eq!(at_alice.handshake_hash, at_bob.handshake_hash);
    assert_eq!((at_alice.remote_index, at_bob.remote_index), (RESPONDER, INITIATOR));
    assert_eq!((at_alice.parameters, at_bob.parameters), (parameters(2), parameters(1)));
    assert_eq!((at_alice.remote, at_bob.remote), (bob.certificate, alice.certificate));
}

// Against an independent implementation, with fixed ephemerals.

/// The ephemeral secret that a handshake with this generator draws first.
fn ephemeral(seed: u8) -> Secret {
    Rng::new([seed; 32]).secret_key()
}

fn snow<'a>(prologue: &'a [u8], transport: &'a TransportKey, ephemeral: &'a Secret, psk: &'a [u8; 32]) -> Builder<'a> {
    Builder::new(NOISE.parse().expect("a pattern that snow knows"))
        .prologue(prologue)
        .and_then(|builder| builder.local_private_key(&transport.secret()[..]))
        .and_then(|builder| builder.psk(2, psk))
        .expect("each is set once")
        .fixed_ephemeral_key_for_testing_only(&ephemeral[..])
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 2 * INNER];
    let len = state.write_message(payload, &mut message).expect("snow writes");
    message.truncate(len);
    message
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 2 * INNER];
    let len = state.read_message(message, &mut payload).expect("snow accepts our message");
    payload.truncate(len);
    payload
}

fn noise_part(packet: &[u8]) -> &[u8] {
    &packet[NOISE_AT..packet.len() - MACS_LEN]
}

fn assert_same_transport_keys(state: HandshakeState, keys: &SessionKeys) {
    let mut state = state.into_stateless_transport_mode().expect("snow is finished");
    let mut key = keys.send.clone();
    for generation in 0..3 {
        let mut ours = b"frames".to_vec();
        let tag = AeadKey::new(&key).seal_in_place(nonce(9), &[], &mut ours);
        ours.extend(tag);
        let mut opened = [0; 64];
        let len = state.read_message(9, &ours, &mut opened).expect("snow opens what we seal");
        assert_eq!(&opened[..len], b"frames", "generation {generation}");

        // The key after this one, as a session derives it.
        state.rekey_incoming();
        let mut next = Secret::new([0; 32]);
        let _tag = AeadKey::new(&key).seal_in_place(nonce(u64::MAX), &[], &mut *next);
        key = next;
    }
    let mut theirs = [0; 64];
    let len = state.write_message(9, b"frames", &mut theirs).expect("snow seals");
    let opened =
        AeadKey::new(&keys.receive).open_in_place(nonce(9), &[], &mut theirs[..len]).map(|plain| plain.to_vec());
    assert_eq!(opened, Ok(b"frames".to_vec()));
}

#[test]
fn our_initiator_and_a_snow_responder_speak_the_same_bytes() {
    for psk in [NO_PSK, [0x55; 32]] {
        let (alice, bob) = parties();
        let (initiator, init) = alice.start(&bob, 0x11);
        let prologue = prologue(bob.transport.id(), INITIATOR, &bob.identity.key());
        let responder_ephemeral = ephemeral(0x22);
        let mut responder =
            snow(&prologue, &bob.transport, &responder_ephemeral, &psk).build_responder().expect("complete");

        let payload = read(&mut responder, noise_part(&init));
        assert_eq!(payload[..Certificate::LEN], alice.certificate.encode());
        assert_eq!(responder.get_remote_static(), Some(&alice.transport.public()[..]));

        // The same initiator in snow writes the same first message.
        let initiator_ephemeral = ephemeral(0x11);
        let bob_public = bob.transport.public();
        let mut twin = snow(&prologue, &alice.transport, &initiator_ephemeral, &psk)
            .remote_public_key(&bob_public)
            .and_then(Builder::build_initiator)
            .expect("complete");
        assert_eq!(write(&mut twin, &payload), noise_part(&init));

        let mut payload = RESPONDER.0.to_be_bytes().to_vec();
        payload.push(0);
        parameters(2).encode(&mut payload);
        let message = write(&mut responder, &payload);
        let (their_ephemeral, sealed) = message.split_first_chunk().expect("an ephemeral key");
        let resp = encode_resp(RESPONDER, INITIATOR, their_ephemeral, sealed, &Mac1Key::new(&alice.identity.key()));
        let established = initiator.finish(&resp, &[[0x99; 32], psk], NOW).expect("we accept snow's answer");
        assert_eq!(established.psk_index, 1);
        assert_eq!(established.handshake_hash, responder.get_handshake_hash());
        assert_same_transport_keys(responder, &established.keys);
    }
}

#[test]
fn a_snow_initiator_and_our_responder_speak_the_same_bytes() {
    for psk in [NO_PSK, [0x55; 32]] {
        let (alice, bob) = parties();
        let (_, init) = alice.start(&bob, 0x11);
        let prologue = prologue(bob.transport.id(), INITIATOR, &bob.identity.key());
        let initiator_ephemeral = ephemeral(0x11);
        let bob_public = bob.transport.public();
        let mut initiator = snow(&prologue, &alice.transport, &initiator_ephemeral, &psk)
            .remote_public_key(&bob_public)
            .and_then(Builder::build_initiator)
            .expect("complete");
        let mut payload = alice.certificate.encode().to_vec();
        payload.extend(TUNNEL.0);
        payload.extend(NOW.0.to_be_bytes());
        parameters(1).encode(&mut payload);
        payload.resize(crate::wire::handshake::INIT_PAYLOAD_LEN, 0);
        let message = write(&mut initiator, &payload);
        assert_eq!(message, noise_part(&init), "snow's message is ours, framed");

        let (at_bob, resp) = bob.respond(bob.open(&init).expect("authentic"), &psk);
        let payload = read(&mut initiator, noise_part(&resp));
        assert_eq!(payload[..5], [&RESPONDER.0.to_be_bytes()[..], &[0]].concat());
        assert_eq!(at_bob.handshake_hash, initiator.get_handshake_hash());
        assert_same_transport_keys(initiator, &at_bob.keys);
    }
}

// Against the spec.

#[test]
fn the_handshake_is_that_of_the_spec() {
    for case in vectors::cases(include_str!("../../../spec/vectors/handshake.txt")) {
        let (alice, bob) = parties();
        assert_eq!(*alice.transport.secret(), Secret::new(case.array("initiator_transport_secret")));
        assert_eq!(*bob.transport.secret(), Secret::new(case.array("responder_transport_secret")));
        assert_eq!(*ephemeral(0x11), case.array("initiator_ephemeral_secret"));
        assert_eq!(*ephemeral(0x22), case.array("responder_ephemeral_secret"));
        let psk = case.array("psk");

        let (initiator, init) = alice.start(&bob, 0x11);
        assert_eq!(init, case.bytes("init"));
        let (at_bob, resp) = bob.respond(bob.open(&init).expect("authentic"), &psk);
        assert_eq!(resp, case.bytes("resp"));
        let at_alice = initiator.finish(&resp, &[psk], NOW).expect("authentic");
        assert_eq!(*at_alice.keys.send, case.array("initiator_to_responder_key"));
        assert_eq!(*at_bob.keys.send, case.array("responder_to_initiator_key"));
        assert_eq!(*at_alice.keys.next_psk, case.array("next_psk"));
        assert_eq!(at_bob.handshake_hash, case.array("handshake_hash"));

        let mut packet = vec![0; crate::wire::DataHeader::LEN];
        packet.extend(case.bytes("frames"));
        Session::new(at_alice, INITIATOR).seal(&mut packet, 0, PacketNumber(case.number("packet_number")));
        assert_eq!(packet, case.bytes("data"));
    }
}

// Who is who.

#[test]
fn a_session_of_the_running_tunnel_proves_itself_by_its_psk() {
    let (alice, bob) = parties();
    let (initiator, init) = alice.start(&bob, 0x11);
    let (at_bob, resp) = bob.respond(bob.open(&init).expect("authentic"), &NO_PSK);
    let first = initiator.finish(&resp, &[NO_PSK], NOW).expect("authentic");

    let (initiator, init) = alice.start(&bob, 0x12);
    let (_, resp) = bob.respond(bob.open(&init).expect("authentic"), &at_bob.keys.next_psk);
    assert_eq!(error(initiator.finish(&resp, &[NO_PSK], NOW)), HandshakeError::Forged);
    let second = initiator.finish(&resp, &[*first.keys.next_psk, NO_PSK], NOW).expect("the initiator is not used up");
    assert_eq!(second.psk_index, 0);
    assert_ne!(first.keys.send, second.keys.send);
}

#[test]
fn a_certificate_on_a_foreign_transport_key_gives_no_session() {
    let (mut alice, bob) = parties();
    alice.transport = TransportKey::from_secret([0x66; 32]);
    let (_, init) = alice.start(&bob, 0x11);
    assert_eq!(error(bob.open(&init)), HandshakeError::ForeignTransportKey);
}

#[test]
fn a_message_does_not_open_for_another_identity_on_the_same_transport_key() {
    let (alice, bob) = parties();
    // Mallory certifies bob's transport key as her own; alice, who wants mallory, must not end up with bob.
    let mallory = Party::new(mallory(), [0x1B; 32]);
    let (_, init) = alice.start(&mallory, 0x11);
    assert_eq!(error(bob.open(&init)), HandshakeError::Mac1);
    let view = Init::decode(&init).expect("well formed");
    let readdressed = encode_init(
        view.initiator,
        view.key_id,
        &view.ephemeral,
        view.sealed_static,
        view.sealed_payload,
        &Mac1Key::new(&bob.identity.key()),
    );
    assert_eq!(error(bob.open(&readdressed)), HandshakeError::Forged);
}

#[test]
fn our_own_identity_is_no_peer() {
    let (alice, _) = parties();
    let (_, init) = alice.start(&alice, 0x11);
    assert_eq!(error(alice.open(&init)), HandshakeError::OwnIdentity);
}

#[test]
fn an_expired_certificate_is_refused() {
    let (alice, bob) = parties();
    let (_, init) = alice.start(&bob, 0x11);
    let later = NOW + Duration::from_secs(30 * 24 * 3600);
    let refused = error(bob.open_at(&init, later));
    assert!(matches!(refused, HandshakeError::Certificate(CertificateError::Expired { .. })), "{refused}");
}

#[test]
fn a_peer_key_of_small_order_is_refused_on_both_sides() {
    let (alice, mut bob) = parties();
    bob.certificate.transport_public = [0; 32];
    let mut rng = Rng::new([1; 32]);
    let (local, met) = (alice.local(), &mut Acquaintances::default());
    let started =
        Initiator::start(&local, met, &bob.certificate, INITIATOR, TUNNEL, &parameters(1), &[], NOW, &mut rng);
    assert_eq!(error(started), HandshakeError::SmallOrder(SmallOrder));

    let (alice, bob) = parties();
    let forged = encode_init(
        INITIATOR,
        bob.transport.id(),
        &[0; 32],
        &[0; 48],
        &[0; crate::wire::handshake::INIT_PAYLOAD_LEN + TAG_LEN],
        &Mac1Key::new(&bob.identity.key()),
    );
    assert_eq!(error(bob.open(&forged)), HandshakeError::SmallOrder(SmallOrder));

    let (initiator, _) = alice.start(&bob, 0x11);
    let forged = encode_resp(RESPONDER, INITIATOR, &[0; 32], &[0; 32], &Mac1Key::new(&alice.identity.key()));
    assert_eq!(error(initiator.finish(&forged, &[NO_PSK], NOW)), HandshakeError::SmallOrder(SmallOrder));
}

#[test]
fn a_changed_session_index_is_refused_even_under_a_fresh_mac1() {
    let (alice, bob) = parties();
    let (initiator, init) = alice.start(&bob, 0x11);
    let (_, resp) = bob.respond(bob.open(&init).expect("authentic"), &NO_PSK);
    let view = Resp::decode(&resp).expect("well formed");
    let mac1_key = Mac1Key::new(&alice.identity.key());
    let elsewhere = SessionIndex(RESPONDER.0 + 1);
    let changed = encode_resp(elsewhere, INITIATOR, &view.ephemeral, view.sealed_payload, &mac1_key);
    assert_eq!(error(initiator.finish(&changed, &[NO_PSK], NOW)), HandshakeError::Forged);
    let unasked = encode_resp(RESPONDER, elsewhere, &view.ephemeral, view.sealed_payload, &mac1_key);
    assert_eq!(error(initiator.finish(&unasked, &[NO_PSK], NOW)), HandshakeError::Unasked);
}

#[test]
fn an_answer_to_an_earlier_message_is_refused() {
    let (alice, bob) = parties();
    let (_, init) = alice.start(&bob, 0x11);
    let (_, resp) = bob.respond(bob.open(&init).expect("authentic"), &NO_PSK);
    let (second, _) = alice.start(&bob, 0x12);
    assert_eq!(error(second.finish(&resp, &[NO_PSK], NOW)), HandshakeError::Forged);
}

#[test]
fn a_duplicate_of_message_1_has_the_same_transcript() {
    let (alice, bob) = parties();
    let (_, init) = alice.start(&bob, 0x11);
    let (_, other) = alice.start(&bob, 0x12);
    let transcript = |datagram: &[u8]| bob.open(datagram).expect("authentic").transcript;
    assert_eq!(transcript(&init), transcript(&init));
    assert_ne!(transcript(&init), transcript(&other));
}

// Damage.

#[test]
fn every_truncation_of_either_message_is_refused() {
    let (alice, bob) = parties();
    let (initiator, init) = alice.start(&bob, 0x11);
    let (_, resp) = bob.respond(bob.open(&init).expect("authentic"), &NO_PSK);
    for end in 0..init.len() {
        assert!(bob.open(&init[..end]).is_err(), "INIT of {end}");
    }
    for end in 0..resp.len() {
        assert!(initiator.finish(&resp[..end], &[NO_PSK], NOW).is_err(), "RESP of {end}");
    }
}

#[test]
fn every_bit_flip_of_either_message_is_refused_and_does_not_kill_the_handshake() {
    let (alice, bob) = parties();
    let (initiator, init) = alice.start(&bob, 0x11);
    let (_, resp) = bob.respond(bob.open(&init).expect("authentic"), &NO_PSK);
    // mac2 is for a responder under load.
    for bit in 0..(init.len() - crate::wire::handshake::MAC_LEN) * 8 {
        assert!(bob.open(&flipped(&init, bit)).is_err(), "INIT bit {bit}");
    }
    for bit in 0..resp.len() * 8 {
        assert!(initiator.finish(&flipped(&resp, bit), &[NO_PSK], NOW).is_err(), "RESP bit {bit}");
    }
    assert!(initiator.finish(&resp, &[NO_PSK], NOW).is_ok());
}

proptest! {
    /// A forger knows identity keys, so mac1 keeps nobody out: the AEAD must.
    #[test]
    fn damage_under_a_fresh_mac1_is_refused(bit in 32..(INNER - MACS_LEN) * 8) {
        let (alice, bob) = parties();
        let (_, init) = alice.start(&bob, 0x11);
        prop_assert!(bob.open(&under_fresh_mac1(&flipped(&init, bit), &bob)).is_err());
    }
}

fn under_fresh_mac1(init: &[u8], responder: &Party) -> Vec<u8> {
    let view = Init::decode(init).expect("the layout is not touched");
    let mac1_key = Mac1Key::new(&responder.identity.key());
    let (sealed_static, sealed_payload) = (view.sealed_static, view.sealed_payload);
    encode_init(view.initiator, view.key_id, &view.ephemeral, sealed_static, sealed_payload, &mac1_key)
}

fn flipped(packet: &[u8], bit: usize) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[bit / 8] ^= 1 << (bit % 8);
    packet
}

#[test]
fn an_acquaintance_is_remembered_once_authentic_and_judged_anew_each_time() {
    let (alice, bob) = parties();
    let public = alice.transport.public();
    let (_, init) = alice.start(&bob, 0x11);
    let forged = under_fresh_mac1(&flipped(&init, (INNER - MACS_LEN) * 8 - 1), &bob);
    assert_eq!(error(bob.open(&forged)), HandshakeError::Forged);
    assert_eq!(bob.remembered(&public), None, "who only names a key is nobody");

    let later = NOW + Duration::from_secs(60);
    for (seed, now) in [(0x11, NOW), (0x12, later)] {
        let (initiator, init) = alice.start(&bob, seed);
        let incoming = bob.open_at(&init, now).expect("an authentic message");
        assert_eq!(incoming.certificate, alice.certificate);
        let (at_bob, resp) = bob.respond(incoming, &NO_PSK);
        assert_eq!(initiator.finish(&resp, &[NO_PSK], now).expect("its answer").keys.send, at_bob.keys.receive);
        assert_eq!(bob.remembered(&public), Some(alice.certificate.clone()));
    }

    let over = alice.certificate.not_after + 2 * CLOCK_SKEW;
    let (_, init) = alice.start(&bob, 0x13);
    let expired = error(bob.open_at(&init, over));
    assert!(matches!(expired, HandshakeError::Certificate(CertificateError::Expired { .. })), "{expired:?}");

    let newer = Certificate::issue(&alice.identity, &alice.transport, InstanceId([5; 8]), 2, NOW);
    let renewed = Party { certificate: newer.clone(), ..alice };
    bob.open(&renewed.start(&bob, 0x14).1).expect("an authentic message");
    assert_eq!(bob.remembered(&public), Some(newer));

    bob.acquaintances.borrow_mut().retain(&[]);
    assert_eq!(bob.remembered(&public), None, "what a key has computed goes with it");
}

// Certificates that have to be fetched.

#[test]
fn a_rotated_key_is_still_honoured_and_the_answer_brings_the_new_certificate() {
    let (alice, bob) = parties();
    let (initiator, init) = alice.start(&bob, 0x11);
    let rotated = Party::new(bob.identity.clone(), [0x2B; 32]);
    let keys = [rotated.transport.clone(), bob.transport.clone()];
    let incoming = Incoming::open(bob.identity.key(), &keys, &mut Acquaintances::default(), &init, NOW);
    let incoming = incoming.expect("the old key is honoured");
    let (_, resp) = rotated.respond(incoming, &NO_PSK);
    let established = initiator.finish(&resp, &[NO_PSK], NOW).expect("authentic");
    assert_eq!(established.remote, rotated.certificate);
    assert!(resp.len() <= init.len());
}

#[test]
fn a_responder_cannot_pass_off_another_identity_with_its_answer() {
    let (alice, bob) = parties();
    let (initiator, init) = alice.start(&bob, 0x11);
    let mut liar = Party::new(mallory(), [0x2B; 32]);
    liar.identity = bob.identity.clone();
    let (_, resp) = liar.respond(bob.open(&init).expect("authentic"), &NO_PSK);
    assert_eq!(error(initiator.finish(&resp, &[NO_PSK], NOW)), HandshakeError::ForeignIdentity);
}

#[test]
fn an_init_to_a_retired_key_is_answered_with_the_current_certificate() {
    let (alice, bob) = parties();
    let (initiator, init) = alice.start(&bob, 0x11);
    let rotated = Party::new(bob.identity.clone(), [0x2B; 32]);
    let refused = error(rotated.open(&init));
    let HandshakeError::UnknownKey { key_id, initiator: index } = refused else { panic!("{refused}") };
    assert_eq!((key_id, index), (bob.transport.id(), INITIATOR));

    let answer = answer_stale_init(index, &rotated.certificate);
    assert!(answer.len() <= init.len());
    let fetched = accept_certificate(&answer, initiator.certificate_nonce(), &bob.identity.key(), NOW);
    assert_eq!(fetched, Ok(rotated.certificate));
}

#[test]
fn an_init_to_a_retired_key_from_a_stranger_is_not_answered() {
    let (alice, bob) = parties();
    let (_, mut init) = alice.start(&bob, 0x11);
    init[NOISE_AT - 1] ^= 1;
    assert_eq!(error(bob.open(&init)), HandshakeError::Mac1);
}

#[test]
fn a_certificate_can_be_asked_for() {
    let (_, bob) = parties();
    let request = certificate_request(&bob.identity.key(), [4; 8]);
    let answer = answer_certificate_request(&request, &bob.certificate).expect("for bob");
    assert!(answer.len() <= request.len());
    assert_eq!(accept_certificate(&answer, [4; 8], &bob.identity.key(), NOW), Ok(bob.certificate));
}

#[test]
fn a_certificate_that_was_not_asked_for_is_refused() {
    let (alice, bob) = parties();
    let request = certificate_request(&bob.identity.key(), [4; 8]);
    assert_eq!(error(answer_certificate_request(&request, &alice.certificate)), HandshakeError::Mac1);
    let answer = answer_certificate_request(&request, &bob.certificate).expect("for bob");
    assert_eq!(error(accept_certificate(&answer, [5; 8], &bob.identity.key(), NOW)), HandshakeError::Unasked);
    assert_eq!(error(accept_certificate(&answer, [4; 8], &alice.identity.key(), NOW)), HandshakeError::ForeignIdentity);
    for bit in 96..answer.len() * 8 {
        assert!(accept_certificate(&flipped(&answer, bit), [4; 8], &bob.identity.key(), NOW).is_err(), "bit {bit}");
    }
}
