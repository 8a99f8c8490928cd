//! What a backend is: the trait, and how it fails.
//!
//! Knows nothing of any single backend.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
#[cfg(any(test, feature = "http", feature = "websocket"))]
use url::Url;

use super::BackendConfig;
use super::link::Link;
use crate::logging::causes;

/// A way to move sealed messages between mailboxes.
///
/// To add one: a file with a type that implements this trait, an optional dependency behind a feature of the same
/// name, a line in `known_schemes` and one in `spawn`, and an instance of the contract suite. The supervisor restarts,
/// delays, logs and reports; the backend only works until it cannot.
pub(super) trait Backend: Sized + Send + 'static {
    /// The URL schemes that choose this backend.
    const SCHEMES: &'static [&'static str];

    /// Prepares; connects to nothing yet.
    fn new(config: &BackendConfig) -> Result<Self, BackendError>;

    /// Connects, brings about what `link` wants and hands over what arrives; returns only when it fails.
    ///
    /// Called again after a failure: nothing that an earlier connection brought about counts. MUST report
    /// [`Link::connected`] when the server answers and [`Link::settled`] when it has everything that is wanted, and
    /// MUST keep reading the wishes while the server is slow. May be dropped at any await.
    fn run(
        &mut self,
        link: &mut Link,
    ) -> impl Future<Output = Result<Infallible, BackendError>> + Send;
}

/// Why a backend stopped. It is tried again in any case.
#[cfg_attr(
    not(all(feature = "http", feature = "kubernetes", feature = "websocket")),
    allow(dead_code, reason = "not every backend fails in every way")
)]
#[derive(Debug, thiserror::Error)]
pub(super) enum BackendError {
    /// It could not be prepared.
    #[error("cannot prepare the connection: {}; check the URL, the token and the system's CA certificates", causes(source.as_ref()))]
    Setup {
        /// What was missing.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The network or TLS failed.
    #[error("tried to {tried}: {}; check the URL, the name's address, the network and the server", causes(source.as_ref()))]
    Unreachable {
        /// What was tried.
        tried: &'static str,
        /// What came back.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nothing came back in time.
    #[error("tried to {tried}: no answer within {} s; check the network and the server", within.as_secs())]
    Silent {
        /// What was tried.
        tried: &'static str,
        /// How long was waited.
        within: Duration,
    },
    /// The server refuses the token, or its absence.
    #[error("tried to {tried}: the server answered {status}: {}", if *with_token {
        "it refuses the token; put its current one into `token-file`"
    } else {
        "it asks for a token; set `token-file`"
    })]
    Unauthorized {
        /// What was tried.
        tried: &'static str,
        /// HTTP status.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The server answered something else than what the protocol says.
    #[error(
        "tried to {tried}: the server answered {status}{detail}; check that the URL is that of a WICE server"
    )]
    Status {
        /// What was tried.
        tried: &'static str,
        /// HTTP status.
        status: u16,
        /// What it said about it: empty, or ": " and text.
        detail: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The server sent what the protocol does not allow.
    #[error(
        "tried to {tried}: the server sent {what}; check that the URL is that of a WICE server"
    )]
    Malformed {
        /// What was tried.
        tried: &'static str,
        /// What it sent.
        what: &'static str,
    },
    /// The server ended the connection.
    #[error("the server closed the connection; it may be restarting")]
    Closed,
    /// The server is leaving, and others of its kind serve the same mailboxes.
    #[error("the server is stopping and others go on; connecting to one of those")]
    Moved,
    /// The server ended a poll that it should have held.
    #[error("the server ended a poll early; it may be restarting")]
    Stopping,
    /// What only a server of one kind says, and what to do about it, in the words of its backend.
    #[error("{0}")]
    Special(Box<dyn Error + Send + Sync>),
    /// A defect of ours; the panic itself has been printed.
    #[error("the backend crashed; please report this with the log around it")]
    Panicked,
}

impl BackendError {
    /// How long the server wants to be left alone.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

#[cfg(any(test, feature = "http", feature = "websocket"))]
/// Longest pause that a server can impose.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

#[cfg(any(test, feature = "http", feature = "websocket"))]
/// Reads `Retry-After` in its form of seconds (RFC 9110 §10.2.3); another form counts as one second.
pub(super) fn retry_after_seconds(value: &[u8]) -> Duration {
    let seconds = std::str::from_utf8(value).ok().map(str::trim);
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(1);
    Duration::from_secs(seconds).min(MAX_RETRY_AFTER)
}

#[cfg(any(test, feature = "http", feature = "websocket"))]
/// The URL of one of the server's resources, under the configured path prefix.
pub(super) fn resource(base: &Url, tail: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/v1/{tail}", base.path().trim_end_matches('/')));
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// Waits for an instant, or for ever where there is none.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_lies_under_the_prefix_of_the_configured_url() {
        for base in ["https://host/a/b", "https://host/a/b/"] {
            let url = resource(&base.parse().expect("a URL"), "poll");
            assert_eq!(url.as_str(), "https://host/a/b/v1/poll");
        }
        let url = resource(&"ws://host:1".parse().expect("a URL"), "websocket");
        assert_eq!(url.as_str(), "ws://host:1/v1/websocket");
    }

    #[test]
    fn a_server_cannot_impose_a_pause_without_end() {
        assert_eq!(retry_after_seconds(b"7"), Duration::from_secs(7));
        assert_eq!(retry_after_seconds(b"99999999999"), MAX_RETRY_AFTER);
        assert_eq!(retry_after_seconds(b"tomorrow"), Duration::from_secs(1));
    }
}
