//! Packets that come by the old path after the kernel has taken a new one: delivered as if they had come by the new one, because
//! WireGuard sends to wherever the newest packet came from.
//!
//! A raw socket writes the whole packet; addressed to this very machine, it goes over the loopback and is asked for no proof
//! of its source.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

/// Delivers to one of our addresses in the name of another machine's.
#[derive(Debug)]
pub(super) struct Late {
    socket: Socket,
    source: SocketAddr,
    destination: SocketAddr,
}

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
/// It passes no router.
const HOPS: u8 = 64;
/// The largest packet that a tunnel makes, with room to spare; a larger one is lost.
const LONGEST: usize = 9216;

impl Late {
    /// Opens the socket; needs CAP_NET_RAW. Both addresses are of one family.
    pub(super) fn open(source: SocketAddr, destination: SocketAddr) -> io::Result<Self> {
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the two ends of a path are of different address families",
            ));
        }
        // This protocol number means that the IP header is ours, in both families (raw(7); IPv6 since Linux 4.5).
        let socket = Socket::new(
            Domain::for_address(destination),
            Type::RAW.nonblocking(),
            Some(Protocol::from(libc::IPPROTO_RAW)),
        )?;
        Ok(Self {
            socket,
            source,
            destination,
        })
    }

    /// Delivers one packet. One that cannot be is lost, as any packet may be.
    pub(super) fn deliver(&self, payload: &[u8]) -> io::Result<()> {
        let mut packet = [0; LONGEST];
        let Some(length) = write(&mut packet, self.source, self.destination, payload) else {
            return Ok(());
        };
        // A raw IPv6 socket takes no port.
        let to = SocketAddr::new(self.destination.ip(), 0);
        match self.socket.send_to(&packet[..length], &to.into()) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

/// Writes IP header, UDP header and payload; answers the length, or nothing when there is no room.
fn write(
    packet: &mut [u8],
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
) -> Option<usize> {
    let datagram = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let header = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = datagram.checked_add(IPV4_HEADER as u16)?;
            let header = packet.get_mut(..IPV4_HEADER)?;
            // Identification and checksum of the header are the kernel's to fill in.
            header[0] = 0x45;
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header[8] = HOPS;
            header[9] = UDP;
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            IPV4_HEADER
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = packet.get_mut(..IPV6_HEADER)?;
            header[0] = 0x60;
            header[4..6].copy_from_slice(&datagram.to_be_bytes());
            header[6] = UDP;
            header[7] = HOPS;
            header[8..24].copy_from_slice(&from.octets());
            header[24..40].copy_from_slice(&to.octets());
            IPV6_HEADER
        }
        _ => return None,
    };
    let length = header + usize::from(datagram);
    let body = packet.get_mut(header..length)?;
    body[0..2].copy_from_slice(&source.port().to_be_bytes());
    body[2..4].copy_from_slice(&destination.port().to_be_bytes());
    body[4..6].copy_from_slice(&datagram.to_be_bytes());
    body[UDP_HEADER..].copy_from_slice(payload);
    let addresses = if header == IPV4_HEADER { 12 } else { 8 };
    let sum = checksum(&packet[addresses..length], datagram);
    packet[header + 6..header + 8].copy_from_slice(&sum.to_be_bytes());
    Some(length)
}

/// The checksum over addresses, UDP header and payload, which lie behind each other, and the rest of the pseudo header.
fn checksum(bytes: &[u8], datagram: u16) -> u16 {
    let mut sum = u64::from(UDP) + u64::from(datagram);
    let mut pairs = bytes.chunks_exact(2);
    for pair in &mut pairs {
        sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    if let [last] = pairs.remainder() {
        sum += u64::from(u16::from_be_bytes([*last, 0]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Zero on the wire means that there is no checksum; its other representation says the same number.
    match !(sum as u16) {
        0 => u16::MAX,
        checksum => checksum,
    }
}
