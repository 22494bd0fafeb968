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
        check_labels(join.iter())?;
        let mut groups: Vec<String> = self.inner.profile.borrow().groups.clone();
        groups.retain(|group| !leave.contains(group));
        for group in join {
            if !groups.contains(group) {
                groups.push(group.clone());
            }
        }
        if groups.len() > record::GROUPS_MAX {
            let message = format!("an agent can be in {} groups", record::GROUPS_MAX);
            return Err(ApiError::new(ErrorCode::Usage, message));
        }
        self.change_profile(|profile| profile.groups.clone_from(&groups))?;
        Ok(groups)
    }

    /// Changes settings; what is absent stays.
    ///
    /// # Errors
    /// If a value is out of bounds, or the settings cannot be stored.
    pub async fn change_settings(&self, settings: &types::Settings) -> Result<(), ApiError> {
        check_labels(settings.tags.iter().flatten())?;
        if settings.tags.as_ref().is_some_and(|tags| tags.len() > record::TAGS_MAX) {
            return Err(ApiError::new(ErrorCode::Usage, format!("an agent can have {} tags", record::TAGS_MAX)));
        }
        if settings.description.as_ref().is_some_and(|text| text.len() > record::DESCRIPTION_LEN_MAX) {
            let message = format!("a description may have {} bytes", record::DESCRIPTION_LEN_MAX);
            return Err(ApiError::new(ErrorCode::Usage, message));
        }
        if let Some(direct) = settings.direct {
            self.set_direct(direct).await?;
        }
        self.change_profile(|profile| {
            if let Some(tags) = &settings.tags {
                profile.tags.clone_from(tags);
            }
            if let Some(description) = &settings.description {
                profile.description.clone_from(description);
            }
        })
    }

    /// Waits until the directory has what this agent last said of itself and its services, for `patience` at most. Without a backbone
    /// node there is nobody to tell, and nothing to wait for: that is `None`.
    pub async fn published(&self, patience: Duration) -> Option<Result<(), ApiError>> {
        backbone_link::published(&self.inner, patience).await
    }

    /// Allows or forbids direct paths.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn set_direct(&self, direct: bool) -> Result<(), ApiError> {
        self.inner.apply(move |core, now| core.node.set_direct(now, direct)).await?;
        self.change_profile(|profile| profile.direct = direct)
    }

    fn change_profile(&self, change: impl FnOnce(&mut Profile)) -> Result<(), ApiError> {
        self.inner.profile.send_if_modified(|profile| {
            let before = profile.clone();
            change(profile);
            *profile != before
        });
        self.inner
            .save_settings()
            .map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()).hint(error.hint()))
    }
}

impl Inner {
    pub(super) fn save_settings(&self) -> Result<(), HomeError> {
        let profile = self.profile.borrow().clone();
        self.agent_home.save_settings(&Settings {
            tags: profile.tags,
            groups: profile.groups,
            description: profile.description,
            backbone: self.backbone.as_ref().map(ToString::to_string),
            direct: profile.direct,
        })
    }
}

pub(super) fn check_labels<'a>(labels: impl Iterator<Item = &'a String>) -> Result<(), ApiError> {
    for label in labels {
        if !is_label(label) {
            return Err(ApiError::new(ErrorCode::Usage, format!("'{label}' cannot be a tag or a group"))
                .hint("use 1 to 63 lower-case letters, digits and -._:/"));
        }
    }
    Ok(())
}
