//! Processes that outlive the command that starts them: `daemon start`, `backbone start --detach`, `mcp serve --detach`.
//!
//! The command runs itself again with `--detached`. The child leaves the session and the terminal, and its stdout is a pipe
//! on which it reports once: ready, or why not. Then the command ends and the child goes on. Its stderr is its log file, so
//! that even a panic is found there.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pilot_daemon::logging;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::env_vars;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};

/// How long a child may take to be ready. The first start of an agent computes its address, seconds on a slow machine.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// What the child says, on one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report<T> {
    Ready(T),
    Error { code: String, message: String, hint: Option<String> },
}

/// Runs `pilotctl ARGV`, which has `--detached` in it, and waits until it is ready.
pub(crate) async fn spawn_detached<T: DeserializeOwned>(argv: &[OsString], log: &Path) -> Result<T> {
    let mut child = detached_command(argv, log)?.spawn().map_err(|error| cannot_run(&error))?;
    let stdout = child.stdout.take().ok_or_else(|| Failure::failed("the child has no stdout"))?;
    let mut line = String::new();
    let read = tokio::time::timeout(READY_TIMEOUT, BufReader::new(stdout).read_line(&mut line)).await;
    let Ok(read) = read else {
        child.start_kill().map_err(|error| cannot_run(&error))?;
        let message = format!("not ready within {} s", READY_TIMEOUT.as_secs());
        return Err(Failure::new(ExitCode::Timeout, message).hint(see_log(log)));
    };
    read.map_err(|error| cannot_run(&error))?;
    parse_report(&line).unwrap_or_else(|| Err(ended_silently(log)))
}

/// Sends what this process, a daemon, logs to the file that a detached one already has as its stderr.
pub(crate) fn start_log(path: &Path) -> Result<()> {
    logging::start(path).map_err(|error| cannot_log(path, &error))
}

/// The path of this program, to run it again.
pub(crate) fn own_executable() -> Result<std::path::PathBuf> {
    std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot find the path of pilotctl itself: {error}")))
}

fn detached_command(argv: &[OsString], log: &Path) -> Result<Command> {
    let open = OpenOptions::new().create(true).append(true).mode(0o600).open(log);
    let log_file = open.map_err(|error| cannot_log(log, &error))?;
    let mut command = Command::new(own_executable()?);
    command.args(argv);
    // What the service manager of this process said is not for its child.
    for name in [env_vars::NOTIFY_SOCKET, env_vars::WATCHDOG_USEC, env_vars::WATCHDOG_PID] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
    Ok(command)
}

fn parse_report<T: DeserializeOwned>(line: &str) -> Option<Result<T>> {
    Some(match serde_json::from_str(line).ok()? {
        Report::Ready(ready) => Ok(ready),
        Report::Error { code, message, hint } => Err(Failure { code: ExitCode::from_word(&code), message, hint }),
    })
}

fn ended_silently(log: &Path) -> Failure {
    let tail = std::fs::read_to_string(log).unwrap_or_default();
    let reason = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it left no word in its log");
    Failure::failed(format!("it ended before it was ready: {reason}")).hint(see_log(log))
}

fn see_log(log: &Path) -> String {
    format!("its log is {}", log.display())
}

fn cannot_log(log: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write the log {}: {error}", log.display()))
        .hint("PILOT_HOME must be a directory that you may write to; --home DIR names another")
}

fn cannot_run(error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot run pilotctl again: {error}"))
}

/// The child's side.
pub(crate) mod child {
    use std::io::Write;

    use serde::Serialize;

    use super::{Failure, Report, Result};

    /// Runs `serve` as what a command of ours has started: away from its session, and with a report to that command if `serve` fails.
    pub(crate) async fn run(serve: impl Future<Output = Result<()>>) -> Result<()> {
        leave_session()?;
        let served = serve.await;
        if let Err(failure) = &served {
            report_failure(failure)?;
        }
        served
    }

    /// Tells the command that started us, and lets go of its pipe.
    pub(crate) fn report_ready(ready: &impl Serialize) -> Result<()> {
        report(&Report::Ready(ready))
    }

    /// Leaves the terminal and the session of the shell, so that closing them does not end us. Before any thread starts.
    fn leave_session() -> Result<()> {
        match rustix::process::setsid() {
            // EPERM: already a session leader, for example under a service manager.
            Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
            Err(error) => Err(Failure::failed(format!("cannot leave the session: {error}"))),
        }
    }

    /// Lets go of the directory we were started in, so that it can be unmounted.
    pub(crate) fn leave_directory() -> Result<()> {
        std::env::set_current_dir("/").map_err(|error| Failure::failed(format!("cannot change to /: {error}")))
    }

    /// Tells the command that started us why we are about to end.
    fn report_failure(failure: &Failure) -> Result<()> {
        let Failure { code, message, hint } = failure.clone();
        report(&Report::<()>::Error { code: code.word().to_owned(), message, hint })
    }

    fn report<T: Serialize>(report: &Report<T>) -> Result<()> {
        let line = serde_json::to_string(report).map_err(|error| Failure::failed(error.to_string()))?;
        let mut stdout = std::io::stdout().lock();
        // Whoever started us may have been interrupted: we go on.
        let _gone = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        let null = std::fs::File::options().write(true).open("/dev/null");
        let null = null.map_err(|error| Failure::failed(format!("cannot open /dev/null: {error}")))?;
        rustix::stdio::dup2_stdout(&null).map_err(|error| Failure::failed(format!("cannot let go of stdout: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reaches_the_parent_with_code_and_hint() {
        let line = r#"{"error":{"code":"refused","message":"no","hint":"ask"}}"#;
        let failure = parse_report::<()>(line).expect("a report").expect_err("an error");
        assert_eq!(failure, Failure::new(ExitCode::Refused, "no").hint("ask"));
    }

    #[test]
    fn the_last_word_of_the_log_is_the_reason() {
        let log = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(log.path(), "started\nthe disk is full\n\n").expect("write");
        let failure = ended_silently(log.path());
        assert!(failure.message.ends_with("the disk is full"), "{failure}");
    }
}
