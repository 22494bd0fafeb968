//! What every verb starts from: where the home is, which agent is meant, how to print.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::Global;
use crate::client::Daemon;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result, closest};
use crate::home;
use crate::output::Output;
use crate::settings::Settings;

/// The global options, with the config file behind them.
pub(crate) struct Context {
    pub(crate) output: Output,
    /// `PILOT_HOME`, absolute.
    pub(crate) home: PathBuf,
    /// The agent that was named, by flag, environment or config file.
    pub(crate) agent: Option<String>,
    pub(crate) settings: Settings,
}

impl Context {
    pub(crate) fn new(global: Global) -> Result<Self> {
        let home = home::locate(global.home)?;
        let settings = Settings::read(&home.join("config.toml"))?;
        let agent = global.agent.filter(|name| !name.is_empty()).or_else(|| settings.agent.clone());
        Ok(Self { output: Output::new(global.json), home, agent, settings })
    }

    /// Where an agent keeps its files.
    pub(crate) fn agent_dir(&self, name: &str) -> PathBuf {
        self.home.join("agents").join(name)
    }

    /// The settings for an agent: its own file before the home's.
    pub(crate) fn settings_of(&self, name: &str) -> Result<Settings> {
        let own = Settings::read(&self.agent_dir(name).join("config.toml"))?;
        Ok(own.or(self.settings.clone()))
    }

    /// A flag's value, or the config file's, or the verb's default.
    pub(crate) fn timeout(&self, flag: Option<Duration>, default: Duration) -> Duration {
        flag.or(self.settings.timeout.map(|timeout| timeout.0)).unwrap_or(default)
    }

    /// The daemon that this command speaks to (spec/cli.md §2.7).
    pub(crate) async fn daemon(&self) -> Result<Daemon> {
        match &self.agent {
            Some(name) => self.named(name).await,
            None => self.only_one().await,
        }
    }

    /// An agent that lives in this home, whether it runs or not: the one that was named, or the only one.
    pub(crate) fn resident(&self) -> Result<String> {
        if let Some(name) = &self.agent {
            return Ok(name.clone());
        }
        match home::agent_names(&self.home).as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Failure::new(ExitCode::NotFound, "no agent lives in this home")
                .hint("`pilotctl daemon start --hostname NAME` makes and starts one")),
            several => Err(Failure::usage(format!("several agents live here: {}", several.join(", ")))
                .hint("say which one with --as NAME or PILOT_AGENT")),
        }
    }

    /// That no agent of this name lives here.
    pub(crate) fn no_such_resident(&self, name: &str) -> Failure {
        let failure = Failure::new(ExitCode::NotFound, format!("no agent '{name}' lives in this home"));
        let known = home::agent_names(&self.home);
        match (closest(name, known.iter().map(String::as_str)), known.is_empty()) {
            (Some(other), _) => failure.hint(format!("did you mean '{other}'?")),
            (None, false) => failure.hint(format!("here live {}", known.join(", "))),
            (None, true) => failure.hint("none does yet; --home DIR names another home"),
        }
    }

    /// Every agent of this home that runs.
    pub(crate) async fn running(&self) -> Result<Vec<Daemon>> {
        let mut running = Vec::new();
        for name in home::agent_names(&self.home) {
            running.extend(Daemon::connect_to(self, &name).await?);
        }
        Ok(running)
    }

    async fn named(&self, name: &str) -> Result<Daemon> {
        match Daemon::connect_to(self, name).await? {
            Some(daemon) => Ok(daemon),
            None => Err(self.not_running(name)?),
        }
    }

    async fn only_one(&self) -> Result<Daemon> {
        let mut running = self.running().await?;
        match (running.pop(), running.is_empty()) {
            (Some(daemon), true) => Ok(daemon),
            (None, _) => Err(Failure::new(ExitCode::NotRunning, "no agent is running")
                .hint("`pilotctl daemon start --hostname NAME` starts one")),
            (Some(last), false) => {
                let names: Vec<&str> = running.iter().chain([&last]).map(|daemon| daemon.name.as_str()).collect();
                Err(Failure::usage(format!("several agents are running: {}", names.join(", ")))
                    .hint("say which one with --as NAME or PILOT_AGENT"))
            }
        }
    }

    fn not_running(&self, name: &str) -> Result<Failure> {
        let failure = Failure::new(ExitCode::NotRunning, format!("agent '{name}' is not running"));
        let known = home::agent_names(&self.home);
        if known.iter().any(|other| other == name) {
            return Ok(failure.hint(format!("`pilotctl daemon start --hostname {name}` starts it")));
        }
        Ok(match closest(name, known.iter().map(String::as_str)) {
            Some(other) => failure.hint(format!("did you mean '{other}'?")),
            None => failure.hint(format!("`pilotctl daemon start --hostname {name}` creates and starts it")),
        })
    }
}
