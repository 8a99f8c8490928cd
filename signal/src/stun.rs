//! STUN binding responses over UDP (RFC 8489): tells a client the address that its datagrams come from.
//!
//! Answers from the address that was asked, also on a wildcard socket, since a NAT drops anything else. Everything that
//! is no binding request is ignored.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use stun_types::attribute::{
    Attribute, AttributeStaticType, AttributeType, ErrorCode, Fingerprint, MessageIntegrity,
    MessageIntegritySha256, Nonce, PasswordAlgorithm, Realm, UnknownAttributes, Userhash, Username,
    XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageWrite, MessageWriteExt, MessageWriteVec,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::sleep;
use tracing::{trace, warn};

use crate::limit::{Rate, Source};

/// A binding request is a few dozen bytes; more than an Ethernet frame holds is none.
const LONGEST_REQUEST: usize = 1500;

/// How much longer than the request an answer may be: XOR-MAPPED-ADDRESS over IPv6 (RFC 8489 §14.2).
const GROWTH: usize = 24;

/// A bound socket.
#[derive(Debug)]
pub(crate) struct StunSocket {
    socket: UdpSocket,
    address: SocketAddr,
}

/// One datagram, and the address of ours that it was sent to.
struct Datagram {
    length: usize,
    from: SockaddrStorage,
    to: Option<Arrival>,
}

/// The kernel's note of where a datagram arrived, in the form in which it takes the address to send from.
enum Arrival {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl StunSocket {
    /// Binds the address and asks the kernel for the destination of each datagram.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
        }
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The address, with the real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for ever.
    pub(crate) async fn answer(self, rate: Arc<Rate>) {
        let mut buffer = [0; LONGEST_REQUEST];
        loop {
            let received = self.socket.async_io(Interest::READABLE, || {
                receive(self.socket.as_raw_fd(), &mut buffer)
            });
            let datagram = match received.await {
                Ok(datagram) => datagram,
                Err(error) => {
                    // ICMP errors of earlier answers do not come here on an unconnected socket.
                    warn!(address = %self.address, "cannot receive STUN requests: {error}; trying again");
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let Some(client) = socket_addr(&datagram.from) else {
                continue;
            };
            let Some(response) = respond(&buffer[..datagram.length], client) else {
                continue;
            };
            if rate
                .take(Source::from(client.ip()), Instant::now())
                .is_err()
            {
                trace!(%client, "too many STUN requests");
                continue;
            }
            // A full send buffer loses the answer, and the client asks again.
            let sent = send(self.socket.as_raw_fd(), &response, &datagram);
            trace!(%client, ?sent, "STUN binding");
        }
    }
}

/// The answer to one datagram, or none where there is nothing to answer.
pub(crate) fn respond(datagram: &[u8], client: SocketAddr) -> Option<Vec<u8>> {
    /// What a request may carry that must be understood: credentials, which nobody asked for, mean nothing here.
    const UNDERSTOOD: [AttributeType; 7] = [
        Username::TYPE,
        Userhash::TYPE,
        Realm::TYPE,
        Nonce::TYPE,
        PasswordAlgorithm::TYPE,
        MessageIntegrity::TYPE,
        MessageIntegritySha256::TYPE,
    ];
    let request = Message::from_bytes(datagram).ok()?;
    if !request.has_class(MessageClass::Request) || !request.has_method(BINDING) {
        return None;
    }
    let mut unknown = Vec::new();
    for (_, attribute) in request.iter_attributes() {
        let kind = attribute.get_type();
        if kind.comprehension_required() && !UNDERSTOOD.contains(&kind) {
            unknown.push(kind);
        }
    }
    let mut response = if unknown.is_empty() {
        let mut response = Message::builder_success(&request, MessageWriteVec::new());
        let address = SocketAddr::new(client.ip().to_canonical(), client.port());
        let mapped = XorMappedAddress::new(address, request.transaction_id());
        response.add_attribute(&mapped).ok()?;
        response
    } else {
        let mut response = Message::builder_error(&request, MessageWriteVec::new());
        let error = ErrorCode::new(ErrorCode::UNKNOWN_ATTRIBUTE, "").ok()?;
        response.add_attribute(&error).ok()?;
        response
            .add_attribute(&UnknownAttributes::new(&unknown))
            .ok()?;
        response
    };
    if request.has_attribute(Fingerprint::TYPE) {
        response.add_fingerprint().ok()?;
    }
    let response = response.finish();
    (response.len() <= datagram.len() + GROWTH).then_some(response)
}

fn receive(socket: i32, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = nix::cmsg_space!(in_pktinfo, in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(&mut control), flags)?;
    let mut to = None;
    for note in message.cmsgs()? {
        match note {
            ControlMessageOwned::Ipv4PacketInfo(info) => to = Some(Arrival::V4(info)),
            ControlMessageOwned::Ipv6PacketInfo(info) => to = Some(Arrival::V6(info)),
            _ => {}
        }
    }
    let from = message.address.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Datagram {
        length: message.bytes,
        from,
        to,
    })
}

fn send(socket: i32, response: &[u8], request: &Datagram) -> io::Result<usize> {
    let parts = [IoSlice::new(response)];
    let to = Some(&request.from);
    let flags = MsgFlags::MSG_DONTWAIT;
    let sent = match request.to {
        Some(Arrival::V4(info)) => {
            // The route decides the interface: only the address is kept.
            let info = in_pktinfo {
                ipi_ifindex: 0,
                ..info
            };
            let notes = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(socket, &parts, &notes, flags, to)
        }
        Some(Arrival::V6(info)) => {
            let address = std::net::Ipv6Addr::from(info.ipi6_addr.s6_addr);
            let index = if address.is_unicast_link_local() {
                info.ipi6_ifindex
            } else {
                0
            };
            let info = in6_pktinfo {
                ipi6_ifindex: index,
                ..info
            };
            let notes = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(socket, &parts, &notes, flags, to)
        }
        None => sendmsg(socket, &parts, &[], flags, to),
    };
    Ok(sent?)
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::new(IpAddr::V6(v6.ip()), v6.port()))
}
