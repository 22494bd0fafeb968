//! Who may call which service (spec/rules.md).
//!
//! A [`Table`] is what the file says, a [`Decision`] what follows for one caller, with its reason.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pilot_core::id::{IdentityKey, ServicePort};
use pilot_core::record::{is_label, is_name};
use pilot_core::time::Mono;
use serde::Deserialize;
use toml_edit::{ArrayOfTables, DocumentMut, Item};

use crate::api::types::{ApiError, ErrorCode};
use crate::home::{HomeError, replace_file};
use crate::org::Standing;
use crate::services::{service_name, service_port};

/// Rules of one agent; a decision looks at all of them.
const RULES_MAX: usize = 4_096;
/// The greatest file: as many rules of 256 bytes, notes and all.
const RULES_LEN_MAX: u64 = 1_024 * 1_024;
/// What stands in a file in which there are no rules: one with nothing in it is taken for a mishap.
const NO_RULES: &str = "# no rules\n";
/// The file is looked at no more often than this, however many messages come.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Every service.
const ANY_SERVICE: &str = "*";

/// The rules of an agent, and the file that they are from.
#[derive(Debug)]
pub(crate) struct Rules {
    path: PathBuf,
    stamp: Option<Stamp>,
    looked_at: Option<Mono>,
    table: Table,
    error: Option<RulesError>,
}

/// Tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    /// When it was written or its mode was changed; unlike the time of modification nobody sets this back.
    changed_ns: i128,
}

/// What a file of rules says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Table {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

/// A service, and who may or may not call it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The service.
    pub service: Service,
    /// Who.
    pub from: Who,
    /// For people.
    pub note: Option<String>,
}

/// A service by its name, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Service(String);

/// Those a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Who {
    /// Everybody.
    Public,
    /// The agents of the same home.
    Home,
    /// Members of an organisation.
    Org(String),
    /// Those of them with a role.
    Role(String, String),
    /// Those of them in a group.
    Group(String, String),
    /// One agent.
    Agent(IdentityKey),
    /// One agent, as long as it is a member of an organisation.
    Member(IdentityKey, String),
}

/// What the rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Lets in.
    Allow,
    /// Keeps out.
    Deny,
}

/// Who calls, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) key: &'a IdentityKey,
    /// It lives in the same home.
    pub(crate) is_neighbour: bool,
    /// What organisations say of it that both are in.
    pub(crate) standings: &'a [Standing],
}

/// Whether a call may pass, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// Why, for the owner of the rules.
    pub reason: String,
    /// Nothing but old revocation lists keeps the caller out: no rule is missing, but a new list.
    pub(crate) needs_new_list: bool,
}

/// Why a file of rules is not in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {what}", path.display(), position.map_or_else(String::new, |(line, column)| format!(", line {line}, column {column}")))]
pub struct RulesError {
    path: PathBuf,
    position: Option<(usize, usize)>,
    what: String,
}

impl Rules {
    /// Reads the file; without one there are no rules.
    ///
    /// # Errors
    /// If the file makes no sense: an agent does not start with rules that nobody has meant.
    pub(crate) fn load(path: PathBuf) -> Result<Self, HomeError> {
        let stamp = Stamp::of(&path);
        let table = Table::read(&path).map_err(|error| HomeError::Rules(error.to_string()))?.unwrap_or_default();
        Ok(Self { path, stamp, looked_at: None, table, error: None })
    }

    /// The rules in force: those of the file, or if that has an error, or has gone, those before.
    pub(crate) fn current(&mut self, now: Mono) -> &Table {
        if self.looked_at.is_some_and(|looked_at| now.since(looked_at) < LOOK_INTERVAL) {
            return &self.table;
        }
        self.looked_at = Some(now);
        let stamp = Stamp::of(&self.path);
        if stamp != self.stamp {
            self.stamp = stamp;
            match self.read_in_place() {
                Ok(table) => (self.table, self.error) = (table, None),
                Err(error) => {
                    tracing::warn!(%error, "the rules before stay in force");
                    self.error = Some(error);
                }
            }
        }
        &self.table
    }

    /// Reads the file again. Somebody who removes it may want to be rid of all rules, or has lost them: as long as the agent runs, they stay.
    fn read_in_place(&self) -> Result<Table, RulesError> {
        match Table::read(&self.path)? {
            Some(table) => Ok(table),
            None if self.table == Table::default() => Ok(Table::default()),
            None => Err(RulesError::of_file(&self.path, "the file has gone")),
        }
    }

    /// The file has changed: the next call is to know.
    pub(crate) fn look_again(&mut self) {
        self.looked_at = None;
    }

    /// What is wrong with the file, if it is not in force.
    pub(crate) fn error(&self) -> Option<&RulesError> {
        self.error.as_ref()
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl RulesError {
    /// An error that has no place in the file.
    fn of_file(path: &Path, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), position: None, what: what.into() }
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let changed_ns = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
        Some(Self { inode: metadata.ino(), len: metadata.len(), changed_ns })
    }
}

impl Table {
    /// The rules of a file, if it is there.
    fn read(path: &Path) -> Result<Option<Self>, RulesError> {
        read_text(path)?.map(|text| Self::parse(path, &text)).transpose()
    }

    fn parse(path: &Path, text: &str) -> Result<Self, RulesError> {
        let table: Self = toml::from_str(text).map_err(|error| RulesError {
            path: path.to_owned(),
            position: error.span().map(|span| position(text, span.start)),
            what: error.message().to_owned(),
        })?;
        if table.allow.len() + table.deny.len() > RULES_MAX {
            return Err(RulesError::of_file(path, format!("there are more than {RULES_MAX} rules")));
        }
        Ok(table)
    }

    /// Whether `caller` may call `service`, which everybody may if it `is_public` (spec/rules.md §2).
    pub(crate) fn decide(&self, caller: Caller<'_>, service: &str, is_public: bool) -> Decision {
        if let Some(rule) = self.deny.iter().find(|rule| rule.is_about(service) && rule.names(caller, |_| true)) {
            return Decision::no(format!("the rule {rule} keeps it out"));
        }
        if caller.is_neighbour {
            return Decision::yes("it lives in the same home");
        }
        if is_public {
            return Decision::yes(format!("'{service}' was started with --allow public"));
        }
        let vouches = |standing: &Standing| standing.vouches_for(service);
        let matching = self.allow.iter().filter(|rule| rule.is_about(service));
        if let Some(rule) = matching.clone().find(|rule| rule.names(caller, vouches)) {
            return Decision::yes(format!("the rule {rule} lets it in"));
        }
        let is_closed = matching.clone().any(|rule| rule.service.0 != ANY_SERVICE);
        if let Some(Standing { org, membership, .. }) =
            caller.standings.iter().find(|standing| !is_closed && vouches(standing))
        {
            return Decision::yes(format!(
                "it is '{}' of '{org}', and '{service}' has no rules of its own",
                membership.name
            ));
        }
        let would_be_let_in = |count: &dyn Fn(&Standing) -> bool| {
            matching.clone().any(|rule| rule.names(caller, count)) || !is_closed && caller.standings.iter().any(count)
        };
        if would_be_let_in(&|standing| standing.membership.allows_service(service)) {
            return Decision::by_old_lists();
        }
        if would_be_let_in(&|_| true) {
            return Decision::no(format!("its membership does not name the service '{service}'"));
        }
        if is_closed {
            return Decision::no(format!("no rule for '{service}' names it"));
        }
        Decision::no("it is neither of this home nor of an organisation that this agent is in")
    }

    /// All rules, in the order of the file.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (Effect, &Rule)> {
        let deny = self.deny.iter().map(|rule| (Effect::Deny, rule));
        deny.chain(self.allow.iter().map(|rule| (Effect::Allow, rule)))
    }
}

/// What stands in a file, if it is there. No more is read than rules can be, and nothing that could keep the reader waiting.
fn read_text(path: &Path) -> Result<Option<String>, RulesError> {
    let wrong = |what: &str| Err(RulesError::of_file(path, what));
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return wrong(&error.to_string()),
    };
    match metadata.len() {
        _ if !metadata.is_file() => return wrong("it is no regular file"),
        0 => return wrong("there is nothing in it; where no rules are meant, write a comment: # no rules"),
        len if len > RULES_LEN_MAX => return wrong("it is larger than 1 MiB"),
        _ => {}
    }
    let mut bytes = Vec::new();
    if let Err(error) = File::open(path).and_then(|file| file.take(RULES_LEN_MAX).read_to_end(&mut bytes)) {
        return wrong(&error.to_string());
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let before = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let position = Some(position(&before, before.len()));
        RulesError { path: path.to_owned(), position, what: "this is no UTF-8".to_owned() }
    })
}

/// Why there are no rules for a service, if anybody may call it. The daemon serves it itself.
fn without_rules(port: ServicePort) -> Option<&'static str> {
    match port {
        ServicePort::ECHO => Some("echo has no rules: it is open to all"),
        ServicePort::ORG => Some(
            "organisations' calls have no rules: they are open to all, and tell members only what they are to know",
        ),
        _ => None,
    }
}

impl Decision {
    /// The decision about a service that has no rules.
    pub(crate) fn without_rules(port: ServicePort) -> Option<Self> {
        without_rules(port).map(Self::yes)
    }

    fn yes(reason: impl Into<String>) -> Self {
        Self { allowed: true, reason: reason.into(), needs_new_list: false }
    }

    fn no(reason: impl Into<String>) -> Self {
        Self { allowed: false, reason: reason.into(), needs_new_list: false }
    }

    fn by_old_lists() -> Self {
        Self { needs_new_list: true, ..Self::no("the revocation lists of its organisation are too old") }
    }
}

impl Rule {
    fn is_about(&self, service: &str) -> bool {
        self.service.0 == ANY_SERVICE || self.service.0 == service
    }

    /// Whether it is about the caller, by those organisations that `count`.
    fn names(&self, caller: Caller<'_>, count: impl Fn(&Standing) -> bool) -> bool {
        let has = |wanted: &str, what: &dyn Fn(&Standing) -> bool| {
            let mut of_org = caller.standings.iter().filter(|standing| standing.org == wanted);
            of_org.any(|standing| count(standing) && what(standing))
        };
        match &self.from {
            Who::Public => true,
            Who::Home => caller.is_neighbour,
            Who::Agent(key) => key == caller.key,
            Who::Member(key, org) => key == caller.key && has(org, &|_| true),
            Who::Org(org) => has(org, &|_| true),
            Who::Role(role, org) => has(org, &|standing| standing.membership.role == *role),
            Who::Group(group, org) => has(org, &|standing| standing.membership.groups.contains(group)),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{} {}'", self.service.0, self.from)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Home => f.write_str("home"),
            Self::Org(org) => write!(f, "org:{org}"),
            Self::Role(role, org) => write!(f, "role:{role}@{org}"),
            Self::Group(group, org) => write!(f, "group:{group}@{org}"),
            Self::Agent(key) => write!(f, "agent:{key}"),
            Self::Member(key, org) => write!(f, "agent:{key}@{org}"),
        }
    }
}

impl TryFrom<String> for Service {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == ANY_SERVICE {
            return Ok(Self(text));
        }
        match service_port(&text).map(|port| (port, without_rules(port))) {
            Some((_, Some(reason))) => Err(reason.to_owned()),
            // One service has one name here, in whatever way it was written.
            Some((port, None)) => Ok(Self(service_name(port))),
            None => Err(format!("'{text}' is no service: use query, mcp, message, a port number, or * for all")),
        }
    }
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of_org = |text: &str, make: fn(String, String) -> Self| {
            let (label, org) = text.split_once('@')?;
            (is_label(label) && is_name(org)).then(|| make(label.to_owned(), org.to_owned()))
        };
        let parsed = match text.split_once(':') {
            None if text == "public" => Some(Self::Public),
            None if text == "home" => Some(Self::Home),
            Some(("org", org)) => is_name(org).then(|| Self::Org(org.to_owned())),
            Some(("role", rest)) => of_org(rest, Self::Role),
            Some(("group", rest)) => of_org(rest, Self::Group),
            Some(("agent", rest)) => match rest.split_once('@') {
                Some((key, org)) if is_name(org) => key.parse().ok().map(|key| Self::Member(key, org.to_owned())),
                Some(_) => None,
                None => rest.parse().ok().map(Self::Agent),
            },
            _ => None,
        };
        parsed.ok_or_else(|| {
            format!(
                "'{text}' names nobody: use public, home, org:ORG, role:ROLE@ORG, group:GROUP@ORG, agent:KEY or agent:KEY@ORG"
            )
        })
    }
}

impl TryFrom<String> for Who {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Effect {
    /// The table in the file, and the verb.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Adds a rule to the file, or removes it; tells whether that changed anything. The rest of the file stays as it is.
///
/// # Errors
/// If the file makes no sense as it is, the rule does not, or the file cannot be written.
pub(crate) fn edit(path: &Path, effect: Effect, rule: &Rule, is_removed: bool) -> Result<bool, ApiError> {
    let wrong = |error: RulesError| {
        ApiError::new(ErrorCode::Failed, error.to_string())
            .hint("correct the file first; the rules before are in force")
    };
    // From reading to writing nobody else edits: of two rules added at once both stay.
    static EDITING: Mutex<()> = Mutex::new(());
    let _editing = EDITING.lock().unwrap_or_else(PoisonError::into_inner);
    let text = read_text(path).map_err(wrong)?.unwrap_or_default();
    let table = Table::parse(path, &text).map_err(wrong)?;
    let is_this =
        |(other, known): (Effect, &Rule)| other == effect && known.service == rule.service && known.from == rule.from;
    if table.rules().any(is_this) != is_removed {
        return Ok(false);
    }
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        ApiError::new(ErrorCode::Failed, format!("{}: {error}", path.display()))
    })?;
    let tables = document.entry(effect.name()).or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let Some(tables) = tables.as_array_of_tables_mut() else {
        return Err(ApiError::new(
            ErrorCode::Failed,
            format!("{}: '{}' is no list of tables", path.display(), effect.name()),
        )
        .hint(format!("write each rule as [[{}]]", effect.name())));
    };
    if is_removed {
        let field = |table: &toml_edit::Table, name: &str| table.get(name).and_then(Item::as_str).map(str::to_owned);
        tables.retain(|table| {
            (field(table, "service"), field(table, "from"))
                != (Some(rule.service.to_string()), Some(rule.from.to_string()))
        });
    } else {
        let mut table = toml_edit::Table::new();
        table.insert("service", toml_edit::value(rule.service.to_string()));
        table.insert("from", toml_edit::value(rule.from.to_string()));
        if let Some(note) = &rule.note {
            table.insert("note", toml_edit::value(note));
        }
        tables.push(table);
    }
    let mut text = document.to_string();
    Table::parse(path, &text).map_err(wrong)?;
    if text.trim().is_empty() {
        text = NO_RULES.to_owned();
    }
    replace_file(path, text.as_bytes(), 0o600)
        .map_err(|error| ApiError::new(ErrorCode::Failed, format!("cannot write {}: {error}", path.display())))?;
    Ok(true)
}

/// Line and column of a byte, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use pilot_core::org::membership::Membership;
    use pilot_core::time::UnixTime;

    use super::*;

    const CALLER: IdentityKey = IdentityKey([7; 32]);

    fn standing(role: &str, groups: &[&str], services: &[&str]) -> Standing {
        let list = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
        let membership = Membership {
            org: IdentityKey([1; 32]),
            issuer: IdentityKey([1; 32]),
            member: CALLER,
            modifier: 0,
            name: "worker".into(),
            role: role.into(),
            groups: list(groups),
            services: list(services),
            generations: 0,
            issued: UnixTime::from_secs(0),
            expires: UnixTime::from_secs(0) + Duration::from_secs(1),
            consented: UnixTime::from_secs(0),
            lifetime: 1,
            consent: None,
        };
        Standing { org: "fleet".into(), membership, is_fresh: true }
    }

    fn table(text: &str) -> Table {
        Table::parse(Path::new("rules.toml"), text).expect("rules")
    }

    fn decides(rules: &str, standings: &[Standing], service: &str) -> bool {
        table(rules).decide(Caller { key: &CALLER, is_neighbour: false, standings }, service, false).allowed
    }

    #[test]
    fn without_rules_home_and_organisation_may_call_and_nobody_else() {
        let caller = |is_neighbour| Caller { key: &CALLER, is_neighbour, standings: &[] };
        assert!(table("").decide(caller(true), "query", false).allowed);
        assert!(!table("").decide(caller(false), "query", false).allowed);
        assert!(table("").decide(caller(false), "query", true).allowed, "--allow public");
        assert!(decides("", &[standing("member", &[], &[])], "query"));
    }

    #[test]
    fn a_rule_for_a_service_closes_it_to_those_it_does_not_name() {
        let rules = "[[allow]]\nservice = 'mcp'\nfrom = 'role:lead@fleet'";
        assert!(decides(rules, &[standing("lead", &[], &[])], "mcp"));
        assert!(!decides(rules, &[standing("member", &[], &[])], "mcp"));
        assert!(decides(rules, &[standing("member", &[], &[])], "query"));
        let any = "[[allow]]\nservice = '*'\nfrom = 'role:lead@fleet'";
        assert!(decides(any, &[standing("member", &[], &[])], "mcp"), "a rule for all services closes none");
    }

    #[test]
    fn each_kind_of_who_names_those_and_nobody_else() {
        let allow = |from: &str| format!("[[allow]]\nservice = 'query'\nfrom = '{from}'");
        let researcher = [standing("member", &["research"], &[])];
        let agent = format!("agent:{CALLER}");
        let member = format!("{agent}@fleet");
        for from in ["public", "org:fleet", "role:member@fleet", "group:research@fleet", &agent, &member] {
            assert!(decides(&allow(from), &researcher, "query"), "{from}");
        }
        let other = format!("agent:{}", IdentityKey([8; 32]));
        let [others, elsewhere] = [format!("{other}@fleet"), format!("{agent}@float")];
        let nobody = ["home", "org:float", "role:lead@fleet", "role:member@float", "group:finance@fleet", &other];
        for from in nobody.into_iter().chain([others.as_str(), &elsewhere]) {
            assert!(!decides(&allow(from), &researcher, "query"), "{from}");
        }
        assert!(!decides(&allow(&member), &[], "query"), "it is a member no more");
    }

    #[test]
    fn deny_beats_everything_else() {
        let rules =
            format!("[[allow]]\nservice = 'query'\nfrom = 'public'\n[[deny]]\nservice = '*'\nfrom = 'agent:{CALLER}'");
        let caller = Caller { key: &CALLER, is_neighbour: true, standings: &[standing("lead", &[], &[])] };
        assert!(!table(&rules).decide(caller, "query", true).allowed);
    }

    #[test]
    fn a_membership_that_names_services_opens_no_other() {
        let query_only = [standing("member", &[], &["query"])];
        assert!(decides("", &query_only, "query") && !decides("", &query_only, "mcp"));
        let rules = "[[allow]]\nservice = 'mcp'\nfrom = 'org:fleet'";
        assert!(!decides(rules, &query_only, "mcp"));
        let public = "[[allow]]\nservice = 'mcp'\nfrom = 'public'";
        assert!(decides(public, &query_only, "mcp"), "it may what everybody may");
    }

    #[test]
    fn deny_keeps_a_member_out_whatever_its_membership_names_and_however_old_the_lists_are() {
        let rules =
            "[[allow]]\nservice = 'mcp'\nfrom = 'public'\n[[deny]]\nservice = 'mcp'\nfrom = 'role:contractor@fleet'";
        let query_only = standing("contractor", &[], &["query"]);
        let stale = Standing { is_fresh: false, ..standing("contractor", &[], &[]) };
        for standings in [query_only, stale] {
            assert!(!decides(rules, &[standings], "mcp"));
        }
    }

    #[test]
    fn an_organisation_with_lists_that_are_too_old_lets_nobody_in() {
        let stale = [Standing { is_fresh: false, ..standing("lead", &[], &[]) }];
        for rules in ["", "[[allow]]\nservice = 'query'\nfrom = 'org:fleet'"] {
            assert!(!decides(rules, &stale, "query"));
        }
    }

    #[test]
    fn an_organisation_with_old_lists_does_not_stand_in_the_way_of_another_one() {
        let stale = Standing { is_fresh: false, ..standing("lead", &[], &[]) };
        let other = Standing { org: "free".into(), ..standing("member", &[], &[]) };
        let any = "[[allow]]\nservice = '*'\nfrom = 'role:lead@fleet'";
        assert!(decides(any, &[stale.clone(), other.clone()], "query"), "a rule for all services closes none");
        let decision = |rules, standings: &[Standing]| {
            table(rules).decide(Caller { key: &CALLER, is_neighbour: false, standings }, "query", false)
        };
        assert!(decision(any, std::slice::from_ref(&stale)).needs_new_list);
        let closed = "[[allow]]\nservice = 'query'\nfrom = 'role:lead@fleet'";
        assert!(decision(closed, &[stale, other.clone()]).needs_new_list);
        assert!(!decision(closed, &[other]).needs_new_list);
    }

    #[test]
    fn a_refusal_names_the_membership_where_that_is_what_keeps_a_caller_out() {
        let mcp_only = [standing("member", &[], &["mcp"])];
        for rules in ["", "[[allow]]\nservice = 'query'\nfrom = 'org:fleet'"] {
            let caller = Caller { key: &CALLER, is_neighbour: false, standings: &mcp_only };
            let decision = table(rules).decide(caller, "query", false);
            assert_eq!(decision.reason, "its membership does not name the service 'query'");
        }
    }

    #[test]
    fn a_file_that_could_not_be_read_counts_once_it_can_be() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("rules.toml");
        let mut rules = Rules::load(path.clone()).expect("no rules");
        fs::create_dir(&path).expect("a directory in its place");
        assert_eq!(rules.current(Mono(1_000_000_000)).rules().count(), 0);
        assert!(rules.error().is_some());
        fs::remove_dir(&path).expect("removed");
        fs::write(&path, "[[deny]]\nservice = 'query'\nfrom = 'public'").expect("written");
        assert_eq!(rules.current(Mono(2_000_000_000)).rules().count(), 1);
        assert_eq!(rules.error(), None);
    }

    #[test]
    fn an_error_is_named_with_line_and_column() {
        let error = |text: &str| Table::parse(Path::new("rules.toml"), text).expect_err("no rules").to_string();
        let who = error("[[allow]]\nservice = 'query'\nfrom = 'everybody'");
        assert!(who.starts_with("rules.toml, line 3, column 8: 'everybody' names nobody"), "{who}");
        let service = error("[[deny]]\nservice = 'querry'\nfrom = 'public'");
        assert!(service.starts_with("rules.toml, line 2, column 11: 'querry' is no service"), "{service}");
        assert!(error("[[allow]]\nfrom = 'public'").contains("line 1"), "a field is missing");
        assert!(error("[allow\n").contains("line 1"));
        assert!(error("[[alow]]\nservice='query'\nfrom='public'").contains("alow"));
    }

    #[test]
    fn an_error_leaves_the_rules_before_in_force_until_it_is_mended() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("rules.toml");
        let write = |text: &str| replace_file(&path, text.as_bytes(), 0o600).expect("written");
        write("[[allow]]\nservice = 'query'\nfrom = 'public'");
        let mut rules = Rules::load(path.clone()).expect("rules");
        let mut seconds = 0;
        let mut later = || {
            seconds += 1;
            Mono(seconds * 1_000_000_000)
        };
        assert_eq!(rules.current(later()).rules().count(), 1);
        write("[[allow]]\nservice = 'query'\nfrom = 'nobody'");
        assert_eq!(rules.current(later()).rules().count(), 1);
        assert!(rules.error().expect("an error").to_string().contains("line 3"));
        assert!(Rules::load(path.clone()).is_err(), "nobody starts with that");
        write("# none");
        assert_eq!(rules.current(later()).rules().count(), 0);
        assert_eq!(rules.error(), None);
        fs::remove_file(&path).expect("removed");
        assert_eq!(rules.current(later()).rules().count(), 0);
        assert_eq!(rules.error(), None, "there was none to lose");
    }

    #[test]
    fn a_file_that_goes_or_is_emptied_or_is_none_leaves_the_rules_before_in_force() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("rules.toml");
        let deny = "[[deny]]\nservice = 'query'\nfrom = 'public'";
        fs::write(&path, deny).expect("written");
        let mut rules = Rules::load(path.clone()).expect("rules");
        let mut seconds = 0;
        let mut says = |rules: &mut Rules, what: &str| {
            seconds += 1;
            assert_eq!(rules.current(Mono(seconds * 1_000_000_000)).rules().count(), 1, "{what}");
            let error = rules.error().expect(what).to_string();
            assert!(error.contains(what), "{error}");
        };
        fs::remove_file(&path).expect("removed");
        says(&mut rules, "the file has gone");
        fs::write(&path, "").expect("emptied");
        says(&mut rules, "there is nothing in it; where no rules are meant, write a comment");
        assert!(Rules::load(path.clone()).is_err(), "nobody starts with that");
        fs::write(&path, vec![b'#'; 1_024 * 1_024 + 1]).expect("filled");
        says(&mut rules, "larger than 1 MiB");
        fs::remove_file(&path).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        says(&mut rules, "no regular file");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, deny).expect("written");
        assert_eq!(rules.current(Mono(99_000_000_000)).rules().count(), 1);
        assert_eq!(rules.error(), None);
    }

    #[test]
    fn who_removes_the_last_rule_means_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("rules.toml");
        let rule = Rule { service: Service("query".into()), from: Who::Public, note: None };
        assert!(edit(&path, Effect::Deny, &rule, false).expect("added"));
        assert!(edit(&path, Effect::Deny, &rule, true).expect("removed"));
        assert_eq!(Rules::load(path).expect("no rules").table, Table::default());
    }

    #[test]
    fn edits_leave_the_rest_of_the_file_as_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("rules.toml");
        let rule = |service: &str, from: &str| Rule {
            service: Service::try_from(service.to_owned()).expect("a service"),
            from: from.parse().expect("somebody"),
            note: None,
        };
        let before = "# ours\n[[allow]]\nservice = \"mcp\" # tools\nfrom = \"org:fleet\"\n";
        fs::write(&path, before).expect("written");
        let added = rule("query", "public");
        assert!(edit(&path, Effect::Allow, &added, false).expect("edited"));
        assert!(!edit(&path, Effect::Allow, &added, false).expect("edited"), "it is there already");
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.starts_with(before) && text.contains("service = \"query\"\nfrom = \"public\""), "{text}");
        assert!(edit(&path, Effect::Allow, &added, true).expect("edited"));
        assert_eq!(fs::read_to_string(&path).expect("read").trim(), before.trim());
        assert!(!edit(&path, Effect::Deny, &added, true).expect("edited"), "there is no such rule");
    }

    #[test]
    fn of_rules_added_at_once_none_is_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("rules.toml");
        std::thread::scope(|scope| {
            for port in 2_000..2_008 {
                let (path, service) = (&path, Service(format!("{port}")));
                let rule = Rule { service, from: Who::Public, note: None };
                scope.spawn(move || edit(path, Effect::Deny, &rule, false).expect("edited"));
            }
        });
        assert_eq!(Table::read(&path).expect("rules").expect("a file").deny.len(), 8);
    }
}
