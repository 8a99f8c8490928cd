//! STUN on WireGuard's own UDP port: the port stays WireGuard's, raw sockets read and write beside it.
//!
//! Must not know what a STUN message says, nor anything of peers, interfaces' settings or the core's decisions.

mod batch;
mod binding;
pub(crate) mod check;
mod datagram;
mod error;
mod filter;
mod loopback;
mod nudge;
mod raw;
mod relay;
mod self_test;
mod tcp;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future;
use std::io;

use nix::libc;
use tracing::{info, warn};
use wice_core::io::{Packet, Transmit};

pub(crate) use error::NetError;
pub(crate) use nudge::nudge;
use raw::{Family, RawUdp};
pub(crate) use relay::{RelayEvent, RelayState, Relays};
pub(crate) use tcp::Streams;

/// The STUN side of all WireGuard ports of this network namespace.
///
/// One socket per address family for all interfaces: each raw socket costs every UDP packet of the namespace a copy.
#[derive(Debug)]
pub(crate) struct StunPort {
    ipv4: RawUdp,
    ipv6: Option<RawUdp>,
    /// What the filters accept; decides about packets that were queued under an earlier filter.
    ports: RefCell<BTreeSet<u16>>,
}

impl StunPort {
    /// Opens the raw sockets, which accept nothing yet. Needs CAP_NET_RAW, CAP_NET_ADMIN and a tokio runtime around it.
    ///
    /// A kernel without IPv6 leaves IPv4 alone to work.
    pub(crate) fn open() -> Result<Self, NetError> {
        let ipv4 = RawUdp::open(Family::V4)?;
        let ipv6 = match RawUdp::open(Family::V6) {
            Ok(socket) => Some(socket),
            Err(NetError::Open { source, .. }) if is_absent(&source) => {
                info!("this machine has no IPv6: direct paths over IPv4 only");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            ipv4,
            ipv6,
            ports: RefCell::default(),
        })
    }

    /// Accepts STUN to these ports and to no others, from now on; an empty set accepts nothing.
    ///
    /// Packets to ports of both the old and the new set are not lost. After an error the old set is in force.
    pub(crate) fn listen(&self, ports: &BTreeSet<u16>) -> Result<(), NetError> {
        if let Err(error) = self.attach(ports) {
            // The address families must agree on a set; the old one was attached before, so it fits.
            if let Err(error) = self.attach(&self.ports.borrow()) {
                warn!(%error, "STUN may be received on one address family only");
            }
            return Err(error);
        }
        self.ports.replace(ports.clone());
        Ok(())
    }

    /// Waits for the next STUN packet to one of the ports. Nothing is lost when the future is dropped.
    pub(crate) async fn receive(&self) -> Packet {
        loop {
            let packet = tokio::select! {
                packet = self.ipv4.receive() => packet,
                packet = receive_or_wait(self.ipv6.as_ref()) => packet,
            };
            if self.is_ours(&packet) {
                return packet;
            }
        }
    }

    /// Takes the next STUN packet that is already queued, if there is one.
    pub(crate) fn try_receive(&self) -> Option<Packet> {
        let mut queued = self
            .sockets()
            .flat_map(|socket| std::iter::from_fn(|| socket.try_receive()));
        queued.find(|packet| self.is_ours(packet))
    }

    /// Sends STUN from a WireGuard port. An unspecified source address leaves the choice to routing.
    ///
    /// Does not block; a packet that cannot leave now is lost, as any UDP packet may be.
    pub(crate) fn send(&self, transmit: &Transmit) -> Result<(), NetError> {
        let socket = if transmit.destination.is_ipv4() {
            Some(&self.ipv4)
        } else {
            self.ipv6.as_ref()
        };
        let socket = socket.ok_or(NetError::Families {
            address: transmit.source,
            destination: transmit.destination,
        })?;
        socket.send(transmit)
    }

    /// Proves on loopback that the sockets send, and that a filter lets STUN through and nothing else.
    ///
    /// Receives on sockets of its own, so that it takes no packet from [`StunPort::receive`]. Loopback that is down is
    /// reported as a warning: it says nothing about the other interfaces.
    pub(crate) async fn self_test(&self) -> Result<(), NetError> {
        self_test::run(self).await
    }

    fn attach(&self, ports: &BTreeSet<u16>) -> Result<(), NetError> {
        self.sockets().try_for_each(|socket| socket.listen(ports))
    }

    fn sockets(&self) -> impl Iterator<Item = &RawUdp> {
        std::iter::once(&self.ipv4).chain(&self.ipv6)
    }

    fn is_ours(&self, packet: &Packet) -> bool {
        self.ports.borrow().contains(&packet.destination.port())
    }
}

async fn receive_or_wait(socket: Option<&RawUdp>) -> Packet {
    match socket {
        Some(socket) => socket.receive().await,
        None => future::pending().await,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT)
    )
}
