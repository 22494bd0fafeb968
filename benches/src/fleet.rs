//! The first day of a fleet: agents that become one organisation by one invite, as processes with homes of their own on this machine, and what
//! that takes until each has been answered by every other; then one of them is revoked.
//!
//! They share nothing but a backbone: trust between two of them comes from the organisation alone (spec/org.md). Each is a first
//! boot: it works out its identity, registers and joins before its `daemon start` returns.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use pilot_core::time::Mono;
use pilot_daemon::api::client::Client;
use pilot_daemon::api::orgs::{OrgMembers, OrgRequest, RevokeRequest, Revoked};
use pilot_daemon::api::types::{AcceptRequest, ErrorCode, OpenRequest, Status};
use pilot_daemon::clock;
use pilot_daemon::home::Home;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::task::LocalSet;

use crate::agents::wrong;
use crate::daemons::pilotctl;
use crate::error::BenchError;
use crate::exchange::{self, on_this_thread};

const ORG: &str = "fleet";
/// What members answer each other, by the rule for organisations: it is open to nobody else.
const SERVICE: &str = "query";
/// `daemon start` runs so often at once: an orchestrator's habit, and more than two cores have use for.
const STARTS_AT_ONCE: usize = 8;
/// An agent that is left alone this long is idle.
pub(crate) const SETTLING: Duration = Duration::from_secs(5);
/// Who was not answered asks again after this.
const RETRY: Duration = Duration::from_millis(50);
/// Asking again ends here, since nobody would wait longer.
const TRIES_MAX: usize = 1_200;
/// A call that goes on so long after its end was ordered will never end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a question.
const QUESTION_LEN: usize = 64;

/// What one fleet took, in seconds and MiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Day {
    /// From the first start until the last agent was a member.
    pub(crate) joined_s: f64,
    /// From the first start until every agent had been answered by every other.
    pub(crate) trusted_s: f64,
    /// Calls that were not answered at first.
    pub(crate) in_vain: f64,
    /// Memory of all agents, members that have called nobody yet.
    pub(crate) idle_mib: f64,
    /// The same when each has a tunnel with every other.
    pub(crate) connected_mib: f64,
    /// From the call that revokes a member until the tunnel of every other with it is closed.
    pub(crate) revoked_s: f64,
}

/// A backbone and agents. Dropping it ends them.
struct Fleet {
    program: PathBuf,
    root: TempDir,
    ticket: String,
    agents: Vec<String>,
}

/// Boots a fleet of so many agents, has all of them call each other, and revokes one.
pub(crate) fn day(program: &Path, agents: usize) -> Result<Day, BenchError> {
    let mut fleet = Fleet::new(program)?;
    let start = clock::now().mono;
    let mut day = Day::default();
    fleet.boot(agents)?;
    day.joined_s = seconds_since(start);
    on_this_thread(LocalSet::new().run_until(async {
        day.idle_mib = fleet.idle_mebibytes().await?;
        // The time in which they were left alone is not the fleet's.
        let called = clock::now().mono;
        fleet.serve()?;
        day.in_vain = fleet.call_everybody().await? as f64;
        day.trusted_s = day.joined_s + seconds_since(called);
        fleet.check_members().await?;
        day.connected_mib = fleet.idle_mebibytes().await?;
        day.revoked_s = fleet.revoke_last().await?;
        Ok(day)
    }))
}

impl Fleet {
    fn new(program: &Path) -> Result<Self, BenchError> {
        if !program.is_file() {
            return Err(BenchError::NoPilotctl(program.to_owned()));
        }
        let mut fleet =
            Self { program: program.to_owned(), root: tempfile::tempdir()?, ticket: String::new(), agents: Vec::new() };
        let printed = fleet.run("backbone", &["backbone", "start", "--listen", "127.0.0.1:0", "--detach"])?;
        fleet.ticket = printed.trim().to_owned();
        Ok(fleet)
    }

    /// Founds the organisation, and lets the other agents in by one invite.
    fn boot(&mut self, agents: usize) -> Result<(), BenchError> {
        let names: Vec<String> = (0..agents).map(|number| format!("agent-{number}")).collect();
        let (founder, others) = names.split_first().ok_or_else(|| wrong("a fleet of nobody"))?;
        self.start(founder, &[])?;
        self.run(founder, &["org", "create", ORG])?;
        let invite = self.root.path().join("invite");
        let (uses, file) = (others.len().to_string(), invite.display().to_string());
        self.run(founder, &["org", "invite", "--uses", &uses, "--file", &file])?;

        let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..STARTS_AT_ONCE {
                scope.spawn(|| {
                    while let Some(name) = others.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.start(name, &["--org", ORG, "--token-file", &file]) {
                            failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(error);
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.agents.extend(names);
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    fn start(&self, name: &str, options: &[&str]) -> Result<(), BenchError> {
        let always = ["daemon", "start", "--hostname", name, "--backbone", &self.ticket, "--listen", "127.0.0.1:0"];
        self.run(name, &[always.as_slice(), options].concat()).map(drop)
    }

    /// Runs `pilotctl` on the machine of that name.
    fn run(&self, machine: &str, args: &[&str]) -> Result<String, BenchError> {
        pilotctl(&self.program, &self.home(machine), args)
    }

    fn home(&self, machine: &str) -> PathBuf {
        self.root.path().join(machine)
    }

    fn socket(&self, name: &str) -> Result<PathBuf, BenchError> {
        let agent = Home::at(self.home(name)).agent(name).map_err(wrong)?;
        agent.socket_path().map_err(wrong)
    }

    async fn client(&self, name: &str) -> Result<Client, BenchError> {
        Ok(Client::connect(self.socket(name)?).await?)
    }

    /// Lets each agent answer its questions with the question, for as long as this runtime goes on.
    fn serve(&self) -> Result<(), BenchError> {
        for name in &self.agents {
            let socket = self.socket(name)?;
            tokio::task::spawn_local(async move {
                let client = Client::connect(socket).await?;
                let request = AcceptRequest { service: SERVICE.to_owned(), ..AcceptRequest::default() };
                // Until the agent ends.
                while let Ok((_, mut stream)) = client.accept(&request).await {
                    // A caller that gave up asks again.
                    tokio::task::spawn_local(async move { exchange::echo(&mut stream).await });
                }
                Ok::<(), BenchError>(())
            });
        }
        Ok(())
    }

    /// Has each agent ask every other, one after the other; returns how often that was in vain.
    async fn call_everybody(&self) -> Result<usize, BenchError> {
        let mut callers = Vec::with_capacity(self.agents.len());
        for (place, name) in self.agents.iter().enumerate() {
            let client = self.client(name).await?;
            // Each begins with its neighbour, so that not all of them begin with the same one.
            let others: Vec<String> =
                self.agents[place + 1..].iter().chain(&self.agents[..place]).map(|name| in_fleet(name)).collect();
            callers.push(tokio::task::spawn_local(async move {
                let mut in_vain = 0;
                for other in &others {
                    in_vain += ask(&client, other).await?;
                }
                Ok::<usize, BenchError>(in_vain)
            }));
        }
        let mut in_vain = 0;
        for caller in callers {
            in_vain += caller.await.map_err(wrong)??;
        }
        Ok(in_vain)
    }

    /// Each agent knows all of them as members.
    async fn check_members(&self) -> Result<(), BenchError> {
        for name in &self.agents {
            let client = self.client(name).await?;
            let known: OrgMembers = client.post("/v1/orgs/members", &OrgRequest { org: ORG.to_owned() }).await?;
            if known.members.len() != self.agents.len() {
                return Err(wrong(format!("{name} knows {} of {} members", known.members.len(), self.agents.len())));
            }
        }
        Ok(())
    }

    /// Ends the membership of the last agent, while every other has a call open with it; the time until the last of these calls has
    /// ended, which is when its tunnel is closed.
    async fn revoke_last(&self) -> Result<f64, BenchError> {
        let Some((last, others)) = self.agents.split_last() else { return Err(wrong("a fleet of nobody")) };
        let mut calls = Vec::with_capacity(others.len());
        for name in others {
            let (_, mut stream) = self.client(name).await?.open_stream(&question(&in_fleet(last))).await?;
            exchange::first_byte(&mut stream).await?;
            calls.push(stream);
        }
        let founder = self.client(&self.agents[0]).await?;
        let request = RevokeRequest { org: ORG.to_owned(), member: last.clone() };
        let start = clock::now().mono;
        let _revoked: Revoked = founder.post("/v1/orgs/revoke", &request).await?;
        for call in &mut calls {
            // How it ends, as an end or as an error, does not matter.
            _ = tokio::time::timeout(PATIENCE, call.read_to_end(&mut Vec::new()))
                .await
                .map_err(|_| wrong("a tunnel with the revoked agent stays open"))?;
        }
        Ok(seconds_since(start))
    }

    /// Memory of all agents once nothing has happened for a while; what several share counts once.
    async fn idle_mebibytes(&self) -> Result<f64, BenchError> {
        tokio::time::sleep(SETTLING).await;
        let mut sum = 0.0;
        for name in &self.agents {
            let status: Status = self.client(name).await?.get("/v1/status").await?;
            sum += proportional_mebibytes(status.pid)?;
        }
        Ok(sum)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Also those whose start has failed half way.
        for entry in fs::read_dir(self.root.path()).into_iter().flatten().flatten() {
            let home = entry.path();
            for args in [["daemon", "stop", "--all"].as_slice(), &["backbone", "stop"]] {
                // That there was nothing to stop is fine.
                _ = pilotctl(&self.program, &home, args);
            }
        }
    }
}

/// Asks until there is an answer; returns how often there was none.
async fn ask(client: &Client, target: &str) -> Result<usize, BenchError> {
    for in_vain in 0..TRIES_MAX {
        match ask_once(client, target).await {
            Ok(()) => return Ok(in_vain),
            // What a member of a fleet that comes up may be told: not yet known, not yet there, not yet trusted.
            Err(BenchError::Api(error)) if error.code != ErrorCode::Usage => tokio::time::sleep(RETRY).await,
            Err(BenchError::Io(_) | BenchError::Wrong(_)) => tokio::time::sleep(RETRY).await,
            Err(error) => return Err(error),
        }
    }
    ask_once(client, target).await.map(|()| TRIES_MAX)
}

async fn ask_once(client: &Client, target: &str) -> Result<(), BenchError> {
    let (_, mut stream) = client.open_stream(&question(target)).await?;
    exchange::request(&mut stream, QUESTION_LEN).await
}

fn question(target: &str) -> OpenRequest {
    OpenRequest { target: target.to_owned(), service: SERVICE.to_owned(), ..OpenRequest::default() }
}

fn in_fleet(name: &str) -> String {
    format!("{name}@{ORG}")
}

/// Bytes of a file.
pub(crate) fn size(path: &Path) -> Result<u64, BenchError> {
    Ok(fs::metadata(path)?.len())
}

/// Pss of a process (proc(5), smaps_rollup): a page that n processes share counts 1/n.
fn proportional_mebibytes(pid: u32) -> Result<f64, BenchError> {
    let rollup = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.parse::<f64>().ok());
    kibibytes.map(|kibibytes| kibibytes / 1024.0).ok_or_else(|| wrong(format!("no Pss of process {pid}")))
}

fn seconds_since(start: Mono) -> f64 {
    clock::now().mono.since(start).as_secs_f64()
}
