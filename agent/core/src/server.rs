//! Servers that help to find a path: STUN tells an address, TURN relays; as URIs, with what opens them.
//!
//! Knows neither who named a server nor how one is reached.

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A server and what opens it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IceServer {
    /// What it is and where.
    pub url: ServerUrl,
    /// The user name that a TURN server asks for; empty for none.
    pub username: String,
    /// The password that goes with it.
    pub credential: Option<Credential>,
}

/// A `stun:`, `turn:` or `turns:` URI (RFC 7064, RFC 7065).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerUrl {
    /// What the server does.
    pub kind: ServerKind,
    /// Name or address, without brackets.
    pub host: String,
    /// UDP or TCP port.
    pub port: u16,
}

/// What a server does, and over which transport it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerKind {
    /// STUN over UDP.
    Stun,
    /// TURN.
    Turn(Transport),
}

/// How a TURN server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
}

/// A TURN password; zeroized when dropped, never printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Zeroize, ZeroizeOnDrop)]
pub struct Credential(String);

/// RFC 7064 §3.1, RFC 7065 §3.1.
const PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;

impl Credential {
    /// Wraps a password.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// Borrows the password.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(hidden)")
    }
}

/// Why a text is no server's URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServer {
    /// No known scheme.
    #[error("expected stun:HOST[:PORT], turn:HOST[:PORT][?transport=udp|tcp] or turns:HOST[:PORT]")]
    Scheme,
    /// No host.
    #[error("the host is missing")]
    Host,
    /// The port is no number, or zero.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// Another query than `transport`, or a transport that the scheme does not go with.
    #[error("only turn: takes ?transport=udp or ?transport=tcp, and turns: only ?transport=tcp")]
    Transport,
}

impl FromStr for ServerUrl {
    type Err = InvalidServer;

    fn from_str(text: &str) -> Result<Self, InvalidServer> {
        let (scheme, rest) = text.split_once(':').ok_or(InvalidServer::Scheme)?;
        let (authority, query) = match rest.split_once('?') {
            Some((authority, query)) => (authority, Some(query)),
            None => (rest, None),
        };
        let kind = match (scheme.to_ascii_lowercase().as_str(), query) {
            ("stun", None) => ServerKind::Stun,
            ("turn", None | Some("transport=udp")) => ServerKind::Turn(Transport::Udp),
            ("turn", Some("transport=tcp")) => ServerKind::Turn(Transport::Tcp),
            ("turns", None | Some("transport=tcp")) => ServerKind::Turn(Transport::Tls),
            ("stun" | "turn" | "turns", Some(_)) => return Err(InvalidServer::Transport),
            _ => return Err(InvalidServer::Scheme),
        };
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of a bare IPv6 address separate no port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or(InvalidServer::Port)?)
            }
            _ => (authority, kind.default_port()),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', '@', '#']) {
            return Err(InvalidServer::Host);
        }
        Ok(Self {
            kind,
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, query) = match self.kind {
            ServerKind::Stun => ("stun", ""),
            ServerKind::Turn(Transport::Udp) => ("turn", "?transport=udp"),
            ServerKind::Turn(Transport::Tcp) => ("turn", "?transport=tcp"),
            ServerKind::Turn(Transport::Tls) => ("turns", ""),
        };
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            write!(f, "{scheme}:[{host}]:{port}{query}")
        } else {
            write!(f, "{scheme}:{host}:{port}{query}")
        }
    }
}

impl ServerKind {
    const fn default_port(self) -> u16 {
        match self {
            Self::Turn(Transport::Tls) => TLS_PORT,
            Self::Stun | Self::Turn(_) => PORT,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_printed_with_everything_that_it_left_out() {
        for (text, whole) in [
            ("stun:a.example", "stun:a.example:3478"),
            ("stun:2001:db8::1", "stun:[2001:db8::1]:3478"),
            ("turn:a.example:5", "turn:a.example:5?transport=udp"),
            ("TURN:a?transport=tcp", "turn:a:3478?transport=tcp"),
            ("turns:[2001:db8::1]:7", "turns:[2001:db8::1]:7"),
            ("turns:a?transport=tcp", "turns:a:5349"),
        ] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), whole);
            assert_eq!(whole.parse(), Ok(url));
        }
    }

    #[test]
    fn a_uri_that_is_none_says_what_is_wrong() {
        for (text, problem) in [
            ("a.example:3478", InvalidServer::Scheme),
            ("https://a", InvalidServer::Scheme),
            ("stun:", InvalidServer::Host),
            ("turn:user@a", InvalidServer::Host),
            ("stun://a", InvalidServer::Host),
            ("stun:a:0", InvalidServer::Port),
            ("turn:[::1]:70000", InvalidServer::Port),
            ("turns:a?transport=udp", InvalidServer::Transport),
            ("stun:a?transport=udp", InvalidServer::Transport),
        ] {
            assert_eq!(text.parse::<ServerUrl>(), Err(problem), "{text}");
        }
    }

    #[test]
    fn a_credential_is_never_printed() {
        let credential = Credential::new("geheim".into());
        assert!(!format!("{credential:?}").contains("geheim"));
    }
}
