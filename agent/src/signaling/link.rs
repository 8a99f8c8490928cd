//! What a backend holds of the rest of the agent: the wishes, and the way for what it has to tell.
//!
//! Knows no single backend.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use wice_core::mailbox::{Mailbox, Sealed};
use wice_core::server::IceServer;

use super::backend::BackendError;
use super::desired::Desired;
use super::ice_servers::Handed;
use super::{BackendState, BackendStatus, Counts, Event};

/// One backend's end.
#[derive(Debug)]
pub(super) struct Link {
    desired: watch::Receiver<Desired>,
    progress: watch::Sender<Progress>,
    events: mpsc::Sender<Event>,
    connected: Option<Instant>,
    ignored: u64,
}

/// How far a backend is.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) status: BackendStatus,
    /// The server has everything that was wanted up to this revision.
    pub(super) settled: u64,
    /// What the server handed out last.
    pub(super) servers: Vec<IceServer>,
    pub(super) counts: Counts,
}

impl Link {
    /// Makes a backend's end, and the watch on how it fares.
    pub(super) fn new(
        url: String,
        desired: watch::Receiver<Desired>,
        events: mpsc::Sender<Event>,
    ) -> (Self, watch::Receiver<Progress>) {
        let status = BackendStatus {
            url,
            state: BackendState::Connecting,
            error: None,
        };
        let (progress, watch) = watch::channel(Progress {
            status,
            settled: 0,
            servers: Vec::new(),
            counts: Counts::default(),
        });
        let link = Self {
            desired,
            progress,
            events,
            connected: None,
            ignored: 0,
        };
        (link, watch)
    }

    /// Waits until something else is wanted than [`Link::desired`] showed last.
    pub(super) async fn changed(&mut self) {
        if self.desired.changed().await.is_err() {
            // Nobody wants anything any more: this task is about to be stopped.
            pending::<()>().await;
        }
    }

    /// What is wanted now; not to be held across an await.
    pub(super) fn desired(&mut self) -> watch::Ref<'_, Desired> {
        self.desired.borrow_and_update()
    }

    /// The same, without any effect on [`Link::changed`].
    pub(super) fn current(&self) -> watch::Ref<'_, Desired> {
        self.desired.borrow()
    }

    /// Hands over a message, if its mailbox is subscribed.
    pub(super) async fn deliver(&mut self, mailbox: Mailbox, text: &str) {
        if !self.current().subscribed().contains_key(&mailbox) {
            return self.ignore("a message of a mailbox that is not subscribed");
        }
        match Sealed::new(text) {
            Some(sealed) => {
                self.count(|counts| counts.received += 1);
                self.emit(Event::Message { mailbox, sealed }).await;
            }
            None => self.ignore("a message that is too long"),
        }
    }

    /// Takes the STUN and TURN servers that the backend hands out, in the place of those before.
    pub(super) async fn ice_servers(&mut self, handed: Handed) {
        let changed = self.progress.send_if_modified(|progress| {
            std::mem::replace(&mut progress.servers, handed.servers.clone()) != handed.servers
        });
        if changed {
            for server in &handed.unknown {
                tracing::warn!(
                    url = self.url(),
                    server,
                    "ignored an ICE server that the backend names: not a URI that is known here, or too long"
                );
            }
            self.emit(Event::IceServers).await;
        }
    }

    /// Counts a message of ours, or its removal, by whether the server took it.
    pub(super) fn wrote(&self, taken: bool) {
        self.count(|counts| {
            if taken {
                counts.sent += 1;
            } else {
                counts.refused += 1;
            }
        });
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        self.progress.send_if_modified(|progress| {
            count(&mut progress.counts);
            // Nobody waits for a number.
            false
        });
    }

    /// Counts something that the server sent and that changes nothing.
    pub(super) fn ignore(&mut self, what: &'static str) {
        self.ignored += 1;
        self.count(|counts| counts.ignored += 1);
        tracing::debug!(url = self.url(), what, count = self.ignored, "ignored");
    }

    /// Reports that the server answers.
    pub(super) async fn connected(&mut self) {
        if self.connected.is_none() {
            self.connected = Some(Instant::now());
            tracing::info!(url = self.url(), "backend connected");
            self.change(BackendState::Connected, None).await;
        }
    }

    /// Reports that the server has everything that was wanted up to `revision`.
    pub(super) fn settled(&self, revision: u64) {
        self.progress.send_if_modified(|progress| {
            std::mem::replace(&mut progress.settled, revision) != revision
        });
    }

    /// Reports a failure; tells for how long the server had answered before, if it had.
    pub(super) async fn failed(&mut self, error: &BackendError) -> Option<Duration> {
        self.count(|counts| counts.failures += 1);
        let error = error.to_string();
        let news = self.progress.borrow().status.error.as_ref() != Some(&error);
        if news {
            tracing::warn!(url = self.url(), "backend failed: {error}");
        }
        self.change(BackendState::Failed, Some(error)).await;
        self.connected.take().map(|since| since.elapsed())
    }

    /// For how long the server has answered, if it has.
    pub(super) fn lasted(&self) -> Option<Duration> {
        self.connected.map(|since| since.elapsed())
    }

    /// Reports that the connection was given up for a new one.
    pub(super) async fn reconnecting(&mut self) {
        self.connected = None;
        self.change(BackendState::Connecting, None).await;
    }

    fn url(&self) -> String {
        self.progress.borrow().status.url.clone()
    }

    async fn change(&mut self, state: BackendState, error: Option<String>) {
        let mut changed = None;
        self.progress.send_if_modified(|progress| {
            let new = BackendStatus {
                url: progress.status.url.clone(),
                state,
                error,
            };
            if progress.status == new {
                return false;
            }
            progress.status = new;
            changed = Some(progress.status.clone());
            true
        });
        if let Some(status) = changed {
            self.emit(Event::Changed(status)).await;
        }
    }

    /// Waits for room, unless the agent is leaving: then nobody reads any more.
    async fn emit(&mut self, event: Event) {
        let Err(TrySendError::Full(event)) = self.events.try_send(event) else {
            return;
        };
        let mut desired = self.desired.clone();
        tokio::select! {
            _ = self.events.send(event) => {}
            _ = desired.wait_for(Desired::is_leaving) => {}
        }
    }
}
