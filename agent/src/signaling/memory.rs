//! A backend within the process, for tests: the smallest that keeps the contract.
//!
//! Knows nothing of any network. URLs of the same path share one set of mailboxes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, LazyLock, Mutex};

use tokio::sync::watch;
use wice_core::mailbox::{Mailbox, Sealed};

use super::BackendConfig;
use super::backend::{Backend, BackendError};
use super::desired::Ledger;
use super::link::Link;

/// One agent's way to a set of mailboxes.
#[derive(Debug)]
pub(super) struct Memory {
    mailboxes: Mailboxes,
    ledger: Ledger,
}

/// The mailboxes of one path: every message with a number that grows.
#[derive(Debug, Clone)]
struct Mailboxes(Arc<watch::Sender<BTreeMap<Mailbox, (u64, Sealed)>>>);

static PATHS: LazyLock<Mutex<BTreeMap<String, Mailboxes>>> = LazyLock::new(Mutex::default);

impl Backend for Memory {
    const SCHEMES: &'static [&'static str] = &["memory"];

    fn new(config: &BackendConfig) -> Result<Self, BackendError> {
        let mut paths = PATHS.lock().expect("no test panics with the lock held");
        let path = paths.entry(config.url.path().to_owned());
        let mailboxes = path.or_insert_with(|| Mailboxes(Arc::default()));
        Ok(Self {
            mailboxes: mailboxes.clone(),
            ledger: Ledger::default(),
        })
    }

    async fn run(&mut self, link: &mut Link) -> Result<Infallible, BackendError> {
        self.ledger.forget();
        let mut news = self.mailboxes.0.subscribe();
        let mut delivered: BTreeMap<Mailbox, (u64, u64)> = BTreeMap::new();
        link.connected().await;
        loop {
            let revision = self.write(link);
            link.settled(revision);
            let unread = unread(&news.borrow_and_update(), &delivered, link);
            for (mailbox, mark, sealed) in unread {
                delivered.insert(mailbox, mark);
                link.deliver(mailbox, sealed.as_str()).await;
            }
            tokio::select! {
                () = link.changed() => {}
                changed = news.changed() => changed.map_err(|_| BackendError::Closed)?,
            }
        }
    }
}

impl Memory {
    /// Writes what differs; tells up to which revision.
    fn write(&mut self, link: &mut Link) -> u64 {
        let desired = link.desired();
        for mailbox in self.ledger.pending(&desired) {
            let published = desired.published(mailbox);
            self.ledger.wrote(mailbox, published.map(|it| it.revision));
            self.mailboxes.0.send_modify(|mailboxes| match published {
                Some(published) => {
                    let number = mailboxes.values().map(|(number, _)| *number).max();
                    let number = number.unwrap_or_default() + 1;
                    mailboxes.insert(mailbox, (number, published.sealed.clone()));
                }
                None => drop(mailboxes.remove(&mailbox)),
            });
        }
        desired.revision()
    }
}

/// The messages of subscribed mailboxes that were not handed over, each marked with subscription and number.
fn unread(
    mailboxes: &BTreeMap<Mailbox, (u64, Sealed)>,
    delivered: &BTreeMap<Mailbox, (u64, u64)>,
    link: &Link,
) -> Vec<(Mailbox, (u64, u64), Sealed)> {
    let mut unread = Vec::new();
    for (mailbox, subscription) in link.current().subscribed() {
        if let Some((number, sealed)) = mailboxes.get(mailbox) {
            let mark = (*subscription, *number);
            if delivered.get(mailbox) != Some(&mark) {
                unread.push((*mailbox, mark, sealed.clone()));
            }
        }
    }
    unread
}
