//! What can go wrong on the way from and to WireGuard's port.

use std::io;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// Why STUN could not be received or sent.
#[derive(Debug, Error)]
pub(crate) enum NetError {
    /// The process lacks a capability, or a sandbox forbids the call.
    #[error(
        "cannot {attempt}: {source}. STUN on WireGuard's port needs CAP_NET_RAW (raw sockets) and CAP_NET_ADMIN \
         (SO_MARK): run the agent as root or grant it both, and allow AF_INET and AF_INET6 in its sandbox"
    )]
    NotPermitted {
        /// What was tried.
        attempt: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The kernel gave no raw socket for another reason.
    #[error("cannot {attempt}: {source}")]
    Open {
        /// What was tried.
        attempt: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// More WireGuard ports than a filter can tell apart.
    #[error(
        "{count} WireGuard ports are too many for one filter, the kernel allows about 4,000: manage fewer interfaces"
    )]
    TooManyPorts {
        /// How many ports were wanted.
        count: usize,
    },
    /// The kernel refused the filter; the one before stays.
    #[error(
        "cannot attach the filter for {count} WireGuard ports: {source}. \
         Out of memory (ENOMEM) means: raise the sysctl net.core.optmem_max or manage fewer interfaces"
    )]
    Filter {
        /// How many ports were wanted.
        count: usize,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The kernel would not send from this address: it is no longer, or never was, ours.
    #[error(
        "cannot send STUN from {address} to {destination}: {source}; the address is not on this machine, or cannot reach there"
    )]
    Source {
        /// The source address that was wanted.
        address: SocketAddr,
        /// Where to.
        destination: SocketAddr,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The packet could not be sent now: no route, a firewall, a full queue.
    #[error("cannot send STUN to {destination}: {source}")]
    Send {
        /// Where to.
        destination: SocketAddr,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Source and destination are of different families, or there is no IPv6.
    #[error(
        "cannot send STUN from {address} to {destination}: this machine has no socket for both address families"
    )]
    Families {
        /// The source address that was wanted.
        address: SocketAddr,
        /// Where to.
        destination: SocketAddr,
    },
    /// The payload does not fit into a UDP datagram.
    #[error("a STUN message of {length} bytes does not fit into a UDP datagram")]
    TooLong {
        /// Length of the payload in bytes.
        length: usize,
    },
    /// The sockets opened, but STUN on loopback did not behave.
    #[error(
        "STUN on WireGuard's port does not work here: {problem}. Look for a firewall rule on lo and for a sandbox or \
         container that interferes with raw sockets or their filters"
    )]
    SelfTest {
        /// What happened instead.
        problem: String,
    },
    /// The tunnel cannot carry a packet to this address yet: no route, no such peer, no endpoint, interface down or gone.
    #[error("{interface} cannot carry a packet to {address} now: {source}")]
    NoTunnel {
        /// Name of the interface.
        interface: String,
        /// An address behind the peer.
        address: IpAddr,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The packet into the tunnel failed for a reason that WireGuard does not explain.
    #[error("cannot send a packet to {address} through {interface}: {source}")]
    Nudge {
        /// Name of the interface.
        interface: String,
        /// An address behind the peer.
        address: IpAddr,
        /// What the kernel answered.
        source: io::Error,
    },
}
