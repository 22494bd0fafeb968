//! The driver of a [`Backbone`]: one socket, one home directory, one task (feature `server`).
//!
//! A loop turn waits for one thing, hands it to the machine, and drains what the machine has to send and to write. Key and port outlive a
//! restart, so that the ticket stays good and agents find the node again; so does what the directory has acknowledged.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use pilot_core::config::Keys;
use pilot_core::route::{Ecn, Transmit};
use pilot_core::ticket::{BackboneTicket, TicketError};
use pilot_core::time::{Mono, Now};
use pilot_daemon::clock;
use pilot_daemon::home::{AgentHome, HomeError, entropy};
use pilot_daemon::net::{RecvBatch, Sent, UdpSocket};
use pilot_daemon::renewal::{EntropyFeed, Fresh, KeyRenewal};
use pilot_daemon::tls::{LinkInput, Links, frame};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::backbone::Backbone;
use crate::roles::Roles;
use crate::second_stun;
use crate::status_api::{BackboneStatusReply, COMMANDS_MAX, Command, StatusApi};
use crate::store::memory::MemoryStore;
use crate::store::redb::{self, DirectoryFile, OpenError};
use crate::tls_listener::TlsListener;
use crate::writer::Writer;

/// Receive calls in a row before the queue is sent: enough to form trains, few enough to keep latency low.
const RECEIVES_PER_TURN: usize = 8;
/// What waits to be relayed is sent before more is received: so much stays in a core's cache between the two.
const BACKLOG_MAX: usize = 256 * 1_024;
/// Trains sent in a row before the socket is read again.
const SENDS_PER_TURN: usize = 256;
/// Chunks of datagrams from TLS links that wait, of 16 KiB at most: 1 MiB; TCP waits in turn.
const LINK_INPUTS_MAX: usize = 64;
/// A link by which no tunnel is proved after this, or after twice as long, ends.
const LINK_UNUSED_MAX: Duration = Duration::from_secs(15);
/// While the socket is blocked, its turn comes before the timers': what they produce could not be sent.
const BLOCKED_SLEEP_MIN: Duration = Duration::from_millis(5);
/// A backstop for the case that no timer is armed.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);

/// How to run a backbone node.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen. Port 0 stands for the port of the last run, or any.
    pub listen: SocketAddr,
    /// Directory of the node: key, ticket, port, lock.
    pub home_dir: PathBuf,
    /// Host name or address to print in the ticket; by default the first address of the host that others may reach.
    pub advertise: Option<String>,
    /// Ends the node when it has had no client for so long; it never ends by itself without.
    pub idle_exit: Option<Duration>,
    /// What the node does. Without a directory it has no file.
    pub roles: Roles,
    /// A directory that is damaged is kept under another name, and an empty one is begun.
    pub set_aside_damaged: bool,
}

impl ServeOptions {
    /// A node that runs until it is told to end.
    pub fn new(listen: SocketAddr, home_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            home_dir: home_dir.into(),
            advertise: None,
            idle_exit: None,
            roles: Roles::ALL,
            set_aside_damaged: false,
        }
    }
}

/// What a node that is ready says of itself.
#[derive(Clone, Debug)]
pub struct Ready {
    /// What agents take to find it.
    pub ticket: BackboneTicket,
    /// Address of its socket.
    pub local_addr: SocketAddr,
    /// Tells from then on whether the node lives.
    pub pulse: Pulse,
}

/// What a watchdog asks.
#[derive(Clone, Debug)]
pub struct Pulse(mpsc::Sender<Command>);

impl Pulse {
    /// Returns once the node's loop has taken a turn for it: true, or false if the node has ended.
    pub async fn beat(&self) -> bool {
        let (reply, beaten) = oneshot::channel();
        self.0.send(Command::Beat(reply)).await.is_ok() && beaten.await.is_ok()
    }
}

/// Why a backbone node does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Its home cannot be used, or another process has it.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The socket cannot be opened.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host to advertise is none.
    #[error("cannot make a ticket")]
    Ticket(#[from] TicketError),
    /// The local API cannot be opened.
    #[error("cannot open the local API at {path}")]
    Api {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory's file cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The socket or the runtime failed.
    #[error("network failure")]
    Io(#[from] io::Error),
}

/// Runs a backbone node until it is told to end: by a signal (TERM or INT), by its local API, or by having no clients.
///
/// Must be called inside a tokio runtime. `ready` is called once agents can connect.
///
/// # Errors
/// [`ServeError`] if the node cannot start, or if its socket fails.
pub async fn serve(options: ServeOptions, ready: impl FnOnce(&Ready)) -> Result<(), ServeError> {
    let home = AgentHome::at(&options.home_dir);
    let _lock = home.lock()?;
    let now = clock::now();
    let keys = home.keys(now.unix)?;
    let (writer, store) = if options.roles.directory {
        let (file, store) = directory(&home.path().join(redb::FILE_NAME), options.set_aside_damaged, now)?;
        (Some(Writer::start(file)?), store)
    } else {
        (None, MemoryStore::new())
    };
    let socket = bind(&home, options.listen)?;
    home.save_number("port", u64::from(socket.local_addr().port()))?;
    let host = options.advertise.unwrap_or_else(|| advertised_host(&socket));
    let ticket = BackboneTicket::new(keys.identity.key(), &host, socket.local_addr().port())?;
    let path = home.socket_path()?;
    let api = StatusApi::bind(&path).map_err(|source| ServeError::Api { path, source })?;
    let signals = signals()?;
    home.write("ticket", format!("{ticket}\n").as_bytes(), 0o600)?;
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let pulse = Pulse(sender.clone());
    ready(&Ready { ticket: ticket.clone(), local_addr: socket.local_addr(), pulse });

    let (link_sender, link_inputs) = mpsc::channel(LINK_INPUTS_MAX);
    let tls = TlsListener::bind(socket.local_addr(), &ticket.host, keys.identity.clone(), link_sender)?;
    let answers_stun = options.roles.stun;
    let main = socket.local_addr();
    let renewal = KeyRenewal::new(home, &keys, now.unix);
    let (renewed_sender, renewed) = mpsc::channel(1);
    let mut driver = Driver {
        backbone: Backbone::with_store(store, keys, entropy()?, now).with_roles(options.roles).durable(),
        roles: options.roles,
        writer,
        store_error: None,
        socket,
        ticket,
        started: now.mono,
        buf: Vec::new(),
        blocked: None,
        idle_exit: options.idle_exit,
        idle_since: Some(now.mono),
        entropy: EntropyFeed::new(now.mono),
        links: Links::default(),
        links_looked_at: now.mono,
    };
    tokio::select! {
        result = driver.run(commands, renewed, link_inputs, signals) => result.map_err(ServeError::Io),
        never = api.serve(sender) => match never {},
        never = tls.serve() => match never {},
        never = second_stun::serve(main), if answers_stun => match never {},
        never = renew_keys(renewal, renewed_sender) => match never {},
    }
}

/// Gives the driver new keys whenever that is due.
async fn renew_keys(mut renewal: KeyRenewal, renewed: mpsc::Sender<Keys>) -> Infallible {
    loop {
        renewal.due().await;
        match renewal.renew(clock::now().unix).await {
            // The driver lives as long as this does, or longer.
            Ok(keys) => drop(renewed.send(keys).await),
            Err(error) => tracing::warn!(%error, "keys not renewed"),
        }
    }
}

/// The directory's file, and what is in it.
fn directory(path: &Path, set_aside_damaged: bool, now: Now) -> Result<(DirectoryFile, MemoryStore), OpenError> {
    let result = open_directory(path, now);
    let Err(error @ OpenError::Damaged { .. }) = result else { return result };
    if !set_aside_damaged {
        return Err(error);
    }
    let aside = redb::set_aside(path, now.unix);
    let aside = aside.map_err(|source| OpenError::Unusable { path: path.to_owned(), source })?;
    tracing::warn!(%error, kept = %aside.display(), "directory begun anew");
    open_directory(path, now)
}

fn open_directory(path: &Path, now: Now) -> Result<(DirectoryFile, MemoryStore), OpenError> {
    let (file, stored) = DirectoryFile::open(path)?;
    let store = MemoryStore::restore(now.unix, stored);
    let store = store.map_err(|error| OpenError::Damaged { path: path.to_owned(), what: error.to_string() })?;
    Ok((file, store))
}

/// The port of the last run if none is asked for, so that tickets stay good; another if that one is taken.
fn bind(home: &AgentHome, listen: SocketAddr) -> Result<UdpSocket, ServeError> {
    let last = home.number("port").and_then(|port| u16::try_from(port).ok());
    if let (0, Some(port)) = (listen.port(), last)
        && let Ok(socket) = UdpSocket::bind(SocketAddr::new(listen.ip(), port))
    {
        return Ok(socket);
    }
    UdpSocket::bind(listen).map_err(|source| ServeError::Bind { address: listen, source })
}

/// The first address that is not this host's alone, or else whatever there is.
fn advertised_host(socket: &UdpSocket) -> String {
    let addresses = socket.local_addresses();
    let public = addresses.iter().find(|address| !address.ip().is_loopback());
    let any = public.or(addresses.first()).map_or(Ipv4Addr::LOCALHOST.into(), SocketAddr::ip);
    any.to_string()
}

/// How the last batch came out; never, if there is nothing to write to.
async fn written(writer: &mut Option<Writer>) -> Option<Result<(), String>> {
    match writer {
        Some(writer) => writer.written.recv().await,
        None => pending().await,
    }
}

/// Without it nothing is acknowledged any more, so that the node is better started anew.
fn writer_gone() -> io::Error {
    io::Error::other("the directory's writer has ended")
}

/// Completes at the first signal that asks the process to end.
fn signals() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The one task that owns the node.
struct Driver {
    backbone: Backbone,
    roles: Roles,
    /// None without a directory.
    writer: Option<Writer>,
    /// Why the last batch could not be written.
    store_error: Option<String>,
    socket: UdpSocket,
    ticket: BackboneTicket,
    started: Mono,
    /// The train being sent.
    buf: Vec<u8>,
    /// Its rest, while the socket is blocked.
    blocked: Option<Blocked>,
    idle_exit: Option<Duration>,
    /// Since when there is no client.
    idle_since: Option<Mono>,
    entropy: EntropyFeed,
    links: Links,
    /// When links of no use were looked for last.
    links_looked_at: Mono,
}

/// A train of which the socket has taken only the first bytes.
#[derive(Clone, Copy)]
struct Blocked {
    transmit: Transmit,
    sent: usize,
}

/// What a loop turn waited for.
enum Input {
    Readable,
    Writable,
    Link(LinkInput),
    Command(Command),
    Renewed(Box<Keys>),
    Written(Result<(), String>),
    Timeout,
    End,
}

impl Driver {
    async fn run(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        mut renewed: mpsc::Receiver<Keys>,
        mut link_inputs: mpsc::Receiver<LinkInput>,
        end: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut end = pin!(end);
        let mut batch = RecvBatch::new();
        loop {
            let now = clock::now();
            match self.entropy.take(now) {
                Some(Fresh::Entropy(entropy)) => self.backbone.reseed(&entropy),
                Some(Fresh::Resumed(entropy)) => self.backbone.resume(now, &entropy),
                None => {}
            }
            if let (Some(writer), Some(batch)) = (&self.writer, self.backbone.poll_batch(now)) {
                writer.write(batch);
            }
            self.end_unused_links(now);
            let has_more = self.send(now);
            if self.has_been_idle(now) {
                break;
            }
            let sleep = if has_more { Duration::ZERO } else { self.sleep(now) };
            let input = tokio::select! {
                biased;
                () = &mut end => Input::End,
                Some(command) = commands.recv() => Input::Command(command),
                Some(keys) = renewed.recv() => Input::Renewed(Box::new(keys)),
                written = written(&mut self.writer) => Input::Written(written.ok_or_else(writer_gone)?),
                writable = self.socket.writable(), if self.blocked.is_some() => writable.map(|()| Input::Writable)?,
                Some(input) = link_inputs.recv() => Input::Link(input),
                readable = self.socket.readable() => readable.map(|()| Input::Readable)?,
                () = tokio::time::sleep(sleep) => Input::Timeout,
            };
            match input {
                Input::Readable => self.receive(&mut batch),
                Input::Link(input) => {
                    self.take_from_link(input);
                    // Links come first above, and are not to keep the socket waiting.
                    self.receive(&mut batch);
                }
                Input::Writable => {}
                Input::Command(Command::Status(reply)) => {
                    // A client that has gone meanwhile wants no answer.
                    reply.send(self.status()).ok();
                }
                Input::Command(Command::Beat(reply)) => {
                    // A watchdog that has gone meanwhile wants none either.
                    reply.send(()).ok();
                }
                Input::Renewed(keys) => self.backbone.set_keys(*keys),
                Input::Written(result) => self.written(result),
                Input::Timeout => self.backbone.handle_timeout(clock::now()),
                Input::Command(Command::Shutdown) | Input::End => break,
            }
        }
        self.shutdown(clock::now());
        Ok(())
    }

    fn written(&mut self, result: Result<(), String>) {
        match (&result, &self.store_error) {
            (Err(error), None) => tracing::error!(%error, "the directory cannot be written; what is new is refused"),
            (Ok(()), Some(_)) => tracing::info!("the directory can be written again"),
            (Ok(()), None) | (Err(_), Some(_)) => {}
        }
        self.store_error = result.clone().err();
        self.backbone.batch_written(clock::now(), result);
    }

    fn take_from_link(&mut self, input: LinkInput) {
        let now = clock::now();
        match input {
            LinkInput::Up { route, outbox, backbone: _ } => self.links.open(now, route.socket, outbox),
            LinkInput::Frames { route, mut frames } => {
                for datagram in frame::datagrams(&mut frames) {
                    self.backbone.handle_datagram(now, route, Ecn::NotEct, datagram);
                }
            }
            LinkInput::Down(link) => {
                self.links.close(link);
                self.backbone.link_down(now, link);
            }
        }
    }

    /// Who has a link and no tunnel by it takes a place from others.
    fn end_unused_links(&mut self, now: Now) {
        if self.links.count() > 0 && now.mono.since(self.links_looked_at) >= LINK_UNUSED_MAX {
            self.links.end_unused(self.links_looked_at, self.backbone.node());
            self.links_looked_at = now.mono;
        }
    }

    fn receive(&mut self, batch: &mut RecvBatch) {
        let now = clock::now();
        for _ in 0..RECEIVES_PER_TURN {
            match self.socket.recv(batch) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // ICMP errors of earlier packets come out here; they say nothing about the socket.
                Err(error) => {
                    tracing::debug!(%error, "receive failed");
                    break;
                }
            }
            for datagram in batch.datagrams() {
                self.backbone.handle_datagram(now, datagram.route, datagram.ecn, datagram.bytes);
            }
            if self.backbone.relay_backlog() >= BACKLOG_MAX {
                break;
            }
        }
        self.backbone.handle_timeout(now);
    }

    /// Sends until nothing is left, the socket is blocked, or the turn's budget is used up; tells whether the latter.
    fn send(&mut self, now: Now) -> bool {
        for _ in 0..SENDS_PER_TURN {
            let Some(Blocked { transmit, sent }) = self.blocked.take().or_else(|| self.next_train(now)) else {
                return false;
            };
            if transmit.route.socket.is_link() {
                self.links.send(&transmit, &self.buf[sent..]);
                continue;
            }
            if let Sent::Blocked(more) = self.socket.send(&transmit, &self.buf[sent..]) {
                self.blocked = Some(Blocked { transmit, sent: sent + more });
                return false;
            }
        }
        true
    }

    fn next_train(&mut self, now: Now) -> Option<Blocked> {
        self.buf.clear();
        self.backbone.poll_transmit(now, &mut self.buf).map(|transmit| Blocked { transmit, sent: 0 })
    }

    fn sleep(&self, now: Now) -> Duration {
        let idle_exit = self.idle_exit.zip(self.idle_since).map(|(idle_exit, since)| since + idle_exit);
        let links = (self.links.count() > 0).then(|| self.links_looked_at + LINK_UNUSED_MAX);
        let wake = [self.backbone.poll_timeout(), idle_exit, links].into_iter().flatten().min();
        let sleep = wake.map_or(SLEEP_MAX, |wake| wake.since(now.mono)).min(SLEEP_MAX);
        if self.blocked.is_some() { sleep.max(BLOCKED_SLEEP_MIN) } else { sleep }
    }

    fn has_been_idle(&mut self, now: Now) -> bool {
        while self.backbone.poll_event().is_some() {}
        self.idle_since = (self.backbone.client_count() == 0).then(|| self.idle_since.unwrap_or(now.mono));
        self.idle_exit.zip(self.idle_since).is_some_and(|(idle_exit, since)| now.mono.since(since) >= idle_exit)
    }

    /// Says goodbye as far as the socket takes it at once.
    fn shutdown(&mut self, now: Now) {
        self.backbone.shutdown(now);
        while self.send(now) {}
    }

    fn status(&self) -> BackboneStatusReply {
        let status = self.backbone.status();
        let relay_drops = status.relay.drops.iter().map(|(reason, count)| (reason.name().to_owned(), *count));
        let node_drops = self.backbone.node().stats().drop_counters().map(|(reason, count)| (reason.to_owned(), count));
        let stun_drops = [("stun".to_owned(), status.stun_dropped)];
        let link_drops = [("link_full".to_owned(), self.links.dropped())];
        let drops =
            relay_drops.chain(node_drops).chain(stun_drops).chain(link_drops).filter(|(_, count)| *count > 0).collect();
        BackboneStatusReply {
            ticket: self.ticket.to_string(),
            roles: self.roles.names().map(str::to_owned).collect(),
            listen: self.socket.local_addr().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: clock::now().mono.since(self.started).as_secs(),
            agents: status.summary.agents,
            connected: status.summary.clients,
            circuits: status.summary.circuits,
            packets_relayed: status.relay.packets,
            bytes_relayed: status.relay.bytes,
            links: self.links.count(),
            stun_answered: status.stun_answered,
            store_error: self.store_error.clone(),
            drops,
        }
    }
}
