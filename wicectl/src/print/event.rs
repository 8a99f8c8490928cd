//! One change: a line for a person, or JSON.

use serde::{Serialize, Serializer};
use wice_bus::{Reason, State};

use super::style::Style;
use super::{escape, words};

/// One line of `monitor --json`.
#[derive(Serialize)]
pub(crate) struct Line {
    /// [`super::json::VERSION`].
    pub(crate) version: u32,
    /// Unix time in milliseconds.
    pub(crate) time_ms: u64,
    #[serde(flatten)]
    /// What happened.
    pub(crate) event: Event,
}

/// One change; `docs/dbus.md` describes the JSON.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The agent took its name.
    AgentStarted,
    /// The agent is gone.
    AgentStopped,
    /// A backend came, or changed.
    Backend {
        url: String,
        state: &'static str,
        error: String,
    },
    /// A relay came, or changed.
    Relay {
        url: String,
        state: &'static str,
        error: String,
    },
    /// A WireGuard interface appeared.
    InterfaceAdded { interface: String },
    /// A WireGuard interface is gone.
    InterfaceRemoved { interface: String },
    /// A peer appeared.
    PeerAdded(Who),
    /// A peer is gone.
    PeerRemoved(Who),
    /// A session changed its state.
    State {
        #[serde(flatten)]
        who: Who,
        #[serde(serialize_with = "state_word")]
        new: State,
        #[serde(serialize_with = "state_word")]
        old: State,
        #[serde(serialize_with = "reason_word")]
        reason: Reason,
    },
    /// Packets travel another way.
    Path {
        #[serde(flatten)]
        who: Who,
        new: String,
        old: String,
    },
    /// WireGuard's endpoint is another.
    Endpoint {
        #[serde(flatten)]
        who: Who,
        endpoint: String,
    },
}

/// A peer as a line names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Who {
    pub(crate) interface: String,
    pub(crate) peer: String,
    pub(crate) name: String,
}

impl Event {
    /// The line for a person.
    pub(crate) fn text(&self, style: Style) -> String {
        match self {
            Self::AgentStarted => style.bold("agent started"),
            Self::AgentStopped => style.warn("agent stopped"),
            Self::Backend { url, state, error } if error.is_empty() => {
                format!("backend {} {state}", escape(url))
            }
            Self::Backend { url, state, error } => {
                format!(
                    "backend {} {} ({})",
                    escape(url),
                    style.warn(state),
                    escape(error)
                )
            }
            Self::Relay { url, state, error } if error.is_empty() => {
                format!("relay {} {state}", escape(url))
            }
            Self::Relay { url, state, error } => {
                format!(
                    "relay {} {} ({})",
                    escape(url),
                    style.warn(state),
                    escape(error)
                )
            }
            Self::InterfaceAdded { interface } => format!("{} added", escape(interface)),
            Self::InterfaceRemoved { interface } => format!("{} removed", escape(interface)),
            Self::PeerAdded(who) => format!("{} added", who.text(style)),
            Self::PeerRemoved(who) => format!("{} removed", who.text(style)),
            Self::State {
                who,
                new,
                old,
                reason,
            } => {
                let why = words::reason(*reason);
                let why = if why.is_empty() {
                    String::new()
                } else {
                    format!(": {why}")
                };
                format!(
                    "{} {} -> {}{why}",
                    who.text(style),
                    style.state(*old),
                    style.state(*new)
                )
            }
            Self::Path { who, new, old } => {
                format!(
                    "{} path {} -> {}",
                    who.text(style),
                    escape(old),
                    escape(new)
                )
            }
            Self::Endpoint { who, endpoint } if endpoint.is_empty() => {
                format!("{} has no endpoint", who.text(style))
            }
            Self::Endpoint { who, endpoint } => {
                format!("{} endpoint {}", who.text(style), escape(endpoint))
            }
        }
    }
}

impl Who {
    fn text(&self, style: Style) -> String {
        let label = if self.name.is_empty() {
            &self.peer
        } else {
            &self.name
        };
        format!("{} {}", escape(&self.interface), style.bold(&escape(label)))
    }
}

fn state_word<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.word())
}

fn reason_word<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_harmless_line() {
        let who = Who {
            interface: "wg0".to_owned(),
            peer: "a2V5".to_owned(),
            name: "lap\ntop".to_owned(),
        };
        let state = Event::State {
            who: who.clone(),
            new: State::Failed,
            old: State::Checking,
            reason: Reason::NoPairWorks,
        };
        assert_eq!(
            state.text(Style::plain()),
            "wg0 lap\\ntop checking -> failed: no pair of addresses works: it keeps trying"
        );
        let unnamed = Who {
            name: String::new(),
            ..who
        };
        let endpoint = Event::Endpoint {
            who: unnamed,
            endpoint: "192.0.2.1:51820".to_owned(),
        };
        assert_eq!(
            endpoint.text(Style::plain()),
            "wg0 a2V5 endpoint 192.0.2.1:51820"
        );
    }
}
