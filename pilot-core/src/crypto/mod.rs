//! The primitives of suite 1 behind one small interface (spec/wire.md §1).
//!
//! Two backends implement the same functions: [`reference`](mod@reference), RustCrypto and dalek, which is always built and tested, and
//! `aws`, the fast one, behind the feature `aws-lc`. The choice is made when compiling; both answer the same vectors, including
//! the inputs that must be refused. Nothing above this module names a backend.

#[cfg(feature = "aws-lc")]
pub mod aws;
pub mod cpace;
mod kdf;
pub mod reference;
#[cfg(test)]
mod tests;

#[cfg(feature = "aws-lc")]
pub use aws::{AeadKey, X25519Key, ed25519_public, ed25519_sign, ed25519_verify, hmac_sha256, sha256};
pub use kdf::hkdf;
#[cfg(not(feature = "aws-lc"))]
pub use reference::{AeadKey, X25519Key, ed25519_public, ed25519_sign, ed25519_verify, hmac_sha256, sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Length of every symmetric key, X25519 key and hash.
pub const KEY_LEN: usize = 32;
/// Length of the tag that sealing adds.
pub const TAG_LEN: usize = 16;
/// Length of an AEAD nonce.
pub const NONCE_LEN: usize = 12;
/// Length of an Ed25519 signature.
pub const SIGNATURE_LEN: usize = 64;

/// Thirty-two secret bytes that leave memory when dropped.
pub type Secret = Zeroizing<[u8; KEY_LEN]>;

/// The AEAD did not accept a ciphertext: it was forged, damaged, or sealed under another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not sealed under this key")]
pub struct OpenFailed;

/// A signature is not that of this key over this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify")]
pub struct BadSignature;

/// A Diffie-Hellman output of all zeros: the peer's public key has small order and contributes nothing (RFC 7748 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("public key of small order")]
pub struct SmallOrder;

/// Compares without telling by timing where the difference is.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// The AEAD nonce of a counter: four zero bytes and the counter, big-endian (spec/wire.md §3, Noise §12.4).
pub fn nonce(counter: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}
