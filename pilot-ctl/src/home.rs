//! Where `PILOT_HOME` is, and what lies where in it, as far as commands need to know without a daemon.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use pilot_daemon::home::{AgentHome, Home, HomeError};

use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};

/// `PILOT_HOME` as an absolute path, since processes with another working directory get it too.
pub(crate) fn locate(flag: Option<OsString>) -> Result<PathBuf> {
    let home = match flag.filter(|home| !home.is_empty()) {
        Some(home) => PathBuf::from(home),
        None => Home::from_env()?.path().to_owned(),
    };
    std::path::absolute(&home)
        .map_err(|error| Failure::failed(format!("cannot use {} as PILOT_HOME: {error}", home.display())))
}

/// Makes a directory of the home, for its owner alone.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| {
        Failure::failed(format!("cannot make {}: {error}", path.display()))
            .hint("PILOT_HOME must be a directory that you may write to; --home DIR names another")
    })
}

/// One agent's part of the home.
pub(crate) fn agent(home: &Path, name: &str) -> Result<AgentHome> {
    Ok(Home::at(home).agent(name)?)
}

/// The names of the agents that have a directory in `home`, sorted.
pub(crate) fn agent_names(home: &Path) -> Vec<String> {
    Home::at(home).agents().iter().map(|agent| agent.name().to_owned()).collect()
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        let code = if matches!(error, HomeError::Name(_)) { ExitCode::Usage } else { ExitCode::Failed };
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::new(code, format!("{error}{cause}")).hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_home_has_no_agents() {
        let directory = tempfile::tempdir().expect("directory");
        assert_eq!(agent_names(directory.path()), Vec::<String>::new());
    }

    #[test]
    fn a_name_that_is_none_is_a_mistake_of_usage() {
        let failure = agent(Path::new("/tmp"), "../x").expect_err("no hostname");
        assert_eq!(failure.code, ExitCode::Usage);
        assert!(failure.hint.is_some());
    }
}
