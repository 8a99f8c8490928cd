//! What the configuration says that the core decides by.
//!
//! Files, names of servers and everything that only the shell needs stay outside.

use std::collections::BTreeMap;

use glob::Pattern;

use crate::key::PublicKey;

/// The part of the configuration that decides what happens.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Rules for interfaces in the order of the file; of those that match, the last that says something wins.
    pub interfaces: Vec<(Pattern, InterfaceRule)>,
    /// Rules for single peers.
    pub peers: BTreeMap<PublicKey, PeerRule>,
    /// Kinds of candidates to gather.
    pub candidates: CandidateKinds,
    /// Which paths may be used.
    pub policy: Policy,
    /// Links whose addresses are never offered.
    pub exclude_interfaces: Vec<Pattern>,
    /// Offers and accepts loopback addresses; for tests on one machine.
    pub allow_loopback: bool,
}

/// What an `[interface."glob"]` table says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceRule {
    /// Whether to negotiate for its peers.
    pub manage: Option<bool>,
}

/// What a `[peer."KEY"]` table says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerRule {
    /// A name to show.
    pub name: Option<String>,
    /// Whether to negotiate with it.
    pub manage: Option<bool>,
}

/// Which candidates an agent gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CandidateKinds {
    /// Addresses of this machine.
    pub host: bool,
    /// Addresses that STUN servers see.
    pub server_reflexive: bool,
    /// Addresses that TURN servers relay to us.
    pub relay: bool,
    /// TCP beside UDP, where UDP does not lead to the peer.
    pub tcp: bool,
}

/// Which paths packets may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Direct ones, and relays where no direct one works.
    #[default]
    All,
    /// Direct ones only: no relay of ours or of the peer's.
    Direct,
    /// Our own relays only: no address of this machine is offered.
    Relay,
}

impl Default for Settings {
    /// Manages every interface and peer with all kinds of candidates.
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            peers: BTreeMap::new(),
            candidates: CandidateKinds {
                host: true,
                server_reflexive: true,
                relay: true,
                tcp: true,
            },
            policy: Policy::All,
            exclude_interfaces: Vec::new(),
            allow_loopback: false,
        }
    }
}

impl Settings {
    /// Tells whether the agent negotiates for the peers of the interface of this name.
    pub fn manages_interface(&self, name: &str) -> bool {
        self.interfaces
            .iter()
            .filter(|(pattern, _)| pattern.matches(name))
            .filter_map(|(_, rule)| rule.manage)
            .next_back()
            .unwrap_or(true)
    }

    /// Tells whether the agent negotiates with this peer.
    pub fn manages_peer(&self, peer: &PublicKey) -> bool {
        self.peers
            .get(peer)
            .and_then(|rule| rule.manage)
            .unwrap_or(true)
    }

    /// The name that the configuration gives to a peer; empty when none.
    pub fn peer_name(&self, peer: &PublicKey) -> &str {
        self.peers
            .get(peer)
            .and_then(|rule| rule.name.as_deref())
            .unwrap_or_default()
    }

    /// Tells whether TURN servers shall relay to us.
    pub fn wants_relays(&self) -> bool {
        self.candidates.relay && self.policy != Policy::Direct
    }

    /// Tells whether addresses of the link of this name are never offered.
    pub fn excludes_link(&self, name: &str) -> bool {
        self.exclude_interfaces
            .iter()
            .any(|pattern| pattern.matches(name))
    }
}
