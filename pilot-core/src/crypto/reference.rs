//! The reference backend: RustCrypto and dalek.

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::crypto::{BadSignature, KEY_LEN, NONCE_LEN, OpenFailed, SIGNATURE_LEN, Secret, SmallOrder, TAG_LEN};

/// One direction's AES-256-GCM key, expanded.
pub struct AeadKey(Aes256Gcm);

impl AeadKey {
    /// Expands `key`.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Aes256Gcm::new(key.into()))
    }

    /// Turns the plaintext in `buf` into ciphertext and returns its tag. A nonce is used once under a key.
    pub fn seal_in_place(&self, nonce: [u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> [u8; TAG_LEN] {
        self.0
            .encrypt_inout_detached(&nonce.into(), aad, InOutBuf::from(buf))
            .expect("a datagram is far shorter than what one nonce may seal")
            .into()
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
        let (buf, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(OpenFailed)?;
        self.0
            .decrypt_inout_detached(&nonce.into(), aad, InOutBuf::from(&mut *buf), &(*tag).into())
            .map_err(|_| OpenFailed)?;
        Ok(buf)
    }
}

/// An X25519 key.
pub struct X25519Key {
    secret: StaticSecret,
    public: PublicKey,
}

impl X25519Key {
    /// The key of `secret`.
    pub fn new(secret: &[u8; KEY_LEN]) -> Self {
        let secret = StaticSecret::from(*secret);
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    /// The public half.
    pub fn public(&self) -> &[u8; KEY_LEN] {
        self.public.as_bytes()
    }

    /// The secret shared with the owner of `public`.
    ///
    /// # Errors
    /// If it is all zeros.
    pub fn agree(&self, public: &[u8; KEY_LEN]) -> Result<Secret, SmallOrder> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*public));
        if shared.was_contributory() { Ok(Zeroizing::new(shared.to_bytes())) } else { Err(SmallOrder) }
    }
}

/// The Ed25519 public key of `seed`.
pub fn ed25519_public(seed: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    SigningKey::from_bytes(seed).verifying_key().to_bytes()
}

/// Signs `message`.
pub fn ed25519_sign(seed: &[u8; KEY_LEN], message: &[u8]) -> [u8; SIGNATURE_LEN] {
    SigningKey::from_bytes(seed).sign(message).to_bytes()
}

/// Checks that `signature` is of `public` over `message`; keys of small order sign nothing.
pub fn ed25519_verify(
    public: &[u8; KEY_LEN],
    message: &[u8],
    signature: &[u8; SIGNATURE_LEN],
) -> Result<(), BadSignature> {
    VerifyingKey::from_bytes(public)
        .and_then(|key| key.verify_strict(message, &Signature::from_bytes(signature)))
        .map_err(|_| BadSignature)
}

/// SHA-256 over the parts in order.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// HMAC-SHA-256 over the parts in order.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).expect("HMAC takes keys of every length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}
