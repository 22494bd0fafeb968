//! What a start that fails takes back: an agent that was to be in an organisation, and is not, was started for nothing.

use pilot_daemon::home::{AgentHome, HomeError};

use crate::context::Context;

/// What stood there before an agent was started.
pub(super) struct Before {
    home: AgentHome,
    /// There was nothing.
    is_new: bool,
    settings: Option<Vec<u8>>,
}

impl Before {
    /// Looks, before the start makes the first file.
    pub(super) fn of(home: AgentHome) -> Result<Self, HomeError> {
        let is_new = !home.path().exists();
        let settings = if is_new { None } else { home.settings_text()? };
        Ok(Self { home, is_new, settings })
    }

    /// Has nothing stay of an agent that is new when it ends, neither key nor name; and of another nothing of what it was started with this
    /// time. Whatever the disk says to that, the agent is to end.
    pub(super) fn take_back(&self, context: &Context) {
        if !self.is_new {
            self.put_back_settings(context);
        } else if let Err(error) = self.home.mark_ending() {
            context.output.talk(format!("what was made for this agent stays: {error}"));
        }
    }

    /// The settings alone, of an agent that was there before.
    pub(super) fn put_back_settings(&self, context: &Context) {
        if !self.is_new
            && let Err(error) = self.home.put_back_settings(self.settings.as_deref())
        {
            context.output.talk(format!("the settings that were given stay: {error}"));
        }
    }
}
