//! CPace, a balanced password-authenticated key exchange (draft-irtf-cfrg-cpace, suite CPACE-RISTR255-SHA512, initiator and responder),
//! with the explicit key confirmation that the draft recommends.
//!
//! Two who have the same short secret get the same key; whoever has another one learns from a run that this one guess was wrong, and nothing
//! else. The group is curve25519-dalek's; here stands what the draft does with it. Its vectors are in `spec/vectors/cpace.txt`.

use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use sha2::{Digest, Sha512};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto;

/// Length of a share: an encoded point.
pub const SHARE_LEN: usize = 32;
/// Length of a tag that confirms the key.
pub const CONFIRMATION_LEN: usize = 32;
/// Bytes of entropy that a scalar is made of: twice the order, so that no value is likelier than another.
pub const SCALAR_SEED_LEN: usize = 64;

/// Domain separation of the group.
const DSI: &[u8] = b"CPaceRistretto255";
const DSI_ISK: &[u8] = b"CPaceRistretto255_ISK";
const DSI_MAC: &[u8] = b"CPaceMac";
/// Block of SHA-512, which the secret fills alone.
const HASH_BLOCK_LEN: usize = 128;

/// What both sides have before they begin.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The short secret (`PRS`).
    pub secret: &'a [u8],
    /// Who talks to whom, and about what (`CI`).
    pub channel: &'a [u8],
    /// What names this run to both, if something does (`sid`).
    pub session: &'a [u8],
}

/// One side's share, with the associated data that it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// The encoded point.
    pub point: &'a [u8; SHARE_LEN],
    /// Goes into the transcript (`AD`).
    pub data: &'a [u8],
}

/// A share that contributes nothing: no point, or the neutral one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a share of a key exchange")]
pub struct BadShare;

/// One side of a run: its scalar, and the point that the other side gets.
pub struct Exchange {
    scalar: Scalar,
    share: [u8; SHARE_LEN],
}

/// The key that both sides have if they had the same secret; good for confirming that, which is all that is asked of it here.
pub struct SharedKey {
    mac_key: Zeroizing<Vec<u8>>,
}

impl Exchange {
    /// Begins a run with fresh entropy.
    pub fn new(inputs: &Inputs<'_>, seed: &[u8; SCALAR_SEED_LEN]) -> Self {
        Self::with_scalar(inputs, Scalar::from_bytes_mod_order_wide(seed))
    }

    fn with_scalar(inputs: &Inputs<'_>, scalar: Scalar) -> Self {
        let share = (generator(inputs) * scalar).compress().to_bytes();
        Self { scalar, share }
    }

    /// What the other side gets.
    pub fn share(&self) -> &[u8; SHARE_LEN] {
        &self.share
    }

    /// The key, from the shares of initiator and responder, of which `theirs` is the other side's.
    ///
    /// # Errors
    /// [`BadShare`] if theirs is none.
    pub fn agree(
        &self,
        inputs: &Inputs<'_>,
        theirs: &[u8; SHARE_LEN],
        [initiator, responder]: [Share<'_>; 2],
    ) -> Result<SharedKey, BadShare> {
        let point = self.multiply(theirs)?;
        let transcript = [initiator, responder].map(|share| lv_cat(&[share.point, share.data])).concat();
        let secret = Zeroizing::new(lv_cat(&[DSI_ISK, inputs.session, &*point]));
        let key = Zeroizing::new(sha512(&[&secret, &transcript]));
        Ok(SharedKey { mac_key: Zeroizing::new(sha512(&[DSI_MAC, inputs.session, &*key]).to_vec()) })
    }

    fn multiply(&self, theirs: &[u8; SHARE_LEN]) -> Result<Zeroizing<[u8; SHARE_LEN]>, BadShare> {
        let point = CompressedRistretto(*theirs).decompress().ok_or(BadShare)?;
        let product = Zeroizing::new((point * self.scalar).compress().to_bytes());
        // The neutral point is all zeros.
        if *product == [0; SHARE_LEN] { Err(BadShare) } else { Ok(product) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.scalar.zeroize();
    }
}

impl SharedKey {
    /// What only who has the key can say about a share: whose it is, the associated data tells.
    pub fn confirm(&self, share: Share<'_>) -> [u8; CONFIRMATION_LEN] {
        crypto::hmac_sha256(&self.mac_key, &[&lv_cat(&[share.point, share.data])])
    }

    /// Whether a tag is that of [`Self::confirm`].
    pub fn is_confirmed(&self, share: Share<'_>, tag: &[u8; CONFIRMATION_LEN]) -> bool {
        crypto::equal(&self.confirm(share), tag)
    }
}

/// The point that the secret leads to.
fn generator(inputs: &Inputs<'_>) -> RistrettoPoint {
    let text = generator_string(inputs);
    RistrettoPoint::from_uniform_bytes(&sha512(&[&text]))
}

/// The secret fills the first block together with its padding, so that what follows does not show how long it is.
fn generator_string(inputs: &Inputs<'_>) -> Zeroizing<Vec<u8>> {
    let Inputs { secret, channel, session } = inputs;
    let before = lv_cat(&[DSI, secret]).len();
    let padding = [0; HASH_BLOCK_LEN];
    let padding = &padding[..(HASH_BLOCK_LEN - 1).saturating_sub(before)];
    Zeroizing::new(lv_cat(&[DSI, secret, padding, channel, session]))
}

/// Each part after its length in LEB128: no two lists give the same bytes.
pub fn lv_cat(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 2).sum());
    for part in parts {
        let mut rest = part.len();
        while rest >= 0x80 {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes.extend_from_slice(part);
    }
    bytes
}

fn sha512(parts: &[&[u8]]) -> [u8; 64] {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::cases;

    const FILE: &str = include_str!("../../../spec/vectors/cpace.txt");

    #[test]
    fn a_run_is_that_of_the_drafts_vectors() {
        let vectors = cases(FILE);
        let case = &vectors[0];
        let (secret, channel, session) = (case.bytes("prs"), case.bytes("ci"), case.bytes("sid"));
        let inputs = Inputs { secret: &secret, channel: &channel, session: &session };
        assert_eq!(*generator_string(&inputs), case.bytes("generator_string"));
        assert_eq!(generator(&inputs).compress().to_bytes(), case.array("generator"));
        let side = |scalar: &str| Exchange::with_scalar(&inputs, Scalar::from_bytes_mod_order(case.array(scalar)));
        let (a, b) = (side("scalar_a"), side("scalar_b"));
        assert_eq!((a.share, b.share), (case.array("share_a"), case.array("share_b")));
        assert_eq!(*a.multiply(&b.share).expect("a point"), case.array("point"));
        let (data_a, data_b) = (case.bytes("data_a"), case.bytes("data_b"));
        let shares = [Share { point: &a.share, data: &data_a }, Share { point: &b.share, data: &data_b }];
        let mac_key = sha512(&[DSI_MAC, &session, &case.bytes("isk")]);
        for (one, other) in [(&a, &b), (&b, &a)] {
            let key = one.agree(&inputs, &other.share, shares).expect("a key");
            assert_eq!(*key.mac_key, mac_key);
            assert!(key.is_confirmed(shares[0], &key.confirm(shares[0])));
            assert!(!key.is_confirmed(shares[1], &key.confirm(shares[0])), "one side's tag is not the other's");
        }
    }

    #[test]
    fn shares_that_contribute_nothing_are_refused() {
        let inputs = Inputs { secret: b"secret", channel: b"", session: b"" };
        let side = Exchange::new(&inputs, &[7; SCALAR_SEED_LEN]);
        // The neutral point, and what is no point: not reduced, negative, off the curve (RFC 9496 §A.3).
        for point in [[0; SHARE_LEN], [0xff; SHARE_LEN], {
            let mut odd = [0; SHARE_LEN];
            odd[0] = 1;
            odd
        }] {
            assert_eq!(side.multiply(&point).err(), Some(BadShare), "{point:?}");
        }
    }
}
