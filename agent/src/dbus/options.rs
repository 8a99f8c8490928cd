//! The options that methods take: what is known of them, and what is wrong with the rest.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use wice_bus::Error;
use zbus::OwnedVariant;

/// How long a check of the network takes where nobody says otherwise, in milliseconds, and what may be said: D-Bus clients give
/// up after 25 s.
const CHECK_TIMEOUT: u32 = 5000;
const CHECK_TIMEOUTS: RangeInclusive<u32> = 1000..=15_000;

/// For a method without any.
pub(super) fn none(options: &HashMap<String, OwnedVariant>) -> Result<(), Error> {
    options.keys().next().map_or(Ok(()), |option| {
        Err(Error::InvalidArgument(format!(
            "unknown option {option:?}: this version has none"
        )))
    })
}

/// How long a check of the network may take: its only option.
pub(super) fn check_timeout(mut options: HashMap<String, OwnedVariant>) -> Result<Duration, Error> {
    let timeout = options.remove("Timeout");
    if let Some(option) = options.keys().next() {
        return Err(Error::InvalidArgument(format!(
            "unknown option {option:?}: this version has \"Timeout\" only"
        )));
    }
    let Some(timeout) = timeout else {
        return Ok(Duration::from_millis(CHECK_TIMEOUT.into()));
    };
    let timeout = u32::try_from(timeout).ok();
    let timeout = timeout.filter(|timeout| CHECK_TIMEOUTS.contains(timeout));
    let timeout = timeout.ok_or_else(|| {
        let (least, most) = (CHECK_TIMEOUTS.start(), CHECK_TIMEOUTS.end());
        Error::InvalidArgument(format!(
            "the option \"Timeout\" takes milliseconds from {least} to {most} as a u"
        ))
    })?;
    Ok(Duration::from_millis(timeout.into()))
}
