//! HKDF with SHA-256 (RFC 5869). With an empty `info` it is the HKDF of Noise (§4.3), whose outputs are the successive blocks.

use zeroize::Zeroizing;

use crate::crypto::{Secret, hmac_sha256};

/// Largest number of output blocks: the block counter is one byte (RFC 5869 §2.3).
const BLOCKS_MAX: usize = 255;

/// Derives `N` keys from input key material.
pub fn hkdf<const N: usize>(salt: &[u8], input_key_material: &[u8], info: &[u8]) -> [Secret; N] {
    const { assert!(N >= 1 && N <= BLOCKS_MAX) };
    let pseudorandom_key = Zeroizing::new(hmac_sha256(salt, &[input_key_material]));
    let mut previous = Zeroizing::new([0; 32]);
    let mut counter = 0_u8;
    std::array::from_fn(|_| {
        let chained: &[u8] = if counter == 0 { &[] } else { &*previous };
        counter += 1;
        let block = Zeroizing::new(hmac_sha256(&*pseudorandom_key, &[chained, info, &[counter]]));
        previous = block.clone();
        block
    })
}
