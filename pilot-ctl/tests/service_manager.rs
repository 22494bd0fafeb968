//! What a service manager hears, and the units that make it listen (spec/install.md §4).

mod support;

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Home, Running, eventually, finish, is_alive, signal};

/// What a word may take to arrive before the test is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _directory: Option<tempfile::TempDir>,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind");
        Self::listening(socket, path.to_str().expect("text").to_owned(), Some(directory))
    }

    fn listening(socket: UnixDatagram, name: String, directory: Option<tempfile::TempDir>) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Self { socket, name, _directory: directory }
    }

    /// Starts a daemon as a manager does that wants a sign of life every `watchdog` microseconds.
    fn start(&self, mut command: Command, watchdog: Option<&str>) -> Running {
        command.env("NOTIFY_SOCKET", &self.name);
        if let Some(micros) = watchdog {
            command.env("WATCHDOG_USEC", micros);
        }
        Running::start(command)
    }

    #[track_caller]
    fn next(&self) -> String {
        let mut word = [0; 256];
        let length = loop {
            match self.socket.recv(&mut word) {
                // A receive with a time limit is not taken up again after a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.expect("a word from the daemon"),
            }
        };
        String::from_utf8_lossy(&word[..length]).into_owned()
    }

    /// The next word that is no sign of life.
    #[track_caller]
    fn next_but_alive(&self) -> String {
        loop {
            let word = self.next();
            if word != "WATCHDOG=1" {
                return word;
            }
        }
    }
}

fn run_agent(home: &Home, options: &[&str]) -> Command {
    home.command(&[&["daemon", "run", "--hostname", "alpha"], options].concat())
}

#[test]
fn ready_is_said_when_the_agent_answers_and_stopping_when_it_was_told_to_end() {
    let (home, manager) = (Home::new(), Manager::new());
    let mut agent = manager.start(run_agent(&home, &[]), None);
    assert_eq!(manager.next(), "READY=1");
    assert_eq!(home.json(&["info"])["name"], "alpha", "who hears it can rely on it");
    let status = home.json(&["daemon", "status"]);
    assert_eq!(status["supervised"], true);
    assert_eq!(status["backbone"]["registered"], true);
    agent.signal("TERM");
    assert_eq!(manager.next(), "STOPPING=1", "and not a word of the backbone that it started");
    assert_eq!(agent.wait(), Some(0));
}

#[test]
fn an_agent_that_is_stopped_by_its_api_says_so_too() {
    let (home, manager) = (Home::new(), Manager::new());
    let mut agent = manager.start(run_agent(&home, &["--no-backbone"]), None);
    assert_eq!(manager.next(), "READY=1");
    home.ok(&["daemon", "stop"]);
    assert_eq!(manager.next(), "STOPPING=1");
    assert_eq!(agent.wait(), Some(0), "an orderly end, after which nobody is to start it again");
}

#[test]
fn an_agent_that_cannot_start_is_never_ready() {
    let (home, manager) = (Home::new(), Manager::new());
    home.start("alpha", &["--no-backbone"]);
    let mut second = manager.start(run_agent(&home, &["--no-backbone"]), None);
    assert_eq!(second.wait(), Some(1));
    manager.socket.set_nonblocking(true).expect("nonblocking");
    let silence = manager.socket.recv(&mut [0; 64]).expect_err("nothing was said");
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_watchdog_hears_that_the_loop_turns() {
    let (home, manager) = (Home::new(), Manager::new());
    let agent = manager.start(run_agent(&home, &["--no-backbone"]), Some("1000000"));
    assert_eq!(manager.next(), "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    agent.signal("TERM");
    assert_eq!(manager.next_but_alive(), "STOPPING=1");
}

#[test]
fn a_backbone_says_the_same() {
    let (home, manager) = (Home::new(), Manager::new());
    let mut backbone = manager.start(home.command(&["backbone", "run"]), Some("1000000"));
    assert_eq!(manager.next(), "READY=1");
    assert_eq!(home.json(&["backbone", "status"])["pid"], backbone.pid());
    assert_eq!(manager.next(), "WATCHDOG=1");
    backbone.signal("TERM");
    assert_eq!(manager.next_but_alive(), "STOPPING=1");
    assert_eq!(backbone.wait(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_manager_in_the_abstract_namespace_is_heard() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let name = format!("pilot-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("address");
    let manager = Manager::listening(UnixDatagram::bind_addr(&address).expect("bind"), format!("@{name}"), None);
    let home = Home::new();
    let _agent = manager.start(run_agent(&home, &["--no-backbone"]), None);
    assert_eq!(manager.next(), "READY=1");
}

#[test]
fn a_manager_that_is_not_there_is_an_error_before_anything_is_written() {
    let home = Home::new();
    let mut command = run_agent(&home, &["--no-backbone"]);
    command.env("NOTIFY_SOCKET", "/nonexistent/notify");
    let said = finish(command, b"");
    assert_eq!(said.code, 1);
    assert!(said.stderr.starts_with("error: cannot reach the service manager at /nonexistent/notify: "), "{said:?}");
    assert!(!home.path().join("agents").exists());
}

#[test]
fn an_agent_of_a_service_manager_is_not_restarted_behind_its_back() {
    let (home, manager) = (Home::new(), Manager::new());
    let agent = manager.start(run_agent(&home, &["--no-backbone"]), None);
    assert_eq!(manager.next(), "READY=1");
    let said = home.run(&["daemon", "restart"]);
    let expected =
        "error: agent 'alpha' belongs to a service manager\nhint: let that restart it: `systemctl restart pilot@alpha`";
    assert_eq!(said.code, 1);
    assert!(said.stderr.starts_with(expected), "{said:?}");
    assert!(is_alive(agent.pid()));
}

/// Where the units of a test go, as an argument.
struct Units(tempfile::TempDir);

impl Units {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("directory"))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn argument(&self) -> &str {
        self.0.path().to_str().expect("text")
    }
}

#[test]
fn install_writes_units_that_run_this_program_in_this_home() {
    let (home, units) = (Home::new(), Units::new());
    let installed = home.json(&["daemon", "install", "--hostname", "alpha", "--units", units.argument()]);
    assert_eq!(installed["enable"], "systemctl --user enable --now pilot-backbone.service pilot@alpha.service");
    let unit = std::fs::read_to_string(units.path("pilot@.service")).expect("unit");
    let home_path = home.path().display();
    assert!(unit.contains(&format!("pilotctl --home {home_path} daemon run --hostname %i\n")), "{unit}");
    assert!(unit.contains("\nType=notify\n") && unit.contains("\nWatchdogSec="), "{unit}");
    let again = home.run(&["daemon", "install", "--hostname", "beta", "--units", units.argument()]);
    assert_eq!(again.code, 0, "one unit serves all agents: {again:?}");
}

#[test]
fn an_agent_with_a_backbone_of_its_choice_needs_no_local_one() {
    let (home, elsewhere, units) = (Home::new(), Home::new(), Units::new());
    let ticket = elsewhere.ok(&["backbone", "start", "--detach"]);
    std::fs::write(home.path().join("config.toml"), format!("backbone = '{}'\n", ticket.trim())).expect("write");
    let installed = home.json(&["daemon", "install", "--hostname", "alpha", "--units", units.argument()]);
    assert_eq!(installed["enable"], "systemctl --user enable --now pilot@alpha.service");
}

#[test]
fn uninstall_removes_what_install_wrote_and_nothing_else() {
    let (home, units) = (Home::new(), Units::new());
    let install = ["daemon", "install", "--hostname", "alpha", "--units", units.argument()];
    let uninstall = ["daemon", "uninstall", "--units", units.argument()];
    assert_eq!(home.run(&uninstall).code, 4, "there is nothing yet");
    std::fs::write(units.path("pilot@.service"), "[Service]\n").expect("write");
    let said = home.run(&install);
    assert_eq!(said.code, 1, "somebody else's unit stays as it is: {said:?}");
    assert!(!units.path("pilot-backbone.service").exists(), "all or nothing");
    std::fs::remove_file(units.path("pilot@.service")).expect("remove");

    home.ok(&install);
    std::fs::create_dir(units.path("default.target.wants")).expect("directory");
    let link = units.path("default.target.wants/pilot@alpha.service");
    std::os::unix::fs::symlink(units.path("pilot@.service"), &link).expect("link");
    let said = home.run(&uninstall);
    assert_eq!(said.code, 1);
    let expected =
        "error: still enabled: pilot@alpha.service\nhint: `systemctl --user disable --now pilot@alpha.service`";
    assert!(said.stderr.starts_with(expected), "{said:?}");
    std::fs::remove_file(link).expect("remove");
    std::fs::write(units.path("other.service"), "").expect("write");
    home.ok(&uninstall);
    let left = |file: &str| units.path(file).exists();
    assert_eq!([left("pilot@.service"), left("pilot-backbone.service"), left("other.service")], [false, false, true]);
}

/// What systemd itself says of the units, where it is there to be asked.
#[test]
fn systemd_finds_no_fault_with_the_units() {
    let (home, units) = (Home::new(), Units::new());
    home.ok(&["daemon", "install", "--hostname", "alpha", "--units", units.argument()]);
    let template = std::fs::read(units.path("pilot@.service")).expect("unit");
    std::fs::write(units.path("pilot@alpha.service"), template).expect("write");
    for unit in ["pilot@alpha.service", "pilot-backbone.service"] {
        let Some(found) = faults(&units.path(unit)) else {
            eprintln!("skipped: no systemd-analyze here");
            return;
        };
        assert_eq!(found, "", "{unit}");
    }
}

fn faults(unit: &Path) -> Option<String> {
    let mut command = Command::new("systemd-analyze");
    command.args(["--user", "verify", "--man=no"]).arg(unit);
    let runtime = tempfile::tempdir().expect("directory");
    let output = command.env("XDG_RUNTIME_DIR", runtime.path()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// `daemon run` as the first process of a container: nobody else waits for processes whose parents have gone.
#[cfg(target_os = "linux")]
#[test]
fn the_first_process_of_a_container_waits_for_orphans_and_ends_when_it_is_told_to() {
    if !Container::can_be() {
        return;
    }
    let home = Home::new();
    let mut container = Container::start(&home);
    let agent = container.first_process;
    container.run("sleep 1000 >/dev/null 2>&1 &");
    let mut orphan = None;
    eventually("the agent has become the parent of the orphan", || {
        orphan = child_of(agent);
        orphan.is_some()
    });
    let orphan = orphan.expect("just found");
    signal(orphan, "KILL");
    eventually("the orphan is out of the process table", || !is_alive(orphan));
    signal(agent, "TERM");
    assert_eq!(container.unshare.wait(), Some(0), "what the agent ended with");
}

/// A process namespace with an agent as its first process, and our program in it.
#[cfg(target_os = "linux")]
struct Container {
    first_process: u32,
    unshare: Running,
}

#[cfg(target_os = "linux")]
impl Container {
    const NAMESPACES: [&str; 5] = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];

    /// Whether process namespaces are to be had. Where they are required and are not, that is a failure.
    fn can_be() -> bool {
        let tried = Command::new("unshare").args(Self::NAMESPACES).arg("true").output();
        let can = tried.is_ok_and(|output| output.status.success());
        if !can {
            assert!(std::env::var_os("PILOT_REQUIRE_NAMESPACES").is_none(), "process namespaces are required");
            eprintln!("skipped: no process namespaces here");
        }
        can
    }

    fn start(home: &Home) -> Self {
        let run = home.command(&["daemon", "run", "--hostname", "alpha", "--no-backbone"]);
        let mut command = Command::new("unshare");
        command.args(Self::NAMESPACES).arg(run.get_program()).args(run.get_args());
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let unshare = Running::start(command);
        unshare.wait_for_line("Hostname: alpha");
        let first_process = child_of(unshare.pid()).expect("the agent is the child of unshare");
        Self { first_process, unshare }
    }

    /// Runs a line of shell inside.
    fn run(&self, line: &str) {
        let target = self.first_process.to_string();
        let inside = ["--user", "--preserve-credentials", "--pid", "--target", &target, "sh", "-c", line];
        assert!(Command::new("nsenter").args(inside).status().expect("nsenter").success(), "{line}");
    }
}

#[cfg(target_os = "linux")]
impl Drop for Container {
    /// unshare itself ignores what `Running` sends it.
    fn drop(&mut self) {
        let _ended = Command::new("kill").arg("-KILL").arg(self.first_process.to_string()).output();
    }
}

/// The first child of a process, by its id in our namespace.
#[cfg(target_os = "linux")]
fn child_of(parent: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
