//! Ages, bytes and round-trip times as `wg` shows them.

/// `1 minute, 12 seconds ago`, `Now`, or a note that the clock went back.
pub(crate) fn ago(unix: u64, now: u64) -> String {
    match now.checked_sub(unix) {
        Some(0) => "now".to_owned(),
        Some(age) => format!("{} ago", age_of(age)),
        None => "in the future (the clock was set back)".to_owned(),
    }
}

/// `2 hours, 3 minutes`: the two largest units.
pub(crate) fn age_of(seconds: u64) -> String {
    let units = [
        (seconds / 86_400, "day"),
        (seconds / 3600 % 24, "hour"),
        (seconds / 60 % 60, "minute"),
        (seconds % 60, "second"),
    ];
    let parts: Vec<String> = units
        .iter()
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    if parts.is_empty() {
        "0 seconds".to_owned()
    } else {
        parts.join(", ")
    }
}

/// `1.20 MiB`; whole bytes below 1 KiB.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    UNITS.iter().find(|(_, size)| count >= *size).map_or_else(
        || format!("{count} B"),
        |(unit, size)| format!("{:.2} {unit}", count as f64 / *size as f64),
    )
}

/// Milliseconds with as many digits as are worth reading.
pub(crate) fn milliseconds(microseconds: u64) -> String {
    let value = microseconds as f64 / 1000.0;
    if value < 10.0 {
        format!("{value:.2} ms")
    } else {
        format!("{value:.0} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_name_their_two_largest_units() {
        assert_eq!(ago(100, 112), "12 seconds ago");
        assert_eq!(ago(0, 61), "1 minute, 1 second ago");
        assert_eq!(ago(0, 7200), "2 hours ago");
        assert_eq!(ago(0, 90_061), "1 day, 1 hour ago");
        assert_eq!(ago(5, 5), "now");
        assert_eq!(ago(9, 5), "in the future (the clock was set back)");
    }

    #[test]
    fn bytes_look_as_wg_shows_them() {
        assert_eq!(bytes(92), "92 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(5 << 30), "5.00 GiB");
    }

    #[test]
    fn short_round_trips_keep_their_fractions() {
        assert_eq!(milliseconds(430), "0.43 ms");
        assert_eq!(milliseconds(23_400), "23 ms");
    }
}
