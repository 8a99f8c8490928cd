//! Sending from a port that another socket owns: the UDP header is ours, the IP header the kernel's.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use wice_core::io::Transmit;

use super::{RawUdp, refused, retry};
use crate::net::datagram::{self, UDP_HEADER};
use crate::net::error::NetError;

impl RawUdp {
    /// Sends from the address that `transmit` names, or from the one that routing chooses. The destination must be of
    /// this socket's family.
    pub(in crate::net) fn send(&self, transmit: &Transmit) -> Result<(), NetError> {
        let Transmit {
            source,
            destination,
            payload,
            ..
        } = transmit;
        let header = datagram::header(source.port(), destination.port(), payload).ok_or(
            NetError::TooLong {
                length: payload.len(),
            },
        )?;
        self.set_mark(transmit.fwmark)?;
        let from = (!source.ip().is_unspecified()).then_some(source.ip());
        let sent = match (*destination, from) {
            (SocketAddr::V4(to), None) => routed_source(to, transmit.fwmark)
                .and_then(|from| self.send_ipv4(header, payload, from, *to.ip())),
            (SocketAddr::V4(to), Some(IpAddr::V4(from))) => {
                self.send_ipv4(header, payload, from, *to.ip())
            }
            (SocketAddr::V6(to), None) => {
                self.send_ipv6(header, payload, Ipv6Addr::UNSPECIFIED, to)
            }
            (SocketAddr::V6(to), Some(IpAddr::V6(from))) => {
                self.send_ipv6(header, payload, from, to)
            }
            _ => {
                return Err(NetError::Families {
                    address: *source,
                    destination: *destination,
                });
            }
        };
        sent.map_err(|error| match from {
            // For a source that is not ours, the kernel's answer is that of a missing route (ip_route_output_key).
            Some(from) if !is_local(from) => NetError::Source {
                address: *source,
                destination: *destination,
                source: error,
            },
            _ => NetError::Send {
                destination: *destination,
                source: error,
            },
        })
    }

    /// The kernel builds the IP header but no UDP checksum, and zero would not do: translators to IPv6 drop it
    /// (RFC 7915 §4.5).
    fn send_ipv4(
        &self,
        mut header: [u8; UDP_HEADER],
        payload: &[u8],
        from: Ipv4Addr,
        to: Ipv4Addr,
    ) -> io::Result<()> {
        datagram::seal_ipv4(&mut header, from, to, payload);
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes(from.octets()),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        retry(|| sendmsg(self.fd(), &parts, &control, MsgFlags::empty(), Some(&to))).map(drop)
    }

    fn send_ipv6(
        &self,
        header: [u8; UDP_HEADER],
        payload: &[u8],
        from: Ipv6Addr,
        to: SocketAddrV6,
    ) -> io::Result<()> {
        let info = libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr {
                s6_addr: from.octets(),
            },
            ipi6_ifindex: 0,
        };
        // An unspecified address in it is routing's choice (RFC 3542 §6.2).
        let control = [ControlMessage::Ipv6PacketInfo(&info)];
        // The port of a raw IPv6 address names the protocol (rawv6_sendmsg): it must be zero.
        let to = SockaddrIn6::from(SocketAddrV6::new(*to.ip(), 0, 0, to.scope_id()));
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        retry(|| sendmsg(self.fd(), &parts, &control, MsgFlags::empty(), Some(&to))).map(drop)
    }

    fn set_mark(&self, mark: u32) -> Result<(), NetError> {
        if self.mark.get() != mark {
            self.socket
                .get_ref()
                .set_mark(mark)
                .map_err(|source| refused("set SO_MARK on a raw UDP socket", source))?;
            self.mark.set(mark);
        }
        Ok(())
    }
}

/// Asks routing for the address that it would send from, with the same mark.
fn routed_source(to: SocketAddrV4, mark: u32) -> io::Result<Ipv4Addr> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_mark(mark)?;
    socket.connect(&SocketAddr::V4(to).into())?;
    let local = socket.local_addr()?.as_socket_ipv4();
    local
        .map(|local| *local.ip())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Says whether the kernel lets a socket have this address.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
