//! The config files, and the order in which they count: flag, environment, the agent's file, the home's file, default
//! (spec/cli.md §2). clap merges flag and environment; this is the rest.

use std::io::ErrorKind::{NotADirectory, NotFound};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::duration;
use crate::hint::{Failure, Result};

/// The largest config file that is read: a person wrote it.
const CONFIG_LEN_MAX: u64 = 1 << 20;

/// `PILOT_HOME/config.toml` or `PILOT_HOME/agents/NAME/config.toml`: both have the same keys, all optional.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// The agent that commands speak for.
    pub(crate) agent: Option<String>,
    /// The backbone's ticket.
    pub(crate) backbone: Option<String>,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) description: Option<String>,
    /// The UDP address of the agent's socket.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether packets may go directly to peers.
    pub(crate) direct: Option<bool>,
    /// The HTTP proxy on the way to the backbone where UDP is blocked, or `none`. The daemon reads it itself, whenever it needs it.
    pub(crate) proxy: Option<String>,
    /// Whether the router at home is asked for a port mapping.
    pub(crate) port_mapping: Option<bool>,
    /// STUN servers, by name or address, with or without a port.
    pub(crate) stun: Option<Vec<String>>,
    /// A file with an invite to an organisation.
    pub(crate) token_file: Option<PathBuf>,
    /// How long verbs wait for the other side.
    pub(crate) timeout: Option<ConfigDuration>,
}

/// A duration as it stands in a file: `"30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ConfigDuration(pub(crate) Duration);

impl TryFrom<String> for ConfigDuration {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        duration::parse(&text).map(Self)
    }
}

impl Settings {
    /// Reads one file; none is the same as an empty one.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let length = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            // Where the home is a file, whoever writes to it says so.
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(Self::default()),
            Err(error) => return Err(unreadable(path, &error)),
        };
        if length > CONFIG_LEN_MAX {
            return Err(unreadable(path, &"it is larger than 1 MiB"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        Self::from_str(&text).map_err(|error| unreadable(path, &error))
    }

    /// These settings where they are given, `fallback` where not.
    #[must_use]
    pub(crate) fn or(self, fallback: Self) -> Self {
        Self {
            agent: self.agent.or(fallback.agent),
            backbone: self.backbone.or(fallback.backbone),
            tags: self.tags.or(fallback.tags),
            groups: self.groups.or(fallback.groups),
            description: self.description.or(fallback.description),
            listen: self.listen.or(fallback.listen),
            direct: self.direct.or(fallback.direct),
            proxy: self.proxy.or(fallback.proxy),
            port_mapping: self.port_mapping.or(fallback.port_mapping),
            stun: self.stun.or(fallback.stun),
            token_file: self.token_file.or(fallback.token_file),
            timeout: self.timeout.or(fallback.timeout),
        }
    }
}

impl FromStr for Settings {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }
}

fn unreadable(path: &Path, reason: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("cannot use the config file {}: {reason}", path.display()))
        .hint("correct it, or move it away: every setting has a default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_specific_file_wins_key_by_key() {
        let agent: Settings = "tags = ['mcp']\ntimeout = '5s'".parse().expect("valid");
        let home: Settings = "tags = ['a', 'b']\nagent = 'alpha'".parse().expect("valid");
        let merged = agent.or(home);
        assert_eq!(merged.tags, Some(vec!["mcp".to_owned()]));
        assert_eq!(merged.agent.as_deref(), Some("alpha"));
        assert_eq!(merged.timeout, Some(ConfigDuration(Duration::from_secs(5))));
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_it() {
        let error = "taggs = []".parse::<Settings>().expect_err("unknown key");
        assert!(error.contains("taggs"), "{error}");
    }

    #[test]
    fn no_file_is_an_empty_one() {
        assert_eq!(Settings::read(Path::new("/nonexistent/config.toml")), Ok(Settings::default()));
    }
}
