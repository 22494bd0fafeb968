//! `daemon install` and `daemon uninstall`: units for systemd (spec/install.md §4). They write and remove files, and say what
//! `systemctl` is to do with them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use pilot_core::ticket::BackboneTicket;
use pilot_daemon::home::replace_file;
use serde::Serialize;

use super::start;
use crate::commands::backbone::local;
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::process;
use crate::settings::Settings;

/// What the units run, before it is known where that is.
const PACKAGED_PROGRAM: &str = "/usr/bin/pilotctl";
/// The first line of units that we may replace and remove.
const MARK: &str = "# Written by `pilotctl daemon install`; `pilotctl daemon uninstall` removes it.\n";
/// The agents' unit, a template: the agent's name is its instance.
const AGENT_UNIT: &str = "pilot@.service";
/// The unit of the local backbone.
const BACKBONE_UNIT: &str = "pilot-backbone.service";
/// Where the units of the machine keep what `PILOT_HOME` is for.
const SYSTEM_HOME: &str = "/var/lib/pilot";
/// What the units of the machine cannot see (ProtectHome=, PrivateTmp=).
const HIDDEN_FROM_SYSTEM: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

const USER_UNITS: [(&str, &str); 2] = [
    (AGENT_UNIT, include_str!("../../../units/user/pilot@.service")),
    (BACKBONE_UNIT, include_str!("../../../units/user/pilot-backbone.service")),
];
const SYSTEM_UNITS: [(&str, &str); 2] = [
    (AGENT_UNIT, include_str!("../../../units/system/pilot@.service")),
    (BACKBONE_UNIT, include_str!("../../../units/system/pilot-backbone.service")),
];

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The agent's name [default: the only one that lives here, or the machine's].
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Whose units, and where they are.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// For the machine, not for this user: agents in /var/lib/pilot, run by a user of their own.
    #[arg(long)]
    system: bool,
    /// The directory of the units [default: the one where systemd looks for them].
    #[arg(long, value_name = "DIR")]
    units: Option<PathBuf>,
}

/// What was written, and how to go on.
#[derive(Debug, Serialize)]
struct Installed {
    agent: String,
    units: Vec<PathBuf>,
    enable: String,
}

pub(super) fn install(args: &InstallArgs, context: &Context) -> Result<()> {
    let name = start::hostname_of(args.hostname.as_deref(), context)?;
    let program = process::own_executable()?;
    args.place.check_program(&program)?;
    let directory = args.place.directory()?;
    let run = args.place.command_line(&program, &context.home)?;
    let enable = format!("{} enable --now {}", args.place.systemctl(), args.place.wanted(&name, context)?);
    let units = write_units(&directory, args.place.units(), &run)?;
    context.output.talk("a unit changes nothing until it is enabled");
    if !args.place.system {
        context.output.talk("a user's units run while the user is logged in; `loginctl enable-linger` lets them stay");
    }
    let installed = Installed { agent: name, units, enable };
    context.output.result(&installed, || {
        let units = installed.units.iter().map(|unit| format!("Unit: {}\n", unit.display()));
        format!("{}Enable: {}", units.collect::<String>(), installed.enable)
    })
}

/// All of them, or none if one of them is somebody else's.
fn write_units(directory: &Path, units: [(&str, &str); 2], run: &str) -> Result<Vec<PathBuf>> {
    refuse_foreign(directory)?;
    fs::create_dir_all(directory).map_err(|error| unusable(directory, &error))?;
    let write = |(unit, text): (&str, &str)| {
        let path = directory.join(unit);
        let text = format!("{MARK}{}", text.replace(PACKAGED_PROGRAM, run));
        replace_file(&path, text.as_bytes(), 0o644).map_err(|error| unusable(&path, &error))?;
        Ok(path)
    };
    units.into_iter().map(write).collect()
}

pub(super) fn uninstall(args: &PlaceArgs, context: &Context) -> Result<()> {
    let directory = args.directory()?;
    let installed: Vec<PathBuf> =
        args.units().iter().map(|(unit, _)| directory.join(unit)).filter(|path| is_ours(path)).collect();
    if installed.is_empty() {
        let message = format!("no unit in {} was written by `pilotctl daemon install`", directory.display());
        return Err(Failure::new(ExitCode::NotFound, message).hint("--system and --units DIR name other places"));
    }
    let enabled = enabled(&directory);
    if !enabled.is_empty() {
        let message = format!("still enabled: {}", enabled.join(", "));
        let hint = format!("`{} disable --now {}` stops them; then again", args.systemctl(), enabled.join(" "));
        return Err(Failure::failed(message).hint(hint));
    }
    for path in &installed {
        fs::remove_file(path).map_err(|error| unusable(path, &error))?;
    }
    context.output.talk("agents and their keys stay in PILOT_HOME");
    context.output.result(&serde_json::json!({ "removed": installed }), || {
        installed.iter().map(|path| format!("Removed {}", path.display())).collect::<Vec<_>>().join("\n")
    })
}

impl PlaceArgs {
    fn units(&self) -> [(&'static str, &'static str); 2] {
        if self.system { SYSTEM_UNITS } else { USER_UNITS }
    }

    /// Where systemd looks for units that no package has brought (systemd.unit(5)).
    fn directory(&self) -> Result<PathBuf> {
        if let Some(named) = &self.units {
            return Ok(named.clone());
        }
        if !cfg!(target_os = "linux") {
            return Err(Failure::failed("units are for systemd, which runs on Linux only")
                .hint("`pilotctl daemon run` is what a service manager is to start"));
        }
        if self.system {
            return Ok("/etc/systemd/system".into());
        }
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        let config = config
            .ok_or_else(|| Failure::failed("HOME is not set").hint("--units DIR names the directory of the units"))?;
        Ok(config.join("systemd/user"))
    }

    /// What stands in the units for the packaged program. Those of the machine have their home in the environment.
    fn command_line(&self, program: &Path, home: &Path) -> Result<String> {
        let program = quoted(program)?;
        if self.system { Ok(program) } else { Ok(format!("{program} --home {}", quoted(home)?)) }
    }

    fn check_program(&self, program: &Path) -> Result<()> {
        let is_hidden = self.system && HIDDEN_FROM_SYSTEM.iter().any(|directory| program.starts_with(directory));
        if !is_hidden {
            return Ok(());
        }
        Err(Failure::failed(format!("units of the machine do not see {}", program.display()))
            .hint("install pilotctl for everybody first: `install.sh --prefix /usr/local`"))
    }

    fn systemctl(&self) -> &'static str {
        if self.system { "systemctl" } else { "systemctl --user" }
    }

    /// The units that this agent needs: with a backbone of its own choice, the local one is not among them.
    fn wanted(&self, name: &str, context: &Context) -> Result<String> {
        let agent = format!("pilot@{name}.service");
        let named = if self.system { system_settings(name)?.backbone } else { context.settings_of(name)?.backbone };
        let is_local =
            |ticket: &str| ticket.parse::<BackboneTicket>().is_ok_and(|ticket| local::is_key_of(&ticket, context));
        match named {
            Some(ticket) if self.system || !is_local(&ticket) => Ok(agent),
            Some(_) | None => Ok(format!("{BACKBONE_UNIT} {agent}")),
        }
    }
}

fn system_settings(name: &str) -> Result<Settings> {
    let home = Path::new(SYSTEM_HOME);
    let own = Settings::read(&home.join("agents").join(name).join("config.toml"))?;
    Ok(own.or(Settings::read(&home.join("config.toml"))?))
}

/// As one word of `ExecStart=`: no specifier, no variable, no second word (systemd.service(5), COMMAND LINES).
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| Failure::failed(format!("no unit can name the path {}", path.display())))?;
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%$".contains(c);
    Ok(if escaped.chars().all(is_plain) { escaped } else { format!("\"{escaped}\"") })
}

fn is_ours(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
}

/// A unit of the same name that somebody else wrote is left alone.
fn refuse_foreign(directory: &Path) -> Result<()> {
    for unit in [AGENT_UNIT, BACKBONE_UNIT] {
        let path = directory.join(unit);
        if path.symlink_metadata().is_ok() && !is_ours(&path) {
            let message =
                format!("{} is there already, and was not written by `pilotctl daemon install`", path.display());
            return Err(Failure::failed(message).hint("move it away, or use it as it is"));
        }
    }
    Ok(())
}

/// The units that something in `directory` starts at boot or at login: links in `TARGET.wants`.
fn enabled(directory: &Path) -> Vec<String> {
    let is_ours = |name: &String| (name.starts_with("pilot@") && name.ends_with(".service")) || name == BACKBONE_UNIT;
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let targets = names(directory).into_iter().filter(|name| name.ends_with(".wants"));
    let mut enabled: Vec<String> = targets.flat_map(|target| names(&directory.join(target))).filter(is_ours).collect();
    enabled.sort();
    enabled
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::failed(format!("cannot write {}: {error}", path.display()));
    if error.kind() == io::ErrorKind::PermissionDenied {
        return failure.hint("units of the machine are root's to write: try with `sudo`");
    }
    failure.hint("--units DIR names another directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_one_word_whatever_is_in_it() {
        for (path, word) in [
            ("/usr/bin/pilotctl", "/usr/bin/pilotctl"),
            ("/home/a b/pilotctl", "\"/home/a b/pilotctl\""),
            ("/100%/$HOME", "/100%%/$$HOME"),
            ("/a\"b\\c", "\"/a\\\"b\\\\c\""),
        ] {
            assert_eq!(quoted(Path::new(path)).as_deref(), Ok(word), "{path}");
        }
        assert!(quoted(Path::new("/a\nExecStartPre=/bin/false")).is_err(), "a line of its own");
    }

    #[test]
    fn every_unit_runs_the_packaged_program_once() {
        for (unit, text) in USER_UNITS.iter().chain(&SYSTEM_UNITS) {
            assert_eq!(text.matches("\nExecStart=/usr/bin/pilotctl ").count(), 1, "{unit}");
        }
    }

    #[test]
    fn a_program_that_the_machines_units_cannot_see_is_refused() {
        let system = PlaceArgs { system: true, units: None };
        for (program, is_seen) in
            [("/usr/local/bin/pilotctl", true), ("/homestead/pilotctl", true), ("/home/a/pilotctl", false)]
        {
            assert_eq!(system.check_program(Path::new(program)).is_ok(), is_seen, "{program}");
        }
        let user = PlaceArgs { system: false, units: None };
        assert!(user.check_program(Path::new("/home/a/pilotctl")).is_ok());
    }
}
