//! What the core and the shell say to each other of relays: who has an allocation, whom it carries, and by which way.
//!
//! The shell keeps allocations and moves packets; which peer goes by a relay, and when it leaves it, the core decides.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::explain::is_private;
use crate::key::PublicKey;
use crate::server::Transport;

/// An address that a TURN server relays to an interface now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relayed {
    /// Where peers reach us through the server.
    pub address: SocketAddr,
    /// The server, as it is reached.
    pub server: SocketAddr,
    /// How the server is reached.
    pub transport: Transport,
}

/// Where WireGuard reaches a peer that goes by a relay, and the way behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The address of ours that the server relays from.
    pub relayed: SocketAddr,
    /// The peer, as the server reaches it.
    pub remote: SocketAddr,
}

impl Relayed {
    /// Tells whether the server may be asked to send there: to its own family, and from the Internet to no private network,
    /// where it would reach somebody else, or nobody.
    pub fn reaches(relayed: IpAddr, peer: IpAddr) -> bool {
        relayed.is_ipv4() == peer.is_ipv4() && (is_private(relayed) || !is_private(peer))
    }
}

/// What the core wants of the relays; interfaces are named by the kernel's index, which survives a rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayOrder {
    /// Keep an allocation warm for this interface, or release it where `wanted` is false.
    Allocate {
        /// Index of the interface.
        interface: u32,
        /// Whether to keep one.
        wanted: bool,
        /// SO_MARK of everything that is sent to servers; 0 for none.
        fwmark: u32,
    },
    /// Let exactly these addresses send through the interface's allocation (RFC 8656 §9).
    Permit {
        /// Index of the interface.
        interface: u32,
        /// Addresses of the peers' candidates.
        peers: BTreeSet<IpAddr>,
    },
    /// Send STUN through the allocation.
    Transmit {
        /// Index of the interface.
        interface: u32,
        /// The address of ours that the server relays from.
        relayed: SocketAddr,
        /// Where to.
        destination: SocketAddr,
        /// The STUN message.
        payload: Vec<u8>,
    },
    /// Carry WireGuard's packets of this peer by the route; answered by [`crate::io::Input::RelayRoute`]. Another route in the
    /// place of one that is open keeps its loopback address.
    Open {
        /// Index of the interface.
        interface: u32,
        /// The peer.
        peer: PublicKey,
        /// The way.
        route: Route,
        /// WireGuard's port.
        port: u16,
    },
    /// The kernel sends directly now: what still comes by the route is delivered to `base` as if it came from `endpoint`, so
    /// that the kernel does not roam back.
    HandOver {
        /// Index of the interface.
        interface: u32,
        /// The peer.
        peer: PublicKey,
        /// The peer's direct address, which the kernel has as its endpoint.
        endpoint: SocketAddr,
        /// Our end of the direct path, with WireGuard's port.
        base: SocketAddr,
    },
    /// The peer goes by no relay any more.
    Close {
        /// Index of the interface.
        interface: u32,
        /// The peer.
        peer: PublicKey,
    },
}

impl RelayOrder {
    /// Index of the interface that it is about.
    pub const fn interface(&self) -> u32 {
        match self {
            Self::Allocate { interface, .. }
            | Self::Permit { interface, .. }
            | Self::Transmit { interface, .. }
            | Self::Open { interface, .. }
            | Self::HandOver { interface, .. }
            | Self::Close { interface, .. } => *interface,
        }
    }
}
