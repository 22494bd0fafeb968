//! Calls to the directory (spec/backbone.md §3): one [`Request`] and one [`Reply`] per stream of [`ServicePort::DIRECTORY`].
//!
//! Each side writes its message as deterministic CBOR and finishes its direction. Who calls is whom the tunnel says; no message names the
//! caller. Signed records travel as opaque byte strings, so that their signatures survive untouched.
//!
//! [`ServicePort::DIRECTORY`]: crate::id::ServicePort::DIRECTORY

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::address::Address;
use crate::id::IdentityKey;
use crate::time::UnixTime;
use crate::wire::cbor;

/// The greatest request that most agents ever send: two records of 8,192 bytes and their framing.
pub const REGISTRATION_LEN_MAX: usize = 17 * 1_024;
/// The greatest request: a revocation list of an organisation, its charters and a proof.
pub const REQUEST_LEN_MAX: usize = 144 * 1_024;
/// The greatest reply a client accepts: [`FIND_LIMIT_MAX`] entries in bounds.
pub const REPLY_LEN_MAX: usize = 1_024 * 1_024;
/// Entries of one answer to [`Request::Find`].
pub const FIND_LIMIT_MAX: u16 = 64;
/// Words of one [`Find`]; what comes after the first so many adds little to a ranking.
pub const FIND_WORDS_MAX: usize = 16;
/// Hand-overs of a name that are kept and served: who has pinned a key before that takes the name for another's.
pub const HAND_OVERS_MAX: usize = 4;
/// Bytes that name a charter or revocation list among those of one organisation.
pub const RULE_DIGEST_LEN: usize = 8;
/// Names that a [`Reply::NotFound`] suggests.
pub const SUGGESTIONS_MAX: usize = 3;

/// What a client asks of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Store or refresh the caller's own records.
    #[n(0)]
    Register {
        /// Signed `IdentityRecord`.
        #[cbor(n(0), with = "minicbor::bytes")]
        identity: Vec<u8>,
        /// Signed `PresenceRecord`.
        #[cbor(n(1), with = "minicbor::bytes")]
        presence: Vec<u8>,
    },
    /// Look one agent up.
    #[n(1)]
    Resolve {
        /// By what.
        #[n(0)]
        by: Target,
    },
    /// Search for agents.
    #[n(2)]
    Find(#[n(0)] Find),
    /// End the caller's registration.
    #[n(3)]
    Withdraw {
        /// Signed `Withdrawal`.
        #[cbor(n(0), with = "minicbor::bytes")]
        signed: Vec<u8>,
    },
    /// Ask how the node fares.
    #[n(4)]
    Status,
    /// Give a name that one key has to another. The caller is one of the two.
    #[n(5)]
    HandOver {
        /// Signed `HandOver`.
        #[cbor(n(0), with = "minicbor::bytes")]
        signed: Vec<u8>,
    },
    /// Hold a revocation list of an organisation for its members.
    #[n(6)]
    KeepRules {
        /// The organisation.
        #[n(0)]
        org: IdentityKey,
        /// Its signed charters, the first one first.
        #[n(1)]
        charters: Vec<ByteVec>,
        /// The signed list.
        #[cbor(n(2), with = "minicbor::bytes")]
        list: Vec<u8>,
        /// The proof of the member that has issued it; none: the organisation's key has.
        #[cbor(n(3), with = "minicbor::bytes")]
        proof: Option<Vec<u8>>,
    },
    /// Which charters and lists of an organisation are held?
    #[n(7)]
    Rules {
        /// The organisation.
        #[n(0)]
        org: IdentityKey,
        /// Those that the caller has.
        #[n(1)]
        known: Vec<RuleDigest>,
    },
}

/// Names a charter or a revocation list among those of one organisation: the first bytes of the SHA-256 of the signed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct RuleDigest(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; RULE_DIGEST_LEN]);

/// What an agent is looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Target {
    /// Host name.
    #[n(0)]
    Name(#[n(0)] String),
    /// Identity key.
    #[n(1)]
    Key(#[n(0)] IdentityKey),
    /// 48-bit address.
    #[n(2)]
    Address(#[n(0)] Address),
}

/// A search: all that is given must hold, and words rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Find {
    /// Only agents with this tag.
    #[n(0)]
    pub tag: Option<String>,
    /// Only members of this group.
    #[n(1)]
    pub group: Option<String>,
    /// Only agents whose name, tags, description or offers hold one of these words; those with more of them first.
    #[n(2)]
    pub need: Vec<String>,
    /// At most so many answers, and never more than [`FIND_LIMIT_MAX`].
    #[n(3)]
    pub limit: u16,
}

/// What the directory answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// To [`Request::Register`]: stored.
    #[n(0)]
    Registered {
        /// When the lease of the name ends unless it is refreshed.
        #[n(0)]
        lease_until: UnixTime,
        /// Signed `IdentityRecord` that is in force in place of the one sent: another home of the identity has said something later.
        #[cbor(n(1), with = "minicbor::bytes")]
        in_force: Option<Vec<u8>>,
    },
    /// To [`Request::Resolve`].
    #[n(1)]
    Resolved(#[n(0)] Entry),
    /// To [`Request::Find`], best first.
    #[n(2)]
    Found(#[n(0)] Vec<Entry>),
    /// To [`Request::Withdraw`].
    #[n(3)]
    Withdrawn,
    /// To [`Request::Status`].
    #[n(4)]
    Status(#[n(0)] Status),
    /// To [`Request::Resolve`]: nobody known is that.
    #[n(5)]
    NotFound {
        /// Registered names that look alike, nearest first. Unsigned: for people to read only.
        #[n(0)]
        suggestions: Vec<String>,
    },
    /// To [`Request::Register`]: the name is leased to another key.
    #[n(6)]
    NameTaken {
        /// When it is free unless the holder comes back: at the end of lease and grace.
        #[n(0)]
        free_at: UnixTime,
    },
    /// To [`Request::Register`]: the address is known under another key; go on to the next modifier (spec/address.md §2).
    #[n(7)]
    AddressTaken,
    /// The request was not carried out.
    #[n(8)]
    Error {
        /// Why, for programs.
        #[n(0)]
        code: ErrorCode,
        /// Why, for people.
        #[n(1)]
        message: String,
    },
    /// To [`Request::HandOver`]: the name is the other key's from now on.
    #[n(9)]
    HandedOver,
    /// To [`Request::KeepRules`]: held, or nothing new.
    #[n(10)]
    RulesKept,
    /// To [`Request::Rules`]: what the caller does not have. Nothing in it is believed before a `Roster` has judged it.
    #[n(11)]
    Rules(#[n(0)] Rules),
}

/// Charters and revocation lists of an organisation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rules {
    /// Signed charters, the first one first.
    #[n(0)]
    pub charters: Vec<ByteVec>,
    /// Signed lists.
    #[n(1)]
    pub lists: Vec<ByteVec>,
    /// The proofs by which lists of members count.
    #[n(2)]
    pub proofs: Vec<ByteVec>,
    /// What the caller has and the node has not.
    #[n(3)]
    pub missing: Vec<RuleDigest>,
}

/// Why a directory did not carry out a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum ErrorCode {
    /// The request or a record in it is malformed, out of bounds or does not verify.
    #[n(0)]
    BadRequest,
    /// A record belongs to another key than the caller's.
    #[n(1)]
    NotYours,
    /// A record with a higher sequence is stored.
    #[n(2)]
    OldSequence,
    /// Too many requests, or the directory is full, or its disk. Try again later.
    #[n(3)]
    Busy,
    /// The node has not the role that the call is for.
    #[n(4)]
    NoSuchRole,
}

/// An agent as the directory knows it. Nothing in it is believed before `Pins::check`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// Signed `IdentityRecord`.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub identity: Vec<u8>,
    /// Signed `PresenceRecord`s in date, one for each instance, in the order in which to try them; at most
    /// [`INSTANCES_MAX`](crate::limits::INSTANCES_MAX).
    #[cbor(n(1), skip_if = "Vec::is_empty")]
    pub presences: Vec<ByteVec>,
    /// Whether the node has a live tunnel to one of them, as far as the node says.
    #[n(2)]
    pub reachable: bool,
    /// Signed `HandOver`s by which the name came to its key, oldest first; the last [`HAND_OVERS_MAX`].
    #[cbor(n(3), skip_if = "Vec::is_empty")]
    pub hand_overs: Vec<ByteVec>,
}

/// How a backbone node fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Status {
    /// When the node started.
    #[n(0)]
    pub started: UnixTime,
    /// Agents registered.
    #[n(1)]
    pub agents: u64,
    /// Clients with a live tunnel.
    #[n(2)]
    pub clients: u64,
    /// Circuits open.
    #[n(3)]
    pub circuits: u64,
    /// Packets relayed since the start.
    #[n(4)]
    pub packets_relayed: u64,
    /// Bytes relayed since the start.
    #[n(5)]
    pub bytes_relayed: u64,
    /// Packets dropped since the start.
    #[n(6)]
    pub packets_dropped: u64,
}

cbor::message!(Request, Reply);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORG: IdentityKey = IdentityKey([9; 32]);

    fn requests() -> Vec<Request> {
        vec![
            Request::Register { identity: vec![1; 300], presence: vec![2; 40] },
            Request::Resolve { by: Target::Name("agent-alpha".into()) },
            Request::Resolve { by: Target::Key(IdentityKey([9; 32])) },
            Request::Resolve { by: Target::Address(Address([1, 2, 3, 4, 5, 6])) },
            Request::Find(Find { tag: Some("mcp".into()), group: None, need: vec!["cve".into()], limit: 5 }),
            Request::Withdraw { signed: vec![3; 90] },
            Request::HandOver { signed: vec![4; 150] },
            Request::KeepRules { org: ORG, charters: vec![vec![5; 300].into()], list: vec![6; 200], proof: None },
            Request::KeepRules { org: ORG, charters: vec![], list: vec![6; 200], proof: Some(vec![7; 400]) },
            Request::Rules { org: ORG, known: vec![RuleDigest([8; 8])] },
            Request::Status,
        ]
    }

    fn replies() -> Vec<Reply> {
        let presences = vec![vec![2; 100].into(), vec![3; 100].into()];
        let entry = Entry { identity: vec![1; 200], presences, reachable: true, hand_overs: vec![] };
        let handed_over = Entry { hand_overs: vec![vec![5; 150].into()], ..entry.clone() };
        vec![
            Reply::Registered { lease_until: UnixTime::from_secs(1_800_000_000), in_force: None },
            Reply::Registered { lease_until: UnixTime::from_secs(1_800_000_000), in_force: Some(vec![1; 200]) },
            Reply::Resolved(Entry { presences: vec![], ..entry.clone() }),
            Reply::Found(vec![entry.clone(), handed_over, entry]),
            Reply::HandedOver,
            Reply::RulesKept,
            Reply::Rules(Rules {
                lists: vec![vec![6; 200].into()],
                missing: vec![RuleDigest([8; 8])],
                ..Rules::default()
            }),
            Reply::Withdrawn,
            Reply::Status(Status { agents: 3, ..Status::default() }),
            Reply::NotFound { suggestions: vec!["agent-alpha".into()] },
            Reply::NameTaken { free_at: UnixTime::from_secs(1_800_000_000) },
            Reply::AddressTaken,
            Reply::Error { code: ErrorCode::Busy, message: "too many requests".into() },
        ]
    }

    #[test]
    fn messages_look_as_the_spec_says() {
        let hex = |bytes: Vec<u8>| data_encoding::HEXLOWER.encode(&bytes);
        assert_eq!(hex(Request::Status.encode()), "820480");
        let register = Request::Register { identity: vec![0xaa], presence: vec![0xbb] };
        assert_eq!(hex(register.encode()), "82008241aa41bb");
        assert_eq!(hex(Request::Resolve { by: Target::Name("al".into()) }.encode()), "82018182008162616c");
        let find = Find { tag: Some("t".into()), group: None, need: vec!["w".into()], limit: 5 };
        assert_eq!(hex(Request::Find(find).encode()), "820281a3006174028161770305");
        let registered = |in_force| Reply::Registered { lease_until: UnixTime::from_secs(1), in_force };
        assert_eq!(hex(registered(None).encode()), "82008101");
        assert_eq!(hex(registered(Some(vec![0xaa])).encode()), "8200820141aa");
        let entry = Entry { identity: vec![0xaa], presences: vec![], reachable: false, hand_overs: vec![] };
        assert_eq!(hex(Reply::Resolved(entry.clone()).encode()), "820181a20041aa02f4");
        let twice = Entry { presences: vec![vec![0xbb].into(), vec![0xcc].into()], reachable: true, ..entry.clone() };
        assert_eq!(hex(Reply::Resolved(twice).encode()), "820181a30041aa018241bb41cc02f5");
        let handed_over = Entry { hand_overs: vec![vec![0xcc].into()], ..entry };
        assert_eq!(hex(Reply::Resolved(handed_over).encode()), "820181a30041aa02f4038141cc");
        let org = format!("5820{}", "09".repeat(32));
        let keep = |proof| Request::KeepRules { org: ORG, charters: vec![vec![0xaa].into()], list: vec![0xbb], proof };
        assert_eq!(hex(keep(None).encode()), format!("820683{org}8141aa41bb"));
        assert_eq!(hex(keep(Some(vec![0xcc])).encode()), format!("820684{org}8141aa41bb41cc"));
        let known = vec![RuleDigest([1; 8])];
        assert_eq!(
            hex(Request::Rules { org: ORG, known: known.clone() }.encode()),
            format!("820782{org}8181480101010101010101")
        );
        let rules = Rules { lists: vec![vec![0xbb].into()], missing: known, ..Rules::default() };
        assert_eq!(hex(Reply::Rules(rules).encode()), "820b81a40080018141bb0280038181480101010101010101");
        assert_eq!(hex(Reply::RulesKept.encode()), "820a80");
        assert_eq!(hex(Reply::AddressTaken.encode()), "820780");
        let busy = Reply::Error { code: ErrorCode::Busy, message: "b".into() };
        assert_eq!(hex(busy.encode()), "820882036162");
    }

    #[test]
    fn every_message_round_trips() {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        for reply in replies() {
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for bytes in requests().iter().map(Request::encode) {
            for len in 0..bytes.len() {
                assert!(Request::decode(&bytes[..len]).is_err());
            }
        }
        for bytes in replies().iter().map(Reply::encode) {
            for len in 0..bytes.len() {
                assert!(Reply::decode(&bytes[..len]).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn what_decodes_from_any_bytes_encodes_to_them(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            if let Ok(reply) = Reply::decode(&bytes) {
                prop_assert_eq!(reply.encode(), bytes);
            }
        }
    }
}
