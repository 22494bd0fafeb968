//! The figures, each with its TCP twin first.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use crate::agents::Pair;
use crate::daemons::{Lab, Program};
use crate::error::BenchError;
use crate::exchange::{self, gbit_per_second, micros, on_this_thread};
use crate::figure::{Figure, Unit};
use crate::tcp::EchoServer;
use crate::{library, tcp};

/// Bytes of a bulk transfer: long against slow start, short against patience.
const BULK_LEN: usize = 1_000_000_000;
/// Round trips behind one median.
const ROUND_TRIPS: usize = 2_000;
/// Dials behind one median.
const DIALS: usize = 50;
/// Requests at once, and the bytes of each.
const REQUESTS: usize = 50;
const REQUEST_LEN: usize = 1_024;
/// No bound of ours on the size of packets: what loopback carries.
const ANY_PACKET: usize = usize::MAX;
/// What an Ethernet carries.
const ETHERNET_PACKET: usize = 1_452;

/// A name, and what makes the figure of that name.
type Maker = fn(&Stage) -> Result<Figure, BenchError>;

/// All figures, in the order in which they are measured.
pub(crate) const FIGURES: [(&str, Maker); 10] = [
    // First: a daemon that has carried a gigabyte keeps some of it.
    ("idle-memory", idle_memory),
    ("round-trip", round_trip),
    ("dial-warm", dial_warm),
    ("dial-cold", dial_cold),
    ("requests", requests),
    ("bulk-daemons", bulk_daemons),
    ("bulk-library", bulk_library),
    ("bulk-library-1452", bulk_library_1452),
    ("ping-process", ping_process),
    ("start", start),
];

/// What the figures share: two daemons, started when the first figure asks for them, and a TCP echo server.
pub(crate) struct Stage {
    pilotctl: PathBuf,
    lab: OnceCell<Rc<Lab>>,
    echo: EchoServer,
}

impl Stage {
    /// Starts nothing but the echo server.
    pub(crate) fn new(pilotctl: PathBuf) -> Result<Self, BenchError> {
        Ok(Self { pilotctl, lab: OnceCell::new(), echo: EchoServer::start()? })
    }

    fn lab(&self) -> Result<Rc<Lab>, BenchError> {
        if let Some(lab) = self.lab.get() {
            return Ok(Rc::clone(lab));
        }
        let lab = Rc::new(Lab::start(self.pilotctl.clone())?);
        Ok(Rc::clone(self.lab.get_or_init(|| lab)))
    }
}

fn round_trip(stage: &Stage) -> Result<Figure, BenchError> {
    let (lab, echo) = (stage.lab()?, stage.echo);
    let twin = move || on_this_thread(async { exchange::round_trip_us(&mut echo.connect().await?, ROUND_TRIPS).await });
    let pilot =
        move || on_this_thread(async { exchange::round_trip_us(&mut lab.open_echo().await?, ROUND_TRIPS).await });
    let what = "64 B there and back; for Pilot through both daemons, from and to their local sockets";
    Ok(Figure::new("round-trip", what, Unit::Microseconds, "tcp", twin).with("pilot", pilot))
}

fn dial_warm(stage: &Stage) -> Result<Figure, BenchError> {
    let (lab, echo) = (stage.lab()?, stage.echo);
    let pilot = move || {
        on_this_thread(async {
            let mut times = Vec::with_capacity(DIALS);
            for _ in 0..DIALS {
                let start = now();
                exchange::first_byte(&mut lab.open_echo().await?).await?;
                times.push(micros(now().since(start)));
            }
            Ok(crate::figure::median(&times))
        })
    };
    let what = "from nothing to the first byte of the reply, the tunnel being up";
    Ok(Figure::new("dial-warm", what, Unit::Microseconds, "tcp", move || tcp_dial(echo)).with("pilot", pilot))
}

fn dial_cold(stage: &Stage) -> Result<Figure, BenchError> {
    let (lab, echo) = (stage.lab()?, stage.echo);
    let pilot = move || {
        lab.forget_tunnels()?;
        on_this_thread(async {
            let start = now();
            exchange::first_byte(&mut lab.open_echo().await?).await?;
            Ok(micros(now().since(start)))
        })
    };
    let what = "the same with no tunnel: look-up, relay or direct path and handshake included";
    Ok(Figure::new("dial-cold", what, Unit::Microseconds, "tcp", move || tcp_dial(echo)).with("pilot", pilot))
}

fn requests(stage: &Stage) -> Result<Figure, BenchError> {
    let (lab, echo) = (stage.lab()?, stage.echo);
    let twin = move || {
        on_this_thread(async {
            let start = now();
            let all =
                (0..REQUESTS).map(|_| async move { exchange::request(&mut echo.connect().await?, REQUEST_LEN).await });
            together(all).await?;
            Ok(micros(now().since(start)) / 1e3)
        })
    };
    let pilot = move || {
        on_this_thread(async {
            let start = now();
            let all = (0..REQUESTS).map(|_| {
                let lab = Rc::clone(&lab);
                async move { exchange::request(&mut lab.open_echo().await?, REQUEST_LEN).await }
            });
            together(all).await?;
            Ok(micros(now().since(start)) / 1e3)
        })
    };
    let what = "50 requests of 1 KiB at once, each on a stream (TCP: a connection) of its own, to the last reply";
    Ok(Figure::new("requests", what, Unit::Milliseconds, "tcp", twin).with("pilot", pilot))
}

fn bulk_daemons(stage: &Stage) -> Result<Figure, BenchError> {
    let lab = stage.lab()?;
    let pilot = move || Ok(gbit_per_second(BULK_LEN, lab.bulk(BULK_LEN)?));
    let what = "1 GB over one stream, through both daemons, from and to their local sockets";
    Ok(Figure::new("bulk-daemons", what, Unit::GbitPerSecond, "tcp", tcp_bulk).with("pilot", pilot))
}

fn bulk_library(_: &Stage) -> Result<Figure, BenchError> {
    let what = "1 GB over one stream between two agents in one process, a thread each, handshake included";
    let figure = Figure::new("bulk-library", what, Unit::GbitPerSecond, "tcp", tcp_bulk);
    let agents = Pair::new()?;
    let figure = figure.with("pilot", move || Ok(gbit_per_second(BULK_LEN, agents.bulk(BULK_LEN)?)));
    let figure = figure.with("pilot, core and socket alone", || library_bulk(ANY_PACKET));
    #[cfg(feature = "peers")]
    let figure = figure
        .with("quinn", || quinn_bulk(crate::peers::Packets::Default))
        .with("quinn, packets of 8,952", || quinn_bulk(crate::peers::Packets::Of(8_952)));
    Ok(figure)
}

fn bulk_library_1452(_: &Stage) -> Result<Figure, BenchError> {
    let what = "the same with packets of at most 1,452 bytes, as on an Ethernet";
    let figure = Figure::new("bulk-library-1452", what, Unit::GbitPerSecond, "tcp", tcp_bulk);
    let figure = figure.with("pilot, core and socket alone", || library_bulk(ETHERNET_PACKET));
    #[cfg(feature = "peers")]
    let figure = figure.with("quinn", || quinn_bulk(crate::peers::Packets::Default));
    Ok(figure)
}

fn idle_memory(stage: &Stage) -> Result<Figure, BenchError> {
    let lab = stage.lab()?;
    let twin = || Program::tcp_server()?.resident_mebibytes();
    let pilot = move || lab.resident_mebibytes();
    let what =
        "resident memory of a daemon with one peer and no stream; the twin is a process with one listening TCP socket";
    Ok(Figure::new("idle-memory", what, Unit::Mebibytes, "tcp", twin).with("pilot", pilot))
}

fn ping_process(stage: &Stage) -> Result<Figure, BenchError> {
    let (lab, echo) = (stage.lab()?, stage.echo);
    let what = "`pilotctl ping` from start to exit; the twin is a process that connects, sends 64 B, takes them back and exits";
    let twin = move || Ok(micros(Program::tcp_ping(echo.address())?) / 1e3);
    let pilot = move || Ok(micros(lab.ping()?) / 1e3);
    Ok(Figure::new("ping-process", what, Unit::Milliseconds, "tcp", twin).with("pilot", pilot))
}

fn start(stage: &Stage) -> Result<Figure, BenchError> {
    let spare = RefCell::new(stage.lab()?.spare()?);
    let what = "`daemon start` until it says that the daemon is ready; the twin is a process that listens and says so";
    let twin = || Ok(micros(Program::tcp_server()?.ready_after()) / 1e3);
    let pilot = move || Ok(micros(spare.borrow_mut().start()?) / 1e3);
    Ok(Figure::new("start", what, Unit::Milliseconds, "tcp", twin).with("pilot", pilot))
}

fn tcp_bulk() -> Result<f64, BenchError> {
    Ok(gbit_per_second(BULK_LEN, tcp::bulk(BULK_LEN)?))
}

fn library_bulk(packet_len_max: usize) -> Result<f64, BenchError> {
    Ok(gbit_per_second(BULK_LEN, library::bulk(BULK_LEN, packet_len_max)?))
}

#[cfg(feature = "peers")]
fn quinn_bulk(packets: crate::peers::Packets) -> Result<f64, BenchError> {
    Ok(gbit_per_second(BULK_LEN, crate::peers::quinn_bulk(BULK_LEN, packets)?))
}

fn tcp_dial(echo: EchoServer) -> Result<f64, BenchError> {
    on_this_thread(async {
        let mut times = Vec::with_capacity(DIALS);
        for _ in 0..DIALS {
            let start = now();
            exchange::first_byte(&mut echo.connect().await?).await?;
            times.push(micros(now().since(start)));
        }
        Ok(crate::figure::median(&times))
    })
}

/// Runs all futures at once on this thread; the first error ends the figure.
async fn together(
    futures: impl Iterator<Item = impl Future<Output = Result<(), BenchError>> + 'static>,
) -> Result<(), BenchError> {
    let local = tokio::task::LocalSet::new();
    let tasks: Vec<_> = futures.map(|future| local.spawn_local(future)).collect();
    local
        .run_until(async {
            for task in tasks {
                task.await.map_err(|error| BenchError::Wrong(error.to_string()))??;
            }
            Ok(())
        })
        .await
}

fn now() -> pilot_core::time::Mono {
    pilot_daemon::clock::now().mono
}
