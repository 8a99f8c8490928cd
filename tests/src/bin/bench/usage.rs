//! What a process costs, from `/proc` (proc(5)). Knows no agent.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// When this was read.
    at: Instant,
    /// Time on a processor, in the process and in the kernel for it.
    processor: Duration,
    /// Resident memory in bytes.
    pub(crate) resident: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// How often all its threads went to sleep.
    sleeps: u64,
}

impl Usage {
    /// Reads what the process of this id has used.
    pub(crate) fn of(process: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{process}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        // The second field is the program's name in brackets; utime and stime are the 14th and 15th.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let ticks = |index: usize| -> Result<u32> {
            let field = fields.get(index).context("a short /proc/PID/stat")?;
            Ok(field.parse()?)
        };
        let mut sleeps = 0;
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
            sleeps += number(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        }
        let said = |name: &str| {
            number(&status, name).with_context(|| format!("no {name} in /proc/PID/status"))
        };
        Ok(Self {
            at: Instant::now(),
            processor: TICK * (ticks(11)? + ticks(12)?),
            resident: said("VmRSS:")? * 1024,
            threads: said("Threads:")?,
            sleeps,
        })
    }

    /// Returns the per cent of one core used between `earlier` and this.
    pub(crate) fn load_since(&self, earlier: &Self) -> f64 {
        let used = self.processor.saturating_sub(earlier.processor);
        100.0 * used.as_secs_f64() / self.at.duration_since(earlier.at).as_secs_f64()
    }

    /// Returns how often a second it went to sleep between `earlier` and this.
    pub(crate) fn sleeps_since(&self, earlier: &Self) -> f64 {
        self.sleeps.saturating_sub(earlier.sleeps) as f64
            / self.at.duration_since(earlier.at).as_secs_f64()
    }

    /// Returns the time on a processor so far.
    pub(crate) const fn processor(&self) -> Duration {
        self.processor
    }
}

/// What `/proc` counts processor time in: USER_HZ is 100 on every architecture that Debian has.
const TICK: Duration = Duration::from_millis(10);

/// Reads the number after a name at the start of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_has_a_load() {
        let before = Usage::of(std::process::id()).expect("this process exists");
        while before.at.elapsed() < TICK * 10 {
            std::hint::spin_loop();
        }
        let after = Usage::of(std::process::id()).expect("this process exists");
        assert!(after.load_since(&before) > 0.0);
        assert!(after.resident > 0 && after.threads > 0);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        // No process has the greatest id.
        assert!(Usage::of(u32::MAX).is_err());
    }
}
