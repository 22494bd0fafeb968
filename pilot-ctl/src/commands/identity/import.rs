//! `identity import`: an agent of this home out of an identity, never over one that is there.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use pilot_daemon::home::Home;
use zeroize::Zeroizing;

use super::file::Exported;
use super::{Who, file};
use crate::context::Context;
use crate::hint::{Failure, Result};
use crate::home;
use crate::signals::aside;

/// The largest file that is read: an identity has a few hundred bytes.
const FILE_LEN_MAX: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The file to read; without one, or with `-`, stdin.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The agent's name here [default: the one it was exported under].
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
}

pub(super) async fn run(args: &ImportArgs, context: &Context) -> Result<()> {
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let source = named(file);
    let exported = open(file).await?;
    let name = args.hostname.clone().or(exported.name).or_else(|| context.agent.clone());
    let name = name.ok_or_else(|| {
        Failure::usage(format!("{source} does not say what the agent is called")).hint("say it with --hostname NAME")
    })?;
    let agent = home::agent(&context.home, &name)?;
    if let Some(other) = Home::at(&context.home).agent_of(&exported.identity.key()).filter(|other| other.name() != name)
    {
        let message = format!("agent '{}' of this home has this identity already", other.name());
        return Err(Failure::failed(message)
            .hint(format!("one name is enough: `pilotctl daemon start --hostname {}` starts it", other.name())));
    }
    agent.adopt_identity(&exported.identity)?;
    let who = Who::new(&name, &exported.identity);
    let lines = format!("Address: {}\nHostname: {name}", who.address);
    context.output.result(&who, || lines)?;
    context
        .output
        .talk(format_args!("`pilotctl daemon start --hostname {name}` starts it; stop it where it ran before"));
    Ok(())
}

/// What a file holds, or stdin.
pub(super) async fn open(file: Option<&Path>) -> Result<Exported> {
    let source = named(file);
    let file = file.map(Path::to_owned);
    let text = aside(move || read(file.as_deref())).await?.map_err(|error| unreadable(&source, &error))?;
    file::read(&text).map_err(|what| no_identity(&source, &what))
}

fn named(file: Option<&Path>) -> String {
    file.map_or_else(|| "stdin".to_owned(), |file| file.display().to_string())
}

fn read(file: Option<&Path>) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    match file {
        Some(path) => File::open(path)?.take(FILE_LEN_MAX).read_to_string(&mut text)?,
        None => io::stdin().lock().take(FILE_LEN_MAX).read_to_string(&mut text)?,
    };
    Ok(text)
}

fn unreadable(source: &str, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::InvalidData {
        return no_identity(source, "it is not text");
    }
    Failure::failed(format!("cannot read {source}: {error}"))
        .hint("name the file that `pilotctl identity export` has written")
}

fn no_identity(source: &str, what: &str) -> Failure {
    Failure::failed(format!("{source} is no identity: {what}")).hint(
        "an identity is what `pilotctl identity export` writes, or any Ed25519 key in PKCS#8 PEM without a passphrase",
    )
}
