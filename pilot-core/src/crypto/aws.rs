//! The fast backend: AWS-LC. Its functions are those of [`reference`](mod@crate::crypto::reference), with the same answers.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey as VerifyingKey};
use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use crate::crypto::{BadSignature, KEY_LEN, NONCE_LEN, OpenFailed, SIGNATURE_LEN, Secret, SmallOrder, TAG_LEN};

/// Why library calls on values of fixed, right length do not fail.
const LENGTH_IS_RIGHT: &str = "the array has the length of the algorithm";

/// Every y coordinate of a point of small order on edwards25519, canonical or not, without the sign bit: 0, 1, p - 1, p, p + 1
/// and the two of order eight. The reference backend refuses them when it verifies; AWS-LC by itself does not.
const SMALL_ORDER: [[u8; KEY_LEN]; 7] = {
    let mut minus_one = [0xFF; KEY_LEN];
    (minus_one[0], minus_one[31]) = (0xEC, 0x7F);
    let mut p = minus_one;
    p[0] = 0xED;
    let mut p_plus_one = minus_one;
    p_plus_one[0] = 0xEE;
    let mut one = [0; KEY_LEN];
    one[0] = 1;
    [
        [0; KEY_LEN],
        one,
        minus_one,
        p,
        p_plus_one,
        [
            0x26, 0xE8, 0x95, 0x8F, 0xC2, 0xB2, 0x27, 0xB0, 0x45, 0xC3, 0xF4, 0x89, 0xF2, 0xEF, 0x98, 0xF0, 0xD5, 0xDF,
            0xAC, 0x05, 0xD3, 0xC6, 0x33, 0x39, 0xB1, 0x38, 0x02, 0x88, 0x6D, 0x53, 0xFC, 0x05,
        ],
        [
            0xC7, 0x17, 0x6A, 0x70, 0x3D, 0x4D, 0xD8, 0x4F, 0xBA, 0x3C, 0x0B, 0x76, 0x0D, 0x10, 0x67, 0x0F, 0x2A, 0x20,
            0x53, 0xFA, 0x2C, 0x39, 0xCC, 0xC6, 0x4E, 0xC7, 0xFD, 0x77, 0x92, 0xAC, 0x03, 0x7A,
        ],
    ]
};

/// One direction's AES-256-GCM key, expanded.
pub struct AeadKey(LessSafeKey);

impl AeadKey {
    /// Expands `key`.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect(LENGTH_IS_RIGHT)))
    }

    /// Turns the plaintext in `buf` into ciphertext and returns its tag. A nonce is used once under a key.
    pub fn seal_in_place(&self, nonce: [u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buf)
            .expect("a datagram is far shorter than what one nonce may seal");
        tag.as_ref().try_into().expect(LENGTH_IS_RIGHT)
    }

    /// Turns the ciphertext in `sealed`, which ends with its tag, into the plaintext that it returns.
    ///
    /// # Errors
    /// If the tag does not fit; `sealed` holds nothing of use then.
    pub fn open_in_place<'a>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenFailed> {
        self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), sealed).map_err(|_| OpenFailed)
    }
}

/// An X25519 key. It is kept as it is, since to make one computes the public half, a third of what an agreement costs.
pub struct X25519Key {
    private: PrivateKey,
    public: [u8; KEY_LEN],
}

impl X25519Key {
    /// The key of `secret`.
    pub fn new(secret: &[u8; KEY_LEN]) -> Self {
        let private = PrivateKey::from_private_key(&X25519, secret).expect(LENGTH_IS_RIGHT);
        let public = private.compute_public_key().expect("every X25519 secret has a public key");
        let public = public.as_ref().try_into().expect(LENGTH_IS_RIGHT);
        Self { private, public }
    }

    /// The public half.
    pub fn public(&self) -> &[u8; KEY_LEN] {
        &self.public
    }

    /// The secret shared with the owner of `public`.
    ///
    /// # Errors
    /// If it is all zeros.
    pub fn agree(&self, public: &[u8; KEY_LEN]) -> Result<Secret, SmallOrder> {
        agree(&self.private, UnparsedPublicKey::new(&X25519, public), SmallOrder, |shared| {
            let shared: Secret = Zeroizing::new(shared.try_into().expect(LENGTH_IS_RIGHT));
            if crate::crypto::equal(&*shared, &[0; KEY_LEN]) { Err(SmallOrder) } else { Ok(shared) }
        })
    }
}

/// The Ed25519 public key of `seed`.
pub fn ed25519_public(seed: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    ed25519_pair(seed).public_key().as_ref().try_into().expect(LENGTH_IS_RIGHT)
}

/// Signs `message`.
pub fn ed25519_sign(seed: &[u8; KEY_LEN], message: &[u8]) -> [u8; SIGNATURE_LEN] {
    ed25519_pair(seed).sign(message).as_ref().try_into().expect(LENGTH_IS_RIGHT)
}

/// Checks that `signature` is of `public` over `message`; keys of small order sign nothing.
pub fn ed25519_verify(
    public: &[u8; KEY_LEN],
    message: &[u8],
    signature: &[u8; SIGNATURE_LEN],
) -> Result<(), BadSignature> {
    let commitment = signature.first_chunk().expect("a signature begins with a point");
    if has_small_order(public) || has_small_order(commitment) {
        return Err(BadSignature);
    }
    VerifyingKey::new(&ED25519, public).verify(message, signature).map_err(|_| BadSignature)
}

/// SHA-256 over the parts in order.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| hash.update(part));
    hash.finish().as_ref().try_into().expect(LENGTH_IS_RIGHT)
}

/// HMAC-SHA-256 over the parts in order.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| mac.update(part));
    mac.sign().as_ref().try_into().expect(LENGTH_IS_RIGHT)
}

fn ed25519_pair(seed: &[u8; KEY_LEN]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect(LENGTH_IS_RIGHT)
}

/// Points are public: this need not be constant in time.
fn has_small_order(point: &[u8; KEY_LEN]) -> bool {
    let mut y = *point;
    y[31] &= 0x7F;
    SMALL_ORDER.contains(&y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_order_list_is_what_the_reference_backend_calls_weak() {
        for y in SMALL_ORDER {
            let key = ed25519_dalek::VerifyingKey::from_bytes(&y).expect("a point");
            assert!(key.is_weak());
        }
        assert!(!has_small_order(&ed25519_public(&[7; KEY_LEN])));
    }

    #[test]
    fn a_signature_under_the_identity_point_is_refused() {
        // With A and R the identity and s = 0, the group equation holds for every message.
        let mut identity = [0; KEY_LEN];
        identity[0] = 1;
        let mut signature = [0; SIGNATURE_LEN];
        signature[0] = 1;
        assert!(VerifyingKey::new(&ED25519, &identity).verify(b"anything", &signature).is_ok());
        assert_eq!(ed25519_verify(&identity, b"anything", &signature), Err(BadSignature));
        assert_eq!(super::super::reference::ed25519_verify(&identity, b"anything", &signature), Err(BadSignature));
    }
}
