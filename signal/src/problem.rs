//! Errors as a client reads them: problem details (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::mailbox::InvalidMailbox;
use crate::metrics::Code;
use crate::store::Refused;

/// One error: over HTTP a problem document, over WebSocket an `error` operation.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl Problem {
    /// An error by status, by a code for programs, and by a sentence for people.
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// The request is malformed.
    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    /// The request is well-formed and asks for what cannot be.
    pub(crate) fn unprocessable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", detail)
    }

    /// The body, or a message in it, is longer than `limit` bytes.
    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("longer than {limit} bytes; send less");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    /// The client of this address, or with this token, asks too often.
    pub(crate) fn too_many_requests(whose: &str, wait: Duration) -> Self {
        let detail = format!("too many requests of this {whose}; wait as long as Retry-After says");
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail);
        problem.retry_after = Some(wait);
        problem
    }

    /// The clients of this address, or with this token, have too many requests under way.
    pub(crate) fn too_many_connections(whose: &str) -> Self {
        let detail =
            format!("this {whose} has as many requests under way as one may; end some, or wait");
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-connections",
            detail,
        );
        problem.retry_after = Some(Duration::from_secs(10));
        problem
    }

    /// The server does its work soon, and not now.
    pub(crate) fn not_ready(detail: String) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail);
        problem.retry_after = Some(Duration::from_secs(2));
        problem
    }

    /// The code for programs.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence for people.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl From<InvalidMailbox> for Problem {
    fn from(error: InvalidMailbox) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-mailbox",
            error.to_string(),
        )
    }
}

impl From<Refused> for Problem {
    fn from(error: Refused) -> Self {
        let too_many = StatusCode::TOO_MANY_REQUESTS;
        let (status, code, seconds) = match error {
            Refused::Mailboxes => (too_many, "too-many-mailboxes", 60),
            Refused::Subscriptions => (too_many, "too-many-subscriptions", 30),
            Refused::Subscribers => (too_many, "too-many-subscribers", 30),
            Refused::Full => (too_many, "full", 60),
            Refused::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", 2),
        };
        let mut problem = Self::new(status, code, error.to_string());
        problem.retry_after = Some(Duration::from_secs(seconds));
        problem
    }
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
        };
        let body = serde_json::to_vec(&document).expect("strings and a number become JSON");
        let mut response = (self.status, body).into_response();
        response.extensions_mut().insert(Code(self.code));
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, kind);
        if let Some(wait) = self.retry_after {
            // Rounded up: who comes back early is turned away again.
            let seconds = (wait.as_secs_f64().ceil() as u64).max(1);
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"wice-signal\"");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    }
}
