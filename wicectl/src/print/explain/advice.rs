//! What a finding means, in words for a person.

use wice_bus::Finding;

/// What was found, and what a person can do about it.
pub(super) const fn advice(finding: Finding) -> &'static str {
    match finding {
        Finding::Unknown => {
            "this agent found something that this wicectl has no words for: update wicectl"
        }
        Finding::NoLocalCandidates => {
            "This machine offers no address: bring a network up, or look at `exclude-interfaces` under [ice]."
        }
        Finding::NoStunServer => {
            "This machine offers private addresses only: name a STUN server under [ice] `servers`, so that it learns its public one."
        }
        Finding::StunUnanswered => {
            "This machine offers private addresses only, because no STUN server answered: check the names under [ice] `servers`, \
             and that the firewall lets UDP out of WireGuard's port."
        }
        Finding::NoRemoteCandidates => {
            "The peer offers no address: look at its network, and run wicectl explain there."
        }
        Finding::PeerOnlyPrivate => {
            "The peer offers private addresses only: give it a STUN server under [ice] `servers`, and see whether it answers."
        }
        Finding::NoCommonFamily => {
            "One side has only IPv4 addresses and the other only IPv6 ones: give one of them the other family."
        }
        Finding::NothingArrives => {
            "Nothing arrives from the peer: a firewall blocks UDP to or from WireGuard's port, or the NATs of both sides do not let \
             each other in. Open or forward that port on one side."
        }
        Finding::Unanswered => {
            "The peer's checks arrive, but it answers none of ours: a firewall in front of the peer, or here for what goes out, drops \
             them. Let UDP from and to WireGuard's port through."
        }
        Finding::MappingVaries => {
            "Our NAT uses another port for each destination (symmetric): forward WireGuard's port on our router, or set its NAT to \
             keep ports."
        }
        Finding::PeerMappingVaries => {
            "The peer's NAT uses another port for each destination (symmetric): forward WireGuard's port on the peer's router, or set \
             its NAT to keep ports."
        }
        Finding::UdpBlocked => {
            "This network lets no UDP out: no STUN server answers, and only the TURN server over TCP or TLS does. Packets go by that \
             relay until UDP gets through."
        }
        Finding::RelayOnly => {
            "The configuration asks for relays only: set `policy = \"all\"` under [ice] to allow direct paths."
        }
        Finding::PeerRelayOnly => {
            "The peer offers relayed addresses only: allow direct paths in its configuration, or see whether it has any other address."
        }
    }
}
