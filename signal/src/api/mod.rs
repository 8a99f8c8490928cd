//! The HTTP interface: which path leads where, and what every request must pass.

mod body;
mod mailboxes;
mod poll;
mod servers;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Router};

use crate::connection::Client;
use crate::limit::{Rate, Slots, Source};
use crate::metrics::{Metrics, observe};
use crate::options::Limits;
use crate::problem::Problem;
use crate::proxy::Proxies;
use crate::store::Store;
use crate::token::{TokenId, Tokens};
pub(crate) use servers::TurnUrls;

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Arc<Store>,
    pub(crate) rate: Arc<Rate>,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) token_rate: Arc<Rate<TokenId>>,
    /// Requests under way with each token.
    pub(crate) with_token: Slots<TokenId>,
    pub(crate) proxies: Proxies,
    /// Requests under way of clients that come through a proxy, as connections of others are counted.
    pub(crate) behind_proxies: Slots,
    pub(crate) stun: Vec<SocketAddr>,
    pub(crate) turn: Option<TurnUrls>,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
}

impl App {
    /// Counts one request or operation of a client, or says how long it is to wait.
    fn take(&self, client: &Client) -> Result<(), Problem> {
        let wait = self.rate.take(client.source, Instant::now());
        wait.map_err(|wait| Problem::too_many_requests("address", wait))?;
        self.take_token(client.token)
    }

    fn take_token(&self, token: Option<TokenId>) -> Result<(), Problem> {
        let Some(token) = token else {
            return Ok(());
        };
        let wait = self.token_rate.take(token, Instant::now());
        wait.map_err(|wait| Problem::too_many_requests("token", wait))
    }
}

/// The description of this interface, kept by hand next to the code that it describes.
const OPENAPI: &str = include_str!("openapi.json");

const MAILBOX: &str = "/v1/mailboxes/{mailbox}";
const POLL: &str = "/v1/poll";
const WEBSOCKET: &str = "/v1/websocket";
const ICE_SERVERS: &str = "/v1/ice-servers";
const DESCRIPTION: &str = "/v1/openapi.json";
const HEALTH: &str = "/healthz";
const READY: &str = "/readyz";

/// All paths.
pub(crate) fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route(
            MAILBOX,
            put(mailboxes::write)
                .get(mailboxes::read)
                .delete(mailboxes::withdraw),
        )
        .route(POLL, post(poll::poll))
        .route(WEBSOCKET, get(websocket::upgrade))
        .route(ICE_SERVERS, get(servers::list))
        .route_layer(from_fn_with_state(Arc::clone(&app), authorize));
    let open = Router::new()
        .route(DESCRIPTION, get(description))
        .route_layer(from_fn_with_state(Arc::clone(&app), limit));
    guarded
        .route_layer(from_fn_with_state(Arc::clone(&app), limit))
        .merge(open)
        .route_layer(from_fn_with_state(Arc::clone(&app), attribute))
        // A health check is never turned away: a flood is no reason to restart the server.
        .route(HEALTH, get(health))
        .route(READY, get(ready))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(note))
        .layer(from_fn_with_state(app.metrics.clone(), observe))
        .with_state(app)
}

async fn description() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn health() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], r#"{"status":"ok"}"#)
}

/// Whether to send clients here: not while mailboxes are out of reach, and not to a server that is about to end.
async fn ready(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
) -> Result<impl IntoResponse, Problem> {
    let reason = match app.store.unready() {
        _ if client.stop.is_draining() => Some("the server is stopping".to_owned()),
        unready => unready,
    };
    match reason {
        None => Ok((
            [(CONTENT_TYPE, "application/json")],
            r#"{"status":"ready"}"#,
        )),
        Some(reason) => Err(Problem::not_ready(reason)),
    }
}

async fn unknown() -> Problem {
    let detail = "no such path; /v1/openapi.json lists all";
    Problem::new(StatusCode::NOT_FOUND, "unknown-path", detail)
}

async fn wrong_method() -> Problem {
    let detail = "this path does not take that method; the Allow header names those that it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

/// Every request: the connection is in use, and nobody between may keep an answer.
async fn note(Extension(client): Extension<Client>, request: Request, next: Next) -> Response {
    client.spoke();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whose request it is, where a proxy hands it on.
async fn attribute(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if client.by_proxy
        && let Some(address) = app.proxies.client(request.headers())
    {
        let source = Source::from(address);
        let slot = app.behind_proxies.take(source);
        let slot = slot.map_err(|_| Problem::too_many_connections("address"))?;
        request
            .extensions_mut()
            .insert(client.behind_proxy(source, slot));
    }
    Ok(next.run(request).await)
}

async fn limit(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    app.take(&client)?;
    Ok(next.run(request).await)
}

async fn authorize(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Some(tokens) = &app.tokens else {
        return Ok(next.run(request).await);
    };
    let given = request.headers().get(AUTHORIZATION);
    let given = given.and_then(|value| bearer(value.as_bytes()));
    let Some(token) = given.and_then(|given| tokens.find(given)) else {
        let detail = match given {
            Some(_) => "the bearer token is not one of this server's",
            None => "this server asks for a token: send Authorization: Bearer TOKEN",
        };
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            detail,
        ));
    };
    app.take_token(Some(token))?;
    let slot = app.with_token.take(token);
    let slot = slot.map_err(|_| Problem::too_many_connections("token"))?;
    request
        .extensions_mut()
        .insert(client.with_token(token, slot));
    Ok(next.run(request).await)
}

/// The token in an `Authorization` header (RFC 6750 §2.1; schemes are case-insensitive).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_exactly_the_paths_that_are_served() {
        let description: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described: Vec<&str> = description["paths"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        described.sort_unstable();
        let mut served = [
            MAILBOX,
            POLL,
            WEBSOCKET,
            ICE_SERVERS,
            DESCRIPTION,
            HEALTH,
            READY,
        ];
        served.sort_unstable();
        assert_eq!(described, served);
    }
}
