//! The hidden verb `end`: one end of a comparison, as a process of its own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::io::AsyncReadExt;
use tokio::runtime::{Builder, Runtime};

use super::errand::source::{self, Sources};
use super::errand::{Errand, reader};
use super::relay::load::Pairs;
use super::relay::{Load, forwarder};
use super::system::{Announce, Contact, Kind, Setup, System};
use super::systems::{Crowd, Daemons, Http1, Http2, Http3, Iroh, Pilot, Quinn, S2n, Tcp, Tls};
use super::task::{Report, Task, perform};
use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// Threads of a runtime, where a system is not built for one: the cores of the machines that the results are from.
const THREADS: usize = 2;

/// Which end.
#[derive(Debug, Subcommand)]
pub(crate) enum End {
    /// Answers until its standard input ends.
    Serve(EndArgs),
    /// Does something once.
    Call {
        #[command(flatten)]
        end: EndArgs,
        #[arg(long)]
        contact: String,
        #[arg(long)]
        task: String,
    },
    /// Is all sources of errands until its standard input ends.
    Sources {
        #[arg(long)]
        task: String,
    },
    /// Forwards datagrams until it is killed.
    Forwarder,
    /// Sends datagrams by a relay.
    Load {
        #[arg(long)]
        task: String,
    },
    /// Does an errand.
    Errand {
        #[arg(long)]
        task: String,
    },
}

/// What both ends are told.
#[derive(Debug, Args)]
pub(crate) struct EndArgs {
    #[arg(value_parser = |name: &str| Kind::named(name).ok_or("no such system"))]
    kind: Kind,
    #[arg(long)]
    listen: IpAddr,
    #[arg(long)]
    streams: u32,
    #[arg(long)]
    pilotctl: PathBuf,
}

impl EndArgs {
    fn setup(self) -> Setup {
        Setup { kind: self.kind, listen: self.listen, streams: self.streams, connections: 0, pilotctl: self.pilotctl }
    }
}

/// Is that end.
pub(crate) fn run(end: End) -> Result<(), BenchError> {
    match end {
        End::Serve(args) => match args.kind {
            Kind::Tcp => serve::<Tcp>(args.setup()),
            Kind::Tls | Kind::TlsOneThread | Kind::TlsBbr => serve::<Tls>(args.setup()),
            Kind::Http1 => serve::<Http1>(args.setup()),
            Kind::Http2 | Kind::Http2Bbr => serve::<Http2>(args.setup()),
            Kind::Quinn | Kind::QuinnOneThread | Kind::QuinnBbr => serve::<Quinn>(args.setup()),
            Kind::Http3 => serve::<Http3>(args.setup()),
            Kind::S2n => serve::<S2n>(args.setup()),
            Kind::Iroh => serve::<Iroh>(args.setup()),
            Kind::Pilot | Kind::PilotReplaySafe | Kind::PilotEthernet => serve::<Pilot>(args.setup()),
            Kind::PilotDaemons => serve::<Daemons>(args.setup()),
            Kind::Forwarder => Err(BenchError::wrong("a forwarder makes no exchanges")),
        },
        End::Call { end, contact, task } => {
            let contact = serde_json::from_str(&contact).map_err(BenchError::wrong)?;
            let task = serde_json::from_str(&task).map_err(BenchError::wrong)?;
            match end.kind {
                Kind::Tcp => call::<Tcp>(end.setup(), contact, task),
                Kind::Tls | Kind::TlsOneThread | Kind::TlsBbr => call::<Tls>(end.setup(), contact, task),
                Kind::Http1 => call::<Http1>(end.setup(), contact, task),
                Kind::Http2 | Kind::Http2Bbr => call::<Http2>(end.setup(), contact, task),
                Kind::Quinn | Kind::QuinnOneThread | Kind::QuinnBbr => call::<Quinn>(end.setup(), contact, task),
                Kind::Http3 => call::<Http3>(end.setup(), contact, task),
                Kind::S2n => call::<S2n>(end.setup(), contact, task),
                Kind::Iroh => call::<Iroh>(end.setup(), contact, task),
                // Connections of other systems are by the same client; each of ours is by an agent of its own.
                Kind::Pilot | Kind::PilotReplaySafe | Kind::PilotEthernet => match task {
                    Task::Hold { connections } => call::<Crowd>(Setup { connections, ..end.setup() }, contact, task),
                    _ => call::<Pilot>(end.setup(), contact, task),
                },
                Kind::PilotDaemons => call::<Daemons>(end.setup(), contact, task),
                Kind::Forwarder => Err(BenchError::wrong("a forwarder makes no exchanges")),
            }
        }
        End::Sources { task } => {
            let sources: Sources = serde_json::from_str(&task).map_err(BenchError::wrong)?;
            let serving = source::serve(sources, || say(&"ready"));
            runtime(Kind::Http1)?
                .block_on(until_input_ends(async { tokio::spawn(serving).await.map_err(BenchError::wrong)? }))
        }
        End::Forwarder => {
            // It does nothing but forward, so that somebody else waits for its end.
            thread::spawn(|| {
                // Whatever comes: it is the end.
                let _ended = std::io::stdin().read(&mut [0]);
                process::exit(0)
            });
            forwarder::serve((Ipv4Addr::LOCALHOST, 0).into(), |address| say(&address))
        }
        End::Load { task } => {
            let load: Load = serde_json::from_str(&task).map_err(BenchError::wrong)?;
            on_this_thread(async {
                let mut pairs = Pairs::meet(&load).await?;
                say(&"ready")?;
                tokio::io::stdin().read_u8().await?;
                let numbers = pairs.send(Duration::from_millis(load.milliseconds)).await?;
                say(&Report { values: numbers.map(|number| number as f64).to_vec(), cpu: Duration::ZERO })
            })
        }
        End::Errand { task } => {
            let errand: Errand = serde_json::from_str(&task).map_err(BenchError::wrong)?;
            let performing =
                |errand| async { say(&tokio::spawn(reader::perform(errand)).await.map_err(BenchError::wrong)??) };
            runtime(errand.kind)?.block_on(performing(errand))
        }
    }
}

fn serve<S: System>(setup: Setup) -> Result<(), BenchError> {
    let announce: Announce = Box::new(|contact| say(&contact));
    runtime(setup.kind)?
        .block_on(until_input_ends(async { tokio::spawn(S::serve(setup, announce)).await.map_err(BenchError::wrong)? }))
}

async fn until_input_ends(serving: impl Future<Output = Result<(), BenchError>>) -> Result<(), BenchError> {
    let mut input = tokio::io::stdin();
    tokio::select! {
        served = serving => served,
        // Whatever comes: it is the end.
        _ = input.read_u8() => Ok(()),
    }
}

/// The work is a task among others, so that it runs where the system's own tasks do.
fn call<S: System>(setup: Setup, contact: Contact, task: Task) -> Result<(), BenchError> {
    runtime(setup.kind)?.block_on(async {
        let work = async move { perform(S::client(setup, contact).await?, task, |report: &Report| say(report)).await };
        tokio::spawn(work).await.map_err(BenchError::wrong)?
    })
}

fn runtime(kind: Kind) -> Result<Runtime, BenchError> {
    let mut builder = if kind.is_on_one_thread() { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    Ok(builder.worker_threads(THREADS).enable_all().build()?)
}

fn say(what: &impl serde::Serialize) -> Result<(), BenchError> {
    let line = serde_json::to_string(what).map_err(BenchError::wrong)?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}
