//! A bound on bytes per second: what is above it is dropped, as a line would do.

use std::time::{Duration, Instant};

/// Bytes that may flow, refilled at a rate. Without a rate everything may.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    per_second: Option<f64>,
    bytes: f64,
    at: Instant,
}

/// How much may come at once, in time at the full rate: as much as a window of TCP over a long path is late.
const BURST: Duration = Duration::from_millis(100);

/// At least this many bytes at once: one batch from the kernel.
const LEAST: f64 = 65_536.0;

impl Bucket {
    /// Allows so many bits a second; 0 is no bound.
    pub(super) fn new(bits_per_second: u64, now: Instant) -> Self {
        let per_second = (bits_per_second > 0).then_some(bits_per_second as f64 / 8.0);
        let mut bucket = Self {
            per_second,
            bytes: 0.0,
            at: now,
        };
        bucket.bytes = bucket.most();
        bucket
    }

    /// Takes bytes out, if there are enough.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let Some(per_second) = self.per_second else {
            return true;
        };
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.bytes = (self.bytes + elapsed * per_second).min(self.most());
        self.at = now;
        let enough = self.bytes >= bytes as f64;
        if enough {
            self.bytes -= bytes as f64;
        }
        enough
    }

    fn most(&self) -> f64 {
        let burst = self.per_second.unwrap_or(0.0) * BURST.as_secs_f64();
        burst.max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flows_is_what_the_rate_allows() {
        let start = Instant::now();
        let mut bucket = Bucket::new(8_000_000, start);
        let mut passed = 0;
        for millisecond in 0..1_000 {
            for _ in 0..10 {
                if bucket.take(1_000, start + Duration::from_millis(millisecond)) {
                    passed += 1_000;
                }
            }
        }
        // A megabyte a second, and the burst.
        assert!((1_000_000..=1_110_000).contains(&passed), "{passed}");
        let mut free = Bucket::new(0, start);
        assert!((0..1_000_000).all(|_| free.take(1_500, start)));
    }
}
