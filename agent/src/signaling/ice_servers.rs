//! The servers that a backend hands out, in the form that all backends share (protocol §6, TURN REST API).
//!
//! Must not know what they are used for.

use std::time::Duration;

use serde::Deserialize;
use wice_core::server::{Credential, IceServer, ServerUrl};

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

/// Bytes of a URI, a user name or a password; TURN takes no longer ones (RFC 8489 §14.3).
const MAX_TEXT: usize = 508;

/// Credentials are asked for anew after half of their time, but no more often than this.
pub(super) const SOONEST: Duration = Duration::from_secs(30);

/// And no more seldom: a server that was set up anew is noticed.
const LATEST: Duration = Duration::from_secs(24 * 3600);

impl From<Vec<Entry>> for Handed {
    fn from(entries: Vec<Entry>) -> Self {
        let mut handed = Self::default();
        for entry in entries {
            let credential = entry.credential.as_deref().unwrap_or_default();
            let too_long = [entry.username.as_str(), credential]
                .iter()
                .any(|text| text.len() > MAX_TEXT || text.contains(char::is_control));
            let credential = entry.credential.map(Credential::new);
            for text in entry.urls {
                match text.parse::<ServerUrl>() {
                    Ok(url) if !too_long && text.len() <= MAX_TEXT => {
                        handed.add(url, &entry.username, credential.as_ref(), entry.ttl);
                    }
                    Ok(_) | Err(_) if handed.unknown.len() < MAX_SERVERS => {
                        handed.unknown.push(text.chars().take(60).collect());
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        handed
    }
}

impl Handed {
    fn add(
        &mut self,
        url: ServerUrl,
        username: &str,
        credential: Option<&Credential>,
        ttl: Option<u64>,
    ) {
        if self.servers.len() >= MAX_SERVERS {
            return;
        }
        // What holds for no time at all holds for an unknown one.
        let ttl = ttl.filter(|ttl| *ttl > 0).map(Duration::from_secs);
        self.ttl = [self.ttl, ttl].into_iter().flatten().min();
        self.servers.push(IceServer {
            url,
            username: username.to_owned(),
            credential: credential.cloned(),
        });
    }

    /// When to ask again, so that credentials are replaced before they end; `None` where they never do.
    pub(super) fn renewal(&self) -> Option<Duration> {
        self.ttl.map(|ttl| (ttl / 2).clamp(SOONEST, LATEST))
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

    #[test]
    fn a_list_without_measure_is_cut() {
        let urls: Vec<String> = (0..100).map(|it| format!("turn:{it}.example")).collect();
        let long = "x".repeat(MAX_TEXT + 1);
        let json = serde_json::json!([
            {"urls": urls, "username": long, "credential": "p", "ttl": 9},
            {"urls": ["turn:\u{0}", "turn:a"], "username": "u", "credential": "p", "ttl": 0},
            {"urls": urls, "ttl": 20}
        ]);
        let handed: Handed = serde_json::from_value(json).unwrap();
        assert_eq!(handed.servers.len(), MAX_SERVERS);
        assert_eq!(handed.unknown.len(), MAX_SERVERS);
        assert!(handed.servers.iter().all(|server| server.username != long));
        // Of those that are used; and a server that says "soon" is not asked without end.
        assert_eq!(handed.ttl, Some(Duration::from_secs(20)));
        assert_eq!(handed.renewal(), Some(SOONEST));
    }

    #[test]
    fn credentials_are_asked_for_again_after_half_of_their_time() {
        let handed = |ttl: u64| {
            let json = serde_json::json!([{"urls": ["turn:a"], "ttl": ttl}]);
            serde_json::from_value::<Handed>(json).unwrap()
        };
        assert_eq!(handed(3600).renewal(), Some(Duration::from_secs(1800)));
        assert_eq!(handed(u64::MAX).renewal(), Some(LATEST));
        assert_eq!(handed(0).renewal(), None);
    }
}
