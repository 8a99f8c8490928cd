//! What every backend shall bring about: what is published, what is subscribed.
//!
//! Knows no backend. Each entry carries the revision at which it was wanted; a backend compares it with what its
//! server has, so nothing is queued and only the newest message of a mailbox is ever sent.

use std::collections::{BTreeMap, BTreeSet};

use wice_core::mailbox::{Mailbox, Recipient, Sealed};

/// The mailboxes as they should be, on every backend alike.
#[derive(Debug, Default)]
pub(super) struct Desired {
    revision: u64,
    published: BTreeMap<Mailbox, Published>,
    subscribed: BTreeMap<Mailbox, u64>,
    recipients: BTreeMap<Mailbox, Recipient>,
    leaving: bool,
}

/// A message, who reads it, and when it was wanted.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) revision: u64,
    #[allow(
        dead_code,
        reason = "not every backend lays mailboxes out by their readers"
    )]
    pub(super) recipient: Recipient,
    pub(super) sealed: Sealed,
}

impl Desired {
    /// Wants a message in a mailbox; the same one again is sent again, since it may have been lost.
    pub(super) fn publish(&mut self, mailbox: Mailbox, recipient: Recipient, sealed: Sealed) {
        let published = Published {
            revision: self.next_revision(),
            recipient,
            sealed,
        };
        self.published.insert(mailbox, published);
    }

    /// Wants a mailbox empty; tells whether it was not.
    pub(super) fn withdraw(&mut self, mailbox: Mailbox) -> bool {
        self.next_revision();
        self.published.remove(&mailbox).is_some()
    }

    /// Wants a mailbox's messages; tells whether that is new.
    pub(super) fn subscribe(&mut self, mailbox: Mailbox, recipient: Recipient) -> bool {
        let revision = self.next_revision();
        let new = !self.subscribed.contains_key(&mailbox);
        self.subscribed.entry(mailbox).or_insert(revision);
        self.recipients.insert(mailbox, recipient);
        new
    }

    /// Wants no more of a mailbox's messages; tells whether any were wanted.
    pub(super) fn unsubscribe(&mut self, mailbox: Mailbox) -> bool {
        self.next_revision();
        self.recipients.remove(&mailbox);
        self.subscribed.remove(&mailbox).is_some()
    }

    /// Wants nothing any more.
    pub(super) fn leave(&mut self) {
        self.next_revision();
        self.leaving = true;
        self.subscribed.clear();
        self.recipients.clear();
        self.published.clear();
    }

    /// Tells whether the agent is about to stop.
    pub(super) const fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Grows with every change.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The message that a mailbox should hold.
    pub(super) fn published(&self, mailbox: Mailbox) -> Option<&Published> {
        self.published.get(&mailbox)
    }

    /// The mailboxes whose messages are wanted, each with the revision since which they are.
    pub(super) const fn subscribed(&self) -> &BTreeMap<Mailbox, u64> {
        &self.subscribed
    }

    /// The reader of each mailbox that is subscribed: one for each key of ours.
    #[allow(
        dead_code,
        reason = "not every backend lays mailboxes out by their readers"
    )]
    pub(super) const fn recipients(&self) -> &BTreeMap<Mailbox, Recipient> {
        &self.recipients
    }

    const fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }
}

/// What one backend's server has of our messages.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Revision of the message that the server has; 0 where it may have lost it.
    known: BTreeMap<Mailbox, u64>,
}

impl Ledger {
    /// Trusts the server with nothing any more: everything is to be sent again.
    pub(super) fn forget(&mut self) {
        for revision in self.known.values_mut() {
            *revision = 0;
        }
    }

    /// Notes what was written: a message's revision, or none for an emptied mailbox.
    pub(super) fn wrote(&mut self, mailbox: Mailbox, revision: Option<u64>) {
        match revision {
            Some(revision) => self.known.insert(mailbox, revision),
            None => self.known.remove(&mailbox),
        };
    }

    /// Tells whether a mailbox differs from what is wanted of it.
    pub(super) fn differs(&self, mailbox: Mailbox, desired: &Desired) -> bool {
        let wanted = desired.published.get(&mailbox).map(|it| it.revision);
        self.known.get(&mailbox) != wanted.as_ref()
    }

    /// The mailboxes that differ from what is wanted of them.
    pub(super) fn pending(&self, desired: &Desired) -> BTreeSet<Mailbox> {
        let wanted = desired.published.keys();
        wanted
            .chain(self.known.keys())
            .copied()
            .filter(|mailbox| self.differs(*mailbox, desired))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use wice_core::key::PublicKey;

    use super::*;

    fn mailbox(number: u8) -> Mailbox {
        Mailbox::from_bytes([number; 20])
    }

    fn recipient() -> Recipient {
        Recipient::of(&PublicKey::from_bytes([1; 32]))
    }

    fn sealed(text: &str) -> Sealed {
        Sealed::new(text).expect("short")
    }

    #[test]
    fn only_the_newest_message_of_a_mailbox_is_pending() {
        let mut desired = Desired::default();
        let ledger = Ledger::default();
        desired.publish(mailbox(1), recipient(), sealed("old"));
        desired.publish(mailbox(1), recipient(), sealed("new"));
        assert_eq!(ledger.pending(&desired).len(), 1);
        let newest = desired.published(mailbox(1)).expect("published");
        assert_eq!(newest.sealed, sealed("new"));
    }

    #[test]
    fn a_message_that_was_withdrawn_while_the_server_was_away_is_withdrawn_later() {
        let mut desired = Desired::default();
        let mut ledger = Ledger::default();
        desired.publish(mailbox(1), recipient(), sealed("a"));
        ledger.wrote(mailbox(1), Some(desired.revision()));
        assert!(ledger.pending(&desired).is_empty());
        ledger.forget();
        desired.withdraw(mailbox(1));
        assert!(ledger.pending(&desired).contains(&mailbox(1)));
        ledger.wrote(mailbox(1), None);
        assert!(ledger.pending(&desired).is_empty());
    }

    #[test]
    fn a_server_that_may_have_lost_everything_is_sent_everything() {
        let mut desired = Desired::default();
        let mut ledger = Ledger::default();
        for number in 0..3 {
            desired.publish(mailbox(number), recipient(), sealed("a"));
            ledger.wrote(mailbox(number), Some(desired.revision()));
        }
        ledger.forget();
        assert_eq!(ledger.pending(&desired).len(), 3);
    }
}
