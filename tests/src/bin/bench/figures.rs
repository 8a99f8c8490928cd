//! Median, least and greatest of some durations, as columns of a table. Knows not what was timed.

use std::fmt;
use std::time::Duration;

/// What a row of durations comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    median: Duration,
    least: Duration,
    greatest: Duration,
}

impl Figures {
    /// Sums up; nothing for no durations.
    pub(crate) fn of(mut durations: Vec<Duration>) -> Option<Self> {
        durations.sort();
        Some(Self {
            median: *durations.get(durations.len() / 2)?,
            least: *durations.first()?,
            greatest: *durations.last()?,
        })
    }
}

impl fmt::Display for Figures {
    /// Writes three columns of milliseconds: median, least, greatest.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, least, greatest] = [self.median, self.least, self.greatest].map(milliseconds);
        write!(formatter, "{median:>9.1}{least:>9.1}{greatest:>9.1}")
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_durations_does_not_matter() {
        let figures = Figures::of([5, 1, 3].map(Duration::from_millis).to_vec());
        let shown = figures.expect("three durations").to_string();
        assert_eq!(
            shown.split_whitespace().collect::<Vec<_>>(),
            ["3.0", "1.0", "5.0"]
        );
    }

    #[test]
    fn no_durations_come_to_nothing() {
        assert_eq!(Figures::of(Vec::new()), None);
    }
}
