//! ICE candidates in the JSON form of the signalling protocol (§2).

/// Where a candidate's address comes from (RFC 8445 §5.1.1).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
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
