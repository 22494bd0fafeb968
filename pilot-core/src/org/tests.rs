#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::LazyLock;
use std::time::Duration;

use minicbor::bytes::ByteVec;

use super::OrgError;
use super::charter::{Charter, Charters};
use super::code::{Asker, Ends, Word};
use super::invite::{Invite, InviteError};
use super::issuer::{Applicant, EnrolError, INVITE_VALIDITY_MAX, Invites, Issuer, Ledger, Terms};
use super::membership::{Membership, Proof};
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

fn applicant(identity: &Identity, name: &str) -> Applicant {
    Applicant { key: identity.key(), modifier: identity.modifier(), name: name.into(), lifetime_max: Duration::MAX }
}

fn by_org() -> Issuer {
    Issuer::Org(org_key().clone())
}

/// Enrols `index` as `agent-index` on the organisation's word.
fn enrol(roster: &mut Roster, index: usize, terms: &Terms, now: UnixTime) -> Vec<u8> {
    let proof = by_org().enrol(roster, &applicant(agent(index), &format!("agent-{index}")), terms, now).unwrap();
    assert_eq!(roster.add_proof(&proof, now), Ok(true));
    proof
}

fn revoke(roster: &Roster, issuer: &Identity, who: &Identity, now: UnixTime) -> Vec<u8> {
    let revocation = Revocation { member: who.key(), issued_until: now, kept_until: now + 90 * DAY };
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
    let beyond = |what, terms: Terms| assert_eq!(attempt(&roster, terms), Err(OrgError::BeyondRights(what)));
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
fn a_delegate_cannot_outlive_its_own_membership() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let own = Membership { issuer: agent(0).key(), expires: NOW + 91 * DAY, ..membership(1) }.sign(agent(0)).unwrap();
    let proof = Proof::extend(roster.proof(&agent(0).key(), NOW), own);
    assert_eq!(roster.add_proof(&proof, NOW), Err(OrgError::BeyondRights("time")));
}

#[test]
fn who_is_revoked_is_out_with_everybody_it_has_enrolled() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let second =
        Issuer::Member(agent(0).clone()).enrol(&roster, &applicant(agent(1), "agent-1"), &terms(), NOW).unwrap();
    roster.add_proof(&second, NOW).unwrap();
    enrol(&mut roster, 2, &terms(), NOW);
    let list = revoke(&roster, org_key(), agent(0), NOW);
    assert_eq!(roster.add_list(&list, NOW), Ok(true));
    assert!(roster.member(&agent(0).key(), NOW).is_none() && roster.member(&agent(1).key(), NOW).is_none());
    assert!(roster.member(&agent(2).key(), NOW).is_some());
    let mut former = roster.take_former(NOW);
    former.sort();
    let mut expected = vec![agent(0).key(), agent(1).key()];
    expected.sort();
    assert_eq!(former, expected);
    assert_eq!(roster.add_proof(&second, NOW), Err(OrgError::Revoked), "it does not come back by showing it again");
}

#[test]
fn a_revoked_member_comes_back_by_a_later_membership_only() {
    let mut roster = founded();
    enrol(&mut roster, 0, &terms(), NOW);
    let list = revoke(&roster, org_key(), agent(0), NOW + DAY);
    roster.add_list(&list, NOW + DAY).unwrap();
    let again = |now| by_org().enrol(&roster, &applicant(agent(0), "agent-0"), &terms(), now).unwrap();
    let (same_second, later) = (again(NOW + DAY), again(NOW + DAY + Duration::from_secs(1)));
    assert_eq!(roster.add_proof(&same_second, NOW + DAY), Err(OrgError::Revoked));
    assert_eq!(roster.add_proof(&later, NOW + DAY), Ok(true));
}

#[test]
fn nobody_revokes_whom_it_has_not_enrolled() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    enrol(&mut roster, 1, &terms(), NOW);
    let by_plain_member = revoke(&roster, agent(1), agent(0), NOW);
    assert_eq!(roster.add_list(&by_plain_member, NOW), Err(OrgError::Issuer));
    let by_stranger = revoke(&roster, agent(3), agent(0), NOW);
    assert_eq!(roster.add_list(&by_stranger, NOW), Err(OrgError::Issuer));
    let by_delegate = revoke(&roster, agent(0), agent(1), NOW);
    assert_eq!(roster.add_list(&by_delegate, NOW), Ok(true));
    assert!(roster.member(&agent(1).key(), NOW).is_some(), "the delegate has not enrolled it");
}

#[test]
fn two_who_revoke_at_once_lose_nothing() {
    let mut roster = founded();
    (0..3).for_each(|index| drop(enrol(&mut roster, index, &terms(), NOW)));
    // Both administrators hold the organisation's key and neither knows of the other's list.
    let (one, other) = (revoke(&roster, org_key(), agent(0), NOW), revoke(&roster, org_key(), agent(1), NOW));
    for order in [[&one, &other], [&other, &one]] {
        let mut roster = roster.clone();
        order.into_iter().for_each(|list| assert_eq!(roster.add_list(list, NOW), Ok(true)));
        assert_eq!(roster.members(NOW).map(Proof::key).collect::<Vec<_>>(), [agent(2).key()]);
        let merged = revoke(&roster, org_key(), agent(2), NOW);
        assert_eq!(roster.add_list(&merged, NOW), Ok(true));
        assert_eq!(roster.revocations().lists().count(), 1, "the next list has both");
        assert_eq!(roster.members(NOW).count(), 0);
    }
}

#[test]
fn an_older_list_or_an_emptier_one_gives_nothing_back() {
    let mut roster = founded();
    enrol(&mut roster, 0, &terms(), NOW);
    let before = RevocationList {
        issued: NOW,
        ..roster.revocations().next_list(roster.charters(), org_key().key(), None, NOW).unwrap()
    };
    roster.add_list(&revoke(&roster, org_key(), agent(0), NOW + DAY), NOW + DAY).unwrap();
    let emptier = RevocationList { issued: NOW + DAY, sequence: 9, ..before.clone() };
    for list in [before, emptier] {
        roster.add_list(&list.sign(org_key()).unwrap(), NOW + DAY).unwrap();
        assert!(roster.member(&agent(0).key(), NOW + DAY).is_none());
    }
}

#[test]
fn many_lists_of_a_delegate_keep_no_list_of_the_organisation_out() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    enrol(&mut roster, 1, &terms(), NOW);
    for number in 0..100_u64 {
        // None covers another, since each revokes somebody else.
        let revocation = Revocation {
            member: crate::id::IdentityKey([u8::try_from(number).unwrap(); 32]),
            issued_until: NOW,
            kept_until: NOW + DAY,
        };
        let list = RevocationList {
            org: roster.org(),
            issuer: agent(0).key(),
            sequence: number,
            issued: NOW,
            expires: NOW + DAY,
            revocations: vec![revocation],
            endorsed: Vec::new(),
        };
        roster.add_list(&list.sign(agent(0)).unwrap(), NOW).ok();
    }
    assert_eq!(roster.add_list(&revoke(&roster, org_key(), agent(1), NOW), NOW), Ok(true));
    assert!(roster.member(&agent(1).key(), NOW).is_none());
}

/// A list of `issuer` that covers no other: it revokes somebody else, whom nobody knows.
fn stray_list(roster: &Roster, issuer: &Identity, number: u8) -> Vec<u8> {
    let member = crate::id::IdentityKey([number; 32]);
    let list = RevocationList {
        org: roster.org(),
        issuer: issuer.key(),
        sequence: u64::from(number),
        issued: NOW,
        expires: NOW + DAY,
        revocations: vec![Revocation { member, issued_until: NOW, kept_until: NOW + DAY }],
        endorsed: Vec::new(),
    };
    list.sign(issuer).unwrap()
}

#[test]
fn who_floods_with_lists_displaces_nothing_but_its_own() {
    let mut roster = founded();
    (0..2).for_each(|index| drop(enrol(&mut roster, index, &Terms { generations: 1, ..terms() }, NOW)));
    let honest = Issuer::Member(agent(1).clone());
    let proof = honest.enrol(&roster, &applicant(agent(2), "agent-2"), &terms(), NOW).unwrap();
    roster.add_proof(&proof, NOW).unwrap();
    let flood = |roster: &mut Roster| {
        (0..50).for_each(|number| drop(roster.add_list(&stray_list(roster, agent(0), number), NOW)));
    };
    flood(&mut roster);
    assert_eq!(roster.add_list(&revoke(&roster, agent(1), agent(2), NOW), NOW), Ok(true));
    flood(&mut roster);
    for number in 0..3 {
        roster.add_list(&stray_list(&roster, org_key(), 100 + number), NOW).unwrap();
    }
    assert!(roster.member(&agent(2).key(), NOW).is_none(), "what another member has revoked stays so");
}

#[test]
fn who_stole_a_key_that_was_replaced_keeps_no_list_of_the_new_one_out() {
    let mut roster = founded();
    enrol(&mut roster, 0, &terms(), NOW);
    (0..50).for_each(|number| drop(roster.add_list(&stray_list(&roster, org_key(), number), NOW)));
    roster.add_charter(&next_charter(&roster, successor(), agent(3)), NOW).unwrap();
    assert_eq!(roster.add_list(&revoke(&roster, agent(3), agent(0), NOW), NOW), Ok(true));
    assert!(roster.member(&agent(0).key(), NOW).is_none());
}

#[test]
fn what_a_replaced_key_has_revoked_stays_revoked_when_its_word_has_ended() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let lead = Issuer::Member(agent(0).clone());
    let worker = lead.enrol(&roster, &applicant(agent(1), "agent-1"), &terms(), NOW).unwrap();
    let worker: Vec<ByteVec> = cbor::from_slice(&worker).unwrap();
    roster.add_list(&revoke(&roster, org_key(), agent(1), NOW), NOW).unwrap();
    roster.add_charter(&next_charter(&roster, org_key(), agent(3)), NOW).unwrap();
    let next = roster.revocations().next_list(roster.charters(), agent(3).key(), None, NOW).unwrap();
    roster.add_list(&next.sign(agent(3)).unwrap(), NOW).unwrap();
    // The lead gets a membership of the new key; below it the worker puts the one that was revoked.
    let rights = Terms { generations: 1, ..terms() };
    let renewed = Issuer::Org(agent(3).clone()).enrol(&roster, &applicant(agent(0), "agent-0"), &rights, NOW + DAY);
    roster.add_proof(&renewed.unwrap(), NOW + DAY).unwrap();
    let grafted = Proof::extend(roster.proof(&agent(0).key(), NOW + DAY), worker[1].to_vec());
    assert_eq!(roster.add_proof(&grafted, NOW + 31 * DAY), Err(OrgError::Revoked));
}

#[test]
fn a_list_from_a_clock_ahead_keeps_its_issuer_from_signing_no_other() {
    let mut roster = founded();
    let (ahead, member) = (NOW + DAY, agent(0).key());
    let revocation = Revocation { member, issued_until: ahead + DAY, kept_until: ahead + 401 * DAY };
    let list = roster.revocations().next_list(roster.charters(), org_key().key(), Some(revocation), ahead).unwrap();
    roster.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    let next = roster.revocations().next_list(roster.charters(), org_key().key(), None, NOW).unwrap();
    assert_eq!(next.revocations.len(), 1);
    assert!(next.sign(org_key()).is_ok());
}

#[test]
fn a_revocation_ends_with_the_memberships_that_it_can_mean() {
    let roster = founded();
    let list = |issued_until, kept_until| {
        let more = Some(Revocation { member: agent(0).key(), issued_until, kept_until });
        roster.revocations().next_list(roster.charters(), org_key().key(), more, NOW).unwrap().sign(org_key())
    };
    assert!(list(NOW + DAY, NOW + 401 * DAY).is_ok());
    assert_eq!(list(NOW + 2 * DAY, NOW), Err(RecordError::Field("revocations")));
    assert_eq!(list(NOW, NOW + 402 * DAY), Err(RecordError::Field("revocations")));
}

#[test]
fn an_age_of_lists_beyond_all_times_is_never_reached() {
    let mut roster = founded_with(Duration::from_secs(u64::MAX));
    let list = roster.revocations().next_list(roster.charters(), org_key().key(), None, NOW).unwrap();
    roster.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    assert!(roster.lists_are_fresh(NOW + DAY));
}

#[test]
fn a_membership_that_ends_before_it_begins_is_none() {
    let backward = Membership { issued: NOW, expires: UnixTime::from_secs(NOW.as_secs() - 60), ..membership(0) };
    assert_eq!(backward.sign(org_key()), Err(RecordError::Field("expires")));
}

#[test]
fn an_organisation_decides_whether_old_lists_will_do() {
    let mut lenient = founded();
    enrol(&mut lenient, 0, &terms(), NOW);
    assert!(lenient.lists_are_fresh(NOW + 30 * DAY));
    let mut strict = founded_with(DAY);
    assert!(!strict.lists_are_fresh(NOW), "there is no list at all");
    let list = strict.revocations().next_list(strict.charters(), org_key().key(), None, NOW).unwrap();
    strict.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    assert!(strict.lists_are_fresh(NOW + DAY) && !strict.lists_are_fresh(NOW + DAY + Duration::from_secs(1)));
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
fn a_lost_key_is_replaced_by_its_successor_and_nobody_loses_trust() {
    let mut roster = founded();
    enrol(&mut roster, 0, &terms(), NOW);
    assert_eq!(roster.add_charter(&next_charter(&roster, successor(), agent(3)), NOW), Ok(true));
    assert!(roster.member(&agent(0).key(), NOW).is_some(), "what the old key has signed counts for a while");
    let renewed =
        Issuer::Org(agent(3).clone()).enrol(&roster, &applicant(agent(0), "agent-0"), &terms(), NOW + DAY).unwrap();
    assert_eq!(roster.add_proof(&renewed, NOW + DAY), Ok(true));
    let by_old_key = by_org().enrol(&roster, &applicant(agent(1), "agent-1"), &terms(), NOW).unwrap();
    roster.add_proof(&by_old_key, NOW).unwrap();
    let later = NOW + 31 * DAY;
    assert!(roster.member(&agent(0).key(), later).is_some() && roster.member(&agent(1).key(), later).is_none());
}

#[test]
fn the_successor_outranks_a_thief_of_the_key() {
    let mut roster = founded();
    let thief = next_charter(&roster, org_key(), agent(4));
    let rescue = next_charter(&roster, successor(), agent(3));
    assert_eq!(roster.add_charter(&thief, NOW), Ok(true));
    assert_eq!(roster.add_charter(&rescue, NOW), Ok(true));
    assert_eq!(roster.add_charter(&thief, NOW), Ok(false));
    assert_eq!(roster.charter().key, agent(3).key());
    let by_thief = Membership { issuer: agent(4).key(), ..membership(0) }.sign(agent(4)).unwrap();
    assert_eq!(roster.add_proof(&Proof::extend(None, by_thief), NOW), Err(OrgError::Issuer));
}

#[test]
fn who_was_told_of_a_thiefs_charter_hears_of_the_one_that_counts_from_others() {
    let (mut deceived, mut roster) = (founded(), founded());
    deceived.add_charter(&next_charter(&deceived, org_key(), agent(4)), NOW).unwrap();
    roster.add_charter(&next_charter(&roster, successor(), agent(3)), NOW).unwrap();
    let known: Vec<_> = deceived.rule_digests().collect();
    let news = roster.rules_except(&known);
    assert_eq!(news.charters.len(), 1, "the first one is known");
    assert_eq!(deceived.learn(&news, NOW).rules, 1);
    assert_eq!(deceived.charter(), roster.charter());
}

/// An organisation, what its founder has noted, and what happens when its key is stolen.
struct Theft {
    roster: Roster,
    ledger: Ledger,
}

impl Theft {
    /// Agent 0 may enrol, agent 1 was enrolled by it, agent 2 by the organisation; agent 3 is to be the new key.
    fn before() -> Self {
        let (mut roster, mut ledger) = (founded(), Ledger::default());
        for (index, generations) in [(0, 1), (2, 0)] {
            enrol(&mut roster, index, &Terms { generations, ..terms() }, NOW);
            ledger.enrolled(roster.proof(&agent(index).key(), NOW).unwrap(), NOW);
        }
        let lead = Issuer::Member(agent(0).clone());
        let worker = lead.enrol(&roster, &applicant(agent(1), "agent-1"), &terms(), NOW).unwrap();
        roster.add_proof(&worker, NOW).unwrap();
        Self { roster, ledger }
    }

    fn is_member(&self, index: usize, now: UnixTime) -> bool {
        self.roster.member(&agent(index).key(), now).is_some()
    }

    /// What the founder publishes: a charter by the successor that cuts the key off, and the new key's first list.
    fn rescue(&self, now: UnixTime) -> Records {
        let before = self.roster.charters().succeeded_by(&successor().key()).unwrap();
        let charter = Charter {
            sequence: before.sequence + 1,
            key: agent(3).key(),
            successor: agent(5).key(),
            signer: successor().key(),
            previous_until: now - DAY,
            issued: now,
            ..before.clone()
        };
        let mut roster = self.roster.clone();
        roster.add_charter(&charter.sign(successor()).unwrap(), now).unwrap();
        let list = self.ledger.first_list(roster.charters(), now).sign(agent(3)).unwrap();
        assert_eq!(roster.add_list(&list, now), Ok(true));
        roster.rules_except(&[])
    }
}

#[test]
fn when_a_stolen_key_is_cut_off_nobody_has_to_join_again() {
    let mut theft = Theft::before();
    let rescue = theft.rescue(NOW);
    theft.roster.learn(&rescue, NOW);
    for now in [NOW, NOW - DAY] {
        assert!(!theft.roster.charters().may_issue(&org_key().key(), now), "also by a clock that is behind by a day");
    }
    assert!((0..3).all(|index| theft.is_member(index, NOW)), "also whom a member has enrolled");
    let restored = Roster::from_records(theft.roster.org(), &theft.roster.records(), NOW).unwrap();
    assert_eq!(restored.members(NOW).count(), 3, "also from disk");
    let newcomer = Roster::from_records(theft.roster.org(), &rescue, NOW).unwrap();
    assert_eq!(newcomer.members(NOW).count(), 0, "it names nobody");
    // Later lists, and those of later keys, keep it so.
    let next = theft.roster.revocations().next_list(theft.roster.charters(), agent(3).key(), None, NOW + DAY).unwrap();
    theft.roster.add_list(&next.sign(agent(3)).unwrap(), NOW + DAY).unwrap();
    let charter = next_charter(&theft.roster, agent(3), agent(4));
    theft.roster.add_charter(&charter, NOW + DAY).unwrap();
    let next = theft.roster.revocations().next_list(theft.roster.charters(), agent(4).key(), None, NOW + DAY).unwrap();
    theft.roster.add_list(&next.sign(agent(4)).unwrap(), NOW + DAY).unwrap();
    let later = NOW + 60 * DAY;
    assert!(!theft.roster.charters().may_issue(&agent(3).key(), later) && theft.is_member(0, later));
    let ended = NOW + 402 * DAY;
    let next = theft.roster.revocations().next_list(theft.roster.charters(), agent(4).key(), None, ended).unwrap();
    assert!(next.endorsed.is_empty(), "nothing is carried on for ever");
}

#[test]
fn who_holds_a_key_that_was_cut_off_neither_enrols_nor_revokes_nor_renews_nor_makes_a_charter() {
    let mut theft = Theft::before();
    // While nobody knew: a member of its own, and an honest one with more rights and a later date.
    let thiefs = by_org().enrol(&theft.roster, &applicant(agent(4), "thief"), &terms(), NOW).unwrap();
    assert_eq!(theft.roster.add_proof(&thiefs, NOW), Ok(true));
    let raised = Terms { role: "admin".into(), ..terms() };
    let later = NOW + Duration::from_secs(60);
    let raised = by_org().enrol(&theft.roster, &applicant(agent(2), "agent-2"), &raised, later).unwrap();
    assert_eq!(theft.roster.add_proof(&raised, later), Ok(true));
    theft.roster.add_list(&revoke(&theft.roster, org_key(), agent(0), later), later).unwrap();
    assert!(!theft.is_member(0, later) && !theft.is_member(1, later) && theft.is_member(4, later));
    theft.roster.take_former(later);
    // Two charters, of which everybody sees one: neither is what the rescue rests on, although they name the successor, too.
    let charter_of_thief = |key: &Identity| {
        let (key, signer) = (key.key(), org_key().key());
        Charter { sequence: 1, key, signer, previous_until: NOW + 30 * DAY, ..founded().charter().clone() }
    };
    let seen_by_others = charter_of_thief(agent(5)).sign(org_key()).unwrap();
    let mut other = theft.roster.clone();
    assert_eq!(other.add_charter(&seen_by_others, later), Ok(true));
    assert_eq!(theft.roster.add_charter(&charter_of_thief(agent(4)).sign(org_key()).unwrap(), later), Ok(true));

    let rescue = theft.rescue(later);
    other.learn(&rescue, later);
    theft.roster.learn(&rescue, later);
    assert_eq!(other.charter(), theft.roster.charter());
    theft.ledger.proofs().for_each(|proof| drop(theft.roster.add_proof(proof, later)));
    assert!(theft.is_member(0, later) && !theft.is_member(4, later));
    assert_eq!(theft.roster.member(&agent(2).key(), later).unwrap().role, "member");

    // And afterwards, whatever date it puts on it.
    theft.roster.take_former(later);
    for proof in [&thiefs, &raised] {
        assert_eq!(theft.roster.add_proof(proof, later), Err(OrgError::Issuer));
    }
    let back_dated = Membership { issued: NOW, ..membership(4) }.sign(org_key()).unwrap();
    assert_eq!(theft.roster.add_proof(&Proof::extend(None, back_dated), later), Err(OrgError::Issuer));
    assert!(
        by_org()
            .enrol(&theft.roster, &applicant(agent(4), "thief"), &terms(), later)
            .is_ok_and(|proof| { theft.roster.add_proof(&proof, later) == Err(OrgError::Issuer) })
    );
    let list = RevocationList { issued: later, ..theft.ledger.first_list(theft.roster.charters(), later) };
    let list = RevocationList { issuer: org_key().key(), sequence: 99, ..list };
    assert_eq!(
        theft.roster.add_list(&list.sign(org_key()).unwrap(), later),
        Err(OrgError::Issuer),
        "it endorses nobody"
    );
    let charter = Charter { signer: org_key().key(), key: agent(4).key(), ..theft.roster.charter().clone() };
    assert_eq!(theft.roster.add_charter(&charter.sign(org_key()).unwrap(), later), Ok(false));
    let after = Charter { sequence: charter.sequence + 1, successor: agent(1).key(), ..charter };
    assert_eq!(theft.roster.add_charter(&after.sign(org_key()).unwrap(), later), Err(OrgError::Succession));
}

#[test]
fn what_was_revoked_before_a_theft_stays_revoked_after_it() {
    let mut theft = Theft::before();
    // The founder has revoked whom a member had enrolled, and one of its own.
    for index in [1, 2] {
        let revocation = Revocation { member: agent(index).key(), issued_until: NOW, kept_until: NOW + 90 * DAY };
        theft.ledger.revoked(revocation, NOW);
        theft.roster.add_list(&revoke(&theft.roster, org_key(), agent(index), NOW), NOW).unwrap();
    }
    let rescue = theft.rescue(NOW);
    let mut roster = theft.roster.clone();
    roster.learn(&rescue, NOW);
    assert!(roster.member(&agent(0).key(), NOW).is_some());
    assert!([1, 2].iter().all(|index| roster.member(&agent(*index).key(), NOW).is_none()));
}

#[test]
fn a_charter_by_anybody_else_or_out_of_order_is_refused() {
    let mut roster = founded();
    let foreign = next_charter(&roster, agent(4), agent(3));
    assert_eq!(roster.add_charter(&foreign, NOW), Err(OrgError::Succession));
    let charter: Charter =
        Charter { sequence: 2, signer: org_key().key(), key: agent(3).key(), ..roster.charter().clone() };
    assert_eq!(roster.add_charter(&charter.sign(org_key()).unwrap(), NOW), Err(OrgError::Succession));
    let renamed = Charter { sequence: 1, name: "other".into(), ..charter };
    assert_eq!(roster.add_charter(&renamed.sign(org_key()).unwrap(), NOW), Err(OrgError::Succession));
}

#[test]
fn charter_0_of_another_key_founds_nothing() {
    let charters = Issuer::found(agent(3), successor().key(), "fleet", NEVER, NOW).unwrap();
    let foreign = charters.chain().next().unwrap().to_vec();
    assert!(matches!(Charters::new(org_key().key(), &foreign, NOW), Err(OrgError::ForeignOrg)));
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
    let by_org = by_org().enrol(&roster, &applicant(agent(2), "worker"), &terms(), NOW + DAY).unwrap();
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
fn of_two_who_replace_the_key_at_once_each_is_followed_by_some_until_the_successor_decides() {
    let (mut one, mut other) = (founded(), founded());
    let charters = [next_charter(&one, org_key(), agent(3)), next_charter(&one, org_key(), agent(4))];
    for (roster, order) in [(&mut one, [0, 1]), (&mut other, [1, 0])] {
        assert_eq!(order.map(|which: usize| roster.add_charter(&charters[which], NOW)), [Ok(true), Ok(false)]);
    }
    assert_ne!(one.charter().key, other.charter().key);
    let decision = next_charter(&founded(), successor(), agent(2));
    for roster in [&mut one, &mut other] {
        assert_eq!(roster.add_charter(&decision, NOW), Ok(true));
    }
    assert_eq!(one.charter(), other.charter());
}

#[test]
fn of_two_namesakes_by_two_delegates_neither_has_the_name_however_they_are_dated() {
    let mut roster = founded();
    (0..2).for_each(|index| drop(enrol(&mut roster, index, &Terms { generations: 1, ..terms() }, NOW)));
    let mut worker = |delegate: usize, index: usize, issued: UnixTime| {
        let lead = Issuer::Member(agent(delegate).clone());
        let proof = lead.enrol(&roster, &applicant(agent(index), "worker"), &terms(), issued).unwrap();
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
fn what_a_member_has_revoked_stays_revoked_when_it_is_revoked_itself() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let lead = Issuer::Member(agent(0).clone());
    let worker = lead.enrol(&roster, &applicant(agent(1), "agent-1"), &terms(), NOW).unwrap();
    roster.add_proof(&worker, NOW).unwrap();
    roster.add_list(&revoke(&roster, agent(0), agent(1), NOW), NOW).unwrap();
    roster.add_list(&revoke(&roster, org_key(), agent(0), NOW + DAY), NOW + DAY).unwrap();
    roster.take_former(NOW + DAY);
    // The delegate comes back, and the worker puts its old membership below the new one.
    let again = NOW + 2 * DAY;
    let rights = Terms { generations: 1, ..terms() };
    let lead = by_org().enrol(&roster, &applicant(agent(0), "agent-0"), &rights, again).unwrap();
    let worker: Vec<ByteVec> = cbor::from_slice(&worker).unwrap();
    let later = again + Duration::from_secs(1);
    let restored = Roster::from_records(roster.org(), &roster.records(), again).unwrap();
    let told = Roster::from_records(roster.org(), &roster.rules_except(&[]), again).unwrap();
    for mut roster in [roster, restored, told] {
        assert_eq!(roster.add_proof(&lead, again), Ok(true));
        let grafted = Proof::extend(roster.proof(&agent(0).key(), later), worker[1].to_vec());
        assert_eq!(roster.add_proof(&grafted, later), Err(OrgError::Revoked));
    }
}

#[test]
fn a_list_by_nobody_who_enrols_is_none_whatever_proof_comes_along() {
    let mut roster = founded();
    let plain = enrol(&mut roster, 0, &terms(), NOW);
    let told = |by: usize, proof: &[u8]| {
        let lists = vec![stray_list(&roster, agent(by), 1).into()];
        Roster::new(roster.charters().clone())
            .learn(&Records { lists, proofs: vec![proof.to_vec().into()], ..Records::default() }, NOW)
    };
    assert_eq!(told(0, &plain).rules, 0);
    assert_eq!(told(1, &plain).rules, 0);
    let lead =
        by_org().enrol(&roster, &applicant(agent(1), "agent-1"), &Terms { generations: 1, ..terms() }, NOW).unwrap();
    assert_eq!(told(1, &lead).rules, 1);
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

type Secret = [u8; 16];
const INVITE: ([u8; 8], Secret) = ([1; 8], [2; 16]);

fn with_invite(uses: u32) -> Invites {
    let mut invites = Invites::default();
    invites.open(INVITE.0, &INVITE.1, terms(), uses, NOW + DAY, NOW).unwrap();
    invites
}

#[test]
fn of_two_who_want_the_last_use_of_an_invite_one_gets_it() {
    let (mut roster, mut invites) = (founded(), with_invite(1));
    let mut redeem = |index: usize| {
        let name = format!("agent-{index}");
        invites.redeem((&INVITE.0, &INVITE.1), &by_org(), &roster, &applicant(agent(index), &name), NOW)
    };
    let proof = redeem(0).unwrap();
    assert_eq!(redeem(1), Err(EnrolError::NoSuchInvite));
    assert!(redeem(0).is_ok(), "a lost answer costs no use");
    assert_eq!(roster.add_proof(&proof, NOW), Ok(true));
    let stored = Invites::from_bytes(&invites.to_bytes()).unwrap();
    assert_eq!((stored.list(NOW).count(), &stored), (0, &invites));
}

#[test]
fn an_expired_closed_or_guessed_invite_makes_nobody_a_member() {
    let (roster, mut invites) = (founded(), with_invite(5));
    let applicant = applicant(agent(0), "agent-0");
    let mut redeem = |secret: &Secret, now| invites.redeem((&INVITE.0, secret), &by_org(), &roster, &applicant, now);
    assert_eq!(redeem(&INVITE.1, NOW + DAY), Err(EnrolError::Expired));
    for _ in 0..10 {
        assert_eq!(redeem(&[3; 16], NOW), Err(EnrolError::NoSuchInvite));
    }
    assert_eq!(redeem(&INVITE.1, NOW), Err(EnrolError::NoSuchInvite), "ten wrong secrets end it");
    let mut invites = with_invite(5);
    assert!(invites.close(&INVITE.0) && !invites.close(&INVITE.0));
    let after = invites.redeem((&INVITE.0, &INVITE.1), &by_org(), &roster, &applicant, NOW);
    assert_eq!(after, Err(EnrolError::NoSuchInvite));
}

#[test]
fn departures_leave_room_to_revoke() {
    let mut roster = founded();
    let issuer = org_key().key();
    let gone = |number: u16| {
        let mut key = [9; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        Revocation { member: crate::id::IdentityKey(key), issued_until: NOW, kept_until: NOW + DAY }
    };
    assert!(roster.revocations().has_room_for_departure(&issuer, NOW));
    let list = RevocationList { revocations: (0..512).map(gone).collect(), ..next_list(&roster) };
    roster.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    assert!(!roster.revocations().has_room_for_departure(&issuer, NOW));
    let next = roster.revocations().next_list(roster.charters(), issuer, Some(gone(512)), NOW).unwrap();
    assert_eq!(next.revocations.len(), 513);
    assert!(roster.revocations().has_room_for_departure(&issuer, NOW + DAY * 3), "their time is over");
}

fn next_list(roster: &Roster) -> RevocationList {
    roster.revocations().next_list(roster.charters(), org_key().key(), None, NOW).unwrap()
}

#[test]
fn who_is_revoked_in_the_second_of_the_invite_does_not_come_back_by_it() {
    let (mut roster, mut invites) = (founded(), Invites::default());
    let made = NOW + Duration::from_millis(700);
    invites.open(INVITE.0, &INVITE.1, terms(), 2, made + DAY, made).unwrap();
    let mut redeem = |roster: &Roster, now| {
        invites.redeem((&INVITE.0, &INVITE.1), &by_org(), roster, &applicant(agent(0), "agent-0"), now)
    };
    let proof = redeem(&roster, made).unwrap();
    roster.add_proof(&proof, made).unwrap();
    // Lists count in whole seconds: this one is dated before the invite.
    let left = made + Duration::from_millis(100);
    let revoked = Revocation { member: agent(0).key(), issued_until: left, kept_until: NOW + DAY };
    let list = roster.revocations().next_list(roster.charters(), org_key().key(), Some(revoked), left).unwrap();
    roster.add_list(&list.sign(org_key()).unwrap(), left).unwrap();
    assert_eq!(redeem(&roster, left), Err(EnrolError::Revoked));
    assert_eq!(redeem(&roster, left + DAY / 2), Err(EnrolError::Revoked));
}

#[test]
fn no_invite_can_be_used_for_longer_than_the_greatest_time() {
    let mut invites = Invites::default();
    invites.open(INVITE.0, &INVITE.1, terms(), 1, NOW + 9_999 * DAY, NOW).unwrap();
    assert_eq!(invites.list(NOW).next().unwrap().3, NOW + INVITE_VALIDITY_MAX);
    assert_eq!(invites.list(NOW + INVITE_VALIDITY_MAX).count(), 0);
}

#[test]
fn a_code_leads_to_its_invite_and_ends_with_it() {
    let (roster, mut invites) = (founded(), Invites::default());
    let word = Word::new(4, &[1; 6]);
    invites.open_code(INVITE.0, (word.clone(), [2; 32]), terms(), NOW + DAY, NOW).unwrap();
    let ends = Ends { joiner: agent(0).key(), issuer: org_key().key() };
    let asker = Asker::new(&word, &ends, &[3; 64]);
    let share = asker.share();
    assert!(invites.answer_code((5, &share), &ends, NOW).is_err(), "another number");
    let answer = invites.answer_code((4, &share), &ends, NOW).unwrap();
    let stored = Invites::from_bytes(&invites.to_bytes()).unwrap();
    assert_eq!((stored.codes(NOW).next().unwrap().tries_left(), &stored), (2, &invites));
    let tag = asker.confirm(&answer).unwrap();
    let (id, secret) = invites.finish_code((4, &share, &tag), &ends, NOW).unwrap();
    let mut redeem = |index: usize, now| {
        invites.redeem((&id, &secret), &by_org(), &roster, &applicant(agent(index), "agent"), now).map(drop)
    };
    assert_eq!(redeem(1, NOW + DAY), Err(EnrolError::Expired));
    assert_eq!(redeem(0, NOW), Ok(()));
    assert_eq!(redeem(1, NOW), Err(EnrolError::NoSuchInvite), "it is for one");
    assert!(invites.answer_code((4, &share), &ends, NOW).is_ok(), "who has used it may have lost the answer");
    let other = Ends { joiner: agent(1).key(), ..ends };
    assert!(invites.answer_code((4, &share), &other, NOW).is_err());
    assert_eq!(invites.codes(NOW).count(), 0);
    assert!(invites.close(&id));
    assert!(invites.answer_code((4, &share), &ends, NOW).is_err());
}

#[test]
fn a_membership_lasts_no_longer_than_its_member_wants() {
    let roster = founded();
    let applicant = Applicant { lifetime_max: DAY / 24, ..applicant(agent(0), "agent-0") };
    let proof = by_org().enrol(&roster, &applicant, &terms(), NOW).unwrap();
    let proof = Proof::verify(&proof, roster.charters(), NOW).unwrap();
    assert_eq!(proof.membership().expires, NOW + DAY / 24);
}

#[test]
fn a_revoked_member_does_not_come_back_by_the_invite_that_it_had() {
    let (mut roster, mut invites) = (founded(), with_invite(2));
    let applicant = applicant(agent(0), "agent-0");
    let later = NOW + Duration::from_secs(60);
    let proof = invites.redeem((&INVITE.0, &INVITE.1), &by_org(), &roster, &applicant, NOW).unwrap();
    roster.add_proof(&proof, NOW).unwrap();
    let list = revoke(&roster, org_key(), agent(0), NOW + Duration::from_secs(30));
    roster.add_list(&list, later).unwrap();
    let again = invites.redeem((&INVITE.0, &INVITE.1), &by_org(), &roster, &applicant, later);
    assert_eq!(again, Err(EnrolError::Revoked));
    invites.open([7; 8], &INVITE.1, terms(), 1, later + DAY, later).unwrap();
    assert!(
        invites.redeem((&[7; 8], &INVITE.1), &by_org(), &roster, &applicant, later).is_ok(),
        "a later one is meant"
    );
}

#[test]
fn a_taken_name_costs_no_use() {
    let (mut roster, mut invites) = (founded(), with_invite(1));
    enrol(&mut roster, 0, &terms(), NOW);
    let mut redeem =
        |name: &str| invites.redeem((&INVITE.0, &INVITE.1), &by_org(), &roster, &applicant(agent(1), name), NOW);
    assert_eq!(redeem("agent-0"), Err(EnrolError::NameTaken("agent-0".into())));
    assert_eq!(redeem("Agent"), Err(EnrolError::Name("Agent".into())));
    assert!(redeem("agent-1").is_ok());
}

#[test]
fn an_invite_is_read_as_it_was_written_and_a_damaged_one_is_told_apart() {
    let issuer =
        Ticket::new(agent(0).key(), agent(0).modifier(), vec!["192.0.2.1:4000".parse().unwrap()], None).unwrap();
    let invite = Invite { org: org_key().key(), name: "fleet".into(), issuer, id: INVITE.0, secret: INVITE.1.into() };
    let text = invite.to_string();
    assert!(text.starts_with("pilot-invite:fleet."));
    assert_eq!(format!(" {text}\n").parse(), Ok(invite.clone()));
    for len in "pilot-invite:fleet.".len()..text.len() {
        assert_eq!(text[..len].parse::<Invite>(), Err(InviteError::Damaged), "{len}");
    }
    assert_eq!(text.replace("fleet", "float").parse::<Invite>(), Err(InviteError::Damaged));
    assert_eq!("pilot:abc".parse::<Invite>(), Err(InviteError::NotAnInvite));
    assert!(!format!("{invite:?}").contains("020202"), "the secret is not shown");
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
