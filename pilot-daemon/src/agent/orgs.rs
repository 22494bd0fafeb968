//! Organisations, as programs and people use them (spec/org.md).

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use pilot_core::id::IdentityKey;
use pilot_core::identity::{CLOCK_SKEW, Identity};
use pilot_core::node::PeerInfo;
use pilot_core::org::call::Request;
use pilot_core::org::charter::{CHARTERS_MAX, Charter};
use pilot_core::org::code::{CODE_SEED_LEN, Code, CodeError, OpenCode, Word};
use pilot_core::org::invite::{INVITE_ID_LEN, Invite, InviteError};
use pilot_core::org::issuer::{Applicant, EnrolError, INVITE_VALIDITY_MAX, Issuer, Ledger, Terms};
use pilot_core::org::membership::{GENERATIONS_MAX, MEMBERSHIP_VALIDITY_MAX, Proof, consent};
use pilot_core::org::roster::Roster;
use pilot_core::record::{is_label, is_name};
use pilot_core::ticket::Ticket;
use pilot_core::time::UnixTime;
use zeroize::Zeroizing;

use super::Agent;
use super::resolve::Resolved;
use crate::api::types::{self, ApiError, ErrorCode};
use crate::clock;
use crate::home::entropy;
use crate::org::{self, Org, calls, codes, keeper, store};
use crate::services::{service_name, service_port};

/// Keys of an organisation that follow each other. There is room for a few more, which take the place of stolen ones.
const KEYS_MAX: u64 = CHARTERS_MAX as u64 - 4;
/// What helps where neither key of an organisation is kept.
const GIVE_SUCCESSOR: &str = "give its successor key, which was put in a safe place: --successor FILE";
/// The name in a membership that is made to see whether one could be.
const PROBE: &str = "probe";
/// The role of who founds an organisation.
const ROLE_FOUNDER: &str = "admin";
/// A code is guessed at by whoever knows its issuer: nobody leaves it lying about.
const CODE_VALIDITY_MAX: Duration = Duration::from_secs(86_400);
/// Addresses in a code for a camera, so that it fits a terminal; the rest the backbone knows.
const SCANNED_ADDRESSES_MAX: usize = 2;
/// After a new key, memberships that the old one has signed count for so long: everybody has renewed by then who is there at all.
const KEY_OVERLAP: Duration = Duration::from_secs(90 * 86_400);

impl Agent {
    /// Founds an organisation, with this agent as its first member.
    ///
    /// # Errors
    /// If the name is none or in use here, or it cannot be kept.
    pub async fn create_org(&self, request: &types::CreateOrg) -> Result<types::OrgCreated, ApiError> {
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
        Ok(types::OrgCreated { name: name.clone(), key: org.to_string(), successor_file })
    }

    fn applicant(&self, name: &str) -> Applicant {
        let identity = &self.inner.identity;
        let (key, modifier) = (identity.key(), identity.modifier());
        Applicant { key, modifier, name: name.to_owned(), lifetime_max: Duration::MAX, consent: None }
    }

    /// Makes an invite.
    ///
    /// # Errors
    /// If this agent makes no members, or may not give what is asked.
    pub async fn invite(&self, request: &types::InviteRequest) -> Result<types::Invited, ApiError> {
        let inner = &self.inner;
        check_invite(request)?;
        let ticket = self.ticket().await?;
        let now = clock::now().unix;
        let (id, secret) = (entropy()?, Zeroizing::new(entropy()?));
        let terms = Terms {
            role: request.role.clone(),
            groups: request.groups.clone(),
            services: request.services.iter().filter_map(|text| service_port(text)).map(service_name).collect(),
            generations: request.generations,
            lifetime: request.lifetime_s,
        };
        let expires = now + Duration::from_secs(request.expires_s);
        let coding = inner.orgs.coding.lock().await;
        let code = request.code.then(|| self.new_code(now)).transpose()?;
        let org = inner.orgs.change(&request.org, |org| {
            let issuer = inner.orgs.issuer(org, now).ok_or_else(org::no_issuer)?;
            // What could not be given when the invite is used is refused now.
            let consent = consent(&inner.identity, &org.roster.org(), &issuer.key(), PROBE);
            let applicant = Applicant { consent: Some(consent.into()), ..self.applicant(PROBE) };
            let refused = |error: pilot_core::org::OrgError| {
                ApiError::new(ErrorCode::Refused, error.to_string())
                    .hint("a member gives no more than it has: pilotctl org list")
            };
            issuer.enrol(&org.roster, &applicant, &terms, now).map_err(refused)?;
            let opened = match &code {
                Some((word, seed)) => org.invites.open_code(id, (word.clone(), *seed), terms.clone(), expires, now),
                None => org.invites.open(id, &secret, terms.clone(), request.uses, expires, now),
            };
            opened.map_err(|error| org::failed(&error))?;
            Ok(org.roster.org())
        });
        let org = org.await?;
        drop(coding);
        let (invite, scan) = match code {
            Some((word, _)) => self.codes(ticket, word)?,
            None => (Invite { org, name: request.org.clone(), issuer: ticket, id, secret }.to_string(), None),
        };
        let id = HEXLOWER.encode(&id);
        Ok(types::Invited { id, invite, scan, uses: request.uses, expires_s: request.expires_s })
    }

    /// Takes an invite back. Who has used it stays a member.
    ///
    /// # Errors
    /// If no such invite of this agent is open, or that cannot be kept.
    pub async fn uninvite(&self, request: &types::UninviteRequest) -> Result<types::Uninvited, ApiError> {
        let types::UninviteRequest { org, invite } = request;
        let unknown = || {
            ApiError::new(ErrorCode::NotFound, format!("no invite '{invite}' to '{org}' is open here"))
                .hint("see which are: pilotctl org list")
        };
        let id = HEXLOWER_PERMISSIVE.decode(invite.as_bytes()).ok().and_then(|id| id.try_into().ok());
        let id: [u8; INVITE_ID_LEN] = id.ok_or_else(unknown)?;
        let closed = self.inner.orgs.change(org, |org| if org.invites.close(&id) { Ok(()) } else { Err(unknown()) });
        closed.await?;
        Ok(types::Uninvited { org: org.clone(), invite: HEXLOWER.encode(&id) })
    }

    /// A word that no open code has the number of, and the seed of the rest.
    fn new_code(&self, now: UnixTime) -> Result<(Word, [u8; CODE_SEED_LEN]), ApiError> {
        let [start] = entropy()?;
        let number = self.inner.orgs.free_number(start, now)?;
        Ok((Word::new(number, &entropy()?), entropy()?))
    }

    /// The code that a person reads out, and the one for a camera. Without a directory nobody finds the agent by its name.
    fn codes(&self, ticket: Ticket, word: Word) -> Result<(String, Option<String>), ApiError> {
        let addresses = ticket.addresses.iter().copied().take(SCANNED_ADDRESSES_MAX).collect();
        let short = Ticket::new(ticket.identity, ticket.modifier, addresses, ticket.home);
        let scan = Code { issuer: short.map_err(|error| org::failed(&error))?.to_string(), word };
        let has_name = self.inner.backbone.is_some();
        let read = if has_name { Code { issuer: self.inner.name().to_owned(), ..scan.clone() } } else { scan.clone() };
        Ok((read.to_string(), Some(scan.to_string())))
    }

    /// Joins an organisation with an invite, under the agent's own host name unless another is given.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub async fn join_org(&self, request: &types::JoinRequest) -> Result<types::Joined, ApiError> {
        let invite = self.invite_of(&request.token).await?;
        request.org.as_ref().map_or(Ok(()), |org| check_org(&invite, org))?;
        let inner = &self.inner;
        inner.orgs.check_new(&invite.name)?;
        let issuer = self.resolve(&invite.issuer.to_string()).await?;
        let name = request.name.as_deref().unwrap_or(inner.name());
        let way = issuer.routes.into_iter().next().unwrap_or_else(|| calls::way_unknown(issuer.key));
        let enrolled = calls::enrol(inner, &invite, way, name).await;
        let org = enrolled.map_err(|error| unreached(error, &format!("this invite to '{}'", invite.name), name))?;
        inner.orgs.add(org, None).await?;
        let joined = self.org_status(&invite.name)?;
        let (weak, name) = (Arc::clone(inner), invite.name);
        // The others hear of us, and we of the rest of them.
        tokio::spawn(async move {
            calls::sync(&weak, &name).await;
            calls::meet(&weak, &name).await;
        });
        Ok(types::Joined { org: joined.name, role: joined.role, members: joined.members })
    }

    /// The invite that a text is, or stands for.
    async fn invite_of(&self, token: &str) -> Result<Invite, ApiError> {
        match token.parse()? {
            Token::Invite(invite) => Ok(invite),
            Token::Code(code) => self.ask_for_invite(&code).await,
        }
    }

    /// Goes with a code to who has made it.
    async fn ask_for_invite(&self, code: &Code) -> Result<Invite, ApiError> {
        let issuer = self.resolve(&code.issuer).await?;
        let way = issuer.routes.into_iter().next().unwrap_or_else(|| calls::way_unknown(issuer.key));
        codes::ask(&self.inner, &code.word, way).await.map_err(|error| unreached(error, "this code", self.inner.name()))
    }

    /// Ends a membership for everybody.
    ///
    /// # Errors
    /// If there is no such member, or it is not this agent's to revoke.
    pub async fn revoke(&self, request: &types::RevokeRequest) -> Result<types::Revoked, ApiError> {
        let (inner, name) = (&self.inner, &request.org);
        let now = clock::now().unix;
        let (revocation, route) = inner.orgs.with(name, |org| {
            let found = named_or_keyed(&org.roster, &request.member, now);
            let found =
                found.map(|proof| (org.roster.revocation(proof.membership(), now), org.route(&proof.key(), now)));
            found.ok_or_else(|| no_member(&org.roster, &request.member, name, now))
        })??;
        let member = revocation.member;
        if member == inner.orgs.own_key() {
            return Err(ApiError::new(ErrorCode::Refused, "an agent cannot revoke itself".to_owned())
                .hint(format!("to end its own membership: pilotctl org leave {name}")));
        }
        keeper::publish_list(inner, name, Some(revocation), now).await?;
        let still = inner.orgs.with(name, |org| org.roster.member(&member, now).is_some())?;
        if still {
            return Err(ApiError::new(ErrorCode::Refused, format!("this agent has not enrolled '{}'", request.member))
                .hint("revoke it at the agent that has, or at the one that has the organisation's key"));
        }
        calls::tell_former(inner, name, route.into_iter().collect());
        Ok(types::Revoked { org: name.clone(), member: request.member.clone(), key: member.to_string() })
    }

    /// Leaves an organisation. Who has enrolled this agent is told if it can be reached.
    ///
    /// # Errors
    /// If the agent is in none of that name, keeps its key, or its files cannot be removed.
    pub async fn leave_org(&self, name: &str) -> Result<(), ApiError> {
        let inner = &self.inner;
        let now = clock::now().unix;
        if inner.orgs.with(name, |org| org.key.is_some())? {
            let files = inner.agent_home.path().join("orgs").join(name);
            let message = format!("this agent keeps the key of '{name}': nobody could invite or revoke any more");
            return Err(ApiError::new(ErrorCode::Refused, message)
                .hint(format!("stop the agent and move {} to where the key is to be kept", files.display())));
        }
        let told = inner.orgs.with(name, |org| {
            let issuer = org.enrolled_by?;
            Some((issuer, org.route(&issuer, now), Request::Leave { org: org.roster.org() }))
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

    /// Where the directory says that somebody is: who was killed may not have kept what it has heard of that.
    async fn way_to(&self, key: IdentityKey) -> PeerInfo {
        let found = self.resolve_key(key).await.ok().and_then(|found| found.routes.into_iter().next());
        found.unwrap_or_else(|| calls::way_unknown(key))
    }

    /// Replaces the organisation's key by a new one, on the word of the present key or, if that is lost, of its successor. If it was stolen,
    /// what it has signed counts no more but for the members that were enrolled here, and this agent (spec/org.md §5).
    ///
    /// # Errors
    /// If neither key is kept or given here, or not the successor of a stolen one, or the new ones cannot be kept.
    pub async fn rotate_org_key(&self, request: &types::RotateRequest) -> Result<types::Rotated, ApiError> {
        let (inner, name) = (&self.inner, request.org.as_str());
        let now = clock::now().unix;
        let _rotating = inner.orgs.rotating.lock().await;
        let given = request.successor.as_deref().map(Identity::from_pem).transpose();
        let given = given.map_err(|error| ApiError::new(ErrorCode::Usage, format!("the successor: {error}")))?;
        let kept = || store::successor(&inner.agent_home, name);
        let successor = if given.is_some() { given } else { kept()? };
        let (signer, before) =
            if request.stolen { self.rescuer(name, successor)? } else { self.rotator(name, successor)? };
        // Clocks that are behind by a day cut the stolen key off at once, too.
        let previous_until = if request.stolen { now - CLOCK_SKEW } else { now + KEY_OVERLAP };
        let (key, successor) = (Identity::generate(entropy()?), Identity::generate(entropy()?));
        let charter = Charter {
            sequence: before.sequence + 1,
            key: key.key(),
            successor: successor.key(),
            signer: signer.key(),
            previous_until,
            issued: now,
            ..before
        };
        let bytes = charter.sign(&signer).map_err(|error| org::failed(&error))?;
        let own = self.applicant(inner.name());
        let members_before = |org: &mut Org| {
            let others = org.roster.members(now).map(Proof::key).filter(|key| *key != own.key);
            others.filter_map(|key| org.route(&key, now)).collect::<Vec<_>>()
        };
        let mut former = inner.orgs.with(name, members_before)?;
        // The new keys are kept before anybody hears of them, and the old ones until the charter is.
        store::keep_next_keys(&inner.agent_home, name, &key, &successor)?;
        let org = inner.orgs.change(name, |org| {
            org.roster.add_charter(&bytes, now).map_err(|error| org::failed(&error))?;
            if request.stolen {
                endorse(org, &key, now)?;
            }
            if org.roster.member(&own.key, now).is_none() {
                let proof = found(&org.roster, &key, &own, now)?;
                org.roster.add_proof(&proof, now).map_err(|error| org::failed(&error))?;
            }
            org.key = Some(key);
            Ok((org.roster.org(), org.roster.charter().clone(), org.roster.members(now).count()))
        });
        let (org, charter, members) = org.await?;
        store::promote_keys(&inner.agent_home, name, &charter)?;
        let successor_file = store::successor_file(&inner.agent_home, name);
        // A list of the new key, and with it the charter, goes to everybody, also to those who are members by the old key only.
        keeper::publish_list(inner, name, None, now).await?;
        inner.orgs.with(name, |org| former.retain(|known| org.roster.member(&known.key, now).is_none()))?;
        calls::tell_former(inner, name, former);
        let org = types::OrgCreated { name: name.to_owned(), key: org.to_string(), successor_file };
        Ok(types::Rotated { org, members })
    }

    /// Who signs the next charter, and the charter that it follows.
    fn rotator(&self, name: &str, successor: Option<Identity>) -> Result<(Identity, Charter), ApiError> {
        let (before, key) = self.inner.orgs.with(name, |org| (org.roster.charter().clone(), org.key.clone()))?;
        let candidates = key.into_iter().chain(successor);
        let mut signers = candidates.filter(|key| key.key() == before.key || key.key() == before.successor);
        if before.sequence + 1 >= KEYS_MAX {
            let message = format!("'{name}' has had {KEYS_MAX} keys, and needs what is left for the case of theft");
            return Err(ApiError::new(ErrorCode::Refused, message)
                .hint("if somebody else has the key: pilotctl org rotate --stolen; else found another organisation"));
        }
        let neither = || {
            let message = format!("neither the key of '{name}' nor its successor is here");
            ApiError::new(ErrorCode::Refused, message).hint(GIVE_SUCCESSOR)
        };
        Ok((signers.next().ok_or_else(neither)?, before))
    }

    /// The same where somebody else has the key: only the successor outranks that one, and charters of the thief do not count.
    fn rescuer(&self, name: &str, successor: Option<Identity>) -> Result<(Identity, Charter), ApiError> {
        let missing = |message: String| ApiError::new(ErrorCode::Refused, message).hint(GIVE_SUCCESSOR);
        let successor = successor
            .ok_or_else(|| missing("a stolen key is replaced by its successor, which is not here".to_owned()))?;
        let charter = |org: &mut Org| org.roster.charters().succeeded_by(&successor.key()).cloned();
        let before = self.inner.orgs.with(name, charter)?;
        let before = before.ok_or_else(|| missing(format!("that key succeeds no key of '{name}'")))?;
        Ok((successor, before))
    }

    /// The organisations that this agent is in.
    pub fn orgs(&self) -> Vec<types::OrgStatus> {
        self.inner.orgs.names().iter().filter_map(|name| self.org_status(name).ok()).collect()
    }

    /// The members of an organisation that this agent knows.
    ///
    /// # Errors
    /// If the agent is in none of that name.
    pub async fn org_members(&self, name: &str) -> Result<Vec<types::OrgMember>, ApiError> {
        calls::refresh(&self.inner, name).await;
        let now = clock::now().unix;
        self.inner.orgs.with(name, |org| {
            let mut members: Vec<_> = org.roster.members(now).map(|proof| org_member(proof, now)).collect();
            members.sort_by(|one, other| one.name.cmp(&other.name));
            members
        })
    }

    fn org_status(&self, name: &str) -> Result<types::OrgStatus, ApiError> {
        let now = clock::now().unix;
        let orgs = &self.inner.orgs;
        orgs.with(name, |org| {
            let own = org.roster.member(&orgs.own_key(), now);
            let invite = |(id, terms, uses, expires): (&[u8; 8], &Terms, u32, UnixTime)| types::OpenInvite {
                id: HEXLOWER.encode(id),
                role: terms.role.clone(),
                uses,
                expires_s: expires.as_secs().saturating_sub(now.as_secs()),
                tries_left: org.invites.codes(now).find(|code| code.invite() == id).map(OpenCode::tries_left),
            };
            let has_tries = |invite: &types::OpenInvite| invite.tries_left != Some(0);
            let may_enrol = orgs.issuer(org, now).is_some();
            types::OrgStatus {
                name: name.to_owned(),
                key: org.roster.org().to_string(),
                role: own.map(|own| own.role.clone()).unwrap_or_else(|| "none: revoked or expired".to_owned()),
                groups: own.map(|own| own.groups.clone()).unwrap_or_default(),
                services: own.map(|own| own.services.clone()).unwrap_or_default(),
                expires_s: own.map(|own| own.expires.as_secs().saturating_sub(now.as_secs())),
                members: org.roster.members(now).count(),
                lists_are_fresh: org.roster.lists_are_fresh(now),
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
        let key = proof.key();
        let route = route.unwrap_or_else(|| calls::way_unknown(key));
        Ok(self.resolved_member(&proof, org, route).await)
    }

    async fn resolved_member(&self, proof: &Proof, org: &str, route: PeerInfo) -> Resolved {
        let membership = proof.membership();
        let mut routes = vec![route];
        let is_connected = self.peer_status(proof.key()).await.is_some_and(|status| status.connected);
        // The directory knows better where it is now, if it can be asked; the organisation knows who it is.
        if !is_connected
            && self.inner.home_link.borrow().connected
            && let Ok(found) = self.resolve_key(proof.key()).await
        {
            routes = [found.routes, routes].concat();
        }
        Resolved {
            key: proof.key(),
            address: proof.address(),
            name: Some(format!("{}@{org}", membership.name)),
            tags: Vec::new(),
            groups: membership.groups.clone(),
            description: String::new(),
            offers: Vec::new(),
            reachable: None,
            routes,
        }
    }
}

/// Makes who holds the organisation's key a member.
fn found(roster: &Roster, key: &Identity, founder: &Applicant, now: UnixTime) -> Result<Vec<u8>, ApiError> {
    let terms = Terms {
        role: ROLE_FOUNDER.to_owned(),
        groups: Vec::new(),
        services: Vec::new(),
        generations: 0,
        lifetime: MEMBERSHIP_VALIDITY_MAX.as_secs(),
    };
    Issuer::Org(key.clone()).enrol(roster, founder, &terms, now).map_err(|error| org::failed(&error))
}

/// What somebody joins with.
#[derive(Debug)]
pub enum Token {
    /// An invite.
    Invite(Invite),
    /// What stands for one between people.
    Code(Code),
}

impl FromStr for Token {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        let usage = |what: &dyn Display, hint: &str| ApiError::new(ErrorCode::Usage, what.to_string()).hint(hint);
        match (text.parse::<Invite>(), text.parse::<Code>()) {
            (Ok(invite), _) => Ok(Self::Invite(invite)),
            (Err(InviteError::NotAnInvite), Ok(code)) => Ok(Self::Code(code)),
            (Err(InviteError::NotAnInvite), Err(error @ CodeError::Mistyped)) => {
                Err(usage(&error, "type it again: a name, a slash and eight symbols; no try is used up"))
            }
            (Err(error), _) => Err(usage(&error, "copy the whole line that 'pilotctl org invite' printed")),
        }
    }
}

/// Whether an invite is for that organisation.
///
/// # Errors
/// If it is for another.
pub fn check_org(invite: &Invite, org: &str) -> Result<(), ApiError> {
    if invite.name == org {
        return Ok(());
    }
    let message = format!("the invite is for '{}', not for '{org}'", invite.name);
    Err(ApiError::new(ErrorCode::Usage, message).hint(format!("say so: --org {}", invite.name)))
}

fn check_invite(request: &types::InviteRequest) -> Result<(), ApiError> {
    let usage = |message: String, hint: &str| Err(ApiError::new(ErrorCode::Usage, message).hint(hint));
    let labels = request.groups.iter().chain([&request.role]);
    if let Some(label) = labels.into_iter().find(|label| !is_label(label)) {
        return usage(
            format!("'{label}' cannot be a role or a group"),
            "use 1 to 63 lower-case letters, digits and -._:/",
        );
    }
    if let Some(service) = request.services.iter().find(|service| service_port(service).is_none()) {
        return usage(format!("'{service}' is not a service"), "services are query, mcp, message, or a port number");
    }
    if request.generations > GENERATIONS_MAX {
        return usage(
            format!("{} generations are too many", request.generations),
            "an organisation has 3 generations of members that enrol at most",
        );
    }
    if request.expires_s == 0 || request.expires_s > INVITE_VALIDITY_MAX.as_secs() {
        return usage("an invite may be used for up to 90 days".to_owned(), "for example: --expires 7d");
    }
    if request.code && (request.uses != 1 || request.expires_s > CODE_VALIDITY_MAX.as_secs()) {
        return usage("a code is for one person and for a day at most".to_owned(), "for more, make an invite");
    }
    if request.lifetime_s == 0 || request.lifetime_s > MEMBERSHIP_VALIDITY_MAX.as_secs() {
        return usage("a membership lasts up to 400 days".to_owned(), "for example: --membership 90d");
    }
    Ok(())
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

/// Lets the members that were enrolled here stay members under the key that takes the place of a stolen one.
fn endorse(org: &mut Org, key: &Identity, now: UnixTime) -> Result<(), ApiError> {
    let list = org.ledger.first_list(org.roster.charters(), now);
    let list = list.sign(key).map_err(|error| org::failed(&error))?;
    org.roster.add_list(&list, now).map_err(|error| org::failed(&error))?;
    for proof in org.ledger.proofs() {
        // A thief may have put something else in its place.
        if let Err(error) = org.roster.add_proof(proof, now) {
            tracing::warn!(%error, "a member is one no more");
        }
    }
    Ok(())
}

fn named_or_keyed<'a>(roster: &'a Roster, member: &str, now: UnixTime) -> Option<&'a Proof> {
    let by_key = member.parse::<IdentityKey>().ok().and_then(|key| roster.proof(&key, now));
    let by_address = || roster.members(now).find(|proof| proof.address().to_string() == member);
    by_key.or_else(|| roster.named(member, now)).or_else(by_address)
}

fn org_member(proof: &Proof, now: UnixTime) -> types::OrgMember {
    let membership = proof.membership();
    types::OrgMember {
        name: membership.name.clone(),
        address: proof.address().to_string(),
        key: proof.key().to_string(),
        role: membership.role.clone(),
        groups: membership.groups.clone(),
        expires_s: membership.expires.as_secs().saturating_sub(now.as_secs()),
    }
}

/// Says what helps where an invite does not: another name, another invite, or its issuer running.
fn unreached(error: ApiError, invite: &str, name: &str) -> ApiError {
    if error.code == ErrorCode::Refused && error.hint.is_none() {
        let is_taken = error.message.ends_with(&EnrolError::NameTaken(name.to_owned()).to_string());
        return error.hint(if is_taken {
            "take another name in the organisation: --name NAME"
        } else {
            "ask who made it for another: pilotctl org invite"
        });
    }
    if !matches!(error.code, ErrorCode::Unreachable | ErrorCode::Timeout) {
        return error;
    }
    let message = format!("who made {invite} cannot be reached: {}", error.message);
    ApiError::new(ErrorCode::Unreachable, message).hint("it must run while you join; afterwards it need not")
}
