//! Errors as people and scripts read them: what failed and why, then what to do about it (spec/cli.md §4).

use std::ffi::OsString;
use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde::Serialize;

use crate::exit_code::ExitCode;

/// Why a command did not do what was asked. Every way out of a verb but success is one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the process exits with.
    pub(crate) code: ExitCode,
    /// What failed and why: lower case, no full stop.
    pub(crate) message: String,
    /// What to do about it; without one, what its code suggests.
    pub(crate) hint: Option<String>,
}

/// The result of everything in this crate that can end a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// A failure with no more precise code.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Failed, message)
    }

    /// A mistake in the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, message)
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What to do about it, in one line.
    fn advice(&self) -> String {
        one_line(self.hint.as_deref().unwrap_or_else(|| self.code.advice()))
    }

    /// The stable `--json` form: `{"error":{"code":..,"message":..,"hint":..}}`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Body<'a> {
            code: &'a str,
            message: &'a str,
            hint: &'a str,
        }
        let body = Body { code: self.code.word(), message: &self.message, hint: &self.advice() };
        serde_json::json!({ "error": body })
    }
}

/// `error: ..` and `hint: ..`, a line each: line breaks inside are folded, so that what prints is always two lines.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\nhint: {}", one_line(&self.message), self.advice())
    }
}

impl Failure {
    /// Takes clap's first paragraph as the message. The hint is its suggestion, if it has one, else the help of the verb meant.
    pub(crate) fn from_clap(error: &clap::Error, root: &clap::Command, arguments: &[OsString]) -> Self {
        let rendered = error.render().to_string();
        let first = rendered.split("\n\n").next().unwrap_or_default();
        let failure = Self::usage(one_line(first.strip_prefix("error: ").unwrap_or(first)));
        let (verb, below) = verb(root, arguments);
        if error.kind() == ErrorKind::MissingSubcommand {
            let names: Vec<&str> =
                below.get_subcommands().filter(|verb| !verb.is_hide_set()).map(clap::Command::get_name).collect();
            let message = format!("`{verb}` needs a verb: {}", names.join(", "));
            return Self { message, ..failure }.hint(format!("`{verb} --help` shows how"));
        }
        match suggestion(error) {
            Some(suggestion) => failure.hint(format!("did you mean '{suggestion}'?")),
            None => failure.hint(format!("`{verb} --help` shows how")),
        }
    }
}

/// The verb that a command line names, which clap does not tell with every error: `pilotctl daemon start`.
fn verb<'a>(root: &'a clap::Command, arguments: &[OsString]) -> (String, &'a clap::Command) {
    let mut verb = vec![root.get_name()];
    let mut command = root;
    let mut words = arguments.iter().filter_map(|word| word.to_str()).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if let Some(below) = command.find_subcommand(word) {
            verb.push(below.get_name());
            command = below;
        } else if takes_next_word(root, command, word) {
            words.next();
        }
    }
    (verb.join(" "), command)
}

/// Whether `word` is a flag whose value is the next word: that one is no verb, even if it looks like one.
fn takes_next_word(root: &clap::Command, command: &clap::Command, word: &str) -> bool {
    let mut flags = root.get_arguments().chain(command.get_arguments());
    let is_meant = |flag: &clap::Arg| match (word.strip_prefix("--"), word.strip_prefix('-')) {
        (Some(long), _) => flag.get_long() == Some(long),
        (None, Some(short)) => flag.get_short().map(String::from).as_deref() == Some(short),
        (None, None) => false,
    };
    flags.any(|flag| is_meant(flag) && flag.get_action().takes_values())
}

/// What clap thinks was meant.
fn suggestion(error: &clap::Error) -> Option<String> {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        ContextValue::None | _ => None,
    })
}

/// The candidate that `typed` was probably meant to be: at most a third of the letters differ.
pub(crate) fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (typed.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(typed, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours count one each.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before = vec![0; right.len() + 1];
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut current = vec![i + 1; right.len() + 1];
        for (j, r) in right.iter().enumerate() {
            let replaced = previous[j] + usize::from(l != r);
            current[j + 1] = replaced.min(previous[j + 1] + 1).min(current[j] + 1);
            let swapped = i > 0 && j > 0 && left[i - 1] == *r && right[j - 1] == *l;
            if swapped {
                current[j + 1] = current[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous[right.len()]
}

/// Folds line breaks, and leaves out what would steer a terminal: other agents have a word in messages and hints.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_two_lines_without_a_blank_one() {
        let failure =
            Failure::new(ExitCode::NotFound, "no agent named 'agent-alhpa'").hint("did you mean 'agent-alpha'?");
        assert_eq!(failure.to_string(), "error: no agent named 'agent-alhpa'\nhint: did you mean 'agent-alpha'?");
    }

    #[test]
    fn a_message_of_several_lines_prints_as_one() {
        let failure = Failure::failed("first\n  second").hint("one\ntwo");
        assert_eq!(failure.to_string(), "error: first second\nhint: one two");
    }

    #[test]
    fn another_agents_words_do_not_steer_the_terminal() {
        let failure = Failure::failed("no\x1b[2J\x07 more\u{9b}31m").hint("ask\x08\x08");
        assert_eq!(failure.to_string(), "error: no [2J more 31m\nhint: ask");
    }

    #[test]
    fn no_failure_is_without_advice() {
        let failure = Failure::new(ExitCode::Timeout, "too late");
        assert_eq!(failure.to_string(), "error: too late\nhint: --timeout gives it longer");
        assert_eq!(failure.to_json()["error"]["hint"], "--timeout gives it longer");
    }

    #[test]
    fn json_has_the_same_words() {
        let failure = Failure::new(ExitCode::Refused, "no").hint("ask");
        let expected = r#"{"error":{"code":"refused","message":"no","hint":"ask"}}"#;
        assert_eq!(failure.to_json().to_string(), expected);
    }

    #[test]
    fn the_verb_of_a_command_line_is_no_value_of_a_flag() {
        use clap::CommandFactory;
        let root = crate::cli::Cli::command();
        for (line, meant) in [
            ("ping x --timeout soon", "pilotctl ping"),
            ("--as daemon ping x", "pilotctl ping"),
            ("daemon --as ping start --listen here", "pilotctl daemon start"),
            ("--as=x mcp serve --concurrency 0 -- ping", "pilotctl mcp serve"),
            ("daemon logs -n status", "pilotctl daemon logs"),
            ("--nonsense", "pilotctl"),
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(verb(&root, &arguments).0, meant, "{line}");
        }
    }

    #[test]
    fn swapped_letters_are_one_mistake() {
        assert_eq!(edit_distance("agent-alhpa", "agent-alpha"), 1);
        assert_eq!(closest("agent-alhpa", ["agent-beta", "agent-alpha"]), Some("agent-alpha"));
    }

    #[test]
    fn a_different_name_is_no_suggestion() {
        assert_eq!(closest("ci", ["research", "finance"]), None);
    }
}
