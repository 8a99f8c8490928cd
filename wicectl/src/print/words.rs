//! Reasons and candidates in words for a person.

use wice_bus::Reason;

/// Half a sentence that says why, and what to do where there is something to do.
pub(crate) const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::None => "",
        Reason::PeerAdded => "the peer is new",
        Reason::Configuration => "the configuration says so",
        Reason::NoPrivateKey => "the interface has no private key: set one with wg set",
        Reason::NoListenPort => "the interface is not bound to a port: bring it up",
        Reason::NoBackend => "no signalling backend answers",
        Reason::NoOffer => {
            "nothing heard from the peer yet: does WICE run there, with the same backend?"
        }
        Reason::OfferReceived => "the peer's offer arrived",
        Reason::PairNominated => "a pair of addresses works",
        Reason::NoPairWorks => "no pair of addresses works: it keeps trying",
        Reason::ConsentLost => "the peer stopped answering on this path",
        Reason::RestartRequested => "a restart was asked for",
        Reason::PeerRestarted => "the peer started anew",
        Reason::DeviceChanged => "the interface's key or port changed",
        Reason::KernelAlive => "the pair stopped answering, but WireGuard still receives",
        Reason::DirectPathLost => "the direct path stopped answering: goes by a relay",
        Reason::RelayLost => "the relay that carried packets is gone: looks for another path",
        Reason::InvalidKey => "the peer's public key is not usable",
    }
}

/// What a kind of candidate is.
pub(crate) fn candidate(kind: &str) -> &str {
    match kind {
        "host" => "own address",
        "srflx" => "as STUN sees it",
        "prflx" => "as the peer sees it",
        "relay" => "relayed",
        other => other,
    }
}
