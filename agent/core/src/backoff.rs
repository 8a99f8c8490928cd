//! Delays that grow: the only place that knows how.

use std::time::Duration;

use rand::RngExt;

use crate::session::Random;

/// Delays from `first` to `last`, each half as long again as the one before, ±20 %.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`, never exceeds `last` by more than the jitter.
    pub const fn new(first: Duration, last: Duration) -> Self {
        Self {
            first,
            last,
            next: first,
        }
    }

    /// Starts over.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next delay, jittered so that many peers do not speak at once.
    pub fn next_delay(&mut self, random: &mut Random) -> Duration {
        let delay = self.next.mul_f64(random.random_range(0.8..=1.2));
        self.next = (self.next * 3 / 2).min(self.last);
        delay
    }
}
