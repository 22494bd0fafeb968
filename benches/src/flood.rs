//! What a flood costs an established stream: 500 Mbit/s from one agent to another, while a third party sends 100,000 forged first
//! messages and 10,000 packets of junk a second, into the receiver's socket or, as the yardstick, into a port of the same machine that
//! nobody has open. The stream passes a tap, a thread that costs all contestants the same.
//!
//! The junk names the receiver's session, which a stranger cannot know: whoever is on the path can. The first messages are made once
//! for somebody who knows the receiver's identity key (a right mac1, so that each costs a cookie), and once for somebody who does not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::crypto::{hmac_sha256, sha256};
use pilot_core::id::{IdentityKey, PacketNumber, SessionIndex};
use pilot_core::ticket::Ticket;
use pilot_core::wire::{DataHeader, INNER, PacketKind, SUITE, VERSION};
use pilot_daemon::agent::{Incoming, ServiceOptions, header, service_port};
use pilot_daemon::clock;
use pilot_daemon::home::Home;
use tempfile::TempDir;

use crate::agents::{SERVICE, start, wrong};
use crate::error::BenchError;
use crate::exchange::{BLOCK_LEN, gbit_per_second, on_this_thread};
use crate::figure::{Figure, Unit};
use crate::tap::Tap;

/// Bytes a second of the stream: 500 Mbit/s.
const PACE: u64 = 500_000_000 / 8;
/// What the flood has in each of its turns, and how long one is: 100,000 and 10,000 a second.
const INITS_PER_TURN: usize = 100;
const JUNK_PER_TURN: usize = 10;
const TURN: Duration = Duration::from_millis(1);
/// Packets made beforehand, so that making them does not cost the machine what is to be measured.
const POOL_LEN: usize = 1_024;
/// From the begin of a flood until its effect counts.
const SETTLING: Duration = Duration::from_millis(500);

/// Who floods what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flood {
    /// A port that nobody has open.
    ClosedPort,
    /// The receiver, without its identity key.
    Stranger,
    /// The receiver, with its identity key.
    Acquaintance,
}

/// What became of the packets of a flood, over all rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Packets that the flooder's system took.
    pub(crate) sent: u64,
    /// For how long.
    pub(crate) time: Duration,
    /// What the receiver dropped, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
}

pub(crate) type Tallies = Rc<RefCell<BTreeMap<Flood, Tally>>>;

/// The figure, and what will be known of the floods once it has been measured.
pub(crate) fn figure(measured: Duration) -> Result<(Figure, Tallies), BenchError> {
    let home = Rc::new(tempfile::tempdir()?);
    let tallies = Tallies::default();
    let measure = |flood| {
        let (home, tallies) = (Rc::clone(&home), Rc::clone(&tallies));
        move || goodput(&home, flood, measured, &mut tallies.borrow_mut())
    };
    let what = "one stream paced at 500 Mbit/s under 100,000 forged first messages and 10,000 packets of junk a second";
    let figure = Figure::new("flood", what, Unit::GbitPerSecond, "into a closed port", measure(Flood::ClosedPort))
        .with("into the receiver, by a stranger", measure(Flood::Stranger))
        .with("into the receiver, by who knows its key", measure(Flood::Acquaintance));
    Ok((figure, tallies))
}

impl Flood {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClosedPort => "into a closed port",
            Self::Stranger => "by a stranger",
            Self::Acquaintance => "by who knows the key",
        }
    }
}

/// The rate of the stream while the flood lasts.
fn goodput(
    home: &TempDir,
    flood: Flood,
    measured: Duration,
    tallies: &mut BTreeMap<Flood, Tally>,
) -> Result<f64, BenchError> {
    let (taken, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (ticket_tx, ticket_rx) = mpsc::channel();
    let (ready_tx, ready_rx) = mpsc::channel();
    let home = Home::at(home.path());
    let taker = thread::spawn({
        let (home, taken) = (home.clone(), Arc::clone(&taken));
        move || on_this_thread(take(home, ticket_tx, &taken))
    });
    let ticket: Ticket = ticket_rx.recv().map_err(wrong)?;
    let sender = thread::spawn({
        let (ticket, is_over) = (ticket.clone(), Arc::clone(&is_over));
        move || on_this_thread(send(home, ticket, ready_tx, &is_over))
    });
    let session = ready_rx.recv().map_err(wrong)?;
    let target = if flood == Flood::ClosedPort { closed_port()? } else { ticket.addresses[0] };
    let flooder = thread::spawn({
        let is_over = Arc::clone(&is_over);
        let pool = pool(flood, &ticket.identity, session);
        move || send_flood(target, &pool, &is_over)
    });
    thread::sleep(SETTLING);
    let (before, start) = (taken.load(Ordering::Relaxed), clock::now().mono);
    thread::sleep(measured);
    let (after, time) = (taken.load(Ordering::Relaxed), clock::now().mono.since(start));
    is_over.store(true, Ordering::Relaxed);
    let (sent, flooded) = joined(flooder)?;
    joined(sender)?;
    let drops = joined(taker)?;
    let tally = tallies.entry(flood).or_default();
    tally.sent += sent;
    tally.time += flooded;
    drops.into_iter().for_each(|(reason, count)| *tally.drops.entry(reason).or_default() += count);
    Ok(gbit_per_second(usize::try_from(after - before).unwrap_or(usize::MAX), time))
}

fn joined<T>(thread: thread::JoinHandle<Result<T, BenchError>>) -> Result<T, BenchError> {
    thread.join().map_err(|_| wrong("a thread panicked"))?
}

/// Takes one stream, counting, and tells what was dropped meanwhile.
async fn take(
    home: Home,
    ticket: mpsc::Sender<Ticket>,
    taken: &AtomicU64,
) -> Result<BTreeMap<String, u64>, BenchError> {
    let agent = start(home, "flood-taker").await?;
    let port = service_port(SERVICE).ok_or_else(|| wrong("no such service"))?;
    let accept = tokio::spawn({
        let (agent, options) = (agent.clone(), ServiceOptions { public: true, ..ServiceOptions::default() });
        async move { agent.accept(port, options).await }
    });
    // The service is known to the agent before anybody can call it.
    tokio::task::yield_now().await;
    ticket.send(agent.ticket().await?).map_err(wrong)?;
    let Incoming { mut stream, .. } = accept.await.map_err(wrong)??;
    while let Some(chunk) = stream.read_chunk().await.map_err(wrong)? {
        taken.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
    stream.finish();
    stream.watch().closed().await;
    let drops = agent.status().await?.drops;
    agent.shutdown().await;
    Ok(drops)
}

/// Sends at its pace until it is over, by way of a tap that tells how the receiver names the session.
async fn send(
    home: Home,
    ticket: Ticket,
    ready: mpsc::Sender<SessionIndex>,
    is_over: &AtomicBool,
) -> Result<(), BenchError> {
    let tap = Tap::before(ticket.addresses[0])?;
    let by_the_tap = Ticket::new(ticket.identity, ticket.modifier, vec![tap.address()], None).map_err(wrong)?;
    let agent = start(home, "flood-sender").await?;
    let peer = agent.resolve(&by_the_tap.to_string()).await?;
    let mut stream = agent.open(&peer, header(SERVICE)?).await?;
    let block = Bytes::from(vec![7; BLOCK_LEN]);
    let (begun, mut sent) = (clock::now().mono, 0_u64);
    let mut ready = Some(ready);
    while !is_over.load(Ordering::Relaxed) {
        let due = (clock::now().mono.since(begun).as_micros() as u64 * PACE / 1_000_000).saturating_sub(sent);
        let len = due.min(BLOCK_LEN as u64);
        stream.write_chunk(block.slice(..len as usize)).await.map_err(wrong)?;
        sent += len;
        tokio::time::sleep(TURN).await;
        if let Some(session) = tap.session()
            && let Some(ready) = ready.take()
        {
            ready.send(session).map_err(wrong)?;
        }
    }
    stream.finish();
    while stream.read_chunk().await.map_err(wrong)?.is_some() {}
    agent.shutdown().await;
    Ok(())
}

/// A port that was free a moment ago.
fn closed_port() -> Result<SocketAddr, BenchError> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Sends the flood until it is over; returns how many packets went, and in which time.
fn send_flood(target: SocketAddr, pool: &Pool, is_over: &AtomicBool) -> Result<(u64, Duration), BenchError> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (mut inits, mut junk) = (pool.inits.iter().cycle(), pool.junk.iter().cycle());
    let begun = clock::now().mono;
    let (mut sent, mut turns) = (0, 0_u32);
    while !is_over.load(Ordering::Relaxed) {
        for packet in inits.by_ref().take(INITS_PER_TURN).chain(junk.by_ref().take(JUNK_PER_TURN)) {
            // What the system has no room for is lost, as on any path.
            sent += u64::from(socket.send_to(packet, target).is_ok());
        }
        turns += 1;
        thread::sleep((TURN * turns).saturating_sub(clock::now().mono.since(begun)));
    }
    Ok((sent, clock::now().mono.since(begun)))
}

/// The packets of a flood.
struct Pool {
    inits: Vec<Vec<u8>>,
    junk: Vec<Vec<u8>>,
}

fn pool(flood: Flood, receiver: &IdentityKey, session: SessionIndex) -> Pool {
    let mac1_key = sha256(&[b"pilot/1 mac1", &receiver.0]);
    let numbered = |what: &str, number: usize, len: usize| -> Vec<u8> {
        (0..len.div_ceil(32))
            .flat_map(|block| sha256(&[format!("{what} {number} {block}").as_bytes()]))
            .take(len)
            .collect()
    };
    let init = |number| {
        let mut packet = numbered("init", number, INNER);
        packet[..4].copy_from_slice(&[PacketKind::Init.first_byte(), VERSION, SUITE, 0]);
        let (before, macs) = packet.split_at_mut(INNER - 32);
        if flood == Flood::Acquaintance {
            macs[..16].copy_from_slice(&hmac_sha256(&mac1_key, &[before])[..16]);
        }
        packet
    };
    let junk = |number| {
        let packet_number = PacketNumber(1_000_000 + number as u64);
        let header = DataHeader { key_phase: false, receiver: session, packet_number }.encode();
        [&header[..], &numbered("junk", number, INNER - header.len())].concat()
    };
    Pool { inits: (0..POOL_LEN).map(init).collect(), junk: (0..POOL_LEN).map(junk).collect() }
}
