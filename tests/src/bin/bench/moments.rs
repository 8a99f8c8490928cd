//! When an agent said what, from its own log. Knows the log's form, not what the moments are for.

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use wice_tests::topology::Host;

/// The lines of an agent's log as they are written.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    text: String,
}

impl Log {
    /// Opens the log of the agent that runs in `host`.
    pub(crate) fn open(host: &Host) -> Result<Self> {
        let path = "/run/lab/wice-agent.log";
        let file = host
            .machine
            .enter(|| File::open(path).with_context(|| format!("cannot open {path}")))?;
        Ok(Self {
            file,
            text: String::new(),
        })
    }

    /// Returns the time since the Unix epoch of the first line that contains `words`, if there is one by now.
    pub(crate) fn first(&mut self, words: &str) -> Result<Option<Duration>> {
        self.file.read_to_string(&mut self.text)?;
        let line = self.text.lines().find(|line| line.contains(words));
        let stamp = line.and_then(|line| line.split_whitespace().next());
        stamp
            .map(|stamp| instant(stamp).with_context(|| format!("not a timestamp: {stamp}")))
            .transpose()
    }
}

/// Returns the present as the log's timestamps tell it.
pub(crate) fn present() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Reads a timestamp such as `2026-01-31T23:59:59.123456Z`.
fn instant(stamp: &str) -> Option<Duration> {
    let (date, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<u64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let (hour, minute): (u64, u64) = (time.next()?.parse().ok()?, time.next()?.parse().ok()?);
    let second: f64 = time.next()?.parse().ok()?;
    let minutes = (days(year, month, day) * 24 + hour) * 60 + minute;
    Some(Duration::from_secs(minutes * 60) + Duration::from_secs_f64(second))
}

/// Days from 1 January 1970 to a date of the Gregorian calendar: years are counted from March, so that the leap day is
/// the last one.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month > 2 { year } else { year - 1 };
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + in_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_counts_from_the_unix_epoch() {
        assert_eq!(instant("1970-01-01T00:00:00.000000Z"), Some(Duration::ZERO));
        assert_eq!(
            instant("2024-02-29T12:00:00.500000Z"),
            Some(Duration::from_millis(1_709_208_000_500))
        );
        assert_eq!(
            instant("2026-11-24T03:00:55.000000Z"),
            Some(Duration::from_secs(1_795_489_255))
        );
    }

    #[test]
    fn other_text_is_no_timestamp() {
        assert_eq!(instant("wice-agent:"), None);
        assert_eq!(instant("2026-11T03:00Z"), None);
    }
}
