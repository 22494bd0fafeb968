//! The agent's errand: twenty facts from twenty sources, asked of agents and read off pages of the web.
//!
//! One process is all sources ([`source`]): what it knows, it tells agents' callers in a line, and readers of the web in a page ([`page`])
//! that a server of the web hands out. It takes its time to think, if it is told to, and nobody else sleeps. A reader ([`reader`]) is a
//! process that has the facts of all sources at the end, whichever way it asks. Where they all live is [`world`].

pub(crate) mod page;
pub(crate) mod reader;
pub(crate) mod source;
#[cfg(target_os = "linux")]
pub(crate) mod world;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::system::Kind;
use crate::error::BenchError;

/// Sources, and so facts.
pub(crate) const SOURCES: u8 = 20;
/// The group that all sources are in, as agents.
const GROUP: &str = "sources";
/// The port of the web.
const WEB: u16 = 443;

/// In which order a reader asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// The next source when the one before has answered: what an agent does whose questions depend on answers.
    InTurn,
    /// All at once.
    AtOnce,
    /// One search for all sources, by their group, then as [`Self::InTurn`]. There is no such search of the web.
    Found,
}

/// What a source is asked, beside its fact: how it shall behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Question {
    /// How long it thinks.
    pub(crate) think_ms: u64,
    /// Bytes of its page.
    pub(crate) page_len: usize,
}

/// What a reader is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Errand {
    pub(crate) kind: Kind,
    pub(crate) order: Order,
    pub(crate) question: Question,
    /// The authority that certifies all sources on the web.
    pub(crate) credential: String,
    /// The local API of the reader's daemon.
    pub(crate) socket: PathBuf,
}

impl Question {
    /// As the request of an agent, and as what follows `?` in that of a page.
    fn text(self) -> String {
        format!("think={}&len={}", self.think_ms, self.page_len)
    }

    /// Reads [`Question::text`].
    fn parse(text: &str) -> Result<Self, BenchError> {
        let number = |name: &str| {
            let field = text.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            field.ok_or_else(|| BenchError::wrong(format!("no '{name}' in '{text}'")))
        };
        let think_ms = number("think")?.parse().map_err(BenchError::wrong)?;
        Ok(Self { think_ms, page_len: number("len")?.parse().map_err(BenchError::wrong)? })
    }
}

/// What a source knows.
fn fact(source: u8) -> String {
    format!("{} tonnes", 48_213 + 977 * u32::from(source))
}

/// The agent that a source is.
fn agent_name(source: u8) -> String {
    format!("source-{source:02}")
}

/// The name of a source on the web.
fn web_name(source: u8) -> String {
    format!("{}.example", agent_name(source))
}

/// Where a source is, as an agent and on the web.
fn address(source: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 1 + source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_asked() {
        let question = Question { think_ms: 50, page_len: 20_000 };
        assert_eq!(Question::parse(&question.text()).unwrap(), question);
        assert!(Question::parse("think=50").is_err());
    }
}
