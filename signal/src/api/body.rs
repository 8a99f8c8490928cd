//! Request bodies: of the right kind, within bounds, in time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::problem::Problem;

/// How long a whole body may take; the longest is a few hundred kilobytes.
const ARRIVAL: Duration = Duration::from_secs(20);

/// Reads a body of the media type `kind`, of at most `limit` bytes.
pub(super) async fn read(request: Request, kind: &str, limit: usize) -> Result<Vec<u8>, Problem> {
    let (head, body) = request.into_parts();
    announced(&head.headers, kind, limit)?;
    timeout(ARRIVAL, collect(body, limit))
        .await
        .unwrap_or_else(|_| {
            let detail = "the body did not arrive in time";
            let status = StatusCode::REQUEST_TIMEOUT;
            Err(Problem::new(status, "timeout", detail))
        })
}

/// Judges a body by its headers, before any of it is read.
fn announced(headers: &HeaderMap, kind: &str, limit: usize) -> Result<(), Problem> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok();
    let essence = text(CONTENT_TYPE).and_then(|text| text.split(';').next());
    if !essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(kind)) {
        let detail = format!("the body must be {kind}, and Content-Type must say so");
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Problem::new(status, "unsupported-media-type", detail));
    }
    let length = text(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(Problem::too_large(limit));
    }
    Ok(())
}

async fn collect(body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|_| Problem::bad_request("the body ended early"))?;
        if bytes.len() + part.len() > limit {
            return Err(Problem::too_large(limit));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}
