//! A disk that can be filled up and made read-only while programs use it.
//!
//! Needs root on Linux. Without it the tests say so and pass; with `PILOT_REQUIRE_NAMESPACES` set, as in `.ci/run`, they fail.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Room for two agents and a backbone, and soon full.
const SIZE: &str = "size=16m";
/// Takes all the room that is left, and makes none for others when it is looked at.
const BALLAST: &str = "ballast";

/// A file system in memory, mounted until this is dropped.
pub struct Disk {
    path: PathBuf,
    cleaner: Child,
}

/// Waits for the end of its stdin, which comes when the disk is dropped, but also when the test is killed.
const CLEANER: &str = r#"read -r _; while umount -l "$1"; do :; done"#;

impl Disk {
    /// Mounts one, or says why that is impossible here.
    pub fn mount(test: &str, path: &Path) -> Option<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", CLEANER, "cleaner"]).arg(path);
        // A group of its own, for it has to outlive a test that is killed.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let disk = Self { path: path.to_owned(), cleaner: command.spawn().expect("sh is installed") };
        match disk.try_run("mount", &["-t", "tmpfs", "-o", SIZE, "tmpfs"]) {
            Ok(()) => Some(disk),
            Err(reason) if std::env::var_os("PILOT_REQUIRE_NAMESPACES").is_some() => {
                panic!("no disk can be mounted here: {reason}")
            }
            Err(reason) => {
                // Straight to stderr: the test harness swallows what `eprintln!` says in a test that passes.
                writeln!(std::io::stderr(), "\nSKIPPED: {test}: no disk can be mounted here: {reason}")
                    .expect("stderr");
                None
            }
        }
    }

    /// Leaves no byte of room.
    pub fn fill(&self) {
        let mut ballast = File::create(self.path.join(BALLAST)).expect("create");
        let full = loop {
            if let Err(error) = ballast.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    /// Gives the room back.
    pub fn make_room(&self) {
        std::fs::remove_file(self.path.join(BALLAST)).expect("remove");
    }

    /// Lets nothing be opened for writing any more. Files that are open stay so, as after the first error of a real disk.
    pub fn make_read_only(&self) {
        let path = self.path.to_str().expect("text");
        self.run("mount", &["--bind", path]);
        self.run("mount", &["-o", "remount,bind,ro"]);
    }

    /// Takes that back.
    pub fn make_writable(&self) {
        self.run("umount", &["-l"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        self.try_run(program, arguments).unwrap_or_else(|reason| panic!("{program} {arguments:?}: {reason}"));
    }

    fn try_run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new(program).args(arguments).arg(&self.path).output();
        let Output { status, stderr, .. } = output.map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&stderr).trim().to_owned()) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        let _reaped = self.cleaner.wait();
    }
}
