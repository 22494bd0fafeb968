//! What the local API tells and does about rules: `/v1/rules` and `POST /v1/why` (spec/local-api.md §3). Fields are added, never renamed or removed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `GET /v1/rules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    /// Where they are written.
    pub file: PathBuf,
    /// The rules in force; those that keep out come first.
    pub rules: Vec<Rule>,
    /// What is wrong with the file, if it is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `allow` or `deny`.
    pub effect: String,
    /// The service, or `*`.
    pub service: String,
    /// Who: `public`, `home`, `org:ORG`, `role:ROLE@ORG`, `group:GROUP@ORG` or `agent:KEY`.
    pub from: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `POST /v1/rules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRules {
    /// `allow` or `deny`.
    pub effect: String,
    /// The service, or `*`.
    pub service: String,
    /// As in [`Rule`], or an agent's name, address or ticket.
    pub from: String,
    /// Take the rule back.
    #[serde(default)]
    pub remove: bool,
}

/// `POST /v1/why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyRequest {
    /// Who would call.
    pub agent: String,
    /// The service of this agent.
    pub service: String,
}

/// Whether a call would pass, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// Who would call.
    pub agent: String,
    /// Its key.
    pub key: String,
    /// The service.
    pub service: String,
    /// Whether it may.
    pub allowed: bool,
    /// Why.
    pub reason: String,
}
