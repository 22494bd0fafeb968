//! `relay`: packets that one core forwards.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::from_str;
use tempfile::TempDir;

use super::{HERE, Stage, Workload};
use crate::compare::process::{End, Place, cpu};
use crate::compare::relay::{By, DATAGRAM_LEN, Load};
use crate::compare::results::{Better, Quantity, Sample};
use crate::compare::system::Kind;
use crate::compare::task::Report;
use crate::error::BenchError;

/// Our relay lets an identity send 1 Gbit/s: so many that this is not what limits a core.
const PAIRS: usize = 48;
const MILLISECONDS: u64 = 2_000;
/// The relay has one core, everybody else the other.
const CORE_OF_RELAY: &str = "1";
const CORE_OF_LOAD: &str = "0";

const FORWARDED: Quantity = Quantity {
    name: "relay",
    what: "datagrams of 1,400 B that a second of a core forwards (the process's own processor time, the kernel's work for it included); 48 pairs, one train of 46 \
           under way for each; beside the bare forwarder, which only looks up 16 bytes",
    unit: "million",
    better: Better::More,
};
const LOST: Quantity = Quantity {
    name: "relay-lost",
    what: "the same: of 100 datagrams, those that did not come",
    unit: "%",
    better: Better::Less,
};

pub(super) struct Relay;

/// A relay on its core. Dropping it ends it.
struct Backbone {
    child: Child,
    ticket: String,
    _home: TempDir,
}

impl Workload for Relay {
    fn obstacle(&self) -> Option<String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (cores < 2).then(|| "it takes two cores".to_owned())
    }

    fn systems(&self) -> Vec<Kind> {
        vec![Kind::Forwarder, Kind::PilotDaemons]
    }

    fn measure(&mut self, stage: &mut Stage, kind: Kind) -> Result<Vec<Sample>, BenchError> {
        if kind == Kind::Forwarder {
            let launch = |program: &Path| pinned(CORE_OF_RELAY, program);
            let mut forwarder = End::start(Place { launch: &launch, ..HERE }, &["end", "forwarder"])?;
            let address = from_str(&forwarder.line()?).map_err(BenchError::wrong)?;
            return load(By::Forwarder(address), forwarder.pid());
        }
        let backbone = Backbone::start(&stage.pilotctl)?;
        load(By::Backbone(backbone.ticket.clone()), backbone.child.id())
    }
}

/// What the load's datagrams cost the process of that number.
fn load(by: By, relay: u32) -> Result<Vec<Sample>, BenchError> {
    let load = Load { by, pairs: PAIRS, milliseconds: MILLISECONDS };
    let load = serde_json::to_string(&load).map_err(BenchError::wrong)?;
    let launch = |program: &Path| pinned(CORE_OF_LOAD, program);
    let mut end = End::start(Place { launch: &launch, ..HERE }, &["end", "load", "--task", &load])?;
    end.line()?;
    let before = cpu(&[relay])?;
    end.go_on()?;
    let report: Report = from_str(&end.line()?).map_err(BenchError::wrong)?;
    let spent = cpu(&[relay])?.saturating_sub(before).as_secs_f64();
    let [came, lost] = report.values[..] else { return Err(BenchError::wrong("a load has two numbers")) };
    let gigabytes = came * DATAGRAM_LEN as f64 / 1e9;
    let forwarded = Sample { cpu_s_per_gb: Some(spent / gigabytes), ..FORWARDED.of(came / spent / 1e6) };
    Ok(vec![forwarded, LOST.of(100.0 * lost / (came + lost))])
}

fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

impl Backbone {
    fn start(pilotctl: &Path) -> Result<Self, BenchError> {
        let home = tempfile::tempdir()?;
        let mut command = pinned(CORE_OF_RELAY, pilotctl);
        command.args(["backbone", "start", "--listen", "127.0.0.1:0"]).env("PILOT_HOME", home.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| BenchError::wrong("a backbone without an output"))?;
        let mut backbone = Self { child, ticket: String::new(), _home: home };
        BufReader::new(stdout).read_line(&mut backbone.ticket)?;
        backbone.ticket.truncate(backbone.ticket.trim_end().len());
        Ok(backbone)
    }
}

impl Drop for Backbone {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("warning: a backbone did not end: {error}");
        }
    }
}
