//! The 48-bit address and its derivation from the identity key (spec/address.md).
//!
//! Anybody can check an address offline against its key; making another key that fits a given address costs 2^68 hashes. Still, no
//! decision rests on 48 bits: policy, pins and tickets hold the key.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::id::IdentityKey;

/// Zero bits that the digest of an address begins with: the work factor. A constant of the protocol, which no build, flag or
/// variable lowers (spec/address.md §2).
pub const WORK_BITS: u32 = 20;

/// Domain of the digest. With the key and the modifier behind it, the input fits one SHA-256 block.
const PREFIX: &[u8; 13] = b"pilot-addr-v1";
/// Where the modifier begins in the digest's input.
const MODIFIER_AT: usize = PREFIX.len() + 32;
/// Length of the digest's input.
const INPUT_LEN: usize = MODIFIER_AT + 8;

/// The permanent address of an agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 6]);

impl Address {
    /// The address text with the number by which this computer knows the network. The number is local and never on the wire.
    pub fn display(self, alias: u32) -> impl fmt::Display {
        Aliased { alias, address: self }
    }

    /// Reads `N:HHHH.HHHH.HHHH`, in either case, into the network's local number and the address.
    pub fn parse_aliased(text: &str) -> Result<(u32, Self), AddressError> {
        let (alias, digits) = text.split_once(':').ok_or(AddressError::Layout)?;
        let alias = parse_alias(alias)?;
        let mut groups = digits.split('.');
        let mut address = [0; 6];
        for pair in address.chunks_exact_mut(2) {
            pair.copy_from_slice(&parse_group(groups.next().ok_or(AddressError::Layout)?)?);
        }
        if groups.next().is_some() {
            return Err(AddressError::Layout);
        }
        Ok((alias, Self(address)))
    }

    /// Whether this is one of the two values that no agent has: all zeros, all ones.
    fn is_reserved(self) -> bool {
        self.0 == [0; 6] || self.0 == [0xFF; 6]
    }
}

/// Finds the first modifier, from `start_modifier` upward, that gives `key` an address. About a million hashes.
///
/// An agent whose address the directory knows under another key goes on from its modifier plus one.
pub fn derive(key: &IdentityKey, start_modifier: u64) -> (Address, u64) {
    let mut input = digest_input(key, start_modifier);
    let mut modifier = start_modifier;
    loop {
        input[MODIFIER_AT..].copy_from_slice(&modifier.to_be_bytes());
        if let Some(address) = address_of_digest(&Sha256::digest(input).into()) {
            return (address, modifier);
        }
        // 2^64 is out of reach; should the caller start near it, the search goes round.
        modifier = modifier.wrapping_add(1);
    }
}

/// The address that `modifier` gives `key`, if it did the work.
pub fn verify(key: &IdentityKey, modifier: u64) -> Option<Address> {
    address_of_digest(&Sha256::digest(digest_input(key, modifier)).into())
}

fn digest_input(key: &IdentityKey, modifier: u64) -> [u8; INPUT_LEN] {
    let mut input = [0; INPUT_LEN];
    input[..PREFIX.len()].copy_from_slice(PREFIX);
    input[PREFIX.len()..MODIFIER_AT].copy_from_slice(&key.0);
    input[MODIFIER_AT..].copy_from_slice(&modifier.to_be_bytes());
    input
}

fn address_of_digest(digest: &[u8; 32]) -> Option<Address> {
    let [a, b, c, d, .., u, v, w, x, y, z] = *digest;
    if u32::from_be_bytes([a, b, c, d]).leading_zeros() < WORK_BITS {
        return None;
    }
    let address = Address([u, v, w, x, y, z]);
    (!address.is_reserved()).then_some(address)
}

/// An address with the local number of its network.
struct Aliased {
    alias: u32,
    address: Address,
}

impl fmt::Display for Aliased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.address.0;
        write!(f, "{}:{a:02X}{b:02X}.{c:02X}{d:02X}.{e:02X}{g:02X}", self.alias)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.display(0).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The text is not laid out as an address is.
    #[error("an address looks like 0:A91F.3C07.7C2E")]
    Layout,
    /// The network number is of a network other than the backbone, where only that was expected.
    #[error("network {0} is not the backbone")]
    NotBackbone(u32),
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads an address on the backbone, network 0; [`Address::parse_aliased`] reads any.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match Self::parse_aliased(text)? {
            (0, address) => Ok(address),
            (alias, _) => Err(AddressError::NotBackbone(alias)),
        }
    }
}

fn parse_alias(text: &str) -> Result<u32, AddressError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AddressError::Layout);
    }
    text.parse().map_err(|_| AddressError::Layout)
}

fn parse_group(text: &str) -> Result<[u8; 2], AddressError> {
    if text.len() != 4 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(AddressError::Layout);
    }
    u16::from_str_radix(text, 16).map(u16::to_be_bytes).map_err(|_| AddressError::Layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    const ADDRESS: Address = Address([0xA9, 0x1F, 0x3C, 0x07, 0x7C, 0x2E]);

    #[test]
    fn text_is_upper_case_out_and_either_case_in() {
        assert_eq!(ADDRESS.to_string(), "0:A91F.3C07.7C2E");
        assert_eq!(ADDRESS.display(3).to_string(), "3:A91F.3C07.7C2E");
        assert_eq!("0:a91f.3C07.7c2E".parse(), Ok(ADDRESS));
        assert_eq!(Address::parse_aliased("17:A91F.3C07.7C2E"), Ok((17, ADDRESS)));
    }

    #[test]
    fn text_that_is_almost_an_address_is_refused() {
        for text in [
            "",
            "A91F.3C07.7C2E",
            ":A91F.3C07.7C2E",
            "+0:A91F.3C07.7C2E",
            "0:A91F.3C07",
            "0:A91F.3C07.7C2E.0000",
            "0:A91F.3C07.7C2",
            "0:A91F.3C07.+C2E",
            "0:A91F3C077C2E",
            "4294967296:A91F.3C07.7C2E",
        ] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Layout), "{text}");
        }
        assert_eq!("1:A91F.3C07.7C2E".parse::<Address>(), Err(AddressError::NotBackbone(1)));
    }

    #[test]
    fn addresses_are_those_of_the_spec() {
        let cases = vectors::cases(include_str!("../../spec/vectors/address.txt"));
        assert!(cases.len() >= 5);
        for case in cases {
            let key = IdentityKey(case.array("key"));
            let expected = case.text("address").parse().expect("an address");
            let (start, modifier) = (case.number("start"), case.number("modifier"));
            assert_eq!(derive(&key, start), (expected, modifier));
            assert_eq!(verify(&key, modifier), Some(expected));
            assert_eq!(crate::crypto::ed25519_public(&case.array("seed")), key.0);
        }
    }

    #[test]
    fn a_modifier_that_did_not_do_the_work_has_no_address() {
        let key = IdentityKey([1; 32]);
        let (address, modifier) = derive(&key, 0);
        assert_eq!(verify(&key, modifier), Some(address));
        assert_eq!(verify(&key, modifier + 1), None);
        assert_eq!(verify(&IdentityKey([2; 32]), modifier), None);
    }

    #[test]
    fn reserved_addresses_are_skipped() {
        let mut digest = [0; 32];
        assert_eq!(address_of_digest(&digest), None);
        digest[26..].fill(0xFF);
        assert_eq!(address_of_digest(&digest), None);
        digest[31] = 0xFE;
        assert_eq!(address_of_digest(&digest), Some(Address([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE])));
        digest[2] = 0x10;
        assert_eq!(address_of_digest(&digest), None, "19 zero bits");
    }
}
