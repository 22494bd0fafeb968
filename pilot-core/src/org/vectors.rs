//! The organisation's records and calls are those of the committed vectors (spec/vectors/org.txt).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use data_encoding::HEXLOWER;
use minicbor::bytes::ByteVec;

use super::call::{ListDigest, Reply, Request};
use super::charter::{Charter, Charters};
use super::invite::Invite;
use super::membership::{Membership, MembershipDigest, Proof, consent};
use super::revocation::{Revocation, RevocationList, list_digest};
use super::roster::{Records, Roster};
use super::whereabouts::Whereabouts;
use crate::id::IdentityKey;
use crate::identity::Identity;
use crate::record::Home;
use crate::ticket::Ticket;
use crate::time::UnixTime;
use crate::vectors;
use crate::wire::directory;

const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// The keys of the vectors, named by the byte that their seeds are made of.
struct Keys {
    org: Identity,
    successor: Identity,
    next: Identity,
    lead: Identity,
    worker: Identity,
}

impl Keys {
    fn new() -> Self {
        let [org, successor, next, lead, worker] = [20, 21, 22, 23, 24].map(|seed| Identity::generate([seed; 32]));
        Self { org, successor, next, lead, worker }
    }

    fn charter_0(&self) -> Charter {
        Charter {
            org: self.org.key(),
            sequence: 0,
            name: "fleet".into(),
            key: self.org.key(),
            successor: self.successor.key(),
            signer: self.org.key(),
            list_age_max: 3_600,
            previous_until: NOW,
            issued: NOW,
        }
    }

    /// The one that cuts off the key of charter 0.
    fn charter_1(&self) -> Charter {
        Charter {
            sequence: 1,
            key: self.next.key(),
            successor: IdentityKey([7; 32]),
            signer: self.successor.key(),
            previous_until: NOW - DAY,
            ..self.charter_0()
        }
    }

    fn membership_of_lead(&self) -> Membership {
        Membership {
            org: self.org.key(),
            issuer: self.org.key(),
            member: self.lead.key(),
            modifier: self.lead.modifier(),
            name: "lead".into(),
            role: "lead".into(),
            groups: vec!["research".into()],
            services: vec!["query".into(), "mcp".into()],
            generations: 1,
            issued: NOW,
            expires: NOW + 90 * DAY,
            consented: NOW - Duration::from_secs(1),
            lifetime: 100 * 86_400,
            consent: None,
        }
    }

    fn membership_of_worker(&self) -> Membership {
        let consented = NOW + Duration::from_secs(1);
        let consent = consent(&self.worker, &self.org.key(), &self.lead.key(), "worker", consented);
        Membership {
            consented,
            consent: Some(consent.into()),
            issuer: self.lead.key(),
            member: self.worker.key(),
            modifier: self.worker.modifier(),
            name: "worker".into(),
            role: "member".into(),
            groups: Vec::new(),
            services: vec!["query".into()],
            generations: 0,
            ..self.membership_of_lead()
        }
    }

    fn list(&self) -> RevocationList {
        let revocation =
            Revocation { member: IdentityKey([7; 32]), until: NOW, kept_until: NOW + 90 * DAY, has_left: false };
        RevocationList {
            org: self.org.key(),
            issuer: self.next.key(),
            sequence: 3,
            issued: NOW,
            expires: NOW + 400 * DAY,
            revocations: vec![revocation],
            endorsed: vec![MembershipDigest::of(&self.membership_of_lead().sign(&self.org).unwrap())],
        }
    }

    fn list_of_member(&self) -> RevocationList {
        RevocationList { issuer: self.lead.key(), sequence: 0, endorsed: Vec::new(), ..self.list() }
    }

    fn whereabouts(&self) -> Whereabouts {
        Whereabouts {
            member: self.worker.key(),
            certificate: vec![5; 3],
            addresses: vec!["192.0.2.1:4000".parse().unwrap()],
            homes: vec![Home { key: IdentityKey([7; 32]), addresses: vec!["[2001:db8::1]:3478".parse().unwrap()] }],
            issued: NOW,
            expires: NOW + DAY,
        }
    }

    fn invite(&self) -> Invite {
        let (org, name) = (self.org.key(), "fleet".to_owned());
        let addresses = vec!["192.0.2.1:4000".parse().unwrap()];
        let issuer = Ticket::new(self.lead.key(), self.lead.modifier(), addresses, None).unwrap();
        Invite { org, name, issuer, id: [1; 8], secret: [2; 16].into() }
    }

    fn records(&self) -> Vec<(&'static str, Vec<u8>)> {
        let lead = Proof::extend(None, self.membership_of_lead().sign(&self.org).unwrap());
        let charters = Charters::new(self.org.key(), &self.charter_0().sign(&self.org).unwrap(), NOW).unwrap();
        let lead = Proof::verify(&lead, &charters, NOW).unwrap();
        let worker = self.membership_of_worker().sign(&self.lead).unwrap();
        vec![
            ("charter_0", self.charter_0().sign(&self.org).unwrap()),
            ("charter_1", self.charter_1().sign(&self.successor).unwrap()),
            ("membership_of_lead", self.membership_of_lead().sign(&self.org).unwrap()),
            ("membership_of_worker", worker.clone()),
            ("proof_of_lead", lead.bytes().to_vec()),
            ("proof_of_worker", Proof::extend(Some(&lead), worker)),
            ("list", self.list().sign(&self.next).unwrap()),
            ("list_of_member", self.list_of_member().sign(&self.lead).unwrap()),
            ("whereabouts", self.whereabouts().sign(&self.worker).unwrap()),
        ]
    }
}

/// Short stand-ins: what a call carries is opaque to its layout.
fn records() -> Records {
    let one = |byte: u8| vec![ByteVec::from(vec![byte])];
    Records { charters: one(0xa0), lists: one(0xa1), proofs: one(0xa2), whereabouts: one(0xa3) }
}

fn calls(org: IdentityKey) -> Vec<(&'static str, Vec<u8>)> {
    let (proof, whereabouts) = (vec![0xa2], vec![0xa3]);
    let known = vec![ListDigest([3; 8])];
    let digests = vec![directory::RuleDigest([3; 8])];
    let Records { charters, lists, proofs, .. } = records();
    let keep = |proof| directory::Request::KeepRules { org, charters: charters.clone(), list: vec![0xa1], proof };
    let rules = directory::Rules { charters: charters.clone(), lists, proofs, missing: digests.clone() };
    let name = "worker".into();
    let enrol = Request::Enrol {
        org,
        invite: [1; 8],
        secret: [2; 16],
        modifier: 9,
        name,
        consented: NOW,
        consent: [4; 64],
        lifetime_max: None,
    };
    vec![
        ("enrol", enrol.encode()),
        ("renew", Request::Renew { org, consented: NOW, consent: Some([4; 64].into()) }.encode()),
        ("introduce", Request::Introduce { org, proof: proof.clone(), whereabouts: whereabouts.clone() }.encode()),
        ("sync", Request::Sync { org, after: 300, epoch: 5, known }.encode()),
        ("tell", Request::Tell { org, records: records() }.encode()),
        ("leave", Request::Leave { org, consented: NOW }.encode()),
        ("enrolled", Reply::Enrolled { proof: proof.clone(), records: records() }.encode()),
        ("introduced", Reply::Introduced { proof, whereabouts }.encode()),
        ("news", Reply::News { epoch: 5, after: 301, more: true, records: records() }.encode()),
        ("done", Reply::Done.encode()),
        ("refused", Reply::Refused { reason: "no".into() }.encode()),
        ("keep_rules", keep(None).encode()),
        ("keep_rules_of_member", keep(Some(vec![0xa2])).encode()),
        ("rules_wanted", directory::Request::Rules { org, known: digests }.encode()),
        ("rules_kept", directory::Reply::RulesKept.encode()),
        ("rules", directory::Reply::Rules(rules).encode()),
    ]
}

#[test]
fn records_and_calls_are_those_of_the_vectors() {
    let keys = Keys::new();
    let cases = vectors::cases(include_str!("../../../spec/vectors/org.txt"));
    let [of_records, of_calls] = cases.as_slice() else { panic!("two cases") };
    assert_eq!(of_records.number("verified_at"), NOW.as_secs());
    for (case, built) in [(of_records, keys.records()), (of_calls, calls(keys.org.key()))] {
        for (name, bytes) in built {
            assert_eq!(HEXLOWER.encode(&bytes), case.text(name), "{name}");
        }
    }
    assert_eq!(keys.invite().to_string(), of_records.text("invite"));
}

#[test]
fn the_vectors_are_believed_and_say_who_is_a_member() {
    let cases = vectors::cases(include_str!("../../../spec/vectors/org.txt"));
    let [case, of_calls] = cases.as_slice() else { panic!("two cases") };
    let vec = |name: &str| vec![ByteVec::from(case.bytes(name))];
    let records = Records {
        charters: [vec("charter_0"), vec("charter_1")].concat(),
        lists: [vec("list"), vec("list_of_member")].concat(),
        proofs: [vec("proof_of_lead"), vec("proof_of_worker")].concat(),
        whereabouts: vec("whereabouts"),
    };
    let roster = Roster::from_records(IdentityKey(case.array("org")), &records, NOW).unwrap();
    let mut names: Vec<_> = roster.members(NOW).map(|proof| proof.membership().name.clone()).collect();
    names.sort();
    assert_eq!(names, ["lead", "worker"], "the list endorses the membership on which both rest");
    assert_eq!(roster.revocations().lists().count(), 2);
    assert_eq!(list_digest(&case.bytes("list")), case.array("list_digest"));
    assert!(case.text("invite").parse::<Invite>().is_ok());
    for name in ["enrol", "renew", "introduce", "sync", "tell", "leave"] {
        assert!(Request::decode(&of_calls.bytes(name)).is_ok(), "{name}");
    }
    for name in ["enrolled", "introduced", "news", "done", "refused"] {
        let bytes = of_calls.bytes(name);
        assert!(
            Reply::decode(&bytes).is_ok() && (0..bytes.len()).all(|len| Reply::decode(&bytes[..len]).is_err()),
            "{name}"
        );
    }
}
