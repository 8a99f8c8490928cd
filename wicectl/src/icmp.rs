//! ICMP echo out of one interface: requests, and the replies to them.
//!
//! Uses the socket that unprivileged programs may have (`ping(7)` of the kernel: SOCK_DGRAM, `net.ipv4.ping_group_range`), and a raw
//! one for those who may not have that but have CAP_NET_RAW.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::failure::Failure;
use crate::print::escape;

/// A socket for echo requests to one address.
pub(crate) struct Echo {
    /// The kernel's ping sockets and raw ones are sent to and received from as UDP sockets are.
    socket: UdpSocket,
    address: IpAddr,
    raw: bool,
    identifier: u16,
}

/// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443 §4.1).
const HEADER: usize = 8;
/// As much as `ping` sends: an echo of 64 bytes.
const PAYLOAD: usize = 56;

impl Echo {
    /// Opens a socket that leaves through `interface` only.
    pub(crate) fn open(interface: &str, address: IpAddr) -> Result<Self, Failure> {
        let (domain, protocol) = match address {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let open = |kind| Socket::new(domain, kind, Some(protocol));
        let (socket, raw) = match open(Type::DGRAM) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let socket = open(Type::RAW).map_err(|error| forbidden(&error))?;
                (socket, true)
            }
            other => (other.map_err(cannot)?, false),
        };
        socket
            .bind_device(Some(interface.as_bytes()))
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENODEV) => Failure::Unknown(format!(
                    "interface {} is not in this network namespace",
                    escape(interface)
                )),
                _ => forbidden(&error),
            })?;
        socket.set_nonblocking(true).map_err(cannot)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into()).map_err(cannot)?,
            address,
            raw,
            // As every ping does it: two of one process id do not run at a time.
            identifier: std::process::id() as u16,
        })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Those of the kernel, WireGuard's among them: ENOKEY (no peer has this address) and EDESTADDRREQ (it has no endpoint).
    pub(crate) async fn send(&self, sequence: u16) -> Result<(), Error> {
        let packet = request(self.address, self.identifier, sequence);
        let to = SocketAddr::new(self.address, 0);
        self.socket.send_to(&packet, to).await.map(drop)
    }

    /// Waits for the next reply, and gives its sequence number; cancel-safe.
    pub(crate) async fn receive(&self) -> Result<u16, Error> {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).await?;
            // The kernel finds the socket by the identifier, unless it is a raw one.
            let identifier = self.raw.then_some(self.identifier);
            let packet = buffer.get(..length).unwrap_or_default();
            if from.ip() == self.address
                && let Some(sequence) = reply(packet, self.address, self.raw, identifier)
            {
                return Ok(sequence);
            }
        }
    }
}

fn forbidden(error: &Error) -> Failure {
    Failure::NotAuthorized(format!(
        "this user may not send ICMP echo requests ({error}): run it with sudo, or allow it to every user with \
         sysctl -w net.ipv4.ping_group_range=\"0 2147483647\""
    ))
}

fn cannot(error: Error) -> Failure {
    Failure::Refused(format!("cannot open a socket for ICMP: {error}"))
}

fn request(address: IpAddr, identifier: u16, sequence: u16) -> [u8; HEADER + PAYLOAD] {
    let mut packet = [0; HEADER + PAYLOAD];
    packet[0] = if address.is_ipv4() { 8 } else { 128 };
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    // The kernel fills in the checksum of ICMPv6 and of its ping sockets; a raw IPv4 socket needs ours.
    if address.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The sequence number of an echo reply; a raw IPv4 socket hands over the IP header as well.
fn reply(packet: &[u8], address: IpAddr, raw: bool, identifier: Option<u16>) -> Option<u16> {
    let header = match packet.first() {
        Some(first) if raw && address.is_ipv4() => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let packet = packet.get(header..)?;
    let kind = if address.is_ipv4() { 0 } else { 129 };
    let word = |at: usize| {
        let bytes = packet.get(at..at + 2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    let ours = identifier.is_none_or(|identifier| word(4) == Some(identifier));
    (packet.first() == Some(&kind) && ours)
        .then(|| word(6))
        .flatten()
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.as_chunks::<2>().0;
    let mut sum: u32 = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn a_request_is_an_echo_request_with_a_right_checksum() {
        let packet = request(V4, 0x1234, 7);
        assert_eq!(packet[..2], [8, 0]);
        assert_eq!(packet[4..8], [0x12, 0x34, 0, 7]);
        assert_eq!(checksum(&packet), 0, "the sum over a right packet is zero");
        assert_eq!(request(V6, 1, 1)[0], 128);
    }

    #[test]
    fn only_replies_to_us_are_replies() {
        let mut packet = request(V4, 0x1234, 7);
        assert_eq!(reply(&packet, V4, false, None), None, "it is a request");
        packet[0] = 0;
        assert_eq!(reply(&packet, V4, false, None), Some(7));
        let with_header = [&[0x45; 20][..], &packet].concat();
        assert_eq!(reply(&with_header, V4, true, Some(0x1234)), Some(7));
        assert_eq!(reply(&with_header, V4, true, Some(0x1235)), None);
        assert_eq!(reply(&with_header[..24], V4, true, Some(0x1234)), None);
        packet[0] = 129;
        assert_eq!(reply(&packet, V6, true, Some(0x1234)), Some(7));
        assert_eq!(reply(&[], V4, true, None), None);
    }
}
