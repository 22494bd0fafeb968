//! Keys of the organisation that are replaced, lost or stolen (spec/org.md §1.2, §5).

use super::*;

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

/// Gives agent 0, which may enrol, a membership of its own anew, as its founder does.
fn renew_lead(theft: &mut Theft, now: UnixTime) {
    enrol(&mut theft.roster, 0, &Terms { generations: 1, ..terms() }, now);
    theft.ledger.enrolled(theft.roster.proof(&agent(0).key(), now).unwrap(), now);
}

#[test]
fn when_a_stolen_key_is_cut_off_who_was_enrolled_before_a_delegate_has_renewed_stays_a_member() {
    let mut theft = Theft::before();
    let now = NOW + 46 * DAY;
    renew_lead(&mut theft, now);
    let rescue = theft.rescue(now);
    theft.roster.learn(&rescue, now);
    assert!((0..3).all(|index| theft.is_member(index, now)));
    let lead = Issuer::Member(agent(0).clone());
    let renewed = lead.enrol(&theft.roster, &applicant_at(now, agent(1), "agent-1"), &terms(), now).unwrap();
    assert_eq!(theft.roster.add_proof(&renewed, now), Ok(true), "and renews");
}

#[test]
fn of_a_delegates_earlier_memberships_a_few_are_endorsed_and_none_that_has_ended_or_was_revoked() {
    let mut theft = Theft::before();
    let endorsed = |theft: &Theft, now: UnixTime| theft.ledger.first_list(theft.roster.charters(), now).endorsed.len();
    let now = NOW + DAY;
    for second in 0..100 {
        renew_lead(&mut theft, now + Duration::from_secs(second));
    }
    assert_eq!(endorsed(&theft, now + DAY), 2 + 8, "that of agent 2, and of agent 0 the last and some before it");
    let ended = now + 91 * DAY;
    renew_lead(&mut theft, ended);
    assert_eq!(endorsed(&theft, ended), 1);
    renew_lead(&mut theft, ended + DAY);
    assert_eq!(endorsed(&theft, ended + DAY), 2);
    let revocation = Revocation { member: agent(0).key(), until: ended, kept_until: ended + 90 * DAY, has_left: false };
    theft.ledger.revoked(revocation, ended + DAY);
    assert_eq!(endorsed(&theft, ended + DAY), 0);
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
    let enrolled = by_org().enrol(&theft.roster, &applicant(agent(4), "thief"), &terms(), later);
    assert_eq!(enrolled, Err(OrgError::Issuer));
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
fn what_a_thief_has_ended_by_the_date_of_a_list_counts_again_when_the_key_is_cut_off() {
    let mut theft = Theft::before();
    let (ends, now) = (NOW + 90 * DAY, NOW + 90 * DAY - DAY / 24);
    let list = theft.roster.revocations().next_list(theft.roster.charters(), org_key().key(), None, ends).unwrap();
    assert_eq!(theft.roster.add_list(&list.sign(org_key()).unwrap(), now), Ok(true));
    assert!((0..3).all(|index| !theft.is_member(index, now)));
    let rescue = theft.rescue(now);
    theft.roster.learn(&rescue, now);
    assert!((0..3).all(|index| theft.is_member(index, now)));
}

#[test]
fn what_was_revoked_before_a_theft_stays_revoked_after_it() {
    let mut theft = Theft::before();
    // The founder has revoked whom a member had enrolled, and one of its own.
    for index in [1, 2] {
        let revocation =
            Revocation { member: agent(index).key(), until: NOW, kept_until: NOW + 90 * DAY, has_left: false };
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
fn of_two_who_replace_the_key_at_once_each_is_followed_by_some_until_the_successor_decides() {
    let (mut one, mut other) = (founded(), founded());
    let charters = [next_charter(&one, org_key(), agent(3)), next_charter(&one, org_key(), agent(4))];
    for (roster, order) in [(&mut one, [0, 1]), (&mut other, [1, 0])] {
        assert_eq!(order.map(|which: usize| roster.add_charter(&charters[which], NOW)), [Ok(true), Ok(true)]);
        assert_eq!(roster.charters().rival().map(|rival| rival.key), Some(agent(3 + order[1]).key()), "and is seen");
        assert_eq!(order.map(|which: usize| roster.add_charter(&charters[which], NOW)), [Ok(false), Ok(false)]);
    }
    assert_ne!(one.charter().key, other.charter().key);
    // It is told, and kept.
    let restored = Roster::from_records(one.org(), &one.records(), NOW).unwrap();
    assert_eq!((restored.charter(), restored.charters().rival()), (one.charter(), one.charters().rival()));
    let decision = next_charter(&founded(), successor(), agent(2));
    for roster in [&mut one, &mut other] {
        assert_eq!(roster.add_charter(&decision, NOW), Ok(true));
        assert_eq!(roster.add_charter(&charters[0], NOW), Ok(false));
        assert_eq!(roster.charters().rival(), None);
    }
    assert_eq!(one.charter(), other.charter());
}
