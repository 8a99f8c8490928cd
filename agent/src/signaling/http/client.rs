//! The requests of the REST backend, each within its limits of time and size.
//!
//! Knows HTTP and the server's resources; decides nothing about when to ask.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;
use wice_core::mailbox::{MAX_SEALED, Mailbox, Sealed};

use super::super::BackendConfig;
use super::super::backend::{BackendError, resource, retry_after_seconds};
use super::super::ice_servers::Handed;
use super::super::outbox::Written;

/// Asks one server.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    with_token: bool,
}

/// Longest time to set up TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for a request that the server answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the server shall hold a poll; protocol §6 allows 60 s.
pub(super) const WAIT: Duration = Duration::from_secs(50);
/// Longest time for a poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(65);
/// A connection that idles behind a NAT is checked this often.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Room in an answer for what is not a message: names, tags, punctuation.
const ENVELOPE: usize = 512;
/// Longest answer to a poll; a server sends what does not fit with the next one.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Longest list of ICE servers.
const MAX_HELLO: usize = 64 * 1024;
/// Most of an error's text that is read.
const MAX_PROBLEM: usize = 4096;
/// Most of an error's text that is shown.
const MAX_DETAIL: usize = 160;

/// What became of a poll.
#[derive(Debug)]
pub(super) enum Answer {
    /// What changed, by the mailbox's name.
    Letters(BTreeMap<String, Letter>),
    /// The server wants to be left alone for a while.
    Later(Duration),
}

/// The new content of a mailbox.
#[derive(Debug, Deserialize)]
pub(super) struct Letter {
    /// Names the content; to be sent with the next poll.
    pub(super) etag: Option<String>,
    /// The message; none when it was withdrawn.
    pub(super) message: Option<String>,
}

#[derive(Deserialize)]
struct Letters {
    mailboxes: BTreeMap<String, Letter>,
}

/// RFC 9457, as much of it as is shown.
#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
}

impl Client {
    /// Prepares; connects to nothing yet.
    pub(super) fn new(config: &BackendConfig) -> Result<Self, BackendError> {
        let setup = |source| BackendError::Setup { source };
        let mut headers = reqwest::header::HeaderMap::new();
        if let Some(token) = &config.token {
            let mut value =
                HeaderValue::from_str(&token.bearer()).map_err(|error| setup(error.into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("wice-agent/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            // A redirection could carry names of mailboxes to a server that nobody configured.
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .http2_keep_alive_interval(KEEPALIVE)
            .http2_keep_alive_timeout(KEEPALIVE)
            .http2_keep_alive_while_idle(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| setup(error.into()))?;
        Ok(Self {
            http,
            base: config.url.clone(),
            with_token: config.token.is_some(),
        })
    }

    /// Connects, and asks which ICE servers there are: `None` where the server does not say.
    pub(super) fn hello(
        &self,
    ) -> impl Future<Output = Result<Option<Handed>, BackendError>> + use<> {
        let call = self.call("connect", Method::GET, "ice-servers");
        async move {
            let reply = call.exchange(ANSWER_TIMEOUT, MAX_HELLO).await?;
            match reply.status {
                status if status.is_success() => match serde_json::from_slice(&reply.body) {
                    Ok(handed) => Ok(Some(handed)),
                    Err(_) => Err(BackendError::Malformed {
                        tried: "connect",
                        what: "something else than a list of ICE servers",
                    }),
                },
                // A server need not have any, and one that is busy is there all the same.
                StatusCode::NOT_FOUND | StatusCode::TOO_MANY_REQUESTS => Ok(None),
                _ => Err(reply.refusal()),
            }
        }
    }

    /// Puts a message into a mailbox, or empties it.
    pub(super) fn write(
        &self,
        mailbox: Mailbox,
        sealed: Option<Sealed>,
    ) -> impl Future<Output = Result<Written, BackendError>> + use<> {
        let path = format!("mailboxes/{mailbox}");
        let withdraw = sealed.is_none();
        let call = match sealed {
            Some(sealed) => {
                let mut call = self.call("publish", Method::PUT, &path);
                let jose = call.request.header(CONTENT_TYPE, "application/jose");
                call.request = jose.body(sealed.as_str().to_owned());
                call
            }
            None => self.call("withdraw", Method::DELETE, &path),
        };
        async move {
            let reply = call.exchange(ANSWER_TIMEOUT, MAX_PROBLEM).await?;
            match reply.status {
                status if status.is_success() => Ok(Written::Done),
                StatusCode::NOT_FOUND if withdraw => Ok(Written::Done),
                StatusCode::TOO_MANY_REQUESTS => Ok(Written::Later(reply.pause())),
                StatusCode::PAYLOAD_TOO_LARGE => Ok(Written::Refused),
                _ => Err(reply.refusal()),
            }
        }
    }

    /// Waits for news of some mailboxes, given by name with the tag of what is known of each.
    pub(super) fn poll(
        &self,
        known: &BTreeMap<String, Option<&str>>,
    ) -> impl Future<Output = Result<Answer, BackendError>> + use<> {
        let limit = MAX_ANSWER.min(ENVELOPE + known.len() * (MAX_SEALED + ENVELOPE));
        let mut call = self.call("poll", Method::POST, "poll");
        let body = serde_json::json!({ "wait": WAIT.as_secs(), "mailboxes": known });
        call.request = call.request.json(&body);
        async move {
            let reply = call.exchange(POLL_TIMEOUT, limit).await?;
            match reply.status {
                StatusCode::OK => {}
                StatusCode::NO_CONTENT => return Ok(Answer::Letters(BTreeMap::new())),
                StatusCode::TOO_MANY_REQUESTS => return Ok(Answer::Later(reply.pause())),
                _ => return Err(reply.refusal()),
            }
            match serde_json::from_slice::<Letters>(&reply.body) {
                Ok(letters) => Ok(Answer::Letters(letters.mailboxes)),
                Err(_) => Err(BackendError::Malformed {
                    tried: "poll",
                    what: "something else than the JSON of a poll",
                }),
            }
        }
    }

    fn call(&self, tried: &'static str, method: Method, tail: &str) -> Call {
        Call {
            tried,
            with_token: self.with_token,
            request: self.http.request(method, resource(&self.base, tail)),
        }
    }
}

/// One request on its way.
struct Call {
    tried: &'static str,
    with_token: bool,
    request: RequestBuilder,
}

impl Call {
    /// Sends the request and reads the whole answer, all within `within`; an answer over `limit` bytes is an error.
    async fn exchange(self, within: Duration, limit: usize) -> Result<Reply, BackendError> {
        let tried = self.tried;
        match timeout(within, self.unbounded(limit)).await {
            Ok(reply) => reply,
            Err(_) => Err(BackendError::Silent { tried, within }),
        }
    }

    async fn unbounded(self, limit: usize) -> Result<Reply, BackendError> {
        let tried = self.tried;
        let failed = |error: reqwest::Error| BackendError::Unreachable {
            // Whichever request fails first: the error of a server that is not there stays the same.
            tried: if error.is_connect() { "connect" } else { tried },
            source: error.without_url().into(),
        };
        // A server may close an idle connection just when it is used again; every request can be repeated. A poll is
        // never idle: that it breaks is news, since the server may have restarted and lost our messages.
        let again = self.request.try_clone().filter(|_| tried != "poll");
        let mut response = match (self.request.send().await, again) {
            (Err(error), Some(again)) if !error.is_connect() => again.send().await,
            (response, _) => response,
        }
        .map_err(failed)?;
        let retry_after = response.headers().get(RETRY_AFTER);
        let mut reply = Reply {
            tried,
            with_token: self.with_token,
            status: response.status(),
            retry_after: retry_after.map(|value| retry_after_seconds(value.as_bytes())),
            body: Vec::new(),
        };
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if reply.body.len() + chunk.len() > limit {
                return Err(BackendError::Malformed {
                    tried,
                    what: "more than it may",
                });
            }
            reply.body.extend_from_slice(&chunk);
        }
        Ok(reply)
    }
}

/// An answer, read to its end.
struct Reply {
    tried: &'static str,
    with_token: bool,
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Reply {
    /// How long to leave the server alone that asks for it.
    fn pause(&self) -> Duration {
        self.retry_after.unwrap_or(Duration::from_secs(1))
    }

    /// The error that an unexpected answer amounts to.
    fn refusal(self) -> BackendError {
        let status = self.status.as_u16();
        if matches!(
            self.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            return BackendError::Unauthorized {
                tried: "connect",
                status,
                with_token: self.with_token,
            };
        }
        BackendError::Status {
            tried: self.tried,
            status,
            detail: detail(&self.body),
            retry_after: self.retry_after,
        }
    }
}

/// What a server says about an error: one short line without control characters, or nothing.
fn detail(body: &[u8]) -> String {
    let problem = serde_json::from_slice::<Problem>(body).ok();
    match problem.and_then(|problem| problem.detail.or(problem.title)) {
        Some(text) => {
            let line = text.chars().filter(|it| !it.is_control());
            format!(": {}", line.take(MAX_DETAIL).collect::<String>())
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_an_error_is_shown_on_one_short_line() {
        let long = "x".repeat(1000);
        let body = format!(r#"{{"title":"no","detail":"a\n\u001b[31mb{long}"}}"#);
        let shown = detail(body.as_bytes());
        assert!(shown.starts_with(": a[31mbxxx"), "{shown}");
        assert!(shown.len() <= MAX_DETAIL + 2);
        assert_eq!(detail(b"<html>"), "");
    }
}
