//! Why a path is as it is: candidates, pairs with what was sent and came back, and what can be concluded from that.
//!
//! Counts and concludes; decides nothing about a session.

mod facts;
mod ledger;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use crate::candidate::Network;
use crate::status::{CandidateStatus, Reason, State};

pub(crate) use facts::{Facts, Surroundings};
pub use ledger::{Exchange, Ledger};

/// Everything that is known about the present attempt to reach a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What the session is doing.
    pub state: State,
    /// Why it is in that state.
    pub reason: Reason,
    /// Our candidates.
    pub local: Vec<CandidateStatus>,
    /// The candidates of the peer's newest offer.
    pub remote: Vec<CandidateStatus>,
    /// The pairs of the present checks.
    pub pairs: Vec<Pair>,
    /// What stands in the way of a direct path; empty when there is one.
    pub findings: Vec<Finding>,
}

/// An address of ours and one of the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Our end: the address of this machine that checks leave from.
    pub local: CandidateStatus,
    /// The peer's end.
    pub remote: CandidateStatus,
    /// How far its checks are.
    pub state: PairState,
    /// What was sent and came back.
    pub exchange: Exchange,
}

/// How far the checks of a pair are; the numbers are those of the D-Bus contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum PairState {
    /// No check was sent yet.
    Waiting = 10,
    /// Checks were sent, and answers may still come.
    Checking = 20,
    /// Checks were answered.
    Answered = 30,
    /// It carries packets.
    Selected = 40,
    /// Checks were sent, and no answer came.
    Failed = 50,
}

/// What stands in the way of a direct path; the numbers are those of the D-Bus contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Finding {
    /// We have no candidate at all.
    NoLocalCandidates = 10,
    /// All our addresses are private, and no STUN server is configured.
    NoStunServer = 20,
    /// All our addresses are private: no STUN server answered.
    StunUnanswered = 30,
    /// The peer's offer has no candidate.
    NoRemoteCandidates = 40,
    /// All of the peer's addresses are private.
    PeerOnlyPrivate = 50,
    /// One side has IPv4 only, the other IPv6 only.
    NoCommonFamily = 60,
    /// Checks were sent, and nothing at all came from the peer.
    NothingArrives = 70,
    /// The peer's checks arrive, but ours are not answered.
    Unanswered = 80,
    /// Our NAT has another port for each destination.
    MappingVaries = 90,
    /// The peer's NAT has another port for each destination.
    PeerMappingVaries = 100,
    /// No STUN server answers over UDP, but a TURN server does over TCP.
    UdpBlocked = 110,
    /// The configuration asks for relays only.
    RelayOnly = 120,
    /// The peer offers nothing but relayed addresses.
    PeerRelayOnly = 130,
}

impl Explanation {
    pub(crate) fn new(facts: &Facts<'_>) -> Self {
        Self {
            state: facts.state,
            reason: facts.reason,
            local: facts
                .surroundings
                .locals
                .iter()
                .map(|local| CandidateStatus {
                    kind: local.kind,
                    network: Network::udp(&local.address.ip()),
                    address: local.address,
                })
                .collect(),
            remote: facts
                .remotes
                .iter()
                .map(|remote| CandidateStatus {
                    kind: remote.kind,
                    network: remote.network,
                    address: remote.socket_addr(),
                })
                .collect(),
            pairs: facts.pairs(),
            findings: facts.findings().into_iter().collect(),
        }
    }
}

/// Not reachable from another network: RFC 1918, RFC 6598, RFC 4193, link-local and loopback addresses.
pub(crate) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            address.is_private() || address.is_link_local() || address.is_loopback() || shared
        }
        IpAddr::V6(address) => {
            address.is_unique_local() || address.is_unicast_link_local() || address.is_loopback()
        }
    }
}
