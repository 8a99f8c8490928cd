//! One request that waits for all mailboxes of an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use tokio::time::sleep;

use super::mailboxes::LONGEST_WAIT;
use super::{App, body};
use crate::connection::Client;
use crate::mailbox::{ETag, Mailbox};
use crate::metrics::Direction;
use crate::problem::Problem;
use crate::store::Store;

/// Bytes that one mailbox takes in a poll, generously: name, tag, punctuation, white space.
const BYTES_PER_MAILBOX: usize = 128;

/// Bytes of messages in one answer. What is left over differs still, and comes with the next poll.
const ANSWER: usize = 1024 * 1024;

#[derive(Debug, Deserialize)]
struct Question {
    /// A float, since 5.0 is a whole number in JSON too.
    #[serde(default)]
    wait: f64,
    mailboxes: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    mailboxes: BTreeMap<String, Content>,
}

#[derive(Debug, Serialize)]
struct Content {
    etag: Option<String>,
    message: Option<String>,
}

/// What the client knows of a mailbox.
#[derive(Debug, Clone, Copy)]
enum Known {
    Empty,
    /// Some message; `None` where the tag is none of ours, which no message has.
    Tag(Option<ETag>),
}

/// `POST`: answers as soon as one of the mailboxes differs from what the client knows.
pub(super) async fn poll(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Problem> {
    let most = app.limits.mailboxes_per_request;
    let longest = 1024 + most * BYTES_PER_MAILBOX;
    let bytes = body::read(request, "application/json", longest).await?;
    let (wait, known) = parse(&bytes, most)?;
    drop(bytes);

    let names: BTreeSet<Mailbox> = known.keys().copied().collect();
    app.store.ready()?;
    let mut answer = compare(&app.store, &known, &names);
    if answer.mailboxes.is_empty() && !wait.is_zero() {
        let mut watch = app.store.watch(client.source);
        watch.add(&names)?;
        let deadline = sleep(wait);
        tokio::pin!(deadline);
        // Mailboxes that were written before the watch count as changed, those withdrawn do not.
        answer = compare(&app.store, &known, &names);
        while answer.mailboxes.is_empty() {
            tokio::select! {
                changed = watch.changed() => answer = compare(&app.store, &known, &changed),
                () = &mut deadline => break,
                () = client.stop.draining() => break,
            }
        }
    }
    let messages = answer.mailboxes.values();
    let messages = messages.filter(|content| content.message.is_some()).count();
    app.metrics.messages(Direction::Out, messages);
    let body = serde_json::to_vec(&answer).expect("maps of strings become JSON");
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

fn parse(bytes: &[u8], most: usize) -> Result<(Duration, BTreeMap<Mailbox, Known>), Problem> {
    // By way of a value: a struct would also be read from an array.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
    if !value.is_object() {
        return Err(Problem::unprocessable("a poll is a JSON object"));
    }
    let Question { wait, mailboxes } = serde_json::from_value(value).map_err(malformed)?;
    if wait.fract() != 0.0 || !(0.0..=LONGEST_WAIT as f64).contains(&wait) {
        let detail = format!("wait is a whole number of seconds from 0 to {LONGEST_WAIT}");
        return Err(Problem::unprocessable(detail));
    }
    if mailboxes.len() > most {
        let detail = format!("a poll waits for at most {most} mailboxes; use several");
        return Err(Problem::unprocessable(detail));
    }
    let mut known = BTreeMap::new();
    for (name, tag) in mailboxes {
        let mailbox: Mailbox = name
            .parse()
            .map_err(|error| Problem::unprocessable(format!("in mailboxes: {error}")))?;
        let knowledge = match tag {
            None => Known::Empty,
            Some(tag) => Known::Tag(ETag::parse(&tag)),
        };
        known.insert(mailbox, knowledge);
    }
    Ok((Duration::from_secs_f64(wait), known))
}

fn malformed(error: serde_json::Error) -> Problem {
    match error.classify() {
        Category::Data => Problem::unprocessable(format!("not a poll: {error}")),
        _ => Problem::bad_request(format!("not JSON: {error}")),
    }
}

fn compare(store: &Store, known: &BTreeMap<Mailbox, Known>, names: &BTreeSet<Mailbox>) -> Answer {
    let now = Instant::now();
    let mut answer = Answer::default();
    let mut bytes = 0;
    for name in names {
        let Some(knowledge) = known.get(name) else {
            continue;
        };
        let content = match (knowledge, store.known(*name, now)) {
            (Known::Empty, None) => continue,
            (Known::Tag(Some(tag)), Some(message)) if *tag == message.etag => continue,
            (_, Some(message)) => {
                bytes += message.text.len();
                Content {
                    etag: Some(message.etag.to_string()),
                    message: Some(message.text.to_string()),
                }
            }
            (Known::Tag(_), None) => Content {
                etag: None,
                message: None,
            },
        };
        if bytes > ANSWER && !answer.mailboxes.is_empty() {
            break;
        }
        answer.mailboxes.insert(name.to_hex(), content);
    }
    answer
}
