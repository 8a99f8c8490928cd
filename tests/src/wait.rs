//! Waiting for a condition with a deadline, the lab's only way to wait.

use std::env;
use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at: often enough to time a tunnel, seldom enough to leave two cores to it.
const INTERVAL: Duration = Duration::from_millis(20);

/// Returns how many times longer than usual everything may take: `WICE_PATIENCE`, else 1. Emulated machines are slow.
pub fn patience() -> u32 {
    env::var("WICE_PATIENCE")
        .ok()
        .and_then(|factor| factor.parse().ok())
        .unwrap_or(1)
}

/// Asks `look` until it finds something, and fails with `what` when `deadline`, times [`patience`], has passed. An error of `look` counts as
/// "not yet", and is shown when the deadline passes.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline * patience();
    loop {
        let seen = look();
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if Instant::now() >= end {
            let why = seen
                .err()
                .map(|error| format!("; last error: {error:#}"))
                .unwrap_or_default();
            bail!(
                "waited {} s for {what}, in vain{why}",
                (deadline * patience()).as_secs_f32()
            );
        }
        thread::sleep(INTERVAL);
    }
}

/// Watches `look` for `time` and fails as soon as its answer differs from `expected`.
pub fn steadily<T: PartialEq + Debug>(
    what: &str,
    time: Duration,
    expected: &T,
    mut look: impl FnMut() -> Result<T>,
) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let seen = look()?;
        if seen != *expected {
            bail!("{what} changed from {expected:?} to {seen:?}");
        }
        thread::sleep(INTERVAL * 5);
    }
    Ok(())
}
