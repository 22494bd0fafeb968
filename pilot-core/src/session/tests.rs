//! A session against its peer: damage, key phases, and the replay window beside it.

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::replay::ReplayWindow;
use super::*;
use crate::crypto::TAG_LEN;
use crate::handshake::{Parameters, SessionKeys};
use crate::id::TunnelId;
use crate::identity::TransportKey;
use crate::identity::tests::{alice, certificate};

const A: SessionIndex = SessionIndex(0xA);
const B: SessionIndex = SessionIndex(0xB);

fn established(send: u8, receive: u8, remote_index: SessionIndex) -> Established {
    Established {
        keys: SessionKeys {
            send: Zeroizing::new([send; 32]),
            receive: Zeroizing::new([receive; 32]),
            next_psk: Zeroizing::new([0; 32]),
        },
        remote: certificate(&alice(), &TransportKey::from_secret([7; 32])),
        remote_index,
        parameters: Parameters::default(),
        tunnel: TunnelId([0; 16]),
        psk_index: 0,
        handshake_hash: [0; 32],
    }
}

fn pair() -> (Session, Session) {
    (Session::new(established(1, 2, B), A), Session::new(established(2, 1, A), B))
}

fn seal(session: &mut Session, number: u64, frames: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; DataHeader::LEN];
    packet.extend(frames);
    session.seal(&mut packet, 0, PacketNumber(number));
    packet
}

fn open(session: &mut Session, packet: &[u8]) -> Result<(u64, Vec<u8>), OpenError> {
    session.open(&mut packet.to_vec()).map(|(number, frames)| (number.0, frames.to_vec()))
}

#[test]
fn what_one_side_seals_the_other_opens() {
    let (mut a, mut b) = pair();
    let packet = seal(&mut a, 7, b"frames");
    assert_eq!(packet.len(), DataHeader::OVERHEAD + 6);
    assert_eq!(open(&mut b, &packet), Ok((7, b"frames".to_vec())));
    let packet = seal(&mut b, 0, b"");
    assert_eq!(open(&mut a, &packet), Ok((0, Vec::new())));
}

#[test]
fn packets_are_sealed_one_behind_the_other_in_one_buffer() {
    let (mut a, mut b) = pair();
    let mut train = Vec::new();
    for number in 0..3 {
        let start = train.len();
        train.resize(start + DataHeader::LEN, 0);
        train.extend(b"frames");
        a.seal(&mut train, start, PacketNumber(number));
    }
    for (number, packet) in (0..).zip(train.chunks(DataHeader::OVERHEAD + 6)) {
        assert_eq!(open(&mut b, packet), Ok((number, b"frames".to_vec())));
    }
}

#[test]
fn a_packet_reflected_or_for_another_session_is_refused() {
    let (mut a, _) = pair();
    let packet = seal(&mut a, 7, b"frames");
    assert_eq!(open(&mut a, &packet), Err(OpenError::OtherSession(B)));
    let mut same_index = Session::new(established(1, 2, A), A);
    let packet = seal(&mut same_index, 7, b"frames");
    assert_eq!(open(&mut same_index, &packet), Err(OpenError::Forged));
}

#[test]
fn every_truncation_of_a_packet_is_refused() {
    let (mut a, mut b) = pair();
    let packet = seal(&mut a, 7, b"frames");
    for end in 0..packet.len() {
        assert!(open(&mut b, &packet[..end]).is_err(), "{end} bytes");
    }
    assert!(open(&mut b, &packet).is_ok());
}

#[test]
fn a_replayed_packet_is_refused_by_the_window_across_sessions() {
    let mut window = ReplayWindow::new();
    let (mut a, mut b) = pair();
    let packet = seal(&mut a, 7, b"frames");
    let (number, _) = open(&mut b, &packet).expect("authentic");
    assert!(window.check(PacketNumber(number)));
    window.mark(PacketNumber(number));

    let (number, _) = open(&mut b, &packet).expect("the session does not remember, the window does");
    assert!(!window.check(PacketNumber(number)));
}

#[test]
fn a_worn_key_is_replaced_and_the_peer_follows() {
    let (mut a, mut b) = pair();
    a.send.sealed = KEY_PHASE_PACKETS - 1;
    let last = seal(&mut a, 10, b"last");
    let first = seal(&mut a, 11, b"first");
    assert_eq!((last[0] & 1, first[0] & 1), (0, 1));
    assert!(open(&mut b, &last).is_ok());
    assert!(open(&mut b, &first).is_ok());
    assert!(b.has_previous_keys());

    let answer = seal(&mut b, 0, b"answer");
    assert_eq!(answer[0] & 1, 1, "b follows in its own direction");
    assert!(open(&mut a, &answer).is_ok());
    assert_eq!((a.receive_generation(), b.receive_generation()), (1, 1));
}

#[test]
fn late_packets_open_under_the_previous_key_until_it_is_discarded() {
    let (mut a, mut b) = pair();
    let (late, too_late) = (seal(&mut a, 8, b"late"), seal(&mut a, 9, b"too late"));
    a.send.advance();
    let first = seal(&mut a, 10, b"first");
    assert!(open(&mut b, &first).is_ok());
    assert_eq!(open(&mut b, &late), Ok((8, b"late".to_vec())));
    b.discard_previous_keys();
    assert_eq!(open(&mut b, &too_late), Err(OpenError::Forged));
    assert_eq!(b.receive_generation(), 1);
}

#[test]
fn a_second_change_waits_until_the_peer_has_followed_the_first() {
    let (mut a, mut b) = pair();
    a.send.sealed = KEY_PHASE_PACKETS;
    seal(&mut a, 1, b"");
    a.send.sealed = KEY_PHASE_PACKETS;
    assert_eq!(seal(&mut a, 2, b"")[0] & 1, 1, "still the second key");

    let packet = seal(&mut a, 3, b"");
    assert!(open(&mut b, &packet).is_ok());
    let answer = seal(&mut b, 1, b"");
    assert!(open(&mut a, &answer).is_ok());
    let packet = seal(&mut a, 4, b"");
    assert_eq!(packet[0] & 1, 0, "the third key");
    assert!(open(&mut b, &packet).is_ok());
    assert_eq!(b.receive_generation(), 2);
}

#[test]
fn both_sides_may_change_keys_at_once() {
    let (mut a, mut b) = pair();
    a.send.advance();
    b.send.advance();
    let (from_a, from_b) = (seal(&mut a, 1, b"a"), seal(&mut b, 1, b"b"));
    assert!(open(&mut b, &from_a).is_ok());
    assert!(open(&mut a, &from_b).is_ok());
    assert_eq!((a.send.generation, b.send.generation), (1, 1));
}

#[test]
fn a_forged_key_phase_changes_nothing() {
    let (mut a, mut b) = pair();
    let mut forged = seal(&mut a, 7, b"frames");
    forged[0] ^= 1;
    assert_eq!(open(&mut b, &forged), Err(OpenError::Forged));
    assert_eq!((b.receive_generation(), b.send.generation, b.has_previous_keys()), (0, 0, false));
}

proptest! {
    #[test]
    fn every_bit_flip_of_a_sealed_packet_is_refused(number in 0..u64::MAX, frames in proptest::collection::vec(any::<u8>(), 0..64)) {
        let (mut a, mut b) = pair();
        let packet = seal(&mut a, number, &frames);
        for bit in 0..packet.len() * 8 {
            let mut flipped = packet.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(open(&mut b, &flipped).is_err(), "bit {}", bit);
        }
        prop_assert_eq!(open(&mut b, &packet), Ok((number, frames)));
    }

    #[test]
    fn no_datagram_makes_a_session_panic(mut packet: Vec<u8>) {
        let (_, mut b) = pair();
        prop_assert!(b.open(&mut packet).is_err());
    }
}

#[test]
fn the_header_is_what_the_tag_covers_beside_the_frames() {
    let (mut a, _) = pair();
    let packet = seal(&mut a, 7, b"frames");
    let mut sealed = packet[DataHeader::LEN..].to_vec();
    let opened = AeadKey::new(&[1; 32]).open_in_place(nonce(7), &packet[..DataHeader::LEN], &mut sealed);
    assert_eq!(opened, Ok(&mut b"frames".to_owned()[..]));
    assert_eq!(packet.len(), DataHeader::LEN + 6 + TAG_LEN);
}
