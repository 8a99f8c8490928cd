//! Mailboxes that several servers share: a key-value bucket of NATS JetStream.
//!
//! Every server keeps a replica of the bucket in memory, which only the bucket's own order of writes changes: a write goes
//! to the bucket, and comes back to all servers by the one consumer that each of them has. So each reads what it wrote,
//! and one that was away gets exactly what it missed.

mod bucket;
mod follow;
mod progress;

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, ContextBuilder};
use async_nats::{ConnectOptions, Event, HeaderMap};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Refused;
use super::memory::Memory;
use crate::limit::Source;
use crate::mailbox::{Mailbox, Message};
use crate::options::{NatsAuth, NatsOptions};
use bucket::Bucket;
use follow::Follower;
use progress::Progress;

/// Mailboxes in a bucket.
#[derive(Debug)]
pub(super) struct Nats {
    context: Context,
    bucket: Bucket,
    memory: Arc<Memory>,
    progress: Arc<Progress>,
    follower: JoinHandle<()>,
}

/// How long a write may take in all: a change of the bucket's leader lasts a second or two.
const WRITE: Duration = Duration::from_secs(5);
/// A request about the bucket; while a cluster elects its leader nobody answers.
const REQUEST: Duration = Duration::from_secs(2);
/// A connection to one NATS server; the next one is tried after it.
const CONNECT: Duration = Duration::from_secs(2);
/// A dead connection is noticed after two or three of these.
const PING: Duration = Duration::from_secs(2);
/// Between two attempts to connect, growing by itself up to this.
const RECONNECT: Duration = Duration::from_secs(1);
/// Writes that wait for their acknowledgement; those beyond are refused at once.
const IN_FLIGHT: usize = 8192;
/// How often one write may meet another one to the same mailbox.
const CONFLICTS: u32 = 8;
/// Names the writer's address in a message, so that its mailboxes count for it on every server.
const WRITER: &str = "Wice-Writer";
/// What a key-value bucket says of a message that withdraws the one before.
const OPERATION: &str = "KV-Operation";
const DELETE: &str = "DEL";

/// Why there can be no connection at all.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The file with credentials cannot be used.
    #[error("cannot use the NATS credentials: {0}; check the file and that this user may read it")]
    Credentials(#[source] io::Error),
    /// The client refuses its configuration.
    #[error("cannot set up the connection to NATS: {0}")]
    Setup(#[source] async_nats::ConnectError),
}

impl Nats {
    /// Begins to connect, and returns: what is not there yet is waited for by a task that ends with this.
    pub(super) async fn start(
        options: &NatsOptions,
        expiry: Duration,
        memory: Arc<Memory>,
    ) -> Result<Self, NatsError> {
        let progress = Arc::new(Progress::new());
        let events = Arc::clone(&progress);
        let mut connect = ConnectOptions::new()
            .name("wice-signal")
            .retry_on_initial_connect()
            .connection_timeout(CONNECT)
            .ping_interval(PING)
            .reconnect_delay_callback(|attempts| {
                RECONNECT.min(Duration::from_millis(50 * attempts as u64))
            })
            .event_callback(move |event| {
                note(&events, &event);
                std::future::ready(())
            });
        connect = match &options.auth {
            NatsAuth::None => connect,
            NatsAuth::Token(token) => connect.token(token.expose().to_owned()),
            NatsAuth::User(user) => {
                let (name, password) = user.expose();
                connect.user_and_password(name.to_owned(), password.to_owned())
            }
            NatsAuth::Credentials(path) => connect
                .credentials_file(path)
                .await
                .map_err(NatsError::Credentials)?,
        };
        if let Some(authority) = &options.authority {
            connect = connect.add_root_certificates(authority.clone());
        }
        let client = connect
            .connect(options.servers.addresses())
            .await
            .map_err(NatsError::Setup)?;
        let context = ContextBuilder::new()
            .timeout(REQUEST)
            .ack_timeout(WRITE)
            .max_ack_inflight(IN_FLIGHT)
            .build(client);
        let bucket = Bucket::new(options, expiry);
        let follower = Follower {
            context: context.clone(),
            bucket: bucket.clone(),
            memory: Arc::clone(&memory),
            progress: Arc::clone(&progress),
        };
        Ok(Self {
            context,
            bucket,
            memory,
            progress,
            follower: tokio::spawn(follower.run()),
        })
    }

    /// Why nothing is served now, if so.
    pub(super) fn unready(&self) -> Option<String> {
        self.progress.unready()
    }

    /// Writes the message, within the limits.
    pub(super) fn put(
        &self,
        mailbox: Mailbox,
        message: &Message,
        writer: Source,
        now: Instant,
    ) -> Result<impl Future<Output = Result<(), Refused>> + Send + 'static, Refused> {
        self.available()?;
        let revision = self
            .memory
            .admit(mailbox, message.text.len(), writer, now)?;
        let mut headers = HeaderMap::new();
        headers.insert(WRITER, writer.to_string());
        let text = Arc::clone(&message.text);
        Ok(self.write(mailbox, headers, text, revision))
    }

    /// Empties the mailbox.
    pub(super) fn withdraw(
        &self,
        mailbox: Mailbox,
    ) -> Result<impl Future<Output = Result<(), Refused>> + Send + 'static, Refused> {
        self.available()?;
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, DELETE);
        let revision = self.memory.revision(mailbox);
        Ok(self.write(mailbox, headers, Arc::from(""), revision))
    }

    fn available(&self) -> Result<(), Refused> {
        match self.progress.unready() {
            None => Ok(()),
            Some(_) => Err(Refused::Unavailable),
        }
    }

    fn write(
        &self,
        mailbox: Mailbox,
        headers: HeaderMap,
        text: Arc<str>,
        revision: u64,
    ) -> impl Future<Output = Result<(), Refused>> + Send + 'static {
        let context = self.context.clone();
        let subject = self.bucket.subject(mailbox);
        let progress = Arc::clone(&self.progress);
        async move {
            let stored = timeout(WRITE, store(&context, subject, headers, &text, revision));
            let sequence = match stored.await {
                Ok(Ok(sequence)) => sequence,
                Ok(Err(error)) => {
                    debug!("NATS did not take a write: {error}");
                    return Err(Refused::Unavailable);
                }
                Err(_) => {
                    debug!("NATS did not answer a write");
                    return Err(Refused::Unavailable);
                }
            };
            // It is kept, whether or not it comes back in time.
            let _ = timeout(WRITE, progress.reached(sequence)).await;
            Ok(())
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Stores one message in the place of the one with this revision; tells the new one. A write that was held up, by an
/// outage on its way, must not replace a newer one that was acknowledged meanwhile: so each names what it replaces. One
/// that meets another asks again, while its client still waits.
async fn store(
    context: &Context,
    subject: String,
    headers: HeaderMap,
    text: &str,
    mut revision: u64,
) -> Result<u64, PublishError> {
    let mut conflicts = 0;
    loop {
        let message = PublishMessage::build()
            .headers(headers.clone())
            .payload(text.as_bytes().to_vec().into())
            .expected_last_subject_sequence(revision);
        let acknowledgement = context.send_publish(subject.clone(), message).await?;
        match acknowledgement.await {
            Ok(acknowledgement) => return Ok(acknowledgement.sequence),
            Err(error) => match actual_revision(&error) {
                Some(actual) if conflicts < CONFLICTS => {
                    conflicts += 1;
                    revision = actual;
                }
                _ => return Err(error),
            },
        }
    }
}

/// The revision that the mailbox has, from the refusal of a write that named another one.
fn actual_revision(error: &PublishError) -> Option<u64> {
    if error.kind() != PublishErrorKind::WrongLastSequence {
        return None;
    }
    let text = error.source()?.to_string();
    let (_, number) = text.rsplit_once("wrong last sequence: ")?;
    let digits = number.find(|it: char| !it.is_ascii_digit());
    number[..digits.unwrap_or(number.len())].parse().ok()
}

fn note(progress: &Progress, event: &Event) {
    match event {
        Event::Connected => info!("connected to NATS"),
        Event::Disconnected => {
            progress.lose("the connection to NATS is lost");
            warn!("the connection to NATS is lost; trying again until it is back");
        }
        Event::Closed => progress.lose("the connection to NATS is closed"),
        Event::ServerError(error) => warn!("NATS says: {error}"),
        Event::ClientError(error) => debug!("NATS client: {error}"),
        other => debug!("NATS: {other}"),
    }
}

/// Who wrote a message, by its header. One from elsewhere counts for nobody's address.
fn writer(headers: &HeaderMap) -> Source {
    let text = headers.get(WRITER).map(|value| value.as_str());
    let address = text.and_then(|text| text.parse::<IpAddr>().ok());
    Source::from(address.unwrap_or(IpAddr::from([0, 0, 0, 0])))
}

/// Whether a message withdraws the one before.
fn withdraws(headers: &HeaderMap) -> bool {
    headers.get(OPERATION).is_some()
}
