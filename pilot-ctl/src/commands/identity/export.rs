//! `identity export`: to a file for its owner alone, or to whatever stdout is, but not to a screen by accident.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use pilot_daemon::home::{create_file, replace_file};
use serde::Serialize;

use super::{Who, file};
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::home;

/// A key is for its owner's eyes.
const FILE_MODE: u32 = 0o600;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The file to write; without one, or with `-`, stdout.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Replace a file that exists; print the key on a terminal.
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    who: Who<'a>,
    file: &'a Path,
}

#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    who: Who<'a>,
    pem: &'a str,
}

pub(super) fn run(args: &ExportArgs, context: &Context) -> Result<()> {
    let output = context.output;
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    if file.is_none() && !args.force && io::stdout().is_terminal() {
        return Err(Failure::usage("the key is secret, and stdout is a terminal")
            .hint("name a file to write it to, or print it here with --force"));
    }
    let name = context.resident()?;
    let identity = home::agent(&context.home, &name)?.stored_identity()?;
    let identity = identity.ok_or_else(|| context.no_such_resident(&name))?;
    let text = file::write(&name, &identity);
    let who = Who::new(&name, &identity);
    warn_of_organisations(&name, context);
    let Some(file) = file else {
        return if output.is_json() {
            output.result(&Printed { who, pem: &text }, String::new)
        } else {
            output.bytes(text.as_bytes())
        };
    };
    let write = if args.force { replace_file } else { create_file };
    write(file, text.as_bytes(), FILE_MODE).map_err(|error| cannot_write(file, &error))?;
    let line = format!("Exported {} ({}) to {}", name, identity.address(), file.display());
    output.result(&Written { who, file }, || line)
}

/// A copy of the identity is no copy of the agent's memberships, nor of an organisation's key that it keeps.
fn warn_of_organisations(name: &str, context: &Context) {
    let orgs = context.agent_dir(name).join("orgs");
    if std::fs::read_dir(&orgs).is_ok_and(|mut entries| entries.next().is_some()) {
        let text = "the agent's memberships are not in it, nor the key of an organisation that it has founded";
        context.output.warning(text, &format!("they are in {}: keep a copy of that, too", orgs.display()));
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::AlreadyExists {
        return Failure::new(ExitCode::Failed, format!("{} exists already", path.display()))
            .hint("--force replaces it");
    }
    Failure::failed(format!("cannot write {}: {error}", path.display())).hint("name a file that you may write")
}
