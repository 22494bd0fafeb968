//! Durations as people type them: `30s`, `500ms`, `2m`, `1h`, `7d`; a bare number is seconds.

use std::time::Duration;

/// The longest wait that a command line may ask for: a day. Longer is a typing mistake.
const DURATION_MAX: Duration = Duration::from_secs(86_400);

/// The longest time that something may last.
const LONG_DURATION_MAX: Duration = Duration::from_secs(400 * 86_400);

/// Parses for clap, which adds the flag's name to the message.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let duration = parse_number_and_unit(text)?;
    if duration.is_zero() || duration > DURATION_MAX { Err("between 1ms and 24h".to_owned()) } else { Ok(duration) }
}

/// The same for what lasts for days.
pub(crate) fn parse_long(text: &str) -> Result<Duration, String> {
    let duration = parse_number_and_unit(text)?;
    let is_in_range = (Duration::from_secs(1)..=LONG_DURATION_MAX).contains(&duration);
    if is_in_range { Ok(duration) } else { Err("between 1s and 400d".to_owned()) }
}

fn parse_number_and_unit(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| "write it as 30s, 500ms or 2m".to_owned())?;
    let unit_secs = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        other => return Err(format!("unknown unit '{other}': use ms, s, m, h or d")),
    };
    Duration::try_from_secs_f64(number * unit_secs).map_err(|_| "a duration is not negative".to_owned())
}

/// `41s`, `3m 12s`, `2h 5m`, `4d 1h`: the two largest units.
pub(crate) fn display(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m {}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h {}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d {}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

/// `30 s`, `500 ms`: how long something was waited for.
pub(crate) fn display_short(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", duration.as_secs())
    }
}

/// Whole milliseconds, for headers of the local API.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood() {
        for (text, millis) in
            [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000), ("5", 5_000), ("0.5s", 500)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "s", "-1s", "1x", "0s", "25h", "nan", "inf"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn two_largest_units_show() {
        for (secs, text) in [(41, "41s"), (192, "3m 12s"), (7500, "2h 5m"), (349_300, "4d 1h")] {
            assert_eq!(display(Duration::from_secs(secs)), text);
        }
    }
}
