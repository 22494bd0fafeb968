//! Certificates that do not hold: whoever shows one is not let in, not remembered, and counted by what is wrong.

use super::*;
use crate::wire::handshake::Cert;
use crate::wire::{self, PacketKind};

impl Pair {
    /// Two hosts that know where the other is; the first shows what `spoil` made of its keys.
    fn with_spoilt_keys(spoil: impl FnOnce(&mut Keys)) -> Self {
        let mut pair = Self::strangers();
        let mut spoilt = keys(0, START);
        spoil(&mut spoilt);
        pair.hosts[0].node = Node::new(Config::new(Role::Agent), spoilt, [1; 32], START);
        pair.introduce(0, 1);
        pair.introduce(1, 0);
        pair
    }

    /// Lets one dial the other until it has given up.
    fn dial_in_vain(&mut self, from: usize, to: usize) {
        let peer = self.key(to);
        self.hosts[from].node.connect(self.now, &peer).expect("known");
        self.run_until(Duration::from_secs(30), |pair| {
            pair.has(from, |event| matches!(event, Event::ConnectFailed { .. }))
        });
    }

    #[track_caller]
    fn assert_dropped(&self, which: usize, reason: DropReason) {
        let stats = self.hosts[which].node.stats();
        let counted: Vec<_> = stats.drop_counters().filter(|&(_, count)| count > 0).map(|(name, _)| name).collect();
        assert_eq!(counted, [reason.name()], "for that reason, and for no other");
        assert_eq!(stats.handshakes, 0);
        assert!(self.hosts[which].node.peers().all(|peer| !peer.connected));
    }
}

/// The first host shows its keys in a handshake.
#[track_caller]
fn spoilt_keys_are_dropped_for(reason: DropReason, spoil: fn(&mut Keys)) {
    let mut pair = Pair::with_spoilt_keys(spoil);
    pair.dial_in_vain(0, 1);
    pair.assert_dropped(1, reason);
}

/// The first host shows its certificate because it is asked for it.
#[track_caller]
fn spoilt_answers_are_dropped_for(reason: DropReason, spoil: fn(&mut Keys)) {
    let mut pair = Pair::with_spoilt_keys(spoil);
    pair.dial_in_vain(1, 0);
    pair.assert_dropped(1, reason);
}

#[test]
fn an_address_that_does_not_match_its_key_is_dropped_and_counted() {
    let spoil = |keys: &mut Keys| keys.certificate.modifier += 1;
    spoilt_keys_are_dropped_for(DropReason::CertificateAddress, spoil);
    spoilt_answers_are_dropped_for(DropReason::CertificateAddress, spoil);
}

#[test]
fn a_certificate_out_of_date_is_dropped_and_counted() {
    fn issued_at(keys: &mut Keys, time: UnixTime) {
        let instance = keys.certificate.instance;
        keys.certificate = Certificate::issue(&keys.identity, &keys.transport[0], instance, 1, time);
    }
    const MONTH: Duration = Duration::from_secs(30 * 86_400);
    let spoils: [fn(&mut Keys); 2] =
        [|keys| issued_at(keys, START.unix - MONTH), |keys| issued_at(keys, START.unix + MONTH)];
    for spoil in spoils {
        spoilt_keys_are_dropped_for(DropReason::CertificateExpired, spoil);
        spoilt_answers_are_dropped_for(DropReason::CertificateExpired, spoil);
    }
}

#[test]
fn a_foreign_transport_key_in_a_valid_certificate_is_dropped_and_counted() {
    spoilt_keys_are_dropped_for(DropReason::ForeignTransportKey, |keys| {
        keys.transport[0] = TransportKey::from_secret([0x66; 32]);
    });
}

/// Somebody on the path answers first, with a certificate that is good but another's; the owner's answer is still taken.
#[test]
fn a_valid_certificate_of_another_identity_is_dropped_and_counted() {
    let mut pair = Pair::new();
    let (peer, from) = (pair.key(1), pair.hosts[1].address);
    pair.hosts[0].node.connect(START, &peer).expect("known");
    pair.drain();
    let request = &pair.wire[0].3;
    assert_eq!(wire::peek(request), Ok(PacketKind::CertRequest));
    let nonce = request[4..12].try_into().expect("eight bytes");
    let forged = Cert { nonce, certificate: &keys(2, START).certificate.encode() }.encode();
    pair.deliver(0, from, &forged);
    pair.assert_dropped(0, DropReason::ForeignIdentity);
    pair.run_until(Duration::from_secs(1), |pair| pair.has(0, |event| matches!(event, Event::PeerConnected { .. })));
}

#[test]
fn a_certificate_that_somebody_else_signed_is_dropped_and_counted() {
    let spoil = |own: &mut Keys| {
        let mallory = keys(2, START).identity;
        let mut forged = Certificate::issue(&mallory, &own.transport[0], own.certificate.instance, 1, START.unix);
        (forged.identity, forged.modifier) = (own.certificate.identity, own.certificate.modifier);
        own.certificate = forged;
    };
    spoilt_keys_are_dropped_for(DropReason::Certificate, spoil);
    spoilt_answers_are_dropped_for(DropReason::Certificate, spoil);
}

#[test]
fn a_wrong_key_meets_silence() {
    let mut pair = Pair::new();
    let (address, nobody) = (pair.hosts[1].address, keys(2, START).identity.key());
    let info = PeerInfo { key: nobody, certificate: None, addresses: vec![address], homes: Vec::new() };
    pair.hosts[0].node.learn_peer(START, info);
    pair.hosts[0].node.connect(START, &nobody).expect("known");
    pair.run_until(Duration::from_secs(30), |pair| pair.has(0, |event| matches!(event, Event::ConnectFailed { .. })));
    pair.assert_dropped(1, DropReason::Mac1);
    assert_eq!(pair.hosts[1].node.stats().datagrams_sent, 0);
}

#[test]
fn a_certificate_that_nobody_asked_for_changes_nothing() {
    let mut pair = connected();
    let cert = Cert { nonce: [7; 8], certificate: &keys(2, START).certificate.encode() }.encode();
    assert_eq!(wire::peek(&cert), Ok(PacketKind::Cert));
    let from = pair.hosts[0].address;
    pair.deliver(1, from, &cert);
    assert_eq!(pair.hosts[1].node.stats().drops(DropReason::Unsolicited), 1);
    assert_eq!(pair.hosts[1].node.peers().count(), 1);
}
