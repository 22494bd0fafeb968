//! What came out, for people and for programs, always with the machine and the command that produced it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use pilot_core::time::UnixTime;
use pilot_daemon::clock;
use serde_json::{Value, json};

use crate::error::BenchError;
use crate::figure::{Outcome, Row, median, spread};
use crate::fleet::{Day, SETTLING};
use crate::flood::{Flood, Tally};

/// Features of the processor that decide how fast the AEAD is.
const CPU_FLAGS: [&str; 6] = ["aes", "pclmulqdq", "avx2", "avx512f", "vaes", "vpclmulqdq"];

/// Where and how the figures were measured.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    cpu: String,
    cores: usize,
    flags: Vec<&'static str>,
    kernel: String,
    load: String,
    ticks: Ticks,
    date: String,
    command: String,
    rounds: usize,
}

impl Run {
    /// This machine, now.
    pub(crate) fn here(rounds: usize) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        let flags = field("flags");
        let has = |flag: &&str| flags.split(' ').any(|have| have == *flag);
        let features = if cfg!(feature = "peers") { "--features peers " } else { "" };
        let args: Vec<String> = std::env::args().skip(1).collect();
        Self {
            cpu: field("model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            flags: CPU_FLAGS.into_iter().filter(has).collect(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            ticks: Ticks::now(),
            date: date(clock::now().unix),
            command: format!("cargo run --release -p pilot-bench {features}-- {}", args.join(" ")),
            rounds,
        }
    }

    /// The run as one line of JSON.
    pub(crate) fn json(&self) -> Value {
        json!({
            "run": {
                "date": self.date, "commit": commit(), "command": self.command, "rounds": self.rounds, "cpu": self.cpu,
                "cores": self.cores, "cpu_flags": self.flags, "kernel": self.kernel, "load_average": self.load,
                "stolen_percent": self.ticks.stolen_percent(),
            }
        })
    }

    /// The run as the head of a page about what happened in the network lab.
    #[cfg(target_os = "linux")]
    pub(crate) fn lab_markdown(&self, seed: u64, ceiling: &str) -> String {
        format!(
            "- command: `{}`\n- date: {}; commit {}; seed {seed}\n- machine: {} cores; Linux {}; load average before: {}; {}\n- {ceiling}\n\n",
            self.command,
            self.date,
            commit(),
            self.cores,
            self.kernel,
            self.load,
            self.stolen()
        )
    }

    /// The run as the head of a page.
    pub(crate) fn markdown(&self) -> String {
        format!(
            "{}- {} rounds that are kept, contestants in turn; median, ± half the interquartile range; \
             the last column is the median of the ratios within a round\n",
            self.head(),
            self.rounds
        )
    }

    /// The same without how figures are compared.
    fn head(&self) -> String {
        format!(
            "- command: `{}`\n- date: {}; commit {}\n- machine: {}, {} cores, flags {}; Linux {}; load average before: {}; {}\n",
            self.command,
            self.date,
            commit(),
            self.cpu,
            self.cores,
            self.flags.join(" "),
            self.kernel,
            self.load,
            self.stolen()
        )
    }

    /// What a virtual machine's host has given to others, since the run began.
    fn stolen(&self) -> String {
        format!("the host took {:.0} % of the processors since", self.ticks.stolen_percent())
    }
}

/// How the processors have spent their time, in ticks (proc_stat(5)).
#[derive(Clone, Copy, Debug)]
struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// Those since the machine started. The eighth number is what was stolen; what follows that is in the first two already.
    fn now() -> Self {
        let stat = read("/proc/stat");
        let first = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = first.split_whitespace().skip(1).take(8).filter_map(|ticks| ticks.parse().ok()).collect();
        Self { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or(0) }
    }

    fn stolen_percent(&self) -> f64 {
        let now = Self::now();
        let [all, stolen] = [now.all - self.all, now.stolen - self.stolen];
        100.0 * stolen as f64 / all.max(1) as f64
    }
}

/// A figure as one line of JSON for each contestant.
pub(crate) fn json_lines(outcome: &Outcome) -> Vec<Value> {
    let line = |row: &Row| {
        json!({
            "figure": outcome.name, "contestant": row.name, "unit": outcome.unit.symbol(), "median": row.median,
            "spread": row.spread, "ratio_to_tcp": row.ratio, "rounds": row.rounds,
        })
    };
    outcome.rows.iter().map(line).collect()
}

/// A figure as a table.
pub(crate) fn table(outcome: &Outcome) -> String {
    let mut table = format!("\n## {}\n\n{}\n\n", outcome.name, outcome.what);
    let unit = outcome.unit.symbol();
    let yardstick = outcome.rows.first().map_or("", |row| row.name);
    let yardstick = if yardstick == "tcp" { "TCP" } else { yardstick };
    table.push_str(&format!("| | {unit} | ± | x {yardstick} |\n|---|---|---|---|\n"));
    for Row { name, median, spread, ratio, .. } in &outcome.rows {
        // Writing to a string does not fail.
        _ = writeln!(table, "| {name} | {} | {} | {} |", short(*median), short(*spread), short(*ratio));
    }
    table
}

/// Keeps a run: `figures.jsonl` for programs, `figures.md` for people.
pub(crate) fn save(directory: &Path, run: &Run, outcomes: &[Outcome]) -> Result<(), BenchError> {
    std::fs::create_dir_all(directory)?;
    let lines = std::iter::once(run.json()).chain(outcomes.iter().flat_map(json_lines));
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(directory.join("figures.jsonl"), lines)?;
    let tables: String = outcomes.iter().map(table).collect();
    std::fs::write(directory.join("figures.md"), format!("# Figures\n\n{}{tables}", run.markdown()))?;
    Ok(())
}

/// A column of [`fleet_page`]: what is measured, its unit, and where it stands.
type Column = (&'static str, &'static str, fn(&Day) -> f64);

/// Measured fleets, the sizes of the program in bytes, and the decisions that a fleet rests on.
pub(crate) fn fleet_page(run: &Run, agents: usize, days: &[Day], sizes: &[u64], micro: &[Outcome]) -> String {
    const COLUMNS: [Column; 6] = [
        ("first `daemon start` until the last agent is a member", "s", |day| day.joined_s),
        ("until every agent was answered by every other, as a member", "s", |day| day.trusted_s),
        ("calls among these that had to be made again", "calls", |day| day.in_vain),
        ("memory of all agents, each with a tunnel to the backbone and to a few members", "MiB", |day| day.idle_mib),
        ("memory of all agents, each with a tunnel to every other", "MiB", |day| day.connected_mib),
        ("`org revoke` until the last tunnel with the revoked agent is closed", "s", |day| day.revoked_s),
    ];
    let mut page = format!("# Fleet\n\n{}", run.head());
    page.push_str(&format!(
        "\n## {agents} agents, one invite, one machine\n\nEach is a process with a home of its own, and this is its first boot: identity, \
         registration and membership included. They share a backbone and nothing else, so that a call is answered only because caller \
         and called are members. All {} ordered pairs call, after which each agent lists all {agents} members. Memory is the sum of what \
         proc(5) calls Pss, when all were left alone for {} s; these are not counted elsewhere.\n\n\
         | | median of {} | ± |\n|---|---|---|\n",
        agents * agents.saturating_sub(1),
        SETTLING.as_secs(),
        days.len(),
    ));
    for (what, unit, of) in COLUMNS {
        let values: Vec<f64> = days.iter().map(of).collect();
        // Writing to a string does not fail.
        _ = writeln!(page, "| {what} | {} {unit} | {} |", short(median(&values)), short(spread(&values)));
    }
    page.push_str("\n## The program\n\n| | bytes |\n|---|---|\n");
    for (name, size) in ["`cargo build --release`", "`packaging/build static`, as it is handed out"].iter().zip(sizes) {
        _ = writeln!(page, "| {name} | {size} |");
    }
    page.extend(micro.iter().map(table));
    page
}

/// A measured flood, with what became of its packets.
pub(crate) fn flood_page(run: &Run, outcome: &Outcome, tallies: &BTreeMap<Flood, Tally>) -> String {
    let mut page = format!("# Flood\n\n{}{}", run.markdown(), table(outcome));
    page.push_str("\n| the flood | packets a second sent | dropped by the receiver |\n|---|---|---|\n");
    for (flood, Tally { sent, time, drops }) in tallies {
        let per_second = |count: u64| count as f64 / time.as_secs_f64();
        let reasons = drops.iter().filter(|(_, count)| per_second(**count) >= 1.0);
        let reasons: Vec<_> = reasons.map(|(reason, count)| format!("{reason} {:.0}/s", per_second(*count))).collect();
        // Writing to a string does not fail.
        _ = writeln!(page, "| {} | {:.0} | {} |", flood.name(), per_second(*sent), reasons.join(", "));
    }
    page
}

/// The commit that is checked out here, and whether more than that was measured. What was measured before is none of it.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let changes =
        if git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benches/results"])
            .is_empty()
        {
            ""
        } else {
            ", with changes"
        };
    format!("{}{changes}", git(&["rev-parse", "--short", "HEAD"]))
}

/// Three significant digits.
pub(crate) fn short(value: f64) -> String {
    let decimals = match value.abs() {
        magnitude if magnitude >= 100.0 => 0,
        magnitude if magnitude >= 10.0 => 1,
        magnitude if magnitude >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// The day of a time, UTC (days to civil date, proleptic Gregorian).
fn date(time: UnixTime) -> String {
    let days = time.as_secs() / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let (month, carry) = if shifted_month < 10 { (shifted_month + 3, 0) } else { (shifted_month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", year_of_era + era * 400 + carry)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let on = |secs| date(UnixTime::from_secs(secs));
        assert_eq!(on(0), "1970-01-01");
        assert_eq!(on(951_782_400), "2000-02-29");
        assert_eq!(on(1_735_689_599), "2024-12-31");
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([12_345.0, 123.4, 12.34, 1.234, 0.1234].map(short), ["12345", "123", "12.3", "1.23", "0.123"]);
    }
}
