//! Commands that handle what other agents send: one process for each request (`answer`) or connection (`mcp serve`).
//!
//! A handler runs in a process group of its own, so that ending it ends what it started too, and it learns who calls from its
//! environment, never from the bytes (spec/cli.md §5.7).

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::client::Incoming;
use crate::context::Context;
use crate::env_vars;
use crate::hint::{Failure, Result};

/// How long a handler may take to end by itself, first after the end of its stdin, then after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// What other agents' bytes are given to.
pub(crate) struct HandlerCommand {
    argv: Vec<OsString>,
    agent_environment: [(&'static str, OsString); 2],
}

impl HandlerCommand {
    /// Fails for a program that cannot be run, so that this is not found out by the first caller.
    pub(crate) fn new(argv: Vec<OsString>, context: &Context, agent: &str) -> Result<Self> {
        let program = argv.first().ok_or_else(no_command)?;
        find_program(program).map_err(|error| cannot_start(program, &error))?;
        let home = (env_vars::PILOT_HOME, context.home.clone().into_os_string());
        Ok(Self { argv, agent_environment: [home, (env_vars::PILOT_AGENT, agent.into())] })
    }

    /// Starts one, with the caller's provenance in its environment.
    pub(crate) fn start(&self, incoming: &Incoming) -> Result<Handler> {
        let (program, arguments) = self.argv.split_first().ok_or_else(no_command)?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.envs(self.agent_environment.iter().map(|(name, value)| (name, value)));
        // What answers strangers may be talked into telling what it knows.
        for secret in [env_vars::PILOT_TOKEN, env_vars::PILOT_TOKEN_FILE] {
            command.env_remove(secret);
        }
        for (name, value) in provenance(incoming) {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = command.spawn().map_err(|error| cannot_start(program, &error))?;
        Handler::new(child)
    }
}

/// A handler at work. Dropped, it is killed.
pub(crate) struct Handler {
    child: Child,
    group: Option<Pid>,
}

impl Handler {
    fn new(child: Child) -> Result<Self> {
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, group })
    }

    /// Its stdin and stdout, once.
    pub(crate) fn take_pipes(&mut self) -> Result<(ChildStdin, ChildStdout)> {
        let pipes = self.child.stdin.take().zip(self.child.stdout.take());
        pipes.ok_or_else(|| Failure::failed("the handler's pipes are taken"))
    }

    /// Waits until it ends by itself.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().await.map_err(|error| Failure::failed(format!("cannot wait for the handler: {error}")))
    }

    /// Gives it time to end by itself, then sends SIGTERM, then SIGKILL.
    pub(crate) async fn end(&mut self) -> Result<ExitStatus> {
        if let Ok(ended) = tokio::time::timeout(GRACE, self.wait()).await {
            return ended;
        }
        self.end_now().await
    }

    /// Sends SIGTERM now, and SIGKILL if that does not help.
    pub(crate) async fn end_now(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        if let Ok(ended) = tokio::time::timeout(GRACE, self.wait()).await {
            return ended;
        }
        self.signal(Signal::KILL);
        self.wait().await
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // An error means that the whole group has ended.
            let _ended = kill_process_group(group, signal);
        }
    }
}

impl Drop for Handler {
    /// What the handler left behind in its group ends with it.
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn provenance(incoming: &Incoming) -> [(&'static str, Option<String>); 7] {
    [
        (env_vars::PILOT_PEER_ADDRESS, Some(incoming.address.clone())),
        (env_vars::PILOT_PEER_KEY, Some(incoming.key.clone())),
        (env_vars::PILOT_PEER_NAME, incoming.name.clone()),
        (env_vars::PILOT_SERVICE, Some(incoming.service.clone())),
        (env_vars::PILOT_TRACE_ID, incoming.trace_id.clone()),
        (env_vars::PILOT_TIME, Some(incoming.time_ms.to_string())),
        (env_vars::PILOT_DEADLINE_MS, incoming.deadline.map(|left| left.as_millis().to_string())),
    ]
}

/// Looks for a program as `execvp` does: a path as it is, a name in the directories of `PATH`.
fn find_program(program: &OsStr) -> io::Result<()> {
    let path = Path::new(program);
    if path.components().count() > 1 {
        return can_be_run(path);
    }
    let Some(directories) = std::env::var_os("PATH") else { return Ok(()) };
    let mut reason = io::Error::from(Errno::NOENT);
    for directory in std::env::split_paths(&directories) {
        match can_be_run(&directory.join(path)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => reason = error,
            Err(_) => {}
        }
    }
    Err(reason)
}

fn can_be_run(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(Errno::ACCESS.into());
    }
    Ok(access(path, Access::EXEC_OK)?)
}

fn no_command() -> Failure {
    Failure::usage("no command after --")
}

fn cannot_start(program: &OsStr, error: &io::Error) -> Failure {
    let failure = Failure::failed(format!("cannot run '{}': {error}", program.to_string_lossy()));
    if error.kind() == io::ErrorKind::NotFound {
        return failure.hint("what stands after -- is a program and its arguments; a pipeline needs `sh -c '…'`");
    }
    failure.hint("what stands after -- is a file that may be executed: `chmod +x` makes it so")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        for (program, kind) in [
            ("sh", None),
            ("/bin/sh", None),
            ("no-such-program", Some(io::ErrorKind::NotFound)),
            ("/no/such/program", Some(io::ErrorKind::NotFound)),
            ("./no-such-program", Some(io::ErrorKind::NotFound)),
            ("/etc", Some(io::ErrorKind::PermissionDenied)),
            ("/etc/passwd", Some(io::ErrorKind::PermissionDenied)),
        ] {
            assert_eq!(find_program(OsStr::new(program)).err().map(|error| error.kind()), kind, "{program}");
        }
    }
}
