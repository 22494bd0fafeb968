//! Organisations: agents that trust each other by signed records, with nobody in between (spec/org.md).
//!
//! A [`Charter`](charter::Charter) says which key speaks for the organisation, a [`Proof`](membership::Proof) who is a member and with what
//! rights, a [`RevocationList`](revocation::RevocationList) who is one no more. A [`Roster`](roster::Roster) is what one member knows of all
//! that, and decides. An [`Issuer`](issuer::Issuer) makes members of those who have an [`Invite`](invite::Invite), which a
//! [`Code`](code::Code) stands for between people.

pub mod call;
pub mod charter;
pub mod code;
pub mod invite;
pub mod issuer;
pub mod membership;
pub mod revocation;
pub mod roster;
pub mod whereabouts;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use crate::record::RecordError;

/// Why something that concerns an organisation is not believed or not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrgError {
    /// A signed record in it is wrong.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It is another organisation's.
    #[error("it belongs to another organisation")]
    ForeignOrg,
    /// A charter that does not follow from the one before.
    #[error("the charter does not follow from the one before it")]
    Succession,
    /// No link of a proof, or more than there may be.
    #[error("a proof has 1 to {} memberships", membership::PROOF_LINKS_MAX)]
    ProofLength,
    /// A membership that no key of the organisation, and no member who may, has issued.
    #[error("the membership was issued by a key that may not")]
    Issuer,
    /// A membership that another member has issued, and its own has not asked for.
    #[error("the member has not agreed to that membership")]
    Consent,
    /// A membership whose member has asked for it at a date that is none by the clock of who makes it.
    #[error("its clock and that of who makes members differ by more than a day")]
    Clocks,
    /// Another membership counts, which its member has asked for since.
    #[error("it has asked for another membership since, by its clock: that one counts")]
    Superseded,
    /// A membership that gives more than its issuer has.
    #[error("the membership gives more {0} than its issuer has")]
    BeyondRights(&'static str),
    /// Somebody on the way to the member was revoked.
    #[error("it was revoked: who did that, or holds the organisation's key, can enrol it again")]
    Revoked,
    /// A table is full of what is in use.
    #[error("there are {0} already, which is the most that are kept")]
    Full(usize),
    /// The lists of other members take all the room there is for those of members.
    #[error(
        "the lists of other members leave no room for this one: who has the organisation's key can revoke in its place"
    )]
    NoRoomForList,
}
