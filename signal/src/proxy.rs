//! Whose request it is that comes through a reverse proxy.
//!
//! Only `X-Forwarded-For` is read, and only what proxies of the operator's added to it. `Forwarded` (RFC 7239) is not: common
//! proxies add one of the two and hand a client's other through.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The header that proxies add to.
const HEADER: &str = "x-forwarded-for";

/// The proxies whose word on their clients' addresses is taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies(Vec<IpNet>);

impl Proxies {
    /// The proxies with an address in one of these networks.
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether a connection from there is a proxy's.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a request that a proxy handed on: the last address in the list that is no proxy's. `None` when no proxy
    /// said one, or said something else than an address.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        for line in headers.get_all(HEADER).iter().rev() {
            for word in line.to_str().ok()?.rsplit(',') {
                let address = address(word.trim())?;
                if !self.contains(address) {
                    return Some(address);
                }
            }
        }
        None
    }
}

/// Reads an address as proxies write it: alone, or with the port of the connection.
fn address(word: &str) -> Option<IpAddr> {
    let alone = word.trim_start_matches('[').trim_end_matches(']');
    let socket = || word.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    alone.parse().ok().or_else(socket)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn client(lines: &[&str]) -> Option<IpAddr> {
        let proxies = Proxies::new(vec![
            "127.0.0.0/8".parse().unwrap(),
            "2001:db8:f::/48".parse().unwrap(),
        ]);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HEADER, line.parse().unwrap());
        }
        proxies.client(&headers)
    }

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_client() {
        let seen = Some(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(client(&["192.0.2.1"]), seen);
        assert_eq!(
            client(&["198.51.100.9, 192.0.2.1, 127.0.0.5"]),
            seen,
            "what the client claims counts nothing"
        );
        assert_eq!(client(&["198.51.100.9", "192.0.2.1, 2001:db8:f::7"]), seen);
        assert_eq!(client(&["192.0.2.1:4711"]), seen);
        assert_eq!(client(&["[2001:db8::1]:4711"]), "2001:db8::1".parse().ok());
        assert_eq!(client(&["[2001:db8::1]"]), "2001:db8::1".parse().ok());
    }

    #[test]
    fn what_is_no_address_is_nobody() {
        for lines in [
            &[][..],
            &["127.0.0.1"],
            &["192.0.2.1, unknown"],
            &["192.0.2.1, "],
            &["a,b"],
        ] {
            assert_eq!(client(lines), None, "{lines:?}");
        }
    }
}
