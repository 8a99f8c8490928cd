//! The bucket itself: what it is called, how it is made, and what it must be like.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType, Stream};

use crate::mailbox::Mailbox;
use crate::options::NatsOptions;

/// A key-value bucket: one stream, one subject for each key.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    name: String,
    replicas: usize,
    expiry: Duration,
}

/// Why the bucket cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(super) enum BucketError {
    /// It is not there, or JetStream is not.
    #[error("cannot find or make the bucket {bucket}: {reason}")]
    Missing {
        /// Which.
        bucket: String,
        /// What came back.
        reason: String,
    },
    /// It was made for something else.
    #[error(
        "the bucket {bucket} {what}; set the servers or the bucket to the same, or give --store-bucket another name"
    )]
    Different {
        /// Which.
        bucket: String,
        /// What differs.
        what: String,
    },
}

/// How long a repeated message is recognized; never longer than messages are kept.
const DUPLICATES: Duration = Duration::from_secs(120);

impl Bucket {
    /// The bucket that the options name.
    pub(super) fn new(options: &NatsOptions, expiry: Duration) -> Self {
        Self {
            name: options.bucket.as_str().to_owned(),
            replicas: options.replicas,
            expiry,
        }
    }

    /// Where the mailbox's messages go: forty hex digits are a fit token of a subject.
    pub(super) fn subject(&self, mailbox: Mailbox) -> String {
        format!("$KV.{}.{}", self.name, mailbox.to_hex())
    }

    /// The mailbox of a message.
    pub(super) fn mailbox(&self, subject: &str) -> Option<Mailbox> {
        let key = subject.strip_prefix("$KV.")?.strip_prefix(&self.name)?;
        key.strip_prefix('.')?.parse().ok()
    }

    /// How long messages are kept.
    pub(super) fn expiry(&self) -> Duration {
        self.expiry
    }

    /// Finds the bucket, makes it where there is none, and checks it.
    pub(super) async fn open(&self, context: &Context) -> Result<Stream, BucketError> {
        let stream = context
            .get_or_create_stream(self.config())
            .await
            .map_err(|error| BucketError::Missing {
                bucket: self.name.clone(),
                reason: error.to_string(),
            })?;
        self.check(stream.cached_info())?;
        Ok(stream)
    }

    fn check(&self, info: &Info) -> Result<(), BucketError> {
        let different = |what: String| {
            Err(BucketError::Different {
                bucket: self.name.clone(),
                what,
            })
        };
        let config = &info.config;
        if config.max_age != self.expiry {
            return different(format!(
                "keeps messages for {} s, and this server for {} s (--expiry)",
                config.max_age.as_secs(),
                self.expiry.as_secs()
            ));
        }
        if config.max_messages_per_subject != 1 {
            return different("keeps more than the newest message of a key".to_owned());
        }
        if config.num_replicas != self.replicas {
            return different(format!(
                "has {} replicas, and this server is told of {} (--store-replicas)",
                config.num_replicas, self.replicas
            ));
        }
        Ok(())
    }

    fn config(&self) -> Config {
        Config {
            name: format!("KV_{}", self.name),
            description: Some("Mailboxes of wice-signal".to_owned()),
            subjects: vec![format!("$KV.{}.>", self.name)],
            max_messages_per_subject: 1,
            max_messages: -1,
            max_bytes: -1,
            max_message_size: -1,
            max_age: self.expiry,
            duplicate_window: DUPLICATES.min(self.expiry),
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            num_replicas: self.replicas,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..Config::default()
        }
    }
}
