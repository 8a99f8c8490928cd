//! How many strangers may have a connection open: everybody may connect, and nobody may fill the agent up.
//!
//! Counts addresses; knows no socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Accepted connections that have not proved yet whose they are, by where they come from.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<IpAddr, usize>);

/// Together. Each has a few seconds, and the peers of a hundred tunnels that come at once retry.
const MOST: usize = 64;
/// From one address: several peers may be behind one NAT, and each of them may try from several addresses.
const MOST_OF_ONE: usize = 8;

impl Strangers {
    /// Counts one in; false when there is no room for it.
    pub(super) fn enter(&mut self, address: IpAddr) -> bool {
        let all: usize = self.0.values().sum();
        let origin = origin(address);
        let count = self.0.get(&origin).copied().unwrap_or_default();
        if all >= MOST || count >= MOST_OF_ONE {
            return false;
        }
        self.0.insert(origin, count + 1);
        true
    }

    /// Counts one out: it is known now, or gone.
    pub(super) fn leave(&mut self, address: IpAddr) {
        let origin = origin(address);
        if let Some(count) = self.0.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&origin);
            }
        }
    }
}

/// A host has all addresses of its IPv6 network.
fn origin(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, MOST_OF_ONE, Strangers};
    use std::net::IpAddr;

    #[test]
    fn one_address_cannot_take_all_the_room() {
        let mut strangers = Strangers::default();
        let greedy: IpAddr = "192.0.2.1".parse().expect("an address");
        let admitted = (0..100).filter(|_| strangers.enter(greedy)).count();
        assert_eq!(admitted, MOST_OF_ONE);
        assert!(strangers.enter([192, 0, 2, 2].into()));
        strangers.leave(greedy);
        assert!(strangers.enter(greedy));
        assert!(!strangers.enter(greedy));
    }

    #[test]
    fn a_whole_ipv6_network_counts_as_one() {
        let mut strangers = Strangers::default();
        let admitted = (0..100_u16)
            .filter(|host| strangers.enter([0x2001, 0xdb8, 0, 0, *host, 0, 0, 1].into()))
            .count();
        assert_eq!(admitted, MOST_OF_ONE);
        assert!(strangers.enter([0x2001, 0xdb8, 0, 1, 0, 0, 0, 1].into()));
    }

    #[test]
    fn all_together_are_bounded_too() {
        let mut strangers = Strangers::default();
        let admitted = (0..=255)
            .filter(|host| strangers.enter([198, 51, 100, *host].into()))
            .count();
        assert_eq!(admitted, MOST);
    }
}
