//! Times that a person gives in seconds.

use std::time::Duration;

use tokio::time::Instant;

use crate::failure::Failure;

/// The length of a time that was given with `option`.
pub(crate) fn duration(option: &str, seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| Failure::Usage(format!("{option} {seconds}: not a time in seconds")))
}

/// The moment at which that time from now is over.
pub(crate) fn after(option: &str, seconds: f64) -> Result<Instant, Failure> {
    Instant::now()
        .checked_add(duration(option, seconds)?)
        .ok_or_else(|| Failure::Usage(format!("{option} {seconds}: too far away")))
}
