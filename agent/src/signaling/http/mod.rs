//! The HTTP REST backend: one PUT for each message, one long poll for all subscriptions.
//!
//! Knows the protocol's §6 and trusts the server with nothing but delivery.

mod client;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, interval_at};
use wice_core::mailbox::Mailbox;

use self::client::{Answer, Client, Letter, WAIT};
use super::BackendConfig;
use super::backend::{Backend, BackendError, until};
use super::desired::Ledger;
use super::ice_servers::SOONEST;
use super::link::Link;
use super::outbox::Outbox;

/// A server that speaks HTTP.
///
/// Over https all requests share one HTTP/2 connection, which the long poll keeps warm: a message leaves without a
/// handshake before it.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    ledger: Ledger,
}

/// Messages that are written at the same time.
const MAX_WRITES: usize = 16;
/// Mailboxes in one poll.
const MAX_ASKED: usize = 1000;
/// Polls beyond those that the number of mailboxes needs, before all are replaced by as few as possible.
const MAX_SPARE_POLLS: usize = 4;
/// The server keeps a message for one hour; this leaves room for two failures.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After an answer that only repeats what is known: a server that does so must not send us round and round.
const REPEATED_PAUSE: Duration = Duration::from_secs(1);

impl Backend for Http {
    const SCHEMES: &'static [&'static str] = &["http", "https"];

    fn new(config: &BackendConfig) -> Result<Self, BackendError> {
        Ok(Self {
            client: Client::new(config)?,
            ledger: Ledger::default(),
        })
    }

    async fn run(&mut self, link: &mut Link) -> Result<Infallible, BackendError> {
        self.ledger.forget();
        let mut outbox = Outbox::new(MAX_WRITES);
        let mut polls = Polls::default();
        let mut refresh = interval_at(Instant::now() + REFRESH, REFRESH);
        // Connects before there is anything to say, and tells a wrong token from a right one.
        let mut hello = FuturesUnordered::from_iter([self.client.hello()]);
        let mut renewal = None;
        outbox.plan(&self.ledger, link);
        loop {
            outbox.start(link, |mailbox, published| {
                self.client.write(mailbox, published.map(|it| it.sealed))
            });
            polls.start(&self.client, link);
            tokio::select! {
                () = link.changed() => outbox.plan(&self.ledger, link),
                Some(answer) = hello.next() => {
                    let handed = answer?;
                    link.connected().await;
                    if let Some(handed) = handed {
                        renewal = handed.renewal().map(|after| Instant::now() + after);
                        link.ice_servers(handed).await;
                    } else if renewal.is_some() {
                        renewal = Some(Instant::now() + SOONEST);
                    }
                }
                () = until(renewal), if hello.is_empty() => hello.push(self.client.hello()),
                Some(write) = outbox.running.next() => {
                    outbox.ended(write, &mut self.ledger, link).await?;
                }
                Some(poll) = polls.running.next() => polls.ended(poll, link).await?,
                () = until(outbox.pause) => outbox.pause = None,
                () = until(polls.pause) => polls.pause = None,
                _ = refresh.tick() => {
                    self.ledger.forget();
                    outbox.plan(&self.ledger, link);
                }
            }
        }
    }
}

/// The polls that are waiting at the server.
#[derive(Default)]
struct Polls {
    running: FuturesUnordered<BoxFuture<'static, Poll>>,
    /// The subscriptions that some running poll serves, by revision.
    served: BTreeMap<Mailbox, u64>,
    /// What was received last, with the revision of the subscription that received it.
    etags: BTreeMap<Mailbox, (u64, String)>,
    pause: Option<Instant>,
}

/// A poll that ended.
struct Poll {
    /// Each mailbox with the revision of its subscription.
    asked: BTreeMap<Mailbox, u64>,
    started: Instant,
    result: Result<Answer, BackendError>,
}

impl Polls {
    /// Serves every subscription that no running poll serves: at once, with a poll of its own.
    fn start(&mut self, client: &Client, link: &Link) {
        let desired = link.current();
        let wanted = desired.subscribed();
        let mut missing: Vec<(&Mailbox, &u64)> = wanted
            .iter()
            .filter(|(mailbox, revision)| self.served.get(mailbox) != Some(revision))
            .collect();
        if self.pause.is_some() {
            return;
        }
        if missing.is_empty() {
            if self.running.is_empty() {
                // Nothing is subscribed. A poll for nothing still tells when the server goes away.
                self.ask(client, BTreeMap::new());
            }
            return;
        }
        // A subscription that came anew wants the newest message, known or not.
        self.etags
            .retain(|mailbox, (revision, _)| wanted.get(mailbox) == Some(revision));
        let polls = self.running.len() + missing.len().div_ceil(MAX_ASKED);
        if polls > wanted.len().div_ceil(MAX_ASKED) + MAX_SPARE_POLLS {
            self.running.clear();
            self.served.clear();
            missing = wanted.iter().collect();
        }
        for chunk in missing.chunks(MAX_ASKED) {
            let asked: BTreeMap<Mailbox, u64> = chunk
                .iter()
                .map(|(mailbox, at)| (**mailbox, **at))
                .collect();
            self.ask(client, asked);
        }
    }

    fn ask(&mut self, client: &Client, asked: BTreeMap<Mailbox, u64>) {
        self.served.extend(&asked);
        let etag = |mailbox| self.etags.get(mailbox).map(|(_, etag)| etag.as_str());
        let known = asked.keys().map(|it| (it.to_string(), etag(it)));
        let poll = client.poll(&known.collect());
        let started = Instant::now();
        self.running.push(Box::pin(async move {
            Poll {
                asked,
                started,
                result: poll.await,
            }
        }));
    }

    async fn ended(&mut self, poll: Poll, link: &mut Link) -> Result<(), BackendError> {
        let answer = poll.result?;
        link.connected().await;
        for (mailbox, revision) in &poll.asked {
            if self.served.get(mailbox) == Some(revision) {
                self.served.remove(mailbox);
            }
        }
        let letters = match answer {
            Answer::Letters(letters) => letters,
            Answer::Later(after) => {
                self.pause = Some(Instant::now() + after);
                return Ok(());
            }
        };
        if letters.is_empty() && poll.started.elapsed() < WAIT / 2 {
            // A server that stops ends its polls; the one that comes after it knows none of our messages.
            return Err(BackendError::Stopping);
        }
        let mut news = letters.is_empty();
        for (name, letter) in letters {
            let mailbox: Option<Mailbox> = name.parse().ok();
            match mailbox.and_then(|mailbox| Some((mailbox, *poll.asked.get(&mailbox)?))) {
                Some((mailbox, revision)) => {
                    news |= self.take(mailbox, revision, letter, link).await;
                }
                None => link.ignore("a mailbox that was not asked for"),
            }
        }
        if !news {
            self.pause = Some(Instant::now() + REPEATED_PAUSE);
        }
        Ok(())
    }

    /// Hands a letter over; tells whether it was news.
    async fn take(
        &mut self,
        mailbox: Mailbox,
        revision: u64,
        letter: Letter,
        link: &mut Link,
    ) -> bool {
        if link.current().subscribed().get(&mailbox) != Some(&revision) {
            // Unsubscribed meanwhile; a subscription that came anew has a poll of its own.
            return true;
        }
        let new = letter.etag.map(|etag| (revision, etag));
        let old = match new.clone() {
            Some(new) => self.etags.insert(mailbox, new),
            None => self.etags.remove(&mailbox),
        };
        if old == new {
            return false;
        }
        if let Some(message) = letter.message {
            link.deliver(mailbox, &message).await;
        }
        true
    }
}
