//! The pages for newcomers: each command in them is run, and has to say what the page shows.
//!
//! A page is run as it stands, its blocks one after the other, each command on the machine that its prompt names: `laptop$ pilotctl ..`. A
//! machine is a home directory on this one, so that nothing but the backbone and tickets joins two of them. What varies from run to run
//! looks real in the page, and matches anything of its kind; so does what an ellipsis leaves out.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use regex::Regex;
use rmcp::ServiceExt;
use rmcp::transport::TokioChildProcess;
use serde_json::Value;
use support::PILOTCTL;
use tempfile::TempDir;

/// Runs one command of a page on one of its machines.
const MACHINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docs/machine");
/// What a command may take on a loaded machine before the test is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the blocks of a page may be: run, or used by a test of its own.
const BLOCKS: [&str; 3] = ["console", "sh", "json"];
/// The commands of such blocks that are not run here, and who runs them.
const ELSEWHERE: [(&str, &str); 3] = [
    ("cargo test --workspace", "this is one of the tests"),
    ("cargo install --path pilot-ctl", "it builds once more what is built here"),
    ("sudo dpkg -i", "packaging/check installs the package that packaging/build has made"),
];
/// What is there before README.md begins: agents that its first lines talk with.
const BEFORE_README: &str = "```console
there$ pilotctl backbone start --listen 0.0.0.0:3478 --detach
...
there$ pilotctl daemon start --hostname agent-alpha --groups research
...
there$ pilotctl answer --as agent-alpha --allow public -- my-agent &
...
there$ pilotctl daemon start --hostname my-mcp-server
...
there$ pilotctl mcp serve --as my-mcp-server --allow public --detach -- npx
...
$ export PILOT_BACKBONE=TICKET
```
";

/// What varies in outputs, and what stands for it in the words of trycmd.
const VARYING: [(&str, &str); 16] = [
    // The number of an invite.
    (r"\b[0-9a-f]{16}\b", "[..]"),
    // The first letters of a key are no more real than the rest.
    (r"([a-z2-7]{8})?…", "[..]"),
    (r"0:[0-9A-F]{4}\.[0-9A-F]{4}\.[0-9A-F]{4}", "0:[..].[..].[..]"),
    (r"\(pid \d+\)", "(pid [..])"),
    // A path in the table of `peers`.
    (r"(direct|relay) +[0-9.]+:\d+ +\d+(\.\d)?ms +\d+% +\d+s", " [..]"),
    // In a table; a path that is new has no round trip yet, and may have been relayed a moment ago.
    (r"(direct|relay)? +\d+(\.\d)?ms\b", " [..]"),
    (r"\d+(\.\d)?ms\b", "[..]ms"),
    (r"\b\d+d \d+h\b", "[..]"),
    (r"Uptime: .*", "Uptime: [..]"),
    (r"\b\d+(\.\d)? (B|kB|MB)\b", "[..]B"),
    // A stream that has just ended may still be counted.
    (r"B +\d+$", "B [..]"),
    (r"\b\d{1,3}(\.\d{1,3}){3}:\d+\b", "[..]:[..]"),
    (r"\[::\]:\d+", "[..]"),
    (r"/home/me\b", "[..]"),
    // Columns are as wide as what stands in them.
    ("  +", " [..]"),
    (r"(\[\.\.\] *){2,}", "[..]"),
];

/// What commands of a page say that has another value here, and the shell's words for that.
const GIVEN: [(&str, &str); 7] = [
    (r"\b[0-9a-f]{16}\b", "$$(last 'invite [0-9a-f]{16}' | cut -c 8-)"),
    // It is built.
    (r"^cargo run --release -p pilot-ctl --", "pilotctl"),
    // A port of this machine that is free, and nothing that others could reach.
    (r"0\.0\.0\.0:3478", "127.0.0.1:0"),
    (r"\bTICKET\b", "pilot-backbone:"),
    (r"pilot-backbone:[^ ]*", "$$(last 'pilot-backbone:[a-z2-7]{52}@[^ ]*')"),
    (r"pilot:[^ ]*", "$$(last 'pilot:[a-z2-7]{52}[^ ]*')"),
    (r"\b[a-z2-7]{8}…", "$$(last 'Key: [a-z2-7]{52}' | cut -c 6-)"),
];

/// Programs of the reader's machine that are not on every machine where tests run.
const PROGRAMS: [(&str, &str); 3] = [
    // The reader's own.
    ("my-agent", "#!/bin/sh\necho \"You asked: $(cat)\"\n"),
    // Any MCP server that is fetched by npx; ours is in the program.
    ("npx", "#!/bin/sh\nexec pilotctl mcp demo-server\n"),
    // `scp FILE.. MACHINE:` between directories.
    ("scp", "#!/bin/sh\nfor last; do :; done\nto=$LAB/${last%:}\nmkdir -p \"$to\"\ncp -p \"$1\" \"$to/\"\n"),
];

/// The machines of one page. What still runs on them ends with it.
struct Lab {
    directory: TempDir,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("pilot-").tempdir().expect("a temporary directory");
        let programs = directory.path().join("bin");
        fs::create_dir(&programs).expect("a directory");
        for (name, script) in PROGRAMS {
            let path = programs.join(name);
            fs::write(&path, script).expect("a program");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
        }
        fs::write(directory.path().join("printed"), "").expect("a file");
        Self { directory }
    }

    /// Runs all commands of a page; panics if one of them does not say what the page shows.
    fn run(&self, page: &str) {
        let path = self.directory.path().join("page.md");
        fs::write(&path, as_trycmd(page)).expect("the page is written");
        let cases = trycmd::TestCases::new();
        cases.register_bin("machine", Path::new(MACHINE)).timeout(PATIENCE);
        cases.env("LAB", self.directory.path().to_str().expect("text")).env("PILOTCTL", PILOTCTL);
        cases.env("INSTALLER", repository().join("packaging/install.sh").to_str().expect("text"));
        cases.case(path).run();
    }

    /// Puts what `packaging/build` hands out beside the installer of a machine.
    fn bring_archive(&self, machine: &str) {
        let beside = self.directory.path().join(machine);
        let (root, name) = ("pilotctl-0.0.1", format!("pilotctl-0.0.1-{}-linux.tar.gz", std::env::consts::ARCH));
        fs::create_dir_all(beside.join(root)).expect("a directory");
        fs::copy(PILOTCTL, beside.join(root).join("pilotctl")).expect("a copy");
        let line = format!("tar -cf - {root} | gzip -1 >{name} && sha256sum {name} >{name}.sha256 && rm -r {root}");
        let packed = Command::new("sh").args(["-ec", &line]).current_dir(&beside).status().expect("sh");
        assert!(packed.success(), "{line}");
    }

    /// A command that a program of a machine starts, as the page's machine would start it.
    fn command(&self, machine: &str, words: &[&str]) -> Command {
        let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        let mut command = Command::new("sh");
        let home = self.directory.path().join(machine);
        command.args(["-c", &format!("exec {}", quoted.join(" "))]).current_dir(&home).env("HOME", &home);
        let path = std::env::var("PATH").expect("a PATH");
        command.env("PATH", format!("{}:{path}", home.join(".local/bin").display()));
        for inherited in ["PILOT_HOME", "PILOT_AGENT", "PILOT_BACKBONE", "XDG_RUNTIME_DIR"] {
            command.env_remove(inherited);
        }
        command
    }

    /// Ends what a page that went wrong has left without a home: whatever runs a program of a machine.
    fn end_what_is_left(&self) {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = processes.filter(|process| {
            fs::read_link(process.path().join("exe")).is_ok_and(|program| program.starts_with(self.directory.path()))
        });
        for process in ours {
            // Who has ended by itself meanwhile needs no end.
            let _ended = Command::new("kill").arg("-KILL").arg(process.file_name()).stderr(Stdio::null()).status();
        }
    }

    fn homes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path()).expect("machines").map(|entry| entry.expect("entry").path());
        entries.filter(|path| path.join(".pilot").is_dir()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for home in self.homes() {
            for verb in [["daemon", "stop", "--all"].as_slice(), &["backbone", "stop"]] {
                let mut command = support::clean_command(verb);
                command.env("HOME", &home).env_remove("XDG_RUNTIME_DIR");
                // That there was nothing to stop is fine.
                let _stopped = command.stdin(Stdio::null()).output();
            }
        }
        self.end_what_is_left();
    }
}

/// The page as trycmd runs it: line by line the same, so that it names the page's own lines.
fn as_trycmd(page: &str) -> String {
    let lines: Vec<&str> = page.lines().collect();
    let mut in_block = false;
    let mut out = Vec::with_capacity(lines.len());
    for line in &lines {
        if let Some(language) = line.strip_prefix("```") {
            in_block = language.starts_with("console");
            out.push((*line).to_owned());
        } else if !in_block {
            out.push((*line).to_owned());
        } else if let Some((machine, command)) = prompt(line) {
            out.push(format!("$ machine {machine} {}", quoted(&given(command))));
        } else {
            out.push(varying(line));
        }
    }
    out.join("\n") + "\n"
}

/// The machine and the command of a line that begins with a prompt.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (machine, command) = line.split_once("$ ")?;
    let is_name = !machine.is_empty() && machine.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    match machine {
        "" => Some(("here", command)),
        machine => is_name.then_some((machine, command)),
    }
}

fn varying(line: &str) -> String {
    VARYING.iter().fold(line.to_owned(), |line, (varying, word)| replaced(&line, varying, word))
}

/// The command without its comment.
fn given(command: &str) -> String {
    let command = command.split("  #").next().expect("a part").trim_end();
    GIVEN.iter().fold(command.to_owned(), |command, (shown, here)| replaced(&command, shown, here))
}

fn replaced(text: &str, pattern: &str, with: &str) -> String {
    Regex::new(pattern).expect("a pattern").replace_all(text, with).into_owned()
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a repository").to_owned()
}

/// Runs a page of `docs/`; what it leaves running ends with the lab.
fn run(name: &str) -> Lab {
    let lab = Lab::new();
    lab.run(&page(&format!("docs/{name}.md")));
    lab
}

/// A page with its blocks of `sh` as such of `console`.
fn page(name: &str) -> String {
    let path = repository().join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut in_shell = false;
    let lines = text.lines().filter_map(|line| {
        if let Some(language) = line.strip_prefix("```") {
            in_shell = language == "sh";
        }
        match (in_shell, line) {
            (false, line) => Some(line.to_owned()),
            (true, "```sh") => Some("```console".to_owned()),
            (true, command) => is_run(command).then(|| format!("$ {command}")),
        }
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn is_run(command: &str) -> bool {
    !ELSEWHERE.iter().any(|(begin, _)| command.starts_with(begin))
}

/// README.md, where a command may say more than what stands below it.
fn readme() -> String {
    let page = page("README.md");
    let lines = page.lines().map(|line| match prompt(line) {
        Some(_) => format!("{line}\n..."),
        None => line.to_owned(),
    });
    format!("{BEFORE_README}{}\n", lines.collect::<Vec<_>>().join("\n"))
}

/// What an MCP client keeps in its configuration.
fn mcp_configuration(page: &str) -> Value {
    let (_, after) = page.split_once("```json\n").expect("a block of JSON");
    let (block, _) = after.split_once("```").expect("its end");
    serde_json::from_str(block).expect("JSON")
}

/// The tools that a client sees through the one server of its configuration.
async fn tools(lab: &Lab, machine: &str, configuration: &Value) -> Vec<String> {
    let servers = configuration["mcpServers"].as_object().expect("servers");
    let server = servers.values().next().expect("a server");
    let args = server["args"].as_array().expect("arguments").iter();
    let words: Vec<&str> =
        std::iter::once(&server["command"]).chain(args).map(|word| word.as_str().expect("text")).collect();
    let process = TokioChildProcess::new(tokio::process::Command::from(lab.command(machine, &words))).expect("started");
    let client = ().serve(process).await.expect("an MCP server answers");
    let tools = client.list_all_tools().await.expect("a list");
    client.cancel().await.expect("an orderly end");
    tools.into_iter().map(|tool| tool.name.into_owned()).collect()
}

#[test]
fn the_page_on_two_minutes_is_true() {
    run("two-minutes");
}

#[tokio::test]
async fn the_page_on_mcp_is_true_and_its_configuration_works() {
    let lab = run("mcp");
    let configuration = mcp_configuration(&page("docs/mcp.md"));
    assert_eq!(tools(&lab, "laptop", &configuration).await, ["add", "count", "echo"]);
}

#[test]
fn the_page_on_two_machines_is_true() {
    run("two-machines");
}

#[test]
fn the_page_on_fleets_is_true() {
    run("fleet");
}

#[test]
fn the_page_on_what_is_sent_is_true_and_names_every_file() {
    let lab = run("what-pilot-sends");
    let page = page("docs/what-pilot-sends.md");
    let (_, written) = page.split_once("| file of `agents/NAME` |").expect("a table of an agent's files");
    let (of_agents, of_backbones) =
        written.split_once("| file of `backbone` |").expect("a table of a backbone's files");
    for (table, directory) in [(of_agents, "agents/my-agent"), (of_backbones, "backbone")] {
        let directory = lab.directory.path().join("here/.pilot").join(directory);
        for entry in fs::read_dir(directory).expect("it has run") {
            let name = entry.expect("an entry").file_name().into_string().expect("text");
            assert!(table.contains(&format!("`{name}`")), "nothing is said of {name}");
        }
    }
}

#[test]
fn the_page_on_leaving_is_true_and_nothing_is_left() {
    let lab = run("leaving");
    assert!(lab.homes().iter().all(|home| home.ends_with("newbox")), "{:?}", lab.homes());
    let program = lab.directory.path().join("here/.local/bin/pilotctl");
    assert!(!program.exists(), "{}", program.display());
}

#[tokio::test]
async fn what_the_readme_shows_works() {
    let lab = Lab::new();
    lab.bring_archive("here");
    let page = readme();
    lab.run(&page);
    assert_eq!(tools(&lab, "laptop", &mcp_configuration(&page)).await, ["add", "count", "echo"]);
    let left = |name: &str| lab.directory.path().join("here").join(name).exists();
    assert!(!left(".pilot") && !left(".local/bin/pilotctl"), "its last lines leave something");
}

#[test]
fn a_page_that_shows_what_is_not_so_fails() {
    let page = "```console\n$ pilotctl daemon stop\nerror: no agent is running\nhint: pray\n```\n";
    let hint = "`pilotctl daemon start --hostname NAME` starts one";
    Lab::new().run(&page.replace("pray", hint));
    let wrong = catch_unwind(AssertUnwindSafe(|| Lab::new().run(page)));
    assert!(wrong.is_err(), "the hint is another one");
    let fails = "```console\n$ false\n```\n";
    assert!(catch_unwind(AssertUnwindSafe(|| Lab::new().run(fails))).is_err(), "a command that fails without a word");
}

#[test]
fn no_block_of_a_page_is_left_out() {
    let docs = fs::read_dir(repository().join("docs")).expect("docs").map(|entry| entry.expect("an entry").path());
    let mut texts = Vec::new();
    for path in docs.chain([repository().join("README.md")]) {
        let text = fs::read_to_string(&path).expect("text");
        let fences = text.lines().filter_map(|line| line.strip_prefix("```")).step_by(2);
        for language in fences {
            assert!(BLOCKS.contains(&language), "{}: nobody runs a block of '{language}'", path.display());
        }
        texts.push(text);
    }
    for (command, reason) in ELSEWHERE {
        let is_shown = texts.iter().flat_map(|text| text.lines()).any(|line| line.starts_with(command));
        assert!(is_shown, "no page shows '{command}', which would not be run: {reason}");
    }
}
