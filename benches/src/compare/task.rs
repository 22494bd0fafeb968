//! What a client does, the same for every system.

use std::sync::Arc;
use std::time::Duration;

use pilot_core::time::Mono;
use pilot_daemon::clock;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::system::{Channel, Connection, Exchange, Progress, System};
use crate::error::BenchError;
use crate::exchange::micros;

/// Bytes of a small request, and of a small reply.
pub(crate) const SMALL: u64 = 64;
/// Exchanges before those that count: the handshake is over, the processors are awake.
const WARM_UP: usize = 200;
/// Connections of a system that has no channels within one.
const CONNECTIONS: usize = 50;
/// Connections that a browser, and so every program, has to one server over HTTP/1.1.
const CONNECTIONS_OF_A_BROWSER: usize = 6;
/// Bytes of a reply that nobody waits for the end of.
const ENDLESS: u64 = 1 << 50;
/// Handshakes at once where many connections are opened.
const HANDSHAKES_AT_ONCE: usize = 50;

/// What a client is told to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Task {
    /// Uploads so many bytes at once. Reports seconds.
    Bulk { len: u64 },
    /// Makes so many small exchanges, one after the other on one channel. Reports each in microseconds.
    RoundTrips { count: usize },
    /// Connects so many times and makes one small exchange. Reports each in microseconds.
    Cold { count: usize },
    /// Makes so many exchanges at once, again and again. Reports each burst in microseconds.
    Parallel { requests: usize, reply: u64, bursts: usize },
    /// Opens so many connections with an exchange on each, and reports the seconds that took; when it may go on, makes an exchange on each
    /// once more.
    Hold { connections: usize },
    /// Takes an endless reply for so long. Reports bytes for each interval.
    Download { intervals: u32, interval_ms: u64 },
    /// Fetches so many objects at once over a new connection, then, a second later, once more over the same. Reports both in microseconds.
    Fetch { objects: usize, len: u64 },
}

/// What came out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) values: Vec<f64>,
    /// Processor time of all processes.
    pub(crate) cpu: Duration,
}

/// Hands a report to who asked for it.
pub(crate) type Say = fn(&Report) -> Result<(), BenchError>;

/// Does it, and says what came out.
pub(crate) async fn perform<S: System>(system: S, task: Task, say: Say) -> Result<(), BenchError> {
    let system = Arc::new(system);
    let before = own_cpu();
    let values = match task {
        Task::Bulk { len } => bulk(&*system, len).await?,
        Task::RoundTrips { count } => round_trips(&*system, count).await?,
        Task::Cold { count } => cold(&*system, count).await?,
        Task::Parallel { requests, reply, bursts } => {
            let lanes = Lanes::connect(&*system, CONNECTIONS.min(requests)).await?;
            let mut lanes = lanes.open().await?;
            let mut walls = Vec::with_capacity(bursts);
            lanes.burst(requests, reply).await?;
            for _ in 0..bursts {
                walls.push(lanes.burst(requests, reply).await?);
            }
            walls
        }
        Task::Hold { connections } => return hold(system, connections, say).await,
        Task::Download { intervals, interval_ms } => {
            download(&*system, intervals, Duration::from_millis(interval_ms)).await?
        }
        Task::Fetch { objects, len } => fetch(&*system, objects, len).await?,
    };
    say(&Report { values, cpu: own_cpu().saturating_sub(before) })
}

/// Processor time of this process so far.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

async fn bulk<S: System>(system: &S, len: u64) -> Result<Vec<f64>, BenchError> {
    let connection = system.connect().await?;
    let mut channel = connection.open().await?;
    small(&mut channel).await?;
    let start = now();
    channel.exchange(Exchange { upload: len, reply: SMALL, is_only: false }, &Progress::default()).await?;
    Ok(vec![now().since(start).as_secs_f64()])
}

async fn round_trips<S: System>(system: &S, count: usize) -> Result<Vec<f64>, BenchError> {
    let connection = system.connect().await?;
    let mut channel = connection.open().await?;
    let mut times = Vec::with_capacity(count);
    for round in 0..WARM_UP + count {
        let start = now();
        small(&mut channel).await?;
        if round >= WARM_UP {
            times.push(micros(now().since(start)));
        }
    }
    Ok(times)
}

async fn cold<S: System>(system: &S, count: usize) -> Result<Vec<f64>, BenchError> {
    let mut times = Vec::with_capacity(count);
    // The first one only warms up: a certificate that is not known yet is asked for then.
    for round in 0..=count {
        let start = now();
        let connection = system.connect().await?;
        let mut channel = connection.open().await?;
        let exchange = Exchange { upload: SMALL, reply: SMALL, is_only: S::Connection::IS_MULTIPLEXED };
        channel.exchange(exchange, &Progress::default()).await?;
        if round > 0 {
            times.push(micros(now().since(start)));
        }
    }
    Ok(times)
}

async fn hold<S: System>(system: Arc<S>, connections: usize, say: Say) -> Result<(), BenchError> {
    let start = now();
    let mut held = Vec::with_capacity(connections);
    let mut opening = JoinSet::new();
    while held.len() < connections {
        while opening.len() < HANDSHAKES_AT_ONCE && held.len() + opening.len() < connections {
            let system = Arc::clone(&system);
            opening.spawn(async move {
                let connection = system.connect().await?;
                let mut channel = connection.open().await?;
                small(&mut channel).await?;
                Ok::<_, BenchError>((connection, channel))
            });
        }
        let Some(opened) = opening.join_next().await else { break };
        held.push(opened.map_err(BenchError::wrong)??);
    }
    say(&Report { values: vec![now().since(start).as_secs_f64()], cpu: Duration::ZERO })?;
    tokio::io::stdin().read_u8().await?;
    for (_, channel) in &mut held {
        small(channel).await?;
    }
    say(&Report::default())
}

async fn download<S: System>(system: &S, intervals: u32, interval: Duration) -> Result<Vec<f64>, BenchError> {
    let progress = Arc::new(Progress::default());
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    let connection = system.connect().await?;
    let mut channel = connection.open().await?;
    let counted = Arc::clone(&progress);
    let endless = tokio::spawn(async move {
        channel.exchange(Exchange { upload: SMALL, reply: ENDLESS, is_only: false }, &counted).await
    });
    let (mut values, mut before) = (Vec::new(), 0);
    for _ in 0..intervals {
        ticks.tick().await;
        let bytes = progress.bytes();
        values.push((bytes - before) as f64);
        before = bytes;
    }
    endless.abort();
    Ok(values)
}

async fn fetch<S: System>(system: &S, objects: usize, len: u64) -> Result<Vec<f64>, BenchError> {
    // Who fetches has met the server before: nobody asks for a certificate of Pilot's within the time that counts.
    let acquaintance = system.connect().await?;
    small(&mut acquaintance.open().await?).await?;
    drop(acquaintance);
    let start = now();
    let lanes = Lanes::connect(system, CONNECTIONS_OF_A_BROWSER).await?;
    let mut lanes = lanes.open().await?;
    lanes.burst(objects, len).await?;
    let cold = micros(now().since(start));
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(vec![cold, lanes.burst(objects, len).await?])
}

/// What many exchanges at once go over: one connection, with a channel for each, or the channels of several.
struct Lanes<C: Connection> {
    connection: Arc<C>,
    channels: Vec<C::Channel>,
    wanted: usize,
}

impl<C: Connection> Lanes<C> {
    async fn connect<S: System<Connection = C>>(system: &S, wanted: usize) -> Result<Self, BenchError> {
        Ok(Self { connection: Arc::new(system.connect().await?), channels: Vec::new(), wanted })
    }

    /// Opens the channels that are kept, all at once.
    async fn open(mut self) -> Result<Self, BenchError> {
        if C::IS_MULTIPLEXED {
            return Ok(self);
        }
        let mut opening = JoinSet::new();
        for _ in 0..self.wanted {
            let connection = Arc::clone(&self.connection);
            opening.spawn(async move { connection.open().await });
        }
        while let Some(channel) = opening.join_next().await {
            self.channels.push(channel.map_err(BenchError::wrong)??);
        }
        Ok(self)
    }

    /// The microseconds until the last of so many requests is answered.
    async fn burst(&mut self, requests: usize, reply: u64) -> Result<f64, BenchError> {
        let start = now();
        let mut tasks = JoinSet::new();
        if C::IS_MULTIPLEXED {
            for _ in 0..requests {
                let connection = Arc::clone(&self.connection);
                tasks.spawn(async move {
                    let mut channel = connection.open().await?;
                    let exchange = Exchange { upload: SMALL, reply, is_only: true };
                    channel.exchange(exchange, &Progress::default()).await?;
                    Ok(None)
                });
            }
        } else {
            let lanes = self.channels.len();
            for (lane, mut channel) in self.channels.drain(..).enumerate() {
                let share = requests / lanes + usize::from(lane < requests % lanes);
                tasks.spawn(async move {
                    for _ in 0..share {
                        let exchange = Exchange { upload: SMALL, reply, is_only: false };
                        channel.exchange(exchange, &Progress::default()).await?;
                    }
                    Ok::<_, BenchError>(Some(channel))
                });
            }
        }
        while let Some(done) = tasks.join_next().await {
            self.channels.extend(done.map_err(BenchError::wrong)??);
        }
        Ok(micros(now().since(start)))
    }
}

async fn small(channel: &mut impl Channel) -> Result<(), BenchError> {
    channel.exchange(Exchange { upload: SMALL, reply: SMALL, is_only: false }, &Progress::default()).await
}

fn now() -> Mono {
    clock::now().mono
}
