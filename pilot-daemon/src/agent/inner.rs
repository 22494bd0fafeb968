//! What the clones of an agent share, and how they have something done in the loop.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pilot_core::id::IdentityKey;
use pilot_core::identity::{Certificate, Identity};
use pilot_core::node::{OpenStreamError, PeerInfo};
use pilot_core::org::whereabouts::{WHEREABOUTS_ADDRESSES_MAX, WHEREABOUTS_VALIDITY_MAX, Whereabouts};
use pilot_core::record::Offer;
use pilot_core::ticket::{ADDRESSES_MAX, BackboneTicket, Ticket};
use pilot_core::time::{Mono, Now, UnixTime};
use pilot_core::wire::stream_header::StreamHeader;
use std::time::Duration;
use tokio::sync::{OnceCell, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::error::has_ended;
use super::settings::Profile;
use crate::api::types::{ApiError, ErrorCode};
use crate::backbone_link::{Registration, own_homes};
use crate::clock;
use crate::driver::{Command, Core, HomeLink, Open};
use crate::home::{AgentHome, Home, HomeError, HomeLock};
use crate::names::Names;
use crate::net::host_addresses;
use crate::org::Orgs;
use crate::port_mapping::PortMapper;
use crate::renewal::KeyRenewal;
use crate::stream::Stream;
use crate::tls::keeper::LinkReport;

/// A stream waits no longer than this until its peer allows it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Whereabouts are signed anew after this, so that members see that the agent is still there.
const WHEREABOUTS_RENEWAL: Duration = Duration::from_secs(86_400);

/// What the clones of an agent share.
pub(crate) struct Inner {
    pub(super) commands: mpsc::Sender<Command>,
    pub(crate) agent_home: AgentHome,
    pub(crate) home: Home,
    pub(crate) identity: Identity,
    /// The current one; it goes out with the next registration.
    pub(crate) certificate: watch::Sender<Certificate>,
    pub(crate) backbone: Option<BackboneTicket>,
    pub(super) listen: SocketAddr,
    pub(super) supervised: bool,
    /// It leaves nothing behind.
    pub(crate) is_ephemeral: bool,
    /// Said once, however many ask the agent to end.
    pub(super) farewell: OnceCell<()>,
    /// Guards pins and answers; a leaf, never held across an await.
    pub(super) names: Mutex<Names>,
    /// Guards the files of `names`, taken before it and only on threads that may wait for a disk.
    pub(super) names_files: Mutex<()>,
    /// The last sequence given to a record; a leaf like `names`.
    pub(super) sequence: Mutex<u64>,
    /// The organisations that it is in.
    pub(crate) orgs: Arc<Orgs>,
    /// What members are told of where this agent is, as signed last.
    pub(super) whereabouts: Mutex<Option<(Whereabouts, Vec<u8>)>>,
    pub(crate) profile: watch::Sender<Profile>,
    pub(crate) offers: watch::Receiver<Vec<Offer>>,
    pub(crate) home_link: watch::Receiver<HomeLink>,
    pub(crate) registration: watch::Receiver<Registration>,
    pub(crate) link_report: watch::Receiver<LinkReport>,
    /// Where the STUN servers of the settings are.
    pub(super) stun_servers: watch::Receiver<Vec<SocketAddr>>,
    pub(super) port_mapper: PortMapper,
    /// Dropped by the driver at its end.
    pub(super) ended: watch::Receiver<()>,
    pub(super) started: Mono,
    pub(super) _lock: HomeLock,
}

impl Inner {
    /// Carries something out in the loop.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub(crate) async fn apply(&self, command: impl FnOnce(&mut Core, Now) + Send + 'static) -> Result<(), ApiError> {
        self.commands.send(Box::new(command)).await.map_err(|_| has_ended())
    }

    /// As [`Self::apply`], for an answer.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        // Who no longer waits needs no answer.
        self.apply(move |core, now| drop(reply.send(question(core, now)))).await?;
        answer.await.map_err(|_| has_ended())
    }

    /// Opens a stream to a peer that the node knows, as soon as the peer allows one more.
    pub(crate) async fn open(&self, peer: IdentityKey, header: StreamHeader) -> Result<Stream, ApiError> {
        self.open_by(peer, Vec::new(), header, None).await
    }

    /// As [`Self::open`], to a peer that these routes may lead to, too, and with all that there is to say if that is known.
    pub(crate) async fn open_by(
        &self,
        peer: IdentityKey,
        routes: Vec<PeerInfo>,
        header: StreamHeader,
        request: Option<Bytes>,
    ) -> Result<Stream, ApiError> {
        let (opened, answer) = oneshot::channel();
        let open = move |core: &mut Core, now| {
            core.learn_routes(now, routes);
            core.open(now, Open { peer, header, request, opened });
        };
        self.apply(open).await?;
        let opened = timeout(OPEN_TIMEOUT, answer).await.map_err(|_| {
            ApiError::new(ErrorCode::Failed, "no stream could be opened: the peer allows no more of them for now")
        })?;
        opened.map_err(|_| has_ended())?.map_err(|error| {
            let is_unknown = error == OpenStreamError::UnknownPeer;
            let code = if is_unknown { ErrorCode::NotFound } else { ErrorCode::Failed };
            ApiError::new(code, format!("no stream could be opened: {error}"))
        })
    }

    pub(crate) fn name(&self) -> &str {
        self.agent_home.name()
    }

    /// The next sequence of a record: greater than any before, also of a run whose file was lost or could not be written. Milliseconds
    /// since the epoch, so that no run comes up to the clock of the next one.
    pub(crate) fn next_sequence(&self, now: UnixTime) -> u64 {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence = sequence.saturating_add(1).max(now.0 / 1_000_000);
        if let Err(error) = self.agent_home.save_number("sequence", *sequence) {
            // The clock stands in for the file at the next start. Without a registration nobody would find the agent any more.
            tracing::warn!(%error, "sequence not stored");
        }
        *sequence
    }

    /// A record of this sequence exists: the next ones are above it.
    pub(crate) fn note_sequence(&self, seen: u64) {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence = (*sequence).max(seen);
    }

    /// Goes on with new keys: first the node, then, by the next registration, those who look the agent up.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub(super) async fn renew_keys(&self, renewal: &mut KeyRenewal, now: UnixTime) -> Result<(), ApiError> {
        match renewal.renew(now).await {
            Ok(keys) => {
                let certificate = keys.certificate.clone();
                self.apply(move |core, _| core.node.set_keys(keys)).await?;
                self.certificate.send_replace(certificate);
            }
            Err(error) => tracing::warn!(%error, "keys not renewed"),
        }
        Ok(())
    }

    /// Where this agent is, signed. As long as that is the same, so are the bytes, for a day: members have nothing new to hand on.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub(crate) async fn whereabouts(&self) -> Result<Vec<u8>, ApiError> {
        let addresses = self.addresses(WHEREABOUTS_ADDRESSES_MAX).await?;
        let homes = own_homes(self).await;
        let now = clock::now().unix;
        let fresh = Whereabouts {
            member: self.identity.key(),
            certificate: self.certificate.borrow().encode().to_vec(),
            addresses,
            homes,
            issued: now,
            expires: now + WHEREABOUTS_VALIDITY_MAX,
        };
        let mut last = self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((signed, bytes)) = &*last {
            let same = Whereabouts { issued: signed.issued, expires: signed.expires, ..fresh.clone() };
            if same == *signed && now.as_secs() < signed.issued.as_secs() + WHEREABOUTS_RENEWAL.as_secs() {
                return Ok(bytes.clone());
            }
        }
        let bytes = fresh.sign(&self.identity).map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()))?;
        *last = Some((fresh, bytes.clone()));
        Ok(bytes)
    }

    /// All that another agent needs to reach this one.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub(crate) async fn ticket(&self) -> Result<Ticket, ApiError> {
        let addresses = self.addresses(ADDRESSES_MAX).await?;
        Ticket::new(self.identity.key(), self.identity.modifier(), addresses, self.backbone.clone()).map_err(|error| {
            ApiError::new(ErrorCode::Failed, error.to_string())
                .hint("`pilotctl daemon set --direct on` allows its own addresses in it, a backbone node needs none")
        })
    }

    /// Where this agent can be sent to: its interfaces, what the router has mapped, and the address that the backbone sees; nowhere, if all is
    /// to go by the backbone.
    async fn addresses(&self, count_max: usize) -> Result<Vec<SocketAddr>, ApiError> {
        if !self.profile.borrow().direct {
            return Ok(Vec::new());
        }
        let observed = self.ask(|core, _| core.node.observed_address()).await?;
        let mut addresses = host_addresses(self.listen);
        let mapped = self.port_mapper.mapped();
        addresses.extend(mapped.filter(|mapped| !addresses.contains(mapped)));
        addresses.extend(observed.filter(|observed| !addresses.contains(observed)));
        addresses.truncate(count_max);
        Ok(addresses)
    }

    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores pins and answers as they are now: of two at once, the one that comes later holds what both know.
    pub(super) fn save_names(&self) -> Result<(), HomeError> {
        let _files = self.names_files.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = self.names().to_bytes();
        Names::save(&self.agent_home, &contents)
    }

    pub(crate) fn name_of(&self, key: &IdentityKey) -> Option<String> {
        let known = self.names().name_of(key).map(str::to_owned);
        known.or_else(|| self.home.agent_of(key).map(|agent| agent.name().to_owned()))
    }
}
