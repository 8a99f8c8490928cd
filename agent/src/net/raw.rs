//! One raw UDP socket of one address family. Sees every UDP packet of the network namespace that its filter lets through.
//!
//! Must not know which ports matter or what the packets mean.

mod send;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::debug;
use wice_core::io::Packet;

use super::datagram;
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

    fn fd(&self) -> i32 {
        self.socket.get_ref().as_raw_fd()
    }
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
