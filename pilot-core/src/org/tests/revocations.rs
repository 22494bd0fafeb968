//! Who is a member no more (spec/org.md §1.4).

use super::*;

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
    let again = |roster: &Roster, now| by_org().enrol(roster, &applicant_at(now, agent(0), "agent-0"), &terms(), now);
    let unaware = again(&founded(), NOW + DAY).unwrap();
    assert_eq!(roster.add_proof(&unaware, NOW + DAY), Err(OrgError::Revoked), "not by one of the same second");
    let aware = again(&roster, NOW + DAY).unwrap();
    assert_eq!(roster.add_proof(&aware, NOW + DAY), Ok(true), "but by one that is dated after it");
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
            until: NOW,
            kept_until: NOW + DAY,
            has_left: false,
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
        revocations: vec![Revocation { member, until: NOW, kept_until: NOW + DAY, has_left: false }],
        endorsed: Vec::new(),
    };
    list.sign(issuer).unwrap()
}

#[test]
fn who_floods_with_lists_displaces_nothing_but_its_own() {
    let mut roster = founded();
    (0..2).for_each(|index| drop(enrol(&mut roster, index, &Terms { generations: 1, ..terms() }, NOW)));
    let honest = Issuer::Member(agent(1).clone());
    let proof = honest.enrol(&roster, &applicant_to(agent(1), NOW, agent(2), "agent-2"), &terms(), NOW).unwrap();
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
    let revocation = Revocation { member, until: ahead + DAY, kept_until: ahead + 401 * DAY, has_left: false };
    let list = roster.revocations().next_list(roster.charters(), org_key().key(), Some(revocation), ahead).unwrap();
    roster.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    let next = roster.revocations().next_list(roster.charters(), org_key().key(), None, NOW).unwrap();
    assert_eq!(next.revocations.len(), 1);
    assert!(next.sign(org_key()).is_ok());
}

#[test]
fn a_revocation_ends_with_the_memberships_that_it_can_mean() {
    let roster = founded();
    let list = |until, kept_until| {
        let more = Some(Revocation { member: agent(0).key(), until, kept_until, has_left: false });
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
    let lead = by_org().enrol(&roster, &applicant_at(again, agent(0), "agent-0"), &rights, again).unwrap();
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
fn departures_leave_room_to_revoke() {
    let mut roster = founded();
    let issuer = org_key().key();
    let gone = |number: u16| {
        let mut key = [9; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        Revocation { member: crate::id::IdentityKey(key), until: NOW, kept_until: NOW + DAY, has_left: true }
    };
    assert!(roster.revocations().has_room_for_departure(&issuer, NOW));
    let list = RevocationList { revocations: (0..512).map(gone).collect(), ..next_list(&roster) };
    roster.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    assert!(!roster.revocations().has_room_for_departure(&issuer, NOW));
    let next = roster.revocations().next_list(roster.charters(), issuer, Some(gone(512)), NOW).unwrap();
    assert_eq!(next.revocations.len(), 513);
    assert!(roster.revocations().has_room_for_departure(&issuer, NOW + DAY), "their time is over");
}

#[test]
fn what_was_to_end_has_ended_with_the_next_list_of_its_issuer_and_departures_make_room() {
    let hour = DAY / 24;
    let mut roster = founded();
    let brief = Terms { lifetime: hour.as_secs(), ..terms() };
    let left = enrol(&mut roster, 0, &brief, NOW);
    enrol(&mut roster, 1, &brief, NOW);
    enrol(&mut roster, 2, &terms(), NOW);
    let departure = Revocation::departure(roster.member(&agent(0).key(), NOW).unwrap());
    let sign = |roster: &Roster, more, now| {
        let list = roster.revocations().next_list(roster.charters(), org_key().key(), more, now).unwrap();
        (list.revocations.len(), list.sign(org_key()).unwrap())
    };
    let (count, list) = sign(&roster, Some(departure), NOW);
    assert_eq!((count, roster.add_list(&list, NOW)), (1, Ok(true)));
    let later = NOW + hour;
    assert!(roster.is_end_unsaid(&org_key().key(), later) && !roster.is_end_unsaid(&org_key().key(), later - hour / 2));
    assert!(roster.member(&agent(1).key(), later).is_some(), "its clock, or ours, may be wrong");
    let (count, list) = sign(&roster, None, later);
    // Also by a clock that is behind: both dates are its issuer's.
    for now in [later, NOW - DAY / 2] {
        let mut roster = roster.clone();
        assert_eq!((count, roster.add_list(&list, now)), (0, Ok(true)));
        assert_eq!(roster.revocations().lists().count(), 1, "it says what the one before did");
        assert_eq!(roster.members(now).map(Proof::key).collect::<Vec<_>>(), [agent(2).key()]);
        roster.take_former(now);
        assert_eq!(roster.add_proof(&left, now), Err(OrgError::Revoked), "who has left does not come back");
        assert!(!roster.is_end_unsaid(&org_key().key(), now));
    }
    // By a clock that was set back since, somebody is made a member for as long as ever.
    roster.add_list(&list, later).unwrap();
    let again = by_org().enrol(&roster, &applicant(agent(3), "agent-3"), &brief, NOW).unwrap();
    assert_eq!(roster.add_proof(&again, NOW), Ok(true));
    assert_eq!(roster.member(&agent(3).key(), NOW).unwrap().expires, later + hour);
}

#[test]
fn the_list_of_a_member_ends_only_what_that_has_issued() {
    let hour = Duration::from_secs(3_600);
    let (mut roster, ..) = with_worker();
    enrol(&mut roster, 2, &Terms { lifetime: 3_600, ..terms() }, NOW);
    let list = |by: &Identity| {
        let list = roster.revocations().next_list(roster.charters(), by.key(), None, NOW + hour).unwrap();
        list.sign(by).unwrap()
    };
    let (of_lead, of_org) = (list(agent(0)), list(org_key()));
    assert_eq!(roster.add_list(&of_lead, NOW), Ok(true));
    assert!(roster.member(&agent(2).key(), NOW).is_some(), "the organisation has issued it");
    assert_eq!(roster.add_list(&of_org, NOW), Ok(true));
    assert!(roster.member(&agent(2).key(), NOW).is_none());
}

#[test]
fn who_leaves_and_comes_back_again_and_again_leaves_room_to_revoke() {
    let mut roster = founded();
    let issuer = org_key().key();
    let until = |second: u64| NOW - DAY + Duration::from_secs(second);
    for second in 0..1_100 {
        let gone = Revocation {
            member: agent(1).key(),
            until: until(second),
            kept_until: until(second) + 90 * DAY,
            has_left: true,
        };
        let next = roster.revocations().next_list(roster.charters(), issuer, Some(gone), NOW).unwrap();
        assert_eq!(next.revocations, [gone], "the last departure says what all before it did");
        assert_eq!(roster.add_list(&next.sign(org_key()).unwrap(), NOW), Ok(true));
    }
    let member = agent(1).key();
    let revoked = Revocation { member, until: NOW, kept_until: NOW + DAY, has_left: false };
    let next = roster.revocations().next_list(roster.charters(), issuer, Some(revoked), NOW).unwrap();
    assert_eq!(next.revocations.len(), 2, "a revocation is no departure");
}

fn next_list(roster: &Roster) -> RevocationList {
    roster.revocations().next_list(roster.charters(), org_key().key(), None, NOW).unwrap()
}

#[test]
fn an_issuer_that_has_not_heard_of_a_revocation_above_it_does_not_undo_it() {
    let (unaware, lead, _) = with_worker();
    let mut roster = unaware.clone();
    let revocation = unaware.revocation(unaware.member(&agent(1).key(), NOW).unwrap(), NOW);
    let list = roster.revocations().next_list(roster.charters(), org_key().key(), Some(revocation), NOW).unwrap();
    roster.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    let by = |issuer: &Issuer, roster: &Roster, now| {
        issuer.enrol(roster, &applicant_at(now, agent(1), "agent-1"), &terms(), now)
    };
    for later in [1, 45, 89].map(|days| NOW + days * DAY) {
        assert_eq!(roster.add_proof(&by(&lead, &unaware, later).unwrap(), later), Err(OrgError::Revoked));
        assert_eq!(by(&lead, &roster, later), Err(OrgError::Revoked), "one that has heard does not even try");
    }
    let again = by(&by_org(), &roster, NOW + DAY).unwrap();
    assert_eq!(roster.add_proof(&again, NOW + DAY), Ok(true), "who has revoked it takes it back");
}

#[test]
fn a_revocation_is_kept_as_long_as_an_issuer_can_be_one_without_hearing_of_it() {
    let (mut roster, ..) = with_worker();
    let revocation = roster.revocation(roster.member(&agent(1).key(), NOW).unwrap(), NOW);
    let list = roster.revocations().next_list(roster.charters(), org_key().key(), Some(revocation), NOW).unwrap();
    roster.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    let kept = |days: u32| {
        let list = roster.revocations().next_list(roster.charters(), org_key().key(), None, NOW + days * DAY);
        list.unwrap().revocations.len()
    };
    // A lead that became one at a clock that was a day ahead, and for the longest time, for clocks that are a day behind.
    assert_eq!((kept(400), kept(402)), (1, 0));
    let lead = roster.member(&agent(0).key(), NOW).unwrap();
    assert_eq!(
        roster.revocation(lead, NOW).kept_until,
        lead.expires,
        "where nobody else enrols there is nobody to hear"
    );
}

#[test]
fn who_has_left_is_enrolled_again_by_anybody_who_may() {
    let (mut roster, lead, _) = with_worker();
    let departure = Revocation::departure(roster.member(&agent(1).key(), NOW).unwrap());
    let list = roster.revocations().next_list(roster.charters(), org_key().key(), Some(departure), NOW).unwrap();
    roster.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    assert!(roster.member(&agent(1).key(), NOW).is_none());
    let again = lead.enrol(&roster, &applicant_at(NOW + DAY, agent(1), "agent-1"), &terms(), NOW + DAY).unwrap();
    assert_eq!(roster.add_proof(&again, NOW + DAY), Ok(true));
}

/// Makes somebody a member that may enrol.
fn enrol_lead(roster: &mut Roster, lead: &Identity) {
    let name = format!("lead-{}", lead.key().0[0]);
    let rights = Terms { generations: 1, ..terms() };
    let proof = by_org().enrol(roster, &applicant(lead, &name), &rights, NOW).unwrap();
    roster.add_proof(&proof, NOW).unwrap();
}

/// Whether a lead's [`stray_list`] is known.
fn knows(roster: &Roster, lead: &Identity, number: u8) -> bool {
    roster.revocations().revoked_until(&lead.key(), &crate::id::IdentityKey([number; 32])).is_some()
}

#[test]
fn whom_a_delegate_has_revoked_stays_out_however_many_others_and_the_organisation_revoke() {
    let mut roster = founded();
    let leads: Vec<_> = (40..58).map(|seed| Identity::generate([seed; 32])).collect();
    leads.iter().for_each(|lead| enrol_lead(&mut roster, lead));
    let first = Issuer::Member(leads[0].clone());
    let asked = applicant_to(&leads[0], NOW, agent(1), "worker");
    let worker = first.enrol(&roster, &asked, &terms(), NOW).unwrap();
    roster.add_proof(&worker, NOW).unwrap();
    roster.add_list(&revoke(&roster, &leads[0], agent(1), NOW), NOW).unwrap();
    for lead in &leads[1..] {
        assert_eq!(roster.add_list(&stray_list(&roster, lead, 9), NOW), Ok(true));
    }
    assert_eq!(roster.add_list(&revoke(&roster, org_key(), agent(0), NOW), NOW), Ok(true));
    let restored = Roster::from_records(roster.org(), &roster.records(), NOW).unwrap();
    for mut roster in [roster, restored] {
        roster.take_former(NOW);
        assert_eq!(roster.add_proof(&worker, NOW), Err(OrgError::Revoked));
        assert!(leads[1..].iter().all(|lead| knows(&roster, lead, 9)));
    }
}

/// Takes as many lists of this lead as there is room for, each as great as it can be.
fn fill(roster: &mut Roster, lead: &Identity) {
    for sequence in 0..100 {
        let revocation = |number: u16| {
            let mut member = [0xF0; 32];
            member[..2].copy_from_slice(&number.to_be_bytes());
            member[2] = sequence;
            let member = crate::id::IdentityKey(member);
            Revocation { member, until: NOW, kept_until: NOW + DAY, has_left: false }
        };
        let list = |count| RevocationList {
            org: roster.org(),
            issuer: lead.key(),
            sequence: u64::from(sequence),
            issued: NOW,
            expires: NOW + DAY,
            revocations: (0..count).map(revocation).collect(),
            endorsed: Vec::new(),
        };
        let lists: Vec<_> = (0..11).map(|halvings| list(1_024 >> halvings).sign(lead).unwrap()).collect();
        if !lists.iter().any(|list| roster.add_list(list, NOW).is_ok()) {
            return;
        }
    }
}

#[test]
fn members_that_fill_the_room_displace_nothing_keep_the_organisation_from_nothing_and_are_revoked_for_it() {
    let mut roster = founded();
    let leads: Vec<_> = (40..50).map(|seed| Identity::generate([seed; 32])).collect();
    leads.iter().for_each(|lead| enrol_lead(&mut roster, lead));
    let [early, late, evil @ ..] = &leads[..] else { panic!("there are ten") };
    roster.add_list(&stray_list(&roster, early, 1), NOW).unwrap();
    evil.iter().for_each(|lead| fill(&mut roster, lead));
    let list = stray_list(&roster, late, 2);
    assert_eq!(roster.add_list(&list, NOW), Err(OrgError::NoRoomForList));
    assert!(knows(&roster, early, 1), "what has been said before stays");
    let held: usize = roster.revocations().lists().map(<[u8]>::len).sum();
    assert!(held < 2 * 1_024 * 1_024, "{held}");
    assert_eq!(roster.add_list(&revoke(&roster, org_key(), &evil[0], NOW), NOW), Ok(true));
    assert_eq!(roster.add_list(&list, NOW), Ok(true), "who is a member no more makes room");
    assert!(knows(&roster, early, 1) && knows(&roster, late, 2));
}

#[test]
fn lists_of_members_that_say_nothing_any_more_make_room() {
    let mut roster = founded();
    let leads: Vec<_> = (40..49).map(|seed| Identity::generate([seed; 32])).collect();
    leads.iter().for_each(|lead| enrol_lead(&mut roster, lead));
    leads[1..].iter().for_each(|lead| fill(&mut roster, lead));
    let list = stray_list(&roster, &leads[0], 1);
    assert_eq!(roster.add_list(&list, NOW), Err(OrgError::NoRoomForList));
    let list =
        RevocationList { issued: NOW + 2 * DAY, expires: NOW + 3 * DAY, ..RevocationList::verify(&list, NOW).unwrap() };
    assert_eq!(roster.add_list(&list.sign(&leads[0]).unwrap(), NOW + 2 * DAY), Ok(true));
}

#[test]
fn a_member_endorses_nobody() {
    let mut roster = founded();
    enrol(&mut roster, 0, &Terms { generations: 1, ..terms() }, NOW);
    let root = *roster.proof(&agent(0).key(), NOW).unwrap().root();
    let list = RevocationList { issuer: agent(0).key(), endorsed: vec![root], ..next_list(&roster) };
    assert_eq!(roster.add_list(&list.sign(agent(0)).unwrap(), NOW), Err(OrgError::Issuer));
}

#[test]
fn rules_are_told_in_parts_the_newest_first_and_each_with_the_proofs_that_it_takes() {
    let mut roster = founded();
    (0..3).for_each(|index| drop(enrol(&mut roster, index, &Terms { generations: 1, ..terms() }, NOW)));
    assert_eq!(roster.rules_in_parts(&[], 0).len(), 1, "the charter alone");
    (0..3).for_each(|index| drop(roster.add_list(&stray_list(&roster, agent(index), 1), NOW)));
    let apart = roster.rules_in_parts(&[], 0);
    let issuers: Vec<_> = apart.iter().map(|part| RevocationList::claimed_issuer(&part.lists[0]).unwrap()).collect();
    assert_eq!(issuers, [2, 1, 0].map(|index| agent(index).key()));
    let together = roster.rules_in_parts(&[], 10_000);
    assert_eq!((together.len(), together[0].lists.len(), together[0].charters.len()), (1, 3, 1));
    for part in apart.iter().chain(&together) {
        let mut member = Roster::new(roster.charters().clone());
        assert_eq!(member.learn(part, NOW).rules, part.lists.len());
    }
    let known: Vec<_> = roster.rule_digests().take(2).collect();
    let rest = &roster.rules_in_parts(&known, 10_000)[0];
    assert_eq!((rest.charters.len(), rest.lists.len()), (0, 2));
}
