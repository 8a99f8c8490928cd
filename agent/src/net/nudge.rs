//! One packet into a tunnel, so that WireGuard handshakes by itself.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::error::NetError;

/// Nobody listens there, and whoever does throws it away (RFC 863).
const DISCARD: u16 = 9;

/// Sends an empty datagram to `address` through `interface`, whatever the routing table says. Does not block.
///
/// [`NetError::NoTunnel`] is what an interface answers that cannot carry it yet, and no reason for alarm.
pub(crate) fn nudge(interface: &str, address: IpAddr) -> Result<(), NetError> {
    send(interface, address).map_err(|source| {
        let interface = interface.to_owned();
        if is_expected(&source) {
            NetError::NoTunnel {
                interface,
                address,
                source,
            }
        } else {
            NetError::Nudge {
                interface,
                address,
                source,
            }
        }
    })
}

fn send(interface: &str, address: IpAddr) -> io::Result<()> {
    let to = SocketAddr::new(address, DISCARD);
    let socket = Socket::new(
        Domain::for_address(to),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.send_to(&[], &to.into()).map(drop)
}

/// WireGuard answers ENOKEY for an address of no peer and EDESTADDRREQ for a peer of no endpoint (wg_xmit).
fn is_expected(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOKEY
                | libc::EDESTADDRREQ
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ENOBUFS
                | libc::EAGAIN
        )
    )
}
