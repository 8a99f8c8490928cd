//! The bytes of a UDP datagram: taken apart as raw sockets deliver it, and put together as they want it.
//!
//! Pure functions over bytes; no sockets here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use wice_core::io::Packet;

/// Length of a UDP header in bytes (RFC 768).
pub(super) const UDP_HEADER: usize = 8;

/// Length of a STUN header in bytes (RFC 8489 §5).
pub(super) const STUN_HEADER: usize = 20;

/// The four bytes at offset 4 of every STUN message (RFC 8489 §5).
pub(super) const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Longest payload of a UDP datagram, in bytes: what the 16-bit length of an IPv4 packet leaves.
pub(super) const MAX_PAYLOAD: usize = 65_535 - 20 - UDP_HEADER;

const IPV4_HEADER: usize = 20;
const UDP: u8 = 17;

/// Takes STUN out of a whole IPv4 packet, or nothing when any length in it is wrong.
///
/// The UDP checksum is not looked at: packets from this very host carry an unfinished one (checksum offload), and STUN
/// brings its own integrity.
pub(super) fn from_ipv4(packet: &[u8]) -> Option<Packet> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < IPV4_HEADER || packet.len() < header {
        return None;
    }
    let total = usize::from(half(packet, 2)?);
    let fragment = half(packet, 6)? & 0x1fff != 0;
    if packet[9] != UDP || fragment {
        return None;
    }
    let address = |at: usize| {
        <[u8; 4]>::try_from(&packet[at..at + 4])
            .map(Ipv4Addr::from)
            .ok()
    };
    from_udp(
        packet.get(header..total)?,
        address(12)?.into(),
        address(16)?.into(),
    )
}

/// Takes STUN out of what follows the IP header, or nothing when it is no well-formed STUN between two unicast addresses.
///
/// IPv6 link-local addresses are passed over: they mean nothing without a scope, and no candidate carries one.
pub(super) fn from_udp(datagram: &[u8], source: IpAddr, destination: IpAddr) -> Option<Packet> {
    let length = usize::from(half(datagram, 4)?);
    let payload = datagram.get(UDP_HEADER..length)?;
    let source = SocketAddr::new(source, half(datagram, 0)?);
    let destination = SocketAddr::new(destination, half(datagram, 2)?);
    let ours = is_stun(payload)
        && source.port() != 0
        && is_usable(source.ip())
        && is_usable(destination.ip());
    ours.then(|| Packet {
        source,
        destination,
        payload: payload.to_vec(),
    })
}

/// Says whether a UDP payload looks like STUN: long enough, two zero bits in front, the magic cookie.
pub(super) fn is_stun(payload: &[u8]) -> bool {
    payload.len() >= STUN_HEADER
        && payload[0] & 0xc0 == 0
        && payload[4..8] == MAGIC_COOKIE.to_be_bytes()
}

/// Builds a UDP header with a zero checksum, or nothing when the payload is too long.
pub(super) fn header(
    source_port: u16,
    destination_port: u16,
    payload: &[u8],
) -> Option<[u8; UDP_HEADER]> {
    if payload.len() > MAX_PAYLOAD {
        return None;
    }
    let length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let mut header = [0; UDP_HEADER];
    header[0..2].copy_from_slice(&source_port.to_be_bytes());
    header[2..4].copy_from_slice(&destination_port.to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    Some(header)
}

/// Writes the checksum over IPv4 pseudo header, UDP header and payload (RFC 768) into `header`.
pub(super) fn seal_ipv4(
    header: &mut [u8; UDP_HEADER],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    payload: &[u8],
) {
    header[6..8].fill(0);
    let protocol = [0, UDP, header[4], header[5]];
    let parts: [&[u8]; 5] = [
        &source.octets(),
        &destination.octets(),
        &protocol,
        header,
        payload,
    ];
    // No part but the last is of odd length, so each may be summed from its own start.
    let mut sum: u32 = parts.into_iter().map(ones_sum).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Zero on the wire means that there is no checksum; its other representation says the same number.
    let checksum = match !(sum as u16) {
        0 => u16::MAX,
        checksum => checksum,
    };
    header[6..8].copy_from_slice(&checksum.to_be_bytes());
}

fn ones_sum(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let sum: u32 = pairs
        .iter()
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum();
    sum + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .map(u16::from_be_bytes)
        .ok()
}

fn is_usable(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(link_local || broadcast || address.is_multicast() || address.is_unspecified())
}
