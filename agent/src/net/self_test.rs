//! The proof, on loopback, that raw sockets and their filters work under this kernel, sandbox and firewall.
//!
//! Must not disturb what the agent receives: it listens on sockets and ports of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tracing::{info, warn};
use wice_core::io::Transmit;

use super::StunPort;
use super::datagram::{MAGIC_COOKIE, STUN_HEADER};
use super::error::NetError;
use super::raw::{Family, RawUdp, Received};

/// Loopback delivers before the sending call returns; only a very busy machine needs any of it.
const DEADLINE: Duration = Duration::from_secs(2);

/// Tests every address family that `port` has.
pub(super) async fn run(port: &StunPort) -> Result<(), NetError> {
    test(port, Family::V4, Ipv4Addr::LOCALHOST.into()).await?;
    if port.ipv6.is_some() {
        test(port, Family::V6, Ipv6Addr::LOCALHOST.into()).await?;
    }
    Ok(())
}

async fn test(port: &StunPort, family: Family, address: IpAddr) -> Result<(), NetError> {
    match exchange(port, family, address).await {
        // Many machines switch IPv6 off, which is no reason to wake anyone.
        Err(error) if !has_loopback(address) && family == Family::V6 => {
            info!(%error, "no IPv6 on loopback: STUN on WireGuard's port is unproven over IPv6");
            Ok(())
        }
        Err(error) if !has_loopback(address) => {
            warn!(%error, "loopback is down: STUN on WireGuard's port is unproven");
            Ok(())
        }
        outcome => outcome,
    }
}

async fn exchange(port: &StunPort, family: Family, address: IpAddr) -> Result<(), NetError> {
    // An ordinary socket that owns its port, as WireGuard does.
    let owner = bind(address).await?;
    let sender = bind(address).await?;
    let (to, from) = (local(&owner)?, local(&sender)?);
    let raw = RawUdp::open(family)?;
    raw.listen(&BTreeSet::from([to.port()]))?;

    let stun = binding_request();
    let mut other = stun;
    other[4] ^= 0xff;
    for payload in [other, stun] {
        port.send(&Transmit {
            source: from,
            destination: to,
            fwmark: 0,
            payload: payload.to_vec(),
        })?;
    }

    match timeout(DEADLINE, raw.next()).await {
        Ok(Ok(Received::Stun(packet))) if packet.source == from && packet.payload == stun => {}
        Ok(Ok(_)) => {
            return Err(problem(format!(
                "on {address}, the filter let through what is not STUN"
            )));
        }
        Ok(Err(error)) => return Err(problem(format!("on {address}, receiving failed: {error}"))),
        Err(_) => {
            return Err(problem(format!(
                "on {address}, a STUN packet did not arrive"
            )));
        }
    }
    // The kernel hands it to the owner only if addresses, ports and checksum are right.
    for payload in [other, stun] {
        let mut received = [0; STUN_HEADER];
        match timeout(DEADLINE, owner.recv(&mut received)).await {
            Ok(Ok(_)) if received == payload => {}
            _ => {
                return Err(problem(format!(
                    "on {address}, the port's owner did not get its packets"
                )));
            }
        }
    }
    Ok(())
}

fn binding_request() -> [u8; STUN_HEADER] {
    let mut message = [0; STUN_HEADER];
    message[1] = 1;
    message[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    message[8..].copy_from_slice(b"WICEselftest");
    message
}

async fn bind(address: IpAddr) -> Result<UdpSocket, NetError> {
    let destination = SocketAddr::new(address, 0);
    UdpSocket::bind(destination)
        .await
        .map_err(|source| NetError::Send {
            destination,
            source,
        })
}

fn local(socket: &UdpSocket) -> Result<SocketAddr, NetError> {
    socket
        .local_addr()
        .map_err(|error| problem(format!("a socket on loopback has no address: {error}")))
}

fn problem(problem: String) -> NetError {
    NetError::SelfTest { problem }
}

/// Says whether an interface that is up carries this address; the routes of one that is down may outlive it.
fn has_loopback(address: IpAddr) -> bool {
    let Ok(mut interfaces) = getifaddrs() else {
        return true;
    };
    interfaces.any(|interface| {
        let carried = interface.address.and_then(|carried| {
            let v4 = carried.as_sockaddr_in().map(|carried| carried.ip().into());
            v4.or_else(|| carried.as_sockaddr_in6().map(|carried| carried.ip().into()))
        });
        interface.flags.contains(InterfaceFlags::IFF_UP) && carried == Some(address)
    })
}
