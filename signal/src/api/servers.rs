//! Which ICE servers an agent may use: this process's own STUN and TURN, where their addresses can be told.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, Uri};
use axum::response::IntoResponse;
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::App;
use crate::turn::{Issued, Issuer, User};

/// Where this process serves TURN, and who hands out credentials for it.
#[derive(Debug)]
pub(crate) struct TurnUrls {
    pub(crate) plain: Vec<SocketAddr>,
    pub(crate) tls: Vec<SocketAddr>,
    pub(crate) issuer: Issuer,
}

/// One entry in the form of the TURN REST API.
#[derive(Debug, Serialize)]
pub(super) struct IceServer {
    urls: Vec<String>,
    #[serde(flatten)]
    credentials: Option<Credentials>,
}

#[derive(Serialize)]
struct Credentials {
    username: String,
    #[serde(serialize_with = "exposed")]
    credential: Zeroizing<String>,
    ttl: u64,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

fn exposed<S: Serializer>(credential: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(credential)
}

/// `GET`: the servers.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
) -> impl IntoResponse {
    let asked = asked_host(&uri, &headers);
    let servers = ice_servers(&app, asked.as_deref(), &User::random());
    let body = serde_json::to_vec(&servers).expect("lists of strings become JSON");
    ([(CONTENT_TYPE, "application/json")], body)
}

/// The host by which a client reached HTTP.
pub(super) fn asked_host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    uri.authority()
        .map(|authority| authority.as_str())
        .or_else(|| headers.get(HOST)?.to_str().ok())
        .and_then(host)
        .map(str::to_owned)
}

/// The servers for a client that reached HTTP by the host `asked`, with credentials made for `user` where a server asks
/// for some. A wildcard socket is reached by that very name: it goes back to that client only, so it can lie to nobody
/// else.
pub(super) fn ice_servers(app: &App, asked: Option<&str>, user: &User) -> Vec<IceServer> {
    let host = |address: &SocketAddr| {
        if address.ip().is_unspecified() {
            return asked.map(str::to_owned);
        }
        Some(match address {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        })
    };
    let turn = app.turn.as_ref();
    let plain = turn.map_or(&[][..], |turn| &turn.plain);
    let mut stun_urls = Vec::new();
    for address in app.stun.iter().chain(plain) {
        let url = host(address).map(|host| format!("stun:{host}:{}", address.port()));
        stun_urls.extend(url.filter(|url| !stun_urls.contains(url)));
    }
    let mut servers = Vec::new();
    if !stun_urls.is_empty() {
        servers.push(IceServer {
            urls: stun_urls,
            credentials: None,
        });
    }
    let Some(turn) = turn else {
        return servers;
    };
    let mut urls = Vec::new();
    // UDP first: a client that takes them in order is best served by it.
    for transport in ["udp", "tcp"] {
        for address in plain {
            let url = host(address)
                .map(|host| format!("turn:{host}:{}?transport={transport}", address.port()));
            urls.extend(url.filter(|url| !urls.contains(url)));
        }
    }
    for address in &turn.tls {
        // The certificate is made out to a name, if it is to any. Who asked by an address has none, and that address need not
        // be the one of this socket.
        let name = asked.filter(|asked| !is_address(asked));
        let host = name.map(str::to_owned).or_else(|| host(address));
        let url = host.map(|host| format!("turns:{host}:{}?transport=tcp", address.port()));
        urls.extend(url.filter(|url| !urls.contains(url)));
    }
    if !urls.is_empty() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let Issued {
            username,
            credential,
            ttl,
        } = turn.issuer.issue(user, now.map_or(0, |now| now.as_secs()));
        servers.push(IceServer {
            urls,
            credentials: Some(Credentials {
                username,
                credential,
                ttl: ttl.as_secs(),
            }),
        });
    }
    servers
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

/// Tells whether a host is an address and no name.
fn is_address(host: &str) -> bool {
    let inner = host.trim_start_matches('[').trim_end_matches(']');
    inner.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_taken_from_what_the_client_asked() {
        assert_eq!(host("signal.example.net:443"), Some("signal.example.net"));
        assert_eq!(host("[2001:db8::1]:8080"), Some("[2001:db8::1]"));
        for none in ["a b", "", "[::1"] {
            assert_eq!(host(none), None, "{none}");
        }
    }

    #[test]
    fn an_address_is_no_name_that_a_certificate_would_have() {
        for address in ["10.0.0.1", "[2001:db8::1]"] {
            assert!(is_address(address), "{address}");
        }
        assert!(!is_address("signal.example.net"));
    }
}
