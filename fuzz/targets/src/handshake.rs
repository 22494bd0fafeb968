//! Messages 1 and 2, and the certificate exchange.

use std::sync::OnceLock;

use pilot_core::handshake::{
    Acquaintances, Incoming, Initiator, Local, NO_PSK, Parameters, accept_certificate, answer_certificate_request,
    certificate_request,
};
use pilot_core::id::{SessionIndex, TunnelId};
use pilot_core::identity::Certificate;
use pilot_core::rng::Rng;
use pilot_core::wire::codec::Reader;
use pilot_core::wire::handshake::MAC_LEN;

use crate::keys::{START, keys};

/// The index of our own attempt, and the nonce of our own question.
const OURS: SessionIndex = SessionIndex(5);
const NONCE: [u8; 8] = [9; 8];

/// An attempt that waits for message 2, and genuine messages to damage.
struct Genuine {
    initiator: Initiator,
    init: Vec<u8>,
    resp: Vec<u8>,
    request: Vec<u8>,
    cert: Vec<u8>,
}

/// Takes the bytes as each message, then as damage to a genuine one.
///
/// # Panics
/// If anything but the genuine message is accepted.
pub fn handshake(data: &[u8]) {
    let genuine = genuine();
    judge(genuine, data);
    let Some((which, damage)) = data.split_first() else { return };
    let original = match which % 4 {
        0 => &genuine.init,
        1 => &genuine.resp,
        2 => &genuine.request,
        _ => &genuine.cert,
    };
    judge(genuine, &damaged(original, damage));
    decode(damage);
}

/// Each three bytes of `damage` change one byte: two say where, one how. Two that are left over cut or lengthen the end.
fn damaged(original: &[u8], damage: &[u8]) -> Vec<u8> {
    let mut message = original.to_vec();
    let changes = damage.chunks_exact(3);
    let rest = changes.remainder().to_vec();
    for change in changes {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % message.len();
        message[at] ^= change[2];
    }
    if let [high, low] = rest[..] {
        message.resize(usize::from(u16::from_be_bytes([high, low])) % (2 * original.len()), 0);
    }
    message
}

/// Both parties look at a message. What either believes must be genuine.
fn judge(genuine: &Genuine, message: &[u8]) {
    let ours = keys(1);
    if let Ok(incoming) =
        Incoming::open(ours.certificate.identity, &ours.transport, &mut Acquaintances::default(), message, START.unix)
    {
        assert_eq!(without_mac2(message), without_mac2(&genuine.init), "a forged message 1 was opened");
        assert_eq!(incoming.certificate.identity, keys(0).certificate.identity);
    }
    if let Ok(established) = genuine.initiator.finish(message, &[[3; 32], NO_PSK], START.unix) {
        assert_eq!(message, genuine.resp, "a forged message 2 was accepted");
        assert_eq!(established.psk_index, 1);
    }
    if let Ok(answer) = answer_certificate_request(message, &ours.certificate) {
        assert!(answer.len() <= message.len(), "an answer that amplifies");
        assert!(message[..4] == genuine.request[..4] || message[2..4] != [0; 2]);
    }
    if let Ok(certificate) = accept_certificate(message, NONCE, &ours.certificate.identity, START.unix) {
        assert_eq!(certificate, ours.certificate, "a forged certificate was accepted");
    }
}

/// Message 1 up to the field that a retry under load changes, and that is judged only then (spec/handshake.md §9).
fn without_mac2(message: &[u8]) -> &[u8] {
    &message[..message.len() - MAC_LEN]
}

/// What stands inside of sealed payloads, which only a peer with keys could vary.
fn decode(bytes: &[u8]) {
    if let Ok(parameters) = Parameters::decode(Reader::new(bytes)) {
        let mut encoded = Vec::new();
        parameters.encode(&mut encoded);
        assert_eq!(Parameters::decode(Reader::new(&encoded)), Ok(parameters));
    }
    if let Ok(certificate) = Certificate::verify(bytes, START.unix) {
        assert_eq!(certificate.encode(), bytes);
    }
}

fn genuine() -> &'static Genuine {
    static GENUINE: OnceLock<Genuine> = OnceLock::new();
    GENUINE.get_or_init(|| {
        let (initiator_keys, responder_keys) = (keys(0), keys(1));
        let initiator_local = Local {
            identity: &initiator_keys.identity,
            certificate: &initiator_keys.certificate,
            transport: &initiator_keys.transport[0],
        };
        let responder_local = Local {
            identity: &responder_keys.identity,
            certificate: &responder_keys.certificate,
            transport: &responder_keys.transport[0],
        };
        let parameters = Parameters { max_data: 1 << 20, ..Parameters::default() };
        let mut rng = Rng::new([6; 32]);
        let (initiator, init) = Initiator::start(
            &initiator_local,
            &mut Acquaintances::default(),
            &responder_keys.certificate,
            OURS,
            TunnelId([7; 16]),
            &parameters,
            &[],
            START.unix,
            &mut rng,
        )
        .expect("a good certificate");
        let identity = responder_keys.certificate.identity;
        let incoming =
            Incoming::open(identity, &responder_keys.transport, &mut Acquaintances::default(), &init, START.unix);
        let incoming = incoming.expect("genuine");
        let (_, resp) = incoming.respond(&responder_local, SessionIndex(8), &NO_PSK, &parameters, &mut rng);
        let request = certificate_request(&identity, NONCE);
        let cert = answer_certificate_request(&request, &responder_keys.certificate).expect("genuine");
        Genuine { initiator, init, resp, request, cert }
    })
}
