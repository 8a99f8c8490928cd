//! What a connection has yet to send to its client.
//!
//! Bounded: a client that reads slowly loses datagrams, as it would on a slow line.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;

/// Bytes that may wait: a few hundredths of a second of a fast line, and not much more of a slow one.
const DATA: usize = 256 * 1024;

/// Answers are not repeated on a connection, and so have room of their own.
const ANSWERS: usize = DATA + 64 * 1024;

/// The queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: RefCell<Vec<u8>>,
    wake: Notify,
    closed: Cell<bool>,
}

impl Outbox {
    /// Adds a datagram in its frame, padded to four bytes (RFC 8656 §12.5); drops it if too much waits.
    pub(super) fn datagram(&self, head: &[u8], body: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        if bytes.len() + head.len() + body.len() > DATA {
            return;
        }
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(body);
        let padding = body.len().wrapping_neg() % 4;
        bytes.extend_from_slice(&[0; 3][..padding]);
        self.wake.notify_one();
    }

    /// Adds an answer. A client that leaves that many unread is to be closed.
    pub(super) fn answer(&self, answer: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        if bytes.len() + answer.len() > ANSWERS {
            self.closed.set(true);
        } else {
            bytes.extend_from_slice(answer);
        }
        self.wake.notify_one();
    }

    /// Swaps what waits into an empty buffer as soon as there is something; `false` when the connection is to end.
    pub(super) async fn take(&self, buffer: &mut Vec<u8>) -> bool {
        loop {
            if self.closed.get() {
                return false;
            }
            if !self.bytes.borrow().is_empty() {
                buffer.clear();
                std::mem::swap(&mut *self.bytes.borrow_mut(), buffer);
                return true;
            }
            self.wake.notified().await;
        }
    }
}
