//! Homes of ephemeral agents: marked under their lock before they have a key, gone when they end (spec/install.md §6).
//!
//! A marked home that nobody has locked is what a killed agent has left. Its key is still there, so that somebody can say goodbye in its name.

use std::fs;
use std::io;

use super::{AgentHome, Home, HomeError};

/// Marks the home; what it says tells how far the agent is.
const MARKER: &str = "ephemeral";
const ENDING: &[u8] = b"ending\n";
/// What the name of a home begins with while it is being removed: no agent is called so.
const DISCARDED_PREFIX: char = '.';

impl Home {
    /// What ephemeral agents have left here that could not end by themselves.
    pub fn leftovers(&self) -> Vec<AgentHome> {
        self.agents().into_iter().filter(AgentHome::is_leftover).collect()
    }

    /// Goes on with the removal of homes that a crash has interrupted.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn clear_discarded(&self) -> Result<(), HomeError> {
        let Ok(entries) = fs::read_dir(self.root.join("agents")) else { return Ok(()) };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(DISCARDED_PREFIX) {
                let path = entry.path();
                gone(fs::remove_dir_all(&path)).map_err(|source| HomeError::Write { path, source })?;
            }
        }
        Ok(())
    }
}

impl AgentHome {
    /// Whether its agent leaves nothing behind.
    pub fn is_ephemeral(&self) -> bool {
        self.dir.join(MARKER).exists()
    }

    /// Whether its agent is on the way out, or somebody sees it out.
    pub fn is_ending(&self) -> bool {
        matches!(self.read(MARKER), Ok(Some(said)) if said == ENDING)
    }

    /// Whether it is what an ephemeral agent has left that was killed.
    pub fn is_leftover(&self) -> bool {
        self.is_ephemeral() && self.running_pid().is_none()
    }

    /// Marks a home that is locked, and has no key yet.
    ///
    /// # Errors
    /// [`HomeError::Kept`] if an agent lives there that is to stay, or why it cannot be written.
    pub(crate) fn make_ephemeral(&self) -> Result<(), HomeError> {
        if self.is_ephemeral() {
            return Ok(());
        }
        if self.has_identity() {
            return Err(HomeError::Kept { name: self.name.clone() });
        }
        self.write(MARKER, b"", 0o600)
    }

    /// Tells who wants to start an agent of this name that it will not take long; and its daemon, that nothing of it is to stay.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn mark_ending(&self) -> Result<(), HomeError> {
        self.write(MARKER, ENDING, 0o600)
    }

    /// Removes the home of an ephemeral agent, at once for all who look, whatever happens meanwhile.
    ///
    /// # Errors
    /// If that is not possible. Homes of other agents are not touched.
    pub fn discard(&self) -> Result<(), HomeError> {
        if !self.is_ephemeral() {
            return Ok(());
        }
        let aside = self.dir.with_file_name(format!("{DISCARDED_PREFIX}{}.{}", self.name, std::process::id()));
        gone(fs::rename(&self.dir, &aside)).map_err(|source| self.write_error("", source))?;
        gone(fs::remove_dir_all(&aside)).map_err(|source| self.write_error("", source))
    }
}

/// Somebody else may have removed it meanwhile.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
