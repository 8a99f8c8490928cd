//! The TCP candidates of an offer (RFC 6544 §4): where a peer may connect to.
//!
//! Only passive ones: whoever is told of them may connect, and an active one would tell a peer nothing that it could use.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use sha2::{Digest, Sha256};

use crate::candidate::{Candidate, Kind, Network};
use crate::ice::LocalCandidate;

/// What stands in `tcp_type` of a candidate that takes connections (RFC 6544 §4.5).
const PASSIVE: &str = "passive";
/// Below every UDP candidate that is not relayed, and above every relayed one (RFC 6544 §4.2).
const HOST_PREFERENCE: u32 = 90;
const REFLEXIVE_PREFERENCE: u32 = 80;
/// The direction preference of a passive candidate, which is the upper three bits of the local preference (RFC 6544 §4.2).
const PASSIVE_DIRECTION: u32 = 4 << 13;

/// The candidates for the addresses that are `reserved` for connections, best first; `locals` are those of UDP.
///
/// A NAT that forwards WireGuard's port may forward TCP with it, so the port at the address that STUN servers see is one, too.
pub(crate) fn passive(
    locals: &[LocalCandidate],
    reserved: &BTreeSet<SocketAddr>,
    offer_hosts: bool,
) -> Vec<Candidate> {
    let hosts = (locals.iter())
        .filter(|local| offer_hosts && local.kind == Kind::Host)
        .filter(|local| reserved.contains(&local.base))
        .map(|local| (local, local.base));
    let own: BTreeSet<IpAddr> = locals.iter().map(|local| local.base.ip()).collect();
    let mut seen = BTreeSet::new();
    let reflexive = (locals.iter())
        .filter(|local| local.kind == Kind::Srflx && reserved.contains(&local.base))
        .filter(|local| !own.contains(&local.address.ip()) && seen.insert(local.address.ip()))
        .map(|local| {
            let address = SocketAddr::new(local.address.ip(), local.base.port());
            (local, address)
        })
        .collect::<Vec<_>>();
    (hosts.chain(reflexive).enumerate())
        .map(|(index, (local, address))| candidate(index, local, address))
        .collect()
}

/// Tells whether a candidate of the peer's takes connections.
pub(crate) fn is_passive(candidate: &Candidate) -> bool {
    candidate.network.is_tcp()
        && candidate.tcp_type.as_deref() == Some(PASSIVE)
        && candidate.kind != Kind::Relay
}

fn candidate(index: usize, local: &LocalCandidate, address: SocketAddr) -> Candidate {
    let reflexive = local.kind != Kind::Host;
    Candidate {
        kind: local.kind,
        foundation: foundation(local.kind, local.base.ip()),
        component: 1,
        network: Network::tcp(&address.ip()),
        priority: priority(local.kind, index),
        address: address.ip(),
        port: address.port(),
        related_address: reflexive.then(|| local.base.ip()),
        related_port: reflexive.then(|| local.base.port()),
        tcp_type: Some(PASSIVE.to_owned()),
    }
}

/// Another than that of UDP: foundations are per transport (RFC 8445 §5.1.1.3).
fn foundation(kind: Kind, base: IpAddr) -> String {
    let digest = Sha256::digest(format!("tcp {} {base}", kind.as_str()));
    hex::encode(&digest[..4])
}

fn priority(kind: Kind, index: usize) -> u32 {
    let kind_preference = match kind {
        Kind::Host => HOST_PREFERENCE,
        _ => REFLEXIVE_PREFERENCE,
    };
    let other = 8_191_u32.saturating_sub(u32::try_from(index).unwrap_or(u32::MAX));
    (kind_preference << 24) + ((PASSIVE_DIRECTION | other) << 8) + 255
}

#[cfg(test)]
mod tests {
    use super::{is_passive, passive};
    use crate::candidate::{Candidate, Kind, Network};
    use crate::ice::LocalCandidate;
    use std::net::SocketAddr;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn local(kind: Kind, seen: &str, base: &str) -> LocalCandidate {
        LocalCandidate {
            kind,
            address: address(seen),
            base: address(base),
        }
    }

    #[test]
    fn a_reserved_base_and_its_forwarded_port_are_offered_between_udp_and_relays() {
        let locals = [
            local(Kind::Host, "[2001:db8::2]:51820", "[2001:db8::2]:51820"),
            local(Kind::Host, "192.168.1.2:51820", "192.168.1.2:51820"),
            local(Kind::Host, "10.0.0.2:51820", "10.0.0.2:51820"),
            local(Kind::Srflx, "198.51.100.1:4711", "192.168.1.2:51820"),
            local(Kind::Srflx, "198.51.100.1:4712", "192.168.1.2:51820"),
            local(Kind::Relay, "203.0.113.1:60000", "203.0.113.1:60000"),
        ];
        let reserved = [locals[0].base, locals[1].base].into();
        let offered = passive(&locals, &reserved, true);
        let told: Vec<_> = (offered.iter())
            .map(|it| (it.kind, it.network, it.socket_addr()))
            .collect();
        assert_eq!(
            told,
            [
                (Kind::Host, Network::Tcp6, locals[0].base),
                (Kind::Host, Network::Tcp4, locals[1].base),
                (Kind::Srflx, Network::Tcp4, address("198.51.100.1:51820")),
            ]
        );
        assert!(offered.iter().all(is_passive));
        let reflexive_udp = 100 << 24;
        assert!(offered.is_sorted_by(|a, b| a.priority > b.priority));
        assert!(
            offered
                .iter()
                .all(|it| it.priority < reflexive_udp && it.priority > 3 << 24)
        );
        assert_eq!(
            passive(&locals, &reserved, false),
            offered_reflexive(&offered)
        );
        assert!(passive(&locals, &[].into(), true).is_empty());
    }

    fn offered_reflexive(offered: &[Candidate]) -> Vec<Candidate> {
        let mut reflexive = offered[2].clone();
        reflexive.priority += 2 << 8;
        vec![reflexive]
    }
}
