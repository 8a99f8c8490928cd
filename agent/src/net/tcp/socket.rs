//! TCP sockets as streams between agents want them.
//!
//! Opens and sets; must not know who uses them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

sockopt_impl!(
    /// Most bytes that wait in the socket before they are sent for the first time (tcp(7)).
    NotSentLowWater,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_NOTSENT_LOWAT,
    libc::c_uint
);

/// Half a second at 1 Mbit/s: a tunnel's own congestion control must notice that the way is full.
const UNSENT: libc::c_uint = 64 << 10;
/// What was sent and is not acknowledged for this long ends the stream: a dead one is noticed before WireGuard notices.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);
/// A stream that is silent for this long is asked whether it is alive.
const SILENCE: Duration = Duration::from_secs(5);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a host that answers nothing is tried: three SYNs of the kernel's.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that nobody has taken yet.
const BACKLOG: i32 = 64;

/// Binds an address without taking connections: nobody can tell it from a closed port.
pub(super) fn reserve(address: SocketAddr, fwmark: u32) -> io::Result<Socket> {
    let socket = open(address.ip(), fwmark)?;
    // Connections of an earlier life of ours may linger at the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Takes connections at a reserved address from now on.
pub(super) fn listen(socket: Socket) -> io::Result<tokio::net::TcpListener> {
    socket.listen(BACKLOG)?;
    tokio::net::TcpListener::from_std(socket.into())
}

/// Connects from an address of ours, with whatever port is free.
pub(super) async fn connect(
    base: IpAddr,
    remote: SocketAddr,
    fwmark: u32,
) -> io::Result<TcpStream> {
    let socket = open(base, fwmark)?;
    socket.bind(&SocketAddr::new(base, 0).into())?;
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(remote);
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(stream)
}

/// Makes a stream carry packets: each leaves at once, few wait, and a dead peer is noticed.
pub(super) fn prepare(stream: &TcpStream, fwmark: u32) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(SILENCE)
            .with_interval(PROBE_INTERVAL),
    )?;
    // What was not sent is worth nothing later, and the other side shall notice at once.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_mark(fwmark)?;
    setsockopt(stream, NotSentLowWater, &UNSENT)?;
    Ok(())
}

fn open(address: IpAddr, fwmark: u32) -> io::Result<Socket> {
    let domain = match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_mark(fwmark)?;
    Ok(socket)
}
