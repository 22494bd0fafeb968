//! What all systems have in common: a server answers exchanges, a client makes them.
//!
//! An *exchange* is the one thing that every workload is made of: a client uploads so many bytes, the server takes them and replies with as
//! many as it was asked for. An upload of a gigabyte is bulk, 64 bytes each way are a round trip, 64 bytes for 10 KiB are a page.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::BenchError;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Plain TCP: the yardstick.
    Tcp,
    /// TCP and TLS 1.3.
    Tls,
    /// The same on one thread an end.
    TlsOneThread,
    /// TLS with BBR below.
    TlsBbr,
    /// HTTP/1.1 over TLS.
    Http1,
    /// HTTP/2 over TLS.
    Http2,
    /// HTTP/2 over TLS, with BBR below.
    Http2Bbr,
    /// QUIC by quinn.
    Quinn,
    /// quinn on one thread an end.
    QuinnOneThread,
    /// quinn with its BBR.
    QuinnBbr,
    /// HTTP/3 over quinn.
    Http3,
    /// QUIC by s2n-quic.
    S2n,
    /// QUIC by iroh, directly.
    Iroh,
    /// The least that a relay can do.
    Forwarder,
    /// Two agents embedded in their programs.
    Pilot,
    /// The same, where the service takes requests that may be repeated: they travel in the first message.
    PilotReplaySafe,
    /// The same as the first with packets of at most 1,452 bytes.
    PilotEthernet,
    /// Two daemons, and programs that use their local API.
    PilotDaemons,
}

impl Kind {
    /// Everybody, the yardstick first.
    pub(crate) const ALL: [Self; 18] = [
        Self::Tcp,
        Self::Tls,
        Self::TlsOneThread,
        Self::TlsBbr,
        Self::Http1,
        Self::Http2,
        Self::Http2Bbr,
        Self::Quinn,
        Self::QuinnOneThread,
        Self::QuinnBbr,
        Self::Http3,
        Self::S2n,
        Self::Iroh,
        Self::Forwarder,
        Self::Pilot,
        Self::PilotReplaySafe,
        Self::PilotEthernet,
        Self::PilotDaemons,
    ];

    /// Its name on the command line and in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::TlsOneThread => "tls-one-thread",
            Self::TlsBbr => "tls-bbr",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Http2Bbr => "http2-bbr",
            Self::Quinn => "quinn",
            Self::QuinnOneThread => "quinn-one-thread",
            Self::QuinnBbr => "quinn-bbr",
            Self::Http3 => "http3",
            Self::S2n => "s2n-quic",
            Self::Iroh => "iroh",
            Self::Forwarder => "forwarder",
            Self::Pilot => "pilot",
            Self::PilotReplaySafe => "pilot-replay-safe",
            Self::PilotEthernet => "pilot-1452",
            Self::PilotDaemons => "pilot-daemons",
        }
    }

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is ours.
    pub(crate) const fn is_pilot(self) -> bool {
        matches!(self, Self::Pilot | Self::PilotReplaySafe | Self::PilotEthernet | Self::PilotDaemons)
    }

    /// Whether it runs on one thread an end: what is built to (our agents), and what is measured that way beside its default.
    pub(crate) const fn is_on_one_thread(self) -> bool {
        self.is_pilot() || matches!(self, Self::TlsOneThread | Self::QuinnOneThread)
    }

    /// The congestion controller that it is told to use, if it is told.
    pub(crate) const fn congestion(self) -> Congestion {
        match self {
            Self::TlsBbr | Self::Http2Bbr | Self::QuinnBbr => Congestion::Bbr,
            Self::Tcp
            | Self::Tls
            | Self::TlsOneThread
            | Self::Http1
            | Self::Http2
            | Self::Quinn
            | Self::QuinnOneThread
            | Self::Http3
            | Self::S2n
            | Self::Iroh
            | Self::Forwarder
            | Self::Pilot
            | Self::PilotReplaySafe
            | Self::PilotEthernet
            | Self::PilotDaemons => Congestion::Cubic,
        }
    }
}

/// The controllers that peers can be told to use. The default of the system's TCP varies, so it is always told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Congestion {
    Cubic,
    Bbr,
}

/// How an end is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    /// Where a server listens.
    pub(crate) listen: IpAddr,
    /// Streams that a server lets a client have at once, where it can be told. More than are needed cost quinn memory and handshakes time.
    pub(crate) streams: u32,
    /// Connections that a client will have at once, if that is many: as many agents.
    pub(crate) connections: usize,
    /// The program to measure, for systems that are programs.
    pub(crate) pilotctl: PathBuf,
}

/// How a client finds and trusts a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Contact {
    pub(crate) address: SocketAddr,
    /// A certificate, a key or a ticket.
    pub(crate) credential: String,
    /// Further processes at work on behalf of this pair of ends.
    pub(crate) helpers: Vec<u32>,
}

/// Tells everybody how to reach a server that is ready.
pub(crate) type Announce = Box<dyn FnOnce(Contact) -> Result<(), BenchError> + Send>;

/// One request and its reply, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    pub(crate) upload: u64,
    pub(crate) reply: u64,
    /// Whether it is the only one on its channel, which is finished with it.
    pub(crate) is_only: bool,
}

/// Counts bytes of replies, for who looks at an exchange before it is over.
#[derive(Debug, Default)]
pub(crate) struct Progress(AtomicU64);

impl Progress {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A way to carry exchanges. The value is a client; a server is a future.
pub(crate) trait System: Sized + Send + Sync + 'static {
    type Connection: Connection;

    /// Announces a server and answers exchanges until the process ends.
    fn serve(setup: Setup, announce: Announce) -> impl Future<Output = Result<(), BenchError>> + Send;

    /// A client of that server, with everything that is done once in the life of a program.
    fn client(setup: Setup, contact: Contact) -> impl Future<Output = Result<Self, BenchError>> + Send;

    /// A new connection, handshake included. Nothing is left of those before.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, BenchError>> + Send;
}

/// A connection of a client with its server. Dropping it ends it.
pub(crate) trait Connection: Send + Sync + 'static {
    type Channel: Channel;

    /// Whether channels are cheap enough for one each exchange: streams are, connections of TCP are not.
    const IS_MULTIPLEXED: bool;

    /// Opens a channel: a stream, or a connection of TCP.
    fn open(&self) -> impl Future<Output = Result<Self::Channel, BenchError>> + Send;
}

/// What exchanges follow one another on.
pub(crate) trait Channel: Send + 'static {
    /// Uploads, and takes the whole reply.
    fn exchange(
        &mut self,
        exchange: Exchange,
        progress: &Progress,
    ) -> impl Future<Output = Result<(), BenchError>> + Send;
}
