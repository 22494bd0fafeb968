//! Finding other agents: by name, address, key, ticket, or by what they offer.

use std::sync::Arc;
use std::time::Duration;

use pilot_core::address::Address;
use pilot_core::directory::{Asked, VerifiedAgent, VerifiedInstance};
use pilot_core::id::IdentityKey;
use pilot_core::node::{Home as HomeNode, PeerInfo};
use pilot_core::record::{Offer, is_name};
use pilot_core::ticket::Ticket;
use pilot_core::wire::directory::{Entry, FIND_LIMIT_MAX, FIND_WORDS_MAX, Find, Reply, Request, Target};

use super::Agent;
use crate::api::types::{self, ApiError, ErrorCode};
use crate::backbone_link;
use crate::clock;

/// An answer of the directory this young is used again while there is a tunnel with the agent, and one to a search for the first call.
const ANSWER_FRESH: Duration = Duration::from_secs(10);

/// Another agent, found.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Identity key: this is who it is.
    pub key: IdentityKey,
    /// Its address.
    pub address: Address,
    /// Its host name; none when it was given by ticket.
    pub name: Option<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// Groups it answers for.
    pub groups: Vec<String>,
    /// What it says about itself.
    pub description: String,
    /// Services it offers.
    pub offers: Vec<Offer>,
    /// Whether its backbone node has a tunnel with it; none when no backbone node was asked.
    pub reachable: Option<bool>,
    /// How to reach it: by one of these, the best first.
    pub(super) routes: Vec<PeerInfo>,
}

impl Resolved {
    /// Its name, or its address where it has none.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }
}

impl Agent {
    /// Finds another agent by host name, name in an organisation (`name@org`), address, key or ticket. Members of one's own organisations are
    /// known by address and key without a directory.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] with suggestions, or that the directory does not answer, which takes 3 s at most.
    pub async fn resolve(&self, target: &str) -> Result<Resolved, ApiError> {
        if target.starts_with("pilot:") {
            return self.resolve_ticket(target).await;
        }
        if let Some((name, org)) = target.split_once('@') {
            return self.resolve_member(name, org).await;
        }
        let wanted = parse_target(target)?;
        match self.resolve_as_member(&wanted).await? {
            Some(member) => Ok(member),
            None => self.resolve_target(wanted, target).await,
        }
    }

    /// Asks the directory for a key.
    pub(super) async fn resolve_key(&self, key: IdentityKey) -> Result<Resolved, ApiError> {
        self.resolve_target(Target::Key(key), &key.to_string()).await
    }

    async fn resolve_target(&self, wanted: Target, target: &str) -> Result<Resolved, ApiError> {
        let now = clock::now();
        let not_before = now.mono - ANSWER_FRESH;
        let fresh = self.inner.names().recall(&wanted, Some(not_before), now.unix);
        if let Some(found) = fresh
            && self.peer_status(found.key).await.is_some_and(|status| status.connected)
        {
            return Ok(self.resolved(found, true));
        }
        let found = self.inner.names().take_found(&wanted, not_before, now.unix);
        if let Some(found) = found {
            self.save_names();
            return Ok(self.resolved(found, true));
        }
        match backbone_link::call(&self.inner, &Request::Resolve { by: wanted.clone() }).await {
            Ok(Reply::Resolved(entry)) => self.believe(entry, &wanted, target),
            Ok(Reply::NotFound { suggestions }) => Err(not_found(target, &suggestions)),
            Ok(reply) => Err(backbone_link::unexpected(&reply)),
            Err(error) => self.recall(&wanted).await.ok_or(error),
        }
    }

    /// Searches the directory; best first.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn find(&self, request: &types::FindRequest) -> Result<Vec<Resolved>, ApiError> {
        let words = request.need.iter().flat_map(|need| need.split_whitespace());
        let find = Find {
            tag: request.tag.clone(),
            group: request.group.clone(),
            need: words.map(str::to_lowercase).take(FIND_WORDS_MAX).collect(),
            limit: request.limit.unwrap_or(FIND_LIMIT_MAX).min(FIND_LIMIT_MAX),
        };
        let reply = backbone_link::call(&self.inner, &Request::Find(find.clone())).await?;
        let Reply::Found(entries) = reply else { return Err(backbone_link::unexpected(&reply)) };
        let now = clock::now();
        let mut names = self.inner.names();
        let checked = entries.into_iter().map(|entry| names.check(entry, Asked::Find(&find), now.mono, now.unix));
        let believed: Vec<_> = checked
            .filter_map(|result| result.inspect_err(|error| tracing::warn!(%error, "answer of the directory")).ok())
            .collect();
        drop(names);
        Ok(believed.into_iter().map(|agent| self.resolved(agent, true)).collect())
    }

    async fn resolve_ticket(&self, text: &str) -> Result<Resolved, ApiError> {
        let ticket: Ticket = text.parse().map_err(|error: pilot_core::ticket::TicketError| {
            ApiError::new(ErrorCode::Usage, error.to_string())
                .hint("copy the whole line that 'pilotctl ticket' printed")
        })?;
        let mut homes = Vec::new();
        if let Some(home) = &ticket.home {
            // The addresses in the ticket may do without.
            let addresses = backbone_link::look_up(home).await.map(|info| info.addresses).unwrap_or_default();
            homes.push(HomeNode { key: home.identity, addresses });
        }
        Ok(Resolved {
            key: ticket.identity,
            address: ticket.address(),
            name: self.inner.name_of(&ticket.identity),
            tags: Vec::new(),
            groups: Vec::new(),
            description: String::new(),
            offers: Vec::new(),
            reachable: None,
            routes: vec![PeerInfo { key: ticket.identity, certificate: None, addresses: ticket.addresses, homes }],
        })
    }

    fn believe(&self, entry: Entry, wanted: &Target, target: &str) -> Result<Resolved, ApiError> {
        let now = clock::now();
        let mut names = self.inner.names();
        let verified = names.check(entry, Asked::Resolve(wanted), now.mono, now.unix).map_err(|error| {
            ApiError::new(
                ErrorCode::Failed,
                format!("the directory's answer about '{target}' is not believed: {error}"),
            )
            .hint("ask the other agent's owner for its ticket: that needs no directory")
        })?;
        drop(names);
        self.save_names();
        Ok(self.resolved(verified, true))
    }

    /// Stores pins and answers, on a thread that may wait for the disk.
    fn save_names(&self) {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.save_names() {
                tracing::warn!(%error, "pins not stored");
            }
        });
    }

    /// What the directory said earlier, or what the same home knows.
    async fn recall(&self, wanted: &Target) -> Option<Resolved> {
        let found = self.inner.names().recall(wanted, None, clock::now().unix);
        found.map(|agent| self.resolved(agent, false))
    }

    fn resolved(&self, agent: VerifiedAgent, is_asked: bool) -> Resolved {
        let mut routes: Vec<_> =
            agent.instances.into_iter().map(|instance| self.route(agent.key, Some(instance))).collect();
        if routes.is_empty() {
            routes.push(self.route(agent.key, None));
        }
        Resolved {
            key: agent.key,
            address: agent.address,
            name: Some(agent.name),
            tags: agent.tags,
            groups: agent.groups,
            description: agent.description,
            offers: agent.offers,
            reachable: is_asked.then_some(agent.reachable),
            routes,
        }
    }

    /// How to reach one instance of an agent, or any where none is known.
    fn route(&self, key: IdentityKey, instance: Option<VerifiedInstance>) -> PeerInfo {
        let (certificate, homes) =
            instance.map_or((None, Vec::new()), |instance| (Some(instance.certificate), instance.homes));
        let mut homes: Vec<_> =
            homes.into_iter().map(|home| HomeNode { key: home.key, addresses: home.addresses }).collect();
        if let (true, Some(own)) = (homes.is_empty(), &self.inner.backbone) {
            // Who is in our directory is probably at our node; its addresses are known to the node already.
            homes.push(HomeNode { key: own.identity, addresses: Vec::new() });
        }
        PeerInfo { key, certificate, addresses: Vec::new(), homes }
    }
}

fn parse_target(target: &str) -> Result<Target, ApiError> {
    if let Ok(address) = target.parse() {
        return Ok(Target::Address(address));
    }
    if let Ok(key) = target.parse() {
        return Ok(Target::Key(key));
    }
    if is_name(target) {
        return Ok(Target::Name(target.to_owned()));
    }
    Err(ApiError::new(ErrorCode::Usage, format!("'{target}' is neither a host name, an address, a key nor a ticket"))
        .hint("for example: agent-alpha, 0:A91F.3C07.7C2E, or what 'pilotctl ticket' prints"))
}

fn not_found(target: &str, suggestions: &[String]) -> ApiError {
    let error = ApiError::new(ErrorCode::NotFound, format!("no agent named '{target}'"));
    match suggestions.first() {
        Some(name) => error.hint(format!("did you mean '{name}'?")),
        None => error.hint("see who is there: pilotctl find"),
    }
}
