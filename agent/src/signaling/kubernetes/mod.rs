//! The Kubernetes backend: offers are objects in a namespace, read by one watch for each key of ours.
//!
//! Traffic grows with changes, not with time: an idle agent holds its watches, and writes its offers again when half of their
//! lifetime is over. Knows the protocol's §6, and trusts the server with nothing but delivery.

mod client;
mod clock;
mod error;
mod inbox;
mod offer;
mod place;
mod servers;
mod sweep;
mod watch;

use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::RngExt;
use tokio::time::{Instant, sleep_until};

pub(crate) use self::place::Place;
#[cfg(test)]
pub(super) use self::watch::{NOW, Sight, Watch};

use self::client::Client;
use self::clock::Clock;
use self::inbox::{Inbox, Read};
use self::servers::Servers;
use self::sweep::Sweep;
use super::BackendConfig;
use super::backend::{Backend, BackendError, until};
use super::desired::Ledger;
use super::link::Link;
use super::outbox::Outbox;

/// A namespace of a cluster.
///
/// What was written and read is remembered over a lost connection: the cluster keeps it, and a restart of its API server
/// should not make every agent write everything again. What was lost all the same is written with the next refresh.
#[derive(Debug)]
pub(super) struct Kubernetes {
    place: Place,
    clock: Clock,
    ledger: Ledger,
    read: Read,
    refresh: Instant,
}

/// Messages that are written at the same time: few, because many agents start together.
const MAX_WRITES: usize = 8;

impl Backend for Kubernetes {
    const SCHEMES: &'static [&'static str] = &["k8s"];

    fn new(config: &BackendConfig) -> Result<Self, BackendError> {
        let place = Place::parse(&config.url);
        let place = place.map_err(|error| BackendError::Setup {
            source: error.into(),
        })?;
        let refresh = Instant::now() + refresh_after(place.lifetime);
        Ok(Self {
            place,
            clock: Clock::default(),
            ledger: Ledger::default(),
            read: Read::default(),
            refresh,
        })
    }

    async fn run(&mut self, link: &mut Link) -> Result<Infallible, BackendError> {
        let outcome = self.serve(link).await;
        if !matches!(
            outcome,
            Err(BackendError::Unreachable { .. } | BackendError::Silent { .. })
        ) {
            // It answered, and something is wrong with what it keeps.
            self.ledger.forget();
            self.read.forget();
        }
        outcome
    }
}

impl Kubernetes {
    async fn serve(&mut self, link: &mut Link) -> Result<Infallible, BackendError> {
        // Anew each time: tokens and certificates are renewed in their files.
        let client = Client::new(&self.place, &self.clock).await?;
        let mut inbox = Inbox::new();
        let mut outbox = Outbox::new(MAX_WRITES);
        let mut sweep = Sweep::default();
        let mut servers = Servers::new(&client).stream();
        // A watch says the same, where there is one.
        let idle = link.current().subscribed().is_empty();
        let mut hello = FuturesUnordered::from_iter(idle.then(|| client.clone().hello()));
        outbox.plan(&self.ledger, link);
        loop {
            inbox.start(&client, &mut self.read, link);
            sweep.add(inbox.over.drain(..));
            sweep.start(&client);
            outbox.start(link, |mailbox, published| {
                client.clone().write(mailbox, published)
            });
            tokio::select! {
                () = link.changed() => outbox.plan(&self.ledger, link),
                Some(answer) = hello.next() => {
                    answer?;
                    link.connected().await;
                }
                Some(seen) = inbox.watches.next() => {
                    inbox.seen(seen, &client, &mut self.read, link).await?;
                }
                Some(fetch) = inbox.fetches.next() => {
                    inbox.fetched(fetch, &client, &mut self.read, link).await?;
                }
                Some(write) = outbox.running.next() => {
                    outbox.ended(write, &mut self.ledger, link).await?;
                }
                Some(handed) = servers.next() => link.ice_servers(handed?).await,
                () = until(outbox.pause) => outbox.pause = None,
                Some(swept) = sweep.running.next() => sweep.ended(swept),
                () = sleep_until(self.refresh) => {
                    self.refresh = Instant::now() + refresh_after(self.place.lifetime);
                    self.ledger.forget();
                    outbox.plan(&self.ledger, link);
                    self.read.forget();
                    inbox.stop();
                    sweep.look(&client);
                }
            }
        }
    }
}

/// Agents that started together shall not refresh together.
fn refresh_after(lifetime: Duration) -> Duration {
    lifetime.mul_f64(rand::rng().random_range(0.4..0.5))
}
