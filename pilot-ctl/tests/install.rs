//! `packaging/install.sh`: what it checks before it touches anything, and what running agents notice of it (spec/install.md §2).

#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Home, PILOTCTL, Running, Said, finish};

/// Stands for a program of another version.
const OTHER_VERSION: &str = "#!/bin/sh\necho pilotctl 0.0.1\n";

/// A place to install to, an archive, and a home whose agents run meanwhile.
struct Machine {
    directory: tempfile::TempDir,
    home: Home,
}

impl Machine {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("directory"), home: Home::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn installed(&self) -> PathBuf {
        self.path("prefix/bin/pilotctl")
    }

    /// What is installed, as text.
    fn installed_text(&self) -> String {
        fs::read_to_string(self.installed()).expect("read")
    }

    /// Makes an archive of a program, with its checksum beside it.
    fn archive(&self, program: &Path) -> String {
        let root = self.path("archive/pilotctl-0.0.1");
        fs::create_dir_all(&root).expect("directory");
        fs::copy(program, root.join("pilotctl")).expect("copy");
        let name = format!("pilotctl-0.0.1-{}-linux.tar.gz", std::env::consts::ARCH);
        shell(
            self.directory.path(),
            &format!("tar -C archive -cf - pilotctl-0.0.1 | gzip -1 >{name} && sha256sum {name} >{name}.sha256"),
        );
        name
    }

    /// The same of a script.
    fn archive_of(&self, text: &str) -> String {
        let program = self.path("program");
        fs::write(&program, text).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
        self.archive(&program)
    }

    fn install_from(&self, archive: &str, options: &[&str]) -> Said {
        let from = self.path(archive);
        self.run(&[&["--from", from.to_str().expect("text")], options].concat())
    }

    fn run(&self, options: &[&str]) -> Said {
        self.run_script(&script(), options)
    }

    fn run_script(&self, script: &Path, options: &[&str]) -> Said {
        let mut command = self.home.command(&[]);
        let environment: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        command = Command::new("sh");
        command.arg(script).args(options).arg("--prefix").arg(self.path("prefix"));
        command.env("HOME", self.directory.path()).env("XDG_CONFIG_HOME", self.path("config"));
        for (name, value) in environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::piped());
        finish(piped(command), b"")
    }

    /// Runs what was installed.
    fn pilotctl(&self, arguments: &[&str]) -> Said {
        finish(piped(self.command(arguments)), b"")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let command = self.home.command(arguments);
        let mut installed = Command::new(self.installed());
        installed.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        installed.env("XDG_CONFIG_HOME", self.path("config"));
        installed
    }

    /// Nothing but the installed program is under the prefix: no temporary file was left.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("prefix/bin")).into_iter().flatten();
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("text")).collect()
    }
}

fn piped(mut command: Command) -> Command {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/install.sh")
}

#[track_caller]
fn shell(directory: &Path, line: &str) {
    let status = Command::new("sh").args(["-ec", line]).current_dir(directory).status().expect("sh");
    assert!(status.success(), "{line}");
}

#[test]
fn the_archive_beside_the_script_is_installed() {
    let machine = Machine::new();
    machine.archive_of(OTHER_VERSION);
    let script_beside = machine.path("install.sh");
    fs::copy(script(), &script_beside).expect("copy");
    let said = machine.run_script(&script_beside, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.starts_with("Installed pilotctl 0.0.1 as "), "{said:?}");
    assert_eq!((machine.installed_text().as_str(), machine.files()), (OTHER_VERSION, vec!["pilotctl".to_owned()]));
}

#[test]
fn a_wrong_checksum_touches_nothing() {
    let machine = Machine::new();
    let archive = machine.archive_of(OTHER_VERSION);
    for (options, checksum) in [(vec!["--sha256", "00"], None), (vec![], Some("00  some name\n")), (vec![], Some(""))] {
        if let Some(checksum) = checksum {
            fs::write(machine.path(&format!("{archive}.sha256")), checksum).expect("write");
        }
        let said = machine.install_from(&archive, &options);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(" has the checksum ") && said.stderr.contains("\nhint: "), "{said:?}");
        assert!(!machine.path("prefix").exists(), "not even a directory");
    }
}

#[test]
fn an_archive_without_a_checksum_is_refused() {
    let machine = Machine::new();
    let archive = machine.archive_of(OTHER_VERSION);
    fs::remove_file(machine.path(&format!("{archive}.sha256"))).expect("remove");
    let said = machine.install_from(&archive, &[]);
    assert!(said.code == 1 && said.stderr.starts_with("error: cannot read "), "{said:?}");
    assert!(!machine.path("prefix").exists());
}

#[test]
fn a_checksum_from_elsewhere_is_taken_in_either_case() {
    let machine = Machine::new();
    let archive = machine.archive_of(OTHER_VERSION);
    let sums = machine.path(&format!("{archive}.sha256"));
    let sum = fs::read_to_string(&sums).expect("read")[..64].to_ascii_uppercase();
    fs::remove_file(sums).expect("remove");
    let said = machine.install_from(&archive, &["--sha256", &sum]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn what_is_no_archive_leaves_the_program_that_was_there() {
    let machine = Machine::new();
    let archive = machine.archive_of(OTHER_VERSION);
    assert_eq!(machine.install_from(&archive, &[]).code, 0);
    for cut in [0, 10, 100] {
        shell(machine.directory.path(), &format!("head -c {cut} {archive} >cut && sha256sum cut >cut.sha256"));
        let said = machine.install_from("cut", &[]);
        assert!(said.code == 1 && said.stderr.contains(" is no archive of pilotctl\n"), "{cut}: {said:?}");
        assert_eq!((machine.installed_text().as_str(), machine.files().len()), (OTHER_VERSION, 1));
    }
}

#[test]
fn a_program_that_does_not_run_here_leaves_the_one_that_does() {
    let machine = Machine::new();
    let archive = machine.archive_of(OTHER_VERSION);
    assert_eq!(machine.install_from(&archive, &[]).code, 0);
    let archive = machine.archive_of("\u{7f}ELF of another machine");
    let said = machine.install_from(&archive, &[]);
    assert!(said.code == 1 && said.stderr.contains(" does not run on this machine "), "{said:?}");
    assert_eq!((machine.installed_text().as_str(), machine.files().len()), (OTHER_VERSION, 1));
}

#[test]
fn an_archive_is_taken_from_a_url_with_its_checksum() {
    if !["curl", "wget"].iter().any(|program| Command::new(program).arg("--version").output().is_ok()) {
        eprintln!("skipped: neither curl nor wget is here");
        return;
    }
    let machine = Machine::new();
    let archive = machine.archive_of(OTHER_VERSION);
    let url = serve_files(machine.directory.path());
    let said = machine.run(&["--from", &format!("{url}/{archive}")]);
    assert_eq!(said.code, 0, "{said:?}");
    let said = machine.run(&["--from", &format!("{url}/nothing.tar.gz")]);
    assert!(said.code == 1 && said.stderr.contains("error: cannot get http://"), "{said:?}");
}

/// A web server for the files of a directory, as long as the test runs.
fn serve_files(directory: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let directory = directory.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let file = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
            let (status, body) = match fs::read(directory.join(file)) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // A client that has seen enough is no failure of the test.
            let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    url
}

#[test]
fn an_install_over_a_running_agent_leaves_it_running_until_it_is_restarted() {
    let machine = Machine::new();
    let archive = machine.archive(Path::new(PILOTCTL));
    assert_eq!(machine.install_from(&archive, &[]).code, 0);
    let started = machine.pilotctl(&["daemon", "start", "--hostname", "alpha"]);
    assert_eq!(started.code, 0, "{started:?}");
    let before = machine.home.json(&["daemon", "status"]);

    let said = machine.install_from(&archive, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("`pilotctl daemon restart --as alpha` ends that"), "{said:?}");
    let after = machine.home.json(&["daemon", "status"]);
    assert_eq!((&before["pid"], &before["address"]), (&after["pid"], &after["address"]), "it goes on");

    assert_eq!(machine.pilotctl(&["daemon", "restart", "--as", "alpha"]).code, 0);
    let restarted = machine.home.json(&["daemon", "status"]);
    assert_ne!(restarted["pid"], before["pid"]);
    let program = fs::read_link(format!("/proc/{}/exe", restarted["pid"])).expect("program");
    assert_eq!(program, machine.installed().canonicalize().expect("path"), "what was installed last");
}

#[test]
fn an_uninstall_does_not_pull_the_program_from_under_agents_and_never_takes_their_keys() {
    let machine = Machine::new();
    let archive = machine.archive(Path::new(PILOTCTL));
    assert_eq!(machine.install_from(&archive, &[]).code, 0);
    let started = machine.pilotctl(&["daemon", "start", "--hostname", "alpha"]);
    assert_eq!(started.code, 0, "{started:?}");
    let address = machine.home.json(&["info"])["address"].clone();

    let said = machine.run(&["--uninstall"]);
    assert!(said.code == 1 && said.stderr.starts_with("error: agents are running: alpha\nhint: "), "{said:?}");
    assert!(machine.installed().exists());
    assert_eq!(machine.home.json(&["info"])["address"], address, "nothing was stopped");

    let said = machine.run(&["--uninstall", "--stop"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("Stopped alpha\n") && said.stdout.contains("\nKept "), "{said:?}");
    assert_eq!(machine.files(), Vec::<String>::new());
    assert!(machine.home.agent_path("alpha", "identity.pem").exists());
    machine.home.start("alpha", &[]);
    assert_eq!(machine.home.json(&["info"])["address"], address, "the address is still the agent's");
}

#[test]
fn an_uninstall_takes_along_what_serves_for_the_agents_that_it_stops() {
    let machine = Machine::new();
    let archive = machine.archive(Path::new(PILOTCTL));
    assert_eq!(machine.install_from(&archive, &[]).code, 0);
    let started = machine.pilotctl(&["daemon", "start", "--hostname", "alpha", "--no-backbone"]);
    assert_eq!(started.code, 0, "{started:?}");
    let served = machine.pilotctl(&["mcp", "serve", "--detach", "--", "cat"]);
    assert_eq!(served.code, 0, "{served:?}");
    let mut answer = machine.command(&["answer", "--", "cat"]);
    answer.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut answering = Running::start(answer);
    answering.wait_for_line("answering 'query' as alpha");
    let said = machine.run(&["--uninstall", "--stop"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(machine.files(), Vec::<String>::new());
    assert_eq!(answering.wait(), Some(3), "it has ended with its agent");
}

#[test]
fn an_uninstall_sees_agents_of_other_homes_too() {
    let (machine, elsewhere) = (Machine::new(), Home::new());
    let archive = machine.archive(Path::new(PILOTCTL));
    assert_eq!(machine.install_from(&archive, &[]).code, 0);
    let other = elsewhere.path().to_str().expect("text");
    for (home, name) in [(other, "beta"), (machine.home.path().to_str().expect("text"), "alpha")] {
        let started = machine.pilotctl(&["--home", home, "daemon", "start", "--hostname", name, "--no-backbone"]);
        assert_eq!(started.code, 0, "{started:?}");
    }
    let own = machine.home.json(&["daemon", "status"])["pid"].clone();
    let is_refused = || {
        let said = machine.run(&["--uninstall", "--stop"]);
        assert!(said.code == 1 && said.stderr.contains("error: processes of other homes run "), "{said:?}");
        assert!(machine.installed().exists());
        assert_eq!(machine.home.json(&["daemon", "status"])["pid"], own, "nothing was stopped");
    };
    is_refused();
    // After an upgrade they run a file that has no name any more.
    assert_eq!(machine.install_from(&archive, &[]).code, 0);
    is_refused();
}

#[test]
fn an_install_over_an_agent_of_a_service_manager_names_who_restarts_it() {
    let machine = Machine::new();
    let archive = machine.archive(Path::new(PILOTCTL));
    assert_eq!(machine.install_from(&archive, &[]).code, 0);
    let manager = machine.path("notify");
    let _socket = UnixDatagram::bind(&manager).expect("bind");
    let mut command = machine.home.command(&["daemon", "run", "--hostname", "alpha", "--no-backbone"]);
    command.env("NOTIFY_SOCKET", &manager).stdout(Stdio::piped()).stderr(Stdio::piped());
    let agent = Running::start(command);
    agent.wait_for_line("Hostname: alpha");
    let said = machine.install_from(&archive, &[]);
    assert!(said.stdout.contains("alpha. `systemctl restart` of its unit ends that."), "{said:?}");
}

/// A machine with a systemd directory of its own, whose `/usr/local` is the first argument; `uninstall` runs the script, the second one.
const MACHINE_OF_ITS_OWN: &str = r#"
mount -t tmpfs none /etc/systemd
mkdir /etc/systemd/system
mount --bind "$1" /usr/local
script=$2
uninstall() {
    sh "$script" --uninstall --prefix /usr/local
}
"#;

#[test]
fn an_uninstall_removes_the_machines_units_that_run_the_program_and_no_others() {
    let machine = Machine::new();
    let archive = machine.archive(Path::new(PILOTCTL));
    assert_eq!(machine.install_from(&archive, &[]).code, 0);
    let inside = |steps: &str| {
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-exc",
            &format!("{MACHINE_OF_ITS_OWN}{steps}"),
            "sh",
        ]);
        command.arg(machine.path("prefix")).arg(script()).env("HOME", machine.directory.path());
        command.env("PILOT_HOME", machine.home.path());
        finish(piped(command), b"")
    };
    if inside("true").code != 0 {
        eprintln!("skipped: no machine of its own to be had here");
        return;
    }
    let said = inside(
        r#"
        /usr/local/bin/pilotctl daemon install --system
        mkdir /etc/systemd/system/multi-user.target.wants
        ln -s ../pilot@.service /etc/systemd/system/multi-user.target.wants/pilot@alpha.service
        if uninstall; then exit 1; fi
        [ -e /usr/local/bin/pilotctl ] && [ -e /etc/systemd/system/pilot@.service ]
        rm /etc/systemd/system/multi-user.target.wants/pilot@alpha.service
        cp /usr/local/bin/pilotctl /usr/local/again
        uninstall
        [ ! -e /usr/local/bin/pilotctl ] && [ ! -e /etc/systemd/system/pilot@.service ]

        mv /usr/local/again /usr/local/bin/pilotctl
        /usr/local/bin/pilotctl daemon install --system
        sed -i 's|^ExecStart=/usr/local|ExecStart=/opt|' /etc/systemd/system/pilot*.service
        uninstall
        [ ! -e /usr/local/bin/pilotctl ] && [ -e /etc/systemd/system/pilot@.service ]
        "#,
    );
    assert_eq!(said.code, 0, "{said:?}");
}
