//! The one door into the core and the one door out of it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::key::PublicKey;
use crate::mailbox::{Mailbox, Recipient, Sealed};
use crate::relay::{RelayOrder, Relayed};
use crate::settings::Settings;
use crate::status::Reason;
use crate::tcp::{TcpInput, TcpOrder};

/// The present, as data: the core has no clock.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// What timers run by.
    pub instant: Instant,
    /// The wall clock as time since the Unix epoch; it may step.
    pub unix: Duration,
}

/// What the world tells the core.
#[derive(Debug, Clone)]
pub enum Input {
    /// The configuration, at start and whenever it was read again.
    Settings(Settings),
    /// A whole dump of one interface.
    Device(Device),
    /// The interface of this name is gone.
    Gone(String),
    /// All addresses of this machine, whenever one of them changed.
    Addresses(Vec<LocalAddress>),
    /// The STUN servers' resolved addresses, whenever they changed.
    StunServers(Vec<SocketAddr>),
    /// A backend delivered the newest message of a mailbox.
    Message {
        /// The mailbox that it lay in.
        mailbox: Mailbox,
        /// The message, unverified.
        sealed: Sealed,
    },
    /// At least one backend is reachable now.
    BackendUp,
    /// No backend is reachable any more.
    BackendDown,
    /// A STUN packet arrived on a WireGuard port, or at a relayed address.
    Packet(Packet),
    /// The addresses that TURN servers relay to an interface, whenever they changed; those of the server in use.
    Relayed {
        /// Index of the interface.
        interface: u32,
        /// None while no server has given any.
        addresses: Vec<Relayed>,
        /// Every server has answered or was given up: there is nothing to wait for.
        finished: bool,
    },
    /// Where WireGuard reaches a peer by its route ([`RelayOrder::Open`]), or that it cannot: `None`.
    RelayRoute {
        /// Index of the interface.
        interface: u32,
        /// The peer.
        peer: PublicKey,
        /// A loopback address of this peer's own.
        endpoint: Option<SocketAddr>,
    },
    /// Something about TCP streams between agents.
    Tcp(TcpInput),
    /// The machine has slept, or was suspended: nothing is known of any path or mapping since.
    Resumed,
    /// Somebody says that the network is another one, though no address need have changed.
    NetworkHint,
    /// A user asks for a new session with a peer.
    Restart {
        /// Name of the interface.
        interface: String,
        /// The peer.
        peer: PublicKey,
    },
    /// The agent leaves: mailboxes are withdrawn, endpoints stay.
    Stop,
    /// The time that [`crate::mesh::Mesh::poll_timeout`] named has come.
    Timeout,
}

/// An address of this machine and the link that carries it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// Name of the link.
    pub link: String,
    /// The address.
    pub address: IpAddr,
    /// Deprecated by the kernel (RFC 4862 §5.5.4): no new connection should use it.
    pub deprecated: bool,
}

/// A UDP payload that arrived on a WireGuard port and looks like STUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub source: SocketAddr,
    /// Our address and WireGuard's port.
    pub destination: SocketAddr,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// What the core wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Leave a message in a mailbox, replacing the one in it.
    Publish {
        /// The mailbox from us to the peer.
        mailbox: Mailbox,
        /// The peer, as its reader.
        recipient: Recipient,
        /// The message.
        sealed: Sealed,
    },
    /// Take our message out of a mailbox.
    Withdraw(Mailbox),
    /// Deliver what is and will be left in a mailbox.
    Subscribe {
        /// The mailbox from a peer to us.
        mailbox: Mailbox,
        /// We, as its reader.
        recipient: Recipient,
    },
    /// Stop delivering from a mailbox.
    Unsubscribe(Mailbox),
    /// Send STUN from a WireGuard port.
    Transmit(Transmit),
    /// Something that the relays shall do.
    Relay(RelayOrder),
    /// Something that shall happen to TCP streams between agents.
    Tcp(TcpOrder),
    /// Write a peer's endpoint into the interface.
    SetEndpoint {
        /// Name of the interface.
        interface: String,
        /// The peer.
        peer: PublicKey,
        /// Where WireGuard shall send to.
        endpoint: SocketAddr,
    },
    /// Send a packet into the tunnel, so that WireGuard handshakes by itself.
    Nudge {
        /// Name of the interface.
        interface: String,
        /// An address that WireGuard routes to the peer.
        address: IpAddr,
    },
    /// Dump an interface now and hand it in as [`Input::Device`].
    Dump {
        /// Name of the interface.
        interface: String,
    },
    /// What the agent shows of a peer or interface changed.
    Changed(Change),
}

/// A UDP payload to send from a WireGuard port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Our address and WireGuard's port; an unspecified address leaves the choice to routing.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
    /// SO_MARK; 0 for none.
    pub fwmark: u32,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// What changed in what the agent shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An interface appeared or changed.
    Interface(String),
    /// An interface vanished with all its peers.
    InterfaceGone(String),
    /// A peer appeared or changed.
    Peer {
        /// Name of the interface.
        interface: String,
        /// The peer.
        peer: PublicKey,
    },
    /// A peer vanished.
    PeerGone {
        /// Name of the interface.
        interface: String,
        /// The peer.
        peer: PublicKey,
    },
    /// A peer's state changed; follows the [`Change::Peer`] that carries it.
    State {
        /// Name of the interface.
        interface: String,
        /// The peer.
        peer: PublicKey,
        /// The state before.
        old: crate::status::State,
        /// The state now.
        new: crate::status::State,
        /// Why.
        reason: Reason,
    },
    /// The way that packets travel changed; follows the [`Change::Peer`] that carries it.
    Path {
        /// Name of the interface.
        interface: String,
        /// The peer.
        peer: PublicKey,
        /// The way before.
        old: crate::status::PathKind,
        /// The way now.
        new: crate::status::PathKind,
    },
}
