//! To which addresses a client may have packets relayed.
//!
//! A relay speaks from inside the operator's network: what it may not reach is decided here and nowhere else.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use tracing::warn;

/// What an operator allows beyond the public Internet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Policy {
    /// Private, shared and link-local addresses.
    pub(super) private: bool,
    /// Loopback addresses; for tests on one machine.
    pub(super) loopback: bool,
}

/// The addresses that a relay may reach, and those that are the server itself.
#[derive(Debug)]
pub(super) struct Peers {
    policy: Policy,
    fixed: HashSet<IpAddr>,
    own: HashSet<IpAddr>,
}

/// What kind of address a peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It may be sent to.
    Allowed,
    /// It is this server: nothing is there for a client but the relays of others.
    Own,
    /// It may not be sent to.
    Forbidden,
}

impl Peers {
    /// Knows the addresses that are told to clients, and finds those of this machine.
    pub(super) fn new(policy: Policy, told: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut peers = Self {
            policy,
            fixed: told.into_iter().collect(),
            own: HashSet::new(),
        };
        peers.refresh();
        peers
    }

    /// Looks again at what addresses this machine has.
    pub(super) fn refresh(&mut self) {
        self.own.clone_from(&self.fixed);
        let interfaces = match getifaddrs() {
            Ok(interfaces) => interfaces,
            Err(error) => {
                warn!(
                    "cannot list this machine's addresses: {error}; clients may have packets relayed to services on them: allow AF_NETLINK"
                );
                return;
            }
        };
        for address in interfaces.filter_map(|interface| interface.address) {
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            let v6 = address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip()));
            self.own.extend(v4.or(v6));
        }
    }

    /// Whether packets for this address may be relayed.
    pub(super) fn reach(&self, address: IpAddr) -> Reach {
        if address.is_loopback() {
            return match self.policy.loopback {
                true => Reach::Allowed,
                false => Reach::Forbidden,
            };
        }
        if self.own.contains(&address) {
            return Reach::Own;
        }
        match kind(address) {
            Kind::Public => Reach::Allowed,
            Kind::Private if self.policy.private => Reach::Allowed,
            Kind::Private | Kind::Never => Reach::Forbidden,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    Private,
    Never,
}

/// By the special-purpose registries of IANA (RFC 6890). Addresses for documentation lead nowhere and are let through.
fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        // "This network", loopback, multicast, reserved and broadcast.
        (0 | 127 | 224..=255, _, _) => Kind::Never,
        // RFC 1918, link-local, shared by carriers (RFC 6598), benchmarks (RFC 2544).
        (10, _, _) | (172, 16..=31, _) | (192, 168, _) => Kind::Private,
        (169, 254, _) | (100, 64..=127, _) | (198, 18..=19, _) => Kind::Private,
        // Protocol assignments, among them those of NAT64 and DS-Lite.
        (192, 0, 0) => Kind::Private,
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    let segments = address.segments();
    let [.., high, low] = segments;
    let last = Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match segments {
        // An IPv4 address in other clothes; a socket for IPv6 could be made to speak IPv4 by it.
        [0, 0, 0, 0, 0, 0xffff | 0, ..] => Kind::Never,
        [0, 0, 0, 0, 0xffff, 0, ..] => Kind::Never,
        // NAT64 (RFC 6052): as good as the address behind it; 64:ff9b:1::/48 is some network's own (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => kind_v4(last),
        [0x64, 0xff9b, ..] => Kind::Private,
        // Discard (RFC 6666); Teredo, whose server the sender chooses.
        [0x100, ..] | [0x2001, 0, ..] => Kind::Never,
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => {
            kind_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        // Unique local, link-local, site-local.
        [0xfc00..=0xfdff, ..] | [0xfe80..=0xfeff, ..] => Kind::Private,
        [0xff00..=0xffff, ..] => Kind::Never,
        _ => Kind::Public,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn reach(policy: Policy, address: &str) -> Reach {
        let told = "203.0.113.7".parse().unwrap();
        Peers::new(policy, [told]).reach(address.parse().unwrap())
    }

    #[test]
    fn only_public_addresses_are_reached_unless_more_is_allowed() {
        let private = Policy {
            private: true,
            ..Policy::default()
        };
        for address in ["8.8.8.8", "192.0.2.9", "2a00::1", "64:ff9b::808:808"] {
            assert_eq!(
                reach(Policy::default(), address),
                Reach::Allowed,
                "{address}"
            );
        }
        for address in [
            "10.9.8.7",
            "172.31.0.1",
            "192.168.3.4",
            "100.64.9.9",
            "169.254.9.9",
            "198.18.0.1",
            "192.0.0.8",
            "fd12::1",
            "fe80::1",
            "64:ff9b::a09:807",
            "64:ff9b:1::1",
            "2002:a09:807::1",
        ] {
            assert_eq!(
                reach(Policy::default(), address),
                Reach::Forbidden,
                "{address}"
            );
            assert_eq!(reach(private, address), Reach::Allowed, "{address}");
        }
    }

    #[test]
    fn some_addresses_are_reached_in_no_case() {
        let all = Policy {
            private: true,
            loopback: false,
        };
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "127.9.9.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "::8.8.8.8",
            "::ffff:0:808:808",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "100::1",
        ] {
            assert_eq!(reach(all, address), Reach::Forbidden, "{address}");
        }
    }

    #[test]
    fn the_server_is_no_peer_of_its_own_clients() {
        assert_eq!(reach(Policy::default(), "203.0.113.7"), Reach::Own);
    }
}
