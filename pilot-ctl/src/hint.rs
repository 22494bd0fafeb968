//! Errors as people and scripts read them: what failed and why, then what to do about it (spec/cli.md §4).

use std::fmt;

use clap::error::{ContextKind, ContextValue};
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

impl From<clap::Error> for Failure {
    /// Takes clap's first paragraph as the message. The hint is its suggestion, if it has one, else where to look.
    fn from(error: clap::Error) -> Self {
        let rendered = error.render().to_string();
        let first = rendered.split("\n\n").next().unwrap_or_default();
        let failure = Self::usage(one_line(first.strip_prefix("error: ").unwrap_or(first)));
        if let Some(suggestion) = suggestion(&error) {
            return failure.hint(format!("did you mean '{suggestion}'?"));
        }
        let usage = rendered.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("pilotctl");
        let is_verb = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
        let verb: Vec<&str> = usage.split_whitespace().take_while(is_verb).collect();
        failure.hint(format!("`{} --help` shows how", verb.join(" ")))
    }
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

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
    fn swapped_letters_are_one_mistake() {
        assert_eq!(edit_distance("agent-alhpa", "agent-alpha"), 1);
        assert_eq!(closest("agent-alhpa", ["agent-beta", "agent-alpha"]), Some("agent-alpha"));
    }

    #[test]
    fn a_different_name_is_no_suggestion() {
        assert_eq!(closest("ci", ["research", "finance"]), None);
    }
}
