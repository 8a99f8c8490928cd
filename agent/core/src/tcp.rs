//! What the core and the shell say to each other of TCP streams between two agents (RFC 6544): who listens, who connects, and
//! which stream carries a peer.
//!
//! The shell keeps sockets and cuts frames (RFC 4571); which streams there shall be, and what for, the core decides.

pub(crate) mod attempts;
pub(crate) mod candidates;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::key::PublicKey;

/// A stream by its two ends, of which there is only one at a time in a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end, or that of the NAT in front of it.
    pub remote: SocketAddr,
}

/// What the core wants of TCP; interfaces are named by the kernel's index, which survives a rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpOrder {
    /// Reserve exactly these addresses for an interface, and take connections at them while `open`; answered by
    /// [`TcpInput::Reserved`].
    Listen {
        /// Index of the interface.
        interface: u32,
        /// The machine's addresses with WireGuard's port.
        addresses: BTreeSet<SocketAddr>,
        /// Whether to take connections.
        open: bool,
        /// SO_MARK of everything that is sent; 0 for none.
        fwmark: u32,
    },
    /// Connect to a candidate of a peer; answered by [`TcpInput::Connected`] or [`TcpInput::Unreachable`].
    Connect {
        /// Index of the interface.
        interface: u32,
        /// The peer that offered the address.
        peer: PublicKey,
        /// The address of ours to connect from.
        base: IpAddr,
        /// The peer's passive candidate.
        remote: SocketAddr,
        /// SO_MARK; 0 for none.
        fwmark: u32,
    },
    /// A check on this stream verified: it is a peer's, and stays until it is closed.
    Keep(Stream),
    /// Send STUN on a stream.
    Transmit {
        /// The stream.
        stream: Stream,
        /// The STUN message.
        payload: Vec<u8>,
    },
    /// Carry WireGuard's packets of a peer on this stream; answered by [`TcpInput::Carries`].
    Carry {
        /// The stream.
        stream: Stream,
        /// WireGuard's port.
        port: u16,
    },
    /// The kernel sends another way now: what still comes on the stream is delivered to `base` as if it came from `endpoint`, so
    /// that the kernel does not roam back.
    HandOver {
        /// The stream.
        stream: Stream,
        /// What the kernel has as the peer's endpoint.
        endpoint: SocketAddr,
        /// Our end of that path, with WireGuard's port.
        base: SocketAddr,
    },
    /// The stream is of no use any more.
    Close(Stream),
}

/// What the shell tells the core of TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpInput {
    /// The addresses that could be reserved: another program may have some of the ports.
    Reserved {
        /// Index of the interface.
        interface: u32,
        /// Those that can be offered.
        addresses: BTreeSet<SocketAddr>,
    },
    /// A connection that was ordered is there.
    Connected {
        /// Index of the interface.
        interface: u32,
        /// The peer that it was ordered for.
        peer: PublicKey,
        /// The stream.
        stream: Stream,
    },
    /// A connection that was ordered failed.
    Unreachable {
        /// Index of the interface.
        interface: u32,
        /// The peer that it was ordered for.
        peer: PublicKey,
        /// The address of ours that it was to leave from.
        base: IpAddr,
        /// Where to.
        remote: SocketAddr,
    },
    /// STUN arrived on a stream.
    Packet {
        /// The stream.
        stream: Stream,
        /// The STUN message.
        payload: Vec<u8>,
    },
    /// Where WireGuard reaches the peer of a stream that was to carry it, or that it cannot: `None`.
    Carries {
        /// The stream.
        stream: Stream,
        /// A loopback address of this stream's own.
        endpoint: Option<SocketAddr>,
    },
    /// A stream has ended, from whichever side.
    Closed(Stream),
}
