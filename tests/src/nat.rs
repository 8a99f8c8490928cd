//! The kinds of NAT that a router of the lab can be, as nftables rules. RFC 4787 gives the names of the behaviours.

/// How a router treats UDP between its LAN and the WAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Routes, translates nothing, and lets everything in.
    None,
    /// One mapping for all destinations, and anybody may send to it.
    FullCone,
    /// One mapping for all destinations; only addresses that were sent to may answer, from any port.
    AddressRestricted,
    /// One mapping for all destinations; only the exact address and port that was sent to may answer.
    PortRestricted,
    /// Another random port for every destination.
    Symmetric,
    /// No UDP leaves or enters.
    UdpBlocked,
    /// Nothing leaves but TCP to port 443, as in many hotels.
    OnlyHttps,
    /// Routes without translation, as IPv6 is routed at home: what is not an answer is not let in.
    Firewall,
}

/// Without it, a packet that arrives unasked makes a connection-tracking entry of its own, and the later outgoing flow to
/// that peer gets another port: a router must drop it first.
const DROP_UNASKED: &str = "chain in { type filter hook input priority 0; iifname wan ct state new meta l4proto udp drop; }";
const MASQUERADE: &str =
    "chain post { type nat hook postrouting priority srcnat; oifname wan masquerade; }";

impl Nat {
    /// Returns the table for a router whose interfaces are `wan` and `lan`, or nothing where a plain router will do.
    pub fn rules(self) -> Option<String> {
        let (family, chains) = match self {
            Self::None => return None,
            Self::PortRestricted => ("ip", format!("{DROP_UNASKED}\n{MASQUERADE}")),
            Self::Symmetric => (
                "ip",
                format!(
                    "{DROP_UNASKED}\n\
                     chain post {{ type nat hook postrouting priority srcnat; oifname wan masquerade fully-random; }}"
                ),
            ),
            Self::FullCone => (
                "ip",
                format!(
                    "{DROP_UNASKED}\n{MASQUERADE}\n\
                     map inside {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 60s; }}\n\
                     chain learn {{ type filter hook forward priority 0; \
                     iifname lan oifname wan ip protocol udp update @inside {{ udp sport : ip saddr . udp sport }}; }}\n\
                     chain pre {{ type nat hook prerouting priority dstnat; \
                     iifname wan ip protocol udp dnat ip to udp dport map @inside; }}"
                ),
            ),
            Self::AddressRestricted => (
                "ip",
                format!(
                    "{DROP_UNASKED}\n{MASQUERADE}\n\
                     map inside {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 60s; }}\n\
                     set asked {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 60s; }}\n\
                     chain learn {{ type filter hook forward priority 0; iifname lan oifname wan ip protocol udp \
                     update @inside {{ udp sport : ip saddr . udp sport }} update @asked {{ ip daddr . udp sport }}; }}\n\
                     chain pre {{ type nat hook prerouting priority dstnat; iifname wan ip protocol udp \
                     ip saddr . udp dport @asked dnat ip to udp dport map @inside; }}"
                ),
            ),
            Self::UdpBlocked => (
                "ip",
                format!(
                    "{MASQUERADE}\nchain block {{ type filter hook forward priority 0; ip protocol udp drop; }}"
                ),
            ),
            Self::OnlyHttps => (
                "ip",
                format!(
                    "{MASQUERADE}\nchain block {{ type filter hook forward priority 0; \
                     iifname lan tcp dport 443 accept; iifname lan drop; }}"
                ),
            ),
            Self::Firewall => (
                "inet",
                "chain pass { type filter hook forward priority 0; iifname wan ct state new drop; }".to_owned(),
            ),
        };
        Some(format!("table {family} lab {{\n{chains}\n}}\n"))
    }
}
