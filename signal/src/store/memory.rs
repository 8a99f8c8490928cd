//! The mailboxes: the newest message of each, for a time, in memory.
//!
//! Knows nothing of HTTP. Whoever waits for mailboxes holds a [`Watch`]: no task and no queue per mailbox, only a set of
//! names that changed; what a slow reader missed is the difference to the newest message, and that lies here.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::Refused;
use crate::limit::{Exceeded, Shares, Source};
use crate::mailbox::{Mailbox, Message};
use crate::options::Limits;

/// Mailboxes in memory.
#[derive(Debug)]
pub(super) struct Memory {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: HashMap<Mailbox, Entry>,
    expiries: BTreeSet<(Instant, Mailbox)>,
    bytes: usize,
    owned: Shares,
    watchers: HashMap<Mailbox, Vec<Arc<Changes>>>,
    watched: Shares,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    writer: Source,
    expires: Instant,
    /// The place among all writes of a store that is shared; 0 where it is not.
    revision: u64,
}

/// What is held, in numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Mailboxes with a message.
    pub(crate) mailboxes: usize,
    /// Bytes of their messages.
    pub(crate) bytes: usize,
    /// Mailboxes waited for.
    pub(crate) subscriptions: usize,
}

impl Memory {
    /// An empty store.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            inner: Mutex::new(Inner {
                entries: HashMap::new(),
                expiries: BTreeSet::new(),
                bytes: 0,
                owned: Shares::new(limits.mailboxes, limits.mailboxes_per_address),
                watchers: HashMap::new(),
                watched: Shares::new(limits.subscriptions, limits.subscriptions_per_address),
            }),
            limits,
        }
    }

    /// Whether the limits let `writer` put `length` bytes into the mailbox; tells which revision it holds, 0 for none.
    pub(super) fn admit(
        &self,
        mailbox: Mailbox,
        length: usize,
        writer: Source,
        now: Instant,
    ) -> Result<u64, Refused> {
        let mut inner = self.lock();
        inner.sweep(now);
        inner.admit(&self.limits, mailbox, length, writer)?;
        Ok(inner.revision(mailbox))
    }

    /// Replaces the mailbox's message and starts its time anew, within the limits.
    pub(super) fn put(
        &self,
        mailbox: Mailbox,
        message: Message,
        writer: Source,
        now: Instant,
    ) -> Result<(), Refused> {
        let mut inner = self.lock();
        inner.sweep(now);
        inner.admit(&self.limits, mailbox, message.text.len(), writer)?;
        inner.insert(
            mailbox,
            Entry {
                message,
                writer,
                expires: now + self.limits.expiry,
                revision: 0,
            },
        );
        Ok(())
    }

    /// Takes in what is kept elsewhere, whatever the limits are.
    pub(super) fn apply(
        &self,
        mailbox: Mailbox,
        message: Message,
        writer: Source,
        expires: Instant,
        revision: u64,
    ) {
        self.lock().insert(
            mailbox,
            Entry {
                message,
                writer,
                expires,
                revision,
            },
        );
    }

    /// The revision of the mailbox's message, 0 for none.
    pub(super) fn revision(&self, mailbox: Mailbox) -> u64 {
        self.lock().revision(mailbox)
    }

    /// Empties all mailboxes but these.
    pub(super) fn retain(&self, kept: &HashSet<Mailbox>) {
        let mut inner = self.lock();
        let all = inner.entries.keys();
        let lost: Vec<Mailbox> = all.filter(|name| !kept.contains(name)).copied().collect();
        for mailbox in lost {
            inner.remove(mailbox);
        }
    }

    /// Empties the mailbox.
    pub(super) fn withdraw(&self, mailbox: Mailbox) {
        self.lock().remove(mailbox);
    }

    /// The newest message, if there is one that has not expired.
    pub(super) fn newest(&self, mailbox: Mailbox, now: Instant) -> Option<Message> {
        let inner = self.lock();
        let entry = inner.entries.get(&mailbox)?;
        (entry.expires > now).then(|| entry.message.clone())
    }

    /// Drops what has expired.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().sweep(now);
    }

    /// A watch that waits for nothing yet, counted for `reader`.
    pub(super) fn watch(self: &Arc<Self>, reader: Source) -> Watch {
        Watch {
            store: Arc::clone(self),
            reader,
            names: BTreeSet::new(),
            changes: Arc::default(),
        }
    }

    /// What is held, in numbers.
    pub(super) fn figures(&self) -> Figures {
        let inner = self.lock();
        Figures {
            mailboxes: inner.entries.len(),
            bytes: inner.bytes,
            subscriptions: inner.watched.held(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn revision(&self, mailbox: Mailbox) -> u64 {
        self.entries.get(&mailbox).map_or(0, |entry| entry.revision)
    }

    fn admit(
        &mut self,
        limits: &Limits,
        mailbox: Mailbox,
        length: usize,
        writer: Source,
    ) -> Result<(), Refused> {
        let old = self.entries.get(&mailbox);
        let old_writer = old.map(|entry| entry.writer);
        let old_bytes = old.map_or(0, |entry| entry.message.text.len());
        let bytes = self.bytes - old_bytes + length;
        if bytes > limits.stored_bytes && bytes > self.bytes {
            return Err(Refused::Full);
        }
        if old_writer == Some(writer) {
            return Ok(());
        }
        if let Some(old_writer) = old_writer {
            self.owned.remove(old_writer, 1);
        }
        let room = self.owned.add(writer, 1);
        if room.is_ok() {
            self.owned.remove(writer, 1);
        }
        if let Some(old_writer) = old_writer {
            self.owned.add_anyway(old_writer);
        }
        room.map_err(|exceeded| match exceeded {
            Exceeded::Each => Refused::Mailboxes,
            Exceeded::Total => Refused::Full,
        })
    }

    fn insert(&mut self, mailbox: Mailbox, entry: Entry) {
        self.expiries.insert((entry.expires, mailbox));
        self.bytes += entry.message.text.len();
        self.owned.add_anyway(entry.writer);
        let (expires, etag) = (entry.expires, entry.message.etag);
        let old = self.entries.insert(mailbox, entry);
        if let Some(old) = &old {
            if old.expires != expires {
                self.expiries.remove(&(old.expires, mailbox));
            }
            self.bytes -= old.message.text.len();
            self.owned.remove(old.writer, 1);
        }
        if old.is_none_or(|old| old.message.etag != etag) {
            self.wake(mailbox);
        }
    }

    fn sweep(&mut self, now: Instant) {
        while let Some(&(expires, mailbox)) = self.expiries.first()
            && expires <= now
        {
            self.remove(mailbox);
        }
    }

    fn remove(&mut self, mailbox: Mailbox) {
        let Some(entry) = self.entries.remove(&mailbox) else {
            return;
        };
        self.expiries.remove(&(entry.expires, mailbox));
        self.bytes -= entry.message.text.len();
        self.owned.remove(entry.writer, 1);
        self.wake(mailbox);
    }

    fn wake(&self, mailbox: Mailbox) {
        for watcher in self.watchers.get(&mailbox).into_iter().flatten() {
            watcher.note(mailbox);
        }
    }

    fn unwatch(&mut self, mailbox: Mailbox, changes: &Arc<Changes>) {
        if let Some(watchers) = self.watchers.get_mut(&mailbox) {
            watchers.retain(|other| !Arc::ptr_eq(other, changes));
            if watchers.is_empty() {
                self.watchers.remove(&mailbox);
            }
        }
    }
}

/// Which mailboxes of one watch changed since it last looked.
#[derive(Debug, Default)]
struct Changes {
    names: Mutex<BTreeSet<Mailbox>>,
    wake: Notify,
}

impl Changes {
    fn note(&self, mailbox: Mailbox) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(mailbox);
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeSet<Mailbox> {
        std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn forget(&self, mailbox: Mailbox) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&mailbox);
    }
}

/// One reader's wait for any number of mailboxes. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    store: Arc<Memory>,
    reader: Source,
    names: BTreeSet<Mailbox>,
    changes: Arc<Changes>,
}

impl Watch {
    /// Waits for these too, all or none. Each that holds a message counts as changed at once.
    pub(crate) fn add(&mut self, mailboxes: &BTreeSet<Mailbox>) -> Result<(), Refused> {
        let mut inner = self.store.lock();
        let new: Vec<Mailbox> = mailboxes.difference(&self.names).copied().collect();
        let crowded = |mailbox| {
            let watchers = inner.watchers.get(mailbox).map_or(0, Vec::len);
            watchers >= self.store.limits.subscribers_per_mailbox
        };
        if new.iter().any(crowded) {
            return Err(Refused::Subscribers);
        }
        let counted = inner.watched.add(self.reader, new.len());
        counted.map_err(|exceeded| match exceeded {
            Exceeded::Each => Refused::Subscriptions,
            Exceeded::Total => Refused::Full,
        })?;
        for mailbox in new {
            let watchers = inner.watchers.entry(mailbox).or_default();
            watchers.push(Arc::clone(&self.changes));
            self.names.insert(mailbox);
        }
        for mailbox in mailboxes {
            if inner.entries.contains_key(mailbox) {
                self.changes.note(*mailbox);
            }
        }
        Ok(())
    }

    /// Waits for these no longer.
    pub(crate) fn remove(&mut self, mailboxes: &BTreeSet<Mailbox>) {
        let mut inner = self.store.lock();
        let mut count = 0;
        for mailbox in mailboxes {
            if self.names.remove(mailbox) {
                inner.unwatch(*mailbox, &self.changes);
                self.changes.forget(*mailbox);
                count += 1;
            }
        }
        inner.watched.remove(self.reader, count);
    }

    /// Waits until something changed and names it, each mailbox once. Cancel-safe.
    pub(crate) async fn changed(&self) -> BTreeSet<Mailbox> {
        loop {
            let names = self.changes.take();
            if !names.is_empty() {
                return names;
            }
            self.changes.wake.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut inner = self.store.lock();
        for mailbox in &self.names {
            inner.unwatch(*mailbox, &self.changes);
        }
        inner.watched.remove(self.reader, self.names.len());
    }
}
