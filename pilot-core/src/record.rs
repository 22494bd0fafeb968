//! Signed records of the directory (spec/trust.md §2): what an agent says about itself.
//!
//! An [`IdentityRecord`] says who it is and what it offers, a [`PresenceRecord`] how to reach one installation of it, a
//! [`Withdrawal`] that it, or one installation of it, is gone, a [`HandOver`] that its name is another key's from now on. Each travels as its deterministic CBOR payload followed by the Ed25519 signature of the agent, so that
//! the directory can store it and anybody can check it, but nobody can change it:
//!
//! ```text
//! +------------------------+-----------------+
//! | payload (CBOR map)     | signature (64)  |
//! +------------------------+-----------------+
//! ```
//!
//! A value obtained from `verify` is in bounds, in date, signed by the key it names, and its address has the work factor.

use std::net::SocketAddr;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::address::{self, Address};
use crate::crypto::SIGNATURE_LEN;
use crate::id::{IdentityKey, InstanceId};
use crate::identity::{CLOCK_SKEW, Certificate, CertificateError, Identity};
use crate::time::UnixTime;
use crate::wire::cbor;

/// A DNS label: what fits in a host name elsewhere fits here (RFC 1123 §2.1).
pub const NAME_LEN_MAX: usize = 63;
/// A tag, group or service is a label too.
pub const LABEL_LEN_MAX: usize = 63;
/// Enough to be found by; few enough that one agent cannot fill the index.
pub const TAGS_MAX: usize = 16;
/// As for tags.
pub const GROUPS_MAX: usize = 16;
/// A paragraph.
pub const DESCRIPTION_LEN_MAX: usize = 512;
/// Services of one agent that are worth finding.
pub const OFFERS_MAX: usize = 16;
/// A sentence or two per service.
pub const OFFER_DESCRIPTION_LEN_MAX: usize = 256;
/// Home nodes of one installation: the nearest, and those to fall back to.
pub const HOMES_MAX: usize = 4;
/// Addresses of one home node: IPv4 and IPv6 of a few interfaces.
pub const HOME_ADDRESSES_MAX: usize = 8;
/// Certificates have a fixed layout of about 160 bytes; this leaves room for a later one.
pub const CERTIFICATE_LEN_MAX: usize = 512;
/// The greatest record that the bounds above allow is about 7,500 bytes.
pub const RECORD_LEN_MAX: usize = 8_192;

/// How long an identity record may live: a name is leased for so long at most after its agent was last seen, not for ever.
pub const IDENTITY_VALIDITY_MAX: Duration = Duration::from_secs(30 * 86_400);
/// How long a presence record may live. Certificates end after a week, presence much sooner.
pub const PRESENCE_VALIDITY_MAX: Duration = Duration::from_secs(86_400);

/// Who an agent is and what it offers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IdentityRecord {
    /// The key that signs this record.
    #[n(0)]
    pub key: IdentityKey,
    /// The modifier that, with the key, gives the address (spec/address.md §2).
    #[n(1)]
    pub modifier: u64,
    /// Grows with every change; the highest one is in force.
    #[n(2)]
    pub sequence: u64,
    /// Host name: letters, digits and hyphens, lower case, 1 to 63.
    #[n(3)]
    pub name: String,
    /// Labels to be found by.
    #[n(4)]
    pub tags: Vec<String>,
    /// Groups it answers for.
    #[n(5)]
    pub groups: Vec<String>,
    /// What it is, for people and for `find --need`. May be empty.
    #[n(6)]
    pub description: String,
    /// The services it offers.
    #[n(7)]
    pub offers: Vec<Offer>,
    /// When it was signed.
    #[n(8)]
    pub issued: UnixTime,
    /// When it ends, and with it the lease of the name.
    #[n(9)]
    pub expires: UnixTime,
}

/// A service that an agent offers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Offer {
    /// Service name (`mcp`, `query`) or port number.
    #[n(0)]
    pub service: String,
    /// What it does, for people and for `find --need`. May be empty.
    #[n(1)]
    pub description: String,
}

/// How to reach one installation of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PresenceRecord {
    /// The key that signs this record.
    #[n(0)]
    pub key: IdentityKey,
    /// The installation that this is about.
    #[n(1)]
    pub instance: InstanceId,
    /// Grows with every change, per installation.
    #[n(2)]
    pub sequence: u64,
    /// The encoded certificate of its transport key.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub certificate: Vec<u8>,
    /// The backbone nodes that it keeps a tunnel with.
    #[n(4)]
    pub homes: Vec<Home>,
    /// When it was signed.
    #[n(5)]
    pub issued: UnixTime,
    /// When it ends.
    #[n(6)]
    pub expires: UnixTime,
}

/// A backbone node that an agent can be reached through.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Home {
    /// Identity of the backbone node.
    #[n(0)]
    pub key: IdentityKey,
    /// Where it listens.
    #[n(1)]
    pub addresses: Vec<SocketAddr>,
}

/// Ends the registration of an agent, and the lease of its name; or the presence of one installation, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Withdrawal {
    /// The key that signs this record.
    #[n(0)]
    pub key: IdentityKey,
    /// The sequence of the identity record, or of the presence record, that it ends; later ones stay.
    #[n(1)]
    pub sequence: u64,
    /// When it was signed.
    #[n(2)]
    pub issued: UnixTime,
    /// The installation of which the presence ends; none if the whole agent is gone.
    #[n(3)]
    pub instance: Option<InstanceId>,
}

/// Gives a name to another key: the one act by which a name that others have pinned changes its key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HandOver {
    /// The key that has the name, and signs this record.
    #[n(0)]
    pub from: IdentityKey,
    /// The name.
    #[n(1)]
    pub name: String,
    /// The key that is to have it.
    #[n(2)]
    pub to: IdentityKey,
    /// When it was signed. Of two for one name the later one counts.
    #[n(3)]
    pub issued: UnixTime,
}

/// Why a record is not believed, or cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// More bytes than any record in bounds has, or fewer than a signature.
    #[error("record of {0} bytes is out of bounds")]
    Length(usize),
    /// The payload is not the one encoding of a record.
    #[error("record payload is malformed")]
    Encoding(#[from] cbor::CborError),
    /// A text, list or number is out of its bounds.
    #[error("field '{0}' of the record is out of bounds")]
    Field(&'static str),
    /// The signature is not that of the key in the record over this payload.
    #[error("record signature does not verify")]
    Signature,
    /// The modifier does not give an address with the required work factor.
    #[error("address of the record lacks the work factor")]
    Address,
    /// Signed in the future.
    #[error("record is not valid yet")]
    NotYetValid,
    /// Out of date.
    #[error("record has expired")]
    Expired,
    /// The certificate inside a presence record does not verify.
    #[error("certificate of the record is not valid")]
    Certificate(#[source] CertificateError),
    /// The certificate, or the identity asked to sign, belongs to another key or installation.
    #[error("record mixes the keys of two agents")]
    ForeignKey,
}

/// What all kinds of records have in common.
pub(crate) trait Payload: Encode<()> + for<'b> Decode<'b, ()> {
    /// Domain separation: no signature of one kind is one of another.
    const CONTEXT: &'static str;
    /// The greatest record of this kind.
    const LEN_MAX: usize = RECORD_LEN_MAX;
    /// The key that signs it.
    fn signer(&self) -> IdentityKey;
    /// Bounds of every field, without looking at the clock.
    fn check_bounds(&self) -> Result<(), RecordError>;
    /// Dates and everything that needs more than a look at the field.
    fn check_claims(&self, now: UnixTime) -> Result<(), RecordError>;
}

impl IdentityRecord {
    /// The address that key and modifier give, if they have the work factor.
    pub fn address(&self) -> Option<Address> {
        address::verify(&self.key, self.modifier)
    }

    /// Encodes and signs the record.
    ///
    /// # Errors
    /// [`RecordError::ForeignKey`] if `identity` is not the key of the record, [`RecordError::Field`] if a field is out of bounds.
    pub fn sign(&self, identity: &Identity) -> Result<Vec<u8>, RecordError> {
        sign(self, identity)
    }

    /// Decodes a signed record and checks everything it claims.
    ///
    /// # Errors
    /// [`RecordError`] tells what is wrong with it; none of it may be used then.
    pub fn verify(bytes: &[u8], now: UnixTime) -> Result<Self, RecordError> {
        verify(bytes, now)
    }

    /// Decodes a signed record that was verified before it was put where nobody else can write. Neither signature nor dates are checked
    /// again: those of a whole directory would take seconds.
    ///
    /// # Errors
    /// [`RecordError`] if the bytes are no record in bounds.
    pub fn decode_verified(bytes: &[u8]) -> Result<Self, RecordError> {
        peek(bytes)
    }
}

impl PresenceRecord {
    /// Encodes and signs the record.
    ///
    /// # Errors
    /// [`RecordError::ForeignKey`] if `identity` is not the key of the record, [`RecordError::Field`] if a field is out of bounds.
    pub fn sign(&self, identity: &Identity) -> Result<Vec<u8>, RecordError> {
        sign(self, identity)
    }

    /// Decodes a signed record and checks everything it claims, the certificate inside too.
    ///
    /// # Errors
    /// [`RecordError`] tells what is wrong with it; none of it may be used then.
    pub fn verify(bytes: &[u8], now: UnixTime) -> Result<Self, RecordError> {
        verify(bytes, now)
    }
}

impl Withdrawal {
    /// Encodes and signs the record.
    ///
    /// # Errors
    /// [`RecordError::ForeignKey`] if `identity` is not the key of the record.
    pub fn sign(&self, identity: &Identity) -> Result<Vec<u8>, RecordError> {
        sign(self, identity)
    }

    /// Decodes a signed record and checks everything it claims.
    ///
    /// # Errors
    /// [`RecordError`] tells what is wrong with it; none of it may be used then.
    pub fn verify(bytes: &[u8], now: UnixTime) -> Result<Self, RecordError> {
        verify(bytes, now)
    }
}

impl HandOver {
    /// Encodes and signs the record.
    ///
    /// # Errors
    /// [`RecordError::ForeignKey`] if `identity` is not the key that has the name, [`RecordError::Field`] if a field is out of bounds.
    pub fn sign(&self, identity: &Identity) -> Result<Vec<u8>, RecordError> {
        sign(self, identity)
    }

    /// Decodes a signed record and checks everything it claims, but not whose the name is.
    ///
    /// # Errors
    /// [`RecordError`] tells what is wrong with it; none of it may be used then.
    pub fn verify(bytes: &[u8], now: UnixTime) -> Result<Self, RecordError> {
        verify(bytes, now)
    }
}

/// Whether `name` can be a host name: letters, digits and inner hyphens, lower case, 1 to 63 (RFC 1123 §2.1).
pub fn is_name(name: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether `label` can be a tag, a group or a service: lower-case letters, digits and `-._:/`, 1 to 63.
pub fn is_label(label: &str) -> bool {
    (1..=LABEL_LEN_MAX).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:/".contains(&byte))
}

/// Whether `text` is prose that a terminal can show: no control characters, at most `len_max` bytes.
fn is_prose(text: &str, len_max: usize) -> bool {
    text.len() <= len_max && !text.chars().any(char::is_control)
}

pub(crate) fn sign<P: Payload>(payload: &P, identity: &Identity) -> Result<Vec<u8>, RecordError> {
    if payload.signer() != identity.key() {
        return Err(RecordError::ForeignKey);
    }
    payload.check_bounds()?;
    let mut bytes = cbor::to_vec(payload);
    let signature = identity.sign(P::CONTEXT, &bytes);
    bytes.extend_from_slice(&signature);
    Ok(bytes)
}

pub(crate) fn verify<P: Payload>(bytes: &[u8], now: UnixTime) -> Result<P, RecordError> {
    let (record, payload, signature) = split::<P>(bytes)?;
    record.signer().verify(P::CONTEXT, payload, signature).map_err(|_| RecordError::Signature)?;
    record.check_claims(now)?;
    Ok(record)
}

/// A record in bounds, of which nothing else is checked.
pub(crate) fn peek<P: Payload>(bytes: &[u8]) -> Result<P, RecordError> {
    split::<P>(bytes).map(|(record, _, _)| record)
}

/// A record in bounds, its payload and its signature, of which nothing is checked.
fn split<P: Payload>(bytes: &[u8]) -> Result<(P, &[u8], &[u8; SIGNATURE_LEN]), RecordError> {
    if bytes.len() > P::LEN_MAX {
        return Err(RecordError::Length(bytes.len()));
    }
    let (payload, signature) = bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or(RecordError::Length(bytes.len()))?;
    let record: P = cbor::from_slice(payload)?;
    record.check_bounds()?;
    Ok((record, payload, signature))
}

/// `issued` no later than now, `expires` after now and at most `validity_max` after `issued`. Two clocks may be [`CLOCK_SKEW`] apart:
/// that an agent has gone is for the directory to say, the dates only end what a directory could replay for ever.
pub(crate) fn check_dates(
    issued: UnixTime,
    expires: UnixTime,
    validity_max: Duration,
    now: UnixTime,
) -> Result<(), RecordError> {
    if expires > issued + validity_max {
        return Err(RecordError::Field("expires"));
    }
    check_issued(issued, now)?;
    if expires + CLOCK_SKEW <= now {
        return Err(RecordError::Expired);
    }
    Ok(())
}

pub(crate) fn check_issued(issued: UnixTime, now: UnixTime) -> Result<(), RecordError> {
    if issued > now + CLOCK_SKEW {
        return Err(RecordError::NotYetValid);
    }
    Ok(())
}

pub(crate) fn within(field: &'static str, ok: bool) -> Result<(), RecordError> {
    if ok { Ok(()) } else { Err(RecordError::Field(field)) }
}

impl Payload for IdentityRecord {
    const CONTEXT: &'static str = "identity record";

    fn signer(&self) -> IdentityKey {
        self.key
    }

    fn check_bounds(&self) -> Result<(), RecordError> {
        within("name", is_name(&self.name))?;
        within("tags", self.tags.len() <= TAGS_MAX && self.tags.iter().all(|tag| is_label(tag)))?;
        within("groups", self.groups.len() <= GROUPS_MAX && self.groups.iter().all(|group| is_label(group)))?;
        within("description", is_prose(&self.description, DESCRIPTION_LEN_MAX))?;
        within("offers", self.offers.len() <= OFFERS_MAX && self.offers.iter().all(Offer::is_within_bounds))
    }

    fn check_claims(&self, now: UnixTime) -> Result<(), RecordError> {
        check_dates(self.issued, self.expires, IDENTITY_VALIDITY_MAX, now)?;
        self.address().ok_or(RecordError::Address)?;
        Ok(())
    }
}

impl Offer {
    fn is_within_bounds(&self) -> bool {
        is_label(&self.service) && is_prose(&self.description, OFFER_DESCRIPTION_LEN_MAX)
    }
}

impl Payload for PresenceRecord {
    const CONTEXT: &'static str = "presence record";

    fn signer(&self) -> IdentityKey {
        self.key
    }

    fn check_bounds(&self) -> Result<(), RecordError> {
        within("certificate", self.certificate.len() <= CERTIFICATE_LEN_MAX)?;
        within("homes", self.homes.len() <= HOMES_MAX)?;
        within("addresses", self.homes.iter().all(|home| home.addresses.len() <= HOME_ADDRESSES_MAX))
    }

    fn check_claims(&self, now: UnixTime) -> Result<(), RecordError> {
        check_dates(self.issued, self.expires, PRESENCE_VALIDITY_MAX, now)?;
        let certificate = Certificate::verify(&self.certificate, now).map_err(RecordError::Certificate)?;
        if certificate.identity != self.key || certificate.instance != self.instance {
            return Err(RecordError::ForeignKey);
        }
        Ok(())
    }
}

impl Payload for Withdrawal {
    const CONTEXT: &'static str = "withdrawal";

    fn signer(&self) -> IdentityKey {
        self.key
    }

    fn check_bounds(&self) -> Result<(), RecordError> {
        Ok(())
    }

    fn check_claims(&self, now: UnixTime) -> Result<(), RecordError> {
        check_issued(self.issued, now)
    }
}

impl Payload for HandOver {
    const CONTEXT: &'static str = "hand-over";

    fn signer(&self) -> IdentityKey {
        self.from
    }

    fn check_bounds(&self) -> Result<(), RecordError> {
        within("name", is_name(&self.name))?;
        within("to", self.to != self.from)
    }

    fn check_claims(&self, now: UnixTime) -> Result<(), RecordError> {
        check_issued(self.issued, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::TransportKey;
    use crate::identity::tests::{alice as identity, bob};
    use proptest::prelude::*;

    const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);

    fn record(identity: &Identity) -> IdentityRecord {
        IdentityRecord {
            key: identity.key(),
            modifier: identity.modifier(),
            sequence: 3,
            name: "agent-alpha".into(),
            tags: vec!["mcp".into(), "finance".into()],
            groups: vec!["research".into()],
            description: "Resolves academic citations".into(),
            offers: vec![Offer { service: "query".into(), description: "DOI in, citation out".into() }],
            issued: NOW,
            expires: NOW + Duration::from_secs(7 * 86_400),
        }
    }

    fn presence(identity: &Identity) -> PresenceRecord {
        let transport = TransportKey::from_secret([5; 32]);
        let instance = InstanceId([6; 8]);
        PresenceRecord {
            key: identity.key(),
            instance,
            sequence: 1,
            certificate: Certificate::issue(identity, &transport, instance, 1, NOW).encode().to_vec(),
            homes: vec![Home { key: IdentityKey([7; 32]), addresses: vec!["[2001:db8::1]:3478".parse().unwrap()] }],
            issued: NOW,
            expires: NOW + Duration::from_secs(3_600),
        }
    }

    fn hand_over(identity: &Identity) -> HandOver {
        HandOver { from: identity.key(), name: "agent-alpha".into(), to: IdentityKey([7; 32]), issued: NOW }
    }

    /// The value of a line `name = value` of the committed vectors.
    fn vector(name: &str) -> &'static str {
        let lines = include_str!("../../spec/vectors/record.txt").lines();
        let mut values = lines.filter_map(|line| line.split_once(" = ").filter(|(key, _)| *key == name));
        values.next().map(|(_, value)| value).expect("a vector of this name")
    }

    #[test]
    fn records_are_those_of_the_vectors() {
        let bytes = |name| data_encoding::HEXLOWER.decode(vector(name).as_bytes()).unwrap();
        let identity = identity();
        assert_eq!((bytes("identity_seed"), vector("verified_at")), (vec![1; 32], "1800000000"));
        let withdrawal = Withdrawal { key: identity.key(), sequence: 3, issued: NOW, instance: None };
        let of_instance = Withdrawal { instance: Some(InstanceId([6; 8])), ..withdrawal.clone() };
        assert_eq!(record(&identity).sign(&identity).unwrap(), bytes("identity_record"));
        assert_eq!(presence(&identity).sign(&identity).unwrap(), bytes("presence_record"));
        assert_eq!(withdrawal.sign(&identity).unwrap(), bytes("withdrawal"));
        assert_eq!(of_instance.sign(&identity).unwrap(), bytes("withdrawal_of_instance"));
        assert_eq!(hand_over(&identity).sign(&identity).unwrap(), bytes("hand_over"));
    }

    #[test]
    fn what_was_signed_verifies() {
        let identity = identity();
        let (record, presence) = (record(&identity), presence(&identity));
        let withdrawal =
            Withdrawal { key: identity.key(), sequence: 3, issued: NOW, instance: Some(InstanceId([6; 8])) };
        assert_eq!(IdentityRecord::verify(&record.sign(&identity).unwrap(), NOW), Ok(record));
        assert_eq!(PresenceRecord::verify(&presence.sign(&identity).unwrap(), NOW), Ok(presence));
        assert_eq!(Withdrawal::verify(&withdrawal.sign(&identity).unwrap(), NOW), Ok(withdrawal));
        let hand_over = hand_over(&identity);
        assert_eq!(HandOver::verify(&hand_over.sign(&identity).unwrap(), NOW), Ok(hand_over));
    }

    #[test]
    fn every_bit_flip_and_truncation_is_refused() {
        let identity = identity();
        let is_refused = |bytes: &[u8]| {
            IdentityRecord::verify(bytes, NOW).is_err()
                && PresenceRecord::verify(bytes, NOW).is_err()
                && HandOver::verify(bytes, NOW).is_err()
        };
        let records = [
            record(&identity).sign(&identity).unwrap(),
            presence(&identity).sign(&identity).unwrap(),
            hand_over(&identity).sign(&identity).unwrap(),
        ];
        for bytes in records {
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(is_refused(&flipped), "bit {bit}");
            }
            assert!((0..bytes.len()).all(|len| is_refused(&bytes[..len])));
        }
    }

    #[test]
    fn a_signature_of_one_kind_is_not_one_of_another() {
        let identity = identity();
        let payload = cbor::to_vec(&record(&identity));
        let signature = identity.sign(PresenceRecord::CONTEXT, &payload);
        let forged = [&payload[..], &signature].concat();
        assert_eq!(IdentityRecord::verify(&forged, NOW), Err(RecordError::Signature));
    }

    #[test]
    fn nobody_signs_for_another() {
        let record = record(&identity());
        assert_eq!(record.sign(&bob()), Err(RecordError::ForeignKey));
    }

    #[test]
    fn a_hand_over_names_two_keys_and_comes_not_from_the_future() {
        let identity = identity();
        let to_oneself = HandOver { to: identity.key(), ..hand_over(&identity) };
        assert_eq!(to_oneself.sign(&identity), Err(RecordError::Field("to")));
        let misnamed = HandOver { name: "Agent".into(), ..hand_over(&identity) };
        assert_eq!(misnamed.sign(&identity), Err(RecordError::Field("name")));
        let bytes = hand_over(&identity).sign(&identity).unwrap();
        let early = NOW - CLOCK_SKEW - Duration::from_secs(1);
        assert_eq!(HandOver::verify(&bytes, early), Err(RecordError::NotYetValid));
        assert!(HandOver::verify(&bytes, NOW + Duration::from_secs(10 * 365 * 86_400)).is_ok(), "it does not run out");
    }

    #[test]
    fn an_address_without_the_work_is_refused() {
        let identity = identity();
        let cheap = IdentityRecord { modifier: identity.modifier() + 1, ..record(&identity) };
        assert_eq!(IdentityRecord::verify(&cheap.sign(&identity).unwrap(), NOW), Err(RecordError::Address));
    }

    #[test]
    fn dates_are_enforced_with_room_for_two_clocks() {
        let identity = identity();
        let record = record(&identity);
        let bytes = record.sign(&identity).unwrap();
        assert!(IdentityRecord::verify(&bytes, record.issued - CLOCK_SKEW).is_ok());
        let early = record.issued - CLOCK_SKEW - Duration::from_secs(1);
        assert_eq!(IdentityRecord::verify(&bytes, early), Err(RecordError::NotYetValid));
        assert_eq!(IdentityRecord::verify(&bytes, record.expires + CLOCK_SKEW), Err(RecordError::Expired));
        let eternal = IdentityRecord { expires: NOW + IDENTITY_VALIDITY_MAX + Duration::from_secs(1), ..record };
        let longest = IdentityRecord { expires: NOW + IDENTITY_VALIDITY_MAX, ..eternal.clone() };
        assert!(IdentityRecord::verify(&longest.sign(&identity).unwrap(), NOW).is_ok());
        assert_eq!(IdentityRecord::verify(&eternal.sign(&identity).unwrap(), NOW), Err(RecordError::Field("expires")));
        let days = [IDENTITY_VALIDITY_MAX, PRESENCE_VALIDITY_MAX].map(|validity| validity.as_secs() / 86_400);
        assert_eq!(days, [30, 1]);
    }

    #[test]
    fn a_withdrawal_does_not_come_from_the_future() {
        let identity = identity();
        let at =
            |issued| Withdrawal { key: identity.key(), instance: None, sequence: 3, issued }.sign(&identity).unwrap();
        let latest = NOW + CLOCK_SKEW;
        assert!(Withdrawal::verify(&at(latest), NOW).is_ok());
        let later = latest + Duration::from_secs(1);
        assert_eq!(Withdrawal::verify(&at(later), NOW), Err(RecordError::NotYetValid));
    }

    #[test]
    fn presence_out_of_bounds_is_neither_signed_nor_believed() {
        let identity = identity();
        let fine = presence(&identity);
        let homes = |count, addresses| {
            let addresses = vec!["192.0.2.1:1".parse().unwrap(); addresses];
            vec![Home { key: IdentityKey([7; 32]), addresses }; count]
        };
        let most = PresenceRecord { homes: homes(HOMES_MAX, HOME_ADDRESSES_MAX), ..fine.clone() };
        assert!(PresenceRecord::verify(&most.sign(&identity).unwrap(), NOW).is_ok());
        assert!(PresenceRecord { certificate: vec![1; CERTIFICATE_LEN_MAX], ..fine.clone() }.sign(&identity).is_ok());
        for (field, wrong) in [
            ("certificate", PresenceRecord { certificate: vec![1; CERTIFICATE_LEN_MAX + 1], ..fine.clone() }),
            ("homes", PresenceRecord { homes: homes(HOMES_MAX + 1, 1), ..fine.clone() }),
            ("addresses", PresenceRecord { homes: homes(1, HOME_ADDRESSES_MAX + 1), ..fine.clone() }),
        ] {
            assert_eq!(wrong.sign(&identity), Err(RecordError::Field(field)));
            let payload = cbor::to_vec(&wrong);
            let signed = [&payload[..], &identity.sign(PresenceRecord::CONTEXT, &payload)].concat();
            assert_eq!(PresenceRecord::verify(&signed, NOW), Err(RecordError::Field(field)));
        }
    }

    #[test]
    fn the_certificate_of_another_agent_is_refused() {
        let (identity, other) = (identity(), bob());
        let foreign = PresenceRecord { key: identity.key(), ..presence(&other) };
        assert_eq!(PresenceRecord::verify(&foreign.sign(&identity).unwrap(), NOW), Err(RecordError::ForeignKey));
        let elsewhere = PresenceRecord { instance: InstanceId([9; 8]), ..presence(&identity) };
        assert_eq!(PresenceRecord::verify(&elsewhere.sign(&identity).unwrap(), NOW), Err(RecordError::ForeignKey));
    }

    #[test]
    fn fields_out_of_bounds_are_neither_signed_nor_believed() {
        let identity = identity();
        let fine = record(&identity);
        let offering = |service: &str, description: &str| {
            let offer = Offer { service: service.into(), description: description.into() };
            IdentityRecord { offers: vec![offer], ..fine.clone() }
        };
        for (field, wrong) in [
            ("name", IdentityRecord { name: "Agent".into(), ..fine.clone() }),
            ("name", IdentityRecord { name: "a".repeat(NAME_LEN_MAX + 1), ..fine.clone() }),
            ("tags", IdentityRecord { tags: vec!["t".into(); TAGS_MAX + 1], ..fine.clone() }),
            ("tags", IdentityRecord { tags: vec![String::new()], ..fine.clone() }),
            ("groups", IdentityRecord { groups: vec!["g".repeat(LABEL_LEN_MAX + 1)], ..fine.clone() }),
            ("description", IdentityRecord { description: "\u{1b}[2J".into(), ..fine.clone() }),
            ("description", IdentityRecord { description: "d".repeat(DESCRIPTION_LEN_MAX + 1), ..fine.clone() }),
            ("offers", IdentityRecord { offers: vec![fine.offers[0].clone(); OFFERS_MAX + 1], ..fine.clone() }),
            ("offers", offering("", "")),
            ("offers", offering("query", &"o".repeat(OFFER_DESCRIPTION_LEN_MAX + 1))),
        ] {
            assert_eq!(wrong.sign(&identity), Err(RecordError::Field(field)));
            let mut bytes = cbor::to_vec(&wrong);
            let signature = identity.sign(IdentityRecord::CONTEXT, &bytes);
            bytes.extend_from_slice(&signature);
            assert_eq!(IdentityRecord::verify(&bytes, NOW), Err(RecordError::Field(field)));
        }
    }

    #[test]
    fn the_greatest_record_in_bounds_fits() {
        let identity = identity();
        let greatest = IdentityRecord {
            name: "n".repeat(NAME_LEN_MAX),
            tags: vec!["t".repeat(LABEL_LEN_MAX); TAGS_MAX],
            groups: vec!["g".repeat(LABEL_LEN_MAX); GROUPS_MAX],
            description: "d".repeat(DESCRIPTION_LEN_MAX),
            offers: vec![
                Offer {
                    service: "s".repeat(LABEL_LEN_MAX),
                    description: "o".repeat(OFFER_DESCRIPTION_LEN_MAX)
                };
                OFFERS_MAX
            ],
            ..record(&identity)
        };
        let bytes = greatest.sign(&identity).unwrap();
        assert!(bytes.len() <= RECORD_LEN_MAX, "{}", bytes.len());
        assert_eq!(IdentityRecord::verify(&bytes, NOW), Ok(greatest));
        assert_eq!(IdentityRecord::verify(&[0; RECORD_LEN_MAX + 1], NOW), Err(RecordError::Length(RECORD_LEN_MAX + 1)));
        assert_ne!(IdentityRecord::verify(&[0; RECORD_LEN_MAX], NOW), Err(RecordError::Length(RECORD_LEN_MAX)));
    }

    #[test]
    fn names_are_labels_of_rfc_1123() {
        for name in ["a", "7", "agent-alpha", "x--y"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a b"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn labels_have_digits_and_some_punctuation_too() {
        for label in ["a", "7", "pci-dss", "text/plain", "a.b_c:d", &"l".repeat(LABEL_LEN_MAX)] {
            assert!(is_label(label), "{label}");
        }
        for label in ["", "A", "ä", "a b", "a\n", &"l".repeat(LABEL_LEN_MAX + 1)] {
            assert!(!is_label(label), "{label}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_verification_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(IdentityRecord::verify(&bytes, NOW).is_err());
            prop_assert!(PresenceRecord::verify(&bytes, NOW).is_err());
            prop_assert!(Withdrawal::verify(&bytes, NOW).is_err());
            prop_assert!(HandOver::verify(&bytes, NOW).is_err());
        }
    }
}
