//! ICE candidates in the JSON form of the signalling protocol (§2).

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Where a candidate's address comes from (RFC 8445 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An address of the machine itself.
    Host,
    /// The address that a STUN server saw.
    Srflx,
    /// The address that the peer saw.
    Prflx,
    /// An address of a TURN server.
    Relay,
}

impl Kind {
    /// The word on D-Bus and in JSON: `host`, `srflx`, `prflx` or `relay`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Srflx => "srflx",
            Self::Prflx => "prflx",
            Self::Relay => "relay",
        }
    }
}

/// Transport and address family of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

impl Network {
    /// UDP over the address's family.
    pub const fn udp(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Udp4,
            IpAddr::V6(_) => Self::Udp6,
        }
    }

    /// TCP over the address's family.
    pub const fn tcp(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Tcp4,
            IpAddr::V6(_) => Self::Tcp6,
        }
    }

    /// The word on D-Bus and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
        }
    }

    /// Tells whether it is TCP.
    pub const fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    const fn is_ipv4(self) -> bool {
        matches!(self, Self::Udp4 | Self::Tcp4)
    }
}

/// One candidate as an offer carries it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// Host, server-reflexive, peer-reflexive or relayed.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Equal for candidates of one kind, base and server (RFC 8445 §5.1.1.3).
    pub foundation: String,
    /// Always 1: WireGuard has one stream.
    pub component: u16,
    /// Transport and address family.
    pub network: Network,
    /// RFC 8445 §5.1.2.
    pub priority: u32,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The base of a reflexive or relayed candidate, for diagnosis only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub related_address: Option<IpAddr>,
    /// The base's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub related_port: Option<u16>,
    /// RFC 6544 §4.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_type: Option<String>,
}

impl Candidate {
    /// The address and port to send to.
    pub const fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Tells whether packets may be sent there (protocol §2).
    ///
    /// Unspecified, multicast, broadcast, IPv4-mapped and link-local IPv6 addresses (which lack a scope), port 0, another
    /// component and, unless allowed, loopback are not.
    pub fn is_usable(&self, allow_loopback: bool) -> bool {
        let address = match self.address {
            IpAddr::V4(v4) => !v4.is_broadcast() && v4.octets()[0] != 0,
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none() && !v6.is_unicast_link_local(),
        };
        address
            && !self.address.is_unspecified()
            && !self.address.is_multicast()
            && (allow_loopback || !self.address.is_loopback())
            && self.port != 0
            && self.component == 1
            && self.network.is_ipv4() == self.address.is_ipv4()
            && self.foundation.len() <= 256
    }
}
