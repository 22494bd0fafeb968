//! `pilotctl completions`: a completion script made from the command line's own definition.

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::hint::Result;
use crate::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl completions bash > ~/.local/share/bash-completion/completions/pilotctl
  pilotctl completions zsh > ~/.zfunc/_pilotctl")]
pub(crate) struct CompletionsArgs {
    /// For this shell.
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, output: Output) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(&Cli::command()), "pilotctl", &mut script);
    if !output.is_json() {
        return output.bytes(&script);
    }
    let script = String::from_utf8_lossy(&script);
    output.result(&serde_json::json!({ "shell": args.shell.to_string(), "script": script }), String::new)
}

/// The command line without what `pilotctl` says to itself: the generator offers hidden verbs and flags like any other.
fn visible(command: &Command) -> Command {
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(visible);
    let flags = command.get_arguments().filter(|flag| !flag.is_hide_set()).cloned();
    let about = command.get_about().cloned().unwrap_or_default();
    Command::new(command.get_name().to_owned())
        .about(about)
        .disable_help_subcommand(true)
        .args(flags)
        .subcommands(verbs)
}
