//! Relays: allocations on TURN servers, and WireGuard's packets through them, on a thread of their own.
//!
//! Must not decide which peer goes by a relay, nor know WireGuard but for the port that it listens to.

mod conduit;
mod establish;
mod interface;
mod link;
mod probe;
mod problem;
mod route;
mod server;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod thread;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::mpsc;
use wice_core::io::{Input, Packet};
use wice_core::key::PublicKey;
use wice_core::relay::{RelayOrder, Relayed};
use wice_core::server::{IceServer, ServerKind, ServerUrl};

pub(super) use conduit::datagram_socket;
pub(super) use probe::{Probed, probe};
pub(crate) use status::{RelayState, RelayStatus};
use thread::Thread;

/// All relays of all interfaces.
#[derive(Debug)]
pub(crate) struct Relays {
    servers: Vec<IceServer>,
    /// The interfaces that want one, with what they ordered first: started only when there are servers.
    waiting: BTreeMap<u32, Vec<RelayOrder>>,
    thread: Option<Thread>,
    news: mpsc::UnboundedReceiver<News>,
    sender: mpsc::UnboundedSender<News>,
    packets: mpsc::Receiver<Packet>,
    packet_sender: mpsc::Sender<Packet>,
    statuses: BTreeMap<u32, Vec<RelayStatus>>,
    traffic: Arc<Traffic>,
}

/// Bytes of WireGuard's packets that went by relays, without what TURN adds; the thread counts, others look.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Towards peers.
    pub(crate) sent: AtomicU64,
    /// From peers.
    pub(crate) received: AtomicU64,
}

/// What the relays tell.
#[derive(Debug)]
pub(crate) enum RelayEvent {
    /// Something for the core.
    Input(Input),
    /// [`Relays::statuses`] are other ones.
    Statuses,
}

/// What the thread tells.
#[derive(Debug)]
enum News {
    Relayed {
        interface: u32,
        addresses: Vec<Relayed>,
        finished: bool,
    },
    Route {
        interface: u32,
        peer: PublicKey,
        endpoint: Option<SocketAddr>,
    },
    Statuses {
        interface: u32,
        statuses: Vec<RelayStatus>,
    },
}

/// What an interface is told.
#[derive(Debug, Clone)]
enum Order {
    Servers(Vec<IceServer>),
    NetworkChanged,
    Relay(RelayOrder),
}

/// STUN from peers that nobody has taken yet; more is lost, like any packet.
const PACKETS: usize = 1024;

impl Relays {
    /// Knows no server, and nobody who wants one.
    pub(crate) fn new() -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        let (packet_sender, packets) = mpsc::channel(PACKETS);
        Self {
            servers: Vec::new(),
            waiting: BTreeMap::new(),
            thread: None,
            news,
            sender,
            packets,
            packet_sender,
            statuses: BTreeMap::new(),
            traffic: Arc::default(),
        }
    }

    /// Uses the TURN servers among these from now on. What is in use is replaced without a gap where it is not among them.
    pub(crate) fn set_servers(&mut self, servers: &[IceServer]) {
        let turn = |server: &&IceServer| matches!(server.url.kind, ServerKind::Turn(_));
        let servers: Vec<IceServer> = servers.iter().filter(turn).cloned().collect();
        if servers == self.servers {
            return;
        }
        self.servers = servers;
        if let Some(thread) = &self.thread {
            thread.set_servers(self.servers.clone());
        } else if !self.servers.is_empty() {
            for order in std::mem::take(&mut self.waiting).into_values().flatten() {
                self.order(order);
            }
        }
    }

    /// Does what the core wants; answers come by [`Relays::next`].
    pub(crate) fn order(&mut self, order: RelayOrder) {
        let interface = order.interface();
        if self.thread.is_none() && self.servers.is_empty() {
            match order {
                RelayOrder::Allocate { wanted: false, .. } => {
                    self.waiting.remove(&interface);
                }
                // Nothing to wait for.
                RelayOrder::Allocate { .. } => {
                    self.waiting.insert(interface, vec![order]);
                    let _ = self.sender.send(News::Relayed {
                        interface,
                        addresses: Vec::new(),
                        finished: true,
                    });
                }
                RelayOrder::Permit { .. } => {
                    let waiting = self.waiting.entry(interface).or_default();
                    waiting.truncate(1);
                    waiting.push(order);
                }
                RelayOrder::Open { peer, .. } => {
                    let _ = self.sender.send(News::Route {
                        interface,
                        peer,
                        endpoint: None,
                    });
                }
                RelayOrder::Transmit { .. }
                | RelayOrder::HandOver { .. }
                | RelayOrder::Close { .. } => {}
            }
            return;
        }
        let thread = self.thread.get_or_insert_with(|| {
            let thread = Thread::start(
                self.sender.clone(),
                self.packet_sender.clone(),
                Arc::clone(&self.traffic),
            );
            thread.set_servers(self.servers.clone());
            thread
        });
        thread.order(order);
    }

    /// Asks again everywhere, at once.
    pub(crate) fn network_changed(&self) {
        if let Some(thread) = &self.thread {
            thread.network_changed();
        }
    }

    /// How the servers fare, in the order in which they were named.
    pub(crate) fn statuses(&self) -> Vec<RelayStatus> {
        let mut best: Vec<RelayStatus> = Vec::new();
        for server in &self.servers {
            if best.iter().any(|known| known.url == server.url) {
                continue;
            }
            let of_server = |url: &ServerUrl| *url == server.url;
            let statuses = self.statuses.values().flatten();
            let status = statuses
                .filter(|status| of_server(&status.url))
                .max_by_key(|status| status.state);
            best.push(status.cloned().unwrap_or_else(|| RelayStatus {
                url: server.url.clone(),
                state: RelayState::Standby,
                error: None,
            }));
        }
        best
    }

    /// What was carried since the start.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Waits for what happens next; cancel-safe.
    pub(crate) async fn next(&mut self) -> RelayEvent {
        tokio::select! {
            Some(news) = self.news.recv() => self.take(news),
            Some(packet) = self.packets.recv() => RelayEvent::Input(Input::Packet(packet)),
            // Not while this very struct holds the senders.
            else => std::future::pending().await,
        }
    }

    /// Gives every allocation back, as far as `patience` allows.
    pub(crate) async fn leave(&mut self, patience: Duration) {
        if let Some(thread) = self.thread.take() {
            thread.leave(patience).await;
        }
    }

    fn take(&mut self, news: News) -> RelayEvent {
        RelayEvent::Input(match news {
            News::Relayed {
                interface,
                addresses,
                finished,
            } => Input::Relayed {
                interface,
                addresses,
                finished,
            },
            News::Route {
                interface,
                peer,
                endpoint,
            } => Input::RelayRoute {
                interface,
                peer,
                endpoint,
            },
            News::Statuses {
                interface,
                statuses,
            } => {
                self.statuses.insert(interface, statuses);
                return RelayEvent::Statuses;
            }
        })
    }
}
