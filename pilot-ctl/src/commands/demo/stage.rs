//! The demo's processes: every command is this same binary, started as a user would, in a home that goes away afterwards.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::output::Output;
use crate::{env_vars, home, process};

/// No command of the demo takes longer; one that does is a failure to show.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a handler may take to end when told to.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Of the names of the demo's agents.
const LONGEST_NAME: &str = "alpha";

/// What a command said.
pub(super) struct Said {
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// A temporary home, and what runs in it.
pub(super) struct Stage {
    pub(super) output: Output,
    pub(super) home: PathBuf,
    program: PathBuf,
    handlers: Vec<Child>,
    /// Held while an agent starts.
    starting: Arc<Mutex<()>>,
}

impl Stage {
    pub(super) fn new(output: Output) -> Result<Self> {
        let home = home()?;
        std::fs::create_dir(&home)
            .map_err(|error| Failure::failed(format!("cannot make {}: {error}", home.display())))?;
        Ok(Self { output, home, program: process::own_executable()?, handlers: Vec::new(), starting: Arc::default() })
    }

    /// Says what comes next, in a line or two.
    pub(super) fn explain(&self, text: &str) -> Result<()> {
        if self.output.is_json() { Ok(()) } else { self.output.line(format_args!("\n{text}")) }
    }

    /// Shows a command, runs it, and shows what it says. It has to succeed.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<Said> {
        self.run_with_input(arguments, None).await
    }

    /// The same with something piped in.
    pub(super) async fn run_with_input(&self, arguments: &[&str], input: Option<&str>) -> Result<Said> {
        self.show_command(arguments, input)?;
        let said = self.quietly(arguments, input).await?;
        self.show(&said.stdout)?;
        self.show(&said.stderr)?;
        Ok(said)
    }

    /// Shows and runs a command that leaves a daemon behind.
    ///
    /// It goes on to its end if the demo is interrupted meanwhile: a daemon that does not yet answer would not be found by [`Self::clear`].
    pub(super) async fn start_agent(&self, arguments: &[&str]) -> Result<()> {
        self.show_command(arguments, None)?;
        let (command, shown) = (self.command(arguments), shown(arguments));
        let started = Arc::clone(&self.starting).lock_owned().await;
        let running = tokio::spawn(async move {
            let said = finish(command, &shown, None).await;
            drop(started);
            said
        });
        let said = running.await.map_err(|error| Failure::failed(format!("a start broke: {error}")))??;
        self.show(&said.stdout)?;
        self.show(&said.stderr)
    }

    /// Runs a command without showing it.
    pub(super) async fn quietly(&self, arguments: &[&str], input: Option<&str>) -> Result<Said> {
        finish(self.command(arguments), &shown(arguments), input).await
    }

    /// Shows and starts a command that goes on, and waits for the line that says it is ready.
    pub(super) async fn start_handler(&mut self, arguments: &[&str]) -> Result<()> {
        self.show_command_line(&format!("$ {} &", shown(arguments)))?;
        let spawned = self.command(arguments).stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| cannot_run(&error))?;
        let stderr = child.stderr.take().ok_or_else(|| Failure::failed("the handler has no stderr"))?;
        self.handlers.push(child);
        let mut lines = BufReader::new(stderr).lines();
        let first = tokio::time::timeout(COMMAND_TIMEOUT, lines.next_line()).await;
        let Ok(Ok(Some(ready))) = first else {
            return Err(Failure::failed(format!("`{}` did not get ready", shown(arguments))));
        };
        self.show(&ready)?;
        // Its later output must be read, or it would block on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(())
    }

    /// A process of ours whose stdin and stdout the demo itself speaks with.
    pub(super) fn start_client(&self, arguments: &[&str]) -> Result<Child> {
        self.show_command(arguments, None)?;
        self.command(arguments).stderr(Stdio::null()).spawn().map_err(|error| cannot_run(&error))
    }

    /// Ends every process and removes every file; goes on past what fails, and tells the first failure.
    pub(super) async fn clear(mut self) -> Result<()> {
        // It ends: no command takes longer than COMMAND_TIMEOUT.
        drop(self.starting.lock().await);
        for handler in &mut self.handlers {
            end(handler).await;
        }
        let stopped = self.quietly(&["daemon", "stop", "--all"], None).await.map(drop);
        let stopped = stopped.and(self.quietly(&["backbone", "stop"], None).await.map(drop));
        let removed = std::fs::remove_dir_all(&self.home);
        let removed =
            removed.map_err(|error| Failure::failed(format!("cannot remove {}: {error}", self.home.display())));
        ignore_what_never_ran(stopped).and(removed)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // In a group of its own, so that Ctrl-C at a terminal reaches the demo alone, which then ends all in order.
        command.args(arguments).kill_on_drop(true).process_group(0);
        for name in [env_vars::PILOT_AGENT, env_vars::PILOT_BACKBONE, env_vars::PILOT_TAGS, env_vars::PILOT_GROUPS] {
            command.env_remove(name);
        }
        for name in [env_vars::PILOT_DESCRIPTION, env_vars::PILOT_LISTEN, env_vars::PILOT_TIMEOUT] {
            command.env_remove(name);
        }
        command.env(env_vars::PILOT_HOME, &self.home).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    fn show_command(&self, arguments: &[&str], input: Option<&str>) -> Result<()> {
        let pipe = input.map(|input| format!("echo {} | ", quoted(input.trim_end()))).unwrap_or_default();
        self.show_command_line(&format!("$ {pipe}{}", shown(arguments)))
    }

    fn show_command_line(&self, line: &str) -> Result<()> {
        if self.output.is_json() { Ok(()) } else { self.output.line(line) }
    }

    pub(super) fn show(&self, text: &str) -> Result<()> {
        if self.output.is_json() {
            return Ok(());
        }
        text.lines().try_for_each(|line| self.output.line(format_args!("  {line}")))
    }
}

/// Where the demo plays: in the first directory for temporary files whose path is short enough for a socket.
fn home() -> Result<PathBuf> {
    let name = format!("pilot-demo-{}", std::process::id());
    let homes = [std::env::temp_dir(), PathBuf::from("/tmp")].map(|directory| directory.join(&name));
    let is_short = |home: &PathBuf| home::agent(home, LONGEST_NAME).is_ok_and(|agent| agent.socket_path().is_ok());
    homes.into_iter().find(is_short).ok_or_else(|| {
        Failure::failed("the path of the directory for temporary files is too long for a socket")
            .hint("set TMPDIR to a shorter one, or XDG_RUNTIME_DIR")
    })
}

/// Runs a command to its end.
async fn finish(mut command: Command, shown: &str, input: Option<&str>) -> Result<Said> {
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(|error| cannot_run(&error))?;
    let stdin = child.stdin.take();
    let running = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let ended = tokio::time::timeout(COMMAND_TIMEOUT, running).await;
    let ended = ended.map_err(|_| Failure::new(ExitCode::Timeout, format!("`{shown}` does not end")))?;
    let ended = ended.map_err(|error| cannot_run(&error))?;
    let said = Said { stdout: text(&ended.stdout), stderr: text(&ended.stderr) };
    if ended.status.success() { Ok(said) } else { Err(unexpected(shown, ended.status, &said)) }
}

/// An interrupted demo may not have started all that is stopped here.
fn ignore_what_never_ran(stopped: Result<()>) -> Result<()> {
    match stopped {
        Err(failure) if failure.code == ExitCode::NotRunning => Ok(()),
        other => other,
    }
}

async fn end(handler: &mut Child) {
    if let Some(pid) = handler.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
        // An error means that it has ended already.
        let _ended = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(END_TIMEOUT, handler.wait()).await.is_err() {
        let _ended = handler.kill().await;
    }
}

fn shown(arguments: &[&str]) -> String {
    let own = process::own_executable().ok();
    let typed =
        |word: &&str| if own.as_deref() == Some(Path::new(word)) { "pilotctl".to_owned() } else { quoted(word) };
    let words: Vec<String> = arguments.iter().map(typed).collect();
    format!("pilotctl {}", words.join(" "))
}

/// As one would type it in a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn unexpected(shown: &str, status: ExitStatus, said: &Said) -> Failure {
    let mut lines = said.stderr.lines();
    let reason = lines.find_map(|line| line.strip_prefix("error: ")).unwrap_or("it says nothing of why");
    let mut failure = Failure::failed(format!("`{shown}` failed: {reason}"));
    failure.hint = lines.find_map(|line| line.strip_prefix("hint: ")).map(str::to_owned);
    if status.code() == Some(ExitCode::NotRunning as i32) {
        failure.code = ExitCode::NotRunning;
    }
    failure
}

fn cannot_run(error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot run pilotctl: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
