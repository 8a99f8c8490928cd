//! What the agent keeps for its metrics, and where they are asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};
use wice_core::key::PublicKey;
use wice_core::status::State;

use super::Figures;
use super::endpoint::Endpoint;
use super::exposition::{self, ConnectTimes};

/// The metrics of one agent.
#[derive(Debug)]
pub(crate) struct Metrics {
    listen: Option<SocketAddr>,
    endpoint: Option<Endpoint>,
    scrapes: mpsc::Receiver<oneshot::Sender<String>>,
    sender: mpsc::Sender<oneshot::Sender<String>>,
    /// Since when peers are on their way to a connection.
    begun: BTreeMap<(String, PublicKey), Instant>,
    connect_times: ConnectTimes,
}

/// Somebody asks for the metrics.
#[derive(Debug)]
pub(crate) struct Scrape {
    reply: oneshot::Sender<String>,
    connect_times: ConnectTimes,
}

/// Questions that wait; as many as there may be connections.
const WAITING: usize = super::endpoint::CONNECTIONS;

impl Metrics {
    /// Serves nowhere yet.
    pub(crate) fn new() -> Self {
        let (sender, scrapes) = mpsc::channel(WAITING);
        Self {
            listen: None,
            endpoint: None,
            scrapes,
            sender,
            begun: BTreeMap::new(),
            connect_times: exposition::connect_times(),
        }
    }

    /// Serves at this address from now on, or nowhere. One that cannot be had is logged, and tried again by the next call.
    pub(crate) fn listen(&mut self, listen: Option<SocketAddr>) {
        if listen == self.listen && self.endpoint.is_some() == listen.is_some() {
            return;
        }
        self.listen = listen;
        // The old one goes first: the new address may be the same port.
        self.endpoint = None;
        let Some(address) = listen else {
            return;
        };
        match Endpoint::open(address, self.sender.clone()) {
            Ok(endpoint) => {
                info!(
                    "metrics are served at http://{}/metrics",
                    endpoint.address()
                );
                self.endpoint = Some(endpoint);
            }
            Err(error) => error!(
                "cannot serve metrics at {address}: {error}; goes on without; correct [metrics] listen, or free the \
                 address, and reload"
            ),
        }
    }

    /// Follows a peer on its way to a connection.
    pub(crate) fn state_changed(&mut self, interface: &str, peer: &PublicKey, new: State) {
        let id = (interface.to_owned(), *peer);
        match new {
            State::Gathering | State::Checking => {
                self.begun.entry(id).or_insert_with(Instant::now);
            }
            State::Connected => {
                if let Some(begun) = self.begun.remove(&id) {
                    self.connect_times.observe(begun.elapsed().as_secs_f64());
                }
            }
            _ => drop(self.begun.remove(&id)),
        }
    }

    /// Forgets a peer.
    pub(crate) fn peer_gone(&mut self, interface: &str, peer: &PublicKey) {
        self.begun.remove(&(interface.to_owned(), *peer));
    }

    /// Forgets the peers of an interface, which is gone or has another name.
    pub(crate) fn interface_gone(&mut self, interface: &str) {
        self.begun.retain(|(name, _), _| name != interface);
    }

    /// Waits until somebody asks; cancel-safe.
    pub(crate) async fn next(&mut self) -> Scrape {
        match self.scrapes.recv().await {
            Some(reply) => Scrape {
                reply,
                connect_times: self.connect_times.clone(),
            },
            // Not while this very struct holds a sender.
            None => std::future::pending().await,
        }
    }

    /// Where it serves.
    #[cfg(test)]
    pub(super) fn address(&self) -> Option<SocketAddr> {
        Some(self.endpoint.as_ref()?.address())
    }
}

impl Scrape {
    /// Answers with the figures of this moment.
    pub(crate) fn answer(self, figures: &Figures) {
        // Whoever asked may have gone.
        let _ = self
            .reply
            .send(exposition::render(figures, self.connect_times));
    }
}
