//! `daemon logs`: the end of the log, and what is added to it. It can be read after the agent has ended: that is when it is wanted most.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::home;
use crate::output::Output;

/// How often to look for more lines; a person reads no faster.
const FOLLOW_POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// How many lines.
    #[arg(long, short = 'n', value_name = "LINES", default_value_t = 100)]
    lines: usize,
    /// Go on with what is added, until interrupted.
    #[arg(long, short)]
    follow: bool,
}

pub(super) async fn run(args: &LogsArgs, context: &Context) -> Result<()> {
    let name = context.resident()?;
    let path = home::agent(&context.home, &name)?.log_path();
    if !path.exists() {
        return Err(context.no_such_resident(&name));
    }
    let mut file = open(&path)?;
    let text = read_on(&mut file, &path)?;
    show(context.output, last_lines(&text, args.lines))?;
    if args.follow { follow(file, &path, context.output).await } else { Ok(()) }
}

/// Shows what is added, until interrupted.
async fn follow(mut file: File, path: &Path, output: Output) -> Result<()> {
    loop {
        tokio::time::sleep(FOLLOW_POLL).await;
        show(output, &read_on(&mut file, path)?)?;
        if was_replaced(&file, path) {
            file = open(path)?;
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| {
        let failure = Failure::new(ExitCode::NotFound, format!("cannot read the log {}: {error}", path.display()));
        failure.hint("an agent writes its log from its first start")
    })
}

/// What was added since the last time. A log is bounded by its rotation, so this fits in memory.
fn read_on(file: &mut File, path: &Path) -> Result<String> {
    let unreadable = |error| Failure::failed(format!("cannot read the log {}: {error}", path.display()));
    let position = file.stream_position().map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.len() < position {
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn was_replaced(file: &File, path: &Path) -> bool {
    let inode = |metadata: std::io::Result<std::fs::Metadata>| metadata.map(|metadata| metadata.ino()).ok();
    let current = inode(std::fs::metadata(path));
    current.is_some() && current != inode(file.metadata())
}

fn last_lines(text: &str, count: usize) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    match body.rmatch_indices('\n').nth(count.saturating_sub(1)) {
        _ if count == 0 => "",
        Some((position, _)) => &text[position + 1..],
        None => text,
    }
}

/// As it is, or with --json a line of JSON for each line.
fn show(output: Output, text: &str) -> Result<()> {
    for line in text.lines() {
        output.result(&serde_json::json!({ "line": line }), || line.to_owned())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        let text = "one\ntwo\nthree\n";
        for (count, expected) in [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (3, text), (9, text)] {
            assert_eq!(last_lines(text, count), expected, "{count}");
        }
        assert_eq!(last_lines("", 3), "");
        assert_eq!(last_lines("no end", 1), "no end");
    }

    #[test]
    fn a_log_that_was_rotated_is_read_from_its_start() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        std::fs::write(&path, "old\n").expect("write");
        let mut file = open(&path).expect("open");
        assert_eq!(read_on(&mut file, &path), Ok("old\n".to_owned()));
        std::fs::rename(&path, directory.path().join("log.1")).expect("rotate");
        std::fs::write(&path, "new\n").expect("write");
        assert!(was_replaced(&file, &path));
        assert_eq!(read_on(&mut open(&path).expect("open"), &path), Ok("new\n".to_owned()));
    }
}
