//! A session as a user sees it, for review: each command with its output, what varies replaced by a word for it.

use std::process::Command;

use regex::Regex;

use super::{Home, PILOTCTL, finish};

/// What varies from run to run, and what stands for it.
const VARYING: [(&str, &str); 28] = [
    (r"pilot-backbone:[a-z2-7]{52}@\S+", "pilot-backbone:KEY@IP:PORT"),
    (r"pilot:[a-z2-7]{52}\.\d+@\S+", "pilot:KEY.MODIFIER@IP:PORT"),
    (r"\b[a-z2-7]{52}\b", "KEY"),
    (r"(pilot-invite:[a-z-]+)\.\S+", "$1.CHARACTERS"),
    (r"(?m)/[0-9A-Z]{4}-[0-9A-Z]{4}$", "/XXXX-XXXX"),
    (r"(?m)^[0-9a-f]{16}  ", "ID  "),
    (r"uninvite [0-9a-f]{16}", "uninvite ID"),
    // What is left of a day, a year or an hour, in tables.
    (r"\b\d+[dhm] \d+[hms]\b", "LEFT"),
    (r"(?s)-----BEGIN PRIVATE KEY-----.*-----END PRIVATE KEY-----", "PEM"),
    (r"modifier: \d+", "modifier: MODIFIER"),
    (r"0:[0-9A-F]{4}\.[0-9A-F]{4}\.[0-9A-F]{4}", "ADDRESS"),
    (r"(127\.0\.0\.1|0\.0\.0\.0|\[::1?\]):[1-9]\d+", "IP:PORT"),
    (r"\b(pid|kill) \d+", "$1 PID"),
    (r"(?m)\b\d+(\.\d)?ms(  |$)", "TIME$2"),
    (r"Uptime: .*", "Uptime: TIME"),
    (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "DATE"),
    (r"\(os error \d+\)", "(os error N)"),
    // A path that is new has no round trip yet, and nothing was lost on it.
    (r"\b(direct|relay) +(IP:PORT) +(TIME|- ) +\d+(\.\d)?% +\d+s", "PATH  VIA  TIME  LOSS  SINCE"),
    (r", (direct|relay), TIME", ", PATH, TIME"),
    // As the machine has it.
    (r"(?m)^IPv6: .*", "IPv6: WORDS"),
    (r"(?m)\b(yes|no) +(TIME|-)$", "$1  TIME"),
    (r"(?m)^(answered by: .*), TIME$", "$1"),
    (r"\b\d+(\.\d)? (B|kB|MB)\b", "BYTES"),
    (r"Relayed: \d+ packets", "Relayed: N packets"),
    (r"Circuits: \d+", "Circuits: N"),
    (r"x{40,}", "x…"),
    // Columns are as wide as what stands in them.
    (r"(?m) +$", ""),
    (r"  +", "  "),
];

/// What was typed and what came back.
pub struct Transcript<'a> {
    home: &'a Home,
    text: String,
}

impl<'a> Transcript<'a> {
    pub fn new(home: &'a Home) -> Self {
        Self { home, text: String::new() }
    }

    /// Types a command. What it says on stderr is marked with `!`, and an exit code that is not 0 ends it.
    #[track_caller]
    pub fn run(&mut self, arguments: &[&str]) {
        self.run_command(self.home.command(arguments), arguments, b"");
    }

    /// The same with something piped in.
    #[track_caller]
    pub fn run_with_input(&mut self, arguments: &[&str], input: &str) {
        self.run_command(self.home.command(arguments), arguments, input.as_bytes());
    }

    #[track_caller]
    pub fn run_command(&mut self, command: Command, arguments: &[&str], input: &[u8]) {
        let said = finish(command, input);
        let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
        let pipe = if input.is_empty() {
            String::new()
        } else {
            format!("echo {} | ", quoted(String::from_utf8_lossy(input).trim_end()))
        };
        let typed = format!("$ {pipe}pilotctl {}", words.join(" "));
        let long = Regex::new("x{40,}").expect("a pattern");
        let mut lines = vec![long.replace_all(&typed, "x…").into_owned()];
        let output = self.steady(&said.stdout);
        lines.extend(output.lines().map(str::to_owned));
        let talk = self.steady(&said.stderr);
        lines.extend(talk.lines().map(|line| format!("! {line}")));
        if said.code != 0 {
            lines.push(format!("[exit {}]", said.code));
        }
        self.text += &self.without_paths(&format!("{}\n\n", lines.join("\n")));
    }

    /// The whole session.
    pub fn text(&self) -> String {
        format!("{}\n", self.text.trim_end())
    }

    fn steady(&self, text: &str) -> String {
        let mut text = self.without_paths(text);
        for (varying, word) in VARYING {
            text = Regex::new(varying).expect("a pattern").replace_all(&text, word).into_owned();
        }
        text
    }

    fn without_paths(&self, text: &str) -> String {
        let home = self.home.path().to_string_lossy();
        text.replace(PILOTCTL, "pilotctl").replace(&*home, "$PILOT_HOME")
    }
}

/// As one would type it in a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@$".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
