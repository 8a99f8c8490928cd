//! What is being written to a server that takes each message by a request of its own, and what is left to write.
//!
//! Knows no single backend: each says how it writes.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use wice_core::mailbox::Mailbox;

use super::backend::BackendError;
use super::desired::{Ledger, Published};
use super::link::Link;

/// The writes of one connection.
pub(super) struct Outbox {
    pub(super) running: FuturesUnordered<BoxFuture<'static, Write>>,
    /// Never two for one mailbox: the older one could arrive last.
    busy: BTreeSet<Mailbox>,
    pending: BTreeSet<Mailbox>,
    planned: u64,
    /// Until when the server wants to be left alone.
    pub(super) pause: Option<Instant>,
    /// Most writes at the same time.
    limit: usize,
}

/// What became of a message.
#[derive(Debug)]
pub(super) enum Written {
    /// The server has it.
    Done,
    /// The server will not have it.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "not every server refuses one")
    )]
    Refused,
    /// The server wants to be left alone for a while.
    Later(Duration),
}

/// A write that ended.
pub(super) struct Write {
    mailbox: Mailbox,
    revision: Option<u64>,
    result: Result<Written, BackendError>,
}

impl Outbox {
    /// One that writes so many messages at the same time.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            running: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            pending: BTreeSet::new(),
            planned: 0,
            pause: None,
            limit,
        }
    }

    /// Finds out what differs from what is wanted.
    pub(super) fn plan(&mut self, ledger: &Ledger, link: &mut Link) {
        let desired = link.desired();
        self.pending = ledger.pending(&desired);
        self.planned = desired.revision();
    }

    /// Starts as many writes as may run, and reports when none is left; `write` replaces a message, or removes it.
    pub(super) fn start<F>(
        &mut self,
        link: &Link,
        mut write: impl FnMut(Mailbox, Option<Published>) -> F,
    ) where
        F: Future<Output = Result<Written, BackendError>> + Send + 'static,
    {
        while self.pause.is_none() && self.running.len() < self.limit {
            let idle = |mailbox: &&Mailbox| !self.busy.contains(mailbox);
            let Some(mailbox) = self.pending.iter().find(idle).copied() else {
                break;
            };
            self.pending.remove(&mailbox);
            self.busy.insert(mailbox);
            let published = link.current().published(mailbox).cloned();
            let revision = published.as_ref().map(|it| it.revision);
            let write = write(mailbox, published);
            self.running.push(Box::pin(async move {
                Write {
                    mailbox,
                    revision,
                    result: write.await,
                }
            }));
        }
        if self.running.is_empty() && self.pending.is_empty() {
            link.settled(self.planned);
        }
    }

    /// Notes what became of a write.
    pub(super) async fn ended(
        &mut self,
        write: Write,
        ledger: &mut Ledger,
        link: &mut Link,
    ) -> Result<(), BackendError> {
        let written = write.result?;
        link.connected().await;
        self.busy.remove(&write.mailbox);
        match written {
            Written::Done => {
                ledger.wrote(write.mailbox, write.revision);
                link.wrote(true);
            }
            Written::Refused => {
                // Repeating it would not help; the next refresh tries again.
                ledger.wrote(write.mailbox, write.revision);
                link.wrote(false);
                tracing::debug!("the server refuses one of our messages");
            }
            Written::Later(after) => self.pause = Some(Instant::now() + after),
        }
        if ledger.differs(write.mailbox, &link.current()) {
            self.pending.insert(write.mailbox);
        }
        Ok(())
    }
}
