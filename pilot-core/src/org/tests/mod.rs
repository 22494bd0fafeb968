#![allow(clippy::unwrap_used, reason = "tests")]

mod invites;
mod keys;
mod revocations;

use std::sync::LazyLock;
use std::time::Duration;

use minicbor::bytes::ByteVec;

use super::OrgError;
use super::charter::{Charter, Charters};
use super::code::{Asker, Ends, Word};
use super::invite::{Invite, InviteError};
use super::issuer::{Applicant, EnrolError, INVITE_VALIDITY_MAX, Invites, Issuer, Ledger, Terms};
use super::membership::{Membership, Proof, consent};
use super::revocation::{Revocation, RevocationList};
use super::roster::{Learned, Records, Roster};
use super::whereabouts::Whereabouts;
use crate::identity::Identity;
use crate::record::RecordError;
use crate::ticket::Ticket;
use crate::time::UnixTime;
use crate::wire::cbor;

const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const NEVER: Duration = Duration::ZERO;

/// Identities to play with: their addresses take a moment each.
static IDENTITIES: LazyLock<Vec<Identity>> =
    LazyLock::new(|| (20..28).map(|seed| Identity::generate([seed; 32])).collect());

fn org_key() -> &'static Identity {
    &IDENTITIES[0]
}

fn successor() -> &'static Identity {
    &IDENTITIES[1]
}

fn agent(index: usize) -> &'static Identity {
    &IDENTITIES[2 + index]
}

fn founded() -> Roster {
    founded_with(NEVER)
}

fn founded_with(list_age_max: Duration) -> Roster {
    Roster::new(Issuer::found(org_key(), successor().key(), "fleet", list_age_max, NOW).unwrap())
}

fn terms() -> Terms {
    Terms {
        role: "member".into(),
        groups: vec!["research".into()],
        services: Vec::new(),
        generations: 0,
        lifetime: 90 * 86_400,
    }
}

/// Who wants to be made a member by agent 0, or by the organisation's key, which needs no word for it.
fn applicant(identity: &Identity, name: &str) -> Applicant {
    applicant_at(NOW, identity, name)
}

fn applicant_at(consented: UnixTime, identity: &Identity, name: &str) -> Applicant {
    applicant_to(agent(0), consented, identity, name)
}

fn applicant_to(issuer: &Identity, consented: UnixTime, identity: &Identity, name: &str) -> Applicant {
    let consent = Some(consent(identity, &org_key().key(), &issuer.key(), name, consented).into());
    let (key, modifier) = (identity.key(), identity.modifier());
    Applicant { key, modifier, name: name.into(), lifetime_max: Duration::MAX, consented, consent }
}

fn by_org() -> Issuer {
    Issuer::Org(org_key().clone())
}

/// Enrols `index` as `agent-index` on the organisation's word.
fn enrol(roster: &mut Roster, index: usize, terms: &Terms, now: UnixTime) -> Vec<u8> {
    let proof =
        by_org().enrol(roster, &applicant_at(now, agent(index), &format!("agent-{index}")), terms, now).unwrap();
    assert_eq!(roster.add_proof(&proof, now), Ok(true));
    proof
}

fn revoke(roster: &Roster, issuer: &Identity, who: &Identity, now: UnixTime) -> Vec<u8> {
    let revocation = Revocation { member: who.key(), until: now, kept_until: now + 90 * DAY, has_left: false };
    let list = roster.revocations().next_list(roster.charters(), issuer.key(), Some(revocation), now).unwrap();
    list.sign(issuer).unwrap()
}

fn membership(index: usize) -> Membership {
    Membership {
        org: org_key().key(),
        issuer: org_key().key(),
        member: agent(index).key(),
        modifier: agent(index).modifier(),
        name: format!("agent-{index}"),
        role: "member".into(),
        groups: Vec::new(),
        services: Vec::new(),
        generations: 0,
        issued: NOW,
        expires: NOW + 90 * DAY,
        consented: NOW,
        lifetime: 90 * 86_400,
        consent: None,
    }
}

#[test]
fn members_know_each_other_by_the_organisations_word_alone() {
    let mut founder = founded();
    enrol(&mut founder, 0, &terms(), NOW);
    enrol(&mut founder, 1, &terms(), NOW);
    let roster = Roster::from_records(org_key().key(), &founder.records(), NOW).unwrap();
    let member = roster.named("agent-1", NOW).unwrap();
    assert_eq!((member.key(), member.address()), (agent(1).key(), agent(1).address()));
    assert_eq!(roster.member(&agent(0).key(), NOW).unwrap().groups, ["research"]);
    assert_eq!(roster.members(NOW).count(), 2);
}

#[test]
fn every_bit_flip_and_truncation_of_a_proof_is_refused() {
    let mut roster = founded();
    let proof = enrol(&mut roster, 0, &terms(), NOW);
    let is_refused = |bytes: &[u8]| Proof::verify(bytes, roster.charters(), NOW).is_err();
    for bit in 0..proof.len() * 8 {
        let mut flipped = proof.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(is_refused(&flipped), "bit {bit}");
    }
    assert!((0..proof.len()).all(|len| is_refused(&proof[..len])));
}

#[test]
fn a_membership_that_its_member_has_written_is_none() {
    let mut roster = founded();
    let own = Membership { issuer: agent(0).key(), ..membership(0) }.sign(agent(0)).unwrap();
    assert_eq!(roster.add_proof(&Proof::extend(None, own), NOW), Err(OrgError::Issuer));
}

#[test]
fn a_membership_of_another_organisation_is_none_here() {
    let charters = Issuer::found(agent(3), successor().key(), "fleet", NEVER, NOW).unwrap();
    let other = Roster::new(charters);
    let proof = Issuer::Org(agent(3).clone()).enrol(&other, &applicant(agent(0), "agent-0"), &terms(), NOW).unwrap();
    assert_eq!(founded().add_proof(&proof, NOW), Err(OrgError::ForeignOrg));
}

#[test]
fn a_member_enrols_others_within_its_rights_and_never_beyond() {
    let mut roster = founded();
    let rights = Terms { generations: 1, services: vec!["query".into()], role: "lead".into(), ..terms() };
    enrol(&mut roster, 0, &rights, NOW);
    let lead = Issuer::Member(agent(0).clone());
    let within = Terms { services: vec!["query".into()], ..terms() };
    let attempt = |roster: &Roster, terms: Terms| lead.enrol(roster, &applicant(agent(1), "agent-1"), &terms, NOW);
    let beyond = |what, terms: Terms| {
        assert_eq!(lead.check_terms(&roster, &terms, NOW), Err(OrgError::BeyondRights(what)));
        assert_eq!(attempt(&roster, terms), Err(OrgError::BeyondRights(what)));
    };
    assert_eq!(lead.check_terms(&roster, &within, NOW), Ok(()));
    beyond("generations", Terms { generations: 1, ..within.clone() });
    beyond("role", Terms { role: "admin".into(), ..within.clone() });
    beyond("groups", Terms { groups: vec!["finance".into()], ..within.clone() });
    beyond("services", Terms { services: vec!["mcp".into()], ..within.clone() });
    beyond("services", Terms { services: Vec::new(), ..within.clone() });
    let proof = attempt(&roster, Terms { role: "lead".into(), ..within }).unwrap();
    assert_eq!(roster.add_proof(&proof, NOW), Ok(true));
    // The second generation enrols nobody, also not by hand.
    let third = Membership { issuer: agent(1).key(), ..membership(2) }.sign(agent(1)).unwrap();
    let above = roster.proof(&agent(1).key(), NOW).unwrap();
    assert_eq!(
        Proof::verify(&Proof::extend(Some(above), third), roster.charters(), NOW),
        Err(OrgError::BeyondRights("generations"))
    );
}

#[test]
fn a_delegate_makes_nobody_a_member_who_has_not_asked_it_to() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let mut without = roster.clone();
    enrol(&mut roster, 1, &terms(), NOW);
    let later = NOW + DAY;
    let forged = |consent: Option<Applicant>| {
        let consent = consent.and_then(|applicant| applicant.consent);
        let forged = Membership { issuer: agent(0).key(), issued: later, consent, ..membership(1) };
        let forged = Membership { name: "nobody".into(), ..forged }.sign(agent(0)).unwrap();
        Proof::extend(roster.proof(&agent(0).key(), NOW), forged)
    };
    let to_another = applicant_to(agent(2), NOW, agent(1), "nobody");
    let at_another_date = applicant_at(NOW + Duration::from_secs(1), agent(1), "nobody");
    let others = [to_another, at_another_date, applicant(agent(1), "agent-1"), applicant(agent(0), "nobody")];
    for consent in others.map(Some).into_iter().chain([None]) {
        assert_eq!(roster.clone().add_proof(&forged(consent), later), Err(OrgError::Consent));
    }
    assert_eq!(without.add_proof(&forged(Some(applicant(agent(1), "nobody"))), later), Ok(true), "who has asked");
}

/// A delegate, and a worker that it has enrolled on the day.
fn with_worker() -> (Roster, Issuer, Applicant) {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let (lead, asked) = (Issuer::Member(agent(0).clone()), applicant(agent(1), "agent-1"));
    let worker = lead.enrol(&roster, &asked, &terms(), NOW).unwrap();
    roster.add_proof(&worker, NOW).unwrap();
    (roster, lead, asked)
}

#[test]
fn who_has_left_and_joined_by_another_is_a_member_by_that_one_whatever_the_first_still_says() {
    let (before, lead, asked) = with_worker();
    let hour = Duration::from_secs(3_600);
    let mut roster = before.clone();
    enrol(&mut roster, 2, &Terms { generations: 1, ..terms() }, NOW);
    let second = Issuer::Member(agent(2).clone());
    let joined = |issuer: &Issuer, by: &Identity| {
        let again = applicant_to(by, NOW + hour, agent(1), "elsewhere");
        issuer.enrol(&roster, &again, &terms(), NOW + hour).unwrap()
    };
    // The first one has heard nothing, and uses the consent that it has.
    let replayed = lead.enrol(&before, &asked, &terms(), NOW + 2 * hour).unwrap();
    for proof in [joined(&second, agent(2)), joined(&by_org(), agent(0))] {
        for order in [[&proof, &replayed], [&replayed, &proof]] {
            let mut roster = roster.clone();
            order.into_iter().for_each(|proof| assert!(roster.add_proof(proof, NOW + 2 * hour).is_ok()));
            assert_eq!(roster.member(&agent(1).key(), NOW + 2 * hour).unwrap().name, "elsewhere");
            assert_eq!(lead.enrol(&roster, &asked, &terms(), NOW + 2 * hour), Err(OrgError::Superseded));
            roster.add_list(&revoke(&roster, agent(0), agent(1), NOW + 2 * hour), NOW + 2 * hour).unwrap();
            assert!(roster.member(&agent(1).key(), NOW + 2 * hour).is_some(), "nor can the first one revoke it");
        }
    }
}

#[test]
fn who_joins_by_a_delegate_after_the_organisation_is_a_member_by_the_delegate() {
    let mut roster = founded();
    (0..2).for_each(|index| drop(enrol(&mut roster, index, &Terms { generations: 1, ..terms() }, NOW)));
    let lead = Issuer::Member(agent(0).clone());
    let later = NOW + DAY;
    let farther = lead.enrol(&roster, &applicant_at(later, agent(1), "worker"), &terms(), later).unwrap();
    assert_eq!(roster.add_proof(&farther, later), Ok(true));
    assert_eq!(roster.member(&agent(1).key(), later).unwrap().name, "worker");
}

#[test]
fn a_delegate_that_uses_a_consent_again_makes_nobody_a_member() {
    let (mut roster, lead, asked) = with_worker();
    let later = NOW + DAY + Duration::from_secs(1);
    assert_eq!(lead.enrol(&roster, &asked, &terms(), later), Err(OrgError::Clocks));
    let forge = |issued| Membership {
        issuer: agent(0).key(),
        issued,
        consent: asked.consent,
        consented: asked.consented,
        ..membership(1)
    };
    assert_eq!(
        forge(later).sign(agent(0)),
        Err(RecordError::Field("consented")),
        "nor is it believed of whoever signs it"
    );
    // What it signs in time, or back-dates, ends when the worker has left.
    let departure = Revocation::departure(roster.member(&agent(1).key(), NOW).unwrap());
    for lister in [org_key(), agent(0)] {
        let list = roster.revocations().next_list(roster.charters(), lister.key(), Some(departure), NOW).unwrap();
        let mut roster = roster.clone();
        roster.add_list(&list.sign(lister).unwrap(), NOW).unwrap();
        for issued in [NOW, NOW + DAY] {
            let forged = forge(issued).sign(agent(0)).unwrap();
            let proof = Proof::extend(roster.proof(&agent(0).key(), NOW), forged);
            assert_eq!(roster.add_proof(&proof, NOW + DAY), Err(OrgError::Revoked));
        }
    }
    roster.take_former(NOW);
    assert!(roster.member(&agent(1).key(), NOW).is_some(), "where nobody has heard of it, it is one still");
}

#[test]
fn a_delegate_that_has_a_consent_of_the_same_moment_takes_nobody_from_the_organisation() {
    let (mut roster, _, asked) = with_worker();
    let by_org = by_org().enrol(&roster, &applicant_at(NOW, agent(1), "agent-1"), &terms(), NOW).unwrap();
    roster.add_proof(&by_org, NOW).unwrap();
    let forged = Membership {
        issuer: agent(0).key(),
        issued: NOW + DAY,
        consent: asked.consent,
        consented: NOW,
        ..membership(1)
    };
    let proof = Proof::extend(roster.proof(&agent(0).key(), NOW), forged.sign(agent(0)).unwrap());
    assert_eq!(roster.add_proof(&proof, NOW + DAY), Ok(false), "the issuer's own date is no reason");
    assert_eq!(roster.proof(&agent(1).key(), NOW).unwrap().bytes(), by_org);
}

#[test]
fn an_issuer_takes_a_date_that_is_wrong_by_a_day_and_none_that_is_farther_off() {
    let roster = founded();
    let second = Duration::from_secs(1);
    let by_org_at = |date| by_org().enrol(&roster, &applicant_at(date, agent(1), "worker"), &terms(), NOW).map(drop);
    assert_eq!((by_org_at(NOW - DAY), by_org_at(NOW + DAY)), (Ok(()), Ok(())));
    let off = Err(OrgError::Clocks);
    assert_eq!((by_org_at(NOW - DAY - second), by_org_at(NOW + DAY + second)), (off.clone(), off));
}

#[test]
fn what_an_issuer_that_ends_soon_gives_is_made_up_for_by_the_next_renewal() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let lead = Issuer::Member(agent(0).clone());
    let late = NOW + 89 * DAY;
    let by_lead = |roster: &Roster, lifetime, now| {
        let asked = applicant_at(now, agent(1), "agent-1");
        let proof = lead.enrol(roster, &asked, &Terms { lifetime, ..terms() }, now).unwrap();
        Proof::verify(&proof, roster.charters(), now).unwrap().membership().clone()
    };
    let short = by_lead(&roster, 90 * 86_400, late);
    assert_eq!((short.expires, short.lifetime), (NOW + 90 * DAY, 90 * 86_400));
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, late);
    assert_eq!(by_lead(&roster, short.lifetime, late).expires, late + 90 * DAY);
}

#[test]
fn a_delegate_cannot_outlive_its_own_membership() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let own = Membership { issuer: agent(0).key(), expires: NOW + 91 * DAY, ..membership(1) }.sign(agent(0)).unwrap();
    let proof = Proof::extend(roster.proof(&agent(0).key(), NOW), own);
    assert_eq!(roster.add_proof(&proof, NOW), Err(OrgError::BeyondRights("time")));
}

#[test]
fn a_membership_that_ends_before_it_begins_is_none() {
    let backward = Membership { issued: NOW, expires: UnixTime::from_secs(NOW.as_secs() - 60), ..membership(0) };
    assert_eq!(backward.sign(org_key()), Err(RecordError::Field("expires")));
}

fn next_charter(roster: &Roster, signer: &Identity, key: &Identity) -> Vec<u8> {
    let before = roster.charter();
    let charter = Charter {
        sequence: before.sequence + 1,
        key: key.key(),
        successor: agent(5).key(),
        signer: signer.key(),
        previous_until: NOW + 30 * DAY,
        issued: NOW,
        ..before.clone()
    };
    charter.sign(signer).unwrap()
}

#[test]
fn a_clock_that_is_wrong_by_a_day_does_no_harm_and_by_more_it_does() {
    let mut roster = founded();
    let proof = enrol(&mut roster, 0, &terms(), NOW);
    let behind = UnixTime::from_secs(NOW.as_secs() - 86_400);
    assert!(Proof::verify(&proof, roster.charters(), behind).is_ok());
    let farther = UnixTime::from_secs(NOW.as_secs() - 86_401);
    assert_eq!(Proof::verify(&proof, roster.charters(), farther), Err(RecordError::NotYetValid.into()));
    let ends = NOW + 90 * DAY;
    assert!(roster.member(&agent(0).key(), ends + DAY - Duration::from_secs(1)).is_some());
    assert!(roster.member(&agent(0).key(), ends + DAY).is_none());
}

#[test]
fn of_two_members_of_one_name_the_nearer_to_the_organisation_has_it() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let lead = Issuer::Member(agent(0).clone());
    let by_lead = lead.enrol(&roster, &applicant(agent(1), "worker"), &terms(), NOW).unwrap();
    roster.add_proof(&by_lead, NOW).unwrap();
    assert_eq!(roster.named("worker", NOW).unwrap().key(), agent(1).key());
    let by_org = by_org().enrol(&roster, &applicant_at(NOW + DAY, agent(2), "worker"), &terms(), NOW + DAY).unwrap();
    roster.add_proof(&by_org, NOW + DAY).unwrap();
    assert_eq!(roster.named("worker", NOW + DAY).unwrap().key(), agent(2).key());
}

#[test]
fn of_two_who_enrol_one_name_with_the_organisations_key_at_once_the_first_stays_the_one_who_has_it() {
    let mut roster = founded();
    for (index, issued) in [(1, NOW + Duration::from_secs(1)), (0, NOW)] {
        let proof = by_org().enrol(&roster, &applicant(agent(index), "worker"), &terms(), issued).unwrap();
        roster.add_proof(&proof, issued).unwrap();
    }
    assert_eq!(roster.named("worker", NOW + DAY).map(Proof::key), Some(agent(0).key()));
    assert_eq!(roster.members(NOW + DAY).count(), 2);
}

#[test]
fn of_two_namesakes_by_two_delegates_neither_has_the_name_however_they_are_dated() {
    let mut roster = founded();
    (0..2).for_each(|index| drop(enrol(&mut roster, index, &Terms { generations: 1, ..terms() }, NOW)));
    let mut worker = |delegate: usize, index: usize, issued: UnixTime| {
        let lead = Issuer::Member(agent(delegate).clone());
        let worker = applicant_to(agent(delegate), NOW, agent(index), "worker");
        let proof = lead.enrol(&roster, &worker, &terms(), issued).unwrap();
        roster.add_proof(&proof, NOW).unwrap();
        roster.named("worker", NOW).map(Proof::key)
    };
    assert_eq!(worker(0, 2, NOW), Some(agent(2).key()));
    assert_eq!(worker(1, 3, NOW), None);
    assert_eq!(worker(1, 4, NOW), None, "nor by many");
    assert_eq!(roster.nearest_named("worker", NOW).len(), 3);
    roster.add_list(&revoke(&roster, org_key(), agent(1), NOW), NOW).unwrap();
    assert_eq!(roster.named("worker", NOW).map(Proof::key), Some(agent(2).key()), "until one of the two is out");
}

#[test]
fn a_member_that_tells_lies_changes_nothing() {
    let mut roster = founded();
    let proof = enrol(&mut roster, 0, &terms(), NOW);
    let mut forged = proof.clone();
    *forged.last_mut().unwrap() ^= 1;
    let vecs = |bytes: Vec<u8>| vec![ByteVec::from(bytes)];
    let foreign = Membership { issuer: agent(4).key(), ..membership(1) }.sign(agent(4)).unwrap();
    let lies = Records {
        charters: vecs(next_charter(&roster, agent(4), agent(4))),
        lists: vecs(revoke(&roster, agent(4), agent(0), NOW)),
        proofs: vec![forged.into(), Proof::extend(None, foreign).into(), ByteVec::from(vec![0xFF; 40])],
        whereabouts: vecs(whereabouts(agent(4), NOW)),
    };
    assert_eq!(roster.learn(&lies, NOW), Learned::default());
    assert_eq!(roster.members(NOW).count(), 1);
}

fn whereabouts(identity: &Identity, now: UnixTime) -> Vec<u8> {
    let whereabouts = Whereabouts {
        member: identity.key(),
        certificate: Vec::new(),
        addresses: vec!["192.0.2.1:4000".parse().unwrap()],
        homes: Vec::new(),
        issued: now,
        expires: now + DAY,
    };
    whereabouts.sign(identity).unwrap()
}

#[test]
fn the_latest_whereabouts_count_and_are_handed_on_once() {
    let mut roster = founded();
    enrol(&mut roster, 0, &terms(), NOW);
    enrol(&mut roster, 1, &terms(), NOW);
    let (_, seen) = roster.members_since(0, 10);
    assert_eq!(roster.add_whereabouts(&whereabouts(agent(0), NOW + DAY), NOW), Ok(true));
    assert_eq!(roster.add_whereabouts(&whereabouts(agent(0), NOW), NOW), Ok(false));
    let (news, after) = roster.members_since(seen, 10);
    assert_eq!((news.proofs.len(), news.whereabouts.len()), (1, 1));
    assert_eq!(roster.members_since(after, 10).0, Records::default());
    let restored =
        Roster::from_records(roster.org(), &Records::from_bytes(&roster.records().to_bytes()).unwrap(), NOW).unwrap();
    assert_eq!(restored.whereabouts(&agent(0).key()).unwrap().issued, NOW + DAY);
}

#[test]
fn a_proof_of_no_link_or_too_many_is_refused_before_any_signature_is_looked_at() {
    let roster = founded();
    let none: Vec<ByteVec> = Vec::new();
    let many: Vec<ByteVec> = vec![vec![0; 8].into(); 5];
    for links in [none, many] {
        assert_eq!(Proof::verify(&cbor::to_vec(&links), roster.charters(), NOW), Err(OrgError::ProofLength));
    }
}
