//! Pilot as any program gets it: a daemon at each end, and the local API of each. Four processes do the work of two.

use std::path::PathBuf;

use pilot_daemon::api::client::Client;
use pilot_daemon::api::types::{AcceptRequest, OpenRequest};
use tokio::net::UnixStream;

use super::pilot::SERVICE;
use super::tcp::StreamPipe;
use crate::compare::pipe::{self, Piped};
use crate::compare::system::{Announce, Connection, Contact, Setup, System};
use crate::daemons::{CALLED, CALLER, Lab};
use crate::error::BenchError;

/// Handlers that wait for streams, each on a connection to the daemon.
const HANDLERS: usize = 64;

/// A program that calls by its daemon.
#[derive(Clone)]
pub(crate) struct Daemons {
    client: Client,
}

impl System for Daemons {
    type Connection = Self;

    async fn serve(setup: Setup, announce: Announce) -> Result<(), BenchError> {
        let lab = Lab::start(setup.pilotctl)?;
        let client = Client::connect(lab.socket(CALLED)?).await?;
        for _ in 0..HANDLERS {
            let client = client.clone();
            tokio::spawn(async move {
                let request = AcceptRequest { service: SERVICE.to_owned(), ..AcceptRequest::default() };
                while let Ok((_, stream)) = client.accept(&request).await {
                    // A stream that ends early is the client's to report.
                    let _ended = pipe::serve(&mut StreamPipe::new(stream)).await;
                }
            });
        }
        lab.wait_for_handlers(SERVICE, HANDLERS).await?;
        let credential = lab.socket(CALLER)?.display().to_string();
        let helpers = vec![lab.pid(CALLER).await?, lab.pid(CALLED).await?];
        announce(Contact { address: (setup.listen, 0).into(), credential, helpers })?;
        std::future::pending::<()>().await;
        drop(lab);
        Ok(())
    }

    async fn client(_setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        Ok(Self { client: Client::connect(PathBuf::from(contact.credential)).await? })
    }

    async fn connect(&self) -> Result<Self, BenchError> {
        Ok(self.clone())
    }
}

impl Connection for Daemons {
    type Channel = Piped<StreamPipe<UnixStream>>;

    const IS_MULTIPLEXED: bool = true;

    async fn open(&self) -> Result<Self::Channel, BenchError> {
        let request = OpenRequest { target: CALLED.to_owned(), service: SERVICE.to_owned(), ..OpenRequest::default() };
        Ok(Piped(StreamPipe::new(self.client.open_stream(&request).await?.1)))
    }
}
