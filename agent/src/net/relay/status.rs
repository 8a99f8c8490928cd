//! How TURN servers fare, for people.

use wice_core::server::ServerUrl;

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelayStatus {
    /// Which one; a URL of a TURN server holds no secret.
    pub(crate) url: ServerUrl,
    /// How it fares, for the interface where it fares best.
    pub(crate) state: RelayState,
    /// What went wrong last, and what to do; empty while nothing is.
    pub(crate) error: Option<String>,
}

/// How a server fares; the later, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RelayState {
    /// It gives no allocation; it is asked again with growing intervals.
    Failed,
    /// It was asked for an allocation.
    Connecting,
    /// It is not needed: another one relays, or nobody has a use for a relay.
    Standby,
    /// It relays.
    Connected,
}
