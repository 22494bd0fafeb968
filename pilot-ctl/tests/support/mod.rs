//! Real processes in a home of their own: what a user would type, and what it said.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod disk;
pub mod rest;
pub mod schema;
pub mod stream;
pub mod tap;
pub mod terminal;
pub mod transcript;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use disk::Disk;
use serde_json::Value;

/// The program under test.
pub const PILOTCTL: &str = env!("CARGO_BIN_EXE_pilotctl");
/// What a condition may take on a loaded machine before the test is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `PILOT_HOME` that goes away with everything that runs in it.
pub struct Home {
    /// Gone before the directory.
    disk: Option<Disk>,
    directory: tempfile::TempDir,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

/// A command that goes on. Dropped, it is told to end.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Lines that were not the ones waited for.
    passed: RefCell<Vec<String>>,
}

impl Home {
    pub fn new() -> Self {
        Self { disk: None, directory: directory() }
    }

    /// A home on a disk of its own; none where the system does not let us mount one.
    pub fn on_a_small_disk(test: &str) -> Option<Self> {
        let directory = directory();
        Some(Self { disk: Some(Disk::mount(test, directory.path())?), directory })
    }

    /// The disk of [`Self::on_a_small_disk`].
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a disk of its own")
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn agent_path(&self, agent: &str, file: &str) -> PathBuf {
        self.path().join("agents").join(agent).join(file)
    }

    /// The process of an agent.
    #[track_caller]
    pub fn pid(&self, agent: &str) -> u32 {
        let pid = self.json(&["daemon", "status", "--as", agent])["pid"].as_u64().expect("a pid");
        u32::try_from(pid).expect("a pid")
    }

    #[track_caller]
    pub fn address(&self, agent: &str) -> String {
        self.json(&["info", "--as", agent])["address"].as_str().expect("an address").to_owned()
    }

    /// A command in this home and in no other circumstances.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = clean_command(arguments);
        command.env("PILOT_HOME", self.path());
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Said {
        finish(self.command(arguments), b"")
    }

    /// The same with something on its stdin.
    #[track_caller]
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Said {
        finish(self.command(arguments), input.as_bytes())
    }

    /// Runs a command that has to succeed; returns its stdout.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "pilotctl {}: {said:?}", arguments.join(" "));
        said.stdout
    }

    /// The same with `--json`, parsed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let stdout = self.ok(&arguments);
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// Starts an agent as a user does; returns what that printed.
    #[track_caller]
    pub fn start(&self, name: &str, options: &[&str]) -> String {
        self.ok(&[&["daemon", "start", "--hostname", name], options].concat())
    }

    /// Starts a command that goes on; `ready` is on the line by which it says that it is ready, on stderr.
    #[track_caller]
    pub fn spawn(&self, arguments: &[&str], ready: &str) -> Running {
        let running = Running::start(self.command(arguments));
        running.wait_for_line(ready);
        running
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.run(&["daemon", "stop", "--all"]);
        self.run(&["backbone", "stop"]);
    }
}

impl Said {
    /// The stable form of an error under `--json`.
    #[track_caller]
    pub fn error(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        value["error"].clone()
    }
}

impl Running {
    /// Starts a command with an empty stdin.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null());
        Self::start_with_stdin(command)
    }

    /// Starts a command that is talked to.
    pub fn start_with_stdin(mut command: Command) -> Self {
        let mut child = command.spawn().expect("spawn");
        let (sender, lines) = mpsc::channel();
        forward_lines(child.stderr.take().expect("stderr"), sender.clone());
        forward_lines(child.stdout.take().expect("stdout"), sender);
        Self { child, lines, passed: RefCell::default() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says something on its stdin.
    pub fn write(&mut self, text: &str) {
        self.child.stdin.as_mut().expect("stdin").write_all(text.as_bytes()).expect("write");
    }

    /// Ends its stdin.
    pub fn end_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for a line of stdout or stderr that contains `text`, and returns it. Nothing orders the lines of the one among those of
    /// the other, so that lines which came before are looked through first.
    #[track_caller]
    pub fn wait_for_line(&self, text: &str) -> String {
        let mut passed = self.passed.borrow_mut();
        if let Some(at) = passed.iter().position(|line| line.contains(text)) {
            return passed.remove(at);
        }
        loop {
            let line =
                self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line with '{text}' among {passed:#?}"));
            if line.contains(text) {
                return line;
            }
            passed.push(line);
        }
    }

    /// Everything else that it said, once it has ended: what to look at when that was not as expected.
    pub fn rest(&self) -> Vec<String> {
        self.passed.borrow_mut().drain(..).chain(self.lines.iter()).collect()
    }

    /// Sends a signal by its name, `TERM` or `KILL`.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Sends a signal to the group that it leads, as a terminal does.
    pub fn signal_group(&self, name: &str) {
        let group = format!("-{}", self.pid());
        let sent = Command::new("kill").args([&format!("-{name}"), "--", &group]).status().expect("kill");
        assert!(sent.success(), "kill -{name} -- {group}");
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }

    /// Waits for the end; returns the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("wait").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().expect("wait").is_none() {
            self.signal("TERM");
            self.signal("CONT");
            self.child.wait().expect("wait");
        }
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("pilot-").tempdir().expect("a temporary directory")
}

/// `pilotctl` with none of the variables that would change what it does.
pub fn clean_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PILOTCTL);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ours = |name: &OsStr| name.to_string_lossy().starts_with("PILOT_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command.env_remove("COLUMNS").env("NO_COLOR", "1");
    command
}

/// Runs to the end with this on stdin. With `--json`, what it prints has to be as `spec/json` says.
#[track_caller]
pub fn finish(mut command: Command, input: &[u8]) -> Said {
    let mut child = command.spawn().expect("spawn");
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("wait");
    // A command that does not read its stdin is no failure of the test.
    let _fed = feeding.join().expect("feeding");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let said =
        Said { stdout: text(output.stdout), stderr: text(output.stderr), code: output.status.code().unwrap_or(-1) };
    schema::check_output(&command, &said.stdout, said.code);
    said
}

/// The verbs that have none below them, as paths: `["daemon", "start"]`. Walked from the binary's own help, so that none is forgotten.
pub fn verbs() -> Vec<Vec<String>> {
    let mut verbs = Vec::new();
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let below = verbs_below(&path);
        if below.is_empty() {
            verbs.push(path);
        } else {
            open.extend(below.into_iter().map(|verb| [path.clone(), vec![verb]].concat()));
        }
    }
    verbs.sort();
    verbs
}

/// What the help of `path` lists under `Commands:`.
pub fn verbs_below(path: &[String]) -> Vec<String> {
    let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
    let help = finish(clean_command(&arguments), b"").stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    listed.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

/// Waits until something holds, looking again and again.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let (sender, receiver) = mpsc::channel();
    // The patience is counted by a thread, for tests have no clock of their own.
    std::thread::spawn(move || {
        std::thread::park_timeout(PATIENCE);
        let _done = sender.send(());
    });
    while !holds() {
        assert!(receiver.try_recv().is_err(), "never: {what}");
        std::thread::yield_now();
    }
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().expect("kill");
    assert!(sent.success(), "kill -{name} {pid}");
}

/// Whether the process does something of its own about SIGTERM.
pub fn handles_sigterm(pid: u32) -> bool {
    const SIGTERM: u32 = 15;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim);
    let caught = caught.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or_default();
    caught >> (SIGTERM - 1) & 1 == 1
}

/// A named pipe in a directory.
pub fn named_pipe(directory: &Path) -> PathBuf {
    let path = directory.join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success(), "mkfifo {}", path.display());
    path
}

/// Whether the process exists, be it as a zombie.
pub fn is_alive(pid: u32) -> bool {
    Command::new("kill").arg("-0").arg(pid.to_string()).stderr(Stdio::null()).status().expect("kill").success()
}

/// Compares with `tests/snapshots/NAME.txt`; `PILOT_UPDATE_SNAPSHOTS=1` writes it, to be reviewed like code.
#[track_caller]
pub fn assert_snapshot(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("PILOT_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, actual).expect("write the snapshot");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if actual != expected {
        let same = actual.lines().zip(expected.lines()).take_while(|(actual, expected)| actual == expected).count();
        let from_there = |text: &str| text.lines().skip(same).take(10).collect::<Vec<_>>().join("\n");
        let (path, line) = (path.display(), same + 1);
        let (reviewed, now) = (from_there(&expected), from_there(actual));
        panic!("{path}:{line} differs; PILOT_UPDATE_SNAPSHOTS=1 accepts it\n--- reviewed\n{reviewed}\n--- now\n{now}");
    }
}

/// The names of the snapshots there are.
pub fn snapshots() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let files = std::fs::read_dir(directory).expect("snapshots").map(|entry| entry.expect("entry").file_name());
    files.filter_map(|file| Some(file.to_str()?.strip_suffix(".txt")?.to_owned())).collect()
}

fn forward_lines(stream: impl Read + Send + 'static, sender: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}
