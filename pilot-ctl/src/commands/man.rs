//! `pilotctl man`: the manual pages, made from the command line's own definition.

use clap::{Args, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::hint::{Failure, Result, closest};
use crate::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl man | man -l -
  pilotctl man daemon start > pilotctl-daemon-start.1")]
pub(crate) struct ManArgs {
    /// The verb, and the verb below it; without one, pilotctl itself.
    verb: Vec<String>,
}

pub(crate) fn run(args: &ManArgs, output: Output) -> Result<()> {
    let mut root = Cli::command();
    root.build();
    let command = find(&root, &args.verb)?;
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    let rendered = Man::new(command).render(&mut page);
    rendered.map_err(|error| Failure::failed(format!("cannot render the page: {error}")))?;
    if !output.is_json() {
        return output.bytes(&page);
    }
    let page = String::from_utf8_lossy(&page);
    output.result(&serde_json::json!({ "name": name, "page": page }), String::new)
}

/// The verb at the end of `path`; `build` has already given it its full name, `pilotctl-daemon-start`.
fn find(root: &clap::Command, path: &[String]) -> Result<clap::Command> {
    let mut command = root;
    for verb in path {
        command = command.find_subcommand(verb).ok_or_else(|| no_such_verb(command, verb))?;
    }
    Ok(command.clone())
}

fn no_such_verb(command: &clap::Command, verb: &str) -> Failure {
    let above = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let failure = Failure::usage(format!("'{above}' has no verb '{verb}'"));
    match closest(verb, command.get_subcommands().map(clap::Command::get_name)) {
        Some(name) => failure.hint(format!("did you mean '{name}'?")),
        None => failure.hint(format!("`{above} --help` lists the verbs")),
    }
}
