//! Which peer a sealed message or a STUN packet is for: all peers of a machine share backends and ports.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ice;
use crate::key::PublicKey;
use crate::mailbox::Mailbox;
use crate::tcp::Stream;

/// A peer of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerId {
    /// Index of the interface.
    pub(super) interface: u32,
    /// The peer.
    pub(super) key: PublicKey,
}

/// The addressees of everything that may arrive.
#[derive(Debug, Default)]
pub(super) struct Routes {
    mailboxes: BTreeMap<Mailbox, PeerId>,
    ufrags: BTreeMap<String, PeerId>,
    transactions: BTreeMap<[u8; 12], PeerId>,
    streams: BTreeMap<Stream, PeerId>,
    sent: VecDeque<(Instant, [u8; 12])>,
}

/// No answer comes later than this: the last retransmission of a check is given up after some seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Routes {
    /// Messages of this mailbox are for `id`; false when they are for another peer already.
    pub(super) fn add_mailbox(&mut self, mailbox: Mailbox, id: PeerId) -> bool {
        *self.mailboxes.entry(mailbox).or_insert(id) == id
    }

    /// Nobody reads this mailbox any more.
    pub(super) fn remove_mailbox(&mut self, mailbox: &Mailbox) {
        self.mailboxes.remove(mailbox);
    }

    /// The reader of a mailbox.
    pub(super) fn reader(&self, mailbox: &Mailbox) -> Option<PeerId> {
        self.mailboxes.get(mailbox).copied()
    }

    /// Requests that are addressed to this fragment are for `id`.
    pub(super) fn add_ufrag(&mut self, ufrag: &str, id: PeerId) {
        self.ufrags.insert(ufrag.to_owned(), id);
    }

    /// The session of this fragment is over.
    pub(super) fn remove_ufrag(&mut self, ufrag: &str) {
        self.ufrags.remove(ufrag);
    }

    /// Remembers who sent a request, so that its answer finds back.
    pub(super) fn sent(&mut self, payload: &[u8], id: PeerId, now: Instant) {
        while let Some((at, transaction)) = self.sent.front() {
            if now < *at + ANSWER_TIMEOUT {
                break;
            }
            self.transactions.remove(transaction);
            self.sent.pop_front();
        }
        if is_request(payload)
            && let Some(transaction) = transaction(payload)
            && self.transactions.insert(transaction, id).is_none()
        {
            self.sent.push_back((now, transaction));
        }
    }

    /// A stream is this peer's from now on; false when it was known already.
    pub(super) fn add_stream(&mut self, stream: Stream, id: PeerId) -> bool {
        self.streams.insert(stream, id).is_none()
    }

    /// The stream has ended.
    pub(super) fn remove_stream(&mut self, stream: &Stream) {
        self.streams.remove(stream);
    }

    /// Whose a stream is.
    pub(super) fn owner(&self, stream: &Stream) -> Option<PeerId> {
        self.streams.get(stream).copied()
    }

    /// The peer that a STUN packet is for.
    pub(super) fn addressee(&self, payload: &[u8]) -> Option<PeerId> {
        if is_request(payload) {
            self.ufrags.get(&ice::addressee(payload)?).copied()
        } else {
            self.transactions.get(&transaction(payload)?).copied()
        }
    }
}

/// A binding request: class and method are the first two bytes (RFC 8489 §5).
fn is_request(payload: &[u8]) -> bool {
    payload.starts_with(&[0x00, 0x01])
}

fn transaction(payload: &[u8]) -> Option<[u8; 12]> {
    payload.get(8..20)?.try_into().ok()
}
