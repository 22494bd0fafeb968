//! Unreliable messages, as embedding programs and the local API send and take them.

use std::time::Duration;

use bytes::Bytes;
use pilot_core::id::ServicePort;
use pilot_core::node::SendDatagramError;
use pilot_core::transport::DatagramError;

use super::{Agent, Resolved};
use crate::api::types::{ApiError, ErrorCode};
use crate::datagrams::DatagramReceiver;

impl Agent {
    /// Sends a message that may get lost, once there is a tunnel. It is never sent again.
    ///
    /// # Errors
    /// If it is too long, if too many wait, or as [`Agent::connect`].
    pub async fn send_datagram(
        &self,
        peer: &Resolved,
        port: ServicePort,
        data: Bytes,
        time_allowed: Duration,
    ) -> Result<(), ApiError> {
        let sent = match self.queue_datagram(peer, port, data.clone()).await? {
            Err(SendDatagramError::NotConnected) => {
                self.connect(peer, time_allowed).await?;
                self.queue_datagram(peer, port, data).await?
            }
            sent => sent,
        };
        sent.map_err(ApiError::from)
    }

    /// Takes the messages for a port from now on: those of this agent's home, or everybody's.
    ///
    /// # Errors
    /// If another program takes them, or the agent has shut down.
    pub async fn datagrams(&self, port: ServicePort, public: bool) -> Result<DatagramReceiver, ApiError> {
        let received = self.inner.ask(move |core, _| core.datagrams.receive(port, public)).await?;
        received.map_err(|error| {
            ApiError::new(ErrorCode::Failed, error.to_string()).hint("end that program, or take another port")
        })
    }

    async fn queue_datagram(
        &self,
        peer: &Resolved,
        port: ServicePort,
        data: Bytes,
    ) -> Result<Result<(), SendDatagramError>, ApiError> {
        let key = peer.key;
        self.inner.ask(move |core, _| core.node.send_datagram(&key, port, data)).await
    }
}

impl From<SendDatagramError> for ApiError {
    fn from(error: SendDatagramError) -> Self {
        let message = error.to_string();
        match error {
            SendDatagramError::Datagram(DatagramError::TooLong { max, .. }) => {
                Self::new(ErrorCode::Usage, message).hint(format!("send at most {max} bytes at once, or open a stream"))
            }
            SendDatagramError::NotConnected => Self::new(ErrorCode::Unreachable, message),
            SendDatagramError::Datagram(_) | _ => {
                Self::new(ErrorCode::Failed, message).hint("send fewer at once: what waits is late already")
            }
        }
    }
}
