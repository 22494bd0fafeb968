//! The organisations that an agent is in (spec/org.md): what it knows of their members, kept on disk, and told among them.
//!
//! [`Orgs`] is the state and answers without waiting; [`calls`] asks other members, [`serve`] answers them, [`codes`] is both for people who
//! join by a code, [`keeper`] keeps up with them all, [`directory`] with what the backbone node holds.

pub(crate) mod calls;
pub(crate) mod codes;
pub(crate) mod directory;
pub(crate) mod keeper;
pub(crate) mod serve;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pilot_core::id::IdentityKey;
use pilot_core::identity::{CLOCK_SKEW, Certificate, Identity};
use pilot_core::node::{Home as HomeNode, PeerInfo};
use pilot_core::org::issuer::{Invites, Issuer, Ledger};
use pilot_core::org::membership::Membership;
use pilot_core::org::roster::{Learned, Records, Roster};
use pilot_core::time::{Mono, UnixTime};
use tokio::sync::Notify;

use crate::api::types::{ApiError, ErrorCode};
use crate::home::{AgentHome, HomeError, entropy};

/// Organisations of one agent.
const ORGS_MAX: usize = 16;
/// The last date at which a membership was asked for, in seconds.
const ASKED_FILE: &str = "asked";

/// All organisations of one agent.
#[derive(Debug)]
pub(crate) struct Orgs {
    home: AgentHome,
    identity: Identity,
    /// A leaf, never held across an await.
    table: Mutex<BTreeMap<String, Org>>,
    /// Held by who changes what is on disk, from the change until it is there.
    writing: tokio::sync::Mutex<()>,
    /// Held by who replaces the key of an organisation: of two at once one would lose the key that its charter names.
    pub(crate) rotating: tokio::sync::Mutex<()>,
    /// Something has been heard that is not on disk yet.
    unsaved: Notify,
    /// There is one organisation more.
    added: Notify,
    /// Held by who makes a code, from the choice of its number until it is kept.
    pub(crate) coding: tokio::sync::Mutex<()>,
    /// The last date at which a membership was asked for, got or not.
    asked: Mutex<UnixTime>,
    /// Names this process to those who ask what is new.
    epoch: u64,
}

/// One organisation.
#[derive(Debug)]
pub(crate) struct Org {
    pub(crate) roster: Roster,
    /// The organisation's key, where it is kept.
    pub(crate) key: Option<Identity>,
    pub(crate) invites: Invites,
    /// What was decided here with the organisation's key.
    pub(crate) ledger: Arc<Ledger>,
    /// Who has enrolled this agent, and renews its membership.
    pub(crate) enrolled_by: Option<IdentityKey>,
    /// How much each member has told.
    heard: BTreeMap<IdentityKey, Heard>,
    /// The tunnel by which each member was shown our proof, by its beginning.
    introduced: BTreeMap<IdentityKey, Mono>,
    asked_at: Option<Mono>,
    /// Held by the look-up that asks for news: of members that take long, one look-up waits for all.
    asking: Arc<tokio::sync::Mutex<()>>,
    is_unsaved: bool,
}

/// What of an organisation is on disk.
#[derive(Clone, Debug)]
struct Kept {
    roster: Roster,
    key: Option<Identity>,
    invites: Invites,
    ledger: Arc<Ledger>,
    enrolled_by: Option<IdentityKey>,
}

/// What a member has told so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) epoch: u64,
    pub(crate) after: u64,
}

/// What an organisation that we share with somebody says of it.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// What the organisation is called.
    pub(crate) org: String,
    pub(crate) membership: Membership,
    /// Its revocation lists are as young as it wants them to be: it is a reason to let somebody in.
    pub(crate) is_fresh: bool,
}

impl Standing {
    /// Whether it is a reason to let the member call `service`.
    pub(crate) fn vouches_for(&self, service: &str) -> bool {
        self.is_fresh && self.membership.allows_service(service)
    }
}

impl Orgs {
    /// Reads what is on disk.
    ///
    /// # Errors
    /// If an organisation's file is unreadable or damaged: going on without it would forget who was revoked.
    pub(crate) fn load(home: &AgentHome, identity: &Identity, now: UnixTime) -> Result<Self, HomeError> {
        let table = Mutex::new(store::load(home, now)?);
        let epoch = u64::from_be_bytes(entropy()?);
        let [writing, rotating, coding] = std::array::from_fn(|_| tokio::sync::Mutex::new(()));
        let asked = home.number(ASKED_FILE).map(UnixTime::from_secs).unwrap_or_default();
        let (unsaved, added, asked) = (Notify::new(), Notify::new(), Mutex::new(asked));
        let (home, identity) = (home.clone(), identity.clone());
        Ok(Self { home, identity, table, writing, rotating, coding, unsaved, added, asked, epoch })
    }

    /// Names this process to those who ask what is new.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Notes that a membership which had been asked for at that date was given up.
    pub(crate) fn note_left(&self, consented: UnixTime) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = consented.max(*asked);
        self.keep_asked(*asked);
    }

    /// The date at which a membership is asked for now: no other was asked for at that date or later, be it in the same second or by a clock
    /// that was ahead, before a restart or after it. Somebody who was asked, and has said no, holds a consent of an earlier date than who is
    /// asked next. A clock that was ahead by more than a day is forgotten: nobody would take such a date.
    pub(crate) fn date_to_ask(&self, now: UnixTime) -> UnixTime {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let next = *asked + Duration::from_secs(1);
        *asked = if next < now + CLOCK_SKEW { now.max(next) } else { now };
        self.keep_asked(*asked);
        *asked
    }

    fn keep_asked(&self, asked: UnixTime) {
        if let Err(error) = self.home.save_number(ASKED_FILE, asked.as_secs()) {
            // Where the clock is not set back, the next date is a later one all the same.
            tracing::warn!(%error, "the date of a consent is not kept");
        }
    }

    /// What the organisations that we share with `key` say of it.
    pub(crate) fn standings(&self, key: &IdentityKey, now: UnixTime) -> Vec<Standing> {
        let table = self.table();
        let standing = |(name, org): (&String, &Org)| {
            let membership = org.roster.member(key, now)?.clone();
            Some(Standing { org: name.clone(), membership, is_fresh: org.roster.lists_are_fresh(now) })
        };
        table.iter().filter_map(standing).collect()
    }

    /// Whether `key` is a member of an organisation that the agent is in.
    pub(crate) fn is_member_of_any(&self, key: &IdentityKey, now: UnixTime) -> bool {
        self.table().values().any(|org| org.roster.member(key, now).is_some())
    }

    /// Whether there is any organisation that the agent is in.
    pub(crate) fn is_in_any(&self) -> bool {
        !self.table().is_empty()
    }

    /// The names of all organisations.
    pub(crate) fn names(&self) -> Vec<String> {
        self.table().keys().cloned().collect()
    }

    /// The name of the organisation of that key.
    pub(crate) fn name_of(&self, org: &IdentityKey) -> Option<String> {
        let table = self.table();
        table.iter().find(|(_, known)| known.roster.org() == *org).map(|(name, _)| name.clone())
    }

    /// Looks at an organisation, or changes what need not be on disk.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the agent is in none of that name.
    pub(crate) fn with<T>(&self, name: &str, look: impl FnOnce(&mut Org) -> T) -> Result<T, ApiError> {
        self.table().get_mut(name).map(look).ok_or_else(|| not_a_member_of(name))
    }

    /// Changes an organisation, and returns when the change is on disk. A change that fails, or cannot be kept, is taken back; what it has
    /// noted on invites stays.
    ///
    /// # Errors
    /// That of `change`, or why it could not be kept.
    pub(crate) async fn change<T>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Org) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let _writing = self.writing.lock().await;
        let (result, before, after) = self.with(name, |org| {
            let before = org.kept();
            let result = change(org);
            if result.is_err() {
                let invites = std::mem::take(&mut org.invites);
                org.put_back(Kept { invites, ..before.clone() });
            }
            (result, before, org.kept())
        })?;
        if result.is_err() && after.invites == before.invites {
            return result;
        }
        match self.save(name, after).await {
            Ok(()) => result,
            Err(error) => {
                self.with(name, |org| org.put_back(before))?;
                Err(error)
            }
        }
    }

    /// Forgets who is a member no more, and tells who that is. What is on disk says it already.
    pub(crate) async fn take_former(&self, name: &str, now: UnixTime) -> Vec<IdentityKey> {
        let _writing = self.writing.lock().await;
        self.with(name, |org| org.roster.take_former(now)).unwrap_or_default()
    }

    /// Returns when something has been heard that is not on disk.
    pub(crate) async fn unsaved(&self) {
        self.unsaved.notified().await;
    }

    /// Puts on disk what was heard and is not there yet. What the disk does not take stays unsaved.
    pub(crate) async fn save_unsaved(&self) {
        let _writing = self.writing.lock().await;
        for name in self.names() {
            let unsaved = self.with(&name, |org| org.is_unsaved.then(|| org.kept()));
            if let Ok(Some(kept)) = unsaved
                && let Err(error) = self.save(&name, kept).await
            {
                tracing::warn!(%error, org = name, "what was heard is not kept");
                self.unsaved.notify_one();
            }
        }
    }

    /// Writes; `writing` is held.
    async fn save(&self, name: &str, kept: Kept) -> Result<(), ApiError> {
        let (home, file) = (self.home.clone(), name.to_owned());
        let saved = tokio::task::spawn_blocking(move || store::save(&home, &file, &kept.to_bytes())).await;
        saved.map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()))??;
        self.with(name, |org| org.is_unsaved = false)
    }

    /// Takes up an organisation that this agent has joined, or founded with this successor, and returns when that is on disk.
    ///
    /// # Errors
    /// If there is one of that name, there are too many, or it cannot be kept.
    pub(crate) async fn add(&self, org: Org, successor: Option<Identity>) -> Result<(), ApiError> {
        let name = org.roster.charter().name.clone();
        let _writing = self.writing.lock().await;
        self.check_new(&name)?;
        let (home, bytes) = (self.home.clone(), org.kept().to_bytes());
        let (file, keys) = (name.clone(), org.key.clone().zip(successor));
        let kept = tokio::task::spawn_blocking(move || store::create(&home, &file, keys, &bytes)).await;
        kept.map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()))??;
        self.table().insert(name, org);
        self.added.notify_one();
        Ok(())
    }

    /// Takes up an organisation that this agent has joined again, in place of what it knew of it, and returns when that is on disk.
    ///
    /// # Errors
    /// If it is not known any more, or cannot be kept.
    pub(crate) async fn replace(&self, org: Org) -> Result<(), ApiError> {
        let name = org.roster.charter().name.clone();
        let _writing = self.writing.lock().await;
        self.save(&name, org.kept()).await?;
        self.table().insert(name, org);
        self.added.notify_one();
        Ok(())
    }

    /// Returns when the agent has got into an organisation.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// Whether an organisation of that name could be added.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check_new(&self, name: &str) -> Result<(), ApiError> {
        let table = self.table();
        if table.contains_key(name) {
            let error = ApiError::new(ErrorCode::Failed, format!("this agent is in an organisation '{name}' already"));
            return Err(error.hint(format!("leave it first: pilotctl org leave {name}")));
        }
        if table.len() >= ORGS_MAX {
            let message = format!("this agent is in {ORGS_MAX} organisations, which is the most that it can be in");
            return Err(ApiError::new(ErrorCode::Failed, message).hint("leave one: pilotctl org leave NAME"));
        }
        Ok(())
    }

    /// Forgets an organisation, its key too if that is kept here.
    ///
    /// # Errors
    /// If the agent is in none of that name, or its files cannot be removed.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), ApiError> {
        let _writing = self.writing.lock().await;
        self.with(name, |_| ())?;
        let (home, dir) = (self.home.clone(), name.to_owned());
        let removed = tokio::task::spawn_blocking(move || store::remove(&home, &dir)).await;
        removed.map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()))??;
        self.table().remove(name);
        Ok(())
    }

    /// Takes what another member has told; what must not be forgotten is on disk when this returns, if the disk takes it: who was revoked
    /// is revoked here in any case. Whereabouts are written later, many at once.
    ///
    /// # Errors
    /// If the agent is not in the organisation.
    pub(crate) async fn learn(&self, name: &str, records: &Records, now: UnixTime) -> Result<Learned, ApiError> {
        // Whatever a caller sends is verified without the lock, for which every call to a service waits.
        let mut roster = self.with(name, |org| org.roster.clone())?;
        if !roster.learn(records, now).is_any() {
            return Ok(Learned::default());
        }
        let _writing = self.writing.lock().await;
        let mut roster = self.with(name, |org| org.roster.clone())?;
        let learned = roster.learn(records, now);
        let kept = self.with(name, |org| {
            if let (None, Some(rival)) = (org.roster.charters().rival(), roster.charters().rival()) {
                tracing::warn!(org = name, other = ?rival.key, "the key of the organisation was replaced twice at once");
            }
            org.roster = roster;
            org.is_unsaved |= learned.is_any();
            org.kept()
        })?;
        if learned.is_to_be_kept()
            && let Err(error) = self.save(name, kept).await
        {
            tracing::warn!(%error, org = name, "what was heard counts, and is not kept");
        }
        self.unsaved.notify_one();
        Ok(learned)
    }

    /// Who makes members in this agent's name, if anybody does.
    pub(crate) fn issuer(&self, org: &Org, now: UnixTime) -> Option<Issuer> {
        let speaks_for_org = org.key.as_ref().filter(|key| key.key() == org.roster.charter().key);
        if let Some(key) = speaks_for_org {
            return Some(Issuer::Org(key.clone()));
        }
        let own = org.roster.member(&self.identity.key(), now)?;
        (own.generations > 0).then(|| Issuer::Member(self.identity.clone()))
    }

    /// This agent's key.
    pub(crate) fn own_key(&self) -> IdentityKey {
        self.identity.key()
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Org>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Org {
    /// An organisation of which nothing but the roster is known yet.
    pub(crate) fn new(roster: Roster, key: Option<Identity>, enrolled_by: Option<IdentityKey>) -> Self {
        Self {
            roster,
            key,
            invites: Invites::default(),
            ledger: Arc::default(),
            enrolled_by,
            heard: BTreeMap::new(),
            introduced: BTreeMap::new(),
            asked_at: None,
            asking: Arc::default(),
            is_unsaved: false,
        }
    }

    /// The same, where decisions were made with its key.
    pub(crate) fn with_ledger(self, ledger: Ledger) -> Self {
        Self { ledger: Arc::new(ledger), ..self }
    }

    /// What is on disk, or is to be. It shares what it can, for this is asked for with the table in hand.
    fn kept(&self) -> Kept {
        let Self { roster, key, invites, ledger, enrolled_by, .. } = self;
        Kept {
            roster: roster.clone(),
            key: key.clone(),
            invites: invites.clone(),
            ledger: Arc::clone(ledger),
            enrolled_by: *enrolled_by,
        }
    }

    fn put_back(&mut self, kept: Kept) {
        Kept {
            roster: self.roster,
            key: self.key,
            invites: self.invites,
            ledger: self.ledger,
            enrolled_by: self.enrolled_by,
        } = kept;
    }

    /// Where a member said that it is.
    pub(crate) fn route(&self, key: &IdentityKey, now: UnixTime) -> Option<PeerInfo> {
        self.roster.proof(key, now)?;
        let Some(whereabouts) = self.roster.whereabouts(key) else {
            return Some(PeerInfo { key: *key, certificate: None, addresses: Vec::new(), homes: Vec::new() });
        };
        let certificate = Certificate::verify(&whereabouts.certificate, now).ok();
        let home = |home: &pilot_core::record::Home| HomeNode { key: home.key, addresses: home.addresses.clone() };
        Some(PeerInfo {
            key: *key,
            certificate: certificate.filter(|certificate| certificate.identity == *key),
            addresses: whereabouts.addresses.clone(),
            homes: whereabouts.homes.iter().map(home).collect(),
        })
    }
}

fn not_a_member_of(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("this agent is in no organisation '{name}'"))
        .hint(format!("join it with an invite: pilotctl join --org {name} --token INVITE"))
}

pub(crate) fn no_issuer() -> ApiError {
    ApiError::new(ErrorCode::Refused, "this agent neither has the organisation's key nor may enrol others")
        .hint("do this at the agent that founded the organisation, or at one that was enrolled with --may-enrol")
}

pub(crate) fn failed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::Failed, error.to_string())
}
