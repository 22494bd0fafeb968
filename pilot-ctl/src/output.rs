//! stdout is data, stderr is talk (spec/cli.md §2): the only place that writes to either.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::env_vars;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};

/// Where a command says things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

/// What another agent said, as `--json` shows it; neither if it said nothing.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Reply {
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
    /// Stands for `reply` when that is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_base64: Option<String>,
}

impl From<&[u8]> for Reply {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { reply: Some(text.to_owned()), reply_base64: None },
            Err(_) => Self { reply: None, reply_base64: Some(data_encoding::BASE64.encode(bytes)) },
        }
    }
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether `--json` was asked for.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints one result: as one line of JSON, or as people read it.
    pub(crate) fn result(self, value: &impl Serialize, human: impl FnOnce() -> String) -> Result<()> {
        if self.json { self.json_line(value) } else { self.line(human()) }
    }

    /// Says that a command which goes on is ready: to scripts as data, to people as talk.
    pub(crate) fn ready(self, value: &impl Serialize, human: impl Display) -> Result<()> {
        self.talk(human);
        if self.json { self.json_line(value) } else { Ok(()) }
    }

    /// One line of data.
    pub(crate) fn line(self, text: impl Display) -> Result<()> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Data as it is, byte for byte.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(stdout_failure)
    }

    /// One line of talk. Whoever closed stderr does not want to hear it.
    pub(crate) fn talk(self, text: impl Display) {
        let _closed = writeln!(io::stderr().lock(), "{text}");
    }

    /// Whether a person reads the talk as it comes.
    pub(crate) fn is_talk_seen(self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// Something that went otherwise than it should, in a command that succeeds.
    pub(crate) fn warning(self, text: &str, hint: &str) {
        self.talk(format_args!("warning: {text}\nhint: {hint}"));
    }

    /// Says why the command failed, in the form the caller reads.
    pub(crate) fn failure(self, failure: &Failure) {
        if self.json {
            let _closed = self.json_line(&failure.to_json());
        } else {
            self.talk(paint(failure));
        }
    }

    fn json_line(self, value: &impl Serialize) -> Result<()> {
        let text =
            serde_json::to_string(value).map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
        self.line(text)
    }
}

/// A reader that has seen enough (`pilotctl peers | head -1`) ends the command quietly, as it ends `cat`: by the way of a failure, for
/// the command may have to clear up.
fn stdout_failure(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::new(ExitCode::Ok, "nobody reads stdout any more");
    }
    Failure::failed(format!("cannot write to stdout: {error}"))
}

/// Red and cyan for the first words, on a terminal that wants colours.
fn paint(failure: &Failure) -> String {
    let plain = failure.to_string();
    if !wants_colour() {
        return plain;
    }
    plain.replacen("error:", "\x1b[1;31merror:\x1b[0m", 1).replacen("\nhint:", "\n\x1b[1;36mhint:\x1b[0m", 1)
}

fn wants_colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os(env_vars::NO_COLOR).is_none_or(|value| value.is_empty())
}

/// Rows under a heading, in columns as wide as their widest cell.
pub(crate) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(crate) fn new(heading: [&str; COLUMNS]) -> Self {
        Self { rows: vec![heading.map(str::to_owned)] }
    }

    /// Adds a row; an empty cell prints as `-`, so that columns can be counted.
    pub(crate) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }

    /// All lines, without the last line break.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
        let line = |row: &[String; COLUMNS]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// `38ms`; below a millisecond `0.4ms` (spec/cli.md §5.3).
pub(crate) fn milliseconds(rtt_ms: f64) -> String {
    let tenths = (rtt_ms * 10.0).round().max(1.0);
    if tenths < 10.0 { format!("0.{tenths:.0}ms") } else { format!("{rtt_ms:.0}ms") }
}

/// `1.2 MB`: decimal units, as disks and networks count.
pub(crate) fn byte_count(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 9.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_print_as_promised() {
        for (rtt_ms, text) in
            [(38.2, "38ms"), (0.4, "0.4ms"), (0.02, "0.1ms"), (0.96, "1ms"), (1.4, "1ms"), (120.6, "121ms")]
        {
            assert_eq!(milliseconds(rtt_ms), text, "{rtt_ms}");
        }
    }

    #[test]
    fn columns_line_up_and_empty_cells_show() {
        let mut table = Table::new(["HOSTNAME", "RTT"]);
        table.row(["agent-alpha".to_owned(), String::new()]);
        table.row(["b".to_owned(), "3ms".to_owned()]);
        assert_eq!(table.render(), "HOSTNAME     RTT\nagent-alpha  -\nb            3ms");
    }

    #[test]
    fn byte_counts_keep_two_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_240_000, "1.2 MB"),
            (200_000_000, "200 MB"),
            (999_999, "1.0 MB"),
        ] {
            assert_eq!(byte_count(bytes), text);
        }
    }
}
