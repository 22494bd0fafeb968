//! Identities, transport keys and the certificates that bind them (spec/address.md §4).
//!
//! An [`Identity`] is the agent: its Ed25519 key never leaves the key file and signs, nothing else. A [`TransportKey`] is what
//! handshakes use; it rotates daily. A [`Certificate`] says which transport key speaks for an identity, for how long, and which
//! versions and suites it may be spoken to in; who holds one can start a handshake without asking anybody.
//!
//! ```text
//! Certificate     0 |format 1|minimum version|version|suites|
//!                 4 |key id 4|
//!                 8 |identity key 32|
//!                40 |modifier 8|
//!                48 |instance id 8|
//!                56 |transport key 32|
//!                88 |not before 8|not after 8|serial 8|                 dates in seconds since the UNIX epoch
//!               112 |signature 64|                                     over bytes 0 to 111, context "certificate"
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::BufMut;
use data_encoding::BASE32_NOPAD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use zeroize::Zeroizing;

use crate::address::{self, Address};
use crate::crypto::{self, BadSignature, SIGNATURE_LEN, Secret};
use crate::id::{IdentityKey, InstanceId, KeyId};
use crate::time::UnixTime;
use crate::transport_key::key_id;
pub use crate::transport_key::TransportKey;
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::{SUITE, VERSION};

/// First bytes of everything that an identity key signs; the context and a zero byte follow (spec/address.md §3).
const SIGNATURE_DOMAIN: &[u8] = b"pilot/1 ";
/// Where a certificate names its identity.
const IDENTITY_AT: usize = 8;
/// Context of a certificate's signature.
const CERTIFICATE_CONTEXT: &str = "certificate";

/// How far two wall clocks may be apart. Certificates are back-dated by it, and honoured for as long after their end.
pub const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);
/// How long a certificate is good for after it was issued.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest time between the two dates that is accepted, so that a stolen identity key cannot write itself a distant future.
const VALIDITY_MAX: Duration = Duration::from_secs(8 * 24 * 3600);

/// An agent's Ed25519 key with the address it found.
#[derive(Clone)]
pub struct Identity {
    seed: Secret,
    key: IdentityKey,
    modifier: u64,
    address: Address,
}

impl Identity {
    /// The identity of a new secret, at its first address. Takes about a million hashes.
    pub fn generate(seed: [u8; 32]) -> Self {
        Self::search(Zeroizing::new(seed), 0)
    }

    /// The identity of a secret whose modifier is known: no search.
    ///
    /// # Errors
    /// If the modifier gives the key no address.
    pub fn restore(seed: [u8; 32], modifier: u64) -> Result<Self, IdentityError> {
        let seed = Zeroizing::new(seed);
        let key = IdentityKey(crypto::ed25519_public(&seed));
        let address = address::verify(&key, modifier).ok_or(IdentityError::Modifier(modifier))?;
        Ok(Self { seed, key, modifier, address })
    }

    /// Reads a PKCS#8 PEM key file (RFC 8410) and finds the first address of its key again.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        Ok(Self::search(seed_of_pem(pem)?, 0))
    }

    /// As [`Self::from_pem`], for a key whose modifier is known: no search.
    pub fn from_pem_at(pem: &str, modifier: u64) -> Result<Self, IdentityError> {
        Self::restore(*seed_of_pem(pem)?, modifier)
    }

    /// The same key at its next address, for an agent whose address the directory knows under another key.
    pub fn next_address(&self) -> Self {
        Self::search(self.seed.clone(), self.modifier.wrapping_add(1))
    }

    /// The PKCS#8 PEM key file (RFC 8410).
    pub fn to_pem(&self) -> Zeroizing<String> {
        // Without the public key, which some tools do not expect in this format.
        KeypairBytes { secret_key: *self.seed, public_key: None }
            .to_pkcs8_pem(LineEnding::LF)
            .expect("a key of 32 bytes has a PKCS#8 form")
    }

    /// Signs `message` for one purpose: a signature made in one context is not valid in another.
    pub fn sign(&self, context: &str, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        crypto::ed25519_sign(&self.seed, &signed_bytes(context, message))
    }

    /// The public key: what others pin and trust.
    pub fn key(&self) -> IdentityKey {
        self.key
    }

    /// The address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The modifier that gives the key its address.
    pub fn modifier(&self) -> u64 {
        self.modifier
    }

    fn search(seed: Secret, start_modifier: u64) -> Self {
        let key = IdentityKey(crypto::ed25519_public(&seed));
        let (address, modifier) = address::derive(&key, start_modifier);
        Self { seed, key, modifier, address }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("key", &self.key).field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why an identity cannot be read back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The text is not an Ed25519 key in PKCS#8 PEM.
    #[error("not an Ed25519 private key in PKCS#8 PEM")]
    Pem,
    /// The modifier gives this key no address.
    #[error("modifier {0} gives this key no address")]
    Modifier(u64),
}

impl IdentityKey {
    /// Checks a signature that [`Identity::sign`] made in the same context.
    pub fn verify(&self, context: &str, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> Result<(), BadSignature> {
        crypto::ed25519_verify(&self.0, &signed_bytes(context, message), signature)
    }
}

/// A text is not an identity key: 52 characters of lower-case base32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an identity key is 52 characters of base32")]
pub struct IdentityKeyError;

impl FromStr for IdentityKey {
    type Err = IdentityKeyError;

    /// Reads the form that `Display` writes: RFC 4648 base32, lower case, no padding.
    fn from_str(text: &str) -> Result<Self, IdentityKeyError> {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| IdentityKeyError)?;
        bytes.try_into().map(Self).map_err(|_| IdentityKeyError)
    }
}

/// Says which transport key speaks for an identity, until when, and in which versions and suites.
///
/// Only [`Certificate::issue`] and [`Certificate::verify`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Certificate {
    /// Least version of the protocol that the identity accepts.
    pub min_version: u8,
    /// Greatest version that it speaks.
    pub version: u8,
    /// Suites that it speaks: bit 0 is suite 1. Being signed, the list cannot be cut down on the way.
    pub suites: u8,
    /// Name of the transport key.
    pub key_id: KeyId,
    /// The identity that issued the certificate.
    pub identity: IdentityKey,
    /// Gives the identity key its address.
    pub modifier: u64,
    /// The home directory that the transport key belongs to.
    pub instance: InstanceId,
    /// The transport key.
    pub transport_public: [u8; 32],
    /// Not valid before; back-dated by [`CLOCK_SKEW`].
    pub not_before: UnixTime,
    /// Not valid after, give or take [`CLOCK_SKEW`].
    pub not_after: UnixTime,
    /// Counts the certificates of an instance: of two, the one with the greater serial is current.
    pub serial: u64,
    address: Address,
    signature: [u8; SIGNATURE_LEN],
}

impl Certificate {
    /// Encoded length.
    pub const LEN: usize = Self::SIGNED_LEN + SIGNATURE_LEN;
    const SIGNED_LEN: usize = 112;
    const FORMAT: u8 = 1;

    /// Issues the certificate of `transport`, valid from a day before `now` to seven days after.
    pub fn issue(
        identity: &Identity,
        transport: &TransportKey,
        instance: InstanceId,
        serial: u64,
        now: UnixTime,
    ) -> Self {
        let mut certificate = Self {
            min_version: VERSION,
            version: VERSION,
            suites: suite_bit(SUITE),
            key_id: transport.id(),
            identity: identity.key,
            modifier: identity.modifier,
            instance,
            transport_public: transport.public(),
            not_before: whole_seconds(now - CLOCK_SKEW),
            not_after: whole_seconds(now + CERTIFICATE_LIFETIME),
            serial,
            address: identity.address,
            signature: [0; SIGNATURE_LEN],
        };
        let encoded = certificate.encode();
        certificate.signature = identity.sign(CERTIFICATE_CONTEXT, &encoded[..Self::SIGNED_LEN]);
        certificate
    }

    /// Reads a certificate and checks everything about it: address, dates, key id, versions and suites, signature.
    pub fn verify(bytes: &[u8], now: UnixTime) -> Result<Self, CertificateError> {
        let certificate = Self::decode(bytes)?;
        if certificate.key_id != key_id(&certificate.transport_public) {
            return Err(CertificateError::KeyId);
        }
        if !(certificate.min_version..=certificate.version).contains(&VERSION) {
            return Err(CertificateError::Version { min: certificate.min_version, max: certificate.version });
        }
        if certificate.suites & suite_bit(SUITE) == 0 {
            return Err(CertificateError::Suites(certificate.suites));
        }
        certificate.identity.verify(CERTIFICATE_CONTEXT, &bytes[..Self::SIGNED_LEN], &certificate.signature)?;
        // Last, so that what is wrong with the dates is the identity's own word.
        certificate.check_dates(now)?;
        Ok(certificate)
    }

    /// The identity that encoded bytes name, before anything of them is verified.
    pub(crate) fn claimed_identity(bytes: &[u8; Self::LEN]) -> IdentityKey {
        IdentityKey(*bytes[IDENTITY_AT..].first_chunk().expect("a certificate is longer than that"))
    }

    /// As [`Self::verify`], without looking again at the signature of the very bytes that `known` was read from.
    pub(crate) fn recognise(bytes: &[u8], known: Option<&Self>, now: UnixTime) -> Result<Self, CertificateError> {
        let Some(known) = known.filter(|known| known.encode() == *bytes) else { return Self::verify(bytes, now) };
        known.check_dates(now)?;
        Ok(known.clone())
    }

    /// Checks that a certificate verified earlier is still good at `now`.
    pub fn check_dates(&self, now: UnixTime) -> Result<(), CertificateError> {
        if self.not_after < self.not_before || self.not_after > self.not_before + VALIDITY_MAX {
            return Err(CertificateError::Validity);
        }
        if now < self.not_before {
            return Err(CertificateError::NotYetValid { secs: self.not_before.as_secs() - now.as_secs() });
        }
        if now > self.not_after + CLOCK_SKEW {
            return Err(CertificateError::Expired { secs: now.as_secs() - self.not_after.as_secs() });
        }
        Ok(())
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut buf = &mut bytes[..];
        buf.put_slice(&[Self::FORMAT, self.min_version, self.version, self.suites]);
        buf.put_slice(&self.key_id.0);
        buf.put_slice(&self.identity.0);
        buf.put_u64(self.modifier);
        buf.put_slice(&self.instance.0);
        buf.put_slice(&self.transport_public);
        buf.put_u64(self.not_before.as_secs());
        buf.put_u64(self.not_after.as_secs());
        buf.put_u64(self.serial);
        buf.put_slice(&self.signature);
        bytes
    }

    /// SHA-256 of the whole certificate: what caches are keyed by.
    pub fn hash(&self) -> [u8; 32] {
        crypto::sha256(&[&self.encode()])
    }

    /// The address of the identity.
    pub fn address(&self) -> Address {
        self.address
    }

    fn decode(bytes: &[u8]) -> Result<Self, CertificateError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != Self::FORMAT {
            return Err(DecodeError::Invalid("certificate format").into());
        }
        let [min_version, version, suites] = reader.array()?;
        let key_id = KeyId(reader.array()?);
        let identity = IdentityKey(reader.array()?);
        let modifier = reader.u64()?;
        let instance = InstanceId(reader.array()?);
        let transport_public = reader.array()?;
        let not_before = decode_date(&mut reader)?;
        let not_after = decode_date(&mut reader)?;
        let serial = reader.u64()?;
        let signature = reader.array()?;
        reader.finish()?;
        let address = address::verify(&identity, modifier).ok_or(CertificateError::Address)?;
        Ok(Self {
            min_version,
            version,
            suites,
            key_id,
            identity,
            modifier,
            instance,
            transport_public,
            not_before,
            not_after,
            serial,
            address,
            signature,
        })
    }
}

/// Why a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The bytes are not laid out as a certificate is.
    #[error("malformed certificate")]
    Decode(#[from] DecodeError),
    /// The modifier gives the identity key no address.
    #[error("the address does not match the identity key")]
    Address,
    /// The key id is not that of the transport key.
    #[error("the key id does not match the transport key")]
    KeyId,
    /// The two dates are out of order, or too far apart.
    #[error("the dates do not bound a validity of at most eight days")]
    Validity,
    /// The certificate begins in the future: one of the two clocks is wrong.
    #[error("valid only in {secs} s")]
    NotYetValid {
        /// Seconds until it begins.
        secs: u64,
    },
    /// The certificate has ended.
    #[error("expired {secs} s ago")]
    Expired {
        /// Seconds since it ended.
        secs: u64,
    },
    /// The identity does not speak our version.
    #[error("speaks versions {min} to {max}")]
    Version {
        /// Least version.
        min: u8,
        /// Greatest version.
        max: u8,
    },
    /// The identity does not speak our suite.
    #[error("speaks no suite that is spoken here (suites {0:#010b})")]
    Suites(u8),
    /// The identity did not sign this.
    #[error("the certificate is not signed by its identity")]
    Signature(#[from] BadSignature),
}

impl CertificateError {
    /// Whether only the time is wrong.
    pub fn is_about_time(&self) -> bool {
        matches!(self, Self::NotYetValid { .. } | Self::Expired { .. })
    }
}

/// The bit of a suite in the list of a certificate.
const fn suite_bit(suite: u8) -> u8 {
    1 << (suite - 1)
}

fn signed_bytes(context: &str, message: &[u8]) -> Vec<u8> {
    debug_assert!(!context.contains('\0'), "the zero byte ends the context");
    [SIGNATURE_DOMAIN, context.as_bytes(), &[0], message].concat()
}

fn seed_of_pem(pem: &str) -> Result<Secret, IdentityError> {
    let key = ed25519_dalek::SigningKey::from_pkcs8_pem(pem).map_err(|_| IdentityError::Pem)?;
    Ok(Zeroizing::new(key.to_bytes()))
}

fn whole_seconds(time: UnixTime) -> UnixTime {
    UnixTime::from_secs(time.as_secs())
}

/// A date in seconds; one that nanoseconds cannot hold (past the year 2554) would not survive a second encoding.
fn decode_date(reader: &mut Reader<'_>) -> Result<UnixTime, DecodeError> {
    let secs = reader.u64()?;
    let date = UnixTime::from_secs(secs);
    if date.as_secs() == secs { Ok(date) } else { Err(DecodeError::Invalid("certificate date")) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::vectors;

    /// A fixed moment for tests.
    pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);

    /// An identity whose search was done once (spec/vectors/address.txt), and so are the other two.
    pub(crate) fn alice() -> Identity {
        Identity::restore([1; 32], 1_459_568).expect("committed")
    }

    pub(crate) fn bob() -> Identity {
        Identity::restore([2; 32], 115_065).expect("committed")
    }

    pub(crate) fn mallory() -> Identity {
        Identity::restore([3; 32], 951_517).expect("committed")
    }

    pub(crate) fn certificate(identity: &Identity, transport: &TransportKey) -> Certificate {
        Certificate::issue(identity, transport, InstanceId([5; 8]), 1, NOW)
    }

    /// Changes the signed bytes and signs them again: what a dishonest owner of the key can do.
    fn resigned(identity: &Identity, change: impl FnOnce(&mut [u8; Certificate::LEN])) -> [u8; Certificate::LEN] {
        let mut bytes = certificate(identity, &TransportKey::from_secret([7; 32])).encode();
        change(&mut bytes);
        let signature = identity.sign(CERTIFICATE_CONTEXT, &bytes[..Certificate::SIGNED_LEN]);
        bytes[Certificate::SIGNED_LEN..].copy_from_slice(&signature);
        bytes
    }

    #[test]
    fn a_key_file_gives_the_same_identity_back() {
        let alice = alice();
        let pem = alice.to_pem();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let read = Identity::from_pem(&pem).expect("our own file");
        assert_eq!((read.key(), read.address(), read.modifier()), (alice.key(), alice.address(), alice.modifier()));
        let restored = Identity::from_pem_at(&pem, alice.modifier()).expect("our own modifier");
        assert_eq!(restored.address(), alice.address());
    }

    #[test]
    fn a_damaged_key_file_or_a_wrong_modifier_is_an_error() {
        let alice = alice();
        assert_eq!(Identity::from_pem("not a key").err(), Some(IdentityError::Pem));
        assert_eq!(Identity::from_pem(&alice.to_pem()[..60]).err(), Some(IdentityError::Pem));
        let wrong = alice.modifier() + 1;
        assert_eq!(Identity::from_pem_at(&alice.to_pem(), wrong).err(), Some(IdentityError::Modifier(wrong)));
    }

    #[test]
    fn a_transport_key_is_restored_from_its_secret() {
        let key = TransportKey::from_secret([7; 32]);
        let restored = TransportKey::from_secret(**key.secret());
        assert_eq!((restored.public(), restored.id()), (key.public(), key.id()));
    }

    #[test]
    fn the_next_address_is_another_one_of_the_same_key() {
        let alice = alice();
        let next = alice.next_address();
        assert_eq!(next.key(), alice.key());
        assert!(next.modifier() > alice.modifier());
        assert_ne!(next.address(), alice.address());
    }

    #[test]
    fn a_signature_holds_in_its_context_only() {
        let alice = alice();
        let signature = alice.sign("presence", b"here");
        assert_eq!(alice.key().verify("presence", b"here", &signature), Ok(()));
        assert_eq!(alice.key().verify("identity", b"here", &signature), Err(BadSignature));
        assert_eq!(alice.key().verify("presence", b"gone", &signature), Err(BadSignature));
        assert_eq!(bob().key().verify("presence", b"here", &signature), Err(BadSignature));
    }

    #[test]
    fn a_debug_print_shows_no_secret() {
        let secret = [0xAB; 32];
        let text = format!("{:?} {:?}", Identity::generate(secret), TransportKey::from_secret(secret));
        assert!(!text.contains("171") && !text.to_lowercase().contains("abab"), "{text}");
    }

    #[test]
    fn an_identity_key_survives_its_text_in_either_case() {
        let key = alice().key();
        let text = key.to_string();
        assert_eq!(text.len(), 52);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.to_uppercase().parse(), Ok(key));
        assert_eq!(text[1..].parse::<IdentityKey>(), Err(IdentityKeyError));
        assert_eq!(format!("{text}a").parse::<IdentityKey>(), Err(IdentityKeyError));
    }

    #[test]
    fn a_certificate_verifies_and_survives_its_encoding() {
        let (alice, transport) = (alice(), TransportKey::from_secret([7; 32]));
        let issued = certificate(&alice, &transport);
        let verified = Certificate::verify(&issued.encode(), NOW).expect("fresh");
        assert_eq!(verified, issued);
        assert_eq!(verified.address(), alice.address());
        assert_eq!((verified.key_id, verified.transport_public), (transport.id(), transport.public()));
        assert_eq!(verified.hash(), issued.hash());
    }

    #[test]
    fn certificates_are_those_of_the_spec() {
        for case in vectors::cases(include_str!("../../spec/vectors/certificate.txt")) {
            let identity = Identity::restore(case.array("identity_seed"), case.number("modifier")).expect("valid");
            let transport = TransportKey::from_secret(case.array("transport_secret"));
            let now = UnixTime::from_secs(case.number("issued_at"));
            let instance = InstanceId(case.array("instance"));
            let issued = Certificate::issue(&identity, &transport, instance, case.number("serial"), now);
            assert_eq!(issued.key_id.0, case.array("key_id"));
            assert_eq!(issued.encode(), case.array("certificate"));
            assert_eq!(issued.hash(), case.array("hash"));
            assert_eq!(Certificate::verify(&case.bytes("certificate"), now), Ok(issued));
        }
    }

    #[test]
    fn every_truncation_and_bit_flip_of_a_certificate_is_refused() {
        let bytes = certificate(&alice(), &TransportKey::from_secret([7; 32])).encode();
        for end in 0..bytes.len() {
            assert_eq!(
                Certificate::verify(&bytes[..end], NOW),
                Err(CertificateError::Decode(DecodeError::Truncated)),
                "{end} bytes"
            );
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Certificate::verify(&flipped, NOW).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn dates_are_checked_with_a_day_of_skew() {
        let bytes = certificate(&alice(), &TransportKey::from_secret([7; 32])).encode();
        let second = Duration::from_secs(1);
        let (start, end) = (NOW - CLOCK_SKEW, NOW + CERTIFICATE_LIFETIME + CLOCK_SKEW);
        assert!(Certificate::verify(&bytes, start).is_ok());
        assert_eq!(Certificate::verify(&bytes, start - second * 2), Err(CertificateError::NotYetValid { secs: 2 }));
        assert!(Certificate::verify(&bytes, end).is_ok());
        assert_eq!(Certificate::verify(&bytes, end + second), Err(CertificateError::Expired { secs: 86_401 }));
        let about_time = [CertificateError::NotYetValid { secs: 2 }, CertificateError::Expired { secs: 86_401 }];
        assert!(about_time.iter().all(CertificateError::is_about_time) && !CertificateError::Validity.is_about_time());
    }

    #[test]
    fn a_certificate_that_ends_before_it_begins_is_refused() {
        let alice = alice();
        let ends = |secs: u64| {
            let not_after = NOW.as_secs() - CLOCK_SKEW.as_secs() + secs - 1;
            Certificate::verify(
                &resigned(&alice, |bytes| bytes[96..104].copy_from_slice(&not_after.to_be_bytes())),
                NOW,
            )
        };
        assert_eq!(ends(0), Err(CertificateError::Validity));
        assert!(ends(1).is_ok(), "in the second in which it begins");
    }

    #[test]
    fn every_suite_has_a_bit_of_its_own() {
        assert_eq!([1, 2, 8].map(suite_bit), [0b1, 0b10, 0b1000_0000]);
    }

    #[test]
    fn what_the_owner_itself_signs_wrongly_is_refused() {
        let alice = alice();
        let refused = |change: fn(&mut [u8; Certificate::LEN])| {
            Certificate::verify(&resigned(&alice, change), NOW).expect_err("a lie")
        };
        assert_eq!(refused(|bytes| bytes[0] = 2), CertificateError::Decode(DecodeError::Invalid("certificate format")));
        assert_eq!(refused(|bytes| bytes[1] = 2), CertificateError::Version { min: 2, max: 1 });
        assert_eq!(refused(|bytes| bytes[3] = 0b10), CertificateError::Suites(0b10));
        assert_eq!(refused(|bytes| bytes[4] ^= 1), CertificateError::KeyId);
        assert_eq!(refused(|bytes| bytes[47] ^= 1), CertificateError::Address);
        assert_eq!(refused(|bytes| bytes[100] += 1), CertificateError::Validity);
        assert_eq!(
            refused(|bytes| bytes[96..104].fill(0xFF)),
            CertificateError::Decode(DecodeError::Invalid("certificate date"))
        );
    }

    #[test]
    fn a_certificate_signed_by_another_identity_is_refused() {
        let bytes = certificate(&alice(), &TransportKey::from_secret([7; 32])).encode();
        let mut forged = bytes;
        forged[Certificate::SIGNED_LEN..]
            .copy_from_slice(&bob().sign(CERTIFICATE_CONTEXT, &bytes[..Certificate::SIGNED_LEN]));
        assert_eq!(Certificate::verify(&forged, NOW), Err(CertificateError::Signature(BadSignature)));
    }
}
