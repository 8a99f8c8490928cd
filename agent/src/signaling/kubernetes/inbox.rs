//! What is read: one watch for each key of ours, and a request of its own for each mailbox that is wanted later.
//!
//! Keeps no message. Knows of each mailbox which version was handed over last.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, AbortHandle, Abortable, BoxStream, FuturesUnordered, SelectAll};
use wice_core::mailbox::{Mailbox, Recipient};

use super::super::backend::BackendError;
use super::super::link::Link;
use super::client::Client;
use super::error::TryTo;
use super::offer::Offer;
use super::watch::{NOW, Sight};

/// What outlives a connection: the server keeps what it has.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// How far each watch is.
    positions: BTreeMap<Recipient, String>,
    /// The subscriptions that a watch or a request of their own has served, by revision.
    served: BTreeMap<Mailbox, u64>,
    /// What was handed over last: the subscription that received it, and its version.
    delivered: BTreeMap<Mailbox, (u64, String)>,
}

/// The reading end of one connection.
pub(super) struct Inbox {
    pub(super) watches: SelectAll<Abortable<BoxStream<'static, Seen>>>,
    watching: BTreeMap<Recipient, AbortHandle>,
    pub(super) fetches: FuturesUnordered<BoxFuture<'static, Fetch>>,
    fetching: BTreeMap<Mailbox, u64>,
    /// Messages that were handed over and that their writers left behind.
    pub(super) over: Vec<Offer>,
}

/// What a watch has to tell, and where another would go on.
pub(super) struct Seen {
    recipient: Recipient,
    sight: Result<Sight<Offer>, kube::Error>,
    position: String,
}

/// A mailbox that was read.
pub(super) struct Fetch {
    mailbox: Mailbox,
    subscription: u64,
    result: Result<Option<Offer>, BackendError>,
}

/// Mailboxes that are read one by one when they are wanted later; for more, a watch begins anew.
const MAX_FETCHES: usize = 16;

impl Read {
    /// Takes nothing for granted any more: what there is is read once again.
    pub(super) fn forget(&mut self) {
        self.positions.clear();
        self.served.clear();
    }
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            watches: SelectAll::new(),
            watching: BTreeMap::new(),
            fetches: FuturesUnordered::new(),
            fetching: BTreeMap::new(),
            over: Vec::new(),
        }
    }

    /// Ends the watches; they begin where [`Read`] says.
    pub(super) fn stop(&mut self) {
        self.watching.clear();
        self.watches = SelectAll::new();
    }

    /// Serves every subscription that nothing serves.
    pub(super) fn start(&mut self, client: &Client, read: &mut Read, link: &Link) {
        let desired = link.current();
        let wanted = desired.subscribed();
        let current =
            |mailbox: &Mailbox, subscription: &u64| wanted.get(mailbox) == Some(subscription);
        read.served.retain(|mailbox, at| current(mailbox, at));
        read.delivered
            .retain(|mailbox, (at, _)| current(mailbox, at));
        self.fetching.retain(|mailbox, at| current(mailbox, at));
        let mut missing: BTreeMap<Recipient, Vec<Mailbox>> = BTreeMap::new();
        for (mailbox, recipient) in desired.recipients() {
            let missing = missing.entry(*recipient).or_default();
            if !read.served.contains_key(mailbox) && !self.fetching.contains_key(mailbox) {
                missing.push(*mailbox);
            }
        }
        self.watching.retain(|recipient, watch| {
            let wanted = missing.contains_key(recipient);
            if !wanted {
                watch.abort();
            }
            wanted
        });
        read.positions
            .retain(|recipient, _| missing.contains_key(recipient));
        for (recipient, missing) in missing {
            let is_new = !self.watching.contains_key(&recipient);
            let is_known = read.positions.contains_key(&recipient);
            if missing.len() > MAX_FETCHES || (is_new && !is_known) {
                read.positions.insert(recipient, NOW.to_owned());
                let at = missing
                    .iter()
                    .filter_map(|it| Some((*it, *wanted.get(it)?)));
                read.served.extend(at);
                self.watch(client, recipient, NOW);
                continue;
            }
            if is_new {
                let position = read.positions[&recipient].clone();
                self.watch(client, recipient, &position);
            }
            for mailbox in missing {
                self.fetch(client, mailbox, wanted[&mailbox]);
            }
        }
    }

    fn watch(&mut self, client: &Client, recipient: Recipient, position: &str) {
        let watch = client.watch_offers(recipient, position.to_owned());
        let sights = stream::unfold(watch, move |mut watch| async move {
            let sight = watch.next().await;
            let position = watch.position().to_owned();
            let seen = Seen {
                recipient,
                sight,
                position,
            };
            Some((seen, watch))
        });
        let (handle, registration) = AbortHandle::new_pair();
        self.watches
            .push(Abortable::new(sights.boxed(), registration));
        if let Some(old) = self.watching.insert(recipient, handle) {
            old.abort();
        }
    }

    fn fetch(&mut self, client: &Client, mailbox: Mailbox, subscription: u64) {
        self.fetching.insert(mailbox, subscription);
        let offer = client.clone().read(mailbox);
        self.fetches.push(Box::pin(async move {
            Fetch {
                mailbox,
                subscription,
                result: offer.await,
            }
        }));
    }

    /// Takes what a watch has to tell.
    pub(super) async fn seen(
        &mut self,
        seen: Seen,
        client: &Client,
        read: &mut Read,
        link: &mut Link,
    ) -> Result<(), BackendError> {
        let sight = seen
            .sight
            .map_err(|error| client.refusal(TryTo::Watch, error))?;
        link.connected().await;
        if let Some(position) = read.positions.get_mut(&seen.recipient) {
            *position = seen.position;
        }
        match sight {
            Sight::Object(offer) => self.take(*offer, client, read, link).await,
            Sight::Unreadable => link.ignore("an object that is no offer of this version"),
            Sight::Anew => tracing::debug!("the position of a watch was too old: it begins anew"),
            Sight::Open | Sight::Gone | Sight::Further => {}
        }
        Ok(())
    }

    /// Takes a mailbox that was read.
    pub(super) async fn fetched(
        &mut self,
        fetch: Fetch,
        client: &Client,
        read: &mut Read,
        link: &mut Link,
    ) -> Result<(), BackendError> {
        let offer = fetch.result?;
        link.connected().await;
        if self.fetching.get(&fetch.mailbox) == Some(&fetch.subscription) {
            self.fetching.remove(&fetch.mailbox);
            read.served.insert(fetch.mailbox, fetch.subscription);
        }
        if let Some(offer) = offer {
            self.take(offer, client, read, link).await;
        }
        Ok(())
    }

    /// Hands an offer over, unless it was before, or is over.
    async fn take(&mut self, offer: Offer, client: &Client, read: &mut Read, link: &mut Link) {
        let name = offer.metadata.name.as_deref().unwrap_or_default();
        let Ok(mailbox) = name.parse::<Mailbox>() else {
            return link.ignore("an offer that is named like no mailbox");
        };
        if offer.is_over(client.clock().now()) {
            return self.over.push(offer);
        }
        let Some(subscription) = link.current().subscribed().get(&mailbox).copied() else {
            return link.ignore("an offer in a mailbox that is not subscribed");
        };
        let version = offer.metadata.resource_version.unwrap_or_default();
        let mark = (subscription, version);
        if read.delivered.get(&mailbox) == Some(&mark) {
            return;
        }
        read.delivered.insert(mailbox, mark);
        link.deliver(mailbox, &offer.spec.message).await;
    }
}
