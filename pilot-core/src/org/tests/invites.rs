//! Who becomes a member, and by what (spec/org.md §4, §6).

use super::*;

type Secret = [u8; 16];
const INVITE: ([u8; 8], Secret) = ([1; 8], [2; 16]);

fn with_invite(uses: u32) -> Invites {
    let mut invites = Invites::default();
    invites.open((INVITE.0, &INVITE.1), terms(), uses, NOW + DAY, &founded(), NOW).unwrap();
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
fn invites_that_are_used_up_make_room_the_oldest_first() {
    let (roster, mut invites) = (founded(), Invites::default());
    let id = |number: u16| [number.to_be_bytes(); 4].concat().try_into().unwrap();
    let open =
        |invites: &mut Invites, number: u16| invites.open((id(number), &INVITE.1), terms(), 1, NOW + DAY, &roster, NOW);
    let redeem = |invites: &mut Invites, number: u16| {
        invites.redeem((&id(number), &INVITE.1), &by_org(), &roster, &applicant(agent(0), "agent-0"), NOW)
    };
    for number in 0..256 {
        open(&mut invites, number).unwrap();
    }
    assert_eq!(open(&mut invites, 256), Err(OrgError::Full(256)), "each can still be used");
    for number in [5, 3] {
        redeem(&mut invites, number).unwrap();
    }
    open(&mut invites, 256).unwrap();
    assert_eq!(redeem(&mut invites, 3), Err(EnrolError::NoSuchInvite), "it is gone");
    assert!(redeem(&mut invites, 5).is_ok(), "a lost answer still costs nothing where there was room");
    open(&mut invites, 257).unwrap();
    assert_eq!(open(&mut invites, 258), Err(OrgError::Full(256)));
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
fn who_is_revoked_in_the_second_of_the_invite_does_not_come_back_by_it() {
    let (mut roster, mut invites) = (founded(), Invites::default());
    let made = NOW + Duration::from_millis(700);
    invites.open((INVITE.0, &INVITE.1), terms(), 2, made + DAY, &roster, made).unwrap();
    let mut redeem = |roster: &Roster, now| {
        invites.redeem((&INVITE.0, &INVITE.1), &by_org(), roster, &applicant(agent(0), "agent-0"), now)
    };
    let proof = redeem(&roster, made).unwrap();
    roster.add_proof(&proof, made).unwrap();
    // Lists count in whole seconds: this one is dated before the invite.
    let left = made + Duration::from_millis(100);
    let revoked = Revocation { member: agent(0).key(), until: left, kept_until: NOW + DAY, has_left: false };
    let list = roster.revocations().next_list(roster.charters(), org_key().key(), Some(revoked), left).unwrap();
    roster.add_list(&list.sign(org_key()).unwrap(), left).unwrap();
    assert_eq!(redeem(&roster, left), Err(EnrolError::Revoked));
    assert_eq!(redeem(&roster, left + DAY / 2), Err(EnrolError::Revoked));
}

#[test]
fn an_invite_made_after_a_revocation_in_the_same_second_is_good_until_the_next_one() {
    let (mut roster, mut invites) = (founded(), with_invite(9));
    let redeem = |invites: &mut Invites, roster: &Roster, id: [u8; 8], now| {
        let asked = applicant_at(now, agent(0), "agent-0");
        invites.redeem((&id, &INVITE.1), &by_org(), roster, &asked, now)
    };
    let mut rejoins = |roster: &mut Roster, id: u8, after: u8| {
        let member = roster.member(&agent(0).key(), NOW).unwrap();
        let revocation = roster.revocation(member, NOW);
        let list = roster.revocations().next_list(roster.charters(), org_key().key(), Some(revocation), NOW).unwrap();
        assert_eq!(roster.add_list(&list.sign(org_key()).unwrap(), NOW), Ok(true));
        roster.take_former(NOW);
        let before = redeem(&mut invites, roster, [after; 8], NOW);
        assert_eq!(before, Err(EnrolError::Revoked), "that of before");
        invites.open(([id; 8], &INVITE.1), terms(), 9, NOW + DAY, roster, NOW).unwrap();
        invites = Invites::from_bytes(&invites.to_bytes()).unwrap();
        let proof = redeem(&mut invites, roster, [id; 8], NOW).unwrap();
        assert_eq!(roster.add_proof(&proof, NOW), Ok(true));
    };
    enrol(&mut roster, 0, &terms(), NOW);
    // Again and again in the second of the first time.
    rejoins(&mut roster, 2, 1);
    rejoins(&mut roster, 3, 2);
    rejoins(&mut roster, 4, 3);
}

#[test]
fn the_invites_by_which_somebody_came_and_others_may_are_named() {
    let (roster, mut invites) = (founded(), with_invite(2));
    invites.open(([7; 8], &INVITE.1), terms(), 1, NOW + DAY, &roster, NOW).unwrap();
    invites.open(([8; 8], &INVITE.1), terms(), 9, NOW + DAY, &roster, NOW).unwrap();
    let asked = applicant(agent(0), "agent-0");
    for id in [INVITE.0, [7; 8]] {
        invites.redeem((&id, &INVITE.1), &by_org(), &roster, &asked, NOW).unwrap();
    }
    let used = |who: usize, now| invites.used_by(&agent(who).key(), now).copied().collect::<Vec<_>>();
    assert_eq!(used(0, NOW), [INVITE.0], "the other one is used up");
    assert_eq!((used(1, NOW).len(), used(0, NOW + DAY).len()), (0, 0));
}

#[test]
fn who_has_left_may_use_its_invite_again_and_who_was_revoked_may_not() {
    let (mut roster, mut invites) = (founded(), with_invite(1));
    let mut redeem = |roster: &Roster, now| {
        let asked = applicant_at(now, agent(0), "agent-0");
        invites.redeem((&INVITE.0, &INVITE.1), &by_org(), roster, &asked, now)
    };
    let proof = redeem(&roster, NOW).unwrap();
    roster.add_proof(&proof, NOW).unwrap();
    let departure = Revocation::departure(roster.member(&agent(0).key(), NOW).unwrap());
    let list = roster.revocations().next_list(roster.charters(), org_key().key(), Some(departure), NOW).unwrap();
    roster.add_list(&list.sign(org_key()).unwrap(), NOW).unwrap();
    let later = NOW + Duration::from_secs(1);
    let proof = redeem(&roster, later).unwrap();
    assert_eq!(roster.add_proof(&proof, later), Ok(true));
    roster.add_list(&revoke(&roster, org_key(), agent(0), later), later).unwrap();
    assert_eq!(redeem(&roster, later + DAY / 2), Err(EnrolError::Revoked));
}

#[test]
fn no_invite_can_be_used_for_longer_than_the_greatest_time() {
    let mut invites = Invites::default();
    invites.open((INVITE.0, &INVITE.1), terms(), 1, NOW + 9_999 * DAY, &founded(), NOW).unwrap();
    assert_eq!(invites.list(NOW).next().unwrap().3, NOW + INVITE_VALIDITY_MAX);
    assert_eq!(invites.list(NOW + INVITE_VALIDITY_MAX).count(), 0);
}

#[test]
fn a_code_leads_to_its_invite_and_ends_with_it() {
    let (roster, mut invites) = (founded(), Invites::default());
    let word = Word::new(4, &[1; 6]);
    invites.open_code(INVITE.0, (word.clone(), [2; 32]), terms(), NOW + DAY, &roster, NOW).unwrap();
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
    invites.open(([7; 8], &INVITE.1), terms(), 1, later + DAY, &roster, later).unwrap();
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
