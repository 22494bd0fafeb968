//! `pilotctl`: the command line of Pilot, and, in the same binary, the daemon and the backbone (spec/cli.md).
//!
//! [`cli`] is the shape of the command line, [`commands`] has a file for each verb, [`client`] is the local API of the daemon
//! as the verbs use it. Everything but success is a [`hint::Failure`], printed in one place, here.
#![forbid(unsafe_code)]

mod bridge;
mod cli;
mod client;
mod commands;
mod context;
mod duration;
mod env_vars;
mod exit_code;
mod handler;
mod hint;
mod home;
mod init;
mod lock;
mod output;
mod process;
mod service;
mod service_manager;
mod settings;
mod signals;
mod stdio;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::cli::{Cli, Verb};
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::output::Output;
use crate::signals::interruptible;

fn main() -> std::process::ExitCode {
    let cli = match Cli::of(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return not_a_command(error).into(),
    };
    let output = Output::new(cli.global.json);
    match run(cli) {
        Ok(()) => ExitCode::Ok.into(),
        Err(failure) => {
            // Whoever interrupted it, or has read enough, knows why it ends.
            if !matches!(failure.code, ExitCode::Interrupted | ExitCode::Ok) {
                output.failure(&failure);
            }
            failure.code.into()
        }
    }
}

/// `--help` and `--version` are data. A missing verb prints the help too, but is a usage error.
fn not_a_command(error: clap::Error) -> ExitCode {
    let json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    let kind = error.kind();
    if matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return print_help(&error, ExitCode::Ok);
    }
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && !json {
        return print_help(&error, ExitCode::Usage);
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    Output::new(json).failure(&Failure::from_clap(&error, &Cli::command(), &arguments));
    ExitCode::Usage
}

fn print_help(error: &clap::Error, code: ExitCode) -> ExitCode {
    // A reader that has gone does not want the rest of the help.
    let _gone = error.print();
    code
}

/// One thread: everything here waits for something else most of the time.
fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start the event loop: {error}")))?;
    let ended = runtime.block_on(dispatch(cli));
    // A thread that still waits for a file must not keep the process.
    runtime.shutdown_background();
    ended
}

async fn dispatch(cli: Cli) -> Result<()> {
    let Cli { global, verb } = cli;
    let output = Output::new(global.json);
    let context = || Context::new(global);
    match &verb {
        Verb::Daemon(args) => commands::daemon::run(args, &context()?).await,
        Verb::Info(args) => interruptible(commands::info::run(args, &context()?)).await,
        Verb::Peers(args) => interruptible(commands::peers::run(args, &context()?)).await,
        Verb::NetCheck(args) => interruptible(commands::netcheck::run(args, &context()?)).await,
        Verb::Doctor(args) => interruptible(commands::doctor::run(args, &context()?)).await,
        Verb::Ping(args) => interruptible(commands::ping::run(args, &context()?)).await,
        Verb::Connect(args) => interruptible(commands::connect::run(args, &context()?)).await,
        Verb::Query(args) => interruptible(commands::query::run(args, &context()?)).await,
        Verb::Answer(args) => commands::answer::run(args, &context()?).await,
        Verb::Find(args) => interruptible(commands::find::run(args, &context()?)).await,
        Verb::Group(args) => interruptible(commands::group::run(args, &context()?)).await,
        Verb::Join(args) => interruptible(commands::join::run(args, &context()?)).await,
        Verb::Org(args) => interruptible(commands::org::run(args, &context()?)).await,
        Verb::Allow(args) => interruptible(commands::rules::allow(args, &context()?)).await,
        Verb::Deny(args) => interruptible(commands::rules::deny(args, &context()?)).await,
        Verb::Rules(args) => interruptible(commands::rules::rules(args, &context()?)).await,
        Verb::Why(args) => interruptible(commands::rules::why(args, &context()?)).await,
        Verb::HandOver(args) => interruptible(commands::hand_over::run(args, &context()?)).await,
        Verb::Mcp(args) => commands::mcp::run(args, &context()?).await,
        Verb::Ticket(args) => interruptible(commands::ticket::run(args, &context()?)).await,
        Verb::Identity(args) => commands::identity::run(args, &context()?).await,
        Verb::Backbone(args) => commands::backbone::run(args, &context()?).await,
        Verb::Demo(args) => commands::demo::run(args, output).await,
        Verb::Completions(args) => commands::completions::run(args, output),
        Verb::Man(args) => commands::man::run(args, output),
    }
}
