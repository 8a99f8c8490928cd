//! A WireGuard interface as a whole dump describes it: the truth that everything converges to.
//!
//! Knows nothing of where the dump came from (genetlink or a UAPI socket).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::key::{PrivateKey, PublicKey};

/// One WireGuard interface with all its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Name of the interface, such as `wg0`.
    pub name: String,
    /// Index of the interface in its network namespace; it survives a rename.
    pub index: u32,
    /// The private key; `None` when the interface has none.
    pub private_key: Option<PrivateKey>,
    /// UDP port that WireGuard is bound to; 0 when it is not bound.
    pub listen_port: u16,
    /// SO_MARK of outgoing packets; 0 when off.
    pub fwmark: u32,
    /// The peers by public key.
    pub peers: BTreeMap<PublicKey, Peer>,
}

/// One peer of an interface; the preshared key is never read into it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where WireGuard sends to; `None` when neither configured nor learned.
    pub endpoint: Option<SocketAddr>,
    /// Unix time of the latest handshake, with zero for "never".
    pub latest_handshake: Duration,
    /// Bytes received from the peer and authenticated.
    pub rx_bytes: u64,
    /// Bytes sent to the peer.
    pub tx_bytes: u64,
    /// Persistent keepalive in seconds; `None` when off.
    pub persistent_keepalive: Option<u16>,
    /// Addresses that are routed to the peer.
    pub allowed_ips: Vec<AllowedIp>,
}

/// An address prefix that WireGuard routes to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedIp {
    /// The network's address.
    pub address: IpAddr,
    /// Length of the prefix in bits: 0 to 32 or 128.
    pub prefix: u8,
}

impl fmt::Display for AllowedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
