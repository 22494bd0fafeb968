//! What the local API tells and does about organisations: `/v1/orgs` and what is below (spec/local-api.md §3). Fields are added, never renamed or removed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `POST /v1/orgs`: found an organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateOrg {
    /// What it is called: a host name label.
    pub name: String,
    /// Seconds after which members trust nobody by an older revocation list; none: never.
    #[serde(default)]
    pub list_age_max_s: Option<u64>,
}

/// An organisation that was founded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgCreated {
    /// What it is called.
    pub name: String,
    /// What it is: the first of its keys, in base32.
    pub key: String,
    /// The key that can replace a lost one: to be put in a safe place.
    pub successor_file: PathBuf,
}

/// `POST /v1/orgs/invite`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRequest {
    /// The organisation.
    pub org: String,
    /// How many agents may use it.
    pub uses: u32,
    /// Seconds until it ends.
    pub expires_s: u64,
    /// The role of those who use it.
    pub role: String,
    /// Their groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The services that they may call; none named: all that who invites may call.
    #[serde(default)]
    pub services: Vec<String>,
    /// How many generations they may enrol.
    #[serde(default)]
    pub generations: u8,
    /// Seconds that a membership lasts before it is renewed.
    pub lifetime_s: u64,
    /// A code that people read to each other, in place of the line; for one use.
    #[serde(default)]
    pub code: bool,
}

/// An invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// Its number, by which it can be taken back.
    pub id: String,
    /// The line, or the code, that makes a member of who has it.
    pub invite: String,
    /// A code with the agent's ticket in it, for a camera: it needs no look-up of a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<String>,
    /// How many agents may use it.
    pub uses: u32,
    /// Seconds until it ends.
    pub expires_s: u64,
}

/// `POST /v1/orgs/uninvite`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UninviteRequest {
    /// The organisation.
    pub org: String,
    /// The invite's number.
    pub invite: String,
}

/// An invite that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uninvited {
    /// The organisation.
    pub org: String,
    /// The invite's number.
    pub invite: String,
}

/// `POST /v1/orgs/rotate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateRequest {
    /// The organisation.
    pub org: String,
    /// Somebody else has the key: it counts no more from now on.
    #[serde(default)]
    pub stolen: bool,
    /// The successor's key in PEM, where it is not in its place beside the agent's keys.
    pub successor: Option<String>,
}

/// An organisation that has a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// What it is, and where the new successor is.
    #[serde(flatten)]
    pub org: OrgCreated,
    /// Its members that this agent knows. After a theft: those who need not join again.
    pub members: usize,
}

/// `POST /v1/orgs/join`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The invite, or a code.
    pub token: String,
    /// The organisation that the caller means; another invite is refused.
    #[serde(default)]
    pub org: Option<String>,
    /// The name in the organisation; none: the agent's host name.
    #[serde(default)]
    pub name: Option<String>,
    /// Who is a member of `org` stays it by what it has, and the invite is not used; one to something else is an error.
    #[serde(default)]
    pub unless_member: bool,
}

/// An organisation that was joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// What it is called.
    pub org: String,
    /// This agent's role.
    pub role: String,
    /// Members known, this agent among them.
    pub members: usize,
}

/// `POST /v1/orgs/revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeRequest {
    /// The organisation.
    pub org: String,
    /// Name, address or key of the member.
    pub member: String,
}

/// A membership that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The organisation.
    pub org: String,
    /// The member, as it was named.
    pub member: String,
    /// Its key.
    pub key: String,
    /// Invites of this agent that it has used, and could use under another key: the numbers of those that are still open.
    #[serde(default)]
    pub invites: Vec<String>,
    /// The names of those who are members no more with it, since it has enrolled them, or they have.
    #[serde(default)]
    pub below: Vec<String>,
}

/// `POST /v1/orgs/leave`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// The organisation.
    pub org: String,
    /// Also where others are out with this agent, since it has enrolled them.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/orgs/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgRequest {
    /// The organisation.
    pub org: String,
}

/// `GET /v1/orgs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgList {
    /// The organisations that this agent is in.
    pub orgs: Vec<OrgStatus>,
}

/// An organisation as this agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgStatus {
    /// What it is called.
    pub name: String,
    /// What it is, in base32.
    pub key: String,
    /// This agent's role.
    pub role: String,
    /// This agent's groups in it.
    pub groups: Vec<String>,
    /// The services that it may call at other members; none named: all.
    pub services: Vec<String>,
    /// Seconds until this agent's membership ends, unless it is renewed; none: it is no member any more.
    pub expires_s: Option<u64>,
    /// Members known.
    pub members: usize,
    /// Whether the revocation lists are as young as the organisation wants them; if not, nobody is trusted on its word.
    pub lists_are_fresh: bool,
    /// The key by a charter that was signed beside one of those which this agent follows: others may follow that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_key: Option<String>,
    /// Whether this agent can make invites.
    pub may_enrol: bool,
    /// Invites of this agent that can still be used.
    pub invites: Vec<OpenInvite>,
}

impl OrgStatus {
    /// What is wrong with it.
    pub fn faults(&self) -> impl Iterator<Item = OrgFault> + use<> {
        [self.old_lists(), self.two_keys()].into_iter().flatten()
    }

    fn old_lists(&self) -> Option<OrgFault> {
        let what = || format!("the revocation lists of {} are too old: it is no reason to let anybody in", self.name);
        let remedy = "start the agent that has the organisation's key";
        let are_old = self.expires_s.is_some() && !self.lists_are_fresh;
        are_old.then(|| OrgFault { code: "lists_too_old", what: what(), remedy: remedy.to_owned() })
    }

    fn two_keys(&self) -> Option<OrgFault> {
        let (name, key) = (&self.name, self.other_key.as_ref()?);
        let what = format!(
            "the key of '{name}' was replaced twice at once: others may follow {key}, and who joins by one of the two is a stranger to them"
        );
        let remedy = format!(
            "who has the successor that was made with the key before decides: pilotctl org rotate {name} --successor FILE"
        );
        Some(OrgFault { code: "two_keys", what, remedy })
    }
}

/// What is wrong with an organisation, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgFault {
    /// For programs (spec/local-api.md §10).
    pub code: &'static str,
    /// For people.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// An invite that can still be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenInvite {
    /// Its number.
    pub id: String,
    /// The role that it gives.
    pub role: String,
    /// Uses left.
    pub uses: u32,
    /// Seconds until it ends.
    pub expires_s: u64,
    /// Of a code: the wrong tries that it stands before it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries_left: Option<usize>,
}

/// Reply to `POST /v1/orgs/members`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgMembers {
    /// Members, by name.
    pub members: Vec<OrgMember>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgMember {
    /// Its name in the organisation.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its key.
    pub key: String,
    /// Its role.
    pub role: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Seconds until its membership ends, unless it is renewed.
    pub expires_s: u64,
}
