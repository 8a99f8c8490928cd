//! What one connection has been told: the objects it serves, and the signals that bring it up to date.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::sync::mpsc;
use wice_core::key::PublicKey;
use wice_core::status::{InterfaceStatus, PeerStatus};
use zbus::fdo::Properties;
use zbus::names::InterfaceName;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedObjectPath, Variant};

use super::model::{Batch, Signal};
use super::objects::{Cell, Interface, Peer};
use super::{Command, properties};

/// The objects of one connection; dropped with it.
pub(super) struct Published {
    connection: Connection,
    commands: mpsc::Sender<Command>,
    backends: Cell<Vec<(String, u32, String)>>,
    relays: Cell<Vec<(String, u32, String)>>,
    interfaces: BTreeMap<String, Shown>,
    peers: BTreeMap<(String, PublicKey), Cell<PeerStatus>>,
}

struct Shown {
    status: Cell<InterfaceStatus>,
    peers: Cell<Vec<OwnedObjectPath>>,
}

impl Published {
    /// Starts with the root object alone, which shows these backends and relays.
    pub(super) fn new(
        connection: Connection,
        commands: mpsc::Sender<Command>,
        backends: Cell<Vec<(String, u32, String)>>,
        relays: Cell<Vec<(String, u32, String)>>,
    ) -> Self {
        Self {
            connection,
            commands,
            backends,
            relays,
            interfaces: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Brings the bus up to date: objects and properties first, then the signals.
    pub(super) async fn publish(&mut self, batch: Batch) -> zbus::Result<()> {
        let mut regrouped = BTreeSet::new();
        let mut gone = Vec::new();
        for (name, status) in batch.interfaces {
            match status {
                Some(status) => {
                    regrouped.insert(name.clone());
                    self.interface(name, status).await?;
                }
                None => gone.push(name),
            }
        }
        for (id, status) in batch.peers {
            let interface = id.0.clone();
            if self.peer(id, status).await? {
                regrouped.insert(interface);
            }
        }
        for name in regrouped {
            self.regroup(&name).await?;
        }
        for name in gone {
            if self.interfaces.remove(&name).is_some() {
                let path = wice_bus::path::interface(&name);
                self.remove::<Interface>(&path).await?;
            }
        }
        if let Some(backends) = batch.backends {
            let shown = self.backends.clone();
            self.servers("Backends", &shown, backends).await?;
        }
        if let Some(relays) = batch.relays {
            let shown = self.relays.clone();
            self.servers("Relays", &shown, relays).await?;
        }
        for ((interface, peer), signal) in batch.signals {
            self.signal(&interface, &peer, signal).await?;
        }
        Ok(())
    }

    async fn interface(&mut self, name: String, status: InterfaceStatus) -> zbus::Result<()> {
        let path = wice_bus::path::interface(&name);
        if let Some(shown) = self.interfaces.get(&name) {
            let old = std::mem::replace(&mut *shown.status.lock(), status.clone());
            let changes = properties::interface_changes(&old, &status);
            return self.changed(&path, wice_bus::INTERFACE, changes).await;
        }
        let shown = Shown {
            status: Cell::new(status),
            peers: Cell::new(Vec::new()),
        };
        let object = Interface {
            status: shown.status.clone(),
            peers: shown.peers.clone(),
        };
        self.interfaces.insert(name, shown);
        self.connection.object_server().at(path, object).await?;
        Ok(())
    }

    /// Shows a peer; tells whether it came or went.
    async fn peer(
        &mut self,
        id: (String, PublicKey),
        status: Option<PeerStatus>,
    ) -> zbus::Result<bool> {
        let path = wice_bus::path::peer(&id.0, id.1.as_bytes());
        match (self.peers.get(&id), status) {
            (Some(shown), Some(status)) => {
                let old = std::mem::replace(&mut *shown.lock(), status.clone());
                let changes = properties::peer_changes(&old, &status);
                self.changed(&path, wice_bus::PEER, changes).await?;
                Ok(false)
            }
            (None, Some(status)) => {
                let status = Cell::new(status);
                let object = Peer {
                    interface: id.0.clone(),
                    status: status.clone(),
                    commands: self.commands.clone(),
                };
                self.peers.insert(id, status);
                self.connection.object_server().at(path, object).await?;
                Ok(true)
            }
            (Some(_), None) => {
                self.peers.remove(&id);
                self.remove::<Peer>(&path).await?;
                Ok(true)
            }
            (None, None) => Ok(false),
        }
    }

    /// Renews the list of an interface's peers.
    async fn regroup(&self, name: &str) -> zbus::Result<()> {
        let Some(shown) = self.interfaces.get(name) else {
            return Ok(());
        };
        let first = (name.to_owned(), PublicKey::from_bytes([0; 32]));
        let peers: Vec<OwnedObjectPath> = self
            .peers
            .range(first..)
            .take_while(|((interface, _), _)| interface == name)
            .map(|((interface, peer), _)| wice_bus::path::peer(interface, peer.as_bytes()))
            .collect();
        let old = std::mem::replace(&mut *shown.peers.lock(), peers.clone());
        if old == peers {
            return Ok(());
        }
        let peers: Vec<ObjectPath<'static>> = peers.into_iter().map(Into::into).collect();
        let changes = HashMap::from([("Peers", Variant::from(peers))]);
        let path = wice_bus::path::interface(name);
        self.changed(&path, wice_bus::INTERFACE, changes).await
    }

    /// Brings a property of the root object up to date.
    async fn servers(
        &self,
        property: &'static str,
        shown: &Cell<Vec<(String, u32, String)>>,
        rows: Vec<(String, u32, String)>,
    ) -> zbus::Result<()> {
        let old = std::mem::replace(&mut *shown.lock(), rows.clone());
        if old == rows {
            return Ok(());
        }
        let changes = HashMap::from([(property, Variant::from(rows))]);
        let path = OwnedObjectPath::try_from(wice_bus::path::ROOT)?;
        self.changed(&path, wice_bus::MANAGER, changes).await
    }

    async fn signal(&self, interface: &str, peer: &PublicKey, signal: Signal) -> zbus::Result<()> {
        let path = wice_bus::path::peer(interface, peer.as_bytes());
        let emitter = SignalEmitter::new(&self.connection, path)?;
        match signal {
            Signal::State((new, old, reason)) => {
                Peer::announce_state(&emitter, new, old, reason).await
            }
            Signal::Path((new, old)) => Peer::announce_path(&emitter, new, old).await,
        }
    }

    /// One `PropertiesChanged` for all that changed of an object; none for nothing.
    async fn changed(
        &self,
        path: &OwnedObjectPath,
        interface: &'static str,
        changes: HashMap<&'static str, Variant<'static>>,
    ) -> zbus::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let emitter = SignalEmitter::new(&self.connection, path)?;
        let interface = InterfaceName::from_static_str(interface)?;
        Properties::properties_changed(&emitter, interface, changes, Cow::Borrowed(&[])).await
    }

    async fn remove<I: zbus::object_server::Interface>(
        &self,
        path: &OwnedObjectPath,
    ) -> zbus::Result<()> {
        self.connection.object_server().remove::<I, _>(path).await?;
        Ok(())
    }
}
