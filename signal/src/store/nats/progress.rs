//! How far a server's replica of the bucket is, and who waits for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// How far the replica is.
#[derive(Debug)]
pub(super) struct Progress {
    inner: Mutex<Inner>,
    lost: Notify,
}

#[derive(Debug)]
struct Inner {
    /// Why the replica may not be the newest; `None` when it is.
    unready: Option<String>,
    /// The last write that was taken in.
    reached: u64,
    waiting: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
}

impl Progress {
    /// Nothing was taken in.
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                unready: Some("not connected to NATS yet".to_owned()),
                reached: 0,
                waiting: BTreeMap::new(),
            }),
            lost: Notify::new(),
        }
    }

    /// The connection is gone: whoever follows has to ask again where it is, as nothing may come that says so.
    pub(super) fn lose(&self, reason: &str) {
        self.interrupt(reason);
        self.lost.notify_one();
    }

    /// Waits until the connection is gone.
    pub(super) async fn lost(&self) {
        self.lost.notified().await;
    }

    /// The replica may be behind from now on.
    pub(super) fn interrupt(&self, reason: &str) {
        self.lock().unready = Some(reason.to_owned());
    }

    /// The replica has all there is. Whether it had not before.
    pub(super) fn complete(&self) -> bool {
        self.lock().unready.take().is_some()
    }

    /// Why the replica may not be the newest, if so.
    pub(super) fn unready(&self) -> Option<String> {
        self.lock().unready.clone()
    }

    /// The write that was taken in last.
    pub(super) fn last(&self) -> u64 {
        self.lock().reached
    }

    /// All writes up to this one were taken in.
    pub(super) fn advance(&self, sequence: u64) {
        let mut inner = self.lock();
        inner.reached = sequence;
        let later = inner.waiting.split_off(&(sequence + 1));
        let due = std::mem::replace(&mut inner.waiting, later);
        for waiter in due.into_values().flatten() {
            // Who gave up waiting needs no answer.
            let _ = waiter.send(());
        }
    }

    /// The bucket is another one: its writes are counted anew.
    pub(super) fn restart(&self) {
        self.lock().reached = 0;
    }

    /// Waits until this write was taken in.
    pub(super) async fn reached(&self, sequence: u64) {
        let receiver = {
            let mut inner = self.lock();
            if inner.reached >= sequence {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            inner.waiting.entry(sequence).or_default().push(sender);
            receiver
        };
        let _ = receiver.await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
