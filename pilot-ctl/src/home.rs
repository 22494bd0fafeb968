//! What lies where under `PILOT_HOME`, as far as commands need to know.

use std::path::{Path, PathBuf};

use crate::hint::{Failure, Result};

/// `PILOT_HOME` as an absolute path, for processes with another working directory get it too.
pub(crate) fn locate(flag: Option<PathBuf>) -> Result<PathBuf> {
    let home = match flag {
        Some(home) => home,
        None => std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).ok_or_else(no_home)?.join(".pilot"),
    };
    std::path::absolute(&home).map_err(|error| Failure::failed(format!("cannot use {} as PILOT_HOME: {error}", home.display())))
}

fn no_home() -> Failure {
    Failure::failed("neither PILOT_HOME nor HOME is set, so there is no place for an agent's files")
        .hint("set PILOT_HOME to a directory that is yours, or give --home DIR")
}

/// The names of the agents that have a directory in `home`, sorted.
pub(crate) fn agent_names(home: &Path) -> Result<Vec<String>> {
    let directory = home.join("agents");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::failed(format!("cannot read {}: {error}", directory.display()))),
    };
    let directories = entries.filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()));
    let mut names: Vec<String> = directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// The socket of an agent's local API.
pub(crate) fn api_socket(home: &Path, name: &str) -> Result<PathBuf> {
    Ok(home.join("agents").join(name).join("api.sock"))
}

/// The log of an agent's daemon.
pub(crate) fn agent_log(home: &Path, name: &str) -> PathBuf {
    home.join("agents").join(name).join("log")
}

/// The lock that an agent's daemon holds as long as it lives.
pub(crate) fn agent_lock(home: &Path, name: &str) -> PathBuf {
    home.join("agents").join(name).join("lock")
}
