//! Organisations, as programs and people use them (spec/org.md).

use std::time::Duration;

use data_encoding::HEXLOWER;
use pilot_core::id::IdentityKey;
use pilot_core::identity::Identity;
use pilot_core::node::PeerInfo;
use pilot_core::org::call::Request;
use pilot_core::org::code::OpenCode;
use pilot_core::org::issuer::{Applicant, Issuer, Ledger, Terms};
use pilot_core::org::membership::{MEMBERSHIP_VALIDITY_MAX, Proof};
use pilot_core::org::roster::Roster;
use pilot_core::record::is_name;
use pilot_core::time::UnixTime;
use pilot_core::wire::directory::Target;

use super::Agent;
use super::resolve::Resolved;
use crate::api::orgs;
use crate::api::types::{ApiError, ErrorCode};
use crate::clock;
use crate::home::{AgentHome, HomeError, entropy};
use crate::names::Names;
use crate::org::{self, Org, calls, keeper, store};

/// Whether an agent of that home, if it has ever been, could start: whether its organisations and pins can be read. Nothing is changed, be it
/// running or not.
///
/// # Errors
/// What is damaged, or unreadable.
pub fn check_kept(home: &AgentHome) -> Result<(), HomeError> {
    if !home.has_identity() {
        return Ok(());
    }
    let now = clock::now().unix;
    Names::load(home, now)?;
    store::check(home, now)
}

/// The role of who founds an organisation.
const ROLE_FOUNDER: &str = "admin";
/// Members that one line names.
const NAMED_MAX: usize = 8;

impl Agent {
    /// Founds an organisation, with this agent as its first member.
    ///
    /// # Errors
    /// If the name is none or in use here, or it cannot be kept.
    pub async fn create_org(&self, request: &orgs::CreateOrg) -> Result<orgs::OrgCreated, ApiError> {
        let name = &request.name;
        if !is_name(name) {
            return Err(ApiError::new(ErrorCode::Usage, format!("'{name}' cannot be the name of an organisation"))
                .hint("use 1 to 63 lower-case letters, digits and inner hyphens"));
        }
        let inner = &self.inner;
        inner.orgs.check_new(name)?;
        let (key, successor) = (Identity::generate(entropy()?), Identity::generate(entropy()?));
        let now = clock::now().unix;
        let list_age_max = Duration::from_secs(request.list_age_max_s.unwrap_or(0));
        let failed = |error: pilot_core::org::OrgError| org::failed(&error);
        let charters = Issuer::found(&key, successor.key(), name, list_age_max, now).map_err(failed)?;
        let mut roster = Roster::new(charters);
        let proof = found(&roster, &key, &self.applicant(inner.name()), now)?;
        roster.add_proof(&proof, now).map_err(failed)?;
        let org = roster.org();
        let mut ledger = Ledger::default();
        roster.members(now).for_each(|founder| ledger.enrolled(founder, now));
        let founded = Org::new(roster, Some(key), None).with_ledger(ledger);
        inner.orgs.add(founded, Some(successor)).await?;
        let successor_file = store::successor_file(&inner.agent_home, name);
        if list_age_max > Duration::ZERO {
            keeper::publish_list(inner, name, None, now).await?;
        }
        Ok(orgs::OrgCreated { name: name.clone(), key: org.to_string(), successor_file })
    }

    pub(super) fn applicant(&self, name: &str) -> Applicant {
        let identity = &self.inner.identity;
        Applicant {
            key: identity.key(),
            modifier: identity.modifier(),
            name: name.to_owned(),
            lifetime_max: Duration::MAX,
            consented: clock::now().unix,
            consent: None,
        }
    }

    /// Ends a membership for everybody.
    ///
    /// # Errors
    /// If there is no such member, or it is not this agent's to revoke.
    pub async fn revoke(&self, request: &orgs::RevokeRequest) -> Result<orgs::Revoked, ApiError> {
        let (inner, name) = (&self.inner, &request.org);
        let known = || {
            let now = clock::now().unix;
            inner.orgs.with(name, |org| {
                let found = named_or_keyed(&org.roster, &request.member, now)?;
                let is_ours = inner.orgs.issuer(org, now).map(|issuer| issuer.may_revoke(found));
                Some((org.roster.revocation(found.membership(), now), org.route(&found.key(), now), is_ours))
            })
        };
        let found = match known()? {
            // Another member may have enrolled it a moment ago.
            None => {
                calls::refresh(inner, name).await;
                known()?
            }
            found => found,
        };
        let now = clock::now().unix;
        let Some((revocation, route, is_ours)) = found else {
            return Err(inner.orgs.with(name, |org| no_member(&org.roster, &request.member, name, now))?);
        };
        let member = revocation.member;
        if member == inner.orgs.own_key() {
            return Err(ApiError::new(ErrorCode::Refused, "an agent cannot revoke itself".to_owned())
                .hint(format!("to end its own membership: pilotctl org leave {name}")));
        }
        let not_ours = || {
            ApiError::new(ErrorCode::Refused, format!("this agent has not enrolled '{}'", request.member))
                .hint("revoke it at the agent that has, or at the one that has the organisation's key")
        };
        // Nothing is signed that is to be refused: a revocation also says who is not to be enrolled by others.
        if !is_ours.ok_or_else(org::no_issuer)? {
            return Err(not_ours());
        }
        let before = inner.orgs.with(name, |org| {
            let through = members_through(&org.roster, &member, now).into_iter();
            through.filter_map(|(key, name)| Some((org.route(&key, now)?, name))).collect::<Vec<_>>()
        })?;
        keeper::publish_list(inner, name, Some(revocation), now).await?;
        let (still, invites) = inner.orgs.with(name, |org| {
            let invites = org.invites.used_by(&member, now).map(|id| HEXLOWER.encode(id)).collect();
            (org.roster.member(&member, now).is_some(), invites)
        })?;
        // It may have joined anew meanwhile, by another member.
        if still {
            return Err(not_ours());
        }
        let is_out = |(below, _): &(PeerInfo, String)| {
            inner.orgs.with(name, |org| org.roster.member(&below.key, now).is_none()).unwrap_or(true)
        };
        let (routes_below, below): (Vec<_>, Vec<_>) = before.into_iter().filter(is_out).unzip();
        calls::tell_former(inner, name, route.into_iter().chain(routes_below).collect());
        let key = member.to_string();
        Ok(orgs::Revoked { org: name.clone(), member: request.member.clone(), key, invites, below })
    }

    /// Leaves an organisation. Who has enrolled this agent is told if it can be reached.
    ///
    /// # Errors
    /// If the agent is in none of that name, keeps its key, has enrolled others and is not to leave all the same, or its files cannot be
    /// removed.
    pub async fn leave_org(&self, request: &orgs::LeaveRequest) -> Result<(), ApiError> {
        let (inner, name) = (&self.inner, &request.org);
        let now = clock::now().unix;
        if self.keeps_key(name)? {
            let files = inner.agent_home.path().join("orgs").join(name);
            let message = format!("this agent keeps the key of '{name}': nobody could invite or revoke any more");
            return Err(ApiError::new(ErrorCode::Refused, message)
                .hint(format!("stop the agent and move {} to where the key is to be kept", files.display())));
        }
        if !request.force {
            self.check_leaves_alone(name, now)?;
        }
        let told = inner.orgs.with(name, |org| {
            let issuer = org.enrolled_by?;
            let consented = org.roster.member(&inner.identity.key(), now)?.consented;
            inner.orgs.note_left(consented);
            Some((issuer, org.route(&issuer, now), Request::Leave { org: org.roster.org(), consented }))
        })?;
        if let Some((issuer, route, request)) = told {
            let way = match route.filter(|route| !(route.addresses.is_empty() && route.homes.is_empty())) {
                Some(way) => way,
                None => self.way_to(issuer).await,
            };
            if let Err(error) = calls::call(inner, way, &request).await {
                tracing::info!(%error, org = name, "left without a word");
            }
        }
        inner.orgs.remove(name).await
    }

    /// Whether the files here are what the organisation needs to go on: its key, or one that may still replace it.
    fn keeps_key(&self, name: &str) -> Result<bool, ApiError> {
        let successor = store::successor(&self.inner.agent_home, name)?.map(|successor| successor.key());
        self.inner.orgs.with(name, |org| {
            let charters = org.roster.charters();
            let may_succeed = |key: &IdentityKey| charters.succeeded_by(key).is_some() && !charters.has_signed(key);
            org.key.as_ref().is_some_and(|key| key.key() == charters.current().key)
                || successor.as_ref().is_some_and(may_succeed)
        })
    }

    /// Whether nobody but this agent is out when it leaves, as far as it knows.
    fn check_leaves_alone(&self, name: &str, now: UnixTime) -> Result<(), ApiError> {
        let own = self.inner.identity.key();
        let by_us = self.inner.orgs.with(name, |org| members_through(&org.roster, &own, now))?;
        if by_us.is_empty() {
            return Ok(());
        }
        let by_us: Vec<_> = by_us.into_iter().map(|(_, name)| name).collect();
        let message =
            format!("this agent has enrolled others in '{name}', who are out when it leaves: {}", listed(&by_us));
        Err(ApiError::new(ErrorCode::Refused, message).hint(format!(
            "they stay if they leave first and join by an invite of another member; to leave all the same: pilotctl org leave {name} --force"
        )))
    }

    /// Where the directory says that somebody is: who was killed may not have kept what it has heard of that.
    async fn way_to(&self, key: IdentityKey) -> PeerInfo {
        let found = self.resolve_key(key).await.ok().and_then(|found| found.routes.into_iter().next());
        found.unwrap_or_else(|| calls::way_unknown(key))
    }

    /// The organisations that this agent is in.
    pub fn orgs(&self) -> Vec<orgs::OrgStatus> {
        self.inner.orgs.names().iter().filter_map(|name| self.org_status(name).ok()).collect()
    }

    /// The members of an organisation that this agent knows.
    ///
    /// # Errors
    /// If the agent is in none of that name.
    pub async fn org_members(&self, name: &str) -> Result<Vec<orgs::OrgMember>, ApiError> {
        calls::refresh(&self.inner, name).await;
        let now = clock::now().unix;
        self.inner.orgs.with(name, |org| {
            let mut members: Vec<_> = org.roster.members(now).map(|proof| org_member(proof, now)).collect();
            members.sort_by(|one, other| one.name.cmp(&other.name));
            members
        })
    }

    pub(super) fn org_status(&self, name: &str) -> Result<orgs::OrgStatus, ApiError> {
        let now = clock::now().unix;
        let orgs = &self.inner.orgs;
        orgs.with(name, |org| {
            let own = org.roster.member(&orgs.own_key(), now);
            let invite = |(id, terms, uses, expires): (&[u8; 8], &Terms, u32, UnixTime)| orgs::OpenInvite {
                id: HEXLOWER.encode(id),
                role: terms.role.clone(),
                uses,
                expires_s: expires.as_secs().saturating_sub(now.as_secs()),
                tries_left: org.invites.codes(now).find(|code| code.invite() == id).map(OpenCode::tries_left),
            };
            let has_tries = |invite: &orgs::OpenInvite| invite.tries_left != Some(0);
            let may_enrol = orgs.issuer(org, now).is_some();
            orgs::OrgStatus {
                name: name.to_owned(),
                key: org.roster.org().to_string(),
                role: own.map(|own| own.role.clone()).unwrap_or_else(|| "none: revoked or expired".to_owned()),
                groups: own.map(|own| own.groups.clone()).unwrap_or_default(),
                services: own.map(|own| own.services.clone()).unwrap_or_default(),
                expires_s: own.map(|own| own.expires.as_secs().saturating_sub(now.as_secs())),
                members: org.roster.members(now).count(),
                lists_are_fresh: org.roster.lists_are_fresh(now),
                other_key: org.roster.charters().rival().map(|rival| rival.key.to_string()),
                may_enrol,
                invites: if may_enrol {
                    org.invites.list(now).map(invite).filter(has_tries).collect()
                } else {
                    Vec::new()
                },
            }
        })
    }

    /// The member that is called `name@org`.
    pub(super) async fn resolve_member(&self, name: &str, org: &str) -> Result<Resolved, ApiError> {
        let orgs = &self.inner.orgs;
        let known = || {
            let now = clock::now().unix;
            orgs.with(org, |org| org.roster.named(name, now).map(|proof| (proof.clone(), org.route(&proof.key(), now))))
        };
        let found = match known()? {
            None => {
                calls::refresh(&self.inner, org).await;
                known()?
            }
            found => found,
        };
        let Some((proof, route)) = found else {
            return Err(orgs.with(org, |known| no_member(&known.roster, name, org, clock::now().unix))?);
        };
        self.resolved_member(&proof, route, org).await
    }

    /// The member with this address or key, of whichever organisation.
    pub(super) async fn resolve_as_member(&self, wanted: &Target) -> Result<Option<Resolved>, ApiError> {
        let orgs = &self.inner.orgs;
        let now = clock::now().unix;
        for org in orgs.names() {
            let found = orgs.with(&org, |org| {
                let proof = match wanted {
                    Target::Key(key) => org.roster.proof(key, now),
                    Target::Address(address) => org.roster.members(now).find(|proof| proof.address() == *address),
                    Target::Name(_) => None,
                }?;
                Some((proof.clone(), org.route(&proof.key(), now)))
            });
            // An organisation that has been left since is none.
            if let Ok(Some((proof, route))) = found {
                return self.resolved_member(&proof, route, &org).await.map(Some);
            }
        }
        Ok(None)
    }

    async fn resolved_member(&self, proof: &Proof, route: Option<PeerInfo>, org: &str) -> Result<Resolved, ApiError> {
        if let Some(route) = route {
            self.inner.apply(move |core, now| core.node.learn_recorded_peer(now, route)).await?;
        }
        let membership = proof.membership();
        // What the organisation knows of its way, the node has learned.
        let mut routes = vec![calls::way_unknown(proof.key())];
        let is_connected = self.peer_status(proof.key()).await.is_some_and(|status| status.connected);
        // The directory knows better where it is now, if it can be asked; the organisation knows who it is.
        if !is_connected
            && self.inner.home_link.borrow().connected
            && let Ok(found) = self.resolve_key(proof.key()).await
        {
            routes = [found.routes, routes].concat();
        }
        Ok(Resolved {
            key: proof.key(),
            address: proof.address(),
            name: Some(format!("{}@{org}", membership.name)),
            tags: Vec::new(),
            groups: membership.groups.clone(),
            description: String::new(),
            offers: Vec::new(),
            reachable: None,
            routes,
        })
    }
}

/// Makes who holds the organisation's key a member.
pub(super) fn found(roster: &Roster, key: &Identity, founder: &Applicant, now: UnixTime) -> Result<Vec<u8>, ApiError> {
    let terms = Terms {
        role: ROLE_FOUNDER.to_owned(),
        groups: Vec::new(),
        services: Vec::new(),
        generations: 0,
        lifetime: MEMBERSHIP_VALIDITY_MAX.as_secs(),
    };
    Issuer::Org(key.clone()).enrol(roster, founder, &terms, now).map_err(|error| org::failed(&error))
}

/// The first of these names, and how many more there are.
pub(super) fn listed(names: &[String]) -> String {
    let (named, more) = names.split_at(names.len().min(NAMED_MAX));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    named.join(", ") + &more
}

/// Who is a member through this one: keys and names, by name.
fn members_through(roster: &Roster, issuer: &IdentityKey, now: UnixTime) -> Vec<(IdentityKey, String)> {
    let through = roster.members_by(issuer, now);
    let mut through: Vec<_> = through.map(|proof| (proof.key(), proof.membership().name.clone())).collect();
    through.sort_by(|(_, one), (_, other)| one.cmp(other));
    through
}

/// Why a name leads to nobody.
fn no_member(roster: &Roster, name: &str, org: &str, now: UnixTime) -> ApiError {
    match roster.nearest_named(name, now).as_slice() {
        namesakes @ [_, _, ..] => {
            let addresses: Vec<_> = namesakes.iter().map(|proof| proof.address().to_string()).collect();
            let message = format!("'{org}' has several members '{name}': {}", addresses.join(", "));
            let hint = "use the address; who has enrolled one of them, or has the organisation's key, can revoke it";
            ApiError::new(ErrorCode::NotFound, message).hint(hint)
        }
        _ => ApiError::new(ErrorCode::NotFound, format!("'{org}' has no member '{name}'"))
            .hint(format!("see who is one: pilotctl org members {org}")),
    }
}

fn named_or_keyed<'a>(roster: &'a Roster, member: &str, now: UnixTime) -> Option<&'a Proof> {
    let by_key = member.parse::<IdentityKey>().ok().and_then(|key| roster.proof(&key, now));
    let by_address = || roster.members(now).find(|proof| proof.address().to_string() == member);
    by_key.or_else(|| roster.named(member, now)).or_else(by_address)
}

fn org_member(proof: &Proof, now: UnixTime) -> orgs::OrgMember {
    let membership = proof.membership();
    orgs::OrgMember {
        name: membership.name.clone(),
        address: proof.address().to_string(),
        key: proof.key().to_string(),
        role: membership.role.clone(),
        groups: membership.groups.clone(),
        expires_s: membership.expires.as_secs().saturating_sub(now.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_first_are_listed_and_the_rest_counted() {
        let names = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        assert_eq!(listed(&names(2)), "0, 1");
        assert_eq!(listed(&names(8)), "0, 1, 2, 3, 4, 5, 6, 7");
        assert_eq!(listed(&names(4_000)), "0, 1, 2, 3, 4, 5, 6, 7 and 3992 more");
    }
}
