//! What an agent keeps of its organisations, and when.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::time::Duration;

use pilot_core::org::OrgError;
use pilot_core::org::charter::Charters;
use pilot_core::org::invite::Invite;
use pilot_core::org::issuer::{Applicant, Terms};
use pilot_core::org::membership::Proof;
use pilot_core::org::revocation::{LIST_VALIDITY_MAX, Revocation};
use pilot_core::org::whereabouts::Whereabouts;
use pilot_core::ticket::Ticket;
use tempfile::TempDir;

use super::*;

const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const FLEET: &str = "fleet";

/// An agent in an organisation whose key somebody else has, with one other member.
struct Desk {
    home: TempDir,
    orgs: Orgs,
    key: Identity,
    other: Identity,
    state: std::path::PathBuf,
}

impl Desk {
    async fn new() -> Self {
        Self::with_list_age(Duration::ZERO).await
    }

    async fn with_list_age(list_age_max: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = AgentHome::at(directory.path());
        let [key, successor, own, other] = [1, 2, 3, 4].map(|seed| Identity::generate([seed; 32]));
        let charters = Issuer::found(&key, successor.key(), FLEET, list_age_max, NOW).unwrap();
        let mut roster = Roster::new(charters);
        for (name, member) in [("own", &own), ("other", &other)] {
            roster.add_proof(&enrol(&key, &roster, name, member), NOW).unwrap();
        }
        let orgs = Orgs::load(&home, &own, NOW).unwrap();
        orgs.add(Org::new(roster, None, None), None).await.unwrap();
        let state = directory.path().join("orgs").join(FLEET).join("state");
        Self { home: directory, orgs, key, other, state }
    }

    fn roster(&self) -> Roster {
        self.orgs.with(FLEET, |org| org.roster.clone()).unwrap()
    }

    /// A list that revokes the other member.
    fn revocation(&self) -> Records {
        let roster = self.roster();
        let revocation =
            Revocation { member: self.other.key(), until: NOW, kept_until: NOW + 90 * DAY, has_left: false };
        let list = roster.revocations().next_list(roster.charters(), self.key.key(), Some(revocation), NOW).unwrap();
        Records { lists: vec![list.sign(&self.key).unwrap().into()], ..Records::default() }
    }

    fn whereabouts(&self, now: UnixTime) -> Records {
        let whereabouts = Whereabouts {
            member: self.other.key(),
            certificate: Vec::new(),
            addresses: vec!["192.0.2.1:4000".parse().unwrap()],
            homes: Vec::new(),
            issued: now,
            expires: now + DAY,
        };
        Records { whereabouts: vec![whereabouts.sign(&self.other).unwrap().into()], ..Records::default() }
    }

    fn is_member(&self) -> bool {
        self.roster().member(&self.other.key(), NOW).is_some()
    }
}

fn enrol(key: &Identity, roster: &Roster, name: &str, member: &Identity) -> Vec<u8> {
    enrol_at(key, roster, name, member, NOW)
}

fn enrol_at(key: &Identity, roster: &Roster, name: &str, member: &Identity, now: UnixTime) -> Vec<u8> {
    let terms =
        Terms { role: "member".into(), groups: vec![], services: vec![], generations: 0, lifetime: 90 * 86_400 };
    let (name, lifetime_max) = (name.into(), Duration::MAX);
    let modifier = member.modifier();
    let applicant = Applicant { key: member.key(), modifier, name, lifetime_max, consented: now, consent: None };
    Issuer::Org(key.clone()).enrol(roster, &applicant, &terms, now).unwrap()
}

#[tokio::test]
async fn a_clock_that_was_set_back_is_named_and_no_file_is_called_damaged() {
    let desk = Desk::new().await;
    let home = AgentHome::at(desk.home.path());
    let behind = UnixTime::from_secs(NOW.as_secs() - 2 * DAY.as_secs());
    let found = Orgs::load(&home, &desk.other, behind);
    assert!(matches!(found, Err(HomeError::Clock { .. })));
    assert!(Orgs::load(&home, &desk.other, NOW).is_ok());
}

#[tokio::test]
async fn a_revocation_counts_although_the_disk_does_not_take_it_and_is_kept_when_it_does() {
    let desk = Desk::new().await;
    let directory = desk.state.parent().unwrap().to_owned();
    fs::remove_dir_all(&directory).unwrap();
    let learned = desk.orgs.learn(FLEET, &desk.revocation(), NOW).await.unwrap();
    assert_eq!(learned.rules, 1, "it is announced");
    assert!(!desk.is_member());
    assert_eq!(desk.orgs.take_former(FLEET, NOW).await, [desk.other.key()]);
    let decided = desk.orgs.change(FLEET, |org| Ok(org.roster.remove(&desk.other.key()))).await;
    assert!(decided.is_err(), "what is decided here is not, if it cannot be kept");
    assert!(!desk.is_member(), "and that takes nothing back of what was heard");
    fs::create_dir_all(&directory).unwrap();
    desk.orgs.save_unsaved().await;
    let loaded = Orgs::load(&desk.orgs.home, &desk.orgs.identity, NOW).unwrap();
    let lists = loaded.with(FLEET, |org| org.roster.revocations().lists().count());
    assert_eq!(lists.unwrap(), 1);
}

/// What a member decides by a list that has run out, told to it late, known all the time, and after a restart.
#[tokio::test]
async fn a_list_that_has_run_out_is_no_news_and_its_age_alone_decides_whether_members_are_trusted() {
    let ended = NOW + LIST_VALIDITY_MAX + CLOCK_SKEW;
    for (age_max, is_trusted) in [(Duration::ZERO, true), (7 * DAY, false)] {
        let (late, desk) = (Desk::with_list_age(age_max).await, Desk::with_list_age(age_max).await);
        let (own, other) = (desk.orgs.own_key(), desk.other.key());
        desk.orgs.learn(FLEET, &desk.revocation(), NOW).await.unwrap();
        let list = desk.roster().revocations().lists().next().unwrap().to_vec();
        let told = Records { lists: vec![list.into()], ..Records::default() };
        assert_eq!(late.orgs.learn(FLEET, &told, ended).await.unwrap(), Learned::default());

        // Its own membership is renewed in time.
        let renewed = ended - 30 * DAY;
        let proof = enrol_at(&desk.key, &desk.roster(), "own", &desk.orgs.identity, renewed);
        let proof = Records { proofs: vec![proof.into()], ..Records::default() };
        assert_eq!(desk.orgs.learn(FLEET, &proof, renewed).await.unwrap().members, 1);
        let restarted = Orgs::load(&desk.orgs.home, &desk.orgs.identity, ended).unwrap();
        let lists = |orgs: &Orgs| orgs.with(FLEET, |org| org.roster.revocations().lists().count()).unwrap();
        assert_eq!((lists(&desk.orgs), lists(&restarted)), (1, 0));
        let trusts = |orgs: &Orgs, key| orgs.standings(key, ended).iter().any(|standing| standing.vouches_for("query"));
        for orgs in [&desk.orgs, &restarted] {
            assert_eq!((trusts(orgs, &own), trusts(orgs, &other)), (is_trusted, false), "age {age_max:?}");
        }

        let next = |org: &mut Org| {
            org.roster.revocations().next_list(org.roster.charters(), desk.key.key(), None, ended).unwrap()
        };
        let next = restarted.with(FLEET, next).unwrap().sign(&desk.key).unwrap();
        let next = Records { lists: vec![next.into()], ..Records::default() };
        for orgs in [&desk.orgs, &restarted] {
            assert_eq!(orgs.learn(FLEET, &next, ended).await.unwrap().rules, 1);
            assert!(trusts(orgs, &own) && !trusts(orgs, &other), "the next one is as good as the first");
        }
    }
}

#[tokio::test]
async fn who_shows_itself_again_and_again_costs_no_write_each_time() {
    let desk = Desk::new().await;
    let before = fs::read(&desk.state).unwrap();
    for second in 1..100 {
        let now = NOW + Duration::from_secs(second);
        let learned = desk.orgs.learn(FLEET, &desk.whereabouts(now), now).await.unwrap();
        assert_eq!(learned.whereabouts, 1);
    }
    assert!(fs::read(&desk.state).unwrap() == before, "whereabouts were written down at once");
    desk.orgs.save_unsaved().await;
    let written = fs::read(&desk.state).unwrap();
    assert!(written != before, "whereabouts were not written down at all");
    desk.orgs.save_unsaved().await;
    assert!(fs::read(&desk.state).unwrap() == written);
}

#[tokio::test]
async fn a_refusal_that_leaves_no_trace_costs_no_write_and_one_that_fails_half_way_changes_nothing() {
    let desk = Desk::new().await;
    fs::remove_file(&desk.state).unwrap();
    let refused = desk.orgs.change(FLEET, |org| {
        org.roster.remove(&desk.other.key());
        Err::<(), _>(failed(&"no"))
    });
    assert_eq!(refused.await.unwrap_err().message, "no");
    assert!(!desk.state.exists() && desk.is_member());
}

#[tokio::test]
async fn a_consent_is_dated_after_the_last_one_also_where_the_clock_was_set_back_over_a_restart() {
    let desk = Desk::new().await;
    let restarted = || Orgs::load(&desk.orgs.home, &desk.orgs.identity, NOW).unwrap();
    let second = Duration::from_secs(1);
    assert_eq!(desk.orgs.date_to_ask(NOW), NOW);
    assert_eq!(restarted().date_to_ask(NOW - DAY / 2), NOW + second);
    restarted().note_left(NOW + DAY / 2);
    assert_eq!(restarted().date_to_ask(NOW), NOW + DAY / 2 + second);
    restarted().note_left(NOW + 900 * DAY);
    assert_eq!(restarted().date_to_ask(NOW), NOW, "a date that nobody would take is none");
}

#[tokio::test]
async fn who_is_told_a_roster_of_another_organisation_learns_nothing() {
    let desk = Desk::new().await;
    let foreign = Identity::generate([9; 32]);
    let charters = Issuer::found(&foreign, desk.other.key(), FLEET, Duration::ZERO, NOW).unwrap();
    let roster = Roster::new(Charters::clone(&charters));
    let proof = enrol(&foreign, &roster, "mallory", &foreign);
    assert!(Proof::verify(&proof, &charters, NOW).is_ok());
    let lies = Records { proofs: vec![proof.into()], ..roster.records() };
    assert_eq!(desk.orgs.learn(FLEET, &lies, NOW).await.unwrap(), Learned::default());
}

#[tokio::test]
async fn an_invite_whose_issuer_does_not_speak_for_the_organisation_makes_nobody_a_member() {
    let desk = Desk::new().await;
    let genuine = desk.roster();
    let mallory = Identity::generate([9; 32]);
    let charters = Issuer::found(&mallory, desk.other.key(), FLEET, Duration::ZERO, NOW).unwrap();
    let forged = Roster::new(charters);
    let issuer = Ticket::new(mallory.key(), mallory.modifier(), vec!["192.0.2.1:4000".parse().unwrap()], None).unwrap();
    let invite = Invite { org: genuine.org(), name: FLEET.into(), issuer, id: [1; 8], secret: [2; 16].into() };
    let own = &desk.orgs.identity;
    let by = |key: &Identity, roster: &Roster| enrol(key, roster, "own", own);
    let believed = |records: &Roster, proof: &[u8]| {
        calls::believe(&invite, &records.records(), proof, own.key(), NOW).map(|roster| roster.org())
    };
    assert_eq!(believed(&genuine, &by(&desk.key, &genuine)), Ok(genuine.org()));
    assert_eq!(
        believed(&forged, &by(&mallory, &forged)),
        Err(OrgError::ForeignOrg),
        "another organisation of that name"
    );
    assert_eq!(believed(&genuine, &by(&mallory, &forged)), Err(OrgError::ForeignOrg), "a proof of another");
    let mut later = genuine.clone();
    later.add_proof(&enrol_at(&desk.key, &genuine, "own", own, NOW + DAY), NOW + DAY).unwrap();
    assert_eq!(
        believed(&later, &by(&desk.key, &genuine)),
        Err(OrgError::Superseded),
        "one that does not count, since it has asked for another later"
    );
    let others = enrol(&desk.key, &genuine, "other", &desk.other);
    assert_eq!(believed(&genuine, &others), Err(OrgError::ForeignOrg), "a proof of somebody else");
}
