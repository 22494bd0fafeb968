//! What the clones of an agent share, and how they have something done in the loop.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pilot_core::id::IdentityKey;
use pilot_core::identity::{Certificate, Identity};
use pilot_core::node::OpenStreamError;
use pilot_core::record::Offer;
use pilot_core::ticket::BackboneTicket;
use pilot_core::time::{Mono, Now, UnixTime};
use pilot_core::wire::stream_header::StreamHeader;
use tokio::sync::{mpsc, oneshot, watch};

use super::error::has_ended;
use super::settings::Profile;
use crate::api::types::{ApiError, ErrorCode};
use crate::backbone_link::Registration;
use crate::driver::{Command, Core, HomeLink};
use crate::home::{AgentHome, Home, HomeLock};
use crate::names::Names;
use crate::renewal::KeyRenewal;
use crate::stream::Stream;

/// What the clones of an agent share.
pub(crate) struct Inner {
    pub(super) commands: mpsc::Sender<Command>,
    pub(crate) agent_home: AgentHome,
    pub(super) home: Home,
    pub(crate) identity: Identity,
    /// The current one; it goes out with the next registration.
    pub(crate) certificate: watch::Sender<Certificate>,
    pub(crate) backbone: Option<BackboneTicket>,
    pub(super) listen: SocketAddr,
    pub(super) supervised: bool,
    /// Guards pins and answers; a leaf, never held across an await.
    pub(super) names: Mutex<Names>,
    /// The last sequence given to a record; a leaf like `names`.
    pub(super) sequence: Mutex<u64>,
    pub(crate) profile: watch::Sender<Profile>,
    pub(crate) offers: watch::Receiver<Vec<Offer>>,
    pub(crate) home_link: watch::Receiver<HomeLink>,
    pub(crate) registration: watch::Receiver<Registration>,
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
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        // Who no longer waits needs no answer.
        self.apply(move |core, now| drop(reply.send(question(core, now)))).await?;
        answer.await.map_err(|_| has_ended())
    }

    /// Opens a stream to a peer that the node knows.
    pub(crate) async fn open(&self, peer: IdentityKey, header: StreamHeader) -> Result<Stream, ApiError> {
        let opened = self.ask(move |core, now| core.open(now, &peer, &header)).await?;
        opened.map_err(|error| {
            let is_unknown = error == OpenStreamError::UnknownPeer;
            let code = if is_unknown { ErrorCode::NotFound } else { ErrorCode::Failed };
            ApiError::new(code, format!("no stream could be opened: {error}"))
        })
    }

    pub(crate) fn name(&self) -> &str {
        self.agent_home.name()
    }

    /// The next sequence of a record: greater than any before, also of a run whose file was lost.
    pub(crate) fn next_sequence(&self, now: UnixTime) -> Result<u64, ApiError> {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence = (*sequence + 1).max(now.as_secs());
        self.agent_home
            .save_number("sequence", *sequence)
            .map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()).hint(error.hint()))?;
        Ok(*sequence)
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

    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn name_of(&self, key: &IdentityKey) -> Option<String> {
        let known = self.names().name_of(key).map(str::to_owned);
        known.or_else(|| self.home.agent_of(key).map(|agent| agent.name().to_owned()))
    }
}
