//! What the exit status of `pilotctl` means (spec/cli.md §3). Scripts depend on these numbers: they never change.

/// How a command ended. The numbers are a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitCode {
    /// It did what was asked.
    Ok = 0,
    /// It failed for a reason that none of the others names.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The daemon that should have done it is not running.
    NotRunning = 3,
    /// No such agent, service, group or member.
    NotFound = 4,
    /// The other side's policy says no.
    Refused = 5,
    /// The deadline passed first.
    Timeout = 6,
    /// The agent exists, but no packet gets there.
    Unreachable = 7,
    /// SIGINT or SIGTERM ended it, as shells count: 128 and the number of SIGINT.
    Interrupted = 130,
}

impl ExitCode {
    /// The word for this code in `--json` errors and in the local API.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotRunning => "not_running",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Interrupted => "interrupted",
        }
    }

    /// What to do about a failure that has no better advice of its own.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Ok | Self::Failed | Self::Interrupted => "`pilotctl daemon logs` may say more",
            Self::Usage => "`pilotctl --help` shows how, and so does `--help` after every verb",
            Self::NotRunning => "`pilotctl daemon start --hostname NAME` starts an agent",
            Self::NotFound => "`pilotctl find` shows who is there and what they offer",
            Self::Refused => "its owner decides who may call; `--allow public` there lets everybody",
            Self::Timeout => "--timeout gives it longer",
            Self::Unreachable => "see whether it runs there; `pilotctl peers` shows which tunnels stand",
        }
    }

    /// The code of a word of the local API. A newer daemon may know more words: they are failures.
    pub(crate) fn from_word(word: &str) -> Self {
        const NAMED: [ExitCode; 6] = [
            ExitCode::Usage,
            ExitCode::NotRunning,
            ExitCode::NotFound,
            ExitCode::Refused,
            ExitCode::Timeout,
            ExitCode::Unreachable,
        ];
        NAMED.into_iter().find(|code| code.word() == word).unwrap_or(Self::Failed)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_promised_ones() {
        let words = ["ok", "failed", "usage", "not_running", "not_found", "refused", "timeout", "unreachable"];
        for (number, word) in words.into_iter().enumerate().skip(1) {
            assert_eq!(ExitCode::from_word(word) as usize, number, "{word}");
        }
        assert_eq!(ExitCode::Ok as u8, 0);
    }

    #[test]
    fn a_word_of_a_newer_daemon_is_a_failure() {
        assert_eq!(ExitCode::from_word("quantum_flux"), ExitCode::Failed);
    }
}
