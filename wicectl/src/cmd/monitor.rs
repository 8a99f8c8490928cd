//! `wicectl monitor`.

use std::collections::{BTreeMap, HashMap};

use clap::Args;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use wice_bus::{BackendState, RelayState, Snapshot};
use zbus::{Connection, Message, OwnedObjectPath, OwnedVariant, Type};

use crate::agent;
use crate::failure::{Exit, Failure};
use crate::print::event::{Event, Line, Who};
use crate::print::style::Style;
use crate::print::{clock, json, json_line, out};

/// How to print.
#[derive(Args)]
pub(crate) struct Options {
    /// One JSON object for each change.
    #[arg(long)]
    json: bool,
}

/// Prints changes until interrupted; an agent that stops and starts again is one of them.
pub(crate) async fn run(options: &Options, style: Style) -> Result<(), Failure> {
    let connection = agent::connect().await?;
    let mut signals = agent::signals(&connection).await?;
    let mut known = Known::default();
    known.learn(agent::read(&connection).await?);
    while let Some(signal) = signals.next().await {
        // A body of another shape than the contract's says nothing.
        for event in known.changes(&signal).unwrap_or_default() {
            if event == Event::AgentStarted {
                refresh(&mut known, &connection).await?;
            }
            let now = clock::unix_now_ms();
            let line = if options.json {
                let line = Line {
                    version: json::VERSION,
                    time_ms: now,
                    event,
                };
                json_line(&line)
            } else {
                format!("{} {}", style.dim(&clock::local(now)), event.text(style))
            };
            out(&format!("{line}\n"))?;
        }
    }
    Err(Failure::NotRunning)
}

async fn refresh(known: &mut Known, connection: &Connection) -> Result<(), Failure> {
    match agent::read(connection).await {
        Ok(snapshot) => known.learn(snapshot),
        // Gone again: its departure is the next signal.
        Err(failure) if failure.exit() == Exit::AgentNotRunning => {}
        Err(failure) => return Err(failure),
    }
    Ok(())
}

/// What was last seen, to give names to paths and to tell a change from a repetition.
#[derive(Default)]
struct Known {
    peers: BTreeMap<String, Who>,
    backends: BTreeMap<String, (BackendState, String)>,
    relays: BTreeMap<String, (RelayState, String)>,
}

impl Known {
    fn learn(&mut self, snapshot: Snapshot) {
        for interface in snapshot.interfaces {
            for peer in interface.peers {
                let who = Who {
                    interface: interface.name.clone(),
                    peer: peer.public_key,
                    name: peer.name,
                };
                self.peers.insert(peer.path, who);
            }
        }
        for backend in snapshot.backends {
            self.backends
                .insert(backend.url, (backend.state, backend.error));
        }
        for relay in snapshot.relays {
            self.relays.insert(relay.url, (relay.state, relay.error));
        }
    }

    /// What a signal says.
    fn changes(&mut self, signal: &Message) -> zbus::Result<Vec<Event>> {
        let header = signal.header();
        let (Some(path), Some(member)) = (header.path(), header.member()) else {
            return Ok(Vec::new());
        };
        let at = path.as_str();
        Ok(match member.as_str() {
            "NameOwnerChanged" => {
                let (_, _, new): (String, String, String) = body(signal)?;
                *self = Self::default();
                vec![if new.is_empty() {
                    Event::AgentStopped
                } else {
                    Event::AgentStarted
                }]
            }
            "InterfacesAdded" => {
                let (path, interfaces): (
                    OwnedObjectPath,
                    HashMap<String, HashMap<String, OwnedVariant>>,
                ) = body(signal)?;
                self.added(path.as_str(), interfaces).into_iter().collect()
            }
            "InterfacesRemoved" => {
                let (path, _): (OwnedObjectPath, Vec<String>) = body(signal)?;
                self.removed(path.as_str()).into_iter().collect()
            }
            "StateChanged" => {
                let (new, old, reason): (u32, u32, u32) = body(signal)?;
                let state = |who| Event::State {
                    who,
                    new: new.into(),
                    old: old.into(),
                    reason: reason.into(),
                };
                self.who(at).map(state).into_iter().collect()
            }
            "PathChanged" => {
                let (new, old): (String, String) = body(signal)?;
                let path = |who| Event::Path { who, new, old };
                self.who(at).map(path).into_iter().collect()
            }
            "PropertiesChanged" => {
                let (interface, properties, _): (
                    String,
                    HashMap<String, OwnedVariant>,
                    Vec<String>,
                ) = body(signal)?;
                self.properties(at, &interface, properties)
            }
            _ => Vec::new(),
        })
    }

    fn who(&self, path: &str) -> Option<Who> {
        self.peers.get(path).cloned()
    }

    fn added(
        &mut self,
        path: &str,
        mut interfaces: HashMap<String, HashMap<String, OwnedVariant>>,
    ) -> Option<Event> {
        let interface = wice_bus::path::interface_of(path)?;
        if interfaces.contains_key(wice_bus::INTERFACE) {
            return Some(Event::InterfaceAdded { interface });
        }
        let mut properties = interfaces.remove(wice_bus::PEER)?;
        let mut text = |name: &str| {
            properties
                .remove(name)
                .and_then(|it| String::try_from(it).ok())
        };
        let who = Who {
            interface,
            peer: text("PublicKey")?,
            name: text("Name").unwrap_or_default(),
        };
        self.peers.insert(path.to_owned(), who.clone());
        Some(Event::PeerAdded(who))
    }

    fn removed(&mut self, path: &str) -> Option<Event> {
        if wice_bus::path::is_peer(path) {
            return self.peers.remove(path).map(Event::PeerRemoved);
        }
        let interface = wice_bus::path::interface_of(path)?;
        Some(Event::InterfaceRemoved { interface })
    }

    fn properties(
        &mut self,
        path: &str,
        interface: &str,
        mut properties: HashMap<String, OwnedVariant>,
    ) -> Vec<Event> {
        if interface == wice_bus::MANAGER {
            let mut rows = |name: &str| {
                let rows = properties.remove(name);
                rows.and_then(|it| <Vec<(String, u32, String)>>::try_from(it).ok())
            };
            let (backends, relays) = (rows("Backends"), rows("Relays"));
            let mut events = backends.map_or_else(Vec::new, |rows| self.backends(rows));
            events.extend(relays.into_iter().flat_map(|rows| self.relays(rows)));
            return events;
        }
        let mut text = |name: &str| {
            properties
                .remove(name)
                .and_then(|it| String::try_from(it).ok())
        };
        let (name, endpoint) = (text("Name"), text("Endpoint"));
        let Some(who) = self.peers.get_mut(path) else {
            return Vec::new();
        };
        who.name = name.unwrap_or_else(|| who.name.clone());
        let who = who.clone();
        let endpoint = endpoint.map(|endpoint| Event::Endpoint { who, endpoint });
        endpoint.into_iter().collect()
    }

    fn relays(&mut self, relays: Vec<(String, u32, String)>) -> Vec<Event> {
        let old = std::mem::take(&mut self.relays);
        let mut events = Vec::new();
        for (url, state, error) in relays {
            let seen = (RelayState::from(state), error);
            if old.get(&url) != Some(&seen) {
                events.push(Event::Relay {
                    url: url.clone(),
                    state: seen.0.word(),
                    error: seen.1.clone(),
                });
            }
            self.relays.insert(url, seen);
        }
        events
    }

    fn backends(&mut self, backends: Vec<(String, u32, String)>) -> Vec<Event> {
        let old = std::mem::take(&mut self.backends);
        let mut events = Vec::new();
        for (url, state, error) in backends {
            let seen = (BackendState::from(state), error);
            if old.get(&url) != Some(&seen) {
                events.push(Event::Backend {
                    url: url.clone(),
                    state: seen.0.word(),
                    error: seen.1.clone(),
                });
            }
            self.backends.insert(url, seen);
        }
        events
    }
}

fn body<T: DeserializeOwned + Type>(signal: &Message) -> zbus::Result<T> {
    signal.body().deserialize()
}
