//! How agents come to be members: invites, codes, and what is done with them (spec/org.md §4, §6).

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use pilot_core::org::OrgError;
use pilot_core::org::code::{CODE_SEED_LEN, Code, CodeError, Word};
use pilot_core::org::invite::{INVITE_ID_LEN, Invite, InviteError};
use pilot_core::org::issuer::{EnrolError, INVITE_VALIDITY_MAX, Terms};
use pilot_core::org::membership::{GENERATIONS_MAX, MEMBERSHIP_VALIDITY_MAX, Membership, ROLE_MEMBER};
use pilot_core::record::{is_label, is_name};
use pilot_core::ticket::Ticket;
use pilot_core::time::UnixTime;
use zeroize::Zeroizing;

use super::{Agent, COMPARE_CLOCKS};
use crate::api::orgs;
use crate::api::types::{ApiError, ErrorCode};
use crate::clock;
use crate::home::entropy;
use crate::org::{self, Org, calls, codes, directory};
use crate::services::{service_name, service_port};

/// A code is guessed at by whoever knows its issuer: nobody leaves it lying about.
const CODE_VALIDITY_MAX: Duration = Duration::from_secs(86_400);
/// Addresses in a code for a camera, so that it fits a terminal; the rest the backbone knows.
const SCANNED_ADDRESSES_MAX: usize = 2;

impl Agent {
    /// Makes an invite.
    ///
    /// # Errors
    /// If this agent makes no members, or may not give what is asked.
    pub async fn invite(&self, request: &orgs::InviteRequest) -> Result<orgs::Invited, ApiError> {
        let inner = &self.inner;
        check_invite(request)?;
        let ticket = self.ticket().await?;
        let now = clock::now().unix;
        let (id, secret) = (entropy()?, Zeroizing::new(entropy()?));
        let mut terms = Terms {
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
            let own = org.roster.member(&issuer.key(), now);
            if let (Some(own), true) = (own, terms.services.is_empty()) {
                terms.services.clone_from(&own.services);
            }
            // What could not be given when the invite is used is refused now.
            let refused = |error: OrgError| {
                let refused = ApiError::new(ErrorCode::Refused, error.to_string());
                match (error, own) {
                    (OrgError::BeyondRights(_), Some(own)) => {
                        refused.hint(format!("at most this: {}", widest_invite(&request.org, own)))
                    }
                    _ => refused,
                }
            };
            issuer.check_terms(&org.roster, &terms, now).map_err(refused)?;
            let opened = match &code {
                Some((word, seed)) => {
                    org.invites.open_code(id, (word.clone(), *seed), terms.clone(), expires, &org.roster, now)
                }
                None => org.invites.open((id, &secret), terms.clone(), request.uses, expires, &org.roster, now),
            };
            opened.map_err(|error| no_room(&error))?;
            Ok(org.roster.org())
        });
        let org = org.await?;
        drop(coding);
        let (invite, scan) = match code {
            Some((word, _)) => self.codes(ticket, word)?,
            None => (Invite { org, name: request.org.clone(), issuer: ticket, id, secret }.to_string(), None),
        };
        let id = HEXLOWER.encode(&id);
        Ok(orgs::Invited { id, invite, scan, uses: request.uses, expires_s: request.expires_s })
    }

    /// Takes an invite back. Who has used it stays a member.
    ///
    /// # Errors
    /// If no such invite of this agent is open, or that cannot be kept.
    pub async fn uninvite(&self, request: &orgs::UninviteRequest) -> Result<orgs::Uninvited, ApiError> {
        let orgs::UninviteRequest { org, invite } = request;
        let unknown = || {
            ApiError::new(ErrorCode::NotFound, format!("no invite '{invite}' to '{org}' is open here"))
                .hint("see which are: pilotctl org list")
        };
        let id = HEXLOWER_PERMISSIVE.decode(invite.as_bytes()).ok().and_then(|id| id.try_into().ok());
        let id: [u8; INVITE_ID_LEN] = id.ok_or_else(unknown)?;
        let closed = self.inner.orgs.change(org, |org| if org.invites.close(&id) { Ok(()) } else { Err(unknown()) });
        closed.await?;
        Ok(orgs::Uninvited { org: org.clone(), invite: HEXLOWER.encode(&id) })
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

    /// Joins an organisation with an invite, under the agent's own host name unless another is given; also one that it was in, and is no more.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub async fn join_org(&self, request: &orgs::JoinRequest) -> Result<orgs::Joined, ApiError> {
        if request.unless_member
            && let Some(org) = &request.org
            && let Some(joined) = self.membership(org).await
        {
            return self.check_meant(&request.token, org).map(|()| joined);
        }
        let name = request.name.as_deref().unwrap_or(self.inner.name());
        check_name(name)?;
        let invite = self.invite_of(&request.token).await?;
        request.org.as_ref().map_or(Ok(()), |org| check_org(&invite, org))?;
        let inner = &self.inner;
        let is_again = self.is_over(&invite);
        if !is_again {
            self.check_new(&invite)?;
        }
        let issuer = self.resolve(&invite.issuer.to_string()).await?;
        let way = issuer.routes.into_iter().next().unwrap_or_else(|| calls::way_unknown(issuer.key));
        let enrolled = calls::enrol(inner, &invite, way, name).await;
        let org = enrolled.map_err(|error| unreached(error, &format!("this invite to '{}'", invite.name), name))?;
        if is_again {
            inner.orgs.replace(org).await?;
        } else {
            inner.orgs.add(org, None).await?;
        }
        let joined = joined(self.org_status(&invite.name)?);
        let (weak, name) = (Arc::clone(inner), invite.name);
        // The others hear of us, and we of the rest of them; who of these is off keeps us from neither.
        tokio::spawn(async move { tokio::join!(calls::sync(&weak, &name), calls::meet(&weak, &name)) });
        Ok(joined)
    }

    /// This agent's membership of an organisation, if it is in it, also by what the directory knows: it may have been off when it was revoked.
    async fn membership(&self, org: &str) -> Option<orgs::Joined> {
        self.org_status(org).ok()?;
        directory::hear(&self.inner, org).await;
        self.org_status(org).ok().filter(|status| status.expires_s.is_some()).map(joined)
    }

    /// Whether a member of `org` may stay it by what it has: not with an invite to something else. What is no invite any more hinders nobody.
    fn check_meant(&self, token: &str, org: &str) -> Result<(), ApiError> {
        let Ok(Token::Invite(invite)) = token.parse() else { return Ok(()) };
        check_org(&invite, org)?;
        if self.inner.orgs.with(org, |known| known.roster.org())? == invite.org {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::Failed, format!("this agent is in another organisation '{org}'"))
            .hint(format!("leave that first: pilotctl org leave {org}")))
    }

    /// Whether this agent was in the organisation of the invite, and is no more: what it has of that is of no use. Of who keeps its key it is.
    fn is_over(&self, invite: &Invite) -> bool {
        let (orgs, now) = (&self.inner.orgs, clock::now().unix);
        let is_over = |known: &mut Org| {
            let is_member = known.roster.member(&orgs.own_key(), now).is_some();
            known.roster.org() == invite.org && known.key.is_none() && !is_member
        };
        orgs.with(&invite.name, is_over).unwrap_or(false)
    }

    fn check_new(&self, invite: &Invite) -> Result<(), ApiError> {
        let orgs = &self.inner.orgs;
        orgs.check_new(&invite.name)?;
        let Some(name) = orgs.name_of(&invite.org) else { return Ok(()) };
        // Who asks under another name wants a word of ours that somebody could use there.
        let message =
            format!("this agent is in that organisation already: it is called '{name}', not '{}'", invite.name);
        Err(ApiError::new(ErrorCode::Failed, message).hint("ask who made the invite what it is"))
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
}

/// Why no invite is opened, and what makes room for one.
fn no_room(error: &OrgError) -> ApiError {
    ApiError::new(ErrorCode::Failed, format!("of open invites {error}"))
        .hint("take one back by its number: pilotctl org list, pilotctl org uninvite ID")
}

fn joined(status: orgs::OrgStatus) -> orgs::Joined {
    orgs::Joined { org: status.name, role: status.role, members: status.members }
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

fn check_invite(request: &orgs::InviteRequest) -> Result<(), ApiError> {
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

/// Whether somebody can be called so. It is asked before anybody else is: a code has three tries.
fn check_name(name: &str) -> Result<(), ApiError> {
    if is_name(name) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Usage, format!("'{name}' cannot be a name in an organisation"))
        .hint("use 1 to 63 lower-case letters, digits and inner hyphens"))
}

/// The command that makes an invite to all that a member can give.
fn widest_invite(org: &str, own: &Membership) -> String {
    let mut command = format!("pilotctl org invite {org}");
    let mut flag = |name: &str, value: String| command += &format!(" --{name} {value}");
    if own.role != ROLE_MEMBER {
        flag("role", own.role.clone());
    }
    if !own.groups.is_empty() {
        flag("groups", own.groups.join(","));
    }
    if !own.services.is_empty() {
        flag("services", own.services.join(","));
    }
    if own.generations > 1 {
        flag("may-enrol", (own.generations - 1).to_string());
    }
    command
}

/// Says what helps where an invite does not: another name, another invite, or its issuer running.
fn unreached(error: ApiError, invite: &str, name: &str) -> ApiError {
    if error.code == ErrorCode::Refused && error.hint.is_none() {
        let says = |reason: &dyn Display| error.message.ends_with(&reason.to_string());
        let hint = if says(&EnrolError::NameTaken(name.to_owned())) {
            "take another name in the organisation: --name NAME"
        } else if says(&OrgError::Clocks) || says(&OrgError::Superseded) {
            COMPARE_CLOCKS
        } else {
            "ask who made it for another: pilotctl org invite"
        };
        return error.hint(hint);
    }
    if !matches!(error.code, ErrorCode::Unreachable | ErrorCode::Timeout) {
        return error;
    }
    let message = format!("who made {invite} cannot be reached: {}", error.message);
    let hint = error.hint.filter(|hint| hint == COMPARE_CLOCKS);
    let hint = hint.unwrap_or_else(|| "it must run while you join; afterwards it need not".to_owned());
    ApiError::new(ErrorCode::Unreachable, message).hint(hint)
}
