//! What a verdict and its findings mean, in words for a person.

use wice_bus::{NetFinding, Verdict};

/// The verdict in a sentence.
pub(super) const fn summary(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => {
            "Nobody could be asked, so nothing is known about what this network lets through."
        }
        Verdict::Direct => {
            "A direct path is likely with every peer that is not itself behind a NAT with another port for each destination."
        }
        Verdict::DirectWithSome => {
            "A direct path is likely only with peers that have a public address, or whose NAT lets any port in; others need a relay."
        }
        Verdict::RelayOnly => {
            "UDP does not come through this network, but a relay over TCP or TLS does: no path will be direct."
        }
        Verdict::Blocked => {
            "UDP does not come through this network, and no relay answers: peers cannot be reached from here."
        }
    }
}

/// What was found, and what a person can do about it.
pub(super) const fn advice(finding: NetFinding) -> &'static str {
    match finding {
        NetFinding::Unknown => {
            "The agent found something that this wicectl has no words for: update wicectl."
        }
        NetFinding::NoServer => {
            "No STUN or TURN server is known: name one under [ice] `servers`, or use a backend that hands some out."
        }
        NetFinding::NothingAnswers => {
            "No server answers at all: see whether this machine is online, and whether the names under [ice] `servers` are right."
        }
        NetFinding::UdpBlocked => {
            "This network lets no UDP out: ask whoever runs it for UDP to WireGuard's port; until then packets go by the relay."
        }
        NetFinding::MappingVaries => {
            "The NAT uses another port for each destination: forward WireGuard's port on the router, or set its NAT to keep ports."
        }
        NetFinding::MappingUnknown => {
            "One STUN server cannot tell whether the NAT treats all destinations alike: name a second one on another machine."
        }
        NetFinding::FilteringUnknown => {
            "Who may send in is not known: it takes a STUN server with two addresses (RFC 5780), as coturn is with two `listening-ip`."
        }
        NetFinding::ServerSilent => {
            "Some of the servers do not answer: take the ones that are marked above out of the configuration, or mend them."
        }
        NetFinding::NoRelay => {
            "No TURN server is known: peers that no direct path leads to cannot be reached. Name one under [ice] `servers`."
        }
        NetFinding::NoRelayWorks => {
            "TURN servers are known, but none relays: see what each of them says above."
        }
        NetFinding::NoTcpRelay => {
            "No TURN server over TCP or TLS is known: a `turns:` URL on port 443 comes through most networks that block UDP."
        }
        NetFinding::NoBackend => {
            "No signalling backend is connected, so new paths cannot be agreed on: see wicectl status."
        }
        NetFinding::NoIpv6 => {
            "This machine has no IPv6: where both sides have it, there is no NAT in the way."
        }
    }
}
