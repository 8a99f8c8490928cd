//! From a server's URL to an allocation on it: its name, its addresses, one after the other but not in turn.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use wice_core::io::Packet;
use wice_core::server::{IceServer, ServerKind, Transport};
use wice_core::turn::{Event, Failure};

use super::conduit::{Conduit, Room, Way};
use super::link::Link;
use super::problem::Problem;

/// What every attempt of an interface needs.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// Index of the WireGuard interface.
    pub(super) interface: u32,
    /// SO_MARK of everything that is sent; 0 for none.
    pub(super) fwmark: u32,
    pub(super) room: Rc<Room>,
    pub(super) packets: mpsc::Sender<Packet>,
    /// Set once another attempt was faster.
    pub(super) superseded: Rc<Cell<bool>>,
}

/// A resolver that takes longer counts as none.
const RESOLVE: Duration = Duration::from_secs(5);
/// The next address of a name is tried after this (RFC 8305 §5, shorter).
const NEXT_ADDRESS: Duration = Duration::from_millis(150);
/// A server may send us on this often.
pub(super) const HOPS: usize = 3;

/// Says how a TURN server is reached, and of another kind of server that it is none.
pub(super) const fn transport(server: &IceServer) -> Option<Transport> {
    match server.url.kind {
        ServerKind::Turn(transport) => Some(transport),
        ServerKind::Stun => None,
    }
}

/// Gets an allocation, or nothing when it was superseded before it began.
pub(super) async fn establish(
    server: &IceServer,
    transport: Transport,
    delay: Duration,
    ground: &Ground,
) -> Result<Option<Rc<Link>>, Problem> {
    tokio::time::sleep(delay).await;
    if ground.superseded.get() {
        return Ok(None);
    }
    let addresses = resolve(server).await?;
    let mut attempts: FuturesUnordered<_> = (0u32..)
        .zip(addresses)
        .map(|(rank, address)| async move {
            tokio::time::sleep(NEXT_ADDRESS * rank).await;
            allocate(server, address, transport, ground).await
        })
        .collect();
    let mut first = None;
    while let Some(outcome) = attempts.next().await {
        match outcome {
            Ok(link) => return Ok(Some(Rc::new(link))),
            Err(problem) => first = first.or(Some(problem)),
        }
    }
    Err(first.unwrap_or_else(|| Problem::Name(io::ErrorKind::NotFound.into())))
}

async fn resolve(server: &IceServer) -> Result<Vec<SocketAddr>, Problem> {
    let lookup = tokio::net::lookup_host((server.url.host.as_str(), server.url.port));
    match tokio::time::timeout(RESOLVE, lookup).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(Problem::Name(error)),
        Err(_) => Err(Problem::Resolver(RESOLVE)),
    }
}

async fn allocate(
    server: &IceServer,
    mut address: SocketAddr,
    transport: Transport,
    ground: &Ground,
) -> Result<Link, Problem> {
    for _ in 0..HOPS {
        let conduit = Conduit::open(Way {
            server: address,
            transport,
            host: &server.url.host,
            fwmark: ground.fwmark,
            interface: ground.interface,
        })
        .await?;
        let packets = ground.packets.clone();
        let room = Rc::clone(&ground.room);
        let link = Link::begin(conduit, server, (address, transport), room, packets);
        address = loop {
            match link.next().await {
                Ok(Event::Allocated(_)) => return Ok(link),
                Ok(_) => {}
                Err(Problem::Turn(Failure::Alternate(alternate))) => break alternate,
                Err(problem) => return Err(problem),
            }
        };
    }
    Err(Failure::Alternate(address).into())
}
