//! The ends of a comparison as processes: what they cost, and how they are talked to.
//!
//! Every end is this very program, started anew with the hidden verb `end`: a server says on its standard output how it is reached, and
//! ends with its standard input; a client is told what to do ([`Task`]) by its arguments, and says what came out.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::system::{Contact, Kind};
use super::task::{Report, Task};
use crate::error::BenchError;

/// Starts a program, wherever it shall run.
pub(crate) type Launcher<'a> = &'a dyn Fn(&Path) -> Command;

/// Where the ends of a pair run.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) launch: Launcher<'a>,
    pub(crate) ip: IpAddr,
}

/// A server that is ready.
pub(crate) struct Server {
    kind: Kind,
    streams: u32,
    pilotctl: PathBuf,
    contact: Contact,
    end: End,
}

/// A client that waits to be told that it may go on.
pub(crate) struct Client {
    end: End,
}

/// A process of this program, and the lines that it writes. Dropping it ends it.
pub(crate) struct End {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(kind: Kind, streams: u32, pilotctl: &Path, place: Place<'_>) -> Result<Self, BenchError> {
        let (ip, limit) = (place.ip.to_string(), streams.to_string());
        let program = pilotctl.display().to_string();
        let args = ["end", "serve", kind.name(), "--listen", &ip, "--streams", &limit, "--pilotctl", &program];
        let mut end = End::start(place, &args)?;
        let contact = serde_json::from_str(&end.line()?).map_err(BenchError::wrong)?;
        Ok(Self { kind, streams, pilotctl: pilotctl.to_owned(), contact, end })
    }

    /// The processes that do its part: itself, and daemons of both ends.
    pub(crate) fn pids(&self) -> Vec<u32> {
        std::iter::once(self.end.child.id()).chain(self.contact.helpers.iter().copied()).collect()
    }

    /// Lets a client do something, from start to end. Adds what the server's part cost.
    pub(crate) fn run(&self, task: &Task, place: Place<'_>) -> Result<Report, BenchError> {
        let before = cpu(&self.pids())?;
        let mut report = self.client(task, place)?.report()?;
        report.cpu += cpu(&self.pids())?.saturating_sub(before);
        Ok(report)
    }

    /// Starts a client.
    pub(crate) fn client(&self, task: &Task, place: Place<'_>) -> Result<Client, BenchError> {
        let [contact, task] = [serde_json::to_string(&self.contact), serde_json::to_string(task)];
        let (contact, task) = (contact.map_err(BenchError::wrong)?, task.map_err(BenchError::wrong)?);
        let (ip, streams) = (place.ip.to_string(), self.streams.to_string());
        let program = self.pilotctl.display().to_string();
        let end = ["end", "call", self.kind.name(), "--listen", &ip, "--streams", &streams, "--pilotctl", &program];
        let args = [end.as_slice(), &["--contact", &contact, "--task", &task]].concat();
        let end = End::start(place, &args)?;
        if self.kind == Kind::PilotDaemons {
            eprintln!("{}: processes {:?}, and this client's {}", self.kind.name(), self.pids(), end.pid());
        }
        Ok(Client { end })
    }

    /// Resident memory of the server's own process, in bytes.
    pub(crate) fn resident(&self) -> Result<u64, BenchError> {
        resident(self.end.child.id())
    }
}

impl Client {
    /// What came out of a task, or of a part of it.
    pub(crate) fn report(&mut self) -> Result<Report, BenchError> {
        serde_json::from_str(&self.end.line()?).map_err(BenchError::wrong)
    }

    /// Lets it do the next part.
    pub(crate) fn go_on(&mut self) -> Result<(), BenchError> {
        self.end.go_on()
    }
}

impl End {
    /// Starts one with these arguments.
    pub(crate) fn start(place: Place<'_>, args: &[&str]) -> Result<Self, BenchError> {
        let mut command = (place.launch)(&std::env::current_exe()?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| BenchError::wrong("an end without an output"))?;
        Ok(Self { stdin: child.stdin.take(), stdout: BufReader::new(stdout), child })
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes it a line.
    pub(crate) fn go_on(&mut self) -> Result<(), BenchError> {
        let stdin = self.stdin.as_mut().ok_or_else(|| BenchError::wrong("an end without an input"))?;
        Ok(stdin.write_all(b"\n")?)
    }

    /// The next line that it writes.
    pub(crate) fn line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(BenchError::wrong("an end of the comparison failed"));
        }
        Ok(line)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("warning: an end did not end: {error}");
        }
    }
}

/// On this machine, by loopback.
pub(crate) fn here(program: &Path) -> Command {
    Command::new(program)
}

/// Time that processes have had a core for, their threads and what the kernel did for them included.
pub(crate) fn cpu(pids: &[u32]) -> Result<Duration, BenchError> {
    pids.iter().map(|pid| threads_cpu(*pid)).sum()
}

/// Sums the first number of schedstat over all threads (Documentation/scheduler/sched-stats.rst): nanoseconds, where stat(5) has ticks.
fn threads_cpu(pid: u32) -> Result<Duration, BenchError> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(process(pid).join("task"))? {
        // A thread may end while we look.
        let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let number = schedstat.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        nanoseconds += number.ok_or_else(|| BenchError::wrong(format!("no CPU time of process {pid}")))?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// VmRSS (proc_pid_status(5)), in bytes.
fn resident(pid: u32) -> Result<u64, BenchError> {
    let status = fs::read_to_string(process(pid).join("status"))?;
    let fields: BTreeMap<_, _> = status.lines().filter_map(|line| line.split_once(':')).collect();
    let kibibytes = fields.get("VmRSS").and_then(|value| value.trim().strip_suffix(" kB"));
    let kibibytes = kibibytes.and_then(|number| number.parse::<u64>().ok());
    kibibytes.map(|kibibytes| kibibytes * 1_024).ok_or_else(|| BenchError::wrong(format!("no VmRSS of process {pid}")))
}

fn process(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}
