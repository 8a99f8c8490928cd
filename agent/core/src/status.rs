//! What the agent shows of an interface and a peer: a snapshot without any secret.
//!
//! The numbers are those of the D-Bus contract; this room knows nothing of the bus itself.

use std::net::SocketAddr;
use std::time::Duration;

use crate::candidate::{Kind, Network};
use crate::device::AllowedIp;
use crate::key::PublicKey;

/// A managed or unmanaged WireGuard interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// Name of the interface.
    pub name: String,
    /// Public key; `None` when the interface has no private key.
    pub public_key: Option<PublicKey>,
    /// UDP port of WireGuard; 0 when it is not bound.
    pub listen_port: u16,
    /// SO_MARK of outgoing packets; 0 when off.
    pub fwmark: u32,
    /// Whether the agent negotiates for its peers.
    pub managed: bool,
}

/// A peer as `wicectl status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer's public key.
    pub public_key: PublicKey,
    /// The name that the configuration gives it; empty when none.
    pub name: String,
    /// What the session is doing.
    pub state: State,
    /// Why it is in that state.
    pub reason: Reason,
    /// How packets travel now.
    pub path: PathKind,
    /// WireGuard's endpoint, as the kernel has it.
    pub endpoint: Option<SocketAddr>,
    /// Our candidate of the selected pair.
    pub local_candidate: Option<CandidateStatus>,
    /// The peer's candidate of the selected pair.
    pub remote_candidate: Option<CandidateStatus>,
    /// Smoothed round-trip time of the selected pair.
    pub round_trip_time: Option<Duration>,
    /// Unix time of WireGuard's latest handshake; zero for "never".
    pub latest_handshake: Duration,
    /// Addresses that WireGuard sends to the peer.
    pub allowed_ips: Vec<AllowedIp>,
    /// Bytes received through the tunnel.
    pub rx_bytes: u64,
    /// Bytes sent through the tunnel.
    pub tx_bytes: u64,
    /// Unix time of the last change of `state`.
    pub since: Duration,
    /// How often the session was started anew.
    pub restarts: u32,
}

/// One end of the selected pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CandidateStatus {
    /// Host, server-reflexive, peer-reflexive or relayed.
    pub kind: Kind,
    /// Transport and address family.
    pub network: Network,
    /// Transport address.
    pub address: SocketAddr,
}

/// What a peer's session is doing; the numbers are the D-Bus property `State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u32)]
pub enum State {
    /// Not known yet.
    #[default]
    Unknown = 0,
    /// The configuration leaves this peer alone.
    Unmanaged = 10,
    /// Waiting for the peer's offer.
    Waiting = 20,
    /// Learning our own addresses.
    Gathering = 30,
    /// Trying pairs of addresses.
    Checking = 40,
    /// A pair carries packets.
    Connected = 50,
    /// No pair works; the session keeps trying.
    Failed = 60,
}

/// Why a peer is in its state; the numbers are the second half of the D-Bus property `StateReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u32)]
pub enum Reason {
    /// No particular one.
    #[default]
    None = 0,
    /// The peer appeared in the interface.
    PeerAdded = 10,
    /// The configuration says so.
    Configuration = 20,
    /// The interface has no private key.
    NoPrivateKey = 30,
    /// The interface has no listen port.
    NoListenPort = 40,
    /// No backend is configured, or none answers.
    NoBackend = 50,
    /// The peer has left no offer that verifies.
    NoOffer = 60,
    /// The peer's offer arrived.
    OfferReceived = 70,
    /// A pair of candidates was nominated.
    PairNominated = 80,
    /// No pair answered.
    NoPairWorks = 90,
    /// The selected pair stopped answering.
    ConsentLost = 100,
    /// Somebody asked for a restart.
    RestartRequested = 110,
    /// The peer started a new session.
    PeerRestarted = 120,
    /// A key or the listen port changed.
    DeviceChanged = 130,
    /// WireGuard receives packets, though the pair stopped answering.
    KernelAlive = 140,
    /// The public key admits no key agreement.
    InvalidKey = 150,
    /// The direct path stopped answering; packets go by a relay.
    DirectPathLost = 160,
    /// The relay that carried packets is gone.
    RelayLost = 170,
}

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathKind {
    /// Not through a path that the agent chose.
    #[default]
    None,
    /// Straight to the peer.
    Direct,
    /// Through a relay.
    Relay,
}

impl PathKind {
    /// The word on D-Bus and in JSON: `none`, `direct` or `relay`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Direct => "direct",
            Self::Relay => "relay",
        }
    }
}
