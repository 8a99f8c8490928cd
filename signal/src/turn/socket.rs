//! UDP sockets that receive and send many datagrams at a time.
//!
//! Knows nothing of TURN: datagrams that go to one place, one after the other, leave as one segmented send.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    Ipv6DontFrag, Ipv6V6Only, RcvBuf, RcvBufForce, ReuseAddr, SndBuf, SndBufForce,
};
use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Socket as RawSocket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

sockopt_impl!(
    MtuDiscover,
    Both,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);
sockopt_impl!(
    MtuDiscoverV6,
    Both,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int
);

/// Bytes that the kernel may hold for us each way; it takes less where the limit of the system is lower.
const BUFFER: usize = 4 << 20;

/// One receive: as many bytes as the kernel may have coalesced.
const SLOT: usize = 65_536;

/// Bytes of one segmented send; the kernel takes less than 64 KiB with all headers.
const LONGEST_SEND: usize = 60_000;

/// The longest datagram that is sent segmented: it fits an Ethernet frame with an IPv6 header.
const LONGEST_SEGMENT: usize = 1_452;

/// A bound UDP socket on the runtime of the relay.
#[derive(Debug)]
pub(super) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    address: SocketAddr,
}

/// Binds without a runtime, so that the error comes where the server starts. A wildcard IPv6 socket takes IPv4 too if
/// `dual` says so.
pub(super) fn bind(address: SocketAddr, dual: bool) -> io::Result<std::net::UdpSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &!dual)?;
    }
    setsockopt(&socket, ReuseAddr, &false)?;
    // Beyond the limit of the system for those who may; else as much as it gives.
    if setsockopt(&socket, RcvBufForce, &BUFFER).is_err() {
        setsockopt(&socket, RcvBuf, &BUFFER)?;
    }
    if setsockopt(&socket, SndBufForce, &BUFFER).is_err() {
        setsockopt(&socket, SndBuf, &BUFFER)?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Socket {
    /// Takes a bound socket onto the runtime that this is called on.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        // A relayed packet may be longer than the path behind the relay: it is fragmented, as by any router.
        setsockopt(&socket, MtuDiscover, &libc::IP_PMTUDISC_DONT)?;
        let address = socket.local_addr()?;
        if address.is_ipv6() {
            setsockopt(&socket, MtuDiscoverV6, &libc::IPV6_PMTUDISC_DONT)?;
            setsockopt(&socket, Ipv6DontFrag, &false)?;
        }
        Ok(Self {
            io: UdpSocket::from_std(socket)?,
            state,
            address,
        })
    }

    /// The address that it is bound to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until there is something to receive.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// Receives what is there, up to a batch.
    pub(super) fn receive<'a>(&self, scratch: &'a mut Scratch) -> io::Result<Received<'a>> {
        let Scratch { bytes, metas } = scratch;
        let count = self.io.try_io(Interest::READABLE, || {
            let mut slots = bytes.chunks_mut(SLOT).map(IoSliceMut::new);
            let mut slots: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| slots.next().expect("as many slots as the batch has"));
            self.state
                .recv((&self.io).into(), &mut slots, &mut metas[..])
        })?;
        Ok(Received {
            bytes,
            metas: &metas[..count],
        })
    }
}

/// Room for one batch, shared by all sockets of the thread.
#[derive(Debug)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Scratch {
    /// Takes the memory.
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; SLOT * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
        }
    }
}

/// What one receive brought.
#[derive(Debug)]
pub(super) struct Received<'a> {
    bytes: &'a [u8],
    metas: &'a [RecvMeta],
}

/// Datagrams of one sender, in their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Train<'a> {
    /// Who sent them.
    pub(super) from: SocketAddr,
    /// The address of ours that they were sent to.
    pub(super) to: Option<IpAddr>,
    /// The congestion bits of all of them.
    pub(super) ecn: Option<EcnCodepoint>,
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Received<'a> {
    /// The datagrams by sender. Those from port 0 are left out: nobody could answer them.
    pub(super) fn trains(&self) -> impl Iterator<Item = Train<'a>> + use<'a> {
        let (bytes, metas) = (self.bytes, self.metas);
        let slots = bytes.chunks(SLOT).zip(metas);
        slots
            .filter(|(_, meta)| meta.addr.port() != 0)
            .map(|(slot, meta)| Train {
                from: meta.addr,
                to: meta.dst_ip,
                ecn: meta.ecn,
                bytes: &slot[..meta.len],
                stride: meta.stride.max(1),
            })
    }
}

impl<'a> Train<'a> {
    /// Each datagram.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let empty = self.bytes.is_empty().then_some(self.bytes);
        self.bytes.chunks(self.stride).chain(empty)
    }
}

/// Where datagrams go, and how.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// By which socket.
    pub(super) socket: Rc<Socket>,
    /// To whom.
    pub(super) to: SocketAddr,
    /// From which of the socket's addresses, if it has several.
    pub(super) from: Option<IpAddr>,
}

/// Datagrams that wait for more of their kind. Nothing waits beyond the [`Batch::flush`] after each receive.
#[derive(Debug)]
pub(super) struct Batch {
    target: Option<(Target, Option<EcnCodepoint>)>,
    bytes: Vec<u8>,
    size: usize,
    count: usize,
}

impl Batch {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self {
            target: None,
            bytes: Vec::with_capacity(SLOT),
            size: 0,
            count: 0,
        }
    }

    /// Adds a datagram that is made of two parts.
    pub(super) fn push(
        &mut self,
        target: &Target,
        ecn: Option<EcnCodepoint>,
        head: &[u8],
        body: &[u8],
    ) {
        let length = head.len() + body.len();
        if !self.takes(target, ecn, length) {
            self.flush();
            self.target = Some((target.clone(), ecn));
            self.size = length;
        }
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(body);
        self.count += 1;
        if length < self.size || length > LONGEST_SEGMENT || length == 0 {
            // A shorter one is the last of its train.
            self.flush();
        }
    }

    fn takes(&self, target: &Target, ecn: Option<EcnCodepoint>, length: usize) -> bool {
        let Some((last, last_ecn)) = &self.target else {
            return false;
        };
        Rc::ptr_eq(&last.socket, &target.socket)
            && last.to == target.to
            && last.from == target.from
            && *last_ecn == ecn
            && length <= self.size
            && self.bytes.len() + length <= LONGEST_SEND
            && self.count < last.socket.state.max_gso_segments()
    }

    /// Sends what waits. What the socket has no room for is lost, as anywhere on the way.
    pub(super) fn flush(&mut self) {
        let Some((target, ecn)) = self.target.take() else {
            return;
        };
        let sent = send(
            &target,
            ecn,
            &self.bytes,
            (self.count > 1).then_some(self.size),
        );
        if self.count > 1 && sent.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            // The path takes no segmented sends.
            for datagram in self.bytes.chunks(self.size) {
                let _ = send(&target, ecn, datagram, None);
            }
        }
        self.bytes.clear();
        self.count = 0;
    }
}

fn send(
    target: &Target,
    ecn: Option<EcnCodepoint>,
    contents: &[u8],
    segment_size: Option<usize>,
) -> io::Result<()> {
    let Target { socket, to, from } = target;
    let transmit = Transmit {
        destination: *to,
        ecn,
        contents,
        segment_size,
        src_ip: *from,
    };
    // Without asking the runtime whether there is room: it knows only what it has seen so far.
    socket.state.try_send((&socket.io).into(), &transmit)
}
