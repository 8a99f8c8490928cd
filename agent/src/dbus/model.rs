//! What the bus should show, and what of it changed since the bus was last told.
//!
//! Changes of one object that nobody has fetched yet coalesce, so a bus that is slow or away costs no memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use wice_core::key::PublicKey;
use wice_core::status::{InterfaceStatus, PeerStatus};

/// Signals that wait for a bus which does not take them; the oldest are dropped beyond this.
const MAX_SIGNALS: usize = 10_000;

/// The newest state of everything; shared by the façade, the task and the objects.
#[derive(Default)]
pub(super) struct Model {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Default)]
struct Inner {
    interfaces: BTreeMap<String, InterfaceStatus>,
    peers: BTreeMap<(String, PublicKey), PeerStatus>,
    backends: Vec<(String, u32, String)>,
    relays: Vec<(String, u32, String)>,
    changed_interfaces: BTreeSet<String>,
    changed_peers: BTreeSet<(String, PublicKey)>,
    changed_backends: bool,
    changed_relays: bool,
    signals: VecDeque<((String, PublicKey), Signal)>,
    online: bool,
}

/// A signal of a peer's object with its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// `StateChanged`: new, old, reason.
    State((u32, u32, u32)),
    /// `PathChanged`: new, old.
    Path((&'static str, &'static str)),
}

/// What changed: the new state of each object, `None` when it is gone.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) interfaces: Vec<(String, Option<InterfaceStatus>)>,
    pub(super) peers: Vec<((String, PublicKey), Option<PeerStatus>)>,
    pub(super) backends: Option<Vec<(String, u32, String)>>,
    pub(super) relays: Option<Vec<(String, u32, String)>>,
    pub(super) signals: VecDeque<((String, PublicKey), Signal)>,
}

impl Model {
    pub(super) fn interface(&self, status: InterfaceStatus) {
        let mut inner = self.lock();
        let name = status.name.clone();
        if inner.interfaces.get(&name) != Some(&status) {
            inner.interfaces.insert(name.clone(), status);
            inner.changed_interfaces.insert(name);
            self.news.notify_one();
        }
    }

    pub(super) fn interface_gone(&self, name: &str) {
        let mut inner = self.lock();
        if inner.interfaces.remove(name).is_some() {
            inner.changed_interfaces.insert(name.to_owned());
        }
        let first = (name.to_owned(), PublicKey::from_bytes([0; 32]));
        let peers: Vec<_> = inner
            .peers
            .range(first..)
            .map(|(id, _)| id.clone())
            .take_while(|(interface, _)| interface == name)
            .collect();
        for id in peers {
            inner.peers.remove(&id);
            inner.changed_peers.insert(id);
        }
        self.news.notify_one();
    }

    pub(super) fn peer(&self, interface: &str, status: PeerStatus) {
        let mut inner = self.lock();
        let id = (interface.to_owned(), status.public_key);
        if inner.peers.get(&id) != Some(&status) {
            inner.peers.insert(id.clone(), status);
            inner.changed_peers.insert(id);
            self.news.notify_one();
        }
    }

    pub(super) fn peer_gone(&self, interface: &str, peer: &PublicKey) {
        let mut inner = self.lock();
        let id = (interface.to_owned(), *peer);
        if inner.peers.remove(&id).is_some() {
            inner.changed_peers.insert(id);
            self.news.notify_one();
        }
    }

    pub(super) fn backends(&self, backends: Vec<(String, u32, String)>) {
        let mut inner = self.lock();
        if inner.backends != backends {
            inner.backends = backends;
            inner.changed_backends = true;
            self.news.notify_one();
        }
    }

    pub(super) fn relays(&self, relays: Vec<(String, u32, String)>) {
        let mut inner = self.lock();
        if inner.relays != relays {
            inner.relays = relays;
            inner.changed_relays = true;
            self.news.notify_one();
        }
    }

    /// Queues a signal; without a bus nobody could hear it, and it is dropped.
    pub(super) fn signal(&self, interface: &str, peer: &PublicKey, signal: Signal) {
        let mut inner = self.lock();
        if !inner.online {
            return;
        }
        if inner.signals.len() == MAX_SIGNALS {
            inner.signals.pop_front();
        }
        inner
            .signals
            .push_back(((interface.to_owned(), *peer), signal));
        self.news.notify_one();
    }

    /// Tells whether an interface is known.
    pub(super) fn has_interface(&self, name: &str) -> bool {
        self.lock().interfaces.contains_key(name)
    }

    /// Tells whether an interface has this peer.
    pub(super) fn has_peer(&self, interface: &str, peer: &PublicKey) -> bool {
        self.lock()
            .peers
            .contains_key(&(interface.to_owned(), *peer))
    }

    /// A new connection: everything counts as changed.
    pub(super) fn online(&self) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.online = true;
        inner.changed_interfaces = inner.interfaces.keys().cloned().collect();
        inner.changed_peers = inner.peers.keys().cloned().collect();
        inner.changed_backends = true;
        inner.changed_relays = true;
        inner.signals.clear();
    }

    /// The connection is gone.
    pub(super) fn offline(&self) {
        let mut inner = self.lock();
        inner.online = false;
        inner.signals.clear();
    }

    /// Waits until something may have changed; cancel-safe.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes what changed since the last call.
    pub(super) fn take(&self) -> Batch {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let interfaces = std::mem::take(&mut inner.changed_interfaces)
            .into_iter()
            .map(|name| {
                let status = inner.interfaces.get(&name).cloned();
                (name, status)
            })
            .collect();
        let peers = std::mem::take(&mut inner.changed_peers)
            .into_iter()
            .map(|id| {
                let status = inner.peers.get(&id).cloned();
                (id, status)
            })
            .collect();
        let backends = std::mem::take(&mut inner.changed_backends).then(|| inner.backends.clone());
        let relays = std::mem::take(&mut inner.changed_relays).then(|| inner.relays.clone());
        Batch {
            interfaces,
            peers,
            backends,
            relays,
            signals: std::mem::take(&mut inner.signals),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("nobody panics while holding the snapshot")
    }
}
