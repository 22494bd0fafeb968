//! Real processes: two daemons in a home of their own, and the small programs that are their TCP twins.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pilot_core::time::Mono;
use pilot_daemon::api::client::Client;
use pilot_daemon::api::types::{OpenRequest, Status};
use pilot_daemon::clock;
use pilot_daemon::home::Home;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// The agent that calls, and the one that is called.
pub(crate) const CALLER: &str = "bench-caller";
pub(crate) const CALLED: &str = "bench-called";
/// The agent whose start is measured.
const SPARE: &str = "bench-spare";

/// Two daemons and their backbone in a temporary home. Dropping it ends them.
pub(crate) struct Lab {
    pilotctl: PathBuf,
    home: TempDir,
}

/// An agent that is started, again and again.
pub(crate) struct Spare {
    lab: std::rc::Rc<Lab>,
}

/// A TCP twin that is a process.
pub(crate) struct Program {
    child: Child,
    ready_after: Duration,
}

impl Lab {
    /// Starts both daemons, and with them the backbone that they use.
    pub(crate) fn start(pilotctl: PathBuf) -> Result<Self, BenchError> {
        if !pilotctl.is_file() {
            return Err(BenchError::NoPilotctl(pilotctl));
        }
        let lab = Self { pilotctl, home: tempfile::tempdir()? };
        for name in [CALLER, CALLED] {
            lab.pilotctl(&["daemon", "start", "--hostname", name])?;
        }
        // From here on there is a tunnel.
        lab.ping()?;
        Ok(lab)
    }

    /// A stream from the caller's local socket to the echo service of the other daemon.
    pub(crate) async fn open_echo(&self) -> Result<UnixStream, BenchError> {
        self.open("echo").await
    }

    /// Restarts the caller, which then knows of no tunnel, and waits until it is registered.
    pub(crate) fn forget_tunnels(&self) -> Result<(), BenchError> {
        self.pilotctl(&["daemon", "restart", "--as", CALLER]).map(drop)
    }

    /// The time of one `pilotctl ping`.
    pub(crate) fn ping(&self) -> Result<Duration, BenchError> {
        self.pilotctl(&["ping", CALLED, "--as", CALLER])
    }

    /// Resident memory of the daemon that is called.
    pub(crate) fn resident_mebibytes(&self) -> Result<f64, BenchError> {
        let socket = self.socket(CALLED)?;
        let status: Status = on_this_thread(async { Ok(Client::connect(socket).await?.get("/v1/status").await?) })?;
        resident_mebibytes(status.pid)
    }

    /// A third agent, whose identity exists and which does not run.
    pub(crate) fn spare(self: std::rc::Rc<Self>) -> Result<Spare, BenchError> {
        let mut spare = Spare { lab: self };
        spare.start()?;
        Ok(spare)
    }

    async fn open(&self, service: &str) -> Result<UnixStream, BenchError> {
        let request = OpenRequest { target: CALLED.to_owned(), service: service.to_owned(), ..OpenRequest::default() };
        let client = Client::connect(self.socket(CALLER)?).await?;
        Ok(client.open_stream(&request).await?.1)
    }

    /// The process of a daemon.
    #[cfg(feature = "peers")]
    pub(crate) async fn pid(&self, name: &str) -> Result<u32, BenchError> {
        let status: Status = Client::connect(self.socket(name)?).await?.get("/v1/status").await?;
        Ok(status.pid)
    }

    /// Returns when so many programs wait for streams to a service of the agent that is called.
    #[cfg(feature = "peers")]
    pub(crate) async fn wait_for_handlers(&self, wanted: &str, count: usize) -> Result<(), BenchError> {
        let client = Client::connect(self.socket(CALLED)?).await?;
        loop {
            let status: Status = client.get("/v1/status").await?;
            if status.services.iter().any(|service| service.service == wanted && service.waiting >= count) {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    /// Where the local API of an agent is.
    pub(crate) fn socket(&self, name: &str) -> Result<PathBuf, BenchError> {
        let agent = Home::at(self.home.path()).agent(name).map_err(wrong)?;
        agent.socket_path().map_err(wrong)
    }

    /// Runs `pilotctl` and says how long it took, from before it was started until it had exited.
    fn pilotctl(&self, args: &[&str]) -> Result<Duration, BenchError> {
        let start = clock::now().mono;
        pilotctl(&self.pilotctl, self.home.path(), args)?;
        Ok(clock::now().mono.since(start))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for args in [["daemon", "stop", "--all"].as_slice(), &["backbone", "stop"]] {
            if let Err(error) = self.pilotctl(args) {
                eprintln!("warning: {error}");
            }
        }
    }
}

impl Spare {
    /// The time from before `daemon start` until it says that the daemon is ready. The daemon is stopped again.
    pub(crate) fn start(&mut self) -> Result<Duration, BenchError> {
        let time = self.lab.pilotctl(&["daemon", "start", "--hostname", SPARE])?;
        self.lab.pilotctl(&["daemon", "stop", "--as", SPARE])?;
        Ok(time)
    }
}

impl Program {
    /// A process that listens on TCP and echoes; it has said that it is ready.
    pub(crate) fn tcp_server() -> Result<Self, BenchError> {
        let start = clock::now().mono;
        let mut child = own(&["tcp-server"])?.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or_else(|| BenchError::Wrong("no standard output".to_owned()))?;
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { child, ready_after: clock::now().mono.since(start) })
    }

    /// The time of a process that makes one TCP round trip, from start to exit.
    pub(crate) fn tcp_ping(address: SocketAddr) -> Result<Duration, BenchError> {
        let start: Mono = clock::now().mono;
        let output = own(&["tcp-ping", &address.to_string()])?.stdin(Stdio::null()).output()?;
        let time = clock::now().mono.since(start);
        if output.status.success() { Ok(time) } else { Err(BenchError::Wrong("the TCP ping failed".to_owned())) }
    }

    /// How long it took to become ready.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Its resident memory.
    pub(crate) fn resident_mebibytes(&self) -> Result<f64, BenchError> {
        resident_mebibytes(self.child.id())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("warning: a TCP twin did not end: {error}");
        }
    }
}

/// Runs `pilotctl` in a home; returns what it printed.
pub(crate) fn pilotctl(program: &Path, home: &Path, args: &[&str]) -> Result<String, BenchError> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).env("PILOT_HOME", home);
    for inherited in ["PILOT_AGENT", "PILOT_BACKBONE", "XDG_RUNTIME_DIR"] {
        command.env_remove(inherited);
    }
    let output = command.output()?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let output = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)).trim().to_owned();
    Err(BenchError::Pilotctl { command: args.join(" "), output })
}

/// This very program with another verb.
fn own(args: &[&str]) -> Result<Command, BenchError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args);
    Ok(command)
}

/// VmRSS of a process (proc_pid_status(5)).
fn resident_mebibytes(pid: u32) -> Result<f64, BenchError> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.parse::<f64>().ok());
    kibibytes.map(|kibibytes| kibibytes / 1024.0).ok_or_else(|| BenchError::Wrong(format!("no VmRSS of process {pid}")))
}

fn wrong(error: impl std::fmt::Display) -> BenchError {
    BenchError::Wrong(error.to_string())
}
