//! `pilotctl completions`: a completion script made from the command line's own definition.

use clap::{Args, CommandFactory};
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
    clap_complete::generate(args.shell, &mut Cli::command(), "pilotctl", &mut script);
    if !output.is_json() {
        return output.bytes(&script);
    }
    let script = String::from_utf8_lossy(&script);
    output.result(&serde_json::json!({ "shell": args.shell.to_string(), "script": script }), String::new)
}
