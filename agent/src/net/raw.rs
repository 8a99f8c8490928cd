//! One raw UDP socket of one address family. Sees every UDP packet of the network namespace that its filter lets through.
//!
//! Must not know which ports matter or what the packets mean.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::debug;
use wice_core::io::{Packet, Transmit};

use super::datagram::{self, UDP_HEADER};
use super::error::NetError;
use super::filter::{self, Start};

sockopt_impl!(
    /// Offset of the checksum that the kernel computes for a raw IPv6 socket (RFC 3542 §3.1).
    Ipv6Checksum,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_CHECKSUM,
    libc::c_int
);

/// Offset of the checksum in a UDP header, in bytes.
const CHECKSUM_OFFSET: libc::c_int = 6;

/// Larger than any STUN message that peers or servers send; what does not fit is malformed to us.
const BUFFER: usize = 4096;

/// Room for the bursts of many peers that begin at once; the default holds about 270 packets.
const RECEIVE_QUEUE: usize = 1 << 20;

/// Pause after a receive error that the kernel does not explain, so that it cannot spin.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// Address family of a raw socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A raw UDP socket, filtered, and registered with the current tokio runtime.
#[derive(Debug)]
pub(super) struct RawUdp {
    family: Family,
    socket: AsyncFd<Socket>,
    mark: Cell<u32>,
}

/// What the filter let through.
#[derive(Debug)]
pub(super) enum Received {
    /// Well-formed STUN.
    Stun(Packet),
    /// Anything else.
    Malformed,
}

impl RawUdp {
    /// Opens the socket with a filter that accepts nothing, and an empty queue.
    pub(super) fn open(family: Family) -> Result<Self, NetError> {
        let (domain, attempt) = match family {
            Family::V4 => (Domain::IPV4, "open a raw IPv4 UDP socket"),
            Family::V6 => (Domain::IPV6, "open a raw IPv6 UDP socket"),
        };
        let failed = |source| refused(attempt, source);
        let socket =
            Socket::new(domain, Type::RAW.nonblocking(), Some(Protocol::UDP)).map_err(failed)?;
        // In this order: first nothing new may enter the queue, then what slipped in goes out.
        attach(&socket, family, &BTreeSet::new())?;
        drain(&socket);
        // Asks for the capability now rather than when the first packet wants a mark.
        socket
            .set_mark(0)
            .map_err(|source| refused("set SO_MARK on a raw UDP socket", source))?;
        // Only a larger queue: without it the agent works, and loses packets of very large bursts.
        if let Err(error) = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_QUEUE) {
            debug!(%error, "the receive queue of the raw socket stays at its default");
        }
        if family == Family::V6 {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
                .map_err(|error| failed(error.into()))?;
            setsockopt(&socket, Ipv6Checksum, &CHECKSUM_OFFSET)
                .map_err(|error| failed(error.into()))?;
        }
        // SAFETY: the socket owns its descriptor, always returns the same one, and closes it only when it is dropped,
        // which AsyncFd does after it deregistered it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|error| failed(error.into()))?;
        Ok(Self {
            family,
            socket,
            mark: Cell::new(0),
        })
    }

    /// Replaces the filter; the kernel swaps it between two packets.
    pub(super) fn listen(&self, ports: &BTreeSet<u16>) -> Result<(), NetError> {
        attach(self.socket.get_ref(), self.family, ports)
    }

    /// Waits for a well-formed STUN packet. Nothing is lost when the future is dropped.
    pub(super) async fn receive(&self) -> Packet {
        loop {
            match self.next().await {
                Ok(Received::Stun(packet)) => return packet,
                // Whoever floods us with malformed packets must not keep the runtime from its other tasks.
                Ok(Received::Malformed) => tokio::task::yield_now().await,
                Err(error) => {
                    debug!(%error, family = ?self.family, "a raw socket failed to receive");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    /// Waits for whatever the filter let through. Nothing is lost when the future is dropped.
    pub(super) async fn next(&self) -> io::Result<Received> {
        loop {
            let mut ready = self.socket.readable().await?;
            match self.receive_once() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                outcome => return outcome,
            }
        }
    }

    /// Takes the next well-formed STUN packet out of the queue, if there is one.
    pub(super) fn try_receive(&self) -> Option<Packet> {
        loop {
            match self.receive_once() {
                Ok(Received::Stun(packet)) => return Some(packet),
                Ok(Received::Malformed) => {}
                Err(_) => return None,
            }
        }
    }

    fn receive_once(&self) -> io::Result<Received> {
        let mut buffer = [0; BUFFER];
        let packet = match self.family {
            Family::V4 => {
                let length =
                    retry(|| nix::sys::socket::recv(self.fd(), &mut buffer, MsgFlags::empty()))?;
                datagram::from_ipv4(&buffer[..length])
            }
            Family::V6 => self.receive_ipv6(&mut buffer)?,
        };
        Ok(packet.map_or(Received::Malformed, Received::Stun))
    }

    /// A raw IPv6 socket delivers no IP header: the addresses come beside the data.
    fn receive_ipv6(&self, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = loop {
            match recvmsg::<SockaddrIn6>(
                self.fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::empty(),
            ) {
                Err(Errno::EINTR) => {}
                message => break message?,
            }
        };
        let destination = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(Ipv6Addr::from(info.ipi6_addr.s6_addr))
            }
            _ => None,
        });
        let source = message.address.map(|address| address.ip());
        let datagram = message.iovs().next();
        Ok(match (datagram, source, destination) {
            (Some(datagram), Some(source), Some(destination)) => {
                datagram::from_udp(datagram, source.into(), destination.into())
            }
            _ => None,
        })
    }

    /// Sends from the address that `transmit` names, or from the one that routing chooses. The destination must be of
    /// this socket's family.
    pub(super) fn send(&self, transmit: &Transmit) -> Result<(), NetError> {
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

    fn fd(&self) -> i32 {
        self.socket.get_ref().as_raw_fd()
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

fn attach(socket: &Socket, family: Family, ports: &BTreeSet<u16>) -> Result<(), NetError> {
    let start = match family {
        Family::V4 => Start::Ipv4Header,
        Family::V6 => Start::UdpHeader,
    };
    let count = ports.len();
    let program = filter::program(start, ports).ok_or(NetError::TooManyPorts { count })?;
    socket
        .attach_filter(&program)
        .map_err(|source| NetError::Filter { count, source })
}

fn drain(socket: &Socket) {
    let mut buffer = [0; 1];
    while retry(|| nix::sys::socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()))
        .is_ok()
    {}
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            outcome => return outcome.map_err(io::Error::from),
        }
    }
}

fn refused(attempt: &'static str, source: io::Error) -> NetError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => NetError::NotPermitted { attempt, source },
        _ => NetError::Open { attempt, source },
    }
}
