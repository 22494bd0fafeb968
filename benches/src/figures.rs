//! The figures of the daemon, each with its TCP twin first. What a transport is compared by, `compare` has.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use crate::daemons::{Lab, Program};
use crate::error::BenchError;
use crate::exchange::{self, micros, on_this_thread};
use crate::figure::{Figure, Unit};
use crate::tcp::EchoServer;

/// Dials behind one median.
const DIALS: usize = 50;
/// A name, and what makes the figure of that name.
type Maker = fn(&Stage) -> Result<Figure, BenchError>;

/// All figures, in the order in which they are measured.
pub(crate) const FIGURES: [(&str, Maker); 5] = [
    ("idle-memory", idle_memory),
    ("dial-warm", dial_warm),
    ("dial-cold", dial_cold),
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

fn now() -> pilot_core::time::Mono {
    pilot_daemon::clock::now().mono
}
