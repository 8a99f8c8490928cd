//! Which ICE servers an agent may use: this process's own STUN, where its address can be told.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, Uri};
use axum::response::IntoResponse;
use serde::Serialize;

use super::App;

/// One server in the form of the TURN REST API; credentials are for TURN, which is not offered here.
#[derive(Debug, Serialize)]
pub(super) struct IceServer {
    urls: Vec<String>,
}

/// `GET`: the servers.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
) -> impl IntoResponse {
    let servers = ice_servers(&app, &uri, &headers);
    let body = serde_json::to_vec(&servers).expect("lists of strings become JSON");
    ([(CONTENT_TYPE, "application/json")], body)
}

/// The servers as seen by whoever sent this request. A wildcard socket is reached by the name that the client reached
/// HTTP by: the name goes back to that client only, so it can lie to nobody else.
pub(super) fn ice_servers(app: &App, uri: &Uri, headers: &HeaderMap) -> Vec<IceServer> {
    let asked = uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| headers.get(HOST)?.to_str().ok())
        .and_then(host);
    let mut urls = Vec::new();
    for address in &app.stun {
        if let Some(url) = url(*address, asked)
            && !urls.contains(&url)
        {
            urls.push(url);
        }
    }
    if urls.is_empty() {
        return Vec::new();
    }
    vec![IceServer { urls }]
}

/// The URL of one socket (RFC 7064).
fn url(address: SocketAddr, asked: Option<&str>) -> Option<String> {
    if address.ip().is_unspecified() {
        return Some(format!("stun:{}:{}", asked?, address.port()));
    }
    Some(format!("stun:{address}"))
}

/// The host of an authority, with the brackets of an IPv6 address and without user and port. `None` for what is no host.
fn host(authority: &str) -> Option<&str> {
    let text = authority.rsplit('@').next()?;
    let host = match text.strip_prefix('[') {
        Some(rest) => &text[..rest.find(']')? + 2],
        None => text.split(':').next()?,
    };
    let inner = host.trim_start_matches('[').trim_end_matches(']');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
    (!inner.is_empty() && inner.len() <= 253 && inner.bytes().all(fits)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_socket_is_named_as_the_client_named_the_server() {
        let wildcard: SocketAddr = "[::]:3478".parse().unwrap();
        let named = |authority: &str| url(wildcard, host(authority));
        assert_eq!(
            named("signal.example.net:443").as_deref(),
            Some("stun:signal.example.net:3478")
        );
        assert_eq!(
            named("[2001:db8::1]:8080").as_deref(),
            Some("stun:[2001:db8::1]:3478")
        );
        assert_eq!(named("a b"), None);
        assert_eq!(named(""), None);
        assert_eq!(named("[::1"), None);
        let own: SocketAddr = "192.0.2.1:3478".parse().unwrap();
        assert_eq!(url(own, None).as_deref(), Some("stun:192.0.2.1:3478"));
    }
}
