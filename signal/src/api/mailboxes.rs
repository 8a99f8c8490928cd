//! One mailbox: write, read or wait, withdraw.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::time::sleep;

use super::{App, body};
use crate::connection::Client;
use crate::mailbox::{ETag, InvalidMailbox, Mailbox, Message};
use crate::metrics::Direction;
use crate::problem::Problem;

/// The media type of a sealed message (RFC 7515 §9.2.1).
const JOSE: &str = "application/jose";

/// Longest wait of a long poll, in seconds (protocol §6): below the idle timeouts of common proxies.
pub(super) const LONGEST_WAIT: u64 = 60;

/// The query of a read.
#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    #[serde(default)]
    wait: u64,
}

/// `PUT`: replaces the message.
pub(super) async fn write(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let mailbox = named(path)?;
    let bytes = body::read(request, JOSE, app.limits.message_bytes).await?;
    let text = std::str::from_utf8(&bytes)
        .ok()
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Problem::unprocessable("a message is text in UTF-8 and not empty"))?;
    let message = Message::new(text);
    let etag = message.etag;
    let written = app
        .store
        .put(mailbox, message, client.source, Instant::now())?;
    written.kept().await?;
    app.metrics.messages(Direction::In, 1);
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(ETAG, tag(etag));
    Ok(response)
}

/// `DELETE`: empties the mailbox, also when it is empty.
pub(super) async fn withdraw(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    app.store.withdraw(named(path)?)?.kept().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET`: the message, at once or when there is a new one.
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mailbox = named(path)?;
    let Query(Wait { wait }) = query.map_err(|_| too_long())?;
    if wait > LONGEST_WAIT {
        return Err(too_long());
    }
    let known = Known::of(&headers);
    let look = || {
        let newest = app.store.known(mailbox, Instant::now());
        known.differs(newest.as_ref()).then_some(newest)
    };
    app.store.ready()?;
    let mut change = look();
    if change.is_none() && wait > 0 {
        let mut watch = app.store.watch(client.source);
        watch.add(&BTreeSet::from([mailbox]))?;
        let deadline = sleep(Duration::from_secs(wait));
        tokio::pin!(deadline);
        // Looks once more first: the message may have come before the watch.
        loop {
            change = look();
            if change.is_some() {
                break;
            }
            tokio::select! {
                _ = watch.changed() => {}
                () = &mut deadline => break,
                () = client.stop.draining() => break,
            }
        }
    }
    match change {
        Some(Some(message)) => {
            app.metrics.messages(Direction::Out, 1);
            Ok(found(&message))
        }
        None if known.any() => Ok(unchanged(&app, mailbox)),
        _ => Err(absent()),
    }
}

/// What the client has already, by its `If-None-Match` (RFC 9110 §13.1.2).
enum Known {
    Nothing,
    Anything,
    Tags(Vec<Option<ETag>>),
}

impl Known {
    fn of(headers: &HeaderMap) -> Self {
        let mut tags = Vec::new();
        for value in headers.get_all(IF_NONE_MATCH) {
            let text = value.to_str().unwrap_or("");
            if text.trim() == "*" {
                return Self::Anything;
            }
            tags.extend(text.split(',').map(|tag| ETag::parse(tag.trim())));
        }
        if tags.is_empty() {
            return Self::Nothing;
        }
        Self::Tags(tags)
    }

    fn any(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Whether `newest` is news to the client.
    fn differs(&self, newest: Option<&Message>) -> bool {
        match (self, newest) {
            (Self::Nothing, newest) => newest.is_some(),
            (_, None) => true,
            (Self::Anything, Some(_)) => false,
            (Self::Tags(tags), Some(message)) => !tags.contains(&Some(message.etag)),
        }
    }
}

fn found(message: &Message) -> Response {
    let mut response = message.text.to_string().into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JOSE));
    headers.insert(ETAG, tag(message.etag));
    response
}

fn unchanged(app: &App, mailbox: Mailbox) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    if let Some(message) = app.store.known(mailbox, Instant::now()) {
        response.headers_mut().insert(ETAG, tag(message.etag));
    }
    response
}

fn absent() -> Problem {
    let detail = "the mailbox is empty: nothing was written, or it expired or was withdrawn";
    Problem::new(StatusCode::NOT_FOUND, "empty", detail)
}

fn too_long() -> Problem {
    let detail = format!("wait is a whole number of seconds from 0 to {LONGEST_WAIT}");
    Problem::bad_request(detail)
}

fn tag(etag: ETag) -> HeaderValue {
    HeaderValue::try_from(etag.quoted()).expect("quotes and hex digits are fit for a header")
}

fn named(path: Result<Path<String>, PathRejection>) -> Result<Mailbox, Problem> {
    let Path(name) = path.map_err(|_| InvalidMailbox)?;
    Ok(name.parse::<Mailbox>()?)
}
