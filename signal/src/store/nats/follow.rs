//! Follows the bucket: one consumer takes every write in, in order, and goes on where it was after an interruption.
//!
//! One consumer a server, not one a mailbox: NATS takes 5 ms and 10 KB for each, and all its servers agree on each.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{Context, Message as Delivery};
use futures_util::StreamExt;
use tokio::time::sleep;
use tracing::{info, warn};

use super::bucket::{Bucket, BucketError};
use super::progress::Progress;
use super::{withdraws, writer};
use crate::mailbox::{Mailbox, Message};
use crate::store::memory::Memory;

/// What keeps the replica.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) context: Context,
    pub(super) bucket: Bucket,
    pub(super) memory: Arc<Memory>,
    pub(super) progress: Arc<Progress>,
}

/// The consumer says so often that it is there; two that are missing are an interruption.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// For how long one request for messages stands.
const REQUEST: Duration = Duration::from_secs(30);
/// Messages in one request.
const BATCH: usize = 2_000;
/// NATS drops the consumer of a server that is gone.
const ABANDONED: Duration = Duration::from_secs(30);
/// Between two attempts. Few servers and many mailboxes: nothing to spread.
const RETRY: Duration = Duration::from_millis(500);

/// Why following ended.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("cannot follow the bucket: {0}")]
    Consumer(String),
    #[error("the bucket's messages stopped coming: {0}")]
    Messages(String),
    #[error("messages of the bucket were lost on their way")]
    Gap,
    #[error("NATS ended the consumer")]
    Ended,
    #[error("the connection to NATS is lost")]
    Connection,
}

/// A load of the whole bucket: which mailboxes it named.
type Load = Option<HashSet<Mailbox>>;

impl Follower {
    /// Follows for ever.
    pub(super) async fn run(self) {
        let mut created = None;
        let mut said = String::new();
        loop {
            let Err(error) = self.follow(&mut created).await;
            let error = error.to_string();
            self.progress.interrupt(&error);
            if error != said {
                warn!("mailboxes are out of reach: {error}; trying again until they are back");
                said = error;
            }
            sleep(RETRY).await;
        }
    }

    async fn follow(&self, created: &mut Option<i128>) -> Result<Infallible, Interrupted> {
        let stream = self.bucket.open(&self.context).await?;
        let info = stream.cached_info();
        let birth = Some(info.created.unix_timestamp_nanos());
        let newest = info.state.last_sequence;
        let last = self.progress.last();
        let resumed = *created == birth && last <= newest;
        if !resumed {
            self.progress.restart();
        }
        let mut load: Load = (!resumed).then(HashSet::new);
        let deliver_policy = match resumed {
            true => DeliverPolicy::ByStartSequence {
                start_sequence: last + 1,
            },
            false => DeliverPolicy::All,
        };
        let consumer = stream
            .create_consumer(pull::Config {
                description: Some("a server's replica".to_owned()),
                deliver_policy,
                ack_policy: AckPolicy::None,
                inactive_threshold: ABANDONED,
                memory_storage: true,
                num_replicas: 1,
                ..pull::Config::default()
            })
            .await
            .map_err(|error| Interrupted::Consumer(error.to_string()))?;
        let pending = consumer.cached_info().num_pending;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .expires(REQUEST)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| Interrupted::Consumer(error.to_string()))?;
        if pending == 0 {
            self.complete(&mut load);
            *created = birth;
        }
        let mut delivered = 0;
        loop {
            let message = tokio::select! {
                message = messages.next() => message.ok_or(Interrupted::Ended)?,
                () = self.progress.lost() => return Err(Interrupted::Connection),
            };
            let message = message.map_err(|error| Interrupted::Messages(error.to_string()))?;
            let place = message
                .info()
                .map_err(|error| Interrupted::Messages(error.to_string()))?;
            delivered += 1;
            if place.consumer_sequence != delivered {
                return Err(Interrupted::Gap);
            }
            let (sequence, pending) = (place.stream_sequence, place.pending);
            let published = place.published.unix_timestamp_nanos();
            self.take(&message, sequence, published, &mut load);
            self.progress.advance(sequence);
            if pending == 0 || sequence >= newest {
                self.complete(&mut load);
                *created = birth;
            }
        }
    }

    /// All that there was is taken in: what the bucket no longer has goes, and requests are served.
    fn complete(&self, load: &mut Load) {
        if let Some(kept) = load.take() {
            self.memory.retain(&kept);
        }
        if self.progress.complete() {
            info!("mailboxes are up to date with NATS");
        }
    }

    fn take(&self, message: &Delivery, sequence: u64, published: i128, load: &mut Load) {
        let Some(mailbox) = self.bucket.mailbox(&message.subject) else {
            return;
        };
        let headers = message.headers.clone().unwrap_or_default();
        let text = std::str::from_utf8(&message.payload).unwrap_or_default();
        let age = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| now.as_nanos() as i128)
            .saturating_sub(published);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        let left = self.bucket.expiry().saturating_sub(age);
        if withdraws(&headers) || text.is_empty() || left.is_zero() {
            self.memory.withdraw(mailbox);
            return;
        }
        if let Some(kept) = load {
            kept.insert(mailbox);
        }
        self.memory.apply(
            mailbox,
            Message::new(text),
            writer(&headers),
            Instant::now() + left,
            sequence,
        );
    }
}
