//! Invites: what somebody needs to become a member, as a line of text (spec/org.md §4).
//!
//! ```text
//! pilot-invite:NAME.BASE64URL
//! ```
//!
//! NAME is there for people. The rest is the deterministic CBOR of its contents and the first four bytes of its SHA-256, so that an invite that
//! was cut or mistyped is told from one that is worth nothing.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::crypto;
use crate::id::IdentityKey;
use crate::record::is_name;
use crate::ticket::Ticket;
use crate::wire::cbor;

const SCHEME: &str = "pilot-invite:";
/// Bytes of the number that names an invite at its issuer.
pub const INVITE_ID_LEN: usize = 8;
/// Bytes of the secret: nobody guesses 128 bits.
pub const INVITE_SECRET_LEN: usize = 16;
const CHECKSUM_LEN: usize = 4;
/// Longest invite: a ticket with all its addresses, and the rest.
const INVITE_LEN_MAX: usize = 2_048;

/// What an invite says. Whoever has it may use it.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// The organisation.
    pub org: IdentityKey,
    /// What it is called.
    pub name: String,
    /// Who makes members of those who have the invite, and where it is.
    pub issuer: Ticket,
    /// Names the invite.
    pub id: [u8; INVITE_ID_LEN],
    /// Shows that one has it.
    pub secret: Zeroizing<[u8; INVITE_SECRET_LEN]>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Contents {
    #[n(0)]
    org: IdentityKey,
    #[n(1)]
    name: String,
    #[n(2)]
    issuer: String,
    #[cbor(n(3), with = "minicbor::bytes")]
    id: [u8; INVITE_ID_LEN],
    #[cbor(n(4), with = "minicbor::bytes")]
    secret: [u8; INVITE_SECRET_LEN],
}

/// Why a text is no invite.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// Something else.
    #[error("an invite looks like {SCHEME}NAME.CHARACTERS")]
    NotAnInvite,
    /// Not all of it, or not as it was.
    #[error("the invite is damaged: part of it is missing or was mistyped")]
    Damaged,
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { org, name, issuer, id, secret } = self;
        let contents =
            Contents { org: *org, name: name.clone(), issuer: issuer.to_string(), id: *id, secret: **secret };
        let mut bytes = Zeroizing::new(cbor::to_vec(&contents));
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        write!(f, "{SCHEME}{name}.{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite").field("name", &self.name).field("org", &self.org).finish_non_exhaustive()
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(text: &str) -> Result<Self, InviteError> {
        let text = text.trim();
        let (name, encoded) = text
            .strip_prefix(SCHEME)
            .filter(|_| text.len() <= INVITE_LEN_MAX)
            .and_then(|rest| rest.split_once('.'))
            .ok_or(InviteError::NotAnInvite)?;
        let bytes = Zeroizing::new(BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| InviteError::Damaged)?);
        let (bytes, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(InviteError::Damaged)?;
        let contents: Contents = cbor::from_slice(bytes).map_err(|_| InviteError::Damaged)?;
        if checksum(bytes) != *sum || contents.name != name || !is_name(name) {
            return Err(InviteError::Damaged);
        }
        let issuer = contents.issuer.parse().map_err(|_| InviteError::Damaged)?;
        let Contents { org, name, id, secret, .. } = contents;
        Ok(Self { org, name, issuer, id, secret: Zeroizing::new(secret) })
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = crypto::sha256(&[bytes]);
    digest[..CHECKSUM_LEN].try_into().expect("a digest is longer")
}
