//! Many agents in one process, each with an identity and a socket of its own: whom a busy server is called by.
//!
//! An agent of the library is more than a client of a benchmark can have a thousand of: files, a lock, tasks. These are the core with a socket.
//! The first of them asks the server for its certificate; the others know it, as from a directory.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::config::{Config, Keys, Role};
use pilot_core::event::{Event, StreamHandle};
use pilot_core::id::{IdentityKey, InstanceId, ServicePort};
use pilot_core::identity::{Certificate, Identity, TransportKey};
use pilot_core::node::{Node, PeerInfo};
use pilot_core::route::Transmit;
use pilot_core::ticket::Ticket;
use pilot_core::time::Now;
use pilot_core::transport::Read;
use pilot_core::wire::stream_header::StreamHeader;
use pilot_daemon::agent::service_port;
use pilot_daemon::clock;
use pilot_daemon::home::entropy;
use pilot_daemon::net::{RecvBatch, Sent, UdpSocket};
use tokio::sync::{mpsc, oneshot};

use super::pilot::SERVICE;
use crate::compare::pipe::left_after;
use crate::compare::system::{Announce, Channel, Connection, Contact, Exchange, Progress, Setup, System};
use crate::error::BenchError;

/// Deadlines nearer than the runtime's timers can tell are awaited by looking again.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);
/// Agents whose addresses differ in the third byte alone.
const NEIGHBOURS: usize = 250;
/// Identities that are lost, at most, if working them out is interrupted.
const KEPT_AT_ONCE: usize = 500;
/// Room for one train of packets.
const TRAIN_LEN: usize = 1 << 16;

/// Agents that are not connected yet, and whom they will call.
pub(crate) struct Crowd {
    server: IdentityKey,
    address: SocketAddr,
    service: ServicePort,
    certificate: OnceLock<Certificate>,
    identities: Mutex<Vec<Identity>>,
}

/// An agent of the crowd; it ends when this is dropped.
#[derive(Clone)]
pub(crate) struct Agent {
    orders: mpsc::Sender<Order>,
}

/// An exchange that an agent shall make, and whom it tells.
struct Order {
    exchange: Exchange,
    done: oneshot::Sender<Result<(), BenchError>>,
    certificate: Option<oneshot::Sender<Option<Certificate>>>,
}

impl System for Crowd {
    type Connection = Agent;

    async fn serve(_setup: Setup, _announce: Announce) -> Result<(), BenchError> {
        Err(BenchError::wrong("a crowd calls, it does not serve"))
    }

    async fn client(setup: Setup, contact: Contact) -> Result<Self, BenchError> {
        let ticket: Ticket = contact.credential.parse().map_err(BenchError::wrong)?;
        Ok(Self {
            server: ticket.identity,
            address: contact.address,
            service: service_port(SERVICE).ok_or_else(|| BenchError::wrong("no such service"))?,
            certificate: OnceLock::new(),
            identities: Mutex::new(identities(setup.connections)?),
        })
    }

    async fn connect(&self) -> Result<Agent, BenchError> {
        let (identity, number) = {
            let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
            (identities.pop(), identities.len())
        };
        let identity = identity.ok_or_else(|| BenchError::wrong("the crowd has no more agents"))?;
        let mut member = Member::new(self, &identity, address(number)?)?;
        let (orders, receiver) = mpsc::channel(1);
        tokio::spawn(async move { member.run(receiver).await });
        let agent = Agent { orders };
        if self.certificate.get().is_none() {
            let (sender, receiver) = oneshot::channel();
            agent.order(FIRST, Some(sender)).await?;
            if let Ok(Some(certificate)) = receiver.await {
                // Another one may have been first.
                let _known = self.certificate.set(certificate);
            }
        }
        Ok(agent)
    }
}

/// Where an agent of the crowd calls from: a /24 of its own, as a busy server's callers have. One that sends more than eight first messages a
/// second is held back when a server sees more than 256 (spec/handshake.md §9).
fn address(number: usize) -> Result<Ipv4Addr, BenchError> {
    let [first, second] = [number / NEIGHBOURS + 1, number % NEIGHBOURS].map(u8::try_from);
    Ok(Ipv4Addr::new(127, first.map_err(BenchError::wrong)?, second.map_err(BenchError::wrong)?, 1))
}

/// What is exchanged to learn the server's certificate.
const FIRST: Exchange = Exchange { upload: 64, reply: 64, is_only: false };

impl Connection for Agent {
    type Channel = Self;

    const IS_MULTIPLEXED: bool = true;

    async fn open(&self) -> Result<Self, BenchError> {
        Ok(self.clone())
    }
}

impl Channel for Agent {
    async fn exchange(&mut self, exchange: Exchange, _progress: &Progress) -> Result<(), BenchError> {
        self.order(exchange, None).await
    }
}

impl Agent {
    async fn order(
        &self,
        exchange: Exchange,
        certificate: Option<oneshot::Sender<Option<Certificate>>>,
    ) -> Result<(), BenchError> {
        let (done, answer) = oneshot::channel();
        self.orders.send(Order { exchange, done, certificate }).await.map_err(BenchError::wrong)?;
        answer.await.map_err(BenchError::wrong)?
    }
}

/// The core, its socket, and what it is doing.
struct Member {
    node: Node,
    socket: UdpSocket,
    batch: RecvBatch,
    buffer: Vec<u8>,
    blocked: Option<(Transmit, usize)>,
    server: IdentityKey,
    service: ServicePort,
    stream: Option<StreamHandle>,
    order: Option<Order>,
    left: u64,
}

impl Member {
    fn new(crowd: &Crowd, identity: &Identity, ip: Ipv4Addr) -> Result<Self, BenchError> {
        let now = clock::now();
        let transport = TransportKey::from_secret(entropy().map_err(BenchError::wrong)?);
        let certificate = Certificate::issue(identity, &transport, InstanceId([1; 8]), 1, now.unix);
        let keys = Keys { identity: identity.clone(), transport: vec![transport], certificate };
        let mut node = Node::new(Config::new(Role::Agent), keys, entropy().map_err(BenchError::wrong)?, now);
        let certificate = crowd.certificate.get().cloned();
        let info = PeerInfo { key: crowd.server, certificate, addresses: vec![crowd.address], homes: Vec::new() };
        node.learn_peer(now, info);
        Ok(Self {
            node,
            socket: UdpSocket::bind(SocketAddr::from((ip, 0)))?,
            batch: RecvBatch::new(),
            buffer: Vec::with_capacity(TRAIN_LEN),
            blocked: None,
            server: crowd.server,
            service: crowd.service,
            stream: None,
            order: None,
            left: 0,
        })
    }

    /// Does what it is told until nobody is left to tell it.
    async fn run(&mut self, mut orders: mpsc::Receiver<Order>) -> Result<(), BenchError> {
        loop {
            self.settle(clock::now());
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.begin(clock::now(), order)?,
                    None => return Ok(()),
                },
                waited = self.wait() => waited?,
            }
            self.receive(clock::now());
            self.node.handle_timeout(clock::now());
        }
    }

    fn begin(&mut self, now: Now, order: Order) -> Result<(), BenchError> {
        let stream = match self.stream {
            Some(stream) => stream,
            None => {
                let header = StreamHeader::new(self.service);
                self.node.open_stream(now, &self.server, &header).map_err(BenchError::wrong)?
            }
        };
        self.stream = Some(stream);
        let Exchange { upload, reply, .. } = order.exchange;
        let mut request = vec![7; usize::try_from(upload).map_err(BenchError::wrong)?];
        request[..8].copy_from_slice(&upload.to_be_bytes());
        request[8..16].copy_from_slice(&reply.to_be_bytes());
        self.node.write(now, stream, &mut Bytes::from(request)).map_err(BenchError::wrong)?;
        self.left = reply;
        self.order = Some(order);
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), BenchError> {
        if self.blocked.is_some() {
            return Ok(self.socket.writable().await?);
        }
        let left = self.node.poll_timeout().map(|at| at.since(clock::now().mono));
        match left {
            None => Ok(self.socket.readable().await?),
            Some(left) if left < TIMER_RESOLUTION => {
                tokio::task::yield_now().await;
                Ok(())
            }
            Some(left) => Ok(tokio::time::timeout(left, self.socket.readable()).await.unwrap_or(Ok(()))?),
        }
    }

    fn receive(&mut self, now: Now) {
        if self.socket.recv(&mut self.batch).is_err() {
            return;
        }
        for datagram in self.batch.datagrams() {
            self.node.handle_datagram(now, datagram.route, datagram.ecn, datagram.bytes);
        }
    }

    fn settle(&mut self, now: Now) {
        loop {
            while let Some(event) = self.node.poll_event() {
                self.on_event(now, &event);
            }
            if self.blocked.is_none() {
                self.buffer.clear();
                self.blocked = self.node.poll_transmit(now, &mut self.buffer).map(|transmit| (transmit, 0));
            }
            let Some((transmit, start)) = self.blocked else { return };
            match self.socket.send(&transmit, &self.buffer[start..transmit.len]) {
                Sent::All => self.blocked = None,
                Sent::Blocked(more) => {
                    self.blocked = Some((transmit, start + more));
                    return;
                }
            }
        }
    }

    fn on_event(&mut self, now: Now, event: &Event) {
        let Some(stream) = self.stream else { return };
        if matches!(event, Event::StreamClosed(closed) if *closed == stream) {
            return self.answer(Err(BenchError::wrong("the stream was closed")));
        }
        if !matches!(event, Event::Readable(readable) if *readable == stream) {
            return;
        }
        while let Ok(Read::Data(data)) = self.node.read(now, stream, usize::MAX) {
            match left_after(self.left, data.len()) {
                Ok(0) => self.answer(Ok(())),
                Ok(left) => self.left = left,
                Err(error) => self.answer(Err(error)),
            }
        }
    }

    fn answer(&mut self, result: Result<(), BenchError>) {
        let Some(order) = self.order.take() else { return };
        if let Some(asked) = order.certificate {
            // Who has asked may have given up.
            let _gone = asked.send(self.node.peer_certificate(&self.server).cloned());
        }
        let _gone = order.done.send(result);
    }
}

/// The first identities of the crowd. To work one out takes a million hashes, so that what was found is kept beside this program.
pub(crate) fn identities(count: usize) -> Result<Vec<Identity>, BenchError> {
    let file = cache()?;
    let known = fs::read_to_string(&file).unwrap_or_default();
    let mut modifiers: Vec<u64> = known.lines().take(count).filter_map(|line| line.parse().ok()).collect();
    if modifiers.len() < count {
        eprintln!("working out {} identities, once: it takes minutes", count - modifiers.len());
    }
    while modifiers.len() < count {
        let found = work_out(modifiers.len(), count.min(modifiers.len() + KEPT_AT_ONCE));
        if found.is_empty() {
            return Err(BenchError::wrong("no identity was found"));
        }
        modifiers.extend(found);
        let lines: String = modifiers.iter().map(|modifier| format!("{modifier}\n")).collect();
        fs::write(&file, lines)?;
    }
    let restored =
        modifiers.into_iter().enumerate().map(|(number, modifier)| Identity::restore(seed(number), modifier));
    restored.collect::<Result<_, _>>().map_err(BenchError::wrong)
}

/// What makes identities of the seeds from one number to another.
fn work_out(from: usize, to: usize) -> Vec<u64> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let found: Vec<Vec<u64>> = thread::scope(|scope| {
        let work = |worker| {
            let numbers = (from + worker..to).step_by(workers);
            scope.spawn(move || numbers.map(|number| Identity::generate(seed(number)).modifier()).collect())
        };
        let workers: Vec<thread::ScopedJoinHandle<'_, Vec<u64>>> = (0..workers).map(work).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_default()).collect()
    });
    // Each worker has had every second one, or third.
    (from..to).filter_map(|number| found[(number - from) % workers].get((number - from) / workers).copied()).collect()
}

fn seed(number: usize) -> [u8; 32] {
    let mut seed = [0xC4; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    seed
}

fn cache() -> Result<PathBuf, BenchError> {
    Ok(std::env::current_exe()?.with_file_name("pilot-bench-identities"))
}
