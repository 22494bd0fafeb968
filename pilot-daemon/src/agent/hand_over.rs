//! Giving the agent's name to another key (spec/trust.md §3).

use pilot_core::id::IdentityKey;
use pilot_core::record::HandOver;
use pilot_core::wire::directory::{Reply, Request};

use super::Agent;
use crate::api::types::{ApiError, ErrorCode};
use crate::backbone_link;
use crate::clock;

impl Agent {
    /// Hands the agent's name over: it is kept for the other key, and those who have pinned this one follow.
    ///
    /// # Errors
    /// If the key is the agent's own, or the directory refuses or cannot be asked.
    pub async fn hand_over(&self, to: IdentityKey) -> Result<(), ApiError> {
        let inner = &self.inner;
        let record =
            HandOver { from: inner.identity.key(), name: inner.name().to_owned(), to, issued: clock::now().unix };
        let signed = record.sign(&inner.identity).map_err(|_| {
            ApiError::new(ErrorCode::Usage, "this is the agent's own key")
                .hint("give the key of the agent that is to have the name: `pilotctl info` shows it there")
        })?;
        match backbone_link::call(inner, &Request::HandOver { signed }).await {
            Ok(Reply::HandedOver) => Ok(()),
            Ok(Reply::Error { message, .. }) => Err(backbone_link::refused(&message)),
            Ok(reply) => Err(backbone_link::unexpected(&reply)),
            Err(error) => Err(error),
        }
    }
}
