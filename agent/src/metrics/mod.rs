//! How the agent fares, for Prometheus: figures without any secret, name of a peer or address.
//!
//! Keeps what only a change tells (how long a connection took); all else is looked up when somebody asks. Decides nothing.

#[cfg(not(feature = "metrics"))]
mod absent;
#[cfg(feature = "metrics")]
mod endpoint;
#[cfg(feature = "metrics")]
mod exposition;
#[cfg(feature = "metrics")]
mod present;
#[cfg(all(test, feature = "metrics"))]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

use std::collections::BTreeMap;

#[cfg(not(feature = "metrics"))]
pub(crate) use absent::Metrics;
#[cfg(feature = "metrics")]
pub(crate) use present::Metrics;

/// The agent at one moment, in numbers.
#[cfg_attr(
    not(feature = "metrics"),
    allow(dead_code, reason = "a build without metrics shows none")
)]
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// WireGuard interfaces, managed and not.
    pub(crate) interfaces: BTreeMap<bool, u64>,
    /// Peers by the word of their state.
    pub(crate) peers: BTreeMap<&'static str, u64>,
    /// Peers by how packets travel, and over which network where the agent chose the path.
    pub(crate) paths: BTreeMap<(&'static str, &'static str), u64>,
    /// Sessions that were started anew, by the word of the reason.
    pub(crate) restarts: BTreeMap<&'static str, u64>,
    /// Input that changed nothing, by reason.
    pub(crate) dropped: BTreeMap<&'static str, u64>,
    /// Signalling backends.
    pub(crate) backends: Vec<BackendFigures>,
    /// TURN servers by the word of their state.
    pub(crate) relays: BTreeMap<&'static str, u64>,
    /// Bytes of WireGuard's packets that relays carried.
    pub(crate) relay_sent: u64,
    /// The same, towards us.
    pub(crate) relay_received: u64,
}

/// One signalling backend in numbers.
#[cfg_attr(
    not(feature = "metrics"),
    allow(dead_code, reason = "a build without metrics shows none")
)]
#[derive(Debug, Clone, Default)]
pub(crate) struct BackendFigures {
    /// Its URL without secrets.
    pub(crate) url: String,
    /// Whether it answers.
    pub(crate) up: bool,
    /// Attempts and connections that ended with an error.
    pub(crate) failures: u64,
    /// Messages by what became of them.
    pub(crate) messages: [(&'static str, u64); 4],
}
