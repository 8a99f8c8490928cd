//! Allowed IPs: which peer of an interface WireGuard sends an address to, and which address a peer surely answers at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wice_bus::{Interface, Peer};

/// A prefix as the agent writes it, such as `10.0.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix {
    address: IpAddr,
    length: u32,
}

impl Prefix {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length: u32 = length.parse().ok()?;
        (length <= bits(address)).then_some(Self { address, length })
    }

    fn contains(self, address: IpAddr) -> bool {
        let host = bits(self.address) - self.length;
        let network = |value: u128| value.checked_shr(host).unwrap_or(0);
        self.address.is_ipv4() == address.is_ipv4()
            && network(number(self.address)) == network(number(address))
    }

    /// The only address, or the first one after the network's own; a default route has none.
    fn first_host(self) -> Option<IpAddr> {
        match bits(self.address) - self.length {
            _ if self.length == 0 => None,
            // Point-to-point links use both addresses (RFC 3021, RFC 6164).
            0 | 1 => Some(self.address),
            _ => Some(match self.address {
                IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) | 1).into(),
                IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) | 1).into(),
            }),
        }
    }
}

/// The first host of the longest prefix of a peer, of several the first; `None` when default routes are all it has.
pub(crate) fn first_host(peer: &Peer) -> Option<IpAddr> {
    let prefixes: Vec<Prefix> = prefixes(peer).collect();
    let host_bits = |prefix: &Prefix| bits(prefix.address) - prefix.length;
    prefixes
        .iter()
        .filter(|prefix| prefix.length > 0)
        .min_by_key(|prefix| host_bits(prefix))
        .and_then(|prefix| prefix.first_host())
}

/// The peer that WireGuard sends packets for `address` to: the one with the longest prefix.
pub(crate) fn route(interface: &Interface, address: IpAddr) -> Option<&Peer> {
    let peers = interface.peers.iter();
    peers
        .filter_map(|peer| {
            let fitting = prefixes(peer).filter(|prefix| prefix.contains(address));
            Some((fitting.map(|prefix| prefix.length).max()?, peer))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, peer)| peer)
}

fn prefixes(peer: &Peer) -> impl Iterator<Item = Prefix> {
    peer.allowed_ips
        .iter()
        .filter_map(|text| Prefix::parse(text))
}

const fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(key: &str, allowed_ips: &[&str]) -> Peer {
        Peer {
            public_key: key.to_owned(),
            allowed_ips: allowed_ips.iter().map(|&it| it.to_owned()).collect(),
            ..Peer::default()
        }
    }

    fn first(allowed_ips: &[&str]) -> Option<String> {
        first_host(&peer("", allowed_ips)).map(|address| address.to_string())
    }

    #[test]
    fn a_peers_own_address_comes_before_the_networks_behind_it() {
        assert_eq!(
            first(&["192.168.1.0/24", "10.0.0.2/32", "10.0.0.3/32"]).as_deref(),
            Some("10.0.0.2")
        );
        assert_eq!(first(&["192.168.1.0/24"]).as_deref(), Some("192.168.1.1"));
        assert_eq!(first(&["fd00::/64"]).as_deref(), Some("fd00::1"));
        assert_eq!(first(&["10.0.0.0/31"]).as_deref(), Some("10.0.0.0"));
    }

    #[test]
    fn a_default_route_has_no_first_host() {
        assert_eq!(first(&["0.0.0.0/0", "::/0"]), None);
        assert_eq!(first(&[]), None);
        assert_eq!(first(&["10.0.0.0/33", "nonsense"]), None);
    }

    #[test]
    fn the_longest_prefix_decides_whom_an_address_belongs_to() {
        let interface = Interface {
            peers: vec![
                peer("all", &["0.0.0.0/0"]),
                peer("one", &["10.0.0.2/32"]),
                peer("net", &["10.0.0.0/24", "fd00::/64"]),
            ],
            ..Interface::default()
        };
        let route = |address: &str| {
            let address = address.parse().expect("an address");
            route(&interface, address).map(|peer| peer.public_key.as_str())
        };
        assert_eq!(route("10.0.0.2"), Some("one"));
        assert_eq!(route("10.0.0.3"), Some("net"));
        assert_eq!(route("192.0.2.1"), Some("all"));
        assert_eq!(route("fd00::9"), Some("net"));
        assert_eq!(route("fd01::9"), None);
    }
}
