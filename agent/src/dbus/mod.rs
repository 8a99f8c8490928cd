//! The D-Bus service `org.wice.Wice1`: shows a published snapshot and hands requests to the driver.
//!
//! Must not know a session, a socket or the kernel: what it shows is what it was last told. The contract (names, numbers,
//! paths) is `wice_bus`; the bus may come, go and come back without anything being lost.

mod authority;
mod model;
mod objects;
mod options;
mod polkit;
mod properties;
mod published;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use wice_bus::NetCheck;
use wice_core::explain::Explanation;
use wice_core::key::PublicKey;
use wice_core::status::{InterfaceStatus, PathKind, PeerStatus, Reason, State};

use model::{Model, Signal};

/// What somebody on the bus asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Start a peer's session anew.
    Restart {
        /// Name of the interface.
        interface: String,
        /// The peer.
        peer: PublicKey,
        /// Whether the peer is known.
        reply: oneshot::Sender<bool>,
    },
    /// Say why the path to a peer is as it is.
    Explain {
        /// Name of the interface.
        interface: String,
        /// The peer.
        peer: PublicKey,
        /// `None` when the peer is not known.
        reply: oneshot::Sender<Option<Explanation>>,
    },
    /// Find out what this network does to UDP.
    NetCheck {
        /// How long that may take.
        patience: Duration,
        /// `None` when somebody else's is under way.
        reply: oneshot::Sender<Option<NetCheck>>,
    },
    /// Read the configuration again.
    Reload {
        /// What is wrong with it, for a person.
        reply: oneshot::Sender<Result<(), String>>,
    },
}

/// The agent's face on the system bus; every method but [`Service::stop`] returns at once.
pub(crate) struct Service {
    model: Arc<Model>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Service {
    /// Starts the one task that serves the bus, for as long as there is one; must be called inside a tokio runtime.
    ///
    /// Requests arrive on `commands`. The address is `DBUS_SYSTEM_BUS_ADDRESS`, else the usual socket.
    pub(crate) fn start(commands: mpsc::Sender<Command>, version: &'static str) -> Self {
        Self::start_at(None, commands, version)
    }

    fn start_at(
        address: Option<String>,
        commands: mpsc::Sender<Command>,
        version: &'static str,
    ) -> Self {
        let model = Arc::new(Model::default());
        let (stop, stopped) = oneshot::channel();
        let task = task::Task::new(address, Arc::clone(&model), commands, version);
        Self {
            model,
            stop,
            task: tokio::spawn(task.run(stopped)),
        }
    }

    /// Shows an interface, or what changed of it.
    pub(crate) fn interface(&self, status: InterfaceStatus) {
        self.model.interface(status);
    }

    /// Takes an interface and all its peers away.
    pub(crate) fn interface_gone(&self, name: &str) {
        self.model.interface_gone(name);
    }

    /// Shows a peer, or what changed of it.
    pub(crate) fn peer(&self, interface: &str, status: PeerStatus) {
        self.model.peer(interface, status);
    }

    /// Takes a peer away.
    pub(crate) fn peer_gone(&self, interface: &str, peer: &PublicKey) {
        self.model.peer_gone(interface, peer);
    }

    /// Signals a change of state, after the properties that were given before.
    pub(crate) fn state_changed(
        &self,
        interface: &str,
        peer: &PublicKey,
        new: State,
        old: State,
        reason: Reason,
    ) {
        let body = (new as u32, old as u32, reason as u32);
        self.model.signal(interface, peer, Signal::State(body));
    }

    /// Signals a change of path, after the properties that were given before.
    pub(crate) fn path_changed(
        &self,
        interface: &str,
        peer: &PublicKey,
        new: PathKind,
        old: PathKind,
    ) {
        let body = (new.as_str(), old.as_str());
        self.model.signal(interface, peer, Signal::Path(body));
    }

    /// Shows the signalling backends: URL without secrets, state (`wice_bus::BackendState`), last error.
    pub(crate) fn backends(&self, backends: Vec<(String, u32, String)>) {
        self.model.backends(backends);
    }

    /// Shows the relay servers: URL, state (`wice_bus::RelayState`), last error.
    pub(crate) fn relays(&self, relays: Vec<(String, u32, String)>) {
        self.model.relays(relays);
    }

    /// Sends what is still to be sent, gives the name back and leaves the bus; takes a second at most.
    pub(crate) async fn stop(self) {
        // The task may have ended by itself only if it panicked: then there is nothing to stop.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}
