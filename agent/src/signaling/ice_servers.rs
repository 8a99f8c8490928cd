//! The servers that a backend hands out, in the form that all backends share (protocol §6, TURN REST API).
//!
//! Must not know what they are used for.

use std::time::Duration;

use serde::Deserialize;
use wice_core::server::{Credential, IceServer};

/// What a backend hands out at one time: `[{"urls": […], "username", "credential", "ttl"}]`, `ttl` in seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "Vec<Entry>")]
pub(super) struct Handed {
    /// The servers, in the order in which they were named.
    pub(super) servers: Vec<IceServer>,
    /// How long the shortest-lived credential holds; `None` when all hold for ever.
    pub(super) ttl: Option<Duration>,
    /// URIs that were left out, because this version does not know their form.
    pub(super) unknown: Vec<String>,
}

/// One entry; a field that is not known is no error, a newer server may send it.
#[derive(Deserialize)]
struct Entry {
    urls: Vec<String>,
    #[serde(default)]
    username: String,
    credential: Option<String>,
    ttl: Option<u64>,
}

/// Servers taken from one backend; more are of no use to any peer.
const MAX_SERVERS: usize = 16;

impl From<Vec<Entry>> for Handed {
    fn from(entries: Vec<Entry>) -> Self {
        let mut handed = Self::default();
        for entry in entries {
            let credential = entry.credential.map(Credential::new);
            let ttl = entry.ttl.map(Duration::from_secs);
            handed.ttl = [handed.ttl, ttl].into_iter().flatten().min();
            for text in entry.urls {
                match text.parse() {
                    Ok(url) => handed.servers.push(IceServer {
                        url,
                        username: entry.username.clone(),
                        credential: credential.clone(),
                    }),
                    Err(_) => handed.unknown.push(text),
                }
            }
        }
        handed.servers.truncate(MAX_SERVERS);
        handed
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn every_url_of_an_entry_is_a_server_with_its_credential() {
        let json = br#"[{"urls":["stun:a"]},
            {"urls":["turn:a","turns:a"],"username":"u","credential":"p","ttl":600,"new":1}]"#;
        let handed = serde_json::from_slice::<Handed>(json).unwrap();
        let urls: Vec<String> = handed.servers.iter().map(|it| it.url.to_string()).collect();
        assert_eq!(
            urls,
            ["stun:a:3478", "turn:a:3478?transport=udp", "turns:a:5349"]
        );
        assert_eq!(handed.servers[0].credential, None);
        assert_eq!(handed.servers[2].username, "u");
        assert_eq!(
            handed.servers[2].credential,
            Some(Credential::new("p".into()))
        );
        assert_eq!(handed.ttl, Some(Duration::from_secs(600)));
    }

    #[test]
    fn a_url_that_is_not_known_takes_no_other_down() {
        let handed = serde_json::from_str::<Handed>(r#"[{"urls":["stuns:a","stun:b"]}]"#).unwrap();
        assert_eq!(handed.servers.len(), 1);
        assert_eq!(handed.unknown, ["stuns:a"]);
        assert!(serde_json::from_str::<Handed>(r#"{"urls":[]}"#).is_err());
    }
}
