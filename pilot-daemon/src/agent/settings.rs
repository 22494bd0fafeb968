//! What an agent says about itself, changed while it runs and kept for the next run.

use std::time::Duration;

use pilot_core::record::{self, is_label};

use super::Agent;
use super::inner::Inner;
use crate::api::types::{self, ApiError, ErrorCode};
use crate::backbone_link;
use crate::home::{HomeError, Settings};

/// What the directory shows of this agent, beside its services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) tags: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) description: String,
    pub(crate) direct: bool,
}

impl Agent {
    /// Becomes a member of groups, and leaves others; the directory is told.
    ///
    /// # Errors
    /// If a group is no label, there are too many, or the settings cannot be stored.
    pub fn change_groups(&self, join: &[String], leave: &[String]) -> Result<Vec<String>, ApiError> {
        let mut groups: Vec<String> = self.inner.profile.borrow().groups.clone();
        groups.retain(|group| !leave.contains(group));
        for group in join {
            if !groups.contains(group) {
                groups.push(group.clone());
            }
        }
        check_profile(&[], &groups, "")?;
        self.change_profile(|profile| profile.groups.clone_from(&groups))?;
        Ok(groups)
    }

    /// Changes settings; what is absent stays.
    ///
    /// # Errors
    /// If a value is out of bounds, or the settings cannot be stored.
    pub async fn change_settings(&self, settings: &types::Settings) -> Result<(), ApiError> {
        let (tags, description) = (settings.tags.as_deref(), settings.description.as_deref());
        check_profile(tags.unwrap_or_default(), &[], description.unwrap_or_default())?;
        self.change_profile(|profile| {
            if let Some(tags) = &settings.tags {
                profile.tags.clone_from(tags);
            }
            if let Some(description) = &settings.description {
                profile.description.clone_from(description);
            }
            profile.direct = settings.direct.unwrap_or(profile.direct);
        })?;
        match settings.direct {
            Some(direct) => self.inner.apply(move |core, now| core.node.set_direct(now, direct)).await,
            None => Ok(()),
        }
    }

    /// Waits until the directory has what this agent last said of itself and its services, for `patience` at most. Without a backbone
    /// node there is nobody to tell, and nothing to wait for: that is `None`.
    pub async fn published(&self, patience: Duration) -> Option<Result<(), ApiError>> {
        backbone_link::published(&self.inner, patience).await
    }

    /// Allows or forbids direct paths.
    ///
    /// # Errors
    /// As [`Self::change_settings`].
    pub async fn set_direct(&self, direct: bool) -> Result<(), ApiError> {
        self.change_settings(&types::Settings { direct: Some(direct), ..types::Settings::default() }).await
    }

    /// Stores the change first: what a restart would forget does not happen, neither here nor in the directory.
    fn change_profile(&self, change: impl FnOnce(&mut Profile)) -> Result<(), ApiError> {
        let mut stored = Ok(());
        self.inner.profile.send_if_modified(|profile| {
            let mut changed = profile.clone();
            change(&mut changed);
            if changed == *profile {
                return false;
            }
            stored = self.inner.save_settings(&changed);
            if stored.is_ok() {
                *profile = changed;
            }
            stored.is_ok()
        });
        stored.map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()).hint(error.hint()))
    }
}

impl Inner {
    pub(super) fn save_settings(&self, profile: &Profile) -> Result<(), HomeError> {
        self.agent_home.save_settings(&Settings {
            tags: profile.tags.clone(),
            groups: profile.groups.clone(),
            description: profile.description.clone(),
            backbone: self.backbone.as_ref().map(ToString::to_string),
            direct: profile.direct,
        })
    }
}

/// Whether an agent can have these tags and groups, and say this about itself.
///
/// # Errors
/// What of it is out of bounds.
pub fn check_profile(tags: &[String], groups: &[String], description: &str) -> Result<(), ApiError> {
    let too_many = |count: usize, what: &str, count_max: usize| {
        let message = format!("{count} {what} are too many: an agent can have {count_max}");
        Err(ApiError::new(ErrorCode::Usage, message).hint("leave some out"))
    };
    if let Some(label) = tags.iter().chain(groups).find(|label| !is_label(label)) {
        let error = ApiError::new(ErrorCode::Usage, format!("'{label}' cannot be a tag or a group"));
        return Err(error.hint("use 1 to 63 lower-case letters, digits and -._:/"));
    }
    if tags.len() > record::TAGS_MAX {
        return too_many(tags.len(), "tags", record::TAGS_MAX);
    }
    if groups.len() > record::GROUPS_MAX {
        return too_many(groups.len(), "groups", record::GROUPS_MAX);
    }
    if description.len() > record::DESCRIPTION_LEN_MAX {
        let (len, len_max) = (description.len(), record::DESCRIPTION_LEN_MAX);
        let message = format!("the description has {len} bytes, and may have {len_max}");
        return Err(ApiError::new(ErrorCode::Usage, message).hint("say it in fewer words"));
    }
    Ok(())
}
