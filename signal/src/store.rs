//! The mailboxes: the newest message of each, for a time.
//!
//! Knows nothing of HTTP. All reading and waiting is done in memory; where several servers share their mailboxes, a
//! write goes to the store that they share, and comes back from there.

mod memory;
mod nats;

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;

use crate::limit::Source;
use crate::mailbox::{Mailbox, Message};
use crate::options::{Limits, NatsOptions};
use memory::Memory;
pub(crate) use memory::{Figures, Watch};
use nats::Nats;
pub use nats::NatsError;

/// All mailboxes of a server.
#[derive(Debug)]
pub(crate) struct Store {
    memory: Arc<Memory>,
    nats: Option<Nats>,
}

/// Why the store does not do what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The writer's address holds as many mailboxes as it may.
    #[error("this address has written as many mailboxes as one may; they expire, or withdraw some")]
    Mailboxes,
    /// The reader's address waits for as many mailboxes as it may.
    #[error("this address waits for as many mailboxes as one may; wait for fewer")]
    Subscriptions,
    /// Too many clients wait for one mailbox.
    #[error("too many clients wait for one of these mailboxes; close the older ones")]
    Subscribers,
    /// The server as a whole is full.
    #[error("the server is full; try again later, or ask its operator for room")]
    Full,
    /// The mailboxes are out of reach for now.
    #[error("the server cannot reach its mailboxes; it will by itself, try again in a moment")]
    Unavailable,
}

/// A write that is carried out while it is waited for.
#[must_use = "a write may still fail"]
pub(crate) struct Written(Option<BoxFuture<'static, Result<(), Refused>>>);

impl Written {
    /// Waits until the write is kept, and every later read here sees it. Ends in bounded time.
    pub(crate) async fn kept(self) -> Result<(), Refused> {
        match self.0 {
            None => Ok(()),
            Some(outcome) => outcome.await,
        }
    }
}

impl Store {
    /// An empty store in memory.
    pub(crate) fn memory(limits: Limits) -> Self {
        Self {
            memory: Arc::new(Memory::new(limits)),
            nats: None,
        }
    }

    /// A store that is shared with other servers. What cannot be reached now is connected to when it can be.
    pub(crate) async fn shared(options: &NatsOptions, limits: Limits) -> Result<Self, NatsError> {
        let expiry = limits.expiry;
        let memory = Arc::new(Memory::new(limits));
        let nats = Nats::start(options, expiry, Arc::clone(&memory)).await?;
        Ok(Self {
            memory,
            nats: Some(nats),
        })
    }

    /// Replaces the mailbox's message and starts its time anew. An equal message changes nothing else. From
    /// then on the mailbox counts for `writer`: an agent that moves takes its mailboxes along.
    ///
    /// Never waits: what [`Written::kept`] does comes after.
    pub(crate) fn put(
        &self,
        mailbox: Mailbox,
        message: Message,
        writer: Source,
        now: Instant,
    ) -> Result<Written, Refused> {
        if let Some(nats) = &self.nats {
            let write = nats.put(mailbox, &message, writer, now)?;
            return Ok(Written(Some(Box::pin(write))));
        }
        self.memory.put(mailbox, message, writer, now)?;
        Ok(Written(None))
    }

    /// Empties the mailbox.
    pub(crate) fn withdraw(&self, mailbox: Mailbox) -> Result<Written, Refused> {
        if let Some(nats) = &self.nats {
            return Ok(Written(Some(Box::pin(nats.withdraw(mailbox)?))));
        }
        self.memory.withdraw(mailbox);
        Ok(Written(None))
    }

    /// The newest message that is known here and has not expired: good enough for a subscriber, who is told of a newer one
    /// by itself. Who asks once asks [`Store::ready`] first.
    pub(crate) fn known(&self, mailbox: Mailbox, now: Instant) -> Option<Message> {
        self.memory.newest(mailbox, now)
    }

    /// Whether reads and writes are served now.
    pub(crate) fn ready(&self) -> Result<(), Refused> {
        match self.unready() {
            None => Ok(()),
            Some(_) => Err(Refused::Unavailable),
        }
    }

    /// Why reads and writes are not served now, if so.
    pub(crate) fn unready(&self) -> Option<String> {
        self.nats.as_ref()?.unready()
    }

    /// What is held, in numbers.
    pub(crate) fn figures(&self) -> Figures {
        self.memory.figures()
    }

    /// Drops what has expired.
    pub(crate) fn sweep(&self, now: Instant) {
        self.memory.sweep(now);
    }

    /// A watch that waits for nothing yet, counted for `reader`. Stays through every outage.
    pub(crate) fn watch(&self, reader: Source) -> Watch {
        self.memory.watch(reader)
    }
}
