//! The end of a path that WireGuard sees: an address of the loopback that stands for one peer.
//!
//! Must not know what lies behind it, a relay or a stream, nor anything of peers.

mod late;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{Batch, Datagrams, Train};
use late::Late;

/// One peer's address, and the way to WireGuard's port from there.
///
/// Only WireGuard's own packets are taken: what any other program of this machine sends there is dropped.
#[derive(Debug)]
pub(super) struct End {
    socket: Datagrams,
    address: SocketAddr,
    /// WireGuard, as seen from there.
    wireguard: Cell<SocketAddr>,
    late: RefCell<Option<Late>>,
}

/// 127.128.0.0/9, without what other programs use by habit, the addresses that begin with 127.0.
const FIRST: u32 = u32::from_be_bytes([127, 128, 0, 1]);
const COUNT: u32 = (1 << 23) - 2;

static NEXT: AtomicU32 = AtomicU32::new(0);

impl End {
    /// Binds an address of its own for a peer of the WireGuard interface that has this port; needs a tokio runtime around it.
    pub(super) fn open(port: u16) -> io::Result<Self> {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let own = Ipv4Addr::from(FIRST + offset);
        let bound = bind(own.into()).map(|socket| (socket, Ipv4Addr::LOCALHOST.into()));
        // A machine may have no IPv4 at all.
        let (socket, localhost): (_, IpAddr) = bound.or_else(|error| {
            let localhost = Ipv6Addr::LOCALHOST.into();
            match bind(localhost) {
                Ok(socket) => Ok((socket, localhost)),
                Err(_) => Err(error),
            }
        })?;
        let socket = Datagrams::new(socket)?;
        Ok(Self {
            address: socket.local_addr()?,
            socket,
            wireguard: Cell::new(SocketAddr::new(localhost, port)),
            late: RefCell::new(None),
        })
    }

    /// Where WireGuard reaches the peer.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// WireGuard has another port now.
    pub(super) fn set_port(&self, port: u16) {
        let mut wireguard = self.wireguard.get();
        wireguard.set_port(port);
        self.wireguard.set(wireguard);
    }

    /// From now on what is delivered seems to come from `endpoint`, and arrives at `base`; or from here again.
    pub(super) fn hand_over(&self, to: Option<(SocketAddr, SocketAddr)>) -> io::Result<()> {
        let late = to.map(|(endpoint, base)| Late::open(endpoint, base));
        self.late.replace(late.transpose()?);
        Ok(())
    }

    /// Waits until WireGuard, or somebody else, has sent something; cancel-safe.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Hands out what WireGuard has sent, up to one batch. Answers how many datagrams there were, of whomever.
    pub(super) fn receive(&self, batch: &Batch, mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        let port = self.wireguard.get().port();
        self.socket.receive(batch, |source, datagram| {
            if source.port() == port && source.ip().is_loopback() {
                each(datagram);
            }
        })
    }

    /// Delivers the peer's packets to WireGuard.
    pub(super) fn deliver(&self, train: &Train) -> io::Result<()> {
        match &*self.late.borrow() {
            Some(late) => train.iter().try_for_each(|packet| late.deliver(packet)),
            None => self.socket.send(train, self.wireguard.get()),
        }
    }
}

fn bind(address: IpAddr) -> io::Result<Socket> {
    let address = SocketAddr::new(address, 0);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    socket.bind(&address.into())?;
    Ok(socket)
}
