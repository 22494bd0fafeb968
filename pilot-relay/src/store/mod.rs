//! Where the directory keeps its registrations (spec/backbone.md §3 and §5).
//!
//! A [`Store`] decides alone who gets a name or an address, so that several nodes can share one. What it is given has been verified. Every
//! backend passes the same conformance tests.
//!
//! What must outlive the node leaves the store as [`Change`]s: [`Store::plan`] tells which an operation makes, and the operation is
//! [applied](Store::apply) once they are on disk. `redb` puts them there; presence is no part of them.

pub mod memory;
pub mod orgs;
#[cfg(feature = "server")]
pub mod redb;
pub mod stored;

use std::sync::Arc;
use std::time::Duration;

use minicbor::bytes::ByteVec;
use pilot_core::address::Address;
use pilot_core::id::{IdentityKey, Instance};
use pilot_core::record::{HandOver, IDENTITY_VALIDITY_MAX, IdentityRecord, PresenceRecord};
use pilot_core::time::UnixTime;
use pilot_core::wire::directory::Find;

use pilot_core::org::roster::Roster;
use stored::{StoredAgent, StoredName, StoredOrg};

/// How long a name and an address stay with their key after the lease has ended, so that an agent which slept for a little longer finds them
/// its own, and that a lease on file may be [`LEASE_WRITE_INTERVAL`] behind (spec/backbone.md §6).
pub const NAME_GRACE: Duration = Duration::from_secs(86_400);
/// How long a name that was handed over waits for the key that is to have it: as long as the longest lease.
pub const HAND_OVER_TIME: Duration = IDENTITY_VALIDITY_MAX;
/// Names that one key has given up or handed over and that are kept for somebody; with a further one, that which is free first is free at
/// once. Who renames an agent in earnest stays far below, and who only takes names and leaves them holds no more than these.
pub const NAMES_KEPT_PER_KEY_MAX: usize = 8;
/// A lease that a presence refresh has moved on by so much is written down; less is not worth a write. No longer than [`NAME_GRACE`].
pub const LEASE_WRITE_INTERVAL: Duration = Duration::from_secs(86_400);

/// The verified records of one agent, and the bytes that prove them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Who it is.
    pub identity: IdentityRecord,
    /// The signed form of `identity`.
    pub identity_bytes: Vec<u8>,
    /// Its address.
    pub address: Address,
    /// How to reach its instances, the one that has said so last first; at most
    /// [`INSTANCES_MAX`](pilot_core::limits::INSTANCES_MAX). Empty when none has since the node started.
    pub presences: Vec<Present>,
    /// When the lease of the name and the address ends, by the node's own clock.
    pub lease_until: UnixTime,
    /// Signed [`HandOver`]s by which the name came to the key, oldest first. The store knows them, not who registers.
    pub hand_overs: Vec<ByteVec>,
}

/// A verified presence record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// How to reach one instance of the agent.
    pub record: PresenceRecord,
    /// The signed form of `record`.
    pub bytes: Vec<u8>,
    /// When it ends, by the node's own clock.
    pub until: UnixTime,
}

impl Present {
    /// Whose it is.
    pub fn instance(&self) -> Instance {
        Instance { key: self.record.key, id: self.record.instance }
    }
}

impl Registration {
    /// When the name and the address are free for others.
    pub fn held_until(&self) -> UnixTime {
        self.lease_until + NAME_GRACE
    }

    /// The presences that are in date.
    pub fn presences_at(&self, now: UnixTime) -> impl Iterator<Item = &Present> {
        self.presences.iter().filter(move |present| present.until > now)
    }
}

/// What a caller, who was authenticated, wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Store a registration in place of the same key's earlier one, and its presence beside those of other instances. Of two identity records
    /// the one with the higher sequence stays in force. First come, first served, until lease and grace have ended.
    Register(Box<Registration>),
    /// Remove the registration of a key if its sequence is not above this one.
    Withdraw {
        /// Whose.
        key: IdentityKey,
        /// The sequence of the withdrawal.
        sequence: u64,
    },
    /// Remove the presence of one instance if its sequence is not above this one.
    Leave {
        /// Whose.
        instance: Instance,
        /// The sequence of the withdrawal.
        sequence: u64,
    },
    /// Keep a name that one key has for another, and take it from the first.
    HandOver {
        /// From whom to whom.
        record: HandOver,
        /// The signed form of `record`.
        bytes: ByteVec,
    },
    /// Hold a revocation list of an organisation.
    KeepRules(Box<KeepRules>),
}

/// A revocation list of an organisation, and what it counts by. None of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepRules {
    /// The organisation.
    pub org: IdentityKey,
    /// Who has brought it.
    pub by: IdentityKey,
    /// Signed charters, the first one first.
    pub charters: Vec<ByteVec>,
    /// The signed list.
    pub list: ByteVec,
    /// The proof of the member that has issued it.
    pub proof: Option<ByteVec>,
}

/// What carrying out an operation has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// A registration.
    Registered {
        /// The end of its lease.
        lease_until: UnixTime,
        /// The signed identity record in force, if it is not the one that came with the registration.
        in_force: Option<Vec<u8>>,
    },
    /// A withdrawal, whatever it found.
    Withdrawn,
    /// A hand-over.
    HandedOver,
    /// A list that is held now, or was already.
    RulesKept,
}

/// A change of what outlives the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An agent's record and lease, in place of what was stored of it.
    PutAgent(IdentityKey, StoredAgent),
    /// The agent is forgotten.
    RemoveAgent(IdentityKey),
    /// Nobody has the name, but it is kept for somebody.
    PutName(String, StoredName),
    /// The name is kept for nobody.
    RemoveName(String),
    /// Charters and lists of an organisation, in place of what was stored of it.
    PutOrg(IdentityKey, StoredOrg),
    /// The organisation is forgotten.
    RemoveOrg(IdentityKey),
}

/// Why an operation is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Another key holds the name.
    #[error("name is taken")]
    NameTaken {
        /// When it is free unless its holder comes back: at the end of lease and grace.
        free_at: UnixTime,
    },
    /// Another key holds the address.
    #[error("address is taken")]
    AddressTaken,
    /// A newer presence of this instance, or another with the same sequence, is stored.
    #[error("a record with sequence {0} is stored")]
    OldSequence(u64),
    /// The key that hands a name over does not have it, or has got it back, or has registered it, since it has signed this.
    #[error("the name is not the old key's to hand over, or not by this record any more")]
    NotHeld,
    /// A charter or list that does not follow from the organisation's first charter.
    #[error("no member of the organisation would believe this list")]
    NotBelieved,
    /// The store is at its bound.
    #[error("directory is full")]
    Full,
}

/// A place for registrations, and for the charters and lists of organisations.
pub trait Store {
    /// What an operation would change of what outlives the node: nothing, if it only refreshes presence.
    ///
    /// # Errors
    /// [`RegisterError`] if the operation cannot be carried out.
    fn plan(&self, now: UnixTime, operation: &Operation) -> Result<Vec<Change>, RegisterError>;

    /// Carries out an operation for which [`Store::plan`] has given changes that are on disk now. Nothing that it touches was changed since.
    fn apply(&mut self, now: UnixTime, operation: Operation) -> Done;

    /// Forgets names and addresses that are free again, and tells what that changes.
    fn expire(&mut self, now: UnixTime) -> Vec<Change>;

    /// When the next name or address is free again.
    fn next_expiry(&self) -> Option<UnixTime>;

    /// The registration of a key.
    fn by_key(&self, now: UnixTime, key: &IdentityKey) -> Option<Arc<Registration>>;

    /// The registration that holds a name.
    fn by_name(&self, now: UnixTime, name: &str) -> Option<Arc<Registration>>;

    /// The registration that holds an address.
    fn by_address(&self, now: UnixTime, address: Address) -> Option<Arc<Registration>>;

    /// The charters and lists of an organisation.
    fn rules(&self, org: &IdentityKey) -> Option<Roster>;

    /// At most `max` registrations that have the tag and the group and at least one of the words; in no order.
    fn candidates(&self, now: UnixTime, find: &Find, max: usize) -> Vec<Arc<Registration>>;

    /// At most `max` registered names next to `name` in the alphabet, half of them on either side.
    fn names_near(&self, name: &str, max: usize) -> Vec<String>;

    /// Registrations stored, those in grace among them.
    fn len(&self) -> usize;

    /// Whether none is stored.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The words that a text is found by: letters and digits in lower case.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Every word that a registration is found by.
pub(crate) fn words_of(identity: &IdentityRecord) -> impl Iterator<Item = String> {
    let labels = identity.tags.iter().chain(&identity.groups).chain([&identity.name, &identity.description]);
    let offers = identity.offers.iter().flat_map(|offer| [&offer.service, &offer.description]);
    labels.chain(offers).flat_map(|text| words(text))
}

#[cfg(test)]
pub(crate) mod tests;
