//! The API server's clock, read off the `Date` of its answers: agents that agree on it agree on what has expired, however
//! wrong their own clocks are.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use http::HeaderMap;
use http::header::DATE;
use k8s_openapi::jiff::fmt::rfc2822::DateTimeParser;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// How far the server is ahead of this machine; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock(Arc<AtomicI64>);

impl Clock {
    /// The present, as the server has it.
    pub(super) fn now(&self) -> Timestamp {
        let ahead = SignedDuration::from_secs(self.0.load(Ordering::Relaxed));
        let own = Timestamp::now();
        own.saturating_add(ahead).unwrap_or(own)
    }

    /// Takes the time of an answer (RFC 9110 §6.6.1); one that cannot be read changes nothing.
    pub(super) fn observe(&self, headers: &HeaderMap) {
        static PARSER: DateTimeParser = DateTimeParser::new();
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        if let Some(server) = date.and_then(|date| PARSER.parse_timestamp(date).ok()) {
            let ahead = server.as_second() - Timestamp::now().as_second();
            self.0.store(ahead, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_present_is_that_of_the_last_answer() {
        let clock = Clock::default();
        let mut headers = HeaderMap::new();
        headers.insert(
            DATE,
            HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"),
        );
        clock.observe(&headers);
        let passed = clock.now().as_second() - 784_111_777;
        assert!((0..60).contains(&passed), "{passed}");
        headers.insert(DATE, HeaderValue::from_static("tomorrow"));
        clock.observe(&headers);
        let passed = clock.now().as_second() - 784_111_777;
        assert!((0..60).contains(&passed), "{passed}");
    }
}
